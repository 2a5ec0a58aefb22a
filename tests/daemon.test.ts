/** The agent as a daemon, end to end: its check-ins reach the Worker through a failing network. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { connect, createServer, type Server, type Socket } from 'node:net';
import path from 'node:path';
import { test, type TestContext } from 'node:test';

import { AGENT } from '../harness/agent.ts';
import { RUN } from '../harness/processes.ts';
import { API_KEY, CHECK_IN_PATH, gatewayToken } from '../harness/check-in.ts';
import { listen, temporaryFolder } from '../harness/context.ts';
import { startWorker, type Worker } from '../harness/worker.ts';
import { until } from './support/until.ts';

const SANDBOX_ID = 'sandbox-7';

/** A machine whose counters and process status the test sets. */
class Machine {
  readonly folder: string;
  /** The status that the controller reports. */
  readonly process = { state: 'running', pid: 1, uptime: 1, restarts: 0, lastExit: null as unknown };

  constructor(context: TestContext) {
    this.folder = temporaryFolder(context);
    mkdirSync(path.join(this.folder, 'net'));
    writeFileSync(path.join(this.folder, 'loadavg'), '0.50 0.07 1.42 3/4280 2496732\n');
    this.transfer(0, 0);
  }

  /** Sets the counters of eth0 atomically, because the agent may read at the same time. */
  transfer(bytesIn: number, bytesOut: number) {
    const [now, next] = ['dev', 'next'].map((name) => path.join(this.folder, 'net', name)) as [string, string];
    const line = `eth0: ${bytesIn} 0 0 0 0 0 0 0 ${bytesOut} 0 0 0 0 0 0 0`;
    writeFileSync(next, `Inter-| Receive | Transmit\n face |bytes packets\n${line}\n`);
    renameSync(next, now);
  }
}

/** The network between the agent and the Worker. */
class Network {
  readonly #sockets = new Set<Socket>();
  readonly url: string;
  #cut: 'no' | 'refuses' | 'swallows' = 'no';
  attempts = 0;

  constructor(server: Server, own: number, port: number) {
    this.url = `http://127.0.0.1:${own}${CHECK_IN_PATH}`;
    server.on('connection', (near: Socket) => {
      this.attempts += 1;
      this.#keep(near);
      if (this.#cut === 'refuses') near.resetAndDestroy();
      if (this.#cut !== 'no') return;
      const far = connect(port, '127.0.0.1');
      this.#keep(far);
      near.pipe(far).pipe(near);
    });
  }

  static async to(worker: Worker, context: TestContext): Promise<Network> {
    const server = createServer();
    const port = await listen(context, server);
    const network = new Network(server, port, Number(worker.url.port));
    context.after(() => network.#drop());
    return network;
  }

  /** Drops open connections; refuses new ones, or accepts and never answers them. */
  cut(how: 'refuses' | 'swallows') {
    this.#cut = how;
    this.#drop();
  }

  restore() {
    this.#cut = 'no';
    this.#drop();
  }

  #keep(socket: Socket) {
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket)).on('error', () => socket.destroy());
  }

  #drop() {
    for (const socket of this.#sockets) socket.destroy();
  }
}

/** Starts the agent, which checks in at once and every second; it ends with the test. */
async function watch(context: TestContext, machine: Machine, url: string): Promise<ChildProcess> {
  const controller = createHttpServer((_, response) => response.end(JSON.stringify(machine.process)));
  const statusUrl = `http://127.0.0.1:${await listen(context, controller)}/`;
  const args = ['watch', '--initial-delay=0', '--interval=1', '--jitter=0', '--timeout=1', '--log-level=off'];
  const agent = spawn(AGENT, args, {
    env: {
      ...RUN,
      KILOCLAW_CHECKIN_URL: url,
      KILOCODE_API_KEY: API_KEY,
      OPENCLAW_GATEWAY_TOKEN: gatewayToken(SANDBOX_ID),
      KILOCLAW_SANDBOX_ID: SANDBOX_ID,
      KILOCLAW_STATUS_URL: statusUrl,
      KILOCLAW_PROC_ROOT: machine.folder,
      KILOCLAW_STATE_FILE: path.join(machine.folder, 'state.json'),
    },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  context.after(() => stop(agent));
  return agent;
}

async function stop(agent: ChildProcess, signal: NodeJS.Signals = 'SIGKILL'): Promise<number | null> {
  if (agent.exitCode === null && agent.signalCode === null) {
    const ended = once(agent, 'exit');
    agent.kill(signal);
    await ended;
  }
  return agent.exitCode;
}

/** Sums over all points: restarts, bytes in, bytes out. */
async function reported(worker: Worker): Promise<number[]> {
  const points = await worker.points(1);
  return [0, 4, 5].map((slot) => points.reduce((sum, { doubles }) => sum + Number(doubles[slot]), 0));
}

const worker = await startWorker();
test.beforeEach(() => worker.clear());

for (const how of ['refuses', 'swallows'] as const) {
  test(`nothing is lost while the network ${how} connections for several intervals`, async (context) => {
    const machine = new Machine(context);
    const network = await Network.to(worker, context);
    await watch(context, machine, network.url);
    await worker.points(1);
    network.cut(how);
    const before = network.attempts;
    const steps = [[1_000, 10, 1], [4_000, 40, 3], [9_007_199_254, 70, 3]] as const;
    for (const [index, [bytesIn, bytesOut, restarts]] of steps.entries()) {
      machine.transfer(bytesIn, bytesOut);
      machine.process.restarts = restarts;
      await until('the agent retries', () => network.attempts > before + index);
    }
    const stored = (await worker.points(1)).length;
    network.restore();
    const points = await worker.points(stored + 1);
    const { doubles } = points[stored];
    assert.deepEqual([doubles[0], doubles[4], doubles[5]], [3, 9_007_199_254, 70], 'all in one');
    await worker.points(stored + 2);
    assert.deepEqual(await reported(worker), [3, 9_007_199_254, 70], 'and never again');
  });
}

test('nothing is lost if counters reset while the network is down', async (context) => {
  const machine = new Machine(context);
  const network = await Network.to(worker, context);
  machine.transfer(500, 500);
  await watch(context, machine, network.url);
  await worker.points(1);
  network.cut('refuses');
  const tried = async () => {
    const { attempts } = network;
    await until('the agent retries', () => network.attempts > attempts + 1);
  };
  machine.transfer(2_500, 1_500);
  machine.process.restarts = 4;
  await tried();
  // As after a restart of the interface and of the controller.
  machine.transfer(70, 8);
  machine.process.restarts = 1;
  await tried();
  network.restore();
  await until('it is reported', async () => (await reported(worker))[1] > 0);
  assert.deepEqual(await reported(worker), [5, 2_070, 1_008]);
});

test('a restarted agent reports the deltas that a killed agent had not reported', async (context) => {
  const machine = new Machine(context);
  const network = await Network.to(worker, context);
  const first = await watch(context, machine, network.url);
  await worker.points(1);
  network.cut('refuses');
  machine.transfer(1_000, 100);
  machine.process.restarts = 2;
  const { attempts } = network;
  await until('the agent retries', () => network.attempts > attempts + 1);
  await stop(first);
  machine.transfer(1_250, 110);
  network.restore();
  await watch(context, machine, network.url);
  await until('it is reported', async () => (await reported(worker))[1] > 0);
  assert.deepEqual(await reported(worker), [2, 1_250, 110]);
});

test('the last check-in of a stopped agent has the state shutting_down', async (context) => {
  const machine = new Machine(context);
  const agent = await watch(context, machine, new URL(CHECK_IN_PATH, worker.url).href);
  await worker.points(1);
  assert.equal(await stop(agent, 'SIGTERM'), 0);
  await until('it is reported', async () => (await worker.points(1)).at(-1)?.blobs[5] === 'shutting_down');
});
