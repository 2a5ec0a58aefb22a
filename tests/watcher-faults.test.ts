/**
 * The watcher in real workerd while something around it fails: Analytics Engine, the channels, its process, its clock,
 * or thousands of machines at once.
 *
 * These tests mostly wait for ticks, so they run concurrently.
 */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { createServer } from 'node:http';
import path from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { suite, test, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { Webhook } from 'standardwebhooks';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { listen, temporaryFolder, withContext, type Context } from '../harness/context.ts';
import { SQL_PATH } from '../harness/store.ts';
import { logged, type Worker } from '../harness/worker.ts';
import { CANARY_DATASET, startWorkerd } from '../harness/workerd.ts';
import {
  ask,
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

const SECONDS = () => Math.floor(Date.now() / 1_000);

/** A proxy in front of the local Analytics Engine. */
interface Analytics {
  readonly url: string;
  /** The local Analytics Engine. */
  upstream: string;
  /** The fault of the next queries: a status, or a broken connection. */
  fault: number | 'breaks' | undefined;
  /** Changes a query. */
  rewrite: (sql: string) => string;
  readonly queries: string[];
}

async function analytics(t: TestContext): Promise<Analytics> {
  const it: Analytics = { url: '', upstream: '', fault: undefined, rewrite: (sql) => sql, queries: [] };
  const server = createServer(async (request, response) => {
    let sql = '';
    for await (const chunk of request) sql += chunk;
    it.queries.push(sql);
    if (it.fault === 'breaks') return void response.destroy();
    if (it.fault !== undefined) return void response.writeHead(it.fault).end('a fault of the test');
    const { authorization = '' } = request.headers;
    const answer = await fetch(it.upstream, { method: 'POST', body: it.rewrite(sql), headers: { authorization } });
    const type = answer.headers.get('content-type') ?? '';
    response.writeHead(answer.status, { 'content-type': type }).end(await answer.text());
  });
  return Object.assign(it, { url: `http://127.0.0.1:${await listen(t, server)}${SQL_PATH}` });
}

/** A Worker with a webhook, whose queries go through a proxy. */
async function stage(t: TestContext, vars: Record<string, string> = {}) {
  const [hook, engine] = await Promise.all([receiver(t), analytics(t)]);
  const worker = await start(t, {
    AE_SQL_URL: engine.url,
    ALERT_WEBHOOK_URL: hook.url,
    ALERT_WEBHOOK_SECRET: SECRET,
    ...vars,
  });
  engine.upstream = worker.store + SQL_PATH;
  await wake(worker);
  const types = () => hook.received.map(({ body }) => body.type as string);
  return { hook, engine, worker, types };
}

/** Points of sandboxes at a time in seconds. */
const points = (ids: readonly string[], at: number, region = 'fra') =>
  ids.map((id) => ({
    timestamp: at * 1_000,
    index1: id,
    ...Object.fromEntries(
      [id, '1.0.0', 'c0ffee1', '2026.5.1', 'c0ffee2', 'running', region, 'm1', ''].map((blob, i) => [`blob${i + 1}`, blob]),
    ),
    ...Object.fromEntries([0, 7, 60, 0.5, 10, 20].map((double, i) => [`double${i + 1}`, double])),
  }));

const names = (prefix: string, count: number) =>
  Array.from({ length: count }, (_, number) => `${prefix}-${String(number).padStart(5, '0')}`);

/** Waits until the watcher gives verdicts: a canary came back. */
const watches = (worker: Worker) =>
  until('a verdict is possible', async () => (await ask(worker, '/api/watcher')).watch.horizon !== null);

const ticks = async (worker: Worker, count: number) => {
  for (let i = 0; i < count; i++) {
    const { lastTick } = (await ask(worker, '/api/watcher')).watch;
    await until('it ticks', async () => (await ask(worker, '/api/watcher')).watch.lastTick !== lastTick);
  }
};

/** Runs a Worker whose watcher's object is in a folder; then stops it. */
const run = (
  { vars, ...others }: { folder: string; vars?: Record<string, string>; build?: string },
  use: (worker: Worker, context: Context) => Promise<unknown>,
): Promise<unknown> => withContext(async (context) => use(await start(context, vars, others), context));

/** Opens the database of the watcher's object, while nothing runs. */
function withDatabase<T>(folder: string, use: (database: DatabaseSync) => T): T {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.sqlite'));
  for (const file of files) {
    const database = new DatabaseSync(path.join(folder, file));
    try {
      const tables = database.prepare("SELECT name FROM sqlite_master WHERE name = 'outbox'").all();
      if (tables.length > 0) return use(database);
    } finally {
      database.close();
    }
  }
  throw new Error(`no database of the watcher among ${files}`);
}

/**
 * Shifts the times that the watcher has stored, which looks to it like a clock jump in the other direction. Points keep
 * their times, so the watcher's copies of these only move into the future, where no point is.
 */
const shift = (folder: string, seconds: number) =>
  withDatabase(folder, (database) => {
    for (const [table, columns] of [
      ['outbox', ['created_at', 'next_at']],
      ['transitions', ['at', 'since', 'until']],
    ] as const) {
      for (const column of columns) database.exec(`UPDATE ${table} SET ${column} = ${column} + (${seconds})`);
    }
    const move = database.prepare('UPDATE state SET value = ? WHERE key = ?');
    for (const { key, value } of database.prepare('SELECT key, value FROM state').all()) {
      const own = seconds > 0 ? /\b\d{10}\b/g : /(?<="(ticked|answered|surveyed|opened)":|"canaries":\[[\d,]*)\b\d{10}\b/g;
      move.run(String(value).replaceAll(own, (time) => String(Number(time) + seconds)), key);
    }
  });

suite('the watcher among faults', { concurrency: 12 }, () => {
  test('reports no silence while Analytics Engine is late; then reports the whole fleet in one message', async (t) => {
    const { hook, engine, worker, types } = await stage(t, { WATCH_STALE_AFTER: '15s' });
    const alive = ['a', 'b', 'c'];
    const timer = setInterval(() => alive.forEach((id) => void worker.checkIn(healthy(id)).catch(() => {})), 1_000);
    t.after(() => clearInterval(timer));
    await watches(worker);
    await ticks(worker, 2);

    // From now on, queries return no new point. Meanwhile, all machines stop.
    const late = SECONDS();
    engine.rewrite = (sql) => sql.replaceAll('WHERE timestamp >', `WHERE timestamp <= toDateTime(${late}) AND timestamp >`);
    clearInterval(timer);
    await until('the watcher reports that it is degraded', () => hook.of('watcher.degraded').length > 0);
    const { watch } = await ask(worker, '/api/watcher');
    assert.ok(watch.lagSeconds >= 15 && watch.degradedSince !== null, JSON.stringify(watch));
    await ticks(worker, 3);
    assert.deepEqual(types(), ['watcher.degraded']);
    assert.equal(watch.open.silent, 0);

    engine.rewrite = (sql) => sql;
    await until('the fleet is quiet', () => hook.of('fleet.quiet').length > 0);
    assert.deepEqual(types().toSorted(), ['fleet.quiet', 'watcher.degraded', 'watcher.recovered']);
    const [{ body }] = hook.of('fleet.quiet');
    assert.deepEqual([body.data.verdict, body.data.count], ['ingest', 3]);
    assert.match(hook.of('watcher.degraded')[0].body.data.reason, /late/);
  });

  test('reports no silence while Analytics Engine is down, limits or refuses; then the real ones', async (t) => {
    const { hook, engine, worker, types } = await stage(t, { WATCH_STALE_AFTER: '15s' });
    keepAlive(t, worker, 'b', 'c');
    await worker.checkIn(healthy('a'));
    await watches(worker);
    engine.fault = 'breaks';
    await until('a tick fails', async () => (await ask(worker, '/api/watcher')).watch.failure !== null);
    await until('the watcher reports that it is degraded', () => hook.of('watcher.degraded').length > 0);
    for (const status of [429, 500, 403]) {
      engine.fault = status;
      const before = engine.queries.length;
      await until('another query', () => engine.queries.length > before);
      await ticks(worker, 1);
    }
    assert.match((await ask(worker, '/api/watcher')).watch.failure, /refuses/);
    assert.deepEqual(types(), ['watcher.degraded']);
    assert.match(hook.received[0].body.data.reason, /does not answer/);

    engine.fault = undefined;
    await until('the silence is reported', () => hook.of('sandbox.silent').length > 0);
    assert.deepEqual(types().toSorted(), ['sandbox.silent', 'watcher.degraded', 'watcher.recovered']);
    assert.deepEqual(hook.of('sandbox.silent')[0].body.data.sandboxes.map((one: any) => one.sandboxId), ['a']);
  });

  test('sampling neither hides nor invents a silence', async (t) => {
    const { hook, engine, worker, types } = await stage(t);
    keepAlive(t, worker, 'b', 'c', 'd');
    let isHere = true;
    const timer = setInterval(() => isHere && void worker.checkIn(healthy('z')).catch(() => {}), 1_000);
    t.after(() => clearInterval(timer));
    await watches(worker);
    // Queries over the whole fleet lack `z` and the new points of `b`. Queries over a part or by id are complete.
    engine.rewrite = (sql) => {
      if (sql.includes(CANARY_DATASET) || /index1 (IN|>|<=) /.test(sql)) return sql;
      const old = SECONDS() - 20;
      return sql
        .replaceAll('max(_sample_interval)', '3 * max(_sample_interval)')
        .replaceAll(
          `FROM ${layout.dataset} WHERE`,
          `FROM ${layout.dataset} WHERE index1 != 'z' AND (index1 != 'b' OR timestamp < toDateTime(${old})) AND`,
        );
    };
    await until('the fleet is split', () => engine.queries.some((sql) => /index1 > '/.test(sql)));
    isHere = false;
    await until('the silence is found', () => hook.received.length > 0);
    await ticks(worker, 2);
    assert.deepEqual(types(), ['sandbox.silent']);
    assert.deepEqual(hook.received[0].body.data.sandboxes.map((one: any) => one.sandboxId), ['z']);
  });

  test('10,000 machines that fall silent at once are one message, and so is their return', async (t) => {
    const { hook, worker, types } = await stage(t);
    await watches(worker);
    const fleet = names('sandbox', 10_000);
    await worker.insert(points(fleet, SECONDS()));
    await until('the fleet is quiet', () => hook.received.length > 0);
    const [quiet] = hook.received;
    new Webhook(SECRET).verify(quiet.text, quiet.headers as Record<string, string>);
    const { data } = quiet.body;
    assert.deepEqual([quiet.body.type, data.verdict, data.count, data.sandboxes.length], ['fleet.quiet', 'ingest', 10_000, 50]);
    const { open } = (await ask(worker, '/api/watcher')).watch;
    assert.equal(open.silent, 10_000);
    const [{ kind, event, reason }] = (await ask(worker, '/api/alerts?kind=quiet')).alerts;
    assert.deepEqual([kind, event], ['quiet', 'opened']);
    assert.match(reason, /^10000 of 10000 sandboxes are silent; no check-ins at all: suspect the ingest path/);

    const beat = setInterval(() => void worker.insert(points(fleet, SECONDS())).catch(() => {}), 4_000);
    t.after(() => clearInterval(beat));
    await until('the fleet is back', () => hook.of('fleet.recovered').length > 0);
    await until('everybody is', async () => (await ask(worker, '/api/watcher')).watch.open.silent === 0);
    assert.deepEqual(types(), ['fleet.quiet', 'fleet.recovered']);
  });

  test('a region that falls silent is one message, which names it', async (t) => {
    const { hook, worker, types } = await stage(t);
    const [fra, iad] = [names('fra', 60), names('iad', 60)];
    let isUp = true;
    const beat = () =>
      void worker
        .insert([...points(iad, SECONDS(), 'iad'), ...(isUp ? points(fra, SECONDS(), 'fra') : [])])
        .catch(() => {});
    beat();
    const timer = setInterval(beat, 1_000);
    t.after(() => clearInterval(timer));
    await watches(worker);
    await ticks(worker, 2);
    isUp = false;
    await until('the region is quiet', () => hook.received.length > 0);
    const { data, type } = hook.received[0].body;
    assert.deepEqual([type, data.verdict, data.count, data.scopes[0].region], ['fleet.quiet', 'region', 60, 'fra']);
    isUp = true;
    await until('it is back', () => hook.of('fleet.recovered').length > 0);
    await ticks(worker, 2);
    assert.deepEqual(types(), ['fleet.quiet', 'fleet.recovered']);
  });

  test('announces a flapping machine once', async (t) => {
    const { worker, types } = await stage(t);
    keepAlive(t, worker, 'b', 'c');
    await watches(worker);
    // One check-in, then silence until the watcher finds it: the fastest change that the watcher can see.
    const flips = async () => (await ask(worker, '/api/alerts?sandbox=a&kind=silent')).alerts.length;
    for (let flip = 1; flip <= 6; flip += 2) {
      await worker.checkIn(healthy('a'));
      await until('it is back', async () => (await flips()) >= flip - 1);
      await until('it is silent', async () => (await flips()) >= flip);
    }
    await ticks(worker, 2);
    assert.deepEqual(types(), ['sandbox.silent', 'sandbox.recovered', 'sandbox.flapping']);
    assert.equal((await ask(worker, '/api/watcher')).watch.open.flapping, 1);
  });

  test('sends a message again once, under its id, if a kill interrupts its delivery or the record of it', async (t) => {
    for (const answers of [false, true]) {
      const [hook, folder] = [await receiver(t), temporaryFolder(t)];
      const store = await start(t, {}, { watcher: false });
      const vars = workerdVars(store, { ALERT_WEBHOOK_URL: hook.url, ALERT_WEBHOOK_SECRET: SECRET });
      const post = ({ port }: { port: number }) =>
        fetch(`http://127.0.0.1:${port}/api/watcher/test`, { method: 'POST', headers: writer });
      const undelivered = async ({ port }: { port: number }) =>
        ((await (await fetch(`http://127.0.0.1:${port}/api/watcher`, { headers: reader })).json()) as any).undelivered;
      const first = await startWorkerd(vars, t, { folder });
      let stopped: Promise<void> | undefined;
      hook.answer = (response) => {
        stopped ??= first.stop();
        // The process is gone before it can read this.
        if (answers) response.writeHead(204).end();
      };
      await post(first).catch(() => {});
      await stopped;
      assert.equal(hook.received.length, 1);

      hook.answer = (response) => void response.writeHead(204).end();
      const second = await startWorkerd(vars, t, { folder });
      assert.equal((await undelivered(second)).length, 1, 'it was planned before it was sent');
      await until('it arrives again', async () => hook.received.length === 2 && (await undelivered(second)).length === 0);
      await delay(7_000);
      assert.equal(hook.received.length, 2);
      const [one, two] = hook.received;
      assert.deepEqual([two.headers['webhook-id'], two.text], [one.headers['webhook-id'], one.text]);
      new Webhook(SECRET).verify(two.text, two.headers as Record<string, string>);
      await second.stop();
    }
  });

  test('retries a channel that is down after 5 s, 5 min, 30 min, 2 h, 5 h and 10 h, then gives up', async (t) => {
    const [hook, folder] = [await receiver(t), temporaryFolder(t)];
    hook.answer = (response) => void response.writeHead(503).end();
    const vars = { ALERT_SLACK_URL: hook.url };
    const waits: number[] = [];
    const next = async (worker: Worker) => {
      const { undelivered, channels } = await ask(worker, '/api/watcher');
      assert.equal(channels[1].lastFailure?.reason ?? 'answered 503', 'answered 503');
      return undelivered[0];
    };
    await run({ folder, vars }, async (worker) => {
      await worker.fetch('/api/watcher/test', { method: 'POST', headers: writer });
      assert.equal((await next(worker)).attempts, 1);
      await until('the second try', async () => (await next(worker)).attempts === 2);
      waits.push((Date.parse((await next(worker)).nextAt) - Date.now()) / 1_000);
    });
    for (let attempt = 3; attempt <= 7; attempt++) {
      shift(folder, -Math.ceil(waits.at(-1)!) - 5);
      await run({ folder, vars }, async (worker) => {
        await wake(worker);
        if (attempt === 7) {
          await logged(worker, /alert_given_up/);
          assert.deepEqual((await ask(worker, '/api/watcher')).undelivered, []);
          return;
        }
        await until('the next try', async () => (await next(worker)).attempts === attempt);
        waits.push((Date.parse((await next(worker)).nextAt) - Date.now()) / 1_000);
      });
    }
    assert.equal(hook.received.length, 7);
    // Each wait has up to a fifth of jitter.
    const hours = [300, 1_800, 7_200, 18_000, 36_000];
    for (const [i, wait] of waits.entries()) assert.ok(wait > hours[i] * 0.7 && wait < hours[i] * 1.3, `${waits}`);
  });

  test('clock jumps of hours, forth or back, neither hide nor invent a silence', async (t) => {
    const folder = temporaryFolder(t);
    for (const [i, seconds] of [0, 7_200, -7_200].entries()) {
      if (seconds !== 0) shift(folder, seconds);
      const hook = await receiver(t);
      const vars = { ALERT_WEBHOOK_URL: hook.url, ALERT_WEBHOOK_SECRET: SECRET };
      await run({ folder, vars }, async (worker, context) => {
        keepAlive(context, worker, 'b', 'c', ...(i > 1 ? ['a0'] : []));
        await worker.checkIn(healthy(`a${i}`));
        await wake(worker);
        await ticks(worker, 2);
        const found = () =>
          hook.of('sandbox.silent').flatMap(({ body }) => body.data.sandboxes.map((one: any) => one.sandboxId));
        await until(`the silence after a jump of ${seconds} s`, () => found().length > 0);
        // The previous machine returns.
        if (i > 0) keepAlive(context, worker, `a${i - 1}`);
        const isBack = async () => (await ask(worker, '/api/watcher')).watch.open.silent === 1;
        await until(`the return after a jump of ${seconds} s`, isBack);
        assert.deepEqual(found(), [`a${i}`]);
      });
    }
  });

  test('a lost alarm is set again by the cron trigger', async (t) => {
    const folder = temporaryFolder(t);
    const lastTick = () =>
      withDatabase(folder, (database) => {
        const row = database.prepare("SELECT value FROM state WHERE key = ''").get();
        return JSON.parse(String(row?.value)).ticked as number;
      });
    await run({ folder }, async (worker) => {
      await wake(worker);
      await ticks(worker, 1);
    });
    withDatabase(folder, (database) => {
      const { changes } = database.prepare('DELETE FROM _cf_METADATA').run();
      assert.ok(Number(changes) > 0, 'the alarm was there');
    });
    const before = lastTick();
    await run({ folder }, () => delay(8_000));
    assert.equal(lastTick(), before, 'no alarm fires');
    await run({ folder }, async (worker) => {
      await wake(worker);
      // No request to the object: only the alarm can wake it.
      await delay(8_000);
    });
    assert.ok(lastTick() > before, 'the alarm fires again');
  });

  test('an open silence survives a deployment of another version, and is closed once', async (t) => {
    const [hook, folder] = [await receiver(t), temporaryFolder(t)];
    const vars = { ALERT_PAGERDUTY_KEY: '0123456789abcdef0123456789abcdef', ALERT_PAGERDUTY_URL: hook.url };
    await run({ folder, vars }, async (worker, context) => {
      keepAlive(context, worker, 'b', 'c');
      await worker.checkIn(healthy('a'));
      await wake(worker);
      await until('it is paged', () => hook.received.length > 0);
    });
    await run({ folder, vars, build: 'panic' }, async (worker, context) => {
      keepAlive(context, worker, 'b', 'c');
      await ticks(worker, 2);
      assert.equal((await ask(worker, '/api/watcher')).watch.open.silent, 1);
      assert.equal(hook.received.length, 1);
      keepAlive(context, worker, 'a');
      await until('it is resolved', () => hook.received.length > 1);
      await ticks(worker, 2);
    });
    const [page, resolved] = hook.received.map(({ body }) => body);
    assert.deepEqual([page.event_action, resolved.event_action], ['trigger', 'resolve']);
    assert.equal(page.dedup_key, resolved.dedup_key);
    assert.equal(hook.received.length, 2);
  });
});
