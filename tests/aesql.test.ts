/** The crate `aesql` can be published: it builds from its package alone, with its licence and no warning. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

const cargo = (...args: string[]) => {
  const { status, stdout, stderr } = spawnSync('cargo', args, { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  return { stdout, stderr };
};

test('the crate aesql builds from its package alone, without a warning', () => {
  const { stderr } = cargo('package', '--package', 'aesql', '--allow-dirty', '--offline');
  assert.match(stderr, /Verifying aesql/);
  assert.doesNotMatch(stderr, /^warning/m);
});

test('the crate has its licence and its README, which links to nothing outside of it', () => {
  const files = cargo('package', '--package', 'aesql', '--allow-dirty', '--offline', '--list').stdout.split('\n');
  for (const file of ['README.md', 'examples/lint.rs', 'examples/query.rs']) assert.ok(files.includes(file), file);
  assert.ok(!files.some((file) => file.startsWith('oracle/')));
  const read = (file: string) => readFileSync(file, 'utf8');
  assert.equal(read('local-ae/aesql/LICENSE'), read('LICENSE'));
  const links = read('local-ae/aesql/README.md').matchAll(/\]\((?!https:|#)([^)]*)\)/g);
  assert.deepEqual([...links].map(([, target]) => target), []);
});
