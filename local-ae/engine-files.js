/**
 * The SQL engine's files. The published package has them; in a clone of the repository, `npm run engine` builds
 * them from `engine/` and `aesql/`.
 */
import { readFile } from 'node:fs/promises';

import { UserError } from './user-error.js';

const BUILT = new URL('build/', import.meta.url);

/** The script that wasm-bindgen generates. `workerd.d.ts` declares its exports as the module `engine.js`. */
export const ENGINE_SCRIPT = new URL('engine.js', BUILT);
const ENGINE_MODULE = new URL('engine.wasm', BUILT);

/**
 * Reads both files. If one is missing or broken, the error says what to do.
 *
 * @returns {Promise<{ script: string, wasm: Buffer<ArrayBuffer> }>}
 */
export async function readEngine() {
  try {
    const script = await readFile(ENGINE_SCRIPT, 'utf8');
    const wasm = await readFile(ENGINE_MODULE);
    if (!WebAssembly.validate(wasm)) throw new Error('engine.wasm is not a WebAssembly module');
    return { script, wasm };
  } catch (error) {
    const { message } = /** @type {Error} */ (error);
    throw new UserError(
      `the SQL engine is missing (${message}): install the package again; in a clone of its repository, ` +
        'build it with "npm run engine"',
    );
  }
}
