/**
 * The Miniflare plugin `local-ae`: a local Workers Analytics Engine.
 *
 * A data point travels: the Worker's binding (`dataset.js`, checks the limits) → workerd's native
 * `analyticsEngine` binding → the entrypoint `ingest` of our service (`service.js`) → the store
 * (`store.js`). The read endpoint is a socket of its own in front of the same service.
 *
 * Why workerd's native binding and not a service binding with a method: the native one outlives
 * the response of the Worker's request by itself, as the cloud's does. A method call whose promise
 * the Worker drops is cancelled when the response ends, and the point with it.
 */
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';

/** @import { ParsedWorkerOptions, Plugin } from 'miniflare' */

/**
 * One binding of ours, its options checked.
 *
 * @typedef {object} DatasetBinding
 * @property {string} name the binding's name in the Worker's `env`
 * @property {string} dataset
 * @property {number} port where the read endpoint listens
 */

const PLUGIN = 'local-ae';
const DEFAULT_PORT = 9310;

/** Where a script needs another port than the one in a configuration file. */
const PORT_VARIABLE = 'LOCAL_AE_PORT';

/** The service that takes points in, keeps them and answers the read endpoint. */
const SERVICE = 'local-ae:service';
const DISK = 'local-ae:disk';
const SOCKET = 'local-ae:read';
const DATASET_MODULE = 'local-ae:dataset';

/** The service's modules, the main one first. */
const SERVICE_MODULES = ['service.js', 'api.js', 'ingest.js', 'point.js', 'store.js'];

// The Durable Object's files on disk are named after this key: another one starts an empty store.
const UNIQUE_KEY = 'local-ae-Store';
const COMPATIBILITY_DATE = '2026-07-01';

/** @param {string} file */
const source = (file) => readFile(new URL(file, import.meta.url), 'utf8');

/**
 * The options of one binding, checked.
 *
 * A typing error must not start a store nobody reads, so an unknown option is an error too.
 *
 * @param {string} name the binding's name
 * @param {Record<string, unknown>} options
 * @returns {DatasetBinding}
 */
function parseOptions(name, options) {
  const { dataset, port: configured = DEFAULT_PORT, ...unknown } = options;
  const variable = process.env[PORT_VARIABLE];
  const port = variable ? Number(variable) : configured;
  const fail = (/** @type {string} */ what) => new TypeError(`local-ae: binding ${name}: ${what}`);
  if (typeof dataset !== 'string' || dataset === '') {
    throw fail('the option "dataset" must be the name of a dataset');
  }
  // Port 0 would work, but Miniflare has no way to tell which port a plugin's socket was given.
  if (typeof port !== 'number' || !Number.isInteger(port) || port < 1 || port > 65_535) {
    const source = variable ? `the variable ${PORT_VARIABLE}` : 'the option "port"';
    throw fail(`${source} must be an integer from 1 to 65535`);
  }
  if (Object.keys(unknown).length > 0) {
    throw fail(`unknown option "${Object.keys(unknown)[0]}"; there are "dataset" and "port"`);
  }
  return { name, dataset, port };
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
 * Throws unless all bindings name the same port: they share one store, and so one read endpoint.
 * Miniflare itself would keep the first socket and drop the others without a word.
 *
 * @param {DatasetBinding[]} bindings
 */
function checkOnePort(bindings) {
  if (new Set(bindings.map(({ port }) => port)).size > 1) {
    const ports = bindings.map(({ name, port }) => `${name}: ${port}`).join(', ');
    throw new TypeError(`local-ae: all bindings share one read endpoint, so one port (${ports})`);
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
    checkOnePort(bindings);
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

    const modules = SERVICE_MODULES.map(async (name) => ({ name, esModule: await source(name) }));
    return {
      services: [
        { name: DISK, disk: { path: directory, writable: true } },
        {
          name: SERVICE,
          worker: {
            compatibilityDate: COMPATIBILITY_DATE,
            modules: await Promise.all(modules),
            durableObjectNamespaces: [
              { className: 'Store', uniqueKey: UNIQUE_KEY, enableSql: true },
            ],
            durableObjectStorage: { localDisk: DISK },
            bindings: [{ name: 'STORE', durableObjectNamespace: { className: 'Store' } }],
          },
        },
      ],
      extensions: [],
      sockets: [
        // Never another address: the endpoint asks for no credentials.
        {
          name: SOCKET,
          address: `127.0.0.1:${binding.port}`,
          http: {},
          service: { name: SERVICE },
        },
      ],
    };
  },
};

export const plugins = { [PLUGIN]: plugin };
