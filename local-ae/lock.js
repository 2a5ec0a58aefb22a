/** Restricts a folder to one process. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { realpath } from 'node:fs/promises';
import { createServer } from 'node:net';

/** Folders that this process has locked. @type {Set<string>} */
const held = new Set();

/**
 * Locks a folder until this process ends. On Linux, the lock is a socket in the abstract namespace, so that even a
 * crash leaves no file behind. On other systems, there is no lock.
 *
 * @param {string} folder must exist
 * @returns {Promise<boolean>} whether this process has the lock
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
