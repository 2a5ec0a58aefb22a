/** Chromium, driven by playwright-core: `tools/setup --browser` installs it. */
import { existsSync } from 'node:fs';

import { chromium, type BrowserContext } from 'playwright-core';

import type { Context } from './context.ts';

/** The executable, if there is one: `CHROMIUM`, or where packages put it. */
export const CHROMIUM = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/google-chrome'].find(
  (file) => file !== undefined && existsSync(file),
);

/** Starts a browser with a profile of its own; it ends with `context`. */
export async function startBrowser(
  context: Context,
  options: Parameters<typeof chromium.launchPersistentContext>[1] = {},
): Promise<BrowserContext> {
  // Without a path, playwright creates a temporary profile and removes it.
  const browser = await chromium.launchPersistentContext('', {
    executablePath: CHROMIUM,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
    locale: 'en-GB',
    timezoneId: 'Europe/Berlin',
    ...options,
  });
  context.after(() => browser.close());
  return browser;
}
