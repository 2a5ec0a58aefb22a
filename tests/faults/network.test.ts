/**
 * Agents in their own network namespace, which read the counters of a real interface, behind a link that is
 * cut, loses packets or is slow. `tools/faults` runs these tests in another namespace.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import type { JsonPoint } from '../../local-ae/support/instance.js';
import { allPoints, deltasOf, Machine, minus, plus, sum, type Deltas } from '../support/fleet.ts';
import { until } from '../support/until.ts';
import { CHECK_IN_PATH, WORKER_SECRETS } from '../../harness/check-in.ts';
import { startWorkerd } from '../../harness/workerd.ts';

const skip = process.env.FAULTS_ISOLATED === undefined && 'needs root and tools/faults';

const SERVER = '10.99.0.1';
const AGENTS = 5;

/** The link, with the agents' namespace on its far side. */
class Link {
  readonly #relay: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  readonly #namespace: ChildProcess;

  private constructor() {
    this.#relay = spawn('python3', [path.join(import.meta.dirname, 'link.py'), 'near', 'far'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#answers = createInterface(this.#relay.stdout!)[Symbol.asyncIterator]();
    this.#namespace = spawn('unshare', ['--net', 'sleep', 'infinity'], { stdio: 'ignore' });
  }

  static async start(t: TestContext): Promise<Link> {
    const link = new Link();
    t.after(async () => {
      for (const child of [link.#relay, link.#namespace]) {
        const ended = once(child, 'exit');
        child.kill('SIGKILL');
        await ended;
      }
    });
    assert.equal((await link.#answers.next()).value, 'ready');
    const ip = (...args: string[]) => execFileSync('ip', args);
    ip('address', 'add', SERVER, 'peer', '10.99.0.2', 'dev', 'near');
    ip('link', 'set', 'near', 'up');
    // The namespace exists only once `unshare` has created it.
    const own = () => link.inside(['readlink', '/proc/self/ns/net']);
    await until('a namespace', () => own() !== execFileSync('readlink', ['/proc/self/ns/net'], { encoding: 'utf8' }));
    ip('link', 'set', 'far', 'netns', String(link.#namespace.pid), 'name', 'eth0');
    // Only the agents may send there, so no IPv6 autoconfiguration.
    link.inside(['sh', '-c', 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6']);
    link.inside(['ip', 'address', 'add', '10.99.0.2', 'peer', SERVER, 'dev', 'eth0']);
    link.inside(['ip', 'link', 'set', 'eth0', 'up']);
    return link;
  }

  /** The command prefix that runs a program on the far side. */
  get by(): readonly string[] {
    return ['nsenter', '--target', String(this.#namespace.pid), '--net'];
  }

  inside(command: readonly string[]): string {
    const [program, ...args] = [...this.by, ...command] as [string, ...string[]];
    return execFileSync(program, args, { encoding: 'utf8' });
  }

  /** The kernel's counters of the agents' interface: bytes in, bytes out. */
  counters(): readonly [number, number] {
    const line = /^ *eth0: *(.+)$/m.exec(this.inside(['cat', '/proc/net/dev']))![1];
    const figures = line.split(/ +/).map(Number);
    return [figures[0], figures[8]];
  }

  set(what: 'loss' | 'delay', value: number) {
    this.#relay.stdin!.write(`${what} ${value}\n`);
  }

  /** Numbers of packets and of lost packets, as text. */
  async count(): Promise<string> {
    this.#relay.stdin!.write('count\n');
    const [packets, lost] = String((await this.#answers.next()).value).split(' ');
    return `${packets} packets, ${lost} lost`;
  }
}

interface Site {
  readonly link: Link;
  readonly machines: readonly Machine[];
  readonly points: () => Promise<JsonPoint[]>;
  /** Restores the link, stops all agents, and compares the points with what happened. */
  readonly settle: () => Promise<void>;
}

async function start(t: TestContext): Promise<Site> {
  const link = await Link.start(t);
  const workerd = await startWorkerd(WORKER_SECRETS, t, { worker: `${SERVER}:0` });
  const url = `http://${SERVER}:${workerd.port}${CHECK_IN_PATH}`;
  const before = link.counters();
  const args = ['--allow-insecure-http', '--timeout=10'];
  const machines = Array.from(
    { length: AGENTS },
    (_, i) => new Machine(t, `sandbox-${i}`, { by: link.by, args, realCounters: true, initialDelay: 2 }),
  );
  for (const machine of machines) machine.start(url);
  await until('each agent received an answer', () => machines.every(({ acknowledged }) => acknowledged > 0));
  const points = () => allPoints(workerd.store);

  const settle = async () => {
    link.set('loss', 0);
    link.set('delay', 0);
    await Promise.all(machines.map((machine) => machine.hold()));
    const acknowledged = machines.map((machine) => machine.acknowledged);
    await until('each agent receives an answer again', () => machines.every((machine, i) => machine.acknowledged > acknowledged[i]));
    await Promise.all(machines.map((machine) => machine.stop()));
    await delay(500);
    const after = link.counters();
    const all = await points();
    let [unanswered, excess]: [number, Deltas] = [0, [0, 0, 0]];
    for (const machine of machines) {
      const own = all.filter(({ index1 }) => index1 === machine.sandboxId).map(deltasOf);
      const { unreported, seen } = machine.ledger;
      const happened: Deltas = [machine.restarts, seen[0] - before[0], seen[1] - before[1]];
      const over = minus(plus(sum(own), unreported), happened);
      const notHeard = own.length - machine.acknowledged;
      const name = `${machine.sandboxId}: ${own.length} points, ${machine.acknowledged} answers received, ${over} reported twice`;
      assert.ok(notHeard >= 0, `accepted is stored: ${name}`);
      // The excess is at most the sum of check-ins whose answer was lost.
      over.forEach((figure, slot) => {
        const largest = own.map((deltas) => deltas[slot]).toSorted((a, b) => b - a).slice(0, notHeard);
        assert.ok(figure >= 0, `nothing is lost: ${name}`);
        assert.ok(figure <= largest.reduce((a, b) => a + b, 0), `no more than that: ${name}`);
      });
      // The agent's count equals the kernel's, except for the bytes of its last check-in.
      for (const [slot, bytes] of seen.entries()) {
        assert.ok(bytes <= after[slot] && after[slot] - bytes < 20_000, `${bytes} of ${after[slot]}`);
      }
      unanswered += notHeard;
      excess = plus(excess, over);
    }
    const happened = sum(machines.map((machine) => [machine.restarts, 0, 0] as const))[0];
    t.diagnostic(
      `${await link.count()}; ${all.length} points, ${unanswered} of them with an answer that was lost; ` +
        `${happened} restarts, all reported; reported twice: ${excess[0]} restarts, ${excess[1]} and ${excess[2]} bytes`,
    );
  };
  return { link, machines, points, settle };
}

const SECOND = 1_000;

/** Describes the time between consecutive points of a sandbox. */
function gaps(points: readonly JsonPoint[], from: number): string {
  const bySandbox = Map.groupBy(points, ({ index1 }) => index1).values();
  const all = [...bySandbox].flatMap((own) => {
    const times = own.map(({ timestamp }) => Date.parse(timestamp)).filter((time) => time >= from);
    return times.slice(1).map((time, i) => (time - times[i]) / SECOND);
  });
  const sorted = all.toSorted((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.trunc(share * sorted.length))].toFixed(1);
  return `from one point to the next: median ${at(0.5)} s, 95 % ${at(0.95)} s, longest ${at(1)} s`;
}

test('nothing is lost if the network is cut for 40 intervals', { skip }, async (t) => {
  const { link, machines, points, settle } = await start(t);
  await delay(3 * SECOND);
  link.set('loss', 1);
  await delay(40 * SECOND);
  const stored = (await points()).length;
  link.set('loss', 0);
  const restored = Date.now();
  const late = await Promise.all(
    machines.map(async ({ sandboxId }) => {
      await until('the agent is back', async () => (await points()).slice(stored).some(({ index1 }) => index1 === sandboxId));
      return (Date.now() - restored) / SECOND;
    }),
  );
  t.diagnostic(`first points after ${late.map((seconds) => seconds.toFixed(1)).toSorted().join(', ')} s`);
  await settle();
});

test('nothing is lost if the network loses 30 % of all packets for 3 minutes', { skip }, async (t) => {
  const { link, points, settle } = await start(t);
  link.set('loss', 0.3);
  const from = Date.now();
  await delay(180 * SECOND);
  t.diagnostic(gaps(await points(), from));
  await settle();
});

test('nothing is lost with a network delay of 500 ms in each direction', { skip }, async (t) => {
  const { link, points, settle } = await start(t);
  link.set('delay', 0.5);
  const from = Date.now();
  await delay(40 * SECOND);
  t.diagnostic(gaps(await points(), from));
  await settle();
});
