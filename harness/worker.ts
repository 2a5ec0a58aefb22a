/** The built Worker in real workerd, with the local Analytics Engine, and a client for both. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { Miniflare, type WorkerOptions } from 'miniflare';

import {
  AE_API_TOKEN,
  API_KEY,
  CHECK_IN_PATH,
  credentials,
  GATEWAY_TOKEN_SECRET,
  JWT_SECRET,
  SANDBOX_ID,
} from './check-in.ts';
import { COMPATIBILITY_DATE } from './workerd.ts';
import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { freePort, read, stored, type JsonPoint } from '../local-ae/support/instance.js';

type Binding = NonNullable<WorkerOptions['config']['env']>[string];

export interface Options {
  /** Secrets and variables; `undefined` leaves one out. */
  readonly vars?: Readonly<Record<string, string | undefined>>;
  /** `throws`: the binding is there, but writing to it throws. */
  readonly dataset?: 'local' | 'missing' | 'throws';
  /** How many check-ins a sandbox has within 60 s. */
  readonly checkInLimit?: number;
  /** How many points the local dataset keeps. */
  readonly maxRows?: number;
  /** The folder under `build/`, or `.` for what is deployed. */
  readonly build?: string;
  /** A JavaScript module to start with instead of the Worker's own, and what else it imports. */
  readonly modules?: { readonly main: string } & Readonly<Record<string, string>>;
}

export interface Log {
  readonly level: string;
  readonly message: string;
}

/** The body of every refusal. */
export interface Refusal {
  readonly error: string;
  readonly code: string;
  readonly field?: string;
  readonly expected?: string;
  readonly setting?: string;
}

export interface Worker {
  readonly url: URL;
  /** Where its points are. */
  readonly store: string;
  /** What the Worker logged so far. */
  readonly logs: readonly Log[];
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** Posts a check-in; `headers` override the right ones, `undefined` leaves one out. */
  checkIn(body: Body, headers?: Headers): Promise<Response>;
  /** The stored points, oldest first, once there are `count` since the last `clear`. */
  points(count: number): Promise<JsonPoint[]>;
  /** Stores points with times of their own, by the names of their slots. */
  insert(points: readonly object[]): Promise<void>;
  /** Forgets the stored points. */
  clear(): Promise<void>;
}

type Body = Readonly<Record<string, unknown>> | string | Uint8Array<ArrayBuffer> | ReadableStream;
type Headers = Readonly<Record<string, string | undefined>>;

const entries = <T>(record: Readonly<Record<string, T | undefined>>): [string, T][] =>
  Object.entries(record).filter((entry): entry is [string, T] => entry[1] !== undefined);

function datasetBinding({ dataset, maxRows }: Options, port: number): Binding | undefined {
  switch (dataset ?? 'local') {
    case 'local': {
      const plugin = { package: 'local-ae', name: 'local-ae' };
      const options = { dataset: layout.dataset, port, token: AE_API_TOKEN, ...(maxRows ? { maxRows } : {}) };
      return { type: 'unsafe:analytics_engine', dev: { plugin, options } } as Binding;
    }
    case 'missing':
      return undefined;
    case 'throws':
      // A variable has no `writeDataPoint`, so calling it throws.
      return { type: 'text', value: 'not a dataset' } as Binding;
  }
}

function limiter({ checkInLimit: limit }: Options): Binding | undefined {
  if (limit === undefined) return undefined;
  return { type: 'rate-limit', namespace: 'check-ins', simple: { limit, period: 60 } };
}

/** Starts the Worker; it stops when `context` ends: a test, or the whole file. */
export async function startWorker(
  options: Options = {},
  context: { after(stop: () => Promise<void>): void } = { after },
): Promise<Worker> {
  const { vars = {}, build = '.', modules } = options;
  const file = (name: string) => readFileSync(new URL(`../build/${build}/${name}`, import.meta.url));
  const port = await freePort();
  const logs: Log[] = [];
  const store = `http://127.0.0.1:${port}`;
  const variables = {
    KILOCODE_API_KEY: API_KEY,
    GATEWAY_TOKEN_SECRET,
    JWT_SECRET,
    AE_SQL_URL: `${store}/client/v4/accounts/local/analytics_engine/sql`,
    AE_API_TOKEN,
    ...vars,
  };
  const env = {
    ...Object.fromEntries(
      entries(variables).map(([name, value]) => [name, { type: 'text', value } as Binding]),
    ),
    KILOCLAW_CONTROLLER_AE: datasetBinding(options, port),
    CHECKIN_RATE_LIMITER: limiter(options),
  };
  const miniflare = new Miniflare({
    port: 0,
    enableDevRegistry: false,
    cf: false,
    handleStructuredLogs: ({ level, message }: Log) => void logs.push({ level, message }),
    workers: [
      {
        config: {
          name: 'kiloclaw-telemetry',
          compatibilityDate: COMPATIBILITY_DATE,
          manifest: {
            mainModule: modules === undefined ? 'index.js' : 'main',
            modulesRoot: '/',
            modules: {
              ...Object.fromEntries(
                entries(modules ?? {}).map(([name, contents]) => [name, { type: 'esm', contents }]),
              ),
              'index.js': { type: 'esm', contents: file('index.js').toString() },
              'index_bg.wasm': { type: 'wasm', contents: file('index_bg.wasm') },
            },
          },
          env: Object.fromEntries(entries(env)),
        },
      },
    ],
  });
  context.after(() => miniflare.dispose());
  const url = await miniflare.ready;

  const worker: Worker = {
    url,
    store,
    logs,
    fetch: (path, init) => fetch(new URL(path, url), { redirect: 'manual', ...init }),
    checkIn(body, headers = {}) {
      const raw =
        typeof body === 'string' || body instanceof Uint8Array || body instanceof ReadableStream;
      const sandboxId = raw ? SANDBOX_ID : String(body.sandboxId);
      return worker.fetch(CHECK_IN_PATH, {
        method: 'POST',
        headers: entries({
          'content-type': 'application/json',
          ...credentials(sandboxId),
          ...headers,
        }),
        body: raw ? body : JSON.stringify(body),
        ...(body instanceof ReadableStream ? { duplex: 'half' } : {}),
      } as RequestInit);
    },
    points: (count) => stored(port, count),
    async insert(points) {
      const response = await fetch(`${store}/points`, {
        method: 'POST',
        headers: { 'content-type': 'application/x-ndjson' },
        body: points.map((point) => JSON.stringify({ dataset: layout.dataset, ...point })).join('\n'),
      });
      if (!response.ok) throw new Error(`points were not inserted: ${await response.text()}`);
    },
    async clear() {
      const response = await fetch(`${store}/points`, { method: 'DELETE' });
      if (!response.ok) throw new Error(`the store was not cleared: ${response.status}`);
      const { points } = await read(port);
      if (points.length > 0) throw new Error('points arrived while the store was cleared');
    },
  };
  return worker;
}

export const refusal = async (response: Response): Promise<Refusal> =>
  (await response.json()) as Refusal;

/** All that a Worker logged, once it matches: lines may come after the answers that they are about. */
export async function logged({ logs }: Worker, pattern: RegExp): Promise<string> {
  const deadline = Date.now() + 30_000;
  while (Date.now() < deadline && !pattern.test(JSON.stringify(logs))) await delay(20);
  const text = JSON.stringify(logs);
  assert.match(text, pattern);
  return text;
}

/** Asserts that somebody was not let in, for this reason. */
export async function assertUnauthorized(
  response: Response,
  code: string,
  why?: string,
): Promise<void> {
  assert.deepEqual(
    { status: response.status, body: await refusal(response) },
    { status: 401, body: { error: 'Unauthorized', code } },
    why,
  );
  assert.equal(response.headers.get('www-authenticate'), 'Bearer');
}
