/** The server that all subjects report to, over http and https. It counts and checks the reports. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';

import { certificates } from '../../harness/certificates.ts';

/** The controller's status of the process. */
const STATUS = JSON.stringify({ state: 'running', pid: 1, uptime: 86_412.5, restarts: 7, lastExit: null });

export class Collector {
  readonly #servers: Server[] = [];
  readonly #cycles = new Map<string, number>();
  /** Unexpected reports, by subject. */
  readonly wrong = new Map<string, string>();
  readonly #checks = new Map<string, (body: unknown) => boolean>();
  #https?: Server;
  readonly #http: Server;
  /** The authority that issued the https server's certificate; without openssl there is neither. */
  readonly ca?: string;

  private constructor(folder: string) {
    const answer = (request: IncomingMessage, response: ServerResponse) => this.#answer(request, response);
    this.#http = createServer(answer);
    this.#servers.push(this.#http);
    const made = certificates(folder);
    if (made !== undefined) {
      this.ca = made.ca;
      this.#https = createTlsServer(made.server, answer);
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

  /** Where `subject` reports to. A host name, because a real agent has to resolve one too. */
  url(subject: string, { tls = false } = {}): string {
    const port = ((tls ? this.#https : this.#http)!.address() as AddressInfo).port;
    return `${tls ? 'https' : 'http'}://localhost:${port}/${subject}`;
  }

  get statusUrl(): string {
    return this.url('status');
  }

  /** Sets the check for the reports of `subject`. */
  expect(subject: string, check: (body: unknown) => boolean): void {
    this.#checks.set(subject, check);
  }

  cycles(subject: string): number {
    return this.#cycles.get(subject) ?? 0;
  }

  /** Counts a report that the bench fetched. */
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
