/** The store: a Durable Object with one SQLite table of data points, kept on disk. */
import { DurableObject } from 'cloudflare:workers';

import { answer } from './api.js';
import { BLOB_COLUMNS, DOUBLE_COLUMNS } from './point.js';

/**
 * @import { SqlStorage, SqlStorageValue } from 'cloudflare:workers'
 * @import { Page, PageQuery } from './api.js'
 * @import { Point } from './point.js'
 */

/** A column per field, so that a query engine can read just the columns that a query names. */
const COLUMNS = ['dataset', 'timestamp_ms', 'index1', ...BLOB_COLUMNS, ...DOUBLE_COLUMNS];

// AUTOINCREMENT: without it SQLite counts from 1 again once the table is empty, and a reader that
// asks for what came after a reset would miss it. A double is NULL if and only if it is NaN, for
// SQLite has no NaN and makes it NULL.
const CREATE_TABLE = `
  CREATE TABLE IF NOT EXISTS points (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    index1 TEXT NOT NULL,
    ${BLOB_COLUMNS.map((column) => `${column} TEXT NOT NULL`).join(', ')},
    ${DOUBLE_COLUMNS.map((column) => `${column} REAL`).join(', ')}
  ) STRICT`;

const INSERT = `
  INSERT INTO points (${COLUMNS.join(', ')})
  VALUES (${COLUMNS.map(() => '?').join(', ')})`;

/**
 * A row of `id` and `COLUMNS` as a point.
 *
 * @param {SqlStorageValue[]} row
 * @returns {Point & { id: number }}
 */
function pointFromRow([id, dataset, timestampMs, index1, ...rest]) {
  return {
    id: Number(id),
    dataset: String(dataset),
    timestampMs: Number(timestampMs),
    index1: String(index1),
    blobs: rest.slice(0, BLOB_COLUMNS.length).map(String),
    doubles: rest.slice(BLOB_COLUMNS.length).map((value) => (value === null ? NaN : Number(value))),
  };
}

/** There is one instance, which `theStore` in `service.js` names. */
export class Store extends DurableObject {
  /** @type {SqlStorage} */
  #sql;

  /**
   * @param {DurableObject['ctx']} ctx
   * @param {unknown} env
   */
  constructor(ctx, env) {
    super(ctx, env);
    this.#sql = ctx.storage.sql;
    this.#sql.exec(CREATE_TABLE);
  }

  /**
   * Adds a point. Its id is higher than that of any point there ever was.
   *
   * @param {Point} point
   */
  insert({ dataset, timestampMs, index1, blobs, doubles }) {
    this.#sql.exec(INSERT, dataset, timestampMs, index1, ...blobs, ...doubles);
  }

  /**
   * The points after an id, in the order of their ids.
   *
   * @param {PageQuery} query
   * @returns {Page}
   */
  page({ after, limit, dataset, index }) {
    const conditions = ['id > ?'];
    /** @type {SqlStorageValue[]} */
    const values = [after];
    if (dataset !== undefined) {
      conditions.push('dataset = ?');
      values.push(dataset);
    }
    if (index !== undefined) {
      conditions.push('index1 = ?');
      values.push(index);
    }
    const rows = this.#sql
      .exec(
        `SELECT id, ${COLUMNS.join(', ')} FROM points
         WHERE ${conditions.join(' AND ')} ORDER BY id LIMIT ?`,
        ...values,
        limit,
      )
      .raw();
    const points = Array.from(rows, pointFromRow);
    const [last] = this.#sql.exec('SELECT coalesce(max(id), 0) FROM points').raw();
    return { points, last: Number(last?.[0]) };
  }

  /** Removes all points. */
  clear() {
    this.#sql.exec('DELETE FROM points');
  }

  /**
   * The HTTP API runs in here, next to the data: a page may well be larger than the 32 MiB that a
   * method of a Durable Object may return, and a body has no such limit.
   *
   * @param {Request} request
   */
  fetch(request) {
    return answer(request, this);
  }
}
