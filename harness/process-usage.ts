/** CPU time, memory and context switches of a process, as the kernel counts them. */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

/** The kernel's unit of CPU time, in seconds. */
const TICK = 1 / Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));

const read = (pid: number, file: string) => readFileSync(`/proc/${pid}/${file}`, 'utf8');

/** The number after `name:`; NaN if the kernel does not report it. */
const field = (text: string, name: string) =>
  Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? NaN);

/**
 * CPU time since the start: of all threads, including ended ones, and of the children that were waited
 * for. Its step is a tick, usually 10 ms. `task/.../schedstat` is finer but lacks ended threads, and the
 * agent starts a thread per request to resolve a name.
 */
export function cpuSeconds(pid: number): number {
  const stat = read(pid, 'stat');
  // Field 2 is the command's name, in parentheses; 14 to 17 are utime, stime, cutime and cstime.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) * TICK;
}

/** In MiB. */
export interface Memory {
  /** RSS: shared pages count in full. */
  readonly resident: number;
  /** The part of RSS that no file backs: heap, stacks, modified pages. */
  readonly anonymous: number;
  /** PSS: shared pages are divided by the number of processes that share them. */
  readonly proportional: number;
  /** The highest RSS so far. */
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

/** By thread id: how often the thread gave up or lost the CPU. A sleeping thread does neither. */
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

/** Wake-ups of all threads between two readings. */
export function wakeUps(
  before: ReadonlyMap<string, number>,
  after: ReadonlyMap<string, number>,
): number {
  // A new thread woke up at least once; an ended one had to wake up to end.
  const gone = [...before.keys()].filter((id) => !after.has(id)).length;
  const stayed = [...after].map(([id, count]) => count - (before.get(id) ?? -1));
  return stayed.reduce((sum, count) => sum + count, gone);
}
