/** The status table of the check-in, row by row and in order, with its log lines. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { API_KEY, CHECK_IN_PATH, credentials, FULL, gatewayToken, MAX_BODY_BYTES } from '../harness/check-in.ts';
import { refusal, startWorker, type Options, type Worker } from '../harness/worker.ts';

const worker = await startWorker();

async function assertRefused(
  response: Response,
  status: number,
  body: { error: string; code: string; field?: string; expected?: string },
  headers: Record<string, string> = {},
) {
  assert.deepEqual({ status: response.status, body: await refusal(response) }, { status, body });
  assert.equal(response.headers.get('content-type'), 'application/json');
  for (const name of ['allow', 'www-authenticate', 'retry-after']) {
    assert.equal(response.headers.get(name), headers[name] ?? null, name);
  }
}

const BEARER = { 'www-authenticate': 'Bearer' };
const RETRY = { 'retry-after': '30' };
const NO_AUTHORIZATION = { error: 'Unauthorized', code: 'missing_authorization' };
const NOT_BEARER = { error: 'Unauthorized', code: 'not_a_bearer_token' };
const NO_TOKEN = { error: 'Unauthorized', code: 'missing_gateway_token' };
const WRONG_KEY = { error: 'Forbidden', code: 'wrong_api_key' };
const WRONG_TOKEN = { error: 'Forbidden', code: 'wrong_gateway_token' };
const MISCONFIGURED = { error: 'Configuration error', code: 'misconfigured' };

test('refuses a check-in without either credential header', async () => {
  const without = (name: string) => worker.checkIn(FULL, { [name]: undefined });
  await assertRefused(await without('authorization'), 401, NO_AUTHORIZATION, BEARER);
  await assertRefused(await without('x-kiloclaw-gateway-token'), 401, NO_TOKEN, BEARER);
  const empty = (name: string) => worker.checkIn(FULL, { [name]: '' });
  await assertRefused(await empty('authorization'), 401, NO_AUTHORIZATION, BEARER);
  await assertRefused(await empty('x-kiloclaw-gateway-token'), 401, NO_TOKEN, BEARER);
});

test('refuses every scheme but Bearer, with any key', async () => {
  for (const authorization of [`Basic ${API_KEY}`, API_KEY, `Bearer${API_KEY}`, 'Bearer', 'xxxxxxx']) {
    await assertRefused(await worker.checkIn(FULL, { authorization }), 401, NOT_BEARER, BEARER);
  }
});

test('accepts the scheme in any case', async () => {
  for (const scheme of ['Bearer', 'bearer', 'BEARER', 'bEaReR']) {
    const response = await worker.checkIn(FULL, { authorization: `${scheme} ${API_KEY}` });
    assert.equal(response.status, 204, scheme);
  }
});

test('refuses every wrong key', async () => {
  for (const key of [API_KEY.slice(0, -1), `${API_KEY}1`, API_KEY.toUpperCase(), 'x', `${API_KEY},`]) {
    const response = await worker.checkIn(FULL, { authorization: `Bearer ${key}` });
    await assertRefused(response, 403, WRONG_KEY);
  }
});

test('refuses a token that is for another sandbox, in upper case or truncated', async () => {
  const right = gatewayToken(FULL.sandboxId);
  for (const token of [
    gatewayToken('sandbox-2'),
    gatewayToken(FULL.sandboxId, 'another secret'),
    right.toUpperCase(),
    right.slice(0, -1),
    `${right}0`,
    'x',
  ]) {
    const response = await worker.checkIn(FULL, { 'x-kiloclaw-gateway-token': token });
    await assertRefused(response, 403, WRONG_TOKEN);
  }
});

test('accepts POST only', async () => {
  for (const method of ['GET', 'HEAD', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND']) {
    const response = await worker.fetch(CHECK_IN_PATH, { method });
    assert.equal(response.status, 405, method);
    assert.equal(response.headers.get('allow'), 'POST', method);
    if (method !== 'HEAD') {
      assert.deepEqual(await refusal(response), {
        error: 'Method not allowed',
        code: 'method_not_allowed',
      });
    }
  }
});

test('answers unknown paths with 404 in JSON', async () => {
  for (const path of ['/', '/nothing', '/health/', '/health/x', '//', '/x/api', '/ap', '/%00']) {
    await assertRefused(await worker.fetch(`${worker.url.origin}${path}`), 404, { error: 'Not found', code: 'not_found' });
  }
});

test('the health check shows version and commit to everyone', async () => {
  const response = await worker.fetch('/health');
  assert.equal(response.status, 200);
  assert.equal(response.headers.get('content-type'), 'application/json');
  const health = (await response.json()) as Record<string, string>;
  assert.deepEqual(Object.keys(health).sort(), ['commit', 'status', 'version']);
  assert.equal(health.status, 'ok');
  assert.match(health.version, /^\d+\.\d+\.\d+$/);
  assert.match(health.commit, /^([0-9a-f]{12}|unknown)$/);
  assert.equal((await worker.fetch('/health', { method: 'HEAD' })).status, 200);
  await assertRefused(
    await worker.fetch('/health', { method: 'POST' }),
    405,
    { error: 'Method not allowed', code: 'method_not_allowed' },
    { allow: 'GET, HEAD' },
  );
});

test('checks in the order of the contract', async (t) => {
  const wrongKey = { authorization: 'Bearer wrong' };
  const wrongToken = { 'x-kiloclaw-gateway-token': gatewayToken('another') };
  const status = async (response: Response) => `${response.status} ${(await refusal(response)).code}`;
  const unset = await startWorker({ vars: { KILOCODE_API_KEY: undefined } }, t);
  const large = 'x'.repeat(MAX_BODY_BYTES + 1);

  const none = { authorization: undefined };
  assert.equal(await status(await unset.checkIn(large, none)), '401 missing_authorization');
  assert.equal(await status(await unset.checkIn(large, wrongKey)), '503 misconfigured');
  assert.equal(await status(await worker.checkIn(large, wrongKey)), '403 wrong_api_key');
  assert.equal(await status(await worker.checkIn(large, wrongToken)), '413 body_too_large');
  assert.equal(await status(await worker.checkIn('{', wrongToken)), '400 not_json');
  const throwing = await startWorker({ dataset: 'throws' }, t);
  assert.equal(await status(await throwing.checkIn(FULL, wrongToken)), '403 wrong_gateway_token');
  assert.equal(await status(await throwing.checkIn(FULL)), '503 write_failed');
});

test('answers 503 and logs the name of a missing secret or dataset', async (t) => {
  const broken: [string, Options][] = [
    ['KILOCLAW_CONTROLLER_AE', { dataset: 'missing' }],
    ...['KILOCODE_API_KEY', 'GATEWAY_TOKEN_SECRET'].flatMap((name) =>
      [undefined, '', ' ', ' , '].map(
        (value): [string, Options] => [name, { vars: { [name]: value } }],
      ),
    ),
  ];
  for (const [name, options] of broken) {
    const worker = await startWorker(options, t);
    await assertRefused(await worker.checkIn(FULL), 503, MISCONFIGURED, RETRY);
    assert.deepEqual(await onlyLog(worker), {
      status: 503,
      code: 'misconfigured',
      detail: `${name} is missing or empty`,
    });
    assert.equal((await worker.fetch('/health')).status, 200);
  }
});

test('answers 503 and logs the reason if the dataset throws', async (t) => {
  const worker = await startWorker({ dataset: 'throws' }, t);
  const failed = { error: 'Write failed', code: 'write_failed' };
  await assertRefused(await worker.checkIn(FULL), 503, failed, RETRY);
  const { detail, ...line } = await onlyLog(worker);
  assert.deepEqual(line, { status: 503, code: 'write_failed', sandboxId: FULL.sandboxId });
  assert.match(String(detail), /writeDataPoint/);
});

test('accepts every value of a rotation list', async (t) => {
  const lists = { KILOCODE_API_KEY: ' new,old ,', GATEWAY_TOKEN_SECRET: 'secret-2,\nsecret-1\n' };
  const worker = await startWorker({ vars: lists }, t);
  const id = FULL.sandboxId;
  for (const key of ['new', 'old']) {
    for (const secret of ['secret-1', 'secret-2']) {
      const headers = {
        authorization: `Bearer ${key}`,
        'x-kiloclaw-gateway-token': gatewayToken(id, secret),
      };
      assert.equal((await worker.checkIn(FULL, headers)).status, 204);
    }
  }
  const token = { 'x-kiloclaw-gateway-token': gatewayToken(id, 'secret-1') };
  for (const key of ['new,old', ',', ' ']) {
    const response = await worker.checkIn(FULL, { ...token, authorization: `Bearer ${key}` });
    assert.ok([401, 403].includes(response.status), `${key}: ${response.status}`);
  }
  const joined = { ...credentials(id, 'new'), 'x-kiloclaw-gateway-token': gatewayToken(id, 'secret-2,secret-1') };
  await assertRefused(await worker.checkIn(FULL, joined), 403, WRONG_TOKEN);
});

test('a refusal logs one line without a secret; an accepted check-in logs nothing', async (t) => {
  const worker = await startWorker({}, t);
  assert.equal((await worker.checkIn(FULL)).status, 204);

  const wrong = { 'x-kiloclaw-gateway-token': gatewayToken('another') };
  assert.equal((await worker.checkIn(FULL, wrong)).status, 403);
  assert.deepEqual(await onlyLog(worker), {
    status: 403,
    code: 'wrong_gateway_token',
    sandboxId: FULL.sandboxId,
  });

  await worker.checkIn({ ...FULL, loadAvg5m: -1 });
  await worker.checkIn(FULL, { authorization: 'Bearer hunter2' });
  await worker.checkIn('{"sandboxId":"hunter2"', { authorization: `Bearer ${API_KEY}` });
  const lines = await logs(worker, 4);
  assert.deepEqual(lines.slice(1), [
    { status: 400, code: 'invalid_field', detail: 'loadAvg5m' },
    { status: 403, code: 'wrong_api_key' },
    { status: 400, code: 'not_json' },
  ]);
  const text = JSON.stringify(worker.logs);
  for (const secret of [API_KEY, 'hunter2', gatewayToken('another'), gatewayToken(FULL.sandboxId)]) {
    assert.ok(!text.includes(secret), `${secret} is in the log`);
  }
});

/** Waits for exactly `count` log lines, as they arrive after the answers; returns them. */
async function logs(worker: Worker, count: number): Promise<Record<string, unknown>[]> {
  const deadline = Date.now() + 5_000;
  while (worker.logs.length < count && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.equal(worker.logs.length, count, JSON.stringify(worker.logs));
  return worker.logs.map(({ message }) => JSON.parse(message) as Record<string, unknown>);
}

const onlyLog = async (worker: Worker) => (await logs(worker, 1))[0];
