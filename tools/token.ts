/** `npm run token`: mints a token for an operator, as the Worker's gate takes it. */
import { existsSync, readFileSync } from 'node:fs';
import { parseArgs, parseEnv } from 'node:util';

import { SignJWT } from 'jose';

import { command, Failure } from './command.ts';

const HELP = `Usage: npm run --silent token -- --sub NAME [OPTIONS]

Mints a token for the operators' API and prints it, and nothing else, on stdout. It is signed with the
first value of JWT_SECRET: that of --secret-file, of the environment or of .dev.vars, whichever is there
first.

Options:
  --sub NAME          whom the token is for
  --ttl TIME          how long it holds: a number and s, m, h or d, at most 90d [default: 1h]
  --sandbox ID        the only sandbox that it may see [default: the whole fleet]
  --secret-file FILE  a file that holds JWT_SECRET, rather than the environment or .dev.vars
  --issuer NAME       its issuer [default: JWT_ISSUER, of the environment or with JWT_SECRET]
  --audience NAME     its audience [default: JWT_AUDIENCE, likewise, or else kiloclaw-telemetry]
  -h, --help          this text

To ask a Worker with it:
  curl -H "authorization: Bearer $(npm run --silent token -- --sub ops)" https://<your worker>/api/whoami
`;

/** As the Worker's: a longer id is none. */
const MAX_SANDBOX_ID_BYTES = 96;
/** As the Worker's, where JWT_AUDIENCE is not set. */
const DEFAULT_AUDIENCE = 'kiloclaw-telemetry';
const UNITS = { s: 1, m: 60, h: 3_600, d: 86_400 };
const MAX_TTL_SECONDS = 90 * UNITS.d;

type Vars = Readonly<Record<string, string | undefined>>;

export interface Token {
  readonly sub: string;
  /** How long it holds, in seconds. */
  readonly ttl: number;
  /** The only sandbox that it may see. */
  readonly sandbox?: string;
}

/** Signs a token with the current value of JWT_SECRET. */
export async function mint({ sub, ttl, sandbox }: Token, vars: Vars): Promise<string> {
  const [secret] = values(vars.JWT_SECRET);
  const issuer = vars.JWT_ISSUER?.trim();
  const audience = vars.JWT_AUDIENCE?.trim() || DEFAULT_AUDIENCE;
  const now = Math.floor(Date.now() / 1_000);
  return new SignJWT({
    ...(issuer ? { iss: issuer } : {}),
    sub,
    aud: audience,
    iat: now,
    exp: now + ttl,
    ...(sandbox === undefined ? {} : { sandbox_id: sandbox }),
  })
    .setProtectedHeader({ alg: 'HS256', typ: 'JWT' })
    .sign(new TextEncoder().encode(secret));
}

/** The values of a secret, as the Worker reads them. */
const values = (secret = '') =>
  secret.split(',').map((value) => value.trim()).filter((value) => value !== '');

function options() {
  try {
    const { values } = parseArgs({
      options: {
        sub: { type: 'string' },
        ttl: { type: 'string', default: '1h' },
        sandbox: { type: 'string' },
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

/** JWT_SECRET and what goes with it, and where it is from. */
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
    'JWT_SECRET is missing: set it to what `wrangler secret put JWT_SECRET` was given, in the ' +
      'environment or with --secret-file. For local development, `npm start` writes one to .dev.vars',
  );
}

async function main(): Promise<void> {
  const { sub, ttl, sandbox, issuer, audience, help, ...files } = options();
  if (help) return void console.log(HELP);
  if (!sub) throw new Failure("--sub is missing: say whom the token is for, such as '--sub ops'");
  if (sandbox !== undefined) {
    const bytes = Buffer.byteLength(sandbox);
    if (bytes < 1 || bytes > MAX_SANDBOX_ID_BYTES) {
      throw new Failure(`--sandbox must be of 1 to ${MAX_SANDBOX_ID_BYTES} bytes, not ${bytes}`);
    }
  }
  const lifetime = seconds(ttl);
  const { source, ...vars } = settings(files['secret-file']);
  const JWT_ISSUER = issuer ?? vars.JWT_ISSUER;
  const JWT_AUDIENCE = audience ?? vars.JWT_AUDIENCE;
  const token = await mint({ sub, ttl: lifetime, sandbox }, { ...vars, JWT_ISSUER, JWT_AUDIENCE });
  const sees = sandbox === undefined ? 'the whole fleet' : `sandbox ${sandbox} only`;
  const until = new Date(Date.now() + lifetime * 1_000).toISOString().slice(0, 19);
  console.error(`token: for ${sub}, who sees ${sees} until ${until}Z; signed with JWT_SECRET of ${source}`);
  console.log(token);
}

if (import.meta.main) await command('token', main);
