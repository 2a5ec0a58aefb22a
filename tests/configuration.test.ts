/** Settings that several files share are equal. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { experimental_readRawConfig } from 'wrangler';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { localConfig } from '../local-ae/local-config.js';

const setting = (file: string, name: string) => {
  const [, value] = new RegExp(`^${name} = (.+)$`, 'm').exec(readFileSync(file, 'utf8')) ?? [];
  assert.ok(value !== undefined, `${file} has no ${name}`);
  return value;
};

test('local development rebuilds when any crate of the Worker changes', () => {
  const text = execFileSync('cargo', ['metadata', '--no-deps', '--format-version', '1'], { encoding: 'utf8' });
  interface Package {
    readonly name: string;
    readonly manifest_path: string;
    readonly dependencies: readonly { readonly name: string; readonly path?: string; readonly kind: string | null }[];
  }
  const { packages } = JSON.parse(text) as { packages: readonly Package[] };
  const folders = new Set<string>();
  const visit = (name: string) => {
    const found = packages.find((one) => one.name === name);
    assert.ok(found, name);
    const folder = path.relative('.', path.join(path.dirname(found.manifest_path), 'src'));
    if (folders.has(folder)) return;
    folders.add(folder);
    for (const { name, path, kind } of found.dependencies) if (path && kind === null) visit(name);
  };
  visit('kiloclaw-telemetry');
  assert.deepEqual(new Set(JSON.parse(setting('wrangler.toml', 'watch_dir'))), folders);
});

test('the bound datasets are those that queries read', () => {
  const datasets = [...readFileSync('wrangler.toml', 'utf8').matchAll(/^dataset = "(.+)"$/gm)].map(([, name]) => name);
  const source = readFileSync('crates/watch/src/tick.rs', 'utf8');
  const canaries = /CANARY_DATASET: &str = "(.+)";/.exec(source)?.[1];
  assert.deepEqual(datasets, [layout.dataset, canaries]);
});

test('local development uses the deployed configuration, except for local datasets', () => {
  const { rawConfig } = experimental_readRawConfig({ config: 'wrangler.toml' });
  const plain = (value: unknown) => JSON.parse(JSON.stringify(value)) as Record<string, unknown>;
  const { unsafe, ...local } = plain(localConfig(rawConfig, {}));
  const { analytics_engine_datasets: datasets, ...rest } = plain(rawConfig);
  assert.deepEqual(local, rest);
  const { bindings } = unsafe as { bindings: { name: string; dev: { options: { dataset: string } } }[] };
  assert.deepEqual(bindings.map(({ name, dev }) => ({ binding: name, dataset: dev.options.dataset })), datasets);
});

test('the local Analytics Engine is never deployed, and the cloud keeps logs', () => {
  const deployed = readFileSync('wrangler.toml', 'utf8');
  assert.doesNotMatch(deployed, /^\[*unsafe/m);
  assert.match(deployed, /^\[observability\]\nenabled = true$/m);
});

test('the build tools have the versions of the crates that need them', () => {
  const lock = readFileSync('Cargo.lock', 'utf8');
  const locked = (crate: string) => new RegExp(`^name = "${crate}"\nversion = "(.+)"$`, 'm').exec(lock)?.[1];
  const bindgen = readFileSync('tools/wasm-bindgen/Cargo.toml', 'utf8');
  assert.match(bindgen, new RegExp(`^wasm-bindgen-cli-support = "=${locked('wasm-bindgen')}"$`, 'm'));
});
