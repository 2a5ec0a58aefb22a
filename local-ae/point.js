/**
 * The stored form of a data point: every point has the same 43 columns, with the names that
 * Analytics Engine's SQL gives them, and each column has one type. A reader never has to ask
 * whether a column is there.
 *
 * @typedef {object} Point
 * @property {string} dataset
 * @property {number} timestampMs milliseconds since 1970, whole
 * @property {string} index1 empty if the Worker gave none
 * @property {string[]} blobs always 20; empty where the Worker gave none or null
 * @property {number[]} doubles always 20; 0 where the Worker gave none; may be NaN or infinite
 */

/** `blob1` to `blob20`. */
export const BLOB_COLUMNS = Array.from({ length: 20 }, (_, i) => `blob${i + 1}`);

/** `double1` to `double20`. */
export const DOUBLE_COLUMNS = Array.from({ length: 20 }, (_, i) => `double${i + 1}`);
