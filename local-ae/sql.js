/**
 * SQL over the stored points. The first query copies them as columns into the engine's memory (`engine/`, wasm),
 * and each query updates the copy first. So the engine can lose no point, and costs nothing without queries.
 */
import { __wbg_reset_state as restart, Engine, initSync } from 'engine.js';
import module from 'engine.wasm';

/**
 * Stored points, one per line; their ids have no gaps.
 *
 * @typedef {object} Chunk
 * @property {number} last the id of the last point
 * @property {number} points
 * @property {string} lines
 */

/**
 * @typedef {object} StoredPoints
 * @property {number} oldest the id of the oldest point; without points, the id of the next one
 * @property {(id: number) => Iterable<Chunk>} chunksAfter the chunks that have points after an id
 */

/**
 * @typedef {object} SqlResult
 * @property {boolean} ok true if the body is the query's result, false if it is an error message
 * @property {string} contentType
 * @property {Uint8Array<ArrayBuffer>} body
 * @property {string} warnings why the cloud may refuse the query, one reason per line
 */

export class SqlEngine {
  /** @type {Engine | undefined} */
  #engine;
  /** The lowest and the highest id of the engine's points. */
  #first = 1;
  #last = 0;

  /**
   * @param {string} sql
   * @param {number} now in milliseconds since 1970
   * @param {StoredPoints} stored
   * @returns {SqlResult}
   */
  query(sql, now, stored) {
    initSync({ module });
    try {
      const outcome = this.#upToDate(stored).query(sql, now);
      const { ok, contentType, warnings } = outcome;
      return { ok, contentType, warnings, body: outcome.intoBody() };
    } catch (error) {
      // Even an invalid query has an outcome. An exception is a defect or exhausted memory, and may have corrupted
      // the engine's memory, so the next query starts with a new engine.
      this.#engine = undefined;
      restart();
      throw error;
    }
  }

  /** The memory of the points in bytes; 0 before the first query. */
  get bytes() {
    return this.#engine?.bytes() ?? 0;
  }

  /** @param {StoredPoints} stored */
  #upToDate({ oldest, chunksAfter }) {
    const engine = (this.#engine ??= this.#empty());
    if (oldest > this.#first) {
      engine.dropOldest(Math.min(oldest - this.#first, this.#last - this.#first + 1));
      this.#first = oldest;
      this.#last = Math.max(this.#last, oldest - 1);
    }
    for (const { last, points, lines } of chunksAfter(this.#last)) {
      engine.append(lines, points - (last - this.#last));
      this.#last = last;
    }
    return engine;
  }

  #empty() {
    this.#first = 1;
    this.#last = 0;
    return new Engine();
  }
}
