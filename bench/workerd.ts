/** Serves a variant in workerd: its configuration, its process and the process's cost. */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { RUN } from '../harness/processes.ts';
import { COMPATIBILITY_DATE, listening, text, textBindings, WORKERD } from '../harness/workerd.ts';
import { CHECK_IN_PATH } from '../harness/check-in.ts';
import { Failure } from '../harness/command.ts';
import { headers, REPORT_REGION, SAMPLE, SAMPLE_BODY, type Headers } from './check-in.ts';
import { cpuSeconds, memory } from '../harness/process-usage.ts';

const START_DEADLINE_MS = 10_000;
const LOG_DEADLINE_MS = 5_000;

/** A folder with `index.js` and, if `wasm`, `index_bg.wasm`. */
export interface Variant {
  readonly name: string;
  readonly folder: string;
  readonly wasm: boolean;
}

/** A Worker within a process, on a socket of its own. */
export interface Service {
  readonly name: string;
  /** `driver`: runs `driver.js`, which calls the variant. */
  readonly main?: 'variant' | 'driver';
  readonly vars: Readonly<Record<string, string | undefined>>;
  /** `throws`: the binding exists, but writing to it throws. */
  readonly dataset?: 'counting' | 'missing' | 'throws';
}

/** Settings that all processes of one run share. */
export interface Site {
  /** For configurations and logs. */
  readonly folder: string;
  /** Cores of the server and of the load generator. */
  readonly serverCore?: number;
  readonly loadCore?: number;
  /** The expected points, by their index. */
  readonly expected: Readonly<Record<string, object>>;
}

export interface Workerd {
  readonly variant: Variant;
  /** The port of the first service, or of the named one. */
  port(service?: string): number;
  /** CPU time since the start, of all threads. */
  cpuSeconds(): number;
  residentMiB(): number;
  /** Returns how many points the dataset counted since the last call; `ask` has to send the report request. */
  points(ask: () => Promise<unknown>): Promise<number>;
  stop(): Promise<void>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: string;
}

export interface HttpRequest {
  readonly method?: string;
  readonly path?: string;
  readonly headers?: Headers;
  readonly body?: string | Uint8Array;
  /** Leaves the request open after `body`. */
  readonly unfinished?: boolean;
}

const running = new Set<ChildProcess>();

/** Starts a program that `stopAll` ends. */
export function start(
  command: string,
  args: readonly string[],
  stdio: (number | 'ignore' | 'pipe' | 'inherit')[],
  core?: number,
  env?: Readonly<Record<string, string>>,
): ChildProcess {
  const options = { stdio, env: env === undefined ? undefined : { ...RUN, ...env } };
  // taskset replaces itself with the command, so the PID is the command's.
  const child =
    core === undefined
      ? spawn(command, args, options)
      : spawn('taskset', ['-c', `${core}`, command, ...args], options);
  running.add(child);
  child.once('close', () => running.delete(child));
  return child;
}

export function stopAll(): void {
  for (const child of running) child.kill('SIGKILL');
}

/** Resolves to the exit code; 1 if a signal ended the program. */
export const ended = (child: ChildProcess, command: string): Promise<number> =>
  new Promise((resolve, reject) => {
    child.once('error', (error) => reject(new Failure(`cannot run ${command}: ${error.message}`)));
    child.once('close', (code) => resolve(code ?? 1));
  });

let processes = 0;

/** Resolves once workerd listens on all sockets. */
export async function serve(
  site: Site,
  variant: Variant,
  services: readonly Service[],
): Promise<Workerd> {
  processes += 1;
  const path = join(site.folder, `${variant.name}-${processes}`);
  const logPath = `${path}.log`;
  writeFileSync(`${path}.capnp`, configuration(site, variant, services));
  // A file, because a pipe would wake up this process for each logged refusal.
  const log = openSync(logPath, 'w');
  const args = ['serve', '--control-fd=3', `${path}.capnp`];
  const child = start(WORKERD, args, ['ignore', log, log, 'pipe'], site.serverCore);
  closeSync(log);
  const { pid } = child;
  const readLog = () => readFileSync(logPath, 'utf8');
  const exited = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const stop = async () => {
    child.kill('SIGKILL');
    await exited;
    rmSync(logPath, { force: true });
  };

  let ports: ReadonlyMap<string, number>;
  try {
    ports = await listening(child, services.map(({ name }) => name), START_DEADLINE_MS);
  } catch (error) {
    throw new Failure(`${variant.name}: ${(error as Error).message}\n${readLog()}`);
  }
  return {
    variant,
    port: (service = services[0].name) => ports.get(service)!,
    cpuSeconds: () => cpuSeconds(pid!),
    residentMiB: () => memory(pid!).resident,
    async points(ask) {
      const reports = () => [...readLog().matchAll(new RegExp(`${REPORT_REGION}: (\\d+)`, 'g'))];
      const before = reports().length;
      await ask();
      const deadline = Date.now() + LOG_DEADLINE_MS;
      while (Date.now() < deadline) {
        const report = reports()[before];
        if (report !== undefined) return Number(report[1]);
        await delay(2);
      }
      const end = readLog().slice(-2_000);
      throw new Failure(`${variant.name}: no count of the points in the log:\n${end}`);
    },
    stop,
  };
}

function configuration(site: Site, variant: Variant, services: readonly Service[]): string {
  const { expected } = site;
  const embed = (name: string) => `embed ${text(`${variant.name}/${name}`)}`;
  const modules = (main: Service['main']) => [
    ...(main === 'driver' ? ['(name = "driver", esModule = embed "driver.js")'] : []),
    `(name = "variant", esModule = ${embed('index.js')})`,
    ...(variant.wasm ? [`(name = "index_bg.wasm", wasm = ${embed('index_bg.wasm')})`] : []),
  ];
  const dataset = {
    counting: [
      `(name = "KILOCLAW_CONTROLLER_AE", wrapped = (moduleName = "bench:dataset",
          innerBindings = [(name = "expected", json = ${text(JSON.stringify(expected))})]))`,
    ],
    missing: [],
    // A text binding has no `writeDataPoint`, so the call throws.
    throws: ['(name = "KILOCLAW_CONTROLLER_AE", text = "not a dataset")'],
  };
  const bindings = (service: Service) => [
    ...textBindings(service.vars),
    ...dataset[service.dataset ?? 'counting'],
  ];
  const sockets = services.map(({ name }) => {
    const address = '"127.0.0.1:0"'; // any free port; workerd reports it
    return `(name = ${text(name)}, address = ${address}, http = (), service = ${text(name)})`;
  });
  const list = (items: readonly string[]) => `[\n      ${items.join(',\n      ')}\n    ]`;
  return `using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = ${list(
    services.map(
      (service) => `(name = ${text(service.name)}, worker = (
        modules = ${list(modules(service.main))},
        bindings = ${list(bindings(service))},
        compatibilityDate = ${text(COMPATIBILITY_DATE)}
      ))`,
    ),
  )},
  sockets = ${list(sockets)},
  extensions = [(modules = [
    (name = "bench:dataset", internal = true, esModule = embed "dataset.js")
  ])]
);
`;
}

/** Sends one request, on a connection of its own. */
export function ask(port: number, request: HttpRequest): Promise<Answer> {
  const { method = 'POST', path = CHECK_IN_PATH, headers, body, unfinished = false } = request;
  return new Promise((resolve, reject) => {
    const sent = httpRequest({ host: '127.0.0.1', port, method, path, headers, agent: false });
    sent.setTimeout(5_000, () => sent.destroy(new Failure(`no answer to ${method} ${path}`)));
    sent.once('error', reject);
    sent.once('response', (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (part: string) => (body += part));
      response.once('error', reject);
      response.once('end', () => {
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body });
        sent.destroy();
      });
    });
    if (unfinished) sent.write(body ?? '');
    else sent.end(body);
  });
}

/** The sample check-in with the region that makes the dataset log its count. */
export const REPORT: HttpRequest = {
  headers: {
    ...headers(SAMPLE.sandboxId),
    'content-length': `${SAMPLE_BODY.length}`,
    'fly-region': REPORT_REGION,
  },
  body: SAMPLE_BODY,
};
