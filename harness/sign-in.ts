/** A link that opens the page of a local Worker, signed in. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/**
 * Serves a page of its own that signs in at the Worker's page; returns its URL. The token passes through the name of the
 * window: a URL would be kept in the history. Only who reads this terminal knows the path.
 */
export async function signIn(url: string, token: string): Promise<string> {
  const secret = `/${randomBytes(12).toString('base64url')}`;
  const [name, page] = [`kiloclaw-token:${token}`, `${url}/`].map((text) => JSON.stringify(text));
  const html = `<!doctype html><title>Kiloclaw</title><script>window.name = ${name}; location.replace(${page})</script>`;
  const server = createServer((request, response) => {
    if (request.url !== secret) return void response.writeHead(404).end();
    response.writeHead(200, { 'content-type': 'text/html', 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' });
    response.end(html);
  });
  server.listen(0, '127.0.0.1').unref();
  await once(server, 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}${secret}`;
}
