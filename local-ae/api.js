/**
 * The HTTP API of the read endpoint. It knows HTTP and the store's two operations, and nothing of
 * workerd, so it runs in plain Node too.
 *
 * The cloud's SQL API (`POST /client/v4/accounts/<id>/analytics_engine/sql`) will be one more
 * entry in `ROUTES`.
 */

/** @import { Point } from './point.js' */

/**
 * @typedef {object} PageQuery
 * @property {number} after only points with a higher id
 * @property {number} limit
 * @property {string} [dataset]
 * @property {string} [index]
 */

/**
 * @typedef {object} Page
 * @property {(Point & { id: number })[]} points
 * @property {number} last the highest id in the whole store, or 0
 */

/**
 * What the API needs of the store.
 *
 * @typedef {object} PointStore
 * @property {(query: PageQuery) => Page} page
 * @property {() => void} clear
 */

/** @typedef {(url: URL, store: PointStore) => Response} Handler */

const DEFAULT_LIMIT = 1_000;
const MAX_LIMIT = 10_000;

const LOOPBACK_HOSTS = new Set(['127.0.0.1', 'localhost', '[::1]']);

/** @type {Record<string, Record<string, Handler>>} by path, then by method */
const ROUTES = {
  '/points': { GET: getPoints, DELETE: deletePoints },
};

/**
 * Answers a request.
 *
 * 1. The host is not this machine → 403. A web page can point a name of its own at 127.0.0.1 and
 *    so read what listens there (DNS rebinding); its requests still carry that name.
 * 2. An unknown path → 404.
 * 3. A method the path does not have → 405 with `allow`.
 * 4. A parameter that is unknown, repeated or out of range → 400 with its name.
 *
 * @param {Request} request
 * @param {PointStore} store
 * @returns {Response}
 */
export function answer(request, store) {
  const url = new URL(request.url);
  // 1.
  if (!LOOPBACK_HOSTS.has(url.hostname)) {
    const allowed = [...LOOPBACK_HOSTS].join(', ');
    return refuse(403, 'host_not_local', `the host must be one of ${allowed}`);
  }
  // 2.
  const methods = Object.hasOwn(ROUTES, url.pathname) ? ROUTES[url.pathname] : undefined;
  if (methods === undefined) {
    return refuse(404, 'not_found', `no such path; there is ${Object.keys(ROUTES).join(', ')}`);
  }
  // 3.
  const handler = Object.hasOwn(methods, request.method) ? methods[request.method] : undefined;
  if (handler === undefined) {
    const allow = Object.keys(methods).join(', ');
    const refusal = refuse(405, 'method_not_allowed', `the method must be one of ${allow}`);
    refusal.headers.set('allow', allow);
    return refusal;
  }
  // 4.
  try {
    return handler(url, store);
  } catch (error) {
    if (!(error instanceof ParameterError)) throw error;
    return refuse(400, 'invalid_parameter', error.message, { parameter: error.parameter });
  }
}

/**
 * `GET /points`: the points after an id, oldest first.
 *
 * @param {URL} url
 * @param {PointStore} store
 */
function getPoints(url, store) {
  const { points, last } = store.page(parsePageQuery(url.searchParams));
  return Response.json({ points: points.map(pointToJson), last });
}

/**
 * `DELETE /points`: removes all points. It takes no parameters: what looks like a filter must not
 * remove everything.
 *
 * @param {URL} url
 * @param {PointStore} store
 */
function deletePoints(url, store) {
  checkNames(url.searchParams, []);
  store.clear();
  return new Response(null, { status: 204 });
}

/** A parameter the client got wrong; the message says what would have been right. */
class ParameterError extends Error {
  /**
   * @param {string} parameter
   * @param {string} message
   */
  constructor(parameter, message) {
    super(message);
    this.parameter = parameter;
  }
}

/**
 * @param {URLSearchParams} parameters
 * @returns {PageQuery}
 */
function parsePageQuery(parameters) {
  checkNames(parameters, ['after', 'limit', 'dataset', 'index']);
  return {
    after: integer(parameters, 'after', { lowest: 0, highest: Number.MAX_SAFE_INTEGER }) ?? 0,
    limit: integer(parameters, 'limit', { lowest: 1, highest: MAX_LIMIT }) ?? DEFAULT_LIMIT,
    dataset: parameters.get('dataset') ?? undefined,
    // An empty value asks for the points without an index.
    index: parameters.get('index') ?? undefined,
  };
}

/**
 * A misspelt filter would otherwise be no filter, and a repeated one half of what was meant.
 *
 * @param {URLSearchParams} parameters
 * @param {string[]} allowed
 */
function checkNames(parameters, allowed) {
  for (const name of parameters.keys()) {
    if (!allowed.includes(name)) {
      const known = allowed.length > 0 ? `one of ${allowed.join(', ')}` : 'none here';
      throw new ParameterError(name, `unknown parameter "${name}"; allowed: ${known}`);
    }
    if (parameters.getAll(name).length > 1) {
      throw new ParameterError(name, `the parameter "${name}" must be given once`);
    }
  }
}

/**
 * @param {URLSearchParams} parameters
 * @param {string} name
 * @param {{ lowest: number, highest: number }} range
 * @returns {number | undefined} undefined if it is not given
 */
function integer(parameters, name, { lowest, highest }) {
  const text = parameters.get(name);
  if (text === null) return undefined;
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= lowest && value <= highest)) {
    const allowed = `an integer from ${lowest} to ${highest}`;
    throw new ParameterError(name, `the parameter "${name}" must be ${allowed}`);
  }
  return value;
}

/**
 * A point as the API shows it. JSON has no NaN and no infinities: they become the strings "NaN",
 * "Infinity" and "-Infinity", since null could not tell them apart.
 *
 * @param {Point & { id: number }} point
 */
function pointToJson({ id, dataset, timestampMs, index1, blobs, doubles }) {
  return {
    id,
    dataset,
    timestamp: new Date(timestampMs).toISOString(),
    index1,
    blobs,
    doubles: doubles.map((double) => (Number.isFinite(double) ? double : String(double))),
  };
}

/**
 * @param {number} status
 * @param {string} code stable, for programs
 * @param {string} error for people
 * @param {Record<string, string>} [details]
 */
function refuse(status, code, error, details = {}) {
  return Response.json({ error, code, ...details }, { status });
}
