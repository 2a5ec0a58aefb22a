/** The golden data point, slot by slot. */
import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { FULL, MINIMAL } from '../harness/check-in.ts';
import { startWorker } from '../harness/worker.ts';

const worker = await startWorker();
beforeEach(() => worker.clear());

/** The only stored point, without its unused slots; asserts that these are empty. */
async function storedPoint() {
  const points = await worker.points(1);
  assert.equal(points.length, 1);
  const { dataset, index1, blobs, doubles } = points[0];
  assert.deepEqual(blobs.slice(9), Array(11).fill(''), 'blob10 to blob20 are unused');
  assert.deepEqual(doubles.slice(6), Array(14).fill(0), 'double7 to double20 are unused');
  return { dataset, index1, blobs: blobs.slice(0, 9), doubles: doubles.slice(0, 6) };
}

test('stores a full check-in, slot by slot', async () => {
  const response = await worker.checkIn(FULL, { 'fly-region': 'fra' });
  assert.equal(response.status, 204);
  assert.equal(await response.text(), '');
  assert.deepEqual(await storedPoint(), {
    dataset: 'kiloclaw_controller_telemetry',
    index1: 'sandbox-1', // sandboxId
    blobs: [
      'sandbox-1', // blob1: sandboxId
      '1.2.3', // blob2: controllerVersion
      'abc1234', // blob3: controllerCommit
      '2026.3.13', // blob4: openclawVersion
      'def5678', // blob5: openclawCommit
      'running', // blob6: supervisorState
      'fra', // blob7: the fly-region header
      'machine-1', // blob8: machineId
      'signal:SIGTERM', // blob9: lastExitReason
    ],
    doubles: [
      2, // double1: restartsSinceLastCheckin
      7, // double2: totalRestarts
      3600.5, // double3: uptimeSeconds
      0.42, // double4: loadAvg5m
      123_456_789_012, // double5: bandwidthBytesIn
      1_000, // double6: bandwidthBytesOut
    ],
  });
});

test('stores a minimal check-in with "" for missing values', async () => {
  assert.equal((await worker.checkIn(MINIMAL)).status, 204);
  assert.deepEqual(await storedPoint(), {
    dataset: 'kiloclaw_controller_telemetry',
    index1: 'sandbox-2', // sandboxId
    blobs: [
      'sandbox-2', // blob1: sandboxId
      '1', // blob2: controllerVersion
      'a', // blob3: controllerCommit
      '', // blob4: openclawVersion was null
      '', // blob5: openclawCommit was null
      'stopped', // blob6: supervisorState
      '', // blob7: there was no fly-region header
      '', // blob8: there was no machineId
      '', // blob9: there was no lastExitReason
    ],
    doubles: [0, 0, 0, 0, 0, 0],
  });
});

test('keeps UTF-8 strings at the limits intact', async () => {
  const body = {
    ...FULL,
    sandboxId: '🦀'.repeat(24), // 96 bytes
    machineId: 'é'.repeat(512), // 1,024 bytes
    lastExitReason: '\\"\u0000\ud83e\udd80',
  };
  assert.equal((await worker.checkIn(body)).status, 204);
  const { index1, blobs } = await storedPoint();
  assert.deepEqual(
    [index1, blobs[0], blobs[7], blobs[8]],
    [body.sandboxId, body.sandboxId, body.machineId, body.lastExitReason],
  );
});

test('keeps numbers exactly', async () => {
  const numbers = {
    restartsSinceLastCheckin: Number.MIN_VALUE,
    totalRestarts: 392404962.21844077,
    uptimeSeconds: 0.1 + 0.2,
    loadAvg5m: 3.9240496221844077,
    bandwidthBytesIn: Number.MAX_SAFE_INTEGER,
    bandwidthBytesOut: 2 ** 53,
  };
  assert.equal((await worker.checkIn({ ...FULL, ...numbers })).status, 204);
  assert.deepEqual((await storedPoint()).doubles, Object.values(numbers));
});

test('stores the largest possible check-in', async () => {
  const longest = 'x'.repeat(1024);
  const body = {
    ...FULL,
    sandboxId: 'x'.repeat(96),
    machineId: longest,
    controllerVersion: longest,
    controllerCommit: longest,
    openclawVersion: longest,
    openclawCommit: longest,
    supervisorState: longest,
    lastExitReason: longest,
  };
  const response = await worker.checkIn(body, { 'fly-region': 'x'.repeat(8_000) });
  assert.equal(response.status, 204);
  assert.equal((await storedPoint()).blobs[6], longest, 'the region is cut at 1,024 bytes');
});

test('writes the layout in data-point.json', async () => {
  assert.equal((await worker.checkIn(FULL, { 'fly-region': 'fra' })).status, 204);
  const { index1, blobs, doubles } = await storedPoint();
  const values: Record<string, unknown> = { ...FULL, flyRegion: 'fra' };
  const slots = layout as Record<string, string>;
  assert.equal(index1, values[slots.index1]);
  blobs.forEach((blob, i) => assert.equal(blob, values[slots[`blob${i + 1}`]]));
  doubles.forEach((double, i) => assert.equal(double, values[slots[`double${i + 1}`]]));
});
