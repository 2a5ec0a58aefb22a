/**
 * The operators' API over a day of a large fleet in the local Analytics Engine: how long each answer
 * takes, and how large it is. `node bench/operators.ts` prints it; it needs what `npm run build` and
 * `npm run engine` make.
 */
import { styleText } from 'node:util';

import layout from '../crates/checkin/data-point.json' with { type: 'json' };
import { AE_API_TOKEN, JWT_SECRET, startWorker, type Worker } from '../tests/worker.ts';
import { history, insert } from '../tools/history.ts';
import { mint } from '../tools/token.ts';
import { table } from './report.ts';

const SANDBOXES = 10_000;
const HOURS = 24;
const RUNS = 5;

/** What an operator asks; the sandbox is one of many. */
const ENDPOINTS = [
  '/api/fleet',
  '/api/sandboxes?limit=100',
  '/api/sandboxes?limit=1000&sort=-load',
  '/api/sandboxes?limit=100&state=crashed',
  '/api/sandboxes/sandbox-00042',
  '/api/sandboxes/sandbox-00042/history',
  '/api/incidents',
];

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1];
const count = (n: number) => n.toLocaleString('en');

/** Asks once; the time is that of the whole answer. */
async function ask(worker: Worker, path: string, token: string): Promise<{ ms: number; bytes: number }> {
  const started = performance.now();
  const response = await worker.fetch(path, { headers: { authorization: `Bearer ${token}` } });
  const text = await response.text();
  if (!response.ok) throw new Error(`${path}: ${response.status} ${text} ${JSON.stringify(worker.logs)}`);
  return { ms: performance.now() - started, bytes: Buffer.byteLength(text) };
}

/** Has the store read all points into memory, as its first query does; returns the milliseconds. */
async function load({ store }: Worker): Promise<number> {
  const started = performance.now();
  const sql = encodeURIComponent(`SELECT count() FROM ${layout.dataset}`);
  const path = `/client/v4/accounts/bench/analytics_engine/sql?query=${sql}`;
  const response = await fetch(`${store}${path}`, { headers: { authorization: `Bearer ${AE_API_TOKEN}` } });
  if (!response.ok) throw new Error(await response.text());
  return performance.now() - started;
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
        // Another window is another question, which the cache does not know.
        const window = `window=${HOURS * 60 - 1 - run}m`;
        const question = `${path}${path.includes('?') ? '&' : '?'}${window}`;
        const asked = await ask(worker, question, token);
        times.push(asked.ms);
        bytes = asked.bytes;
        again = (await ask(worker, question, token)).ms;
      }
      rows.push([`\`${path}\``, `${Math.round(median(times))} ms`, `${again.toFixed(1)} ms`, count(bytes)]);
    }
    const status = (await (await fetch(`${worker.store}/status`)).json()) as { memory: number };
    return `## The operators' API

A day of ${count(SANDBOXES)} sandboxes, which is ${count(points)} check-ins, in the local Analytics Engine
(\`tools/history.ts\`), asked through the Worker; \`node bench/operators.ts\` prints this alone. Medians of
${RUNS}, and the same question again within 15 s. Before, the store read all points into memory, which took
${(loaded / 1000).toFixed(1)} s; they take up ${Math.round(status.memory / points)} bytes each.

${table(['', 'asked', 'asked again', 'bytes'], rows)}
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
