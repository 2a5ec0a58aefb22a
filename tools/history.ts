/**
 * `npm run history`: the history of a fleet that never was, written straight into the local Analytics
 * Engine, for whoever wants to see the operators' API or a dashboard with something in it.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { command, Failure } from './command.ts';
import { RUNNING_FILE, STORE_URL, WORKER_URL, type Running } from './running.ts';

const HELP = `Usage: npm run history -- [OPTIONS]

Writes the check-ins of a made-up fleet into the local Analytics Engine of \`npm start\`: most sandboxes
are well, and a new version is rolled out; of four or more, at least one crashes again and again, one has
fallen silent, one was shut down and one is cloned. The same seed makes the same fleet. What an earlier
run wrote is replaced; nothing else in the store is touched.

Options:
  --sandboxes N  how many, 1 to 100000 [default: 100]
  --hours N      how long a history, up to now, 1 to 2160 [default: 24]
  --seed N       another fleet [default: 1]
  --clear        only remove what an earlier run wrote
  --store URL    the local Analytics Engine [default: that of the running \`npm start\`, or
                 ${STORE_URL}]
  -h, --help     this text

The store keeps 1,000,000 points unless it is told otherwise (local-ae/README.md): each sandbox takes up
12 an hour.
`;

/** What machines do by themselves. */
const INTERVAL_MS = 300_000;
const HOUR_MS = 3_600_000;
/** Points in a request; they stay well under the store's limit of 64 MiB. */
const BATCH = 20_000;

const REGIONS = ['ams', 'dfw', 'fra', 'gru', 'iad', 'nrt', 'sin', 'syd'];
const OPENCLAW = ['2026.3.11', '2026.3.12', '2026.3.13'];
const EXITS = ['signal:SIGKILL', 'signal:SIGSEGV', 'code:1', 'code:137'];

export interface Fleet {
  readonly sandboxes: number;
  readonly hours: number;
  readonly seed: number;
  /** When the history ends, in milliseconds since 1970. */
  readonly now: number;
}

/** Numbers from 0 to 1 that look random and depend on nothing but the seed (mulberry32). */
function random(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Whose ids begin so belongs to a history: no other sandbox is removed. */
const PREFIX = 'made-up-';
/** How long the Worker keeps an answer (`FRESH` in src/operators.rs). */
const FRESH_SECONDS = 15;

/** What is wrong with a sandbox, in words; the first ones of a fleet are one of each. */
const PROBLEMS = {
  crashing: 'crashing again and again',
  silent: 'fallen silent',
  stopped: 'shut down on purpose',
  cloned: 'cloned',
} as const;
type Kind = keyof typeof PROBLEMS | 'well';

/** What a sandbox is, and how it is at the moment. */
interface Sandbox {
  readonly id: string;
  readonly kind: Kind;
  readonly machine: string;
  readonly region: string;
  readonly openclaw: string;
  /** When it checks in within an interval. */
  readonly phase: number;
  /** When it falls silent or shuts down, or a second machine appears; milliseconds since 1970. */
  readonly event: number;
  readonly upgrade: number;
  readonly random: () => number;
  load: number;
  restarts: number;
  started: number;
  exit: string;
}

function sandbox(i: number, { sandboxes, hours, seed, now }: Fleet): Sandbox {
  const next = random(seed * 1_000_003 + i);
  const pick = <T>(of: readonly T[]): T => of[Math.floor(next() * of.length)];
  const start = now - hours * HOUR_MS;
  // Recent enough to be seen: reports look back a day by default.
  const recent = Math.min(hours, 20) * HOUR_MS;
  const within = () => now - (0.3 + 0.7 * next()) * recent;
  const lot = next();
  const first = (Object.keys(PROBLEMS) as Kind[])[i];
  const kind = first !== undefined && sandboxes >= 4 ? first :
    lot < 0.02 ? 'crashing' : lot < 0.03 ? 'silent' : lot < 0.04 ? 'stopped' : lot < 0.042 ? 'cloned' : 'well';
  return {
    id: `${PREFIX}${String(i).padStart(5, '0')}`,
    kind,
    machine: Math.floor(next() * 2 ** 48).toString(16).padStart(14, '0'),
    region: pick(REGIONS),
    openclaw: next() < 0.01 ? '' : pick(OPENCLAW),
    phase: next() * INTERVAL_MS,
    event: within(),
    // Three of four have been upgraded by now.
    upgrade: start + (next() * hours * HOUR_MS) / 0.75,
    random: next,
    load: next() * 2,
    restarts: 0,
    started: start - next() * 10 * HOUR_MS,
    exit: '',
  };
}

/** The point that a sandbox's check-in makes. */
function point(sandbox: Sandbox, timestamp: number, state: string, machine = sandbox.machine): object {
  const { id, region, openclaw, random } = sandbox;
  const upgraded = timestamp >= sandbox.upgrade;
  sandbox.load = Math.max(0, sandbox.load + (random() - 0.5) * 0.4);
  const crashes = state === 'crashed' ? 1 + Math.floor(random() * 2) : 0;
  if (crashes > 0) {
    sandbox.restarts += crashes;
    sandbox.started = timestamp;
    sandbox.exit = EXITS[Math.floor(random() * EXITS.length)];
  }
  return {
    dataset: layout.dataset,
    timestamp: Math.floor(timestamp),
    index1: id,
    blob1: id,
    blob2: upgraded ? '1.5.0' : '1.4.2',
    blob3: upgraded ? '9f3c2ab' : '41d07e5',
    blob4: openclaw,
    blob5: openclaw === '' ? '' : 'd0cb1f2',
    blob6: state,
    blob7: region,
    blob8: machine,
    blob9: sandbox.exit,
    double1: crashes,
    double2: sandbox.restarts,
    double3: Math.max(0, Math.floor((timestamp - sandbox.started) / 1_000)),
    double4: Math.round(sandbox.load * 100) / 100,
    double5: Math.floor(random() * 5_000_000),
    double6: Math.floor(random() * 500_000),
  };
}

/** What is wrong in a fleet, and an example of each. */
function problems(fleet: Fleet): string[] {
  const sandboxes = Array.from({ length: fleet.sandboxes }, (_, i) => sandbox(i, fleet));
  return Object.entries(PROBLEMS).flatMap(([kind, words]) => {
    const [first, ...others] = sandboxes.filter((sandbox) => sandbox.kind === kind);
    return first === undefined ? [] : [`${others.length + 1} ${words}, such as ${first.id}`];
  });
}

/** The check-ins of a fleet, in the order of their times but for less than an interval. */
export function* history(fleet: Fleet): Generator<object> {
  const { sandboxes: count, hours, now } = fleet;
  const sandboxes = Array.from({ length: count }, (_, i) => sandbox(i, fleet));
  sandboxes.sort((a, b) => a.phase - b.phase);
  for (let interval = now - hours * HOUR_MS; interval < now; interval += INTERVAL_MS) {
    for (const sandbox of sandboxes) {
      const { kind, event } = sandbox;
      const timestamp = interval + sandbox.phase;
      // The one in which the event falls.
      const last = timestamp + INTERVAL_MS >= event;
      if ((kind === 'silent' || kind === 'stopped') && timestamp >= event) continue;
      const crashes = kind === 'crashing' && sandbox.random() < 0.3;
      const state = crashes ? 'crashed' : kind === 'stopped' && last ? 'shutting_down' : 'running';
      yield point(sandbox, timestamp, state);
      if (kind === 'cloned' && timestamp >= event) {
        yield point(sandbox, Math.min(timestamp + 1_000, now), 'running', `${sandbox.machine}-2`);
      }
    }
  }
}

/** Removes what earlier runs wrote. */
export async function clear(store: string): Promise<void> {
  const response = await fetch(`${store}/points?index_prefix=${PREFIX}`, { method: 'DELETE' });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
}

/** Writes points into a store; returns how many there were. */
export async function insert(
  store: string,
  points: Iterable<object>,
  progress: (points: number) => void = () => {},
): Promise<number> {
  let written = 0;
  let lines: string[] = [];
  const flush = async () => {
    const headers = { 'content-type': 'application/x-ndjson' };
    const response = await fetch(`${store}/points`, { method: 'POST', headers, body: lines.join('\n') });
    if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    written += lines.length;
    lines = [];
    progress(written);
  };
  for (const point of points) {
    lines.push(JSON.stringify(point));
    if (lines.length === BATCH) await flush();
  }
  if (lines.length > 0) await flush();
  return written;
}

function integer(name: string, text: string, highest: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= 1 && value <= highest)) {
    throw new Failure(`--${name} must be an integer from 1 to ${highest}, not '${text}'`);
  }
  return value;
}

function options() {
  try {
    return parseArgs({
      options: {
        sandboxes: { type: 'string', default: '100' },
        hours: { type: 'string', default: '24' },
        seed: { type: 'string', default: '1' },
        clear: { type: 'boolean', default: false },
        store: { type: 'string' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values;
  } catch (error) {
    throw new Failure(`${(error as Error).message}; see npm run history -- --help`);
  }
}

/** Where things are while `npm start` runs. */
function running(): Running {
  try {
    return JSON.parse(readFileSync(RUNNING_FILE, 'utf8')) as Running;
  } catch {
    return { worker: WORKER_URL, store: STORE_URL };
  }
}

const say = (text: string) => console.error(`history: ${text}`);

async function main(): Promise<void> {
  const { help, clear: onlyClear, store: chosen, ...values } = options();
  if (help) return void console.log(HELP);
  const fleet = {
    sandboxes: integer('sandboxes', values.sandboxes, 100_000),
    hours: integer('hours', values.hours, 2_160),
    seed: integer('seed', values.seed, 2 ** 31 - 1),
    now: Date.now(),
  };
  const { worker, store } = { ...running(), ...(chosen === undefined ? {} : { store: chosen }) };
  try {
    await clear(store);
    if (onlyClear) return say(`what earlier runs wrote is removed from ${store}`);
    const written = await insert(store, history(fleet), (points) => {
      if (points % (10 * BATCH) === 0) say(`${points.toLocaleString('en')} check-ins so far`);
    });
    const count = written.toLocaleString('en');
    say(`${count} check-ins of ${fleet.sandboxes} sandboxes within ${fleet.hours} h are at ${store}`);
  } catch (error) {
    const reason = (error as Error & { cause?: Error }).cause?.message ?? (error as Error).message;
    throw new Failure(`${store} does not take the points: ${reason}; is \`npm start\` running?`);
  }
  const wrong = problems(fleet);
  if (wrong.length > 0) say(`of these, ${wrong.join('; ')}`);
  say(`see the fleet, and what is wrong in it (the Worker keeps each answer for ${FRESH_SECONDS} s):

for report in fleet incidents; do
  curl -w '\\n' -H "authorization: Bearer $(npm run --silent token -- --sub me)" ${worker}/api/$report
done
`);
  say('to remove it: npm run history -- --clear');
}

if (import.meta.main) await command('history', main);
