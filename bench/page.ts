/**
 * Measures the page in Chromium over a day of a large fleet in the local Analytics Engine. Run `npm run build` and
 * `npm run engine`, then `tools/setup --browser node bench/page.ts`; it prints a section of results.md.
 *
 * The store runs queries one after the other. The times include the watcher's queries where they coincide, and those of
 * every report, because no report is cached.
 */
import { setTimeout as delay } from 'node:timers/promises';

import type { Page } from 'playwright-core';

import { startBrowser } from '../harness/browser.ts';
import { AE_API_TOKEN, JWT_SECRET } from '../harness/check-in.ts';
import { withContext, type Context } from '../harness/context.ts';
import { history } from '../harness/made-up-fleet.ts';
import { insert, load } from '../harness/store.ts';
import { table } from '../harness/table.ts';
import { mint } from '../harness/token.ts';
import { startWatcher } from '../harness/watcher.ts';
import { startWorker } from '../harness/worker.ts';
import { median } from './median.ts';

const SANDBOXES = 10_000;
const HOURS = 24;
const ROUNDS = 8;
/** Longer than the Worker caches a report. */
const STALE_MS = 16_000;
const ROW = '[aria-label="Sandboxes"] tbody a';
/** The first figures come from the watcher. The last one comes from a query, and is `…` until then. */
const FIRST = '.figures .value';
const LAST = '.figure:last-child .value';
const CHART = '.plot canvas';

/** Milliseconds from the navigation or the click. */
interface Times {
  /** Until the first frame that reacts, for example with a view that is loading. */
  readonly frame: number;
  /** Until the content is painted. */
  readonly content: number;
  /** The slowest response before that. */
  readonly response: number;
}

/** Records when elements of the fleet view appear; runs before the page's script. */
function watch(selectors: readonly string[]): void {
  const seen: Record<string, number> = {};
  Object.assign(globalThis, { seen });
  const look = () => {
    for (const selector of selectors) {
      const element = document.querySelector(selector);
      if (seen[selector] === undefined && element && element.textContent !== '…') {
        seen[selector] = 0;
        // Runs after the frame that shows the element.
        requestAnimationFrame(() => setTimeout(() => (seen[selector] = performance.now())));
      }
    }
  };
  new MutationObserver(look).observe(document, { childList: true, subtree: true, characterData: true });
}

/** Opens the fleet view with an empty cache. */
async function open(page: Page, url: string): Promise<Times[]> {
  await page.goto(url);
  await page.waitForFunction((chart) => (globalThis as any).seen[chart] > 0, CHART);
  const { paint, seen, api } = await page.evaluate(() => ({
    paint: performance.getEntriesByName('first-contentful-paint')[0]!.startTime,
    seen: (globalThis as any).seen as Record<string, number>,
    api: (performance.getEntriesByType('resource') as PerformanceResourceTiming[])
      .filter(({ name }) => name.includes('/api/'))
      .map(({ name, duration }) => ({ path: new URL(name).pathname, duration })),
  }));
  const response = (path: string) => api.find((entry) => entry.path === path)?.duration ?? NaN;
  return [
    { frame: paint, content: seen[FIRST]!, response: response('/api/watcher') },
    { frame: paint, content: seen[LAST]!, response: response('/api/fleet') },
    { frame: paint, content: seen[CHART]!, response: response('/api/fleet/history') },
  ];
}

/** Runs `action`, and waits for an element with `text`, or with any text but `…` if that is undefined. */
async function act(page: Page, selector: string, text: string | undefined, action: () => Promise<unknown>): Promise<Times> {
  await page.evaluate(
    ({ selector, text }) => {
      let start = 0;
      let frame = 0;
      const began = () => (start ||= performance.now());
      for (const type of ['click', 'change']) addEventListener(type, began, { capture: true, once: true });
      const times = new Promise<Times>((resolve) => {
        const observer = new MutationObserver(() => {
          if (start === 0) return;
          if (frame === 0) requestAnimationFrame(() => setTimeout(() => (frame ||= performance.now())));
          const found = document.querySelector(selector)?.textContent;
          if (found === undefined || found === '…' || (text !== undefined && found !== text)) return;
          observer.disconnect();
          requestAnimationFrame(() =>
            setTimeout(() => {
              const content = performance.now();
              const responses = (performance.getEntriesByType('resource') as PerformanceResourceTiming[])
                .filter(({ name, startTime }) => name.includes('/api/') && startTime >= start)
                .map(({ duration }) => duration);
              resolve({ frame: (frame || content) - start, content: content - start, response: Math.max(0, ...responses) });
            }),
          );
        });
        observer.observe(document, { childList: true, subtree: true, characterData: true });
      });
      Object.assign(globalThis, { times });
    },
    { selector, text },
  );
  await action();
  return page.evaluate(() => (globalThis as any).times as Promise<Times>);
}

const STEPS = [
  'the fleet view opens: reporting, silent, away, what needs attention',
  'the fleet view opens: all figures',
  'the fleet view opens: charts',
  'click: sandboxes (50 of 10,000)',
  'click: the next page',
  'select: silent ones',
  'click: one sandbox',
  'click: alerts',
  'click: absences',
  'click: fleet',
  'select: a window of 6 hours',
];

/** One visit, by a browser with an empty cache. */
async function visit(url: string, token: string, context: Context): Promise<Times[]> {
  const browser = await startBrowser(context, { viewport: { width: 1_280, height: 900 } });
  const [page] = browser.pages();
  await page!.addInitScript((token) => sessionStorage.setItem('kiloclaw-token', token), token);
  await page!.addInitScript(watch, [FIRST, LAST, CHART]);
  const link = (name: string) => () => page!.locator('header').getByRole('link', { name, exact: true }).click();
  const times = await open(page!, url);
  times.push(await act(page!, ROW, 'made-up-00000', link('Sandboxes')));
  times.push(await act(page!, ROW, 'made-up-00050', () => page!.getByRole('button', { name: 'Next page' }).click()));
  times.push(await act(page!, ROW, 'made-up-00001', () => page!.getByLabel('Silent').selectOption('silent')));
  times.push(await act(page!, 'dl', undefined, () => page!.locator(ROW).first().click()));
  times.push(await act(page!, '[aria-label="Alerts"] tbody', undefined, link('Alerts')));
  times.push(await act(page!, 'main .panel table, main .panel p', undefined, link('Absences')));
  // Immediate, because the page keeps the data.
  times.push(await act(page!, FIRST, undefined, link('Fleet')));
  times.push(await act(page!, LAST, undefined, () => page!.getByLabel('Window').selectOption('6h')));
  return times;
}

await withContext(async (context) => {
  const worker = await startWorker({ page: true, maxRows: 3_000_000 }, context);
  const points = await insert(worker.store, history({ sandboxes: SANDBOXES, hours: HOURS, seed: 1, now: Date.now() }));
  await load(worker.store, AE_API_TOKEN);
  const token = await mint({ sub: 'bench', ttl: 3_600 }, { JWT_SECRET });
  await startWatcher(worker, token);
  const rounds: Times[][] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    await delay(STALE_MS);
    rounds.push(await withContext((context) => visit(worker.url.href, token, context)));
    console.error(`bench: round ${round + 1} of ${ROUNDS}`);
  }
  const max = (values: readonly number[]) => Math.max(...values);
  const ms = (step: number, of: keyof Times, pick = median) => `${Math.round(pick(rounds.map((times) => times[step]![of])))} ms`;
  const rows = STEPS.map((step, i) => [step, ms(i, 'frame'), ms(i, 'frame', max), ms(i, 'content'), ms(i, 'content', max), ms(i, 'response')]);
  console.log(`A day of ${SANDBOXES.toLocaleString('en')} sandboxes, ${points.toLocaleString('en')} check-ins; ${ROUNDS} rounds.\n`);
  console.log(table(['', 'first frame', 'slowest', 'content', 'slowest', 'of which response'], rows));
});
