/** Calls of bindings that a check-in makes: the rate limiter and the dataset. */

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

/**
 * The text of a secret or variable. Without quotes in `wrangler.toml`, a variable arrives as a number, a boolean or an array:
 * it must not count as missing, since a restriction would then not apply.
 *
 * @param {Record<string, unknown>} env
 * @param {string} name
 * @returns {string | undefined}
 */
export function variable(env, name) {
  const value = env[name];
  if (typeof value === 'string') return value;
  return typeof value === 'number' || typeof value === 'boolean' || Array.isArray(value) ? JSON.stringify(value) : undefined;
}
