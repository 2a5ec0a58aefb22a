/** What a process costs, as the kernel counts it. */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

/** What the kernel counts CPU time in, in seconds. */
const TICK = 1 / Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));

const read = (pid: number, file: string) => readFileSync(`/proc/${pid}/${file}`, 'utf8');

/** The number after `name:`; NaN if the kernel does not report it. */
const field = (text: string, name: string) =>
  Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? NaN);

/**
 * CPU time since the start: of all threads, those that have ended included, and of the children that
 * were waited for. It has steps of a tick, most often 10 ms; the finer `task/.../schedstat` lacks the
 * threads that have ended, and resolving a name takes the agent one thread per request.
 */
export function cpuSeconds(pid: number): number {
  const stat = read(pid, 'stat');
  // The second field is the command's name, in parentheses; utime, stime and those of the children
  // are 14th to 17th.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) * TICK;
}

/** In MiB. */
export interface Memory {
  /** In RAM, shared pages counted in full. */
  readonly resident: number;
  /** The part of it that is no file's: heap, stacks, what was written to. */
  readonly anonymous: number;
  /** In RAM, shared pages divided by the number of processes that share them. */
  readonly proportional: number;
  /** The most that was ever resident. */
  readonly peak: number;
}

export function memory(pid: number): Memory {
  const status = read(pid, 'status');
  const kib = {
    resident: field(status, 'VmRSS'),
    anonymous: field(status, 'RssAnon'),
    proportional: field(read(pid, 'smaps_rollup'), 'Pss'),
    peak: field(status, 'VmHWM'),
  };
  return Object.fromEntries(Object.entries(kib).map(([name, n]) => [name, n / 1024])) as unknown as Memory;
}

/** How often each thread has given up the CPU or lost it. A thread that sleeps does neither. */
export function contextSwitches(pid: number): ReadonlyMap<string, number> {
  const ids = readdirSync(`/proc/${pid}/task`);
  return new Map(
    ids.map((id) => {
      const status = read(pid, `task/${id}/status`);
      const kinds = ['voluntary_ctxt_switches', 'nonvoluntary_ctxt_switches'];
      return [id, kinds.reduce((sum, kind) => sum + field(status, kind), 0)];
    }),
  );
}

/** How often a thread woke up between two readings. */
export function wakeUps(
  before: ReadonlyMap<string, number>,
  after: ReadonlyMap<string, number>,
): number {
  // A thread that is new has woken up at least once; one that is gone had to, to end.
  const gone = [...before.keys()].filter((id) => !after.has(id)).length;
  const stayed = [...after].map(([id, count]) => count - (before.get(id) ?? -1));
  return stayed.reduce((sum, count) => sum + count, gone);
}
