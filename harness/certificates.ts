/** Makes a test authority and a certificate from it. Needs openssl, as Node cannot make certificates. */
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Certificates {
  /** The path of the authority's certificate. */
  readonly ca: string;
  /** For a server on localhost. */
  readonly server: { readonly key: Buffer; readonly cert: Buffer };
}

/** Makes them in `folder`, valid for a day; returns `undefined` if there is no openssl. */
export function certificates(folder: string): Certificates | undefined {
  if (spawnSync('openssl', ['version']).error !== undefined) return undefined;
  const openssl = (...args: string[]) =>
    execFileSync('openssl', args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  const authority = ['-keyout', 'ca.key', '-out', 'ca.pem', '-days', '1', '-subj', '/CN=test'];
  openssl('req', '-x509', ...key, ...authority);
  openssl('req', ...key, '-keyout', 'server.key', '-out', 'server.csr', '-subj', '/CN=localhost');
  writeFileSync(join(folder, 'server.ext'), 'subjectAltName=DNS:localhost\n');
  const issuer = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-extfile', 'server.ext'];
  openssl('x509', '-req', '-in', 'server.csr', ...issuer, '-days', '1', '-out', 'server.pem');
  const [serverKey, cert] = ['server.key', 'server.pem'].map((name) => readFileSync(join(folder, name)));
  return { ca: join(folder, 'ca.pem'), server: { key: serverKey, cert } };
}
