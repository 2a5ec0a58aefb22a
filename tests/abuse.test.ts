/** Revoked sandboxes, and sandboxes that check in too often. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { API_KEY, CHECK_IN_PATH, FULL, gatewayToken, MINIMAL, SANDBOX_ID } from '../harness/check-in.ts';
import { logged, refusal, startWorker } from '../harness/worker.ts';

const REVOKED = { error: 'Forbidden', code: 'revoked' };
const LIMITED = { error: 'Too many requests', code: 'rate_limited' };
const WRONG = { 'x-kiloclaw-gateway-token': gatewayToken('another') };

test('refuses exactly the revoked sandbox, and only reveals that to its own token', async (t) => {
  const worker = await startWorker({ vars: { REVOKED_SANDBOXES: ` x, ${SANDBOX_ID} ,y` } }, t);
  const refused = await worker.checkIn(FULL);
  assert.deepEqual([refused.status, await refusal(refused)], [403, REVOKED]);
  for (const sandboxId of [`${SANDBOX_ID}0`, 'sandbox-', MINIMAL.sandboxId]) {
    assert.equal((await worker.checkIn({ ...MINIMAL, sandboxId })).status, 204, sandboxId);
  }
  // Without a valid token, the sender does not learn that the sandbox is revoked.
  const stranger = await worker.checkIn(FULL, WRONG);
  assert.equal((await refusal(stranger)).code, 'wrong_gateway_token');
  const points = await worker.points(3);
  assert.ok(points.every(({ index1 }) => index1 !== SANDBOX_ID));
});

test('an array without quotes in wrangler.toml revokes its ids', async (t) => {
  const worker = await startWorker({ vars: { REVOKED_SANDBOXES: [SANDBOX_ID] } }, t);
  assert.equal((await worker.checkIn(FULL)).status, 403);
  assert.equal((await worker.checkIn(MINIMAL)).status, 204);
});

test('a JSON array revokes ids with commas and white space', async (t) => {
  const ids = ['a, b', ' c ', 'd"e', '[f]'];
  const worker = await startWorker({ vars: { REVOKED_SANDBOXES: ` ${JSON.stringify(ids)}\n` } }, t);
  for (const sandboxId of ids) {
    const refused = await worker.checkIn({ ...FULL, sandboxId });
    assert.deepEqual([refused.status, await refusal(refused)], [403, REVOKED], sandboxId);
  }
  for (const sandboxId of ['a', 'b', 'c', 'd', 'f', 'a,b']) {
    assert.equal((await worker.checkIn({ ...MINIMAL, sandboxId })).status, 204, sandboxId);
  }
});

test('an invalid JSON array refuses everybody, and the log has the reason', async (t) => {
  for (const list of ['[sandbox-1]', '["sandbox-1"', '["sandbox-1", 1]', '["sandbox-1"], "x"']) {
    const worker = await startWorker({ vars: { REVOKED_SANDBOXES: list } }, t);
    for (const body of [FULL, MINIMAL]) {
      const refused = await worker.checkIn(body);
      assert.deepEqual([refused.status, (await refusal(refused)).code], [503, 'misconfigured'], list);
    }
    await logged(worker, /REVOKED_SANDBOXES begins with \[ but is not a JSON array of strings/);
  }
});

test('a list in a form that would revoke nobody refuses everybody', async (t) => {
  for (const list of ['"sandbox-1","x"', 'sandbox-1\nx', 'sandbox-1; x', '{"sandbox-1":true}', '“sandbox-1”', '\ufeff["sandbox-1"]']) {
    const worker = await startWorker({ vars: { REVOKED_SANDBOXES: list } }, t);
    const refused = await worker.checkIn(FULL);
    assert.deepEqual([refused.status, (await refusal(refused)).code], [503, 'misconfigured'], list);
    await logged(worker, /REVOKED_SANDBOXES has an id with quotes/);
  }
});

test('a list without an id revokes nobody', async (t) => {
  const worker = await startWorker({ vars: { REVOKED_SANDBOXES: ' , ' } }, t);
  assert.equal((await worker.checkIn(FULL)).status, 204);
});

test('limits only the sandbox that checks in too often', async (t) => {
  const worker = await startWorker({ checkInLimit: 3 }, t);
  // A wrong token, key or body does not count: these checks come before the limiter.
  for (let i = 0; i < 5; i += 1) {
    assert.equal((await worker.checkIn(FULL, WRONG)).status, 403);
    assert.equal((await worker.checkIn(FULL, { authorization: 'Bearer x' })).status, 403);
    assert.equal((await worker.checkIn('{')).status, 400);
  }
  for (let i = 0; i < 3; i += 1) assert.equal((await worker.checkIn(FULL)).status, 204);
  const refused = await worker.checkIn(FULL);
  assert.deepEqual([refused.status, await refusal(refused)], [429, LIMITED]);
  assert.equal(refused.headers.get('retry-after'), '60');
  assert.equal((await worker.checkIn(MINIMAL)).status, 204);
  const points = await worker.points(4);
  assert.deepEqual(
    points.map(({ index1 }) => index1),
    [...Array(3).fill(SANDBOX_ID), MINIMAL.sandboxId],
  );
});

test('accepts and stores a check-in if the limiter fails', async (t) => {
  const MAIN = `
    import Worker from 'index.js';
    const CHECKIN_RATE_LIMITER = { limit: async () => { throw new Error('out of order'); } };
    export default {
      fetch: (request, env, ctx) =>
        Worker.fetch(request, (globalThis.env ??= { ...env, CHECKIN_RATE_LIMITER })),
    };`;
  const worker = await startWorker({ modules: { main: MAIN } }, t);
  assert.equal((await worker.checkIn(FULL)).status, 204);
  assert.equal((await worker.points(1)).length, 1);
  assert.ok(worker.logs.some(({ message }) => message.includes('rate_limiter_failed')));
});

test('answers write_failed if both limiter and write fail', async (t) => {
  const worker = await startWorker({ checkInLimit: 10, dataset: 'throws' }, t);
  const failed = await worker.checkIn(FULL);
  assert.deepEqual([failed.status, (await refusal(failed)).code], [503, 'write_failed']);
  const dryRun = await worker.fetch(`${CHECK_IN_PATH}?dry_run=1`, {
    method: 'POST',
    headers: { authorization: `Bearer ${API_KEY}`, 'x-kiloclaw-gateway-token': gatewayToken(SANDBOX_ID) },
    body: JSON.stringify(FULL),
  });
  assert.equal(dryRun.status, 204);
});
