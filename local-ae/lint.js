/** The linter: what live Analytics Engine refuses in a text of queries, by the same engine that runs them. */
import { ENGINE_SCRIPT, readEngine } from './engine-files.js';

/**
 * @typedef {object} LintOutcome
 * @property {number} errors
 * @property {number} warnings
 * @property {string} text `FILE:LINE:COLUMN: error: MESSAGE` for each, and a line with help
 */

/**
 * Loads the engine.
 *
 * @returns {Promise<(file: string, sql: string) => LintOutcome>} checks queries that semicolons separate
 */
export async function loadLinter() {
  const { wasm } = await readEngine();
  /** @type {typeof import('engine.js')} */
  const engine = await import(ENGINE_SCRIPT.href);
  engine.initSync({ module: wasm });
  return engine.lint;
}
