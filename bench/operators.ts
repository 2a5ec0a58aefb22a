/**
 * Measures time and size of the operators' API responses over a day of a large fleet in the local Analytics
 * Engine. `node bench/operators.ts` prints the results; run `npm run build` and `npm run engine` first.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { readFileSync } from 'node:fs';
import { styleText } from 'node:util';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { AE_API_TOKEN, JWT_SECRET } from '../harness/check-in.ts';
import { startWorker, type Worker } from '../harness/worker.ts';
import { history, insert } from '../harness/made-up-fleet.ts';
import { mint } from '../harness/token.ts';
import { cpuSeconds, memory } from '../harness/process-usage.ts';
import { table } from '../harness/table.ts';

const SANDBOXES = 10_000;
const HOURS = 24;
const RUNS = 5;
/** The kernel counts CPU time in steps of 10 ms; this many requests average it out. */
const HOSTILE_RUNS = 20;

const ENDPOINTS = [
  '/api/fleet',
  '/api/sandboxes?limit=100',
  '/api/sandboxes?limit=1000&sort=-load',
  '/api/sandboxes?limit=100&state=crashed',
  '/api/sandboxes/made-up-00042',
  '/api/sandboxes/made-up-00042/history',
  '/api/incidents',
];

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1];
const count = (n: number) => n.toLocaleString('en');

/** The time runs until the full response is here. */
async function ask(worker: Worker, path: string, token: string): Promise<{ ms: number; bytes: number }> {
  const started = performance.now();
  const response = await worker.fetch(path, { headers: { authorization: `Bearer ${token}` } });
  const text = await response.text();
  if (!response.ok) throw new Error(`${path}: ${response.status} ${text} ${JSON.stringify(worker.logs)}`);
  return { ms: performance.now() - started, bytes: Buffer.byteLength(text) };
}

/** Makes the store read all points into memory, as any first query does; returns the milliseconds. */
async function load({ store }: Worker): Promise<number> {
  const started = performance.now();
  const sql = encodeURIComponent(`SELECT count() FROM ${layout.dataset}`);
  const path = `/client/v4/accounts/bench/analytics_engine/sql?query=${sql}`;
  const response = await fetch(`${store}${path}`, { headers: { authorization: `Bearer ${AE_API_TOKEN}` } });
  if (!response.ok) throw new Error(await response.text());
  return performance.now() - started;
}

const childrenOf = (pid: number): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number);

/** The longest text that the contract allows; JSON escapes each padding character in six bytes. */
const longest = (tag: number | string) => `${tag}`.padEnd(1_024, '\u0001');

function hostile(now: number, ago: number, change: Readonly<Record<string, string | number>>): object {
  const point: Record<string, string | number> = {
    dataset: layout.dataset,
    timestamp: now - ago * 1_000,
    index1: 'hostile',
    blob1: 'hostile',
    blob2: '1.4.2',
    blob6: 'running',
    blob8: 'machine',
    double1: 0,
    ...change,
  };
  return point;
}

/** Each machine checks in twice, the second time after all others have checked in once. */
function* machines(count: number, id: (i: number) => string, now: number): Generator<object> {
  for (const round of [1_400, 700]) {
    for (let i = 0; i < count; i += 1) yield hostile(now, round - (i % 600), { blob8: id(i) });
  }
}

function* restarts(count: number, now: number): Generator<object> {
  for (let i = 0; i < count; i += 1) {
    yield hostile(now, i, { double1: 1e308, double5: 1e308, blob9: longest(i) });
  }
}

/** Sandboxes that share no value; each is cloned, silent and in a crash loop. */
function* extremes(count: number, now: number): Generator<object> {
  for (const ago of [4_000, 3_600, 3_200, 2_800]) {
    for (let i = 0; i < count; i += 1) {
      const id = `${i}`.padEnd(96, '\u0001');
      const texts = [2, 3, 4, 5, 6, 7, 9].map((blob) => [`blob${blob}`, longest(i)]);
      yield hostile(now, ago, {
        ...Object.fromEntries(texts),
        ...{ index1: id, blob1: id, blob8: longest(ago % 800), double1: 1e308, double4: 1e308 },
      });
    }
  }
}

/** Groups points, because the store limits the size of a request. */
function* batches(points: Iterable<object>, size: number): Generator<object[]> {
  let batch: object[] = [];
  for (const point of points) {
    if (batch.push(point) < size) continue;
    yield batch;
    batch = [];
  }
  yield batch;
}

/** Contents of the store, each in a store of its own. */
const HOSTILE: [name: string, points: (now: number) => Iterable<object>][] = [
  ['1,000 ordinary sandboxes', (now) => history({ sandboxes: 1_000, hours: HOURS, seed: 1, now })],
  ['2,000 machines of one sandbox, short ids', (now) => machines(2_000, String, now)],
  ['20,000 machines of one sandbox, short ids', (now) => machines(20_000, String, now)],
  ['2,000 machines of one sandbox, ids of 1,024 bytes', (now) => machines(2_000, longest, now)],
  ['20,000 restarts of one sandbox, 1,024 control characters each', (now) => restarts(20_000, now)],
  ['2,500 sandboxes of extremes alone', (now) => extremes(2_500, now)],
];

/**
 * Measures what hostile points cost the Worker alone: records the responses of Analytics Engine, then
 * replays them to a Worker in a process of its own and reads its CPU time.
 */
async function hostileRows(): Promise<string[][]> {
  const rows: string[][] = [];
  for (const [name, points] of HOSTILE) {
    const stops: (() => Promise<void>)[] = [];
    const context = { after: (stop: () => Promise<void>) => void stops.unshift(stop) };
    try {
      const source = await startWorker({}, context);
      for (const batch of batches(points(Date.now()), 1_000)) await insert(source.store, batch);
      await load(source);
      // Queries of the same kind differ only in their times, so the key leaves these out.
      const answers = new Map<string, { status: number; text: string }>();
      const replay = createServer(async (request, response) => {
        const chunks: Buffer[] = [];
        for await (const chunk of request) chunks.push(chunk as Buffer);
        const sql = Buffer.concat(chunks).toString();
        const key = sql.replace(/\b\d{10}\b/g, 'T');
        let answer = answers.get(key);
        if (answer === undefined) {
          const { authorization } = request.headers as { authorization: string };
          const path = '/client/v4/accounts/local/analytics_engine/sql';
          const asked = await fetch(`${source.store}${path}`, { method: 'POST', body: sql, headers: { authorization } });
          answer = { status: asked.status, text: await asked.text() };
          answers.set(key, answer);
        }
        response.writeHead(answer.status, { 'content-type': 'application/json' }).end(answer.text);
      });
      await new Promise<void>((resolve) => replay.listen(0, '127.0.0.1', resolve));
      context.after(async () => void replay.close());
      const url = `http://127.0.0.1:${(replay.address() as AddressInfo).port}/sql`;
      const before = new Set(childrenOf(process.pid));
      const worker = await startWorker({ dataset: 'missing', vars: { AE_SQL_URL: url } }, context);
      const [pid] = childrenOf(process.pid).filter((child) => !before.has(child));
      const token = await mint({ sub: 'bench', ttl: 3_600 }, { JWT_SECRET });
      for (const path of ['/api/fleet', '/api/sandboxes?limit=1000', '/api/incidents?limit=1000']) {
        const requestPath = (run: number) =>
          `${path}${path.includes('?') ? '&' : '?'}silent_after=${901 + run}s&window=${HOURS * 60}m`;
        answers.clear();
        await ask(worker, requestPath(0), token);
        const received = [...answers.values()].reduce((sum, { text }) => sum + Buffer.byteLength(text), 0);
        const largest = Math.max(...[...answers.values()].map(({ text }) => Buffer.byteLength(text)));
        let bytes = 0;
        const started = cpuSeconds(pid);
        // A new `silent_after` misses the Worker's cache, but the recorded queries are the same.
        for (let run = 1; run <= HOSTILE_RUNS; run += 1) bytes = (await ask(worker, requestPath(run), token)).bytes;
        const cpu = ((cpuSeconds(pid) - started) / HOSTILE_RUNS) * 1_000;
        rows.push([
          name,
          `\`${path}\``,
          `${cpu.toFixed(1)} ms`,
          count(received),
          count(largest),
          count(bytes),
          `${Math.round(memory(pid).peak)} MiB`,
        ]);
      }
    } finally {
      for (const stop of stops) await stop();
    }
  }
  return rows;
}

/** The section of the results, in Markdown. */
export async function operatorsSection(): Promise<string> {
  const stops: (() => Promise<void>)[] = [];
  const context = { after: (stop: () => Promise<void>) => void stops.push(stop) };
  try {
    const worker = await startWorker({ maxRows: 4_000_000 }, context);
    const token = await mint({ sub: 'bench', ttl: 3_600 }, { JWT_SECRET });
    const fleet = { sandboxes: SANDBOXES, hours: HOURS, seed: 1, now: Date.now() };
    const points = await insert(worker.store, history(fleet));
    const loaded = await load(worker);
    const rows: string[][] = [];
    for (const path of ENDPOINTS) {
      const times: number[] = [];
      let bytes = 0;
      let again = 0;
      for (let run = 0; run < RUNS; run += 1) {
        // A new window misses the cache.
        const window = `window=${HOURS * 60 - 1 - run}m`;
        const requestPath = `${path}${path.includes('?') ? '&' : '?'}${window}`;
        const asked = await ask(worker, requestPath, token);
        times.push(asked.ms);
        bytes = asked.bytes;
        again = (await ask(worker, requestPath, token)).ms;
      }
      rows.push([`\`${path}\``, `${Math.round(median(times))} ms`, `${again.toFixed(1)} ms`, count(bytes)]);
    }
    const status = (await (await fetch(`${worker.store}/status`)).json()) as { memory: number };
    return `## The operators' API

A day of ${count(SANDBOXES)} sandboxes, which is ${count(points)} check-ins, in the local Analytics Engine
(\`tools/seed.ts\`), queried through the Worker; \`node bench/operators.ts\` prints only this section. Medians
of ${RUNS} requests, and the time of a repeated request within 15 s, which the cache answers. Before, the store
read all points into memory in ${(loaded / 1000).toFixed(1)} s; they take up ${Math.round(status.memory / points)} bytes each.

${table(['', 'first', 'from cache', 'bytes'], rows)}

### Hostile points

What the points of one hostile sandbox, or of a fleet of them, can cost the Worker, beside an ordinary fleet:
CPU time of its whole process per request, averaged over ${HOSTILE_RUNS} (including HTTP to Analytics Engine); bytes
received from Analytics Engine in all, and in the largest response; bytes of the report; and peak memory of the
process so far (an idle one has about 100 MiB).

${table(['', '', 'CPU', 'received', 'largest', 'report', 'peak RSS'], await hostileRows())}
`;
  } finally {
    for (const stop of stops) await stop();
  }
}

if (import.meta.main) {
  process.chdir(new URL('..', import.meta.url).pathname);
  console.error(styleText('dim', `a day of ${count(SANDBOXES)} sandboxes: this takes some minutes`));
  console.log(await operatorsSection());
}
