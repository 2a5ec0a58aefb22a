/** Kills workerd while agents check in, and adds up the reported deltas. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { freePort } from '../../local-ae/support/port.js';
import {
  account,
  allPoints,
  deltasOf,
  Machine,
  minus,
  plus,
  sum,
  RecordingProxy,
  type Account,
  type Deltas,
} from './fleet.ts';
import { until } from './until.ts';
import { WORKER_SECRETS } from '../../harness/check-in.ts';
import { temporaryFolder } from '../../harness/context.ts';
import { startWorkerd, type Workerd } from '../../harness/workerd.ts';

export interface Plan {
  readonly machines: number;
  /** Kills while no check-in is in flight and all accepted ones are stored. */
  readonly quiet: number;
  /** Kills at a random moment. */
  readonly random: number;
  /** Kills while a check-in is in flight. */
  readonly midway: number;
}

export interface Outcome {
  /** Sums over all points, by machine. */
  readonly reported: Readonly<Record<string, Deltas>>;
  /** `happened` plus what was reported twice, minus what was accepted but not stored. */
  readonly expected: Readonly<Record<string, Deltas>>;
  /** The true deltas, by machine. */
  readonly happened: Readonly<Record<string, Deltas>>;
  readonly account: Account;
  readonly summary: string;
}

/** Runs agents against a workerd that is killed and restarted over the same points; then lets them report the rest. */
export async function killAndRestart(t: TestContext, plan: Plan): Promise<Outcome> {
  const folder = temporaryFolder(t);
  const [port, store] = [await freePort(), await freePort()];
  const site = { folder, worker: `127.0.0.1:${port}`, store: `127.0.0.1:${store}` };
  let workerd: Workerd = await startWorkerd(WORKER_SECRETS, t, site);
  const restart = async () => {
    await workerd.stop();
    workerd = await startWorkerd(WORKER_SECRETS, t, site);
  };
  const proxy = await RecordingProxy.of(port, t);
  const machines = Array.from({ length: plan.machines }, (_, i) => new Machine(t, `sandbox-${i}`));
  for (const machine of machines) machine.start(proxy.url);
  const answers = ({ sandboxId }: Machine) =>
    proxy.exchanges.filter((exchange) => exchange.sandboxId === sandboxId).map(({ status }) => status);
  await until('each agent checked in', () => machines.every((machine) => answers(machine).includes(204)));
  const traffic = setInterval(() => {
    const upTo = (bytes: number) => 1 + Math.trunc(Math.random() * bytes);
    for (const machine of machines) machine.transfer(upTo(10_000), upTo(1_000));
  }, 50);
  t.after(() => clearInterval(traffic));

  for (let kill = 0; kill < plan.quiet; kill += 1) {
    await delay(500 + Math.random() * 1_500);
    await proxy.hold();
    const accepted = proxy.exchanges.filter(({ status }) => status === 204).length;
    await until('all accepted check-ins are stored', async () => (await allPoints(store)).length === accepted);
    await restart();
    // Before the next check-in is in flight.
    const { twice, lost } = account(proxy, await allPoints(store));
    assert.deepEqual([twice, lost], [[], []], 'every answer matches the store');
    proxy.release();
  }
  for (let kill = 0; kill < plan.random; kill += 1) {
    // Some kills come before the first check-in after a restart.
    await delay(Math.random() * 2_000);
    await restart();
  }

  for (let kill = 0; kill < plan.midway; kill += 1) {
    await delay(Math.random() * 1_000);
    const deadline = Date.now() + 10_000;
    // Polls without a pause, because a check-in is in flight for a few milliseconds only.
    while (proxy.inFlight === 0 && Date.now() < deadline) await new Promise(setImmediate);
    await delay(Math.random() * 3);
    await restart();
  }

  clearInterval(traffic);
  await Promise.all(machines.map((machine) => machine.hold()));
  // An agent that still backs off would not send a last check-in, which reports the rest.
  await until('each agent checks in again', () => machines.every((machine) => answers(machine).at(-1) === 204));
  await Promise.all(machines.map((machine) => machine.stop()));
  await until('all accepted check-ins are stored', async () => {
    const { lost } = account(proxy, await allPoints(store));
    return lost.length === 0;
  }, { deadlineMs: 2_000 }).catch(() => undefined);

  const points = await allPoints(store);
  const kept = account(proxy, points);
  const of = (sandbox: string, exchanges: Account['twice']) =>
    sum(exchanges.filter(({ sandboxId }) => sandboxId === sandbox).map(({ deltas }) => deltas));
  const by = (what: (machine: Machine) => Deltas) =>
    Object.fromEntries(machines.map((machine) => [machine.sandboxId, what(machine)]));
  const happened = by((machine) => machine.happened);
  const reported = by(({ sandboxId }) => sum(points.filter(({ index1 }) => index1 === sandboxId).map(deltasOf)));
  const expected = by(({ sandboxId }) =>
    minus(plus(happened[sandboxId], of(sandboxId, kept.twice)), of(sandboxId, kept.lost)));
  const [restarts, bytesIn] = sum(Object.values(happened));
  const unanswered = proxy.exchanges.filter(({ status }) => status === undefined).length;
  const summary =
    `${plan.machines} machines, ${plan.quiet + plan.random + plan.midway} kills, ` +
    `${proxy.exchanges.length} check-ins, ` +
    `${kept.accepted} accepted, ${unanswered} unanswered of which ${kept.twice.length} stored, ` +
    `${kept.lost.length} accepted and not stored; ${restarts} restarts and ${bytesIn} bytes in happened`;
  return { reported, expected, happened, account: kept, summary };
}
