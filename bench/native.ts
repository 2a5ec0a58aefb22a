/**
 * Measures the contract crate alone, natively: time per step by divan, and instructions per check-in by
 * callgrind, which are the same in every run of the same build.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';

import { outputOf } from '../harness/command.ts';
import { temporaryFolder, withContext, type Context } from '../harness/context.ts';

/** Two counts, because their difference cancels out the cost of the program's start. */
const COUNTS = [1_000, 3_000] as const;

/** Builds the benchmark and returns its path. */
function build(): string {
  // The Worker's profile: the figures are to be those of its code.
  const args = ['--profile', 'worker', '--package', 'kiloclaw-check-in', '--bench', 'check_in', '--no-run'];
  const lines = outputOf('cargo', ['bench', ...args, '--quiet', '--message-format', 'json']).trim().split('\n');
  const messages = lines.map((line) => JSON.parse(line) as { target?: { name: string }; executable?: string });
  const built = messages.find(({ target, executable }) => target?.name === 'check_in' && executable);
  if (built?.executable === undefined) throw new Error('cargo built no benchmark');
  return built.executable;
}

/** Instructions that the program executes for `count` check-ins. */
function instructions(program: string, count: number, folder: string): number {
  const out = path.join(folder, `callgrind.${count}`);
  const args = ['--tool=callgrind', `--callgrind-out-file=${out}`, program, 'count', `${count}`];
  execFileSync('valgrind', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const [, total] = /^(?:summary|totals): (\d+)/m.exec(readFileSync(out, 'utf8')) ?? [];
  if (total === undefined) throw new Error(`${out} has no total`);
  return Number(total);
}

function instructionsPerCheckIn(program: string, folder: string): number | undefined {
  try {
    const [fewer, more] = COUNTS.map((count) => instructions(program, count, folder));
    return Math.round((more - fewer) / (COUNTS[1] - COUNTS[0]));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined; // no valgrind
    throw error;
  }
}

/** The section of the results, in Markdown. */
export const nativeSection = (): Promise<string> => withContext(section);

async function section(context: Context): Promise<string> {
  const program = build();
  const counted = instructionsPerCheckIn(program, temporaryFolder(context));
  const table = outputOf(program, ['--bench']);
  return `## The contract crate, natively

Headers, API key, body, gateway token and layout of one accepted check-in:
${counted === undefined ? 'instructions not counted: valgrind is not installed.' : `**${counted.toLocaleString('en')} instructions** (callgrind), and no allocation (\`crates/check-in/tests/allocations.rs\`).`}

\`\`\`
${table.trim()}
\`\`\`
`;
}

if (import.meta.main) console.log(await nativeSection());
