/**
 * The binding a Worker sees. It stands in front of workerd's native binding and refuses what
 * Analytics Engine refuses.
 *
 * workerd's binding checks the same limits, but returns normally and drops the point, which nobody
 * notices. A test or a developer should hear of it at the call, so here the call throws.
 */

/**
 * A blob or an index: text or bytes; null leaves the column empty.
 *
 * @typedef {string | ArrayBuffer | ArrayBufferView | null | undefined} Text
 */

/**
 * @typedef {object} DataPoint
 * @property {Text[]} [indexes]
 * @property {Text[]} [blobs]
 * @property {number[]} [doubles]
 */

/** @typedef {{ writeDataPoint(point?: DataPoint): void }} Dataset */

// Analytics Engine's limits for one data point.
const MAX_INDEXES = 1;
const MAX_INDEX_BYTES = 96;
const MAX_BLOBS = 20;
const MAX_BLOB_BYTES = 16_000; // of all blobs together
const MAX_DOUBLES = 20;

const encoder = new TextEncoder();

/**
 * The bytes a value takes up. What is neither text nor bytes is stored as its text, as the native
 * binding does it.
 *
 * @param {unknown} value
 * @returns {number}
 */
function byteLength(value) {
  if (value === null || value === undefined) return 0;
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return value.byteLength;
  return encoder.encode(String(value)).byteLength;
}

/**
 * @param {string} what
 * @param {number} size
 * @param {number} limit
 */
function checkLimit(what, size, limit) {
  if (size > limit) {
    throw new TypeError(`writeDataPoint(): ${what} exceeds the limit of ${limit}: ${size}`);
  }
}

/**
 * Throws a TypeError that names the limit a data point exceeds.
 *
 * A value of the wrong type (a `blobs` that is no array) is left to the native binding, which
 * throws a TypeError of its own.
 *
 * @param {DataPoint | null | undefined} point
 */
export function checkLimits(point) {
  const { indexes, blobs, doubles } = point ?? {};
  if (Array.isArray(indexes)) {
    checkLimit('the number of indexes', indexes.length, MAX_INDEXES);
    checkLimit('the size of the index in bytes', byteLength(indexes[0]), MAX_INDEX_BYTES);
  }
  if (Array.isArray(blobs)) {
    checkLimit('the number of blobs', blobs.length, MAX_BLOBS);
    const bytes = blobs.reduce((sum, blob) => sum + byteLength(blob), 0);
    checkLimit('the size of all blobs together in bytes', bytes, MAX_BLOB_BYTES);
  }
  if (Array.isArray(doubles)) {
    checkLimit('the number of doubles', doubles.length, MAX_DOUBLES);
  }
}

/**
 * What an invocation may write, by all its bindings. Nothing says here which invocation is running, but
 * nothing else runs until a Worker waits for something: points that are written without waiting are of
 * one invocation. In the cloud all of its points count.
 */
const MAX_POINTS = 250;
let points = 0;

function countPoint() {
  if (points === 0) queueMicrotask(() => (points = 0));
  points += 1;
  if (points > MAX_POINTS) throw new Error('Analytics Engine write limit exceeded.');
}

/** @implements {Dataset} */
class AnalyticsEngineDataset {
  #native;

  /** @param {Dataset} native */
  constructor(native) {
    this.#native = native;
  }

  /**
   * Writes one data point. Returns before it is stored, as in the cloud.
   *
   * @param {DataPoint} [point]
   */
  writeDataPoint(point) {
    checkLimits(point);
    countPoint();
    this.#native.writeDataPoint(point);
  }
}

/**
 * What workerd calls to make the wrapped binding.
 *
 * @param {{ native: Dataset }} env the inner bindings
 * @returns {Dataset}
 */
export default function makeBinding(env) {
  return new AnalyticsEngineDataset(env.native);
}
