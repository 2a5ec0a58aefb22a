/** Operators' tokens. */
import { SignJWT } from 'jose';

/** The Worker's audience if JWT_AUDIENCE is not set. */
const DEFAULT_AUDIENCE = 'kiloclaw-telemetry';

export type Vars = Readonly<Record<string, string | undefined>>;

export interface Token {
  readonly sub: string;
  /** Lifetime in seconds. */
  readonly ttl: number;
  /** The only sandbox that the principal may see. */
  readonly sandbox?: string;
  /** What the principal may change: names, separated by spaces. */
  readonly scope?: string;
}

/** Signs a token with the first value of JWT_SECRET. */
export async function mint({ sub, ttl, sandbox, scope }: Token, vars: Vars): Promise<string> {
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
    ...(scope === undefined ? {} : { scope }),
  })
    .setProtectedHeader({ alg: 'HS256', typ: 'JWT' })
    .sign(new TextEncoder().encode(secret));
}

/** The values of a secret, split as the Worker splits them. */
export const values = (secret = '') =>
  secret.split(',').map((value) => value.trim()).filter((value) => value !== '');
