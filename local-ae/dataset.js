/**
 * The Worker's binding: wraps workerd's native binding and enforces Analytics Engine's limits.
 *
 * The native binding checks the same limits, but it silently drops the point. This binding throws, so that a
 * test or a developer notices.
 */

/**
 * A blob or an index: text or bytes; null leaves the column empty.
 *
 * @typedef {string | ArrayBuffer | ArrayBufferView | null | undefined} BlobValue
 */

/**
 * @typedef {object} DataPoint
 * @property {BlobValue[]} [indexes]
 * @property {BlobValue[]} [blobs]
 * @property {number[]} [doubles]
 */

/** @typedef {{ writeDataPoint(point?: DataPoint): void }} Dataset */

// Analytics Engine's limits per data point.
const MAX_INDEXES = 1;
const MAX_INDEX_BYTES = 96;
const MAX_BLOBS = 20;
const MAX_BLOB_BYTES = 16_000; // of all blobs together
const MAX_DOUBLES = 20;

const encoder = new TextEncoder();

/**
 * The size of a value in bytes. Converts other types to text, as the native binding does.
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
 * Throws a TypeError that names the exceeded limit. Ignores values of the wrong type, such as `blobs` that is
 * not an array: the native binding throws its own TypeError for these.
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
 * The maximum number of points per invocation, over all bindings. The cloud counts all points of an invocation.
 * A binding cannot know the invocation, but no other invocation runs until the Worker awaits something, so all
 * points that are written without an `await` between them belong to one invocation.
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
   * Writes one data point. Returns before the point is stored, as in the cloud.
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
 * workerd calls this to create the wrapped binding.
 *
 * @param {{ native: Dataset }} env the inner bindings
 * @returns {Dataset}
 */
export default function makeBinding(env) {
  return new AnalyticsEngineDataset(env.native);
}
