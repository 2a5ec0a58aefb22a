/** Where everything is reported to: one server over http and https that counts what arrives. */
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';

/** What the controller tells of the process. */
const STATUS = JSON.stringify({ state: 'running', pid: 1, uptime: 86_412.5, restarts: 7, lastExit: null });

export class Collector {
  readonly #servers: Server[] = [];
  readonly #cycles = new Map<string, number>();
  /** What arrived that should not have, by subject. */
  readonly wrong = new Map<string, string>();
  readonly #checks = new Map<string, (body: unknown) => boolean>();
  #https?: Server;
  readonly #http: Server;
  /** The authority that the https server's certificate is from; without openssl there is neither. */
  readonly ca?: string;

  private constructor(folder: string) {
    const answer = (request: IncomingMessage, response: ServerResponse) => this.#answer(request, response);
    this.#http = createServer(answer);
    this.#servers.push(this.#http);
    if (spawnSync('openssl', ['version']).error === undefined) {
      this.ca = certificates(folder);
      const [key, cert] = ['server.key', 'server.pem'].map((name) => readFileSync(join(folder, name)));
      this.#https = createTlsServer({ key, cert }, answer);
      this.#servers.push(this.#https);
    }
  }

  static async start(folder: string): Promise<Collector> {
    const collector = new Collector(folder);
    for (const server of collector.#servers) {
      server.listen(0, 'localhost');
      await once(server, 'listening');
    }
    return collector;
  }

  /** Where `subject` reports to. A name, as in reality: it has to be resolved. */
  url(subject: string, { tls = false } = {}): string {
    const port = ((tls ? this.#https : this.#http)!.address() as AddressInfo).port;
    return `${tls ? 'https' : 'http'}://localhost:${port}/${subject}`;
  }

  get statusUrl(): string {
    return this.url('status');
  }

  /** Has what `subject` reports checked. */
  expect(subject: string, check: (body: unknown) => boolean): void {
    this.#checks.set(subject, check);
  }

  /** How often `subject` has reported. */
  cycles(subject: string): number {
    return this.#cycles.get(subject) ?? 0;
  }

  /** Counts a report that is fetched, not sent. */
  count(subject: string): void {
    this.#cycles.set(subject, this.cycles(subject) + 1);
  }

  stop(): void {
    for (const server of this.#servers) {
      server.close();
      server.closeAllConnections();
    }
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    let body = '';
    request.setEncoding('utf8').on('data', (part: string) => (body += part));
    request.on('end', () => {
      const [, subject] = (request.url ?? '').split('/');
      if (subject === 'status') {
        response.setHeader('content-type', 'application/json').end(STATUS);
        return;
      }
      let right = false;
      try {
        right = this.#checks.get(subject)?.(JSON.parse(body)) ?? false;
      } catch {
        // Not JSON.
      }
      if (!right) this.wrong.set(subject, body.slice(0, 1_000));
      response.writeHead(204).end();
      this.count(subject);
    });
  }
}

/** Makes an authority and a certificate for localhost, good for a day; returns the authority's. */
function certificates(folder: string): string {
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  openssl('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '1', '-subj', '/CN=bench');
  openssl('req', ...key, '-keyout', 'server.key', '-out', 'server.csr', '-subj', '/CN=localhost');
  writeFileSync(join(folder, 'server.ext'), 'subjectAltName=DNS:localhost\n');
  const issuer = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-extfile', 'server.ext'];
  openssl('x509', '-req', '-in', 'server.csr', ...issuer, '-days', '1', '-out', 'server.pem');
  return join(folder, 'ca.pem');
}
