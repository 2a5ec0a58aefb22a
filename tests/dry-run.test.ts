/** The dry run: answered like the real check-in, and never written. */
import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import { CHECK_IN_PATH, credentials, FULL, gatewayToken, MAX_BODY_BYTES } from '../harness/check-in.ts';
import { refusal, startWorker, type Worker } from '../harness/worker.ts';

const worker = await startWorker();
beforeEach(() => worker.clear());

const DRY_RUN = '?dry_run=1';

interface Ask {
  readonly to?: Worker;
  readonly method?: string;
  /** These override the valid ones; `undefined` leaves one out. */
  readonly headers?: Readonly<Record<string, string | undefined>>;
  readonly body?: string;
  /** Without `content-length`. */
  readonly chunked?: boolean;
}

function ask(query: string, { to = worker, method = 'POST', headers, chunked, ...given }: Ask = {}) {
  const { body = JSON.stringify(FULL) } = given;
  const all = { ...credentials(FULL.sandboxId), ...headers };
  return to.fetch(`${CHECK_IN_PATH}${query}`, {
    method,
    headers: Object.entries(all).filter((one): one is [string, string] => one[1] !== undefined),
    ...(method === 'GET' ? {} : { body: chunked ? new Blob([body]).stream() : body }),
    ...(chunked ? { duplex: 'half' } : {}),
  } as RequestInit);
}

async function assertAccepted(response: Response, why?: string) {
  const text = await response.text();
  assert.deepEqual({ status: response.status, text }, { status: 204, text: '' }, why);
}

let sentinels = 0;

/** Asserts that nothing was stored: the next check-in is the only point. */
async function assertNothingWritten() {
  sentinels += 1;
  await assertAccepted(await worker.checkIn({ ...FULL, totalRestarts: sentinels }));
  const points = await worker.points(1);
  // double2: totalRestarts
  assert.deepEqual(points.map(({ doubles }) => doubles[1]), [sentinels]);
}

test('accepts a dry run without storing it', async () => {
  for (let i = 0; i < 3; i += 1) {
    await assertAccepted(await ask(DRY_RUN));
    await assertAccepted(await ask(DRY_RUN, { chunked: true }));
  }
  await assertNothingWritten();
  assert.deepEqual(worker.logs, [], 'an accepted check-in logs nothing');
});

test('recognizes a dry run at any position of the query and in any escaping', async () => {
  for (const query of [
    '?verbose&dry_run=1',
    '?dry_run=1&verbose',
    '?dry%5Frun=%31',
    // The first value counts.
    '?dry_run=1&dry_run=0',
    // Ends like the URL of a check-in.
    `?dry_run=1&next=${CHECK_IN_PATH}`,
  ]) {
    await assertAccepted(await ask(query), query);
  }
  await assertNothingWritten();
});

test('refuses every other value of dry_run, and stores nothing', async () => {
  for (const query of [
    '?dry_run',
    '?dry_run=',
    '?dry_run=0',
    '?dry_run=true',
    '?dry_run=false',
    '?dry_run=01',
    '?dry_run=1%20',
    '?dry_run=1?',
    '?dry_run=0&dry_run=1',
    `?dry_run=${CHECK_IN_PATH}`,
  ]) {
    const response = await ask(query);
    assert.deepEqual(
      { status: response.status, body: await refusal(response) },
      {
        status: 400,
        body: {
          error: 'Invalid query',
          code: 'invalid_query',
          field: 'dry_run',
          expected: '1, or left out',
        },
      },
      query,
    );
  }
  await assertNothingWritten();
});

test('ignores other parameters', async () => {
  const queries = ['?', '?x=1', '?&', '?dry_runs=1', '?DRY_RUN=1', '?x=dry_run=1', `?${CHECK_IN_PATH}`];
  for (const query of queries) await assertAccepted(await ask(query), query);
  assert.equal((await worker.points(queries.length)).length, queries.length);
});

test('refuses a dry run exactly like a check-in', async (t) => {
  const noKey = await startWorker({ vars: { KILOCODE_API_KEY: undefined } }, t);
  const noSecret = await startWorker({ vars: { GATEWAY_TOKEN_SECRET: '' } }, t);
  const noDataset = await startWorker({ dataset: 'missing' }, t);
  const wrongKey = { authorization: 'Bearer wrong' };
  const wrongToken = { 'x-kiloclaw-gateway-token': gatewayToken('another') };
  const large = 'x'.repeat(MAX_BODY_BYTES + 1);
  const table: [string, Ask][] = [
    ['405 method_not_allowed', { method: 'GET' }],
    ['405 method_not_allowed', { method: 'PUT', headers: { authorization: undefined } }],
    ['401 missing_authorization', { headers: { authorization: undefined }, to: noKey }],
    ['401 not_a_bearer_token', { headers: { authorization: 'Basic x' }, body: large }],
    ['401 missing_gateway_token', { headers: { 'x-kiloclaw-gateway-token': undefined } }],
    ['503 misconfigured', { to: noKey, headers: wrongKey }],
    ['503 misconfigured', { to: noSecret }],
    ['503 misconfigured', { to: noDataset }],
    ['403 wrong_api_key', { headers: wrongKey, body: large }],
    ['413 body_too_large', { headers: wrongToken, body: large }],
    ['413 body_too_large', { body: large, chunked: true }],
    ['400 not_json', { headers: wrongToken, body: '{' }],
    ['400 not_json', { body: '', chunked: true }],
    ['400 not_an_object', { body: '[]' }],
    ['400 invalid_field', { headers: wrongToken, body: JSON.stringify({ ...FULL, loadAvg5m: -1 }) }],
    ['403 wrong_gateway_token', { headers: wrongToken }],
  ];
  for (const [expected, given] of table) {
    const [plain, dry] = [await answer(await ask('', given)), await answer(await ask(DRY_RUN, given))];
    assert.equal(`${plain.status} ${plain.body.code}`, expected);
    assert.deepEqual(dry, plain, expected);
  }
  await assertNothingWritten();
});

/** An answer without its date. */
async function answer(response: Response) {
  const { date, ...headers } = Object.fromEntries(response.headers);
  return { status: response.status, headers, body: await refusal(response) };
}

test('checks the query after the key and before the body', async (t) => {
  const unset = await startWorker({ vars: { KILOCODE_API_KEY: undefined } }, t);
  const large = 'x'.repeat(MAX_BODY_BYTES + 1);
  const code = async (given: Ask) => (await refusal(await ask('?dry_run=yes', given))).code;
  const wrongKey = { authorization: 'Bearer wrong' };
  const none = { authorization: undefined };
  assert.equal(await code({ method: 'GET' }), 'method_not_allowed');
  assert.equal(await code({ headers: none, to: unset }), 'missing_authorization');
  assert.equal(await code({ headers: wrongKey, to: unset }), 'misconfigured');
  assert.equal(await code({ headers: wrongKey }), 'wrong_api_key');
  for (const body of [large, '', '{']) assert.equal(await code({ body }), 'invalid_query', body);
  const wrongToken = { 'x-kiloclaw-gateway-token': gatewayToken('another') };
  assert.equal(await code({ headers: wrongToken }), 'invalid_query');
});

test('logs a refused query with the name of its parameter, without the value', async (t) => {
  const to = await startWorker({}, t);
  assert.equal((await ask('?dry_run=hunter2', { to })).status, 400);
  const deadline = Date.now() + 5_000;
  while (to.logs.length === 0 && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.deepEqual(
    to.logs.map(({ message }) => JSON.parse(message)),
    [{ status: 400, code: 'invalid_query', detail: 'dry_run' }],
  );
});

test('a dry run does not call the dataset', async (t) => {
  const throwing = await startWorker({ dataset: 'throws' }, t);
  assert.equal((await ask('', { to: throwing })).status, 503);
  await assertAccepted(await ask(DRY_RUN, { to: throwing }));
});
