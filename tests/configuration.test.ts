/** What is written in more than one file must say the same. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };

const setting = (file: string, name: string) => {
  const [, value] = new RegExp(`^${name} = (.+)$`, 'm').exec(readFileSync(file, 'utf8')) ?? [];
  assert.ok(value !== undefined, `${file} has no ${name}`);
  return value;
};

test('local development runs what is deployed', () => {
  for (const name of ['name', 'main', 'compatibility_date']) {
    assert.equal(setting('wrangler.dev.toml', name), setting('wrangler.toml', name), name);
  }
  const alsoBuilds = 'tools/setup --wasm tools/engine && ';
  const command = setting('wrangler.dev.toml', 'command').replace(alsoBuilds, '');
  assert.equal(command, setting('wrangler.toml', 'command'));
});

test('both write to the dataset of the contract', () => {
  assert.equal(setting('wrangler.toml', 'dataset'), JSON.stringify(layout.dataset));
  assert.ok(setting('wrangler.dev.toml', 'options').includes(`dataset = "${layout.dataset}"`));
  const binding = setting('wrangler.toml', 'binding');
  assert.ok(readFileSync('wrangler.dev.toml', 'utf8').includes(`[[unsafe.bindings]]\nname = ${binding}`));
});

test('the local Analytics Engine is never deployed, and the cloud is told to keep logs', () => {
  const deployed = readFileSync('wrangler.toml', 'utf8');
  assert.doesNotMatch(deployed, /^\[*unsafe/m);
  assert.match(deployed, /^\[observability\]\nenabled = true$/m);
});
