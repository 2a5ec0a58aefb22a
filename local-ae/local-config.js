/**
 * Derives the configuration for local development from the deployed one. A separate configuration would repeat
 * all other settings, and a separate `[env]` would repeat all bindings, since environments inherit none, and
 * could be deployed.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import manifest from './package.json' with { type: 'json' };
import { UserError } from './user-error.js';

/** @import { Unstable_RawConfig as Config, Unstable_RawEnvironment as Environment } from 'wrangler' */

/** A path, since Miniflare resolves a package's name from its own folder, where pnpm puts no other packages. */
const PLUGIN = { package: fileURLToPath(new URL('index.js', import.meta.url)), name: 'local-ae' };

/**
 * Makes the datasets in a section of the configuration local. Keeps everything else, even invalid settings:
 * wrangler's errors about them are better than any from here.
 *
 * @template {Environment} T
 * @param {T} section
 * @param {Record<string, unknown>} options of the store, for all datasets
 * @returns {T}
 */
function localSection(section, options) {
  const { analytics_engine_datasets: datasets, ...rest } = section;
  if (!Array.isArray(datasets) || datasets.length === 0) return section;
  const bindings = datasets.map(({ binding, dataset = binding }) => ({
    name: binding,
    type: 'analytics_engine',
    dev: { plugin: PLUGIN, options: { ...options, dataset } },
  }));
  const unsafe = { ...rest.unsafe, bindings: [...(rest.unsafe?.bindings ?? []), ...bindings] };
  return /** @type {T} */ (/** @type {unknown} */ ({ ...rest, unsafe }));
}

/**
 * @param {Config} config the deployed configuration
 * @param {Record<string, unknown>} options
 * @returns {Config}
 */
export function localConfig({ env, ...config }, options) {
  const local = localSection(config, options);
  // With generated types, wrangler would replace the dataset's type by `any`.
  if (local.dev !== undefined) local.dev = { ...local.dev, generate_types: false };
  if (env === undefined) return local;
  const environments = Object.entries(env).map(([name, section]) => [name, localSection(section, options)]);
  return { ...local, env: Object.fromEntries(environments) };
}

/** @param {Config} config */
const datasets = ({ env = {}, ...config }) =>
  [config, ...Object.values(env)].flatMap((section) => section.analytics_engine_datasets ?? []);

/** The oldest wrangler whose Miniflare runs the plugin; an older one would silently discard points. */
const OLDEST_WRANGLER = manifest.peerDependencies.wrangler.replace('>=', '');

/**
 * Resolves packages from a project, to find the project's wrangler: this package has none.
 *
 * @param {string} folder
 */
function projectRequire(folder) {
  const require = createRequire(path.join(folder, 'package.json'));
  let version;
  try {
    ({ version } = require('wrangler/package.json'));
  } catch {
    throw new UserError(`wrangler is not installed in ${folder}: npm install --save-dev wrangler`);
  }
  if (version.localeCompare(OLDEST_WRANGLER, 'en', { numeric: true }) < 0) {
    throw new UserError(`wrangler ${version} is too old: install ${OLDEST_WRANGLER} or later`);
  }
  return require;
}

/**
 * Reads a configuration as wrangler does, in each of its formats.
 *
 * @param {string} folder
 * @param {string | undefined} given
 */
function readConfig(folder, given) {
  /** @type {typeof import('wrangler')} */
  const wrangler = projectRequire(folder)('wrangler');
  try {
    return wrangler.experimental_readRawConfig({ config: given });
  } catch (error) {
    throw new UserError(`${given ?? folder}: ${/** @type {Error} */ (error).message}`);
  }
}

/** @param {string} folder @returns {string} the path of wrangler's program */
export function wranglerProgram(folder) {
  const require = projectRequire(folder);
  const { bin } = require('wrangler/package.json');
  return path.join(path.dirname(require.resolve('wrangler/package.json')), bin.wrangler);
}

/**
 * Writes the local configuration beside the deployed one, since its paths, `.dev.vars` and the state are relative
 * to its folder. Does not rewrite an equal file, since wrangler would restart the Worker.
 *
 * @param {string | undefined} given the deployed configuration; by default the one that wrangler finds
 * @param {Record<string, unknown>} options of the store
 * @returns {{ source: string, file: string }} the absolute paths of both
 */
export function writeLocalConfig(given, options) {
  const start = given === undefined ? process.cwd() : path.dirname(path.resolve(given));
  if (given !== undefined && !existsSync(given)) throw new UserError(`${given} does not exist`);
  const { configPath, rawConfig } = readConfig(start, given);
  if (configPath === undefined) {
    throw new UserError(`there is no wrangler.json, wrangler.jsonc or wrangler.toml in ${start}`);
  }
  const source = path.resolve(configPath);
  const file = source.replace(/(\.local-ae)?\.\w+$/, '.local-ae.json');
  if (file === source) throw new UserError(`${source} is what this command writes: name the one that you deploy`);
  if (datasets(rawConfig).length === 0) throw new UserError(`${source} has no analytics_engine_datasets`);
  const text = `${JSON.stringify(localConfig(rawConfig, options), null, 2)}\n`;
  try {
    if (!existsSync(file) || readFileSync(file, 'utf8') !== text) writeFileSync(file, text);
  } catch (error) {
    throw new UserError(`${file} cannot be written: ${/** @type {Error} */ (error).message}`);
  }
  return { source, file };
}
