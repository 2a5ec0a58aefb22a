/** An error of the user or of this machine: printed in one line, without a stack. */
export class Failure extends Error {}

/** Runs `main`; prints a `Failure` and sets exit code 1. */
export async function command(name: string, main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    console.error(`${name}: error: ${error.message}`);
    process.exitCode = 1;
  }
}
