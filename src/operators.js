/**
 * The decoded parameters of a URL's query, names and values in turn. Rust's own parser of URLs would
 * bring tables for international domain names along, which are larger than the rest of the Worker.
 *
 * @param {string} url
 * @returns {string[]}
 */
export const parameters = (url) => [...new URL(url).searchParams].flat();

/** When a cached answer was made, in seconds since 1970. */
const MADE_AT = 'x-kiloclaw-made-at';

/**
 * Looks an answer up in the Cache API. Where there is none, or it fails, nothing is cached.
 *
 * @param {string} key a URL
 * @returns {Promise<{ body: string, madeAt: string } | undefined>} never rejected
 */
export async function cached(key) {
  try {
    const response = await caches.default.match(key);
    if (response === undefined) return undefined;
    return { body: await response.text(), madeAt: response.headers.get(MADE_AT) ?? '' };
  } catch (error) {
    report(error);
    return undefined;
  }
}

/**
 * Puts an answer into the Cache API, or else does nothing.
 *
 * @param {string} key
 * @param {string} body JSON
 * @param {string} madeAt in seconds since 1970
 * @param {string} fresh how long it is good for, in seconds
 * @returns {Promise<void>} never rejected
 */
export async function keep(key, body, madeAt, fresh) {
  const headers = { 'cache-control': `max-age=${fresh}`, [MADE_AT]: madeAt };
  try {
    await caches.default.put(key, new Response(body, { headers }));
  } catch (error) {
    report(error);
  }
}

let isReported = false;

/** Once in an isolate: where there is no cache, every question would. */
function report(error) {
  if (isReported) return;
  isReported = true;
  console.warn(JSON.stringify({ code: 'cache_failed', detail: String(error?.message) }));
}
