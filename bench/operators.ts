/**
 * Measures time and size of the operators' API responses over a day of a large fleet in the local Analytics
 * Engine. `node bench/operators.ts` prints the results; run `npm run build` and `npm run engine` first.
 */
import { createServer } from 'node:http';
import { readFileSync } from 'node:fs';
import { styleText } from 'node:util';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { AE_API_TOKEN, JWT_SECRET } from '../harness/check-in.ts';
import { listen, withContext, type Context } from '../harness/context.ts';
import { history } from '../harness/made-up-fleet.ts';
import { cpuSeconds, memory } from '../harness/process-usage.ts';
import { insert, load, SQL_PATH } from '../harness/store.ts';
import { table } from '../harness/table.ts';
import { mint } from '../harness/token.ts';
import { startWorker, type Worker } from '../harness/worker.ts';
import { median } from './median.ts';

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

const count = (n: number) => n.toLocaleString('en');

/** The time runs until the full response is here. */
async function ask(worker: Worker, path: string, token: string): Promise<{ ms: number; bytes: number }> {
  const started = performance.now();
  const response = await worker.fetch(path, { headers: { authorization: `Bearer ${token}` } });
  const text = await response.text();
  if (!response.ok) throw new Error(`${path}: ${response.status} ${text} ${JSON.stringify(worker.logs)}`);
  return { ms: performance.now() - started, bytes: Buffer.byteLength(text) };
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
async function hostileRows(
  name: string,
  points: (now: number) => Iterable<object>,
  context: Context,
): Promise<string[][]> {
  const source = await startWorker({}, context);
  // The points are long, and the store limits the size of a request.
  await insert(source.store, points(Date.now()), undefined, 1_000);
  await load(source.store, AE_API_TOKEN);
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
      const reply = await fetch(`${source.store}${SQL_PATH}`, { method: 'POST', body: sql, headers: { authorization } });
      answer = { status: reply.status, text: await reply.text() };
      answers.set(key, answer);
    }
    response.writeHead(answer.status, { 'content-type': 'application/json' }).end(answer.text);
  });
  const url = `http://127.0.0.1:${await listen(context, replay)}/sql`;
  const before = new Set(childrenOf(process.pid));
  const worker = await startWorker({ dataset: 'missing', vars: { AE_SQL_URL: url } }, context);
  const [pid] = childrenOf(process.pid).filter((child) => !before.has(child));
  const token = await mint({ sub: 'bench', ttl: 3_600 }, { JWT_SECRET });
  const rows: string[][] = [];
  for (const path of ['/api/fleet', '/api/sandboxes?limit=1000', '/api/incidents?limit=1000']) {
    const requestPath = (run: number) =>
      `${path}${path.includes('?') ? '&' : '?'}silent_after=${901 + run}s&window=${HOURS * 60}m`;
    answers.clear();
    await ask(worker, requestPath(0), token);
    const sizes = [...answers.values()].map(({ text }) => Buffer.byteLength(text));
    let bytes = 0;
    const started = cpuSeconds(pid);
    // A new `silent_after` misses the Worker's cache, but the recorded queries are the same.
    for (let run = 1; run <= HOSTILE_RUNS; run += 1) bytes = (await ask(worker, requestPath(run), token)).bytes;
    const cpu = ((cpuSeconds(pid) - started) / HOSTILE_RUNS) * 1_000;
    rows.push([
      name,
      `\`${path}\``,
      `${cpu.toFixed(1)} ms`,
      count(sizes.reduce((sum, size) => sum + size, 0)),
      count(Math.max(...sizes)),
      count(bytes),
      `${Math.round(memory(pid).peak)} MiB`,
    ]);
  }
  return rows;
}

/** The section of the results, in Markdown. */
export const operatorsSection = (): Promise<string> => withContext(section);

async function section(context: Context): Promise<string> {
  const worker = await startWorker({ maxRows: 4_000_000 }, context);
  const token = await mint({ sub: 'bench', ttl: 3_600 }, { JWT_SECRET });
  const fleet = { sandboxes: SANDBOXES, hours: HOURS, seed: 1, now: Date.now() };
  const points = await insert(worker.store, history(fleet));
  const loaded = await load(worker.store, AE_API_TOKEN);
  const rows: string[][] = [];
  for (const path of ENDPOINTS) {
    const times: number[] = [];
    let bytes = 0;
    let again = 0;
    for (let run = 0; run < RUNS; run += 1) {
      // A new window misses the cache.
      const window = `window=${HOURS * 60 - 1 - run}m`;
      const requestPath = `${path}${path.includes('?') ? '&' : '?'}${window}`;
      const first = await ask(worker, requestPath, token);
      times.push(first.ms);
      bytes = first.bytes;
      again = (await ask(worker, requestPath, token)).ms;
    }
    rows.push([`\`${path}\``, `${Math.round(median(times))} ms`, `${again.toFixed(1)} ms`, count(bytes)]);
  }
  const status = (await (await fetch(`${worker.store}/status`)).json()) as { memory: number };
  const hostile: string[][] = [];
  for (const [name, points] of HOSTILE) {
    hostile.push(...(await withContext((context) => hostileRows(name, points, context))));
  }
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

${table(['', '', 'CPU', 'received', 'largest', 'report', 'peak RSS'], hostile)}
`;
}

if (import.meta.main) {
  process.chdir(new URL('..', import.meta.url).pathname);
  console.error(styleText('dim', `a day of ${count(SANDBOXES)} sandboxes: this takes some minutes`));
  console.log(await operatorsSection());
}
