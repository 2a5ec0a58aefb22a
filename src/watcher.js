/**
 * The watcher's access to the runtime: its object's storage and alarm, requests to the object, and requests to
 * channels. JavaScript awaits, and Rust decides what is next: if anything in the isolate panics, a pending future in
 * Rust is never settled, and the alarm would not fire again.
 */
import { query } from './analytics.js';

/** The name of the only object. */
const NAME = 'watcher';

/**
 * Sends a request to the object.
 *
 * @param {{ idFromName(name: string): object, get(id: object): { fetch: typeof fetch } }} namespace
 * @param {unknown[]} parts of the request
 * @returns {Promise<Response>}
 */
export const ask = (namespace, parts) =>
  namespace
    .get(namespace.idFromName(NAME))
    .fetch('https://watcher/', { method: 'POST', body: JSON.stringify(parts) });

/**
 * A request's body as text; reads at most `limit` bytes.
 *
 * @param {Request} request
 * @param {number} limit in bytes
 * @returns {Promise<string | undefined>} undefined beyond the limit; empty if the body breaks off or is not UTF-8
 */
export async function readBody(request, limit) {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let length = 0;
  let text = '';
  try {
    for await (const chunk of request.body ?? []) {
      length += chunk.length;
      if (length > limit) return undefined;
      text += decoder.decode(chunk, { stream: true });
    }
    return text + decoder.decode();
  } catch {
    return '';
  }
}

/**
 * Parses a planned absence. Only checks its form; the contract checks its values. A derived parser in Rust would be
 * larger than this file.
 *
 * @param {string} body JSON
 * @returns {(string | number | undefined)[]} the region, seconds, the reason, then the sandboxes' ids; without region
 *   and ids, the absence is of all
 */
export function absence(body) {
  let value;
  try {
    value = JSON.parse(body);
  } catch {
    throw new Error('JSON');
  }
  const { sandboxIds, region, all, forSeconds, reason = '', ...others } = Object(value);
  const isText = (text) => typeof text === 'string';
  const scopes = [
    Array.isArray(sandboxIds) && sandboxIds.length > 0 && sandboxIds.every(isText),
    isText(region),
    all === true,
  ];
  const [unknown] = Object.keys(others);
  if (unknown !== undefined) throw new Error(`no member "${unknown.slice(0, 96)}"`);
  const given = [sandboxIds, region, all].filter((scope) => scope !== undefined);
  if (Array.isArray(value) || given.length !== 1 || !scopes.includes(true)) {
    throw new Error(
      'an object with one of "sandboxIds": [id, ...], "region": "..." and "all": true, "forSeconds", and optionally "reason"',
    );
  }
  if (forSeconds !== null && !Number.isSafeInteger(forSeconds)) {
    throw new Error('"forSeconds", an integer, or null for "until the next check-in"');
  }
  if (!isText(reason)) throw new Error('"reason", a string');
  return [region, forSeconds ?? undefined, reason, ...(sandboxIds ?? [])];
}

/**
 * Runs statements in one transaction.
 *
 * @param {{ sql: { exec(sql: string, ...params: unknown[]): { raw(): Iterable<unknown[]> } },
 *   transactionSync<T>(run: () => T): T }} storage
 * @param {[string, ...(string | number)[]][]} statements each with its parameters
 * @returns {string[]} all values of all rows of all statements, in their order
 */
export const transact = (storage, statements) =>
  storage.transactionSync(() =>
    statements.flatMap(([sql, ...params]) =>
      [...storage.sql.exec(sql, ...params).raw()].flat().map((value) => String(value ?? '')),
    ),
  );

/**
 * Sends a message or a ping. Drops the runtime's error texts, which may contain the URL, a secret.
 *
 * @param {string} url
 * @param {string[]} headers names and values in turn
 * @param {string | undefined} body of a POST; without one it is a GET
 * @param {number} limit in milliseconds
 * @returns {Promise<[number, string]>} the response's status and `retry-after`; the status is 0 after a timeout, and -1
 *   if the request failed. Never rejected
 */
async function send(url, headers, body, limit) {
  try {
    const response = await fetch(url, {
      method: body === undefined ? 'GET' : 'POST',
      headers: Object.fromEntries(headers.flatMap((name, i) => (i % 2 === 0 ? [[name, headers[i + 1]]] : []))),
      body,
      redirect: 'manual',
      signal: AbortSignal.timeout(limit),
    });
    await response.body?.cancel();
    return [response.status, response.headers.get('retry-after') ?? ''];
  } catch (error) {
    return [error?.name === 'TimeoutError' ? 0 : -1, ''];
  }
}

/**
 * Writes a canary.
 *
 * @param {{ writeDataPoint(point: object): void }} dataset
 * @param {number} number
 */
export const writeCanary = (dataset, number) =>
  dataset.writeDataPoint({ indexes: ['canary'], doubles: [number] });

/**
 * Drives the object.
 *
 * @param {{ storage: { getAlarm(): Promise<number | null>, setAlarm(at: number): Promise<void> },
 *   waitUntil(promise: Promise<unknown>): void }} context the object's state
 * @param {(name: string, argument?: unknown) => any} step a synchronous step in Rust; throws if it fails, and always
 *   after a panic in the isolate
 * @returns {{ alarm(): Promise<void>, fetch(request: Request): Promise<Response> }}
 */
export function drive(context, step) {
  const { storage } = context;
  /** Names of the tasks that run concurrently with ticks. */
  const running = new Set();
  /** Sets the alarm to `at` in milliseconds since 1970, unless `at` is undefined or the alarm fires earlier. */
  const arm = async (at) => {
    const set = await storage.getAlarm();
    if (at !== undefined && (set === null || set > at)) await storage.setAlarm(at);
  };
  /** Sends messages concurrently. If recording one fails, the others are still recorded. */
  const sendAll = async (messages) => {
    const one = async ([message, ...request]) => step('sent', [...message, ...(await send(...request))]);
    const results = await Promise.allSettled(messages.map(one));
    const failed = results.find(({ status }) => status === 'rejected');
    if (failed) throw failed.reason;
    return results.map(({ value }) => value);
  };
  const tick = async () => {
    let queries = step('tick');
    while (queries !== undefined) queries = step('answers', await query(...queries));
  };
  const ping = async () => {
    const request = step('ping');
    if (request !== undefined) step('pinged', await send(...request));
  };
  /** Runs a task concurrently with ticks, so that a slow receiver delays no tick. */
  const beside = (name, run) => {
    if (running.has(name)) return;
    running.add(name);
    const done = run().finally(() => running.delete(name));
    context.waitUntil(done.then(() => arm(step('next'))));
  };

  return {
    async alarm() {
      // First, so that the watcher continues even if a step below fails.
      await arm(step('next tick'));
      await tick();
      beside('ping', ping);
      // These messages are already due; the alarm for the next ones is set afterwards.
      beside('messages', async () => sendAll(step('due messages')));
    },
    async fetch(request) {
      const parts = await request.json();
      await arm(step('next'));
      const answer = step('answer', parts);
      if (answer instanceof Response) return answer;
      const results = await sendAll(answer);
      await arm(step('next'));
      return step('tested', results);
    },
  };
}
