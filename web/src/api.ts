/** The operators' API: requests, the principal's token, and polling. */
import { useEffect, useReducer, useRef } from 'preact/hooks';

/** Polling interval, in milliseconds. A report is fresh for 15 s. */
const POLL_MS = 30_000;
/** Maximum wait that a response may request, in milliseconds. */
const MAX_WAIT_MS = 3_600_000;
const TOKEN_KEY = 'kiloclaw-token';
/** Prefix of the token that `npm start` puts into `window.name`: a URL would stay in the history. */
const HANDED_OVER = 'kiloclaw-token:';

/** The claims that the page reads. Only the Worker verifies the signature. */
export interface Claims {
  readonly sub?: string;
  /** In seconds since 1970. */
  readonly exp?: number;
  readonly sandbox_id?: string;
  readonly scope?: string;
}

/** An error response; the status is 0 if there was no response. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;
  /** The other members of the body. */
  readonly body: Readonly<Record<string, string>>;

  constructor(status: number, body: Readonly<Record<string, string>>) {
    super(body.error ?? `status ${status}`);
    this.status = status;
    this.code = body.code ?? '';
    this.body = body;
  }
}

/** A storage of the browser. If it is blocked, returns one that lasts until the reader leaves the page. */
export function storage(name: 'sessionStorage' | 'localStorage'): Pick<Storage, 'getItem' | 'setItem' | 'removeItem'> {
  try {
    return window[name];
  } catch {
    const kept = new Map<string, string>();
    return {
      getItem: (key) => kept.get(key) ?? null,
      setItem: (key, value) => void kept.set(key, value),
      removeItem: (key) => void kept.delete(key),
    };
  }
}

const tab = storage('sessionStorage');

/** The token of this tab. Session storage ends with the tab, and other tabs do not see it. */
export const session = {
  get token(): string | null {
    return tab.getItem(TOKEN_KEY);
  },
  set token(token: string | null) {
    cache.clear();
    if (token === null) tab.removeItem(TOKEN_KEY);
    else tab.setItem(TOKEN_KEY, token);
  },
  /** The claims of the token; empty without one, as behind Cloudflare Access. */
  get claims(): Claims {
    return (session.token && claims(session.token)) || {};
  },
};

/** The claims of a token; undefined if it is not a JWT. */
export function claims(token: string): Claims | undefined {
  try {
    const payload = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(payload), (char) => char.charCodeAt(0));
    return Object(JSON.parse(new TextDecoder().decode(bytes)));
  } catch {
    return undefined;
  }
}

/** Takes the token of `npm start`, on this machine only. */
export function takeOver(): void {
  if (!window.name.startsWith(HANDED_OVER)) return;
  const token = window.name.slice(HANDED_OVER.length);
  window.name = '';
  if (['localhost', '127.0.0.1'].includes(location.hostname)) session.token = token;
}

/** How far the server's clock is ahead of the reader's, in milliseconds. */
let skew = 0;
/** Smaller differences are not corrected: a report may have been cached for 15 s, and its queries take time. */
const LEAST_SKEW_MS = 30_000;

/** The server's time, in milliseconds since 1970: ages and expiry must not depend on the reader's clock. */
export const now = (): number => Date.now() + skew;

function setClock(date: string | undefined): void {
  const ahead = Date.parse(date ?? '') - Date.now();
  if (!Number.isNaN(ahead)) skew = Math.abs(ahead) < LEAST_SKEW_MS ? 0 : ahead;
}

interface Kept {
  readonly etag: string | null;
  readonly data: unknown;
}

/** The last responses, by path. */
const cache = new Map<string, Kept>();
const MAX_KEPT = 50;

/** Sends a request; throws an {@link ApiError} for an error response or none. */
export async function request<T>(path: string, init: RequestInit = {}): Promise<T> {
  const { token } = session;
  const kept = init.method === undefined ? cache.get(path) : undefined;
  let response;
  try {
    const headers = new Headers(init.headers);
    if (token !== null) headers.set('authorization', `Bearer ${token}`);
    if (kept?.etag) headers.set('if-none-match', kept.etag);
    // The page keeps responses itself: the browser's cache would hide whether they were refreshed.
    response = await fetch(path, { ...init, headers, cache: 'no-store', redirect: 'manual' });
  } catch {
    throw new ApiError(0, { error: 'The Worker cannot be reached' });
  }
  // Without a session, Cloudflare Access redirects to its login, which a page's request cannot follow.
  if (response.type === 'opaqueredirect') throw new ApiError(0, { error: 'Your session has ended', code: 'access_login' });
  if (response.status === 304 && kept) return kept.data as T;
  const body = await response.json().catch(() => ({}));
  setClock(response.headers.get('date') ?? body.asOf);
  if (!response.ok) {
    throw new ApiError(response.status, { retryAfter: response.headers.get('retry-after') ?? '', ...body });
  }
  // Another principal may have signed in meanwhile.
  if (init.method === undefined && session.token === token) {
    cache.delete(path);
    cache.set(path, { etag: response.headers.get('etag'), data: body });
    if (cache.size > MAX_KEPT) cache.delete(cache.keys().next().value!);
  }
  return body;
}

/** Runs a function that sends requests; returns the error if one fails. */
export async function refusalOf(run: () => Promise<unknown>): Promise<ApiError | undefined> {
  try {
    await run();
  } catch (error) {
    if (error instanceof ApiError) return error;
    throw error;
  }
  return undefined;
}

/** The latest data of a path. They stay when later requests fail, and are then stale. */
export interface Loaded<T> {
  readonly data: T | undefined;
  readonly error: ApiError | undefined;
  /** Sends the request again now. */
  readonly reload: () => void;
}

/**
 * The response to a path, polled every 30 s while the tab is visible; `undefined` sends no request yet. After
 * unmounting, responses are ignored.
 */
export function useApi<T>(path: string | undefined): Loaded<T> {
  const [, update] = useReducer((count: number) => count + 1, 0);
  const state = useRef<{ path?: string; data?: T; error?: ApiError }>({});
  const reload = useRef(() => {});
  if (state.current.path !== path) {
    state.current = { path, data: path === undefined ? undefined : (cache.get(path)?.data as T | undefined) };
  }
  useEffect(() => {
    if (path === undefined) return;
    let timer: ReturnType<typeof setTimeout> | undefined;
    /** When the next request is due, in milliseconds since 1970. */
    let due = 0;
    /** Number of the latest request. Responses to earlier requests are dropped, so only one timer is ever set. */
    let latest = 0;
    let isOver = false;
    const load = async () => {
      clearTimeout(timer);
      if (isOver) return;
      due = Date.now() + POLL_MS;
      const mine = ++latest;
      try {
        const data = await request<T>(path);
        if (isOver || mine !== latest) return;
        state.current = { path, data };
      } catch (error) {
        if (isOver || mine !== latest) return;
        if (!(error instanceof ApiError)) throw error;
        state.current = { path, data: state.current.data, error };
        if (error.status === 401) window.dispatchEvent(new CustomEvent('signed-out', { detail: error }));
      }
      update(undefined as never);
      const seconds = Number(state.current.error?.body.retryAfter);
      due = Date.now() + Math.min(Math.max(POLL_MS, seconds > 0 ? 1_000 * seconds : 0), MAX_WAIT_MS);
      seen();
    };
    /** Waits until the next request is due, unless the tab is hidden. */
    const seen = () => {
      clearTimeout(timer);
      if (!isOver && !document.hidden) timer = setTimeout(load, Math.max(0, due - Date.now()));
    };
    const online = () => {
      // Respects the server's `retry-after`.
      if (!state.current.error?.body.retryAfter) due = 0;
      seen();
    };
    reload.current = () => void load();
    document.addEventListener('visibilitychange', seen);
    window.addEventListener('online', online);
    seen();
    return () => {
      isOver = true;
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', seen);
      window.removeEventListener('online', online);
    };
  }, [path]);
  return { data: state.current.data, error: state.current.error, reload: () => reload.current() };
}

// The parts of responses that the page shows. openapi.json describes all of them.

/** The principal behind Cloudflare Access, where the page does not see the token. */
export interface Whoami {
  readonly sub: string | null;
  readonly sandboxId: string | null;
  readonly scope: string;
  readonly via: 'jwt' | 'access' | 'internal';
}

export interface Facet {
  readonly value: string | null;
  readonly sandboxes: number;
  readonly reporting: number;
}

export interface Fleet {
  readonly noCheckInsYet?: true;
  readonly asOf: string;
  readonly silentAfterSeconds: number;
  readonly sandboxes: number;
  readonly machines: number;
  readonly checkIns: number;
  readonly reporting: number;
  readonly silent: number;
  readonly silentAfterShutdown: number;
  readonly restarts: number;
  readonly restartedSandboxes: number;
  readonly bandwidthBytesIn: number;
  readonly bandwidthBytesOut: number;
  readonly loadAvg5m: { readonly p50: number | null; readonly p95: number | null };
  readonly supervisorStates: readonly Facet[];
  readonly controllerVersions: readonly Facet[];
  readonly openclawVersions: readonly Facet[];
  readonly flyRegions: readonly Facet[];
  readonly sampleInterval: number;
  readonly missing: readonly string[];
}

/** The numbers of one value, one for each step; the name is null for all other values. */
export interface Series {
  readonly name: string | null;
  readonly sandboxes: readonly number[];
  readonly restarts?: readonly number[];
}

export interface FleetHistory {
  readonly stepSeconds: number;
  readonly times: readonly string[];
  readonly sandboxes: readonly number[];
  readonly states: readonly Series[];
  readonly controllerVersions: readonly Series[];
  readonly openclawVersions: readonly Series[];
}

export interface Incident {
  readonly kind: 'no_check_ins' | 'clone' | 'crash_loop' | 'silent';
  readonly severity: 'critical' | 'warning' | 'info';
  readonly sandboxId?: string;
  readonly since: string;
  readonly lastRestart?: string;
  readonly restarts?: number;
  readonly mostInAnHour?: number;
  readonly machines?: number;
  readonly lastExitReason?: string | null;
  readonly supervisorState?: string;
  readonly flyRegion?: string | null;
}

export interface Incidents {
  readonly asOf: string;
  readonly totals: { readonly clones: number; readonly crashLoops: number; readonly silent: number };
  readonly incidents: readonly Incident[];
  readonly missing: readonly string[];
}

export interface Sandbox {
  readonly sandboxId: string;
  readonly silent: boolean;
  readonly firstSeen: string;
  readonly lastSeen: string;
  readonly supervisorState: string;
  readonly machineId: string | null;
  readonly flyRegion: string | null;
  readonly controllerVersion: string;
  readonly controllerCommit: string;
  readonly openclawVersion: string | null;
  readonly openclawCommit: string | null;
  readonly lastExitReason: string | null;
  readonly uptimeSeconds: number;
  readonly loadAvg5m: number;
  readonly diskUsedBytes: number | null;
  readonly diskTotalBytes: number | null;
  readonly totalRestarts: number;
  readonly checkIns: number;
  readonly restarts: number;
  readonly bandwidthBytesIn: number;
  readonly bandwidthBytesOut: number;
}

export interface Sandboxes {
  readonly asOf: string;
  readonly next: string | null;
  readonly sandboxes: readonly Sandbox[];
}

export interface SandboxSummary {
  readonly asOf: string;
  readonly sandbox: Sandbox;
  readonly load: { readonly p50: number | null; readonly p95: number | null; readonly max: number | null };
  readonly machines: readonly {
    readonly machineId: string | null;
    readonly firstSeen: string;
    readonly lastSeen: string;
    readonly checkIns: number;
  }[];
}

export interface Step {
  readonly start: string;
  readonly checkIns: number;
  readonly restarts: number;
  readonly loadAvg5m: number | null;
  readonly bandwidthBytesIn: number;
  readonly bandwidthBytesOut: number;
  readonly supervisorState: string | null;
  readonly lastExitReason: string | null;
  readonly controllerVersion: string | null;
  readonly openclawVersion: string | null;
  readonly diskUsedBytes: number | null;
  readonly diskTotalBytes: number | null;
}

export interface History {
  readonly from: string;
  readonly asOf: string;
  readonly stepSeconds: number;
  readonly steps: readonly Step[];
}

export interface Alert {
  readonly id: number;
  readonly at: string;
  readonly kind: string;
  readonly event: 'opened' | 'closed';
  readonly scope: 'sandbox' | 'region' | 'fleet' | 'watcher';
  readonly sandboxId: string | null;
  readonly region: string | null;
  readonly since: string;
  readonly until: string | null;
  readonly reason: string;
  readonly sent: boolean;
}

export interface Alerts {
  readonly alerts: readonly Alert[];
  readonly next: number | string | null;
}

export interface Absence {
  readonly sandboxId: string | null;
  readonly region: string | null;
  readonly since: string;
  readonly until: string | null;
  readonly reason: string;
  readonly by: string;
}

export interface Absences {
  readonly absences: readonly Absence[];
  readonly next: string | null;
}

export interface Channel {
  readonly channel: string;
  readonly state: 'on' | 'off' | 'not_configured' | 'misconfigured';
  readonly undelivered: number;
  readonly lastFailure: { readonly at: string; readonly reason: string } | null;
}

/** An open incident that needs attention. */
export interface OpenAlert {
  readonly kind: 'quiet' | 'clone' | 'crash_loop' | 'flapping' | 'silent' | 'overdue';
  /** Null for an outage; the region is null, too, for an outage of the fleet. */
  readonly sandboxId: string | null;
  readonly region: string | null;
  readonly since: string;
  readonly reason: string;
  readonly planned: boolean;
}

export interface Watcher {
  readonly asOf: string;
  readonly state: 'on' | 'off';
  readonly reason: string | null;
  readonly tickSeconds: number;
  readonly watch: {
    readonly lastTick: string | null;
    readonly horizon: string | null;
    readonly lagSeconds: number;
    readonly degradedSince: string | null;
    readonly failure: string | null;
    readonly quiet: readonly string[];
    readonly open: Readonly<Record<string, number>>;
  };
  /** Null before the first count. */
  readonly sandboxes: number | null;
  readonly attention: readonly OpenAlert[];
  readonly channels: readonly Channel[];
  readonly heartbeat: Channel;
  readonly settingErrors: readonly { readonly name: string; readonly expected: string }[];
  readonly undelivered: readonly {
    readonly id: string;
    readonly channel: string;
    readonly type: string;
    readonly createdAt: string;
    readonly attempts: number;
    readonly nextAt: string;
    readonly failure: string | null;
  }[];
}

export interface Availability {
  readonly reportingSeconds: number;
  readonly silentSeconds: number;
  readonly absentSeconds: number;
  readonly share: number | null;
}
