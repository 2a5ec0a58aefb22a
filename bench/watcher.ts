/**
 * Measures a tick of the watcher over large fleets: CPU time and memory of its process, queries and bytes read.
 * `node bench/watcher.ts` prints the results.
 *
 * The fleet's points are in another process, so that only the Worker's own memory counts. A proxy counts the queries,
 * and sends those about canaries to the Worker's own store.
 */
import { createServer } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { AE_API_TOKEN, JWT_SECRET, WORKER_SECRETS } from '../harness/check-in.ts';
import { listen, withContext, type Context } from '../harness/context.ts';
import { insert, SQL_PATH } from '../harness/store.ts';
import { table } from '../harness/table.ts';
import { mint } from '../harness/token.ts';
import { CANARY_DATASET, startWorkerd } from '../harness/workerd.ts';
import { cpuSeconds, memory } from '../harness/process-usage.ts';

const TICK_SECONDS = 5;

/** Check-ins of a fleet, of which the first `silent` sandboxes stopped 20 minutes ago. */
function* points(sandboxes: number, silent: number, now: number): Generator<object> {
  for (let number = 0; number < sandboxes; number++) {
    const id = `sandbox-${String(number).padStart(6, '0')}`;
    const blobs = [id, '1.0.0', 'c0ffee1', '2026.5.1', 'c0ffee2', 'running', ['fra', 'iad', 'syd'][number % 3], `m-${number}`, ''];
    const last = now - (number < silent ? 1_200 : 0) * 1_000 - (number % 270) * 1_000;
    for (let age = 0; age < 4; age++) {
      yield {
        dataset: layout.dataset,
        timestamp: last - age * 300_000,
        index1: id,
        ...Object.fromEntries(blobs.map((blob, i) => [`blob${i + 1}`, blob])),
        ...Object.fromEntries([0, 7, 60, 0.5, 10, 20].map((double, i) => [`double${i + 1}`, double])),
      };
    }
  }
}

async function measure(sandboxes: number, silent: number, context: Context): Promise<string[]> {
  const fleet = await startWorkerd({}, context);
  await insert(`http://127.0.0.1:${fleet.store}`, points(sandboxes, silent, Date.now()));

  const counts = { queries: 0, bytes: 0 };
  const stores = { own: 0 };
  const proxy = createServer(async (request, response) => {
    let sql = '';
    for await (const chunk of request) sql += chunk;
    const port = sql.includes(CANARY_DATASET) ? stores.own : fleet.store;
    const answer = await fetch(`http://127.0.0.1:${port}${SQL_PATH}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${AE_API_TOKEN}` },
      body: sql,
    });
    const body = Buffer.from(await answer.arrayBuffer());
    counts.queries++;
    counts.bytes += body.length;
    response.writeHead(answer.status, { 'content-type': 'application/json' }).end(body);
  });
  const vars = {
    ...WORKER_SECRETS,
    AE_SQL_URL: `http://127.0.0.1:${await listen(context, proxy)}${SQL_PATH}`,
    AE_API_TOKEN,
    WATCH_TICK: `${TICK_SECONDS}s`,
    WATCH_STALE_AFTER: '1h',
  };
  const worker = await startWorkerd(vars, context);
  stores.own = worker.store;
  const headers = { authorization: `Bearer ${await mint({ sub: 'bench', ttl: 3_600 }, { JWT_SECRET })}` };
  const watcher = async () =>
    (await (await fetch(`http://127.0.0.1:${worker.port}/api/watcher`, { headers })).json()) as {
      watch: { lastTick: string | null; horizon: string | null; open: { silent: number } };
    };
  // The first tick finds no canary, so it sends no other query.
  await watcher();
  const before = memory(worker.pid).resident;
  const cpu = cpuSeconds(worker.pid);
  const begin = { ...counts };
  const started = Date.now();
  let state = await watcher();
  while (state.watch.horizon === null || state.watch.open.silent < silent) {
    if (Date.now() - started > 120_000) throw new Error(`no verdict within 120 s: ${JSON.stringify(state)}\n${worker.log()}`);
    await delay(1_000);
    state = await watcher();
  }
  const used = cpuSeconds(worker.pid) - cpu;
  return [
    sandboxes.toLocaleString('en'),
    silent.toLocaleString('en'),
    `${Math.round(used * 1_000)} ms`,
    String(counts.queries - begin.queries),
    `${((counts.bytes - begin.bytes) / 1e6).toFixed(2)} MB`,
    `${Math.round(before)} MiB`,
    `${Math.round(memory(worker.pid).peak - before)} MiB`,
  ];
}

const rows: string[][] = [];
for (const sandboxes of [10_000, 100_000]) {
  for (const silent of [0, 100, sandboxes / 2]) {
    rows.push(await withContext((context) => measure(sandboxes, silent, context)));
  }
}
console.log(table(['Sandboxes', 'transitions', 'CPU', 'queries', 'read', 'memory before', 'peak above'], rows));
