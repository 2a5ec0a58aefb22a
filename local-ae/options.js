/** The options of a binding, and their defaults. */

/** @import { DatasetOptions } from './types.d.ts' */

/**
 * The options of the store and the endpoint; all bindings of an instance share them.
 *
 * @typedef {Required<Omit<DatasetOptions, 'dataset'>>} SharedOptions
 */

/**
 * One binding of this plugin, with validated options.
 *
 * @typedef {object} DatasetBinding
 * @property {string} name the binding's name in the Worker's `env`
 * @property {string} dataset
 * @property {SharedOptions} shared
 */

/** @type {SharedOptions} */
export const DEFAULTS = {
  port: 9310,
  retentionDays: 90,
  maxRows: 1_000_000,
  token: null,
  allowedHosts: [],
};

// Eviction removes up to a thousand points at a time, so a lower limit would be imprecise.
const LOWEST_MAX_ROWS = 10_000;

/** The environment variable that overrides the option `port`. */
export const PORT_VARIABLE = 'LOCAL_AE_PORT';

/**
 * Validates the options of one binding. Refuses unknown options, so that a misspelt one does not start a store
 * with defaults.
 *
 * @param {string} name the binding's name
 * @param {Record<string, unknown>} options
 * @returns {DatasetBinding}
 */
export function parseOptions(name, { dataset, ...options }) {
  const fail = (/** @type {string} */ what) => new TypeError(`local-ae: binding ${name}: ${what}`);
  if (typeof dataset !== 'string' || dataset === '') {
    throw fail('the option "dataset" must be the name of a dataset');
  }
  const unknown = Object.keys(options).find((option) => !Object.hasOwn(DEFAULTS, option));
  if (unknown !== undefined) {
    const known = ['dataset', ...Object.keys(DEFAULTS)].map((option) => `"${option}"`).join(', ');
    throw fail(`unknown option "${unknown}"; there are ${known}`);
  }
  const variable = process.env[PORT_VARIABLE];
  const given = variable ? { ...options, port: Number(variable) } : options;
  const { port, retentionDays, maxRows, token, allowedHosts } = /** @type {Record<string, unknown>} */ ({
    ...DEFAULTS,
    ...given,
  });
  // Port 0 would work, but Miniflare does not report which port a plugin's socket got.
  if (!isInteger(port, 1, 65_535)) {
    const source = variable ? `the variable ${PORT_VARIABLE}` : 'the option "port"';
    throw fail(`${source} must be an integer from 1 to 65535`);
  }
  if (!isInteger(retentionDays, 1, 36_500)) {
    throw fail('the option "retentionDays" must be an integer from 1 to 36500');
  }
  if (!isInteger(maxRows, LOWEST_MAX_ROWS, 20_000_000)) {
    throw fail(`the option "maxRows" must be an integer from ${LOWEST_MAX_ROWS} to 20000000`);
  }
  if (token !== null && (typeof token !== 'string' || !/^\S+$/.test(token))) {
    throw fail('the option "token" must be a text without spaces, or be omitted');
  }
  if (!Array.isArray(allowedHosts) || !allowedHosts.every((host) => /^[a-z0-9.-]+$/.test(host))) {
    throw fail('the option "allowedHosts" must be a list of host names in lower case, without ports');
  }
  return { name, dataset, shared: { port, retentionDays, maxRows, token, allowedHosts } };
}

/**
 * @param {unknown} value
 * @param {number} lowest
 * @param {number} highest
 * @returns {value is number}
 */
function isInteger(value, lowest, highest) {
  return Number.isInteger(value) && Number(value) >= lowest && Number(value) <= highest;
}
