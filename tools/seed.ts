/** `npm run seed`: fills the local Analytics Engine with check-ins of a made-up fleet. */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

import { command, Failure } from '../harness/command.ts';
import { clear, history, problems } from '../harness/made-up-fleet.ts';
import { BATCH, insert } from '../harness/store.ts';
import { RUNNING_FILE, STORE_URL, WORKER_URL, type Running } from './running.ts';

const HELP = `Usage: npm run seed -- [OPTIONS]

Writes check-ins of a made-up fleet into the local Analytics Engine of \`npm start\`. Most sandboxes are healthy, and
a new version is being rolled out. In a fleet of four or more, at least one sandbox is in a crash loop, one is
silent, one was shut down and one is cloned. The same seed makes the same fleet. A run replaces what an earlier run
wrote and touches nothing else.

Options:
  --sandboxes N  number of sandboxes, 1 to 100000 [default: 100]
  --hours N      hours of check-ins, up to now, 1 to 2160 [default: 24]
  --seed N       seed of the random numbers [default: 1]
  --clear        only remove what earlier runs wrote
  --store URL    URL of the local Analytics Engine [default: that of the running \`npm start\`, or
                 ${STORE_URL}]
  -h, --help     print this help

The store keeps 1,000,000 points by default (local-ae/README.md); each sandbox needs 12 per hour.
`;

/** As in the Worker (`MAX_AGE` in src/operators.rs); tests/seed.test.ts compares them. */
const MAX_AGE_SECONDS = 15;

function integer(name: string, text: string, highest: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= 1 && value <= highest)) {
    throw new Failure(`--${name} must be an integer from 1 to ${highest}, not '${text}'`);
  }
  return value;
}

function options() {
  try {
    return parseArgs({
      options: {
        sandboxes: { type: 'string', default: '100' },
        hours: { type: 'string', default: '24' },
        seed: { type: 'string', default: '1' },
        clear: { type: 'boolean', default: false },
        store: { type: 'string' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values;
  } catch (error) {
    throw new Failure(`${(error as Error).message}; see npm run seed -- --help`);
  }
}

/** The URLs of the running `npm start`, or the defaults. */
function running(): Running {
  try {
    return JSON.parse(readFileSync(RUNNING_FILE, 'utf8')) as Running;
  } catch {
    return { worker: WORKER_URL, store: STORE_URL };
  }
}

const say = (text: string) => console.error(`seed: ${text}`);

async function main(): Promise<void> {
  const { help, clear: onlyClear, store: chosen, ...values } = options();
  if (help) return void console.log(HELP);
  const fleet = {
    sandboxes: integer('sandboxes', values.sandboxes, 100_000),
    hours: integer('hours', values.hours, 2_160),
    seed: integer('seed', values.seed, 2 ** 31 - 1),
    now: Date.now(),
  };
  const { worker, store } = { ...running(), ...(chosen === undefined ? {} : { store: chosen }) };
  try {
    await clear(store);
    if (onlyClear) return say(`removed what earlier runs wrote from ${store}`);
    const written = await insert(store, history(fleet), (points) => {
      if (points % (10 * BATCH) === 0) say(`${points.toLocaleString('en')} check-ins so far`);
    });
    const count = written.toLocaleString('en');
    say(`wrote ${count} check-ins of ${fleet.sandboxes} sandboxes over ${fleet.hours} h to ${store}`);
  } catch (error) {
    const reason = (error as Error & { cause?: Error }).cause?.message ?? (error as Error).message;
    throw new Failure(`cannot write to ${store}: ${reason}; is \`npm start\` running?`);
  }
  const wrong = problems(fleet);
  if (wrong.length > 0) say(`among them: ${wrong.join('; ')}`);
  say('these sandboxes send nothing more and soon count as silent; run this again for a fleet that reports');
  say(`to see the fleet and its incidents (the Worker caches each report for ${MAX_AGE_SECONDS} s):

for report in fleet incidents; do
  curl -w '\\n' -H "authorization: Bearer $(npm run --silent token -- --sub me)" ${worker}/api/$report
done
`);
  say('to remove these check-ins: npm run seed -- --clear');
}

if (import.meta.main) await command('seed', main);
