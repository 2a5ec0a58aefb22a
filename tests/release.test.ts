/** Uses the output of `npm run release` as users do, except for a debug build of the agent. */
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import path from 'node:path';
import { after, test } from 'node:test';
import { parseEnv } from 'node:util';

import { AGENT } from '../harness/agent.ts';
import { CHECK_IN_PATH } from '../harness/check-in.ts';
import { listen, temporaryFolder } from '../harness/context.ts';
import { until } from './support/until.ts';

const out = temporaryFolder({ after });
execFileSync(process.execPath, ['tools/release.ts', '--no-build', '--program', AGENT, '--out', out]);
const files = readdirSync(out);
const file = (start: string) => path.join(out, files.find((name) => name.startsWith(start))!);
const template = path.join(out, 'template');

test('an unpacked release accepts a check-in and reports a silent machine, with Node alone', { timeout: 300_000 }, async () => {
  const child = spawn(process.execPath, ['tools/try-release.ts', '--release', out, '--modules', 'node_modules'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let shown = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (shown += text));
  const [code] = (await once(child, 'close')) as [number];
  assert.equal(code, 0, shown);
  assert.match(shown, /the webhook received sandbox\.silent\n$/);
});

test('wrangler can deploy the folder unchanged, and its configuration names the required secrets', (t) => {
  const folder = path.join(temporaryFolder(t), 'wasm-bindgen');
  cpSync(template, folder, { recursive: true });
  symlinkSync(path.resolve('node_modules'), path.join(folder, 'node_modules'));
  const { status, stdout, stderr } = spawnSync('node_modules/.bin/wrangler', ['deploy', '--dry-run'], {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, WRANGLER_SEND_METRICS: 'false' },
  });
  assert.equal(status, 0, stderr);
  assert.match(stdout, /--dry-run: exiting now/);
  const configuration = readFileSync(path.join(folder, 'wrangler.toml'), 'utf8');
  assert.doesNotMatch(configuration, /tools\/|^\[+unsafe|^\[build\]/m);
  const [, required = ''] = /^\[secrets\]\nrequired = (.+)$/m.exec(configuration) ?? [];
  const manifest = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
  assert.deepEqual(Object.keys(manifest.cloudflare.bindings), JSON.parse(required));
  const example = parseEnv(readFileSync(path.join(folder, '.dev.vars.example'), 'utf8'));
  assert.deepEqual(new Set(Object.keys(example)), new Set(JSON.parse(required)));
});

test('a release differs from the deployed configuration in [build] and the required secrets alone', () => {
  const lines = (file: string) => readFileSync(file, 'utf8').split('\n');
  const before = lines('wrangler.toml');
  for (const name of ['wrangler.toml', 'wrangler.dev.toml']) {
    const after = lines(path.join(template, name));
    const gone = before.filter((line) => !after.includes(line));
    assert.ok(gone.some((line) => line.startsWith('command = ')), name);
    for (const line of gone) assert.match(line, /^(\[build\]|command = .*|watch_dir = .*|# In development, .*)$/, name);
    const added = after.filter((line) => !before.includes(line));
    // `wrangler dev` would ignore the optional secrets in .dev.vars.
    assert.equal(added.includes('[secrets]'), name === 'wrangler.toml', name);
    assert.ok(added.length <= 3, `${name}: ${added.join()}`);
  }
});

test('the checksums and the list of components are complete', () => {
  execFileSync('sha256sum', ['--check', '--quiet', '--strict', 'SHA256SUMS'], { cwd: out });
  const summed = readFileSync(path.join(out, 'SHA256SUMS'), 'utf8').trim().split('\n').map((line) => line.split('  ')[1]);
  assert.deepEqual(summed, files.filter((name) => !['SHA256SUMS', 'template'].includes(name)).sort());
  const bom = JSON.parse(readFileSync(path.join(out, 'sbom.cdx.json'), 'utf8'));
  const names = bom.components.map(({ name }: { name: string }) => name);
  for (const name of ['wasm-bindgen', 'serde_json', 'preact', 'jose', 'local-ae']) assert.ok(names.includes(name), name);
  // Users get neither tools nor macros.
  for (const name of ['wrangler', 'proptest', 'serde_derive']) assert.ok(!names.includes(name), name);
  const refs = new Set(bom.components.map((one: { 'bom-ref': string }) => one['bom-ref']));
  for (const { dependsOn } of bom.dependencies) for (const ref of dependsOn) assert.ok(refs.has(ref), ref);
});

test('packing twice gives the same bytes, whatever the time zone and the umask', (t) => {
  const again = path.join(temporaryFolder(t), 'again');
  const pack = `umask 077 && exec "$0" tools/release.ts --no-build --program "$1" --out "$2"`;
  execFileSync('sh', ['-c', pack, process.execPath, AGENT, again], { env: { ...process.env, TZ: 'Asia/Kolkata', LC_ALL: 'C' } });
  const sums = (folder: string) => readFileSync(path.join(folder, 'SHA256SUMS'), 'utf8');
  assert.equal(sums(again), sums(out));
});

test('an upgrade from the archive keeps settings, keys and unreported deltas', { timeout: 90_000 }, async (t) => {
  const folder = temporaryFolder(t);
  const root = path.join(folder, 'root');
  execFileSync('tar', ['-xzf', file('kiloclaw-agent-'), '--directory', folder]);
  const unpacked = path.join(folder, readdirSync(folder)[0]!);
  const install = (...args: string[]) =>
    execFileSync(path.join(unpacked, 'install'), args, { env: { PATH: process.env.PATH, DESTDIR: root }, encoding: 'utf8' });
  assert.match(install(), /next: kiloclaw-agent setup/);
  const etc = path.join(root, 'etc/kiloclaw-agent');
  writeFileSync(path.join(etc, 'agent.env'), 'KILOCLAW_SANDBOX_ID=sandbox-1\n');
  writeFileSync(path.join(etc, 'api-key'), 'key\n', { mode: 0o600 });

  let refuses = true;
  const bodies: { restartsSinceLastCheckin: number; supervisorState: string }[] = [];
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (text) => (body += text)).on('end', () => {
      if (!refuses) bodies.push(JSON.parse(body));
      response.writeHead(refuses ? 503 : 204).end();
    });
  });
  const port = await listen(t, server);
  const program = path.join(root, 'usr/bin/kiloclaw-agent');
  const state = path.join(root, 'run/kiloclaw-agent/state.json');
  mkdirSync(path.dirname(state), { recursive: true });
  const start = (command: string[]) => {
    const agent = spawn(program, ['run', '--initial-delay=0', '--interval=1', '--jitter=0', '--state-file', state, '--', ...command], {
      env: {
        PATH: process.env.PATH,
        KILOCLAW_RUN: process.env.KILOCLAW_RUN,
        KILOCLAW_CHECKIN_URL: `http://127.0.0.1:${port}${CHECK_IN_PATH}`,
        KILOCODE_API_KEY: 'key',
        OPENCLAW_GATEWAY_TOKEN: 'token',
        KILOCLAW_SANDBOX_ID: 'sandbox-1',
      },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    t.after(() => agent.kill('SIGKILL'));
    return agent;
  };

  // Its command crashes, and the server refuses its check-ins.
  const old = start(['false']);
  let log = '';
  const observed = (what: string, so: () => boolean) =>
    until(what, so).catch((error: Error) => assert.fail(`${error.message}\n${log}`));
  old.stderr.setEncoding('utf8').on('data', (text: string) => (log += text));
  await observed('a crash', () => (log.match(/the command has ended/g)?.length ?? 0) >= 2);
  // Replaces the program of the running agent.
  const before = statSync(program).ino;
  install();
  assert.notEqual(statSync(program).ino, before);
  old.kill('SIGTERM');
  await once(old, 'exit');
  assert.equal(readFileSync(path.join(etc, 'agent.env'), 'utf8'), 'KILOCLAW_SANDBOX_ID=sandbox-1\n');
  assert.equal(readFileSync(path.join(etc, 'api-key'), 'utf8'), 'key\n');

  refuses = false;
  const upgraded = start(['sleep', '600']);
  upgraded.stderr.setEncoding('utf8').on('data', (text: string) => (log += text));
  await observed('a check-in', () => bodies.some(({ supervisorState }) => supervisorState === 'running'));
  upgraded.kill('SIGTERM');
  await once(upgraded, 'exit');
  const reported = bodies.reduce((sum, body) => sum + body.restartsSinceLastCheckin, 0);
  assert.ok(reported >= 1, `the restarts before the upgrade: ${JSON.stringify(bodies)}\n${log}`);

  install('--remove');
  assert.ok(!existsSync(program) && !existsSync(state));
  assert.ok(existsSync(path.join(etc, 'agent.env')) && existsSync(path.join(etc, 'api-key')));
});
