/** What the commands in this folder have in common. */

/** A mistake of the user's, or of this machine's: told in one line, without a stack. */
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
