/** SQL over the data points of Workers in Miniflare. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import {
  freePort,
  insert,
  miniflare,
  query,
  read,
  reset,
  rows,
  status,
  stored,
  worker,
  write,
} from '../support/instance.js';

const DAY_MS = 86_400_000;

/**
 * @param {import('node:test').TestContext} t
 * @returns {Promise<string>} a folder; it is removed after the test
 */
async function temporaryFolder(t) {
  const folder = await mkdtemp(path.join(tmpdir(), 'local-ae-'));
  t.after(() => rm(folder, { recursive: true }));
  return folder;
}

describe('one instance', () => {
  /** @type {import('miniflare').Miniflare} */
  let mf;
  /** @type {number} */
  let port;
  /** @type {string[]} */
  const logged = [];

  before(async () => {
    port = await freePort();
    mf = miniflare(
      [worker({ VISITS: { dataset: 'visits', port }, SALES: { dataset: 'sales', port } })],
      undefined,
      { handleStructuredLogs: ({ message }) => logged.push(message) },
    );
    await mf.ready;
  });
  after(() => mf.dispose());
  beforeEach(() => reset(port));

  test("queries a Worker's points, with the cloud's columns", async () => {
    await write(mf, 'VISITS', { indexes: ['i'], blobs: ['a', null, 'é'], doubles: [1.5, 0, 2 ** 53] });
    const [{ timestamp }] = await stored(port, 1);
    const response = await query(port, 'SELECT * FROM visits');
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('content-type'), 'application/json; charset=UTF-8');
    const { meta, data, rows, rows_before_limit_at_least } = await response.json();
    assert.deepEqual([rows, rows_before_limit_at_least, data.length, meta.length], [1, 1, 1, 44]);
    assert.deepEqual(meta.slice(0, 5), [
      { name: 'dataset', type: 'String' },
      { name: 'timestamp', type: 'DateTime' },
      { name: '_sample_interval', type: 'UInt32' },
      { name: 'index1', type: 'String' },
      { name: 'blob1', type: 'String' },
    ]);
    const { dataset, timestamp: at, _sample_interval, index1, blob1, blob2, blob3, blob20 } = data[0];
    assert.deepEqual([dataset, _sample_interval, index1], ['visits', 1, 'i']);
    assert.equal(at, timestamp.slice(0, 19).replace('T', ' '));
    assert.deepEqual([blob1, blob2, blob3, blob20], ['a', '', 'é', '']);
    const { double1, double2, double3, double20 } = data[0];
    assert.deepEqual([double1, double2, double3, double20], [1.5, 0, 2 ** 53, 0]);
  });

  test('accepts a query by GET', async () => {
    await write(mf, 'VISITS', {});
    await stored(port, 1);
    const sql = encodeURIComponent('SELECT count() AS n FROM visits');
    const url = `http://127.0.0.1:${port}/client/v4/accounts/any/analytics_engine/sql?query=${sql}`;
    const response = await fetch(url, { headers: { authorization: 'Bearer any' } });
    const { data } = /** @type {any} */ (await response.json());
    assert.deepEqual(data, [{ n: '1' }]);
  });

  test("answers the first request of Grafana's data source", async () => {
    const sql = encodeURIComponent('SELECT 1 FORMAT JSON');
    const url = `http://127.0.0.1:${port}/client/v4/accounts/any/analytics_engine/sql/?query=${sql}`;
    const response = await fetch(url, { headers: { authorization: 'Bearer any' } });
    assert.equal(response.status, 200);
    const { data } = /** @type {any} */ (await response.json());
    assert.deepEqual(data, [{ 1: 1 }]);
  });

  for (const [format, type, body] of [
    ['JSON', 'application/json; charset=UTF-8', undefined],
    ['JSONEachRow', 'application/x-ndjson; charset=UTF-8', '{"blob1":"a\\tb"}\n{"blob1":"c"}\n'],
    ['TabSeparated', 'text/tab-separated-values; charset=UTF-8', 'a\\tb\nc\n'],
  ]) {
    test(`writes ${format}`, async () => {
      await insert(port, [{ dataset: 'd', blob1: 'a\tb' }, { dataset: 'd', blob1: 'c' }]);
      const response = await query(port, `SELECT blob1 FROM d ORDER BY blob1 FORMAT ${format}`);
      assert.equal(response.headers.get('content-type'), type);
      const text = await response.text();
      if (body === undefined) assert.equal(JSON.parse(text).rows, 2);
      else assert.equal(text, body);
    });
  }

  test('lists the datasets that have points, and keeps them apart', async () => {
    assert.deepEqual(await rows(port, 'SHOW TABLES'), []);
    await write(mf, 'SALES', { doubles: [10] });
    await write(mf, 'VISITS', { doubles: [1] });
    await write(mf, 'SALES', { doubles: [20] });
    await stored(port, 3);
    assert.deepEqual(await rows(port, 'SHOW TABLES'), [{ dataset: 'sales' }, { dataset: 'visits' }]);
    assert.deepEqual(await rows(port, 'SELECT sum(double1) AS s FROM sales'), [{ s: 30 }]);
    assert.deepEqual(await rows(port, 'SELECT sum(double1) AS s FROM visits'), [{ s: 1 }]);
  });

  test('refuses what the cloud refuses, and says what to write instead', async () => {
    await insert(port, [{ dataset: 'd' }]);
    const response = await query(port, 'SELECT DISTINCT blob1\nFROM d');
    assert.equal(response.status, 422);
    assert.equal(response.headers.get('content-type'), 'text/plain; charset=UTF-8');
    assert.match(await response.text(), /^Input was invalid: .*DISTINCT \(at 1:1; .*GROUP BY.*\n$/);
    const join = 'SELECT a.blob1 FROM d a JOIN d b ON a.blob1 = b.blob1';
    assert.equal((await query(port, join)).status, 422);
  });

  test('reports a missing dataset, a missing query and several queries', async () => {
    for (const [sql, message] of /** @type {[string, RegExp][]} */ ([
      ['SELECT 1 AS a FROM visits', /^Input was invalid: unable to find type of column: "timestamp" \(at 1:20; unknown table visits: /],
      ['', /^Input was invalid: there is no statement\n$/],
      ['SELECT 1; SELECT 2', /more than one statement/],
      ['SELEC 1', /^Input was invalid: .* \(at 1:1; /],
      ['SELECT 1 +', /^Input was invalid: .* \(at 1:11\)\n$/],
    ])) {
      const response = await query(port, sql);
      assert.equal(response.status, 422, sql);
      assert.match(await response.text(), message);
    }
  });

  test('answers a query that the cloud may refuse, and logs a warning once', async () => {
    await insert(port, [{ dataset: 'd', blob1: 'a' }]);
    const sql = (/** @type {number} */ time) =>
      `SELECT blob1 AS b FROM d WHERE timestamp > toDateTime(${time}) ORDER BY timestamp`;
    for (const time of [1, 20, 300]) assert.deepEqual(await rows(port, sql(time)), [{ b: 'a' }]);
    assert.deepEqual(await rows(port, 'SELECT blob1 FROM d ORDER BY blob1'), [{ blob1: 'a' }]);
    await rows(port, 'SELECT count() AS n FROM d GROUP BY lower(blob1)');
    const deadline = Date.now() + 10_000;
    while (logged.length < 2 && Date.now() < deadline) await delay(10);
    assert.deepEqual(logged, [
      'local-ae: the cloud may refuse this query: unable to find type of column: "timestamp" (at 1:67; ' +
        `ORDER BY takes columns of the output: select timestamp, or order by its alias)\n${sql(1)}`,
      'local-ae: the cloud may refuse this query: in the GROUP BY clause you may only provide column ' +
        'names (at 1:37; write SELECT expression AS name … GROUP BY name)\n' +
        'SELECT count() AS n FROM d GROUP BY lower(blob1)',
    ]);
  });

  test('refuses huge queries, and answers the next query', async () => {
    const longer = await query(port, `SELECT '${'x'.repeat(10_000)}' AS a`);
    assert.match(
      await longer.text(),
      /^Input was invalid: SQL was excessively long, exceeded maximum length: 10000 \(/,
    );
    for (const sql of [
      `SELECT '${'x'.repeat(300_000)}' AS a`,
      `SELECT ${'('.repeat(5_000)}1${')'.repeat(5_000)} AS a`,
      `SELECT ${'1 + '.repeat(20_000)}1 AS a`,
      `SELECT ${'-'.repeat(100_000)}1 AS a`,
    ]) {
      const response = await query(port, sql);
      assert.equal(response.status, 422, sql.slice(0, 20));
      assert.ok((await response.text()).length < 1_000);
    }
    assert.deepEqual(await rows(port, 'SELECT 1 AS one'), [{ one: 1 }]);
  });

  test('returns NaN and the infinities', async () => {
    await write(mf, 'VISITS', { doubles: ['NaN', 'Infinity', '-Infinity', 0.1] });
    await stored(port, 1);
    const sql = 'SELECT double1, double2, double3, double4 FROM visits FORMAT TabSeparated';
    assert.equal(await (await query(port, sql)).text(), 'nan\tinf\t-inf\t0.1\n');
  });

  test('stores posted points with timestamps and sample intervals', async () => {
    const timestamp = new Date(Date.now() - 3_600_000).toISOString();
    const point = { dataset: 'd', timestamp, _sample_interval: 10, index1: 'i', double20: 2 };
    assert.equal((await insert(port, [point, { dataset: 'd' }])).status, 200);
    const sql = `SELECT sum(_sample_interval) AS n, sum(_sample_interval * double20) AS s FROM d`;
    assert.deepEqual(await rows(port, sql), [{ n: '11', s: 20 }]);
    const recent = `SELECT count() AS n FROM d WHERE timestamp > NOW() - INTERVAL '1' MINUTE`;
    assert.deepEqual(await rows(port, recent), [{ n: '1' }]);
    const { points } = await read(port);
    assert.equal(points[0].timestamp, timestamp);
    assert.deepEqual(points.map(({ _sample_interval }) => _sample_interval), [10, undefined]);
  });

  test('stores none of the posted points if one is invalid', async () => {
    const response = await insert(port, [{ dataset: 'd' }, { dataset: 'd', blob0: '' }]);
    assert.equal(response.status, 400);
    assert.match((await response.json()).error, /^line 2: a data point has no "blob0"/);
    assert.deepEqual((await read(port)).points, []);
  });

  test('sees each point exactly once while points are written', async () => {
    const names = Array.from({ length: 300 }, (_, n) => `point ${n}`);
    let writing = true;
    const written = Promise.all(
      names.map((name) => write(mf, 'VISITS', { blobs: [name], doubles: [1] })),
    ).finally(() => (writing = false));
    let seen = 0;
    while (writing) {
      const [row] = await rows(port, 'SELECT count() AS n, count(DISTINCT blob1) AS names FROM visits')
        // The dataset exists only after its first point.
        .catch(() => [{ n: '0', names: '0' }]);
      assert.equal(row.n, row.names);
      assert.ok(Number(row.n) >= seen);
      seen = Number(row.n);
    }
    await written;
    await stored(port, names.length);
    const sql = 'SELECT count() AS n, count(DISTINCT blob1) AS names FROM visits';
    assert.deepEqual(await rows(port, sql), [{ n: '300', names: '300' }]);
  });

  test('a query after a reset sees only newer points', async () => {
    await insert(port, [{ dataset: 'd', blob1: 'before' }, { dataset: 'other' }]);
    assert.deepEqual(await rows(port, 'SELECT blob1 FROM d'), [{ blob1: 'before' }]);
    await reset(port);
    assert.deepEqual(await rows(port, 'SHOW TABLES'), []);
    await insert(port, [{ dataset: 'd', blob1: 'after' }]);
    assert.deepEqual(await rows(port, 'SELECT blob1 FROM d'), [{ blob1: 'after' }]);
  });

  test('joins chunks without losing or duplicating a point', async () => {
    // Single points, as Workers write them, and a batch between them: more than two chunks.
    const total = 2_500;
    let next = 1;
    const one = () => insert(port, [{ dataset: 'd', double1: next++ }]);
    while (next <= 1_200) await one();
    await insert(port, Array.from({ length: 100 }, () => ({ dataset: 'd', double1: next++ })));
    assert.deepEqual(await rows(port, 'SELECT count() AS n FROM d'), [{ n: '1300' }]);
    while (next <= total) await one();
    const sql = 'SELECT count() AS n, count(DISTINCT double1) AS each, max(double1) AS last FROM d';
    assert.deepEqual(await rows(port, sql), [{ n: `${total}`, each: `${total}`, last: total }]);
    const { points, last } = await read(port, '?limit=10000');
    assert.deepEqual(points.map(({ doubles }) => doubles[0]), points.map((_, i) => i + 1));
    assert.deepEqual(points.map(({ id }) => id), points.map((_, i) => last - total + 1 + i));
    const { points: page } = await read(port, `?after=${points[1_150].id}&limit=300`);
    assert.deepEqual(page, points.slice(1_151, 1_451));
  });

  test('stores all points or none, when a row cannot be stored', async () => {
    await insert(port, [{ dataset: 'd', double1: 1 }]);
    const all = async () => [(await status(port)).points, await read(port)];
    const before = await all();
    // A thousand points are one row. SQLite refuses the second row, as on a full disk.
    const fine = Array.from({ length: 1_500 }, () => ({ dataset: 'd', double1: 2 }));
    assert.equal((await insert(port, [...fine, { dataset: 'd'.repeat(20_000_000) }])).status, 500);
    assert.deepEqual(await all(), before);
    const sql = 'SELECT count() AS n, max(double1) AS last FROM d';
    assert.deepEqual(await rows(port, sql), [{ n: '1', last: 1 }]);
    // Ids continue without a gap: the columns in memory depend on that.
    await insert(port, [{ dataset: 'd', double1: 3 }]);
    const { points } = await read(port);
    assert.equal(points[1].id, points[0].id + 1);
    assert.deepEqual(await rows(port, sql), [{ n: '2', last: 3 }]);
  });

  test('stores a batch that exceeds one row', async () => {
    // Each character takes six bytes of JSON.
    const point = { dataset: 'd', blob1: '\0'.repeat(16_000) };
    assert.equal((await insert(port, Array(50).fill(point))).status, 200);
    assert.deepEqual(await rows(port, 'SELECT sum(length(blob1)) AS n FROM d'), [{ n: '800000' }]);
  });
});

test('returns the same points after a restart', async (t) => {
  const folder = await temporaryFolder(t);
  const port = await freePort();
  const workers = [worker({ VISITS: { dataset: 'visits', port } })];
  const sql = `SELECT dataset, index1, blob1, double1, double2, timestamp FROM visits ORDER BY double2`;

  const first = miniflare(workers, folder);
  t.after(() => first.dispose());
  await write(first, 'VISITS', { indexes: ['i'], blobs: ['é\0'], doubles: [-0.1, 1] });
  await stored(port, 1);
  await insert(port, Array.from({ length: 2_345 }, (_, i) => ({ dataset: 'visits', double2: i + 2 })));
  const before = [await rows(port, sql), await read(port, '?limit=10000')];
  await first.dispose();

  const second = miniflare(workers, folder);
  t.after(() => second.dispose());
  await second.ready;
  assert.deepEqual([await rows(port, sql), await read(port, '?limit=10000')], before);
  await write(second, 'VISITS', { doubles: [0, 9_999] });
  await stored(port, 1_000);
  assert.equal((await rows(port, sql)).length, 2_347);
});

test('removes points that are older than the retention', async (t) => {
  const folder = await temporaryFolder(t);
  const port = await freePort();
  const start = (/** @type {number} */ retentionDays) => {
    const mf = miniflare([worker({ VISITS: { dataset: 'visits', port, retentionDays } })], folder);
    t.after(() => mf.dispose());
    return mf;
  };
  const names = async () => (await read(port)).points.map(({ index1 }) => index1);

  const long = start(90);
  await long.ready;
  for (const days of [100, 80, 20, 0]) {
    const timestamp = Date.now() - days * DAY_MS;
    await insert(port, [{ dataset: 'visits', index1: `${days}`, timestamp }]);
  }
  assert.deepEqual(await names(), ['80', '20', '0']);
  assert.deepEqual(await rows(port, 'SELECT count() AS n FROM visits'), [{ n: '3' }]);
  await long.dispose();

  const short = start(30);
  await short.ready;
  assert.deepEqual(await rows(port, 'SELECT index1 FROM visits'), [{ index1: '20' }, { index1: '0' }]);
  assert.deepEqual(await names(), ['20', '0']);
  assert.equal((await status(port)).retentionDays, 30);
});

test('removes points by index prefix, and keeps the others', async (t) => {
  const folder = await temporaryFolder(t);
  const port = await freePort();
  const start = async () => {
    const mf = miniflare([worker({ VISITS: { dataset: 'visits', port } })], folder);
    t.after(() => mf.dispose());
    await mf.ready;
    return mf;
  };
  const first = await start();
  const some = (/** @type {string} */ index1, /** @type {number} */ count) =>
    insert(port, Array.from({ length: count }, (_, i) => ({ dataset: 'visits', index1, double1: i })));
  const sums = 'SELECT index1, count() AS n, sum(double1) AS s FROM visits GROUP BY index1 ORDER BY index1';
  await some('kept-1', 1_500);
  await some('made-up-1', 2_500);
  await rows(port, sums);
  for (let i = 0; i < 5; i += 1) await some('kept-2', 1);
  await some('made-up-2', 10);
  const url = `http://127.0.0.1:${port}/points?index_prefix=made-up-`;
  const { last } = await read(port);
  assert.equal((await fetch(url, { method: 'DELETE' })).status, 204);
  const kept = [{ index1: 'kept-1', n: '1500', s: 1_124_250 }, { index1: 'kept-2', n: '5', s: 0 }];
  assert.deepEqual(await rows(port, sums), kept);
  const { points } = await read(port, '?limit=10000');
  assert.deepEqual(points.map(({ id }) => id), Array.from({ length: 1_505 }, (_, i) => last + i + 1));
  assert.equal((await status(port)).points, 1_505);
  // A repeated removal changes nothing, and the other points survive a restart.
  assert.equal((await fetch(url, { method: 'DELETE' })).status, 204);
  await first.dispose();
  await start();
  assert.deepEqual(await rows(port, sums), kept);
  await some('kept-2', 2);
  assert.equal((await rows(port, sums))[1]?.n, '7');
});

test('keeps the newest points, at most maxRows', async (t) => {
  const port = await freePort();
  const mf = miniflare([worker({ VISITS: { dataset: 'visits', port, maxRows: 10_000 } })]);
  t.after(() => mf.dispose());
  await mf.ready;
  let next = 1;
  const some = (/** @type {number} */ count, dataset = 'visits') =>
    insert(port, Array.from({ length: count }, () => ({ dataset, double1: next++ })));
  await some(500, 'other');
  await some(9_500);
  const [{ n: full }] = await rows(port, 'SELECT count() AS n FROM visits');
  assert.equal(full, '9500');
  await some(1); // one point too many: evicts the oldest chunk, which is the whole dataset "other"
  assert.deepEqual(await rows(port, 'SHOW TABLES'), [{ dataset: 'visits' }]);
  await some(3_000);
  const { points } = await status(port);
  assert.ok(points <= 10_000 && points > 9_000, `${points}`);
  const sql = 'SELECT count() AS n, min(double1) AS oldest, max(double1) AS newest FROM visits';
  assert.deepEqual(await rows(port, sql), [
    { n: `${points}`, oldest: next - points, newest: next - 1 },
  ]);
  assert.equal((await read(port, '?limit=1')).points[0].doubles[0], next - points);
});

test('accepts only the token in the option', async (t) => {
  const port = await freePort();
  const mf = miniflare([worker({ VISITS: { dataset: 'visits', port, token: 'right' } })]);
  t.after(() => mf.dispose());
  await mf.ready;
  assert.equal((await query(port, 'SELECT 1 AS a', 'wrong')).status, 403);
  assert.equal((await query(port, 'SELECT 1 AS a', '')).status, 400);
  assert.equal((await query(port, 'SELECT 1 AS a', 'right')).status, 200);
});
