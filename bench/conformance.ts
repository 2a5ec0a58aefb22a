/** Sends every variant the same requests, so that none is fast by leaving something out. */
import { createHmac } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';

import {
  API_KEY,
  gatewayToken,
  GATEWAY_TOKEN_SECRET,
  JWT_SECRET,
  MAX_BODY_BYTES,
  MINIMAL,
  WORKER_SECRETS,
} from '../harness/check-in.ts';
import { Failure } from '../harness/command.ts';
import { dataPoint, headers, REGION, SAMPLE, type Fields, type Headers } from './check-in.ts';
import { ask, REPORT, serve, type HttpRequest, type Service, type Site, type Variant } from './workerd.ts';

/** The Worker as measured, during a secret rotation, and misconfigured. */
const SERVICES: readonly Service[] = [
  { name: 'main', vars: WORKER_SECRETS },
  {
    name: 'rotating',
    vars: {
      ...WORKER_SECRETS,
      KILOCODE_API_KEY: `new-key, ${API_KEY}`,
      GATEWAY_TOKEN_SECRET: `new-secret,\n${GATEWAY_TOKEN_SECRET}\n`,
    },
  },
  { name: 'no key', vars: { ...WORKER_SECRETS, KILOCODE_API_KEY: undefined } },
  { name: 'empty secret', vars: { ...WORKER_SECRETS, GATEWAY_TOKEN_SECRET: ' , ' } },
  { name: 'no dataset', vars: WORKER_SECRETS, dataset: 'missing' },
  { name: 'throwing', vars: WORKER_SECRETS, dataset: 'throws' },
];

interface Case {
  readonly name: string;
  readonly request: HttpRequest;
  readonly status: number;
  /** The exact body of a refusal. */
  readonly body?: object;
  /** Required response headers. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly service?: string;
  /** Only for variants with an operators' API. */
  readonly operators?: boolean;
}

/** The longest values that the limits allow, not in ASCII. */
const LONG: Fields = {
  ...SAMPLE,
  sandboxId: 'é'.repeat(48),
  machineId: '日'.repeat(341),
  openclawVersion: '',
  bandwidthBytesIn: Number.MAX_SAFE_INTEGER,
};

/** The points of all accepted check-ins, by their index. */
export const EXPECTED = {
  ...Object.fromEntries([SAMPLE, LONG].map((body) => [body.sandboxId, dataPoint(body, REGION)])),
  // Sent without a region.
  [MINIMAL.sandboxId]: dataPoint(MINIMAL, ''),
};

const PLAIN = 'without control characters or lone surrogates';
const RULES = {
  id: `a string of 1 to 96 bytes, ${PLAIN}`,
  text: `a string of 1 to 1024 bytes, ${PLAIN}`,
  optional: `a string of at most 1024 bytes, ${PLAIN}, or left out`,
  nullable: `a string of at most 1024 bytes, ${PLAIN}, or null`,
  exit: 'a string of at most 1024 bytes, without lone surrogates, or left out',
  restarts: 'a number from 0 to 1000000000',
  uptime: 'a number from 0 to 4000000000',
  load: 'a number from 0 to 4194304',
  bytes: 'a number from 0 to 9007199254740992',
};

const refusal = (error: string, code: string, more: object = {}) => ({ error, code, ...more });
const NOSNIFF = { 'x-content-type-options': 'nosniff' };
const BEARER = { 'www-authenticate': 'Bearer' };
const RETRY = { 'retry-after': '30' };

/** `undefined` leaves a header out. */
type Change = Readonly<Record<string, string | undefined>>;

/** A check-in with valid headers, except for `change`. */
function checkIn(
  body: Fields | string | Uint8Array,
  change: Change = {},
  { chunked = false } = {},
): HttpRequest {
  const raw = typeof body === 'string' || body instanceof Uint8Array;
  const bytes = Buffer.from(raw ? body : JSON.stringify(body));
  const all = {
    ...headers(raw ? SAMPLE.sandboxId : String(body.sandboxId)),
    ...(chunked ? { 'transfer-encoding': 'chunked' } : { 'content-length': `${bytes.length}` }),
    ...change,
  };
  const given = Object.entries<string | undefined>(all).filter(([, value]) => value !== undefined);
  return { headers: Object.fromEntries(given) as Headers, body: bytes };
}

/** The sample, padded to `bytes`. */
function ofSize(bytes: number): string {
  const padded = (padding: string) => JSON.stringify({ ...SAMPLE, padding });
  return padded('x'.repeat(bytes - padded('').length));
}

/** The sample with raw JSON in a field, or without the field. */
const withField = (field: string, json: string | undefined) =>
  JSON.stringify({ ...SAMPLE, [field]: undefined }).replace(
    /\}$/,
    json === undefined ? '}' : `,"${field}":${json}}`,
  );

const notUtf8 = () => {
  const bytes = Buffer.from(JSON.stringify({ ...SAMPLE, unknown: 'x' }));
  bytes[bytes.length - 3] = 0xff;
  return bytes;
};

function jwt(claims: object, secret = JWT_SECRET): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const message = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${message}.${createHmac('sha256', secret).update(message).digest('base64url')}`;
}

function cases(): Case[] {
  const accepted = (name: string, request: HttpRequest, service?: string): Case => ({
    name,
    request,
    status: 204,
    service,
  });
  const unauthorized = (name: string, code: string, change: Change): Case => ({
    name,
    request: checkIn(SAMPLE, change),
    status: 401,
    body: refusal('Unauthorized', code),
    headers: BEARER,
  });
  const wrongKey = (apiKey: string, service?: string): Case => ({
    name: `the key '${apiKey}'`,
    request: checkIn(SAMPLE, { authorization: `Bearer ${apiKey}` }),
    status: 403,
    body: refusal('Forbidden', 'wrong_api_key'),
    service,
  });
  const wrongToken = (token: string): Case => ({
    name: `the token '${token}'`,
    request: checkIn(SAMPLE, { 'x-kiloclaw-gateway-token': token }),
    status: 403,
    body: refusal('Forbidden', 'wrong_gateway_token'),
  });
  const tooLarge = (name: string, request: HttpRequest): Case => ({
    name,
    request,
    status: 413,
    body: refusal('Body too large', 'body_too_large'),
  });
  const invalid = (name: string, body: string | Uint8Array, code: string, more?: object): Case => ({
    name,
    request: checkIn(body),
    status: 400,
    body: refusal('Invalid body', code, more),
  });
  const invalidField = (field: string, json: string | undefined, expected: string): Case => {
    const name = `${field}: ${json?.slice(0, 20)}`;
    return invalid(name, withField(field, json), 'invalid_field', { field, expected });
  };
  const misconfigured = (service: string): Case => ({
    name: service,
    request: checkIn(SAMPLE),
    status: 503,
    body: refusal('Configuration error', 'misconfigured'),
    headers: RETRY,
    service,
  });
  const whoami = (name: string, token: string | undefined, status: number, body: object): Case => ({
    name,
    request: {
      method: 'GET',
      path: '/api/whoami',
      headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
    },
    status,
    body,
    operators: true,
  });
  const refusedOperator = (name: string, token: string | undefined, code: string): Case => ({
    ...whoami(name, token, 401, refusal('Unauthorized', code)),
    headers: BEARER,
  });

  const right = gatewayToken(SAMPLE.sandboxId);
  const exp = Math.floor(Date.now() / 1_000) + 60;
  const ops = { sub: 'ops', aud: 'kiloclaw-telemetry' };
  const wrongKeyHeader = { authorization: 'Bearer wrong' };
  const wrongTokenHeader = { 'x-kiloclaw-gateway-token': 'x' };
  return [
    accepted('every field', checkIn(SAMPLE)),
    accepted(
      'only the required fields',
      checkIn(MINIMAL, { 'fly-region': undefined, 'content-type': undefined }),
    ),
    accepted('the longest values', checkIn(LONG)),
    accepted('unknown fields', checkIn(withField('diskBytesFree', '{"a":[[null]]}'))),
    accepted('64 KiB', checkIn(ofSize(MAX_BODY_BYTES))),
    accepted('64 KiB in chunks', checkIn(ofSize(MAX_BODY_BYTES), {}, { chunked: true })),
    accepted('scheme in lower case', checkIn(SAMPLE, { authorization: `bearer ${API_KEY}` })),
    accepted('the old key', checkIn(SAMPLE), 'rotating'),
    accepted('the new key', checkIn(SAMPLE, { authorization: 'Bearer new-key' }), 'rotating'),
    accepted(
      'the new token',
      checkIn(SAMPLE, { 'x-kiloclaw-gateway-token': gatewayToken(SAMPLE.sandboxId, 'new-secret') }),
      'rotating',
    ),

    ...['GET', 'PUT', 'DELETE'].map((method) => ({
      name: method,
      request: { method },
      status: 405,
      body: refusal('Method not allowed', 'method_not_allowed'),
      headers: { allow: 'POST' },
    })),
    unauthorized('no authorization', 'missing_authorization', { authorization: undefined }),
    unauthorized('empty authorization', 'missing_authorization', { authorization: '' }),
    unauthorized('another scheme', 'not_a_bearer_token', { authorization: `Basic ${API_KEY}` }),
    unauthorized('no scheme', 'not_a_bearer_token', { authorization: API_KEY }),
    unauthorized('no gateway token', 'missing_gateway_token', { 'x-kiloclaw-gateway-token': undefined }),
    misconfigured('no key'),
    misconfigured('empty secret'),
    misconfigured('no dataset'),
    wrongKey('wrong'),
    wrongKey(API_KEY.slice(0, -1)),
    wrongKey(`${API_KEY}0`),
    wrongKey(`new-key,${API_KEY}`, 'rotating'),
    tooLarge('64 KiB and a byte', checkIn(ofSize(MAX_BODY_BYTES + 1))),
    tooLarge('64 KiB and a byte, in chunks', checkIn(ofSize(MAX_BODY_BYTES + 1), {}, { chunked: true })),
    tooLarge('too long, and incomplete', {
      ...checkIn('{', { 'content-length': '1000000' }),
      unfinished: true,
    }),
    invalid('cut off', '{"sandboxId":"x"', 'not_json'),
    invalid('empty', '', 'not_json'),
    invalid('not UTF-8', notUtf8(), 'not_json'),
    invalid('an array', '[]', 'not_an_object'),
    invalid('null', 'null', 'not_an_object'),
    invalidField('sandboxId', undefined, RULES.id),
    invalidField('sandboxId', '""', RULES.id),
    invalidField('sandboxId', JSON.stringify(`${'é'.repeat(48)}x`), RULES.id),
    invalidField('machineId', 'null', RULES.optional),
    invalidField('controllerVersion', '""', RULES.text),
    invalidField('controllerCommit', '7', RULES.text),
    invalidField('openclawVersion', undefined, RULES.nullable),
    invalidField('openclawCommit', 'false', RULES.nullable),
    invalidField('supervisorState', JSON.stringify(`${'日'.repeat(341)}xx`), RULES.text),
    invalidField('totalRestarts', '"7"', RULES.restarts),
    invalidField('totalRestarts', '1e308', RULES.restarts),
    invalidField('restartsSinceLastCheckin', 'null', RULES.restarts),
    invalidField('restartsSinceLastCheckin', '1000000001', RULES.restarts),
    invalidField('uptimeSeconds', '-0.5', RULES.uptime),
    invalidField('uptimeSeconds', '1e10', RULES.uptime),
    invalidField('loadAvg5m', '1e999', RULES.load),
    invalidField('loadAvg5m', '4194304.5', RULES.load),
    invalidField('bandwidthBytesIn', undefined, RULES.bytes),
    invalidField('bandwidthBytesIn', '9007199254740994', RULES.bytes),
    invalidField('bandwidthBytesOut', '[1]', RULES.bytes),
    invalidField('sandboxId', '"a\\u0000"', RULES.id),
    invalidField('sandboxId', '"\\ud800"', RULES.id),
    invalidField('machineId', '"\\u001b[2J"', RULES.optional),
    invalidField('openclawVersion', '"\\u202e1.0"', RULES.nullable),
    invalidField('supervisorState', '"running\\nstopped"', RULES.text),
    invalidField('lastExitReason', '"\\udfff"', RULES.exit),
    invalidField('lastExitReason', '9', RULES.exit),
    wrongToken('x'),
    wrongToken(right.toUpperCase()),
    wrongToken(`${right}0`),
    wrongToken(gatewayToken('another')),
    {
      name: 'a failing write',
      request: checkIn(SAMPLE),
      status: 503,
      body: refusal('Write failed', 'write_failed'),
      headers: RETRY,
      service: 'throwing',
    },
    // The first failing check decides.
    { ...misconfigured('no key'), request: checkIn('{', wrongKeyHeader) },
    { ...wrongKey('wrong'), request: checkIn(ofSize(MAX_BODY_BYTES + 1), wrongKeyHeader) },
    tooLarge('too large, with a wrong token', checkIn(ofSize(MAX_BODY_BYTES + 1), wrongTokenHeader)),
    { ...invalid('with a wrong token', '', 'not_json'), request: checkIn('{', wrongTokenHeader) },
    { ...wrongToken('x'), service: 'throwing' },

    {
      name: 'another path',
      request: { method: 'GET', path: '/nothing' },
      status: 404,
      body: refusal('Not found', 'not_found'),
    },
    whoami('an operator', jwt({ ...ops, exp }), 200, { sub: 'ops', sandboxId: null, scope: '', via: 'jwt' }),
    refusedOperator('no token', undefined, 'missing_token'),
    refusedOperator('a forged token', jwt({ ...ops, exp }, 'x'), 'invalid_token'),
    refusedOperator('a token without exp', jwt(ops), 'invalid_token'),
    refusedOperator('an expired token', jwt({ ...ops, exp: exp - 86_400 }), 'expired_token'),
  ];
}

/** Throws at the first answer that breaks the contract; returns the number of answers. */
export async function conforms(site: Site, variant: Variant, operators: boolean): Promise<number> {
  const workerd = await serve(site, variant, SERVICES);
  try {
    const applicable = cases().filter((one) => operators || !one.operators);
    const accepted = new Map<string, number>();
    for (const one of applicable) {
      const { name, request, status, body, headers = {}, service = 'main' } = one;
      const answer = await ask(workerd.port(service), request);
      const isRight =
        answer.status === status &&
        (body === undefined ? answer.body === '' : isDeepStrictEqual(parsed(answer.body), body)) &&
        (body === undefined || answer.headers['content-type'] === 'application/json') &&
        Object.entries({ ...(one.operators ? {} : NOSNIFF), ...headers }).every(
          ([name, value]) => answer.headers[name] === value,
        );
      if (!isRight) {
        const want = `${status} ${JSON.stringify(body ?? '')} ${JSON.stringify(headers)}`;
        const got = `${answer.status} ${answer.body} ${JSON.stringify(answer.headers)}`;
        throw new Failure(
          `${variant.name} breaks the contract: ${name}\n  expected ${want}\n  answered ${got}`,
        );
      }
      if (status === 204) accepted.set(service, (accepted.get(service) ?? 0) + 1);
    }
    for (const [service, count] of accepted) {
      const points = await workerd.points(() => ask(workerd.port(service), REPORT));
      if (points !== count) {
        throw new Failure(`${variant.name} wrote ${points} points for ${count} check-ins`);
      }
    }
    return applicable.length;
  } finally {
    await workerd.stop();
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
