/**
 * The operators' API over the local Analytics Engine: its reports, compared with results computed by hand; its
 * authorization; failures of Analytics Engine; and conformance to `openapi.json`.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { test, type TestContext } from 'node:test';

import { Validator } from '@seriousme/openapi-schema-validator';
import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';

import openapi from '../src/openapi.json' with { type: 'json' };
import { mint } from '../harness/token.ts';
import { until } from './support/until.ts';
import { AE_API_TOKEN, FULL, JWT_SECRET, MINIMAL, WORKER_SECRETS } from '../harness/check-in.ts';
import { listen, type Context } from '../harness/context.ts';
import { logged, refusal, startWorker, type Worker } from '../harness/worker.ts';
import { startWorkerd } from '../harness/workerd.ts';

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const now = () => Math.floor(Date.now() / 1000);
const START = now();
const rfc3339 = (seconds: number) => new Date(seconds * 1000).toISOString().replace('.000Z', 'Z');

const token = await mint({ sub: 'ops', ttl: 600 }, { JWT_SECRET });
const onlyB = await mint({ sub: 'tenant', ttl: 600, sandbox: 'b' }, { JWT_SECRET });
const as = (bearer: string) => ({ headers: { authorization: `Bearer ${bearer}` } });

interface CheckIn {
  readonly sandbox: string;
  readonly ago: number;
  readonly machine?: string;
  readonly state?: string;
  readonly version?: string;
  readonly openclaw?: string;
  readonly region?: string;
  readonly exit?: string;
  readonly restarts?: number;
  readonly load?: number;
  readonly bytes?: number;
  readonly weight?: number;
  /** Used and total bytes. */
  readonly disk?: readonly [number, number];
}

const point = (checkIn: CheckIn) => ({
  timestamp: (START - checkIn.ago) * 1000,
  _sample_interval: checkIn.weight ?? 1,
  index1: checkIn.sandbox,
  blob1: checkIn.sandbox,
  blob2: checkIn.version ?? '1.0.0',
  blob3: 'c0ffee',
  blob4: checkIn.openclaw ?? '2.0.0',
  blob5: '',
  blob6: checkIn.state ?? 'running',
  blob7: checkIn.region ?? 'fra',
  blob8: checkIn.machine ?? `machine-${checkIn.sandbox}`,
  blob9: checkIn.exit ?? '',
  double1: checkIn.restarts ?? 0,
  double2: 7,
  double3: 60,
  double4: checkIn.load ?? 0.5,
  double5: checkIn.bytes ?? 100,
  double6: 2 * (checkIn.bytes ?? 100),
  ...(checkIn.disk && { double7: checkIn.disk[0], double8: checkIn.disk[1] }),
});

// `a` is healthy, `b` crashes and is silent, `c` is shut down, `d` is cloned, `e` is from yesterday.
const FLEET: readonly CheckIn[] = [
  { sandbox: 'e', ago: 25 * HOUR, restarts: 50 },
  { sandbox: 'c', ago: 3 * HOUR, state: 'shutting_down' },
  { sandbox: 'b', ago: 50 * MINUTE, restarts: 1, load: 4 },
  { sandbox: 'b', ago: 20 * MINUTE, restarts: 1, load: 8, weight: 2, state: 'crashed', region: '', exit: 'code:1' },
  { sandbox: 'd', ago: 14 * MINUTE, machine: 'm1' },
  { sandbox: 'd', ago: 12 * MINUTE, machine: 'm2' },
  { sandbox: 'a', ago: 10 * MINUTE, load: 0.1, weight: 3 },
  { sandbox: 'd', ago: 9 * MINUTE, machine: 'm1' },
  { sandbox: 'd', ago: 7 * MINUTE, machine: 'm2' },
  { sandbox: 'a', ago: 5 * MINUTE, load: 0.2, version: '1.1.0', bytes: 9_007_199_254_740 },
];

const worker = await startWorker({ vars: { INTERNAL_API_SECRET: 'backend' } });
await worker.insert(FLEET.map(point));

const ajv = addFormats.default(new Ajv2020({ strict: false, allErrors: true }));
ajv.addSchema(openapi, 'openapi.json');

/** The path template in `openapi.json` that matches a URL's path. */
function pathOf(path: string): keyof typeof openapi.paths {
  const template = Object.keys(openapi.paths).find((template) =>
    new RegExp(`^${template.replaceAll(/\{\w+\}/g, '[^/]+')}$`).test(path),
  );
  assert.ok(template !== undefined, `openapi.json has no ${path}`);
  return template as keyof typeof openapi.paths;
}

/** Asserts that a response matches its schema in `openapi.json`. */
function assertDescribed(path: string, status: number, body: unknown): void {
  const template = pathOf(path.split('?')[0]);
  const { responses } = (openapi.paths[template] as { get: { responses: object } }).get;
  assert.ok(`${status}` in responses, `openapi.json has no ${status} for ${template}`);
  const pointer = `/paths/${template.replaceAll('/', '~1')}/get/responses/${status}`;
  const response = (responses as Record<string, { $ref?: string }>)[status];
  const base = response.$ref?.slice(1) ?? pointer;
  const schema = `openapi.json#${encodeURI(base)}/content/application~1json/schema`;
  const validate = ajv.getSchema(schema);
  assert.ok(validate !== undefined, schema);
  assert.ok(validate(body), `${path}: ${ajv.errorsText(validate.errors)}`);
}

async function ask<T = any>(path: string, bearer = token, of: Worker = worker): Promise<T> {
  const response = await of.fetch(path, as(bearer));
  const body = (await response.json()) as T;
  assert.equal(response.status, 200, `${path}: ${JSON.stringify(body)}`);
  assertDescribed(path, 200, body);
  return body;
}

async function assertRefused(
  path: string,
  status: number,
  body: object,
  bearer = token,
  of: Worker = worker,
): Promise<Response> {
  const response = await of.fetch(path, as(bearer));
  const found = await refusal(response);
  assert.deepEqual({ status: response.status, ...found }, { status, ...body }, path);
  assertDescribed(path, status, found);
  return response;
}

test('reports the state of the fleet', async () => {
  const { asOf, from, ...fleet } = await ask('/api/fleet');
  assert.ok(Math.abs(Date.parse(asOf) / 1000 - now()) <= 20, asOf);
  assert.equal(Date.parse(asOf) - Date.parse(from), 24 * HOUR * 1000);
  assert.deepEqual(fleet, {
    silentAfterSeconds: 900,
    sandboxes: 4,
    machines: 5,
    checkIns: 1 + 1 + 2 + 4 + 3 + 1,
    reporting: 2,
    silent: 2,
    silentAfterShutdown: 1,
    restarts: 1 + 2,
    restartedSandboxes: 1,
    bandwidthBytesIn: 100 * 11 + 9_007_199_254_740,
    bandwidthBytesOut: 2 * (100 * 11 + 9_007_199_254_740),
    // 0.1 0.1 0.1 0.2 0.5 0.5 0.5 0.5 0.5 4 8 8
    loadAvg5m: { p50: 0.5, p95: 8 },
    supervisorStates: [
      { value: 'running', sandboxes: 2, reporting: 2 },
      { value: 'crashed', sandboxes: 1, reporting: 0 },
      { value: 'shutting_down', sandboxes: 1, reporting: 0 },
    ],
    controllerVersions: [
      { value: '1.0.0', sandboxes: 3, reporting: 1 },
      { value: '1.1.0', sandboxes: 1, reporting: 1 },
    ],
    openclawVersions: [{ value: '2.0.0', sandboxes: 4, reporting: 2 }],
    flyRegions: [
      { value: 'fra', sandboxes: 3, reporting: 2 },
      { value: null, sandboxes: 1, reporting: 0 },
    ],
    sampleInterval: 3,
    complete: true,
    missing: [],
  });
  assert.equal((await ask('/api/fleet?window=90d')).sandboxes, 5);
  assert.equal((await ask('/api/fleet?silent_after=1h')).silent, 1);
});

test('reports the history of the fleet in columns', async () => {
  const history = await ask('/api/fleet/history?window=1h&step=10m');
  const { times, sandboxes, states, controllerVersions, openclawVersions, sampleInterval } = history;
  assert.deepEqual([history.stepSeconds, sampleInterval, times[0]], [600, 3, history.from]);
  assert.ok(Date.parse(history.from) / 1000 <= now() - HOUR && Date.parse(history.from) % 600_000 === 0);
  // `c` and `e` checked in before the first step.
  const recent = FLEET.filter(({ ago }) => ago < HOUR);
  const inStep = (time: string) =>
    recent.filter(({ ago }) => rfc3339(START - ago - ((START - ago) % 600)) === time);
  const count = (checkIns: readonly CheckIn[]) => new Set(checkIns.map(({ sandbox }) => sandbox)).size;
  const column = (of: (checkIns: readonly CheckIn[]) => number) =>
    times.map((time: string) => of(inStep(time)));
  assert.deepEqual(sandboxes, column(count));
  const sum = (checkIns: readonly CheckIn[]) =>
    checkIns.reduce((sum, { restarts = 0, weight = 1 }) => sum + restarts * weight, 0);
  assert.deepEqual(openclawVersions, [{ name: '2.0.0', sandboxes: column(count) }]);
  assert.deepEqual(states.map(({ name }: any) => name), ['running', 'crashed']);
  assert.deepEqual(states[1].sandboxes, column((all) => count(all.filter(({ state }) => state === 'crashed'))));
  const [first, second] = controllerVersions;
  assert.deepEqual([first.name, second.name, controllerVersions.length], ['1.0.0', '1.1.0', 2]);
  assert.deepEqual(second.sandboxes, column((all) => count(all.filter(({ version }) => version === '1.1.0'))));
  assert.deepEqual(first.sandboxes, sandboxes.map((all: number, i: number) => all - second.sandboxes[i]));
  assert.deepEqual([first.restarts, second.restarts], [column(sum), column(() => 0)]);
  const { stepSeconds } = await ask('/api/fleet/history');
  assert.equal(stepSeconds, 15 * MINUTE);
});

test('reports the eight most common versions, and the sum of all others', async (t) => {
  const of = await startWorker({}, t);
  const versions = [...'abcdefg', "o'brien", '\\', '%'];
  const checkIns = versions.flatMap((version, i) =>
    versions.slice(i).map((_, n) => ({ sandbox: `${i}-${n}`, ago: 2, version, restarts: 1 })),
  );
  await of.insert(checkIns.map(point));
  const { controllerVersions } = await ask('/api/fleet/history', token, of);
  const sum = (column: number[]) => column.reduce((sum, n) => sum + n, 0);
  const found = controllerVersions.map(({ name, sandboxes, restarts }: any) => [name, sum(sandboxes), sum(restarts)]);
  assert.deepEqual(found, [
    ...versions.slice(0, 8).map((version, i) => [version, 10 - i, 10 - i]),
    [null, 3, 3],
  ]);
});

test('lists sandboxes with filters, order and pages', async () => {
  const ids = async (query: string) =>
    (await ask(`/api/sandboxes?${query}`)).sandboxes.map(({ sandboxId }: any) => sandboxId);
  assert.deepEqual(await ids(''), ['a', 'b', 'c', 'd']);
  assert.deepEqual(await ids('silent=true'), ['b', 'c']);
  assert.deepEqual(await ids('state=crashed&restarted=true'), ['b']);
  assert.deepEqual(await ids('region='), ['b']);
  assert.deepEqual(await ids('version=1.1.0'), ['a']);
  assert.deepEqual(await ids('sort=-load'), ['b', 'c', 'd', 'a']);
  assert.deepEqual(await ids(`state=${encodeURIComponent("' OR 1 = 1 --")}`), []);
  assert.deepEqual(await ids('prefix=b'), ['b']);
  assert.deepEqual(await ids('prefix=b&state=running'), []);
  for (const none of ['%', '_', "b'", '\\', 'B']) assert.deepEqual(await ids(`prefix=${encodeURIComponent(none)}`), []);
  const pages = [];
  let next: string | null = '';
  do {
    const cursor: string = next === '' ? '' : `&cursor=${next}`;
    const page: any = await ask(`/api/sandboxes?sort=-last_seen&limit=3${cursor}`);
    pages.push(page.sandboxes.map(({ sandboxId }: any) => sandboxId));
    next = page.next;
  } while (next !== null);
  assert.deepEqual(pages, [['a', 'd', 'b'], ['c']]);
});

test('reports one sandbox', async () => {
  const { sandbox, load, machines } = await ask('/api/sandboxes/b');
  assert.deepEqual(sandbox, {
    sandboxId: 'b',
    silent: true,
    firstSeen: rfc3339(START - 50 * MINUTE),
    lastSeen: rfc3339(START - 20 * MINUTE),
    supervisorState: 'crashed',
    machineId: 'machine-b',
    flyRegion: null,
    controllerVersion: '1.0.0',
    controllerCommit: 'c0ffee',
    openclawVersion: '2.0.0',
    openclawCommit: null,
    lastExitReason: 'code:1',
    uptimeSeconds: 60,
    loadAvg5m: 8,
    diskUsedBytes: null,
    diskTotalBytes: null,
    totalRestarts: 7,
    checkIns: 3,
    restarts: 3,
    bandwidthBytesIn: 300,
    bandwidthBytesOut: 600,
  });
  assert.deepEqual(load, { p50: 8, p95: 8, max: 8 });
  assert.deepEqual(machines, [
    {
      machineId: 'machine-b',
      firstSeen: rfc3339(START - 50 * MINUTE),
      lastSeen: rfc3339(START - 20 * MINUTE),
      checkIns: 3,
    },
  ]);
  const unknown = { error: 'Not seen within the window', code: 'unknown_sandbox' };
  await assertRefused('/api/sandboxes/e', 404, unknown);
  await assertRefused('/api/sandboxes/nobody', 404, unknown);
  assert.equal((await ask('/api/sandboxes/e?window=2d')).sandbox.restarts, 50);
});

test('reports disk usage if it is known, and sorts by it', async (t) => {
  const of = await startWorker({}, t);
  await of.insert(
    [
      { sandbox: 'used', ago: 9 * MINUTE, disk: [1, 1_000] },
      { sandbox: 'total', ago: 9 * MINUTE, disk: [0, 1_000] },
      { sandbox: 'full', ago: 9 * MINUTE, disk: [400, 1_000] },
      { sandbox: 'full', ago: 4 * MINUTE, disk: [99, 100] },
      { sandbox: 'half', ago: 9 * MINUTE, disk: [2 ** 52, 2 ** 53] },
      { sandbox: 'old', ago: 9 * MINUTE, disk: [0, 0] },
      { sandbox: 'part', ago: 9 * MINUTE, disk: [5, 0] },
      { sandbox: 'unknown', ago: 9 * MINUTE },
    ].map((checkIn) => point(checkIn as CheckIn)),
  );
  const disk = ({ sandboxId, diskUsedBytes, diskTotalBytes }: any) => [sandboxId, diskUsedBytes, diskTotalBytes];
  const known = [
    ['full', 99, 100],
    ['half', 2 ** 52, 2 ** 53],
    ['used', 1, 1_000],
  ];
  const unknown = [
    ['old', null, null],
    ['part', 5, null],
    ['total', null, 1_000],
    ['unknown', null, null],
  ];
  for (const [sort, expected] of [
    ['-disk', [...known, ...unknown]],
    ['disk', [...unknown, ...known.toReversed()]],
  ] as const) {
    const first = await ask(`/api/sandboxes?sort=${sort}&limit=2`, token, of);
    const second = await ask(`/api/sandboxes?sort=${sort}&limit=9&cursor=${first.next}`, token, of);
    assert.deepEqual([...first.sandboxes, ...second.sandboxes].map(disk), expected, sort);
  }
  const { steps } = await ask('/api/sandboxes/full/history?window=1h&step=5m', token, of);
  const reported = steps.filter(({ checkIns }: any) => checkIns > 0);
  assert.deepEqual(reported.map(({ diskUsedBytes, diskTotalBytes }: any) => [diskUsedBytes, diskTotalBytes]), [[400, 1_000], [99, 100]]);
  assert.ok(steps.every(({ checkIns, diskUsedBytes }: any) => checkIns > 0 || diskUsedBytes === null));
});

test('reports the history of one sandbox', async () => {
  const { steps, ...history } = await ask('/api/sandboxes/b/history?window=1h&step=10m');
  assert.equal(history.stepSeconds, 600);
  const from = Date.parse(history.from) / 1000;
  assert.equal(from % 600, 0);
  assert.ok(from <= now() - HOUR && from > now() - HOUR - 620);
  const expected = new Map([
    [START - 50 * MINUTE, { checkIns: 1, restarts: 1, loadAvg5m: 4, supervisorState: 'running' }],
    [START - 20 * MINUTE, { checkIns: 2, restarts: 2, loadAvg5m: 8, supervisorState: 'crashed' }],
  ]);
  for (const [time, step] of expected) {
    const found = steps.find(({ start }: any) => Date.parse(start) / 1000 === time - (time % 600));
    assert.deepEqual({ ...found, ...step }, found);
  }
  const silent = steps.filter(({ checkIns }: any) => checkIns === 0);
  assert.equal(silent.length, steps.length - expected.size);
  assert.ok(silent.every(({ loadAvg5m }: any) => loadAvg5m === null));
  await assertRefused('/api/sandboxes/nobody/history', 404, {
    error: 'Not seen within the window',
    code: 'unknown_sandbox',
  });
});

test('lists incidents, the most severe first', async () => {
  const { totals, incidents } = await ask('/api/incidents');
  assert.deepEqual(totals, { clones: 1, crashLoops: 1, silent: 2 });
  assert.deepEqual(incidents, [
    {
      kind: 'clone',
      severity: 'critical',
      sandboxId: 'd',
      since: rfc3339(START - 12 * MINUTE),
      until: rfc3339(START - 9 * MINUTE),
      machines: 2,
      machineIds: ['m1', 'm2'],
    },
    {
      kind: 'crash_loop',
      severity: 'critical',
      sandboxId: 'b',
      since: rfc3339(START - 50 * MINUTE),
      lastRestart: rfc3339(START - 20 * MINUTE),
      restarts: 3,
      mostInAnHour: 3,
      lastExitReason: 'code:1',
    },
    {
      kind: 'silent',
      severity: 'critical',
      sandboxId: 'b',
      since: rfc3339(START - 20 * MINUTE),
      supervisorState: 'crashed',
      machineId: 'machine-b',
      flyRegion: null,
    },
    {
      kind: 'silent',
      severity: 'info',
      sandboxId: 'c',
      since: rfc3339(START - 3 * HOUR),
      supervisorState: 'shutting_down',
      machineId: 'machine-c',
      flyRegion: 'fra',
    },
  ]);
});

test('refuses an invalid parameter with its name and the valid values', async () => {
  const cursor = 'the `next` of an answer';
  const duration = (from: string, to: string) =>
    `a duration from ${from} to ${to}, such as 90s, 15m, 24h or 7d`;
  for (const [path, field, expected] of [
    ['/api/fleet?window=91d', 'window', duration('1m', '90d')],
    ['/api/fleet?window=', 'window', duration('1m', '90d')],
    ['/api/fleet?silent_after=1s', 'silent_after', duration('10s', '7d')],
    ['/api/fleet?window=5m&silent_after=5m', 'silent_after', 'less than window'],
    ['/api/fleet?windw=1h', 'windw', 'one of the parameters window, silent_after'],
    ['/api/fleet?window=1h&window=2h', 'window', 'the parameter once'],
    ['/api/fleet/history?silent_after=1h', 'silent_after', 'one of the parameters window, step'],
    ['/api/fleet/history?step=4m', 'step', '5m or more: window / step is at most 288'],
    ['/api/sandboxes?prefix=', 'prefix', '1 to 96 bytes'],
    ['/api/sandboxes?limit=0', 'limit', 'an integer from 1 to 1000'],
    ['/api/sandboxes?limit=1001', 'limit', 'an integer from 1 to 1000'],
    ['/api/sandboxes?silent=yes', 'silent', 'true or false'],
    ['/api/sandboxes?cursor=x', 'cursor', cursor],
    // Numbers beyond the largest double, and texts that only JavaScript reads as numbers.
    ...['1e999', '-1e999', '"0xe"', '"1e5"', '" 1"', '"-Infinity"', '[1]', '"0x00000000000000000001"'].map((value) => [
      `/api/sandboxes?cursor=${Buffer.from(`{"t":1,"o":"sandbox_id","v":${value},"s":"a"}`).toString('base64url')}`,
      'cursor',
      cursor,
    ]),
    [`/api/sandboxes?state=${'x'.repeat(97)}`, 'state', 'at most 96 characters'],
    [`/api/sandboxes/${'x'.repeat(97)}`, 'sandboxId', '1 to 96 bytes'],
    ['/api/sandboxes/a/history?window=90d&step=5m', 'step', '65m or more: window / step is at most 2016'],
    ['/api/incidents?limit=x', 'limit', 'an integer from 1 to 1000'],
  ]) {
    await assertRefused(path, 400, { error: 'Invalid query', code: 'invalid_query', field, expected });
  }
});

test('a token for one sandbox shows only that sandbox', async () => {
  const fleet = await ask('/api/fleet', onlyB);
  assert.deepEqual([fleet.sandboxes, fleet.machines, fleet.restarts], [1, 1, 3]);
  const { states } = await ask('/api/fleet/history', onlyB);
  assert.deepEqual(states.map(({ name }: any) => name), ['crashed', 'running']);
  assert.deepEqual((await ask('/api/sandboxes?prefix=a', onlyB)).sandboxes, []);
  const { sandboxes } = await ask('/api/sandboxes', onlyB);
  assert.deepEqual(sandboxes.map(({ sandboxId }: any) => sandboxId), ['b']);
  const { incidents } = await ask('/api/incidents', onlyB);
  assert.deepEqual(incidents.map(({ sandboxId }: any) => sandboxId), ['b', 'b']);
  assert.equal((await ask('/api/sandboxes/b', onlyB)).sandbox.sandboxId, 'b');
  await ask('/api/sandboxes/b/history', onlyB);
  const other = { error: 'Forbidden', code: 'other_sandbox' };
  for (const path of ['/api/sandboxes/a', '/api/sandboxes/a/history', '/api/sandboxes/nobody']) {
    await assertRefused(path, 403, other, onlyB);
  }
  // Tokens with different scopes share no cached report.
  assert.equal((await ask('/api/fleet')).sandboxes, 4);
  assert.equal((await ask('/api/fleet', onlyB)).sandboxes, 1);
});

test('without a credential, every path answers 401 and reveals nothing', async () => {
  const paths = ['/api/fleet', '/api/fleet?window=x', '/api/fleet/history', '/api/sandboxes', '/api/sandboxes/a', '/api/sandboxes/a/history', '/api/incidents', '/api/whoami', '/api/openapi.json'];
  for (const path of paths) {
    const response = await worker.fetch(path);
    assert.deepEqual([response.status, (await refusal(response)).code], [401, 'missing_token'], path);
  }
  const internal = await worker.fetch('/api/fleet', { headers: { 'x-internal-api-key': 'backend' } });
  assert.equal(internal.status, 200);
});

test('accepts GET and HEAD only', async () => {
  for (const path of ['/api/fleet', '/api/sandboxes/a', '/api/whoami']) {
    for (const method of ['POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
      const response = await worker.fetch(path, { ...as(token), method });
      assert.deepEqual([response.status, response.headers.get('allow')], [405, 'GET, HEAD'], method);
      await response.arrayBuffer();
    }
    const head = await worker.fetch(path, { ...as(token), method: 'HEAD' });
    assert.deepEqual([head.status, await head.text()], [200, '']);
  }
});

test('finds ids with special characters', async (t) => {
  const odd = await startWorker({}, t);
  const ids = ["o'brien", 'a/b', 'ü 1', '100%', '\\', 'a?b#c', '../x'];
  await odd.insert(ids.map((sandbox) => point({ sandbox, ago: MINUTE })));
  for (const id of ids) {
    const { sandbox } = await ask(`/api/sandboxes/${encodeURIComponent(id)}`, token, odd);
    assert.equal(sandbox.sandboxId, id);
    const { sandboxId } = await ask(`/api/sandboxes/${encodeURIComponent(id)}/history`, token, odd);
    assert.equal(sandboxId, id);
    const { sandboxes } = await ask(`/api/sandboxes?prefix=${encodeURIComponent(id)}`, token, odd);
    assert.deepEqual(sandboxes.map(({ sandboxId }: any) => sandboxId), [id]);
  }
  const broken = await odd.fetch('/api/sandboxes/%ff', as(token));
  assert.deepEqual([broken.status, (await refusal(broken)).code], [404, 'not_found']);
});

/** A fake Analytics Engine; `answer` sends its responses. */
async function analytics(
  context: Context,
  answer: (sql: string, request: IncomingMessage, response: ServerResponse) => void,
) {
  const queries: string[] = [];
  let open = 0;
  const server = createServer((request, response) => {
    open += 1;
    response.on('close', () => (open -= 1));
    let sql = '';
    request.setEncoding('utf8').on('data', (text: string) => (sql += text));
    request.on('end', () => {
      queries.push(sql);
      answer(sql, request, response);
    });
  });
  return { queries, url: `http://127.0.0.1:${await listen(context, server)}/sql`, open: () => open };
}

const startWithToken = (vars: Record<string, string | undefined>, t: TestContext) =>
  startWorker({ vars: { AE_API_TOKEN: 'ae-secret-token', ...vars } }, t);

const NO_ANSWER = 'No answer from Analytics Engine';

test('logs the text of a refusal by Analytics Engine, and does not return it', async (t) => {
  const ae = await analytics(t, (_, request, response) => {
    assert.equal(request.headers.authorization, 'Bearer ae-secret-token');
    assert.equal(request.method, 'POST');
    response.writeHead(422).end('unknown column: blob77');
  });
  const of = await startWithToken({ AE_SQL_URL: ae.url }, t);
  await assertRefused('/api/fleet', 502, { error: NO_ANSWER, code: 'analytics_refused' }, token, of);
  const log = await logged(of, /422: unknown column: blob77/);
  assert.ok(!log.includes('ae-secret-token'));
  // A failure is not cached.
  const before = ae.queries.length;
  await assertRefused('/api/fleet', 502, { error: NO_ANSWER, code: 'analytics_refused' }, token, of);
  assert.ok(ae.queries.length > before);
});

test('forwards the retry-after of Analytics Engine in seconds, at most an hour', async (t) => {
  let wait: string | undefined;
  const ae = await analytics(t, (_, __, response) =>
    response.writeHead(429, wait === undefined ? {} : { 'retry-after': wait }).end(),
  );
  const of = await startWithToken({ AE_SQL_URL: ae.url }, t);
  const limited = { error: 'Too many queries', code: 'analytics_limited' };
  const passedOn = async (value: string | undefined) => {
    wait = value;
    const response = await assertRefused('/api/sandboxes', 429, limited, token, of);
    return Number(response.headers.get('retry-after'));
  };
  for (const seconds of [0, 7, 3_600]) assert.equal(await passedOn(`${seconds}`), seconds);
  assert.equal(await passedOn('0000000000000000060'), 60);
  const soon = await passedOn(new Date(Date.now() + 600_000).toUTCString());
  assert.ok(soon > 300 && soon <= 600, `${soon} s`);
  assert.equal(await passedOn(new Date(0).toUTCString()), 0, 'a date in the past');
  const none = [undefined, '', '3601', '9'.repeat(5_000), '-1', '1.5', '7s', '0x10', 'soon', 'x'.repeat(10_000), '2099-01-01', new Date().toISOString(), new Date(Date.now() + 4_000_000).toUTCString()];
  for (const value of none) assert.equal(await passedOn(value), 30, value?.slice(0, 40));
});

const MIB = 1024 * 1024;

test('reads at most 8 MiB of all responses to the queries of a report', async (t) => {
  let size = 0;
  const sizes = { sent: 0, whole: 0 };
  const ae = await analytics(t, async (_, __, response) => {
    // In chunks without a length, like the cloud; stops when the reader stops.
    const piece = Buffer.alloc(64 * 1024, 'x');
    let isOpen = true;
    response.on('close', () => (isOpen = false));
    response.write('{"data":[{"sandboxId":"');
    for (let at = 0; at < size && isOpen; at += piece.length) {
      sizes.sent += piece.length;
      if (!response.write(piece)) await Promise.race([once(response, 'drain'), once(response, 'close')]);
    }
    if (isOpen) sizes.whole += 1;
    response.end('"}]}');
  });
  const of = await startWithToken({ AE_SQL_URL: ae.url }, t);
  const tooLarge = { error: NO_ANSWER, code: 'analytics_too_large' };
  // Three responses, each below the limit and together above it; then an endless one.
  for (size of [3 * MIB, 1024 * MIB]) {
    sizes.sent = 0;
    sizes.whole = 0;
    await assertRefused('/api/fleet', 502, tooLarge, token, of);
    await until('unread responses are cancelled', () => ae.open() === 0);
    // Above 8 MiB are only the buffers on the way.
    if (size > 100 * MIB) assert.ok(sizes.sent < 100 * MIB, `${sizes.sent} bytes`);
  }
  await logged(of, /analytics_too_large/);
  assert.ok(of.logs.some(({ level }) => level === 'error'));
  // Within the limit, the response is read to its end, and its rows are unexpected.
  size = 2 * MIB;
  const unexpected = { error: NO_ANSWER, code: 'analytics_unexpected' };
  await assertRefused('/api/fleet', 502, unexpected, token, of);
  assert.equal((await of.checkIn(FULL)).status, 204);
});

const REPORTS = ['/api/fleet', '/api/fleet/history', '/api/sandboxes', '/api/incidents'];

/** Asserts that every report is as before the first check-in. */
async function assertNoCheckInsYet(of: Worker, why: string) {
  for (const path of REPORTS) {
    const { noCheckInsYet, ...report } = await ask(path, token, of);
    assert.equal(noCheckInsYet, true, `${path}: ${why}`);
    if (path === '/api/fleet') assert.deepEqual([report.sandboxes, report.checkIns, report.silent], [0, 0, 0]);
    if (path === '/api/fleet/history') assert.deepEqual([Math.max(...report.sandboxes), report.states], [0, []]);
    if (path === '/api/sandboxes') assert.deepEqual([report.sandboxes, report.next], [[], null]);
    if (path === '/api/incidents') assert.deepEqual(report.incidents, []);
  }
  const unknown = { error: 'Not seen within the window', code: 'unknown_sandbox' };
  for (const path of ['/api/sandboxes/a', '/api/sandboxes/a/history']) {
    await assertRefused(path, 404, unknown, token, of);
  }
  await logged(of, /no_check_ins_yet.*AE_ACCOUNT_ID or AE_SQL_URL/);
}

test('before the first check-in, reports an empty fleet with noCheckInsYet', async (t) => {
  const empty = await startWorker({}, t);
  await assertNoCheckInsYet(empty, 'local');
  assert.equal((await empty.checkIn(FULL)).status, 204);
  await empty.points(1);
  // Another window, because the last report is still cached.
  const fleet = await ask('/api/fleet?window=1h', token, empty);
  assert.deepEqual([fleet.sandboxes, 'noCheckInsYet' in fleet], [1, false]);
});

test('reports noCheckInsYet if the cloud has no such dataset, whatever it says about the query', async (t) => {
  let refusal = '';
  let status = 422;
  let datasets: string | undefined = 'another_dataset';
  const ae = await analytics(t, (sql, _, response) => {
    if (sql !== 'SHOW TABLES' || datasets === undefined) return void response.writeHead(status).end(refusal);
    response.end(JSON.stringify({ meta: [{ name: 'dataset', type: 'String' }], data: [{ dataset: datasets }] }));
  });
  for (status of [400, 404, 422]) {
    for (refusal of ['Input was invalid: unable to find type of column: "timestamp"', 'unknown table\n', '']) {
      await assertNoCheckInsYet(await startWithToken({ AE_SQL_URL: ae.url }, t), refusal);
    }
  }
  // If the dataset exists, or its existence is unknown, the same error is about the query.
  const refused = { error: NO_ANSWER, code: 'analytics_refused' };
  for (datasets of ['kiloclaw_controller_telemetry', undefined]) {
    const of = await startWithToken({ AE_SQL_URL: ae.url }, t);
    for (const path of REPORTS) await assertRefused(path, 502, refused, token, of);
  }
  // These are about the token or the server.
  datasets = 'another_dataset';
  for (status of [401, 403, 500]) {
    const of = await startWithToken({ AE_SQL_URL: ae.url }, t);
    await assertRefused('/api/fleet', 502, refused, token, of);
  }
});

test('answers without a cache, or with a failing one', async (t) => {
  const main = (cache: string) => `
    import Worker from 'index.js';
    ${cache}
    export default { fetch: (request, env, ctx) => Worker.fetch(request, env) };`;
  const define = (value: string) => `Object.defineProperty(globalThis, 'caches', { value: ${value}, configurable: true });`;
  const fail = `() => Promise.reject(new Error('out of order'))`;
  for (const [cache, why] of [
    [define('undefined'), ''],
    [define('{}'), ''],
    [define(`{ default: { match: ${fail}, put: ${fail} } }`), 'out of order'],
    [define(`{ default: { match: () => { throw new Error('thrown') }, put: () => { throw new Error('thrown') } } }`), 'thrown'],
    [define(`{ default: { match: async () => undefined, put: ${fail} } }`), 'out of order'],
    [define(`{ default: { match: async () => new Response(new ReadableStream({ start: (c) => c.error(new Error('broken')) })), put: async () => {} } }`), 'broken'],
  ]) {
    const of = await startWorker({ modules: { main: main(cache) } }, t);
    await of.insert(FLEET.map(point));
    for (let i = 0; i < 3; i += 1) assert.equal((await ask('/api/fleet', token, of)).sandboxes, 4, cache);
    await logged(of, new RegExp(`cache_failed.*${why}`));
    assert.equal(of.logs.filter(({ message }) => message.includes('cache_failed')).length, 1, cache);
  }
});

test('answers in a plain workerd, which has no cache', async (t) => {
  const ae = await analytics(t, (_, __, response) => response.end('{"data":[]}'));
  const vars = { ...WORKER_SECRETS, AE_API_TOKEN, AE_SQL_URL: ae.url };
  const plain = await startWorkerd(vars, t);
  const response = await fetch(`http://127.0.0.1:${plain.port}/api/fleet`, as(token));
  assert.deepEqual([response.status, ((await response.json()) as { sandboxes: number }).sandboxes], [200, 0]);
});

test('a request for a cache key gets no cached report', async (t) => {
  // A fake cache that records the keys.
  const main = `
    import Worker from 'index.js';
    const kept = [];
    const cache = { match: async () => undefined, put: async (key, response) => void kept.push(key) };
    Object.defineProperty(globalThis, 'caches', { value: { default: cache } });
    export default {
      fetch: (request, env, ctx) =>
        request.url.endsWith('/kept') ? Response.json(kept) : Worker.fetch(request, env),
    };`;
  const of = await startWorker({ modules: { main } }, t);
  await of.insert(FLEET.map(point));
  const paths = ['/api/fleet?window=1h', '/api/fleet/history', '/api/sandboxes', '/api/sandboxes/a', '/api/sandboxes/a/history', '/api/incidents'];
  for (const path of paths) await ask(path, token, of);
  await ask('/api/fleet?window=1h', onlyB, of);
  const kept = (await (await of.fetch('/kept')).json()) as string[];
  assert.equal(new Set(kept).size, paths.length + 1);
  for (const [i, key] of kept.entries()) {
    const url = new URL(key);
    const requested = new URL((paths[i] ?? paths[0])!, of.url);
    assert.deepEqual([url.origin, url.pathname], [requested.origin, requested.pathname]);
    const stranger = await of.fetch(`${url.pathname}${url.search}`);
    assert.deepEqual([stranger.status, (await refusal(stranger)).code], [401, 'missing_token'], key);
    const operator = await of.fetch(`${url.pathname}${url.search}`, as(token));
    assert.deepEqual([operator.status, (await refusal(operator)).code], [400, 'invalid_query'], key);
  }
});

test('every response has x-content-type-options: nosniff', async () => {
  const nosniff = (response: Response) => response.headers.get('x-content-type-options');
  // No other test uses this window, so the report is not cached.
  const fleet = '/api/fleet?window=1438m';
  const first = await worker.fetch(fleet, as(token));
  const etag = first.headers.get('etag') ?? '';
  const authorization = `Bearer ${token}`;
  const limited = await startWorker({ checkInLimit: 1 });
  const answers: [string, number, Response][] = [
    ['a report', 200, first],
    ['an unchanged report', 304, await worker.fetch(fleet, { headers: { authorization, 'if-none-match': etag } })],
    ['whoami', 200, await worker.fetch('/api/whoami', as(token))],
    ['health', 200, await worker.fetch('/health')],
    ['a check-in', 204, await worker.checkIn(FULL)],
    ['a check-in without a length', 204, await worker.checkIn(new Blob([JSON.stringify(FULL)]).stream())],
    ['a check-in within the limit', 204, await limited.checkIn(FULL)],
    ['a check-in beyond it', 429, await limited.checkIn(FULL)],
    ['an invalid check-in', 400, await worker.checkIn('{')],
    ['a wrong key', 403, await worker.checkIn(FULL, { authorization: 'Bearer another-key' })],
    ['a stranger', 401, await worker.fetch('/api/fleet')],
    ['a parameter', 400, await worker.fetch('/api/fleet?x=', as(token))],
    ['nothing', 404, await worker.fetch('/x')],
    ['nothing there', 404, await worker.fetch('/api/x', as(token))],
    ['a method', 405, await worker.fetch('/health', { method: 'POST' })],
  ];
  for (const [what, status, response] of answers) {
    await response.arrayBuffer();
    assert.deepEqual([response.status, nosniff(response)], [status, 'nosniff'], what);
  }
});

test('reads numbers to the last bit, and texts that are not UTF-8', async (t) => {
  // Analytics Engine can cut a text within a character.
  const row = `{"sandboxId":"a","firstSeen":1.7e9,"lastSeen":1700000000,"supervisorState":"run\xff","machineId":"",
    "flyRegion":"","controllerVersion":"1","controllerCommit":"1","openclawVersion":"","openclawCommit":"",
    "lastExitReason":"","uptimeSeconds":"1","loadAvg5m":0.30000000000000004,"diskUsedBytes":0,"diskTotalBytes":0,
    "totalRestarts":"9007199254740993","checkIns":"2","restarts":1,"bandwidthBytesIn":1e3,
    "bandwidthBytesOut":12345678901234567.0}`;
  const answer = Buffer.from(`{"meta":[],"data":[${row}]}`, 'latin1');
  const ae = await analytics(t, (_, __, response) => response.end(answer));
  const of = await startWithToken({ AE_SQL_URL: ae.url }, t);
  const { sandboxes } = await ask('/api/sandboxes', token, of);
  const { supervisorState, loadAvg5m, totalRestarts, bandwidthBytesIn, bandwidthBytesOut } = sandboxes[0];
  assert.deepEqual(
    [supervisorState, loadAvg5m, totalRestarts, bandwidthBytesIn, bandwidthBytesOut],
    ['run\ufffd', 0.1 + 0.2, 2 ** 53, 1_000, 12345678901234568],
  );
});

test('answers 502 to an invalid response, a redirect or a closed connection', async (t) => {
  const elsewhere = await analytics(t, (_, __, response) => response.end('{"data":[]}'));
  const answers: ((response: ServerResponse) => void)[] = [
    (response) => response.end('<html>'),
    (response) => response.end('{"data":[{"checkIns":"x"}]}'),
    (response) => response.end('{"data":[{}]}'),
    (response) => response.writeHead(302, { location: elsewhere.url }).end(),
    (response) => response.socket?.destroy(),
  ];
  let answer = answers[0];
  const ae = await analytics(t, (_, __, response) => answer(response));
  const of = await startWithToken({ AE_SQL_URL: ae.url }, t);
  const codes = [];
  for (answer of answers) {
    const response = await of.fetch('/api/sandboxes', as(token));
    codes.push(`${response.status} ${(await refusal(response)).code}`);
  }
  assert.deepEqual(codes, [
    '502 analytics_unexpected',
    '502 analytics_unexpected',
    '502 analytics_unexpected',
    '502 analytics_refused',
    '502 analytics_unreachable',
  ]);
  assert.deepEqual(elsewhere.queries, [], 'the token is not sent to the redirect target');
});

test('answers 504 if Analytics Engine takes more than ten seconds', { timeout: 30_000 }, async (t) => {
  const silent = await analytics(t, () => {});
  const slow = await analytics(t, (_, __, response) => response.writeHead(200).write('{"data":'));
  const timeout = { error: NO_ANSWER, code: 'analytics_timeout' };
  const started = Date.now();
  await Promise.all(
    [silent, slow].map(async (ae) => {
      const of = await startWithToken({ AE_SQL_URL: ae.url }, t);
      await assertRefused('/api/sandboxes', 504, timeout, token, of);
    }),
  );
  const seconds = (Date.now() - started) / 1000;
  assert.ok(seconds > 9.5 && seconds < 20, `${seconds} s`);
});

test('answers 503 with the name of a missing setting', async (t) => {
  for (const [vars, setting] of [
    [{ AE_API_TOKEN: undefined }, 'AE_API_TOKEN'],
    [{ AE_API_TOKEN: ' ' }, 'AE_API_TOKEN'],
    [{ AE_SQL_URL: undefined }, 'AE_ACCOUNT_ID'],
    [{ AE_SQL_URL: 'sql' }, 'AE_SQL_URL'],
    [{ AE_SQL_URL: 'http://example.com/sql' }, 'AE_SQL_URL'],
  ] as const) {
    const of = await startWithToken(vars, t);
    const misconfigured = { error: 'Configuration error', code: 'misconfigured', setting };
    const response = await assertRefused('/api/fleet', 503, misconfigured, token, of);
    assert.equal(response.headers.get('retry-after'), '30');
    await logged(of, new RegExp(setting));
    // Check-ins do not need these settings.
    assert.equal((await of.checkIn(FULL)).status, 204);
  }
});

test('answers a repeated request within 15 seconds from the cache', async (t) => {
  const ae = await analytics(t, (_, __, response) => response.end('{"data":[]}'));
  const of = await startWithToken({ AE_SQL_URL: ae.url }, t);
  const get = (path: string, headers = {}, bearer = token) =>
    of.fetch(path, { headers: { authorization: `Bearer ${bearer}`, ...headers } });
  const first = await get('/api/fleet?window=1h&silent_after=10m');
  assert.equal(first.headers.get('cache-control'), 'private, max-age=15');
  assert.match(first.headers.get('vary') ?? '', /authorization/);
  const etag = first.headers.get('etag') ?? '';
  assert.match(etag, /^"[0-9a-f]{16}"$/);
  const body = await first.text();
  assert.equal(ae.queries.length, 3);

  // With another order of parameters, another principal of the same scope, HEAD, and the etag.
  const again = await get('/api/fleet?silent_after=10m&window=1h');
  assert.deepEqual([await again.text(), again.headers.get('etag')], [body, etag]);
  assert.match(again.headers.get('cache-control') ?? '', /^private, max-age=(1[0-5]|[1-9])$/);
  const other = await mint({ sub: 'another', ttl: 60 }, { JWT_SECRET });
  assert.equal(await (await get('/api/fleet?window=1h&silent_after=10m', {}, other)).text(), body);
  const path = '/api/fleet?window=1h&silent_after=10m';
  const head = await of.fetch(path, { ...as(token), method: 'HEAD' });
  assert.deepEqual([head.status, head.headers.get('etag')], [200, etag]);
  for (const known of [etag, `W/${etag}`, `"x", ${etag}`]) {
    const response = await get(path, { 'if-none-match': known });
    assert.deepEqual([response.status, await response.text()], [304, ''], known);
    assert.equal(response.headers.get('etag'), etag);
  }
  assert.equal((await get(path, { 'if-none-match': '"x"' })).status, 200);
  assert.equal(ae.queries.length, 3, 'none of these sent a query');

  // Another window and another scope are not cached.
  await get('/api/fleet?window=2h&silent_after=10m');
  await get('/api/fleet?window=1h&silent_after=10m', {}, onlyB);
  assert.equal(ae.queries.length, 9);
  assert.ok(ae.queries.slice(6).every((sql) => sql.includes("index1 = 'b'")));
});

test('reports include a check-in once it is stored', async (t) => {
  const of = await startWorker({}, t);
  assert.equal((await of.checkIn(FULL, { 'fly-region': 'ams' })).status, 204);
  assert.equal((await of.checkIn(MINIMAL)).status, 204);
  await of.points(2);
  const fleet = await ask('/api/fleet', token, of);
  assert.deepEqual([fleet.sandboxes, fleet.reporting, fleet.restarts], [2, 2, 2]);
  const { sandbox } = await ask(`/api/sandboxes/${FULL.sandboxId}`, token, of);
  const { restartsSinceLastCheckin, ...reported } = FULL;
  const { checkIns, restarts, firstSeen, lastSeen, silent, ...latest } = sandbox;
  assert.deepEqual([checkIns, restarts, silent], [1, restartsSinceLastCheckin, false]);
  assert.equal(firstSeen, lastSeen);
  assert.deepEqual(latest, { ...reported, flyRegion: 'ams', diskUsedBytes: null, diskTotalBytes: null });
});

test('openapi.json is valid OpenAPI 3.1, and is a static file that anybody may read', async (t) => {
  const validator = new Validator();
  const { valid, errors } = await validator.validate(structuredClone(openapi));
  assert.ok(valid, JSON.stringify(errors));
  assert.equal(validator.version, '3.1');
  const served = await (await startWorker({ page: true }, t)).fetch('/api/openapi.json');
  assert.deepEqual([served.status, served.headers.get('content-type')], [200, 'application/json']);
  assert.deepEqual(await served.json(), openapi);
});

test('openapi.json has all routes of the Worker and their parameters', async () => {
  const [, table = ''] = /match template \{(.*?)\n    \};/s.exec(readFileSync('src/lib.rs', 'utf8')) ?? [];
  const mounted = [...table.matchAll(/"(\/[^"]*)"/g)].map(([, path]) => path).filter((path) => !path.endsWith('/panic'));
  const described = Object.keys(openapi.paths).filter((path) => !path.startsWith('/api/controller/'));
  assert.deepEqual(described.sort(), mounted.sort());
  // The refusal of an unknown parameter lists the known ones.
  for (const [path, { get }] of Object.entries(openapi.paths) as [string, any][]) {
    if (!get?.responses['304']) continue;
    const names = get.parameters.map((parameter: any) =>
      parameter.$ref === undefined ? parameter.name : parameter.$ref.split('/').at(-1),
    );
    const response = await worker.fetch(`${path.replace('{sandboxId}', 'a')}?x=`, as(token));
    const { expected } = await refusal(response);
    assert.equal(expected, `one of the parameters ${names.join(', ')}`, path);
  }
});
