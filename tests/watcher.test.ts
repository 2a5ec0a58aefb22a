/**
 * The watcher's object in real workerd: its alarm, its channels, planned absences, and what happens when something
 * fails. Points are inserted into the local Analytics Engine; channels are servers of the test.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { Webhook } from 'standardwebhooks';

import { CHECK_IN_PATH, credentials, FULL, JWT_SECRET, MAX_BODY_BYTES } from '../harness/check-in.ts';
import { temporaryFolder } from '../harness/context.ts';
import { AGENT } from '../harness/agent.ts';
import openapi from '../src/openapi.json' with { type: 'json' };
import { logged, type Worker } from '../harness/worker.ts';
import { startWorkerd } from '../harness/workerd.ts';
import {
  ask,
  bearer,
  healthy,
  keepAlive,
  reader,
  receiver,
  SECRET,
  start,
  until,
  wake,
  workerdVars,
  writer,
} from './support/watcher.ts';

const KEY = '0123456789abcdef0123456789abcdef';
const ABSENCE_PATH = '/api/controller/absence';

const tenant = await bearer({ sandbox: 'b' });
const tenantWriter = await bearer({ sandbox: 'b', scope: 'absences:write' });

const ajv = addFormats.default(new Ajv2020({ strict: false, allErrors: true }));
ajv.addSchema(openapi, 'openapi.json');

/** Asserts that a response matches a schema in `openapi.json`. */
function assertDescribed(schema: string, body: unknown): void {
  const validate = ajv.getSchema(`openapi.json#/components/schemas/${schema}`);
  assert.ok(validate !== undefined, schema);
  assert.ok(validate(body), `${schema}: ${ajv.errorsText(validate.errors)} ${JSON.stringify(body)}`);
}

const send = (worker: Worker, method: string, path: string, body?: unknown, headers = writer) =>
  worker.fetch(path, { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });

async function assertRefused(response: Response, status: number, code: string): Promise<Record<string, unknown>> {
  const body = (await response.json()) as Record<string, unknown>;
  assert.deepEqual([response.status, body.code], [status, code], JSON.stringify(body));
  return body;
}

const channel = (watcher: any, name: string) =>
  watcher.channels.find(({ channel }: { channel: string }) => channel === name);

// These tests mostly wait, so they run concurrently.
suite('the watcher', { concurrency: 8 }, () => {
  test('a machine that falls silent is announced once on every channel, and so is its return', async (t) => {
    const [hook, slack, pager, heartbeat] = await Promise.all([1, 2, 3, 4].map(() => receiver(t)));
    const vars = {
      ALERT_WEBHOOK_URL: `${hook.url}/hook-path`,
      ALERT_WEBHOOK_SECRET: SECRET,
      ALERT_SLACK_URL: `${slack.url}/slack-path`,
      ALERT_PAGERDUTY_KEY: KEY,
      ALERT_PAGERDUTY_URL: `${pager.url}/pager-path`,
      WATCHER_HEARTBEAT_URL: `${heartbeat.url}/heartbeat-path`,
    };
    const worker = await start(t, vars);
    keepAlive(t, worker, 'b', 'c');
    await wake(worker);
    await worker.checkIn(healthy('a'));

    await until('the silence is announced', () => hook.of('sandbox.silent').length > 0);
    await until('all are counted', async () => (await ask(worker, '/api/watcher')).sandboxes === 3);
    const open = await ask(worker, '/api/watcher');
    assertDescribed('Watcher', open);
    assert.deepEqual(open.attention.map(({ since, ...rest }: any) => rest), [
      { kind: 'silent', sandboxId: 'a', region: null, reason: 'last state: running', planned: false },
    ]);
    await worker.checkIn(healthy('a'));
    keepAlive(t, worker, 'a');
    await until('the return is announced', () => hook.of('sandbox.recovered').length > 0);
    await until('a ping', () => heartbeat.received.length > 0);

    const verifier = new Webhook(SECRET);
    for (const { text, headers } of hook.received) verifier.verify(text, headers as Record<string, string>);
    const types = hook.received.map(({ body }) => body.type);
    assert.deepEqual(types, ['sandbox.silent', 'sandbox.recovered']);
    const [silent] = hook.received;
    assert.deepEqual(silent.body.data.sandboxes.map((one: any) => one.sandboxId), ['a']);
    assert.equal(silent.path, '/hook-path');

    await until('Slack has both', () => slack.received.length >= 2);
    await until('PagerDuty has both', () => pager.received.length >= 2);
    const [trigger, resolve] = pager.received.map(({ body }) => body);
    assert.deepEqual([trigger.event_action, resolve.event_action], ['trigger', 'resolve']);
    assert.equal(trigger.routing_key, KEY);
    assert.equal(trigger.dedup_key, resolve.dedup_key);
    assert.equal(heartbeat.received[0].path, '/heartbeat-path');

    const { alerts, next } = await ask(worker, '/api/alerts?sandbox=a');
    assert.deepEqual(
      alerts.map(({ kind, event, sandboxId, scope, sent }: any) => ({ kind, event, sandboxId, scope, sent })),
      [
        { kind: 'silent', event: 'closed', sandboxId: 'a', scope: 'sandbox', sent: true },
        { kind: 'silent', event: 'opened', sandboxId: 'a', scope: 'sandbox', sent: true },
      ],
    );
    assert.equal(next, null);
    assertDescribed('Alerts', await ask(worker, '/api/alerts'));
    assert.match(alerts[0].until, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);

    const first = await ask(worker, '/api/alerts?limit=1&kind=silent');
    const second = await ask(worker, `/api/alerts?limit=1&kind=silent&before=${first.next}`);
    assert.deepEqual([...first.alerts, ...second.alerts], alerts, 'page by page');
    assert.deepEqual((await ask(worker, '/api/alerts', tenant)).alerts, [], 'not the alerts of others');

    const one = await ask(worker, '/api/availability?sandbox=a&window=1h');
    assertDescribed('Availability', one);
    const { since, until: back } = alerts[0];
    assert.equal(one.silentSeconds, (Date.parse(back) - Date.parse(since)) / 1_000);
    assert.equal(one.reportingSeconds + one.silentSeconds, 3_600);
    assert.ok(Math.abs(one.share - one.reportingSeconds / 3_600) < 1e-9);
    assert.equal((await ask(worker, '/api/availability?window=1h')).silentSeconds, one.silentSeconds);
    assert.equal((await ask(worker, '/api/availability?window=1h', tenant)).silentSeconds, 0, 'its own');
    await assertRefused(await worker.fetch('/api/availability?sandbox=a', { headers: tenant }), 403, 'other_sandbox');
    await assertRefused(await worker.fetch('/api/availability?window=401d', { headers: reader }), 400, 'invalid_query');

    for (const report of ['fleet', 'incidents', 'sandboxes', 'sandboxes/a']) {
      assert.equal((await ask(worker, `/api/${report}`)).silentAfterSeconds, 10, report);
    }
    assert.equal((await ask(worker, '/api/incidents?silent_after=20s')).silentAfterSeconds, 20);
    const watcher = await ask(worker, '/api/watcher');
    assert.equal(watcher.state, 'on');
    assertDescribed('Watcher', watcher);
    assert.deepEqual(watcher.undelivered, []);
    assert.equal(watcher.watch.open.silent, 0);
    assert.deepEqual(watcher.attention, []);

    const log = JSON.stringify(worker.logs);
    for (const secret of ['hook-path', 'slack-path', 'pager-path', 'heartbeat-path', KEY, SECRET]) {
      assert.ok(!log.includes(secret), secret);
    }
  });

  test('retries a failing channel and follows no redirect; 410 turns it off until a test message arrives', async (t) => {
    const [hook, elsewhere] = await Promise.all([receiver(t), receiver(t)]);
    const worker = await start(t, { ALERT_WEBHOOK_URL: `${hook.url}/hook-path`, ALERT_WEBHOOK_SECRET: SECRET });
    const testMessage = async () => (await (await send(worker, 'POST', '/api/watcher/test')).json()) as any[];

    hook.answer = (response) => void response.writeHead(302, { location: elsewhere.url }).end();
    const failure = 'answered 302: redirects are not followed';
    assert.deepEqual(await testMessage(), [{ channel: 'webhook', delivered: false, failure }]);
    const { undelivered, channels } = await ask(worker, '/api/watcher');
    assert.equal(undelivered.length, 1);
    assertDescribed('Watcher', await ask(worker, '/api/watcher'));
    assert.deepEqual([undelivered[0].type, undelivered[0].attempts, undelivered[0].failure], ['watcher.test', 1, failure]);
    assert.equal(channels[0].lastFailure.reason, failure);

    hook.answer = (response) => void response.writeHead(204).end();
    await until('the message is sent again', () => hook.received.length === 2);
    const [first, second] = hook.received;
    assert.equal(first.headers['webhook-id'], second.headers['webhook-id']);
    assert.deepEqual(elsewhere.received, []);
    new Webhook(SECRET).verify(second.text, second.headers as Record<string, string>);

    hook.answer = (response) => void response.writeHead(410).end();
    assert.equal((await testMessage())[0].delivered, false);
    assert.equal(channel(await ask(worker, '/api/watcher'), 'webhook').state, 'off');
    hook.answer = (response) => void response.writeHead(200).end();
    assert.equal((await testMessage())[0].delivered, true);
    const watcher = await ask(worker, '/api/watcher');
    assert.equal(channel(watcher, 'webhook').state, 'on');
    assert.deepEqual(watcher.undelivered, []);
    const log = await logged(worker, /channel_turned_off/);
    assert.ok(!log.includes('hook-path'));
  });

  test('Retry-After delays the next attempt', async (t) => {
    const hook = await receiver(t);
    const worker = await start(t, { ALERT_SLACK_URL: hook.url });
    hook.answer = (response) => void response.writeHead(429, { 'retry-after': '3000' }).end();
    const before = Date.now();
    await send(worker, 'POST', '/api/watcher/test');
    const { undelivered } = await ask(worker, '/api/watcher');
    const delay = (Date.parse(undelivered[0].nextAt) - before) / 1_000;
    assert.ok(delay >= 2_999 && delay < 3_060, `${delay} s`);
  });

  test('a channel that does not answer delays neither a tick nor another channel', async (t) => {
    const [hook, slack] = await Promise.all([receiver(t), receiver(t)]);
    const worker = await start(t, {
      ALERT_WEBHOOK_URL: hook.url,
      ALERT_WEBHOOK_SECRET: SECRET,
      ALERT_SLACK_URL: slack.url,
      WATCHER_HEARTBEAT_URL: hook.url,
    });
    hook.answer = () => {};
    const lastTick = async () => Date.parse((await ask(worker, '/api/watcher')).watch.lastTick);
    await until('it ticks', async () => (await lastTick()) > 0);
    const began = Date.now();
    const tests = (await (await send(worker, 'POST', '/api/watcher/test')).json()) as any[];
    assert.ok(Date.now() - began < 20_000);
    assert.deepEqual(
      tests.map(({ channel, delivered, failure }) => [channel, delivered, failure]),
      [['webhook', false, 'no answer within 15 s'], ['slack', true, null]],
    );
    const { watch } = await ask(worker, '/api/watcher');
    assert.ok(Date.parse(watch.lastTick) > began, 'a tick ran during the attempt');
    const [first, second] = hook.of('watcher.test');
    assert.ok(second === undefined || second.at - first.at >= 14_500, 'the second attempt starts after the end of the first');
    // The heartbeat and the second attempt hang, too.
    const times = new Set<number>();
    const end = Date.now() + 21_000;
    while (Date.now() < end) times.add(await lastTick().finally(() => delay(700)));
    assert.ok(times.size >= 4, `ticks at ${[...times].map((time) => time - began)}`);
  });

  test('absences and alerts survive SIGKILL, and the alarm fires again without a request', async (t) => {
    const folder = temporaryFolder(t);
    const store = await start(t, {}, { watcher: false });
    const vars = workerdVars(store);
    const first = await startWorkerd(vars, t, { folder });
    const absences = async (port: number) => {
      const response = await fetch(`http://127.0.0.1:${port}/api/absences`, { headers: reader });
      return ((await response.json()) as any).absences;
    };
    const planned = await fetch(`http://127.0.0.1:${first.port}/api/absences`, {
      method: 'POST',
      headers: writer,
      body: JSON.stringify({ sandboxIds: ['a'], forSeconds: 3_600, reason: 'kernel' }),
    });
    assert.equal(planned.status, 200, await planned.text());
    const before = await absences(first.port);
    await first.stop();

    const second = await startWorkerd(vars, t, { folder });
    assert.deepEqual(await absences(second.port), before);
    const ticked = async () => {
      const response = await fetch(`http://127.0.0.1:${second.port}/api/watcher`, { headers: reader });
      return Date.parse(((await response.json()) as any).watch.lastTick);
    };
    await until('it ticks', async () => (await ticked()) > 0);
    await second.stop();
    const stopped = Date.now();
    const third = await startWorkerd(vars, t, { folder });
    // No request to the object: only the alarm can let it query.
    await delay(8_000);
    const response = await fetch(`http://127.0.0.1:${third.port}/api/watcher`, { headers: reader });
    const { lastTick } = ((await response.json()) as any).watch;
    assert.ok(Date.parse(lastTick) > stopped - 1_000, `${lastTick}: it ticked by itself`);
  });

  test('without access to Analytics Engine, the watcher is off, and logs the reason once', async (t) => {
    const worker = await start(t, { AE_API_TOKEN: undefined });
    await wake(worker);
    const watcher = await ask(worker, '/api/watcher');
    assert.deepEqual([watcher.state, watcher.reason], ['off', 'AE_API_TOKEN is missing or empty']);
    assert.deepEqual((await ask(worker, '/api/alerts')).alerts, []);
    const log = await logged(worker, /watcher_off/);
    assert.equal(log.split('watcher_off').length, 2);
  });

  test('without the binding, the watcher\'s routes name it, and everything else works', async (t) => {
    const worker = await start(t, {}, { watcher: false });
    for (const route of ['/api/alerts', '/api/absences', '/api/watcher']) {
      const body = await assertRefused(await worker.fetch(route, { headers: reader }), 503, 'misconfigured');
      assert.equal(body.setting, 'WATCHER');
    }
    const own = { method: 'POST', headers: credentials('a'), body: '{"sandboxId":"a","forSeconds":60}' };
    await assertRefused(await worker.fetch(ABSENCE_PATH, own), 503, 'misconfigured');
    assert.equal((await worker.checkIn(FULL)).status, 204);
    assert.equal((await fetch(new URL('/cdn-cgi/local/scheduled', worker.url))).status, 500);
  });

  test('names an invalid setting, without its value', async (t) => {
    const worker = await start(t, {
      SILENT_AFTER: '15-minutes',
      ALERT_WEBHOOK_URL: 'http://not-this-machine.example/secret-path',
      ALERT_WEBHOOK_SECRET: SECRET,
      ALERT_SLACK_URL: 'ftp://secret-place',
      WATCHER_HEARTBEAT_URL: 'http://secret-heartbeat.example',
    });
    const watcher = await ask(worker, '/api/watcher');
    const names = watcher.settingErrors.map(({ name }: { name: string }) => name);
    assert.deepEqual(names, ['SILENT_AFTER', 'ALERT_WEBHOOK_URL', 'ALERT_SLACK_URL', 'WATCHER_HEARTBEAT_URL']);
    assert.equal(watcher.silentAfterSeconds, 900);
    assertDescribed('Watcher', watcher);
    assert.deepEqual(
      [...watcher.channels, watcher.heartbeat].map(({ channel, state }: any) => [channel, state]),
      [['webhook', 'misconfigured'], ['slack', 'misconfigured'], ['pagerduty', 'not_configured'], ['heartbeat', 'misconfigured']],
    );
    const shown = (await logged(worker, /watcher_setting.*WATCHER_HEARTBEAT_URL/)) + JSON.stringify(watcher);
    assert.doesNotMatch(shown, /15-minutes|secret-p|secret-h|whsec_Y/);
  });

  test('operators plan, list and end absences, with the scope for it', async (t) => {
    const worker = await start(t, { INTERNAL_API_SECRET: 'a-backend-of-the-tests' });
    const named = { sandboxIds: ['b', 'a'], forSeconds: null, reason: 'stopped' };
    await assertRefused(await send(worker, 'POST', '/api/absences', named, reader), 403, 'missing_scope');
    await assertRefused(await send(worker, 'DELETE', '/api/absences?all=true', undefined, reader), 403, 'missing_scope');
    await assertRefused(await send(worker, 'PUT', '/api/absences', named), 405, 'method_not_allowed');

    assert.deepEqual(await (await send(worker, 'POST', '/api/absences', named)).json(), { planned: 2 });
    const region = { region: 'fra', forSeconds: 600, reason: 'planned work' };
    const backend = { 'x-internal-api-key': 'a-backend-of-the-tests' } as unknown as typeof writer;
    assert.equal((await send(worker, 'POST', '/api/absences', region, backend)).status, 200);

    const list = await ask(worker, '/api/absences');
    assert.deepEqual(
      list.absences.map(({ sandboxId, region, until, reason, by }: any) => [sandboxId, region, until === null, reason, by]),
      [
        [null, 'fra', false, 'planned work', 'internal'],
        ['a', null, true, 'stopped', 'ops'],
        ['b', null, true, 'stopped', 'ops'],
      ],
    );
    assertDescribed('Absences', list);
    // The first page has all absences of regions and of the whole fleet.
    const page = await ask(worker, '/api/absences?limit=1');
    assert.deepEqual([page.absences.length, page.next], [2, 'a']);
    assert.deepEqual((await ask(worker, '/api/absences?limit=2&after=a')).absences, list.absences.slice(2));
    assert.deepEqual((await ask(worker, '/api/absences', tenant)).absences, list.absences.slice(2));
    assert.deepEqual(await ask(worker, '/api/absences?sandbox=a'), { absences: list.absences.slice(1, 2), next: null });

    assert.deepEqual(await (await send(worker, 'DELETE', '/api/absences?sandbox=a&sandbox=x')).json(), { ended: 1 });
    assert.deepEqual(await (await send(worker, 'DELETE', '/api/absences?region=fra')).json(), { ended: 1 });
    assert.equal((await ask(worker, '/api/absences')).absences.length, 1);

    for (const body of [
      {},
      { all: true, forSeconds: null },
      { all: true, region: 'fra', forSeconds: 60 },
      { sandboxIds: [], forSeconds: 60 },
      { sandboxIds: ['a'], forSeconds: 0 },
      { sandboxIds: ['a'], forSeconds: 60, reason: 'x'.repeat(201) },
      { sandboxIds: ['a'], forSecond: 60 },
      { sandboxIds: ['a'] },
      'text',
    ]) {
      const response = await send(worker, 'POST', '/api/absences', body);
      assert.equal(response.status, 400, JSON.stringify(body));
      assert.equal(((await response.json()) as any).error, 'Invalid body');
    }
    const long = await send(worker, 'POST', '/api/absences', { region: 'x'.repeat(97), forSeconds: 60 });
    const { field, expected } = await assertRefused(long, 400, 'invalid_field');
    assert.deepEqual([field, expected], ['region', 'at most 96 characters, and no control characters']);
    const broken = await worker.fetch('/api/absences', { method: 'POST', headers: writer, body: '{' });
    assert.equal((await assertRefused(broken, 400, 'invalid_body')).expected, 'JSON');
    const unknown = await send(worker, 'POST', '/api/absences', { all: true, forSeconds: 60, reson: 'x' });
    assert.equal((await assertRefused(unknown, 400, 'invalid_body')).expected, 'no member "reson"');
    const { expected: none } = await assertRefused(await worker.fetch('/api/watcher?x=1', { headers: reader }), 400, 'invalid_query');
    assert.equal(none, 'no parameters');
    for (const path of ['/api/alerts?before=%2B5', '/api/alerts?sandbox=', '/api/availability?sandbox=']) {
      await assertRefused(await worker.fetch(path, { headers: reader }), 400, 'invalid_query');
    }
    await assertRefused(await send(worker, 'DELETE', '/api/absences?sandbox='), 400, 'invalid_query');
    await assertRefused(await send(worker, 'POST', '/api/watcher/test', undefined, reader), 403, 'missing_scope');
    await assertRefused(await send(worker, 'DELETE', '/api/absences'), 400, 'invalid_query');
    const large = { sandboxIds: ['a'], forSeconds: 60, reason: 'x'.repeat(700_000) };
    await assertRefused(await send(worker, 'POST', '/api/absences', large), 413, 'body_too_large');
  });

  test('a principal who may see one sandbox plans only its absence, and sees nothing of the watcher', async (t) => {
    const worker = await start(t);
    const plan = (body: object) => send(worker, 'POST', '/api/absences', body, tenantWriter);
    assert.equal((await plan({ sandboxIds: ['b'], forSeconds: 60 })).status, 200);
    for (const body of [{ sandboxIds: ['a'] }, { sandboxIds: ['a', 'b'] }, { all: true }, { region: 'fra' }]) {
      await assertRefused(await plan({ ...body, forSeconds: 60 }), 403, 'other_sandbox');
    }
    await assertRefused(await worker.fetch('/api/alerts?sandbox=a', { headers: tenant }), 403, 'other_sandbox');
    await assertRefused(await worker.fetch('/api/watcher', { headers: tenant }), 403, 'other_sandbox');
    await assertRefused(await send(worker, 'POST', '/api/watcher/test', undefined, tenant), 403, 'other_sandbox');
  });

  test('a machine plans its own absence by the checks of a check-in, in their order', async (t) => {
    const worker = await start(t, { REVOKED_SANDBOXES: 'revoked' }, { checkInLimit: 2 });
    const body = (sandboxId: string, more = {}) =>
      JSON.stringify({ sandboxId, forSeconds: 600, reason: 'kernel upgrade', ...more });
    const plan = (init: RequestInit, at = ABSENCE_PATH) => worker.fetch(at, { method: 'POST', ...init });
    const headers = credentials('a');

    await assertRefused(await plan({ method: 'PUT', headers, body: '' }), 405, 'method_not_allowed');
    await assertRefused(await plan({ body: '' }), 401, 'missing_authorization');
    await assertRefused(await plan({ headers: { authorization: 'Bearer x' }, body: '' }), 401, 'missing_gateway_token');
    await assertRefused(await plan({ headers: credentials('a', 'wrong'), body: '' }), 403, 'wrong_api_key');
    await assertRefused(await plan({ headers, body: 'x'.repeat(MAX_BODY_BYTES + 1) }), 413, 'body_too_large');
    await assertRefused(await plan({ headers, body: 'x' }), 400, 'not_json');
    await assertRefused(await plan({ headers, body: `\ufeff\ufeff${body('a')}` }), 400, 'not_json');
    const broken = await assertRefused(await plan({ headers, body: body('a', { forSeconds: -1 }) }), 400, 'invalid_field');
    assert.equal(broken.field, 'forSeconds');
    await assertRefused(await plan({ headers, body: body('b') }), 403, 'wrong_gateway_token');
    await assertRefused(await plan({ headers: credentials('revoked'), body: body('revoked') }), 403, 'revoked');

    const planned = await plan({ headers, body: `\ufeff${body('a')}` });
    assert.deepEqual([planned.status, await planned.text()], [204, '']);
    const { absences } = await ask(worker, '/api/absences');
    assert.deepEqual([absences[0].sandboxId, absences[0].by, absences[0].reason], ['a', 'a', 'kernel upgrade']);
    assert.equal((await plan({ headers, body: body('a', { forSeconds: 0 }) })).status, 204);
    assert.deepEqual((await ask(worker, '/api/absences')).absences, []);
    const limited = await plan({ headers, body: body('a') });
    await assertRefused(limited, 429, 'rate_limited');
    assert.equal((await worker.checkIn(healthy('a'))).status, 204, 'a limit of its own');

    for (const odd of ['/api//controller/absence', '/api/controller/absence/', '/api/controller/%61bsence']) {
      await assertRefused(await plan({ headers, body: body('a') }, odd), 401, 'invalid_token');
    }
  });

  test('a real agent goes away and comes back, without an alert', async (t) => {
    const worker = await start(t);
    keepAlive(t, worker, 'b');
    await wake(worker);
    const { authorization, 'x-kiloclaw-gateway-token': token } = credentials('a') as Record<string, string>;
    const agent = (...args: string[]) => {
      const { status, stdout, stderr } = spawnSync(AGENT, args, {
        encoding: 'utf8',
        env: {
          KILOCLAW_CHECKIN_URL: String(new URL(CHECK_IN_PATH, worker.url)),
          KILOCLAW_SANDBOX_ID: 'a',
          KILOCODE_API_KEY: authorization.replace('Bearer ', ''),
          OPENCLAW_GATEWAY_TOKEN: token,
        },
      });
      assert.equal(status, 0, stderr);
      return stdout;
    };
    await worker.checkIn(healthy('a'));
    assert.match(agent('away', '--for', '1h', '--reason', 'kernel upgrade'), /^away until .*: kernel upgrade/);
    const { absences } = await ask(worker, '/api/absences');
    assert.deepEqual(absences.map(({ sandboxId, reason, by }: any) => ({ sandboxId, reason, by })), [
      { sandboxId: 'a', reason: 'kernel upgrade', by: 'a' },
    ]);
    const kinds = async () => (await ask(worker, '/api/alerts?sandbox=a')).alerts.map(({ kind, event, sent }: any) => `${kind} ${event} ${sent}`);
    await until('the absence explains the silence', async () => (await kinds()).includes('absent opened false'));
    agent('back');
    await until('it is silent without an absence', async () => (await kinds()).includes('silent opened true'));
    assert.deepEqual((await ask(worker, '/api/absences')).absences, []);
  });

  test('refuses too many requests with retry-after, and does not affect other principals', async (t) => {
    const worker = await start(t);
    const statuses = await Promise.all(
      Array.from({ length: 80 }, async () => {
        const response = await worker.fetch('/api/alerts', { headers: tenant });
        await response.text();
        return response.status === 429 ? `429 ${Number(response.headers.get('retry-after')) >= 1}` : response.status;
      }),
    );
    assert.deepEqual(new Set(statuses), new Set([200, '429 true']));
    await ask(worker, '/api/alerts');
    const sums = await Promise.all(Array.from({ length: 8 }, () => worker.fetch('/api/availability', { headers: reader })));
    assert.ok(sums.some(({ status }) => status === 429), 'sums of the whole log cost more of the limit');
    for (const response of sums) await response.text();
  });

  test('reports a refusal by Analytics Engine, and declares no machine silent', async (t) => {
    const worker = await start(t, { AE_API_TOKEN: 'a-wrong-token' });
    await wake(worker);
    await until('a tick fails', async () => (await ask(worker, '/api/watcher')).watch.failure !== null);
    const { watch } = await ask(worker, '/api/watcher');
    assert.match(watch.failure, /refuses/);
    assert.equal(watch.open.silent, 0);
    assert.ok(!JSON.stringify(worker.logs).includes('a-wrong-token'));
  });

  test('a panic in the object affects no check-in, and the watcher continues', async (t) => {
    const worker = await start(t, {}, { build: 'panic' });
    await wake(worker);
    const panic = (query = '') => worker.fetch(`/api/watcher/panic${query}`, { headers: reader });
    const statuses = await Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        if (i === 20) void panic().catch(() => {});
        return (await worker.checkIn(FULL)).status;
      }),
    );
    assert.ok(statuses.every((status) => status === 204 || status === 500), `${statuses}`);
    const accepted = statuses.filter((status) => status === 204).length;
    assert.ok(accepted >= 30, `${accepted} of 40 were accepted`);

    assert.equal((await panic('?alarm=1')).status, 204);
    await logged(worker, /requested of the watcher's alarm/);
    const panicked = Date.now();
    const ticked = async () => Date.parse((await ask(worker, '/api/watcher')).watch.lastTick) > panicked;
    await until('it ticks again', ticked);
    assert.equal((await worker.checkIn(FULL)).status, 204);
  });

  test('npm run token mints a token with the scope', () => {
    const mintWith = (scope: string) =>
      spawnSync(process.execPath, ['tools/token.ts', '--sub', 'ops', '--scope', scope], {
        env: { ...process.env, JWT_SECRET },
        encoding: 'utf8',
      });
    const { stdout } = mintWith('absences:write');
    const claims = JSON.parse(Buffer.from(stdout.split('.')[1], 'base64url').toString());
    assert.equal(claims.scope, 'absences:write');
    assert.match(mintWith('absence:write').stderr, /--scope must be absences:write/);
  });
});
