/**
 * The stored form of a data point: every point has the same columns, with the names that Analytics
 * Engine's SQL gives them, and each column has one type. A reader never has to ask whether a column
 * is there.
 *
 * @typedef {object} Point
 * @property {string} dataset
 * @property {number} timestampMs milliseconds since 1970, whole
 * @property {number} sampleInterval how many points this one stands for; 1 for what a Worker writes
 * @property {string} index1 empty if the Worker gave none
 * @property {string[]} blobs always 20; empty where the Worker gave none or null
 * @property {number[]} doubles always 20; 0 where the Worker gave none; may be NaN or infinite
 */

/** `blob1` to `blob20`. */
export const BLOB_COLUMNS = Array.from({ length: 20 }, (_, i) => `blob${i + 1}`);

/** `double1` to `double20`. */
export const DOUBLE_COLUMNS = Array.from({ length: 20 }, (_, i) => `double${i + 1}`);

// JSON has no NaN and no infinities; `null` could stand for any of them.
/** @param {number} double */
export const doubleToJson = (double) => (Number.isFinite(double) ? double : String(double));

/**
 * A point as a line of JSON, which the store keeps and the engine reads:
 * `[timestamp, sample interval, dataset, index1, [blobs…], [doubles…]]`, without the blobs and
 * doubles after the last one that is set.
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
 * @param {string} line what `toLine` made
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
    // `Number` reads the names of what JSON cannot write, too.
    doubles: DOUBLE_COLUMNS.map((_, i) => Number(doubles[i] ?? 0)),
  };
}
