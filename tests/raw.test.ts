/**
 * Sends bytes that no HTTP client would send to the Worker in a plain workerd. Asserts the answers, that exactly
 * the accepted check-ins are stored, and that the next valid check-in is accepted. workerd's HTTP layer answers
 * some requests before they reach the Worker; the test names say so.
 */
import assert from 'node:assert/strict';
import { connect, type Socket } from 'node:net';
import { after, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';

import { read, type JsonPoint } from '../local-ae/support/instance.js';
import {
  API_KEY,
  CHECK_IN_PATH,
  credentials,
  gatewayToken,
  MAX_BODY_BYTES,
  MINIMAL,
  WORKER_SECRETS,
} from '../harness/check-in.ts';
import { startWorkerd } from '../harness/workerd.ts';

const workerd = await startWorkerd(WORKER_SECRETS, { after });

/** The longest wait for an answer. Only a failing test takes this long. */
const DEADLINE_MS = 10_000;
/** After this time, no answer is expected any more. */
const QUIET_MS = 60;
type Bytes = string | Buffer;

/** Strings are Latin-1: each character is one byte. */
const bytes = (...parts: readonly Bytes[]): Buffer =>
  Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)));

const SANDBOX_ID = 'raw-1';
const FIELDS = { ...MINIMAL, sandboxId: SANDBOX_ID };
const BODY = JSON.stringify(FIELDS);
const TOKEN = gatewayToken(SANDBOX_ID);
const KEY_LINE = `authorization: Bearer ${API_KEY}\r\n`;
const TOKEN_LINE = `x-kiloclaw-gateway-token: ${TOKEN}\r\n`;
const CREDENTIALS = `${KEY_LINE}${TOKEN_LINE}`;

/** A request with valid defaults. With `length: false` it has no content-length. */
function request({
  line = `POST ${CHECK_IN_PATH} HTTP/1.1`,
  host = 'host: x\r\n',
  headers = CREDENTIALS,
  more = '',
  length = true,
  body = BODY as Bytes,
} = {}): Buffer {
  const size = bytes(body).length;
  const counted = length ? `content-length: ${size}\r\n` : '';
  return bytes(`${line}\r\n${host}${headers}${more}${counted}\r\n`, body);
}

const CHUNKED = 'transfer-encoding: chunked\r\n';
const LAST_CHUNK = '0\r\n\r\n';
const chunk = (part: Bytes) => bytes(`${part.length.toString(16)}\r\n`, part, '\r\n');
/** A request with a chunked transfer-encoding and these raw bytes as its body. */
const chunked = (...parts: readonly Bytes[]) =>
  request({ more: CHUNKED, length: false, body: bytes(...parts) });

interface Exchange {
  /** Per answer: its status, then the refusal's code and field, or workerd's text. */
  readonly answers: readonly string[];
  /** workerd has closed the connection. */
  readonly closed: boolean;
}

/** Parses the complete answers at the start of `received`, and returns their length. */
function parse(received: string): { answers: string[]; length: number } {
  const answers: string[] = [];
  let at = 0;
  for (;;) {
    const end = received.indexOf('\r\n\r\n', at);
    if (end < 0) return { answers, length: at };
    const head = received.slice(at, end);
    const status = /^HTTP\/1\.[01] (\d{3}) /.exec(head)?.[1] ?? assert.fail(`no answer: ${head}`);
    const size = Number(/^content-length: (\d+)$/im.exec(head)?.[1] ?? 0);
    const body = received.slice(end + 4, end + 4 + size);
    if (body.length < size) return { answers, length: at };
    at = end + 4 + size;
    if (status.startsWith('1')) continue;
    let shown = body;
    if (/^content-type: application\/json$/im.test(head)) {
      const { code, field } = JSON.parse(body) as Record<string, string | undefined>;
      shown = [code, field].filter((part) => part !== undefined).join(' ');
      assert.ok(Number(status) < 500, `our own code failed: ${head}\n${body}`);
    }
    answers.push(`${status} ${shown}`.trim());
  }
}

class Connection {
  readonly socket: Socket;
  #received = '';
  #closed = false;

  constructor() {
    this.socket = connect({ port: workerd.port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true });
    this.socket.setEncoding('latin1').on('data', (part: string) => (this.#received += part));
    // If workerd answers and closes early, it resets the connection when more bytes arrive.
    this.socket.on('error', () => {}).on('end', () => (this.#closed = true));
    this.socket.on('close', () => (this.#closed = true));
  }

  /** Waits for so many answers, or a moment if none is expected; returns all answers. */
  async exchange(answers: number): Promise<Exchange> {
    const deadline = Date.now() + DEADLINE_MS;
    while (parse(this.#received).answers.length < answers && !this.#closed && Date.now() < deadline) {
      await delay(1);
    }
    // An excess answer, or the end of the connection, would come right away.
    await delay(answers === 0 ? QUIET_MS : 3);
    const parsed = parse(this.#received);
    assert.equal(parsed.length, this.#received.length, `half an answer: ${this.#received}`);
    return { answers: parsed.answers, closed: this.#closed };
  }
}

let seen = 0;
let accepted = 0;

/**
 * Asserts that the next valid check-in, on its own connection, is accepted, and that since the last call only
 * that one and `count` other points were stored. Returns the other points.
 */
async function assertServed(count: number, what: string): Promise<JsonPoint[]> {
  const next = new Connection();
  const body = JSON.stringify({ ...MINIMAL, sandboxId: 'next' });
  const headers = Object.entries(credentials('next')).map(([name, value]) => `${name}: ${value}\r\n`);
  next.socket.write(request({ headers: headers.join(''), body }));
  assert.deepEqual((await next.exchange(1)).answers, ['204'], `the next one after ${what}`);
  next.socket.destroy();
  accepted += count + 1;
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    const { points } = await read(workerd.store, `?after=${seen}&limit=10000`);
    const found = points.findIndex(({ index1 }) => index1 === 'next');
    if (found >= 0 && points.length > count) {
      seen = points[points.length - 1].id;
      const others = points.filter(({ index1 }) => index1 !== 'next');
      assert.equal(others.length, count, `points of ${what}`);
      return others;
    }
    assert.ok(Date.now() < deadline, `${points.length} of ${count + 1} points of ${what}`);
    await delay(2);
  }
}

type Case = readonly [what: string, sent: Bytes, ...answers: string[]];

/** Sends each case on its own connection. Asserts that each 204 is stored once, and nothing else is. */
async function assertAnswers(cases: readonly Case[]): Promise<JsonPoint[][]> {
  const points: JsonPoint[][] = [];
  for (const [what, sent, ...answers] of cases) {
    const connection = new Connection();
    connection.socket.write(bytes(sent));
    const found = await connection.exchange(answers.length);
    connection.socket.destroy();
    assert.deepEqual(found.answers, answers, what);
    points.push(await assertServed(answers.filter((answer) => answer === '204').length, what));
  }
  return points;
}

test('a chunked body is equal to one with a content-length, however it is split', async () => {
  const whole = bytes(chunk(BODY), LAST_CHUNK);
  const points = await assertAnswers([
    ['of known length', request(), '204'],
    ['one chunk', chunked(chunk(BODY), LAST_CHUNK), '204'],
    ['one byte per chunk', chunked(...[...BODY].map(chunk), LAST_CHUNK), '204'],
    ['an extension', chunked(`${BODY.length.toString(16)};a=b\r\n${BODY}\r\n`, LAST_CHUNK), '204'],
    ['a size with zeros', chunked(`000${BODY.length.toString(16)}\r\n${BODY}\r\n`, LAST_CHUNK), '204'],
    ['a trailer', chunked(chunk(BODY), '0\r\nx: y\r\n\r\n'), '204'],
    ['in capitals', request({ more: CHUNKED.toUpperCase(), length: false, body: whole }), '204'],
    ['no bytes at all', chunked(LAST_CHUNK), '400 not_json'],
  ]);
  const first = points[0][0];
  for (const [point] of points.slice(1, -1)) {
    assert.deepEqual([point.blobs, point.doubles], [first.blobs, first.doubles]);
  }
});

test('refuses a chunked body over the limit, whatever the size of its chunks', async () => {
  const full = JSON.stringify({ ...FIELDS, padding: '' });
  const ofSize = (size: number) => full.replace('"padding":""', `"padding":"${'x'.repeat(size - full.length)}"`);
  const parts = (body: string, size: number) =>
    body.match(new RegExp(`.{1,${size}}`, 'g'))!.map((part) => chunk(part));
  await assertAnswers([
    ['the largest size', chunked(chunk(ofSize(MAX_BODY_BYTES)), LAST_CHUNK), '204'],
    ['the largest size, in chunks', chunked(...parts(ofSize(MAX_BODY_BYTES), 100), LAST_CHUNK), '204'],
    ['a byte more', chunked(chunk(ofSize(MAX_BODY_BYTES + 1)), LAST_CHUNK), '413 body_too_large'],
    ['a byte more, in chunks', chunked(...parts(ofSize(MAX_BODY_BYTES + 1), 100), LAST_CHUNK), '413 body_too_large'],
    ['a mebibyte', chunked(chunk('x'.repeat(1 << 20)), LAST_CHUNK), '413 body_too_large'],
    ['without an end', chunked(chunk('x'.repeat(MAX_BODY_BYTES + 1))), '413 body_too_large'],
  ]);
});

test('refuses a body with invalid chunks as not_json', async () => {
  const size = BODY.length.toString(16);
  await assertAnswers([
    ['a size in letters', chunked(`zz\r\n${BODY}\r\n`, LAST_CHUNK), '400 not_json'],
    ['a size below 0', chunked(`-5\r\n${BODY}\r\n`, LAST_CHUNK), '400 not_json'],
    ['a size beyond 64 bits', chunked(`1${'0'.repeat(16)}${size}\r\n${BODY}\r\n`, LAST_CHUNK), '400 not_json'],
    ['a size that is too small', chunked(`5\r\n${BODY}\r\n`, LAST_CHUNK), '400 not_json'],
    ['no size', chunked(`\r\n${BODY}\r\n`, LAST_CHUNK), '400 not_json'],
  ]);
});

test('neither answers nor stores an incomplete request', async () => {
  const part = { length: false };
  await assertAnswers([
    ['a content-length that is too long', request({ ...part, more: `content-length: ${BODY.length + 1}\r\n` })],
    ['a last chunk that is missing', chunked(chunk(BODY))],
    ['a chunk that is too short', chunked(`fff\r\n${BODY}`)],
    ['a head that does not end', bytes(request().subarray(0, 100))],
  ]);
});

test('refuses a body that ends too soon as not_json', async () => {
  for (const sent of [
    request({ length: false, more: `content-length: ${BODY.length + 1}\r\n` }),
    chunked(chunk(BODY)),
  ]) {
    const connection = new Connection();
    connection.socket.end(sent);
    assert.deepEqual((await connection.exchange(1)).answers, ['400 not_json']);
    connection.socket.destroy();
    await assertServed(0, 'a body that ends too soon');
  }
});

test('a content-length that is too small truncates the body; workerd itself answers 400 to the rest', async () => {
  const more = `content-length: ${BODY.length - 1}\r\n`;
  const rest = '400 invalid HTTP method parsed';
  await assertAnswers([
    ['a byte short', request({ length: false, more }), '400 not_json', rest],
    ['missing, which counts as 0', request({ length: false }), '400 not_json', rest],
    ['0', request({ body: '' }), '400 not_json'],
  ]);
});

test('workerd itself answers 400 to an invalid content-length', async () => {
  const { length } = BODY;
  const of = (more: string) => request({ length: false, more });
  const answer = '400 invalid content-length parsed';
  const values = [
    ...['', 'abc', '1e2', '9'.repeat(30), `${2n ** 64n + BigInt(length)}`, `0x${length.toString(16)}`],
    ...[`-${length}`, `+${length}`, `${length} 1`, `${length}.0`, `${length}, ${length}`],
  ];
  await assertAnswers([
    ...values.map((value): Case => [value, of(`content-length: ${value}\r\n`), answer]),
    ['two different ones', of(`content-length: ${length}\r\ncontent-length: ${length - 1}\r\n`), answer],
  ]);
});

test('accepts a content-length that is repeated or has leading zeros', async () => {
  const { length } = BODY;
  const of = (more: string) => request({ length: false, more });
  await assertAnswers([
    ['twice the same', of(`content-length: ${length}\r\ncontent-length: ${length}\r\n`), '204'],
    ['zeros', of(`content-length: 000${length}\r\n`), '204'],
    ['far too large', of(`content-length: ${2 ** 53}\r\n`), '413 body_too_large'],
  ]);
});

test('ignores a content-length beside a transfer-encoding and closes the connection, against request smuggling', async () => {
  const body = bytes(chunk(BODY), LAST_CHUNK);
  for (const length of [1, BODY.length, body.length + 500, 2 * MAX_BODY_BYTES]) {
    const connection = new Connection();
    const more = `content-length: ${length}\r\n${CHUNKED}`;
    // With the length, the second request would be read as body, or the body as a request.
    connection.socket.write(bytes(request({ length: false, more, body }), request()));
    assert.deepEqual(await connection.exchange(2), { answers: ['204'], closed: true }, `${length}`);
    connection.socket.destroy();
    await assertServed(1, `both, and a length of ${length}`);
  }
});

test('workerd itself answers 400 to an unknown transfer-encoding', async () => {
  const body = bytes(chunk(BODY), LAST_CHUNK);
  const of = (value: string) => request({ length: false, more: `transfer-encoding: ${value}\r\n`, body });
  const answer = '400 invalid transfer-encoding parsed';
  await assertAnswers([['foo', of('foo'), answer], ['gzip alone', of('gzip'), answer]]);
});

test('accepts many and large headers, but workerd itself answers 431 to a head of a mebibyte', async () => {
  const many = Array.from({ length: 10_000 }, (_, i) => `h${i}: v\r\n`).join('');
  const large = (size: number) => `x: ${'a'.repeat(size)}\r\n`;
  await assertAnswers([
    ['10,000 headers', request({ more: many }), '204'],
    ['one of 60,000 bytes', request({ more: large(60_000) }), '204'],
    ['one of a mebibyte', request({ more: large(1 << 20) }), '431 message head is too large'],
  ]);
  const region = `fly-region: ${'\xc3\xa9'.repeat(20_000)}\r\n`;
  const [[{ blobs }]] = await assertAnswers([['a region of 40,000', request({ more: region }), '204']]);
  assert.ok(Buffer.byteLength(blobs[6]) <= 1_024 && blobs[6].length > 500, 'cut to the limit of a string');
});

test('refuses two keys or two tokens: the runtime joins repeated headers with a comma', async () => {
  const wrongKey = 'authorization: Bearer wrong\r\n';
  const wrongToken = `x-kiloclaw-gateway-token: ${'0'.repeat(64)}\r\n`;
  const pairs = (right: string, wrong: string, empty: string) => [
    [right, wrong], [wrong, right], [right, right], [right, empty], [empty, right],
  ];
  const key = pairs(KEY_LINE, wrongKey, 'authorization:\r\n').map(
    (lines, i): Case => [
      `keys, ${i}`,
      request({ headers: `${lines.join('')}${TOKEN_LINE}` }),
      // The runtime adds no comma to an empty `authorization`, so the second value is the only one.
      i === 4 ? '204' : '403 wrong_api_key',
    ],
  );
  const token = pairs(TOKEN_LINE, wrongToken, 'x-kiloclaw-gateway-token:\r\n').map(
    (lines, i): Case => [
      `tokens, ${i}`,
      request({ headers: `${KEY_LINE}${lines.join('')}` }),
      '403 wrong_gateway_token',
    ],
  );
  await assertAnswers([
    ...key,
    ...token,
    ...[`${API_KEY}, Bearer ${API_KEY}`, `${API_KEY}\xff`, API_KEY.toUpperCase()].map(
      (key): Case => [
        key,
        request({ headers: `authorization: Bearer ${key}\r\n${TOKEN_LINE}` }),
        '403 wrong_api_key',
      ],
    ),
    ...[`${TOKEN}, ${TOKEN}`, `${TOKEN}\xff`, TOKEN.toUpperCase()].map(
      (token): Case => [
        token,
        request({ headers: `${KEY_LINE}x-kiloclaw-gateway-token: ${token}\r\n` }),
        '403 wrong_gateway_token',
      ],
    ),
  ]);
});

test('accepts header names and the scheme in any case', async () => {
  const of = (key: string, token: string) => request({ headers: `${key}\r\n${token}\r\n` });
  await assertAnswers([
    ['capitals', of(`AUTHORIZATION: BEARER ${API_KEY}`, `X-KILOCLAW-GATEWAY-TOKEN: ${TOKEN}`), '204'],
    ['both', of(`aUtHoRiZaTiOn: bEaReR ${API_KEY}`, `x-KiloClaw-Gateway-Token: ${TOKEN}`), '204'],
    [
      'white space around the values',
      of(`authorization: \t Bearer ${API_KEY} \t`, `x-kiloclaw-gateway-token:\t${TOKEN} `),
      '204',
    ],
  ]);
});

test('reads invalid UTF-8 in headers as U+FFFD', async () => {
  const of = (region: string) => request({ more: `fly-region: ${region}\r\n` });
  const points = await assertAnswers([
    ['not UTF-8', of('a\xff\xfe'), '204'],
    ['overlong', of('\xc0\xaf'), '204'],
    ['UTF-8', of('\xc3\xa9'), '204'],
  ]);
  assert.deepEqual(points.map(([{ blobs }]) => blobs[6]), ['a\ufffd\ufffd', '\ufffd\ufffd', 'é']);
});

test('workerd itself answers 400 to malformed headers', async () => {
  const answer = '400 invalid HTTP header parsed';
  await assertAnswers([
    ['a NUL', request({ more: 'x: a\0b\r\n' }), answer],
    ['a NUL after the key', request({ headers: CREDENTIALS.replace(API_KEY, `${API_KEY}\0`) }), answer],
    ['a carriage return', request({ more: 'x: a\rb\r\n' }), answer],
    ['no colon', request({ more: 'hello\r\n' }), answer],
    ['no name', request({ more: ': x\r\n' }), answer],
    ['a space before the colon', request({ headers: CREDENTIALS.replace(': Bearer', ' : Bearer') }), answer],
    ['a value on two lines', request({ headers: CREDENTIALS.replace('Bearer ', 'Bearer\r\n ') }), answer],
    ['no host', request({ host: '' }), '400 Bad Request'],
    ['an empty host', request({ host: 'host:\r\n' }), '400 Bad Request'],
  ]);
});

test('answers pipelined requests in order, and stores exactly those with 204', async () => {
  const of = (uptimeSeconds: number) => request({ body: JSON.stringify({ ...FIELDS, uptimeSeconds }) });
  const wrongKey = request({ headers: `authorization: Bearer wrong\r\n${TOKEN_LINE}` });
  const kinds: [Buffer, string][] = [
    // An unread body must not be parsed as a request.
    [wrongKey, '403 wrong_api_key'],
    [request({ body: '{' }), '400 not_json'],
    [request({ headers: KEY_LINE }), '401 missing_gateway_token'],
    [request({ line: `PUT ${CHECK_IN_PATH} HTTP/1.1` }), '405 method_not_allowed'],
    [request({ line: `POST ${CHECK_IN_PATH}?dry_run=2 HTTP/1.1` }), '400 invalid_query dry_run'],
    [chunked(chunk('[]'), LAST_CHUNK), '400 not_an_object'],
  ];
  const sent = Array.from({ length: 60 }, (_, i): [Buffer, string] =>
    i % 2 === 0 ? [of(i), '204'] : kinds[((i - 1) / 2) % kinds.length],
  );
  const connection = new Connection();
  connection.socket.write(bytes(...sent.map(([part]) => part)));
  const { answers, closed } = await connection.exchange(sent.length);
  assert.deepEqual(answers, sent.map(([, answer]) => answer));
  assert.equal(closed, false);
  connection.socket.destroy();
  const points = await assertServed(30, 'pipelined requests');
  assert.deepEqual(points.map(({ doubles }) => doubles[2]), Array.from({ length: 30 }, (_, i) => 2 * i));
});

test('closes the connection after a body that is too large, so its rest is not parsed as a request', async () => {
  const body = request().toString('latin1').repeat(200);
  assert.ok(body.length > MAX_BODY_BYTES);
  const connection = new Connection();
  connection.socket.write(bytes(request({ body }), request()));
  assert.deepEqual(await connection.exchange(2), { answers: ['413 body_too_large'], closed: true });
  connection.socket.destroy();
  await assertServed(0, 'a body full of requests');
});

test('accepts a body that arrives byte by byte, and serves others while bodies stall', async () => {
  const stalled = Array.from({ length: 100 }, (_, i) => {
    const connection = new Connection();
    const whole = i % 2 === 0 ? request() : chunked(chunk(BODY), LAST_CHUNK);
    connection.socket.write(whole.subarray(0, whole.length - 1 - i));
    return connection;
  });
  const counted = Promise.withResolvers<void>();
  const slow = [request(), chunked(chunk(BODY), LAST_CHUNK)].map(async (sent) => {
    const connection = new Connection();
    for (const byte of sent.subarray(0, -1)) {
      connection.socket.write(Buffer.of(byte));
      await delay(1);
    }
    // The last byte comes after the loop below, which expects no point.
    await counted.promise;
    connection.socket.write(sent.subarray(-1));
    const { answers } = await connection.exchange(1);
    connection.socket.destroy();
    return answers;
  });
  const started = performance.now();
  for (let i = 0; i < 20; i += 1) await assertServed(0, 'stalled bodies');
  const each = (performance.now() - started) / 20;
  assert.ok(each < 5_000, `${each} ms for one`);
  counted.resolve();
  assert.deepEqual(await Promise.all(slow), [['204'], ['204']]);
  for (const { answers } of await Promise.all(stalled.map((connection) => connection.exchange(0)))) {
    assert.deepEqual(answers, []);
  }
  for (const { socket } of stalled) socket.destroy();
  await assertServed(2, 'slow bodies');
});

test('stores nothing from a connection that is closed halfway, at any byte', async () => {
  const wholes = [request(), chunked(chunk(BODY), LAST_CHUNK)];
  for (const whole of wholes) {
    for (let cut = 1; cut < whole.length; cut += 7) {
      const { socket } = new Connection();
      socket.write(whole.subarray(0, cut), () => (cut % 2 === 0 ? socket.resetAndDestroy() : socket.destroy()));
    }
    await delay(QUIET_MS);
    await assertServed(0, 'connections that were cut');
  }
});

test('stores a check-in once if the client disconnects before the answer', async () => {
  const { socket } = new Connection();
  socket.end(request());
  await assertServed(1, 'a client that does not wait');
});

/** The valid body with one more field at its end, with a raw value. */
const withField = (name: string, value: Bytes) => bytes(BODY.slice(0, -1), `,"${name}":`, value, '}');
const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');
const quoted = (text: Bytes) => bytes('"', text, '"');

/** Two cases for a body: with a content-length, and chunked. */
const twice = (what: string, body: Bytes, answer: string): Case[] => [
  [what, request({ body }), answer],
  [`${what}, chunked`, chunked(chunk(bytes(body)), LAST_CHUNK), answer],
];

test('refuses a body with invalid UTF-8 as not_json', async () => {
  const reason = (text: string) => withField('lastExitReason', quoted(hex(text)));
  const latin1 = 'content-type: application/json; charset=latin1\r\n';
  await assertAnswers([
    ...twice('a byte that UTF-8 never has', reason('ff'), '400 not_json'),
    ...twice('a continuation alone', reason('80'), '400 not_json'),
    ...twice('overlong, of two', reason('c0af'), '400 not_json'),
    ...twice('overlong, of three', reason('e080af'), '400 not_json'),
    ...twice('overlong, of four', reason('f08080af'), '400 not_json'),
    ...twice('an overlong NUL', reason('c080'), '400 not_json'),
    // If decoded, this quote would end the string.
    ...twice('an overlong quote', withField('lastExitReason', bytes('"', hex('c0a2'), ',"x":"')), '400 not_json'),
    ...twice('a surrogate', reason('eda080'), '400 not_json'),
    ...twice('beyond U+10FFFF', reason('f4908080'), '400 not_json'),
    ...twice('after the object', bytes(BODY, hex('ff')), '400 not_json'),
    ...twice('in a field that is ignored', withField('x', quoted(hex('ff'))), '400 not_json'),
    ...twice('beside U+FFFD', reason('efbfbd ff'), '400 not_json'),
    ...twice('UTF-16', Buffer.from(`\ufeff${BODY}`, 'utf16le'), '400 not_json'),
    ['another charset, by name', request({ more: latin1, body: reason('e9') }), '400 not_json'],
  ]);
});

test('accepts U+FFFD as a character, after a byte-order mark as well', async () => {
  const body = withField('lastExitReason', quoted('code:\xef\xbf\xbd'));
  const points = await assertAnswers([
    ...twice('alone', body, '204'),
    ...twice('behind a byte-order mark', bytes(hex('efbbbf'), body), '204'),
  ]);
  assert.deepEqual(points.map(([{ blobs }]) => blobs[8]), Array(4).fill('code:\ufffd'));
});

test('reads invalid UTF-8 as U+FFFD if the body keeps its length', async () => {
  // The only invalid UTF-8 that is accepted: its replacement U+FFFD has the same length, three bytes; or it is as much
  // longer as the byte-order mark that the runtime removes.
  const body = withField('lastExitReason', quoted(hex('f09f98')));
  const behindMark = bytes(hex('efbbbf'), withField('lastExitReason', quoted(hex('ffe4bd'))));
  const points = await assertAnswers([...twice('', body, '204'), ...twice('behind a mark', behindMark, '204')]);
  assert.deepEqual(points.map(([{ blobs }]) => blobs[8]), ['\ufffd', '\ufffd', '\ufffd\ufffd', '\ufffd\ufffd']);
});

test('ignores one byte-order mark before the object', async () => {
  const mark = hex('efbbbf');
  await assertAnswers([
    ...twice('one', bytes(mark, BODY), '204'),
    ...twice('two', bytes(mark, mark, BODY), '400 not_json'),
    ...twice('three', bytes(mark, mark, mark, BODY), '400 not_json'),
    ...twice('behind the object', bytes(BODY, mark), '400 not_json'),
  ]);
});

test('refuses a compressed body as not_json, because it ignores content-encoding', async () => {
  const more = 'content-encoding: gzip\r\n';
  const gzip = gzipSync(BODY);
  const chunks = bytes(chunk(gzip), LAST_CHUNK);
  await assertAnswers([
    ['gzip', request({ more, body: gzip }), '400 not_json'],
    ['gzip, chunked', request({ more: more + CHUNKED, length: false, body: chunks }), '400 not_json'],
    ['a bomb', request({ more, body: gzipSync(Buffer.alloc(8 << 20)) }), '400 not_json'],
    ['plain JSON with that header', request({ more }), '204'],
  ]);
});

test('any depth of nesting overflows no stack', async () => {
  const deep = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
  const room = (MAX_BODY_BYTES - withField('x', '').length) >> 1;
  await assertAnswers([
    ...twice('100,000', deep(50_000), '413 body_too_large'),
    ...twice('as many as fit, never closed', '['.repeat(MAX_BODY_BYTES), '400 not_an_object'),
    ...twice('objects, never closed', '{"a":'.repeat(MAX_BODY_BYTES / 5), '400 not_json'),
    ...twice('as many as fit, ignored', withField('x', deep(room)), '204'),
    ...twice('objects, ignored', withField('x', `${'{"a":'.repeat(2_500)}1${'}'.repeat(2_500)}`), '204'),
    ...twice('for a text', withField('sandboxId', deep(5_000)), '400 invalid_field sandboxId'),
    ...twice('for a number', withField('loadAvg5m', deep(5_000)), '400 invalid_field loadAvg5m'),
  ]);
});

test('uses the last of equal keys, and checks all of them', async () => {
  const first = (field: string) => bytes('{', field, ',', BODY.slice(1));
  const points = await assertAnswers([
    ['another sandbox first', request({ body: first('"sandboxId":"other"') }), '204'],
    ['another number first', request({ body: first('"loadAvg5m":7') }), '204'],
    ['another number last', request({ body: withField('loadAvg5m', '8') }), '204'],
    ['another sandbox last', request({ body: withField('sandboxId', '"other"') }), '403 wrong_gateway_token'],
    ['the same, escaped', request({ body: withField('sandbox\\u0049d', '"other"') }), '403 wrong_gateway_token'],
    ['a wrong one first', request({ body: first('"loadAvg5m":-1') }), '400 invalid_field loadAvg5m'],
    ['a wrong one last', request({ body: withField('loadAvg5m', '-1') }), '400 invalid_field loadAvg5m'],
    ['a prototype', request({ body: withField('__proto__', '{"sandboxId":"other"}') }), '204'],
  ]);
  assert.deepEqual(points.flat().map(({ index1, doubles }) => [index1, doubles[3]]), [
    [SANDBOX_ID, 0], [SANDBOX_ID, 0], [SANDBOX_ID, 8], [SANDBOX_ID, 0],
  ]);
});

test('accepts escaped control characters, and refuses raw ones', async () => {
  const reason = (text: string) => withField('lastExitReason', text);
  const refused = '400 invalid_field lastExitReason';
  const points = await assertAnswers([
    ...twice('NUL, escaped', reason('"a\\u0000b"'), '204'),
    ...twice('NUL', reason('"a\0b"'), refused),
    ...twice('a tab', reason('"a\tb"'), refused),
    ...twice('a new line', reason('"a\nb"'), refused),
    ...twice('NUL before the object', bytes('\0', BODY), '400 not_json'),
    ...twice('NUL behind the object', bytes(BODY, '\0'), '400 not_json'),
    ...twice('NUL in an ignored key', withField('x\0', '1'), '400 not_json'),
  ]);
  assert.deepEqual(points.flat().map(({ blobs }) => blobs[8]), ['a\0b', 'a\0b']);
});

test('refuses lone surrogates', async () => {
  const reason = (text: string) => withField('lastExitReason', quoted(text));
  const refused = '400 invalid_field lastExitReason';
  const points = await assertAnswers([
    ...twice('a pair', reason('\\ud83d\\ude00'), '204'),
    ...twice('the first', reason('\\ud83d'), refused),
    ...twice('the second', reason('\\ude00'), refused),
    ...twice('both, the wrong way round', reason('\\ude00\\ud83d'), refused),
    ...twice('the first, and a letter', reason('\\ud83dx'), refused),
    ...twice('in a sandbox\'s id', withField('sandboxId', '"\\ud83d"'), '400 invalid_field sandboxId'),
    ...twice('in a value that is ignored', withField('x', '"\\ud83d"'), '204'),
  ]);
  assert.deepEqual(points.flat().map(({ blobs }) => blobs[8]), ['😀', '😀', '', '']);
});

test('parses numbers like JSON, at all limits', async () => {
  const accepted: [string, number][] = [
    ['-0', 0], ['-0.0', 0], ['-1e-400', 0], ['1e-400', 0], ['0e999999', 0], ['5e-324', 5e-324],
    ['1E+2', 100], ['9007199254740991', 2 ** 53 - 1], ['9007199254740993', 2 ** 53],
    [`0.${'1'.repeat(9_000)}`, 1 / 9], ['9007199254740992.5', 2 ** 53],
  ];
  const points = await assertAnswers(
    accepted.map(([text]): Case => [text, request({ body: withField('bandwidthBytesIn', text) }), '204']),
  );
  assert.deepEqual(points.map(([{ doubles }]) => doubles[4]), accepted.map(([, number]) => number));

  const refused = [
    ...['4194305', '1e308', '9'.repeat(300), '18446744073709551616', '1e309', '1E400', '-1e309', '1e99999999999999999999', '1'.repeat(400), '1'.repeat(15_000)],
    ...['-1', '-9223372036854775809', 'NaN', 'Infinity', '-Infinity'],
    ...['01', '1.', '.5', '+1', '1e', '"1"', 'true', 'null'],
  ];
  const of = (field: string, text: string) => request({ body: withField(field, text) });
  await assertAnswers([
    ...refused.map((text): Case => [text, of('loadAvg5m', text), '400 invalid_field loadAvg5m']),
    // The parser reads the number 0 or 1, and then an invalid character.
    ['0x1', of('loadAvg5m', '0x1'), '400 not_json'],
    ['1_0', of('loadAvg5m', '1_0'), '400 not_json'],
    ['1e309, ignored', of('x', '1e309'), '204'],
    ['NaN, ignored', of('x', 'NaN'), '400 not_json'],
  ]);
});

test('refuses methods other than POST; workerd itself answers 501 to unknown methods', async () => {
  const of = (method: string) => request({ line: `${method} ${CHECK_IN_PATH} HTTP/1.1` });
  const unknown = '501 ERROR: Unrecognized request method.';
  await assertAnswers([
    ...['GET', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'QUERY', 'PROPFIND'].map(
      (method): Case => [method, of(method), '405 method_not_allowed'],
    ),
    ...['post', 'Post', 'POSTS', 'FOO'].map((method): Case => [method, of(method), unknown]),
    ['a control character', of('PO\x01ST'), '400 invalid HTTP method parsed'],
    ['a TLS handshake', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', '400 invalid HTTP method parsed'],
  ]);
});

test('workerd itself answers 500 to CONNECT, which the Worker does not implement', async () => {
  const of = (target: string) => request({ line: `CONNECT ${target} HTTP/1.1` });
  const answer = '500 Internal Server Error';
  await assertAnswers([['a path', of(CHECK_IN_PATH), answer], ['a host', of('x:443'), answer]]);
});

test('only the exact path is the check-in route; every other path under /api/ requires a token', async () => {
  const of = (target: string) => request({ line: `POST ${target} HTTP/1.1` });
  const operators = '401 invalid_token';
  const nothing = '404 not_found';
  await assertAnswers([
    ['two slashes', of(`/${CHECK_IN_PATH}`), operators],
    ['two slashes within', of('/api//controller/checkin'), operators],
    ['a slash behind it', of(`${CHECK_IN_PATH}/`), operators],
    ['a percent-encoded letter', of('/api/controller/%63heckin'), operators],
    ['slashes in percents', of('/api%2fcontroller%2fcheckin'), operators],
    ['NUL in percents', of(`${CHECK_IN_PATH}%00`), operators],
    ['dots', of('/api/./controller/checkin'), operators],
    ['two dots', of('/api/x/../controller/checkin'), operators],
    ['backslashes', of('/api\\controller\\checkin'), operators],
    ['capitals', of('/API/controller/checkin'), operators],
    ['a parameter of the path', of(`${CHECK_IN_PATH};x=1`), operators],
    ['in a query', of(`/?${CHECK_IN_PATH}`), nothing],
    ['a prefix of it', of('/api/controller/checki'), operators],
    ['a star', of('*'), nothing],
  ]);
});

test('ignores every query except dry_run, and drops a fragment', async () => {
  const of = (rest: string) => request({ line: `POST ${CHECK_IN_PATH}${rest} HTTP/1.1` });
  await assertAnswers([
    ['an empty one', of('?'), '204'],
    ['another parameter', of('?x=1&y=%FF&%'), '204'],
    ['in capitals', of('?DRY_RUN=1'), '204'],
    ['a fragment', of('#x'), '204'],
    ['a dry run in a fragment', of('#?dry_run=1'), '204'],
    ['a wrong one', of('?dry_run=yes'), '400 invalid_query dry_run'],
    ['an empty one', of('?dry_run'), '400 invalid_query dry_run'],
    ['a wrong one first', of('?dry_run=0&dry_run=1'), '400 invalid_query dry_run'],
  ]);
  for (const dry of ['?dry_run=1', '?dry_run=1&dry_run=0', '?dry%5frun=%31', '?x#y&dry_run=1', '??dry_run=1']) {
    const connection = new Connection();
    connection.socket.write(of(dry));
    assert.deepEqual((await connection.exchange(1)).answers, ['204'], dry);
    connection.socket.destroy();
    await assertServed(dry.includes('#') || dry.startsWith('??') ? 1 : 0, dry);
  }
});

test('accepts an absolute target, whatever its host', async () => {
  const of = (target: string) => request({ line: `POST ${target} HTTP/1.1` });
  await assertAnswers([
    ['the same', of(`http://x${CHECK_IN_PATH}`), '204'],
    ['another', of(`http://evil.example${CHECK_IN_PATH}`), '204'],
    ['with a user and a port', of(`http://a:b@x:1${CHECK_IN_PATH}`), '204'],
    ['another scheme', of(`https://x${CHECK_IN_PATH}`), '204'],
    ['no path', of('http://x'), '404 not_found'],
    ['a path in the query', of(`http://x/?${CHECK_IN_PATH}`), '404 not_found'],
    // The host becomes a part of the URL, and so of the route; the credentials still decide.
    ['a path in the host', request({ line: 'POST /y HTTP/1.1', host: `host: x${CHECK_IN_PATH}?\r\n` }), '204'],
    ['an invalid host', request({ host: 'host: [::\r\n' }), '204'],
    ['two hosts', request({ more: 'host: y\r\n' }), '204'],
  ]);
});

test('workerd itself answers 400 to invalid targets and versions', async () => {
  const of = (line: string) => request({ line });
  await assertAnswers([
    ['a scheme without a host', of(`POST http://${CHECK_IN_PATH} HTTP/1.1`), '400 invalid URI'],
    ['no slash', of(`POST ${CHECK_IN_PATH.slice(1)} HTTP/1.1`), '400 invalid URI'],
    ['none', of('POST  HTTP/1.1'), '400 invalid URI'],
    ['a NUL', of(`POST ${CHECK_IN_PATH}\0 HTTP/1.1`), '400 invalid URI'],
    ['a byte that is not ASCII', of(`POST ${CHECK_IN_PATH}?\xff HTTP/1.1`), '400 invalid URI'],
    ['a tab', of(`POST ${CHECK_IN_PATH}\t HTTP/1.1`), '400 invalid URI'],
    ['a space', of(`POST ${CHECK_IN_PATH} x HTTP/1.1`), '400 invalid HTTP version parsed'],
    ['HTTP/2.0', of(`POST ${CHECK_IN_PATH} HTTP/2.0`), '400 invalid HTTP version parsed'],
    ['no version', `GET ${CHECK_IN_PATH}\r\n\r\n`, '400 invalid URI'],
  ]);
});

test('serves old, cautious and sloppy clients', async () => {
  await assertAnswers([
    ['HTTP/1.0', request({ line: `POST ${CHECK_IN_PATH} HTTP/1.0` }), '204'],
    ['expect: 100-continue', request({ more: 'expect: 100-continue\r\n' }), '204'],
    ['an upgrade', request({ more: 'connection: upgrade\r\nupgrade: websocket\r\n' }), '204'],
    ['empty lines first', bytes('\r\n\r\n', request()), '204'],
    ['line feeds alone', request().toString('latin1').replaceAll('\r\n', '\n'), '204'],
  ]);
});

test('at the end, exactly the accepted check-ins are stored, and the Worker never failed', async () => {
  await delay(200); // for late points of broken connections
  const { last } = await read(workerd.store, '?limit=1');
  assert.equal(last, accepted);
  assert.doesNotMatch(workerd.log(), /panicked|RuntimeError|"status":5/);
});
