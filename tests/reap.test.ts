/** When a command ends in any way, all processes that it started end, too, and its temporary files are removed. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';

import { Mark } from '../harness/processes.ts';

// Starts a grandchild in its own session that ignores signals; prints the folder once it runs.
const COMMAND = `
  setsid sh -c 'trap "" HUP INT TERM; : >"$TMPDIR/file"; sleep 601 & sleep 602' &
  until [ -e "$TMPDIR/file" ]; do sleep 0.05; done
  echo "$TMPDIR"
  while echo alive; do sleep 0.1; done; wait`;
const INNER = ['tools/setup', '--node', 'bash', '-c', COMMAND, 'command'];

/** Ways to end a command. Its parent plays the role of npm. */
const WAYS = {
  'by itself': (_parent: number, command: number) => process.kill(command, 'SIGUSR1'),
  'SIGTERM to it': (_parent: number, command: number) => process.kill(command, 'SIGTERM'),
  'SIGHUP to it': (_parent: number, command: number) => process.kill(command, 'SIGHUP'),
  'SIGKILL to it': (_parent: number, command: number) => process.kill(command, 'SIGKILL'),
  'SIGKILL to its parent': (parent: number) => process.kill(parent, 'SIGKILL'),
  'nobody reads what it prints': (_parent: number, _command: number, close: () => void) => close(),
};

describe('nothing outlives a command', { concurrency: true }, () => {
  for (const [way, end] of Object.entries(WAYS)) {
    for (const nested of [false, true]) {
      test(`${way}${nested ? ', within another run' : ''}`, async (t) => {
        const mark = new Mark();
        const outer = mkdtempSync(path.join(tmpdir(), 'reap-'));
        t.after(() => rmSync(outer, { recursive: true, force: true }));
        // A parent that waits, as npm does.
        const waits = ['sh', '-c', '"$@"; exit', 'parent', ...INNER];
        const [program, ...args] = nested ? ['tools/setup', '--node', ...waits] : waits;
        const parent = spawn(program!, args, {
          env: { ...process.env, ...mark.env, TMPDIR: outer },
          stdio: ['ignore', 'pipe', 'inherit'],
        });
        t.after(() => {
          for (const pid of mark.running.keys()) process.kill(pid, 'SIGKILL');
        });
        const [line] = (await once(parent.stdout!.setEncoding('utf8'), 'data')) as [string];
        const folder = line.split('\n')[0]!;
        assert.ok(existsSync(path.join(folder, 'file')), folder);
        await mark.started(/^sleep 601$/);
        const command = await mark.started(/^bash -c .* command$/s);
        end(parent.pid!, command, () => parent.stdout!.destroy());
        await mark.gone();
        assert.ok(!existsSync(folder), folder);
      });
    }
  }
});

test('leaves processes of other runs alone', async (t) => {
  const other = new Mark();
  const child = spawn('sleep', ['600'], { env: { ...process.env, ...other.env } });
  t.after(() => child.kill());
  await other.started(/^sleep 600$/);
  const mark = new Mark();
  const env = { ...process.env, ...mark.env };
  await once(spawn('tools/setup', ['--node', 'true'], { env, stdio: 'inherit' }), 'exit');
  await mark.gone();
  assert.deepEqual([...other.running.values()], ['sleep 600']);
});

test('npm runs each command directly, not through a shell, which would not forward signals', () => {
  const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> };
  for (const [name, script] of Object.entries(scripts)) assert.match(script, /^exec tools\/setup /, name);
});
