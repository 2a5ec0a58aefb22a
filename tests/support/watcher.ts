/** What tests of the watcher need: receivers of its messages, operators' requests, and waiting. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { AE_API_TOKEN, API_KEY, FULL, GATEWAY_TOKEN_SECRET, JWT_SECRET } from '../../harness/check-in.ts';
import { mint } from '../../harness/token.ts';
import { startWorker, type Options, type Worker } from '../../harness/worker.ts';

export const SECRET = `whsec_${Buffer.from('a secret of the tests, long enough').toString('base64')}`;
/** Times that a test can wait for. */
export const QUICK = { SILENT_AFTER: '10s', WATCH_TICK: '5s', WATCH_STALE_AFTER: '1h' };
const DEADLINE_MS = 120_000;

/** Waits, and asks no more often than the watcher lets. */
export async function until(what: string, so: () => Promise<boolean> | boolean): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;
  while (!(await so())) {
    assert.ok(Date.now() < deadline, `in time: ${what}`);
    await delay(500);
  }
}

/** A check-in of a machine that is well. */
export const well = (sandboxId: string) => ({ ...FULL, sandboxId, restartsSinceLastCheckin: 0 });

/** The headers of a principal with these claims. */
export const bearer = async (claims: { sandbox?: string; scope?: string } = {}) => ({
  authorization: `Bearer ${await mint({ sub: 'ops', ttl: 600, ...claims }, { JWT_SECRET })}`,
});
/** The headers of a principal who may see everything. */
export const reader = await bearer();
/** Likewise, and who may change things. */
export const writer = await bearer({ scope: 'fleet:read absences:write' });

export interface Received {
  /** In milliseconds since 1970. */
  readonly at: number;
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly body: any;
}

/** A server that notes what it receives. */
export interface Receiver {
  readonly url: string;
  readonly received: Received[];
  /** Answers the next requests; 204 by default. */
  answer: (response: ServerResponse, received: Received) => void;
  /** The bodies of messages of a type. */
  of(type: string): Received[];
}

export async function receiver(t: TestContext): Promise<Receiver> {
  const it: Receiver = {
    url: '',
    received: [],
    answer: (response) => void response.writeHead(204).end(),
    of: (type) => it.received.filter(({ body }) => body?.type === type),
  };
  const server = createServer((request, response) => {
    let text = '';
    request.setEncoding('utf8').on('data', (part: string) => (text += part));
    request.on('end', () => {
      const received = {
        at: Date.now(),
        path: request.url ?? '',
        headers: request.headers,
        text,
        body: text.startsWith('{') ? JSON.parse(text) : undefined,
      };
      it.received.push(received);
      it.answer(response, received);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return Object.assign(it, { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
}

export const start = (t: TestContext, vars: Options['vars'] = {}, options: Options = {}) =>
  startWorker({ ...options, vars: { ...QUICK, ...vars } }, t);

/** The settings of a plain workerd whose watcher reads a store's points. */
export const workerdVars = (store: Worker, more: Readonly<Record<string, string>> = {}) => ({
  ...QUICK,
  KILOCODE_API_KEY: API_KEY,
  GATEWAY_TOKEN_SECRET,
  JWT_SECRET,
  AE_API_TOKEN,
  AE_SQL_URL: `${store.store}/client/v4/accounts/local/analytics_engine/sql`,
  ...more,
});

/** What the cron trigger does. */
export async function wake({ url }: Worker): Promise<void> {
  const response = await fetch(new URL('/cdn-cgi/local/scheduled', url));
  assert.equal(response.status, 200, await response.text());
}

export async function ask<T = any>(worker: Worker, path: string, headers = reader): Promise<T> {
  const response = await worker.fetch(path, { headers });
  const body = (await response.json()) as T;
  assert.equal(response.status, 200, `${path}: ${JSON.stringify(body)}`);
  return body;
}

/** Checks in as these sandboxes every second until the test ends: without them, it is an outage of all. */
export function keepAlive(t: TestContext, worker: Worker, ...sandboxes: string[]): void {
  const beat = () => {
    for (const sandboxId of sandboxes) void worker.checkIn(well(sandboxId)).catch(() => {});
  };
  beat();
  const timer = setInterval(beat, 1_000);
  t.after(() => clearInterval(timer));
}
