/**
 * Reads what workerd's native binding sends: one JSON object per data point, with a key per column.
 *
 * - `timestamp`: nanoseconds since 1970, as a string.
 * - `index1`, `blob1` … `blob20`: arrays of bytes; the key of an absent blob is missing.
 * - `double1` … `double20`: numbers, or "NaN", "Infinity", "-Infinity"; 0 if absent.
 * - `dataset`: the bytes of our service's name, which says nothing; see `index.js`.
 */
import { BLOB_COLUMNS, DOUBLE_COLUMNS } from './point.js';

/** @import { Point } from './point.js' */

// A byte order mark is the Worker's data like any other character.
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/**
 * Bytes as text. Invalid UTF-8 becomes U+FFFD: columns are text wherever they are read, and to
 * decode once here beats keeping bytes that each reader decodes again.
 *
 * @param {unknown} bytes
 * @returns {string}
 */
function text(bytes) {
  if (bytes === undefined) return '';
  if (!Array.isArray(bytes)) throw new TypeError('an index or blob is no array of bytes');
  return decoder.decode(Uint8Array.from(bytes));
}

/**
 * Nanoseconds as whole milliseconds.
 *
 * workerd's clock counts milliseconds and passes through a double on its way: ….882 s arrives as
 * ….881999872. So the digits below a millisecond are noise, and rounding (not cutting off) gives
 * back the very millisecond that the Worker's `Date.now()` shows.
 *
 * @param {unknown} nanoseconds
 * @returns {number}
 */
function milliseconds(nanoseconds) {
  if (typeof nanoseconds !== 'string' || !/^\d+$/.test(nanoseconds)) {
    throw new TypeError('the timestamp is no string of nanoseconds');
  }
  return Math.round(Number(nanoseconds) / 1e6);
}

/**
 * The data point in an event. Throws a TypeError if workerd's form of it has changed: a point that
 * cannot be read must be seen in the log, not stored as something else.
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
    // `Number` reads the three strings too.
    doubles: DOUBLE_COLUMNS.map((column) => Number(event[column] ?? 0)),
  };
}
