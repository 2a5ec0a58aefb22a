/** Analytics Engine accepts all SQL in this repository. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { check } from './support/aesql.ts';

/** Excluded: some of these queries are invalid on purpose. */
const ORACLE = 'local-ae/aesql/oracle/';

const tracked = (pattern: string): string[] =>
  execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', pattern], {
    encoding: 'utf8',
  })
    .split('\n')
    .filter((file) => file !== '' && !file.startsWith(ORACLE));

/** Only the SQL of a file, from code blocks and curl commands, on its original lines. */
function blocks(file: string): string {
  let inside = false;
  const lines = readFileSync(file, 'utf8').split('\n').map((line) => {
    const sent = /-d "((?:SELECT|SHOW) [^"]*)"/.exec(line)?.[1];
    if (sent !== undefined) return `${sent};`;
    if (!/^\s*```/.test(line)) return inside ? line : '';
    const ends = inside;
    inside = !inside && /^\s*```sql$/.test(line);
    return ends ? ';' : '';
  });
  return lines.join('\n');
}

for (const file of tracked('*.sql')) {
  test(`Analytics Engine accepts ${file}`, () => {
    assert.equal(check(readFileSync(file, 'utf8')), '');
  });
}

for (const file of tracked('*.md')) {
  const sql = blocks(file);
  if (sql.trim() === '') continue;
  test(`Analytics Engine accepts the SQL in ${file}`, () => assert.equal(check(sql), ''));
}

test('the check finds errors and warnings, with their places', () => {
  assert.match(check('SELECT 1 AS a;\n;\nSELECT DISTINCT blob1 FROM d'), /^-:3:1: error: .*DISTINCT/);
  assert.match(check('SELECT 1 AS a FROM d\nORDER BY timestamp'), /^-:2:10: warning: .*timestamp/);
});

test("the columns that npm start reads have the contract's names", () => {
  const readBack = readFileSync('tools/check-ins.sql', 'utf8');
  const latest = readFileSync('tools/latest.sql', 'utf8');
  const slots = Object.entries(layout).filter(([slot]) => /^(blob|double)\d+$/.test(slot));
  for (const [slot, name] of slots) {
    assert.match(readBack, new RegExp(`^ +${slot} AS ${name},?$`, 'm'));
    if (name === 'sandboxId' || !latest.includes(name)) continue;
    assert.match(latest, new RegExp(`^ +argMax\\(${slot}, timestamp\\) AS ${name},$`, 'm'));
  }
  for (const sql of [readBack, latest]) assert.ok(sql.includes(`FROM ${layout.dataset}\n`));
});
