/**
 * Faults around the Worker and the agent: in the dataset, the wasm instance, the runtime and the clock.
 * Exactly the accepted check-ins are stored, and no restart or byte is lost. `npm run test:faults` runs the
 * tests that take minutes or need root.
 */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

import { AGENT } from '../harness/agent.ts';
import { allPoints, Machine } from './support/fleet.ts';
import { killAndRestart } from './support/kills.ts';
import { until } from './support/until.ts';
import { CHECK_IN_PATH, credentials, FULL, JWT_SECRET, MINIMAL, WORKER_SECRETS } from '../harness/check-in.ts';
import { temporaryFolder } from '../harness/context.ts';
import { logged, refusal, startWorker } from '../harness/worker.ts';
import { startWorkerd } from '../harness/workerd.ts';

/**
 * A Worker whose dataset fails in the way that the sandbox's id names. `hangs`, `rejects` and `thenable` are
 * return values of a possible future binding; today's returns nothing.
 */
const FAULTY = `
  import Worker from 'index.js';
  const thrown = {
    error: () => new Error('out of order'),
    text: () => 'out of order',
    nothing: () => undefined,
    number: () => Object.assign(new Error(), { message: 7 }),
    getter: () => Object.defineProperty(new Error(), 'message', { get() { throw new Error('deeper'); } }),
    revoked: () => { const { proxy, revoke } = Proxy.revocable({}, {}); revoke(); return proxy; },
  };
  const returned = {
    hangs: () => new Promise(() => {}),
    rejects: () => Promise.reject(new Error('rejected later')),
    thenable: () => ({ then() { throw new Error('not to be awaited'); } }),
  };
  const faulty = (dataset) => ({
    writeDataPoint(point) {
      const [, fault] = point.indexes[0].split(':');
      if (fault in thrown) throw thrown[fault]();
      dataset.writeDataPoint(point);
      return returned[fault]?.();
    },
  });
  let env;
  export default {
    fetch(request, bindings, ctx) {
      env ??= { ...bindings, KILOCLAW_CONTROLLER_AE: faulty(bindings.KILOCLAW_CONTROLLER_AE) };
      return Worker.fetch(request, env);
    },
  };`;

const WRITE_FAILED = { error: 'Write failed', code: 'write_failed' };

test('answers write_failed, whatever the dataset throws', async (t) => {
  const worker = await startWorker({ modules: { main: FAULTY } }, t);
  for (const fault of ['error', 'text', 'nothing', 'number', 'getter', 'revoked']) {
    const failed = await worker.checkIn({ ...FULL, sandboxId: `sandbox:${fault}` });
    assert.equal(failed.status, 503, fault);
    assert.deepEqual([failed.status, await refusal(failed)], [503, WRITE_FAILED], fault);
    assert.equal(failed.headers.get('retry-after'), '30');
    assert.equal((await worker.checkIn(FULL)).status, 204, `after ${fault}`);
  }
  assert.equal((await worker.points(6)).length, 6);
});

test('accepts check-ins at once, even if the dataset returns a promise that hangs or rejects', async (t) => {
  const worker = await startWorker({ modules: { main: FAULTY } }, t);
  for (const fault of ['hangs', 'rejects', 'thenable']) {
    const sandboxId = `sandbox:${fault}`;
    const answers = Array.from({ length: 20 }, () => worker.checkIn({ ...FULL, sandboxId }));
    assert.ok((await Promise.all(answers)).every(({ status }) => status === 204), fault);
  }
  assert.equal((await worker.points(60)).length, 60);
});

test('stores exactly the accepted check-ins if the dataset sometimes throws under load', async (t) => {
  const worker = await startWorker({ modules: { main: FAULTY } }, t);
  const fails = (i: number) => (i * 7) % 10 < 3;
  const answers = await Promise.all(
    Array.from({ length: 400 }, async (_, i) => {
      const response = await worker.checkIn({ ...FULL, sandboxId: `sandbox-${i}:${fails(i) ? 'error' : ''}` });
      return [response.status, response.status === 204 ? '' : (await refusal(response)).code] as const;
    }),
  );
  assert.deepEqual(
    answers,
    answers.map((_, i) => (fails(i) ? [503, 'write_failed'] : [204, ''])),
  );
  const expected = answers.flatMap((_, i) => (fails(i) ? [] : [`sandbox-${i}:`])).toSorted();
  const points = await worker.points(expected.length);
  assert.deepEqual(points.map(({ index1 }) => index1).toSorted(), expected);
});

test('reports a missing dataset before it reads the body', async (t) => {
  const worker = await startWorker({ dataset: 'missing' }, t);
  const refused = await worker.checkIn('not even JSON');
  assert.deepEqual([refused.status, (await refusal(refused)).code], [503, 'misconfigured']);
  await logged(worker, /KILOCLAW_CONTROLLER_AE/);
});

/** Sends a check-in up to the middle of its body; resolves once the Worker has it. */
async function halfway(port: number, sandboxId: string, chunked: boolean) {
  const socket = connect(port, '127.0.0.1');
  let answer = '';
  socket.setEncoding('latin1').on('data', (part: string) => (answer += part));
  const ended = once(socket, 'close').catch(() => undefined);
  const body = JSON.stringify({ ...MINIMAL, sandboxId });
  const headers = {
    host: 'localhost',
    connection: 'close',
    ...credentials(sandboxId),
    ...(chunked ? { 'transfer-encoding': 'chunked' } : { 'content-length': String(body.length) }),
  };
  const chunk = (text: string) => (chunked ? `${text.length.toString(16)}\r\n${text}\r\n` : text);
  const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`POST ${CHECK_IN_PATH} HTTP/1.1\r\n${head.join('')}\r\n${chunk(body.slice(0, 40))}`);
  await delay(10);
  return {
    /** Sends the rest; returns the status. */
    async finish(): Promise<number> {
      socket.write(chunk(body.slice(40)) + (chunked ? '0\r\n\r\n' : ''));
      await ended;
      return Number(/^HTTP\/1.1 (\d+)/.exec(answer)?.[1]);
    },
  };
}

test('answers every check-in and stores the accepted ones, despite panics while bodies arrive', async (t) => {
  const workerd = await startWorkerd(WORKER_SECRETS, t, { build: 'panic' });
  const post = async (sandboxId: string) => {
    const body = JSON.stringify({ ...MINIMAL, sandboxId });
    const url = `http://127.0.0.1:${workerd.port}${CHECK_IN_PATH}`;
    return (await fetch(url, { method: 'POST', headers: credentials(sandboxId), body })).status;
  };
  const panic = async () => (await fetch(`http://127.0.0.1:${workerd.port}/panic`)).status;
  const answered: [string, number][] = [];
  for (let round = 0; round < 3; round += 1) {
    const name = (what: string, i: number) => `${what}-${round}-${i}`;
    const before = await Promise.all(
      Array.from({ length: 10 }, async (_, i) => {
        const sandboxId = name('half', i);
        return [sandboxId, await halfway(workerd.port, sandboxId, i % 2 === 1)] as const;
      }),
    );
    const meanwhile = Array.from({ length: 40 }, async (_, i) => {
      const sandboxId = name('whole', i);
      if (i % 10 === 5) assert.equal(await panic(), 500);
      else answered.push([sandboxId, await post(sandboxId)]);
    });
    await Promise.all(meanwhile);
    const next = name('next', 0);
    const status = await post(next);
    assert.equal(status, 204, 'a fresh instance serves the next check-in');
    answered.push([next, status]);
    for (const [sandboxId, half] of before) answered.push([sandboxId, await half.finish()]);
    const last = name('last', 0);
    answered.push([last, await post(last)]);
    assert.equal(answered.at(-1)![1], 204, 'the requests of the old instance do not affect it');
  }
  assert.deepEqual(answered.filter(([, status]) => status !== 204), []);
  const accepted = answered.filter(([, status]) => status === 204).map(([sandboxId]) => sandboxId);
  t.diagnostic(`${answered.length} check-ins, ${accepted.length} accepted, ${answered.length - accepted.length} 5xx`);
  let stored: string[] = [];
  await until('all accepted check-ins are stored', async () => {
    stored = (await allPoints(workerd.store)).map(({ index1 }) => index1);
    return stored.length >= accepted.length;
  });
  assert.deepEqual(stored.toSorted(), accepted.toSorted());
});

test('repeated kills of the runtime lose nothing that agents report', async (t) => {
  const { reported, expected, summary } = await killAndRestart(t, { machines: 3, quiet: 2, random: 1, midway: 3 });
  t.diagnostic(summary);
  assert.deepEqual(reported, expected);
});

const run = promisify(execFile);

/** An LD_PRELOAD library that shifts only the wall clock, by the seconds in the file. */
const CLOCK = `
  #define _GNU_SOURCE
  #include <dlfcn.h>
  #include <stdio.h>
  #include <stdlib.h>
  #include <time.h>
  int clock_gettime(clockid_t id, struct timespec *time) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, time);
    const char *path = getenv("WALL_CLOCK_OFFSET");
    FILE *file = id == CLOCK_REALTIME && path ? fopen(path, "r") : NULL;
    long seconds = 0;
    if (file) {
      if (fscanf(file, "%ld", &seconds) == 1) time->tv_sec += seconds;
      fclose(file);
    }
    return result;
  }`;

test('jumps of the wall clock change neither the intervals nor the verdict of status', async (t) => {
  const folder = temporaryFolder(t);
  const file = (name: string) => path.join(folder, name);
  writeFileSync(file('clock.c'), CLOCK);
  execFileSync('cc', ['-shared', '-fPIC', '-O1', '-o', file('clock.so'), file('clock.c')]);
  const env = { LD_PRELOAD: file('clock.so'), WALL_CLOCK_OFFSET: file('offset') };
  const jump = (hours: number) => writeFileSync(file('offset'), String(hours * 3_600));
  jump(0);

  const worker = await startWorker({}, t);
  const url = new URL(CHECK_IN_PATH, worker.url).href;
  const often = new Machine(t, 'often', { env });
  // With so long an interval, `status` reads a state from before the clock jumped.
  const rarely = new Machine(t, 'rarely', { env, interval: 3_600 });
  for (const machine of [often, rarely]) machine.start(url, ['sleep', '600']);
  await worker.points(2);
  await until('the agent received its answer', () => rarely.acknowledged === 1);

  interface Status {
    verdict: string;
    summary: string;
    agent: { updated: string };
  }
  const status = async ({ stateFile }: Machine): Promise<Status> => {
    const args = ['status', '--json', '--state-file', stateFile];
    const { stdout } = await run(AGENT, args, { env }).catch((error: { stdout: string }) => error);
    return JSON.parse(stdout) as Status;
  };
  const offsetHours = ({ agent }: Status) => Math.round((Date.parse(agent.updated) - Date.now()) / 3_600_000);
  let count = 0;
  for (const hours of [0, 6, -6, 100 * 24]) {
    jump(hours);
    count = (await worker.points(1)).length;
    await worker.points(count + 2);
    await until('the agent sees the new time', async () => offsetHours(await status(often)) === hours);
    for (const machine of [often, rarely]) {
      const { verdict, summary } = await status(machine);
      assert.deepEqual([verdict, summary], ['healthy', 'healthy'], `${machine.sandboxId} at ${hours} h`);
    }
  }
  const times = (await worker.points(1))
    .filter(({ index1 }) => index1 === 'often')
    .map(({ timestamp }) => Date.parse(timestamp));
  const gaps = times.slice(1).map((time, i) => time - times[i]);
  assert.ok(gaps.every((gap) => gap >= 950 && gap < 10_000), `about a second each: ${gaps.join(', ')}`);
  assert.equal((await worker.points(1)).filter(({ index1 }) => index1 === 'rarely').length, 1);
});

test('accepts a token for five seconds after exp and before nbf, and no longer', async (t) => {
  const worker = await startWorker({}, t);
  const base64 = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const whoami = async (claims: object) => {
    const signed = `${base64({ alg: 'HS256', typ: 'JWT' })}.${base64({ sub: 'ops', aud: 'kiloclaw-telemetry', ...claims })}`;
    const signature = createHmac('sha256', JWT_SECRET).update(signed).digest('base64url');
    const headers = { authorization: `Bearer ${signed}.${signature}` };
    return (await worker.fetch('/api/whoami', { headers })).status;
  };
  const seconds = Date.now() / 1_000;
  // The Worker drops fractions of a second. At least half a second from the limit: more than the time until it checks
  // the token.
  assert.equal(await whoami({ exp: Math.ceil(seconds) - 4 }), 200);
  assert.equal(await whoami({ exp: seconds - 5.5 }), 401);
  const ending = { exp: Math.floor(seconds) - 2 };
  assert.equal(await whoami(ending), 200);
  assert.equal(await whoami({ exp: seconds + 60, nbf: seconds + 4 }), 200);
  const early = { exp: seconds + 60, nbf: Math.ceil(seconds) + 7 };
  assert.equal(await whoami(early), 401);
  await until('the token expires', async () => (await whoami(ending)) === 401, { deadlineMs: 10_000 });
  const lasted = Date.now() / 1_000 - ending.exp;
  assert.ok(lasted > 5 && lasted < 7, `it lasted ${lasted} s`);
  await until('the token becomes valid', async () => (await whoami(early)) === 200, { deadlineMs: 10_000 });
});
