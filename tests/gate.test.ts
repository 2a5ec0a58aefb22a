/**
 * Operators' authentication: which HS256 tokens and internal keys the Worker accepts, and that no path under /api/
 * bypasses it. tests/access.test.ts covers Cloudflare Access.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHmac, generateKeyPairSync, sign } from 'node:crypto';
import { test } from 'node:test';

import { API_KEY, CHECK_IN_PATH, FULL, gatewayToken, JWT_SECRET } from '../harness/check-in.ts';
import { random } from '../harness/made-up-fleet.ts';
import { assertUnauthorized, logged, refusal, startWorker, type Worker } from '../harness/worker.ts';
import { until } from './support/until.ts';

const base64url = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
const now = () => Math.floor(Date.now() / 1000);

/** Signs a token, independently of the code under test. Claims may be JSON that no object has. */
function jwt(
  claims: object | string,
  { alg = 'HS256', hmac = 'sha256', secret = JWT_SECRET, header = {} } = {},
): string {
  const encoded = typeof claims === 'string' ? Buffer.from(claims).toString('base64url') : base64url(claims);
  const message = `${base64url({ alg, typ: 'JWT', ...header })}.${encoded}`;
  return `${message}.${createHmac(hmac, secret).update(message).digest('base64url')}`;
}

const AUDIENCE = 'kiloclaw-telemetry';
const valid = (claims: object = {}) => ({ sub: 'ops', aud: AUDIENCE, exp: now() + 60, ...claims });

const worker = await startWorker();
const pinned = await startWorker({ vars: { JWT_ISSUER: 'issuer-1', JWT_AUDIENCE: 'audience-1' } });
const withoutSecret = await startWorker({ vars: { JWT_SECRET: undefined } });

const whoami = (token: string | undefined, to: Worker = worker) =>
  to.fetch('/api/whoami', token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } });

test('a valid token shows its principal', async () => {
  const response = await whoami(jwt(valid()));
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), { sub: 'ops', sandboxId: null, scope: '', via: 'jwt' });
  assert.equal(response.headers.get('cache-control'), 'no-store');
  const nobody = await whoami(jwt({ aud: AUDIENCE, exp: now() + 60 }));
  assert.deepEqual(await nobody.json(), { sub: null, sandboxId: null, scope: '', via: 'jwt' });
});

test('a token can be limited to one sandbox, and is never unlimited by mistake', async () => {
  for (const id of ['sandbox-1', 'x', 'é'.repeat(48)]) {
    const response = await whoami(jwt(valid({ sandbox_id: id })));
    assert.deepEqual(await response.json(), { sub: 'ops', sandboxId: id, scope: '', via: 'jwt' });
  }
  for (const id of [null, '', 0, 1, true, [], ['sandbox-1'], {}, 'x'.repeat(97), 'é'.repeat(49)]) {
    await assertUnauthorized(await whoami(jwt(valid({ sandbox_id: id }))), 'invalid_token', JSON.stringify(id));
  }
});

test('refuses a token with a registered claim of another type', async () => {
  for (const claims of [{ sub: 5 }, { sub: [] }, { iss: 5 }, { iss: {} }, { jti: 5 }, { aud: [AUDIENCE, 5] }, { aud: [null, AUDIENCE] }, { aud: [AUDIENCE, {}] }, { aud: { [AUDIENCE]: true } }, { aud: [[AUDIENCE]] }]) {
    await assertUnauthorized(await whoami(jwt(valid(claims))), 'invalid_token', JSON.stringify(claims));
  }
  for (const claims of [{ sub: null, iss: null, jti: null }, { aud: ['other', AUDIENCE] }, { email: 5, scope: [] }]) {
    assert.equal((await whoami(jwt(valid(claims)))).status, 200, JSON.stringify(claims));
  }
});

test('refuses a token with two claims of the same name', async () => {
  const twice = (claim: string) => jwt(JSON.stringify(valid()).replace('}', `,${claim},${claim}}`));
  for (const claim of ['"sub":"ops"', '"iss":"i"', '"aud":"kiloclaw-telemetry"', '"jti":"j"', '"sandbox_id":"a"', '"scope":""', '"email":""', '"common_name":""', '"custom":null', '"exp":9999999999']) {
    await assertUnauthorized(await whoami(twice(claim)), 'invalid_token', claim);
  }
  assert.equal((await whoami(twice('"name":"x"'))).status, 200, 'a claim that does not count');
});

test('refuses a request without a bearer token', async () => {
  await assertUnauthorized(await whoami(undefined), 'missing_token');
  for (const authorization of ['', 'Bearer', `Basic ${jwt(valid())}`, jwt(valid())]) {
    const response = await worker.fetch('/api/whoami', { headers: { authorization } });
    await assertUnauthorized(response, 'missing_token', authorization);
  }
});

test('refuses a token that has expired, never expires or is not yet valid', async () => {
  await assertUnauthorized(await whoami(jwt(valid({ exp: now() - 10 }))), 'expired_token');
  await assertUnauthorized(await whoami(jwt(valid({ exp: undefined }))), 'invalid_token');
  await assertUnauthorized(await whoami(jwt(valid({ exp: 'tomorrow' }))), 'invalid_token');
  await assertUnauthorized(await whoami(jwt(valid({ nbf: now() + 60 }))), 'invalid_token');
  // The limits of a date.
  await assertUnauthorized(await whoami(jwt(valid({ exp: -8_334_601_228_800 }))), 'expired_token');
  const distant = { nbf: -8_334_601_228_800, exp: 8_210_266_876_799 };
  assert.equal((await whoami(jwt(valid(distant)))).status, 200);
});

test('HS256 is the only algorithm', async () => {
  const unsigned = `${base64url({ alg: 'none', typ: 'JWT' })}.${base64url(valid())}.`;
  await assertUnauthorized(await whoami(unsigned), 'invalid_token', 'unsigned');
  // Signed as the header says, but not with HS256.
  for (const [alg, hmac] of [['HS384', 'sha384'], ['HS512', 'sha512']]) {
    await assertUnauthorized(await whoami(jwt(valid(), { alg, hmac })), 'invalid_token', alg);
  }
  // An HS256 signature under another name.
  for (const alg of ['none', 'None', 'HS512', 'RS256', 'hs256', '']) {
    await assertUnauthorized(await whoami(jwt(valid(), { alg })), 'invalid_token', alg);
  }
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const message = `${base64url({ alg: 'RS256', typ: 'JWT' })}.${base64url(valid())}`;
  const signature = sign('sha256', Buffer.from(message), privateKey).toString('base64url');
  await assertUnauthorized(await whoami(`${message}.${signature}`), 'invalid_token', 'RS256');
});

test('refuses a token that was tampered with', async () => {
  await assertUnauthorized(await whoami(jwt(valid(), { secret: 'another' })), 'invalid_token');
  const [header, , signature] = jwt(valid()).split('.');
  const forged = `${header}.${base64url(valid({ sub: 'root' }))}.${signature}`;
  await assertUnauthorized(await whoami(forged), 'invalid_token');
  for (const garbage of ['x', 'a.b', 'a.b.c', '..', 'a.b.c.d', `${jwt(valid())}.x`]) {
    const response = await worker.fetch('/api/whoami', {
      headers: { authorization: `Bearer ${garbage}` },
    });
    await assertUnauthorized(response, 'invalid_token', garbage);
  }
});

test('refuses a token for another audience, or of another issuer if one is set', async () => {
  const right = { iss: 'issuer-1', aud: 'audience-1' };
  assert.equal((await whoami(jwt(valid(right)), pinned)).status, 200);
  assert.equal((await whoami(jwt(valid({ ...right, aud: ['x', 'audience-1'] })), pinned)).status, 200);
  const wrongs = [{ iss: 'x' }, { iss: undefined }, { aud: 'x' }, { aud: AUDIENCE }, { aud: undefined }, { aud: [] }];
  for (const wrong of wrongs) {
    const token = jwt(valid({ ...right, ...wrong }));
    await assertUnauthorized(await whoami(token, pinned), 'invalid_token', JSON.stringify(wrong));
  }
  // The same secret may sign tokens for other systems.
  for (const aud of [undefined, null, '', 'another-system', `${AUDIENCE}-2`, AUDIENCE.toUpperCase(), [], ['x']]) {
    await assertUnauthorized(await whoami(jwt(valid({ aud }))), 'invalid_token', JSON.stringify(aud));
  }
  await logged(worker, /aud does not include this audience: JWT_AUDIENCE \(kiloclaw-telemetry unless it is set\)/);
  assert.equal((await whoami(jwt(valid({ ...right, aud: ['x', AUDIENCE] })))).status, 200, 'any issuer');
});

test('refuses a token with crit, whatever its value', async () => {
  assert.equal((await whoami(jwt(valid(), { header: { kid: 'x', cty: undefined } }))).status, 200);
  for (const crit of [['exp'], ['b64'], [], null, 'exp', {}]) {
    const token = jwt(valid(), { header: { crit, b64: true } });
    await assertUnauthorized(await whoami(token), 'invalid_token', JSON.stringify(crit));
  }
  await logged(worker, /the header has crit/);
});

test('refuses a token with a sandbox limit under another name', async () => {
  const names = ['sandboxId', 'sandboxID', 'sandbox-id', 'sandbox id', 'SANDBOX_ID', 'sandbox', 'sandboxes', 'sandbox_ids', '_sandbox_id', 'https://example.com/sandbox_id', 'custom.sandbox_id'];
  const misspelt: object[] = [
    ...names.map((name) => ({ [name]: 'sandbox-1' })),
    { sandboxId: null },
    { sandbox_id: 'sandbox-1', sandboxId: 'sandbox-2' },
    // Only Access tokens may have the claim there.
    { custom: { sandbox_id: 'sandbox-1' } },
    { custom: { sandbox_id: null } },
    { custom: { sandboxId: 'sandbox-1' } },
    { custom: [{ sandboxId: 'sandbox-1' }] },
    { email: { sandbox_id: 'sandbox-1' } },
    { common_name: [{ sandboxId: 'sandbox-1' }] },
    { sandbox_id: 'sandbox-1', custom: { sandbox_id: 'sandbox-1' } },
    { app_metadata: { limits: [{ sandbox_id: 'sandbox-1' }] } },
  ];
  for (const claims of misspelt) {
    await assertUnauthorized(await whoami(jwt(valid(claims))), 'invalid_token', JSON.stringify(claims));
  }
  await logged(worker, /a claim looks like a limit to one sandbox but is not: only sandbox_id counts/);
  const innocent = { custom: 'sandbox_id', groups: ['sandboxId'], sandboxed: true, roles: { x: [1, 1.5, -1, null, true] } };
  const response = await whoami(jwt(valid(innocent)));
  assert.deepEqual(await response.json(), { sub: 'ops', sandboxId: null, scope: '', via: 'jwt' });
});

test('every other path under /api/ requires a token', async () => {
  const paths = ['/api', '/api/', '/api/x', '/api/controller', `${CHECK_IN_PATH}/`, `${CHECK_IN_PATH}/x`, '/api//whoami', '/api/whoami/', '/api/whoami/x'];
  for (const path of paths) {
    for (const method of ['GET', 'POST', 'DELETE']) {
      await assertUnauthorized(await worker.fetch(path, { method }), 'missing_token', `${method} ${path}`);
    }
    const response = await worker.fetch(path, { headers: { authorization: `Bearer ${jwt(valid())}` } });
    assert.deepEqual([response.status, (await refusal(response)).code], [404, 'not_found'], path);
  }
  await assertUnauthorized(await worker.fetch('/api/whoami', { method: 'POST' }), 'missing_token');
});

/** The routes of machines, which have their own credentials. */
const MACHINE_PATHS = [CHECK_IN_PATH, '/api/controller/absence'];

const ROUTES = ['/api', '/api/whoami', '/api/openapi.json', '/api/fleet', '/api/fleet/history', '/api/sandboxes', '/api/sandboxes/a', '/api/sandboxes/a/history', '/api/incidents', '/api/alerts', '/api/absences', '/api/watcher', ...MACHINE_PATHS, '/api/nothing', '/health', '/', '/nothing'];

/** A spelling of a path that could bypass authentication. */
function spelling(below: (limit: number) => number): string {
  const pick = <T>(of: readonly T[]): T => of[below(of.length)]!;
  const percent = (text: string) =>
    [...text].map((letter) => `%${letter.charCodeAt(0).toString(16)}`).join('');
  const changes: ((path: string) => string)[] = [
    (path) => `${path}/`,
    (path) => `${path}//`,
    (path) => `/${path}`,
    (path) => path.replaceAll('/', '//'),
    (path) => path.replace(/\/(?=[^/]*$)/, pick(['//', '///', '/./', '/x/../', '/%2e/', '%2f', '\\', '%5c'])),
    (path) => path.replace('/', pick(['//', '\\', '/./', '/../', '/x/../', '/%2e%2e/', '/x/%2E./', '%2f', '/%5c'])),
    (path) => {
      const at = below(path.length);
      return path.slice(0, at) + percent(path[at]!) + path.slice(at + 1);
    },
    (path) => {
      const at = below(path.length);
      return path.slice(0, at) + path.slice(at).toUpperCase();
    },
    (path) => path + pick(['.', ';x=1', '%00', '%20', '%ff', '%', '?', '?x=1', '?dry_run=1', '#x', '/x', '*', ':sandboxId', '{*rest}', 'é', '/..', '/.']),
  ];
  let path = pick(ROUTES);
  for (let i = below(4); i > 0; i -= 1) path = pick(changes)(path);
  return path.startsWith('/') || path.startsWith('\\') ? path : `/${path}`;
}

test('every spelling of a path under /api/ requires a token, and every answer is JSON', async () => {
  const next = random(7);
  const below = (limit: number) => Math.floor(next() * limit);
  const spellings = new Set([
    ...ROUTES,
    ...ROUTES.flatMap((path) => [`${path}/`, `${path}//`, `/${path}`, `${path}///x//`]),
  ]);
  while (spellings.size < 2_500) spellings.add(spelling(below));
  const isPublic = (path: string) => path === '/health' || !/^\/api/i.test(path);
  let refused = 0;
  let gated = 0;
  const ask = async (path: string, headers = {}) => {
    // Concatenated, because `new URL('//x', …)` would be another host.
    const url = new URL(`${worker.url.origin}${path}`);
    assert.equal(url.host, worker.url.host, path);
    const response = await fetch(url, { redirect: 'manual', headers });
    const text = await response.text();
    const why = `${path} as ${url.pathname}: ${response.status} ${text.slice(0, 200)}`;
    assert.equal(response.headers.get('content-type'), 'application/json', why);
    assert.equal(response.headers.get('x-content-type-options'), 'nosniff', why);
    const { code } = JSON.parse(text) as { code?: string };
    return { pathname: url.pathname, status: response.status, code, why };
  };
  const lines = () => worker.logs.filter(({ message }) => /"code":"(missing_token|not_found|missing_credential|method_not_allowed)"/.test(message)).length;
  const before = lines();
  for (const path of spellings) {
    const { pathname, status, code, why } = await ask(path);
    if (MACHINE_PATHS.includes(pathname)) {
      assert.deepEqual([status, code], [405, 'method_not_allowed'], why);
    } else if (!isPublic(pathname)) {
      assert.deepEqual([status, code], [401, 'missing_token'], why);
      gated += 1;
    } else if (status !== 200) {
      assert.ok(code === 'not_found' || code === 'missing_token', why);
    }
    if (status !== 200) refused += 1;
  }
  assert.ok(gated > 900, `${gated} under /api`);
  await until('each refusal logs a line', () => lines() - before >= refused);
  assert.equal(lines() - before, refused);
  const headers = { authorization: `Bearer ${jwt(valid({ exp: now() + 600 }))}` };
  let found = 0;
  for (const path of spellings) {
    const { pathname, status, code, why } = await ask(path, headers);
    if (status === 404) {
      assert.ok(['not_found', 'unknown_sandbox'].includes(code ?? ''), why);
    } else if (!MACHINE_PATHS.includes(pathname)) {
      assert.ok([200, 400].includes(status), why);
      found += 1;
    }
  }
  assert.ok(found > 50, `${found} are of routes`);
});

test('refuses an API key on the operators\' routes, and a token at the check-in', async () => {
  await assertUnauthorized(await whoami(API_KEY), 'invalid_token');
  const response = await worker.checkIn(FULL, { authorization: `Bearer ${jwt(valid())}` });
  assert.deepEqual([response.status, (await refusal(response)).code], [403, 'wrong_api_key']);
});

test('without JWT_SECRET, refuses operators but accepts check-ins', async (t) => {
  const response = await whoami(jwt(valid(), { secret: '' }), withoutSecret);
  assert.equal(response.status, 503);
  assert.deepEqual(await refusal(response), { error: 'Configuration error', code: 'misconfigured' });
  assert.equal(response.headers.get('retry-after'), '30');
  assert.equal((await withoutSecret.checkIn(FULL)).status, 204);
  const empty = await startWorker({ vars: { JWT_SECRET: ' ' } }, t);
  assert.equal((await whoami(jwt(valid(), { secret: ' ' }), empty)).status, 503);
});

test('accepts a token of either secret during a rotation of JWT_SECRET', async (t) => {
  const rotating = await startWorker({ vars: { JWT_SECRET: ' new-secret, old-secret,' } }, t);
  for (const secret of ['new-secret', 'old-secret']) {
    assert.equal((await whoami(jwt(valid(), { secret }), rotating)).status, 200, secret);
    const expired = jwt(valid({ exp: now() - 10 }), { secret });
    await assertUnauthorized(await whoami(expired, rotating), 'expired_token', secret);
  }
  for (const secret of ['', ' ', 'new-secret,old-secret', ' new-secret, old-secret,', ' old-secret']) {
    await assertUnauthorized(await whoami(jwt(valid(), { secret }), rotating), 'invalid_token', secret);
  }
  const commas = await startWorker({ vars: { JWT_SECRET: ' , ,' } }, t);
  const refused = await whoami(jwt(valid(), { secret: '' }), commas);
  assert.deepEqual([refused.status, (await refusal(refused)).code], [503, 'misconfigured']);
});

test('warns once about each secret with a short value, without the value', async (t) => {
  const long = 'x'.repeat(32);
  const vars = {
    KILOCODE_API_KEY: `${long},fifteen-bytes-k`,
    GATEWAY_TOKEN_SECRET: 'k,R9v',
    JWT_SECRET: `${long}, ${'j'.repeat(31)}`,
    INTERNAL_API_SECRET: 'i'.repeat(15),
  };
  const short = await startWorker({ vars }, t);
  const reported = ({ logs }: Worker) =>
    logs.filter(({ message }) => message.includes('short_secret')).map(({ level, message }) => {
      const { detail } = JSON.parse(message) as { detail: string };
      return `${level} ${/^(\w+) has a value of less than (\d+) bytes.*openssl rand -hex 32/.exec(detail)?.slice(1).join(' ')}`;
    });
  for (let i = 0; i < 3; i += 1) {
    assert.equal((await short.checkIn(FULL, { authorization: `Bearer ${long}`, 'x-kiloclaw-gateway-token': gatewayToken(FULL.sandboxId, 'R9v') })).status, 204);
    assert.equal((await whoami(jwt(valid(), { secret: 'j'.repeat(31) }), short)).status, 200, 'a short secret still works');
  }
  const expected = ['warn KILOCODE_API_KEY 16', 'warn GATEWAY_TOKEN_SECRET 16', 'warn INTERNAL_API_SECRET 16', 'warn JWT_SECRET 32'];
  await until('all short secrets are reported', () => reported(short).length >= expected.length);
  assert.deepEqual(reported(short), expected);
  assert.doesNotMatch(JSON.stringify(short.logs), /fifteen|R9v|jjj|iii/);

  const enough = await startWorker({ vars: { KILOCODE_API_KEY: 'k'.repeat(16), GATEWAY_TOKEN_SECRET: 'g'.repeat(16), JWT_SECRET: long, INTERNAL_API_SECRET: 'i'.repeat(16) } }, t);
  await enough.checkIn(FULL);
  await whoami(undefined, enough);
  await logged(enough, /missing_token/);
  assert.deepEqual(reported(enough), []);
});

const internal = (key: string, to: Worker, headers: Record<string, string> = {}) =>
  to.fetch('/api/whoami', { headers: { 'x-internal-api-key': key, ...headers } });

test('accepts an internal key', async (t) => {
  const secret = 'internal-1, internal-2';
  const backend = await startWorker({ vars: { INTERNAL_API_SECRET: secret } }, t);
  for (const key of ['internal-1', 'internal-2']) {
    const response = await internal(key, backend);
    assert.deepEqual(await response.json(), { sub: 'internal', sandboxId: null, scope: '', via: 'internal' });
  }
  const wrong = ['', 'x', 'internal-', 'internal-11', 'INTERNAL-1', secret, 'internal-1,internal-2', JWT_SECRET];
  for (const key of wrong) {
    const response = await internal(key, backend);
    assert.deepEqual(
      [response.status, await refusal(response)],
      [403, { error: 'Forbidden', code: 'wrong_internal_api_key' }],
      key,
    );
  }
  // If a request has a key, only the key counts.
  const both = await internal('x', backend, { authorization: `Bearer ${jwt(valid())}` });
  assert.equal(both.status, 403);
  assert.equal((await whoami(jwt(valid()), backend)).status, 200, 'a token is accepted as well');
  await assertUnauthorized(await whoami('internal-1', backend), 'invalid_token', 'an internal key is not a bearer token');
  assert.doesNotMatch(await logged(backend, /wrong_internal_api_key/), /internal-[12]/);
});

test('ignores an internal key if INTERNAL_API_SECRET is not set', async (t) => {
  await assertUnauthorized(await internal('internal-1', worker), 'missing_token');
  await assertUnauthorized(await internal('', worker), 'missing_token');
  const beside = await internal('x', worker, { authorization: `Bearer ${jwt(valid())}` });
  assert.equal(beside.status, 200, 'the key is ignored');
  const empty = await startWorker({ vars: { INTERNAL_API_SECRET: ' ' } }, t);
  await assertUnauthorized(await internal('', empty), 'missing_token');
  const commas = await startWorker({ vars: { INTERNAL_API_SECRET: ',' } }, t);
  assert.equal((await internal('', commas)).status, 503);
  await logged(commas, /INTERNAL_API_SECRET is missing or empty/);
});

test('with only INTERNAL_API_SECRET set, accepts only an internal key', async (t) => {
  const vars = { JWT_SECRET: undefined, INTERNAL_API_SECRET: 'internal-1' };
  const backend = await startWorker({ vars }, t);
  assert.equal((await internal('internal-1', backend)).status, 200);
  await assertUnauthorized(await whoami(undefined, backend), 'missing_token');
  await assertUnauthorized(await whoami(jwt(valid(), { secret: '' }), backend), 'missing_token');
});

const MINTING = { JWT_SECRET: ` ${JWT_SECRET}, old`, JWT_ISSUER: 'issuer-1', JWT_AUDIENCE: 'x' };

/** Runs `npm run token` with these options. */
const token = (options: string[], env: Record<string, string> = MINTING) =>
  spawnSync(process.execPath, ['tools/token.ts', ...options], { env, encoding: 'utf8' });

test('npm run token mints a token that the Worker accepts', async () => {
  const limited = token(['--sub', 'ops', '--ttl', '2m', '--sandbox', 'sandbox-1', '--audience', 'audience-1']);
  assert.match(limited.stdout, /^[\w-]+\.[\w-]+\.[\w-]+\n$/, 'the token, and nothing else');
  assert.match(limited.stderr, /for ops, who sees sandbox sandbox-1 only until /);
  const answer = await whoami(limited.stdout.trim(), pinned);
  assert.deepEqual(await answer.json(), { sub: 'ops', sandboxId: 'sandbox-1', scope: '', via: 'jwt' });
  const claims = JSON.parse(Buffer.from(limited.stdout.split('.')[1], 'base64url').toString());
  assert.equal(claims.exp - claims.iat, 120);

  // With JWT_AUDIENCE from the environment; and without it, with the Worker's default.
  const elsewhere = token(['--sub', 'ops']);
  await assertUnauthorized(await whoami(elsewhere.stdout.trim()), 'invalid_token');
  const unlimited = await whoami(token(['--sub', 'ops'], { JWT_SECRET }).stdout.trim());
  assert.deepEqual(await unlimited.json(), { sub: 'ops', sandboxId: null, scope: '', via: 'jwt' });
  await assertUnauthorized(await whoami(token(['--sub', 'ops']).stdout.trim(), pinned), 'invalid_token');
});

test('npm run token rejects invalid options in one line', () => {
  const wrong = [
    [],
    ['--sub', ''],
    ...['', '0s', '1', 'h', '1w', '-1h', '1.5h', '91d', '7776001s'].map((ttl) => ['--sub', 'ops', `--ttl=${ttl}`]),
    ['--sub', 'ops', '--sandbox', ''],
    ['--sub', 'ops', '--sandbox', 'x'.repeat(97)],
    ['--sub', 'ops', '--secret-file', '/dev/null'],
    ['--sub', 'ops', '--secret-file', '/nonexistent'],
    ['ops'],
  ];
  for (const options of wrong) {
    const { status, stdout, stderr } = token(options);
    assert.deepEqual([status, stdout], [1, ''], options.join(' '));
    assert.match(stderr, /^token: error: [^\n]+\n$/);
  }
});
