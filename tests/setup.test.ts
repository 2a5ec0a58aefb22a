/** `tools/setup`, and what `npm start` needs before it can start. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { parseEnv } from 'node:util';

function folder(t: TestContext): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'kiloclaw-setup-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

test('without a network it says what is missing and what to do', (t) => {
  const empty = folder(t);
  mkdirSync(path.join(empty, 'tools'));
  for (const file of ['package.json', 'package-lock.json', 'tools/setup', 'tools/reap']) {
    copyFileSync(file, path.join(empty, file));
  }
  cpSync('local-ae/package.json', path.join(empty, 'local-ae/package.json'));
  const { status, stderr } = spawnSync(path.join(empty, 'tools/setup'), ['--node', 'true'], {
    env: {
      ...process.env,
      npm_config_registry: 'http://127.0.0.1:1/',
      npm_config_cache: path.join(empty, 'cache'),
      npm_config_fetch_retries: '0',
    },
    encoding: 'utf8',
  });
  assert.equal(status, 1, stderr);
  const [last] = stderr.trim().split('\n').slice(-1);
  assert.match(last!, /^setup: error: 'npm install' failed, see above\. .*check the network.*run this again/);
});

test('the placeholders of .dev.vars.example are refused, each by its name', (t) => {
  const example = readFileSync('.dev.vars.example', 'utf8').replaceAll(/^# (?=[A-Z_]+=)/gm, '');
  const names = Object.keys(parseEnv(example));
  assert.ok(names.includes('INTERNAL_API_SECRET') && names.includes('JWT_SECRET'), names.join());
  const right = ['KILOCODE_API_KEY', 'GATEWAY_TOKEN_SECRET', 'JWT_SECRET'].map((name) => `${name}=0123456789abcdef`);
  const own = folder(t);
  for (const file of ['tools', 'harness', 'wrangler.toml', 'local-ae', 'crates/check-in/data-point.json', '.dev.vars.example', 'package.json']) {
    cpSync(file, path.join(own, file), { recursive: true });
  }
  cpSync('node_modules/jose', path.join(own, 'node_modules/jose'), { recursive: true });
  for (const name of names) {
    const lines = example.split('\n').filter((line) => line.startsWith(`${name}=`));
    writeFileSync(path.join(own, '.dev.vars'), [...right.filter((line) => !line.startsWith(name)), ...lines].join('\n'));
    const { status, stderr } = spawnSync(process.execPath, [path.join(own, 'tools/start.ts')], { encoding: 'utf8' });
    assert.equal(status, 1);
    assert.match(
      stderr,
      new RegExp(`^start: error: ${name} in .dev.vars is the placeholder of .dev.vars.example: .*openssl rand -hex 32`),
    );
  }
});
