/**
 * `npm run load`: a simulated fleet (`agent/examples/fleet`) checks in at the built Worker; then the accepted
 * check-ins are compared with the stored points, sandbox by sandbox.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs, styleText } from 'node:util';

import layout from '../../crates/check-in/data-point.json' with { type: 'json' };
import { metadata } from '../../harness/cargo.ts';
import { CHECK_IN_PATH } from '../../harness/check-in.ts';
import { command, Failure } from '../../harness/command.ts';
import { RUN } from '../../harness/processes.ts';
import { Deployment, Program, type Cost, type Secrets, type Store } from './deployment.ts';
import { table } from '../../harness/table.ts';

const HELP = `Usage: npm run load [-- OPTIONS]

Starts the Worker and the local Analytics Engine in a workerd, lets a simulated fleet check in, and
compares the accepted check-ins with the stored points, sandbox by sandbox. Exits 1 if they differ, or
if a check-in was refused.

Options:
  --minutes M, --seconds S  duration [default: 15 seconds]
  --rate N                  check-ins per second [default: as fast as answers arrive]
  --sandboxes N             number of machines [default: 5000]
  --connections N           number of connections [default: 16]
  --overload                afterwards overload the Worker for the same time, then check that it recovers
  --rotate                  rotate both secrets during the load, and move the machines to the new ones
  --store FOLDER            folder for the points [default: /dev/shm if it exists: on a disk, each point
                            is synced before the next request is processed]
  --seed N                  seed of the random numbers [default: 1]
  --no-build                use the existing build
  -h, --help                print this help
`;

/** `tools/reap` removes this folder at the end of the run, like the temporary files. */
const IN_MEMORY = path.join('/dev/shm', path.basename(tmpdir()));
const SAMPLE_MS = 1_000;
/** The longest wait for points after the last answer. All are stored once the count is the same so often in a row. */
const ARRIVAL_MS = 60_000;
const QUIET_SAMPLES = 3;
/** Maximum duration of the load without a store. */
const BARE_SECONDS = 30;
/** Sandboxes per query of single points. */
const BATCH = 100;

const OLD: Secrets = { KILOCODE_API_KEY: 'load-key-old', GATEWAY_TOKEN_SECRET: 'load-secret-old' };
const NEW: Secrets = { KILOCODE_API_KEY: 'load-key-new', GATEWAY_TOKEN_SECRET: 'load-secret-new' };
/** As in the README: the new value first, then the old one as long as machines use it. */
const BOTH: Secrets = {
  KILOCODE_API_KEY: `${NEW.KILOCODE_API_KEY},${OLD.KILOCODE_API_KEY}`,
  GATEWAY_TOKEN_SECRET: `${NEW.GATEWAY_TOKEN_SECRET},${OLD.GATEWAY_TOKEN_SECRET}`,
};

/** More than one workerd can serve: each connection sends its next request at once, with this timeout. */
const OVERLOAD = { connections: 1_000, timeout: '500ms' };
/** A store in its own process takes some hundreds of points per second (`Store`). */
const ROTATION_RATE = 300;
/** Check-ins per second after the overload, all of which have to be accepted. */
const RECOVERY_RATE = 200;

interface Deltas {
  readonly restarts: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
}

interface Times {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

/** The output of `fleet --report`. */
interface FleetReport {
  readonly seconds: number;
  readonly accepted: number;
  readonly refusals: Readonly<Record<string, number>>;
  readonly transportErrors: Readonly<Record<string, number>>;
  readonly latency: Times;
  readonly sandboxes: readonly {
    readonly sandboxId: string;
    readonly accepted: number;
    readonly reported: Deltas;
    readonly happened: Deltas;
    readonly unreported: Deltas;
    readonly lostAnswers: readonly (Deltas & { readonly attempt: number })[];
  }[];
}

/** The differences between the fleet's report and the store. */
interface Comparison {
  /** Points of this fleet. */
  readonly stored: number;
  /** Accepted, but not stored. */
  readonly lost: number;
  /** Excess points of check-ins that are stored more than once. */
  readonly twice: number;
  /** Sandboxes whose stored sums differ from those of accepted and stored unanswered check-ins. */
  readonly wrongSums: number;
  /** Stored without an answer: the machines report these deltas again, by design. */
  readonly storedUnanswered: number;
  readonly sampled: number;
}

const say = (text: string) => console.log(`${styleText('dim', 'load:')} ${text}`);

const add = (a: Deltas, b: Deltas): Deltas => ({
  restarts: a.restarts + b.restarts,
  bytesIn: a.bytesIn + b.bytesIn,
  bytesOut: a.bytesOut + b.bytesOut,
});
const equal = (a: Deltas, b: Deltas) =>
  a.restarts === b.restarts && a.bytesIn === b.bytesIn && a.bytesOut === b.bytesOut;

/** Waits until there are at least `least` points, and no more arrive. */
async function arrived(deployment: Deployment, least: number): Promise<void> {
  const deadline = Date.now() + ARRIVAL_MS;
  for (let before = -1, quiet = 0; Date.now() < deadline && quiet < QUIET_SAMPLES; ) {
    const now = await deployment.stored();
    quiet = now === before && now >= least ? quiet + 1 : 0;
    before = now;
    await delay(SAMPLE_MS);
  }
}

async function compare(deployment: Deployment, prefix: string, report: FleetReport): Promise<Comparison> {
  const stored = await deployment.query(`
    SELECT index1, count() AS points, count(DISTINCT double3) AS attempts,
      sum(double1) AS restarts, sum(double5) AS bytesIn, sum(double6) AS bytesOut,
      sum(_sample_interval) AS weight
    FROM ${layout.dataset} WHERE index1 LIKE '${prefix}%' GROUP BY index1`);
  const bySandbox = new Map(stored.map((row) => [String(row.index1), row]));

  // Only the store knows whether a check-in without an answer was accepted.
  const storedAttempts = new Map<string, Set<number>>();
  const unsure = report.sandboxes.filter(({ lostAnswers }) => lostAnswers.length > 0);
  for (let at = 0; at < unsure.length; at += BATCH) {
    const ids = unsure.slice(at, at + BATCH).map(({ sandboxId }) => `'${sandboxId}'`);
    const found = await deployment.query(
      `SELECT index1, double3 AS attempt FROM ${layout.dataset} WHERE index1 IN (${ids.join(', ')})`,
    );
    for (const { index1, attempt } of found) {
      const attempts = storedAttempts.get(String(index1)) ?? new Set();
      storedAttempts.set(String(index1), attempts.add(Number(attempt)));
    }
  }

  let [points, lost, twice, wrongSums, storedUnanswered, sampled] = [0, 0, 0, 0, 0, 0];
  for (const { sandboxId, accepted, reported, lostAnswers } of report.sandboxes) {
    const row = bySandbox.get(sandboxId);
    const count = Number(row?.points ?? 0);
    const distinct = Number(row?.attempts ?? 0);
    const late = lostAnswers.filter(({ attempt }) => storedAttempts.get(sandboxId)?.has(attempt) === true);
    points += count;
    twice += count - distinct;
    lost += accepted + late.length - distinct;
    storedUnanswered += late.length;
    sampled += Math.abs(Number(row?.weight ?? 0) - count);
    const sums = {
      restarts: Number(row?.restarts ?? 0),
      bytesIn: Number(row?.bytesIn ?? 0),
      bytesOut: Number(row?.bytesOut ?? 0),
    };
    if (!equal(sums, late.reduce(add, reported))) wrongSums += 1;
  }
  return { stored: points, lost, twice, wrongSums, storedUnanswered, sampled };
}

/** The costs after `seconds`. */
interface Sample {
  readonly seconds: number;
  readonly server: Cost;
  readonly fleet: Cost;
}

interface Phase {
  readonly name: string;
  readonly seconds: number;
  readonly sandboxes: number;
  readonly connections: number;
  readonly rate?: number;
  readonly timeout?: string;
  /** The time in which the machines move to the new secrets, in seconds. */
  readonly move?: readonly [from: number, by: number];
  readonly secrets?: Secrets;
  readonly bare?: boolean;
}

interface Outcome {
  readonly phase: Phase;
  readonly report: FleetReport;
  /** Only with a store. */
  readonly comparison?: Comparison;
  readonly samples: readonly Sample[];
}

type Task = (deployment: Deployment) => Promise<void>;

/** Runs a fleet, and `task` concurrently, then compares. */
async function run(
  deployment: Deployment,
  folder: string,
  seed: string,
  phase: Phase,
  task?: Task,
): Promise<Outcome> {
  const { name, seconds, sandboxes, connections, rate, timeout, move, secrets = OLD, bare } = phase;
  const before = bare ? 0 : await deployment.stored();
  const reportFile = path.join(folder, `${name}.json`);
  const prefix = `${name.replaceAll(' ', '-')}-`;
  const args = [
    `--url=http://127.0.0.1:${deployment.port}${CHECK_IN_PATH}`,
    `--sandboxes=${sandboxes}`,
    `--connections=${connections}`,
    `--duration=${seconds}s`,
    `--prefix=${prefix}`,
    `--seed=${seed}`,
    `--report=${reportFile}`,
    rate === undefined ? '--as-fast-as-possible' : `--rate=${rate}`,
    ...(timeout === undefined ? [] : [`--timeout=${timeout}`]),
    ...(move === undefined ? [] : [`--move-from=${move[0]}s`, `--moved-by=${move[1]}s`]),
  ];
  const next = {
    NEXT_KILOCODE_API_KEY: NEW.KILOCODE_API_KEY,
    NEXT_GATEWAY_TOKEN_SECRET: NEW.GATEWAY_TOKEN_SECRET,
  };
  const env = { ...RUN, ...secrets, ...(move === undefined ? {} : next) };
  const pace = rate === undefined ? 'as fast as answers arrive' : `${rate}/s`;
  say(`${name}: ${sandboxes} sandboxes, ${connections} connections, ${pace}, ${seconds} s`);
  const fleet = new Program(
    spawn(fleetProgram(), args, { env, stdio: ['ignore', 'inherit', 'inherit'] }),
  );
  const ended = once(fleet.child, 'exit') as Promise<[number | null]>;
  const samples: Sample[] = [];
  const started = performance.now();
  const sampler = setInterval(() => {
    try {
      const elapsed = (performance.now() - started) / 1_000;
      samples.push({ seconds: elapsed, fleet: fleet.cost(), server: deployment.cost() });
    } catch {
      // A process has just ended.
    }
  }, SAMPLE_MS);
  const [[code]] = await Promise.all([ended, task?.(deployment)]);
  clearInterval(sampler);
  if (code !== 0) throw new Failure(`the fleet exited with ${code}, see above`);
  const report = JSON.parse(readFileSync(reportFile, 'utf8')) as FleetReport;
  if (bare) return { phase, report, samples };
  await arrived(deployment, before + report.accepted);
  return { phase, report, comparison: await compare(deployment, prefix, report), samples };
}

/** Descriptions of all faults. */
function faults({ phase, report, comparison }: Outcome): string[] {
  const { lost = 0, twice = 0, wrongSums = 0, sampled = 0 } = comparison ?? {};
  const wrong = { lost, 'stored twice': twice, 'sandboxes with wrong sums': wrongSums, sampled };
  const unequal = report.sandboxes.filter(({ reported, unreported, happened }) => !equal(add(reported, unreported), happened));
  return [
    ...Object.entries(wrong).filter(([, count]) => count !== 0).map(([what, count]) => `${count} ${what}`),
    ...Object.entries(report.refusals).map(([what, count]) => `${count} answered with ${what}`),
    ...(unequal.length > 0 ? [`${unequal.length} sandboxes whose ledger does not add up`] : []),
    ...(report.accepted > 0 ? [] : ['nothing was accepted']),
  ].map((fault) => `${phase.name}: ${fault}`);
}

const sum = (counts: Readonly<Record<string, number>>) =>
  Object.values(counts).reduce((sum, count) => sum + count, 0);
const number = (value: number) => Math.round(value).toLocaleString('en');
const milliseconds = (value: number) => value.toFixed(value < 100 ? 1 : 0);

function figures(outcomes: readonly Outcome[]): string {
  const row = (label: string, of: (outcome: Outcome) => string) => [label, ...outcomes.map(of)];
  const cpu = (which: 'server' | 'fleet') => ({ phase, report, samples }: Outcome) => {
    // A rotation changes the process, and with it the start of the count.
    if (phase.move !== undefined && which === 'server') return '';
    const [first, last] = [samples[0], samples.at(-1)!];
    const share = (last[which].cpuSeconds - first[which].cpuSeconds) / (last.seconds - first.seconds);
    return `${((share / (report.accepted / report.seconds)) * 1e6).toFixed(0)}`;
  };
  const stored = (of: (comparison: Comparison) => number) => ({ comparison }: Outcome) =>
    comparison === undefined ? '' : number(of(comparison));
  return table(
    ['', ...outcomes.map(({ phase }) => phase.name)],
    [
      row('Seconds', ({ report }) => number(report.seconds)),
      row('Connections', ({ phase }) => number(phase.connections)),
      row('Accepted (204)', ({ report }) => number(report.accepted)),
      row('Accepted per second', ({ report }) => number(report.accepted / report.seconds)),
      row('Refused', ({ report }) => number(sum(report.refusals))),
      row('Not answered', ({ report }) => number(sum(report.transportErrors))),
      row('Stored', stored((comparison) => comparison.stored)),
      row('Accepted, not stored', stored((comparison) => comparison.lost)),
      row('Stored twice', stored((comparison) => comparison.twice)),
      row('Sandboxes with other sums', stored((comparison) => comparison.wrongSums)),
      row('Not answered, but stored', stored((comparison) => comparison.storedUnanswered)),
      row('Latency p50, ms', ({ report }) => milliseconds(report.latency.p50)),
      row('Latency p90, ms', ({ report }) => milliseconds(report.latency.p90)),
      row('Latency p99, ms', ({ report }) => milliseconds(report.latency.p99)),
      row('Latency max, ms', ({ report }) => milliseconds(report.latency.max)),
      row('CPU of workerd per check-in, µs', cpu('server')),
      row('CPU of the fleet per check-in, µs', cpu('fleet')),
    ],
  );
}

/** Resident memory at about ten times, at least a second apart. */
function memoryTable({ samples }: Outcome): string {
  const step = Math.max(1, Math.floor(samples.length / 10));
  const chosen = samples.filter((_, i) => i % step === step - 1);
  return table(
    ['seconds', ...chosen.map(({ seconds }) => number(seconds))],
    [
      ['workerd, MiB', ...chosen.map(({ server }) => number(server.residentMiB))],
    ],
  );
}

function parsed() {
  try {
    return parseArgs({
      options: {
        minutes: { type: 'string' },
        seconds: { type: 'string' },
        rate: { type: 'string' },
        sandboxes: { type: 'string', default: '5000' },
        connections: { type: 'string', default: '16' },
        overload: { type: 'boolean', default: false },
        rotate: { type: 'boolean', default: false },
        store: { type: 'string', default: existsSync('/dev/shm') ? IN_MEMORY : tmpdir() },
        seed: { type: 'string', default: '1' },
        'no-build': { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values;
  } catch (error) {
    throw new Failure(`${(error as Error).message}\n\n${HELP}`);
  }
}

function options() {
  const values = parsed();
  const seconds = values.minutes === undefined ? Number(values.seconds ?? 15) : Number(values.minutes) * 60;
  const rate = values.rate === undefined ? undefined : Number(values.rate);
  const [sandboxes, connections] = [Number(values.sandboxes), Number(values.connections)];
  for (const value of [seconds, rate ?? 1, sandboxes, connections]) {
    if (!(value > 0)) throw new Failure(`a number is missing or not above 0\n\n${HELP}`);
  }
  return { ...values, seconds, rate, sandboxes, connections };
}

const fleetProgram = () => path.join(metadata().target_directory, 'release/examples/fleet');

function build(): void {
  say('building the Worker, the local Analytics Engine and the fleet');
  for (const [program, ...args] of [
    ['tools/setup', '--wasm', 'node', 'tools/worker.ts'],
    ['tools/setup', '--wasm', 'tools/engine'],
    ['cargo', 'build', '--quiet', '--release', '--package', 'kiloclaw-agent', '--example', 'fleet'],
  ]) {
    const { status } = spawnSync(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    if (status !== 0) throw new Failure(`${program} ${args.join(' ')} failed, see above`);
  }
}

/**
 * Deploys Workers with the old secrets, with both, and with the new ones. The machines move one by one while
 * both are accepted, and are served all the time.
 */
async function rotate(deployment: Deployment, seconds: number): Promise<void> {
  const deploy = async (what: string) => {
    const started = performance.now();
    await deployment.deployNext();
    say(`deployed ${what} in ${number(performance.now() - started)} ms`);
  };
  await delay(seconds * 200);
  await deploy('the new secrets beside the old ones');
  await delay(seconds * 600);
  await deploy('the new secrets alone');
}

async function main(): Promise<void> {
  const { seconds, rate, sandboxes, connections, seed, ...chosen } = options();
  if (chosen.help) return void console.log(HELP);
  if (!chosen['no-build']) build();
  const before = loadavg()[0];
  const outcomes: Outcome[] = [];
  /** Runs all phases against a new deployment. */
  const deployed = async (
    store: Store,
    versions: readonly Secrets[],
    phases: (phase: (phase: Phase, task?: Task) => Promise<Outcome>) => Promise<void>,
  ) => {
    mkdirSync(chosen.store, { recursive: true });
    const folder = mkdtempSync(path.join(chosen.store, 'kiloclaw-load-'));
    const clean = () => rmSync(folder, { recursive: true, force: true });
    process.once('exit', clean);
    try {
      const deployment = await Deployment.start(folder, store, versions);
      await phases((phase, task) => run(deployment, folder, seed, phase, task)).finally(() =>
        deployment.stop(),
      );
    } finally {
      clean();
    }
  };
  const load = { seconds, sandboxes, connections, rate };
  if (chosen.rotate) {
    await deployed('apart', [OLD, BOTH, NEW], async (phase) => {
      // Between the two deployments, with a margin for their duration.
      const move = [seconds * 0.4, seconds * 0.7] as const;
      const rotation = { ...load, name: 'rotation', rate: rate ?? ROTATION_RATE, move };
      outcomes.push(await phase(rotation, (deployment) => rotate(deployment, seconds)));
      // Proves that the last version is deployed: the old secrets are refused.
      const few = { seconds: 1, sandboxes: 10, connections: 1, rate: 10 };
      const { report } = await phase({ ...few, name: 'stranger' });
      const refused = Object.keys(report.refusals).join() === '403 wrong_api_key';
      if (!refused || report.accepted > 0) throw new Failure('the Worker still accepts the old secrets');
    });
  } else {
    await deployed('inside', [OLD], async (phase) => {
      outcomes.push(await phase({ ...load, name: 'load' }));
      if (!chosen.overload) return;
      outcomes.push(await phase({ name: 'overload', seconds, sandboxes, ...OVERLOAD }));
      outcomes.push(await phase({ ...load, name: 'recovery', rate: RECOVERY_RATE }));
    });
    await deployed('nowhere', [OLD], async (phase) => {
      const bare = { ...load, name: 'without a store', seconds: Math.min(seconds, BARE_SECONDS), bare: true };
      outcomes.push(await phase(bare));
    });
  }
  console.log(`\n${figures(outcomes)}\n\n${memoryTable(outcomes[0])}\n`);
  say(`load average before: ${before.toFixed(1)}, after: ${loadavg()[0].toFixed(1)}`);
  const wrong = outcomes.flatMap(faults);
  for (const fault of wrong) say(styleText('red', fault));
  if (wrong.length === 0) say('exactly the accepted check-ins are stored');
  else process.exitCode = 1;
}

if (import.meta.main) {
  // A normal exit ends the child processes and removes the files.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(130));
  process.chdir(path.resolve(import.meta.dirname, '../..'));
  await command('load', main);
  process.exit();
}
