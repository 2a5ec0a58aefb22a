import assert from 'node:assert/strict';
import { test } from 'node:test';

import { pointFromEvent } from '../ingest.js';

const EMPTY = { timestamp: '1767225600123000064', index1: [] };

/** @param {string} text */
const bytes = (text) => [...new TextEncoder().encode(text)];

test('fills absent columns with empty texts and zeros', () => {
  assert.deepEqual(pointFromEvent(EMPTY, 'visits'), {
    dataset: 'visits',
    timestampMs: 1_767_225_600_123,
    sampleInterval: 1,
    index1: '',
    blobs: Array(20).fill(''),
    doubles: Array(20).fill(0),
  });
});

test('reads every column', () => {
  /** @type {Record<string, unknown>} */
  const event = { ...EMPTY, index1: bytes('i') };
  for (let n = 1; n <= 20; n++) {
    event[`blob${n}`] = bytes(`b${n}`);
    event[`double${n}`] = n + 0.5;
  }
  const point = pointFromEvent(event, 'visits');
  assert.equal(point.index1, 'i');
  assert.deepEqual(point.blobs, Array.from({ length: 20 }, (_, i) => `b${i + 1}`));
  assert.deepEqual(point.doubles, Array.from({ length: 20 }, (_, i) => i + 1.5));
});

test("rounds the timestamp to the clock's millisecond", () => {
  const timestamp = '1795464312881999872'; // ….882 s, passed through a double
  assert.equal(pointFromEvent({ ...EMPTY, timestamp }, 'd').timestampMs, 1_795_464_312_882);
});

test('decodes UTF-8, keeps a byte order mark and replaces invalid bytes', () => {
  const event = { ...EMPTY, blob1: bytes('\uFEFFé€😀\0'), blob2: [97, 255] };
  const { blobs } = pointFromEvent(event, 'd');
  assert.equal(blobs[0], '\uFEFFé€😀\0');
  assert.equal(blobs[1], 'a\uFFFD');
});

test('reads NaN and the infinities, for which JSON has no numbers', () => {
  const event = { ...EMPTY, double1: 'NaN', double2: 'Infinity', double3: '-Infinity' };
  assert.deepEqual(pointFromEvent(event, 'd').doubles.slice(0, 4), [NaN, Infinity, -Infinity, 0]);
});

test('throws if the format of the event has changed', () => {
  assert.throws(() => pointFromEvent({ index1: [] }, 'd'), /timestamp/);
  assert.throws(() => pointFromEvent({ ...EMPTY, timestamp: 1 }, 'd'), /timestamp/);
  assert.throws(() => pointFromEvent({ ...EMPTY, blob1: 'text' }, 'd'), /bytes/);
});
