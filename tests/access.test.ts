/**
 * Authentication with Cloudflare Access: which tokens the Worker accepts, and how it fetches the team's keys. A
 * server of the test plays the team; another library makes its keys and tokens.
 */
import assert from 'node:assert/strict';
import { KeyObject, sign as signBytes } from 'node:crypto';
import { createServer, type ServerResponse } from 'node:http';
import { after, test, type TestContext } from 'node:test';

import { exportJWK, exportSPKI, generateKeyPair, SignJWT, type JWK } from 'jose';

import { JWT_SECRET } from '../harness/check-in.ts';
import { listen, type Context } from '../harness/context.ts';
import { assertUnauthorized, logged, refusal, startWorker, type Worker } from '../harness/worker.ts';

const AUD = '4714c1358e65fe4b408ad6d432a5f878f08194bdb4752441fd56faefa9b2b6f2';
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

const now = () => Math.floor(Date.now() / 1000);

/** A key pair of the team, with the JWK that the team publishes. */
async function newKey(kid: string, alg = 'RS256') {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  const jwk: JWK = { ...(await exportJWK(publicKey)), kid, alg, use: 'sig' };
  return { kid, alg, privateKey, publicKey, jwk };
}
type Key = Awaited<ReturnType<typeof newKey>>;

const key1 = await newKey('key-1');
const key2 = await newKey('key-2');

/** Wraps the Worker with a fake clock; `/clock?advance=` adds milliseconds. */
const MODULES = {
  main: `
    import { advance } from 'clock';
    import Worker from 'index.js';
    export default {
      fetch(request, env, ctx) {
        const { pathname, searchParams } = new URL(request.url);
        if (pathname !== '/clock') return Worker.fetch(request, env);
        advance(Number(searchParams.get('advance')));
        return new Response();
      },
    };`,
  clock: `
    const RealDate = Date;
    let offset = 0;
    globalThis.Date = class extends RealDate {
      constructor(...args) { super(...(args.length === 0 ? [Date.now()] : args)); }
      static now() { return RealDate.now() + offset; }
    };
    export const advance = (milliseconds) => void (offset += milliseconds);`,
};

interface Team {
  readonly origin: string;
  /** Number of requests for the keys. */
  fetches: number;
  /** Answers the requests for the keys; by default with `key1`. */
  answer: (response: ServerResponse) => void;
  shows(...keys: Pick<Key, 'jwk'>[]): void;
}

/** A response like that of Access, which also contains certificates. */
const keySet = (keys: readonly unknown[]) => (response: ServerResponse) => {
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({ keys, public_cert: { kid: '', cert: '' }, public_certs: [] }));
};

const text = (body: string, status = 200, headers = {}) => (response: ServerResponse) =>
  void response.writeHead(status, headers).end(body);

async function startTeam(context: Context): Promise<Team> {
  const server = createServer((request, response) => {
    if (request.url !== '/cdn-cgi/access/certs') return text('', 404)(response);
    team.fetches += 1;
    team.answer(response);
  });
  const team: Team = {
    origin: `http://127.0.0.1:${await listen(context, server)}`,
    fetches: 0,
    answer: keySet([key1.jwk]),
    shows: (...keys) => void (team.answer = keySet(keys.map(({ jwk }) => jwk))),
  };
  return team;
}

const accessVars = (origin: string) => ({ ACCESS_TEAM_DOMAIN: origin, ACCESS_AUD: AUD });

/** A new team, and a Worker that only accepts that team's Access tokens. */
async function start(t: TestContext, vars: Record<string, string | undefined> = {}) {
  const team = await startTeam(t);
  const all = { JWT_SECRET: undefined, ...accessVars(team.origin), ...vars };
  return { team, worker: await startWorker({ vars: all, modules: MODULES }, t) };
}

const team = await startTeam({ after });
team.shows(key1, key2);
const worker = await startWorker({ vars: { JWT_SECRET: undefined, ...accessVars(team.origin) } });

/** A person's claims. */
const person = (of: Team = team) => ({
  aud: [AUD],
  email: 'ops@example.com',
  exp: now() + 60,
  iat: now(),
  nbf: now(),
  iss: of.origin,
  type: 'app',
  identity_nonce: '6ei69kawdKzMIAPF',
  sub: '7335d417-61da-459d-899c-0a01c76a2f94',
  country: 'US',
});

/** A token of the team; undefined claims and header fields are left out. */
const sign = (claims: object = {}, { key = key1, of = team, header = {} } = {}) =>
  new SignJWT({ ...person(of), ...claims })
    .setProtectedHeader({ alg: key.alg, kid: key.kid, typ: 'JWT', ...header })
    .sign(key.privateKey);

const whoami = (assertion: string | undefined, to: Worker = worker, headers = {}) =>
  to.fetch('/api/whoami', {
    headers: {
      ...(assertion === undefined ? {} : { 'cf-access-jwt-assertion': assertion }),
      ...headers,
    },
  });

const statusOf = async (response: Response) => {
  await response.text();
  return response.status;
};

async function assertUnavailable(response: Response, why?: string) {
  assert.deepEqual(
    { status: response.status, body: await refusal(response) },
    { status: 503, body: { error: 'Access unavailable', code: 'access_unavailable' } },
    why,
  );
  assert.equal(response.headers.get('retry-after'), '5');
}

const advance = async (to: Worker, milliseconds: number) =>
  assert.equal(await statusOf(await to.fetch(`/clock?advance=${milliseconds}`)), 200);

test('accepts an Access token, and names its principal', async () => {
  const response = await whoami(await sign());
  assert.equal(response.status, 200);
  assert.equal(response.headers.get('cache-control'), 'no-store');
  assert.deepEqual(await response.json(), { sub: 'ops@example.com', sandboxId: null, scope: '', via: 'access' });
  const service = { email: undefined, common_name: 'e367826f.access', sub: '' };
  const names: [object, string | null][] = [
    [service, 'e367826f.access'],
    [{ email: '' }, person().sub],
    [{ email: undefined, sub: '' }, null],
  ];
  for (const [claims, sub] of names) {
    assert.deepEqual(await (await whoami(await sign(claims))).json(), { sub, sandboxId: null, scope: '', via: 'access' });
  }
  const { scope } = (await (await whoami(await sign({ custom: { scope: 'absences:write' } }))).json()) as { scope: string };
  assert.equal(scope, 'absences:write');
  const second = await whoami(await sign({ aud: AUD }, { key: key2 }));
  assert.equal(second.status, 200, "the team's other key, and one audience");
});

test('refuses a request without a token or with a malformed one', async () => {
  await assertUnauthorized(await whoami(undefined), 'missing_token');
  await assertUnauthorized(await worker.fetch('/api/x'), 'missing_token');
  for (const garbage of ['', 'x', 'a.b.c', '..', `Bearer ${await sign()}`, `${await sign()}.x`]) {
    await assertUnauthorized(await whoami(garbage), 'invalid_token', garbage);
  }
  // Behind Access, a request may have an unrelated bearer token.
  const response = await whoami(await sign(), worker, { authorization: 'Bearer x' });
  assert.equal(response.status, 200);
});

test('refuses a token with a wrong audience, issuer or time', async () => {
  const wrong: Record<string, readonly unknown[]> = {
    aud: ['x', [], ['x'], '', `${AUD}0`, AUD.toUpperCase(), undefined, null, 1, [[AUD]], [AUD, 1]],
    iss: ['https://team.cloudflareaccess.com', `${team.origin}/`, '', undefined, null, 1],
    exp: [undefined, null, 'tomorrow', `${now() + 60}`],
    nbf: [now() + 60, 'yesterday'],
    iat: [now() + 60, 'yesterday'],
  };
  for (const [claim, values] of Object.entries(wrong)) {
    for (const value of values) {
      const why = `${claim}: ${JSON.stringify(value)}`;
      await assertUnauthorized(await whoami(await sign({ [claim]: value })), 'invalid_token', why);
    }
  }
  await assertUnauthorized(await whoami(await sign({ exp: now() - 10 })), 'expired_token');
  const close = { exp: now() - 2, nbf: now() + 3, iat: now() + 3 };
  assert.equal((await whoami(await sign(close))).status, 200, 'clocks may differ by 5 s');
});

const base64url = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');

test('RS256 is the only algorithm', async (t) => {
  const unsigned = { alg: 'none', kid: key1.kid, typ: 'JWT' };
  await assertUnauthorized(await whoami(`${base64url(unsigned)}.${base64url(person())}.`), 'invalid_token', 'none');
  // With the public key as the HMAC secret, in every form in which a verifier may hold it.
  const secrets = [await exportSPKI(key1.publicKey), JSON.stringify(key1.jwk), key1.jwk.n ?? ''];
  for (const secret of secrets) {
    const token = await new SignJWT(person())
      .setProtectedHeader({ alg: 'HS256', kid: key1.kid })
      .sign(new TextEncoder().encode(secret));
    await assertUnauthorized(await whoami(token), 'invalid_token', 'HS256');
  }
  // A valid RS256 signature under another algorithm name.
  const rs256 = (header: object) => {
    const message = `${base64url(header)}.${base64url(person())}`;
    const signature = signBytes('sha256', Buffer.from(message), KeyObject.from(key1.privateKey));
    return `${message}.${signature.toString('base64url')}`;
  };
  assert.equal((await whoami(rs256({ alg: 'RS256', kid: key1.kid }))).status, 200);
  for (const alg of ['none', 'RS512', 'PS256', 'HS256', 'rs256', '']) {
    await assertUnauthorized(await whoami(rs256({ alg, kid: key1.kid })), 'invalid_token', alg);
  }
  // The team's keys for other algorithms, also under a header with RS256.
  const { team: odd, worker: its } = await start(t);
  const others = await Promise.all(
    ['RS512', 'PS256', 'ES256', 'EdDSA'].map((alg) => newKey(`key-${alg}`, alg)),
  );
  const nameless = { jwk: { ...key2.jwk, kid: undefined } };
  const unsaid = { ...key2, kid: 'key-unsaid', jwk: { ...key2.jwk, kid: 'key-unsaid', alg: undefined } };
  odd.shows(...others, nameless, unsaid, key1);
  assert.equal((await whoami(await sign({}, { of: odd }), its)).status, 200);
  for (const key of [...others, unsaid]) {
    const honest = await sign({}, { key, of: odd });
    await assertUnauthorized(await whoami(honest, its), 'invalid_token', key.kid);
    if (key.jwk.kty !== 'RSA') continue;
    const rsa = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };
    const pkcs8 = await crypto.subtle.exportKey('pkcs8', key.privateKey);
    const privateKey = await crypto.subtle.importKey('pkcs8', pkcs8, rsa, true, ['sign']);
    const disguised = await sign({}, { key: { ...key, alg: 'RS256', privateKey }, of: odd });
    await assertUnauthorized(await whoami(disguised, its), 'invalid_token', `RS256 with ${key.kid}`);
  }
});

test('accepts only a signature of the key that the token names', async () => {
  const stranger = await newKey(key1.kid);
  await assertUnauthorized(await whoami(await sign({}, { key: stranger })), 'invalid_token', 'a stranger');
  const exchanged = await sign({}, { key: { ...key1, kid: key2.kid } });
  await assertUnauthorized(await whoami(exchanged), 'invalid_token', 'another key of the team');
  for (const kid of [undefined, '', 'x']) {
    const token = await sign({}, { header: { kid } });
    await assertUnauthorized(await whoami(token), 'invalid_token', `kid: ${kid}`);
  }
  // A key inside the token itself does not count.
  const header = { kid: 'x', jwk: stranger.jwk, jku: `${team.origin}/cdn-cgi/access/certs`, x5c: [] };
  await assertUnauthorized(await whoami(await sign({}, { key: stranger, header })), 'invalid_token', 'jwk');

  const [head, claims, signature] = (await sign()).split('.');
  assert.equal((await whoami(`${head}.${claims}.${signature}`)).status, 200);
  const root = base64url({ ...person(), email: 'root@example.com' });
  const flipped = `${signature[0] === 'A' ? 'B' : 'A'}${signature.slice(1)}`;
  for (const forged of [`${root}.${signature}`, `${claims}.`, `${claims}.${flipped}`, `${claims}.${signature.slice(0, -8)}`]) {
    await assertUnauthorized(await whoami(`${head}.${forged}`), 'invalid_token', forged);
  }
});

test('a token can be limited to one sandbox, and is never unlimited by mistake', async () => {
  const limits = [
    { sandbox_id: 'sandbox-1' },
    { custom: { sandbox_id: 'sandbox-1', department: 'x' } },
    { sandbox_id: 'sandbox-1', custom: { sandbox_id: 'sandbox-1' } },
    { sandbox_id: 'sandbox-1', custom: {} },
  ];
  for (const claims of limits) {
    const { sandboxId } = (await (await whoami(await sign(claims))).json()) as { sandboxId: string };
    assert.equal(sandboxId, 'sandbox-1', JSON.stringify(claims));
  }
  for (const custom of [{}, { department: 'x' }, null, undefined]) {
    const { sandboxId } = (await (await whoami(await sign({ custom }))).json()) as { sandboxId: null };
    assert.equal(sandboxId, null);
  }
  for (const id of [null, '', 0, 1, true, [], ['sandbox-1'], {}, 'x'.repeat(97), 'é'.repeat(49)]) {
    for (const claims of [{ sandbox_id: id }, { custom: { sandbox_id: id } }, { sandbox_id: 'sandbox-1', custom: { sandbox_id: id } }]) {
      await assertUnauthorized(await whoami(await sign(claims)), 'invalid_token', JSON.stringify(claims));
    }
  }
  const ambiguous = { sandbox_id: 'sandbox-1', custom: { sandbox_id: 'sandbox-2' } };
  await assertUnauthorized(await whoami(await sign(ambiguous)), 'invalid_token', 'two sandboxes');
  for (const custom of ['sandbox-1', ['sandbox-1'], 1]) {
    await assertUnauthorized(await whoami(await sign({ custom })), 'invalid_token', JSON.stringify(custom));
  }
});

test('refuses a token with a sandbox limit under another name, at any depth', async () => {
  const names = ['sandboxId', 'sandbox-id', 'SANDBOX_ID', 'sandbox', 'sandbox_ids', 'https://example.com/sandbox_id', 'custom.sandbox_id'];
  for (const name of names) {
    const limit = { [name]: 'sandbox-1' };
    for (const claims of [limit, { custom: limit }, { custom: { sandbox_id: 'sandbox-1', ...limit } }, { oidc_fields: [limit] }]) {
      await assertUnauthorized(await whoami(await sign(claims)), 'invalid_token', JSON.stringify(claims));
    }
  }
  await logged(worker, /Access: a claim looks like a limit to one sandbox but is not: only sandbox_id counts/);
  const innocent = { custom: { groups: ['sandbox_id'], sandboxed: true, note: 'sandboxId' }, sandbox_access: 'x' };
  const response = await whoami(await sign(innocent));
  assert.deepEqual([response.status, ((await response.json()) as { sandboxId: null }).sandboxId], [200, null]);
});

test('refuses a token with crit', async () => {
  const signed = (header: object) => {
    const message = `${base64url({ alg: 'RS256', kid: key1.kid, ...header })}.${base64url(person())}`;
    const signature = signBytes('sha256', Buffer.from(message), KeyObject.from(key1.privateKey));
    return `${message}.${signature.toString('base64url')}`;
  };
  assert.equal((await whoami(signed({}))).status, 200);
  for (const crit of [['exp'], ['b64'], [], null, 'exp']) {
    await assertUnauthorized(await whoami(signed({ crit })), 'invalid_token', JSON.stringify(crit));
  }
});

test('concurrent requests cause one fetch of the keys', async (t) => {
  const { team, worker } = await start(t);
  const token = await sign({}, { of: team });
  team.answer = (response) => void setTimeout(() => keySet([key1.jwk])(response), 300);
  const responses = await Promise.all(Array.from({ length: 20 }, () => whoami(token, worker)));
  assert.deepEqual(await Promise.all(responses.map(statusOf)), Array(20).fill(200));
  assert.equal(team.fetches, 1);
});

test('after a key rotation, a refetch adds the new key and drops the old one', async (t) => {
  const { team, worker } = await start(t);
  const [token1, token2] = [await sign({}, { of: team }), await sign({}, { of: team, key: key2 })];
  assert.equal(await statusOf(await whoami(token1, worker)), 200);
  await assertUnauthorized(await whoami(token2, worker), 'invalid_token', 'the team has not published it yet');
  assert.equal(team.fetches, 2);

  team.shows(key1, key2);
  await advance(worker, 30_000);
  for (const token of [token2, token1]) assert.equal(await statusOf(await whoami(token, worker)), 200);
  assert.equal(team.fetches, 3, 'one fetch for the new key');

  team.shows(key2);
  assert.equal(await statusOf(await whoami(token1, worker)), 200, 'no refetch yet');
  await advance(worker, HOUR);
  const [later1, later2] = await Promise.all(
    [key1, key2].map((key) => sign({ exp: now() + 7_200 }, { of: team, key })),
  );
  assert.equal(await statusOf(await whoami(later2, worker)), 200);
  assert.equal(team.fetches, 4, 'an hour has passed');
  await assertUnauthorized(await whoami(later1, worker), 'invalid_token', 'gone');
});

test('a new key is accepted at once', async (t) => {
  const { team, worker } = await start(t);
  assert.equal(await statusOf(await whoami(await sign({}, { of: team }), worker)), 200);
  team.shows(key2);
  const token = await sign({}, { of: team, key: key2 });
  // No request is refused while another one fetches the keys.
  const responses = await Promise.all(Array.from({ length: 20 }, () => whoami(token, worker)));
  assert.deepEqual(await Promise.all(responses.map(statusOf)), Array(20).fill(200));
  assert.equal(team.fetches, 2);
  await assertUnauthorized(await whoami(await sign({}, { of: team }), worker), 'invalid_token');
});

test('unknown key ids cause at most one fetch in 30 seconds', async (t) => {
  const { team, worker } = await start(t);
  assert.equal(await statusOf(await whoami(await sign({}, { of: team }), worker)), 200);
  const madeUp = async (count: number) => {
    const tokens = Array.from({ length: count }, (_, i) => sign({}, { header: { kid: `made-up-${i}` } }));
    const responses = (await Promise.all(tokens)).map((token) => whoami(token, worker));
    for (const response of await Promise.all(responses)) await assertUnauthorized(response, 'invalid_token');
  };
  await madeUp(20);
  await madeUp(20);
  assert.equal(team.fetches, 2);
  await advance(worker, 25_000);
  await madeUp(5);
  assert.equal(team.fetches, 2);
  await advance(worker, 5_000);
  await madeUp(5);
  assert.equal(team.fetches, 3);
});

test('refuses everybody while the team is unreachable, and retries after 5 seconds', async (t) => {
  const { team, worker } = await start(t);
  const token = await sign({}, { of: team });
  team.answer = (response) => void response.destroy();
  await assertUnavailable(await whoami(token, worker));
  team.shows(key1);
  await assertUnavailable(await whoami(token, worker), 'no retry yet');
  assert.equal(team.fetches, 1);
  await advance(worker, 5_000);
  assert.equal(await statusOf(await whoami(token, worker)), 200);
  const madeUp = await sign({}, { of: team, header: { kid: 'x' } });
  await assertUnauthorized(await whoami(madeUp, worker), 'invalid_token', 'the keys are known again');
  const log = await logged(worker, /access_keys_not_fetched[^]*access_unavailable/);
  assert.ok(!log.includes(token.split('.')[2]), 'no token in the log');
});

/** The target of a redirect. */
const other = await startTeam({ after });

test('rejects a response that is not a valid key set', async (t) => {
  const { team, worker } = await start(t);
  const token = await sign({}, { of: team });
  const set = JSON.stringify({ keys: [key1.jwk] });
  const garbage: Record<string, Team['answer']> = {
    'no JSON': text('<!doctype html>'),
    nothing: text(''),
    'no object': text('null'),
    'no keys': text('{}'),
    'invalid keys': text('{"keys": [null]}'),
    'an empty set': keySet([]),
    'no key for RS256': keySet([{ ...key1.jwk, alg: 'RS512' }]),
    'an incomplete key': keySet([{ ...key1.jwk, n: undefined }]),
    'an error': text(set, 500),
    'a 404': text(set, 404),
    'a redirect': text('', 302, { location: `${other.origin}/cdn-cgi/access/certs` }),
    'half a set': (response) => void response.writeHead(200, { 'content-length': 10_000 }).write(set, () => response.destroy()),
  };
  for (const [what, answer] of Object.entries(garbage)) {
    team.answer = answer;
    const { fetches } = team;
    await assertUnavailable(await whoami(token, worker), what);
    assert.equal(team.fetches, fetches + 1, what);
    await advance(worker, 5_000);
  }
  assert.equal(other.fetches, 0, 'the redirect was not followed');
  team.answer = keySet([{ ...key1.jwk, n: '!' }]);
  await assertUnavailable(await whoami(token, worker), 'an invalid key');
  team.shows(key1);
  await advance(worker, HOUR);
  assert.equal(await statusOf(await whoami(await sign({ exp: now() + 7_200 }, { of: team }), worker)), 200);
});

test('uses the old keys for a day if a refetch fails', async (t) => {
  const { team, worker } = await start(t);
  const exp = now() + 48 * 3_600;
  const token = await sign({ exp }, { of: team });
  const newer = await sign({ exp }, { of: team, key: key2 });
  assert.equal(await statusOf(await whoami(token, worker)), 200);
  team.answer = text('', 500);
  await assertUnavailable(await whoami(await sign({}, { of: team, key: key2 }), worker), 'it may be a new key');
  for (const hour of [1, 2, 23]) {
    await advance(worker, hour === 23 ? 21 * HOUR : HOUR);
    assert.equal(await statusOf(await whoami(token, worker)), 200, `after ${hour} h`);
    await assertUnavailable(await whoami(newer, worker), 'a new key');
  }
  assert.equal(team.fetches, 5);
  await advance(worker, HOUR);
  await assertUnavailable(await whoami(token, worker), 'after a day');
  team.shows(key1);
  await advance(worker, 5_000);
  assert.equal(await statusOf(await whoami(token, worker)), 200);
});

test('gives up after 5 seconds if the team does not answer', async (t) => {
  const { team, worker } = await start(t);
  const token = await sign({}, { of: team });
  team.answer = () => {};
  const began = performance.now();
  const responses = await Promise.all(Array.from({ length: 3 }, () => whoami(token, worker)));
  for (const response of responses) await assertUnavailable(response);
  const seconds = (performance.now() - began) / 1_000;
  assert.ok(seconds > 4.5 && seconds < 7, `${seconds} s`);
  assert.equal(team.fetches, 1);
});

test('a request that is cancelled while it fetches the keys does not block later ones', async (t) => {
  const { team, worker } = await start(t);
  const token = await sign({}, { of: team });
  const asked = new Promise<void>((resolve) => (team.answer = () => resolve()));
  const cancel = new AbortController();
  const cancelled = worker.fetch('/api/whoami', {
    headers: { 'cf-access-jwt-assertion': token },
    signal: cancel.signal,
  });
  await asked;
  cancel.abort();
  await assert.rejects(cancelled);
  team.shows(key1);
  const waiting = whoami(token, worker);
  await advance(worker, 6_000);
  assert.equal(await statusOf(await waiting), 200);
});

const hs256 = (claims: object = {}) =>
  new SignJWT({ sub: 'ops', aud: 'kiloclaw-telemetry', exp: now() + 60, ...claims })
    .setProtectedHeader({ alg: 'HS256' })
    .sign(new TextEncoder().encode(JWT_SECRET));

test('with JWT_SECRET, accepts either token, and checks a bearer token first', async (t) => {
  const { team, worker } = await start(t, { JWT_SECRET, INTERNAL_API_SECRET: 'internal-1' });
  const assertion = await sign({}, { of: team });
  const via = async (response: Response) => ((await response.json()) as { via?: string }).via;
  const bearer = { authorization: `Bearer ${await hs256()}` };
  assert.equal(await via(await whoami(undefined, worker, bearer)), 'jwt');
  assert.equal(await via(await whoami(assertion, worker)), 'access');
  assert.equal(await via(await whoami(assertion, worker, bearer)), 'jwt');
  assert.equal(await via(await whoami('x', worker, bearer)), 'jwt');
  assert.equal(await via(await whoami(assertion, worker, { authorization: 'Basic b3BzOng=' })), 'access');
  await assertUnauthorized(await whoami(assertion, worker, { authorization: 'Bearer x' }), 'invalid_token');
  const key = { 'x-internal-api-key': 'internal-1' };
  assert.equal(await via(await whoami(assertion, worker, { ...bearer, ...key })), 'internal');
  assert.equal((await whoami(assertion, worker, { ...bearer, 'x-internal-api-key': 'x' })).status, 403);
  // The Worker accepts neither token in place of the other.
  await assertUnauthorized(await whoami(await hs256({ iss: team.origin, aud: AUD }), worker), 'invalid_token');
  await assertUnauthorized(await whoami(undefined, worker, { authorization: `Bearer ${assertion}` }), 'invalid_token');
});

test('ignores Access tokens if neither variable is set', async (t) => {
  const plain = await startWorker({}, t);
  await assertUnauthorized(await whoami(await sign(), plain), 'missing_token');
  assert.equal(await statusOf(await whoami(await sign(), plain, { authorization: `Bearer ${await hs256()}` })), 200);
});

test('an incomplete Access configuration refuses everybody, and the log names the variable', async (t) => {
  const halves: [Record<string, string | undefined>, RegExp][] = [
    [{ ACCESS_AUD: undefined }, /ACCESS_AUD is missing or empty/],
    [{ ACCESS_AUD: ' ' }, /ACCESS_AUD is missing or empty/],
    [{ ACCESS_TEAM_DOMAIN: undefined }, /ACCESS_TEAM_DOMAIN is missing or empty/],
    [{ ACCESS_TEAM_DOMAIN: 'team' }, /ACCESS_TEAM_DOMAIN is not a team's domain/],
    [{ ACCESS_TEAM_DOMAIN: 'http://team.cloudflareaccess.com' }, /ACCESS_TEAM_DOMAIN is not a team's domain/],
  ];
  for (const [vars, log] of halves) {
    const { team, worker } = await start(t, { JWT_SECRET, ...vars });
    for (const headers of [{}, { authorization: `Bearer ${await hs256()}` }]) {
      const response = await whoami(await sign({}, { of: team }), worker, headers);
      assert.deepEqual(
        [response.status, await refusal(response)],
        [503, { error: 'Configuration error', code: 'misconfigured' }],
      );
    }
    await logged(worker, log);
    assert.equal(team.fetches, 0);
  }
});
