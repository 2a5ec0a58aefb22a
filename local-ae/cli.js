#!/usr/bin/env node
/** The command line: `local-ae check`, `dev` and `config`. */
import { spawn } from 'node:child_process';
import { watchFile } from 'node:fs';
import { open } from 'node:fs/promises';
import { constants } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { loadLinter } from './lint.js';
import { wranglerProgram, writeLocalConfig } from './local-config.js';
import { DEFAULTS } from './options.js';
import manifest from './package.json' with { type: 'json' };
import { UserError } from './user-error.js';

const HELP = `Usage: local-ae COMMAND [OPTIONS]

A local Workers Analytics Engine.

Commands:
  check FILE...  report SQL that live Analytics Engine refuses
  dev            run \`wrangler dev\` with a local Analytics Engine
  config         write the configuration that \`dev\` runs, and print its path

Options:
  -h, --help     print help; with COMMAND, the command's help
  --version      print the version
`;

const CHECK_HELP = `Usage: local-ae check [--deny warnings] FILE...

Reports the queries that live Analytics Engine refuses, according to its
documentation and to its users' reports, and says what to write instead. It runs
no queries and needs neither datasets nor an account.

A FILE has semicolon-separated queries; - is standard input. Each finding is a
line FILE:LINE:COLUMN: error: MESSAGE, and a line with help if there is an
equivalent. A warning is a documented construct that users have seen refused.

Options:
  --deny warnings  treat warnings as errors
  -h, --help       print this help

Exit codes:
  0  no errors
  1  at least one query would be refused
  2  the command line is wrong, or a file cannot be read
`;

const STORE_HELP = `\
  -c, --config FILE       the configuration that you deploy
                          [default: the one that wrangler finds]
  --ae-port N             the port of the SQL endpoint [default: ${DEFAULTS.port}]
  --ae-retention-days N   remove older points [default: ${DEFAULTS.retentionDays}]
  --ae-max-rows N         remove the oldest points beyond N [default: ${DEFAULTS.maxRows}]
  --ae-token TEXT         the only bearer token that may query [default: any]
  --ae-allowed-host HOST  a Host to accept besides this machine's; repeatable
  -h, --help              print this help
`;

const DEV_HELP = `Usage: local-ae dev [OPTIONS] [OPTIONS OF wrangler dev]

Runs \`wrangler dev\` with the configuration that you deploy, but with local
analytics_engine_datasets: points survive restarts, and a SQL endpoint answers
queries over them.

Writes the changed configuration beside the original, as NAME.local-ae.json, and
updates it when the original changes. Do not commit or deploy that file.

Options (all others go to \`wrangler dev\`):
${STORE_HELP}`;

const CONFIG_HELP = `Usage: local-ae config [OPTIONS]

Writes the configuration that \`local-ae dev\` runs, as NAME.local-ae.json beside
the original, and prints its path, for getPlatformProxy() and other programs
that take the path of a configuration.

Options:
${STORE_HELP}`;

const USAGE = 2;
const REFUSED = 1;

/** Bounds memory. It is far above the linter's own limit, whose error is more precise. */
const MAX_FILE_BYTES = 16 * 1024 * 1024;

/** The options of `dev` and `config`. */
const STORE_OPTIONS = /** @type {const} */ ({
  config: { type: 'string', short: 'c', multiple: true },
  'ae-port': { type: 'string' },
  'ae-retention-days': { type: 'string' },
  'ae-max-rows': { type: 'string' },
  'ae-token': { type: 'string' },
  'ae-allowed-host': { type: 'string', multiple: true },
  help: { type: 'boolean', short: 'h' },
});

/** @param {number} code the exit code; the process ends after all output is written */
const exitWith = (code) => void (process.exitCode = code);

/** @param {unknown} error any other error than a UserError is a defect, and prints its stack */
const report = (error) => console.error(error instanceof UserError ? error.message : error);

/** @param {string} text */
const print = (text) => void process.stdout.write(text);

/**
 * @template {import('node:util').ParseArgsConfig} T
 * @param {T} config
 */
function parse(config) {
  try {
    return parseArgs(config);
  } catch (error) {
    // Node's message continues with advice about arguments that begin with a dash.
    const [what] = /** @type {Error} */ (error).message.split('. ');
    throw new UserError(what);
  }
}

/** Why a file cannot be read, by error code. */
const REASONS = new Map([
  ['ENOENT', 'there is no such file'],
  ['EISDIR', 'it is a folder'],
  ['ERR_ENCODING_INVALID_ENCODED_DATA', 'it is not text in UTF-8'],
]);

/** @param {string} name a file of SQL @returns {Promise<string>} its text */
async function readSql(name) {
  try {
    const input = name === '-' ? process.stdin : (await open(name)).createReadStream();
    const chunks = [];
    let bytes = 0;
    for await (const chunk of input) {
      chunks.push(chunk);
      bytes += chunk.length;
      if (bytes > MAX_FILE_BYTES) throw new Error(`it has more than ${MAX_FILE_BYTES} bytes`);
    }
    const text = new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks));
    // UTF-16 without a byte order mark decodes as UTF-8 with zero bytes.
    if (text.includes('\0')) throw new Error('it has a zero byte, so it is not text in UTF-8');
    return text;
  } catch (error) {
    const { code, message } = /** @type {NodeJS.ErrnoException} */ (error);
    throw new UserError(`${name}: ${REASONS.get(code ?? '') ?? message}`);
  }
}

/** @param {string[]} args */
async function check(args) {
  const { values, positionals: files } = parse({
    args,
    allowPositionals: true,
    options: { deny: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help) return print(CHECK_HELP);
  if (values.deny !== undefined && values.deny !== 'warnings') {
    throw new UserError('--deny takes only "warnings"');
  }
  if (files.length === 0) throw new UserError('name a file; - is standard input');
  const lint = await loadLinter();
  let code = 0;
  for (const file of files) {
    try {
      const { errors, warnings, text } = lint(file, await readSql(file));
      print(text);
      if (errors > 0 || (values.deny !== undefined && warnings > 0)) code = Math.max(code, REFUSED);
    } catch (error) {
      // One unreadable file does not stop the check of the others.
      if (!(error instanceof UserError)) throw error;
      report(error);
      code = USAGE;
    }
  }
  exitWith(code);
}

/**
 * Separates this program's options from wrangler's, which pass through unchanged.
 *
 * @param {string[]} args
 */
function parseStoreOptions(args) {
  const { values, tokens } = parseArgs({
    args,
    options: STORE_OPTIONS,
    strict: false,
    tokens: true,
    allowPositionals: true,
  });
  /** @type {Set<number>} */
  const own = new Set();
  for (const token of tokens) {
    if (token.kind !== 'option' || !Object.hasOwn(STORE_OPTIONS, token.name)) continue;
    if (token.name !== 'help' && !token.value) throw new UserError(`${token.rawName} needs a value`);
    own.add(token.index);
    if (token.value !== undefined && !token.inlineValue) own.add(token.index + 1);
  }
  const unknown = tokens.find((token) => token.kind === 'option' && /^--ae-/.test(token.rawName) && !own.has(token.index));
  if (unknown !== undefined) throw new UserError(`there is no option ${args[unknown.index]}`);
  const given = /** @type {Record<string, any>} */ (values);
  const number = (/** @type {string | undefined} */ text) => (text === undefined ? undefined : Number(text));
  // `index.js` validates them. JSON omits undefined ones.
  const options = {
    port: number(given['ae-port']),
    retentionDays: number(given['ae-retention-days']),
    maxRows: number(given['ae-max-rows']),
    token: given['ae-token'],
    allowedHosts: given['ae-allowed-host'],
  };
  /** @type {(string | undefined)[]} */
  const configs = given.config ?? [undefined];
  return { help: given.help === true, configs, options, rest: args.filter((_, i) => !own.has(i)) };
}

/** @param {string[]} args */
function config(args) {
  const { help, configs, options, rest } = parseStoreOptions(args);
  if (help) return print(CONFIG_HELP);
  if (rest.length > 0) throw new UserError(`there is no option or argument ${rest[0]}`);
  for (const given of configs) print(`${writeLocalConfig(given, options).file}\n`);
}

/** @param {string[]} args */
function dev(args) {
  const { help, configs, options, rest } = parseStoreOptions(args);
  if (help) return print(DEV_HELP);
  const written = configs.map((given) => writeLocalConfig(given, options));
  for (const { source } of written) {
    watchFile(source, { interval: 500 }, () => {
      try {
        writeLocalConfig(source, options);
      } catch (error) {
        // The file may be incomplete while an editor saves it: the Worker keeps the last configuration.
        report(error);
      }
    });
  }
  const program = wranglerProgram(path.dirname(written[0].source));
  const files = written.flatMap(({ file }) => ['--config', file]);
  const wrangler = spawn(process.execPath, [program, 'dev', ...files, ...rest], { stdio: 'inherit' });
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
    process.on(signal, () => wrangler.kill(signal));
  }
  wrangler.once('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal ?? 'SIGTERM']));
}

/** @type {Record<string, (args: string[]) => void | Promise<void>>} */
const COMMANDS = { check, dev, config };

/** @param {string[]} args */
async function main([name, ...args]) {
  if (name === undefined) throw new UserError('name a command; see local-ae --help');
  if (Object.hasOwn(COMMANDS, name)) return COMMANDS[name](args);
  const { values } = parse({
    args: [name],
    options: { help: { type: 'boolean', short: 'h' }, version: { type: 'boolean' } },
    allowPositionals: true,
  });
  if (values.help) return print(HELP);
  if (values.version) return print(`${manifest.version}\n`);
  throw new UserError(`there is no command "${name}"; see local-ae --help`);
}

// The reader has closed the pipe, as in `local-ae check FILE | head -n 1`.
process.stdout.on('error', () => process.exit(USAGE));

try {
  await main(process.argv.slice(2));
} catch (error) {
  report(error);
  exitWith(USAGE);
}
