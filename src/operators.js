/** Header with the time of a cached response, in seconds since 1970. */
const MADE_AT = 'x-kiloclaw-made-at';

/**
 * Looks a response up in the Cache API. Without a cache, or if it fails, nothing is found.
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
 * Stores a response in the Cache API. Without a cache, or if it fails, nothing is stored.
 *
 * @param {string} key
 * @param {string} body JSON
 * @param {string} madeAt in seconds since 1970
 * @param {string} fresh how long it is fresh for, in seconds
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

/** Once per isolate: without a cache, every request fails this way. */
function report(error) {
  if (isReported) return;
  isReported = true;
  console.warn(JSON.stringify({ code: 'cache_failed', detail: String(error?.message) }));
}
