/**
 * The Miniflare plugin `local-ae`: a local Workers Analytics Engine.
 *
 * A data point's path: the Worker's binding (`dataset.js`, checks the limits) → workerd's native
 * `analyticsEngine` binding → the service's entrypoint `ingest` (`service.js`) → the store (`store.js`). The SQL
 * endpoint is a separate socket of the same service. `workerd.capnp` configures the same for a plain workerd.
 *
 * The native binding's write outlives the Worker's response, as in the cloud. A service binding with a method
 * would lose points: when the response ends, workerd cancels calls that the Worker does not await.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import path from 'node:path';

import { checkLimits } from './dataset.js';
import { readEngine } from './engine-files.js';
import { lockFolder } from './lock.js';
import { DEFAULTS, parseOptions, PORT_VARIABLE } from './options.js';
import manifest from './package.json' with { type: 'json' };
import { doubleToJson } from './point.js';

/**
 * @import { ParsedWorkerOptions, Plugin } from 'miniflare'
 * @import { DataPoint, Dataset } from './dataset.js'
 * @import { DatasetBinding, SharedOptions } from './options.js'
 */

const PLUGIN = 'local-ae';

/** The oldest versions that have everything that this plugin needs. */
const MINIFLARE = manifest.engines.miniflare.replace('>=', '');
const WRANGLER = manifest.peerDependencies.wrangler.replace('>=', '');

/** The service that receives and stores points, and serves the endpoint. */
const SERVICE = 'local-ae:service';
const DISK = 'local-ae:disk';
const SOCKET = 'local-ae:read';
const DATASET_MODULE = 'local-ae:dataset';

/** The path for the log; any account id works. */
const SQL_PATH = '/client/v4/accounts/local/analytics_engine/sql';

/** The service's modules without the engine; the first one is the main module. */
const SERVICE_MODULES = ['service.js', 'api.js', 'ingest.js', 'ndjson.js', 'point.js', 'sql.js', 'store.js'];

// Names the Durable Object's files on disk: with another key, the store would start empty.
const UNIQUE_KEY = 'local-ae-Store';
const COMPATIBILITY_DATE = '2026-07-01';

/** @param {string} file */
const source = (file) => readFile(new URL(file, import.meta.url), 'utf8');

/** The SQL engine: its JavaScript glue and the wasm module. */
async function engineModules() {
  const { script, wasm } = await readEngine();
  return [
    { name: 'engine.js', esModule: script },
    { name: 'engine.wasm', wasm },
  ];
}

/**
 * A Worker's bindings that belong to this plugin.
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
 * Throws if bindings differ in a shared option: Miniflare would keep the first socket and the first service, and
 * silently drop the others.
 *
 * @param {DatasetBinding[]} bindings
 */
function checkShared(bindings) {
  for (const option of /** @type {(keyof SharedOptions)[]} */ (Object.keys(DEFAULTS))) {
    if (new Set(bindings.map(({ shared }) => JSON.stringify(shared[option]))).size > 1) {
      const values = bindings.map(({ name, shared }) => `${name}: ${shared[option]}`).join(', ');
      throw new TypeError(`local-ae: all bindings share one store, so they need one ${option} (${values})`);
    }
  }
}

/** Ports that this process's instances use: on a reload, the instance's own port is taken. */
const givenPorts = new Set();

/**
 * Throws if another program listens on the port. Miniflare's own error does not say how to choose another port.
 *
 * @param {number} port
 */
async function checkPort(port) {
  if (givenPorts.has(port)) return;
  const server = createServer();
  /** @type {NodeJS.ErrnoException | undefined} */
  const error = await new Promise((resolve) => {
    server.once('error', resolve);
    server.listen(port, '127.0.0.1', () => server.close(resolve));
  });
  if (error?.code === 'EADDRINUSE') {
    const message =
      `local-ae: port ${port} of 127.0.0.1 is taken, perhaps by another "wrangler dev": set the ` +
      `option "port" of the binding, "local-ae dev --ae-port" or the variable ${PORT_VARIABLE} to a free one`;
    // The code that Miniflare's error has.
    throw Object.assign(new Error(message), { code: 'ERR_ADDRESS_IN_USE' });
  }
  givenPorts.add(port);
}

const warned = new Set();

/** @param {string} text */
function warnOnce(text) {
  if (warned.has(text)) return;
  warned.add(text);
  console.warn(`local-ae: ${text}`);
}

/** @param {unknown} text a blob or an index, converted as the native binding does */
function toText(text) {
  if (text === null || text === undefined) return '';
  if (text instanceof ArrayBuffer || ArrayBuffer.isView(text)) {
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(/** @type {Uint8Array} */ (text));
  }
  return String(text);
}

/**
 * A binding for code in Node, which `getPlatformProxy()` returns. It sends points to the endpoint, since there is
 * no Worker to write them. A lost point is only a warning, so that it does not break the caller.
 *
 * @param {DatasetBinding} binding
 * @returns {Dataset}
 */
function nodeBinding({ dataset, shared: { port } }) {
  /** @param {DataPoint} point */
  const send = async ({ indexes, blobs, doubles }) => {
    const row = { dataset, timestamp: Date.now(), index1: toText(indexes?.[0]) };
    const texts = blobs?.map((blob, i) => [`blob${i + 1}`, toText(blob)]) ?? [];
    const numbers = doubles?.map((double, i) => [`double${i + 1}`, doubleToJson(Number(double))]) ?? [];
    const response = await fetch(`http://127.0.0.1:${port}/points`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-ndjson' },
      body: JSON.stringify({ ...row, ...Object.fromEntries([...texts, ...numbers]) }),
    });
    if (!response.ok) throw new Error(await response.text());
  };
  return {
    writeDataPoint(point) {
      checkLimits(point);
      send(point ?? {}).catch((error) => {
        const { message, cause } = /** @type {Error} */ (error);
        const why = cause instanceof Error ? cause.message : message;
        warnOnce(`a data point that was written in Node was not stored: ${why}`);
      });
    },
  };
}

/** @type {Plugin} */
const plugin = {
  bindingTypeDescription: 'Analytics Engine dataset (local-ae)',

  /** The Workers' bindings: the native binding, wrapped with limit checks. */
  getBindings(worker) {
    return datasetBindings(worker).map(({ name, dataset }) => ({
      name,
      wrapped: {
        moduleName: DATASET_MODULE,
        innerBindings: [
          {
            name: 'native',
            // workerd's event has only the service's name, so a property carries the dataset. One service per
            // dataset would fail for a dataset named "internet", since Miniflare has a service of that name.
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

  /** The bindings that `getPlatformProxy()` and Miniflare's `getBindings()` return. */
  getNodeBindings(worker) {
    const bindings = datasetBindings(worker);
    return Object.fromEntries(bindings.map((binding) => [binding.name, nodeBinding(binding)]));
  },

  /** Also checks the shared options: only this hook is called once with all Workers. */
  async getExtensions({ options: workers }) {
    const bindings = workers.flatMap(datasetBindings);
    checkShared(bindings);
    if (bindings.length === 0) return [];
    const esModule = await source('dataset.js');
    return [{ modules: [{ name: DATASET_MODULE, internal: true, esModule }] }];
  },

  /** Called once per Worker; Miniflare keeps the first service and socket of each name. */
  async getServices({ options: worker, sharedOptions, tmpPath, log }) {
    const [binding] = datasetBindings(worker);
    if (binding === undefined) return;
    const { port, ...options } = binding.shared;
    await checkPort(port);
    const origin = `http://127.0.0.1:${port}`;

    // Each instance has its own folder, since two workerd processes must not open one store.
    const root = sharedOptions.isolatedResourcePersistencePath ?? tmpPath;
    const directory = path.resolve(root, PLUGIN);
    await mkdir(directory, { recursive: true });
    if (!(await lockFolder(directory))) {
      throw new Error(
        `local-ae: another process has the store in ${directory}, and two processes would lose points: ` +
          'stop that process, or use another folder (`wrangler dev --persist-to FOLDER`)',
      );
    }

    const own = SERVICE_MODULES.map(async (name) => ({ name, esModule: await source(name) }));
    const modules = [...(await Promise.all(own)), ...(await engineModules())];
    let listens = false;
    // Miniflare reads `sockets` within this turn of the event loop, or never.
    setImmediate(() => {
      if (listens) return;
      warnOnce(
        `this version of Miniflare gives plugins no sockets, so nothing listens at ${origin}: points ` +
          `are stored, but cannot be queried; use ${MINIFLARE} or later (wrangler ${WRANGLER})`,
      );
    });
    return {
      services: [
        { name: DISK, disk: { path: directory, writable: true } },
        {
          name: SERVICE,
          worker: {
            compatibilityDate: COMPATIBILITY_DATE,
            modules,
            durableObjectNamespaces: [
              // After an eviction, the next query would have to read all points again.
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
      get sockets() {
        if (!listens) log.info(`local-ae: SQL at ${origin}${SQL_PATH}`);
        listens = true;
        // Only the loopback address: by default, the endpoint accepts any token.
        const address = `127.0.0.1:${port}`;
        return [{ name: SOCKET, address, http: {}, service: { name: SERVICE } }];
      },
    };
  },
};

/** @type {typeof import('./types.d.ts').plugins} */
export const plugins = { [PLUGIN]: plugin };
