/**
 * Queries to Analytics Engine. The runtime provides fetch and timers; in wasm they would be larger than the rest of
 * the client.
 */

/**
 * @typedef {object} Outcome
 * @property {Uint8Array[]} [answers] to all queries, in their order
 * @property {boolean} [missing] whether a query's dataset does not exist yet
 * @property {'limited' | 'refused' | 'timeout' | 'too_large' | 'unreachable'} [failure] of the query that failed first
 * @property {number} [status] of a refusal
 * @property {string} [detail] the text of a refusal or of the runtime's error, or a limit's `retry-after`
 */

/**
 * Sends queries concurrently. The first failure aborts all of them.
 *
 * @param {string} url
 * @param {string} token
 * @param {string[]} queries
 * @param {number} limit total size of the answers, in bytes; no more is read
 * @param {number} deadline in milliseconds, for all queries
 * @returns {Promise<Outcome>} never rejected
 */
async function ask(url, token, queries, limit, deadline) {
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
  const send = async (body) => {
    const headers = { authorization: `Bearer ${token}`, 'content-type': 'text/plain;charset=utf-8' };
    // A redirect must not receive the token.
    const options = { method: 'POST', headers, body, redirect: 'manual', signal };
    const response = await fetch(url, options);
    const { status } = response;
    if (status === 429) {
      throw { failure: 'limited', detail: response.headers.get('retry-after') ?? undefined };
    }
    const bytes = await read(response.body);
    if (status === 200) return bytes;
    throw { failure: 'refused', status, detail: decode(bytes) };
  };
  const all = Promise.all(queries.map(send)).then(
    (answers) => ({ answers }),
    (error) => (error.failure ? error : { failure: 'unreachable', detail: String(error?.message) }),
  );
  const outcome = await Promise.race([all, timeout]);
  clearTimeout(timer);
  // The answers of other queries are no longer needed.
  abort.abort();
  return outcome;
}

const decode = (bytes) => new TextDecoder().decode(bytes);

/**
 * The same text in UTF-8: U+FFFD replaces invalid bytes.
 *
 * @param {Uint8Array} bytes
 */
export const repaired = (bytes) => new TextEncoder().encode(decode(bytes));

/** The answer to a query before its dataset exists. */
const NO_ROWS = new TextEncoder().encode('{"data":[]}');

/**
 * Sends queries like `ask`. A query whose dataset does not exist yet has no rows: the first point creates a dataset.
 * The text of such a refusal is not documented, and may not name the dataset, so the list of datasets decides.
 *
 * @param {string} url
 * @param {string} token
 * @param {string[]} queries
 * @param {number} limit
 * @param {number} deadline
 * @param {string[]} datasets that the queries may name, ahead of any text from machines
 * @returns {Promise<Outcome>} never rejected
 */
export async function query(url, token, queries, limit, deadline, datasets) {
  const send = (queries) => ask(url, token, queries, limit, deadline);
  const outcome = await send(queries);
  if (outcome.failure !== 'refused' || ![400, 404, 422].includes(outcome.status)) return outcome;
  const listed = await send(['SHOW TABLES']);
  const tables = decode(listed.answers?.[0]);
  if (!tables.includes('"data"')) return outcome;
  const any = new RegExp(datasets.join('|'));
  const exists = (sql) => tables.includes(`"${any.exec(sql)?.[0]}"`);
  const others = queries.filter(exists);
  if (others.length === queries.length) return outcome;
  const existing = await send(others);
  const answers = existing.answers?.values();
  if (answers === undefined) return existing;
  return { answers: queries.map((sql) => (exists(sql) ? answers.next().value : NO_ROWS)), missing: true };
}
