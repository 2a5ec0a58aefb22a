/** The code in docs/alerts.md that verifies a message. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { Webhook } from 'standardwebhooks';

const documentation = readFileSync('docs/alerts.md', 'utf8');
const block = (language: string) => new RegExp(`\`\`\`${language}\n(.*?)\`\`\``, 's').exec(documentation)![1]!;

const SECRET = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;
const OTHER = `whsec_${Buffer.alloc(32, 8).toString('base64')}`;
const BODY = '{"type":"sandbox.silent","data":{"summary":"ü"}}';

/** Headers as the Worker sends them; during a rotation with two signatures. */
function headers(secrets: readonly string[], at = new Date()): Record<string, string> {
  const signatures = secrets.map((secret) => new Webhook(secret).sign('msg_1', at, BODY));
  return {
    'webhook-id': 'msg_1',
    'webhook-timestamp': String(Math.floor(at.getTime() / 1_000)),
    'webhook-signature': signatures.join(' '),
  };
}

const CASES: readonly [headers: Record<string, string>, body: string, valid: boolean][] = [
  [headers([SECRET]), BODY, true],
  [headers([OTHER, SECRET]), BODY, true],
  [headers([OTHER]), BODY, false],
  [headers([SECRET]), BODY.replace('silent', 'clone'), false],
  [headers([SECRET], new Date(Date.now() - 600_000)), BODY, false],
  [{ ...headers([SECRET]), 'webhook-signature': 'v1,' }, BODY, false],
];

test('the receiver in Node.js accepts signed messages only', async () => {
  const source = `data:text/javascript,${encodeURIComponent(block('js'))}`;
  const { verify } = (await import(source)) as {
    verify(secret: string, headers: Record<string, string>, body: string): boolean;
  };
  for (const [sent, body, valid] of CASES) assert.equal(verify(SECRET, sent, body), valid, JSON.stringify(sent));
});

test('the receiver in Python accepts signed messages only', () => {
  const program = `import json, sys\n${block('python')}
for sent, body, valid in json.load(sys.stdin):
    assert verify(${JSON.stringify(SECRET)}, sent, body.encode()) == valid, sent
`;
  const { status, stderr } = spawnSync('python3', ['-c', program], { input: JSON.stringify(CASES), encoding: 'utf8' });
  assert.equal(status, 0, stderr);
});
