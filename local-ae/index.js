/**
 * The Miniflare plugin `local-ae`: a local Workers Analytics Engine.
 *
 * A data point travels: the Worker's binding (`dataset.js`, checks the limits) → workerd's native
 * `analyticsEngine` binding → the entrypoint `ingest` of our service (`service.js`) → the store
 * (`store.js`). The endpoint, with SQL, is a socket of its own in front of the same service.
 * `workerd.capnp` is the same for a plain workerd.
 *
 * Why workerd's native binding and not a service binding with a method: the native one outlives
 * the response of the Worker's request by itself, as the cloud's does. A method call whose promise
 * the Worker drops is cancelled when the response ends, and the point with it.
 */
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';

import { lockFolder } from './lock.js';

/** @import { ParsedWorkerOptions, Plugin } from 'miniflare' */

/**
 * What all bindings of an instance share, as they share one store and one endpoint.
 *
 * @typedef {object} SharedOptions
 * @property {number} port where the endpoint listens
 * @property {number} retentionDays points that are older are removed
 * @property {number} maxRows beyond it the oldest points are removed
 * @property {string | null} token the only bearer token that may query; null for any
 */

/**
 * One binding of ours, its options checked.
 *
 * @typedef {object} DatasetBinding
 * @property {string} name the binding's name in the Worker's `env`
 * @property {string} dataset
 * @property {SharedOptions} shared
 */

const PLUGIN = 'local-ae';

/** @type {SharedOptions} */
const DEFAULTS = { port: 9310, retentionDays: 90, maxRows: 1_000_000, token: null };

// Fewer would not be worth it: up to a thousand of the oldest points go at a time.
const LEAST_MAX_ROWS = 10_000;

/** Where a script needs another port than the one in a configuration file. */
const PORT_VARIABLE = 'LOCAL_AE_PORT';

/** The service that takes points in, keeps them and answers the read endpoint. */
const SERVICE = 'local-ae:service';
const DISK = 'local-ae:disk';
const SOCKET = 'local-ae:read';
const DATASET_MODULE = 'local-ae:dataset';

/** The service's modules, the main one first; but for the engine, which `tools/engine` builds. */
const SERVICE_MODULES = ['service.js', 'api.js', 'ingest.js', 'ndjson.js', 'point.js', 'sql.js', 'store.js'];

// The Durable Object's files on disk are named after this key: another one starts an empty store.
const UNIQUE_KEY = 'local-ae-Store';
const COMPATIBILITY_DATE = '2026-07-01';

/** @param {string} file */
const source = (file) => readFile(new URL(file, import.meta.url), 'utf8');

/** The SQL engine: its glue, and the wasm module. */
async function engineModules() {
  const built = new URL('build/', import.meta.url);
  try {
    return [
      { name: 'engine.js', esModule: await readFile(new URL('engine.js', built), 'utf8') },
      { name: 'engine.wasm', wasm: await readFile(new URL('engine.wasm', built)) },
    ];
  } catch (error) {
    const { message } = /** @type {Error} */ (error);
    throw new Error(
      `local-ae: the SQL engine is not built: run "npm run engine" in Kiloclaw's folder (${message})`,
    );
  }
}

/**
 * The options of one binding, checked.
 *
 * A typing error must not start a store nobody reads, so an unknown option is an error too.
 *
 * @param {string} name the binding's name
 * @param {Record<string, unknown>} options
 * @returns {DatasetBinding}
 */
function parseOptions(name, { dataset, ...options }) {
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
  const { port, retentionDays, maxRows, token } = /** @type {Record<string, unknown>} */ ({
    ...DEFAULTS,
    ...given,
  });
  // Port 0 would work, but Miniflare has no way to tell which port a plugin's socket was given.
  if (!isInteger(port, 1, 65_535)) {
    const source = variable ? `the variable ${PORT_VARIABLE}` : 'the option "port"';
    throw fail(`${source} must be an integer from 1 to 65535`);
  }
  if (!isInteger(retentionDays, 1, 36_500)) {
    throw fail('the option "retentionDays" must be an integer from 1 to 36500');
  }
  if (!isInteger(maxRows, LEAST_MAX_ROWS, 20_000_000)) {
    throw fail(`the option "maxRows" must be an integer from ${LEAST_MAX_ROWS} to 20000000`);
  }
  if (token !== null && (typeof token !== 'string' || !/^\S+$/.test(token))) {
    throw fail('the option "token" must be a text without spaces, or be left out');
  }
  return { name, dataset, shared: { port, retentionDays, maxRows, token } };
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

/**
 * The bindings of a Worker that are ours.
 *
 * @param {ParsedWorkerOptions} worker
 * @returns {DatasetBinding[]}
 */
function datasetBindings(worker) {
  return Object.entries(worker.config.env ?? {}).flatMap(([name, binding]) => {
    const dev = /** @type {{ plugin?: { name: string }, options?: Record<string, unknown> }} */ (
      'dev' in binding ? (binding.dev ?? {}) : {}
    );
    return dev.plugin?.name === PLUGIN ? [parseOptions(name, dev.options ?? {})] : [];
  });
}

/**
 * Throws unless all bindings agree on what they share. Miniflare itself would keep the first socket
 * and the first service and drop the others without a word.
 *
 * @param {DatasetBinding[]} bindings
 */
function checkShared(bindings) {
  for (const option of /** @type {(keyof SharedOptions)[]} */ (Object.keys(DEFAULTS))) {
    if (new Set(bindings.map(({ shared }) => shared[option])).size > 1) {
      const values = bindings.map(({ name, shared }) => `${name}: ${shared[option]}`).join(', ');
      throw new TypeError(`local-ae: all bindings share one store, so one ${option} (${values})`);
    }
  }
}

/** @type {Plugin} */
const plugin = {
  bindingTypeDescription: 'Analytics Engine dataset (local-ae)',

  /** The Workers' bindings: our limit checks around workerd's native binding. */
  getBindings(worker) {
    return datasetBindings(worker).map(({ name, dataset }) => ({
      name,
      wrapped: {
        moduleName: DATASET_MODULE,
        innerBindings: [
          {
            name: 'native',
            // The dataset travels as a property. workerd's event names the service instead, so the
            // other way is a service per dataset, which a dataset called "internet" would break.
            analyticsEngine: {
              name: SERVICE,
              entrypoint: 'ingest',
              props: { json: JSON.stringify({ dataset }) },
            },
          },
        ],
      },
    }));
  },

  /** What `getBindings()` hands to code in Node: nothing that would lose a point silently. */
  getNodeBindings(worker) {
    const writeDataPoint = () => {
      throw new Error('local-ae: data points are written from inside a Worker only');
    };
    const names = datasetBindings(worker).map(({ name }) => name);
    return Object.fromEntries(names.map((name) => [name, { writeDataPoint }]));
  },

  /** Called once with all Workers, unlike the other three: so what must agree is checked here. */
  async getExtensions({ options: workers }) {
    const bindings = workers.flatMap(datasetBindings);
    checkShared(bindings);
    if (bindings.length === 0) return [];
    const esModule = await source('dataset.js');
    return [{ modules: [{ name: DATASET_MODULE, internal: true, esModule }] }];
  },

  /** Miniflare asks once per Worker and keeps the first service and socket of each name. */
  async getServices({ options: worker, sharedOptions, tmpPath }) {
    const [binding] = datasetBindings(worker);
    if (binding === undefined) return;

    // Always the instance's own folder, never one that is shared between instances: two workerd
    // processes must not open one store.
    const root = sharedOptions.isolatedResourcePersistencePath ?? tmpPath;
    const directory = path.resolve(root, PLUGIN);
    await mkdir(directory, { recursive: true });
    if (!(await lockFolder(directory))) {
      throw new Error(
        `local-ae: another process has the store in ${directory}, and two of them would lose points: ` +
          'end that one, or give this one another folder (`wrangler dev --persist-to FOLDER`)',
      );
    }

    const modules = SERVICE_MODULES.map(async (name) => ({ name, esModule: await source(name) }));
    const { port, ...options } = binding.shared;
    return {
      services: [
        { name: DISK, disk: { path: directory, writable: true } },
        {
          name: SERVICE,
          worker: {
            compatibilityDate: COMPATIBILITY_DATE,
            modules: [...(await Promise.all(modules)), ...(await engineModules())],
            durableObjectNamespaces: [
              // Not evicted when nobody asks for a while: the next query would have to read all points.
              {
                className: 'Store',
                uniqueKey: UNIQUE_KEY,
                enableSql: true,
                preventEviction: true,
              },
            ],
            durableObjectStorage: { localDisk: DISK },
            bindings: [
              { name: 'STORE', durableObjectNamespace: { className: 'Store' } },
              { name: 'OPTIONS', json: JSON.stringify(options) },
            ],
          },
        },
      ],
      extensions: [],
      sockets: [
        // Never another address: the endpoint takes any token.
        {
          name: SOCKET,
          address: `127.0.0.1:${port}`,
          http: {},
          service: { name: SERVICE },
        },
      ],
    };
  },
};

export const plugins = { [PLUGIN]: plugin };
