/**
 * SQL over the stored points. The engine (`engine/`, wasm) holds a copy of them as columns in memory,
 * made at the first query and updated before each query. So no point can be lost here, and without
 * queries there is no cost.
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
 * The stored points. Their ids have no gaps.
 *
 * @typedef {object} Stored
 * @property {number} oldest the id of the oldest point; without points, the id of the next one
 * @property {(id: number) => Iterable<Chunk>} chunksAfter the chunks that have points after an id
 */

/**
 * @typedef {object} SqlAnswer
 * @property {boolean} ok whether the body is the result; otherwise it is the error message
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
   * @param {Stored} stored
   * @returns {SqlAnswer}
   */
  query(sql, now, stored) {
    initSync({ module });
    try {
      const outcome = this.#upToDate(stored).query(sql, now);
      const { ok, contentType, warnings } = outcome;
      return { ok, contentType, warnings, body: outcome.intoBody() };
    } catch (error) {
      // An invalid query has an outcome, too. An exception is a bug or exhausted memory. Either may have
      // corrupted the engine's memory, so the next query starts with a new engine.
      this.#engine = undefined;
      restart();
      throw error;
    }
  }

  /** Bytes of memory that the points take up; 0 before the first query. */
  get bytes() {
    return this.#engine?.bytes() ?? 0;
  }

  /** @param {Stored} stored */
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
