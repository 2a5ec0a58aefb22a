/** The path of the built agent. */
import { execFileSync } from 'node:child_process';
import path from 'node:path';

const { target_directory: target } = JSON.parse(
  execFileSync('cargo', ['metadata', '--no-deps', '--format-version', '1'], { encoding: 'utf8' }),
) as { target_directory: string };

export const AGENT = path.join(target, 'debug', 'kiloclaw-agent');
