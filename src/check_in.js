/**
 * The JavaScript side of a check-in: moves data between the runtime and the contract, and decides nothing.
 * Most of a check-in's CPU time is spent crossing between JavaScript and wasm, so each crossing carries everything
 * that the next step needs, never a single header or value. `tests/budget.test.ts` counts them.
 */

import { waitUntil } from 'cloudflare:workers';

// The runtime copies a Headers object natively; it would convert a plain object for each check-in.
const ACCEPTED = { status: 204, headers: new Headers({ 'x-content-type-options': 'nosniff' }) };

/**
 * Makes the function that handles every request.
 *
 * @param {string[]} names the check-in's path, the query parameter for a dry run, the gateway token's header, and the
 *   optional binding of a Worker that accepted check-ins are handed on to
 * @param {number} limit maximum size of the body, in bytes
 * @param {(request: Request, env: object) => Promise<Response>} route answers everything else
 * @param {(env: object) => void} configure reads the bindings; called when `env` changes
 * @param {(post: boolean, authorization?: string, token?: string, dryRun?: string, size?: number) =>
 *   boolean | Response} authenticate checks what needs no body; returns whether it is a dry run, or a refusal
 * @param {(body: string, size: number, token: string | undefined, region: string | undefined,
 *   isDryRun: boolean) => Promise<Response> | Response | undefined} record checks the rest and writes the
 *   data point
 * @returns {(request: Request, env: object) => Promise<Response> | Response}
 */
export function handler([path, parameter, tokenHeader, forward], limit, route, configure, authenticate, record) {
  let configured;
  let service;

  return (request, env) => {
    const query = queryAt(request.url, path);
    if (query === undefined) return route(request, env);
    if (env !== configured) {
      configure(env);
      configured = env;
      service = env[forward];
    }
    const { headers } = request;
    const header = (name) => headers.get(name) ?? undefined;
    const token = header(tokenHeader);
    const dryRun =
      query === '' ? undefined : (new URLSearchParams(query).get(parameter) ?? undefined);
    const length = headers.get('content-length');
    const size = length === null ? undefined : Number(length);
    const post = request.method === 'POST';
    const isDryRun = authenticate(post, header('authorization'), token, dryRun, size);
    if (typeof isDryRun !== 'boolean') return isDryRun;

    const answer = (body, size) => {
      const response = record(body, size, token, header('fly-region'), isDryRun);
      if (service !== undefined && !isDryRun && !headers.has(FORWARDED)) handOn(service, request, body, response);
      return response ?? new Response(null, ACCEPTED);
    };
    // A body that breaks off is not JSON.
    const unreadable = () => answer('', 0);
    return size === undefined
      ? readAtMost(request.body, limit).then(
          (bytes) => answer(decoder.decode(bytes), bytes.length),
          unreadable,
        )
      : request.text().then((body) => answer(body, size), unreadable);
  };
}

const decoder = new TextDecoder();

/**
 * The query of a URL whose path is `path`, and undefined for any other. Parsing the URL would cost more, and most
 * check-ins have no query.
 */
function queryAt(url, path) {
  const start = url.indexOf('/', 'https://'.length);
  const end = start + path.length;
  if (!url.startsWith(path, start)) return undefined;
  if (url.length === end) return '';
  return url[end] === '?' ? url.slice(end) : undefined;
}

/** The bytes of a body of unknown length; stops reading beyond `limit`. */
async function readAtMost(stream, limit) {
  let bytes = new Uint8Array(1024);
  let length = 0;
  for await (const chunk of stream ?? []) {
    // Doubles: the body may arrive byte by byte.
    if (length + chunk.length > bytes.length) {
      const longer = new Uint8Array(2 * (length + chunk.length));
      longer.set(bytes);
      bytes = longer;
    }
    bytes.set(chunk, length);
    length += chunk.length;
    if (length > limit) break;
  }
  return bytes.subarray(0, length);
}

/** Marks what is handed on. Else a Worker that is bound to itself, by mistake, would hand on without end. */
const FORWARDED = 'x-kiloclaw-forwarded';
/** How long the other Worker has to answer, in milliseconds. */
const FORWARD_TIMEOUT_MS = 10_000;
/** Check-ins that an isolate hands on at a time, each of at most 64 KiB. Further ones count as failed. */
const MAX_IN_FLIGHT = 200;
/** Interval between lines in an isolate's log, in milliseconds. */
const LOG_EVERY_MS = 60_000;

let inFlight = 0;
let failures = 0;
let lastFailure = '';
let loggedAt = -Infinity;

/**
 * Hands a check-in on to another Worker if it is accepted, after the machine has its answer. Whatever that Worker does, it
 * touches no check-in: failures are only counted in the log.
 *
 * @param {{ fetch: typeof fetch }} service
 * @param {Request} request its body is read already
 * @param {string} body
 * @param {Promise<Response> | Response | undefined} answer to the machine; undefined stands for a 204
 */
const handOn = (service, request, body, answer) => waitUntil(send(service, request, body, answer));

async function send(service, request, body, answer) {
  const { status } = (await answer) ?? { status: 204 };
  if (status !== 204) return;
  const failure = inFlight < MAX_IN_FLIGHT ? await attempt(service, request, body) : 'too many at a time';
  if (failure !== undefined) {
    failures += 1;
    lastFailure = failure;
  }
  if (failures === 0 || Date.now() - loggedAt < LOG_EVERY_MS) return;
  console.warn(JSON.stringify({ code: 'forward_failed', count: failures, detail: `FORWARD: ${lastFailure}` }));
  failures = 0;
  loggedAt = Date.now();
}

/** Why the other Worker did not take a check-in, if it did not. */
async function attempt(service, { url, method, headers: original, cf }, body) {
  const headers = new Headers(original);
  // Of the bytes; the text may have lost a byte-order mark.
  headers.delete('content-length');
  headers.set(FORWARDED, '1');
  inFlight += 1;
  try {
    const signal = AbortSignal.timeout(FORWARD_TIMEOUT_MS);
    const response = await service.fetch(url, { method, headers, body, cf, redirect: 'manual', signal });
    await response.body?.cancel();
    return response.ok ? undefined : `answered ${response.status}`;
  } catch (error) {
    return error?.name === 'TimeoutError' ? `no answer within ${FORWARD_TIMEOUT_MS / 1000} s` : 'cannot be reached, or threw';
  } finally {
    inFlight -= 1;
  }
}

/**
 * Whether the rate limiter lets a sandbox check in.
 *
 * @param {{ limit(options: { key: string }): Promise<{ success: boolean }> }} limiter
 * @param {string} key
 * @returns {Promise<boolean>}
 */
export async function limit(limiter, key) {
  const { success } = await limiter.limit({ key });
  return success;
}

/**
 * Writes a data point.
 *
 * @param {{ writeDataPoint(point: object): void }} dataset
 * @param {string} text the index and the blobs, concatenated
 * @param {Uint32Array} ends the end of each in `text`, in UTF-16 code units
 * @param {Float64Array} doubles
 */
export function write(dataset, text, ends, doubles) {
  // Plain loops: iterators over typed arrays cost more than everything else here.
  const texts = [];
  for (let i = 0, start = 0; i < ends.length; start = ends[i], i += 1) {
    texts.push(text.slice(start, ends[i]));
  }
  const numbers = [];
  for (let i = 0; i < doubles.length; i += 1) numbers.push(doubles[i]);
  dataset.writeDataPoint({ indexes: [texts.shift()], blobs: texts, doubles: numbers });
}
