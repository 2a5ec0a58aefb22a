/** When `npm start` or `npm run dev` ends in any way, no process and no port stays. Neither runs twice. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { test, type TestContext } from 'node:test';

import { freePort } from '../../local-ae/support/port.js';
import { until } from '../support/until.ts';
import { Mark } from '../../harness/processes.ts';

const [WORKER, STORE] = [await freePort(), await freePort()];

async function listens(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  const open = await once(socket, 'connect').then(() => true, () => false);
  socket.destroy();
  return open;
}

/** Runs an npm script and waits until the Worker is ready. */
async function start(t: TestContext, script: string) {
  const mark = new Mark();
  const ports = [`--port=${WORKER}`, `--store-port=${STORE}`];
  const npm = spawn('npm', ['run', script, '--', ...ports], {
    env: { ...process.env, ...mark.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [npm.stdout, npm.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  }
  t.after(() => {
    for (const pid of mark.running.keys()) process.kill(pid, 'SIGKILL');
  });
  const ready = script === 'start' ? /^data point/m : /Ready on/;
  await until(`${script} is ready`, () => ready.test(output), { deadlineMs: 300_000 }).catch((error) => {
    throw new Error(`${(error as Error).message}: ${output}`);
  });
  return { npm, mark, output: () => output };
}

for (const script of ['start', 'dev']) {
  for (const way of ['Ctrl-C', 'SIGTERM', 'SIGHUP', 'SIGKILL', 'SIGKILL to node', 'nobody reads']) {
    test(`npm run ${script} leaves nothing behind after ${way}`, async (t) => {
      const { npm, mark, output } = await start(t, script);
      const [node] = [...mark.running].find(([, line]) => line.startsWith('node tools/start.ts'))!;
      const workerd = [...mark.running.values()].filter((line) => /bin\/workerd serve/.test(line));
      assert.ok(workerd.length > 0);
      if (way === 'nobody reads') {
        npm.stdout.destroy();
        npm.stderr.destroy();
        // A request makes `dev` print a line, which fails.
        await fetch(`http://127.0.0.1:${WORKER}/nowhere`).catch(() => {});
      } else if (way === 'SIGKILL to node') {
        process.kill(node, 'SIGKILL');
      } else if (way === 'Ctrl-C') {
        // A terminal signals both, and npm forwards the signal.
        process.kill(node, 'SIGINT');
        npm.kill('SIGINT');
      } else {
        npm.kill(way as NodeJS.Signals);
      }
      await mark.gone();
      if (script === 'start' && ['Ctrl-C', 'SIGTERM'].includes(way)) {
        // The Worker still ran for the agent's last check-in.
        const inOrder = /ending on \w+, after a last check-in[^]*POST \/api\/controller\/checkin 204/;
        await until('the last check-in is accepted', () => inOrder.test(output()));
      }
      assert.deepEqual([await listens(WORKER), await listens(STORE)], [false, false]);
    });
  }
}

test('a report names the sandbox of this machine', async (t) => {
  const { npm, mark } = await start(t, 'start');
  const { stdout } = spawnSync('npm', ['run', '--silent', 'token', '--', '--sub', 'ops'], { encoding: 'utf8' });
  const headers = { authorization: `Bearer ${stdout.trim()}` };
  const response = await fetch(`http://127.0.0.1:${WORKER}/api/sandboxes`, { headers });
  const { sandboxes } = (await response.json()) as { sandboxes: { sandboxId: string }[] };
  assert.match(sandboxes[0]!.sandboxId, /^local-/);
  npm.kill('SIGTERM');
  await mark.gone();
});

test('refuses a second start in the same folder, and the first one keeps running', async (t) => {
  const { npm, mark } = await start(t, 'start');
  for (const script of ['start', 'dev']) {
    const second = spawnSync('npm', ['run', script], { encoding: 'utf8' });
    assert.equal(second.status, 1);
    assert.match(second.stderr, /^start: error: .* already runs in this folder: stop it first$/m);
  }
  assert.equal((await fetch(`http://127.0.0.1:${WORKER}/health`)).status, 200);
  npm.kill('SIGTERM');
  await mark.gone();
});

test('counts a seeded fleet instead of printing it point by point', async (t) => {
  const { npm, mark, output } = await start(t, 'start');
  const seeded = spawnSync('npm', ['run', 'seed'], { encoding: 'utf8' });
  // Neither port is the usual one.
  assert.match(seeded.stderr, new RegExp(`check-ins of 100 sandboxes over 24 h to http://127.0.0.1:${STORE}`));
  assert.match(seeded.stderr, new RegExp(`http://127.0.0.1:${WORKER}/api/`));
  const [, count] = /seed: wrote ([\d,]+) check-ins/.exec(seeded.stderr)!;
  const least = Number(count!.replaceAll(',', ''));
  const counted = /([\d,]+) data points arrived at once/g;
  const sum = () => [...output().matchAll(counted)].reduce((sum, [, n]) => sum + Number(n!.replaceAll(',', '')), 0);
  await until(`${count} points are counted`, () => sum() >= least, { deadlineMs: 60_000 });
  assert.ok(output().split('\n').length < 500, 'few lines');
  // For a known sandbox, only the changed fields are printed.
  await until('a short one', () => /^data point .*fields as before\n  uptimeSeconds/m.test(output()), { deadlineMs: 60_000 });
  assert.equal(spawnSync('npm', ['run', 'seed', '--', '--clear']).status, 0);
  npm.kill('SIGTERM');
  await mark.gone();
});
