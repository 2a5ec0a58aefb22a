import { setTimeout as delay } from 'node:timers/promises';

import type { Worker } from './worker.ts';

/** Starts the watcher like the cron trigger, and waits until it reports a clone: then it has surveyed the fleet. */
export async function startWatcher(worker: Worker, token: string): Promise<void> {
  await fetch(new URL('/cdn-cgi/local/scheduled', worker.url));
  const hasSurveyed = async () => {
    const response = await worker.fetch('/api/watcher', { headers: { authorization: `Bearer ${token}` } });
    return ((await response.json()) as { watch: { open: { clones: number } } }).watch.open.clones > 0;
  };
  while (!(await hasSurveyed())) await delay(1_000);
}
