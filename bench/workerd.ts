/** workerd, serving a variant: its configuration, its process and what that costs. */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { RUN } from '../harness/processes.ts';
import { COMPATIBILITY_DATE, listening, text, textBindings, WORKERD } from '../harness/workerd.ts';
import { CHECK_IN_PATH } from '../harness/check-in.ts';
import { headers, REPORT_REGION, SAMPLE, SAMPLE_BODY, type Headers } from './check-in.ts';
import { cpuSeconds, memory } from '../harness/process-usage.ts';

const START_DEADLINE_MS = 10_000;
const LOG_DEADLINE_MS = 5_000;

/** An error of the user or a wrong answer: printed without a stack. */
export class Failure extends Error {}

/** What is measured: a folder with `index.js` and, if it has one, `index_bg.wasm`. */
export interface Variant {
  readonly name: string;
  readonly folder: string;
  readonly wasm: boolean;
}

/** A Worker within a process, on a socket of its own. */
export interface Service {
  readonly name: string;
  /** `driver`: `driver.js` runs, and calls the variant. */
  readonly main?: 'variant' | 'driver';
  readonly vars: Readonly<Record<string, string | undefined>>;
  /** `throws`: the binding is there, but writing to it throws. */
  readonly dataset?: 'counting' | 'missing' | 'throws';
}

/** What all processes of one run have in common. */
export interface Site {
  /** Everything that is written goes here. */
  readonly folder: string;
  /** Where the server runs; the load generator runs on `loadCore`. */
  readonly serverCore?: number;
  readonly loadCore?: number;
  /** The points that are expected, by their index. */
  readonly expected: Readonly<Record<string, object>>;
}

export interface Workerd {
  readonly variant: Variant;
  /** The port of the only service, or of the one with this name. */
  port(service?: string): number;
  /** CPU time since the start, of all threads. */
  cpuSeconds(): number;
  residentMiB(): number;
  /** Asks the dataset how many points it took since it was last asked. */
  points(ask: () => Promise<unknown>): Promise<number>;
  stop(): Promise<void>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: string;
}

export interface Question {
  readonly method?: string;
  readonly path?: string;
  readonly headers?: Headers;
  readonly body?: string | Uint8Array;
  /** The rest of the body never comes. */
  readonly unfinished?: boolean;
}

const running = new Set<ChildProcess>();

/** Starts a program that ends with this process, at the latest. */
export function start(
  command: string,
  args: readonly string[],
  stdio: (number | 'ignore' | 'pipe' | 'inherit')[],
  core?: number,
  env?: Readonly<Record<string, string>>,
): ChildProcess {
  const options = { stdio, env: env === undefined ? undefined : { ...RUN, ...env } };
  // taskset becomes the command, so the process is the same.
  const child =
    core === undefined
      ? spawn(command, args, options)
      : spawn('taskset', ['-c', `${core}`, command, ...args], options);
  running.add(child);
  child.once('close', () => running.delete(child));
  return child;
}

/** Ends everything that still runs. */
export function stopAll(): void {
  for (const child of running) child.kill('SIGKILL');
}

/** Waits for a program's end and returns its exit code. */
export const ended = (child: ChildProcess, command: string): Promise<number> =>
  new Promise((resolve, reject) => {
    child.once('error', (error) => reject(new Failure(`cannot run ${command}: ${error.message}`)));
    child.once('close', (code) => resolve(code ?? 1));
  });

let processes = 0;

/** Starts workerd; returns once it listens. */
export async function serve(
  site: Site,
  variant: Variant,
  services: readonly Service[],
): Promise<Workerd> {
  processes += 1;
  const path = join(site.folder, `${variant.name}-${processes}`);
  const logPath = `${path}.log`;
  writeFileSync(`${path}.capnp`, configuration(site, variant, services));
  // A file, not a pipe: refusals are logged, and nobody has to wake up for each of them.
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
    // A text has no `writeDataPoint`, so calling it throws.
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
export function ask(port: number, question: Question): Promise<Answer> {
  const { method = 'POST', path = CHECK_IN_PATH, headers, body, unfinished = false } = question;
  return new Promise((resolve, reject) => {
    const request = httpRequest({ host: '127.0.0.1', port, method, path, headers, agent: false });
    request.setTimeout(5_000, () => request.destroy(new Failure(`no answer to ${method} ${path}`)));
    request.once('error', reject);
    request.once('response', (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (part: string) => (body += part));
      response.once('error', reject);
      response.once('end', () => {
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body });
        request.destroy();
      });
    });
    if (unfinished) request.write(body ?? '');
    else request.end(body);
  });
}

/** The sample's check-in, from where it has the dataset report. */
export const REPORT: Question = {
  headers: {
    ...headers(SAMPLE.sandboxId),
    'content-length': `${SAMPLE_BODY.length}`,
    'fly-region': REPORT_REGION,
  },
  body: SAMPLE_BODY,
};
