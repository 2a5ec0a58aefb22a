/** The linter of `local-ae`, which finds SQL that Analytics Engine refuses. */
import { spawnSync } from 'node:child_process';

/** Returns the errors and warnings of semicolon-separated queries, or an empty string. */
export function check(sql: string): string {
  const args = ['local-ae/cli.js', 'check', '--deny', 'warnings', '-'];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { input: sql, encoding: 'utf8' });
  return status === 0 ? '' : `${stdout}${stderr}`;
}
