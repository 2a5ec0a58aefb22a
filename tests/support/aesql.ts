/** The checker of `local-ae/aesql`: what Analytics Engine would refuse, or has been seen to refuse. */
import { spawnSync } from 'node:child_process';

/** What the checker has to say of queries, separated by semicolons, or an empty string. */
export function check(sql: string): string {
  const args = ['run', '--quiet', '--package', 'aesql', '--', 'check', '--deny', 'warnings', '-'];
  const { status, stdout, stderr } = spawnSync('cargo', args, { input: sql, encoding: 'utf8' });
  return status === 0 ? '' : `${stdout}${stderr}`;
}
