/**
 * Key fetching and RS256 verification for Cloudflare Access. The runtime provides both; in wasm they would be a
 * tenth of the bundle.
 */

const RS256 = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };

/**
 * Fetches the RS256 keys of a JSON Web Key Set (RFC 7517).
 *
 * @param {string} url
 * @param {number} deadline in milliseconds, for the whole request
 * @returns {Promise<string[]>} `kid`, `n` and `e` of each key; rejected, and logged, if there is no key: a team
 *   always has keys, so their absence is the server's error
 */
export async function load(url, deadline) {
  try {
    // A redirect could lead to anyone's keys.
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
 * Verifies an RS256 signature.
 *
 * @param {string} n the public key's modulus
 * @param {string} e the public key's exponent
 * @param {string} text
 * @param {Uint8Array} signature
 * @returns {Promise<boolean>} rejected if the key is invalid
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
