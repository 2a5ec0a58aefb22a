/** The URLs of `npm start`, for the other commands. */

/** The default ports; `npm start` uses a free one if a port is in use. */
export const WORKER_PORT = 8787;
export const STORE_PORT = 9310;
export const WORKER_URL = `http://127.0.0.1:${WORKER_PORT}`;
export const STORE_URL = `http://127.0.0.1:${STORE_PORT}`;

/** Exists while `npm start` runs. */
export const RUNNING_FILE = '.wrangler/running.json';

export interface Running {
  readonly worker: string;
  /** URL of the local Analytics Engine. */
  readonly store: string;
}
