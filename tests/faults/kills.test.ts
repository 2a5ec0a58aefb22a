/** Kills the runtime with SIGKILL and restarts it repeatedly while agents check in. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { killAndRestart } from '../support/kills.ts';

test('kills while no check-in is in flight: the points add up to what happened', async (t) => {
  const outcome = await killAndRestart(t, { machines: 8, quiet: 15, random: 0, midway: 0 });
  t.diagnostic(outcome.summary);
  assert.deepEqual(outcome.reported, outcome.happened);
});

test('kills at any moment: the points add up to what happened, plus what was reported twice', async (t) => {
  const outcome = await killAndRestart(t, { machines: 8, quiet: 0, random: 15, midway: 30 });
  t.diagnostic(outcome.summary);
  assert.deepEqual(outcome.reported, outcome.expected);
});
