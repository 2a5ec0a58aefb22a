/**
 * The check-in route by hand, in plain JavaScript: no library, no router, and all reusable state cached
 * between requests. It implements the contract of the check-in and nothing else.
 */

/** @typedef {import('./workers.d.ts').Env} Env */
/** @typedef {import('node:crypto').webcrypto.CryptoKey} CryptoKey */

const encoder = new TextEncoder();
const HMAC = { name: 'HMAC', hash: 'SHA-256' };
const MAX_BODY = 64 * 1024;

export default {
  /**
   * @param {Request} request
   * @param {Env} env
   */
  async fetch(request, env) {
    if (!/^https?:\/\/[^/]*\/api\/controller\/checkin(\?|$)/.test(request.url)) {
      return refuse(404, 'Not found', 'not_found');
    }
    if (request.method !== 'POST') {
      return refuse(405, 'Method not allowed', 'method_not_allowed', { headers: { allow: 'POST' } });
    }

    const { headers } = request;
    const authorization = headers.get('authorization');
    if (!authorization) return unauthorized('missing_authorization');
    const scheme = authorization.slice(0, 7);
    const apiKey = authorization.slice(7).trim();
    if ((scheme !== 'Bearer ' && scheme.toLowerCase() !== 'bearer ') || apiKey === '') {
      return unauthorized('not_a_bearer_token');
    }
    const token = headers.get('x-kiloclaw-gateway-token');
    if (!token) return unauthorized('missing_gateway_token');

    const { missing, keyDigests, gatewayKeys } = await configuration(env);
    if (missing !== undefined) {
      return refuse(503, 'Configuration error', 'misconfigured', {
        headers: { 'retry-after': '30' },
        log: { detail: `${missing} is missing or empty` },
      });
    }
    if (!anyEqual(keyDigests, await digest(apiKey))) return refuse(403, 'Forbidden', 'wrong_api_key');

    const length = headers.get('content-length');
    let text;
    if (length === null) text = await readAtMost(request.body, MAX_BODY);
    else if (Number(length) <= MAX_BODY) text = await request.text();
    if (text === undefined) return refuse(413, 'Body too large', 'body_too_large');

    // The runtime replaces invalid UTF-8 with U+FFFD, which almost always changes the byte length.
    if (text.includes('\ufffd') && encoder.encode(text).length !== Number(length)) {
      return invalid('not_json');
    }
    let body;
    try {
      body = JSON.parse(text);
    } catch {
      return invalid('not_json');
    }
    if (typeof body !== 'object' || body === null || Array.isArray(body)) return invalid('not_an_object');
    for (const [field, holds, expected] of RULES) {
      if (!holds(body[field])) {
        return invalid('invalid_field', { body: { field, expected }, log: { detail: field } });
      }
    }

    const { sandboxId } = body;
    const message = encoder.encode(sandboxId);
    const macs = await Promise.all(gatewayKeys.map((key) => crypto.subtle.sign('HMAC', key, message)));
    if (!anyEqual(macs.map(hex), encoder.encode(token))) {
      return refuse(403, 'Forbidden', 'wrong_gateway_token', { log: { sandboxId } });
    }
    try {
      env.KILOCLAW_CONTROLLER_AE.writeDataPoint({
        indexes: [sandboxId],
        blobs: [
          sandboxId,
          body.controllerVersion,
          body.controllerCommit,
          body.openclawVersion ?? '',
          body.openclawCommit ?? '',
          body.supervisorState,
          (headers.get('fly-region') ?? '').slice(0, 1024),
          body.machineId ?? '',
          body.lastExitReason ?? '',
        ],
        doubles: [
          body.restartsSinceLastCheckin,
          body.totalRestarts,
          body.uptimeSeconds,
          body.loadAvg5m,
          body.bandwidthBytesIn,
          body.bandwidthBytesOut,
        ],
      });
    } catch (error) {
      return refuse(503, 'Write failed', 'write_failed', {
        headers: { 'retry-after': '30' },
        log: { sandboxId, detail: String(error) },
      });
    }
    return new Response(null, { status: 204, headers: NOSNIFF });
  },
};

/**
 * @param {number} status
 * @param {string} error
 * @param {string} code
 * @param {{ headers?: Record<string, string>, body?: object, log?: object }} more
 */
function refuse(status, error, code, { headers, body, log } = {}) {
  console.warn(JSON.stringify({ status, code, ...log }));
  return new Response(JSON.stringify({ error, code, ...body }), {
    status,
    headers: { 'content-type': 'application/json', ...NOSNIFF, ...headers },
  });
}

/** @param {string} code */
const unauthorized = (code) =>
  refuse(401, 'Unauthorized', code, { headers: { 'www-authenticate': 'Bearer' } });

/**
 * @param {string} code
 * @param {{ body?: object, log?: object }} [more]
 */
const invalid = (code, more) => refuse(400, 'Invalid body', code, more);

const NOSNIFF = { 'x-content-type-options': 'nosniff' };

const FORBIDDEN = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_Control}]/u;
const LONE_SURROGATE = /\p{Cs}/u;

/**
 * Checks the length in bytes. UTF-8 needs at most 3 bytes per UTF-16 code unit, so most strings need no
 * counting.
 *
 * @param {unknown} value
 * @param {number} min
 * @param {number} [max]
 * @param {RegExp} [forbidden]
 */
const isText = (value, min, max = 1024, forbidden = FORBIDDEN) =>
  typeof value === 'string' &&
  value.length >= min &&
  (value.length * 3 <= max || encoder.encode(value).length <= max) &&
  !forbidden.test(value);

/** @typedef {(value: unknown) => boolean} Rule */

/** @type {Rule} */
const isNonEmpty = (value) => isText(value, 1);
/** @type {Rule} */
const isTextOrNull = (value) => value === null || isText(value, 0);
/** @type {Rule} */
const isTextOrAbsent = (value) => value === undefined || isText(value, 0);
/**
 * @param {string} field
 * @param {number} max
 * @returns {[field: string, holds: Rule, expected: string]}
 */
const number = (field, max) => [
  field,
  (value) => typeof value === 'number' && value >= 0 && value <= max,
  `a number from 0 to ${max}`,
];

const PLAIN = 'without control characters or lone surrogates';
const NON_EMPTY = `a string of 1 to 1024 bytes, ${PLAIN}`;
const OR_NULL = `a string of at most 1024 bytes, ${PLAIN}, or null`;
const OR_ABSENT = `a string of at most 1024 bytes, ${PLAIN}, or left out`;

/** @type {[field: string, holds: Rule, expected: string][]} */
const RULES = [
  ['sandboxId', (value) => isText(value, 1, 96), `a string of 1 to 96 bytes, ${PLAIN}`],
  ['machineId', isTextOrAbsent, OR_ABSENT],
  ['controllerVersion', isNonEmpty, NON_EMPTY],
  ['controllerCommit', isNonEmpty, NON_EMPTY],
  ['openclawVersion', isTextOrNull, OR_NULL],
  ['openclawCommit', isTextOrNull, OR_NULL],
  ['supervisorState', isNonEmpty, NON_EMPTY],
  number('totalRestarts', 1e9),
  number('restartsSinceLastCheckin', 1e9),
  number('uptimeSeconds', 4e9),
  number('loadAvg5m', 2 ** 22),
  number('bandwidthBytesIn', 2 ** 53),
  number('bandwidthBytesOut', 2 ** 53),
  [
    'lastExitReason',
    (value) => value === undefined || isText(value, 0, 1024, LONE_SURROGATE),
    'a string of at most 1024 bytes, without lone surrogates, or left out',
  ],
];

/** @typedef {{ missing?: string, keyDigests: ArrayBuffer[], gatewayKeys: CryptoKey[] }} Configuration */

/** @type {{ env?: Env, read?: Configuration }} */
const cache = {};

/** @param {Env} env */
function configuration(env) {
  if (cache.env === env && cache.read !== undefined) return cache.read;
  return read(env);
}

/**
 * @param {Env} env
 * @returns {Promise<Configuration>}
 */
async function read(env) {
  const apiKeys = values(env.KILOCODE_API_KEY);
  const secrets = values(env.GATEWAY_TOKEN_SECRET);
  const keyDigests = await Promise.all(apiKeys.map(digest));
  const gatewayKeys = await Promise.all(
    secrets.map((secret) =>
      crypto.subtle.importKey('raw', encoder.encode(secret), HMAC, false, ['sign']),
    ),
  );
  let missing;
  if (!env.KILOCLAW_CONTROLLER_AE) missing = 'KILOCLAW_CONTROLLER_AE';
  if (secrets.length === 0) missing = 'GATEWAY_TOKEN_SECRET';
  if (apiKeys.length === 0) missing = 'KILOCODE_API_KEY';
  cache.env = env;
  return (cache.read = { missing, keyDigests, gatewayKeys });
}

/** The comma-separated values of a secret, without empty ones. */
const values = (secret = '') =>
  secret
    .split(',')
    .map((value) => value.trim())
    .filter((value) => value !== '');

/** @param {string} text */
const digest = (text) => crypto.subtle.digest('SHA-256', encoder.encode(text));

/** @param {ArrayBuffer} mac */
const hex = (mac) => encoder.encode(new Uint8Array(mac).toHex());

/**
 * Compares with every accepted value, in constant time.
 *
 * @param {(ArrayBuffer | Uint8Array)[]} accepted
 * @param {ArrayBuffer | Uint8Array} presented
 */
function anyEqual(accepted, presented) {
  let found = false;
  for (const one of accepted) {
    const same =
      one.byteLength === presented.byteLength && crypto.subtle.timingSafeEqual(one, presented);
    found = same || found;
  }
  return found;
}

/**
 * Returns the text of a body of unknown length, or `undefined` if it exceeds `limit` bytes.
 *
 * @param {ReadableStream<Uint8Array> | null} stream
 * @param {number} limit
 */
async function readAtMost(stream, limit) {
  const decoder = new TextDecoder();
  let text = '';
  let length = 0;
  for await (const chunk of stream ?? []) {
    length += chunk.length;
    if (length > limit) return undefined;
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}
