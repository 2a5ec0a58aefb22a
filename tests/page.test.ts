/**
 * The page in a real browser, with the built Worker in workerd and a made-up fleet. An error in the browser's log, such
 * as a violation of the content security policy, fails the test.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, afterEach, before, suite, test, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';

import type { Page } from 'playwright-core';

import { AGENT } from '../harness/agent.ts';
import { CHROMIUM, startBrowser } from '../harness/browser.ts';
import { CHECK_IN_PATH, credentials, FULL, JWT_SECRET } from '../harness/check-in.ts';
import type { Context } from '../harness/context.ts';
import { history } from '../harness/made-up-fleet.ts';
import { signIn } from '../harness/sign-in.ts';
import { insert } from '../harness/store.ts';
import { mint } from '../harness/token.ts';
import { startWatcher } from '../harness/watcher.ts';
import { startWorker, type Worker } from '../harness/worker.ts';
import { ask, receiver, SECRET } from './support/watcher.ts';

const DIST = new URL('../web/dist/', import.meta.url);
const SCREENSHOTS = new URL('../build/screenshots/', import.meta.url).pathname;
/** In bytes, gzipped: scripts and styles together. */
const BUDGET = 60_000;
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const VIEWS = ['fleet', 'sandboxes', 'sandboxes/made-up-00000', 'alerts', 'absences'];
const SIZES = [
  [360, 740],
  [1280, 900],
  [3840, 2160],
] as const;

const skip =
  CHROMIUM === undefined && process.env.CI === undefined
    ? 'there is no Chromium: tools/setup --browser installs it, or CHROMIUM names one'
    : false;

const tokenOf = (claims: { sandbox?: string; scope?: string; ttl?: number } = {}) =>
  mint({ sub: 'ops', ttl: 3_600, ...claims }, { JWT_SECRET });
const WRITER = await tokenOf({ scope: 'absences:write' });

/** Errors that a test expects, because the API refuses a request. */
type Expected = RegExp | undefined;

interface Opened {
  readonly page: Page;
  /** Requests to the API so far: method, path and query. */
  readonly requests: string[];
}

test('the scripts and styles are no larger than their budget', () => {
  const files = readdirSync(new URL('assets/', DIST)).filter((file) => /\.(js|css)$/.test(file));
  const size = files.reduce((sum, file) => sum + gzipSync(readFileSync(new URL(`assets/${file}`, DIST)), { level: 9 }).length, 0);
  assert.ok(size <= BUDGET, `${size} bytes gzipped, the budget is ${BUDGET}`);
});

suite('the page', { skip }, () => {
  let worker: Worker;
  let hook: Awaited<ReturnType<typeof receiver>>;
  const ends: (() => unknown)[] = [];
  const whole: Context = { after: (end) => void ends.unshift(end) };
  /** What the browsers of the test logged as errors. */
  const errors: string[] = [];

  before(async () => {
    hook = await receiver(whole);
    const vars = { WATCH_TICK: '5s', ALERT_WEBHOOK_URL: hook.url, ALERT_WEBHOOK_SECRET: SECRET };
    worker = await startWorker({ page: true, vars }, whole);
    await insert(worker.store, history({ sandboxes: 120, hours: 24, seed: 1, now: Date.now() }));
    await startWatcher(worker, WRITER);
  });
  // Not in `t.after`: if one throws there, the later ones do not run, and browsers and Workers keep running.
  afterEach(() => assert.deepEqual(errors.splice(0), [], 'the browsers logged no error'));
  after(async () => {
    await Promise.allSettled(ends.map((end) => end()));
  });

  /** Opens a view in a browser of its own; signs in with a token, unless it is null. */
  async function open(
    t: TestContext,
    view: string,
    { token = WRITER, expected, ...options }: { token?: string | null; expected?: Expected; width?: number; height?: number; dark?: boolean } = {},
  ): Promise<Opened> {
    const { width = 1280, height = 900, dark = false } = options;
    const browser = await startBrowser(t, { viewport: { width, height }, colorScheme: dark ? 'dark' : 'light' });
    const [page] = browser.pages();
    const requests: string[] = [];
    page.on('console', (message) => {
      if (message.type() === 'error' && !expected?.test(message.text())) errors.push(message.text());
    });
    page.on('pageerror', (error) => errors.push(String(error)));
    page.on('request', (request) => {
      const { pathname, search } = new URL(request.url());
      if (pathname.startsWith('/api')) requests.push(`${request.method()} ${pathname}${search}`);
    });
    if (token !== null) await page.addInitScript((token) => sessionStorage.setItem('kiloclaw-token', token), token);
    await page.goto(new URL(`/#/${view}`, worker.url).href);
    return { page, requests };
  }

  /** Waits until nothing is loading. */
  const loaded = async (page: Page) => {
    await page.waitForSelector('main h1');
    await page.waitForFunction(() => document.querySelector('.loading') === null);
    await page.waitForSelector('.health .state');
  };

  const number = (text: string) => Number(text.replaceAll(',', ''));

  test('is served with its headers, and leaves the paths of the Worker unchanged', async () => {
    const { url } = worker;
    const get = (path: string, init?: RequestInit) => fetch(url.origin + path, { redirect: 'manual', ...init });
    const root = await get('/');
    const html = await root.text();
    assert.equal(root.status, 200);
    assert.match(root.headers.get('content-security-policy') ?? '', /default-src 'none'; script-src 'self'.*frame-ancestors 'none'/);
    assert.equal(root.headers.get('x-content-type-options'), 'nosniff');
    assert.equal(root.headers.get('referrer-policy'), 'no-referrer');
    assert.equal(root.headers.get('cache-control'), 'no-cache');
    for (const [, asset] of html.matchAll(/(?:src|href)="(\/assets\/[^"]+)"/g)) {
      assert.match(asset, /-[A-Z0-9]{8}\.(js|css|svg)$/);
      const response = await get(asset);
      assert.equal(response.status, 200, asset);
      assert.equal(response.headers.get('cache-control'), 'public, max-age=31536000, immutable');
    }
    for (const [path, status] of [['/nope', 404], ['/assets/nope.js', 404], ['//api/whoami', 401], ['/%61pi/fleet', 401], ['/API/fleet', 401], ['/health', 200], ['/api/fleet', 401]] as const) {
      const response = await get(path);
      assert.deepEqual([response.status, response.headers.get('content-type')], [status, 'application/json'], path);
    }
    assert.equal((await worker.checkIn({ ...FULL, sandboxId: 'made-up-00000' })).status, 204);
    assert.notEqual((await get('/', { method: 'POST' })).status, 200);
  });

  test('the fleet view shows the figures of the API after three requests', async (t) => {
    const { page, requests } = await open(t, 'fleet');
    await page.waitForSelector('.plot canvas');
    const paths = () => requests.map((path) => path.split('?')[0]);
    assert.deepEqual(paths().slice(0, 1), ['GET /api/watcher'], 'first and alone, so that its answer does not wait for queries');
    assert.deepEqual(paths().slice(1, 3).toSorted(), ['GET /api/fleet', 'GET /api/incidents']);
    await loaded(page);
    // Each once.
    assert.deepEqual(paths().slice(3), ['GET /api/fleet/history']);
    const fleet = await ask(worker, '/api/fleet?window=24h');
    const { sandboxes, attention, watch } = await ask(worker, '/api/watcher');
    const { open: state } = watch;
    const figure = (label: string) => page.locator('.figure', { hasText: label }).locator('.value').innerText();
    // The watcher and the query agree; the page shows the watcher's figures.
    assert.deepEqual([sandboxes, state.silent + state.overdue, state.stopped], [fleet.sandboxes, fleet.silent - fleet.silentAfterShutdown, fleet.silentAfterShutdown]);
    assert.equal(number(await figure('reporting')), fleet.reporting);
    assert.equal(number(await figure('silent')), fleet.silent - fleet.silentAfterShutdown);
    assert.equal(number(await figure('away')), state.absent);
    await page.getByText(/by the watcher, \d+ s ago/).waitFor();
    assert.equal(number(await figure('restarts')), fleet.restarts);
    const crashed = fleet.supervisorStates.find(({ value }: any) => value === 'crashed')?.reporting ?? 0;
    assert.equal(number(await figure('crashed')), crashed);
    const rows = await page.locator('[aria-label="What needs attention"] tbody tr').allInnerTexts();
    assert.equal(rows.length, Math.min(8, attention.length));
    for (const [i, row] of rows.entries()) assert.ok(row.includes(attention[i].sandboxId), row);
    // The incidents add their causes.
    await page.getByText(/machines check in under its id/).first().waitFor();
    const region = fleet.flyRegions[0];
    const cells = await page.locator('[aria-label="Regions"] tbody tr').first().locator('td').allInnerTexts();
    assert.deepEqual([cells[0], number(cells[1])], [region.value, region.sandboxes]);
    // The table of restarts by version over time has the sum of all restarts.
    assert.equal(await page.locator('.plot canvas').count(), 4);
    await page.locator('.chart', { hasText: 'Restarts by controller version' }).getByRole('button', { name: 'Table' }).click();
    const values = await page.locator('.chart .scroll td.number').allInnerTexts();
    const shown = values.reduce((sum, text) => sum + number(text), 0);
    assert.ok(Math.abs(shown - fleet.restarts) <= fleet.restarts * 0.05, `${shown} of ${fleet.restarts}`);
  });

  test('the fleet view shows the watcher\'s figures before those of the queries, and either alone', async (t) => {
    const { page } = await open(t, 'sandboxes', { expected: /503/ });
    await loaded(page);
    const held: (() => void)[] = [];
    await page.route(/api\/(fleet|incidents)/, (route) => void held.push(() => void route.fulfill({ status: 503, json: { error: 'no answer', code: 'x' } })));
    await page.goto(new URL('/#/fleet', worker.url).href);
    await page.reload();
    await page.locator('.figure', { hasText: 'reporting' }).filter({ hasText: /\d/ }).waitFor();
    assert.equal(await page.locator('.figure', { hasText: 'restarts' }).locator('.value').innerText(), '…');
    await page.getByText('the rest is loading').waitFor();
    await page.locator('[aria-label="What needs attention"] tbody tr').first().waitFor();
    for (let i = 0; i < 100 && held.length < 2; i++) await delay(20);
    for (const release of held) release();
    await page.locator('.problem', { hasText: 'no answer' }).first().waitFor();
    assert.ok((await page.locator('.figures').count()) === 1, 'the figures stay');

    // Without the watcher, the figures are those of the query.
    const off = await open(t, 'sandboxes');
    await off.page.route(/api\/watcher/, async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, json: { ...(await response.json()), state: 'off', reason: 'WATCHER_CANARIES' } });
    });
    await off.page.goto(new URL('/#/fleet', worker.url).href);
    await off.page.reload();
    await loaded(off.page);
    const fleet = await ask(worker, '/api/fleet?window=24h');
    assert.equal(number(await off.page.locator('.figure', { hasText: 'reporting' }).locator('.value').innerText()), fleet.reporting);
    assert.equal(await off.page.locator('.figure', { hasText: 'away' }).locator('.value').innerText(), '–');
    const { incidents } = await ask(worker, '/api/incidents?window=24h&limit=100');
    const critical = incidents.filter(({ severity }: any) => severity === 'critical');
    const rows = await off.page.locator('[aria-label="What needs attention"] tbody tr').allInnerTexts();
    for (const [i, row] of rows.entries()) assert.ok(row.includes(critical[i].sandboxId), row);
  });

  test('ages and expiry use the clock of the server', async (t) => {
    const { page } = await open(t, 'alerts', { token: null, expected: /401/ });
    const token = await tokenOf();
    await page.addInitScript((token) => {
      sessionStorage.setItem('kiloclaw-token', token);
      const { now } = Date;
      Date.now = () => now() + 7_200_000;
    }, token);
    await page.goto(new URL('/#/fleet', worker.url).href);
    await page.reload();
    await loaded(page);
    const head = await page.locator('header').innerText();
    assert.match(head, /Data \d+ s old/);
    assert.doesNotMatch(head, /expired|no tick/);
    await page.getByText(/by the watcher, \d+ s ago/).waitFor();
  });

  test('works if the browser blocks its storages', async (t) => {
    const [page] = (await startBrowser(t)).pages();
    await page.addInitScript(() => {
      for (const name of ['sessionStorage', 'localStorage']) {
        Object.defineProperty(window, name, { get: () => { throw new DOMException('blocked', 'SecurityError'); } });
      }
    });
    await page.goto(worker.url.href);
    await page.getByLabel('Token').fill(await tokenOf());
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.waitForSelector('.figures');
    await page.getByRole('button', { name: 'Switch between dark and light' }).click();
  });

  test('the address contains filters, order and page of the sandboxes, and restores them', async (t) => {
    const { page } = await open(t, 'sandboxes');
    await loaded(page);
    const ids = () => page.locator('[aria-label="Sandboxes"] tbody tr td:first-child').allInnerTexts();
    /** Waits for these rows: right after a change, the list may have the old ones or none. */
    const shows = (expected: readonly string[]) =>
      page.waitForFunction(
        (expected) => [...document.querySelectorAll('[aria-label="Sandboxes"] tbody a')].map(({ textContent }) => textContent).join() === expected,
        expected.join(),
      );
    const list = async (query: string): Promise<string[]> =>
      (await ask(worker, `/api/sandboxes?limit=50&${query}`)).sandboxes.map(({ sandboxId }: any) => sandboxId);
    assert.equal((await ids()).length, 50);
    await page.getByRole('button', { name: 'Next page' }).click();
    await page.waitForFunction(() => document.querySelector('tbody a')?.textContent === 'made-up-00050');
    assert.match(page.url(), /cursor=/);
    await page.getByLabel('Restarted').selectOption('yes');
    await page.getByLabel('Order').selectOption('Restarts');
    assert.equal(new URL(page.url()).hash, '#/sandboxes?restarted=true&sort=-restarts');
    const restarted = await list('restarted=true&sort=-restarts');
    assert.ok(restarted.length > 0 && restarted.length < 50);
    await shows(restarted);
    await page.reload();
    await shows(restarted);
    await page.getByLabel('Order').selectOption('Id');
    await page.getByLabel('Restarted').selectOption('all');
    await page.getByLabel('Id begins with').fill('made-up-0001');
    await page.keyboard.press('Enter');
    await page.waitForURL(/prefix=made-up-0001/);
    await shows(Array.from({ length: 10 }, (_, i) => `made-up-0001${i}`));
    await page.goBack();
    await shows(await list(''));
    // A refresh of the rows keeps the text that is being typed.
    await page.getByLabel('State').fill('no such state');
    const renewed = page.waitForResponse(/\/api\/sandboxes/);
    await page.evaluate(() => window.dispatchEvent(new Event('online')));
    await renewed;
    await page.waitForTimeout(300);
    await page.keyboard.press('Enter');
    await page.getByText('No sandbox matches').waitFor();
  });

  test('the view of a sandbox shows its state, its machines and its history', async (t) => {
    const { page, requests } = await open(t, 'sandboxes/made-up-00003');
    await loaded(page);
    assert.ok(new Set(requests.slice(0, 3)).size === 3, `${requests}`);
    const { sandbox, machines } = await ask(worker, '/api/sandboxes/made-up-00003?window=24h');
    const facts = await page.locator('dl').innerText();
    for (const fact of [sandbox.controllerVersion, sandbox.flyRegion, sandbox.controllerCommit]) {
      assert.ok(facts.includes(fact), `${fact} in ${facts}`);
    }
    assert.match(facts, /Disk\s+not reported/);
    const rows = await page.locator('[aria-label="Machines"] tbody tr').allInnerTexts();
    assert.equal(rows.length, machines.length);
    assert.equal(await page.locator('.plot canvas').count(), 3);
    assert.ok((await page.locator('.strip.tall > span').count()) > 0);
    const versions = await page.locator('[aria-label="Versions"]').innerText();
    for (const version of [sandbox.controllerVersion, sandbox.openclawVersion]) assert.ok(versions.includes(version), versions);
    // The watcher finds its clone after a survey.
    await page.locator('.lane', { hasText: 'clone' }).waitFor({ timeout: 90_000 });
    // Strip, lanes and charts have one axis.
    const ends = await page.locator('.strip.tall, .lane, .u-over').evaluateAll((all) =>
      all.map((element) => [element.getBoundingClientRect().left, element.getBoundingClientRect().right].map(Math.round)),
    );
    assert.ok(ends.length >= 5);
    for (const [left, right] of ends) assert.ok(Math.abs(left - ends[0][0]) <= 1 && Math.abs(right - ends[0][1]) <= 1, JSON.stringify(ends));
    await page.locator('.plot').first().hover();
    const tip = page.locator('.tip:not([hidden])').first();
    await tip.waitFor();
    assert.match(await tip.innerText(), /load: [\d.]+/);
    // New data change the text of the tooltip, but do not close it.
    await page.route(/\/history/, async (route) => {
      const response = await route.fetch({ headers: { ...route.request().headers(), 'if-none-match': '' } });
      const body = await response.json();
      await route.fulfill({ response, json: { ...body, steps: body.steps.map((step: any) => ({ ...step, loadAvg5m: 77 })) } });
    });
    const canvas = await page.locator('.plot canvas').first().elementHandle();
    await page.evaluate(() => window.dispatchEvent(new Event('online')));
    await page.locator('.tip:not([hidden])', { hasText: 'load: 77' }).waitFor();
    assert.ok(await canvas!.evaluate((element) => element.isConnected));
  });

  test('shows disk usage if it is known', async (t) => {
    const { page } = await open(t, 'sandboxes?sort=-disk');
    await loaded(page);
    const { sandboxes } = await ask(worker, '/api/sandboxes?limit=50&sort=-disk');
    const first = page.locator('[aria-label="Sandboxes"] tbody tr').first();
    assert.ok((await first.innerText()).startsWith(sandboxes[0].sandboxId));
    assert.match(await first.innerText(), /\d\d(\.\d)?\s?%/);
    await page.locator('[aria-label="Sandboxes"] tbody a').first().click();
    await page.waitForFunction(() => document.querySelectorAll('.plot canvas').length === 4);
    assert.match(await page.locator('dl').innerText(), /Disk\s+[\d.]+ GB of 10\.74 GB used, \d\d/);
  });

  test('lists alerts, and sends a test message', async (t) => {
    const { page } = await open(t, 'alerts');
    await page.waitForSelector('[aria-label="Alerts"] tbody tr', { timeout: 60_000 });
    await loaded(page);
    const { alerts } = await ask(worker, '/api/alerts?limit=50');
    const rows = await page.locator('[aria-label="Alerts"] tbody tr').count();
    assert.ok(rows > 0 && rows <= alerts.length, `${rows} of ${alerts.length}`);
    await page.getByLabel('Kind').selectOption('clone');
    await page.waitForURL(/kind=clone/);
    await page.waitForFunction(() => [...document.querySelectorAll('[aria-label="Alerts"] tbody tr')].every((row) => row.textContent?.includes('clone')));
    const before = hook.of('watcher.test').length;
    await page.getByRole('button', { name: 'Send a test message' }).click();
    await page.getByText('webhook: delivered').waitFor();
    assert.equal(hook.of('watcher.test').length, before + 1);
  });

  test('plans and ends an absence, with the scope for it only', async (t) => {
    const { page } = await open(t, 'absences', { expected: /400/ });
    await page.getByText('No planned absences').waitFor();
    await page.getByLabel('Ids, separated by commas').fill('made-up-00005, made-up-00006');
    await page.getByLabel('Reason').fill('kernel <b>upgrade</b>');
    await page.getByRole('button', { name: 'Plan' }).click();
    await page.getByText('Planned: 2').waitFor();
    const rows = page.locator('[aria-label="Planned absences"] tbody tr');
    await rows.nth(1).waitFor();
    assert.match(await rows.nth(0).innerText(), /made-up-00005.*kernel <b>upgrade<\/b>.*ops/s);
    assert.equal((await ask(worker, '/api/absences')).absences.length, 2);
    await rows.nth(0).getByRole('button', { name: 'End' }).click();
    await rows.nth(1).waitFor({ state: 'detached' });
    assert.deepEqual((await ask(worker, '/api/absences')).absences.map(({ sandboxId }: any) => sandboxId), ['made-up-00006']);
    await rows.nth(0).getByRole('button', { name: 'End' }).click();
    await page.getByText('No planned absences').waitFor();
    await page.getByLabel('Ids, separated by commas').fill('x'.repeat(97));
    await page.getByRole('button', { name: 'Plan' }).click();
    await page.locator('.problem', { hasText: 'sandboxIds' }).waitFor();

    const reader = await open(t, 'absences', { token: await tokenOf() });
    await reader.page.getByText('needs the scope').waitFor();
    assert.equal(await reader.page.getByRole('button', { name: 'Plan' }).count(), 0);
    await reader.page.goto(new URL('/#/alerts', worker.url).href);
    await reader.page.getByText('Sending a test message needs the scope').waitFor();

    // Behind Access, the edge adds the token to each request, and the page learns its scope from /api/whoami.
    for (const scope of [undefined, 'absences:write']) {
      const [behind] = (await startBrowser(t)).pages();
      const authorization = `Bearer ${await tokenOf({ scope })}`;
      await behind.route('**/api/**', (route) => route.continue({ headers: { ...route.request().headers(), authorization } }));
      await behind.goto(new URL('/#/absences', worker.url).href);
      await behind.getByText(scope === undefined ? 'needs the scope' : 'Plan an absence').waitFor();
      assert.equal(await behind.getByRole('button', { name: 'Plan' }).count(), scope === undefined ? 0 : 1);
      assert.match(await behind.locator('header').innerText(), /ops/);
      await behind.goto(new URL('/#/alerts', worker.url).href);
      await behind.getByRole('heading', { name: 'Channels' }).waitFor();
      assert.equal(await behind.getByRole('button', { name: 'Send a test message' }).count(), scope === undefined ? 0 : 1);
    }
  });

  test('marks planned absences in the list of problems and in the view of each sandbox', async (t) => {
    const plan = (method: string, path: string, body?: object) =>
      worker.fetch(`/api/absences${path}`, { method, headers: { authorization: `Bearer ${WRITER}` }, body: JSON.stringify(body) });
    const { attention } = await ask(worker, '/api/watcher');
    const { sandboxId: id } = attention.find(({ kind, sandboxId }: any) => kind === 'clone' && sandboxId !== 'made-up-00000');
    const { sandbox } = await ask(worker, `/api/sandboxes/${id}`);
    assert.equal((await plan('POST', '', { region: sandbox.flyRegion, forSeconds: 600, reason: 'new racks' })).status, 200);
    t.after(() => plan('DELETE', `?region=${sandbox.flyRegion}`));
    assert.equal((await plan('POST', '', { sandboxIds: [id], forSeconds: 600, reason: 'a new disk' })).status, 200);
    t.after(() => plan('DELETE', `?sandbox=${id}`));
    const { page } = await open(t, 'fleet');
    await page.locator('[aria-label="What needs attention"] tr', { hasText: id }).getByText('absence planned').waitFor();
    await page.goto(new URL(`/#/sandboxes/${id}`, worker.url).href);
    await page.locator('.note', { hasText: 'a new disk' }).waitFor();
    await page.locator('.note', { hasText: `of region ${sandbox.flyRegion} planned by ops` }).waitFor();
    await page.goto(new URL('/#/sandboxes/made-up-00001', worker.url).href);
    await loaded(page);
    const other = await ask(worker, '/api/sandboxes/made-up-00001');
    assert.equal(await page.locator('.note').count(), other.sandbox.flyRegion === sandbox.flyRegion ? 1 : 0);
  });

  test('tables in the phone layout are still tables for assistive technology', async (t) => {
    for (const view of ['fleet', 'alerts']) {
      const { page } = await open(t, view, { width: 360, height: 740 });
      await loaded(page);
      // Some browsers drop the implicit role of a row with another layout; Chromium does not.
      const bare = await page.evaluate(() => {
        const displays: Record<string, string> = { TABLE: 'table', THEAD: 'table-header-group', TBODY: 'table-row-group', TR: 'table-row', TH: 'table-cell', TD: 'table-cell' };
        const parts = [...document.querySelectorAll('table, thead, tbody, tr, th, td')];
        const changed = parts.filter((part) => getComputedStyle(part).display !== displays[part.tagName]);
        return [changed.length, changed.filter((part) => !part.role).map(({ outerHTML }) => outerHTML)] as const;
      });
      assert.ok(bare[0] > 0);
      assert.deepEqual(bare[1], []);
    }
  });

  test('a sign-in is for its tab only; bad, expired and limited tokens are explained', async (t) => {
    const { page } = await open(t, 'sandboxes?sort=-load', { token: null, expected: /401/ });
    const paste = async (token: string) => {
      await page.getByLabel('Token').fill(token);
      await page.getByRole('button', { name: 'Sign in' }).click();
    };
    await paste('no token');
    await page.getByText('This is not a token').waitFor();
    await paste(await mint({ sub: 'ops', ttl: -60 }, { JWT_SECRET }));
    await page.getByText('has expired').waitFor();
    await paste(await mint({ sub: 'ops', ttl: 600 }, { JWT_SECRET: 'another secret of at least 32 bytes' }));
    await page.getByText('not valid here').waitFor();
    await paste(await tokenOf());
    await loaded(page);
    assert.match(page.url(), /#\/sandboxes\?sort=-load$/, 'the address is kept');
    const kept = await page.evaluate(() => [document.cookie, JSON.stringify({ ...localStorage }), location.href, history.length]);
    assert.ok(!JSON.stringify(kept).includes('eyJ'), `${kept}`);
    const other = await page.context().newPage();
    await other.goto(worker.url.href);
    await other.getByLabel('Token').waitFor();
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByLabel('Token').waitFor();
    assert.deepEqual(await page.evaluate(() => Object.keys(sessionStorage)), []);

    // The link of `npm start`: the token is in no address and no history, and the name of the window is cleared.
    const local = await startBrowser(t);
    const [started] = local.pages();
    await started.goto(await signIn(worker.url.origin, await tokenOf()));
    await loaded(started);
    assert.equal(new URL(started.url()).origin, worker.url.origin);
    assert.deepEqual(await started.evaluate(() => [window.name, location.search, location.hash]), ['', '', '']);

    // It expires while the page is open.
    const short = await open(t, 'fleet', { token: await tokenOf({ ttl: 4 }), expected: /401/ });
    await short.page.waitForSelector('.figures');
    // Clocks may differ by 5 s.
    await short.page.waitForTimeout(10_000);
    await short.page.goto(new URL('/#/alerts', worker.url).href);
    await short.page.getByText('Your token has expired').waitFor();

    const narrow = await open(t, 'fleet', { token: await tokenOf({ sandbox: 'made-up-00001' }), expected: /403/ });
    await narrow.page.getByRole('heading', { name: 'made-up-00001' }).waitFor();
    assert.deepEqual(await narrow.page.locator('header nav a').allInnerTexts(), ['Sandbox', 'Alerts', 'Absences']);
    await narrow.page.goto(new URL('/#/sandboxes/made-up-00002', worker.url).href);
    await narrow.page.getByText('Your token may see one sandbox only').first().waitFor();

    // Behind Access, the browser has no token: the edge adds it to each request.
    const [behind] = (await startBrowser(t)).pages();
    const authorization = `Bearer ${await tokenOf({ sandbox: 'made-up-00001' })}`;
    await behind.route('**/api/**', (route) => route.continue({ headers: { ...route.request().headers(), authorization } }));
    await behind.goto(worker.url.href);
    await behind.getByRole('heading', { name: 'made-up-00001' }).waitFor();
    assert.deepEqual(await behind.locator('header nav a').allInnerTexts(), ['Sandbox', 'Alerts', 'Absences']);
  });

  test('a killed agent shows as silent, without a reload', async (t) => {
    const quick = await startWorker({ page: true, vars: { SILENT_AFTER: '10s', WATCH_TICK: '5s' } }, t);
    const { authorization, 'x-kiloclaw-gateway-token': token } = credentials('a') as Record<string, string>;
    const agent = spawn(AGENT, ['run', '--initial-delay', '0', '--interval', '1', '--jitter', '0', '--', 'sleep', '600'], {
      stdio: 'ignore',
      env: {
        ...process.env,
        KILOCLAW_CHECKIN_URL: String(new URL(CHECK_IN_PATH, quick.url)),
        KILOCLAW_SANDBOX_ID: 'a',
        KILOCODE_API_KEY: authorization.replace('Bearer ', ''),
        OPENCLAW_GATEWAY_TOKEN: token,
      },
    });
    t.after(() => agent.kill('SIGKILL'));
    await quick.points(1);
    const browser = await startBrowser(t);
    const [page] = browser.pages();
    await page.addInitScript((token) => sessionStorage.setItem('kiloclaw-token', token), WRITER);
    await page.goto(quick.url.href);
    const figure = (label: string, value: string) =>
      page.locator('.figure', { hasText: label }).filter({ hasText: value }).waitFor({ timeout: 90_000 });
    await figure('reporting', '1');
    agent.kill('SIGKILL');
    await figure('silent', '1');
    await page.locator('[aria-label="What needs attention"]', { hasText: 'a' }).waitFor({ timeout: 60_000 });
  });

  test('repeats its requests every 30 s with their etag, but not while it is hidden or offline', async (t) => {
    const { page, requests } = await open(t, 'absences');
    await page.clock.install();
    await page.reload();
    await loaded(page);
    const requested = () => requests.filter((path) => path.startsWith('GET /api/absences')).length;
    const first = requested();
    const hasRequested = async (count: number, why: string) => {
      for (let i = 0; i < 50 && requested() < count; i++) await delay(20);
      await delay(200);
      assert.equal(requested(), count, why);
    };
    await page.clock.runFor(31_000);
    await hasRequested(first + 1, 'after 30 s');
    const look = (hidden: boolean) =>
      page.evaluate((hidden) => {
        Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
        document.dispatchEvent(new Event('visibilitychange'));
      }, hidden);
    await look(true);
    await page.clock.runFor(300_000);
    await hasRequested(first + 1, 'not while it is hidden');
    await look(false);
    await look(false);
    await page.clock.runFor(1);
    await hasRequested(first + 2, 'once when it is visible again');
    await page.evaluate(() => {
      for (let i = 0; i < 3; i++) window.dispatchEvent(new Event('online'));
    });
    await page.clock.runFor(1);
    await hasRequested(first + 3, 'once when it is online again');
    await look(true);
    await page.evaluate(() => window.dispatchEvent(new Event('online')));
    await page.clock.runFor(1);
    await hasRequested(first + 3, 'not when it is online again but hidden');
    await look(false);
    await page.clock.runFor(1);
    await hasRequested(first + 4, 'but when it is visible again');
    await page.clock.runFor(31_000);
    await hasRequested(first + 5, 'and all this sets only one timer');
    // A report has an etag.
    const fleet = await open(t, 'fleet');
    await loaded(fleet.page);
    const answer = fleet.page.waitForResponse((response) => response.url().includes('/api/fleet?') && response.request().headers()['if-none-match'] !== undefined);
    await fleet.page.evaluate(() => window.dispatchEvent(new Event('online')));
    assert.ok([200, 304].includes((await answer).status()));
  });

  test('explains failures, and marks old data', async (t) => {
    const { page } = await open(t, 'fleet', { expected: /Failed to load resource|ERR_/ });
    await loaded(page);
    await page.context().setOffline(true);
    await page.evaluate(() => window.dispatchEvent(new Event('online')));
    await page.getByText('You are offline').first().waitFor();
    assert.ok((await page.locator('.old .figures').count()) === 1, 'the data are still there');
    await page.context().setOffline(false);
    await page.evaluate(() => window.dispatchEvent(new Event('online')));
    await page.locator('.problem').first().waitFor({ state: 'detached' });

    const refuse = (status: number, body: object) =>
      page.route(/api\/alerts/, (route) => route.fulfill({ status, contentType: 'application/json', body: JSON.stringify(body) }));
    await refuse(503, { error: 'Reports are misconfigured', code: 'misconfigured', setting: 'AE_API_TOKEN' });
    await page.goto(new URL('/#/alerts', worker.url).href);
    await page.getByText('AE_API_TOKEN').waitFor();
    await page.unroute(/api\/alerts/);
    await page.getByRole('button', { name: 'Try again' }).click();
    await page.waitForSelector('[aria-label="Alerts"]');
    await page.goto(new URL('/#/sandboxes/nobody', worker.url).href);
    await page.getByText('It did not check in within this window').first().waitFor();
    await page.goto(new URL('/#/nonsense', worker.url).href);
    await page.getByText('There is no such view').waitFor();

    const empty = await startWorker({ page: true }, t);
    await page.goto(empty.url.href);
    await page.evaluate((token) => sessionStorage.setItem('kiloclaw-token', token), WRITER);
    await page.reload();
    await page.getByText('No check-in yet').waitFor();
  });

  test('shows texts of machines harmlessly and legibly', async (t) => {
    const ids = ['<img src=x onerror=alert(1)>', 'a\u202ecod.exe', 'x'.repeat(96), '🦀'.repeat(24), "it's \"odd\" & \\ %2F/../?#"];
    const hostile = await startWorker({ page: true }, t);
    const now = Date.now();
    await hostile.insert(
      ids.map((id) => ({
        timestamp: now - 1_000,
        index1: id,
        blob1: id,
        blob2: '\u202e1.0\u0007',
        blob3: '<script>alert(2)</script>',
        blob6: 'crashed'.repeat(20),
        blob7: '\u{1f1e9}\u{1f1ea}'.repeat(20),
        blob8: 'm'.repeat(1_024),
        blob9: `</td><svg onload=alert(3)>${'é'.repeat(500)}`,
        double1: 9,
      })),
    );
    const browser = await startBrowser(t, { viewport: { width: 360, height: 740 } });
    const [page] = browser.pages();
    page.on('dialog', () => assert.fail('a dialog'));
    await page.addInitScript((token) => sessionStorage.setItem('kiloclaw-token', token), WRITER);
    for (const view of ['fleet', 'sandboxes', ...ids.map((id) => `sandboxes/${encodeURIComponent(id)}`)]) {
      await page.goto(new URL(`/#/${view}`, hostile.url).href);
      await loaded(page);
      const { wide, images, text } = await page.evaluate(() => ({
        wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
        images: document.querySelectorAll('main img, main svg, main script').length,
        text: document.body.innerText,
      }));
      assert.deepEqual({ wide, images }, { wide: false, images: 0 }, view);
      assert.doesNotMatch(text, /[\u202e\u0007]/);
      if (view.startsWith('sandboxes/')) assert.equal(await page.locator('h1').count(), 1);
    }
    await page.goto(new URL('/#/sandboxes', hostile.url).href);
    await page.getByRole('link', { name: 'a\\u{202e}cod.exe' }).click();
    await page.getByRole('heading', { name: 'a\\u{202e}cod.exe' }).waitFor();
    // No URL can contain this id.
    await page.goto(new URL('/#/sandboxes/..', hostile.url).href);
    await page.getByRole('link', { name: 'its row in the list' }).click();
    await page.getByText('No sandbox matches').waitFor();
  });

  test('every view works at every size and in both schemes, by keyboard, and axe finds nothing', async (t) => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    for (const dark of [false, true]) {
      const { page } = await open(t, 'fleet', { dark, width: 1280 });
      await page.emulateMedia({ reducedMotion: 'reduce' });
      for (const view of VIEWS) {
        await page.goto(new URL(`/#/${view}`, worker.url).href);
        await loaded(page);
        for (const [width, height] of SIZES) {
          await page.setViewportSize({ width, height });
          const [needed, there] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
          assert.ok(needed <= there, `${view} needs ${needed} of ${there} px`);
          // axe runs outside the page's policy.
          await page.evaluate(AXE);
          const { violations } = await page.evaluate(() => (window as any).axe.run());
          assert.deepEqual(
            violations.map(({ id, nodes }: any) => [id, nodes.map(({ html }: any) => html).slice(0, 3)]),
            [],
            `${view}, ${width} px, ${dark ? 'dark' : 'light'}`,
          );
          const name = `${view.replace('/', '-')}-${width}-${dark ? 'dark' : 'light'}.png`;
          await page.screenshot({ path: `${SCREENSHOTS}${name}`, fullPage: width < 3_840 });
        }
      }
    }
    const { page } = await open(t, 'fleet');
    await loaded(page);
    const names: string[] = [];
    for (let i = 0; i < 8; i++) {
      await page.keyboard.press('Tab');
      names.push(await page.evaluate(() => document.activeElement?.textContent?.trim() ?? ''));
    }
    assert.deepEqual(names.slice(0, 8), ['Skip to the content', 'Kiloclaw', 'Fleet', 'Sandboxes', 'Alerts', 'Absences', '◐', 'Sign out']);
    await page.getByRole('button', { name: 'Switch between dark and light' }).press('Enter');
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'dark');
  });
});
