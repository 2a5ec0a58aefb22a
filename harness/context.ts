/** Servers and folders that end with a test, or with a program. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import type { AddressInfo, Server } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';

/** A test, `{ after }` for a whole file of tests, or the argument that `withContext` passes. */
export interface Context {
  after(end: () => unknown): void;
}

/** Runs `main` outside a test; afterwards ends what `main` started, the latest first, even if `main` fails. */
export async function withContext<T>(main: (context: Context) => Promise<T>): Promise<T> {
  const ends: (() => unknown)[] = [];
  try {
    return await main({ after: (end) => void ends.unshift(end) });
  } finally {
    for (const end of ends) await end();
  }
}

/** Listens on a free port of this machine; returns the port. */
export async function listen(
  context: Context,
  server: Server & { closeAllConnections?(): void },
  host = '127.0.0.1',
): Promise<number> {
  server.listen(0, host);
  await once(server, 'listening');
  context.after(() => {
    server.close();
    server.closeAllConnections?.();
  });
  return (server.address() as AddressInfo).port;
}

/** Creates a temporary folder; returns its path. */
export function temporaryFolder(context: Context): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'kiloclaw-'));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
