import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';

/** Waits until `so` holds; fails with `what` after the deadline. */
export async function until(
  what: string,
  so: () => Promise<boolean> | boolean,
  { deadlineMs = 30_000, pauseMs = 20 } = {},
): Promise<void> {
  const deadline = Date.now() + deadlineMs;
  while (!(await so())) {
    assert.ok(Date.now() < deadline, `in time: ${what}`);
    await delay(pauseMs);
  }
}
