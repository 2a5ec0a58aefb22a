/** The unmodified `workerd.capnp` in a plain workerd. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { insert, read, rows, stored } from '../support/instance.js';

// Uses Miniflare's workerd, since this package has no dependencies. The module exports the program's path:
// `bin/workerd` may be a script, and a kill would leave its workerd running.
const miniflare = createRequire(import.meta.url).resolve('miniflare');
const { default: workerd } = createRequire(miniflare)('workerd');
const configuration = fileURLToPath(new URL('../workerd.capnp', import.meta.url));

/**
 * @param {import('node:test').TestContext} t
 * @param {string} folder stores the points
 */
async function serve(t, folder) {
  const args = [
    'serve',
    '--experimental',
    '--control-fd=3',
    `--directory-path=local-ae:disk=${folder}`,
    '--socket-addr=visits=127.0.0.1:0',
    '--socket-addr=local-ae:read=127.0.0.1:0',
    configuration,
  ];
  const child = spawn(workerd, args, { stdio: ['ignore', 'inherit', 'inherit', 'pipe'] });
  const exited = once(child, 'exit');
  const kill = () => {
    child.kill('SIGKILL');
    return exited;
  };
  t.after(kill);
  /** @type {Record<string, number>} */
  const ports = {};
  const control = /** @type {import('node:stream').Readable} */ (child.stdio[3]);
  let text = '';
  for await (const part of control.setEncoding('utf8')) {
    text += part;
    const lines = text.split('\n').slice(0, -1);
    for (const { socket, port } of lines.map((line) => JSON.parse(line))) ports[socket] = port;
    if ('visits' in ports && 'local-ae:read' in ports) break;
  }
  return { worker: ports.visits, port: ports['local-ae:read'], kill };
}

test('writes points, answers queries, and keeps the points after a SIGKILL', async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'local-ae-'));
  t.after(() => rm(folder, { recursive: true }));

  const first = await serve(t, folder);
  for (const page of ['a', 'b', 'a']) {
    await (await fetch(`http://127.0.0.1:${first.worker}/${page}`)).text();
  }
  const before = await stored(first.port, 3);
  const sql = 'SELECT blob1 AS page, sum(double1) AS visits FROM visits GROUP BY page ORDER BY page';
  const pages = [{ page: '/a', visits: 2 }, { page: '/b', visits: 1 }];
  assert.deepEqual(await rows(first.port, sql), pages);
  // More than a thousand single points, so that the store joins them into a chunk.
  for (let n = 0; n < 1_100; n += 1) {
    assert.equal((await insert(first.port, [{ dataset: 'other', double1: n }])).status, 200);
  }
  await first.kill();

  const second = await serve(t, folder);
  assert.deepEqual((await read(second.port, '?dataset=visits')).points, before);
  assert.deepEqual(await rows(second.port, sql), pages);
  const others = 'SELECT count() AS n, sum(double1) AS s FROM other';
  assert.deepEqual(await rows(second.port, others), [{ n: '1100', s: (1_099 * 1_100) / 2 }]);
});
