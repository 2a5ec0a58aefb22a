/** The linter: the SQL engine, which also runs queries, checks them without data. */
import { ENGINE_SCRIPT, readEngine } from './engine-files.js';

/**
 * @typedef {object} LintOutcome
 * @property {number} errors
 * @property {number} warnings
 * @property {string} text for each finding a line `FILE:LINE:COLUMN: error: MESSAGE`, and a line with help
 */

/**
 * Loads the engine.
 *
 * @returns {Promise<(file: string, sql: string) => LintOutcome>} checks semicolon-separated queries
 */
export async function loadLinter() {
  const { wasm } = await readEngine();
  /** @type {typeof import('engine.js')} */
  const engine = await import(ENGINE_SCRIPT.href);
  engine.initSync({ module: wasm });
  return engine.lint;
}
