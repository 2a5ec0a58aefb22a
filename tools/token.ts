/** `npm run token`: mints an operator's token. */
import { existsSync, readFileSync } from 'node:fs';
import { parseArgs, parseEnv } from 'node:util';

import { mint, values, type Vars } from '../harness/token.ts';
import { command, Failure } from '../harness/command.ts';

const HELP = `Usage: npm run --silent token -- --sub NAME [OPTIONS]

Mints a token for the operators' API and prints it, and nothing else, on standard output. It is signed with the
first value of JWT_SECRET, which is read from --secret-file, the environment or .dev.vars, in this order.

Options:
  --sub NAME          the operator's name
  --ttl TIME          lifetime: a number and s, m, h or d, at most 90d [default: 1h]
  --sandbox ID        the only sandbox that the token may see [default: the whole fleet]
  --scope NAMES       what the token may change, separated by spaces: absences:write [default: nothing]
  --secret-file FILE  read JWT_SECRET from this file
  --issuer NAME       issuer [default: JWT_ISSUER, from the same place as JWT_SECRET or the environment]
  --audience NAME     audience [default: JWT_AUDIENCE, likewise, else kiloclaw-telemetry]
  -h, --help          print this help

To use it:
  curl -H "authorization: Bearer $(npm run --silent token -- --sub ops)" https://<your worker>/api/whoami
`;

/** The scopes that the Worker knows. */
const SCOPES = ['absences:write'];
/** The contract's limit. */
const MAX_SANDBOX_ID_BYTES = 96;
const UNITS = { s: 1, m: 60, h: 3_600, d: 86_400 };
const MAX_TTL_SECONDS = 90 * UNITS.d;

function options() {
  try {
    const { values } = parseArgs({
      options: {
        sub: { type: 'string' },
        ttl: { type: 'string', default: '1h' },
        sandbox: { type: 'string' },
        scope: { type: 'string' },
        'secret-file': { type: 'string' },
        issuer: { type: 'string' },
        audience: { type: 'string' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    return values;
  } catch (error) {
    throw new Failure(`${(error as Error).message}; see npm run token -- --help`);
  }
}

function seconds(ttl: string): number {
  const [, number, unit] = /^(\d+)([smhd])$/.exec(ttl) ?? [];
  const value = Number(number) * UNITS[unit as keyof typeof UNITS];
  if (!(value >= 1 && value <= MAX_TTL_SECONDS)) {
    throw new Failure(`--ttl must be a number and s, m, h or d, at most 90d, such as 12h; not '${ttl}'`);
  }
  return value;
}

/** JWT_SECRET and related variables, and where JWT_SECRET is from. */
function settings(file: string | undefined): Vars & { readonly source: string } {
  if (file !== undefined) {
    let secret;
    try {
      secret = readFileSync(file, 'utf8');
    } catch (error) {
      throw new Failure(`--secret-file cannot be read: ${(error as Error).message}`);
    }
    if (values(secret).length === 0) throw new Failure(`--secret-file is empty: ${file}`);
    return { ...process.env, JWT_SECRET: secret, source: file };
  }
  if (values(process.env.JWT_SECRET).length > 0) {
    return { ...process.env, source: 'the environment' };
  }
  const local = existsSync('.dev.vars') ? parseEnv(readFileSync('.dev.vars', 'utf8')) : {};
  if (values(local.JWT_SECRET).length > 0) {
    return { ...local, ...process.env, JWT_SECRET: local.JWT_SECRET, source: '.dev.vars' };
  }
  throw new Failure(
    'JWT_SECRET is missing: set it in the environment or with --secret-file, to the value that `wrangler secret ' +
      'put JWT_SECRET` got. For local development, `npm start` writes one to .dev.vars',
  );
}

async function main(): Promise<void> {
  const { sub, ttl, sandbox, scope, issuer, audience, help, ...files } = options();
  if (help) return void console.log(HELP);
  if (!sub) throw new Failure("--sub is missing: give the operator's name, such as '--sub ops'");
  if (sandbox !== undefined) {
    const bytes = Buffer.byteLength(sandbox);
    if (bytes < 1 || bytes > MAX_SANDBOX_ID_BYTES) {
      throw new Failure(`--sandbox must have 1 to ${MAX_SANDBOX_ID_BYTES} bytes, not ${bytes}`);
    }
  }
  const unknown = scope?.split(' ').find((name) => !SCOPES.includes(name));
  if (unknown !== undefined) {
    throw new Failure(`--scope must be ${SCOPES.join(', ')}, separated by spaces; not '${unknown}'`);
  }
  const lifetime = seconds(ttl);
  const { source, ...vars } = settings(files['secret-file']);
  const JWT_ISSUER = issuer ?? vars.JWT_ISSUER;
  const JWT_AUDIENCE = audience ?? vars.JWT_AUDIENCE;
  const token = await mint({ sub, ttl: lifetime, sandbox, scope }, { ...vars, JWT_ISSUER, JWT_AUDIENCE });
  const sees = sandbox === undefined ? 'the whole fleet' : `sandbox ${sandbox} only`;
  const until = new Date(Date.now() + lifetime * 1_000).toISOString().slice(0, 19);
  const changes = scope === undefined ? '' : ` and has ${scope}`;
  console.error(`token: for ${sub}, who sees ${sees}${changes} until ${until}Z; signed with JWT_SECRET of ${source}`);
  console.log(token);
}

if (import.meta.main) await command('token', main);
