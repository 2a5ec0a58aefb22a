/** A client of the local Analytics Engine. */
import layout from '../crates/check-in/data-point.json' with { type: 'json' };

/** The path of the SQL API, as at `https://api.cloudflare.com`; locally, any account and token are accepted. */
export const SQL_PATH = '/client/v4/accounts/local/analytics_engine/sql';

/** Points per request: well under the store's limit of 64 MiB. */
export const BATCH = 20_000;

/** Writes points into a store; returns their number. */
export async function insert(
  store: string,
  points: Iterable<object>,
  progress: (points: number) => void = () => {},
  batch = BATCH,
): Promise<number> {
  let written = 0;
  let lines: string[] = [];
  const flush = async () => {
    const headers = { 'content-type': 'application/x-ndjson' };
    const response = await fetch(`${store}/points`, { method: 'POST', headers, body: lines.join('\n') });
    if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    written += lines.length;
    lines = [];
    progress(written);
  };
  for (const point of points) {
    lines.push(JSON.stringify(point));
    if (lines.length === batch) await flush();
  }
  if (lines.length > 0) await flush();
  return written;
}

/** Makes the store read all points into memory, as any first query does; returns the milliseconds. */
export async function load(store: string, token: string): Promise<number> {
  const started = performance.now();
  const init = { method: 'POST', headers: { authorization: `Bearer ${token}` }, body: `SELECT count() FROM ${layout.dataset}` };
  const response = await fetch(`${store}${SQL_PATH}`, init);
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  return performance.now() - started;
}
