/** A panic ends no check-in. Runs the build with a route that panics. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { FULL } from '../harness/check-in.ts';
import { refusal, startWorker } from '../harness/worker.ts';

test('a panic in one request does not poison later ones', async (t) => {
  const worker = await startWorker({ build: 'panic' }, t);
  const wrongKey = async () => (await refusal(await worker.checkIn(FULL, { authorization: 'Bearer another-key' }))).code;
  for (let round = 1; round <= 3; round += 1) {
    assert.equal((await worker.checkIn(FULL)).status, 204, 'before the panic');
    assert.equal((await worker.fetch('/panic')).status, 500);
    assert.equal((await worker.checkIn(FULL)).status, 204, 'right after the panic');
    assert.equal((await worker.fetch('/panic')).status, 500);
    assert.equal(await wrongKey(), 'wrong_api_key', 'right after another');
    assert.equal((await worker.points(2 * round)).length, 2 * round);
  }
  const log = JSON.stringify(worker.logs);
  assert.match(log, /panicked at src.lib\.rs:\d+:\d+:\\+nrequested/, 'the log has message and location');
});

test('a panic among concurrent check-ins costs none of them', async (t) => {
  const worker = await startWorker({ build: 'panic' }, t);
  const statuses = await Promise.all(
    Array.from({ length: 60 }, async (_, i) => {
      const response = await (i === 20 ? worker.fetch('/panic') : worker.checkIn(FULL));
      await response.text();
      return response.status;
    }),
  );
  assert.deepEqual(statuses, Array.from({ length: 60 }, (_, i) => (i === 20 ? 500 : 204)));
  assert.equal((await worker.points(59)).length, 59, 'accepted means stored');
});

test('the deployed build has no such route', async (t) => {
  const worker = await startWorker({}, t);
  assert.equal((await worker.fetch('/panic')).status, 404);
});
