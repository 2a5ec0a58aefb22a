/** `local-ae check`: input, output and exit codes. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const CLI = fileURLToPath(new URL('../cli.js', import.meta.url));
const folder = mkdtempSync(path.join(tmpdir(), 'local-ae check '));
after(() => rmSync(folder, { recursive: true }));

/**
 * Runs the program in a folder with a space in its path.
 *
 * @param {string[]} args
 * @param {string} [input]
 */
function localAe(args, input = '') {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, ...args], { cwd: folder, input, encoding: 'utf8' });
  return { status, stdout, stderr };
}

/** @param {string} name @param {string | Uint8Array} content */
const file = (name, content) => writeFileSync(path.join(folder, name), content);

const DISTINCT = 'error: selection used unsupported features: SELECT DISTINCT\n  help: write SELECT x … GROUP BY x\n';
const UNIQ = 'error: unknown function call: UNIQ\n  help: write count(DISTINCT x)\n';
const TIMESTAMP =
  'warning: unable to find type of column: "timestamp"\n  help: ORDER BY takes columns of the output: ' +
  'select timestamp, or order by its alias\n';

test('prints nothing for queries that Analytics Engine accepts', () => {
  file('good.sql', 'SELECT count() FROM t; -- a comment; with a semicolon\n\nSHOW TABLES;');
  file('empty.sql', '');
  assert.deepEqual(localAe(['check', 'good.sql', 'empty.sql']), { status: 0, stdout: '', stderr: '' });
});

test('reports the errors in all files with file, line and column', () => {
  file('one.sql', 'SELECT 1;\nSELECT DISTINCT blob1 FROM t;\nSELECT\n  uniq(blob1) FROM t');
  const expected = `one.sql:2:1: ${DISTINCT}one.sql:4:3: ${UNIQ}-:1:8: ${UNIQ}`;
  const { status, stdout, stderr } = localAe(['check', 'one.sql', '-'], 'SELECT uniq(blob1) FROM t');
  assert.deepEqual({ status, stdout, stderr }, { status: 1, stdout: expected, stderr: '' });
});

test('reports the right line and column in files with CRLF or a byte order mark', () => {
  file('crlf.sql', '\uFEFFSELECT 1;\r\nSELECT\r\n  uniq(blob1) FROM t -- a comment\r\n');
  assert.deepEqual(localAe(['check', 'crlf.sql']), { status: 1, stdout: `crlf.sql:3:3: ${UNIQ}`, stderr: '' });
  file('mark.sql', '\uFEFFSELECT uniq(blob1) FROM t');
  assert.equal(localAe(['check', 'mark.sql']).stdout, `mark.sql:1:8: ${UNIQ}`);
});

test('exits with 1 for a warning only if warnings are denied', () => {
  file('doubtful.sql', 'SELECT blob1 AS b FROM t ORDER BY timestamp');
  const stdout = `doubtful.sql:1:35: ${TIMESTAMP}`;
  assert.deepEqual(localAe(['check', 'doubtful.sql']), { status: 0, stdout, stderr: '' });
  assert.deepEqual(localAe(['check', '--deny', 'warnings', 'doubtful.sql']), { status: 1, stdout, stderr: '' });
  assert.equal(localAe(['check', '--deny', 'warnings', 'good.sql']).status, 0);
});

test('exits with 2 if a file cannot be read, and checks the others', () => {
  file('utf16.sql', Buffer.from('\uFEFFSELECT 1', 'utf16le'));
  file('utf16-without-mark.sql', Buffer.from('SELECT 1', 'utf16le'));
  file('binary.sql', Uint8Array.from({ length: 1_000 }, (_, i) => (i * 7) % 256));
  file('huge.sql', Buffer.alloc(17 * 1024 * 1024, ' '));
  const names = ['nowhere.sql', '.', 'utf16.sql', 'utf16-without-mark.sql', 'binary.sql', 'huge.sql', 'one.sql'];
  const { status, stdout, stderr } = localAe(['check', ...names]);
  assert.equal(status, 2);
  assert.equal(stdout, `one.sql:2:1: ${DISTINCT}one.sql:4:3: ${UNIQ}`);
  assert.deepEqual(stderr.trim().split('\n'), [
    'local-ae: nowhere.sql: there is no such file',
    'local-ae: .: it is a folder',
    'local-ae: utf16.sql: it is not text in UTF-8',
    'local-ae: utf16-without-mark.sql: it has a zero byte, so it is not text in UTF-8',
    'local-ae: binary.sql: it is not text in UTF-8',
    'local-ae: huge.sql: it has more than 16777216 bytes',
  ]);
});

test('refuses a text that is too long, and an unterminated string', () => {
  file('long.sql', 'x'.repeat(300_000));
  const long = 'long.sql: error: the text is 300000 bytes long, the limit is 262144\n';
  assert.deepEqual(localAe(['check', 'long.sql']), { status: 1, stdout: long, stderr: '' });
  const open = localAe(['check', '-'], "SELECT 1;\nSELECT 'abc");
  assert.deepEqual(open, { status: 1, stdout: '-:2:8: error: Unterminated string literal\n', stderr: '' });
});

test('exits with 2 if the command line is wrong, and names the mistake', () => {
  /** @type {[string[], RegExp][]} */
  const wrong = [
    [[], /name a command/],
    [['lint'], /there is no command "lint"/],
    [['--nonsense'], /Unknown option '--nonsense'\n/],
    [['check'], /name a file; - is standard input/],
    [['check', '--nonsense', 'one.sql'], /Unknown option '--nonsense'\n/],
    [['check', '--deny', 'errors', 'one.sql'], /--deny takes only "warnings"/],
    [['dev', '--ae-prot', '1'], /there is no option --ae-prot/],
    [['dev', '--ae-port'], /--ae-port needs a value/],
    [['config', '--port', '1'], /there is no option or argument --port/],
    [['config', '-c', 'nowhere.toml'], /nowhere.toml does not exist/],
  ];
  for (const [args, message] of wrong) {
    const { status, stdout, stderr } = localAe(args);
    assert.deepEqual({ status, stdout }, { status: 2, stdout: '' }, args.join(' '));
    assert.match(stderr, new RegExp(`^local-ae: .*${message.source}`), args.join(' '));
    assert.equal(stderr.trim().split('\n').length, 1, stderr);
  }
});

test('prints help and its version', () => {
  for (const args of [['--help'], ['-h'], ['check', '--help'], ['dev', '-h'], ['config', '--help']]) {
    const { status, stdout, stderr } = localAe(args);
    assert.deepEqual({ status, stderr }, { status: 0, stderr: '' });
    assert.match(stdout, /^Usage: local-ae /);
    assert.doesNotMatch(stdout, /.{81}/, 'it fits into 80 columns');
  }
  assert.match(localAe(['--version']).stdout, /^\d+\.\d+\.\d+\n$/);
});
