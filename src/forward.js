/** Hands accepted check-ins on to another Worker. */

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

/** Whether another Worker handed a request on. */
export const isForwarded = ({ headers }) => headers.has(FORWARDED);

/**
 * Hands a check-in on to another Worker if it is accepted, after the machine has its answer. Whatever that Worker does, it
 * touches no check-in: failures are only counted in the log.
 *
 * @param {{ fetch: typeof fetch }} service
 * @param {Request} request its body is read already
 * @param {string} body
 * @param {Promise<Response> | Response | undefined} answer to the machine; undefined stands for a 204
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
