/** This package as npm packs it, and the code blocks of its README. */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** This package's folder. */
export const FOLDER = fileURLToPath(new URL('..', import.meta.url));

/**
 * Creates a folder outside the repository, so that programs find nothing in the folders above it.
 *
 * @param {{ after(done: () => Promise<void>): void }} t
 * @param {string} [name] a part of its name
 */
export async function emptyFolder(t, name = '') {
  const folder = await mkdtemp(path.join(tmpdir(), `local-ae-${name}`));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/**
 * Runs `npm pack`.
 *
 * @param {string} folder receives the tarball
 * @returns {Promise<{ tarball: string, files: string[] }>}
 */
export async function pack(folder) {
  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', folder], { cwd: FOLDER });
  // The output of `prepack` comes first. Older versions of npm then print a list, newer ones an object.
  const printed = JSON.parse(stdout.slice(stdout.search(/^[[{]/m)));
  const [{ filename, files }] = /** @type {any[]} */ (Object.values(printed));
  return {
    tarball: path.join(folder, filename),
    files: files.map((/** @type {{ path: string }} */ { path }) => path).sort(),
  };
}

/**
 * @typedef {object} Block
 * @property {string} language empty if it has none
 * @property {string} text
 */

/**
 * The code blocks of a section of the README, in order.
 *
 * @param {string} title
 * @returns {Promise<Block[]>}
 */
export async function blocks(title) {
  const readme = await readFile(path.join(FOLDER, 'README.md'), 'utf8');
  const section = readme.split(/^## /m).find((text) => text.startsWith(`${title}\n`));
  if (section === undefined) throw new Error(`the README has no section ${title}`);
  const found = section.matchAll(/^```(\S*).*\n([^]*?)^```$/gm);
  return [...found].map(([, language, text]) => ({ language, text }));
}

/**
 * The name and the content of a block whose first line is a comment with the file's name.
 *
 * @param {Block} block
 * @returns {[name: string, text: string] | undefined}
 */
export function fileOf({ text }) {
  const name = /^(?:\/\/|--) (\S+\.\w+)\n/.exec(text)?.[1];
  return name === undefined ? undefined : [name, text];
}
