/**
 * No secret leaks into answers, log lines, the agent's output and files, or the builds, whatever fails, and even if a
 * server echoes its input.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { parseEnv } from 'node:util';

import { mint } from '../harness/token.ts';
import { AGENT } from '../harness/agent.ts';
import { forms, Outputs } from './support/leaks.ts';
import { RUN } from '../harness/processes.ts';
import {
  AE_API_TOKEN,
  API_KEY,
  CHECK_IN_PATH,
  FULL,
  gatewayToken,
  GATEWAY_TOKEN_SECRET,
  JWT_SECRET,
} from '../harness/check-in.ts';
import { listen, temporaryFolder } from '../harness/context.ts';
import { SQL_PATH } from '../harness/store.ts';
import { startWorker, type Worker } from '../harness/worker.ts';

/** A unique secret; `odd` has characters that encodings change. */
const secret = (name: string, odd = '/+%"~') => `${name}${odd}${randomBytes(18).toString('base64url')}`;

const SECRETS = {
  'the API key': secret('api'),
  'the old API key': secret('old'),
  'a wrong API key': secret('bad'),
  'the gateway token secret': secret('gateway'),
  'the old gateway token secret': secret('elder'),
  'the JWT secret': secret('jwt'),
  'the internal key': secret('internal'),
  'a wrong internal key': secret('inside'),
  // Cloudflare's tokens have neither quotes nor backslashes, which JSON would escape.
  'the token for Analytics Engine': secret('analytics', '/+%~'),
  "the proxy's password": secret('proxy'),
  'the password in a URL': secret('url'),
};

const SANDBOX = 'sandbox-that-may-show';
const TOKENS = {
  "the sandbox's token": gatewayToken(SANDBOX, SECRETS['the gateway token secret']),
  'the token of another sandbox': gatewayToken('another', SECRETS['the gateway token secret']),
};
const OPERATOR = await mint({ sub: 'ops', ttl: 600 }, { JWT_SECRET: SECRETS['the JWT secret'] });
const EXPIRED = await mint({ sub: 'ops', ttl: -600 }, { JWT_SECRET: SECRETS['the JWT secret'] });
const FORGED = await mint({ sub: 'ops', ttl: 600 }, { JWT_SECRET: 'another secret' });
const signature = (token: string) => token.split('.').at(-1) ?? '';
const ALL = {
  ...SECRETS,
  ...TOKENS,
  "an operator's token": signature(OPERATOR),
  'an expired token': signature(EXPIRED),
  'a forged token': signature(FORGED),
};

const VARS = {
  KILOCODE_API_KEY: `${SECRETS['the API key']},${SECRETS['the old API key']}`,
  GATEWAY_TOKEN_SECRET: [
    SECRETS['the gateway token secret'],
    SECRETS['the old gateway token secret'],
  ].join(),
  JWT_SECRET: SECRETS['the JWT secret'],
  INTERNAL_API_SECRET: SECRETS['the internal key'],
  AE_API_TOKEN: SECRETS['the token for Analytics Engine'],
};

const serve = async (t: TestContext, listener: RequestListener) =>
  `http://127.0.0.1:${await listen(t, createServer(listener))}`;

/** Echoes the request in headers and in JSON. */
const echo =
  (status: () => number): RequestListener =>
  (request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const { authorization = '', 'x-kiloclaw-gateway-token': token = '' } = request.headers;
      const sent = `${request.method} ${request.url} ${authorization} ${token} ${Buffer.concat(chunks)}`;
      const header = { 'x-echo': authorization, 'retry-after': authorization, location: `/${token}` };
      response.writeHead(status(), status() === 200 ? {} : header);
      response.end(JSON.stringify({ error: sent, code: authorization, field: token, message: sent }));
    });
  };

async function record(outputs: Outputs, where: string, pending: Promise<Response>): Promise<number> {
  const response = await pending;
  const headers = JSON.stringify([...response.headers]);
  outputs.add(where, `${response.status} ${response.statusText} ${headers} ${await response.text()}`);
  return response.status;
}

/** Sends one valid check-in and one of each failing kind; returns the statuses. */
async function checkIns(outputs: Outputs, worker: Worker, where: string): Promise<number[]> {
  const right = {
    authorization: `Bearer ${SECRETS['the API key']}`,
    'x-kiloclaw-gateway-token': TOKENS["the sandbox's token"],
  };
  const body = { ...FULL, sandboxId: SANDBOX };
  const key = SECRETS['the API key'];
  const statuses = [];
  for (const [what, given, headers] of [
    ['right', body, {}],
    ['without a key', body, { authorization: undefined }],
    ['a key without its scheme', body, { authorization: key }],
    ['a wrong key', body, { authorization: `Bearer ${SECRETS['a wrong API key']}` }],
    ['without a token', body, { 'x-kiloclaw-gateway-token': undefined }],
    ['a token of another sandbox', body, { 'x-kiloclaw-gateway-token': TOKENS['the token of another sandbox'] }],
    ['the secret itself', body, { 'x-kiloclaw-gateway-token': SECRETS['the gateway token secret'] }],
    ['no JSON', `{"sandboxId": "${key}`, {}],
    ['a list', JSON.stringify([key]), {}],
    ['an invalid field', { ...body, controllerVersion: { [key]: key } }, {}],
    ['a field with a wrong name', JSON.stringify({ ...body, sandboxId: undefined, [key]: key }), {}],
    ['too large', JSON.stringify({ ...body, lastExitReason: key.repeat(5_000) }), {}],
  ] as const) {
    const sent = worker.checkIn(given, { ...right, ...headers });
    statuses.push(await record(outputs, `${where}: ${what}`, sent));
  }
  return statuses;
}

/** Sends requests to the operators' API; returns the statuses. */
async function operatorRequests(outputs: Outputs, worker: Worker, where: string): Promise<number[]> {
  const internal = 'x-internal-api-key';
  const statuses = [];
  for (const [what, url, headers] of [
    ['whoami', '/api/whoami', { authorization: `Bearer ${OPERATOR}` }],
    ['fleet', '/api/fleet', { authorization: `Bearer ${OPERATOR}` }],
    ['history', `/api/sandboxes/${SANDBOX}/history`, { [internal]: SECRETS['the internal key'] }],
    ['expired', '/api/fleet', { authorization: `Bearer ${EXPIRED}` }],
    ['forged', '/api/fleet', { authorization: `Bearer ${FORGED}` }],
    ['no token', '/api/fleet', { authorization: `Bearer ${SECRETS['the JWT secret']}` }],
    ['a wrong internal key', '/api/fleet', { [internal]: SECRETS['a wrong internal key'] }],
    ['an Access header', '/api/fleet', { 'cf-access-jwt-assertion': OPERATOR }],
    ['a parameter', `/api/fleet?window=${encodeURIComponent(OPERATOR)}`, { authorization: `Bearer ${OPERATOR}` }],
    ['a path', `/${encodeURIComponent(SECRETS['the API key'])}`, {}],
    ['a path of the API', `/api/${OPERATOR}`, { authorization: `Bearer ${OPERATOR}` }],
  ] as const) {
    statuses.push(await record(outputs, `${where}: ${what}`, worker.fetch(url, { headers })));
  }
  return statuses;
}

/** Adds the Worker's log once no more lines arrive. */
async function logs(outputs: Outputs, worker: Worker, where: string) {
  for (let seen = -1; seen !== worker.logs.length; ) {
    seen = worker.logs.length;
    await delay(200);
  }
  outputs.add(`${where}: log`, worker.logs.map(({ message }) => message).join('\n'));
}

const assertNone = (outputs: Outputs, secrets: Readonly<Record<string, string>> = ALL) => {
  assert.deepEqual(outputs.leaks(secrets), []);
};

test('the check finds a secret in every form', () => {
  for (const [form, looks] of forms(SECRETS['the API key'])) {
    for (const look of looks) {
      const outputs = new Outputs();
      outputs.add('planted', `{"detail":"${look}"}`);
      assert.notDeepEqual(outputs.leaks(ALL), [], `${form}: ${look}`);
    }
  }
  const key = SECRETS['the API key'];
  for (const text of [`Basic ${Buffer.from(`me:${key}`).toString('base64')}`, `${key.slice(0, 20)}…`]) {
    const outputs = new Outputs();
    outputs.add('planted', text);
    assert.notDeepEqual(outputs.leaks(ALL), [], text);
  }
  const innocent = new Outputs();
  innocent.add('innocent', JSON.stringify({ ...FULL, sandboxId: SANDBOX, code: 'wrong_api_key' }));
  assertNone(innocent);
});

test('the Worker leaks no secret for any request and any response of Analytics Engine', async (t) => {
  const outputs = new Outputs();
  let status = 200;
  const analytics = await serve(t, echo(() => status));
  const worker = await startWorker({ vars: { ...VARS, AE_SQL_URL: `${analytics}/sql` } }, t);
  assert.deepEqual(
    await checkIns(outputs, worker, 'check-in'),
    [204, 401, 401, 403, 401, 403, 403, 400, 400, 400, 400, 413],
  );
  const seen = new Set<number>();
  for (status of [200, 302, 400, 401, 403, 422, 429, 500]) {
    for (const code of await operatorRequests(outputs, worker, `Analytics Engine answers ${status}`)) seen.add(code);
  }
  assert.deepEqual([...seen].sort(), [200, 400, 401, 403, 404, 429, 502]);
  await logs(outputs, worker, 'Worker');
  assert.ok(outputs.size > 10_000);
  assertNone(outputs);
});

test('the Worker leaks no secret if the truncation of a log line splits an echoed token', async (t) => {
  const outputs = new Outputs();
  let cut = 0;
  const analytics = await serve(t, (request, response) => {
    if (cut === 0) return void request.socket.destroy();
    const { authorization = '' } = request.headers;
    response.writeHead(400).end('x'.repeat(cut) + authorization + 'y'.repeat(2_000));
  });
  const worker = await startWorker({ vars: { ...VARS, AE_SQL_URL: `${analytics}/sql` } }, t);
  for (cut of [0, 900, 975, 980, 990, 995]) {
    await operatorRequests(outputs, worker, `after ${cut} characters`);
  }
  await logs(outputs, worker, 'Worker');
  assertNone(outputs);
});

test('the Worker leaks no secret if Analytics Engine returns the token in rows', async (t) => {
  const MARKER = 'marker-that-the-server-replaces';
  const store = await startWorker({}, t);
  await store.checkIn({ ...FULL, controllerVersion: MARKER, supervisorState: MARKER, lastExitReason: MARKER });
  await store.points(1);
  const escaped = (text: string) =>
    [...text].map((letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`).join('');
  const json = (text: string) => JSON.stringify(text).slice(1, -1);
  let written = json;
  let isRow = true;
  // The local answer with the token in place of the marker, or a row with the token in place of a number.
  const analytics = await serve(t, (request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', async () => {
      const [, token = ''] = (request.headers.authorization ?? '').split(' ');
      const answer = await fetch(`${store.store}${SQL_PATH}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${AE_API_TOKEN}` },
        body: Buffer.concat(chunks),
      });
      const text = (await answer.text()).replaceAll(MARKER, () => written(token));
      const other = `{"data":[{"checkIns":"${written(token)}"}]}`;
      response.end(isRow ? text : other);
    });
  });
  // A server may escape the token when it echoes it; JSON changes the characters of the second token.
  const odd = secret('analytics', '/+%"~\\');
  for (const token of [SECRETS['the token for Analytics Engine'], odd]) {
    const outputs = new Outputs();
    const vars = { ...VARS, AE_API_TOKEN: token, AE_SQL_URL: `${analytics}/sql` };
    const worker = await startWorker({ vars }, t);
    const seen: number[] = [];
    let requests = 0;
    for (written of [json, escaped, encodeURIComponent]) {
      for (isRow of [true, false]) {
        for (const path of ['fleet', 'fleet/history', 'sandboxes', `sandboxes/${FULL.sandboxId}`, `sandboxes/${FULL.sandboxId}/history`, 'incidents']) {
          // A new window each time misses the cache.
          const url = `/api/${path}?window=${(requests += 1) + 10_000}s`;
          const sent = worker.fetch(url, { headers: { authorization: `Bearer ${OPERATOR}` } });
          seen.push(await record(outputs, `${url}, ${written.name}`, sent));
        }
      }
    }
    assert.deepEqual([...new Set(seen)].sort(), [200, 502]);
    await logs(outputs, worker, 'Worker');
    assert.ok(outputs.includes('[redacted]'), 'the token was there');
    assertNone(outputs, { ...ALL, token });
  }
});

test('the Worker leaks no secret if it is misconfigured', async (t) => {
  const outputs = new Outputs();
  const password = encodeURIComponent(SECRETS['the password in a URL']);
  const access = (team: string) => ({ ...VARS, ACCESS_TEAM_DOMAIN: team, ACCESS_AUD: 'audience' });
  for (const [where, options] of [
    ...Object.keys(VARS).flatMap((name) => [
      [`without ${name}`, { vars: { ...VARS, [name]: undefined } }] as const,
      [`empty ${name}`, { vars: { ...VARS, [name]: ' , ' } }] as const,
    ]),
    ['without a dataset', { vars: VARS, dataset: 'missing' }],
    ['a dataset that throws', { vars: VARS, dataset: 'throws' }],
    ['a password', { vars: { ...VARS, AE_SQL_URL: `http://me:${password}@127.0.0.1:1/` } }],
    ['a password over HTTPS', { vars: { ...VARS, AE_SQL_URL: `https://me:${password}@127.0.0.1:1/` } }],
    ['Access without a team', { vars: access(SECRETS['the API key']) }],
    ['Access that does not answer', { vars: { ...access('http://127.0.0.1:1'), JWT_SECRET: undefined } }],
  ] as const) {
    await t.test(where, async (t) => {
      const worker = await startWorker(options, t);
      await checkIns(outputs, worker, where);
      await operatorRequests(outputs, worker, where);
      await logs(outputs, worker, where);
    });
  }
  assertNone(outputs);
});

test('the Worker leaks no secret in a panic', async (t) => {
  const outputs = new Outputs();
  const worker = await startWorker({ build: 'panic', vars: VARS }, t);
  const authorization = `Bearer ${SECRETS['the API key']}`;
  const panicked = record(outputs, 'panic', worker.fetch('/panic', { headers: { authorization } }));
  assert.equal(await panicked, 500);
  await checkIns(outputs, worker, 'after a panic');
  await logs(outputs, worker, 'panic');
  assert.match(JSON.stringify(worker.logs), /panicked/);
  assertNone(outputs);
});

/** Runs the agent with only this environment; sends SIGTERM after `stop` milliseconds. */
async function agent(
  outputs: Outputs,
  where: string,
  args: readonly string[],
  machine: Readonly<Record<string, string>>,
  stop = 30_000,
) {
  const env = { ...RUN, PATH: process.env.PATH ?? '', ...machine };
  const child = spawn(AGENT, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  // Collected as a whole, because two chunks could split a secret.
  const streams = [child.stdout, child.stderr].map((stream) => stream.toArray() as Promise<Buffer[]>);
  const timer = setTimeout(() => child.kill('SIGTERM'), stop);
  for (const pieces of await Promise.all(streams)) {
    outputs.add(`${where}: ${args.join(' ')}`, Buffer.concat(pieces));
  }
  clearTimeout(timer);
}

/** Runs every command that uses a secret. */
async function commands(
  outputs: Outputs,
  where: string,
  env: Readonly<Record<string, string>>,
  folder: string,
) {
  const state = path.join(folder, 'state.json');
  const often = ['--initial-delay=0', '--interval=1', '--jitter=0', '--log-level=trace'];
  const quick = [...often, `--state-file=${state}`];
  const source = env.KILOCLAW_STATUS_URL === undefined ? ['--systemd-unit=none.service'] : [];
  await Promise.all([
    agent(outputs, where, ['once'], env),
    agent(outputs, where, ['once', '--dry-run'], env),
    agent(outputs, where, ['once', '--timeout', 'soon'], env),
    agent(outputs, where, ['doctor', `--state-file=${state}`, ...source], env),
    agent(outputs, where, ['doctor', '--json', `--state-file=${state}`, ...source], env),
    agent(outputs, where, ['once', '--help'], env),
  ]);
  await agent(outputs, where, ['watch', ...quick, ...source], env, 1_500);
  const { KILOCLAW_STATUS_URL: _, ...alone } = env;
  await agent(outputs, where, ['run', ...quick, '--', 'sh', '-c', 'exit 3'], alone, 1_500);
  await agent(outputs, where, ['status', `--state-file=${state}`], env);
  await agent(outputs, where, ['status', '--json', `--state-file=${state}`], env);
  for (const name of readdirSync(folder)) outputs.add(`${where}: ${name}`, readFileSync(path.join(folder, name)));
}

test('the agent leaks no secret for any response', async (t) => {
  const outputs = new Outputs();
  const server = await serve(t, echo(() => 204));
  // A proxy that refuses and echoes its credentials.
  const proxy = createTcpServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', (data) => {
      const [, basic = ''] = /proxy-authorization: (.*)\r\n/i.exec(data.toString()) ?? [];
      const known = Buffer.from(basic.replace('Basic ', ''), 'base64').toString();
      socket.end(`HTTP/1.1 407 ${basic} ${known}\r\nx-echo: ${basic}\r\nlocation: /${known}\r\n\r\n${known}`);
    });
  });
  const password = encodeURIComponent(SECRETS["the proxy's password"]);
  const proxyUrl = `http://me:${password}@127.0.0.1:${await listen(t, proxy)}`;
  const garbage = createTcpServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', (data) => socket.end(data));
  });
  const garbageUrl = `http://127.0.0.1:${await listen(t, garbage)}`;
  const right = {
    KILOCLAW_CHECKIN_URL: `${server}${CHECK_IN_PATH}`,
    KILOCODE_API_KEY: SECRETS['the API key'],
    OPENCLAW_GATEWAY_TOKEN: TOKENS["the sandbox's token"],
    KILOCLAW_SANDBOX_ID: SANDBOX,
    KILOCLAW_OPENCLAW_COMMAND: path.resolve('agent/tests/fixtures/openclaw'),
    KILOCLAW_TIMEOUT_SECONDS: '2',
  };
  const within = async (where: string, changes: Record<string, string>) => {
    await commands(outputs, where, { ...right, ...changes }, temporaryFolder(t));
  };
  await Promise.all(
    [204, 200, 302, 400, 403, 429, 500].map(async (status) => {
      const server = await serve(t, echo(() => status));
      const urls = { KILOCLAW_CHECKIN_URL: `${server}${CHECK_IN_PATH}`, KILOCLAW_STATUS_URL: `${server}/status` };
      await within(`answered ${status}`, urls);
    }),
  );
  const files = temporaryFolder(t);
  const file = path.join(files, 'key');
  writeFileSync(file, `${SECRETS['the API key']}\n`);
  mkdirSync(path.join(files, 'folder'));
  await Promise.all([
    within('a file', { KILOCODE_API_KEY: '', KILOCODE_API_KEY_FILE: file }),
    within('a folder instead of a file', { KILOCODE_API_KEY_FILE: path.join(files, 'folder') }),
    within('a key with invalid characters', { KILOCODE_API_KEY: `${SECRETS['the API key']}\u{7f}é` }),
    within('a password in the URL', {
      KILOCLAW_CHECKIN_URL: `https://me:${SECRETS['the password in a URL']}@127.0.0.1/`,
    }),
    within('a key instead of a URL', { KILOCLAW_CHECKIN_URL: SECRETS['the password in a URL'] }),
    within('a proxy', { KILOCLAW_CHECKIN_URL: 'https://telemetry.invalid/', HTTPS_PROXY: proxyUrl }),
    within('no proxy', {
      KILOCLAW_CHECKIN_URL: 'https://telemetry.invalid/',
      HTTPS_PROXY: `ftp://me:${password}@127.0.0.1/`,
    }),
    within('garbage', { KILOCLAW_CHECKIN_URL: garbageUrl }),
    within('nobody', { KILOCLAW_CHECKIN_URL: 'http://127.0.0.1:1/' }),
  ]);
  assert.ok(outputs.size > 50_000);
  assertNone(outputs);
});

test('the builds contain no secret of this machine or of the tests', () => {
  const outputs = new Outputs();
  const built = ['index.js', 'index_bg.wasm', 'panic/index_bg.wasm'].map((name) => path.join('build', name));
  for (const file of [...built, AGENT]) outputs.add(file, readFileSync(file));
  const local = existsSync('.dev.vars') ? parseEnv(readFileSync('.dev.vars', 'utf8')) : {};
  assertNone(outputs, {
    API_KEY,
    GATEWAY_TOKEN_SECRET,
    JWT_SECRET,
    'unit tests': 'hunter2',
    ...Object.fromEntries(
      Object.entries(local).filter((entry): entry is [string, string] => (entry[1] ?? '') !== ''),
    ),
  });
  const planted = new Outputs();
  planted.add('planted', Buffer.concat([readFileSync(AGENT), Buffer.from(API_KEY)]));
  assert.equal(planted.leaks({ API_KEY })[0], 'planted: API_KEY, as it is, or a part of it');
});
