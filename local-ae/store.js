/**
 * The store: a Durable Object that keeps data points in SQLite, on disk.
 *
 * A row is a chunk of consecutive points, one line per point. Each point that a Worker writes is first a chunk of
 * its own, and the store later joins a thousand such chunks. So a write adds only a small row, and a million points
 * are a thousand rows, which are read in a few seconds.
 */
import { DurableObject } from 'cloudflare:workers';

import { handleRequest } from './api.js';
import { fromLine, toLine } from './point.js';
import { SqlEngine } from './sql.js';

/**
 * @import { SqlStorage, SqlStorageValue } from 'cloudflare:workers'
 * @import { Page, PageQuery, Status } from './api.js'
 * @import { Point } from './point.js'
 * @import { Chunk } from './sql.js'
 */

/**
 * @typedef {object} StoreOptions
 * @property {number} retentionDays
 * @property {number} maxRows
 * @property {string | null} token the only bearer token that may query; null for any
 * @property {string[]} allowedHosts values of `Host` to accept besides the loopback hosts
 */

/** Points per chunk; eviction removes whole chunks. */
const CHUNK_POINTS = 1_000;

/** Keeps a chunk below SQLite's 2 MB per value: UTF-8 has at most 3 bytes per UTF-16 code unit. */
const CHUNK_CHARACTERS = 500_000;

const DAY_MS = 86_400_000;

/** Queries to remember: 100 of at most 10,000 characters take 1 MB. */
const MAX_WARNED = 100;

// `last` is the id of the chunk's last point; a chunk's ids have no gaps. AUTOINCREMENT continues the ids after a
// reset; if they started at 1 again, a reader with `after` would miss points. The table `points` is from an earlier
// version.
const CREATE_TABLE = `
  DROP TABLE IF EXISTS points;
  CREATE TABLE IF NOT EXISTS chunks (
    last INTEGER PRIMARY KEY AUTOINCREMENT,
    points INTEGER NOT NULL,
    newest_ms INTEGER NOT NULL,
    lines TEXT NOT NULL
  ) STRICT`;

/** @param {SqlStorageValue[]} row of `last, points, lines` */
const chunkFromRow = ([last, points, lines]) => ({
  last: Number(last),
  points: Number(points),
  lines: String(lines),
});

/** There is one instance; `theStore` in `service.js` has its name. */
export class Store extends DurableObject {
  /** @type {SqlStorage} */
  #sql;
  /** @type {StoreOptions} */
  #options;
  #engine = new SqlEngine();
  /** The number of points. */
  #points;
  /** The highest id ever used. */
  #last;
  /** The number of chunks with one point. */
  #single;
  /** Queries that already had a warning, with each number replaced by 0. @type {Set<string>} */
  #warned = new Set();

  /**
   * @param {DurableObject['ctx']} ctx
   * @param {{ OPTIONS: StoreOptions }} env
   */
  constructor(ctx, env) {
    super(ctx, env);
    this.#options = env.OPTIONS;
    this.#sql = ctx.storage.sql;
    this.#sql.exec(CREATE_TABLE);
    this.#points = this.#number('SELECT total(points) FROM chunks');
    this.#last = this.#number(`SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'chunks'`);
    this.#single = this.#number('SELECT count(*) FROM chunks WHERE points = 1');
  }

  get token() {
    return this.#options.token;
  }

  get allowedHosts() {
    return this.#options.allowedHosts;
  }

  /**
   * Adds a point; its id is higher than all earlier ids.
   *
   * @param {Point} point
   */
  insert(point) {
    this.insertAll([point]);
  }

  /**
   * Adds all points or none: if a chunk cannot be stored, for example on a full disk, the database and this
   * object's fields keep their earlier state.
   *
   * @param {Point[]} points
   */
  insertAll(points) {
    this.#allOrNothing(() => this.#insertChunks(points));
  }

  /** @param {() => void} change modifies the database and this object's fields */
  #allOrNothing(change) {
    const before = { points: this.#points, last: this.#last, single: this.#single };
    try {
      this.ctx.storage.transactionSync(change);
    } catch (error) {
      this.#points = before.points;
      this.#last = before.last;
      this.#single = before.single;
      throw error;
    }
  }

  /** @param {Point[]} points */
  #insertChunks(points) {
    this.#append(points);
    if (this.#single >= CHUNK_POINTS) this.#join();
    this.#evict();
  }

  /** @param {Iterable<Point>} points */
  #append(points) {
    /** @type {string[]} */
    let lines = [];
    let characters = 0;
    let newestMs = -Infinity;
    const flush = () => {
      if (lines.length === 0) return;
      this.#last += lines.length;
      this.#points += lines.length;
      if (lines.length === 1) this.#single += 1;
      this.#put(this.#last, lines.length, newestMs, lines.join('\n'));
      lines = [];
      characters = 0;
      newestMs = -Infinity;
    };
    for (const point of points) {
      const line = toLine(point);
      if (characters + line.length > CHUNK_CHARACTERS) flush();
      lines.push(line);
      characters += line.length;
      newestMs = Math.max(newestMs, point.timestampMs);
      if (lines.length === CHUNK_POINTS) flush();
    }
    flush();
  }

  /**
   * A page of points after an id, in id order.
   *
   * @param {PageQuery} query
   * @returns {Page}
   */
  page({ after, limit, dataset, index }) {
    this.#evict();
    const points = [];
    const last = this.#points === 0 ? 0 : this.#last;
    for (const chunk of this.#chunksAfter(after)) {
      const before = chunk.last - chunk.points;
      for (const [i, line] of chunk.lines.split('\n').entries()) {
        const id = before + i + 1;
        if (id <= after) continue;
        const point = fromLine(line);
        if (dataset !== undefined && point.dataset !== dataset) continue;
        if (index !== undefined && point.index1 !== index) continue;
        if (points.push({ id, ...point }) === limit) return { points, last };
      }
    }
    return { points, last };
  }

  /**
   * Removes the points whose index begins with a prefix. Stores the others again with new ids, since ids must not
   * have gaps.
   *
   * @param {string} prefix
   */
  removeIndexes(prefix) {
    this.#allOrNothing(() => {
      this.#points = 0;
      this.#single = 0;
      this.#append(this.#drain(({ index1 }) => !index1.startsWith(prefix)));
    });
  }

  /**
   * Removes all chunks and yields the points to keep.
   *
   * @param {(point: Point) => boolean} keep
   * @returns {Iterable<Point>}
   */
  *#drain(keep) {
    const ids = [...this.#sql.exec('SELECT last FROM chunks ORDER BY last').raw()];
    for (const [id] of ids) {
      const [[lines]] = this.#sql.exec('DELETE FROM chunks WHERE last = ? RETURNING lines', id).raw();
      yield* String(lines).split('\n').map(fromLine).filter(keep);
    }
  }

  clear() {
    this.#sql.exec('DELETE FROM chunks');
    this.#points = 0;
    this.#single = 0;
  }

  /** @param {string} sql */
  query(sql) {
    this.#evict();
    const oldest = this.#last - this.#points + 1;
    const chunksAfter = (/** @type {number} */ id) => this.#chunksAfter(id);
    const result = this.#engine.query(sql, Date.now(), { oldest, chunksAfter });
    if (result.warnings !== '') this.#warn(result.warnings, sql);
    return result;
  }

  /**
   * Logs that the cloud may refuse a query: once for all queries that differ only in numbers, such as times, and
   * for at most `MAX_WARNED` queries.
   *
   * @param {string} warnings
   * @param {string} sql
   */
  #warn(warnings, sql) {
    const key = sql.replace(/\d+/g, '0');
    if (this.#warned.has(key) || this.#warned.size >= MAX_WARNED) return;
    this.#warned.add(key);
    const last = this.#warned.size === MAX_WARNED ? '\nno more such queries are shown' : '';
    console.warn(`local-ae: the cloud may refuse this query: ${warnings}\n${sql.trim()}${last}`);
  }

  /** @returns {Status} */
  status() {
    this.#evict();
    const { retentionDays, maxRows } = this.#options;
    const size = this.#sql.databaseSize;
    return { points: this.#points, retentionDays, maxRows, disk: size, memory: this.#engine.bytes };
  }

  /**
   * The HTTP API runs inside the Durable Object: a page of points may exceed the 32 MiB that a method may return,
   * but a response body has no such limit.
   *
   * @param {Request} request
   */
  fetch(request) {
    return handleRequest(request, this);
  }

  /**
   * @param {number} id
   * @returns {Iterable<Chunk>}
   */
  *#chunksAfter(id) {
    const select = 'SELECT last, points, lines FROM chunks WHERE last > ? ORDER BY last';
    for (const row of this.#sql.exec(select, id).raw()) yield chunkFromRow(row);
  }

  /**
   * @param {number} last
   * @param {number} points
   * @param {number} newestMs
   * @param {string} lines
   */
  #put(last, points, newestMs, lines) {
    this.#sql.exec('INSERT INTO chunks VALUES (?, ?, ?, ?)', last, points, newestMs, lines);
  }

  /** Joins adjacent chunks that have one point, up to the limits of a chunk. */
  #join() {
    const select = 'SELECT last, newest_ms, lines FROM chunks WHERE points = 1 ORDER BY last';
    const rows = [...this.#sql.exec(select).raw()];
    this.#sql.exec('DELETE FROM chunks WHERE points = 1');
    for (let from = 0; from < rows.length; ) {
      const [first, newestMs, line] = rows[from];
      let newest = Number(newestMs);
      let lines = String(line);
      let to = from + 1;
      for (; to < rows.length; to += 1) {
        const [last, newestMs, line] = rows[to];
        const gap = Number(last) !== Number(first) + to - from;
        if (gap || lines.length + String(line).length > CHUNK_CHARACTERS) break;
        lines += `\n${line}`;
        newest = Math.max(newest, Number(newestMs));
      }
      this.#put(Number(first) + to - from - 1, to - from, newest, lines);
      from = to;
    }
    // Forgets chunks that could not be joined until the next start; otherwise every write would retry.
    this.#single = 0;
  }

  /**
   * Removes the oldest chunk while it is too old or there are too many points. Never removes a chunk in the middle,
   * so that the remaining ids have no gaps.
   */
  #evict() {
    const expiredMs = Date.now() - this.#options.retentionDays * DAY_MS;
    while (this.#points > 0) {
      const select = 'SELECT last, points, newest_ms FROM chunks ORDER BY last LIMIT 1';
      const [[last, points, newestMs]] = this.#sql.exec(select).raw();
      if (this.#points <= this.#options.maxRows && Number(newestMs) >= expiredMs) break;
      this.#sql.exec('DELETE FROM chunks WHERE last = ?', last);
      this.#points -= Number(points);
      if (points === 1) this.#single = Math.max(this.#single - 1, 0);
    }
  }

  /** @param {string} sql selects one number */
  #number(sql) {
    const [[number]] = this.#sql.exec(sql).raw();
    return Number(number);
  }
}
