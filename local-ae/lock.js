/** Keeps a folder to one process. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { realpath } from 'node:fs/promises';
import { createServer } from 'node:net';

/** Folders of this process. @type {Set<string>} */
const held = new Set();

/**
 * Takes a folder for this process until it ends, however that is: what holds it is a socket in Linux's
 * abstract namespace, which is no file that could stay behind. Elsewhere nothing is checked.
 *
 * @param {string} folder which exists
 * @returns {Promise<boolean>} whether it is this process's
 */
export async function lockFolder(folder) {
  if (process.platform !== 'linux') return true;
  const real = await realpath(folder);
  if (held.has(real)) return true;
  const name = createHash('sha256').update(real).digest('hex');
  const holder = createServer().listen(`\0local-ae-${name}`).unref();
  try {
    await once(holder, 'listening');
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code === 'EADDRINUSE') return false;
    throw error;
  }
  held.add(real);
  return true;
}
