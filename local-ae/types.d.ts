import type { Plugin } from 'miniflare';

/** The options of a binding: `dev.options` in a configuration or in Miniflare's `env`. */
export interface DatasetOptions {
  /** The dataset's name. */
  dataset: string;
  /** The endpoint's port on 127.0.0.1; 9310 by default. */
  port?: number;
  /** Removes older points; 90 by default. */
  retentionDays?: number;
  /** Removes the oldest points beyond this number; 1000000 by default. */
  maxRows?: number;
  /** The only bearer token that may query; any token by default. */
  token?: string | null;
  /** Values of `Host` to accept besides 127.0.0.1, localhost and [::1]. */
  allowedHosts?: string[];
}

/** The plugins that Miniflare loads. */
export declare const plugins: { 'local-ae': Plugin };
