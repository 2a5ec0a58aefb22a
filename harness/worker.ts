/** Runs the built Worker in real workerd with the local Analytics Engine; a client for both. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { Miniflare, type WorkerOptions } from 'miniflare';

import { AE_API_TOKEN, CHECK_IN_PATH, credentials, SANDBOX_ID, WORKER_SECRETS } from './check-in.ts';
import type { Context } from './context.ts';
import { insert, SQL_PATH } from './store.ts';
import { CANARY_DATASET, COMPATIBILITY_DATE } from './workerd.ts';
import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { freePort, read, stored, type JsonPoint } from '../local-ae/support/instance.js';

type Binding = NonNullable<WorkerOptions['config']['env']>[string];

export interface Options {
  /** Secrets and variables; `undefined` leaves one out. What is no text is a variable without quotes in `wrangler.toml`. */
  readonly vars?: Readonly<Record<string, string | readonly string[] | undefined>>;
  /** `throws`: the binding exists, but writing to it throws. */
  readonly dataset?: 'local' | 'missing' | 'throws';
  /** Maximum check-ins per sandbox within 60 s. */
  readonly checkInLimit?: number;
  /** Maximum points in the local dataset. */
  readonly maxRows?: number;
  /** Whether the Worker has the watcher's object; true by default, unless `modules` are given. */
  readonly watcher?: boolean;
  /** Keeps the points and the watcher's object after the Worker stops. */
  readonly folder?: string;
  /** A folder under `build/`; `.` is the deployed build. */
  readonly build?: string;
  /** The main module of another Worker, which gets a copy of each accepted check-in. */
  readonly forward?: string;
  /** Whether the Worker serves the page in `web/dist`. */
  readonly page?: boolean;
  /** A main module that replaces the Worker's own, and further modules that it imports. */
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
  /** URL of the local Analytics Engine. */
  readonly store: string;
  /** All log lines so far. */
  readonly logs: readonly Log[];
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** Posts a check-in with valid headers; `headers` override them, and `undefined` leaves one out. */
  checkIn(body: Body, headers?: Headers): Promise<Response>;
  /** Waits for `count` points since the last `clear`; returns all of them, oldest first. */
  points(count: number): Promise<JsonPoint[]>;
  /** Stores points by slot name, with their own timestamps. */
  insert(points: readonly object[]): Promise<void>;
  clear(): Promise<void>;
}

type Body = Readonly<Record<string, unknown>> | string | Uint8Array<ArrayBuffer> | ReadableStream;
type Headers = Readonly<Record<string, string | undefined>>;

const entries = <T>(record: Readonly<Record<string, T | undefined>>): [string, T][] =>
  Object.entries(record).filter((entry): entry is [string, T] => entry[1] !== undefined);

function datasetBinding({ dataset, maxRows }: Options, port: number, name = layout.dataset): Binding | undefined {
  switch (dataset ?? 'local') {
    case 'local': {
      const plugin = { package: 'local-ae', name: 'local-ae' };
      const options = { dataset: name, port, token: AE_API_TOKEN, ...(maxRows ? { maxRows } : {}) };
      return { type: 'unsafe:analytics_engine', dev: { plugin, options } } as Binding;
    }
    case 'missing':
      return undefined;
    case 'throws':
      // A text binding has no `writeDataPoint`, so the call throws.
      return { type: 'text', value: 'not a dataset' } as Binding;
  }
}

const PAGE = fileURLToPath(new URL('../web/dist', import.meta.url));

/** The paths that the Worker answers before the page's files, from the deployed configuration. */
const [, paths = ''] = /^run_worker_first = (.+)$/m.exec(
  readFileSync(new URL('../wrangler.toml', import.meta.url), 'utf8'),
) ?? [];
const WORKER_FIRST = JSON.parse(paths) as string[];

const NAME = 'kiloclaw-telemetry';
const WATCHER = 'Watcher';
/** The Worker that gets the copies of check-ins. */
const FORWARD = 'forward';

function watcherBinding({ watcher = true, modules }: Options): Binding | undefined {
  // A test's own main module does not export the class.
  if (!watcher || modules !== undefined) return undefined;
  return { type: 'durable-object', worker: NAME, exportName: WATCHER } as Binding;
}

function limiter({ checkInLimit: limit }: Options): Binding | undefined {
  if (limit === undefined) return undefined;
  return { type: 'rate-limit', namespace: 'check-ins', simple: { limit, period: 60 } };
}

/** The number of bytes that the runtime reads at once. */
const LARGE = 8 * 1024;

/**
 * If the Worker answers before it has read a large body, the runtime closes the connection after the answer, while
 * `fetch` may already send the next request on it. With this header, `fetch` opens a new connection.
 */
function headersFor({ headers, body }: RequestInit = {}): RequestInit['headers'] {
  const isLarge = (typeof body === 'string' && body.length > LARGE) || body instanceof ReadableStream;
  return isLarge ? [...new Headers(headers), ['connection', 'close']] : headers;
}

/** A Worker of one module. */
const simple = (name: string, contents: string) => ({
  config: {
    name,
    compatibilityDate: COMPATIBILITY_DATE,
    manifest: { mainModule: 'main', modulesRoot: '/', modules: { main: { type: 'esm' as const, contents } } },
    env: {},
  },
});

/** Starts the Worker; it stops with `context`: a test, or by default the whole file. */
export async function startWorker(
  options: Options = {},
  context: Context = { after },
): Promise<Worker> {
  const { vars = {}, build = '.', modules } = options;
  const file = (name: string) => readFileSync(new URL(`../build/${build}/${name}`, import.meta.url));
  const port = await freePort();
  const logs: Log[] = [];
  const store = `http://127.0.0.1:${port}`;
  const variables = {
    ...WORKER_SECRETS,
    AE_SQL_URL: `${store}${SQL_PATH}`,
    AE_API_TOKEN,
    ...vars,
  };
  const env = {
    ...Object.fromEntries(
      entries(variables).map(([name, value]) => [name, { type: typeof value === 'string' ? 'text' : 'json', value } as Binding]),
    ),
    KILOCLAW_CONTROLLER_AE: datasetBinding(options, port),
    KILOCLAW_WATCHER_AE: datasetBinding(options, port, CANARY_DATASET),
    WATCHER: watcherBinding(options),
    CHECKIN_RATE_LIMITER: limiter(options),
    FORWARD: options.forward === undefined ? undefined : ({ type: 'worker', worker: FORWARD } as Binding),
  };
  const miniflare = new Miniflare({
    port: 0,
    enableDevRegistry: false,
    cf: false,
    unsafeTriggerHandlers: true,
    ...(options.folder === undefined ? {} : { resourcePersistencePath: options.folder }),
    handleStructuredLogs: ({ level, message }: Log) => void logs.push({ level, message }),
    workers: [
      {
        config: {
          name: NAME,
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
          ...(options.page ? { assets: { directory: PAGE, runWorkerFirst: WORKER_FIRST, hasUserWorker: true } } : {}),
          ...(env.WATCHER === undefined ? {} : { exports: { [WATCHER]: { type: 'durable-object', storage: 'sqlite' } } }),
        },
      },
      ...(options.forward ? [simple(FORWARD, options.forward)] : []),
    ],
  });
  context.after(() => miniflare.dispose());
  const url = await miniflare.ready;

  const worker: Worker = {
    url,
    store,
    logs,
    fetch: (path, init) => fetch(new URL(path, url), { redirect: 'manual', ...init, headers: headersFor(init) }),
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
      await insert(store, points.map((point) => ({ dataset: layout.dataset, ...point })));
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

/** Waits until the log matches, because lines can arrive after their responses; returns the log. */
export async function logged({ logs }: Worker, pattern: RegExp): Promise<string> {
  const deadline = Date.now() + 30_000;
  while (Date.now() < deadline && !pattern.test(JSON.stringify(logs))) await delay(20);
  const text = JSON.stringify(logs);
  assert.match(text, pattern);
  return text;
}

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
