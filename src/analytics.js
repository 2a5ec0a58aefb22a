/**
 * Asking Analytics Engine, for which the runtime has all that is needed: fetching, waiting and giving up
 * in wasm would be larger than the rest of the client.
 */

/**
 * @typedef {object} Outcome
 * @property {Uint8Array[]} [answers] to all queries, in their order
 * @property {'limited' | 'refused' | 'timeout' | 'too_large' | 'unreachable'} [failure] the first one
 * @property {number} [status] of a refusal
 * @property {string} [detail] what a refusal or the runtime says, or how long to wait
 */

/**
 * Sends queries, all at a time. One that fails ends them all.
 *
 * @param {string} url
 * @param {string} token
 * @param {string[]} queries
 * @param {number} limit of all answers together, in bytes; no more is read
 * @param {number} deadline in milliseconds, for all of it
 * @returns {Promise<Outcome>} never rejected
 */
export async function query(url, token, queries, limit, deadline) {
  const abort = new AbortController();
  const { signal } = abort;
  let left = limit;
  let timer;
  const timeout = new Promise((resolve) => {
    timer = setTimeout(() => resolve({ failure: 'timeout' }), deadline);
  });

  const read = async (stream) => {
    const chunks = [];
    let length = 0;
    for await (const chunk of stream ?? []) {
      length += chunk.length;
      left -= chunk.length;
      if (left < 0) throw { failure: 'too_large' };
      chunks.push(chunk);
    }
    const bytes = new Uint8Array(length);
    let at = 0;
    for (const chunk of chunks) {
      bytes.set(chunk, at);
      at += chunk.length;
    }
    return bytes;
  };
  const ask = async (body) => {
    const headers = { authorization: `Bearer ${token}`, 'content-type': 'text/plain;charset=utf-8' };
    // The token goes nowhere else.
    const options = { method: 'POST', headers, body, redirect: 'manual', signal };
    const response = await fetch(url, options);
    const { status } = response;
    if (status === 429) {
      throw { failure: 'limited', detail: response.headers.get('retry-after') ?? undefined };
    }
    const bytes = await read(response.body);
    if (status === 200) return bytes;
    throw { failure: 'refused', status, detail: new TextDecoder().decode(bytes) };
  };
  const asking = Promise.all(queries.map(ask)).then(
    (answers) => ({ answers }),
    (error) => (error.failure ? error : { failure: 'unreachable', detail: String(error?.message) }),
  );
  const outcome = await Promise.race([asking, timeout]);
  clearTimeout(timer);
  // What is still on its way is not wanted any more.
  abort.abort();
  return outcome;
}
