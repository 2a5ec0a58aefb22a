import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/**
 * Serves a page that redirects to the Worker's page and signs in there; returns its URL, whose path is secret. The
 * window's name passes the token, because the browser's history would keep a URL.
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
