/** Receivers of the watcher's messages, operators' requests, and waiting. */
import assert from 'node:assert/strict';
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';

import { AE_API_TOKEN, FULL, JWT_SECRET, WORKER_SECRETS } from '../../harness/check-in.ts';
import { listen, type Context } from '../../harness/context.ts';
import { SQL_PATH } from '../../harness/store.ts';
import { mint } from '../../harness/token.ts';
import { startWorker, type Options, type Worker } from '../../harness/worker.ts';
import { until as waitUntil } from './until.ts';

export const SECRET = `whsec_${Buffer.from('a secret of the tests, long enough').toString('base64')}`;
/** Times that a test can wait for. */
export const QUICK = { SILENT_AFTER: '10s', WATCH_TICK: '5s', WATCH_STALE_AFTER: '1h' };

/** Waits, and queries no more often than the watcher's rate limit allows. */
export const until = (what: string, so: () => Promise<boolean> | boolean) =>
  waitUntil(what, so, { deadlineMs: 120_000, pauseMs: 500 });

/** A check-in of a healthy machine. */
export const healthy = (sandboxId: string) => ({ ...FULL, sandboxId, restartsSinceLastCheckin: 0 });

/** The headers of a principal with these claims. */
export const bearer = async (claims: { sandbox?: string; scope?: string } = {}) => ({
  authorization: `Bearer ${await mint({ sub: 'ops', ttl: 600, ...claims }, { JWT_SECRET })}`,
});
/** The headers of a principal who may see everything. */
export const reader = await bearer();
/** The headers of a principal who may also plan absences. */
export const writer = await bearer({ scope: 'fleet:read absences:write' });

export interface Received {
  /** In milliseconds since 1970. */
  readonly at: number;
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly body: any;
}

/** A server that records the messages that it receives. */
export interface Receiver {
  readonly url: string;
  readonly received: Received[];
  /** Answers the next requests; 204 by default. */
  answer: (response: ServerResponse, received: Received) => void;
  /** The bodies of messages of a type. */
  of(type: string): Received[];
}

export async function receiver(context: Context): Promise<Receiver> {
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
  return Object.assign(it, { url: `http://127.0.0.1:${await listen(context, server)}` });
}

export const start = (context: Context, vars: Options['vars'] = {}, options: Options = {}) =>
  startWorker({ ...options, vars: { ...QUICK, ...vars } }, context);

/** The settings of a plain workerd whose watcher reads a store's points. */
export const workerdVars = (store: Worker, more: Readonly<Record<string, string>> = {}) => ({
  ...QUICK,
  ...WORKER_SECRETS,
  AE_API_TOKEN,
  AE_SQL_URL: `${store.store}${SQL_PATH}`,
  ...more,
});

/** Wakes the watcher, like the cron trigger. */
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

/** Checks in as these sandboxes every second until the test ends. Without them, the whole fleet would be silent. */
export function keepAlive(context: Context, worker: Worker, ...sandboxes: string[]): void {
  const beat = () => {
    for (const sandboxId of sandboxes) void worker.checkIn(healthy(sandboxId)).catch(() => {});
  };
  beat();
  const timer = setInterval(beat, 1_000);
  context.after(() => clearInterval(timer));
}
