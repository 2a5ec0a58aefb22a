/** A check-in and its credentials, derived independently of the code under test. */
import { createHmac } from 'node:crypto';

export const CHECK_IN_PATH = '/api/controller/checkin';

// Long enough that the Worker does not warn about short secrets.
export const API_KEY = 'kilo-key-1-of-tests';
export const GATEWAY_TOKEN_SECRET = 'gateway-secret-1';
export const JWT_SECRET = 'jwt-secret-1-of-tests-of-32-bytes';
export const AE_API_TOKEN = 'ae-token-1';
/** The Worker's secrets in tests and the bench. */
export const WORKER_SECRETS = { KILOCODE_API_KEY: API_KEY, GATEWAY_TOKEN_SECRET, JWT_SECRET };

export const MAX_BODY_BYTES = 64 * 1024;

export const SANDBOX_ID = 'sandbox-1';

export const gatewayToken = (sandboxId: string, secret = GATEWAY_TOKEN_SECRET): string =>
  createHmac('sha256', secret).update(sandboxId).digest('hex');

export const credentials = (sandboxId: string, key = API_KEY): Record<string, string> => ({
  authorization: `Bearer ${key}`,
  'x-kiloclaw-gateway-token': gatewayToken(sandboxId),
});

/** A body with every field of the contract. */
export const FULL = {
  sandboxId: SANDBOX_ID,
  machineId: 'machine-1',
  controllerVersion: '1.2.3',
  controllerCommit: 'abc1234',
  openclawVersion: '2026.3.13',
  openclawCommit: 'def5678',
  supervisorState: 'running',
  totalRestarts: 7,
  restartsSinceLastCheckin: 2,
  uptimeSeconds: 3600.5,
  loadAvg5m: 0.42,
  bandwidthBytesIn: 123_456_789_012,
  bandwidthBytesOut: 1_000,
  lastExitReason: 'signal:SIGTERM',
} as const;

/** A body with the required fields only: the shortest texts, and null where that is allowed. */
export const MINIMAL = {
  sandboxId: 'sandbox-2',
  controllerVersion: '1',
  controllerCommit: 'a',
  openclawVersion: null,
  openclawCommit: null,
  supervisorState: 'stopped',
  totalRestarts: 0,
  restartsSinceLastCheckin: 0,
  uptimeSeconds: 0,
  loadAvg5m: 0,
  bandwidthBytesIn: 0,
  bandwidthBytesOut: 0,
} as const;
