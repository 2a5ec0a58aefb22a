import assert from 'node:assert/strict';
import { test } from 'node:test';

import { handleRequest } from '../api.js';

/**
 * @import { Page, PageQuery } from '../api.js'
 * @import { Point } from '../point.js'
 * @import { SqlResult } from '../sql.js'
 */

const STATUS = { points: 1, retentionDays: 90, maxRows: 10_000, disk: 2, memory: 3 };

/** A store that records its calls. */
class RecordingStore {
  /** @type {PageQuery[]} */
  queries = [];
  /** @type {string[]} */
  sql = [];
  /** @type {SqlResult} */
  sqlResult = { ok: true, contentType: 'text/x', body: new TextEncoder().encode('answer'), warnings: '' };
  /** @type {Point[]} */
  inserted = [];
  cleared = 0;
  /** @type {string[]} */
  removed = [];
  /** @type {string | null} */
  token = null;
  allowedHosts = ['host.docker.internal'];

  /** @param {Page} [page] */
  constructor(page = { points: [], last: 0 }) {
    this.result = page;
  }

  /** @param {PageQuery} query */
  page(query) {
    this.queries.push(query);
    return this.result;
  }

  /** @param {string} sql */
  query(sql) {
    this.sql.push(sql);
    return this.sqlResult;
  }

  /** @param {Point[]} points */
  insertAll(points) {
    this.inserted.push(...points);
  }

  clear() {
    this.cleared += 1;
  }

  /** @param {string} prefix */
  removeIndexes(prefix) {
    this.removed.push(prefix);
  }

  status() {
    return STATUS;
  }
}

/**
 * @param {string} path
 * @param {RequestInit & { host?: string, store?: RecordingStore }} [options]
 */
async function ask(path, { host = '127.0.0.1:9310', store, ...init } = {}) {
  const request = new Request(`http://${host}${path}`, init);
  const response = await handleRequest(request, store ?? new RecordingStore());
  const text = await response.text();
  const type = response.headers.get('content-type');
  return {
    status: response.status,
    allow: response.headers.get('allow'),
    type,
    text,
    body: type?.startsWith('application/json') ? JSON.parse(text) : undefined,
  };
}

test('GET /points has default parameters', async () => {
  const store = new RecordingStore();
  const { status, type, body } = await ask('/points', { store });
  assert.equal(status, 200);
  assert.match(String(type), /^application\/json/);
  assert.deepEqual(body, { points: [], last: 0 });
  assert.deepEqual(store.queries, [
    { after: 0, limit: 1000, dataset: undefined, index: undefined },
  ]);
});

test('GET /points passes every parameter to the store', async () => {
  const store = new RecordingStore();
  await ask('/points?after=7&limit=10000&dataset=a%20b&index=', { store });
  assert.deepEqual(store.queries, [{ after: 7, limit: 10_000, dataset: 'a b', index: '' }]);
});

test('GET /points returns all fields of a point', async () => {
  const blobs = Array.from({ length: 20 }, (_, i) => `b${i}`);
  const doubles = [NaN, Infinity, -Infinity, 0.5, ...Array(16).fill(0)];
  const timestampMs = Date.UTC(2026, 0, 1, 0, 0, 0, 123);
  const point = { id: 3, dataset: 'd', timestampMs, sampleInterval: 1, index1: 'i', blobs, doubles };
  const { body } = await ask('/points', {
    store: new RecordingStore({ points: [point, { ...point, sampleInterval: 5 }], last: 9 }),
  });
  const [sampled] = body.points.splice(1);
  assert.equal(sampled._sample_interval, 5);
  assert.deepEqual(body, {
    points: [
      {
        id: 3,
        dataset: 'd',
        timestamp: '2026-01-01T00:00:00.123Z',
        index1: 'i',
        blobs,
        doubles: ['NaN', 'Infinity', '-Infinity', 0.5, ...Array(16).fill(0)],
      },
    ],
    last: 9,
  });
});

test('DELETE /points removes all points', async () => {
  const store = new RecordingStore();
  assert.equal((await ask('/points', { method: 'DELETE', store })).status, 204);
  assert.equal(store.cleared, 1);
});

for (const [query, parameter, allowed] of [
  ['after=-1', 'after', /an integer from 0 to 9007199254740991/],
  ['after=9007199254740992', 'after', /an integer from 0/],
  ['after=', 'after', /an integer from 0/],
  ['limit=0', 'limit', /an integer from 1 to 10000/],
  ['limit=10001', 'limit', /an integer from 1 to 10000/],
  ['limit=1.5', 'limit', /an integer from 1 to 10000/],
  ['limit=1e3', 'limit', /an integer from 1 to 10000/],
  ['limit=1&limit=2', 'limit', /given once/],
  ['index1=a', 'index1', /one of after, limit, dataset, index/],
  ['constructor=a', 'constructor', /one of after/],
]) {
  test(`refuses ?${query} and names the allowed values`, async () => {
    const store = new RecordingStore();
    const { status, body } = await ask(`/points?${query}`, { store });
    assert.equal(status, 400);
    assert.equal(body.code, 'invalid_parameter');
    assert.equal(body.parameter, parameter);
    assert.match(body.error, /** @type {RegExp} */ (allowed));
    assert.deepEqual(store.queries, []);
  });
}

test('DELETE /points removes points by index prefix only, and refuses other filters', async () => {
  const store = new RecordingStore();
  const { status, body } = await ask('/points?dataset=a', { method: 'DELETE', store });
  assert.equal(status, 400);
  assert.equal(body.parameter, 'dataset');
  const empty = await ask('/points?index_prefix=', { method: 'DELETE', store });
  assert.equal(empty.status, 400);
  assert.equal((await ask('/points?index_prefix=a-', { method: 'DELETE', store })).status, 204);
  assert.deepEqual([store.cleared, store.removed], [0, ['a-']]);
});

test('answers 404 for an unknown path', async () => {
  for (const path of ['/', '/points/', '/constructor', '/client/v4']) {
    const { status, body } = await ask(path);
    assert.equal(status, 404, path);
    assert.equal(body.code, 'not_found');
  }
});

test('answers 405 for an unsupported method and lists the supported ones', async () => {
  for (const method of ['PATCH', 'PUT', 'OPTIONS']) {
    const { status, allow, body } = await ask('/points', { method });
    assert.equal(status, 405, method);
    assert.equal(allow, 'GET, POST, DELETE');
    assert.equal(body.code, 'method_not_allowed');
  }
});

test('answers only the loopback hosts and the allowed hosts', async () => {
  for (const host of ['127.0.0.1', 'localhost:9310', '[::1]:1', 'LOCALHOST', 'host.docker.internal:9310']) {
    assert.equal((await ask('/points', { host })).status, 200, host);
  }
  for (const host of [
    'rebound.example',
    '127.0.0.1.example',
    'localhost.example:9310',
    'docker.internal',
    'a.host.docker.internal',
    '0.0.0.0',
    '192.168.0.1',
    '[::]',
  ]) {
    const store = new RecordingStore();
    const { status, body } = await ask('/points', { method: 'DELETE', host, store });
    assert.equal(status, 403, host);
    assert.equal(body.code, 'host_not_local');
    assert.match(body.error, /host\.docker\.internal, or be in the option "allowedHosts"$/);
    assert.equal(store.cleared, 0);
  }
});

const SQL = '/client/v4/accounts/any-account/analytics_engine/sql';
const TOKEN = { authorization: 'Bearer any' };

test('accepts a query as the body or as a parameter', async () => {
  const store = new RecordingStore();
  const posted = await ask(SQL, { method: 'POST', headers: TOKEN, body: "SELECT 'é'", store });
  assert.deepEqual([posted.status, posted.type, posted.text], [200, 'text/x', 'answer']);
  await ask(`${SQL}?query=SHOW+TABLES%20`, { headers: TOKEN, store });
  await ask(SQL, { method: 'POST', headers: TOKEN, store });
  assert.deepEqual(store.sql, ["SELECT 'é'", 'SHOW TABLES ', '']);
});

test('answers a request without a query as the cloud does', async () => {
  const store = new RecordingStore();
  for (const path of [SQL, `${SQL}?sql=SELECT+1`]) {
    const { status, type, text } = await ask(path, { headers: TOKEN, store });
    assert.deepEqual([status, text], [400, 'Query string error: missing field `query`']);
    assert.match(String(type), /^text\/plain/);
  }
  assert.deepEqual(store.sql, []);
});

test('each response to a query has an id of its own', async () => {
  const ids = new Set();
  for (const init of [{ headers: TOKEN }, { method: 'POST', headers: TOKEN }, {}]) {
    const request = new Request(`http://localhost${SQL}?query=SELECT+1`, init);
    ids.add((await handleRequest(request, new RecordingStore())).headers.get('x-query-id'));
  }
  assert.equal(ids.size, 3);
  for (const id of ids) assert.match(String(id), /^[0-9a-f-]{36}$/);
});

test('answers 422 for an invalid query', async () => {
  const store = new RecordingStore();
  store.sqlResult = { ...store.sqlResult, ok: false };
  assert.equal((await ask(`${SQL}?query=x`, { headers: TOKEN, store })).status, 422);
});

const MISSING = 'Missing X-Auth-Key, X-Auth-Email or Authorization headers';
const FAILED = 'Authentication failed (status: 400)';

for (const [what, authorization, status, code, message] of /** @type {const} */ ([
  ['without a token', '', 400, 9106, MISSING],
  ['with an empty token', 'Bearer ', 400, 9106, FAILED],
  ['with another scheme', 'Basic YTpi', 400, 9106, FAILED],
  ['with text after the token', 'Bearer two x', 400, 9106, FAILED],
  ['with a wrong token', 'Bearer one', 403, 10_000, 'Authentication error'],
])) {
  test(`refuses a query ${what} as the cloud does`, async () => {
    const store = new RecordingStore();
    store.token = 'two';
    const headers = authorization === '' ? {} : { authorization };
    const refusal = await ask(`${SQL}?query=SELECT+1`, { headers, store });
    assert.equal(refusal.status, status);
    const { success, errors, messages, result } = refusal.body;
    assert.deepEqual([success, errors, result], [false, [{ code, message }], null]);
    assert.match(messages[0].message, code === 10_000 ? /option "token"/ : /Bearer <token>/);
    assert.deepEqual(store.sql, []);
  });
}

test('accepts the token in the option', async () => {
  const store = new RecordingStore();
  store.token = 'two';
  const headers = { authorization: 'bearer two' };
  assert.equal((await ask(`${SQL}?query=SELECT+1`, { headers, store })).status, 200);
});

test("answers SQL only for GET and POST, and only at an account's path", async () => {
  for (const method of ['PUT', 'DELETE', 'OPTIONS', 'HEAD']) {
    const { status, allow } = await ask(SQL, { method, headers: TOKEN });
    assert.deepEqual([status, allow], [405, 'GET, POST'], method);
  }
  for (const path of [`${SQL}/x`, '/client/v4/accounts//analytics_engine/sql', '/accounts/a/analytics_engine/sql']) {
    assert.equal((await ask(path, { headers: TOKEN })).status, 404, path);
  }
});

const NDJSON = { 'content-type': 'application/x-ndjson' };

test('adds posted points', async () => {
  const store = new RecordingStore();
  const lines = [
    { dataset: 'd' },
    {
      dataset: 'd',
      timestamp: '2026-01-01T00:00:00.5+01:00',
      _sample_interval: 7,
      index1: 'i',
      blob2: 'b',
      blob20: '\ud800',
      double1: 'NaN',
      double20: -1.5,
      blob1: null,
    },
    { dataset: 'd', timestamp: 5 },
  ];
  const body = `${lines.map((line) => JSON.stringify(line)).join('\n\n')}\r\n`;
  const earliest = Date.now();
  const { status, body: added } = await ask('/points', { method: 'POST', headers: NDJSON, body, store });
  assert.deepEqual([status, added], [200, { points: 3 }]);
  const [minimal, full, numbered] = store.inserted;
  assert.ok(minimal.timestampMs >= earliest && minimal.timestampMs <= Date.now());
  assert.deepEqual(full, {
    dataset: 'd',
    timestampMs: Date.UTC(2025, 11, 31, 23, 0, 0, 500),
    sampleInterval: 7,
    index1: 'i',
    blobs: ['', 'b', ...Array(17).fill(''), '\uFFFD'],
    doubles: [NaN, ...Array(18).fill(0), -1.5],
  });
  assert.equal(numbered.timestampMs, 5);
});

for (const [line, message] of [
  ['{"dataset": "d"', /^line 2: .*JSON/],
  ['[]', /^line 2: a data point is an object$/],
  ['{}', /"dataset" must be the name/],
  ['{"dataset": 1}', /"dataset" must be a string/],
  ['{"dataset": "d", "blob21": "x"}', /no "blob21"; there are dataset, timestamp/],
  ['{"dataset": "d", "blob1": 1}', /"blob1" must be a string/],
  ['{"dataset": "d", "double1": "1"}', /"double1" must be a number, "NaN"/],
  ['{"dataset": "d", "timestamp": "2026-01-01 00:00:00"}', /"timestamp" must be milliseconds/],
  ['{"dataset": "d", "timestamp": 1.5}', /"timestamp" must be/],
  ['{"dataset": "d", "timestamp": 1e300}', /"timestamp" must be/],
  ['{"dataset": "d", "_sample_interval": 0}', /"_sample_interval" must be an integer from 1/],
  [`{"dataset": "d", "index1": "${'é'.repeat(49)}"}`, /index1 may have 96 bytes, not 98/],
  [`{"dataset": "d", "blob1": "${'x'.repeat(16_001)}"}`, /all blobs together may have 16000 bytes/],
]) {
  test(`refuses a request with the point ${String(line).slice(0, 60)}, and stores none of its points`, async () => {
    const store = new RecordingStore();
    const text = `{"dataset": "d"}\n${line}\n`;
    const { status, body } = await ask('/points', { method: 'POST', headers: NDJSON, body: text, store });
    assert.equal(status, 400);
    assert.equal(body.code, 'invalid_point');
    assert.match(body.error, /** @type {RegExp} */ (message));
    assert.deepEqual(store.inserted, []);
  });
}

test('refuses points in a content type that web pages may send without a CORS preflight', async () => {
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', '']) {
    const store = new RecordingStore();
    const init = { method: 'POST', headers: { 'content-type': type }, body: '{"dataset": "d"}', store };
    const { status, body } = await ask('/points', init);
    assert.deepEqual([status, body.code], [415, 'unsupported_content_type']);
    assert.deepEqual(store.inserted, []);
  }
});

test('GET /status returns the status of the store', async () => {
  assert.deepEqual((await ask('/status')).body, STATUS);
});
