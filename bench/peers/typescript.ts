/** The peer: the same Worker in idiomatic TypeScript, with Hono, zod, WebCrypto and their ready-made parts. */
import { Hono, type Context } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { createMiddleware } from 'hono/factory';
import { verify } from 'hono/jwt';
import * as z from 'zod';

import type { Env } from './workers.d.ts';

interface App {
  Bindings: Env;
  Variables: { gatewayToken: string; subject: string | null };
}

const BEARER = { 'www-authenticate': 'Bearer' };
const RETRY = { 'retry-after': '30' };

/** Status, error and headers of every refusal, by its code. */
const REFUSALS = {
  method_not_allowed: [405, 'Method not allowed', {}],
  missing_authorization: [401, 'Unauthorized', BEARER],
  not_a_bearer_token: [401, 'Unauthorized', BEARER],
  missing_gateway_token: [401, 'Unauthorized', BEARER],
  misconfigured: [503, 'Configuration error', RETRY],
  wrong_api_key: [403, 'Forbidden', {}],
  body_too_large: [413, 'Body too large', {}],
  not_json: [400, 'Invalid body', {}],
  not_an_object: [400, 'Invalid body', {}],
  invalid_field: [400, 'Invalid body', {}],
  wrong_gateway_token: [403, 'Forbidden', {}],
  write_failed: [503, 'Write failed', RETRY],
  missing_token: [401, 'Unauthorized', BEARER],
  expired_token: [401, 'Unauthorized', BEARER],
  invalid_token: [401, 'Unauthorized', BEARER],
  not_found: [404, 'Not found', {}],
} as const;

/** Answers with a refusal and logs it in one line; `log` is not part of the answer. */
function refuse(
  c: Context<App>,
  code: keyof typeof REFUSALS,
  { log = {}, ...more }: { log?: object; field?: string; expected?: string; allow?: string } = {},
) {
  const [status, error, headers] = REFUSALS[code];
  const { allow, ...rule } = more;
  console.warn(JSON.stringify({ status, code, ...log }));
  return c.json({ error, code, ...rule }, status, { ...NOSNIFF, ...headers, ...(allow && { allow }) });
}

const NOSNIFF = { 'x-content-type-options': 'nosniff' };

const encoder = new TextEncoder();
const size = (text: string) => encoder.encode(text).length;

const FORBIDDEN = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_Control}]/u;
const PLAIN = 'without control characters or lone surrogates';

const text = (min: number, max: number, rule: string, forbidden = FORBIDDEN) =>
  // UTF-8 needs at most 3 bytes per UTF-16 code unit, so most texts need no counting.
  z
    .string(rule)
    .refine(
      (t) => t.length >= min && (t.length * 3 <= max || size(t) <= max) && !forbidden.test(t),
      rule,
    );
const nonEmpty = text(1, 1024, `a string of 1 to 1024 bytes, ${PLAIN}`);
const nullable = text(0, 1024, `a string of at most 1024 bytes, ${PLAIN}, or null`).nullable();
const optional = text(0, 1024, `a string of at most 1024 bytes, ${PLAIN}, or left out`).optional();
const number = (max: number) => {
  const rule = `a number from 0 to ${max}`;
  return z.number(rule).nonnegative(rule).max(max, rule);
};

const CheckIn = z.object({
  sandboxId: text(1, 96, `a string of 1 to 96 bytes, ${PLAIN}`),
  machineId: optional,
  controllerVersion: nonEmpty,
  controllerCommit: nonEmpty,
  openclawVersion: nullable,
  openclawCommit: nullable,
  supervisorState: nonEmpty,
  totalRestarts: number(1e9),
  restartsSinceLastCheckin: number(1e9),
  uptimeSeconds: number(4e9),
  loadAvg5m: number(2 ** 22),
  bandwidthBytesIn: number(2 ** 53),
  bandwidthBytesOut: number(2 ** 53),
  lastExitReason: text(
    0,
    1024,
    'a string of at most 1024 bytes, without lone surrogates, or left out',
    /\p{Cs}/u,
  ).optional(),
});

/** The comma-separated values of a secret, without empty ones. */
const values = (secret = '') =>
  secret
    .split(',')
    .map((value) => value.trim())
    .filter((value) => value !== '');

const bearer = (authorization = '') => /^bearer (.*)$/i.exec(authorization)?.[1].trim();

const sha256 = (text: string) => crypto.subtle.digest('SHA-256', encoder.encode(text));

/** Compares digests, so that the time depends on no credential's content or length. */
async function isAccepted(presented: string, accepted: string[]) {
  const [digest, ...digests] = await Promise.all([presented, ...accepted].map(sha256));
  return digests.map((other) => crypto.subtle.timingSafeEqual(digest, other)).includes(true);
}

async function gatewayToken(secret: string, sandboxId: string) {
  const algorithm = { name: 'HMAC', hash: 'SHA-256' };
  const key = await crypto.subtle.importKey('raw', encoder.encode(secret), algorithm, false, ['sign']);
  const mac = await crypto.subtle.sign('HMAC', key, encoder.encode(sandboxId));
  return new Uint8Array(mac).toHex();
}

/** Verifies all that it can before the body is read: the gateway token needs the body's sandboxId. */
const credentials = createMiddleware<App>(async (c, next) => {
  const authorization = c.req.header('authorization');
  if (!authorization) return refuse(c, 'missing_authorization');
  const apiKey = bearer(authorization);
  if (!apiKey) return refuse(c, 'not_a_bearer_token');
  const token = c.req.header('x-kiloclaw-gateway-token');
  if (!token) return refuse(c, 'missing_gateway_token');

  const apiKeys = values(c.env.KILOCODE_API_KEY);
  const missing =
    apiKeys.length === 0
      ? 'KILOCODE_API_KEY'
      : values(c.env.GATEWAY_TOKEN_SECRET).length === 0
        ? 'GATEWAY_TOKEN_SECRET'
        : !c.env.KILOCLAW_CONTROLLER_AE && 'KILOCLAW_CONTROLLER_AE';
  if (missing) return refuse(c, 'misconfigured', { log: { detail: `${missing} is missing or empty` } });

  if (!(await isAccepted(apiKey, apiKeys))) return refuse(c, 'wrong_api_key');
  c.set('gatewayToken', token);
  return next();
});

const limit = bodyLimit({ maxSize: 64 * 1024, onError: (c) => refuse(c, 'body_too_large') });

/** Operators only: accepts a token that is signed with HS256 and has an expiry. */
const requireOperator = createMiddleware<App>(async (c, next) => {
  const secret = c.env.JWT_SECRET?.trim();
  if (!secret) {
    return refuse(c, 'misconfigured', { log: { detail: 'JWT_SECRET is missing or empty' } });
  }
  const token = bearer(c.req.header('authorization'));
  if (!token) return refuse(c, 'missing_token');
  try {
    const { JWT_ISSUER: iss, JWT_AUDIENCE: aud = 'kiloclaw-telemetry' } = c.env;
    const claims = await verify(token, secret, { alg: 'HS256', iss, aud });
    if (claims.exp === undefined) return refuse(c, 'invalid_token', { log: { detail: 'no exp' } });
    c.set('subject', typeof claims.sub === 'string' ? claims.sub : null);
  } catch (error) {
    const expired = error instanceof Error && error.name === 'JwtTokenExpired';
    return refuse(c, expired ? 'expired_token' : 'invalid_token');
  }
  return next();
});

const app = new Hono<App>();

app.post('/api/controller/checkin', credentials, limit, async (c) => {
  const text = await c.req.text();
  // The runtime replaces invalid UTF-8 with U+FFFD, which almost always changes the byte length.
  if (text.includes('\ufffd') && size(text) !== Number(c.req.header('content-length'))) {
    return refuse(c, 'not_json');
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return refuse(c, 'not_json');
  }
  const parsed = CheckIn.safeParse(json);
  if (!parsed.success) {
    const { path, message: expected } = parsed.error.issues[0];
    if (path.length === 0) return refuse(c, 'not_an_object');
    const field = String(path[0]);
    return refuse(c, 'invalid_field', { field, expected, log: { detail: field } });
  }

  const checkIn = parsed.data;
  const { sandboxId } = checkIn;
  const secrets = values(c.env.GATEWAY_TOKEN_SECRET);
  const tokens = await Promise.all(secrets.map((secret) => gatewayToken(secret, sandboxId)));
  if (!(await isAccepted(c.get('gatewayToken'), tokens))) {
    return refuse(c, 'wrong_gateway_token', { log: { sandboxId } });
  }
  try {
    c.env.KILOCLAW_CONTROLLER_AE.writeDataPoint({
      indexes: [sandboxId],
      blobs: [
        sandboxId,
        checkIn.controllerVersion,
        checkIn.controllerCommit,
        checkIn.openclawVersion ?? '',
        checkIn.openclawCommit ?? '',
        checkIn.supervisorState,
        c.req.header('fly-region')?.slice(0, 1024) ?? '',
        checkIn.machineId ?? '',
        checkIn.lastExitReason ?? '',
      ],
      doubles: [
        checkIn.restartsSinceLastCheckin,
        checkIn.totalRestarts,
        checkIn.uptimeSeconds,
        checkIn.loadAvg5m,
        checkIn.bandwidthBytesIn,
        checkIn.bandwidthBytesOut,
      ],
    });
  } catch (error) {
    return refuse(c, 'write_failed', { log: { sandboxId, detail: String(error) } });
  }
  return c.body(null, 204, NOSNIFF);
});
app.all('/api/controller/checkin', (c) => refuse(c, 'method_not_allowed', { allow: 'POST' }));

app.get('/health', (c) => c.json({ status: 'ok' }));
app.all('/health', (c) => refuse(c, 'method_not_allowed', { allow: 'GET, HEAD' }));

app.use('/api/*', requireOperator);
app.get('/api/whoami', (c) =>
  c.json({ sub: c.get('subject'), sandboxId: null, scope: '', via: 'jwt' }, 200, { 'cache-control': 'no-store' }),
);
app.all('/api/whoami', (c) => refuse(c, 'method_not_allowed', { allow: 'GET, HEAD' }));

app.notFound((c: Context<App>) => refuse(c, 'not_found'));

export default app;
