/**
 * Measures the local Analytics Engine with a million points: time of the fleet query through the endpoint,
 * memory and disk per point, and time of a restart. `node bench/local-ae.ts` prints the results.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { temporaryFolder, withContext, type Context } from '../harness/context.ts';
import { memory } from '../harness/process-usage.ts';
import { BATCH, insert, SQL_PATH } from '../harness/store.ts';
import { table } from '../harness/table.ts';
import { WORKERD } from '../harness/workerd.ts';
import { freePort } from '../local-ae/support/port.js';
import { median } from './median.ts';
import { ended, start, stopAll } from './workerd.ts';

const CONFIGURATION = 'local-ae/workerd.capnp';
const ENGINE = 'local-ae/build/engine.wasm';

const POINTS = 1_000_000;
const SANDBOXES = 10_000;
/** Five minutes between the check-ins of one sandbox. */
const STEP_MS = 300_000 / SANDBOXES;
const RUNS = 7;

/** The query that `npm start` prints as a curl command. */
const FLEET_FILE = 'tools/latest.sql';

const STATES = ['running', 'running', 'running', 'stopped', 'crashed'];
const REGIONS = ['ams', 'dfw', 'sin', 'gru', 'nrt'];

function* checkIns(now: number): Generator<object> {
  for (let i = 0; i < POINTS; i += 1) yield checkIn(i, now);
}

/** Check-in `i` of a fleet; the last one has the time `now`. */
function checkIn(i: number, now: number): object {
  const sandbox = i % SANDBOXES;
  const sandboxId = `sandbox-${String(sandbox).padStart(5, '0')}`;
  return {
    dataset: layout.dataset,
    timestamp: Math.floor(now - (POINTS - i) * STEP_MS),
    index1: sandboxId,
    blob1: sandboxId,
    blob2: `1.${sandbox % 7}.0`,
    blob3: ((sandbox % 7) * 7919).toString(16).padStart(7, '0'),
    blob4: `2026.${sandbox % 5}.1`,
    blob5: ((sandbox % 5) * 104_729).toString(16).padStart(7, '0'),
    blob6: STATES[(i * 7) % 5],
    blob7: REGIONS[sandbox % 5],
    blob8: (sandbox * 2_654_435_761).toString(16).padStart(14, '0'),
    blob9: i % 11 === 0 ? 'signal:SIGKILL' : '',
    double1: i % 3,
    double2: i % 100,
    double3: Math.floor(i / SANDBOXES) * 300,
    double4: (i % 640) / 100,
    double5: (i * 31) % 1_000_003,
    double6: (i * 17) % 1_000_003,
  };
}

class Endpoint {
  readonly #child;
  readonly url: string;
  readonly #exited: Promise<number>;

  constructor(folder: string, port: number) {
    const directory = `--directory-path=local-ae:disk=${folder}`;
    const sockets = ['--socket-addr=visits=127.0.0.1:0', `--socket-addr=local-ae:read=127.0.0.1:${port}`];
    const args = ['serve', '--experimental', directory, ...sockets, CONFIGURATION];
    this.#child = start(WORKERD, args, ['ignore', 'inherit', 'inherit']);
    this.#exited = ended(this.#child, WORKERD);
    this.url = `http://127.0.0.1:${port}`;
  }

  async #fetch(path: string, init: RequestInit = {}): Promise<string> {
    const response = await fetch(`${this.url}${path}`, init);
    const text = await response.text();
    if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`);
    return text;
  }

  async ready(): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      try {
        await this.#fetch('/points?limit=1');
        return;
      } catch (error) {
        if (tries === 500 || this.#child.exitCode !== null) throw error;
        await delay(10);
      }
    }
  }

  /** Runs a query; returns its rows and the milliseconds until the full response is here. */
  async query(sql: string): Promise<{ rows: number; ms: number }> {
    const started = performance.now();
    const headers = { authorization: 'Bearer bench' };
    const text = await this.#fetch(SQL_PATH, { method: 'POST', headers, body: sql });
    const ms = performance.now() - started;
    return { rows: (JSON.parse(text) as { rows: number }).rows, ms };
  }

  async memory(): Promise<number> {
    return (JSON.parse(await this.#fetch('/status')) as { memory: number }).memory;
  }

  residentBytes(): number {
    return memory(this.#child.pid!).resident * 1024 * 1024;
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#exited;
  }
}

function folderBytes(folder: string): number {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true });
  return files
    .filter((file) => file.isFile())
    .reduce((sum, file) => sum + statSync(path.join(file.parentPath, file.name)).size, 0);
}

/** The section of the results, in Markdown. */
export const localAeSection = (): Promise<string> => withContext(section);

async function section(context: Context): Promise<string> {
  const port = await freePort();
  const folder = temporaryFolder(context);
  // The fleet query looks back a day, so all points are in its window.
  const now = Date.now();
  const filled = new Endpoint(folder, port);
  await filled.ready();
  const started = performance.now();
  await insert(filled.url, checkIns(now));
  const seeded = performance.now() - started;
  // A SIGKILL, as when a machine goes down.
  await filled.stop();

  const endpoint = new Endpoint(folder, port);
  await endpoint.ready();
  const before = endpoint.residentBytes();
  const first = await endpoint.query(`SELECT count() AS n FROM ${layout.dataset}`);
  const resident = endpoint.residentBytes() - before;
  const fleet = readFileSync(FLEET_FILE, 'utf8');
  const times: number[] = [];
  for (let run = 0; run < RUNS; run += 1) {
    const { rows, ms } = await endpoint.query(fleet);
    if (rows !== SANDBOXES) throw new Error(`the fleet query returned ${rows} rows`);
    times.push(ms);
  }
  const memory = await endpoint.memory();
  await endpoint.stop();

  const engine = gzipSync(readFileSync(ENGINE), { level: 9 }).length;
  const perPoint = (bytes: number) => `${Math.round(bytes / POINTS)} bytes`;
  const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`;
  return `## The local Analytics Engine

${POINTS.toLocaleString('en')} check-ins of ${SANDBOXES.toLocaleString('en')} sandboxes in a plain workerd (\`local-ae/workerd.capnp\`), queried
through its endpoint; \`node bench/local-ae.ts\` prints only this section.

${table(['', ''], [
    [`Latest state of each sandbox (\`${FLEET_FILE}\`), median of ${RUNS}`, `${Math.round(median(times))} ms`],
    ['First query after a restart, which reads all points', seconds(first.ms)],
    ['Memory of the columns, per point', perPoint(memory)],
    ['Resident memory that the first query adds, per point', perPoint(resident)],
    ['Disk, per point', perPoint(folderBytes(folder))],
    [`Adding them all by \`POST /points\`, ${BATCH.toLocaleString('en')} at a time`, seconds(seeded)],
    ['The engine, gzipped (`gzip -9`)', `${Math.round(engine / 1000)} kB`],
  ])}
`;
}

if (import.meta.main) {
  process.once('exit', stopAll);
  process.chdir(new URL('..', import.meta.url).pathname);
  console.log(await localAeSection());
}
