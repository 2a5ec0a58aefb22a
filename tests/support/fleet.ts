/** Real agents on machines whose counters the test sets, and a witness of all that they report. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, request, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { read, type JsonPoint } from '../../local-ae/support/instance.js';
import { AGENT } from '../../harness/agent.ts';
import { RUN } from '../../harness/processes.ts';
import { API_KEY, gatewayToken } from '../../harness/check-in.ts';

/** Restarts, bytes in and bytes out: reported as the difference to the last check-in. */
export type Deltas = readonly [restarts: number, bytesIn: number, bytesOut: number];

export const NOTHING: Deltas = [0, 0, 0];

export const plus = (a: Deltas, b: Deltas): Deltas => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
export const minus = (a: Deltas, b: Deltas): Deltas => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
export const sum = (all: Iterable<Deltas>): Deltas => [...all].reduce(plus, NOTHING);

/** The deltas of a point. */
export const deltasOf = ({ doubles }: JsonPoint): Deltas => [
  Number(doubles[0]),
  Number(doubles[4]),
  Number(doubles[5]),
];

/** Waits until something is so. */
export async function until(so: () => Promise<boolean> | boolean, what: string, ms = 30_000) {
  const deadline = Date.now() + ms;
  while (!(await so())) {
    assert.ok(Date.now() < deadline, `in time: ${what}`);
    await delay(20);
  }
}

/** All points of a store, by pages. */
export async function allPoints(port: number): Promise<JsonPoint[]> {
  const all: JsonPoint[] = [];
  for (;;) {
    const { points } = await read(port, `?limit=10000&after=${all.at(-1)?.id ?? 0}`);
    if (points.length === 0) return all;
    all.push(...points);
  }
}

/**
 * A command that notes each of its starts, lasts a second and ends. The fifth, tenth, fifteenth and twentieth
 * time it crashes; more often, and it would be down most of the time. Once it is to be `held`, it stays up.
 */
const COMMAND = `
  echo start >>"$0"
  if [ -e "$0.hold" ]; then touch "$0.held"; exec sleep 600; fi
  sleep 1.1
  case $(wc -l <"$0") in 5 | 10 | 15 | 20) kill -s SEGV $$ ;; esac`;

export interface MachineOptions {
  /** What the agent is started by: a program that runs it in another namespace, say. */
  readonly by?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly args?: readonly string[];
  /** Between check-ins, in seconds. */
  readonly interval?: number;
  /** Before the first one. */
  readonly initialDelay?: number;
  /** The machine's own counters instead of made-up ones. */
  readonly realCounters?: boolean;
  readonly stateFile?: string;
}

type Context = { after(stop: () => Promise<void> | void): void };

/** A machine with an agent that runs a command which keeps ending. */
export class Machine {
  readonly folder = mkdtempSync(path.join(tmpdir(), 'kiloclaw-machine-'));
  readonly sandboxId: string;
  readonly stateFile: string;
  readonly #options: MachineOptions;
  #agent?: ChildProcess;
  #transferred: readonly [number, number] = [0, 0];
  /** What the agent has logged. */
  log = '';

  constructor(context: Context, sandboxId: string, options: MachineOptions = {}) {
    this.sandboxId = sandboxId;
    this.#options = options;
    this.stateFile = options.stateFile ?? path.join(this.folder, 'state.json');
    context.after(async () => {
      // Not at once by force: its command would stay behind.
      await Promise.race([this.stop(), delay(20_000, undefined, { ref: false })]);
      await this.stop('SIGKILL');
      rmSync(this.folder, { recursive: true, force: true });
    });
    mkdirSync(path.join(this.folder, 'net'));
    writeFileSync(path.join(this.folder, 'loadavg'), '0.50 0.07 1.42 3/4280 2496732\n');
    this.transfer(0, 0);
  }

  /** Moves the counters of eth0, in one step: the agent may be reading. */
  transfer(bytesIn: number, bytesOut: number) {
    this.#transferred = [this.#transferred[0] + bytesIn, this.#transferred[1] + bytesOut];
    const [now, next] = ['dev', 'next'].map((name) => path.join(this.folder, 'net', name)) as [string, string];
    // It has been up for a while.
    const [received, sent] = this.#transferred.map((bytes) => 1_000_000 + bytes);
    const line = `eth0: ${received} 0 0 0 0 0 0 0 ${sent} 0 0 0 0 0 0 0`;
    writeFileSync(next, `Inter-| Receive | Transmit\n face |bytes packets\n${line}\n`);
    renameSync(next, now);
  }

  /** Starts the agent, checking in at once and, by default, every second. */
  start(url: string, command: readonly string[] = ['sh', '-c', COMMAND, this.#starts]) {
    const { by = [], env = {}, args = [], interval = 1, initialDelay = 0, realCounters } = this.#options;
    const rhythm = [`--initial-delay=${initialDelay}`, `--interval=${interval}`, '--jitter=0'];
    const options = ['run', ...rhythm, '--log-level=debug'];
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

  /** Keeps the command up from its next start on, so that what has happened stays what it is. */
  async hold() {
    writeFileSync(`${this.#starts}.hold`, '');
    await until(() => existsSync(`${this.#starts}.held`), `${this.sandboxId} is held`);
  }

  /** Ends the agent, by default after its last check-in. */
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

  /** What is unreported, and the bytes up to which it has counted, by its state file. */
  get ledger(): { readonly owed: Deltas; readonly seen: readonly [number, number] } {
    const { ledger } = JSON.parse(readFileSync(this.stateFile, 'utf8')) as {
      ledger: {
        owed: { restarts: number; bytesIn: number; bytesOut: number };
        seenNetwork: Record<string, { bytesIn: number; bytesOut: number }>;
      };
    };
    const { restarts, bytesIn, bytesOut } = ledger.owed;
    const { eth0 } = ledger.seenNetwork;
    return { owed: [restarts, bytesIn, bytesOut], seen: [eth0.bytesIn, eth0.bytesOut] };
  }

  /** How often the command was started again, by its own account. */
  get restarts(): number {
    return readFileSync(this.#starts, 'utf8').split('\n').length - 2;
  }

  /** What happened, whatever was reported. */
  get happened(): Deltas {
    return [this.restarts, ...this.#transferred];
  }

  /** How many acceptances the agent has heard of. */
  get heard(): number {
    const acceptance = /: accepted|accepted (for the first time|again)/;
    return this.log.split('\n').filter((line) => acceptance.test(line)).length;
  }

  get #starts(): string {
    return path.join(this.folder, 'starts');
  }
}

/** A check-in that passed the witness. */
export interface Exchange {
  readonly sandboxId: string;
  readonly deltas: Deltas;
  /** What the agent was answered; undefined is nothing. */
  status?: number;
}

/**
 * Stands between the agents and the Worker, and notes what is asked and what is answered. As Fly's edge
 * does, it adds a region: the number of the exchange. So each point differs from all others.
 */
export class Witness {
  readonly url: string;
  readonly exchanges: Exchange[] = [];
  readonly #port: number;
  #inFlight = 0;
  #held: { readonly released: Promise<void>; release(): void } | undefined;

  private constructor(port: number, own: number) {
    this.#port = port;
    this.url = `http://127.0.0.1:${own}/api/controller/checkin`;
  }

  /** In front of the port that the Worker listens on, or will. */
  static async of(port: number, context: Context): Promise<Witness> {
    const server = createServer((request, response) => void witness.#pass(request, response));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const witness: Witness = new Witness(port, (server.address() as AddressInfo).port);
    context.after(() => {
      server.closeAllConnections();
      server.close();
    });
    return witness;
  }

  /** How many check-ins are on their way to the Worker, or their answers back. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Lets nothing through any more, and waits until nothing is on its way. */
  async hold() {
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    this.#held = { released, release };
    await until(() => this.#inFlight === 0, 'nothing is on its way');
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
    // It may have given up meanwhile: then nobody sends this any more.
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
      // It did not wait that long.
      if (incoming.socket.destroyed) return;
      exchange.status = answer.statusCode!;
      outgoing.writeHead(exchange.status).end(text.join(''));
    } catch {
      // As if the agent had been connected to the one that is gone.
      incoming.socket.destroy();
    } finally {
      this.#inFlight -= 1;
    }
  }
}

/** What became of the check-ins: answered to the agent, and kept. */
export interface Account {
  readonly accepted: number;
  readonly stored: number;
  /** Stored, but the agent did not hear of it, so it reported the same again. */
  readonly twice: readonly Exchange[];
  /** Answered with 204, but not stored. */
  readonly lost: readonly Exchange[];
}

/** Compares what was answered with what is stored. No exchange may be stored more than once. */
export function account({ exchanges }: Witness, points: readonly JsonPoint[]): Account {
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
