/** Commands of this repository: how they report errors. */

/** An error of the user or of this machine: printed in one line, without a stack. */
export class Failure extends Error {}

/** Runs a command to its end. */
export async function command(name: string, main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    console.error(`${name}: error: ${error.message}`);
    process.exitCode = 1;
  }
}
