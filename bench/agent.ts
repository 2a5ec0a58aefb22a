/**
 * Measures what the agent costs its machine, beside two Debian collectors and a bare Node process that
 * take the same kind of readings and report equally often. All run at the same time.
 */
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { Collector } from './agent/collector.ts';
import { AGENT, AGENTS, findSubjects, slug, type Unavailable, type Subject } from './agent/subjects.ts';
import { temporaryFolder, withContext } from '../harness/context.ts';
import { contextSwitches, cpuSeconds, memory, wakeUps, type Memory } from '../harness/process-usage.ts';
import { table } from '../harness/table.ts';
import { metadata } from '../harness/cargo.ts';
import { Failure, outputOf } from '../harness/command.ts';
import { start, stopAll } from './workerd.ts';

/** Lengths and counts of the measurement. A cycle is the time from one report to the next. */
export interface AgentPlan {
  readonly warmUp: number;
  readonly cycles: number;
  /** The cycles are split into this many parts, whose spread the results show. */
  readonly parts: number;
  /** Seconds without a report, in which wake-ups are counted. */
  readonly idle: number;
}

export const FULL: AgentPlan = { warmUp: 10, cycles: 100, parts: 4, idle: 20 };
export const QUICK: AgentPlan = { warmUp: 5, cycles: 15, parts: 1, idle: 5 };

/** Seconds between reports: to measure the reports, and to measure the time between them. */
const INTERVAL = 1;
const LONG_INTERVAL = 60;
/** A cycle takes some milliseconds, so all its work is done by then. */
const SETTLED_MS = 500;
const START_MS = 4_000;
const CYCLE_DEADLINE_MS = 10_000;

interface Measured {
  /** CPU time per cycle in milliseconds: over all cycles, and over each part. */
  readonly cpu: number;
  readonly cpuParts: readonly number[];
  readonly first: Memory;
  readonly last: Memory;
  readonly idleWakeUps: number;
  readonly threads: number;
  readonly size: number;
}

interface Running {
  readonly subject: Subject;
  readonly pid: number;
  /** Number of reports so far. */
  cycles(): number;
  /** Throws if the process has ended or sent an unexpected report. */
  check(): void;
  stop(): Promise<void>;
}

async function run(
  subject: Subject,
  interval: number,
  collector: Collector,
  folder: string,
): Promise<Running> {
  const name = slug(subject.name);
  const own = join(folder, `${name}-${interval}`);
  mkdirSync(own);
  const { command, args, env, scrape } = await subject.prepare(interval, own);
  const before = collector.cycles(name);
  const log = openSync(join(own, 'log'), 'w');
  const child = start(command, args, ['ignore', log, log], undefined, env);
  closeSync(log);
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const { pid } = child;
  if (pid === undefined) {
    const [error] = (await once(child, 'error')) as [Error];
    throw new Failure(`cannot run ${command}: ${error.message}`);
  }
  const stopped = new AbortController();
  if (scrape !== undefined) void scrapeEvery(interval, scrape, stopped.signal);
  return {
    subject,
    pid,
    cycles: () => collector.cycles(name) - before,
    check() {
      if (child.exitCode !== null || child.signalCode !== null) {
        throw new Failure(`${subject.name} has ended:\n${readFileSync(join(own, 'log'), 'utf8')}`);
      }
      const wrong = collector.wrong.get(name);
      if (wrong !== undefined) throw new Failure(`${subject.name} sent an unexpected report:\n${wrong}`);
    },
    async stop() {
      stopped.abort();
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/** Scrapes once per interval; retries at once until the exporter listens. */
async function scrapeEvery(
  interval: number,
  scrape: () => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    const done = await scrape().then(() => true, () => false);
    await delay(done ? interval * 1_000 : 100, undefined, { signal }).catch(() => {});
  }
}

/** Waits for a report after the first `cycles`, and for the end of its work. */
async function nextCycle(running: Running, cycles: number): Promise<number> {
  const deadline = Date.now() + CYCLE_DEADLINE_MS;
  while (running.cycles() <= cycles) {
    running.check();
    if (Date.now() > deadline) throw new Failure(`${running.subject.name} sent no report in time`);
    await delay(20);
  }
  await delay(SETTLED_MS);
  running.check();
  return running.cycles();
}

/** The slope of the best-fit line: finer than the steps in which the kernel counts CPU time. */
function slope(points: readonly (readonly [x: number, y: number])[]): number {
  const mean = (i: 0 | 1) => points.reduce((sum, point) => sum + point[i], 0) / points.length;
  const [x, y] = [mean(0), mean(1)];
  const products = points.map((point) => [(point[0] - x) * (point[1] - y), (point[0] - x) ** 2]);
  const [above, below] = [0, 1].map((i) => products.reduce((sum, pair) => sum + pair[i], 0));
  return above / below;
}

/** Measures a process that reports every second. */
async function follow(running: Running, plan: AgentPlan): Promise<Omit<Measured, 'idleWakeUps'>> {
  const { pid, subject } = running;
  let cycles = await nextCycle(running, 0);
  const first = memory(pid);
  while (cycles < plan.warmUp) cycles = await nextCycle(running, cycles);
  const points: [number, number][] = [];
  const end = cycles + plan.cycles;
  while (cycles < end) {
    points.push([cycles, cpuSeconds(pid) * 1_000]);
    cycles = await nextCycle(running, cycles);
  }
  points.push([cycles, cpuSeconds(pid) * 1_000]);
  const length = (points.length - 1) / plan.parts;
  const parts = Array.from({ length: plan.parts }, (_, i) =>
    points.slice(Math.floor(i * length), Math.floor((i + 1) * length) + 1),
  );
  return {
    cpu: slope(points),
    cpuParts: parts.map(slope),
    first,
    last: memory(pid),
    threads: contextSwitches(pid).size,
    size: subject.size,
  };
}

/** Wake-ups between the reports of processes that report every minute. */
async function idle(all: readonly Running[], plan: AgentPlan): Promise<ReadonlyMap<Subject, number>> {
  await delay(START_MS);
  const look = () => all.map(({ pid, cycles }) => ({ switches: contextSwitches(pid), cycles: cycles() }));
  const before = look();
  await delay(plan.idle * 1_000);
  const after = look();
  return new Map(
    all.map((running, i) => {
      running.check();
      if (before[i].cycles !== after[i].cycles) {
        throw new Failure(`${running.subject.name} reported within its interval of a minute`);
      }
      return [running.subject, wakeUps(before[i].switches, after[i].switches)];
    }),
  );
}

async function measure(
  subjects: readonly Subject[],
  plan: AgentPlan,
  collector: Collector,
  folder: string,
): Promise<ReadonlyMap<string, Measured>> {
  const startAll = async (interval: number) => {
    const all: Running[] = [];
    for (const subject of subjects) {
      all.push(await run(subject, interval, collector, folder));
      // Staggered, so that no two report at the same moment.
      await delay((INTERVAL * 1_000) / subjects.length);
    }
    return all;
  };
  const often = await startAll(INTERVAL);
  const measured = await Promise.all(often.map((running) => follow(running, plan)));
  for (const running of often) await running.stop();

  const seldom = await startAll(LONG_INTERVAL);
  const idleWakeUps = await idle(seldom, plan);
  for (const running of seldom) await running.stop();
  return new Map(
    subjects.map((subject, i) => [
      subject.name,
      { ...measured[i], idleWakeUps: idleWakeUps.get(subject)! },
    ]),
  );
}

/** Builds the agent as shipped, and strips it into `folder`. */
function shipped(folder: string, build: boolean): string {
  if (build) outputOf('cargo', ['build', '--quiet', '--release', '--package', 'kiloclaw-agent']);
  const program = join(folder, 'kiloclaw-agent');
  outputOf('strip', ['-o', program, join(metadata().target_directory, 'release', 'kiloclaw-agent')]);
  return program;
}

const MIB = 1024 * 1024;

interface Row {
  readonly label: string;
  readonly digits: number;
  readonly value: (of: Measured) => number;
}

const rows = (plan: AgentPlan): readonly Row[] => [
  { label: 'CPU per cycle, ms', digits: 2, value: ({ cpu }) => cpu },
  { label: 'Memory (RSS), MiB', digits: 1, value: ({ last }) => last.resident },
  { label: 'of which anonymous, MiB', digits: 1, value: ({ last }) => last.anonymous },
  { label: 'Memory (PSS), MiB', digits: 1, value: ({ last }) => last.proportional },
  { label: 'Memory (RSS) after the first cycle, MiB', digits: 1, value: ({ first }) => first.resident },
  { label: 'Memory (RSS) at its highest, MiB', digits: 1, value: ({ last }) => last.peak },
  { label: `Wake-ups in ${plan.idle} s between cycles`, digits: 0, value: ({ idleWakeUps }) => idleWakeUps },
  { label: 'Threads', digits: 0, value: ({ threads }) => threads },
  { label: 'Executable, MiB', digits: 1, value: ({ size }) => size / MIB },
];

function results(measured: ReadonlyMap<string, Measured>, plan: AgentPlan): string {
  const agent = measured.get(AGENT)!;
  const cells = rows(plan).map(({ label, digits, value }) => [
    label,
    ...[...measured].map(([name, of]) => {
      const text = value(of).toFixed(digits);
      const ratio = value(agent) / value(of);
      return AGENTS.includes(name) || !Number.isFinite(ratio) ? text : `${text} (${ratio.toFixed(2)})`;
    }),
  ]);
  return table(['', ...measured.keys()], cells);
}

interface Target {
  readonly label: string;
  readonly limit: number;
  readonly unit: string;
  readonly digits: number;
  readonly value: (of: Measured) => number | readonly number[];
}

const TARGETS: readonly Target[] = [
  { label: 'Memory (RSS)', limit: 6, unit: ' MiB', digits: 1, value: ({ last }) => last.resident },
  { label: 'Wake-ups between check-ins', limit: 0, unit: '', digits: 0, value: ({ idleWakeUps }) => idleWakeUps },
  { label: 'CPU per check-in', limit: 5, unit: ' ms', digits: 2, value: ({ cpuParts }) => cpuParts },
  { label: 'Executable, stripped', limit: 4, unit: ' MiB', digits: 2, value: ({ size }) => size / MIB },
];

/** The worst of the three agents counts, and for CPU time the worst part of its run. */
function targets(measured: ReadonlyMap<string, Measured>): string {
  const agents = AGENTS.flatMap((name) => measured.get(name) ?? []);
  const cells = TARGETS.map(({ label, limit, unit, digits, value }) => {
    const values = agents.flatMap(value);
    const [low, high] = [Math.min(...values), Math.max(...values)].map((of) => of.toFixed(digits));
    const met = Math.max(...values) <= limit;
    return [label, `≤ ${limit}${unit}`, high, low === high ? '' : `${low} to ${high}`, met ? 'met' : '**missed**'];
  });
  return table(['agent', 'target', 'worst', 'all', ''], cells);
}

function section(
  measured: ReadonlyMap<string, Measured>,
  unavailable: readonly Unavailable[],
  facts: Readonly<Record<string, string>>,
  plan: AgentPlan,
): string {
  const list = Object.entries(facts).map(([name, value]) => `- ${name}: ${value}`);
  const reasons = unavailable.map(({ name, reason }) => `- ${name}: not available: ${reason}`);
  return `${HEADING}

${[...list, ...reasons].join('\n')}

Measured over ${plan.cycles} cycles of ${INTERVAL} s each, after ${plan.warmUp} cycles to warm up. In parentheses: the value of
\`${AGENT}\` divided by this one.

${results(measured, plan)}

${targets(measured)}
`;
}

export const HEADING = '## The agent';

/** The section of the results, in Markdown. `say` receives progress messages. */
export const agentSection = (
  plan: AgentPlan,
  options: { readonly build: boolean; readonly facts: Readonly<Record<string, string>> },
  say: (text: string) => void,
): Promise<string> =>
  withContext(async (context) => {
    const folder = temporaryFolder(context);
    say('building the agent');
    const program = shipped(folder, options.build);
    const collector = await Collector.start(folder);
    context.after(() => collector.stop());
    context.after(stopAll);
    say("getting the agent's peers from Debian");
    const { subjects, unavailable, facts } = findSubjects(program, collector);
    for (const { name, reason } of unavailable) say(`${name} is not available: ${reason}`);
    const seconds = (plan.warmUp + plan.cycles) * INTERVAL + plan.idle;
    say(`${subjects.map(({ name }) => name).join('; ')}: about ${seconds} s`);
    const measured = await measure(subjects, plan, collector, folder);
    return section(measured, unavailable, { ...options.facts, Kernel: release(), ...facts }, plan);
  });
