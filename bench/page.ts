/**
 * Measures the page in Chromium over a day of a large fleet in the local Analytics Engine. Run
 * `tools/setup --browser node bench/page.ts`, after `npm run build` and `npm run engine`; it prints a section of results.md.
 *
 * Each round asks twice: first when no answer is cached, so that the times include the queries; then at once again, when
 * the Worker's cache has the answers, so that the times are those of the page alone.
 */
import { setTimeout as delay } from 'node:timers/promises';

import type { Page } from 'playwright-core';

import { startBrowser } from '../harness/browser.ts';
import { AE_API_TOKEN, JWT_SECRET } from '../harness/check-in.ts';
import { history, insert } from '../harness/made-up-fleet.ts';
import { table } from '../harness/table.ts';
import { mint } from '../harness/token.ts';
import { startWorker, type Worker } from '../harness/worker.ts';
import layout from '../crates/check-in/data-point.json' with { type: 'json' };

const SANDBOXES = 10_000;
const HOURS = 24;
const ROUNDS = 5;
/** Longer than a report is fresh. */
const STALE_MS = 16_000;
const ROW = '[aria-label="Sandboxes"] tbody a';

/** In ms: until the first new frame, until the content is painted, and the slowest response before that. */
interface Times {
  readonly frame: number;
  readonly content: number;
  readonly response: number;
}

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!;

/** Notes when the figures and the charts of the fleet view are there; runs before the page's script. */
function watch(): void {
  const seen: Record<string, number> = {};
  Object.assign(globalThis, { seen });
  const look = () => {
    for (const selector of ['.figures', '.plot canvas']) {
      if (seen[selector] === undefined && document.querySelector(selector)) {
        seen[selector] = 0;
        // After the frame that shows it.
        requestAnimationFrame(() => setTimeout(() => (seen[selector] = performance.now())));
      }
    }
  };
  new MutationObserver(look).observe(document, { childList: true, subtree: true });
}

/** Opens the fleet view with an empty cache. */
async function open(page: Page, url: string): Promise<Times[]> {
  await page.goto(url);
  await page.waitForFunction(() => (globalThis as any).seen['.plot canvas'] > 0);
  const { paint, seen, api } = await page.evaluate(() => ({
    paint: performance.getEntriesByName('first-contentful-paint')[0]!.startTime,
    seen: (globalThis as any).seen as Record<string, number>,
    api: (performance.getEntriesByType('resource') as PerformanceResourceTiming[])
      .filter(({ name }) => name.includes('/api/'))
      .map(({ name, duration }) => ({ path: new URL(name).pathname, duration })),
  }));
  const response = (path: string) => api.find((entry) => entry.path === path)?.duration ?? NaN;
  return [
    { frame: paint, content: seen['.figures']!, response: response('/api/fleet') },
    { frame: paint, content: seen['.plot canvas']!, response: response('/api/fleet/history') },
  ];
}

/** Acts, and waits until the first row is that of a sandbox. */
async function act(page: Page, sandbox: string, action: () => Promise<unknown>): Promise<Times> {
  await page.evaluate(
    ({ selector, sandbox }) => {
      let start = 0;
      let frame = 0;
      const began = () => (start ||= performance.now());
      for (const type of ['click', 'change']) addEventListener(type, began, { capture: true, once: true });
      const times = new Promise<Times>((resolve) => {
        const observer = new MutationObserver(() => {
          if (start === 0) return;
          if (frame === 0) requestAnimationFrame(() => setTimeout(() => (frame ||= performance.now())));
          if (document.querySelector(selector)?.textContent !== sandbox) return;
          observer.disconnect();
          requestAnimationFrame(() =>
            setTimeout(() => {
              const content = performance.now();
              const responses = (performance.getEntriesByType('resource') as PerformanceResourceTiming[])
                .filter(({ name, startTime }) => name.includes('/api/sandboxes') && startTime >= start)
                .map(({ duration }) => duration);
              resolve({ frame: (frame || content) - start, content: content - start, response: Math.max(0, ...responses) });
            }),
          );
        });
        observer.observe(document, { childList: true, subtree: true, characterData: true });
      });
      Object.assign(globalThis, { times });
    },
    { selector: ROW, sandbox },
  );
  await action();
  return page.evaluate(() => (globalThis as any).times as Promise<Times>);
}

const STEPS = [
  'the fleet view opens: figures',
  'the fleet view opens: charts',
  'click: another view (50 of 10,000 sandboxes)',
  'click: the next page',
  'a filter (silent)',
];

/** One visit, by a browser with an empty cache. */
async function visit(url: string, token: string): Promise<Times[]> {
  const ends: (() => Promise<void>)[] = [];
  const browser = await startBrowser({ after: (end) => void ends.push(end) }, { viewport: { width: 1_280, height: 900 } });
  try {
    const [page] = browser.pages();
    await page!.addInitScript((token) => sessionStorage.setItem('kiloclaw-token', token), token);
    await page!.addInitScript(watch);
    const opened = await open(page!, url);
    const view = await act(page!, 'made-up-00000', () => page!.getByRole('link', { name: 'Sandboxes', exact: true }).click());
    const next = await act(page!, 'made-up-00050', () => page!.getByRole('button', { name: 'Next page' }).click());
    const filter = await act(page!, 'made-up-00001', () => page!.getByLabel('Silent').selectOption('silent'));
    return [...opened, view, next, filter];
  } finally {
    for (const end of ends) await end();
  }
}

async function fill(worker: Worker): Promise<number> {
  const points = await insert(worker.store, history({ sandboxes: SANDBOXES, hours: HOURS, seed: 1, now: Date.now() }));
  // The first query reads all points into memory.
  const sql = encodeURIComponent(`SELECT count() FROM ${layout.dataset}`);
  await fetch(`${worker.store}/client/v4/accounts/bench/analytics_engine/sql?query=${sql}`, {
    headers: { authorization: `Bearer ${AE_API_TOKEN}` },
  });
  return points;
}

const ends: (() => Promise<void>)[] = [];
try {
  const worker = await startWorker({ page: true, maxRows: 3_000_000 }, { after: (end) => void ends.push(end) });
  const points = await fill(worker);
  const token = await mint({ sub: 'bench', ttl: 3_600 }, { JWT_SECRET });
  const queried: Times[][] = [];
  const cached: Times[][] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    await delay(STALE_MS);
    queried.push(await visit(worker.url.href, token));
    cached.push(await visit(worker.url.href, token));
    console.error(`bench: round ${round + 1} of ${ROUNDS}`);
  }
  const ms = (rounds: readonly Times[][], step: number, of: keyof Times) =>
    `${Math.round(median(rounds.map((times) => times[step]![of])))} ms`;
  const rows = queried[0]!.map((_, i) => [
    STEPS[i]!,
    ...[queried, cached].flatMap((rounds) => (['frame', 'content', 'response'] as const).map((of) => ms(rounds, i, of))),
  ]);
  console.log(`A day of ${SANDBOXES.toLocaleString('en')} sandboxes, ${points.toLocaleString('en')} check-ins; medians of ${ROUNDS}.\n`);
  console.log(table(['', 'first frame', 'content', 'of which response', 'cached: first frame', 'content', 'of which response'], rows));
} finally {
  for (const end of ends) await end();
}
