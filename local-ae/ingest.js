/**
 * Parses events from workerd's native binding: one JSON object per data point, with one key per column.
 *
 * - `timestamp`: nanoseconds since 1970, as a string.
 * - `index1`, `blob1` … `blob20`: arrays of bytes; an absent blob has no key.
 * - `double1` … `double20`: numbers, or "NaN", "Infinity", "-Infinity"; 0 if absent.
 * - `dataset`: the bytes of the service's name, not the dataset's; `index.js` says why.
 */
import { BLOB_COLUMNS, DOUBLE_COLUMNS } from './point.js';

/** @import { Point } from './point.js' */

// Keeps a byte order mark: it is part of the Worker's data.
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/**
 * Decodes bytes; invalid UTF-8 becomes U+FFFD.
 *
 * @param {unknown} bytes
 * @returns {string}
 */
function text(bytes) {
  if (bytes === undefined) return '';
  if (!Array.isArray(bytes)) throw new TypeError('an index or blob is not an array of bytes');
  return decoder.decode(Uint8Array.from(bytes));
}

/**
 * Rounds nanoseconds to milliseconds.
 *
 * workerd's clock counts milliseconds, and its value passes through a double: ….882 s arrives as ….881999872, so
 * the digits below a millisecond are noise. Rounding restores the Worker's `Date.now()`; truncation would not.
 *
 * @param {unknown} nanoseconds
 * @returns {number}
 */
function milliseconds(nanoseconds) {
  if (typeof nanoseconds !== 'string' || !/^\d+$/.test(nanoseconds)) {
    throw new TypeError('the timestamp is not a string of nanoseconds');
  }
  return Math.round(Number(nanoseconds) / 1e6);
}

/**
 * The data point in an event. Throws a TypeError if workerd's format has changed: an error in the log is better
 * than a point with wrong values.
 *
 * @param {Record<string, unknown>} event
 * @param {string} dataset
 * @returns {Point}
 */
export function pointFromEvent(event, dataset) {
  return {
    dataset,
    timestampMs: milliseconds(event.timestamp),
    sampleInterval: 1,
    index1: text(event.index1),
    blobs: BLOB_COLUMNS.map((column) => text(event[column])),
    // `Number` also parses "NaN", "Infinity" and "-Infinity".
    doubles: DOUBLE_COLUMNS.map((column) => Number(event[column] ?? 0)),
  };
}
