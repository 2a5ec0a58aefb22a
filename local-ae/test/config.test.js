/** The configuration for development, derived from the deployed one. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { localConfig } from '../local-config.js';
import { emptyFolder, FOLDER } from '../support/package.js';

const CLI = fileURLToPath(new URL('../cli.js', import.meta.url));
const packages = path.dirname(path.dirname(createRequire(import.meta.url).resolve('wrangler/package.json')));

/**
 * Creates a folder with this repository's wrangler.
 *
 * @param {import('node:test').TestContext} t
 * @param {Record<string, string>} files
 */
async function project(t, files) {
  const folder = await emptyFolder(t, 'a project ');
  symlinkSync(packages, path.join(folder, 'node_modules'), 'junction');
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    writeFileSync(path.join(folder, name), text);
  }
  return folder;
}

/** @param {string} folder @param {string[]} args */
function config(folder, ...args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, 'config', ...args], { cwd: folder, encoding: 'utf8' });
  const written = stdout.trim().split('\n').filter((line) => line !== '');
  return { status, stderr, written, configs: written.map((file) => JSON.parse(readFileSync(file, 'utf8'))) };
}

/** @param {string} name @param {Record<string, unknown>} options */
const binding = (name, options) => ({
  name,
  type: 'analytics_engine',
  dev: { plugin: { package: path.join(FOLDER, 'index.js'), name: 'local-ae' }, options },
});

const TOML = 'name = "a"\nmain = "index.js"\n[[analytics_engine_datasets]]\nbinding = "VISITS"\n';

test('makes datasets local in every environment, and changes nothing else', () => {
  const deployed = {
    name: 'a',
    vars: { A: '1' },
    analytics_engine_datasets: [{ binding: 'VISITS', dataset: 'visits' }, { binding: 'SALES' }],
    unsafe: { bindings: [{ name: 'OTHER', type: 'other' }], metadata: { key: 'value' } },
    dev: { port: 8787, generate_types: true },
    env: {
      staging: { analytics_engine_datasets: [{ binding: 'VISITS', dataset: 'staging' }], vars: { A: '2' } },
      bare: { vars: { A: '3' } },
    },
  };
  const before = structuredClone(deployed);
  assert.deepEqual(localConfig(deployed, { port: 9400 }), {
    name: 'a',
    vars: { A: '1' },
    unsafe: {
      bindings: [
        { name: 'OTHER', type: 'other' },
        binding('VISITS', { port: 9400, dataset: 'visits' }),
        binding('SALES', { port: 9400, dataset: 'SALES' }),
      ],
      metadata: { key: 'value' },
    },
    dev: { port: 8787, generate_types: false },
    env: {
      staging: { unsafe: { bindings: [binding('VISITS', { port: 9400, dataset: 'staging' })] }, vars: { A: '2' } },
      bare: { vars: { A: '3' } },
    },
  });
  assert.deepEqual(deployed, before);
});

test('keeps an invalid setting, so that wrangler reports it', () => {
  const wrong = /** @type {any} */ ({ analytics_engine_datasets: { binding: 'VISITS' } });
  assert.deepEqual(localConfig(wrong, {}), wrong);
});

test('writes the configuration beside the original, and only if it has changed', async (t) => {
  const folder = await project(t, { 'wrangler.toml': TOML });
  const { status, stderr, written, configs } = config(folder);
  assert.deepEqual({ status, stderr, written }, { status: 0, stderr: '', written: [path.join(folder, 'wrangler.local-ae.json')] });
  assert.deepEqual(configs, [{ name: 'a', main: 'index.js', unsafe: { bindings: [binding('VISITS', { dataset: 'VISITS' })] } }]);
  const { mtimeMs } = statSync(written[0]);
  config(folder);
  assert.equal(statSync(written[0]).mtimeMs, mtimeMs);
  const options = ['--ae-port', '9400', '--ae-retention-days=30', '--ae-token', 'x', '--ae-allowed-host', 'a', '--ae-allowed-host', 'b'];
  assert.deepEqual(config(folder, ...options).configs[0].unsafe.bindings, [
    binding('VISITS', { port: 9400, retentionDays: 30, token: 'x', allowedHosts: ['a', 'b'], dataset: 'VISITS' }),
  ]);
});

test('reads the configuration that wrangler would read, or those that -c names', async (t) => {
  const json = '{ // a comment\n "name": "b", "analytics_engine_datasets": [{ "binding": "SALES" }], }';
  const folder = await project(t, { 'wrangler.toml': TOML, 'wrangler.jsonc': json, 'api/wrangler.staging.toml': TOML });
  assert.equal(config(folder).configs[0].name, 'b');
  const { written, configs } = config(folder, '-c', 'wrangler.toml', '--config', path.join('api', 'wrangler.staging.toml'));
  assert.deepEqual(configs.map(({ name }) => name), ['a', 'a']);
  assert.equal(written[1], path.join(folder, 'api', 'wrangler.staging.local-ae.json'));
});

test('reports why it cannot write a configuration', async (t) => {
  const folder = await project(t, { 'none.toml': 'name = "a"\n', 'broken.jsonc': '{' });
  const message = (/** @type {string[]} */ ...args) => {
    const { status, stderr } = config(folder, ...args);
    assert.equal(status, 2);
    assert.equal(stderr.trim().split('\n').length, 1, stderr);
    return stderr.trim().replaceAll(folder, 'FOLDER');
  };
  assert.equal(message(), 'local-ae: there is no wrangler.json, wrangler.jsonc or wrangler.toml in FOLDER');
  assert.match(message('-c', 'none.toml'), /^local-ae: FOLDER.none\.toml has no analytics_engine_datasets$/);
  assert.match(message('-c', 'broken.jsonc'), /^local-ae: broken\.jsonc: /);
  writeFileSync(path.join(folder, 'odd.toml'), TOML);
  mkdirSync(path.join(folder, 'odd.local-ae.json'));
  assert.match(message('-c', 'odd.toml'), /^local-ae: FOLDER.odd\.local-ae\.json cannot be written: EISDIR/);
  writeFileSync(path.join(folder, 'wrangler.toml'), TOML);
  const [written] = config(folder).written;
  assert.match(message('-c', written), /is what this command writes: name the one that you deploy$/);
});

test('refuses a wrangler that would silently discard the points', async (t) => {
  const folder = await emptyFolder(t);
  const wrangler = path.join(folder, 'node_modules/wrangler');
  mkdirSync(wrangler, { recursive: true });
  writeFileSync(path.join(folder, 'wrangler.toml'), TOML);
  for (const version of ['4.99.0', '4.163.9', '3.200.0']) {
    writeFileSync(path.join(wrangler, 'package.json'), JSON.stringify({ name: 'wrangler', version }));
    const { status, stderr } = config(folder);
    assert.equal(status, 2);
    assert.match(stderr, new RegExp(`^local-ae: wrangler ${version} is too old: install 4\\.\\d+\\.\\d+ or later\n$`));
  }
});
