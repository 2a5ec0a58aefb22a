/**
 * The agent's work in a bare Node process: node:http, no library, no retries, no signals, and only these
 * settings. It lacks most features of the agent, so its cost is a lower bound for Node.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';

const { CHECKIN_URL, STATUS_URL, API_KEY, GATEWAY_TOKEN, SANDBOX_ID, STATE_FILE, INTERVAL } =
  /** @type {Record<string, string>} */ (process.env);

/** @type {(url: string, headers: Record<string, string>, body?: string) => Promise<{status?: number, text: string}>} */
const ask = (url, headers, body) =>
  new Promise((resolve, reject) => {
    const method = body === undefined ? 'GET' : 'POST';
    // No pool, like the agent: the server would have closed the connection by the next report.
    const sent = request(url, { method, headers, agent: false, timeout: 10_000 }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part) => (text += part));
      response.on('end', () => resolve({ status: response.statusCode, text })).on('error', reject);
    });
    sent.on('timeout', () => sent.destroy(new Error('no answer'))).on('error', reject).end(body);
  });

/** The sums over all interfaces except the loopback. */
function network() {
  const bytes = { in: 0, out: 0 };
  for (const line of readFileSync('/proc/net/dev', 'utf8').split('\n').slice(2)) {
    const [name, numbers = ''] = line.trim().split(':');
    if (name === '' || name === 'lo') continue;
    const fields = numbers.trim().split(/\s+/).map(Number);
    bytes.in += fields[0];
    bytes.out += fields[8];
  }
  return bytes;
}

let reported = { ...network(), restarts: 0 };

async function checkIn() {
  const now = network();
  const answer = await ask(STATUS_URL, { authorization: `Bearer ${GATEWAY_TOKEN}` });
  const { state, restarts, uptime } = JSON.parse(answer.text);
  const body = JSON.stringify({
    sandboxId: SANDBOX_ID,
    machineId: '',
    controllerVersion: '0.1.0',
    controllerCommit: '',
    openclawVersion: null,
    openclawCommit: null,
    supervisorState: state,
    totalRestarts: restarts,
    restartsSinceLastCheckin: restarts - reported.restarts,
    uptimeSeconds: uptime,
    loadAvg5m: Number(readFileSync('/proc/loadavg', 'utf8').split(' ')[1]),
    bandwidthBytesIn: now.in - reported.in,
    bandwidthBytesOut: now.out - reported.out,
    lastExitReason: '',
  });
  const { status } = await ask(
    CHECKIN_URL,
    {
      authorization: `Bearer ${API_KEY}`,
      'content-type': 'application/json',
      'content-length': `${Buffer.byteLength(body)}`,
      'x-kiloclaw-gateway-token': GATEWAY_TOKEN,
    },
    body,
  );
  if (status === 204) reported = { ...now, restarts };
  writeFileSync(`${STATE_FILE}.new`, JSON.stringify(reported));
  renameSync(`${STATE_FILE}.new`, STATE_FILE);
}

await checkIn();
setInterval(checkIn, Number(INTERVAL) * 1_000);
