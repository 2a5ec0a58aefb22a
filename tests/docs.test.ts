/**
 * `npm run docs:check`: the commands of every README and of docs/. This file runs a command, or names the test that runs
 * it, or the command has a mark: ☁ needs an account in the cloud, 🖥 needs a machine. For marked commands, and for a few
 * that take minutes, this file compares subcommands and options with the program's help.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';

import { AGENT } from '../harness/agent.ts';
import manifest from '../package.json' with { type: 'json' };

const MARK = /#.*[☁🖥]/u;

/** Documents whose unmarked commands are run here, in order, in a folder with a release and Node's packages. */
const RUN = ['README.md', 'docs/deploy.md', 'docs/release/worker.md', 'docs/queries.md', 'docs/security.md'];

/** Commands that take minutes or need another compiler: only their scripts and options are compared. */
const LONG = /^npm run (bench|load|deb|test:(faults|api|oracle))\b|^cargo (build|run|install|\+nightly)\b|^for target in \$\(cargo|target\/release\/kiloclaw-agent run/;

/** Commands that something else runs: a test, or CI itself. */
const TESTED: readonly (readonly [command: RegExp, by: string])[] = [
  [/^npm (start|test)$/, '.ci/run'],
  [/^npm (install|run dev)$/, 'tools/try-release.ts'],
  [/^npm run release\b/, '.github/workflows/release.yml'],
  [/^tools\/setup\b/, 'tools/test'],
  [/kiloclaw-agent (away|back)\b/, 'agent/tests/absence.rs'],
  [/kiloclaw-agent (run|watch)\b/, 'tests/daemon.test.ts'],
  [/^systemd-analyze security/, 'agent/packaging/test'],
  [/^(mkdir -p points|workerd serve)\b/, 'local-ae/test/workerd.test.js'],
  // That test runs the commands of local-ae's README in an empty folder.
  [/^npm install --save-dev local-ae|^npx (local-ae|tsc|wrangler types)\b|^curl http:\/\/localhost:8787\/$/, 'local-ae/test/package.test.js'],
  [/^aesql (check|query)\b/, 'local-ae/aesql/tests/cli.rs'],
  [/^curl .*127\.0\.0\.1:9310\/client\//s, 'tests/sql.test.ts'],
  [/^curl .*127\.0\.0\.1:9310\/points/s, 'local-ae/test/ingest.test.js'],
  // The contract's example: with the secrets of `npm start`.
  [/^\. \.\/\.dev\.vars$|^token=\$\(printf|^curl -i http:\/\/127\.0\.0\.1:8787\/api\/controller\/checkin/, 'tests/gate.test.ts'],
  [/^token=\$\(JWT_SECRET=/, 'tests/operators.test.ts'],
  [/^export AE_API=/, 'tests/grafana.test.ts'],
];

interface Command {
  readonly file: string;
  readonly line: number;
  readonly text: string;
}

/** The commands in shell blocks: a line with its continuation lines; a loop is one command. */
function commandsOf(file: string): Command[] {
  const found: Command[] = [];
  let inBlock = false;
  let text = '';
  let start = 0;
  for (const [index, raw] of readFileSync(file, 'utf8').split('\n').entries()) {
    const line = raw.trim();
    if (line.startsWith('```')) {
      inBlock = /^```(sh|bash)$/.test(line);
      continue;
    }
    if (!inBlock || (line === '' && text === '')) continue;
    if (text === '') start = index + 1;
    text += `${text === '' ? '' : '\n'}${line}`;
    const quotes = text.replaceAll(/\\'/g, '').split("'").length - 1;
    const isLoop = /^for /.test(text) && !/(^|[\n;] ?)done\b/.test(text);
    if (/(\\|&&|\|)$/.test(line) || isLoop || (quotes % 2 === 1 && /-d '/.test(text))) continue;
    found.push({ file, line: start, text });
    text = '';
  }
  return found;
}

const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '*.md'], { encoding: 'utf8' })
  .trim()
  .split('\n')
  .filter((file) => /(^|\/)README\.md$|^docs\/|^CONTRIBUTING\.md$/.test(file));
const commands = files.flatMap(commandsOf);
const at = ({ file, line, text }: Command) => `${file}:${line}: ${text}`;

const work = mkdtempSync(path.join(tmpdir(), 'kiloclaw-docs-'));
after(() => rmSync(work, { recursive: true, force: true }));

test('every command is run, or tested elsewhere, or marked', () => {
  assert.ok(files.length > 10 && commands.length > 80, `${files.length} files, ${commands.length} commands`);
  const stray = commands.filter(
    (one) => !MARK.test(one.text) && !RUN.includes(one.file) && !LONG.test(one.text) && !TESTED.some(([command]) => command.test(one.text)),
  );
  assert.deepEqual(stray.map(at), []);
  for (const [command, by] of TESTED) {
    assert.ok(existsSync(by), by);
    assert.ok(commands.some(({ text }) => command.test(text)), `no document has ${command}`);
  }
});

test('commands that need the cloud are marked', () => {
  for (const one of commands) {
    if (/wrangler (login|secret|tail|rollback|delete|versions)|https:\/\/<your worker>|api\.cloudflare\.com/.test(one.text) && !/^export AE_API=/.test(one.text)) {
      assert.match(one.text, MARK, at(one));
    }
  }
});

/** The help of a program's subcommand; fails if the subcommand does not exist. */
const helps = new Map<string, string>();
function help(program: string, args: readonly string[]): string {
  const key = [program, ...args].join(' ');
  if (!helps.has(key)) {
    const { stdout, stderr } = spawnSync(program, [...args, '--help'], {
      encoding: 'utf8',
      env: { ...process.env, WRANGLER_SEND_METRICS: 'false', COLUMNS: '200' },
    });
    helps.set(key, stdout + stderr);
  }
  return helps.get(key)!;
}

test('subcommands, options and scripts exist', () => {
  let checked = 0;
  for (const one of commands) {
    // Without comments, and without the arguments of another program.
    const text = one.text.replaceAll(/ #.*$/gm, '').replaceAll(/\\\n/g, ' ');
    for (const [, words = ''] of text.matchAll(/npx wrangler ((?:[a-z]+ ?)+[^&|;]*)/g)) {
      const names = words.split(/ (?=[-A-Z<])|(?<=put|rollback|tail) /)[0]!.trim().split(' ');
      const shown = help('node_modules/.bin/wrangler', names);
      assert.match(shown, new RegExp(`wrangler ${names.join(' ')}\\b`), at(one));
      for (const [option] of words.matchAll(/--[a-z-]+/g)) assert.ok(shown.includes(option), `${at(one)}: ${option}`);
      checked += 1;
    }
    for (const [, name = '', rest = ''] of text.matchAll(/kiloclaw-agent (setup|status|doctor|run|watch|away|back|once|gateway-token|man|completions)\b([^&|;]*)/g)) {
      const shown = help(AGENT, [name]);
      assert.match(shown, new RegExp(`Usage: kiloclaw-agent ${name}\\b`), at(one));
      for (const [option] of rest.split(' -- ')[0]!.matchAll(/--[a-z-]+/g)) assert.ok(shown.includes(option), `${at(one)}: ${option}`);
      checked += 1;
    }
    for (const [, script = ''] of text.matchAll(/npm run (?:--silent )?([a-z:-]+)/g)) {
      const inRelease = ['token', 'deploy', 'dev'];
      assert.ok(script in manifest.scripts || inRelease.includes(script), at(one));
      checked += 1;
    }
  }
  assert.ok(checked > 40, `${checked}`);
});

test('the unmarked commands of these documents work, in order', { timeout: 300_000 }, () => {
  const release = path.join(work, 'release');
  execFileSync(process.execPath, ['tools/release.ts', '--no-build', '--program', AGENT, '--out', release]);
  const name = readdirSync(release).find((file) => file.startsWith('kiloclaw-worker-'))!;
  const [, version = ''] = /^kiloclaw-worker-(.+)\.tar\.gz$/.exec(name) ?? [];
  const bin = path.join(work, 'bin');
  mkdirSync(bin);
  symlinkSync(AGENT, path.join(bin, 'kiloclaw-agent'));
  for (const file of RUN) {
    const lines = commandsOf(file)
      .filter(({ text }) => !MARK.test(text) && !TESTED.some(([command]) => command.test(text)))
      .map(({ text }) => text.replaceAll('VERSION', version));
    assert.ok(lines.length > 0, file);
    const folder = mkdtempSync(path.join(work, 'run-'));
    for (const one of readdirSync(release)) symlinkSync(path.join(release, one), path.join(folder, one));
    symlinkSync(path.resolve('docs'), path.join(folder, 'docs'));
    // In place of `npm install`, which needs the registry.
    symlinkSync(path.resolve('node_modules'), path.join(folder, 'node_modules'));
    const inside = file.includes('release') ? `cd template\n` : '';
    const { status, stdout, stderr } = spawnSync('bash', ['-euxo', 'pipefail', '-c', inside + lines.join('\n')], {
      cwd: folder,
      encoding: 'utf8',
      env: { ...process.env, PATH: `${bin}:${process.env.PATH}`, WRANGLER_SEND_METRICS: 'false' },
    });
    assert.equal(status, 0, `${file}: ${stdout}${stderr}`);
    if (file === 'docs/deploy.md') {
      const tokens = stdout.match(/^[0-9a-f]{64}$/gm) ?? [];
      assert.equal(tokens.length, 2, stdout);
      assert.equal(tokens[0], tokens[1], 'both ways derive the same token');
      assert.match(stdout, /--dry-run: exiting now/);
    }
  }
});

test('the README quotes the figures of the last measurement', () => {
  const results = readFileSync('bench/results.md', 'utf8');
  const figure = (label: string) => {
    const row = results.split('\n').find((line) => line.startsWith(`| ${label}`));
    const ratio = /\((\d+\.\d+)\)/.exec(row ?? '')?.[1];
    assert.ok(ratio !== undefined, `bench/results.md has no ratio for ${label}`);
    return ratio;
  };
  const readme = readFileSync('README.md', 'utf8').replaceAll(/\s+/g, ' ');
  const times = Math.round(Number(figure('Bundle, gzipped')));
  const sentence =
    `the Rust Worker needs ${figure('CPU per accepted check-in, HTTP')} of its CPU time for a check-in over HTTP, and ` +
    `${figure('CPU per accepted check-in, in process')} in process ([measured side by side](bench/results.md)); the bundle is ` +
    `${times} times larger.`;
  assert.ok(readme.includes(sentence), `README.md does not say: ${sentence}`);
});

test('every test that docs/security.md names exists', () => {
  const sources = readdirSync('tests').filter((file) => file.endsWith('.test.ts'));
  const names = sources.flatMap((file) =>
    [...readFileSync(`tests/${file}`, 'utf8').matchAll(/^ *test\('((?:[^'\\]|\\.)+)'/gm)].map(([, name = '']) => name.replaceAll("\\'", "'")),
  );
  const text = readFileSync('docs/security.md', 'utf8').replaceAll(/\s+/g, ' ');
  const quoted = [...text.matchAll(/\bTests?: ("[^"]+"(?:, "[^"]+")*)/g)].flatMap(([, list = '']) => list.slice(1, -1).split('", "'));
  assert.ok(quoted.length >= 10, `only ${quoted.length} names`);
  for (const name of quoted) assert.ok(names.includes(name), `no test is named "${name}"`);
});
