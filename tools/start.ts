/**
 * `npm start`: runs everything on this machine. The real agent checks in with the real Worker in real workerd. This
 * program reads every data point back from the local Analytics Engine and prints it.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual, parseArgs, parseEnv, stripVTControlCharacters, styleText } from 'node:util';

import { CHECK_IN_PATH } from '../harness/check-in.ts';
import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { lockFolder } from '../local-ae/lock.js';
import { freePort } from '../local-ae/support/port.js';
import { metadata } from '../harness/cargo.ts';
import { command, Failure } from '../harness/command.ts';
import { RUNNING_FILE, STORE_PORT, WORKER_PORT, type Running } from './running.ts';
import { signIn } from '../harness/sign-in.ts';
import { SQL_PATH } from '../harness/store.ts';
import { mint } from '../harness/token.ts';

const HELP = `Usage: npm start [-- OPTIONS]

Builds the Worker and the agent. Runs the Worker in \`wrangler dev\` with a local Analytics Engine, and the
agent with a command that only sleeps. Prints every stored data point, from any client, every alert of the watcher,
and a link that signs in to the operators' page. With --interval 5, a machine counts as silent after 20 s;
SILENT_AFTER and WATCH_TICK in .dev.vars override this.

Options:
  --once           one check-in; exit 0 if the point read back is the one that was sent
  --no-agent       only the Worker, rebuilt when its source or that of the page changes (this is \`npm run dev\`)
  --interval N     seconds between check-ins, 1 or more [default: 5]
  --port N         port of the Worker [default: 8787, or a free one if that is in use]
  --store-port N   port of the local Analytics Engine [default: 9310, likewise]
  --allowed-host H a Host that the local Analytics Engine accepts besides this machine's
  -h, --help       print this help
`;

const SECRETS = ['KILOCODE_API_KEY', 'GATEWAY_TOKEN_SECRET', 'JWT_SECRET'];
const STATE_FOLDER = '.wrangler';
/** Keeps the agent's unreported counters, and what `status` shows. */
const STATE_FILE = `${STATE_FOLDER}/agent-state.json`;
const INSPECTOR_PORT = 9229;
const PAGE_FOLDER = 'web/dist';
/** If more points arrive at once, as with `npm run seed`, only their number is printed. */
const MOST_SHOWN = 10;
/** Reports redact it, so no id may contain it, such as the sandbox's, which begins with `local`. */
const SQL_TOKEN = 'token-of-the-local-engine';
const SQL_AUTHORIZATION = `Bearer ${SQL_TOKEN}`;
/** Lifetime of the printed operator's token: more than a working day. */
const TOKEN_HOURS = 12;
/** Far more than a cold build, which takes about a minute: this only ends a hang. */
const READY_DEADLINE_MS = 15 * 60_000;
const STORED_DEADLINE_MS = 15_000;
/** Output of wrangler that is not shown: empty lines, and requests of this program. */
const NOISE = /^(\[custom build\]\s*)?$|GET \/(health|assets\/\S+|api\/(alerts|watcher)) /;
/** Intervals of the watcher's ticks, and of this program's requests for alerts. */
const TICK_SECONDS = 5;
const ALERTS_EVERY_MS = 2_000;

interface Point {
  readonly id: number;
  readonly dataset: string;
  readonly timestamp: string;
  readonly index1: string;
  readonly blobs: readonly string[];
  readonly doubles: readonly number[];
}

/** A row of a query result. */
type Row = Readonly<Record<string, string | number>>;

/** Without effect if the output is not a terminal. */
const dim = (text: string) => styleText('dim', text);

const say = (text: string) => console.log(`${dim('start:')} ${text}`);

function options() {
  try {
    const { values } = parseArgs({
      options: {
        once: { type: 'boolean', default: false },
        'no-agent': { type: 'boolean', default: false },
        interval: { type: 'string', default: '5' },
        port: { type: 'string' },
        'store-port': { type: 'string' },
        'allowed-host': { type: 'string' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    if (values.once && values['no-agent']) throw new Error('--once needs the agent');
    return {
      ...values,
      interval: integer('--interval', values.interval, 86_400) ?? 5,
      port: integer('--port', values.port, 65_535),
      storePort: integer('--store-port', values['store-port'], 65_535),
    };
  } catch (error) {
    throw new Failure(`${(error as Error).message}\n\n${HELP}`);
  }
}

function integer(name: string, text: string | undefined, highest: number): number | undefined {
  if (text === undefined) return undefined;
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= 1 && value <= highest)) {
    throw new Error(`${name} must be an integer from 1 to ${highest}, not '${text}'`);
  }
  return value;
}

/** The secrets of local development, random ones the first time. */
function devVars(): Record<string, string> {
  if (!existsSync('.dev.vars')) {
    const lines = SECRETS.map((name) => `${name}="${randomBytes(24).toString('base64url')}"\n`);
    writeFileSync('.dev.vars', lines.join(''), { mode: 0o600 });
    say('wrote .dev.vars with random secrets');
  }
  const vars = parseEnv(readFileSync('.dev.vars', 'utf8'));
  for (const name of SECRETS) {
    if (!vars[name]?.trim()) {
      throw new Failure(
        `${name} is missing in .dev.vars: set it to what \`openssl rand -hex 32\` prints, or remove the file for a new one`,
      );
    }
  }
  return vars as Record<string, string>;
}

/** Runs a program to its end; returns its output. Its stderr goes to the terminal. */
async function run(
  command: string,
  args: readonly string[],
  env: Record<string, string | undefined> = {},
): Promise<{ code: number; output: string }> {
  const child = spawn(command, args, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  const code = await new Promise<number>((resolve, reject) => {
    child.once('error', (error) => reject(new Failure(`cannot run ${command}: ${error.message}`)));
    child.once('close', (code) => resolve(code ?? 1));
  });
  return { code, output };
}

/** The SQL engine of the local Analytics Engine. */
async function buildEngine(): Promise<void> {
  say('building the local Analytics Engine');
  const { code } = await run('tools/setup', ['--wasm', 'tools/engine']);
  if (code !== 0) throw new Failure('building the local Analytics Engine failed: see above');
}

/** Seconds since the start of this program. */
const elapsed = () => `${Math.round(performance.now() / 1_000)} s`;

async function buildAgent(): Promise<string> {
  say('building the agent');
  const { code } = await run('cargo', ['build', '--package', 'kiloclaw-agent']);
  if (code !== 0) throw new Failure('building the agent failed: see above');
  say(`built the agent after ${elapsed()}`);
  return `${metadata().target_directory}/debug/kiloclaw-agent`;
}

interface Site {
  readonly port: number;
  readonly storePort: number;
  readonly inspectorPort: number;
  readonly allowedHost: string | undefined;
}

/** The usual port, or a free one with a message, because the documentation has the usual one. */
async function portFor(what: string, usual: number): Promise<number> {
  const port = await freePort(usual);
  if (port !== usual) say(`port ${usual} is in use: ${what} gets ${port}; use it where the documentation has ${usual}`);
  return port;
}

/** Starts `wrangler dev` with the local Analytics Engine; it builds the Worker first. */
function startWorker(
  { port, storePort, inspectorPort, allowedHost }: Site,
  interactive: boolean,
  watcher: Readonly<Record<string, string>>,
): ChildProcess {
  say('building and starting the Worker (about 2 minutes the first time)');
  const args = ['local-ae/cli.js', 'dev', '--ip', '127.0.0.1', '--port', `${port}`];
  args.push('--inspector-port', `${inspectorPort}`);
  if (allowedHost !== undefined) args.push('--ae-allowed-host', allowedHost);
  // With these, the Worker queries the local Analytics Engine as a deployed Worker queries the cloud.
  const vars = {
    AE_SQL_URL: `http://127.0.0.1:${storePort}${SQL_PATH}`,
    AE_ACCOUNT_ID: 'local',
    AE_API_TOKEN: SQL_TOKEN,
    ...watcher,
  };
  for (const [name, value] of Object.entries(vars)) args.push('--var', `${name}:${value}`);
  const child = spawn(process.execPath, args, {
    env: {
      ...process.env,
      LOCAL_AE_PORT: String(storePort),
      // Its own registry, so that no other Worker on this machine connects to this one.
      WRANGLER_REGISTRY_PATH: path.resolve(STATE_FOLDER, 'registry'),
    },
    stdio: interactive ? 'inherit' : ['ignore', 'pipe', 'pipe'],
    // Its own process group, so that `stop` ends the workerd that it starts, too.
    detached: !interactive,
  });
  showOutput('worker', child);
  return child;
}

/** Starts the agent as on a machine, but with a shorter interval and a command that only sleeps. */
function startAgent(agent: string, env: Record<string, string>, interval: number): ChildProcess {
  const timing = ['--initial-delay', '0', '--interval', `${interval}`, '--jitter', '0'];
  const args = ['run', ...timing, '--state-file', STATE_FILE, '--', 'sleep', '86400'];
  const child = spawn(agent, args, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    // Its own process group, because Ctrl-C must not end it: `stop` ends it while the Worker still runs.
    detached: true,
  });
  showOutput('agent', child);
  return child;
}

/** Prints a program's output line by line, prefixed with `name`. */
function showOutput(name: string, child: ChildProcess): void {
  for (const stream of [child.stdout, child.stderr]) {
    let rest = '';
    stream?.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines.map((line) => stripVTControlCharacters(line).trimEnd())) {
        if (!NOISE.test(line)) console.log(dim(`${name}│ ${line}`));
      }
    });
  }
}

/** Ends a process, or its group if `detached`, and waits until it is gone. */
async function stop(child: ChildProcess, detached: boolean): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  const target = detached ? -child.pid : child.pid;
  process.kill(target, 'SIGTERM');
  const late = delay(5_000, 'late', { ref: false });
  if ((await Promise.race([gone, late])) === 'late') process.kill(target, 'SIGKILL');
}

async function healthy(url: string, worker: ChildProcess): Promise<void> {
  const deadline = Date.now() + READY_DEADLINE_MS;
  while (Date.now() < deadline) {
    if (worker.exitCode !== null) throw new Failure('the Worker did not start: see above');
    const response = await fetch(`${url}/health`).catch(() => undefined);
    if (response?.ok) return;
    await delay(200);
  }
  throw new Failure(`the Worker did not answer at ${url}/health`);
}

/** Queries the local Analytics Engine through the cloud's API; undefined if it refuses the query. */
async function query(store: string, sql: string): Promise<Row[] | undefined> {
  const response = await fetch(`${store}${SQL_PATH}`, {
    method: 'POST',
    headers: { authorization: SQL_AUTHORIZATION },
    body: sql,
  });
  return response.ok ? ((await response.json()) as { data: Row[] }).data : undefined;
}

/** A shell command that prints the state of the fleet. */
function curl(store: string): string {
  const lines = readFileSync('tools/latest.sql', 'utf8').split('\n');
  const sql = lines.filter((line) => !line.startsWith('--')).join(' ').replaceAll(/\s+/g, ' ').trim();
  return `curl -H 'authorization: ${SQL_AUTHORIZATION}' ${store}${SQL_PATH} -d "${sql} FORMAT JSONEachRow"`;
}

/** A shell command that queries the operators' API with a valid token. */
function operatorCurl(url: string, token: string): string {
  return `curl -w '\\n' -H "authorization: Bearer ${token}" ${url}/api/fleet`;
}

async function readPoints(store: string, after: number): Promise<Point[]> {
  const response = await fetch(`${store}/points?after=${after}&dataset=${layout.dataset}`);
  if (!response.ok) throw new Failure(`the store answered ${response.status}`);
  return ((await response.json()) as { points: Point[] }).points;
}

async function lastId(store: string): Promise<number> {
  const response = await fetch(`${store}/points?limit=1`);
  return ((await response.json()) as { last: number }).last;
}

/** Prints each new point; for a sandbox that was printed before, only the changed fields. */
async function showPoints(store: string, signal: AbortSignal): Promise<void> {
  const shown = new Map<string, Row>();
  let last = await lastId(store);
  let skipped = 0;
  while (!signal.aborted) {
    // wrangler restarts workerd after a rebuild. If that fails, it ends, and so does this program.
    const points = await readPoints(store, last).catch(() => []);
    if (points.length > MOST_SHOWN) {
      const before = last;
      last = await lastId(store);
      skipped += last - before;
    } else {
      if (skipped > 0) say(`${skipped.toLocaleString('en')} data points arrived at once; they are not printed one by one`);
      skipped = 0;
      for (const point of points) {
        const row = named(point);
        show(`data point ${point.id}`, point.timestamp, row, shown.get(point.index1));
        shown.set(point.index1, row);
        last = point.id;
      }
    }
    await delay(200, undefined, { signal }).catch(() => {});
  }
}

/** A transition of the watcher. */
interface Alert {
  readonly id: number;
  readonly at: string;
  readonly kind: string;
  readonly event: string;
  readonly scope: string;
  readonly sandboxId: string | null;
  readonly region: string | null;
  readonly since: string;
  readonly reason: string;
}

/** Sends a request to the operators' API; undefined if it fails, for example while wrangler restarts the Worker. */
async function ask<T>(url: string, token: string): Promise<T | undefined> {
  const response = await fetch(url, { headers: { authorization: `Bearer ${token}` } }).catch(() => undefined);
  return response?.ok ? ((await response.json()) as T) : undefined;
}

/** Prints each new transition of the watcher. A request wakes it as well: `wrangler dev` fires no cron trigger. */
async function showAlerts(url: string, token: string, signal: AbortSignal): Promise<void> {
  let last: number | undefined;
  while (!signal.aborted) {
    const page = await ask<{ alerts: Alert[] }>(`${url}/api/alerts`, token);
    const alerts = page?.alerts.filter(({ id }) => id > (last ?? 0)) ?? [];
    if (page !== undefined) {
      // The first page has only alerts of earlier runs.
      if (last !== undefined) {
        for (const alert of alerts.slice(0, MOST_SHOWN).reverse()) showAlert(alert);
        const more = alerts.length - MOST_SHOWN;
        if (more > 0) say(`${more} more transitions at once; see /api/alerts`);
      }
      last = Math.max(last ?? 0, ...alerts.map(({ id }) => id));
    }
    await delay(ALERTS_EVERY_MS, undefined, { signal }).catch(() => {});
  }
}

function showAlert({ at, kind, event, scope, sandboxId, region, since, reason }: Alert): void {
  const subject = sandboxId ?? (scope === 'region' ? `region ${region}` : `the ${scope}`);
  const why = reason === '' ? '' : `: ${reason}`;
  console.log(`\n${styleText('bold', `${kind} ${event}`)}  ${at}  ${visible(`${subject}, since ${since}${why}`)}`);
}

/** A point's values by their contract names. */
function named(point: Point): Row {
  const slots = Object.entries(layout as Record<string, string>);
  return Object.fromEntries(
    slots.flatMap(([slot, name]): [string, string | number][] => {
      const position = Number(/\d+$/.exec(slot)?.[0]) - 1;
      if (slot.startsWith('blob')) return [[name, point.blobs[position]]];
      if (slot.startsWith('double')) return [[name, point.doubles[position]]];
      return [];
    }),
  );
}

/** Escapes control characters: a machine may send anything, including terminal escape sequences. */
const visible = (value: string | number): string =>
  `${value}`.replaceAll(
    /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu,
    (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`,
  );

function show(title: string, timestamp: string, row: Row, before: Row = {}): void {
  const rows = Object.entries(row);
  const width = Math.max(...rows.map(([name]) => name.length));
  const changed = rows.filter(([name, value]) => value !== before[name]);
  const same = rows.length - changed.length;
  const rest = same === 0 ? '' : dim(`  ${same} fields as before`);
  console.log(`\n${styleText('bold', title)}  ${timestamp}  ${layout.dataset}${rest}`);
  for (const [name, value] of changed) {
    const isUnknown = value === 0 && name.startsWith('disk');
    const shown = isUnknown ? dim('unknown') : value === '' ? dim('""') : visible(value);
    console.log(`  ${name.padEnd(width)}  ${shown}`);
  }
}

/** The row that a check-in should be stored as: a missing value is "". */
function expected(body: Record<string, string | number | null>): Row {
  const names = Object.entries(layout).filter(([slot]) => /^(blob|double)/.test(slot));
  return Object.fromEntries(names.map(([slot, name]) => [name, body[name] ?? (slot.startsWith('double') ? 0 : '')]));
}

/** Sends a check-in and reads it back in SQL; throws unless both are equal. */
async function roundTrip(agent: string, env: Record<string, string>, store: string) {
  // Timestamps in SQL are whole seconds.
  const since = new Date().toISOString().slice(0, 19).replace('T', ' ');
  const { code, output } = await run(agent, ['once'], env);
  if (code !== 0) {
    console.log(output);
    throw new Failure(`the check-in was not accepted (the agent exited with ${code})`);
  }
  const sent = JSON.parse(/^\{.*?^\}/ms.exec(output)?.[0] ?? '{}');
  const sql = readFileSync('tools/check-ins.sql', 'utf8');
  const deadline = Date.now() + STORED_DEADLINE_MS;
  while (Date.now() < deadline) {
    // The query is refused until the first data point creates the dataset.
    for (const { timestamp, ...row } of (await query(store, sql)) ?? []) {
      if (row.sandboxId !== sent.sandboxId || String(timestamp) < since) continue;
      show('data point', `${timestamp}`, row);
      if (isDeepStrictEqual(row, expected(sent))) return;
      throw new Failure(`the point read back is not the one that was sent:\n${output}`);
    }
    await delay(20);
  }
  throw new Failure('the check-in was accepted, but its data point did not arrive');
}

async function main(): Promise<void> {
  const { once, interval, help, 'no-agent': noAgent, ...ports } = options();
  if (help) return void console.log(HELP);
  process.chdir(new URL('..', import.meta.url).pathname);

  const vars = devVars();
  mkdirSync(STATE_FOLDER, { recursive: true });
  if (!(await lockFolder(STATE_FOLDER))) {
    throw new Failure('`npm start` or `npm run dev` already runs in this folder: stop it first');
  }
  // A killed run leaves its temporary files there.
  rmSync(`${STATE_FOLDER}/tmp`, { recursive: true, force: true });

  // In parallel: cargo builds for this machine and for wasm32 in different folders.
  const building = noAgent ? undefined : buildAgent();
  // The error is handled where `building` is awaited.
  building?.catch(() => {});
  await buildEngine();
  const interrupted = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    // Ctrl-C arrives twice: from the terminal, and forwarded by npm.
    process.on(signal, () => interrupted.abort());
  }
  // An error means that the reader has closed the pipe, as in `npm start | head`.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => interrupted.abort());

  const port = ports.port ?? (await portFor('the Worker', WORKER_PORT));
  const storePort = ports.storePort ?? (await portFor('the local Analytics Engine', STORE_PORT));
  const inspectorPort = await freePort(INSPECTOR_PORT);
  const url = `http://127.0.0.1:${port}`;
  const store = `http://127.0.0.1:${storePort}`;

  let daemon: ChildProcess | undefined;
  const seed = 'to see a larger fleet, write a day of made-up check-ins: npm run seed';
  writeFileSync(RUNNING_FILE, `${JSON.stringify({ worker: url, store } satisfies Running)}\n`);
  const operator = await mint({ sub: 'local', ttl: TOKEN_HOURS * 3_600 }, vars);
  const fleet = `to see the fleet as operators do (the token is valid for ${TOKEN_HOURS} h):\n\n${operatorCurl(url, operator)}\n`;
  // The page can also plan absences.
  const writer = await mint({ sub: 'local', ttl: TOKEN_HOURS * 3_600, scope: 'absences:write' }, vars);
  const page = `the page, signed in: ${await signIn(url, writer)} (or ${url} with a token)`;
  const times = { SILENT_AFTER: `${Math.max(20, 4 * interval)}s`, WATCH_TICK: `${TICK_SECONDS}s` };
  const watcher = Object.fromEntries(Object.entries(times).filter(([name]) => !(name in vars)));
  // On a terminal, wrangler controls input and output, so all messages are printed first.
  const interactive = noAgent && process.stdin.isTTY && process.stdout.isTTY;
  if (noAgent) {
    say(`the Worker will be at ${url}, its data points at ${store}/points`);
    say(page);
    say(fleet);
    say(seed);
  }
  // wrangler demands the folder before it runs the build.
  mkdirSync(PAGE_FOLDER, { recursive: true });
  // wrangler rebuilds the Worker when its source changes; this rebuilds the page.
  const pageBuild = noAgent
    ? spawn(process.execPath, ['web/build.ts', '--watch'], { stdio: ['pipe', 'inherit', 'inherit'] })
    : undefined;
  const worker = startWorker({ port, storePort, inspectorPort, allowedHost: ports['allowed-host'] }, interactive, watcher);
  const stopped = new Promise<void>((resolve) => {
    interrupted.signal.addEventListener('abort', () => resolve());
  });
  try {
    if (building === undefined) {
      // Wakes the watcher, because `wrangler dev` fires no cron trigger.
      void healthy(url, worker).then(() => ask(`${url}/api/watcher`, operator), () => {});
      // wrangler may end by itself.
      await Promise.race([new Promise((resolve) => worker.once('exit', resolve)), stopped]);
      return;
    }
    const exited = new Promise<never>((_, reject) => {
      worker.once('exit', () => reject(new Failure('the Worker ended: see above')));
    });
    await Promise.race([checkIns(building), exited, stopped]);
  } finally {
    if (daemon !== undefined) await stop(daemon, true);
    await stop(worker, !interactive);
    pageBuild?.stdin?.end();
    rmSync(RUNNING_FILE, { force: true });
  }

  async function checkIns(building: Promise<string>): Promise<void> {
    const [agent] = await Promise.all([building, healthy(url, worker)]);
    say(`everything runs after ${elapsed()}`);
    const sandboxId = `local-${hostname()}`.slice(0, 60);
    const token = await run(agent, ['gateway-token', sandboxId], vars);
    const env = {
      KILOCLAW_CHECKIN_URL: `${url}${CHECK_IN_PATH}`,
      KILOCODE_API_KEY: vars.KILOCODE_API_KEY.split(',')[0].trim(),
      OPENCLAW_GATEWAY_TOKEN: token.output.trim(),
      KILOCLAW_SANDBOX_ID: sandboxId,
      FLY_MACHINE_ID: process.env.FLY_MACHINE_ID ?? `machine-${hostname()}`.slice(0, 60),
    };
    say(`the Worker is at ${url}, its data points are at ${store}/points`);
    if (once) {
      say('checking in once, and reading it back in SQL');
      await roundTrip(agent, env, store);
      say('the data point read back is the one that was sent');
      return;
    }
    say(page);
    say(fleet);
    say(`to query the stored data points in SQL:\n\n${curl(store)}\n`);
    say(seed);
    say(`checking in every ${interval} s; Ctrl-C stops everything`);
    daemon = startAgent(agent, env, interval);
    await Promise.all([
      showPoints(store, interrupted.signal),
      showAlerts(url, operator, interrupted.signal),
    ]);
  }
}

await command('start', main);
// Open handles would keep the process alive.
process.exit();
