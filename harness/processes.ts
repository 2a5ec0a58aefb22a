/** The processes that a test has started, however far removed: by a mark in their environment. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

const DEADLINE_MS = 60_000;

/** By this, `tools/reap` finds what is started with an environment of its own. */
export const RUN: Readonly<Record<string, string>> =
  process.env.KILOCLAW_RUN === undefined ? {} : { KILOCLAW_RUN: process.env.KILOCLAW_RUN };

export class Mark {
  readonly #value = randomUUID();

  /** To be given to what is started. */
  get env(): Readonly<Record<string, string>> {
    return { TEST_MARK: this.#value };
  }

  /** The command lines of what runs, by its id. */
  get running(): ReadonlyMap<number, string> {
    const found = new Map<number, string>();
    for (const name of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        const read = (file: string) => readFileSync(`/proc/${name}/${file}`, 'utf8');
        const environment = read('environ').split('\0');
        if (!environment.includes(`TEST_MARK=${this.#value}`)) continue;
        found.set(Number(name), read('cmdline').replaceAll('\0', ' ').trim());
      } catch {
        // It has ended, or is another user's.
      }
    }
    return found;
  }

  /** Waits for a process with such a command line. */
  async started(commandLine: RegExp): Promise<number> {
    const deadline = Date.now() + DEADLINE_MS;
    for (;;) {
      for (const [pid, line] of this.running) if (commandLine.test(line)) return pid;
      assert.ok(Date.now() < deadline, `${commandLine} is started`);
      await delay(50);
    }
  }

  /** Waits until none of it runs any more. */
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
