/**
 * Budgets of a check-in in figures that do not vary: crossings between JavaScript and wasm, allocations that
 * JavaScript requests in wasm memory, and bundle size. A change that gets below a budget lowers it here; a
 * change that raises one gives the reason. And what the bundle must not contain.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';

import { FULL } from '../harness/check-in.ts';
import { outputOf } from '../harness/command.ts';
import { startWorker } from '../harness/worker.ts';

/** Calls from JavaScript into wasm, calls back, and allocations: per accepted check-in, and per wrong API key. */
const ACCEPTED = { intoWasm: 2, outOfWasm: 1, allocations: 5 };
const WRONG_KEY = { intoWasm: 1, outOfWasm: 0, allocations: 2 };

/** The uploaded bundle, gzipped, in bytes. */
const BUNDLE_BUDGET = 170_000;

/** wasm-bindgen's allocator, by its own names or, in a stripped module, by short ones. */
const ALLOCATOR = /^in __wbindgen_(malloc|realloc|export\d*)$/;

/** Counts every call across the boundary, by name. */
const COUNT = `
  export const calls = new Map();
  const counted = (functions, direction) => Object.fromEntries(
    Object.entries(functions).map(([name, value]) => [name, typeof value !== 'function' ? value :
      function (...args) {
        const key = direction + ' ' + name;
        calls.set(key, (calls.get(key) ?? 0) + 1);
        return value.apply(this, args);
      }]));
  const { Instance } = WebAssembly;
  WebAssembly.Instance = function (module, imports) {
    const inner = Object.fromEntries(
      Object.entries(imports).map(([name, functions]) => [name, counted(functions, 'out')]));
    return { exports: counted(new Instance(module, inner).exports, 'in') };
  };`;

const MAIN = `
  import { calls } from 'count';
  import Worker from 'index.js';
  export default {
    fetch(request, env, ctx) {
      if (!request.url.endsWith('/calls')) return Worker.fetch(request, env);
      const counted = Object.fromEntries(calls);
      calls.clear();
      return Response.json(counted);
    },
  };`;

test('a check-in crosses the boundary no more often than its budget', async (t) => {
  const worker = await startWorker({ modules: { main: MAIN, count: COUNT } }, t);
  const calls = async () =>
    (await (await worker.fetch('/calls')).json()) as Record<string, number>;
  for (const [status, headers, budget] of [
    [204, { 'fly-region': 'fra' }, ACCEPTED],
    [403, { authorization: 'Bearer another-key' }, WRONG_KEY],
  ] as const) {
    // The first check-in also reads the bindings, and the first wrong key the texts of its response.
    assert.equal((await worker.checkIn(FULL, headers)).status, status);
    assert.ok((await calls())['in authenticate'] === 1, 'the calls are counted');
    assert.equal((await worker.checkIn(FULL, headers)).status, status);
    const counted = await calls();
    const total = (matches: (name: string) => boolean) =>
      Object.entries(counted).reduce((sum, [name, n]) => sum + (matches(name) ? n : 0), 0);
    const isAllocator = (name: string) => ALLOCATOR.test(name);
    const found = {
      intoWasm: total((name) => name.startsWith('in ') && !isAllocator(name)),
      outOfWasm: total((name) => name.startsWith('out ')),
      allocations: total(isAllocator),
    };
    assert.deepEqual(found, budget, JSON.stringify(counted, null, 2));
  }
});

test('the bundle contains no folder of this machine', () => {
  // Not the sysroot alone, which is /usr for Debian's compiler.
  const library = `${outputOf('rustc', ['--print', 'sysroot']).trim()}/lib/rustlib`;
  const bundle = ['build/index.js', 'build/index_bg.wasm'].map((file) => readFileSync(file, 'latin1')).join();
  for (const folder of [library, process.cwd(), `${process.env.HOME}/`]) {
    assert.ok(!bundle.includes(folder), folder);
  }
});

test('the bundle is no larger than its budget', () => {
  const files = ['build/index.js', 'build/index_bg.wasm'].map((file) => readFileSync(file));
  const size = files.reduce((sum, file) => sum + gzipSync(file, { level: 9 }).length, 0);
  assert.ok(size <= BUNDLE_BUDGET, `${size} bytes gzipped, the budget is ${BUNDLE_BUDGET}`);
});
