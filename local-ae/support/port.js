/** Ports for programs that need a port number at their start. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';

// The kernel assigns ports in this range to outgoing connections and to programs that listen on port 0.
const RANGE = '/proc/sys/net/ipv4/ip_local_port_range';
const LOWEST = 10_000;

/** @returns {[lowest: number, highest: number]} a range that the kernel does not assign, if it is large enough */
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
 * Reserves a port for this process, unless another process has it.
 *
 * Between this check and a program's `listen`, another program could take the port. So this process holds the UDP
 * port with the same number until it ends: no other caller of this function gets the port, and the kernel does not
 * assign it, since it is outside the kernel's range.
 *
 * @param {number} port
 */
async function reserve(port) {
  const holder = createSocket('udp4').unref();
  holder.bind({ port, address: '127.0.0.1', exclusive: true });
  const held = await once(holder, 'listening').then(() => true, () => false);
  if (held && (await isFree(port))) return true;
  if (held) holder.close();
  return false;
}

/**
 * @param {number} [preferred] the port to reserve if it is available
 * @returns {Promise<number>} a port of 127.0.0.1, reserved for this process until it ends
 */
export async function freePort(preferred) {
  if (preferred !== undefined && (await reserve(preferred))) return preferred;
  const [lowest, highest] = ownRange();
  const ports = highest - lowest + 1;
  const start = Math.trunc(Math.random() * ports);
  for (let i = 0; i < ports; i += 1) {
    const port = lowest + ((start + i) % ports);
    if (await reserve(port)) return port;
  }
  throw new Error('no port of 127.0.0.1 is free');
}
