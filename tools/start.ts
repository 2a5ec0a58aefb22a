/**
 * `npm start`: the whole path on this machine. The real agent checks in with the real Worker in real
 * workerd, and every data point is read back from the local Analytics Engine and shown.
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
import { command, Failure } from '../harness/command.ts';
import { RUNNING_FILE, STORE_PORT, WORKER_PORT, type Running } from './running.ts';
import { mint } from '../harness/token.ts';

const HELP = `Usage: npm start [-- OPTIONS]

Builds the Worker and the agent. Runs the Worker in \`wrangler dev\` with a local Analytics Engine, and the
agent with a command that only sleeps. Prints every stored data point, from any client.

Options:
  --once           one check-in; exit 0 if the point read back is the one that was sent
  --no-agent       only the Worker, rebuilt when its source changes (this is \`npm run dev\`)
  --interval N     seconds between check-ins, 1 or more [default: 5]
  --port N         port of the Worker [default: 8787, or a free one if that is taken]
  --store-port N   port of the local Analytics Engine [default: 9310, likewise]
  -h, --help       print this help
`;

const SECRETS = ['KILOCODE_API_KEY', 'GATEWAY_TOKEN_SECRET', 'JWT_SECRET'];
const STATE_FOLDER = '.wrangler';
/** Keeps the agent's unreported counters, and what `status` shows. */
const STATE_FILE = `${STATE_FOLDER}/agent-state.json`;
const INSPECTOR_PORT = 9229;
/** If more points arrive at a time, only their number is printed, as with `npm run seed`. */
const MOST_SHOWN = 10;
/** As in the cloud, below `https://api.cloudflare.com`; locally, any account and token are accepted. */
const SQL_PATH = '/client/v4/accounts/local/analytics_engine/sql';
const SQL_TOKEN = 'local';
const SQL_AUTHORIZATION = `Bearer ${SQL_TOKEN}`;
/** Lifetime of the printed operator's token: more than a working day. */
const TOKEN_HOURS = 12;
/** A cold build takes about a minute; this only ends a hang. */
const READY_DEADLINE_MS = 15 * 60_000;
const STORED_DEADLINE_MS = 15_000;
/** Lines of wrangler that are noise: empty ones, and the polling below. */
const NOISE = /^(\[custom build\]\s*)?$|GET \/health/;

interface Point {
  readonly id: number;
  readonly dataset: string;
  readonly timestamp: string;
  readonly index1: string;
  readonly blobs: readonly string[];
  readonly doubles: readonly number[];
}

/** A row of an answer in SQL. */
type Row = Readonly<Record<string, string | number>>;

/** Plain where the output is not a terminal. */
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

/** The secrets of local development; made up if there are none yet. */
function devVars(): Record<string, string> {
  if (!existsSync('.dev.vars')) {
    const lines = SECRETS.map((name) => `${name}="${randomBytes(24).toString('base64url')}"\n`);
    writeFileSync('.dev.vars', lines.join(''), { mode: 0o600 });
    say('wrote .dev.vars with random secrets');
  }
  const vars = parseEnv(readFileSync('.dev.vars', 'utf8'));
  const another = 'set it to what `openssl rand -hex 32` prints, or remove the file for a new one';
  // Some of the examples are comments.
  const examples = parseEnv(readFileSync('.dev.vars.example', 'utf8').replaceAll(/^# (?=[A-Z_]+=)/gm, ''));
  for (const [name, value] of Object.entries(vars)) {
    if (value === examples[name]) {
      throw new Failure(`${name} in .dev.vars is the placeholder of .dev.vars.example: ${another}`);
    }
  }
  for (const name of SECRETS) {
    if (!vars[name]?.trim()) throw new Failure(`${name} is missing in .dev.vars: ${another}`);
  }
  return vars as Record<string, string>;
}

/** Runs a program to its end and returns what it printed; its errors go to the terminal. */
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

async function buildAgent(): Promise<string> {
  say('building the agent');
  const { code } = await run('cargo', ['build', '--package', 'kiloclaw-agent']);
  if (code !== 0) throw new Failure('building the agent failed: see above');
  const { output } = await run('cargo', ['metadata', '--no-deps', '--format-version', '1']);
  const { target_directory: target } = JSON.parse(output) as { target_directory: string };
  return `${target}/debug/kiloclaw-agent`;
}

interface Ports {
  readonly port: number;
  readonly storePort: number;
  readonly inspectorPort: number;
}

/** The usual port, or another one, which is said: documents have the usual one. */
async function portFor(what: string, usual: number): Promise<number> {
  const port = await freePort(usual);
  if (port !== usual) say(`port ${usual} is taken: ${what} gets ${port}; use it where the documentation has ${usual}`);
  return port;
}

/** Starts `wrangler dev`, which builds the Worker first. */
function startWorker(
  { port, storePort, inspectorPort }: Ports,
  interactive: boolean,
): ChildProcess {
  say('building and starting the Worker and the local Analytics Engine (some minutes the first time)');
  const args = ['dev', '--config', 'wrangler.dev.toml', '--ip', '127.0.0.1', '--port', `${port}`];
  args.push('--inspector-port', `${inspectorPort}`);
  // With these the Worker asks the local Analytics Engine what it asks the cloud when it is deployed.
  const vars = {
    AE_SQL_URL: `http://127.0.0.1:${storePort}${SQL_PATH}`,
    AE_ACCOUNT_ID: 'local',
    AE_API_TOKEN: SQL_TOKEN,
  };
  for (const [name, value] of Object.entries(vars)) args.push('--var', `${name}:${value}`);
  const child = spawn('wrangler', args, {
    env: {
      ...process.env,
      LOCAL_AE_PORT: String(storePort),
      // Other Workers on this machine have no business with this one.
      WRANGLER_REGISTRY_PATH: path.resolve(STATE_FOLDER, 'registry'),
    },
    stdio: interactive ? 'inherit' : ['ignore', 'pipe', 'pipe'],
    // A group of its own, so that it can be ended together with the workerd that it starts.
    detached: !interactive,
  });
  showOutput('worker', child);
  return child;
}

/** Starts the agent as it runs on a machine, but more often, and with nothing to run. */
function startAgent(agent: string, env: Record<string, string>, interval: number): ChildProcess {
  const rhythm = ['--initial-delay', '0', '--interval', `${interval}`, '--jitter', '0'];
  const args = ['run', ...rhythm, '--state-file', STATE_FILE, '--', 'sleep', '86400'];
  const child = spawn(agent, args, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    // In a group of its own, Ctrl-C ends it in order: while there still is a Worker.
    detached: true,
  });
  showOutput('agent', child);
  return child;
}

/** Shows what a program prints, line by line, under its name. */
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

/** Ends a process that was started here, and what it started, and waits until it is gone. */
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

/** Asks the local Analytics Engine as one asks the cloud; undefined if it refuses the query. */
async function query(store: string, sql: string): Promise<Row[] | undefined> {
  const response = await fetch(`${store}${SQL_PATH}`, {
    method: 'POST',
    headers: { authorization: SQL_AUTHORIZATION },
    body: sql,
  });
  return response.ok ? ((await response.json()) as { data: Row[] }).data : undefined;
}

/** A command that shows the state of the fleet, ready to be pasted into a shell. */
function curl(store: string): string {
  const lines = readFileSync('tools/latest.sql', 'utf8').split('\n');
  const sql = lines.filter((line) => !line.startsWith('--')).join(' ').replaceAll(/\s+/g, ' ').trim();
  return `curl -H 'authorization: ${SQL_AUTHORIZATION}' ${store}${SQL_PATH} -d "${sql} FORMAT JSONEachRow"`;
}

/** A command that asks the operators' API, with a token for it. */
async function operatorCurl(url: string, vars: Record<string, string>): Promise<string> {
  const token = await mint({ sub: 'local', ttl: TOKEN_HOURS * 3_600 }, vars);
  return `curl -w '\\n' -H "authorization: Bearer ${token}" ${url}/api/fleet`;
}

async function readPoints(store: string, after: number): Promise<Point[]> {
  const response = await fetch(`${store}/points?after=${after}`);
  if (!response.ok) throw new Failure(`the store answered ${response.status}`);
  return ((await response.json()) as { points: Point[] }).points;
}

async function lastId(store: string): Promise<number> {
  const response = await fetch(`${store}/points?limit=1`);
  return ((await response.json()) as { last: number }).last;
}

/** Shows each point that is stored from now on; of a sandbox that was shown before, what has changed. */
async function showPoints(store: string, signal: AbortSignal): Promise<void> {
  const shown = new Map<string, Row>();
  let last = await lastId(store);
  let skipped = 0;
  while (!signal.aborted) {
    const points = await readPoints(store, last);
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

/** What the slots of a point hold, under the names of the contract. */
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

/** A value with what could change the terminal written out: a machine may send what it likes. */
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
    console.log(`  ${name.padEnd(width)}  ${value === '' ? dim('""') : visible(value)}`);
  }
}

/** What a check-in should be stored as: what is not known is "". */
function expected(body: Record<string, string | number | null>): Row {
  const names = Object.entries(layout).filter(([slot]) => /^(blob|double)/.test(slot));
  return Object.fromEntries(names.map(([, name]) => [name, body[name] ?? '']));
}

/** Sends a check-in and asks for it in SQL; throws unless what is stored is what was sent. */
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
    // Refused until the first data point is there: then the dataset begins.
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
  // What an earlier one left there when it was killed.
  rmSync(`${STATE_FOLDER}/tmp`, { recursive: true, force: true });

  const agent = noAgent ? undefined : await buildAgent();
  const interrupted = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    // Ctrl-C arrives twice: from the terminal, and forwarded by npm.
    process.on(signal, () => interrupted.abort());
  }
  // The reader is gone, as in `npm start | head`.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => interrupted.abort());

  const port = ports.port ?? (await portFor('the Worker', WORKER_PORT));
  const storePort = ports.storePort ?? (await portFor('the local Analytics Engine', STORE_PORT));
  const inspectorPort = await freePort(INSPECTOR_PORT);
  const url = `http://127.0.0.1:${port}`;
  const store = `http://127.0.0.1:${storePort}`;

  let daemon: ChildProcess | undefined;
  const seed = 'to see a larger fleet, write a day of made-up check-ins: npm run seed';
  writeFileSync(RUNNING_FILE, `${JSON.stringify({ worker: url, store } satisfies Running)}\n`);
  const fleet = `to see the fleet as operators do (the token is valid for ${TOKEN_HOURS} h):\n\n${await operatorCurl(url, vars)}\n`;
  // On a terminal, wrangler takes over input and output, so everything is printed before that.
  const interactive = noAgent && process.stdin.isTTY && process.stdout.isTTY;
  if (noAgent) {
    say(`the Worker will be at ${url}, its data points at ${store}/points`);
    say(fleet);
    say(seed);
  }
  const worker = startWorker({ port, storePort, inspectorPort }, interactive);
  const stopped = new Promise<void>((resolve) => {
    interrupted.signal.addEventListener('abort', () => resolve());
  });
  try {
    if (agent === undefined) {
      // wrangler may end by itself.
      await Promise.race([new Promise((resolve) => worker.once('exit', resolve)), stopped]);
      return;
    }
    const exited = new Promise<never>((_, reject) => {
      worker.once('exit', () => reject(new Failure('the Worker ended: see above')));
    });
    await Promise.race([checkIns(), exited, stopped]);
  } finally {
    if (daemon !== undefined) await stop(daemon, true);
    await stop(worker, !interactive);
    rmSync(RUNNING_FILE, { force: true });
  }

  async function checkIns(): Promise<void> {
    await healthy(url, worker);
    const sandboxId = `local-${hostname()}`.slice(0, 60);
    const token = await run(agent!, ['gateway-token', sandboxId], vars);
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
      await roundTrip(agent!, env, store);
      say('the data point read back is the one that was sent');
      return;
    }
    say(fleet);
    say(`to query the stored data points in SQL:\n\n${curl(store)}\n`);
    say(seed);
    say(`checking in every ${interval} s; Ctrl-C stops everything`);
    daemon = startAgent(agent!, env, interval);
    await showPoints(store, interrupted.signal);
  }
}

await command('start', main);
// Whatever still holds a handle has nothing more to say.
process.exit();
