/**
 * The Worker in place of an existing endpoint, without a change on any machine (docs/swap.md): tokens as API keys, disk
 * usage, large bodies, ids, and forwarding to the existing Worker.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import { test, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { SignJWT } from 'jose';

import { API_KEY, CHECK_IN_PATH, credentials, FULL, JWT_SECRET, MAX_BODY_BYTES, MINIMAL } from '../harness/check-in.ts';
import { listen } from '../harness/context.ts';
import { mint } from '../harness/token.ts';
import { logged, refusal, startWorker, type Options } from '../harness/worker.ts';
import { until } from './support/until.ts';

const MACHINES = 'a secret of machines of 32 bytes.';
const OLD = 'an older secret of them: 32 bytes';
const VARS = { KILOCODE_API_KEY_JWT_SECRET: `${MACHINES}, ${OLD}` };
const WRONG_KEY = [403, 'wrong_api_key'];

/** The body of the existing client: `""` for unknown values, null for the disk, and sometimes telemetry. */
const EXISTING = {
  ...FULL,
  machineId: '',
  lastExitReason: '',
  diskUsedBytes: 5_368_709_120,
  diskTotalBytes: 10_737_418_240,
  productTelemetry: { openclawVersion: '2026.3.13', enabledChannels: ['a'], models: 'x'.repeat(40_000) },
};

interface Claims {
  readonly [name: string]: unknown;
}

const now = () => Math.floor(Date.now() / 1_000);

/** A user's token, as the existing backend mints it; `null` leaves a claim out. */
function key(claims: Claims = {}, secret = MACHINES, header: { alg: string; crit?: string[]; x?: number } = { alg: 'HS256' }) {
  const all = { kiloUserId: 'user-1', apiTokenPepper: null, version: 3, env: 'production', iat: now(), exp: now() + 60, ...claims };
  const payload = Object.fromEntries(Object.entries(all).filter(([name, value]) => value !== null || name === 'apiTokenPepper'));
  return new SignJWT(payload).setProtectedHeader(header).sign(new TextEncoder().encode(secret), { crit: { x: true } });
}

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

test('with KILOCODE_API_KEY_JWT_SECRET, a valid token is an API key as well', async (t) => {
  const worker = await startWorker({ vars: VARS }, t);
  const answer = async (headers: Record<string, string>) => {
    const response = await worker.checkIn(EXISTING, headers);
    return response.status === 204 ? 204 : [response.status, (await refusal(response)).code];
  };
  assert.equal(await answer({}), 204, 'the plain key');
  for (const token of [await key(), await key({}, OLD), await key({ exp: now() + 1e9 }), await key({ sub: 'a', aud: 'any', iss: 'any' })]) {
    assert.equal(await answer(bearer(token)), 204, token);
  }
  const [{ index1, blobs, doubles } = assert.fail()] = (await worker.points(5)).slice(-1);
  assert.equal(index1, FULL.sandboxId);
  assert.deepEqual(blobs.slice(0, 9), ['sandbox-1', '1.2.3', 'abc1234', '2026.3.13', 'def5678', 'running', '', '', '']);
  assert.deepEqual(doubles.slice(0, 9), [2, 7, 3600.5, 0.42, 123_456_789_012, 1_000, 5_368_709_120, 10_737_418_240, 0]);

  const [header, payload, signature] = (await key()).split('.');
  const none = Buffer.from('{"alg":"none"}').toString('base64url');
  for (const [token, why] of [
    [await key({}, 'another secret: also of 32 bytes.'), 'not signed with an accepted key'],
    [await key({ exp: now() - 60 }), 'expired'],
    [await key({ exp: null }), 'exp is required'],
    [await key({ nbf: now() + 60 }), 'not valid yet'],
    [await key({}, MACHINES, { alg: 'HS512' }), 'the algorithm is not the accepted one'],
    [await key({}, MACHINES, { alg: 'HS256', crit: ['x'], x: 1 }), 'the header has crit'],
    [`${none}.${payload}.`, 'the algorithm is not the accepted one'],
    [`${header}.${payload}.${signature!.slice(0, -4)}AAAA`, 'not signed with an accepted key'],
    [`${header}.${payload}`, undefined],
    [await mint({ sub: 'ops', ttl: 60 }, { JWT_SECRET }), 'not signed with an accepted key'],
    ['a.b.c', undefined],
    [await key({ padding: 'x'.repeat(4_096) }), undefined],
    ...(await Promise.all(
      [{ sub: 5 }, { sub: {} }, { iss: 5 }, { iss: ['any'] }, { aud: 5 }, { aud: {} }, { aud: ['any', 5] }, { jti: 5 }].map(
        async (claims) => [await key(claims), 'a claim is missing or has the wrong type'] as const,
      ),
    )),
  ] as const) {
    assert.deepEqual(await answer(bearer(token)), WRONG_KEY, why ?? token);
    if (why !== undefined) await logged(worker, new RegExp(why));
  }
  const log = JSON.stringify(worker.logs);
  for (const secret of [MACHINES, OLD, payload!, signature!]) assert.ok(!log.includes(secret), 'no secret is logged');

  const absence = await worker.fetch('/api/controller/absence', {
    method: 'POST',
    headers: { ...credentials('sandbox-1'), ...bearer(await key()) },
    body: JSON.stringify({ sandboxId: 'sandbox-1', forSeconds: 60 }),
  });
  assert.equal(absence.status, 204, 'a machine plans its absence with it');
});

test('refuses a machine\'s token on the operators\' API', async (t) => {
  const worker = await startWorker({ vars: VARS }, t);
  for (const claims of [{}, { aud: 'kiloclaw-telemetry', sub: 'ops', scope: 'absences:write' }]) {
    const response = await worker.fetch('/api/whoami', { headers: bearer(await key(claims)) });
    assert.deepEqual([response.status, (await refusal(response)).code], [401, 'invalid_token']);
  }
});

test('checks issuer and audience of machines\' tokens if they are set', async (t) => {
  const vars = { ...VARS, KILOCODE_API_KEY_JWT_ISSUER: 'backend', KILOCODE_API_KEY_JWT_AUDIENCE: 'check-ins' };
  const worker = await startWorker({ vars }, t);
  const status = async (claims: Claims) => (await worker.checkIn(FULL, bearer(await key(claims)))).status;
  assert.equal(await status({ iss: 'backend', aud: 'check-ins' }), 204);
  assert.equal(await status({ iss: 'backend', aud: ['other', 'check-ins'] }), 204);
  for (const claims of [{}, { iss: 'backend' }, { aud: 'check-ins' }, { iss: 'other', aud: 'check-ins' }, { iss: 'backend', aud: 'kiloclaw-telemetry' }]) {
    assert.equal(await status(claims), 403, JSON.stringify(claims));
  }
});

test('without the secret, a token is a wrong key', async (t) => {
  const worker = await startWorker({}, t);
  assert.equal((await worker.checkIn(FULL, bearer(await key()))).status, 403);
});

test('refuses everybody if machines share a secret with operators, even padded, or with backends', async (t) => {
  for (const vars of [{ JWT_SECRET: `${MACHINES}\0` }, { INTERNAL_API_SECRET: `other,${OLD}` }]) {
    const worker = await startWorker({ vars: { ...VARS, ...vars } }, t);
    assert.equal((await worker.checkIn(FULL)).status, 503);
    assert.equal((await worker.fetch('/api/whoami', { headers: { 'x-internal-api-key': OLD } })).status, 503);
  }
});

test('a secret in both lists of tokens disables both', async (t) => {
  const shared = { KILOCODE_API_KEY_JWT_SECRET: `${MACHINES},${JWT_SECRET}`, JWT_SECRET: `another secret of 32 bytes at least,${JWT_SECRET}` };
  const worker = await startWorker({ vars: shared }, t);
  const token = await mint({ sub: 'ops', ttl: 60 }, { JWT_SECRET });
  for (const response of [await worker.checkIn(FULL), await worker.fetch('/api/whoami', { headers: bearer(token) })]) {
    assert.deepEqual([response.status, (await refusal(response)).code], [503, 'misconfigured']);
  }
  const log = await logged(worker, /KILOCODE_API_KEY_JWT_SECRET has a value of JWT_SECRET or INTERNAL_API_SECRET/);
  assert.ok(!log.includes(JWT_SECRET) && !log.includes(MACHINES));
});

test('warns once about an API key that operators have as well', async (t) => {
  for (const vars of [{ JWT_SECRET: API_KEY }, { INTERNAL_API_SECRET: `another-key-of-it, ${API_KEY}` }]) {
    const worker = await startWorker({ vars }, t);
    const warnings = () => worker.logs.filter(({ message }) => message.includes('"shared_secret"'));
    for (let i = 0; i < 3; i += 1) await worker.fetch('/api/whoami');
    const log = await logged(worker, /KILOCODE_API_KEY has a value of JWT_SECRET or INTERNAL_API_SECRET/);
    assert.ok(!log.includes(API_KEY));
    await logged(worker, /missing_token/);
    assert.equal(warnings().length, 1);
  }
  const separate = await startWorker({ vars: { INTERNAL_API_SECRET: `${API_KEY}-of-operators` } }, t);
  await separate.fetch('/api/whoami');
  assert.doesNotMatch(await logged(separate, /missing_token/), /shared_secret/);
});

test('refuses a secret that is a JSON array, which would be a secret nobody knows', async (t) => {
  const array = JSON.stringify([MACHINES, OLD]);
  const arrays = [array, JSON.stringify([MACHINES, OLD], null, 1), ` ${array} `, `['${OLD}']`];
  for (const [name, path] of [
    ['KILOCODE_API_KEY', CHECK_IN_PATH],
    ['GATEWAY_TOKEN_SECRET', CHECK_IN_PATH],
    ['KILOCODE_API_KEY_JWT_SECRET', CHECK_IN_PATH],
    ['JWT_SECRET', '/api/whoami'],
    ['INTERNAL_API_SECRET', '/api/whoami'],
  ] as const) {
    for (const secret of name === 'KILOCODE_API_KEY' ? arrays : [array]) {
      const worker = await startWorker({ vars: { [name]: secret } }, t);
      const response = path === CHECK_IN_PATH ? await worker.checkIn(FULL) : await worker.fetch(path);
      assert.deepEqual([response.status, (await refusal(response)).code], [503, 'misconfigured'], `${name} ${secret}`);
      const log = await logged(worker, new RegExp(`${name} is a JSON array: separate values by commas`));
      assert.ok(!log.includes(MACHINES));
    }
  }
});

/** A Worker that answers with the points that the real one writes. */
const POINTS = `
  import Worker from 'index.js';
  const points = [];
  const dataset = { writeDataPoint: (point) => void points.push(point) };
  export default {
    fetch(request, env, ctx) {
      if (request.url.endsWith('/points')) return Response.json(points.splice(0));
      this.env ??= { ...env, KILOCLAW_CONTROLLER_AE: dataset };
      return Worker.fetch(request, this.env);
    },
  };`;

test('stores disk figures in double7 and double8, and leaves other points unchanged', async (t) => {
  const worker = await startWorker({ modules: { main: POINTS } }, t);
  const written = async (disk: object) => {
    assert.equal((await worker.checkIn({ ...MINIMAL, ...disk })).status, 204, JSON.stringify(disk));
    const [point] = (await (await worker.fetch('/points')).json()) as { blobs: string[]; doubles: number[]; indexes: string[] }[];
    assert.deepEqual([point!.indexes.length, point!.blobs.length], [1, 9]);
    return point!.doubles.slice(6);
  };
  for (const [disk, doubles] of [
    [{}, []],
    [{ diskUsedBytes: null, diskTotalBytes: null }, []],
    [{ diskUsedBytes: 1, diskTotalBytes: 2 }, [1, 2]],
    [{ diskUsedBytes: 0, diskTotalBytes: 2 ** 53 }, [0, 2 ** 53]],
    [{ diskUsedBytes: 3 }, [3, 0]],
    [{ diskUsedBytes: null, diskTotalBytes: 4 }, [0, 4]],
  ] as const) {
    assert.deepEqual(await written(disk), doubles, JSON.stringify(disk));
  }
  for (const field of ['diskUsedBytes', 'diskTotalBytes']) {
    for (const value of [-1, 0.5, '1', true, [], 2 ** 53 + 2]) {
      const response = await worker.checkIn({ ...MINIMAL, [field]: value });
      assert.deepEqual(await response.json(), {
        error: 'Invalid body',
        code: 'invalid_field',
        field,
        expected: 'a whole number from 0 to 9007199254740992, or null, or left out',
      });
    }
  }
});

test('every row of the table of ids in docs/swap.md is true', async (t) => {
  const worker = await startWorker({}, t);
  const [, table = ''] = /<!-- ids -->(.*?)<!-- \/ids -->/s.exec(readFileSync('docs/swap.md', 'utf8')) ?? [];
  const rows = [...table.matchAll(/^\| `([^`]+)`.*\| (takes|refuses: 400)[^|]*\|$/gm)];
  assert.equal(rows.length, 9);
  for (const [, sandboxId, does] of rows) {
    const { status } = await worker.checkIn({ ...FULL, sandboxId });
    assert.equal(status, does === 'takes' ? 204 : 400, sandboxId);
  }
});

interface Forwarded {
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** Starts the Worker with another one behind it, whose `fetch` has this body and can `record(request)` for the test. */
async function startBoth(t: TestContext, fetchBody: string, options: Options = {}) {
  const received: Forwarded[] = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    received.push({ url: String(request.headers['x-url']), headers: request.headers, body });
    response.end();
  });
  const port = await listen(t, server);
  const forward = `
    const record = async (request) => fetch('http://127.0.0.1:${port}/', {
      method: 'POST',
      headers: [...request.headers, ['x-url', request.method + ' ' + new URL(request.url).pathname]],
      body: await request.text(),
    });
    export default { async fetch(request) { ${fetchBody} } };`;
  return { received, worker: await startWorker({ ...options, forward }, t) };
}

const ACCEPTS = 'await record(request); return new Response(null, { status: 204 });';

test('forwards every accepted check-in unchanged, and no other request', async (t) => {
  const { received, worker } = await startBoth(t, ACCEPTS, { checkInLimit: 3 });
  const send = async (body: object, headers = {}) => (await worker.checkIn({ ...body }, headers)).status;
  assert.equal(await send(FULL, { authorization: 'Bearer wrong' }), 403);
  assert.equal(await send(FULL, { 'x-kiloclaw-gateway-token': '0' }), 403);
  assert.equal(await send({ ...FULL, loadAvg5m: -1 }), 400);
  const dry = await worker.fetch(`${CHECK_IN_PATH}?dry_run=1`, { method: 'POST', headers: credentials('sandbox-1'), body: JSON.stringify(FULL) });
  assert.equal(dry.status, 204);
  assert.equal((await worker.fetch('/health')).status, 200);

  const other = { ...FULL, sandboxId: 'é', machineId: '🦀'.repeat(10) };
  assert.equal(await send(other, { 'fly-region': 'ams' }), 204);
  const chunked = new Blob([JSON.stringify({ ...other, bandwidthBytesIn: 1 })]).stream();
  const chunkedHeaders = { ...credentials('é'), 'fly-region': 'ams' };
  assert.equal((await worker.checkIn(chunked, chunkedHeaders)).status, 204, 'without a length');
  await until('both are forwarded', () => received.length === 2);
  const [first, second] = received;
  assert.equal(first!.url, `POST ${CHECK_IN_PATH}`);
  assert.deepEqual(JSON.parse(first!.body), other);
  assert.deepEqual(JSON.parse(second!.body), { ...other, bandwidthBytesIn: 1 });
  const { authorization, 'x-kiloclaw-gateway-token': token, 'fly-region': region } = first!.headers;
  assert.deepEqual([authorization, token, region], [`Bearer ${API_KEY}`, credentials('é')['x-kiloclaw-gateway-token'], 'ams']);

  for (let i = 0; i < 5; i += 1) await send({ ...FULL, sandboxId: 'often' });
  await until('those within the limit are forwarded', () => received.length >= 5);
  await delay(300);
  assert.equal(received.length, 5, 'those beyond it are not');
  assert.doesNotMatch(JSON.stringify(worker.logs), /forward_failed/);
});

test('forwards no content type that the machine did not send', async (t) => {
  const { received, worker } = await startBoth(t, `
    const type = request.headers.get('content-type');
    await record(new Request(request, { headers: { ...Object.fromEntries(request.headers), 'x-type': String(type) } }));
    return new Response(null, { status: 204 });`);
  for (const [body, type] of [[new TextEncoder().encode(JSON.stringify(FULL)), 'null'], [JSON.stringify(FULL), 'text/plain;charset=UTF-8']] as const) {
    const response = await worker.fetch(CHECK_IN_PATH, { method: 'POST', headers: credentials('sandbox-1'), body });
    assert.equal(response.status, 204);
    await until('it is forwarded', () => received.length > 0);
    assert.equal(received.pop()!.headers['x-type'], type);
  }
});

test('forwards no check-in twice, even if the Worker is bound to itself', async (t) => {
  const { received, worker } = await startBoth(t, ACCEPTS);
  assert.equal((await worker.checkIn(FULL)).status, 204);
  await until('it is forwarded', () => received.length === 1);
  assert.equal(received[0]!.headers['x-kiloclaw-forwarded'], '1');
  assert.equal((await worker.checkIn(FULL, { 'x-kiloclaw-forwarded': '1' })).status, 204);
  await delay(300);
  assert.equal(received.length, 1);
});

for (const [what, fetchBody, detail] of [
  ['throws', 'throw new Error("a secret");', 'cannot be reached, or threw'],
  ['refuses', 'return new Response("a secret", { status: 500 });', 'answered 500'],
  ['redirects', 'return Response.redirect("https://example.com/", 302);', 'answered 302'],
  ['answers nothing', '', 'cannot be reached, or threw'],
] as const) {
  test(`a target Worker that ${what} affects no check-in, and the log counts its failures once a minute`, async (t) => {
    const { worker } = await startBoth(t, fetchBody);
    for (let i = 0; i < 20; i += 1) assert.equal((await worker.checkIn(FULL)).status, 204);
    assert.equal((await worker.points(20)).length, 20);
    const log = await logged(worker, new RegExp(`FORWARD: ${detail}`));
    assert.equal(log.split('forward_failed').length, 2, 'one line');
    assert.ok(!log.includes('a secret'));
  });
}

test('a missing target Worker affects no check-in', async (t) => {
  const worker = await startWorker({ forward: 'export default {};' }, t);
  for (let i = 0; i < 5; i += 1) assert.equal((await worker.checkIn(FULL)).status, 204);
  await logged(worker, /forward_failed/);
});

test('a target Worker that never answers delays no check-in, and gets at most 200 at a time', async (t) => {
  const { received, worker } = await startBoth(t, 'await record(request); await new Promise(() => setTimeout(() => {}, 60_000));');
  const started = Date.now();
  for (let i = 0; i < 250; i += 1) assert.equal((await worker.checkIn(FULL)).status, 204);
  assert.ok(Date.now() - started < 10_000, 'before any of them times out');
  await logged(worker, /"detail\\*":\\*"FORWARD: (too many at a time|no answer within 10 s)/);
  assert.ok(received.length <= 200, `${received.length} at a time`);
  assert.equal((await worker.points(250)).length, 250);
});

test('forwards a body of 64 KiB completely', async (t) => {
  const { received, worker } = await startBoth(t, ACCEPTS);
  const rest = MAX_BODY_BYTES - JSON.stringify({ ...FULL, models: '' }).length;
  const body = { ...FULL, models: 'x'.repeat(rest) };
  assert.equal((await worker.checkIn(body)).status, 204);
  await until('it is forwarded', () => received.length === 1);
  assert.deepEqual(JSON.parse(received[0]!.body), body);
});
