/** Valid contents and sizes of a body. */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { test } from 'node:test';

import { CHECK_IN_PATH, credentials, FULL, MAX_BODY_BYTES, MINIMAL, SANDBOX_ID } from '../harness/check-in.ts';
import { refusal, startWorker } from '../harness/worker.ts';

const worker = await startWorker();

/** The upper bound of each number. */
const HIGHEST = {
  totalRestarts: 1e9,
  restartsSinceLastCheckin: 1e9,
  uptimeSeconds: 4e9,
  loadAvg5m: 2 ** 22,
  bandwidthBytesIn: 2 ** 53,
  bandwidthBytesOut: 2 ** 53,
} as const;
const NUMBERS = Object.keys(HIGHEST) as (keyof typeof HIGHEST)[];
const NON_EMPTY = ['controllerVersion', 'controllerCommit', 'supervisorState'] as const;
const NULLABLE = ['openclawVersion', 'openclawCommit'] as const;
const OPTIONAL = ['machineId', 'lastExitReason'] as const;

/** Asserts that a body is refused for this field, whose JSON is `raw`; `undefined` leaves the field out. */
async function assertFieldRefused(field: string, raw: string | undefined) {
  const fields = { ...FULL, [field]: undefined };
  const json = JSON.stringify(fields).replace(/\}$/, raw === undefined ? '}' : `,"${field}":${raw}}`);
  // With an invalid sandboxId the token is wrong, too, but the body is checked first.
  const response = await worker.checkIn(json);
  const { expected, ...rest } = await refusal(response);
  assert.deepEqual(
    { status: response.status, ...rest },
    { status: 400, error: 'Invalid body', code: 'invalid_field', field },
    raw,
  );
  assert.ok(expected !== undefined && expected.length > 0);
}

async function assertAccepted(change: Record<string, unknown>) {
  const response = await worker.checkIn({ ...FULL, ...change });
  assert.equal(response.status, 204, await response.text());
}

test('refuses a body without a required field', async () => {
  for (const field of Object.keys(FULL)) {
    if ((OPTIONAL as readonly string[]).includes(field)) {
      await assertAccepted({ [field]: undefined });
    } else {
      await assertFieldRefused(field, undefined);
    }
  }
});

test('accepts null only in nullable fields', async () => {
  for (const field of Object.keys(FULL)) {
    if ((NULLABLE as readonly string[]).includes(field)) await assertAccepted({ [field]: null });
    else await assertFieldRefused(field, 'null');
  }
});

test('refuses a wrong type, even if it could be converted', async () => {
  for (const [field, value] of Object.entries(FULL)) {
    const wrong = typeof value === 'string' ? ['1', 'true', '["x"]'] : ['"1"', 'true', '[1]'];
    for (const raw of [...wrong, '{}']) await assertFieldRefused(field, raw);
  }
});

test('refuses numbers outside their bounds', async () => {
  for (const field of NUMBERS) {
    const highest = HIGHEST[field];
    for (const raw of ['-1', '-0.001', '-1e-300', '1e999', '-1e999', '1e308', `${highest * 1.001}`]) {
      await assertFieldRefused(field, raw);
    }
    for (const value of [0, 0.5, highest]) await assertAccepted({ [field]: value });
  }
});

test('refuses control characters in identifiers', async () => {
  const texts = ['a\0', '\x1b[31m', 'a\r\nb', '\x7f', '\x9b', '\u202ea', '\u2066', '\u2028'];
  for (const field of ['sandboxId', ...NON_EMPTY, ...NULLABLE, 'machineId']) {
    for (const text of texts) await assertFieldRefused(field, JSON.stringify(text));
    await assertAccepted({ [field]: '<b>👩\u200d💻</b> \'"\\' });
  }
  for (const text of texts) await assertAccepted({ lastExitReason: text });
});

test('measures strings in UTF-8 bytes', async () => {
  await assertAccepted({ sandboxId: 'é'.repeat(48) });
  await assertFieldRefused('sandboxId', JSON.stringify('é'.repeat(48) + 'x'));
  await assertFieldRefused('sandboxId', '""');
  for (const field of [...NON_EMPTY, ...NULLABLE, ...OPTIONAL]) {
    await assertAccepted({ [field]: 'é'.repeat(512) });
    await assertFieldRefused(field, JSON.stringify('é'.repeat(512) + 'x'));
  }
  for (const field of NON_EMPTY) await assertFieldRefused(field, '""');
  for (const field of [...NULLABLE, ...OPTIONAL]) await assertAccepted({ [field]: '' });
});

test('ignores unknown fields', async () => {
  await assertAccepted({ diskBytesFree: 1, nested: { deep: [[null]] }, SandboxId: 7, '': '' });
});

test('refuses a body that is not a JSON object in UTF-8', async () => {
  const code = async (body: string | Uint8Array<ArrayBuffer>) => {
    const response = await worker.checkIn(body);
    assert.equal(response.status, 400);
    const { error, code } = await refusal(response);
    assert.equal(error, 'Invalid body');
    return code;
  };
  for (const body of ['', ' ', '{', 'undefined', `${JSON.stringify(FULL)}x`]) {
    assert.equal(await code(body), 'not_json', body);
  }
  for (const body of ['[]', '[{}]', 'null', '1', '"x"']) {
    assert.equal(await code(body), 'not_an_object', body);
  }
  const json = new TextEncoder().encode(JSON.stringify({ ...FULL, unknown: 'x' }));
  json[json.length - 3] = 0xff;
  assert.equal(await code(json), 'not_json');
});

/** A valid body, padded to `bytes`. */
const ofSize = (bytes: number) => {
  const padded = (padding: string) => JSON.stringify({ ...FULL, padding });
  return padded('x'.repeat(bytes - padded('').length));
};

const stream = (body: string) =>
  new ReadableStream({
    start(controller) {
      for (let at = 0; at < body.length; at += 5_000) {
        controller.enqueue(new TextEncoder().encode(body.slice(at, at + 5_000)));
      }
      controller.close();
    },
  });

test('accepts 64 KiB and not a byte more, with and without content-length', async () => {
  for (const [bytes, status] of [[MAX_BODY_BYTES, 204], [MAX_BODY_BYTES + 1, 413]] as const) {
    const body = ofSize(bytes);
    assert.equal(new TextEncoder().encode(body).length, bytes);
    for (const response of [await worker.checkIn(body), await worker.checkIn(stream(body))]) {
      assert.equal(response.status, status, `${bytes} bytes`);
      if (status === 413) {
        assert.deepEqual(await refusal(response), { error: 'Body too large', code: 'body_too_large' });
      }
    }
  }
  assert.equal((await worker.checkIn(stream(JSON.stringify(FULL)))).status, 204);
});

/** Sends a part of a request, keeps the connection open, and returns the first line of the response. */
function answerToPart(headers: Record<string, string>, part: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(worker.url.port), worker.url.hostname);
    socket.setTimeout(5_000, () => socket.destroy(new Error('no answer to the first part')));
    socket.once('error', reject);
    socket.once('data', (data) => {
      resolve(data.toString().split('\r\n')[0]);
      socket.destroy();
    });
    const lines = Object.entries({ host: worker.url.host, ...credentials(SANDBOX_ID), ...headers });
    socket.write(
      `POST ${CHECK_IN_PATH} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n${part}`,
    );
  });
}

test('refuses a body that is too large before the rest of it arrives', async () => {
  const refused = 'HTTP/1.1 413 Payload Too Large';
  assert.equal(await answerToPart({ 'content-length': '1000000000' }, '{'), refused);
  const chunk = 'x'.repeat(MAX_BODY_BYTES + 1);
  const chunked = `${chunk.length.toString(16)}\r\n${chunk}\r\n`;
  assert.equal(await answerToPart({ 'transfer-encoding': 'chunked' }, chunked), refused);
});

test('refuses a wrong key before the body arrives', async () => {
  const headers = { authorization: 'Bearer wrong', 'content-length': '100' };
  assert.equal(await answerToPart(headers, ''), 'HTTP/1.1 403 Forbidden');
});

test('does not require a content-type', async () => {
  for (const type of [undefined, 'text/plain', 'application/x-www-form-urlencoded']) {
    assert.equal((await worker.checkIn(MINIMAL, { 'content-type': type })).status, 204);
  }
});
