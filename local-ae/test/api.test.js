import assert from 'node:assert/strict';
import { test } from 'node:test';

import { answer } from '../api.js';

/** @import { Page, PageQuery } from '../api.js' */

/** A store that remembers what it was asked. */
class RecordingStore {
  /** @type {PageQuery[]} */
  queries = [];
  cleared = 0;

  /** @param {Page} [page] */
  constructor(page = { points: [], last: 0 }) {
    this.answer = page;
  }

  /** @param {PageQuery} query */
  page(query) {
    this.queries.push(query);
    return this.answer;
  }

  clear() {
    this.cleared += 1;
  }
}

/**
 * @param {string} path
 * @param {{ method?: string, host?: string, store?: RecordingStore }} [options]
 */
async function ask(path, { method = 'GET', host = '127.0.0.1:9310', store } = {}) {
  const request = new Request(`http://${host}${path}`, { method });
  const response = answer(request, store ?? new RecordingStore());
  const text = await response.text();
  return {
    status: response.status,
    allow: response.headers.get('allow'),
    type: response.headers.get('content-type'),
    body: text === '' ? undefined : JSON.parse(text),
  };
}

test('reads with the defaults', async () => {
  const store = new RecordingStore();
  const { status, type, body } = await ask('/points', { store });
  assert.equal(status, 200);
  assert.match(String(type), /^application\/json/);
  assert.deepEqual(body, { points: [], last: 0 });
  assert.deepEqual(store.queries, [
    { after: 0, limit: 1000, dataset: undefined, index: undefined },
  ]);
});

test('reads with every parameter', async () => {
  const store = new RecordingStore();
  await ask('/points?after=7&limit=10000&dataset=a%20b&index=', { store });
  assert.deepEqual(store.queries, [{ after: 7, limit: 10_000, dataset: 'a b', index: '' }]);
});

test('shows a whole point', async () => {
  const blobs = Array.from({ length: 20 }, (_, i) => `b${i}`);
  const doubles = [NaN, Infinity, -Infinity, 0.5, ...Array(16).fill(0)];
  const timestampMs = Date.UTC(2026, 0, 1, 0, 0, 0, 123);
  const point = { id: 3, dataset: 'd', timestampMs, index1: 'i', blobs, doubles };
  const { body } = await ask('/points', {
    store: new RecordingStore({ points: [point], last: 9 }),
  });
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

test('resets', async () => {
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
  test(`refuses ?${query} and says what is allowed`, async () => {
    const store = new RecordingStore();
    const { status, body } = await ask(`/points?${query}`, { store });
    assert.equal(status, 400);
    assert.equal(body.code, 'invalid_parameter');
    assert.equal(body.parameter, parameter);
    assert.match(body.error, /** @type {RegExp} */ (allowed));
    assert.deepEqual(store.queries, []);
  });
}

test('does not remove everything when asked to remove a part', async () => {
  const store = new RecordingStore();
  const { status, body } = await ask('/points?dataset=a', { method: 'DELETE', store });
  assert.equal(status, 400);
  assert.equal(body.parameter, 'dataset');
  assert.equal(store.cleared, 0);
});

test('answers 404 for an unknown path', async () => {
  for (const path of ['/', '/points/', '/constructor', '/client/v4']) {
    const { status, body } = await ask(path);
    assert.equal(status, 404, path);
    assert.equal(body.code, 'not_found');
  }
});

test('answers 405 for another method and lists the allowed ones', async () => {
  for (const method of ['POST', 'PUT', 'OPTIONS']) {
    const { status, allow, body } = await ask('/points', { method });
    assert.equal(status, 405, method);
    assert.equal(allow, 'GET, DELETE');
    assert.equal(body.code, 'method_not_allowed');
  }
});

test('answers no host but the loopback ones', async () => {
  for (const host of ['127.0.0.1', 'localhost:9310', '[::1]:1', 'LOCALHOST']) {
    assert.equal((await ask('/points', { host })).status, 200, host);
  }
  for (const host of [
    'rebound.example',
    '127.0.0.1.example',
    'localhost.example:9310',
    '0.0.0.0',
    '192.168.0.1',
    '[::]',
  ]) {
    const store = new RecordingStore();
    const { status, body } = await ask('/points', { method: 'DELETE', host, store });
    assert.equal(status, 403, host);
    assert.equal(body.code, 'host_not_local');
    assert.equal(store.cleared, 0);
  }
});
