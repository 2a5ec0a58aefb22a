/** The SQL engine recovers from a trap, in workerd with a small wasm memory. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

import { Miniflare } from 'miniflare';

// Counts `points` points, each with a distinct blob of 200 bytes. The number of requests shows that one isolate
// handles all of them.
const WORKER = `
  import { SqlEngine } from 'sql.js';

  const CHUNK = 1_000;
  const engine = new SqlEngine();
  let requests = 0;

  function* chunks(after, points) {
    for (let last = after + CHUNK; last <= points; last += CHUNK) {
      const blob = (id) => String(id).padStart(200, 'x');
      const line = (_, i) => JSON.stringify([0, 1, 'd', '', [blob(last - i)], []]);
      yield { last, points: CHUNK, lines: Array.from({ length: CHUNK }, line).join('\\n') };
    }
  }

  export default {
    fetch(request) {
      requests += 1;
      const points = Number(new URL(request.url).searchParams.get('points'));
      const stored = { oldest: 1, chunksAfter: (id) => chunks(id, points) };
      const sql = 'SELECT count(DISTINCT blob1) FROM d FORMAT TabSeparated';
      try {
        const { ok, body } = engine.query(sql, 0, stored);
        return Response.json({ requests, ok, text: new TextDecoder().decode(body) });
      } catch (error) {
        return Response.json({ requests, trap: error instanceof WebAssembly.RuntimeError });
      }
    },
  };`;

const PAGE = 65_536;

/** @param {Uint8Array} bytes @param {number} at @returns {[value: number, end: number]} */
function leb128(bytes, at) {
  let value = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at++];
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return [value, at];
  }
}

/** @param {number} value @returns {number[]} */
const toLeb128 = (value) => (value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...toLeb128(value >>> 7)]);

/**
 * Limits a wasm module's memory growth to a number of bytes.
 *
 * @param {Uint8Array} module
 * @param {number} bytes
 */
function limitMemory(module, bytes) {
  const MEMORY = 5;
  for (let at = 8; at < module.length; ) {
    const [length, start] = leb128(module, at + 1);
    if (module[at] === MEMORY) {
      // A vector of one memory: flags, minimum pages, optional maximum.
      const [least] = leb128(module, start + 2);
      const most = least + Math.ceil(bytes / PAGE);
      const memory = [1, 1, ...toLeb128(least), ...toLeb128(most)];
      const section = [MEMORY, ...toLeb128(memory.length), ...memory];
      return Buffer.concat([module.subarray(0, at), Buffer.from(section), module.subarray(start + length)]);
    }
    at = start + length;
  }
  throw new Error('the module has no memory');
}

test('answers the next query after the engine runs out of memory', async (t) => {
  const file = (/** @type {string} */ name) => readFile(new URL(`../${name}`, import.meta.url));
  const esm = (/** @type {string | Buffer} */ text) =>
    ({ type: /** @type {const} */ ('esm'), contents: String(text) });
  const wasm = limitMemory(await file('build/engine.wasm'), 16 * 1024 * 1024);
  const mf = new Miniflare({
    port: 0,
    enableDevRegistry: false,
    cf: false,
    workers: [
      {
        config: {
          name: 'engine',
          compatibilityDate: '2026-07-01',
          manifest: {
            mainModule: 'index.js',
            modulesRoot: '/',
            modules: {
              'index.js': esm(WORKER),
              'sql.js': esm(await file('sql.js')),
              'engine.js': esm(await file('build/engine.js')),
              'engine.wasm': { type: 'wasm', contents: wasm },
            },
          },
        },
      },
    ],
  });
  t.after(() => mf.dispose());
  const ask = async (/** @type {number} */ points) =>
    (await mf.dispatchFetch(`http://engine/?points=${points}`)).json();

  assert.deepEqual(await ask(5_000), { requests: 1, ok: true, text: '5000\n' });
  assert.deepEqual(await ask(200_000), { requests: 2, trap: true });
  assert.deepEqual(await ask(7_000), { requests: 3, ok: true, text: '7000\n' });
  assert.deepEqual(await ask(8_000), { requests: 4, ok: true, text: '8000\n' });
});
