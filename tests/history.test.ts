/** `npm run history`: what it writes is a fleet, the same for the same seed, and the API can read it. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';

import { history } from '../tools/history.ts';
import { mint } from '../tools/token.ts';
import { JWT_SECRET, startWorker } from './worker.ts';

const NOW = Date.parse('2026-01-02T03:04:05Z');
const fleet = { sandboxes: 200, hours: 2, seed: 1, now: NOW };
const run = promisify(execFile);

test('the same seed makes the same fleet, within its hours', () => {
  const points = [...history(fleet)] as { timestamp: number; index1: string }[];
  assert.deepEqual([...history(fleet)], points);
  assert.notDeepEqual([...history({ ...fleet, seed: 2 })], points);
  assert.ok(points.every(({ timestamp }) => timestamp <= NOW && timestamp >= NOW - 2 * 3_600_000));
  assert.equal(new Set(points.map(({ index1 }) => index1)).size, fleet.sandboxes);
});

test('it is written into a store, and is what the operators see', async (t) => {
  const worker = await startWorker({}, t);
  const args = ['tools/history.ts', '--sandboxes', '500', '--hours', '3', '--store', worker.store];
  const { stdout, stderr } = await run(process.execPath, args);
  assert.equal(stdout, '');
  const [, written] = /history: ([\d,]+) check-ins of 500 sandboxes/.exec(stderr) ?? [];
  const token = await mint({ sub: 'ops', ttl: 60 }, { JWT_SECRET });
  const ask = async (path: string): Promise<any> =>
    (await worker.fetch(path, { headers: { authorization: `Bearer ${token}` } })).json();
  const seen = await ask('/api/fleet');
  assert.deepEqual([seen.sandboxes, seen.checkIns.toLocaleString('en')], [500, written]);
  assert.ok(seen.reporting > 450 && seen.restarts > 0 && seen.controllerVersions.length === 2);
  const { totals } = await ask('/api/incidents');
  assert.ok(totals.crashLoops > 0 && totals.silent > 0, JSON.stringify(totals));
});

test('what cannot be used is said, with how to mend it', async () => {
  for (const [args, error] of [
    [['--sandboxes', '0'], /--sandboxes must be an integer from 1 to 100000, not '0'/],
    [['--hour', '1'], /Unknown option '--hour'.*--help/],
    [['--store', 'http://127.0.0.1:1'], /does not take the points: .*is `npm start` running\?/],
  ] as const) {
    await assert.rejects(run(process.execPath, ['tools/history.ts', ...args]), error);
  }
  const { stdout } = await run(process.execPath, ['tools/history.ts', '--help']);
  assert.match(stdout, /--seed N/);
});
