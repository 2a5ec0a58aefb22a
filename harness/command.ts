import { execFileSync } from 'node:child_process';
import path from 'node:path';

const ROOT = path.join(import.meta.dirname, '..');

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

/** Runs a program in the repository; returns its stdout, and lets stderr pass. Throws a `Failure` if it fails. */
export function outputOf(program: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): string {
  try {
    return execFileSync(program, args, {
      cwd: ROOT,
      env: { ...process.env, ...env },
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
      maxBuffer: 64 * 1024 * 1024,
    });
  } catch (error) {
    const { status, message } = error as Error & { status?: number };
    throw new Failure(`${program} ${args.join(' ')}: ${status == null ? message : `exit code ${status}`}`);
  }
}
