/** Where `npm start` is, for the other commands. */

/** The usual places; another port is chosen if one is taken. */
export const WORKER_PORT = 8787;
export const STORE_PORT = 9310;
export const WORKER_URL = `http://127.0.0.1:${WORKER_PORT}`;
export const STORE_URL = `http://127.0.0.1:${STORE_PORT}`;

/** Written while it runs. */
export const RUNNING_FILE = '.wrangler/running.json';

export interface Running {
  /** The Worker's URL. */
  readonly worker: string;
  /** The local Analytics Engine's. */
  readonly store: string;
}
