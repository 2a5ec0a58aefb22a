/** `tools/setup`, and the secrets that `npm start` requires. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { parseEnv } from 'node:util';

import { temporaryFolder } from '../harness/context.ts';

/** A folder with only the files that set-up starts with. */
function bareFolder(t: TestContext): string {
  const bare = temporaryFolder(t);
  mkdirSync(path.join(bare, 'tools'));
  for (const file of ['package.json', 'package-lock.json', 'tools/setup', 'tools/reap']) {
    copyFileSync(file, path.join(bare, file));
  }
  cpSync('local-ae/package.json', path.join(bare, 'local-ae/package.json'));
  return bare;
}

/** An environment in which npm reaches no registry. */
const offline = (folder: string) => ({
  ...process.env,
  npm_config_registry: 'http://127.0.0.1:1/',
  npm_config_cache: path.join(folder, 'cache'),
  npm_config_fetch_retries: '0',
});

test('without a network, reports what failed and what to do', (t) => {
  const empty = bareFolder(t);
  const { status, stderr } = spawnSync(path.join(empty, 'tools/setup'), ['--node', 'true'], { env: offline(empty), encoding: 'utf8' });
  assert.equal(status, 1, stderr);
  const [last] = stderr.trim().split('\n').slice(-1);
  assert.match(last!, /^setup: error: 'npm install' failed, see above\. .*check the network.*run this again/);
});

test('two set-ups of a folder run one after the other', async (t) => {
  const bare = bareFolder(t);
  mkdirSync(path.join(bare, '.tools'));
  const first = spawn('flock', [path.join(bare, '.tools/lock'), 'cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  first.stdin.write('locked');
  await once(first.stdout, 'data');
  const second = spawn(path.join(bare, 'tools/setup'), ['--node', 'true'], { env: offline(bare), stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  const firstLine = new Promise<void>((resolve) => {
    second.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
      resolve();
    });
  });
  const closed = once(second, 'close');
  await firstLine;
  assert.equal(stderr, 'setup: waiting for another set-up of this folder\n');
  first.stdin.end();
  await closed;
  assert.match(stderr, /setup: error: 'npm install' failed/);
});

test('.dev.vars.example names the secrets of the Worker, and has no value that somebody could deploy', (t) => {
  const example = readFileSync('.dev.vars.example', 'utf8');
  // Cloudflare's deploy button asks for these, with their values as suggestions.
  const required = ['KILOCODE_API_KEY', 'GATEWAY_TOKEN_SECRET', 'JWT_SECRET'];
  assert.deepEqual(parseEnv(example), Object.fromEntries(required.map((name) => [name, ''])));
  const documented = readFileSync('wrangler.toml', 'utf8');
  for (const [, name] of example.matchAll(/^# ([A-Z_]+)=/gm)) assert.ok(documented.includes(name!), name);

  const own = temporaryFolder(t);
  for (const file of ['tools', 'harness', 'wrangler.toml', 'local-ae', 'crates/check-in/data-point.json', 'package.json']) {
    cpSync(file, path.join(own, file), { recursive: true });
  }
  cpSync('node_modules/jose', path.join(own, 'node_modules/jose'), { recursive: true });
  for (const name of required) {
    const others = required.filter((other) => other !== name).map((other) => `${other}=0123456789abcdef`);
    writeFileSync(path.join(own, '.dev.vars'), [example, ...others].join('\n'));
    const { status, stderr } = spawnSync(process.execPath, [path.join(own, 'tools/start.ts')], { encoding: 'utf8' });
    assert.equal(status, 1);
    assert.match(stderr, new RegExp(`^start: error: ${name} is missing in .dev.vars: .*openssl rand -hex 32`));
  }
});
