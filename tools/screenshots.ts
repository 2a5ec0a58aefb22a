/** `npm run screenshots`: the pictures of the page in docs/, of a made-up fleet. */
import { statSync } from 'node:fs';
import path from 'node:path';

import { startBrowser } from '../harness/browser.ts';
import { JWT_SECRET } from '../harness/check-in.ts';
import { command, Failure } from '../harness/command.ts';
import { withContext, type Context } from '../harness/context.ts';
import { history } from '../harness/made-up-fleet.ts';
import { insert } from '../harness/store.ts';
import { mint } from '../harness/token.ts';
import { startWatcher } from '../harness/watcher.ts';
import { startWorker } from '../harness/worker.ts';

const FOLDER = path.join(import.meta.dirname, '../docs');
const SIZE = { width: 1_280, height: 965 };
const SANDBOXES = 200;
/** Limit for each picture, because the README loads them. */
const MAX_BYTES = 150_000;

async function takeScreenshots(context: Context): Promise<void> {
  const worker = await startWorker({ page: true, vars: { WATCH_TICK: '5s' } }, context);
  await insert(worker.store, history({ sandboxes: SANDBOXES, hours: 24, seed: 1, now: Date.now() }));
  const token = await mint({ sub: 'ops', ttl: 43_200 }, { JWT_SECRET });
  await startWatcher(worker, token);
  for (const colorScheme of ['light', 'dark'] as const) {
    const browser = await startBrowser(context, { viewport: SIZE, colorScheme, reducedMotion: 'reduce' });
    const [page] = browser.pages();
    await page.addInitScript((token) => sessionStorage.setItem('kiloclaw-token', token), token);
    await page.goto(worker.url.href);
    await page.waitForSelector('.plot canvas');
    await page.waitForSelector('.health .state.ok');
    const file = path.join(FOLDER, `page-${colorScheme}.png`);
    await page.screenshot({ path: file });
    const { size } = statSync(file);
    if (size > MAX_BYTES) throw new Failure(`${file} has ${size} bytes, the limit is ${MAX_BYTES}`);
    console.log(`screenshots: wrote ${file}, ${size} bytes`);
  }
}

await command('screenshots', () => withContext(takeScreenshots));
