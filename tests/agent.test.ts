/** The real agent against the running Worker, and against faulty servers. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createServer, type Server } from 'node:http';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { test, type TestContext } from 'node:test';

import { freePort } from '../local-ae/support/port.js';
import { AGENT } from '../harness/agent.ts';
import { API_KEY, CHECK_IN_PATH, gatewayToken, GATEWAY_TOKEN_SECRET, MINIMAL } from '../harness/check-in.ts';
import { listen, temporaryFolder } from '../harness/context.ts';
import { startWorker } from '../harness/worker.ts';

const SANDBOX_ID = `sandbox-of-${hostname()}`;

interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the agent with only these environment variables. */
function agent(args: readonly string[], env: Record<string, string> = {}): Promise<Run> {
  return new Promise((resolve) => {
    execFile(AGENT, args, { env, timeout: 30_000 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

/** The environment of a machine that checks in at `url`. */
const machine = (url: URL | string, changes: Record<string, string> = {}) => ({
  KILOCLAW_CHECKIN_URL: new URL(CHECK_IN_PATH, url).href,
  KILOCODE_API_KEY: API_KEY,
  OPENCLAW_GATEWAY_TOKEN: gatewayToken(SANDBOX_ID),
  KILOCLAW_SANDBOX_ID: SANDBOX_ID,
  FLY_MACHINE_ID: 'machine-7',
  ...changes,
});

function assertNoSecret({ stdout, stderr }: Run) {
  for (const secret of [API_KEY, gatewayToken(SANDBOX_ID), GATEWAY_TOKEN_SECRET]) {
    assert.ok(!`${stdout}${stderr}`.includes(secret), `printed ${secret}:\n${stdout}${stderr}`);
  }
}

const serve = async (t: TestContext, server: Server) => `http://127.0.0.1:${await listen(t, server)}`;

const worker = await startWorker();
test.beforeEach(() => worker.clear());

test('stores what the agent sends', async () => {
  const run = await agent(['once'], machine(worker.url));
  assert.equal(run.code, 0, run.stderr);
  assertNoSecret(run);
  const sent = JSON.parse(/^\{.*?^\}/ms.exec(run.stdout)?.[0] ?? '') as Record<string, unknown>;
  const [point] = await worker.points(1);
  assert.equal(point.index1, SANDBOX_ID);
  assert.deepEqual(point.blobs.slice(0, 9), [
    SANDBOX_ID,
    sent.controllerVersion,
    sent.controllerCommit,
    '', // this machine has no OpenClaw
    '',
    'stopped', // there is no source of the state
    '',
    'machine-7',
    '',
  ]);
  assert.deepEqual(point.doubles.slice(0, 6), [
    sent.restartsSinceLastCheckin,
    sent.totalRestarts,
    sent.uptimeSeconds,
    sent.loadAvg5m,
    sent.bandwidthBytesIn,
    sent.bandwidthBytesOut,
  ]);
  assert.match(run.stdout, /204 No Content: accepted/);
});

test('reports the process status and the configured versions', async (t) => {
  const status = {
    state: 'running',
    pid: 1,
    uptime: 90,
    restarts: 3,
    lastExit: { code: null, signal: 'SIGTERM', at: '2026-01-01T00:00:00Z' },
  };
  let authorization: string | undefined;
  const gateway = createServer((request, response) => {
    authorization = request.headers.authorization;
    response.end(JSON.stringify(status));
  });
  const url = `${await serve(t, gateway)}/_kilo/gateway/status`;
  const env = machine(worker.url, { KILOCLAW_STATUS_URL: url });
  const flags = ['--controller-version', '9.8.7', '--controller-commit', 'c0ffee'];
  const run = await agent(['once', ...flags], env);
  assert.equal(run.code, 0, run.stderr);
  assert.equal(authorization, `Bearer ${gatewayToken(SANDBOX_ID)}`);
  const [{ blobs, doubles }] = await worker.points(1);
  assert.deepEqual([blobs[1], blobs[2], blobs[5], blobs[8]], ['9.8.7', 'c0ffee', 'running', 'signal:SIGTERM']);
  assert.deepEqual([doubles[1], doubles[2]], [3, 90]);
});

test('deltas are measured against the last accepted check-in', async (t) => {
  const status = { state: 'running', pid: 1, uptime: 1, restarts: 5, lastExit: null };
  const gateway = createServer((_, response) => response.end(JSON.stringify(status)));
  const env = machine(worker.url, {
    KILOCLAW_STATUS_URL: `${await serve(t, gateway)}/`,
    KILOCLAW_STATE_FILE: path.join(temporaryFolder(t), 'state.json'),
  });
  const restarts = async (count: number) => (await worker.points(count))[count - 1].doubles[0];

  assert.equal((await agent(['once'], env)).code, 0);
  assert.equal(await restarts(1), 0, 'there is no previous check-in');
  status.restarts = 8;
  assert.equal((await agent(['once'], { ...env, KILOCODE_API_KEY: 'another-key' })).code, 77);
  status.restarts = 9;
  assert.equal((await agent(['once'], env)).code, 0);
  assert.equal(await restarts(2), 4, 'the restarts of a refused check-in are not lost');
  assert.equal((await agent(['once'], env)).code, 0);
  assert.equal(await restarts(3), 0, 'and not reported twice');
});

test('prints a refusal with its code and a hint, and exits 77', async () => {
  const refusals: [Record<string, string>, string, string][] = [
    [{ KILOCODE_API_KEY: 'another-key' }, 'wrong_api_key', 'KILOCODE_API_KEY'],
    [{ OPENCLAW_GATEWAY_TOKEN: 'a'.repeat(64) }, 'wrong_gateway_token', 'OPENCLAW_GATEWAY_TOKEN'],
    [{ KILOCLAW_CHECKIN_URL: new URL('/nowhere', worker.url).href }, 'not_found', 'KILOCLAW_CHECKIN_URL'],
  ];
  for (const [change, code, hint] of refusals) {
    const run = await agent(['once'], machine(worker.url, change));
    assert.equal(run.code, 77, run.stderr);
    assert.match(`${run.stdout}${run.stderr}`, new RegExp(`${code}[^]*${hint}`));
    assertNoSecret(run);
  }
});

test('exits 69 if the server answers 500, hangs or is absent', async (t) => {
  const broken = await serve(t, createServer((_, response) => void response.writeHead(500).end()));
  const hanging = await serve(t, createServer(() => {}));
  const nowhere = `http://127.0.0.1:${await freePort()}`;
  for (const [url, reason] of [[broken, '500'], [hanging, 'no answer within 1 s'], [nowhere, 'refused']]) {
    const run = await agent(['once', '--timeout', '1'], machine(url));
    assert.equal(run.code, 69, `${reason}: ${run.stdout}${run.stderr}`);
    assert.match(`${run.stdout}${run.stderr}`, new RegExp(reason, 'i'));
    assertNoSecret(run);
  }
});

test('names a missing setting and exits 64', async () => {
  for (const name of Object.keys(machine(worker.url))) {
    const { [name]: _, ...env } = machine(worker.url) as Record<string, string>;
    const run = await agent(['once'], env);
    if (name === 'FLY_MACHINE_ID') {
      assert.equal(run.code, 0, 'optional');
      continue;
    }
    assert.equal(run.code, 64, name);
    assert.match(run.stderr, new RegExp(name));
    assertNoSecret(run);
  }
});

test('a dry run prints a body that the Worker accepts, and sends nothing', async () => {
  const dry = await agent(['once', '--dry-run'], { KILOCLAW_SANDBOX_ID: SANDBOX_ID });
  assert.equal(dry.code, 0, dry.stderr);
  const body = JSON.parse(dry.stdout) as Record<string, unknown>;
  assert.equal((await worker.checkIn(body)).status, 204);
  assert.equal((await worker.points(1)).length, 1);
});

test('derives the gateway token that the Worker accepts', async () => {
  const { stdout, code } = await agent(['gateway-token', SANDBOX_ID], { GATEWAY_TOKEN_SECRET });
  assert.equal(code, 0);
  assert.equal(stdout, `${gatewayToken(SANDBOX_ID)}\n`);
});

test('doctor reports each fault by its code, and writes nothing', async (t) => {
  const misconfigured = await startWorker({ dataset: 'missing' }, t);
  const other = gatewayToken('another-sandbox');
  const faults: [Record<string, string>, string | undefined, string | undefined][] = [
    [{}, undefined, undefined],
    [{ KILOCODE_API_KEY: 'another-key' }, 'api_key', 'wrong_api_key'],
    [{ OPENCLAW_GATEWAY_TOKEN: 'a'.repeat(64) }, 'gateway_token', 'wrong_gateway_token'],
    [{ FLY_MACHINE_ID: 'another-sandbox', OPENCLAW_GATEWAY_TOKEN: other }, 'sandbox_id', 'wrong_sandbox_id'],
    [{ KILOCLAW_CHECKIN_URL: new URL(CHECK_IN_PATH, misconfigured.url).href }, 'server', 'misconfigured'],
    [{ KILOCLAW_CHECKIN_URL: new URL('/nowhere', worker.url).href }, 'server', 'not_the_endpoint'],
    [{ KILOCLAW_CHECKIN_URL: `http://127.0.0.1:${await freePort()}/` }, 'connection', 'connection_refused'],
  ];
  interface Check {
    readonly name: string;
    readonly status: string;
    readonly code?: string;
  }
  const openclaw = path.resolve('agent/tests/fixtures/openclaw');
  for (const [change, name, code] of faults) {
    const run = await agent(['doctor', '--json'], {
      ...machine(worker.url, change),
      KILOCLAW_OPENCLAW_COMMAND: openclaw,
      // The default folder belongs to root.
      KILOCLAW_STATE_FILE: path.join(tmpdir(), 'state-of-nobody.json'),
    });
    assertNoSecret(run);
    const { ok, checks } = JSON.parse(run.stdout) as { ok: boolean; checks: Check[] };
    const failed = checks.filter(({ status }) => status === 'failed');
    assert.deepEqual(failed.map((check) => [check.name, check.code]), code ? [[name, code]] : []);
    assert.deepEqual([ok, run.code], code ? [false, 1] : [true, 0]);
  }
  await worker.checkIn({ ...MINIMAL, sandboxId: SANDBOX_ID });
  assert.equal((await worker.points(1)).length, 1, 'doctor wrote no point');
});
