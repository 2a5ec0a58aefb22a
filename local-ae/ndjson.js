/**
 * Parses posted data points: one flat JSON object per line, with column names as keys. The command `aesql query`
 * reads the same format.
 */
import { BLOB_COLUMNS, DOUBLE_COLUMNS } from './point.js';

/** @import { Point } from './point.js' */

// Copies from `dataset.js`, which this module cannot import: it runs in the Workers' isolates.
const MAX_INDEX_BYTES = 96;
const MAX_BLOB_BYTES = 16_000;

/** The maximum of a JavaScript Date. */
const MAX_TIMESTAMP_MS = 8.64e15;

const COLUMNS = new Set([
  'dataset',
  'timestamp',
  '_sample_interval',
  'index1',
  ...BLOB_COLUMNS,
  ...DOUBLE_COLUMNS,
]);

const encoder = new TextEncoder();

/** An invalid line; the message has the line number and says what is valid. */
export class LineError extends Error {}

/**
 * Skips empty lines. Throws a LineError for the first invalid line.
 *
 * @param {string} text
 * @param {number} now the default timestamp, in milliseconds since 1970
 * @returns {Point[]}
 */
export function parsePoints(text, now) {
  /** @type {Point[]} */
  const points = [];
  for (const [i, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    try {
      points.push(parsePoint(JSON.parse(line), now));
    } catch (error) {
      throw new LineError(`line ${i + 1}: ${/** @type {Error} */ (error).message}`);
    }
  }
  return points;
}

/**
 * @param {unknown} fields
 * @param {number} now
 * @returns {Point}
 */
function parsePoint(fields, now) {
  if (typeof fields !== 'object' || fields === null || Array.isArray(fields)) {
    throw new TypeError('a data point is an object');
  }
  const values = /** @type {Record<string, unknown>} */ (fields);
  for (const name of Object.keys(values)) {
    if (!COLUMNS.has(name)) {
      throw new TypeError(
        `a data point has no "${name}"; there are dataset, timestamp, _sample_interval, index1, ` +
          'blob1 to blob20 and double1 to double20',
      );
    }
  }
  const point = {
    dataset: text(values, 'dataset'),
    timestampMs: timestamp(values.timestamp ?? now),
    sampleInterval: sampleInterval(values._sample_interval ?? 1),
    index1: text(values, 'index1'),
    blobs: BLOB_COLUMNS.map((name) => text(values, name)),
    doubles: DOUBLE_COLUMNS.map((name) => double(values, name)),
  };
  if (point.dataset === '') throw new TypeError('"dataset" must be the name of a dataset');
  checkBytes('index1', [point.index1], MAX_INDEX_BYTES);
  checkBytes('all blobs together', point.blobs, MAX_BLOB_BYTES);
  return point;
}

/**
 * @param {Record<string, unknown>} values
 * @param {string} name
 */
function text(values, name) {
  const value = values[name] ?? '';
  if (typeof value !== 'string') throw new TypeError(`"${name}" must be a string`);
  // JSON can contain a lone surrogate, which has no UTF-8 encoding.
  return value.toWellFormed();
}

/**
 * @param {Record<string, unknown>} values
 * @param {string} name
 */
function double(values, name) {
  const value = values[name] ?? 0;
  if (typeof value === 'number') return value;
  if (value === 'NaN' || value === 'Infinity' || value === '-Infinity') return Number(value);
  throw new TypeError(`"${name}" must be a number, "NaN", "Infinity" or "-Infinity"`);
}

/** @param {unknown} value */
function timestamp(value) {
  // Date.parse() would read a text without a time zone as the machine's local time.
  const zoned = typeof value === 'string' && /^\d{4}-\d\d-\d\dT.*(Z|[+-]\d\d:\d\d)$/.test(value);
  const milliseconds = zoned ? Date.parse(value) : value;
  if (
    typeof milliseconds === 'number' &&
    Number.isInteger(milliseconds) &&
    Math.abs(milliseconds) <= MAX_TIMESTAMP_MS
  ) {
    return milliseconds;
  }
  throw new TypeError(
    '"timestamp" must be milliseconds since 1970 or a text such as "2026-01-02T03:04:05Z"',
  );
}

/** @param {unknown} value */
function sampleInterval(value) {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value < 2 ** 32) {
    return value;
  }
  throw new TypeError('"_sample_interval" must be an integer from 1 to 4294967295');
}

/**
 * @param {string} what
 * @param {string[]} texts
 * @param {number} limit
 */
function checkBytes(what, texts, limit) {
  const bytes = texts.reduce((sum, text) => sum + encoder.encode(text).byteLength, 0);
  if (bytes > limit) throw new TypeError(`${what} may have ${limit} bytes, not ${bytes}`);
}
