/**
 * The JavaScript side of a check-in: moves data between the runtime and the contract, and decides nothing.
 * Crossings between JavaScript and wasm take most of a check-in's CPU time, so each crossing carries everything that
 * the next step needs, never a single header or value. `tests/budget.test.ts` counts the crossings.
 */
import { authenticate, configure, record, route, wire, wrongKey } from 'wasm';

import { handOn, isForwarded } from './forward.js';
import { call, instance } from './instance.js';
import { EMPTY, refuse } from './response.js';

const ACCEPTED = { status: 204, headers: EMPTY };

const [PATH, DRY_RUN, GATEWAY_TOKEN, FORWARD, BODY_LIMIT] = wire();

/** The `env` that `configure` has read, the instance that read it, and the Worker that gets accepted check-ins. */
let configured = {};

/** What `refuse` needs for a wrong key, after the first of them. */
let refusal;

/**
 * Handles every request.
 *
 * @param {Request} request
 * @param {object} env
 * @param {{ waitUntil(promise: Promise<unknown>): void }} context
 * @returns {Promise<Response> | Response}
 */
export function fetch(request, env, context) {
  const query = queryAt(request.url, PATH);
  if (query === undefined) return step(env, route, request, env);
  const { headers } = request;
  const header = (name) => headers.get(name) ?? undefined;
  const token = header(GATEWAY_TOKEN);
  const dryRun = query === '' ? undefined : (new URLSearchParams(query).get(DRY_RUN) ?? undefined);
  const length = headers.get('content-length');
  const size = length === null ? undefined : Number(length);
  const post = request.method === 'POST';
  const isDryRun = step(env, authenticate, post, header('authorization'), token, dryRun, size);
  // Machines with an old key keep sending, so the texts for a wrong key cross only once.
  if (isDryRun === undefined) return refuse(...(refusal ??= call(wrongKey)));
  if (typeof isDryRun !== 'boolean') return isDryRun;

  const answer = (body, size) => {
    const response = step(env, record, body, size, token, header('fly-region'), isDryRun);
    const { service } = configured;
    if (service !== undefined && !isDryRun && !isForwarded(request)) {
      const forwarded = handOn(service, request, body, response);
      context?.waitUntil(forwarded);
    }
    return response ?? new Response(null, ACCEPTED);
  };
  // A body that breaks off is not JSON.
  const unreadable = () => answer('', 0);
  return size === undefined
    ? readAtMost(request.body, BODY_LIMIT).then(
        (bytes) => answer(decoder.decode(bytes), bytes.length),
        unreadable,
      )
    : request.text().then((body) => answer(body, size), unreadable);
}

/** Calls into wasm. First reads the bindings if they, or the instance of the module, are new. */
function step(env, run, ...input) {
  const current = instance();
  if (env !== configured.env || current !== configured.instance) {
    call(configure, env);
    configured = { env, instance: current, service: env[FORWARD] };
  }
  return call(run, ...input);
}

const decoder = new TextDecoder();

/** The query of a URL with this path; undefined for another path. Parsing the URL would cost more. */
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
