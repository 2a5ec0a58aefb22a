/**
 * Runs the built Worker and the local Analytics Engine in a plain workerd. Miniflare puts its own Worker in
 * front, which answers some requests itself and changes the bytes of the others.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Readable } from 'node:stream';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import type { Context } from './context.ts';

const ROOT = path.resolve(import.meta.dirname, '..');

/** The executable itself: `node_modules/.bin/workerd` may be a script, and a kill would only hit the script. */
export const WORKERD = (
  createRequire(createRequire(import.meta.url).resolve('miniflare'))('workerd') as { default: string }
).default;

/** From the deployed configuration. */
export const [, COMPATIBILITY_DATE] =
  /^compatibility_date = "(.+)"$/m.exec(readFileSync(path.join(ROOT, 'wrangler.toml'), 'utf8')) ?? [];

const START_DEADLINE_MS = 60_000;

export interface Workerd {
  readonly pid: number;
  /** The Worker's port. */
  readonly port: number;
  /** The local Analytics Engine's port. */
  readonly store: number;
  /** The output so far: the Worker's log lines and workerd's own. */
  log(): string;
  stop(): Promise<void>;
}

/** The dataset of the watcher's canaries, from the deployed configuration. */
export const [, CANARY_DATASET = ''] =
  /^binding = "KILOCLAW_WATCHER_AE"\ndataset = "(.+)"$/m.exec(
    readFileSync(path.join(ROOT, 'wrangler.toml'), 'utf8'),
  ) ?? [];

/** By default: the deployed build, a new folder and free ports. */
export interface Site {
  /** A folder under `build/`; `.` is the deployed build. */
  readonly build?: string;
  /** Keeps the points; `stop` does not remove it. */
  readonly folder?: string;
  /** Listen addresses of the Worker and of the local Analytics Engine. */
  readonly worker?: string;
  readonly store?: string;
}

/** A string in Cap'n Proto's notation, which has JSON's escapes. */
export const text = JSON.stringify;

export const textBindings = (vars: Readonly<Record<string, string | undefined>>): string[] =>
  Object.entries(vars)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `(name = ${text(name)}, text = ${text(value)})`);

const datasetBinding = (name: string, store: string): string =>
  `(name = ${text(name)}, wrapped = (
          moduleName = "local-ae:dataset",
          innerBindings = [(name = "native", analyticsEngine = ${store})]
        ))`;

/**
 * The built Worker as a service; `store` designates the service that receives its data points. If `canaries`
 * designates one for the watcher's points, the Worker has the watcher's object, stored in `watcher:disk`.
 */
export const workerService = (
  vars: Readonly<Record<string, string>>,
  store: string,
  build = '.',
  canaries?: string,
): string =>
  `(name = "worker", worker = (
      modules = [
        (name = "index.js", esModule = embed ${text(path.posix.join('/build', build, 'index.js'))}),
        (name = "index_bg.wasm", wasm = embed ${text(path.posix.join('/build', build, 'index_bg.wasm'))})
      ],
      compatibilityDate = ${text(COMPATIBILITY_DATE)},
      bindings = [
        ${textBindings(vars).map((binding) => `${binding},`).join('\n        ')}
        ${datasetBinding('KILOCLAW_CONTROLLER_AE', store)}${canaries === undefined ? '' : `,
        ${datasetBinding('KILOCLAW_WATCHER_AE', canaries)},
        (name = "WATCHER", durableObjectNamespace = (className = "Watcher"))`}
      ]${canaries === undefined ? '' : `,
      durableObjectNamespaces = [(className = "Watcher", uniqueKey = "watcher", enableSql = true)],
      durableObjectStorage = (localDisk = "watcher:disk")`}
    ))`;

const ingest = (dataset: string): string => `(
  name = "local-ae:service",
  entrypoint = "ingest",
  props = (json = ${text(JSON.stringify({ dataset }))})
)`;

/** Designates the local Analytics Engine's service for data points, with the contract's dataset. */
export const INGEST = ingest(layout.dataset);

const configuration = (vars: Readonly<Record<string, string>>, build: string) => `
using Workerd = import "/workerd/workerd.capnp";
using LocalAe = import "/local-ae/workerd.capnp";

const config :Workerd.Config = (
  services = [
    ${workerService(vars, INGEST, build, ingest(CANARY_DATASET))},
    (name = "watcher:disk", disk = (writable = true)),
    # The Worker may send requests to this machine, too.
    (name = "internet", network = (allow = ["public", "private"])),
    LocalAe.service,
    LocalAe.disk
  ],
  sockets = [
    (name = "worker", address = "127.0.0.1:0", http = (), service = "worker"),
    LocalAe.endpoint
  ],
  extensions = [LocalAe.extension]
);
`;

/** Starts workerd; it stops with `context`, by SIGKILL, because stored data has to survive that. */
export async function startWorkerd(
  vars: Readonly<Record<string, string>>,
  context: Context,
  site: Site = {},
): Promise<Workerd> {
  const folder = site.folder ?? mkdtempSync(path.join(tmpdir(), 'kiloclaw-workerd-'));
  for (const name of ['points', 'watcher']) mkdirSync(path.join(folder, name), { recursive: true });
  writeFileSync(path.join(folder, 'config.capnp'), configuration(vars, site.build ?? '.'));
  const args = [
    'serve',
    '--experimental',
    '--control-fd=3',
    `--import-path=${ROOT}`,
    `--directory-path=local-ae:disk=${path.join(folder, 'points')}`,
    `--directory-path=watcher:disk=${path.join(folder, 'watcher')}`,
    `--socket-addr=worker=${site.worker ?? '127.0.0.1:0'}`,
    `--socket-addr=local-ae:read=${site.store ?? '127.0.0.1:0'}`,
    path.join(folder, 'config.capnp'),
  ];
  const child = spawn(WORKERD, args, { stdio: ['ignore', 'pipe', 'pipe', 'pipe'] });
  const exited = once(child, 'exit');
  let log = '';
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.setEncoding('utf8').on('data', (part: string) => (log += part));
  }
  const stop = async () => {
    child.kill('SIGKILL');
    await exited;
    if (site.folder === undefined) rmSync(folder, { recursive: true, force: true });
  };
  context.after(stop);

  const ports = await listening(child, ['worker', 'local-ae:read']).catch((error) => {
    throw new Error(`${(error as Error).message}\n${log}`);
  });
  return {
    pid: child.pid!,
    port: ports.get('worker')!,
    store: ports.get('local-ae:read')!,
    log: () => log,
    stop,
  };
}

/** Waits until a workerd with `--control-fd=3` listens on all these sockets; returns their ports. */
export function listening(
  child: ChildProcess,
  sockets: readonly string[],
  deadlineMs = START_DEADLINE_MS,
): Promise<ReadonlyMap<string, number>> {
  const control = child.stdio[3] as Readable;
  return new Promise((resolve, reject) => {
    const ports = new Map<string, number>();
    let text = '';
    const late = setTimeout(() => reject(new Error('workerd does not listen')), deadlineMs);
    child.once('error', reject);
    control.once('close', () => reject(new Error('workerd ended')));
    control.setEncoding('utf8').on('data', (part: string) => {
      const lines = (text + part).split('\n');
      text = lines.pop() ?? '';
      for (const line of lines) {
        const { event, socket, port } = JSON.parse(line) as Record<string, string | number>;
        if (event === 'listen') ports.set(String(socket), Number(port));
      }
      if (sockets.some((name) => !ports.has(name))) return;
      clearTimeout(late);
      resolve(ports);
    });
  });
}
