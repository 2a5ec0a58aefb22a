/** The individual measurements: load over HTTP, calls in the process, cold starts, memory, size. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

import { API_KEY, CHECK_IN_PATH, WORKER_SECRETS } from '../harness/check-in.ts';
import { Failure } from '../harness/command.ts';
import { headers, INVALID_BODY, REPORT_REGION, SAMPLE, SAMPLE_BODY } from './check-in.ts';
import { ask, ended, REPORT, serve, start, type Service, type Site, type Variant, type Workerd } from './workerd.ts';

const CONNECTIONS = 16;
const WARM_UP_CALLS = 2_000;
/** Calls of a handler per request to the driver. */
const BATCH = 1_000;

/** Lengths and counts of the measurements. */
export interface Plan {
  readonly rounds: number;
  /** Duration of each load over HTTP. */
  readonly seconds: number;
  /** Handler calls of each measurement in the process. */
  readonly calls: number;
  readonly coldStarts: number;
  /** Number of memory readings, and of accepted check-ins before each. */
  readonly residents: number;
  readonly checkIns: number;
}

/** `report.ts` has the units. */
export type Metric =
  | 'inProcess'
  | 'http'
  | 'wrongKey'
  | 'invalidBody'
  | `throughput${1 | 16 | 64}`
  | `p50At${1 | 16 | 64}`
  | `p99At${1 | 16 | 64}`
  | 'coldStart'
  | 'resident'
  | 'size';

/** One value per round, by metric and variant. */
export class Samples {
  readonly #values = new Map<string, number[]>();

  add(metric: Metric, variant: string, value: number): void {
    const key = `${metric} ${variant}`;
    this.#values.set(key, [...(this.#values.get(key) ?? []), value]);
  }

  get(metric: Metric, variant: string): readonly number[] {
    return this.#values.get(`${metric} ${variant}`) ?? [];
  }
}

const SERVICE: Service = { name: 'main', vars: WORKER_SECRETS };
const DRIVER: Service = { ...SERVICE, main: 'driver' };

interface Load {
  readonly body: string;
  readonly apiKey?: string;
  readonly status: number;
  readonly connections: number;
}

const ACCEPTED: Load = { body: SAMPLE_BODY, status: 204, connections: CONNECTIONS };
const WRONG_KEY: Load = { ...ACCEPTED, apiKey: API_KEY.replace(/.$/, 'x'), status: 403 };
const INVALID: Load = { ...ACCEPTED, body: INVALID_BODY, status: 400 };

interface Outcome {
  readonly requests: number;
  readonly seconds: number;
  /** Answers with an unexpected status. */
  readonly unexpected: number;
  /** Requests without an answer. */
  readonly failed: number;
  /** Latency in microseconds. */
  readonly p50: number;
  readonly p99: number;
}

/** Puts a variant under load; throws on a wrong status or a wrong number of data points. */
async function load(
  site: Site,
  workerd: Workerd,
  { body, apiKey, status, connections }: Load,
  seconds: number,
): Promise<Outcome & { readonly cpuMicros: number }> {
  const { name } = workerd.variant;
  const url = `http://127.0.0.1:${workerd.port()}${CHECK_IN_PATH}`;
  const sent = Object.entries(headers(SAMPLE.sandboxId, apiKey));
  const lines = sent.map(([name, value]) => `${name}: ${value}`);
  const options = ['-t1', `-c${connections}`, `-d${seconds}s`, '-s', 'bench/load.lua', url];
  const args = [...options, '--', `${status}`, body, ...lines];

  const before = workerd.cpuSeconds();
  const wrk = start('wrk', args, ['ignore', 'pipe', 'inherit'], site.loadCore);
  let output = '';
  wrk.stdout!.setEncoding('utf8').on('data', (text: string) => (output += text));
  if ((await ended(wrk, 'wrk')) !== 0) throw new Failure(`wrk failed:\n${output}`);
  const cpuSeconds = workerd.cpuSeconds() - before;

  const outcome = JSON.parse(/^result: (.*)$/m.exec(output)?.[1] ?? '{}') as Outcome;
  const { requests, unexpected, failed } = outcome;
  if (!(requests > 0) || unexpected > 0 || failed > 0) {
    const wrong = `${unexpected} were not answered with ${status}, ${failed} were not answered at all`;
    throw new Failure(`${name}: of ${requests} requests, ${wrong}`);
  }
  // Requests in flight when wrk disconnected may have been written, too.
  const least = status === 204 ? requests : 0;
  const most = status === 204 ? requests + connections : 0;
  const points = await workerd.points(() => ask(workerd.port(), REPORT));
  if (points < least || points > most) {
    throw new Failure(`${name}: ${points} data points for ${requests} answers with ${status}`);
  }
  return { ...outcome, cpuMicros: (cpuSeconds / requests) * 1e6 };
}

/** Returns the process's CPU time per handler call, in microseconds. */
async function drive(workerd: Workerd, calls: number): Promise<number> {
  const run = async (times: number, region?: string) => {
    const init = {
      method: 'POST',
      // A request that arrives over HTTP has a content-length; one that is made here has none.
      headers: {
        ...headers(SAMPLE.sandboxId),
        'content-length': `${SAMPLE_BODY.length}`,
        ...(region === undefined ? {} : { 'fly-region': region }),
      },
      body: SAMPLE_BODY,
    };
    const job = { times, status: 204, url: `http://127.0.0.1${CHECK_IN_PATH}`, init };
    const { status, body } = await ask(workerd.port(), { path: '/', body: JSON.stringify(job) });
    if (status !== 204) throw new Failure(`${workerd.variant.name}: in the process: ${status} ${body}`);
  };
  const before = workerd.cpuSeconds();
  for (let done = 0; done < calls; done += BATCH) await run(BATCH);
  const cpuSeconds = workerd.cpuSeconds() - before;
  const points = await workerd.points(() => run(1, REPORT_REGION));
  if (points !== calls) throw new Failure(`${workerd.variant.name}: ${points} points for ${calls} calls`);
  return (cpuSeconds / calls) * 1e6;
}

/**
 * Runs one round of all measurements under load, in fresh, warmed-up processes. Each measurement runs the
 * variants one right after the other, so that all see the machine in the same state.
 */
export async function round(
  site: Site,
  variants: readonly Variant[],
  plan: Plan,
  samples: Samples,
): Promise<void> {
  const started: Workerd[] = [];
  const serveAll = async (service: Service) => {
    const all: Workerd[] = [];
    for (const variant of variants) {
      const workerd = await serve(site, variant, [service]);
      started.push(workerd);
      all.push(workerd);
    }
    return all;
  };
  const { seconds } = plan;
  try {
    const drivers = await serveAll(DRIVER);
    for (const workerd of drivers) await drive(workerd, WARM_UP_CALLS);
    for (const workerd of drivers) {
      samples.add('inProcess', workerd.variant.name, await drive(workerd, plan.calls));
    }
    for (const workerd of drivers) await workerd.stop();

    const servers = await serveAll(SERVICE);
    for (const workerd of servers) await load(site, workerd, ACCEPTED, 1);
    for (const connections of [16, 1, 64] as const) {
      for (const workerd of servers) {
        const { name } = workerd.variant;
        const outcome = await load(site, workerd, { ...ACCEPTED, connections }, seconds);
        if (connections === CONNECTIONS) samples.add('http', name, outcome.cpuMicros);
        samples.add(`throughput${connections}`, name, outcome.requests / outcome.seconds);
        samples.add(`p50At${connections}`, name, outcome.p50);
        samples.add(`p99At${connections}`, name, outcome.p99);
      }
    }
    for (const [metric, refused] of [['wrongKey', WRONG_KEY], ['invalidBody', INVALID]] as const) {
      // The floor does not parse bodies, so it refuses none.
      const refusing = refused === WRONG_KEY ? servers : servers.filter(({ variant }) => variant.name !== 'floor');
      for (const workerd of refusing) {
        const { cpuMicros } = await load(site, workerd, refused, seconds);
        samples.add(metric, workerd.variant.name, cpuMicros);
      }
    }
  } finally {
    for (const workerd of started) await workerd.stop();
  }
}

/** Process start to first answer, in milliseconds. */
export async function coldStart(site: Site, variant: Variant): Promise<number> {
  const started = performance.now();
  const workerd = await serve(site, variant, [SERVICE]);
  try {
    const { status } = await ask(workerd.port(), {
      headers: { ...headers(SAMPLE.sandboxId), 'content-length': `${SAMPLE_BODY.length}` },
      body: SAMPLE_BODY,
    });
    const milliseconds = performance.now() - started;
    if (status !== 204) throw new Failure(`${variant.name}: the first answer was ${status}`);
    return milliseconds;
  } finally {
    await workerd.stop();
  }
}

/** Resident memory after at least `checkIns` accepted check-ins, in MiB. */
export async function resident(site: Site, variant: Variant, checkIns: number): Promise<number> {
  const workerd = await serve(site, variant, [SERVICE]);
  try {
    for (let accepted = 0; accepted < checkIns; ) accepted += (await load(site, workerd, ACCEPTED, 1)).requests;
    return workerd.residentMiB();
  } finally {
    await workerd.stop();
  }
}

/** Size of the uploaded files, gzipped, in kB. */
export function size(variant: Variant): number {
  return readdirSync(variant.folder)
    .map((name) => gzipSync(readFileSync(join(variant.folder, name)), { level: 9 }).length / 1_000)
    .reduce((sum, bytes) => sum + bytes, 0);
}
