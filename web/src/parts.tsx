/** Parts that several views share: numbers, times, texts from machines, and the loading and error states. */
import type { ComponentChildren } from 'preact';
import { useEffect, useReducer } from 'preact/hooks';

import { now as serverTime, type ApiError, type Loaded, type Watcher } from './api.ts';

const integer = new Intl.NumberFormat('en');
const decimal = new Intl.NumberFormat('en', { maximumFractionDigits: 2 });
const hundredths = new Intl.NumberFormat('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const percentage = new Intl.NumberFormat('en', { style: 'percent', minimumFractionDigits: 1, maximumFractionDigits: 1 });
const local = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
/** Without the year, for times in the present year. */
const recent = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', second: '2-digit' });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });

export const count = (number: number): string => integer.format(number);
export const load = (number: number | null): string => (number === null ? '–' : hundredths.format(number));
/** A share of two numbers. Only a complete share is shown as 100 %. */
export const share = (part: number, all: number): string =>
  all === 0 ? '–' : percentage.format(part === all ? 1 : Math.min(part / all, 0.999));

/** Bytes with a decimal prefix. */
export function bytes(number: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB'];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(1, number)) / 3)));
  return `${decimal.format(number / 1_000 ** power)} ${units[power]}`;
}

/** Seconds as `45 s`, `17 min`, `3 h 5 min`, `2 d 4 h`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (large: number, small: number, a: string, b: string) => {
    const rest = Math.floor((whole % large) / small);
    return `${Math.floor(whole / large)} ${a}${rest > 0 ? ` ${rest} ${b}` : ''}`;
  };
  if (whole < 60) return `${whole} s`;
  if (whole < 3_600) return `${Math.floor(whole / 60)} min`;
  return whole < 86_400 ? two(3_600, 60, 'h', 'min') : two(86_400, 3_600, 'd', 'h');
}

/** Control characters, and marks that change the direction of a text or are invisible. */
const INVISIBLE =
  /[\p{Cc}\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\u{e0000}-\u{e0fff}]/gu;

/** A text from a machine without invisible characters. */
export const visible = (text: string): string =>
  text.replace(INVISIBLE, (mark) => `\\u{${mark.codePointAt(0)!.toString(16)}}`);

/** A text from a machine. It has its own direction, and cannot break the page. */
export const Text = ({ of }: { of: string | null | undefined }) =>
  of === null || of === undefined || of === '' ? (
    <span class="muted">unknown</span>
  ) : (
    <bdi class="text" title={visible(of)}>
      {visible(of)}
    </bdi>
  );

/** The server's time, updated every ten seconds. */
export function useNow(): number {
  const [, update] = useReducer((count: number) => count + 1, 0);
  useEffect(() => {
    const timer = setInterval(() => update(undefined as never), 10_000);
    return () => clearInterval(timer);
  }, []);
  return serverTime();
}

/** Seconds since the watcher's last tick if that is too long; otherwise 0. */
export function lateness({ watch, tickSeconds }: Watcher, now: number): number {
  const seconds = watch.lastTick === null ? 0 : (now - Date.parse(watch.lastTick)) / 1_000;
  return seconds > 3 * tickSeconds + 60 ? seconds : 0;
}

/** A time in the reader's zone, with UTC on hover. */
export const Time = ({ at, short }: { at: string; short?: boolean }) => (
  <time dateTime={at} title={`${at.replace('T', ' ').replace('Z', '')} UTC`}>
    {(short ? clock : at.startsWith(`${new Date().getFullYear()}-`) ? recent : local).format(new Date(at))}
  </time>
);

/** The age of a time, with both zones on hover. */
export function Ago({ at }: { at: string }) {
  const seconds = (useNow() - Date.parse(at)) / 1_000;
  const title = `${local.format(new Date(at))} · ${at.replace('T', ' ').replace('Z', '')} UTC`;
  return (
    <time dateTime={at} title={title}>
      {duration(seconds)}
    </time>
  );
}

/** The address of a view with its parameters, without undefined ones. Every view keeps the window. */
export function href(view: string, parameters: Readonly<Record<string, string | undefined>> = {}): string {
  const window = new URLSearchParams(location.hash.split('?')[1]).get('window') ?? undefined;
  const given = Object.entries({ window, ...parameters }).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const query = new URLSearchParams(given).toString();
  return `#/${view}${query ? `?${query}` : ''}`;
}

export const SandboxLink = ({ id }: { id: string }) => (
  <a href={href(`sandboxes/${encodeURIComponent(id)}`)}>
    <Text of={id} />
  </a>
);

/** Colours of the supervised process' states; others are `off`. */
export const STATES: Readonly<Record<string, string>> = { running: 'ok', crashed: 'bad', starting: 'warn' };

/** The supervised process' state, by shape and colour. */
export function State({ of, silent }: { of: string; silent?: boolean }) {
  return (
    <span class={`state ${silent && of in STATES ? 'warn' : (STATES[of] ?? 'off')}`}>
      {silent && 'silent, last '}
      <Text of={of} />
    </span>
  );
}

const ADVICE: Record<string, string> = {
  other_sandbox: 'Your token may see one sandbox only.',
  missing_scope: 'You may only read: this needs the scope absences:write.',
  misconfigured: 'The Worker lacks a setting:',
  analytics_limited: 'Analytics Engine limits the rate. The page retries automatically.',
  rate_limited: 'Too many requests. The page retries automatically.',
  analytics_timeout: 'Analytics Engine did not answer in time. The page retries automatically.',
  access_login: 'Reload the page to log in to Cloudflare Access again.',
  unknown_sandbox: 'It did not check in within this window. A longer one may show it.',
};

export function Problem({ error, reload }: { error: ApiError; reload?: () => void }) {
  const { setting, field, expected } = error.body;
  return (
    <div class="problem" role="alert">
      <strong>{error.status === 0 && !navigator.onLine ? 'You are offline' : error.message}</strong>
      <p>
        {ADVICE[error.code] ?? (error.status === 0 ? 'The page retries automatically.' : '')} {setting}
        {field && ` ${field}`}
        {expected && `: ${expected}`} {error.code && <code>{error.code}</code>}
      </p>
      {reload && (
        <button type="button" onClick={reload}>
          Try again
        </button>
      )}
    </div>
  );
}

/** The loading, error or loaded state; data that could not be refreshed are marked as old. */
export function Shown<T>({ of, children }: { of: Loaded<T>; children: (data: T) => ComponentChildren }) {
  const { data, error, reload } = of;
  if (data === undefined) {
    return error ? <Problem error={error} reload={reload} /> : <div class="loading" role="status">Loading…</div>;
  }
  return (
    <>
      {error && <Problem error={error} reload={reload} />}
      <div class={error ? 'old' : undefined}>{children(data)}</div>
    </>
  );
}

/** The name of a column; a column of numbers is aligned to the right. */
type Column = string | { readonly number: string };

/**
 * A table that scrolls in its own region, also by keyboard; `children` are its rows. Browsers drop the implicit roles
 * where the style sheet changes the layout of rows, so the roles are explicit.
 */
export function Table(props: { label: string; class?: string; columns: readonly Column[]; children: ComponentChildren }) {
  return (
    <div class={`scroll ${props.class ?? ''}`} tabIndex={0} role="region" aria-label={props.label}>
      <table role="table">
        <thead role="rowgroup">
          <tr role="row">
            {props.columns.map((column, i) => (
              <th key={i} role="columnheader" scope="col" class={typeof column === 'string' ? undefined : 'number'}>
                <bdi>{typeof column === 'string' ? column : column.number}</bdi>
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">{props.children}</tbody>
      </table>
    </div>
  );
}

/** A view's parameters in the address, and a function that sets one. */
export interface ViewProps {
  readonly parameters: URLSearchParams;
  readonly set: (name: string, value: string) => void;
}

/** How far a view looks back, in the API's format. */
export const windowOf = (parameters: URLSearchParams): string => parameters.get('window') ?? '24h';

export const WindowChoice = ({ parameters, set }: ViewProps) => (
  <Choice label="Window" value={windowOf(parameters)} options={WINDOWS} onChange={(value) => set('window', value)} />
);

/** A labelled select. */
export function Choice(props: {
  label: string;
  value: string;
  options: readonly (readonly [value: string, text: string])[];
  onChange: (value: string) => void;
}) {
  return (
    <label>
      {props.label}
      <select value={props.value} onChange={(event) => props.onChange(event.currentTarget.value)}>
        {props.options.map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
}

const WINDOWS = [
  ['1h', '1 hour'],
  ['6h', '6 hours'],
  ['24h', '1 day'],
  ['7d', '7 days'],
  ['30d', '30 days'],
] as const;
