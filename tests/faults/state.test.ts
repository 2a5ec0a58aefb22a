/** The agent's state file on a full or read-only disk, and after a change of the monotonic clock. */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { promisify } from 'node:util';

import { AGENT } from '../../harness/agent.ts';
import { temporaryFolder } from '../../harness/context.ts';
import { Machine } from '../support/fleet.ts';
import { until } from '../support/until.ts';
import { API_KEY, CHECK_IN_PATH, gatewayToken } from '../../harness/check-in.ts';
import { startWorker } from '../../harness/worker.ts';

const skip = process.env.FAULTS_ISOLATED === undefined && 'needs root and tools/faults';
const run = promisify(execFile);

/** A small disk, which only the mount namespace of these tests sees. */
function disk(t: TestContext): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'kiloclaw-disk-'));
  const place = path.join(folder, 'disk');
  mkdirSync(place);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'none', place]);
  t.after(() => {
    execFileSync('umount', ['--lazy', place]);
    rmSync(folder, { recursive: true, force: true });
  });
  return place;
}

test('checks in with a full or read-only disk, and reports the fault', { skip }, async (t) => {
  const place = disk(t);
  const filler = path.join(place, 'filler');
  const worker = await startWorker({}, t);
  const url = new URL(CHECK_IN_PATH, worker.url).href;
  const stateFile = path.join(place, 'state.json');
  const machine = new Machine(t, 'sandbox-1', { stateFile });
  machine.start(url, ['sleep', '600']);
  await worker.points(2);
  const ask = async (...args: string[]) => {
    const env = {
      KILOCLAW_CHECKIN_URL: url,
      KILOCODE_API_KEY: API_KEY,
      OPENCLAW_GATEWAY_TOKEN: gatewayToken(machine.sandboxId),
      KILOCLAW_SANDBOX_ID: machine.sandboxId,
    };
    const running = run(AGENT, [...args, '--json', '--state-file', stateFile], { env });
    const { stdout } = await running.catch((error: { stdout: string }) => error);
    return JSON.parse(stdout) as Record<string, any>;
  };
  const check = async () => {
    const checks = (await ask('doctor')).checks as { name: string; status: string; code?: string }[];
    const { status, code } = checks.find(({ name }) => name === 'state_file')!;
    return [status, code];
  };
  const count = (pattern: RegExp) => machine.log.split('\n').filter((line) => pattern.test(line)).length;
  const goesOn = async () => {
    const before = (await worker.points(1)).length;
    await worker.points(before + 3);
  };

  const faults: [string, () => void, () => void, RegExp][] = [
    [
      'full',
      () => assert.throws(() => writeFileSync(filler, Buffer.alloc(1_000_000)), { code: 'ENOSPC' }),
      () => rmSync(filler),
      /no storage space|no space/i,
    ],
    [
      'read-only',
      () => void execFileSync('mount', ['-o', 'remount,ro', place]),
      () => void execFileSync('mount', ['-o', 'remount,rw', place]),
      /read-only/i,
    ],
  ];
  for (const [index, [name, breaks, restore, reason]] of faults.entries()) {
    assert.deepEqual(await check(), ['passed', undefined], `before the disk is ${name}`);
    breaks();
    await goesOn();
    assert.equal(count(/cannot write the state file/), index + 1, `the log has one line: the disk is ${name}`);
    const status = await ask('status');
    assert.match(status.stateFileError as string, reason);
    assert.deepEqual(await check(), ['failed', 'not_writable'], name);
    const { updated } = (status.agent as { updated: string });
    restore();
    await until('the recovery is logged once', () => count(/is written again/) === index + 1);
    const restored = await ask('status');
    assert.deepEqual([restored.verdict, restored.stateFileError], ['healthy', undefined]);
    assert.ok(Date.parse((restored.agent as { updated: string }).updated) > Date.parse(updated));
    t.diagnostic(`${name}: ${status.stateFileError as string}`);
  }
});

test('continues from a state file if the monotonic clock is 100 days ahead', { skip }, async (t) => {
  const worker = await startWorker({}, t);
  const url = new URL(CHECK_IN_PATH, worker.url).href;
  const stateFile = path.join(temporaryFolder(t), 'state.json');
  const first = new Machine(t, 'sandbox-1', { stateFile });
  first.start(url, ['sleep', '600']);
  await worker.points(2);
  await first.stop();
  const days = String(100 * 86_400);
  const by = ['unshare', '--time', '--monotonic', days, '--boottime', days, '--fork', '--kill-child=TERM'];
  const second = new Machine(t, 'sandbox-1', { stateFile, by });
  second.start(url, ['sleep', '600']);
  const before = (await worker.points(1)).length;
  const points = (await worker.points(before + 4)).slice(before);
  const times = points.map(({ timestamp }) => Date.parse(timestamp));
  const gaps = times.slice(1).map((time, i) => time - times[i]);
  assert.ok(gaps.every((gap) => gap >= 950 && gap < 10_000), gaps.join(', '));
  // unshare forwards no signal, but its end stops the agent (--kill-child).
  await second.stop('SIGKILL');
});
