/** `npm run seed`: the same seed writes the same fleet, and the API reports it. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { promisify } from 'node:util';

import { history } from '../harness/made-up-fleet.ts';
import { mint } from '../harness/token.ts';
import { FULL, JWT_SECRET } from '../harness/check-in.ts';
import { startWorker } from '../harness/worker.ts';

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

test('writes a fleet that the operators see, and replaces that of an earlier run', async (t) => {
  const worker = await startWorker({}, t);
  const seed = async (...args: string[]) => {
    const command = ['tools/seed.ts', '--store', worker.store, ...args];
    const { stdout, stderr } = await run(process.execPath, command);
    assert.equal(stdout, '');
    return stderr;
  };
  const token = await mint({ sub: 'ops', ttl: 60 }, { JWT_SECRET });
  let requests = 0;
  const ask = async (path: string): Promise<any> => {
    // Another window each time, because reports are cached.
    const query = `${path}?window=${86_400 + (requests += 1)}s`;
    const response = await worker.fetch(query, { headers: { authorization: `Bearer ${token}` } });
    assert.equal(response.status, 200, query);
    return response.json();
  };
  await worker.checkIn(FULL);
  await worker.points(1);

  const said = await seed();
  const [, written] = /seed: wrote ([\d,]+) check-ins of 100 sandboxes over 24 h/.exec(said) ?? [];
  const fleet = await ask('/api/fleet');
  assert.equal(fleet.sandboxes, 101);
  assert.equal((fleet.checkIns - 1).toLocaleString('en'), written);
  assert.ok(fleet.reporting > 90 && fleet.controllerVersions.length >= 2, JSON.stringify(fleet));
  // The default fleet has all problems that the help names, and the printed examples have them.
  const { incidents } = await ask('/api/incidents');
  for (const [words, kind, severity] of [
    ['in a crash loop', 'crash_loop', /./],
    ['silent', 'silent', /critical/],
    ['shut down on purpose', 'silent', /info/],
    ['cloned', 'clone', /critical/],
  ] as const) {
    const [, id] = new RegExp(`${words}, such as (made-up-\\d+)`).exec(said) ?? [];
    const incident = incidents.find((incident: any) => incident.sandboxId === id && incident.kind === kind);
    assert.match(incident?.severity ?? 'none', severity, `${words}: ${id}`);
  }
  assert.match(said, /caches each report for 15 s/);

  await seed();
  const again = await ask('/api/fleet');
  assert.equal(again.sandboxes, 101);
  // The time range has moved a little between the two runs.
  assert.ok(Math.abs(again.checkIns - fleet.checkIns) <= 100, `${again.checkIns}, ${fleet.checkIns}`);
  await seed('--sandboxes', '5', '--hours', '2');
  assert.equal((await ask('/api/fleet')).sandboxes, 6);
  assert.match(await seed('--clear'), /removed what earlier runs wrote/);
  assert.equal((await ask('/api/fleet')).sandboxes, 1);
});

test('prints the cache time of the Worker', () => {
  const constant = (file: string, pattern: RegExp) => pattern.exec(readFileSync(file, 'utf8'))?.[1];
  const own = constant('tools/seed.ts', /MAX_AGE_SECONDS = (\d+);/);
  assert.equal(own, constant('src/operators.rs', /const MAX_AGE: u64 = (\d+);/));
});

test('an invalid option is an error with a hint', async () => {
  for (const [args, error] of [
    [['--sandboxes', '0'], /--sandboxes must be an integer from 1 to 100000, not '0'/],
    [['--hour', '1'], /Unknown option '--hour'.*--help/],
    [['--store', 'http://127.0.0.1:1'], /cannot write to .*: .*is `npm start` running\?/],
  ] as const) {
    await assert.rejects(run(process.execPath, ['tools/seed.ts', ...args]), error);
  }
  const { stdout } = await run(process.execPath, ['tools/seed.ts', '--help']);
  assert.match(stdout, /--seed N/);
});
