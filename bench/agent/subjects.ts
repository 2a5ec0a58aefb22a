/** How the agent and each collector beside it are started. */
import { execFileSync } from 'node:child_process';
import { constants, copyFileSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { Agent as ConnectionPool, get } from 'node:http';
import { join } from 'node:path';

import { freePort } from '../../local-ae/support/port.js';
import { API_KEY, CHECK_IN_PATH, gatewayToken } from '../../harness/check-in.ts';
import { SAMPLE } from '../check-in.ts';
import type { Collector } from './collector.ts';
import { unpacked, type Unpacked } from './debian.ts';

export interface Command {
  readonly command: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Fetches a report from a program that sends none. */
  readonly scrape?: () => Promise<void>;
}

export interface Subject {
  readonly name: string;
  /** Bytes of the executable and its plugins, without shared libraries. */
  readonly size: number;
  /** `interval` is in seconds; no other subject uses `folder`. */
  prepare(interval: number, folder: string): Promise<Command>;
}

/** Why a subject is not measured. */
export interface Unavailable {
  readonly name: string;
  readonly reason: string;
}

export const AGENT = 'agent, http';
const AGENT_CA = 'agent, https';
const AGENT_ROOTS = "agent, https, the system's roots";
export const AGENTS: readonly string[] = [AGENT, AGENT_CA, AGENT_ROOTS];
const EXPORTER = 'node-exporter';
const COLLECTD = 'collectd';
const NODE = 'Node';

export interface Subjects {
  readonly subjects: readonly Subject[];
  readonly unavailable: readonly Unavailable[];
  /** Versions and counts that the results name. */
  readonly facts: Readonly<Record<string, string>>;
}

const { sandboxId } = SAMPLE;

/** Checks the fields that both the agent and Node fill with readings. */
function isCheckIn(body: unknown): boolean {
  const { loadAvg5m, bandwidthBytesIn, supervisorState, totalRestarts } = body as Record<string, unknown>;
  const numbers = [loadAvg5m, bandwidthBytesIn].every((value) => typeof value === 'number');
  return numbers && supervisorState === 'running' && totalRestarts === 7;
}

/** A subject's name as a path segment: names contain characters that a URL cannot. */
export const slug = (name: string) => name.replaceAll(/\W+/g, '-');

function agent(
  name: string,
  program: string,
  collector: Collector,
  tls: boolean,
  trust: Readonly<Record<string, string>>,
): Subject {
  collector.expect(slug(name), isCheckIn);
  return {
    name,
    size: statSync(program).size,
    async prepare(interval, folder) {
      // A copy, because the three agents would share the pages of one file.
      const command = join(folder, 'kiloclaw-agent');
      copyFileSync(program, command);
      // The agent runs it once to read the version, as on a real machine.
      writeFileSync(join(folder, 'openclaw'), '#!/bin/sh\necho OpenClaw 2026.3.13\n', { mode: 0o755 });
      return {
        command,
        args: ['watch', '--initial-delay=0', `--interval=${interval}`, '--jitter=0'],
        env: {
          PATH: `${folder}:/usr/bin:/bin`,
          KILOCLAW_CHECKIN_URL: `${collector.url(slug(name), { tls })}${CHECK_IN_PATH}`,
          KILOCLAW_STATUS_URL: collector.statusUrl,
          KILOCODE_API_KEY: API_KEY,
          OPENCLAW_GATEWAY_TOKEN: gatewayToken(sandboxId),
          KILOCLAW_SANDBOX_ID: sandboxId,
          KILOCLAW_STATE_FILE: join(folder, 'state.json'),
          ...trust,
        },
      };
    },
  };
}

function node(collector: Collector): Subject {
  collector.expect(slug(NODE), isCheckIn);
  return {
    name: NODE,
    size: statSync(process.execPath).size,
    async prepare(interval, folder) {
      // A copy, because it would share the pages of this process's executable.
      const command = join(folder, 'node');
      copyFileSync(process.execPath, command, constants.COPYFILE_FICLONE);
      return {
        command,
        args: ['bench/agent/node-loop.js'],
        env: {
          CHECKIN_URL: `${collector.url(slug(NODE))}${CHECK_IN_PATH}`,
          STATUS_URL: collector.statusUrl,
          API_KEY,
          GATEWAY_TOKEN: gatewayToken(sandboxId),
          SANDBOX_ID: sandboxId,
          STATE_FILE: join(folder, 'state.json'),
          INTERVAL: `${interval}`,
        },
      };
    },
  };
}

const METRICS = ['node_load5 ', 'node_network_receive_bytes_total{', 'node_network_transmit_bytes_total{'];

/** The exporter only answers scrapes, so a scrape counts as its report. */
function exporter(collector: Collector, { root }: Unpacked): Subject {
  const command = join(root, 'usr/bin/prometheus-node-exporter');
  return {
    name: EXPORTER,
    size: statSync(command).size,
    async prepare() {
      const port = await freePort();
      // Prometheus keeps its connection open, too.
      const pool = new ConnectionPool({ keepAlive: true });
      const scrape = () =>
        new Promise<void>((resolve, reject) => {
          const url = `http://127.0.0.1:${port}/metrics`;
          get(url, { agent: pool, timeout: 5_000 }, (response) => {
            let text = '';
            response.setEncoding('utf8').on('data', (part: string) => (text += part));
            response.once('error', reject).once('end', () => {
              const lines = text.split('\n');
              const right = METRICS.every((name) => lines.some((line) => line.startsWith(name)));
              if (!right) collector.wrong.set(slug(EXPORTER), text.slice(0, 1_000));
              collector.count(slug(EXPORTER));
              resolve();
            });
          }).once('error', reject);
        });
      return {
        command,
        args: [
          `--web.listen-address=127.0.0.1:${port}`,
          // Only the readings that the bench compares.
          '--web.disable-exporter-metrics',
          '--collector.disable-defaults',
          '--collector.loadavg',
          '--collector.netdev',
          '--collector.netdev.device-exclude=^lo$',
          '--log.level=error',
        ],
        env: {},
        scrape,
      };
    },
  };
}

const PLUGINS = ['load', 'interface', 'write_http'];

function collectd(collector: Collector, { root, libraries }: Unpacked): Subject {
  const command = join(root, 'usr/sbin/collectd');
  const plugins = join(root, 'usr/lib/collectd');
  const files = [command, ...PLUGINS.map((name) => join(plugins, `${name}.so`))];
  collector.expect(slug(COLLECTD), (body) => {
    const names = (body as readonly { plugin: string }[]).map(({ plugin }) => plugin);
    return names.length > 0 && names.every((name) => name === 'load' || name === 'interface');
  });
  return {
    name: COLLECTD,
    size: files.reduce((sum, file) => sum + statSync(file).size, 0),
    async prepare(interval, folder) {
      const config = join(folder, 'collectd.conf');
      // One report per interval, and only the threads that this needs.
      writeFileSync(
        config,
        `Hostname "${sandboxId}"
FQDNLookup false
BaseDir "${folder}"
PIDFile "${join(folder, 'collectd.pid')}"
PluginDir "${plugins}"
TypesDB "${join(root, 'usr/share/collectd/types.db')}"
Interval ${interval}
ReadThreads 1
WriteThreads 1
LoadPlugin load
LoadPlugin interface
<LoadPlugin write_http>
  FlushInterval ${interval}
</LoadPlugin>
<Plugin interface>
  Interface "lo"
  IgnoreSelected true
</Plugin>
<Plugin write_http>
  <Node "bench">
    URL "${collector.url(slug(COLLECTD))}"
    Format "JSON"
    BufferSize 65536
  </Node>
</Plugin>
`,
      );
      return { command, args: ['-f', '-C', config], env: { LD_LIBRARY_PATH: libraries } };
    },
  };
}

/** The first library that `write_http` needs and the dynamic linker does not find. */
function unlinked({ root, libraries }: Unpacked): string | undefined {
  const plugin = join(root, 'usr/lib/collectd/write_http.so');
  const env = { ...process.env, LD_LIBRARY_PATH: libraries };
  const output = execFileSync('ldd', [plugin], { encoding: 'utf8', env });
  return /^\s*(\S+) => not found$/m.exec(output)?.[1];
}

const SYSTEM_ROOTS = '/etc/ssl/certs';

/** Number of distinct certificates in a folder. */
function authorities(folder: string): number {
  const pem = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;
  try {
    const files = readdirSync(folder).filter((name) => /\.(pem|crt)$/.test(name));
    return new Set(files.flatMap((name) => readFileSync(join(folder, name), 'utf8').match(pem))).size;
  } catch {
    return 0;
  }
}

/** All subjects that can run on this machine. `program` is the agent as shipped. */
export function findSubjects(program: string, collector: Collector): Subjects {
  const subjects: Subject[] = [agent(AGENT, program, collector, false, {})];
  const unavailable: Unavailable[] = [];
  const facts: Record<string, string> = {};

  if (collector.ca === undefined) {
    const reason = 'openssl is missing, which makes the certificate';
    unavailable.push({ name: AGENT_CA, reason }, { name: AGENT_ROOTS, reason });
  } else {
    subjects.push(agent(AGENT_CA, program, collector, true, { KILOCLAW_CA_FILE: collector.ca }));
    const count = authorities(SYSTEM_ROOTS);
    if (count === 0) {
      unavailable.push({ name: AGENT_ROOTS, reason: `there are no certificates in ${SYSTEM_ROOTS}` });
    } else {
      facts['Certificate authorities of the system'] = `${count}`;
      // The agent's default folder of certificates, and our authority.
      const trust = { SSL_CERT_FILE: collector.ca, SSL_CERT_DIR: SYSTEM_ROOTS };
      subjects.push(agent(AGENT_ROOTS, program, collector, true, trust));
    }
  }

  const debian = unpacked();
  if (typeof debian === 'string') {
    unavailable.push({ name: EXPORTER, reason: debian }, { name: COLLECTD, reason: debian });
  } else {
    const { versions } = debian;
    facts['prometheus-node-exporter'] = versions['prometheus-node-exporter'];
    subjects.push(exporter(collector, debian));
    const library = unlinked(debian);
    if (library === undefined) {
      facts.collectd = versions['collectd-core'];
      subjects.push(collectd(collector, debian));
    } else {
      unavailable.push({ name: COLLECTD, reason: `${library} is missing` });
    }
  }
  facts.Node = process.version.slice(1);
  subjects.push(node(collector));
  return { subjects, unavailable, facts };
}
