/** Forwards accepted check-ins to another Worker. */

/** Marks forwarded requests. Without it, a Worker that is bound to itself by mistake would forward endlessly. */
const FORWARDED = 'x-kiloclaw-forwarded';
const FORWARD_TIMEOUT_MS = 10_000;
/** Check-ins that an isolate forwards at a time, each of at most 64 KiB. Further ones count as failed. */
const MAX_IN_FLIGHT = 200;
/** Minimum interval between lines in an isolate's log. */
const LOG_EVERY_MS = 60_000;

let inFlight = 0;
let failures = 0;
let lastFailure = '';
let loggedAt = -Infinity;

/** Whether another Worker forwarded this request. */
export const isForwarded = ({ headers }) => headers.has(FORWARDED);

/**
 * Forwards a check-in to another Worker if it was accepted, after the machine has its response. The other Worker cannot
 * affect check-ins: the log only counts failures.
 *
 * @param {{ fetch: typeof fetch }} service
 * @param {Request} request whose body is already read
 * @param {string} body
 * @param {Promise<Response> | Response | undefined} answer to the machine; undefined means a 204
 * @returns {Promise<void>} never rejected
 */
export async function handOn(service, request, body, answer) {
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

/** Forwards one check-in; returns the reason if that fails. */
async function attempt(service, { url, method, headers: original, cf }, body) {
  const headers = new Headers(original);
  // Decoding may have removed a byte-order mark, so the length may differ.
  headers.delete('content-length');
  headers.set(FORWARDED, '1');
  // Bytes: a text would get a content type if the machine sent none.
  const bytes = new TextEncoder().encode(body);
  inFlight += 1;
  try {
    const signal = AbortSignal.timeout(FORWARD_TIMEOUT_MS);
    const response = await service.fetch(url, { method, headers, body: bytes, cf, redirect: 'manual', signal });
    await response.body?.cancel();
    return response.ok ? undefined : `answered ${response.status}`;
  } catch (error) {
    return error?.name === 'TimeoutError' ? `no answer within ${FORWARD_TIMEOUT_MS / 1000} s` : 'cannot be reached, or threw';
  } finally {
    inFlight -= 1;
  }
}
