/**
 * What Cloudflare Access needs of the runtime, which has all of it: in wasm it would be a tenth of the
 * bundle.
 */

const RS256 = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };

/**
 * Fetches the keys for RS256 of a set of keys (RFC 7517).
 *
 * @param {string} url
 * @param {number} deadline in milliseconds, for all of it
 * @returns {Promise<string[]>} of each key `kid`, `n` and `e`; rejected, and logged, if there is none: a
 *   team always has keys, so that is an error of its server's
 */
export async function load(url, deadline) {
  try {
    // Keys come from where they are said to be: a redirect leads elsewhere.
    const options = { redirect: 'manual', signal: AbortSignal.timeout(deadline) };
    const response = await fetch(url, options);
    if (response.status !== 200) {
      await response.body?.cancel();
      throw new Error(`it answered ${response.status}`);
    }
    const { keys } = await response.json();
    const texts = keys
      .filter(({ kty, alg }) => kty === 'RSA' && alg === 'RS256')
      .map(({ kid, n, e }) => [kid, n, e])
      .filter((key) => key.every((text) => typeof text === 'string'));
    if (texts.length === 0) throw new Error('it has no key for RS256');
    return texts.flat();
  } catch (error) {
    console.warn(JSON.stringify({ code: 'access_keys_not_fetched', detail: error.message }));
    throw error;
  }
}

/**
 * Whether a text was signed with an RSA key by RS256.
 *
 * @param {string} n of the public key
 * @param {string} e likewise
 * @param {string} text
 * @param {Uint8Array} signature
 * @returns {Promise<boolean>} rejected if there can be no such key
 */
export async function verify(n, e, text, signature) {
  const jwk = { kty: 'RSA', alg: 'RS256', n, e };
  const key = await crypto.subtle.importKey('jwk', jwk, RS256, false, ['verify']);
  return crypto.subtle.verify(RS256, key, signature, new TextEncoder().encode(text));
}

/**
 * @param {number} milliseconds
 * @returns {Promise<void>} resolved when they have passed
 */
export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
