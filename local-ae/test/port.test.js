import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { promisify } from 'node:util';

import { freePort } from '../support/port.js';

const url = new URL('../support/port.js', import.meta.url).href;
const evaluate = (/** @type {string} */ expression) => {
  const script = `const { freePort } = await import('${url}'); console.log(JSON.stringify(${expression}))`;
  return promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script]);
};

test('two processes never get the same port, even if neither listens on it', async () => {
  const port = await freePort();
  // The kernel does not assign ports outside its range to other programs.
  const range = await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8');
  const [lowest, highest] = range.trim().split(/\s+/).map(Number);
  assert.ok(port < lowest || port > highest, `${port}`);
  const { stdout } = await evaluate(`[await freePort(${port}), await freePort(${port})]`);
  const [first, second] = JSON.parse(stdout);
  assert.equal(new Set([port, first, second]).size, 3, stdout);
  // The other process has ended and released its ports.
  assert.equal(await freePort(first), first);
});
