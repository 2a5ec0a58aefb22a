/** Check-ins of a made-up fleet, for `npm run seed`, tests and the bench. */
import layout from '../crates/check-in/data-point.json' with { type: 'json' };

/** The interval between a machine's check-ins. */
const INTERVAL_MS = 300_000;
const HOUR_MS = 3_600_000;

const REGIONS = ['ams', 'dfw', 'fra', 'gru', 'iad', 'nrt', 'sin', 'syd'];
const OPENCLAW = ['2026.3.11', '2026.3.12', '2026.3.13'];
const EXITS = ['signal:SIGKILL', 'signal:SIGSEGV', 'code:1', 'code:137'];

export interface Fleet {
  readonly sandboxes: number;
  readonly hours: number;
  readonly seed: number;
  /** The time of the last check-ins, in ms since 1970. */
  readonly now: number;
}

/** Pseudo-random numbers from 0 to 1 that depend only on the seed (mulberry32). */
export function random(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The prefix of all made-up ids: `clear` removes only these. */
const PREFIX = 'made-up-';

/** Descriptions of the problems; the first sandboxes of a fleet have one each. */
const PROBLEMS = {
  crashing: 'in a crash loop',
  silent: 'silent',
  stopped: 'shut down on purpose',
  cloned: 'cloned',
} as const;
type Kind = keyof typeof PROBLEMS | 'well';

interface Sandbox {
  readonly id: string;
  readonly kind: Kind;
  readonly machine: string;
  readonly region: string;
  readonly openclaw: string;
  /** Offset of its check-ins within an interval, in ms. */
  readonly phase: number;
  /** When it falls silent, shuts down or is cloned, in ms since 1970. */
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
  // Recent, because reports look back a day by default.
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
    // Three of four sandboxes are upgraded by now.
    upgrade: start + (next() * hours * HOUR_MS) / 0.75,
    random: next,
    load: next() * 2,
    restarts: 0,
    started: start - next() * 10 * HOUR_MS,
    exit: '',
  };
}

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
    ...disk(sandbox, timestamp),
  };
}

/** A disk of 10 GB that fills by 1 GB a day; every fourth sandbox reports none. */
function disk({ id, phase }: Sandbox, timestamp: number): object {
  if (Number(id.slice(PREFIX.length)) % 4 === 3) return {};
  const size = 10_737_418_240;
  const filled = phase / INTERVAL_MS + (timestamp % (10 * 24 * HOUR_MS)) / (10 * 24 * HOUR_MS);
  return { double7: Math.floor(size * (0.1 + 0.89 * (filled % 1))), double8: size };
}

/** The problems in a fleet: number of sandboxes and an example for each. */
export function problems(fleet: Fleet): string[] {
  const sandboxes = Array.from({ length: fleet.sandboxes }, (_, i) => sandbox(i, fleet));
  return Object.entries(PROBLEMS).flatMap(([kind, words]) => {
    const [first, ...others] = sandboxes.filter((sandbox) => sandbox.kind === kind);
    return first === undefined ? [] : [`${others.length + 1} ${words}, such as ${first.id}`];
  });
}

/** The check-ins of a fleet, in order except within an interval. */
export function* history(fleet: Fleet): Generator<object> {
  const { sandboxes: count, hours, now } = fleet;
  const sandboxes = Array.from({ length: count }, (_, i) => sandbox(i, fleet));
  sandboxes.sort((a, b) => a.phase - b.phase);
  for (let interval = now - hours * HOUR_MS; interval < now; interval += INTERVAL_MS) {
    for (const sandbox of sandboxes) {
      const { kind, event } = sandbox;
      const timestamp = interval + sandbox.phase;
      // Whether this is the last check-in before the event.
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

/** Removes all made-up points from the store. */
export async function clear(store: string): Promise<void> {
  const response = await fetch(`${store}/points?index_prefix=${PREFIX}`, { method: 'DELETE' });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
}
