/** Finds all descendants that a test has started, by a mark in their environment. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

const DEADLINE_MS = 60_000;

/** `tools/reap` finds processes by this variable: pass it on when a process gets its own environment. */
export const RUN: Readonly<Record<string, string>> =
  process.env.KILOCLAW_RUN === undefined ? {} : { KILOCLAW_RUN: process.env.KILOCLAW_RUN };

export class Mark {
  readonly #value = randomUUID();

  /** Pass this to every process that the test starts. */
  get env(): Readonly<Record<string, string>> {
    return { TEST_MARK: this.#value };
  }

  /** Command lines of the running processes, by PID. */
  get running(): ReadonlyMap<number, string> {
    const found = new Map<number, string>();
    for (const name of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        const read = (file: string) => readFileSync(`/proc/${name}/${file}`, 'utf8');
        const environment = read('environ').split('\0');
        if (!environment.includes(`TEST_MARK=${this.#value}`)) continue;
        found.set(Number(name), read('cmdline').replaceAll('\0', ' ').trim());
      } catch {
        // The process has ended, or belongs to another user.
      }
    }
    return found;
  }

  /** Waits for a process whose command line matches; returns its PID. */
  async started(commandLine: RegExp): Promise<number> {
    const deadline = Date.now() + DEADLINE_MS;
    for (;;) {
      for (const [pid, line] of this.running) if (commandLine.test(line)) return pid;
      assert.ok(Date.now() < deadline, `${commandLine} is started`);
      await delay(50);
    }
  }

  /** Waits until all have ended. */
  async gone(): Promise<void> {
    const deadline = Date.now() + DEADLINE_MS;
    for (;;) {
      const left = [...this.running.values()];
      if (left.length === 0) return;
      assert.ok(Date.now() < deadline, `still running: ${left.join('; ')}`);
      await delay(50);
    }
  }
}
