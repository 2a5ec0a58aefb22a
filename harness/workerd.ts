/**
 * The built Worker and the local Analytics Engine in a plain workerd. Miniflare's own Worker stands in
 * front of the one under test: it answers some requests itself, and what it passes on are not the bytes
 * that came. Here there is nothing in between.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Readable } from 'node:stream';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };

const ROOT = path.resolve(import.meta.dirname, '..');

/** The program itself: `node_modules/.bin/workerd` may be a script, which would be killed in its place. */
export const WORKERD = (
  createRequire(createRequire(import.meta.url).resolve('miniflare'))('workerd') as { default: string }
).default;

/** The deployed configuration is the one place for it. */
export const [, COMPATIBILITY_DATE] =
  /^compatibility_date = "(.+)"$/m.exec(readFileSync(path.join(ROOT, 'wrangler.toml'), 'utf8')) ?? [];

const START_DEADLINE_MS = 60_000;

export interface Workerd {
  readonly pid: number;
  /** Where the Worker listens. */
  readonly port: number;
  /** Where the local Analytics Engine is asked. */
  readonly store: number;
  /** All that it has written to its standard error so far: the Worker's log lines and workerd's own. */
  log(): string;
  stop(): Promise<void>;
}

/** Where it runs, if not just anywhere and once. */
export interface Site {
  /** The folder under `build/`, or `.` for what is deployed. */
  readonly build?: string;
  /** Where points are kept; it outlives this workerd. */
  readonly folder?: string;
  /** Where the Worker and the local Analytics Engine are to listen. */
  readonly worker?: string;
  readonly store?: string;
}

/** Text in Cap'n Proto's notation, which has JSON's escapes. */
export const text = JSON.stringify;

/** Variables as bindings, in Cap'n Proto's notation. */
export const textBindings = (vars: Readonly<Record<string, string | undefined>>): string[] =>
  Object.entries(vars)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `(name = ${text(name)}, text = ${text(value)})`);

/** The built Worker as a service; `store` designates the service that its data points go to. */
export const workerService = (vars: Readonly<Record<string, string>>, store: string, build = '.'): string =>
  `(name = "worker", worker = (
      modules = [
        (name = "index.js", esModule = embed ${text(path.posix.join('/build', build, 'index.js'))}),
        (name = "index_bg.wasm", wasm = embed ${text(path.posix.join('/build', build, 'index_bg.wasm'))})
      ],
      compatibilityDate = ${text(COMPATIBILITY_DATE)},
      bindings = [
        ${textBindings(vars).map((binding) => `${binding},`).join('\n        ')}
        (name = "KILOCLAW_CONTROLLER_AE", wrapped = (
          moduleName = "local-ae:dataset",
          innerBindings = [(name = "native", analyticsEngine = ${store})]
        ))
      ]
    ))`;

/** The local Analytics Engine's service for data points of the contract's dataset. */
export const INGEST = `(
  name = "local-ae:service",
  entrypoint = "ingest",
  props = (json = ${text(JSON.stringify({ dataset: layout.dataset }))})
)`;

const configuration = (vars: Readonly<Record<string, string>>, build: string) => `
using Workerd = import "/workerd/workerd.capnp";
using LocalAe = import "/local-ae/workerd.capnp";

const config :Workerd.Config = (
  services = [
    ${workerService(vars, INGEST, build)},
    # Where a Worker's own requests go: to this machine, too.
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

/** Starts workerd; it stops when `context` ends: by SIGKILL, as everything must survive that. */
export async function startWorkerd(
  vars: Readonly<Record<string, string>>,
  context: { after(stop: () => Promise<void>): void },
  site: Site = {},
): Promise<Workerd> {
  const folder = site.folder ?? mkdtempSync(path.join(tmpdir(), 'kiloclaw-workerd-'));
  mkdirSync(path.join(folder, 'points'), { recursive: true });
  writeFileSync(path.join(folder, 'config.capnp'), configuration(vars, site.build ?? '.'));
  const args = [
    'serve',
    '--experimental',
    '--control-fd=3',
    `--import-path=${ROOT}`,
    `--directory-path=local-ae:disk=${path.join(folder, 'points')}`,
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

/** Waits until workerd, with its control messages on descriptor 3, listens on all these sockets; their ports. */
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
