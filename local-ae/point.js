/**
 * The stored form of a data point. Every point has all columns, with the names and types that Analytics Engine's
 * SQL has, so that no reader has to handle a missing column.
 *
 * @typedef {object} Point
 * @property {string} dataset
 * @property {number} timestampMs whole milliseconds since 1970
 * @property {number} sampleInterval the number of points that this point represents; 1 if a Worker wrote it
 * @property {string} index1 empty if unset
 * @property {string[]} blobs always 20; empty if unset or null
 * @property {number[]} doubles always 20; 0 if unset; may be NaN or infinite
 */

/** `blob1` to `blob20`. */
export const BLOB_COLUMNS = Array.from({ length: 20 }, (_, i) => `blob${i + 1}`);

/** `double1` to `double20`. */
export const DOUBLE_COLUMNS = Array.from({ length: 20 }, (_, i) => `double${i + 1}`);

// JSON has no NaN and no infinities; `null` could not distinguish them.
/** @param {number} double */
export const doubleToJson = (double) => (Number.isFinite(double) ? double : String(double));

/**
 * A point as a line of JSON, which the store writes and the engine reads:
 * `[timestamp, sample interval, dataset, index1, [blobs…], [doubles…]]`. Omits trailing unset blobs and doubles.
 *
 * @param {Point} point
 * @returns {string}
 */
export function toLine({ timestampMs, sampleInterval, dataset, index1, blobs, doubles }) {
  return JSON.stringify([
    timestampMs,
    sampleInterval,
    dataset,
    index1,
    blobs.slice(0, blobs.findLastIndex((blob) => blob !== '') + 1),
    doubles.slice(0, doubles.findLastIndex((double) => double !== 0) + 1).map(doubleToJson),
  ]);
}

/**
 * @param {string} line from `toLine`
 * @returns {Point}
 */
export function fromLine(line) {
  const [timestampMs, sampleInterval, dataset, index1, blobs, doubles] = JSON.parse(line);
  return {
    timestampMs,
    sampleInterval,
    dataset,
    index1,
    blobs: BLOB_COLUMNS.map((_, i) => blobs[i] ?? ''),
    // `Number` also parses "NaN" and the infinities.
    doubles: DOUBLE_COLUMNS.map((_, i) => Number(doubles[i] ?? 0)),
  };
}
