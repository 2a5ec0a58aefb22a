/**
 * SQL over the stored points. The engine (`engine/`, wasm) holds them as columns in memory: a copy
 * of what the store keeps, made when the first query comes and brought up to date before each one.
 * So nothing can be lost here, and whoever asks for no SQL pays nothing.
 */
import { __wbg_reset_state as restart, Engine, initSync } from 'engine.js';
import module from 'engine.wasm';

/**
 * Lines of points as the store keeps them; their ids have no gaps.
 *
 * @typedef {object} Chunk
 * @property {number} last the id of the last point
 * @property {number} points
 * @property {string} lines
 */

/**
 * What is stored. All ids from the oldest one on are there.
 *
 * @typedef {object} Stored
 * @property {number} oldest the id of the oldest point, or, without points, that of the next one
 * @property {(id: number) => Iterable<Chunk>} chunksAfter the chunks with points after an id
 */

/**
 * @typedef {object} SqlAnswer
 * @property {boolean} ok whether the body is the result, and not what is wrong with the query
 * @property {string} contentType
 * @property {Uint8Array<ArrayBuffer>} body
 * @property {string} warnings what the cloud has been seen to refuse of the query, a line each
 */

export class SqlEngine {
  /** @type {Engine | undefined} */
  #engine;
  /** The points in the engine have the ids from here … */
  #first = 1;
  /** … to here. */
  #last = 0;

  /**
   * Answers a query over what is stored.
   *
   * @param {string} sql
   * @param {number} now in milliseconds since 1970
   * @param {Stored} stored
   * @returns {SqlAnswer}
   */
  query(sql, now, stored) {
    initSync({ module });
    try {
      const answer = this.#upToDate(stored).query(sql, now);
      const { ok, contentType, warnings } = answer;
      return { ok, contentType, warnings, body: answer.intoBody() };
    } catch (error) {
      // The engine answers wrong queries. What it throws is a bug, or memory that ran out; either way
      // its memory cannot be trusted any more, and the next query starts with a new one.
      this.#engine = undefined;
      restart();
      throw error;
    }
  }

  /** Bytes that the points take up in memory; 0 before the first query. */
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
