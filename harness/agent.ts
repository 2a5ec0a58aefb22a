/** The path of the built agent. */
import path from 'node:path';

import { metadata } from './cargo.ts';

export const AGENT = path.join(metadata().target_directory, 'debug', 'kiloclaw-agent');
