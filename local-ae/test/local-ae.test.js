import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { Log, LogLevel, Miniflare } from 'miniflare';

import { plugins } from '../index.js';
import { freePort, miniflare, read, reset, stored, worker, write } from '../support/instance.js';

/** Records Miniflare's log. */
class RecordingLog extends Log {
  /** @type {string[]} */
  lines = [];

  constructor() {
    super(LogLevel.INFO);
  }

  /** @param {string} line */
  info(line) {
    this.lines.push(line);
  }
}

/**
 * Sends a request with headers that `fetch` does not allow, and returns the status.
 *
 * @param {number} port
 * @param {Record<string, string>} headers
 * @returns {Promise<number | undefined>}
 */
const statusFor = (port, headers) =>
  new Promise((resolve, reject) => {
    request({ host: '127.0.0.1', port, path: '/points', headers }, (response) => {
      response.resume();
      resolve(response.statusCode);
    })
      .once('error', reject)
      .end();
  });

/** Casts a Worker's options to the type that plugins receive. @param {unknown} options @returns {any} */
const parsed = (options) => options;

/** @param {number} length @param {(n: number) => unknown} value called with 1 to `length` */
const list = (length, value) => Array.from({ length }, (_, i) => value(i + 1));

describe('one instance', () => {
  /** @type {import('miniflare').Miniflare} */
  let mf;
  /** @type {number} */
  let port;

  before(async () => {
    port = await freePort();
    mf = miniflare([
      worker({ VISITS: { dataset: 'visits', port }, SALES: { dataset: 'internet', port } }),
    ]);
    await mf.ready;
  });
  after(() => mf.dispose());
  beforeEach(() => reset(port));

  test('stores all fields of a point', async () => {
    const point = {
      indexes: ['customer-1'],
      blobs: list(20, (n) => `blob ${n}`),
      doubles: list(20, (n) => n + 0.25),
    };
    const earliest = Date.now();
    assert.equal((await write(mf, 'VISITS', point)).status, 204);
    const [{ id, timestamp, ...rest }, ...others] = await stored(port, 1);
    const latest = Date.now();
    assert.deepEqual(others, []);
    assert.deepEqual(rest, {
      dataset: 'visits',
      index1: 'customer-1',
      blobs: point.blobs,
      doubles: point.doubles,
    });
    assert.match(timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    const written = Date.parse(timestamp);
    assert.ok(earliest - 1 <= written && written <= latest + 1, timestamp);
    assert.ok(id >= 1);
    assert.equal((await read(port)).last, id);
  });

  test('fills the fields of an empty point', async () => {
    await write(mf, 'VISITS', {});
    const [{ index1, blobs, doubles }] = await stored(port, 1);
    assert.deepEqual(
      { index1, blobs, doubles },
      { index1: '', blobs: Array(20).fill(''), doubles: Array(20).fill(0) },
    );
  });

  test('stores texts and numbers unchanged', async () => {
    const texts = ['Grüße €', '日本語', '😀', '\uFEFFmark', 'nul\0inside', `quote'"\\`, null, ''];
    // JSON has no NaN, but writeDataPoint() converts strings to numbers.
    const doubles = ['NaN', 'Infinity', '-Infinity', 0.1, -1e-300, 1.7976931348623157e308, 2 ** 53];
    const blobs = [...texts, { bytes: [97, 255] }];
    await write(mf, 'VISITS', { indexes: ['Ünïcode'], blobs, doubles });
    const [point] = await stored(port, 1);
    assert.equal(point.index1, 'Ünïcode');
    assert.deepEqual(point.blobs.slice(0, 9), [...texts.map((text) => text ?? ''), 'a\uFFFD']);
    assert.deepEqual(point.doubles.slice(0, 7), doubles);
  });

  test('stores points exactly at the limits', async () => {
    const points = [
      { indexes: ['é'.repeat(48)] },
      { blobs: list(20, () => 'x'.repeat(800)) },
      { doubles: list(20, (n) => n) },
    ];
    for (const [i, point] of points.entries()) {
      assert.equal((await write(mf, 'VISITS', point)).status, 204);
      await stored(port, i + 1); // one at a time, so that the order is certain
    }
    const [index, blobs, doubles] = await stored(port, points.length);
    assert.equal(index.index1, 'é'.repeat(48));
    assert.equal(blobs.blobs.join('').length, 16_000);
    assert.deepEqual(doubles.doubles, points[2].doubles);
  });

  test('throws for a point over a limit and does not store it', async () => {
    const points = [
      { indexes: ['a', 'b'] },
      { indexes: [`${'é'.repeat(48)}a`] },
      { blobs: list(21, String) },
      { blobs: [...list(19, () => 'x'.repeat(800)), 'x'.repeat(801)] },
      { doubles: list(21, (n) => n) },
    ];
    for (const point of points) {
      const { status, error } = await write(mf, 'VISITS', point);
      assert.equal(status, 400);
      assert.equal(error.name, 'TypeError');
      assert.match(String(error.message), /exceeds the limit of/);
    }
    // If a refused point were stored, it would arrive before this one.
    await write(mf, 'VISITS', { indexes: ['afterwards'] });
    const arrived = await stored(port, 1);
    assert.deepEqual(arrived.map(({ index1 }) => index1), ['afterwards']);
  });

  test("throws workerd's own TypeError for a value of the wrong type", async () => {
    const { status, error } = await write(mf, 'VISITS', { blobs: 'abc' });
    assert.equal(status, 400);
    assert.equal(error.name, 'TypeError');
    assert.match(String(error.message), /'blobs'/);
  });

  test('stores 500 concurrently written points', async () => {
    const names = list(500, (n) => `point ${n}`);
    await Promise.all(names.map((name) => write(mf, 'VISITS', { blobs: [name] })));
    const points = await stored(port, 500);
    assert.deepEqual(points.map(({ blobs }) => blobs[0]).sort(), names.sort());
  });

  test('keeps datasets apart', async () => {
    await write(mf, 'VISITS', { indexes: ['v'] });
    await write(mf, 'SALES', { indexes: ['s'] });
    await stored(port, 2);
    const { points: visits } = await read(port, '?dataset=visits');
    assert.deepEqual(visits.map(({ index1 }) => index1), ['v']);
    // Miniflare also has a service with this dataset's name.
    const { points: sales } = await read(port, '?dataset=internet');
    assert.deepEqual(sales.map(({ index1 }) => index1), ['s']);
    assert.deepEqual((await read(port, '?dataset=other')).points, []);
  });

  test('reads by page and by index', async () => {
    for (const index of ['a', 'b', 'a', 'a']) await write(mf, 'VISITS', { indexes: [index] });
    await write(mf, 'VISITS', {});
    const all = await stored(port, 5);
    const last = all[4].id;

    assert.deepEqual(await read(port, '?limit=2'), { points: all.slice(0, 2), last });
    const after = `?after=${all[1].id}`;
    assert.deepEqual(await read(port, `${after}&limit=2`), { points: all.slice(2, 4), last });
    assert.deepEqual(await read(port, `?after=${last}`), { points: [], last });
    const { points } = await read(port, `${after}&index=a&dataset=visits`);
    assert.deepEqual(points, all.slice(2).filter(({ index1 }) => index1 === 'a'));
    assert.deepEqual((await read(port, '?index=')).points.length, 1);
  });

  test('does not reuse ids after a reset', async () => {
    await write(mf, 'VISITS', { indexes: ['before'] });
    const [{ id }] = await stored(port, 1);
    await reset(port);
    assert.deepEqual(await read(port), { points: [], last: 0 });
    await write(mf, 'VISITS', { indexes: ['after'] });
    await stored(port, 1);
    const { points } = await read(port, `?after=${id}`);
    assert.deepEqual(points.map(({ index1 }) => index1), ['after']);
  });

  test('refuses invalid parameters, unknown paths and other methods', async () => {
    const origin = `http://127.0.0.1:${port}`;
    const bad = await fetch(`${origin}/points?limit=10001`);
    assert.equal(bad.status, 400);
    assert.deepEqual(await bad.json(), {
      error: 'the parameter "limit" must be an integer from 1 to 10000',
      code: 'invalid_parameter',
      parameter: 'limit',
    });
    assert.equal((await fetch(`${origin}/ingest`, { method: 'POST' })).status, 404);
    const put = await fetch(`${origin}/points`, { method: 'PUT' });
    assert.equal(put.status, 405);
    assert.equal(put.headers.get('allow'), 'GET, POST, DELETE');
  });

  test('refuses a host that is not this machine', async () => {
    const status = (/** @type {Record<string, string>} */ headers) => statusFor(port, headers);
    assert.equal(await status({ host: `rebound.example:${port}` }), 403);
    assert.equal(await status({ host: '127.0.0.1.example' }), 403);
    assert.equal(await status({ host: `localhost:${port}` }), 200);
    assert.equal(await status({ host: `[::1]:${port}` }), 200);
  });

  test('stores points that code in Node writes', async () => {
    const { VISITS } = /** @type {any} */ (await mf.getBindings());
    const texts = ['é\0', null, undefined, '', new Uint8Array([0xef, 0xbb, 0xbf, 97, 255])];
    assert.equal(VISITS.writeDataPoint({ indexes: ['i'], blobs: texts, doubles: [NaN, 1.5] }), undefined);
    const earliest = Date.now();
    const [{ id, timestamp, ...point }] = await stored(port, 1);
    assert.deepEqual(point, {
      dataset: 'visits',
      index1: 'i',
      blobs: ['é\0', '', '', '', '\uFEFFa\uFFFD', ...Array(15).fill('')],
      doubles: ['NaN', 1.5, ...Array(18).fill(0)],
    });
    assert.ok(Math.abs(Date.parse(timestamp) - earliest) < 10_000, timestamp);
    VISITS.writeDataPoint();
    await stored(port, 2);
    assert.throws(() => VISITS.writeDataPoint({ indexes: ['a', 'b'] }), /exceeds the limit/);
  });
});

test('keeps points across a restart, in the persistence folder', async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'local-ae-'));
  t.after(() => rm(folder, { recursive: true }));
  const port = await freePort();
  const workers = [worker({ VISITS: { dataset: 'visits', port } })];

  const first = miniflare(workers, folder);
  t.after(() => first.dispose());
  await write(first, 'VISITS', { indexes: ['first'], doubles: [1.5] });
  const before = await stored(port, 1);
  await first.dispose();

  const second = miniflare(workers, folder);
  t.after(() => second.dispose());
  await second.ready;
  assert.deepEqual(await stored(port, 1), before);
  await write(second, 'VISITS', { indexes: ['second'] });
  const points = await stored(port, 2);
  assert.deepEqual(points.map(({ index1 }) => index1), ['first', 'second']);
  assert.ok(points[1].id > points[0].id);
  assert.deepEqual(await readdir(path.join(folder, 'local-ae')), ['local-ae-Store']);
});

test('refuses a folder that another process uses, until that process is killed', async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'local-ae-'));
  t.after(() => rm(folder, { recursive: true }));
  const port = await freePort();
  const script = `
    const { freePort, miniflare, worker } = await import(${JSON.stringify(import.meta.resolve('../support/instance.js'))});
    const workers = [worker({ VISITS: { dataset: 'visits', port: await freePort() } })];
    await miniflare(workers, ${JSON.stringify(folder)}).ready;
    console.log('ready');`;
  // In its own process group, so that the kill includes its workerd.
  const other = spawn(process.execPath, ['--input-type=module', '--eval', script], { detached: true });
  const kill = () => process.kill(-(/** @type {number} */ (other.pid)), 'SIGKILL');
  t.after(() => other.exitCode ?? other.signalCode ?? kill());
  await once(other.stdout, 'data');
  const workers = [worker({ VISITS: { dataset: 'visits', port } })];
  const refused = miniflare(workers, folder);
  t.after(() => refused.dispose().catch(() => {}));
  await assert.rejects(refused.ready, /local-ae: another process has the store in .*--persist-to FOLDER/);
  kill();
  await once(other, 'exit');
  const second = miniflare(workers, folder);
  t.after(() => second.dispose());
  await second.ready;
});

test('logs a point that cannot be stored', async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'local-ae-'));
  t.after(() => rm(folder, { recursive: true }));
  const port = await freePort();
  let log = '';
  const mf = new Miniflare({
    port: 0,
    enableDevRegistry: false,
    cf: false,
    resourcePersistencePath: folder,
    workers: [worker({ VISITS: { dataset: 'visits', port } })],
    handleStructuredLogs: ({ message }) => void (log += `${message}\n`),
  });
  t.after(() => mf.dispose());
  await mf.ready;
  await write(mf, 'VISITS', {});
  await stored(port, 1);
  const own = path.join(folder, 'local-ae/local-ae-Store');
  const [file] = (await readdir(own)).filter((name) => name.endsWith('.sqlite'));
  const database = new DatabaseSync(path.join(own, /** @type {string} */ (file)));
  database.exec('DROP TABLE chunks');
  database.close();
  assert.equal((await write(mf, 'VISITS', {})).status, 204);
  const deadline = Date.now() + 30_000;
  while (!log.includes('LOST') && Date.now() < deadline) await delay(20);
  assert.match(log, /local-ae: A DATA POINT IS LOST, of dataset visits: .*no such table/);
});

test('keeps points across a reload with other options', async (t) => {
  const port = await freePort();
  const mf = miniflare([worker({ VISITS: { dataset: 'visits', port } })]);
  t.after(() => mf.dispose());
  await write(mf, 'VISITS', { indexes: ['before'] });
  await stored(port, 1);
  await mf.setOptions({
    port: 0,
    enableDevRegistry: false,
    cf: false,
    workers: [worker({ SALES: { dataset: 'sales', port } })],
  });
  await write(mf, 'SALES', { indexes: ['after'] });
  const points = await stored(port, 2);
  assert.deepEqual(points.map(({ dataset }) => dataset), ['visits', 'sales']);
});

test('several Workers share one store', async (t) => {
  const port = await freePort();
  const mf = miniflare([
    worker({ VISITS: { dataset: 'visits', port } }, 'one'),
    worker({ SALES: { dataset: 'sales', port } }, 'two'),
  ]);
  t.after(() => mf.dispose());
  await write(mf, 'VISITS', {});
  const two = /** @type {any} */ (await mf.getWorker('two'));
  await two.fetch('http://two/SALES', { method: 'POST', body: '{}' });
  const points = await stored(port, 2);
  assert.deepEqual(points.map(({ dataset }) => dataset).sort(), ['sales', 'visits']);
});

test('warns once and does not throw if code in Node writes while the endpoint is down', async (t) => {
  const warn = t.mock.method(console, 'warn', () => {});
  const port = await freePort();
  const options = parsed(worker({ VISITS: { dataset: 'visits', port } }));
  const { VISITS } = /** @type {any} */ (plugins['local-ae'].getNodeBindings(options, parsed({})));
  for (let i = 0; i < 3; i += 1) VISITS.writeDataPoint({ blobs: ['a'] });
  const deadline = Date.now() + 10_000;
  while (warn.mock.callCount() === 0 && Date.now() < deadline) await delay(10);
  const texts = warn.mock.calls.map(({ arguments: [text] }) => String(text));
  assert.deepEqual(texts.length, 1);
  assert.match(texts[0], /^local-ae: a data point that was written in Node was not stored: .*ECONNREFUSED/);
});

test('logs the URL of the SQL endpoint', async (t) => {
  const port = await freePort();
  const log = new RecordingLog();
  const mf = miniflare([worker({ VISITS: { dataset: 'visits', port } })], undefined, { log });
  t.after(() => mf.dispose());
  await mf.ready;
  const url = `http://127.0.0.1:${port}/client/v4/accounts/local/analytics_engine/sql`;
  assert.deepEqual(log.lines.filter((line) => line.includes('local-ae')), [`local-ae: SQL at ${url}`]);
  const response = await fetch(url, { method: 'POST', headers: { authorization: 'Bearer x' }, body: 'SHOW TABLES' });
  assert.equal(response.status, 200);
});

test('an error for a taken port names the option and the variable', async (t) => {
  const server = createServer();
  t.after(() => server.close());
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
  const mf = miniflare([worker({ VISITS: { dataset: 'visits', port } })]);
  t.after(() => mf.dispose().catch(() => {})); // rejects with the same error again
  const message = new RegExp(`port ${port} of 127.0.0.1 is taken.*the option "port".*LOCAL_AE_PORT`);
  await assert.rejects(mf.ready, { code: 'ERR_ADDRESS_IN_USE', message });
});

test('answers requests with an allowed host', async (t) => {
  const port = await freePort();
  const allowedHosts = ['host.docker.internal'];
  const mf = miniflare([
    worker({ VISITS: { dataset: 'visits', port, allowedHosts } }, 'one'),
    worker({ SALES: { dataset: 'sales', port, allowedHosts: [...allowedHosts] } }, 'two'),
  ]);
  t.after(() => mf.dispose());
  await mf.ready;
  assert.equal(await statusFor(port, { host: `host.docker.internal:${port}` }), 200);
  assert.equal(await statusFor(port, { host: 'docker.internal' }), 403);
});

test('warns if Miniflare gives plugins no sockets', async (t) => {
  const warn = t.mock.method(console, 'warn', () => {});
  const folder = await mkdtemp(path.join(tmpdir(), 'local-ae-'));
  t.after(() => rm(folder, { recursive: true }));
  /** Calls the plugin and reads only the given parts of the result, as different versions of Miniflare do. */
  const start = async (/** @type {string[]} */ parts) => {
    const port = await freePort();
    const services = /** @type {any} */ (
      await plugins['local-ae'].getServices(
        /** @type {any} */ ({
          options: parsed(worker({ VISITS: { dataset: 'visits', port } })),
          sharedOptions: {},
          tmpPath: folder,
          log: new RecordingLog(),
        }),
      )
    );
    const known = parts.map((key) => services[key]);
    await new Promise((resolve) => setImmediate(resolve));
    return known;
  };
  await start(['services', 'extensions', 'sockets']);
  assert.equal(warn.mock.callCount(), 0);
  await start(['services', 'extensions']);
  assert.equal(warn.mock.callCount(), 1);
  assert.match(String(warn.mock.calls[0].arguments[0]), /Miniflare gives plugins no sockets.*127\.0\.0\.1:\d+.*; use 5\.\d+\.0-beta or later \(wrangler 4\.\d+\.\d+\)$/);
});

/** @type {[string, Record<string, Record<string, unknown>>[], RegExp][]} */
const BAD_OPTIONS = [
  ['no dataset', [{ VISITS: {} }], /VISITS: the option "dataset"/],
  ['an empty dataset', [{ VISITS: { dataset: '' } }], /VISITS: the option "dataset"/],
  ['port 0', [{ VISITS: { dataset: 'v', port: 0 } }], /"port" must be an integer from 1 to 65535/],
  ['a port that is text', [{ VISITS: { dataset: 'v', port: '9310' } }], /"port" must be/],
  ['an unknown option', [{ VISITS: { dataset: 'v', prot: 1 } }], /unknown option "prot"; there are "dataset", "port"/],
  ['no retention', [{ VISITS: { dataset: 'v', retentionDays: 0 } }], /"retentionDays" must be an integer from 1/],
  ['half a day', [{ VISITS: { dataset: 'v', retentionDays: 0.5 } }], /"retentionDays" must be/],
  ['a small cap', [{ VISITS: { dataset: 'v', maxRows: 100 } }], /"maxRows" must be an integer from 10000/],
  ['a host with a port', [{ VISITS: { dataset: 'v', allowedHosts: ['a:1'] } }], /"allowedHosts" must be a list/],
  ['no list of hosts', [{ VISITS: { dataset: 'v', allowedHosts: 'a' } }], /"allowedHosts" must be a list/],
  ['an empty token', [{ VISITS: { dataset: 'v', token: '' } }], /"token" must be a text without spaces/],
  [
    'two retentions',
    [{ VISITS: { dataset: 'v', retentionDays: 1 }, SALES: { dataset: 's' } }],
    /one retentionDays \(VISITS: 1, SALES: 90\)/,
  ],
  [
    'two ports',
    [{ VISITS: { dataset: 'v', port: 9310 }, SALES: { dataset: 's', port: 9311 } }],
    /one port \(VISITS: 9310, SALES: 9311\)/,
  ],
  [
    'two ports in two Workers',
    [{ VISITS: { dataset: 'v' } }, { SALES: { dataset: 's', port: 9311 } }],
    /one port \(VISITS: 9310, SALES: 9311\)/,
  ],
];

for (const [what, workers, message] of BAD_OPTIONS) {
  test(`does not start with ${what}`, async (t) => {
    const mf = miniflare(workers.map((bindings, i) => worker(bindings, `worker-${i}`)));
    t.after(() => mf.dispose().catch(() => {})); // rejects with the same error again
    await assert.rejects(mf.ready, { name: 'TypeError', message });
  });
}
