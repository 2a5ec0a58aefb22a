/** The check-in that the bench sends, and its credentials. */
import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import { API_KEY, credentials } from '../harness/check-in.ts';

export const REGION = 'ams';
/** On a check-in from this region, the dataset logs its count instead of counting (`dataset.js`). */
export const REPORT_REGION = 'bench-report';

export type Fields = Readonly<Record<string, string | number | null>>;
export type Headers = Readonly<Record<string, string>>;

/** `peers/floor.js` writes these values without reading the body. */
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
/** The sample with one invalid field, the last but one in the order of checks. */
export const INVALID_BODY = JSON.stringify({ ...SAMPLE, bandwidthBytesOut: -1 });

export const headers = (sandboxId: string, apiKey = API_KEY): Headers => ({
  ...credentials(sandboxId, apiKey),
  'content-type': 'application/json',
  'fly-region': REGION,
});

/** The data point of a check-in, in the contract crate's layout. */
export function dataPoint(fields: Fields, region: string) {
  const values: Fields = { ...fields, flyRegion: region };
  const column = (kind: string) =>
    Object.entries(layout)
      // Nobody here sends figures of the disk, and then the point has no slots for them.
      .filter(([slot, name]) => slot.startsWith(kind) && !name.startsWith('disk'))
      .map(([, name]) => values[name] ?? '');
  return { index: column('index')[0], blobs: column('blob'), doubles: column('double') };
}
