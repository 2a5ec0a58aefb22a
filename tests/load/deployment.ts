/**
 * A deployment on this machine: the built Worker in a plain workerd and the local Analytics Engine. Workers with other
 * secrets replace the first one on the same port, like a new version in the cloud.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';

import { rows } from '../../local-ae/support/instance.js';
import { COMPATIBILITY_DATE, INGEST, listening, text, WORKERD, workerService } from '../../harness/workerd.ts';
import { cpuSeconds, memory } from '../../harness/process-usage.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');

/** The store's maximum. Beyond it, the store drops the oldest points and the comparison fails. */
const MAX_ROWS = 20_000_000;

/** Time for requests in flight to end when a Worker is replaced. */
const DRAIN_MS = 10_000;

/**
 * The destination of the points:
 *
 * - `inside`: the local Analytics Engine in the Worker's process, as in all other tests.
 * - `apart`: one in its own process, which survives the replacement of a Worker. workerd's native binding then
 *   opens an HTTP connection for each point in flight. Hundreds of points per second are fine; thousands exceed
 *   the kernel's backlog, and points arrive minutes late.
 * - `nowhere`: a service that answers and does nothing, to show the cost of the store.
 */
export type Store = 'inside' | 'apart' | 'nowhere';

export type Secrets = Readonly<{ KILOCODE_API_KEY: string; GATEWAY_TOKEN_SECRET: string }>;

/** The cost of a process since its start. */
export interface Cost {
  readonly cpuSeconds: number;
  readonly residentMiB: number;
}

/** A process that ends with this one at the latest. */
export class Program {
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;

  constructor(child: ChildProcess) {
    this.#child = child;
    this.#exited = once(child, 'close');
    process.once('exit', () => child.kill('SIGKILL'));
  }

  get child(): ChildProcess {
    return this.#child;
  }

  cost(): Cost {
    const pid = this.#child.pid!;
    return { cpuSeconds: cpuSeconds(pid), residentMiB: memory(pid).resident };
  }

  /** Sends SIGTERM first, so that the process answers its open requests. */
  async stop(): Promise<void> {
    this.#child.kill('SIGTERM');
    const late = setTimeout(() => this.#child.kill('SIGKILL'), DRAIN_MS);
    await this.#exited;
    clearTimeout(late);
  }
}

/** `local-ae/workerd.capnp` with a higher limit of points, and a configuration with a socket for them. */
function storeConfiguration(): string {
  const own = readFileSync(path.join(ROOT, 'local-ae/workerd.capnp'), 'utf8')
    .replaceAll('embed "', 'embed "/local-ae/')
    .replace('\\"maxRows\\": 1000000', `\\"maxRows\\": ${MAX_ROWS}`);
  if (!own.includes(`${MAX_ROWS}`)) throw new Error('local-ae/workerd.capnp no longer has this maxRows option');
  return `${own}
const ingest :Workerd.ServiceDesignator = ${INGEST};

const store :Workerd.Config = (
  services = [.service, .disk],
  sockets = [.endpoint, (name = "ingest", address = "127.0.0.1:0", http = (), service = .ingest)]
);
`;
}

const NOWHERE = `export default { fetch: () => new Response(null, { status: 204 }) };`;

function workerConfiguration(secrets: Secrets, store: Store, ingest: number): string {
  const { designator, services, sockets } = {
    inside: {
      designator: 'Store.ingest',
      services: 'Store.service, Store.disk',
      sockets: ', Store.endpoint',
    },
    apart: {
      designator: '"store"',
      services: `(name = "store", external = (address = "127.0.0.1:${ingest}", http = ()))`,
      sockets: '',
    },
    nowhere: {
      designator: '"nowhere"',
      services: `(name = "nowhere", worker = (
      modules = [(name = "nowhere.js", esModule = ${text(NOWHERE)})],
      compatibilityDate = ${text(COMPATIBILITY_DATE)}
    ))`,
      sockets: '',
    },
  }[store];
  return `
using Workerd = import "/workerd/workerd.capnp";
using Store = import "store.capnp";

const config :Workerd.Config = (
  services = [
    ${workerService(secrets, designator)},
    ${services}
  ],
  sockets = [(name = "worker", address = "127.0.0.1:0", http = (), service = "worker")${sockets}],
  extensions = [Store.extension]
);
`;
}

/** One Worker per set of secrets, each of which replaces the one before, and their store. */
export class Deployment {
  readonly port: number;
  /** The later Workers wait with the socket on which they will listen. */
  readonly #workers: readonly Program[];
  readonly #apart: Program | undefined;
  #current = 0;
  #endpoint = 0;

  private constructor(port: number, workers: readonly Program[], apart: Program | undefined) {
    this.port = port;
    this.#workers = workers;
    this.#apart = apart;
  }

  static async start(folder: string, store: Store, versions: readonly Secrets[]): Promise<Deployment> {
    mkdirSync(path.join(folder, 'points'));
    const storeFile = path.join(folder, 'store.capnp');
    writeFileSync(storeFile, storeConfiguration());
    const disk = [
      `--directory-path=local-ae:disk=${path.join(folder, 'points')}`,
      '--socket-addr=local-ae:read=127.0.0.1:0',
    ];
    const serve = ['serve', '--experimental', '--control-fd=3', `--import-path=${ROOT}`];

    let apart: Program | undefined;
    let ports: ReadonlyMap<string, number> = new Map();
    if (store === 'apart') {
      const args = [...serve, ...disk, storeFile, 'store'];
      apart = new Program(spawn(WORKERD, args, { stdio: ['ignore', 'inherit', 'inherit', 'pipe'] }));
      ports = await listening(apart.child, ['local-ae:read', 'ingest']);
    }

    // All Workers share one socket, which Node creates without accepting on it. The next Worker accepts the
    // connections that wait during a replacement, so none is refused.
    const server = createServer();
    server.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 });
    await once(server, 'listening');
    const { port } = server.address() as { port: number };
    const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
    const workers = versions.map((secrets, i) => {
      const file = path.join(folder, `worker-${i}.capnp`);
      writeFileSync(file, workerConfiguration(secrets, store, ports.get('ingest') ?? 0));
      const log = openSync(path.join(folder, `worker-${i}.log`), 'w');
      const own = [...serve, ...(store === 'inside' ? disk : []), '--socket-fd=worker=4', file];
      // The shell waits for a line, then execs workerd.
      const args = ['-c', 'read -r go && exec "$@"', 'sh', WORKERD, ...own];
      const child = spawn('sh', args, { stdio: ['pipe', log, log, 'pipe', fd] });
      closeSync(log);
      return new Program(child);
    });
    server.close();
    const deployment = new Deployment(port, workers, apart);
    deployment.#endpoint = ports.get('local-ae:read') ?? 0;
    const sockets = store === 'inside' ? ['worker', 'local-ae:read'] : ['worker'];
    const own = await deployment.#go(0, sockets);
    deployment.#endpoint = own.get('local-ae:read') ?? deployment.#endpoint;
    return deployment;
  }

  #go(version: number, sockets: readonly string[]): Promise<ReadonlyMap<string, number>> {
    const { child } = this.#workers[version];
    child.stdin!.write('go\n');
    return listening(child, sockets);
  }

  /** Starts the next Worker, then stops the current one, so that one always listens. */
  async deployNext(): Promise<void> {
    await this.#go(this.#current + 1, ['worker']);
    this.#current += 1;
    await this.#workers[this.#current - 1].stop();
  }

  /** The cost of the current Worker, and of the store if that is `inside`. */
  cost(): Cost {
    return this.#workers[this.#current].cost();
  }

  query(sql: string): Promise<Record<string, string | number>[]> {
    return rows(this.#endpoint, sql);
  }

  async stored(): Promise<number> {
    const response = await fetch(`http://127.0.0.1:${this.#endpoint}/status`);
    return ((await response.json()) as { points: number }).points;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#workers.slice(this.#current).map((worker) => worker.stop()));
    await this.#apart?.stop();
  }
}
