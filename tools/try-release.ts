/**
 * `npm run release:try`: uses a release on this machine as its users do. In an empty folder, with Node and without
 * Rust: unpacks the Worker, runs it in `wrangler dev` with the local Analytics Engine, starts an agent, waits until the
 * page's API reports it, kills it, and waits for the webhook.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { homedir, tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import { CHECK_IN_PATH } from '../harness/check-in.ts';
import { command, Failure } from '../harness/command.ts';
import { SQL_PATH } from '../harness/store.ts';
import { freePort } from '../local-ae/support/port.js';

const HELP = `Usage: npm run release:try [-- OPTIONS]

Tries what \`npm run release\` built. Needs npm's registry, for wrangler.

Options:
  --release FOLDER  [default: dist]
  --modules FOLDER  take npm packages from this folder instead of the registry
  -h, --help        print this help
`;

const SANDBOX = 'sandbox-1';
const STEP_DEADLINE_MS = 60_000;

interface Parts {
  /** Files of the release. */
  readonly worker: string;
  readonly localAe: string;
  readonly agent: string;
  /** Uses these packages instead of npm's registry. */
  readonly modules?: string;
  readonly say?: (text: string) => void;
}

/** Calls `read` until it returns something. */
async function until<Value>(what: string, read: () => Promise<Value | undefined>): Promise<Value> {
  const deadline = Date.now() + STEP_DEADLINE_MS;
  let reason = '';
  while (Date.now() < deadline) {
    try {
      const value = await read();
      if (value !== undefined) return value;
    } catch (error) {
      if (error instanceof Failure) throw error;
      reason = `: ${(error as Error).message}`;
    }
    await delay(200);
  }
  throw new Failure(`${what}: no answer within ${STEP_DEADLINE_MS / 1_000} s${reason}`);
}

/** Creates a folder for PATH with Node's and some system programs, but without Rust. */
function programs(folder: string): string {
  const bin = path.join(folder, 'bin');
  mkdirSync(bin);
  symlinkSync(process.execPath, path.join(bin, 'node'));
  for (const name of ['npm', 'npx']) {
    const found = execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim();
    // Scripts find their modules beside their real path.
    writeFileSync(path.join(bin, name), `#!/bin/sh\nexec "${found}" "$@"\n`, { mode: 0o755 });
  }
  for (const name of ['sh', 'env', 'tar', 'gzip', 'sed', 'uname', 'sleep']) {
    symlinkSync(execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim(), path.join(bin, name));
  }
  return bin;
}

/** Puts `packages` into the Worker's folder without a registry, as npm would. */
function linkPackages(folder: string, modules: string, localAe: string): void {
  const own = path.join(folder, 'node_modules');
  mkdirSync(path.join(own, 'local-ae'), { recursive: true });
  for (const name of readdirSync(modules)) {
    if (name !== 'local-ae' && name !== '.bin') symlinkSync(path.join(modules, name), path.join(own, name));
  }
  execFileSync('tar', ['--extract', '--file', localAe, '--strip-components=1', '--directory', path.join(own, 'local-ae')]);
  mkdirSync(path.join(own, '.bin'));
  symlinkSync('../local-ae/cli.js', path.join(own, '.bin/local-ae'));
}

async function tryRelease(parts: Parts): Promise<void> {
  const say = parts.say ?? (() => {});
  const home = mkdtempSync(path.join(tmpdir(), 'kiloclaw-try-'));
  const children: ChildProcess[] = [];
  const log: string[] = [];
  const messages: { type: string; data: { sandboxes?: { sandboxId: string }[] } }[] = [];
  const hook = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (text: string) => (body += text));
    request.on('end', () => {
      messages.push(JSON.parse(body));
      response.writeHead(204).end();
    });
  }).listen(0, '127.0.0.1');
  try {
    await once(hook, 'listening');
    // The network settings, but none of the variables that `npm run` sets.
    const network = Object.entries(process.env).filter(([name]) => /^(NODE_EXTRA_CA_CERTS|SSL_CERT_\w+|\w+_PROXY)$/i.test(name));
    const env = {
      ...Object.fromEntries(network),
      PATH: programs(home),
      HOME: home,
      TMPDIR: home,
      npm_config_userconfig: path.join(homedir(), '.npmrc'),
      KILOCLAW_RUN: process.env.KILOCLAW_RUN,
      WRANGLER_SEND_METRICS: 'false',
      CLOUDFLARE_CF_FETCH_ENABLED: 'false',
    };
    const start = (program: string, args: string[], cwd: string, more: Record<string, string> = {}) => {
      const child = spawn(program, args, { cwd, env: { ...env, ...more }, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
      for (const stream of [child.stdout, child.stderr]) stream!.setEncoding('utf8').on('data', (text: string) => log.push(text));
      children.push(child);
      return child;
    };
    const run = async (program: string, args: string[], cwd: string) => {
      const [code] = (await once(start(program, args, cwd), 'close')) as [number | null];
      if (code !== 0) throw new Failure(`${program} ${args.join(' ')} failed`);
    };

    say('unpacking the Worker');
    await run('tar', ['-xzf', parts.worker], home);
    const folder = path.join(home, readdirSync(home).find((name) => name.startsWith('kiloclaw-worker-'))!);
    if (parts.modules === undefined) {
      await run('npm', ['install', '--no-audit', '--no-fund', parts.localAe], folder);
    } else {
      linkPackages(folder, parts.modules, parts.localAe);
    }

    const secret = () => randomBytes(32).toString('hex');
    const secrets = { KILOCODE_API_KEY: secret(), GATEWAY_TOKEN_SECRET: secret(), JWT_SECRET: secret() };
    const [port, store, inspector] = [await freePort(), await freePort(), await freePort()];
    const vars = {
      ...secrets,
      ALERT_WEBHOOK_URL: `http://127.0.0.1:${(hook.address() as AddressInfo).port}/`,
      ALERT_WEBHOOK_SECRET: `whsec_${randomBytes(32).toString('base64')}`,
      SILENT_AFTER: '10s',
      WATCH_TICK: '5s',
      AE_ACCOUNT_ID: 'local',
      AE_API_TOKEN: secret(),
      AE_SQL_URL: `http://127.0.0.1:${store}${SQL_PATH}`,
    };
    writeFileSync(path.join(folder, '.dev.vars'), Object.entries(vars).map(([name, value]) => `${name}="${value}"\n`).join(''), {
      mode: 0o600,
    });

    say('starting it in wrangler dev, with the local Analytics Engine');
    const ports = ['--port', `${port}`, '--inspector-port', `${inspector}`, '--ip', '127.0.0.1'];
    const dev = start('npx', ['local-ae', 'dev', '--config', 'wrangler.dev.toml', ...ports], folder, {
      LOCAL_AE_PORT: `${store}`,
      WRANGLER_REGISTRY_PATH: path.join(home, 'registry'),
    });
    const url = `http://127.0.0.1:${port}`;
    await until('wrangler dev', async () => {
      if (dev.exitCode !== null) throw new Failure('wrangler dev ended');
      const response = await fetch(`${url}/health`);
      return response.ok || undefined;
    });
    const page = await (await fetch(url)).text();
    if (!page.includes('<title>')) throw new Failure(`/ is not the page: ${page}`);

    say('minting an operator\'s token, and starting an agent');
    const token = execFileSync(process.execPath, ['token.js', '--sub', 'ops'], { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    const ask = async <Answer>(what: string) => {
      const response = await fetch(`${url}${what}`, { headers: { authorization: `Bearer ${token}` } });
      if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
      return (await response.json()) as Answer;
    };
    // `wrangler dev` fires no cron trigger; a request wakes the watcher as well.
    await until('the watcher', () => ask('/api/watcher'));
    await run('tar', ['-xzf', parts.agent], home);
    const agent = path.join(home, readdirSync(home).find((name) => name.startsWith('kiloclaw-agent-'))!, 'kiloclaw-agent');
    const gatewayToken = execFileSync(agent, ['gateway-token', SANDBOX], {
      env: { GATEWAY_TOKEN_SECRET: secrets.GATEWAY_TOKEN_SECRET },
      encoding: 'utf8',
    }).trim();
    const times = ['--initial-delay', '0', '--interval', '1', '--state-file', path.join(home, 'state.json')];
    const machine = start(agent, ['run', ...times, '--', 'sleep', '600'], home, {
      KILOCLAW_CHECKIN_URL: `${url}${CHECK_IN_PATH}`,
      KILOCODE_API_KEY: secrets.KILOCODE_API_KEY,
      OPENCLAW_GATEWAY_TOKEN: gatewayToken,
      KILOCLAW_SANDBOX_ID: SANDBOX,
    });

    say('waiting until the page\'s API shows it');
    await until('/api/sandboxes', async () => {
      const found = await ask(`/api/sandboxes/${SANDBOX}`);
      return JSON.stringify(found).includes('"running"') || undefined;
    });
    // The watcher looks back to its previous tick, so it can miss a machine that checked in during one tick only.
    await delay(10_000);

    say('killing it, and waiting for the webhook');
    machine.kill('SIGKILL');
    await until('the webhook', async () =>
      messages.find(({ type, data }) => type === 'sandbox.silent' && JSON.stringify(data).includes(SANDBOX)),
    );
    say('the webhook received sandbox.silent');
  } catch (error) {
    throw error instanceof Failure ? new Failure(`${error.message}\n${log.join('')}`) : error;
  } finally {
    for (const child of children) {
      if (child.exitCode === null && child.signalCode === null) {
        const gone = once(child, 'exit');
        process.kill(-child.pid!, 'SIGTERM');
        await Promise.race([gone, delay(10_000, undefined, { ref: false })]);
        if (child.exitCode === null && child.signalCode === null) process.kill(-child.pid!, 'SIGKILL');
      }
    }
    hook.close();
    rmSync(home, { recursive: true, force: true, maxRetries: 5 });
  }
}

async function main(): Promise<void> {
  const { help, release, modules } = parseArgs({
    options: {
      release: { type: 'string', default: 'dist' },
      modules: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  }).values;
  if (help) return void console.log(HELP);
  const folder = path.resolve(release);
  if (!existsSync(path.join(folder, 'SHA256SUMS'))) throw new Failure(`${folder} has no release: run npm run release first`);
  execFileSync('sha256sum', ['--check', '--quiet', '--strict', 'SHA256SUMS'], { cwd: folder, stdio: 'inherit' });
  const files = readFileSync(path.join(folder, 'SHA256SUMS'), 'utf8').trim().split('\n').map((line) => line.split('  ')[1]!);
  const file = (pattern: RegExp) => {
    const found = files.find((name) => pattern.test(name));
    if (found === undefined) throw new Failure(`${folder} has no file like ${pattern.source}`);
    return path.join(folder, found);
  };
  const architecture = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  await tryRelease({
    worker: file(/^kiloclaw-worker-/),
    localAe: file(/^local-ae-/),
    agent: file(new RegExp(`^kiloclaw-agent-.*-${architecture}\\.tar\\.gz$`)),
    ...(modules === undefined ? {} : { modules: path.resolve(modules) }),
    say: (text) => console.log(`release:try: ${text}`),
  });
}

await command('release:try', main);
// Open handles would keep the process alive.
process.exit();
