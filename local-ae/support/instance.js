/** Miniflare with a Worker that writes a data point per request, and a client for the endpoint. */
import { setTimeout as delay } from 'node:timers/promises';

import { Miniflare } from 'miniflare';

export { freePort } from './port.js';

// Returns 204 if `writeDataPoint` returns, or 400 with the error if it throws. In the JSON, bytes are {"bytes":[…]}.
const WRITER = `
  const revive = (key, value) => value?.bytes ? Uint8Array.from(value.bytes) : value;
  export default {
    async fetch(request, env) {
      const point = JSON.parse(await request.text(), revive);
      try {
        env[new URL(request.url).pathname.slice(1)].writeDataPoint(point);
        return new Response(null, { status: 204 });
      } catch ({ name, message }) {
        return Response.json({ name, message }, { status: 400 });
      }
    },
  };`;

// With this variable, all instances would use the same port.
delete process.env.LOCAL_AE_PORT;

/** The timeout for points to arrive; only a failing test takes this long. */
const DEADLINE_MS = 30_000;

/**
 * The options of a Worker with bindings that the plugin provides.
 *
 * @param {Record<string, Record<string, unknown>>} bindings the plugin's options by binding name
 * @param {string} [name]
 * @returns {import('miniflare').WorkerOptions}
 */
export function worker(bindings, name = 'writer') {
  const plugin = { package: 'local-ae', name: 'local-ae' };
  const env = Object.entries(bindings).map(([binding, options]) => [
    binding,
    { type: 'unsafe:analytics_engine', dev: { plugin, options } },
  ]);
  return {
    config: {
      name,
      compatibilityDate: '2026-07-01',
      manifest: {
        mainModule: 'index.js',
        modulesRoot: '/',
        modules: { 'index.js': { type: 'esm', contents: WRITER } },
      },
      env: Object.fromEntries(env),
    },
  };
}

/**
 * @param {import('miniflare').WorkerOptions[]} workers
 * @param {string} [resourcePersistencePath]
 * @param {Pick<import('miniflare').MiniflareOptions, 'log' | 'handleStructuredLogs'>} [logging]
 */
export function miniflare(workers, resourcePersistencePath, logging) {
  return new Miniflare({
    ...logging,
    port: 0,
    enableDevRegistry: false,
    cf: false,
    resourcePersistencePath,
    workers,
  });
}

/**
 * Writes a point through a binding.
 *
 * @param {Miniflare} mf
 * @param {string} binding
 * @param {unknown} point
 */
export async function write(mf, binding, point) {
  const response = await mf.dispatchFetch(`http://writer/${binding}`, {
    method: 'POST',
    body: JSON.stringify(point),
  });
  const body = await response.text();
  return {
    status: response.status,
    error: /** @type {{ name?: string, message?: string }} */ (body === '' ? {} : JSON.parse(body)),
  };
}

/**
 * A point in the endpoint's format.
 *
 * @typedef {object} JsonPoint
 * @property {number} id
 * @property {string} dataset
 * @property {string} timestamp
 * @property {number} [_sample_interval]
 * @property {string} index1
 * @property {string[]} blobs
 * @property {(number | string)[]} doubles
 */

/**
 * @param {number} port
 * @param {string} [query]
 * @returns {Promise<{ points: JsonPoint[], last: number }>}
 */
export async function read(port, query = '') {
  const response = await fetch(`http://127.0.0.1:${port}/points${query}`);
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return /** @type {Promise<{ points: JsonPoint[], last: number }>} */ (response.json());
}

/**
 * Waits until `count` points are stored, since points arrive after the Worker's response.
 *
 * @param {number} port
 * @param {number} count
 */
export async function stored(port, count) {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    const { points } = await read(port);
    if (points.length >= count) return points;
    if (Date.now() > deadline) throw new Error(`${points.length} of ${count} points arrived`);
    await delay(10);
  }
}

/** @param {number} port */
export async function reset(port) {
  const response = await fetch(`http://127.0.0.1:${port}/points`, { method: 'DELETE' });
  if (response.status !== 204) throw new Error(`${response.status}: ${await response.text()}`);
}

/**
 * Adds points through the endpoint, without a binding.
 *
 * @param {number} port
 * @param {Record<string, unknown>[]} points
 * @returns {Promise<AnyResponse>}
 */
export function insert(port, points) {
  return fetch(`http://127.0.0.1:${port}/points`, {
    method: 'POST',
    headers: { 'content-type': 'application/x-ndjson' },
    body: points.map((point) => JSON.stringify(point)).join('\n'),
  });
}

/** @typedef {Omit<Response, 'json'> & { json(): Promise<any> }} AnyResponse */

/**
 * Sends a query as a client of the cloud does.
 *
 * @param {number} port
 * @param {string} sql
 * @param {string} [token]
 * @returns {Promise<AnyResponse>}
 */
export function query(port, sql, token = 'any') {
  return fetch(`http://127.0.0.1:${port}/client/v4/accounts/any/analytics_engine/sql`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}` },
    body: sql,
  });
}

/**
 * Runs a query and returns its rows.
 *
 * @param {number} port
 * @param {string} sql
 * @returns {Promise<Record<string, any>[]>}
 */
export async function rows(port, sql) {
  const response = await query(port, sql);
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return (await response.json()).data;
}

/**
 * @param {number} port
 * @returns {Promise<import('../api.js').Status>}
 */
export async function status(port) {
  const response = await fetch(`http://127.0.0.1:${port}/status`);
  return /** @type {any} */ (response.json());
}
