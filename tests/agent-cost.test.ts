/**
 * Costs of the agent that a test can check without timing: it sleeps between check-ins, and resumes its TLS
 * session. `npm run bench -- --only agent` measures the figures.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { TLSSocket } from 'node:tls';

import { certificates } from '../harness/certificates.ts';
import { listen, temporaryFolder } from '../harness/context.ts';
import { contextSwitches, wakeUps } from '../harness/process-usage.ts';
import { AGENT } from '../harness/agent.ts';
import { RUN } from '../harness/processes.ts';

const STATUS = JSON.stringify({ state: 'running', pid: 1, uptime: 1, restarts: 0, lastExit: null });
/** Long enough to notice anything that runs every second or so. */
const WINDOW_MS = 3_000;
const QUIET_MS = 500;
const QUIET_DEADLINE_MS = 20_000;
const TIMEOUT_MS = 30_000;

/** Starts the agent, which checks in at once and ends with the test. */
function start(
  context: TestContext,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): ChildProcess {
  const [command, ...rest] = args;
  const agent = spawn(AGENT, [command, '--initial-delay=0', '--jitter=0', '--log-level=off', ...rest], {
    env: {
      ...RUN,
      PATH: '/usr/bin:/bin',
      KILOCODE_API_KEY: 'key',
      OPENCLAW_GATEWAY_TOKEN: 'token',
      KILOCLAW_SANDBOX_ID: 'sandbox-1',
      ...env,
    },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  context.after(async () => {
    const ended = once(agent, 'close');
    agent.kill(); // not SIGKILL, so that the agent ends its command
    await ended;
  });
  return agent;
}

/** Waits until no thread wakes up; returns the context switches so far. */
async function atRest(pid: number): Promise<ReadonlyMap<string, number>> {
  const deadline = Date.now() + QUIET_DEADLINE_MS;
  for (let before = contextSwitches(pid); ; ) {
    await delay(QUIET_MS);
    const after = contextSwitches(pid);
    if (wakeUps(before, after) === 0) return after;
    assert(Date.now() < deadline, 'threads of the agent keep waking up');
    before = after;
  }
}

for (const [name, args] of [
  ['watch', ['watch']],
  ['run', ['run', '--stop-timeout=1', '--', 'sleep', '600']],
] as const) {
  test(`${name}: no thread wakes up between two check-ins`, { timeout: TIMEOUT_MS }, async (context) => {
    const accepted = Promise.withResolvers<void>();
    const port = await listen(
      context,
      createServer((request, response) => {
        if (request.method === 'GET') return void response.end(STATUS);
        request.resume().on('end', () => response.writeHead(204).end(accepted.resolve));
      }),
      'localhost',
    );
    const [command, ...rest] = args;
    const agent = start(context, [command, '--interval=60', ...rest], {
      KILOCLAW_CHECKIN_URL: `http://localhost:${port}/`,
      ...(name === 'watch' ? { KILOCLAW_STATUS_URL: `http://localhost:${port}/` } : {}),
      KILOCLAW_STATE_FILE: path.join(temporaryFolder(context), 'state.json'),
    });
    await accepted.promise;
    const before = await atRest(agent.pid!);
    await delay(WINDOW_MS);
    assert.equal(wakeUps(before, contextSwitches(agent.pid!)), 0);
  });
}

test('a second check-in resumes the TLS session of the first', { timeout: TIMEOUT_MS }, async (context) => {
  const here = temporaryFolder(context);
  const made = certificates(here);
  if (made === undefined) return context.skip('openssl is missing, which makes the certificate');
  const resumed: boolean[] = [];
  const second = Promise.withResolvers<void>();
  const answer: RequestListener = (request, response) => {
    if (request.method === 'GET') return void response.end(STATUS);
    resumed.push((request.socket as TLSSocket).isSessionReused());
    if (resumed.length === 2) second.resolve();
    request.resume().on('end', () => response.writeHead(204).end());
  };
  const port = await listen(context, createTlsServer(made.server, answer), 'localhost');
  const statusPort = await listen(context, createServer(answer), 'localhost');
  start(context, ['watch', '--interval=1'], {
    KILOCLAW_CHECKIN_URL: `https://localhost:${port}/`,
    KILOCLAW_STATUS_URL: `http://localhost:${statusPort}/`,
    KILOCLAW_CA_FILE: made.ca,
    KILOCLAW_STATE_FILE: path.join(here, 'state.json'),
  });
  await second.promise;
  assert.deepEqual(resumed.slice(0, 2), [false, true]);
});
