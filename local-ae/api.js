/**
 * The endpoint's HTTP API: the cloud's SQL API, and routes that only a local store has. It does not depend on
 * workerd, so that its tests run in plain Node.
 */
import { LineError, parsePoints } from './ndjson.js';
import { doubleToJson } from './point.js';

/**
 * @import { Point } from './point.js'
 * @import { SqlResult } from './sql.js'
 */

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
 * @typedef {object} Status
 * @property {number} points
 * @property {number} retentionDays
 * @property {number} maxRows
 * @property {number} disk size of the database in bytes
 * @property {number} memory size of the points in the SQL engine in bytes; 0 before the first query
 */

/**
 * The operations that the API needs from the store.
 *
 * @typedef {object} PointStore
 * @property {string | null} token the only bearer token that may query; null for any
 * @property {string[]} allowedHosts values of `Host` to accept besides the loopback hosts
 * @property {(query: PageQuery) => Page} page
 * @property {(sql: string) => SqlResult} query
 * @property {(points: Point[]) => void} insertAll
 * @property {() => void} clear
 * @property {(prefix: string) => void} removeIndexes
 * @property {() => Status} status
 */

/**
 * @callback Handler
 * @param {Request} request
 * @param {URL} url
 * @param {PointStore} store
 * @returns {Response | Promise<Response>}
 */

const DEFAULT_LIMIT = 1_000;
const MAX_LIMIT = 10_000;

/** Maximum body of `POST /points`: some 200,000 points. */
const MAX_BODY_CHARACTERS = 64 * 1024 * 1024;

const LOOPBACK_HOSTS = new Set(['127.0.0.1', 'localhost', '[::1]']);

/** The cloud's errors: no `authorization` header, a header without a bearer token, a wrong token. */
const NO_TOKEN = { status: 400, code: 9106, message: 'Missing X-Auth-Key, X-Auth-Email or Authorization headers' };
const BAD_TOKEN = { status: 400, code: 9106, message: 'Authentication failed (status: 400)' };
const WRONG_TOKEN = { status: 403, code: 10_000, message: 'Authentication error' };

/**
 * @typedef {object} Route
 * @property {RegExp} path
 * @property {string} shown
 * @property {Record<string, Handler>} methods
 */

/** @type {Route[]} */
const ROUTES = [
  {
    path: /^\/client\/v4\/accounts\/[^/]+\/analytics_engine\/sql\/?$/,
    shown: '/client/v4/accounts/<id>/analytics_engine/sql',
    methods: { GET: querySql, POST: querySql },
  },
  {
    path: /^\/points$/,
    shown: '/points',
    methods: { GET: getPoints, POST: postPoints, DELETE: deletePoints },
  },
  { path: /^\/status$/, shown: '/status', methods: { GET: getStatus } },
];

/**
 * Handles a request.
 *
 * 1. The `Host` is not this machine → 403. By DNS rebinding, a web page can resolve its own name to 127.0.0.1
 *    and read from a local port, but its requests still carry that name.
 * 2. The path is unknown → 404.
 * 3. The path does not support the method → 405 with `allow`.
 * 4. A parameter is unknown, repeated or out of range → 400 with its name.
 *
 * @param {Request} request
 * @param {PointStore} store
 * @returns {Promise<Response>}
 */
export async function handleRequest(request, store) {
  const url = new URL(request.url);
  // 1.
  if (!LOOPBACK_HOSTS.has(url.hostname) && !store.allowedHosts.includes(url.hostname)) {
    const allowed = [...LOOPBACK_HOSTS, ...store.allowedHosts].join(', ');
    const error = `the host must be one of ${allowed}, or be in the option "allowedHosts"`;
    return refuse(403, 'host_not_local', error);
  }
  // 2.
  const methods = ROUTES.find(({ path }) => path.test(url.pathname))?.methods;
  if (methods === undefined) {
    const paths = ROUTES.map(({ shown }) => shown).join(', ');
    return refuse(404, 'not_found', `unknown path; the paths are ${paths}`);
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
    return await handler(request, url, store);
  } catch (error) {
    if (!(error instanceof ParameterError)) throw error;
    return refuse(400, 'invalid_parameter', error.message, { parameter: error.parameter });
  }
}

/**
 * The cloud's SQL API: the query is the body, or the parameter `query`.
 *
 * @type {Handler}
 */
async function querySql(request, url, store) {
  const response = await sqlResponse(request, url, store);
  response.headers.set('x-query-id', crypto.randomUUID());
  return response;
}

/** @type {Handler} */
async function sqlResponse(request, url, store) {
  const authorization = request.headers.get('authorization') ?? '';
  const [, token] = /^Bearer +(\S+)$/i.exec(authorization) ?? [];
  if (token === undefined || (store.token !== null && token !== store.token)) {
    const wanted = token === undefined ? 'any token' : 'the token of the option "token"';
    const hint = `send the header "authorization: Bearer <token>" with ${wanted}`;
    const unread = authorization === '' ? NO_TOKEN : BAD_TOKEN;
    const { status, ...error } = token === undefined ? unread : WRONG_TOKEN;
    const messages = [{ code: error.code, message: hint }];
    return Response.json({ success: false, errors: [error], messages, result: null }, { status });
  }
  const sql = request.method === 'POST' ? await request.text() : url.searchParams.get('query');
  if (sql === null) return new Response('Query string error: missing field `query`', { status: 400 });
  const { ok, contentType, body } = store.query(sql);
  return new Response(body, { status: ok ? 200 : 422, headers: { 'content-type': contentType } });
}

/**
 * `GET /points`: the points after an id, oldest first.
 *
 * @type {Handler}
 */
function getPoints(_request, url, store) {
  const { points, last } = store.page(parsePageQuery(url.searchParams));
  return Response.json({ points: points.map(pointToJson), last });
}

/**
 * `POST /points`: adds all points in the body, or none.
 *
 * Requires a content type that web pages may send to other origins only after a CORS preflight, so that a page
 * in the developer's browser cannot add points.
 *
 * @type {Handler}
 */
async function postPoints(request, url, store) {
  checkNames(url.searchParams, []);
  const [type] = (request.headers.get('content-type') ?? '').split(';');
  if (type.trim().toLowerCase() !== 'application/x-ndjson') {
    return refuse(415, 'unsupported_content_type', 'the content type must be application/x-ndjson');
  }
  const text = await request.text();
  if (text.length > MAX_BODY_CHARACTERS) {
    return refuse(413, 'body_too_large', `send at most ${MAX_BODY_CHARACTERS} characters at a time`);
  }
  try {
    const points = parsePoints(text, Date.now());
    store.insertAll(points);
    return Response.json({ points: points.length });
  } catch (error) {
    if (!(error instanceof LineError)) throw error;
    return refuse(400, 'invalid_point', error.message);
  }
}

/** @type {Handler} */
function getStatus(_request, url, store) {
  checkNames(url.searchParams, []);
  return Response.json(store.status());
}

/**
 * `DELETE /points`: removes all points, or only points whose index begins with `index_prefix`. Refuses other
 * parameters, so that a misspelt filter does not remove everything.
 *
 * @type {Handler}
 */
function deletePoints(_request, url, store) {
  checkNames(url.searchParams, ['index_prefix']);
  const prefix = url.searchParams.get('index_prefix');
  if (prefix === '') throw new ParameterError('index_prefix', 'the parameter "index_prefix" is empty');
  if (prefix === null) store.clear();
  else store.removeIndexes(prefix);
  return new Response(null, { status: 204 });
}

/** An invalid parameter; the message says which values are valid. */
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
    // An empty value selects the points without an index.
    index: parameters.get('index') ?? undefined,
  };
}

/**
 * Refuses unknown and repeated parameters: a misspelt filter would have no effect, and of repeated filters only
 * the first would.
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
 * @returns {number | undefined} undefined if the parameter is absent
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
 * A point in the API's format. Omits a `_sample_interval` of 1, which every point of a Worker has.
 *
 * @param {Point & { id: number }} point
 */
function pointToJson({ id, dataset, timestampMs, sampleInterval, index1, blobs, doubles }) {
  return {
    id,
    dataset,
    timestamp: new Date(timestampMs).toISOString(),
    ...(sampleInterval === 1 ? {} : { _sample_interval: sampleInterval }),
    index1,
    blobs,
    doubles: doubles.map(doubleToJson),
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
