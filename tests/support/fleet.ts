/** Real agents on machines with counters that the test sets, and a proxy that records their check-ins. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, request, type IncomingMessage, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { read, type JsonPoint } from '../../local-ae/support/instance.js';
import { AGENT } from '../../harness/agent.ts';
import { RUN } from '../../harness/processes.ts';
import { API_KEY, CHECK_IN_PATH, gatewayToken } from '../../harness/check-in.ts';
import { listen, type Context } from '../../harness/context.ts';
import { until } from './until.ts';

/** A check-in's increments since the last accepted one. */
export type Deltas = readonly [restarts: number, bytesIn: number, bytesOut: number];

export const NOTHING: Deltas = [0, 0, 0];

export const plus = (a: Deltas, b: Deltas): Deltas => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
export const minus = (a: Deltas, b: Deltas): Deltas => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
export const sum = (all: Iterable<Deltas>): Deltas => [...all].reduce(plus, NOTHING);

export const deltasOf = ({ doubles }: JsonPoint): Deltas => [
  Number(doubles[0]),
  Number(doubles[4]),
  Number(doubles[5]),
];

/** Reads all points of a store, page by page. */
export async function allPoints(port: number): Promise<JsonPoint[]> {
  const all: JsonPoint[] = [];
  for (;;) {
    const { points } = await read(port, `?limit=10000&after=${all.at(-1)?.id ?? 0}`);
    if (points.length === 0) return all;
    all.push(...points);
  }
}

/**
 * A command that records each start and ends after a second. Its fifth, tenth, fifteenth and twentieth run
 * crashes; with more crashes it would be down most of the time. After `hold`, its next run stays up.
 */
const COMMAND = `
  echo start >>"$0"
  if [ -e "$0.hold" ]; then touch "$0.held"; exec sleep 600; fi
  sleep 1.1
  case $(wc -l <"$0") in 5 | 10 | 15 | 20) kill -s SEGV $$ ;; esac`;

export interface MachineOptions {
  /** A command prefix that runs the agent, for example in another namespace. */
  readonly by?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly args?: readonly string[];
  /** Seconds between check-ins. */
  readonly interval?: number;
  /** Seconds before the first check-in. */
  readonly initialDelay?: number;
  /** Uses the machine's own counters instead of made-up ones. */
  readonly realCounters?: boolean;
  readonly stateFile?: string;
}

/** A machine with an agent, whose command keeps ending. */
export class Machine {
  readonly folder = mkdtempSync(path.join(tmpdir(), 'kiloclaw-machine-'));
  readonly sandboxId: string;
  readonly stateFile: string;
  readonly #options: MachineOptions;
  #agent?: ChildProcess;
  #transferred: readonly [number, number] = [0, 0];
  log = '';

  constructor(context: Context, sandboxId: string, options: MachineOptions = {}) {
    this.sandboxId = sandboxId;
    this.#options = options;
    this.stateFile = options.stateFile ?? path.join(this.folder, 'state.json');
    context.after(async () => {
      // SIGTERM first: after a SIGKILL the agent's command would keep running.
      await Promise.race([this.stop(), delay(20_000, undefined, { ref: false })]);
      await this.stop('SIGKILL');
      rmSync(this.folder, { recursive: true, force: true });
    });
    mkdirSync(path.join(this.folder, 'net'));
    writeFileSync(path.join(this.folder, 'loadavg'), '0.50 0.07 1.42 3/4280 2496732\n');
    this.transfer(0, 0);
  }

  /** Advances the counters of eth0 atomically, because the agent may read at the same time. */
  transfer(bytesIn: number, bytesOut: number) {
    this.#transferred = [this.#transferred[0] + bytesIn, this.#transferred[1] + bytesOut];
    const [now, next] = ['dev', 'next'].map((name) => path.join(this.folder, 'net', name)) as [string, string];
    // Nonzero from the start, like an interface that has been up for a while.
    const [received, sent] = this.#transferred.map((bytes) => 1_000_000 + bytes);
    const line = `eth0: ${received} 0 0 0 0 0 0 0 ${sent} 0 0 0 0 0 0 0`;
    writeFileSync(next, `Inter-| Receive | Transmit\n face |bytes packets\n${line}\n`);
    renameSync(next, now);
  }

  /** Starts the agent, which by default checks in at once and every second. */
  start(url: string, command: readonly string[] = ['sh', '-c', COMMAND, this.#starts]) {
    const { by = [], env = {}, args = [], interval = 1, initialDelay = 0, realCounters } = this.#options;
    const timing = [`--initial-delay=${initialDelay}`, `--interval=${interval}`, '--jitter=0'];
    const options = ['run', ...timing, '--log-level=debug'];
    const whole = [...by, AGENT, ...options, ...args, '--', ...command];
    const [program, ...rest] = whole as [string, ...string[]];
    this.#agent = spawn(program, rest, {
      env: {
        ...RUN,
        PATH: process.env.PATH,
        KILOCLAW_CHECKIN_URL: url,
        KILOCODE_API_KEY: API_KEY,
        OPENCLAW_GATEWAY_TOKEN: gatewayToken(this.sandboxId),
        KILOCLAW_SANDBOX_ID: this.sandboxId,
        KILOCLAW_STATE_FILE: this.stateFile,
        ...(realCounters ? {} : { KILOCLAW_PROC_ROOT: this.folder }),
        ...env,
      },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#agent.stderr!.setEncoding('utf8').on('data', (text: string) => (this.log += text));
  }

  /** Keeps the command up from its next start on, so that the number of restarts is final. */
  async hold() {
    writeFileSync(`${this.#starts}.hold`, '');
    await until(`${this.sandboxId} is held`, () => existsSync(`${this.#starts}.held`));
  }

  /** Stops the agent, by default so that it sends its last check-in. */
  async stop(signal: NodeJS.Signals = 'SIGTERM') {
    const agent = this.#agent;
    if (agent === undefined || agent.exitCode !== null || agent.signalCode !== null) return;
    const ended = once(agent, 'exit');
    agent.kill(signal);
    await ended;
  }

  get alive(): boolean {
    return this.#agent?.exitCode === null && this.#agent.signalCode === null;
  }

  /** From the state file: the unreported deltas, and the counters that they include. */
  get ledger(): { readonly unreported: Deltas; readonly seen: readonly [number, number] } {
    const { ledger } = JSON.parse(readFileSync(this.stateFile, 'utf8')) as {
      ledger: {
        owed: { restarts: number; bytesIn: number; bytesOut: number };
        seenNetwork: Record<string, { bytesIn: number; bytesOut: number }>;
      };
    };
    const { restarts, bytesIn, bytesOut } = ledger.owed;
    const { eth0 } = ledger.seenNetwork;
    return { unreported: [restarts, bytesIn, bytesOut], seen: [eth0.bytesIn, eth0.bytesOut] };
  }

  /** Restarts of the command, as it recorded them itself. */
  get restarts(): number {
    return readFileSync(this.#starts, 'utf8').split('\n').length - 2;
  }

  /** The true deltas, independent of the reported ones. */
  get happened(): Deltas {
    return [this.restarts, ...this.#transferred];
  }

  /** Number of accepted check-ins whose answer the agent received. */
  get acknowledged(): number {
    const acceptance = /: accepted|check-in accepted|accepted again/;
    return this.log.split('\n').filter((line) => acceptance.test(line)).length;
  }

  get #starts(): string {
    return path.join(this.folder, 'starts');
  }
}

/** A check-in that passed the proxy. */
export interface Exchange {
  readonly sandboxId: string;
  readonly deltas: Deltas;
  /** The status that the agent received; undefined if it received none. */
  status?: number;
}

/**
 * A proxy between the agents and the Worker that records check-ins and answers. Like Fly's edge, it adds a
 * region, here the number of the exchange, so that each point is unique.
 */
export class RecordingProxy {
  readonly url: string;
  readonly exchanges: Exchange[] = [];
  readonly #port: number;
  #inFlight = 0;
  #held: { readonly released: Promise<void>; release(): void } | undefined;

  private constructor(port: number, own: number) {
    this.#port = port;
    this.url = `http://127.0.0.1:${own}${CHECK_IN_PATH}`;
  }

  /** The Worker may start to listen on `port` later. */
  static async of(port: number, context: Context): Promise<RecordingProxy> {
    const server = createServer((request, response) => void proxy.#pass(request, response));
    const proxy: RecordingProxy = new RecordingProxy(port, await listen(context, server));
    return proxy;
  }

  /** Number of check-ins without an answer yet. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Stops forwarding, and waits until no check-in is in flight. */
  async hold() {
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    this.#held = { released, release };
    await until('no check-in is in flight', () => this.#inFlight === 0);
  }

  release() {
    this.#held?.release();
    this.#held = undefined;
  }

  async #pass(incoming: IncomingMessage, outgoing: ServerResponse) {
    const parts: Buffer[] = [];
    for await (const part of incoming) parts.push(part as Buffer);
    const body = Buffer.concat(parts);
    while (this.#held !== undefined) await this.#held.released;
    // The agent has timed out, so the check-in must not reach the Worker.
    if (incoming.socket.destroyed) return;
    const received = JSON.parse(body.toString()) as Record<string, number> & { sandboxId: string };
    const deltas = [received.restartsSinceLastCheckin, received.bandwidthBytesIn, received.bandwidthBytesOut] as const;
    const exchange: Exchange = { sandboxId: received.sandboxId, deltas };
    const region = String(this.exchanges.push(exchange) - 1);
    this.#inFlight += 1;
    try {
      const { authorization, 'x-kiloclaw-gateway-token': token } = incoming.headers;
      const headers = { authorization, 'x-kiloclaw-gateway-token': token, 'fly-region': region };
      const onward = request({
        host: '127.0.0.1',
        port: this.#port,
        path: incoming.url,
        method: 'POST',
        agent: false,
        headers: { ...headers, 'content-length': body.length },
      });
      onward.end(body);
      const [answer] = (await once(onward, 'response')) as [IncomingMessage];
      const text = await answer.toArray();
      // The agent has timed out before the answer.
      if (incoming.socket.destroyed) return;
      exchange.status = answer.statusCode!;
      outgoing.writeHead(exchange.status).end(text.join(''));
    } catch {
      // A killed Worker broke its connection: breaks that of the agent, too.
      incoming.socket.destroy();
    } finally {
      this.#inFlight -= 1;
    }
  }
}

/** The outcome of all check-ins. */
export interface Account {
  readonly accepted: number;
  readonly stored: number;
  /** Stored, but the agent received no 204, so it reported the same again. */
  readonly twice: readonly Exchange[];
  /** Answered with 204, but not stored. */
  readonly lost: readonly Exchange[];
}

/** Compares answers with stored points. Asserts that no exchange is stored more than once. */
export function account({ exchanges }: RecordingProxy, points: readonly JsonPoint[]): Account {
  const stored = new Set(points.map(({ blobs }) => Number(blobs[6])));
  assert.equal(stored.size, points.length, 'each point is of an exchange of its own');
  for (const point of points) {
    const { sandboxId, deltas } = exchanges[Number(point.blobs[6])];
    assert.deepEqual([point.index1, deltasOf(point)], [sandboxId, deltas], 'as it was reported');
  }
  const accepted = exchanges.filter(({ status }) => status === 204);
  return {
    accepted: accepted.length,
    stored: points.length,
    twice: exchanges.filter(({ status }, i) => status !== 204 && stored.has(i)),
    lost: exchanges.filter(({ status }, i) => status === 204 && !stored.has(i)),
  };
}
