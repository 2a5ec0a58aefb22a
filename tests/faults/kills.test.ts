/** The runtime is killed with SIGKILL and started anew, again and again, while agents check in. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { killAndRestart } from '../support/kills.ts';

test('killed while no answer is on its way: what was reported is what happened', async (t) => {
  const outcome = await killAndRestart(t, { machines: 8, quiet: 15, random: 0, midway: 0 });
  t.diagnostic(outcome.summary);
  assert.deepEqual(outcome.reported, outcome.happened);
});

test('killed at any moment: what was reported is what happened, and what was reported twice', async (t) => {
  const outcome = await killAndRestart(t, { machines: 8, quiet: 0, random: 15, midway: 30 });
  t.diagnostic(outcome.summary);
  assert.deepEqual(outcome.reported, outcome.expected);
});
