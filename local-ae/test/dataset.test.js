import assert from 'node:assert/strict';
import { test } from 'node:test';

import makeBinding, { checkLimits } from '../dataset.js';

/** @import { DataPoint } from '../dataset.js' */

/** @param {number} length */
const list = (length) => Array.from({ length }, (_, i) => i);

/** @type {[string, DataPoint][]} */
const AT_THE_LIMIT = [
  ['1 index', { indexes: ['a'] }],
  ['an index of 96 bytes', { indexes: ['é'.repeat(48)] }],
  ['20 blobs', { blobs: list(20).map(String) }],
  [
    '16,000 bytes of blobs',
    { blobs: ['€'.repeat(5_000), new Uint8Array(1_000), null, undefined] },
  ],
  ['20 doubles', { doubles: list(20) }],
];

/** @type {[string, DataPoint, RegExp][]} */
const OVER_THE_LIMIT = [
  ['2 indexes', { indexes: ['a', 'b'] }, /number of indexes exceeds the limit of 1: 2$/],
  [
    'an index of 97 bytes',
    { indexes: [`${'é'.repeat(48)}a`] },
    /size of the index in bytes exceeds the limit of 96: 97$/,
  ],
  ['21 blobs', { blobs: list(21).map(String) }, /number of blobs exceeds the limit of 20: 21$/],
  [
    '16,001 bytes of blobs',
    { blobs: ['€'.repeat(5_000), new Uint8Array(1_001)] },
    /size of all blobs together in bytes exceeds the limit of 16000: 16001$/,
  ],
  ['21 doubles', { doubles: list(21) }, /number of doubles exceeds the limit of 20: 21$/],
];

for (const [what, point] of AT_THE_LIMIT) {
  test(`accepts ${what}`, () => checkLimits(point));
}

for (const [what, point, message] of OVER_THE_LIMIT) {
  test(`refuses ${what} with a TypeError that names the limit`, () => {
    assert.throws(() => checkLimits(point), { name: 'TypeError', message });
  });
}

test('measures the text of a value that is neither text nor bytes', () => {
  const point = { blobs: /** @type {any[]} */ ([{ toString: () => 'x'.repeat(16_001) }]) };
  assert.throws(() => checkLimits(point), /16001$/);
});

test('leaves values of the wrong type to the native binding', () => {
  checkLimits(undefined);
  checkLimits(null);
  checkLimits(/** @type {any} */ ({ indexes: 'ab', blobs: 'b'.repeat(21), doubles: 5 }));
});

test('throws after 250 points without an await between them', async () => {
  let written = 0;
  const native = { writeDataPoint: () => (written += 1) };
  const [one, other] = [makeBinding({ native }), makeBinding({ native })];
  const write = (/** @type {number} */ count) => {
    for (let i = 0; i < count; i += 1) (i % 2 ? one : other).writeDataPoint({});
  };
  write(250);
  const message = 'Analytics Engine write limit exceeded.';
  assert.throws(() => write(1), { name: 'Error', message });
  assert.equal(written, 250);
  await null; // another invocation may run here
  write(250);
  assert.equal(written, 500);
});

test('passes a point to the native binding unchanged, unless it exceeds a limit', () => {
  /** @type {unknown[]} */
  const written = [];
  const binding = makeBinding({ native: { writeDataPoint: (point) => written.push(point) } });
  const point = { indexes: ['a'], blobs: ['b'], doubles: [1] };
  assert.equal(binding.writeDataPoint(point), undefined);
  assert.throws(() => binding.writeDataPoint({ indexes: ['a', 'b'] }), TypeError);
  assert.equal(written.length, 1);
  assert.equal(written[0], point);
});
