/**
 * `npm run bench`: measures the Worker beside an idiomatic TypeScript Worker, a hand-written one and a lower
 * bound, and the agent beside other collectors.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { join } from 'node:path';
import { parseArgs, styleText } from 'node:util';

import { command, Failure, outputOf } from '../harness/command.ts';
import { temporaryFolder, withContext } from '../harness/context.ts';
import { agentSection, FULL as AGENT_FULL, HEADING, QUICK as AGENT_QUICK } from './agent.ts';
import { conforms, EXPECTED } from './conformance.ts';
import { localAeSection } from './local-ae.ts';
import { coldStart, resident, round, Samples, size, type Plan } from './measure.ts';
import { nativeSection } from './native.ts';
import { operatorsSection } from './operators.ts';
import { comparison, page, results, targets } from './report.ts';
import { ended, start, stopAll, type Site, type Variant } from './workerd.ts';

const HELP = `Usage: npm run bench [-- OPTIONS]

Builds the Worker and its peers, checks that all of them keep the contract, and measures them side by
side, each in its own workerd. Then measures the agent beside other collectors, and writes
bench/results.md. Takes about 18 minutes in which the machine should do nothing else. Needs wrk;
installs it where there is apt-get. Unpacks the agent's Debian peers into .tools/peers.

Options:
  --only PART  measure only the worker, or only the agent, and write only that part
  --quick      shorter and less exact: under 3 minutes; only prints, writes nothing
  --write      write bench/results.md with --quick, too
  --no-build   measure the existing build
  --before DIR also measure another build of the Worker, the build/ folder of another commit; prints
               the ratio of each figure to that of the other build, and writes nothing
  -h, --help   print this help
`;

const FULL: Plan = {
  rounds: 7,
  seconds: 3,
  calls: 40_000,
  coldStarts: 21,
  residents: 3,
  checkIns: 100_000,
};
const QUICK: Plan = {
  rounds: 3,
  seconds: 1,
  calls: 10_000,
  coldStarts: 5,
  residents: 1,
  checkIns: 10_000,
};

const RESULTS = 'bench/results.md';
/** The rest of the file is copied by hand from the output of page.ts. */
const PAGE_HEADING = '\n## The page\n';

/** The variant name of the build that `--before` gives. */
const BEFORE = 'before';

/** The variants beside the Worker, in the order of the table's columns. */
const PEERS = ['typescript.ts', 'javascript.js', 'floor.js'];

const say = (text: string) => console.log(`${styleText('dim', 'bench:')} ${text}`);

function options() {
  try {
    const { values } = parseArgs({
      options: {
        only: { type: 'string' },
        quick: { type: 'boolean', default: false },
        write: { type: 'boolean', default: false },
        'no-build': { type: 'boolean', default: false },
        before: { type: 'string' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    if (![undefined, 'worker', 'agent'].includes(values.only)) {
      throw new Error(`--only takes worker or agent, not '${values.only}'`);
    }
    return values;
  } catch (error) {
    throw new Failure(`${(error as Error).message}\n\n${HELP}`);
  }
}

function ensureWrk(): void {
  const missing = () => spawnSync('wrk', ['--version']).error !== undefined;
  if (!missing()) return;
  say('installing the load generator: wrk, from Debian');
  const sudo = process.getuid?.() === 0 ? [] : ['sudo'];
  for (const args of [['update', '-qq'], ['install', '-y', '-qq', '--no-install-recommends', 'wrk']]) {
    const [command, ...rest] = [...sudo, 'apt-get', ...args];
    spawnSync(command, rest, {
      stdio: ['inherit', 'ignore', 'inherit'],
      // apt's own user has no access to our temporary folder.
      env: { ...process.env, TMPDIR: undefined, DEBIAN_FRONTEND: 'noninteractive' },
    });
  }
  if (missing()) throw new Failure('wrk is missing: please install it (https://github.com/wg/wrk)');
}

/** A core for the server and one for the load generator, if there are two. */
function cores(): Pick<Site, 'serverCore' | 'loadCore'> {
  const list = /^Cpus_allowed_list:\s+(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '';
  const allowed = list.split(',').flatMap((range) => {
    const [first, last = first] = range.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
  const taskset = spawnSync('taskset', ['--version']).error === undefined;
  if (!taskset || allowed.length < 2) {
    say('server and load generator share a core: ignore throughput and latency');
    return {};
  }
  return { serverCore: allowed[0], loadCore: allowed[1] };
}

async function buildAll(): Promise<void> {
  say('building the Worker and the local Analytics Engine');
  const command = 'tools/setup';
  for (const args of [['node', 'tools/worker.ts'], ['tools/engine']]) {
    const child = start(command, ['--wasm', ...args], ['ignore', 'ignore', 'inherit']);
    if ((await ended(child, command)) !== 0) throw new Failure(`${args[0]} failed: see above`);
  }
}

/** Copies all variants into `folder`, one folder each, so that no rebuild changes them during the run. */
function collect(folder: string, before: string | undefined): Variant[] {
  const worker = (name: string, build: string, hint: string): Variant => {
    const variant = { name, folder: join(folder, name), wasm: true };
    mkdirSync(variant.folder);
    for (const file of ['index.js', 'index_bg.wasm']) {
      if (!existsSync(`${build}/${file}`)) throw new Failure(`${build}/${file} is missing: ${hint}`);
      cpSync(`${build}/${file}`, join(variant.folder, file));
    }
    return variant;
  };
  const workers = [worker('rust', 'build', 'leave out --no-build')];
  if (before !== undefined) workers.push(worker(BEFORE, before, '--before takes a folder with a build'));
  const peers = PEERS.map((file) => {
    const name = file.split('.')[0];
    const variant = { name, folder: join(folder, name), wasm: false };
    const outfile = join(variant.folder, 'index.js');
    const args = [`bench/peers/${file}`, '--bundle', '--minify', '--format=esm', '--target=esnext'];
    outputOf('node_modules/.bin/esbuild', [...args, `--outfile=${outfile}`, '--log-level=warning']);
    return variant;
  });
  for (const file of ['dataset.js', 'driver.js']) cpSync(`bench/${file}`, join(folder, file));
  return [...workers, ...peers];
}

const output = (command: string, ...args: string[]) => outputOf(command, args).trim();

function circumstances() {
  const changed = output('git', 'status', '--porcelain') === '' ? '' : ', with changes';
  const args = process.argv.slice(2);
  return {
    Date: new Date().toISOString().slice(0, 10),
    Commit: `${output('git', 'rev-parse', '--short=12', 'HEAD')}${changed}`,
    Command: `\`npm run bench${args.length === 0 ? '' : ` -- ${args.join(' ')}`}\``,
    CPU: `${cpus()[0].model}, ${availableParallelism()} cores`,
  };
}

function facts(): Record<string, string> {
  const version = (name: string) => {
    const text = readFileSync(`node_modules/${name}/package.json`, 'utf8');
    return (JSON.parse(text) as { version: string }).version;
  };
  const { CPU, ...run } = circumstances();
  return {
    ...run,
    workerd: version('workerd'),
    Node: process.version.slice(1),
    rustc: output('tools/setup', '--wasm', 'rustc', '--version').split(' ')[1],
    Hono: version('hono'),
    zod: version('zod'),
    CPU,
  };
}

async function measure(site: Site, variants: readonly Variant[], plan: Plan): Promise<Samples> {
  const samples = new Samples();
  for (const variant of variants) samples.add('size', variant.name, size(variant));

  for (let i = 0; i < plan.rounds; i += 1) {
    say(`round ${i + 1} of ${plan.rounds}`);
    // Rotated, so that no variant is always the first.
    const from = i % variants.length;
    const order = [...variants.slice(from), ...variants.slice(0, from)];
    await round(site, order, plan, samples);
  }
  say(`cold starts, ${plan.coldStarts} each`);
  for (let i = 0; i < plan.coldStarts; i += 1) {
    for (const variant of variants) {
      samples.add('coldStart', variant.name, await coldStart(site, variant));
    }
  }
  say(`memory after ${plan.checkIns.toLocaleString('en')} check-ins`);
  for (let i = 0; i < plan.residents; i += 1) {
    for (const variant of variants) {
      samples.add('resident', variant.name, await resident(site, variant, plan.checkIns));
    }
  }
  return samples;
}

/** Measures the Worker and its peers; returns their part of the page, or '' if nothing is written. */
async function worker(
  folder: string,
  { build, quick, write, before }: { build: boolean; quick: boolean; write: boolean; before?: string },
): Promise<string> {
  ensureWrk();
  if (build) await buildAll();
  const variants = collect(folder, before);
  const site: Site = { folder, expected: EXPECTED, ...cores() };

  for (const variant of variants.filter(({ name }) => !['floor', BEFORE].includes(name))) {
    const count = await conforms(site, variant, variant.name !== 'javascript');
    say(`${variant.name} keeps the contract: all ${count} answers are correct`);
  }
  const samples = await measure(site, variants, quick ? QUICK : FULL);

  const shown = {
    facts: facts(),
    results: results(samples, variants.map(({ name }) => name)),
    targets: targets(samples),
  };
  console.log(`\n${shown.results}\n\n${shown.targets}\n`);
  if (before !== undefined) console.log(`${comparison(samples, 'rust', BEFORE)}\n`);
  if (!write) return '';
  say('the contract crate, natively');
  const native = await nativeSection();
  say('the local Analytics Engine, with a million points');
  const localAe = await localAeSection();
  return page({ ...shown, native, localAe, operators: await operatorsSection() });
}

async function main(folder: string): Promise<void> {
  const { only, help, quick, write: always, 'no-build': noBuild, before } = options();
  if (help) return void console.log(HELP);
  process.chdir(new URL('..', import.meta.url).pathname);

  const [busy] = loadavg();
  if (busy > 0.5) say(`the machine is busy (load ${busy.toFixed(1)}): the figures will be rough`);
  const [build, write] = [!noBuild, (!quick || always) && before === undefined];
  // Keeps the parts that are not measured.
  const file = readFileSync(RESULTS, 'utf8');
  const pageAt = file.includes(PAGE_HEADING) ? file.indexOf(PAGE_HEADING) : file.length;
  const [written, pagePart] = [file.slice(0, pageAt), file.slice(pageAt)];
  const border = written.includes(`\n${HEADING}\n`) ? written.indexOf(`\n${HEADING}\n`) : written.length;
  let [workerPart, agentPart] = [written.slice(0, border), written.slice(border + 1)];

  if (only !== 'agent') workerPart = await worker(folder, { build, quick, write, before });
  if (only !== 'worker') {
    agentPart = await agentSection(quick ? AGENT_QUICK : AGENT_FULL, { build, facts: circumstances() }, say);
    console.log(`\n${agentPart}`);
  }
  if (!write) return;
  writeFileSync(RESULTS, `${workerPart}\n${agentPart}${pagePart}`);
  say(`wrote ${RESULTS}`);
}

process.once('exit', stopAll);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => process.exit(130));
}
await command('bench', () => withContext((context) => main(temporaryFolder(context))));
