/** `npm test` itself: a failed gate does not prevent the others. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { test, type TestContext } from 'node:test';

import { temporaryFolder } from '../harness/context.ts';

/** Runs `tools/test` like CI, with stubs that print their calls and fail if the call matches `fails`. */
function gates(t: TestContext, fails: RegExp) {
  const tools = path.join(temporaryFolder(t), 'tools');
  mkdirSync(tools);
  copyFileSync('tools/test', path.join(tools, 'test'));
  for (const name of ['cargo', 'tsc', 'node', 'setup']) {
    const call = '"${0##*/} $*"';
    const script = `#!/bin/sh\necho called ${call}\n! echo ${call} | grep -Eq '${fails.source}'\n`;
    writeFileSync(path.join(tools, name), script, { mode: 0o755 });
  }
  const env = { ...process.env, CI: '1', PATH: `${tools}:${process.env.PATH}` };
  return spawnSync(path.join(tools, 'test'), { env, encoding: 'utf8' });
}

test('runs and reports every gate, and fails if one fails', (t) => {
  const good = gates(t, /^nothing$/);
  assert.equal(good.status, 0, good.stderr);
  assert.doesNotMatch(good.stderr, /FAILED|skipped/);
  assert.match(good.stdout, /^called setup --browser$/m, 'CI must not skip the tests of the page');
  const bad = gates(t, /cargo (fmt|test)|^tsc/);
  assert.equal(bad.status, 1);
  assert.equal(bad.stdout, good.stdout, 'all gates were called');
  const failed = [...bad.stderr.matchAll(/^FAILED   (.*)$/gm)].map(([, name]) => name);
  assert.deepEqual(failed, [
    'formatting',
    'types of the TypeScript and JavaScript',
    'types of the page',
    'unit tests',
    'unit tests of JSON',
    'unit tests of the alerts',
  ]);
});

test('skips gates whose build failed, and reports that', (t) => {
  const { status, stdout, stderr } = gates(t, /worker\.ts --quiet$|engine$/);
  assert.equal(status, 1);
  assert.doesNotMatch(stdout, /called node/);
  assert.match(stderr, /^passed   build of the agent, \d+ s$/m);
  assert.match(
    stderr,
    /^skipped  integration tests, because this did not build: the Worker, the SQL engine$/m,
  );
});
