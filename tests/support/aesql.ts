/** The checker of `local-ae/aesql`, which finds SQL that Analytics Engine refuses. */
import { spawnSync } from 'node:child_process';

/** Returns the errors and warnings of semicolon-separated queries, or an empty string. */
export function check(sql: string): string {
  const args = ['run', '--quiet', '--package', 'aesql', '--', 'check', '--deny', 'warnings', '-'];
  const { status, stdout, stderr } = spawnSync('cargo', args, { input: sql, encoding: 'utf8' });
  return status === 0 ? '' : `${stdout}${stderr}`;
}
