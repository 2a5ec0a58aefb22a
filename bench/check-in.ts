/** The check-in that is sent over and over, who sends it, and the data point that it must become. */
import { createHmac } from 'node:crypto';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };

export const CHECK_IN_PATH = '/api/controller/checkin';
export const API_KEY = '8ad1c7f05b3e4d2f9a6070c1e5b2d394';
export const GATEWAY_TOKEN_SECRET = 'f2c4a88be07d4f3d8c5196e3a0b7d2cd';
export const JWT_SECRET = '3d50e9b6c1f8472aa5e4d07b92c61f88';
export const VARS = { KILOCODE_API_KEY: API_KEY, GATEWAY_TOKEN_SECRET, JWT_SECRET };

export const REGION = 'ams';
/** A check-in from this region is a question: the dataset answers it in the log (`dataset.js`). */
export const REPORT_REGION = 'bench-report';

export type Fields = Readonly<Record<string, string | number | null>>;
export type Headers = Readonly<Record<string, string>>;

/** What `peers/floor.js` writes without having looked. */
export const SAMPLE = {
  sandboxId: 'sbx-7f3a9c2e51d84b06',
  machineId: 'e784079b449483',
  controllerVersion: '2026.3.14',
  controllerCommit: '9f8e7d6c5b4a',
  openclawVersion: '2026.3.13',
  openclawCommit: '1a2b3c4d5e6f',
  supervisorState: 'running',
  totalRestarts: 7,
  restartsSinceLastCheckin: 1,
  uptimeSeconds: 86_412.5,
  loadAvg5m: 0.42,
  bandwidthBytesIn: 1_048_576,
  bandwidthBytesOut: 734_003,
  lastExitReason: 'signal:SIGTERM',
} as const satisfies Fields;

export const SAMPLE_BODY = JSON.stringify(SAMPLE);
/** The sample with one field that breaks its rule, the last but one that is looked at. */
export const INVALID_BODY = JSON.stringify({ ...SAMPLE, bandwidthBytesOut: -1 });

export const gatewayToken = (sandboxId: string, secret = GATEWAY_TOKEN_SECRET): string =>
  createHmac('sha256', secret).update(sandboxId).digest('hex');

export const headers = (sandboxId: string, apiKey = API_KEY): Headers => ({
  authorization: `Bearer ${apiKey}`,
  'content-type': 'application/json',
  'fly-region': REGION,
  'x-kiloclaw-gateway-token': gatewayToken(sandboxId),
});

/** The data point of a check-in, laid out as the contract crate says. */
export function dataPoint(fields: Fields, region: string) {
  const values: Fields = { ...fields, flyRegion: region };
  const column = (kind: string) =>
    Object.entries(layout)
      .filter(([slot]) => slot.startsWith(kind))
      .map(([, name]) => values[name] ?? '');
  return { index: column('index')[0], blobs: column('blob'), doubles: column('double') };
}
