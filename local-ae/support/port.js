/** Ports for programs that must be given one. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';

// Programs that listen on any free port, and outgoing connections, are given ports of this range.
const RANGE = '/proc/sys/net/ipv4/ip_local_port_range';
const LOWEST = 10_000;

/** @returns {[lowest: number, highest: number]} where the kernel gives nobody a port by itself */
function ownRange() {
  const [first, last] = readFileSync(RANGE, 'utf8').trim().split(/\s+/).map(Number);
  if (first - LOWEST >= 1_000) return [LOWEST, first - 1];
  if (65_535 - last >= 1_000) return [last + 1, 65_535];
  return [LOWEST, 65_535];
}

/** @param {number} port */
async function isFree(port) {
  const server = createServer().listen({ port, host: '127.0.0.1', exclusive: true });
  const free = await once(server, 'listening').then(() => true, () => false);
  if (free) await new Promise((resolve) => server.close(resolve));
  return free;
}

/**
 * Takes a port for this process, unless another one has.
 *
 * Between the look and the moment a program listens, a port that is merely free can go to somebody
 * else. So whoever calls this holds the UDP port of the same number until it ends: no other caller
 * gets it, and nobody else is given it by chance, as it lies outside the kernel's range.
 *
 * @param {number} port
 */
async function take(port) {
  const holder = createSocket('udp4').unref();
  holder.bind({ port, address: '127.0.0.1', exclusive: true });
  const held = await once(holder, 'listening').then(() => true, () => false);
  if (held && (await isFree(port))) return true;
  if (held) holder.close();
  return false;
}

/**
 * @param {number} [preferred] the port to take if that can be had
 * @returns {Promise<number>} a port of 127.0.0.1 that is this process's own until it ends
 */
export async function freePort(preferred) {
  if (preferred !== undefined && (await take(preferred))) return preferred;
  const [lowest, highest] = ownRange();
  const ports = highest - lowest + 1;
  const start = Math.trunc(Math.random() * ports);
  for (let i = 0; i < ports; i += 1) {
    const port = lowest + ((start + i) % ports);
    if (await take(port)) return port;
  }
  throw new Error('there is no free port on 127.0.0.1');
}
