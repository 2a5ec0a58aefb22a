/** The list of sandboxes, and the view of one sandbox. */
import { useEffect, useState } from 'preact/hooks';

import {
  useApi,
  type Alert,
  type Alerts,
  type Availability,
  type Absences,
  type History,
  type Sandbox,
  type Sandboxes,
  type SandboxSummary,
  type Step,
} from './api.ts';
import { AlertRows } from './alerts.tsx';
import { Chart } from './chart.tsx';
import {
  Ago,
  bytes,
  Choice,
  count,
  duration,
  href,
  load,
  SandboxLink,
  share,
  Shown,
  State,
  STATES,
  Table,
  Text,
  Time,
  visible,
  windowOf,
  WindowChoice,
  type ViewProps,
} from './parts.tsx';

/** Rows of a page. */
const PAGE = '50';
/** Parameters that the address and the API have in common. */
const FILTERS = ['prefix', 'state', 'region', 'version', 'silent', 'restarted', 'sort', 'window', 'cursor'];

const SORTS = [
  ['sandbox_id', 'Id'],
  ['-last_seen', 'Last seen, newest'],
  ['last_seen', 'Last seen, oldest'],
  ['-restarts', 'Restarts'],
  ['-load', 'Load'],
  ['-disk', 'Disk, fullest'],
  ['uptime', 'Uptime, shortest'],
] as const;

/** Parameters that may be empty, which means unknown. */
const UNKNOWN = ['region', 'version'];

function Row({ sandbox }: { sandbox: Sandbox }) {
  return (
    <tr>
      <td>
        <SandboxLink id={sandbox.sandboxId} />
      </td>
      <td>
        <State of={sandbox.supervisorState} silent={sandbox.silent} />
      </td>
      <td class="number">
        <Ago at={sandbox.lastSeen} />
      </td>
      <td class="number">{count(sandbox.restarts)}</td>
      <td class="number">{load(sandbox.loadAvg5m)}</td>
      <td class="number">{sandbox.diskUsedBytes === null ? '–' : share(sandbox.diskUsedBytes, sandbox.diskTotalBytes ?? 0)}</td>
      <td class="number">{duration(sandbox.uptimeSeconds)}</td>
      <td>
        <Text of={sandbox.flyRegion} />
      </td>
      <td>
        <Text of={sandbox.controllerVersion} />
      </td>
      <td>
        <Text of={sandbox.openclawVersion} />
      </td>
    </tr>
  );
}

/** A filter by text. Refreshing the rows does not disturb typing. */
function Filter(props: { label: string; value: string; empty: string; onChange: (value: string) => void }) {
  const { label, value, empty, onChange } = props;
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  return (
    <label>
      {label}
      <input
        type="search"
        value={text}
        placeholder={empty}
        maxLength={96}
        onInput={(event) => setText(event.currentTarget.value)}
        onChange={(event) => onChange(event.currentTarget.value.trim())}
      />
    </label>
  );
}

export function SandboxesView({ parameters, set }: ViewProps) {
  const given = FILTERS.filter((name) => parameters.get(name) || (UNKNOWN.includes(name) && parameters.has(name))).map((name) => [name, parameters.get(name)!]);
  const list = useApi<Sandboxes>(`/api/sandboxes?${new URLSearchParams([...given, ['limit', PAGE]])}`);
  const value = (name: string) => parameters.get(name) ?? '';
  const text = (name: string, label: string) => (
    <Filter label={label} value={value(name)} empty={parameters.has(name) ? 'unknown' : ''} onChange={(text) => set(name, text)} />
  );
  return (
    <>
      <div class="title">
        <h1>Sandboxes</h1>
      </div>
      <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
        {text('prefix', 'Id begins with')}
        {text('state', 'State')}
        {text('region', 'Region')}
        {text('version', 'Version')}
        <Choice
          label="Silent"
          value={value('silent')}
          options={[['', 'all'], ['true', 'silent'], ['false', 'reporting']]}
          onChange={(choice) => set('silent', choice)}
        />
        <Choice
          label="Restarted"
          value={value('restarted')}
          options={[['', 'all'], ['true', 'yes'], ['false', 'no']]}
          onChange={(choice) => set('restarted', choice)}
        />
        <Choice label="Order" value={value('sort') || 'sandbox_id'} options={SORTS} onChange={(choice) => set('sort', choice)} />
        <WindowChoice parameters={parameters} set={set} />
      </form>
      {list.error?.body.field === 'cursor' && (
        <p class="note">
          A page is kept for an hour.{' '}
          <button type="button" onClick={() => set('cursor', '')}>
            First page
          </button>
        </p>
      )}
      <Shown of={list}>
        {(data) =>
          data.sandboxes.length === 0 ? (
            <div class="empty">
              <h2>No sandbox matches</h2>
              <p>
                Change the filters, or <a href="#/sandboxes">show all</a>.
              </p>
            </div>
          ) : (
            <section class="panel">
              <Table label="Sandboxes" columns={['Sandbox', 'State', { number: 'Last seen' }, { number: 'Restarts' }, { number: 'Load' }, { number: 'Disk' }, { number: 'Uptime' }, 'Region', 'Controller', 'OpenClaw']}>
                {data.sandboxes.map((sandbox) => (
                  <Row key={sandbox.sandboxId} sandbox={sandbox} />
                ))}
              </Table>
              <nav class="pages" aria-label="Pages">
                {parameters.get('cursor') && (
                  <button type="button" onClick={() => set('cursor', '')}>
                    First page
                  </button>
                )}
                {data.next && (
                  <button type="button" onClick={() => set('cursor', data.next!)}>
                    Next page
                  </button>
                )}
                <span class="muted">
                  as of <Time at={data.asOf} short />
                </span>
              </nav>
            </section>
          )
        }
      </Shown>
    </>
  );
}

interface Part {
  readonly value: string | null;
  readonly start: string;
  steps: number;
}

/** Spans of steps with the same value. */
function spans(steps: readonly Step[], of: (step: Step) => string | null): Part[] {
  const found: Part[] = [];
  for (const step of steps) {
    const value = of(step);
    const last = found.at(-1);
    if (last !== undefined && last.value === value) last.steps++;
    else found.push({ value, start: step.start, steps: 1 });
  }
  return found;
}

/** The versions that the sandbox ran, newest first, with the step in which each began. */
function versions(steps: readonly Step[], of: (step: Step) => string | null): Part[] {
  return spans(steps.filter((step) => step.checkIns > 0), of).toReversed();
}

/** A period in the window in which an incident or absence was open. */
interface Stretch {
  readonly kind: string;
  readonly from: number;
  readonly until: number;
}

/** These periods, from a sandbox's transitions, which are newest first. */
function stretches(alerts: readonly Alert[], from: number, until: number): Stretch[] {
  /** Kinds that closed after the current transition. */
  const closed = new Set<string>();
  const found: Stretch[] = [];
  for (const { kind, event, since, at, until: end } of alerts) {
    if (event === 'closed') found.push({ kind, from: Date.parse(since), until: end === null ? Date.parse(at) : Date.parse(end) });
    else if (!closed.has(kind)) found.push({ kind, from: Date.parse(since), until });
    if (event === 'closed') closed.add(kind);
    else closed.delete(kind);
  }
  return found
    .map((stretch) => ({ ...stretch, from: Math.max(from, stretch.from), until: Math.min(until, stretch.until) }))
    .filter((stretch) => stretch.until > stretch.from);
}

/** The time axis of states, alerts and charts: from the first step to the end of the last one, in ms since 1970. */
function axisOf({ from, asOf, steps, stepSeconds }: History): [from: number, until: number] {
  const [first, last] = [steps.at(0)?.start ?? from, steps.at(-1)?.start];
  return [Date.parse(first), last === undefined ? Date.parse(asOf) : Date.parse(last) + stepSeconds * 1_000];
}

/** Kinds of transitions that are not problems. */
const ON_PURPOSE = ['absent', 'stopped'];

/** One row for each kind of alert or absence, on the states' time axis. */
function Lanes({ history, alerts }: { history: History; alerts: readonly Alert[] }) {
  const [from, until] = axisOf(history);
  const all = stretches(alerts, from, until);
  const percent = (time: number) => `${(100 * (time - from)) / (until - from)}%`;
  const name = (kind: string) => kind.replaceAll('_', ' ');
  const said = ({ kind, from, until }: Stretch) =>
    `${name(kind)} from ${new Date(from).toLocaleString()}, ${duration((until - from) / 1_000)}`;
  return (
    <>
      {[...new Set(all.map(({ kind }) => kind))].map((kind) => {
        const own = all.filter((stretch) => stretch.kind === kind);
        return (
          <div key={kind} class="lane on-axis" role="img" aria-label={own.map(said).join('; ')}>
            {own.map((stretch) => (
              <span
                key={stretch.from}
                class={ON_PURPOSE.includes(kind) ? 'off' : 'bad'}
                style={{ left: percent(stretch.from), width: percent(from + stretch.until - stretch.from) }}
                title={said(stretch)}
              />
            ))}
            <em>{name(kind)}</em>
          </div>
        );
      })}
    </>
  );
}

function Timeline({ history, alerts }: { history: History; alerts: readonly Alert[] }) {
  const parts = spans(history.steps, ({ supervisorState }) => supervisorState);
  const ends = axisOf(history).map((time) => <Time at={new Date(time).toISOString().replace('.000', '')} />);
  const summary = parts.map(
    ({ value, start }) => `${value === null ? 'no check-in' : visible(value)} from ${new Date(start).toLocaleString()}`,
  );
  return (
    <section class="panel wide">
      <h3>States, alerts and absences</h3>
      <div class="strip tall on-axis" role="img" aria-label={summary.slice(-20).join('; ')}>
        {parts.map(({ value, steps, start }, i) => (
          <span
            key={start}
            class={value === null ? 'none' : (STATES[value] ?? 'off')}
            style={{ flexGrow: steps }}
            title={`${summary[i]}, ${duration(steps * history.stepSeconds)}`}
          />
        ))}
      </div>
      <Lanes history={history} alerts={alerts} />
      <p class="muted ends on-axis">
        {ends[0]}
        <span>
          <i class="swatch ok" /> running <i class="swatch warn" /> starting <i class="swatch bad" /> crashed{' '}
          <i class="swatch off" /> other <i class="swatch none" /> no check-in
        </span>
        {ends[1]}
      </p>
    </section>
  );
}

function Versions({ steps }: { steps: readonly Step[] }) {
  const kinds = [
    ['Controller', versions(steps, ({ controllerVersion }) => controllerVersion)],
    ['OpenClaw', versions(steps, ({ openclawVersion }) => openclawVersion)],
  ] as const;
  return (
    <section class="panel wide">
      <h3>Versions</h3>
      <Table label="Versions" columns={['Of', 'Version', 'First seen']}>
        {kinds.flatMap(([name, parts]) =>
          parts.slice(0, 10).map(({ value, start }) => (
            <tr key={`${name} ${start}`}>
              <td>{name}</td>
              <td>
                <Text of={value} />
              </td>
              <td>
                <Time at={start} />
              </td>
            </tr>
          )),
        )}
      </Table>
    </section>
  );
}

function Charts({ history, alerts }: { history: History; alerts: readonly Alert[] }) {
  const { steps, stepSeconds } = history;
  const times = steps.map(({ start }) => start);
  const hasDisk = steps.some(({ diskUsedBytes }) => diskUsedBytes !== null);
  const charts = [
    {
      title: 'Load average, 5 min',
      kind: 'line',
      format: load,
      lines: [{ label: 'load', values: steps.map((step) => step.loadAvg5m), color: 'series-0' }],
    },
    {
      title: 'Restarts',
      kind: 'bars',
      isWhole: true,
      format: count,
      lines: [{ label: 'restarts', values: steps.map((step) => step.restarts), color: 'bad' }],
    },
    {
      title: 'Bytes by step',
      kind: 'line',
      format: bytes,
      lines: [
        { label: 'in', values: steps.map((step) => step.bandwidthBytesIn), color: 'series-0' },
        { label: 'out', values: steps.map((step) => step.bandwidthBytesOut), color: 'series-1' },
      ],
    },
    ...(hasDisk
      ? [
          {
            title: 'Disk',
            kind: 'line',
            format: bytes,
            lines: [
              { label: 'used', values: steps.map((step) => step.diskUsedBytes), color: 'series-0' },
              { label: 'size', values: steps.map((step) => step.diskTotalBytes), color: 'series-1' },
            ],
          } as const,
        ]
      : []),
  ] as const;
  const exits = steps.filter(({ restarts }) => restarts > 0).toReversed();
  return (
    <div class="grid halves">
      <Timeline history={history} alerts={alerts} />
      {charts.map((chart) => (
        <section key={chart.title} class="panel wide">
          <Chart times={times} stepSeconds={stepSeconds} sync="sandbox" {...chart} />
        </section>
      ))}
      <Versions steps={steps} />
      {exits.length > 0 && (
        <section class="panel wide">
          <h3>Exits</h3>
          <Table label="Exits" columns={['Step', { number: 'Restarts' }, 'Last exit']}>
            {exits.slice(0, 20).map((step) => (
              <tr key={step.start}>
                <td>
                  <Time at={step.start} />
                </td>
                <td class="number">{count(step.restarts)}</td>
                <td>
                  <Text of={step.lastExitReason} />
                </td>
              </tr>
            ))}
          </Table>
        </section>
      )}
    </div>
  );
}

/** The latest disk usage, if known. */
function disk({ diskUsedBytes: used, diskTotalBytes: total }: Sandbox): string {
  if (used === null) return total === null ? 'not reported' : `${bytes(total)}, use not reported`;
  return total === null ? `${bytes(used)} used` : `${bytes(used)} of ${bytes(total)} used, ${share(used, total)}`;
}

function Copy({ text }: { text: string }) {
  const [done, setDone] = useState('');
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setDone('Copied');
    } catch {
      // Browsers allow copying only with permission and on a secure origin.
      setDone('Not allowed: select the id');
    }
    setTimeout(() => setDone(''), 3_000);
  };
  return (
    <button type="button" class="quiet" onClick={() => void copy()} aria-live="polite">
      {done || 'Copy id'}
    </button>
  );
}

function Facts({ summary }: { summary: SandboxSummary }) {
  const { sandbox, load: loads, machines } = summary;
  return (
    <div class="grid halves">
      <section class="panel">
        <h2>Now</h2>
        <dl>
          <dt>State</dt>
          <dd>
            <State of={sandbox.supervisorState} silent={sandbox.silent} />
          </dd>
          <dt>Last check-in</dt>
          <dd>
            <Ago at={sandbox.lastSeen} /> ago, <Time at={sandbox.lastSeen} />
          </dd>
          <dt>Process uptime</dt>
          <dd>{duration(sandbox.uptimeSeconds)}</dd>
          <dt>Last exit</dt>
          <dd>{sandbox.lastExitReason === null ? 'none' : <Text of={sandbox.lastExitReason} />}</dd>
          <dt>Restarts</dt>
          <dd>
            {count(sandbox.restarts)} in this window, {count(sandbox.totalRestarts)} by its own counter
          </dd>
          <dt>Load</dt>
          <dd>
            {load(sandbox.loadAvg5m)} now; p50 {load(loads.p50)}, p95 {load(loads.p95)}
          </dd>
          <dt>Disk</dt>
          <dd>{disk(sandbox)}</dd>
          <dt>Bytes</dt>
          <dd>
            {bytes(sandbox.bandwidthBytesIn)} in, {bytes(sandbox.bandwidthBytesOut)} out
          </dd>
          <dt>Region</dt>
          <dd>
            <Text of={sandbox.flyRegion} />
          </dd>
          <dt>Controller</dt>
          <dd>
            <Text of={sandbox.controllerVersion} /> <code>{visible(sandbox.controllerCommit)}</code>
          </dd>
          <dt>OpenClaw</dt>
          <dd>
            <Text of={sandbox.openclawVersion} /> <code>{visible(sandbox.openclawCommit ?? '')}</code>
          </dd>
        </dl>
      </section>
      <section class="panel">
        <h2>Machines</h2>
        <Table label="Machines" columns={['Machine', 'From', 'Until', { number: 'Check-ins' }]}>
          {machines.map((machine) => (
            <tr key={machine.machineId}>
              <td>
                <Text of={machine.machineId} />
              </td>
              <td>
                <Time at={machine.firstSeen} />
              </td>
              <td>
                <Time at={machine.lastSeen} />
              </td>
              <td class="number">{count(machine.checkIns)}</td>
            </tr>
          ))}
        </Table>
      </section>
    </div>
  );
}

export function SandboxView({ id, parameters, set }: ViewProps & { id: string }) {
  const window = windowOf(parameters);
  const path = `/api/sandboxes/${encodeURIComponent(id)}`;
  const query = `?window=${encodeURIComponent(window)}`;
  const sandbox = encodeURIComponent(id);
  // URLs drop such a path segment, however it is encoded.
  const isDots = id === '.' || id === '..';
  const summary = useApi<SandboxSummary>(isDots ? undefined : path + query);
  const history = useApi<History>(isDots ? undefined : `${path}/history${query}`);
  const alerts = useApi<Alerts>(`/api/alerts?window=400d&sandbox=${sandbox}&limit=50`);
  // After the first three requests.
  const isThere = (alerts.data ?? alerts.error) !== undefined;
  const availability = useApi<Availability>(isThere ? `/api/availability${query}&sandbox=${sandbox}` : undefined);
  const own = useApi<Absences>(isThere ? `/api/absences?sandbox=${sandbox}` : undefined);
  // The first page has the absences of all sandboxes and of regions.
  const wide = useApi<Absences>(isThere ? '/api/absences?limit=1' : undefined);
  const region = summary.data?.sandbox.flyRegion;
  const absences = [
    ...(own.data?.absences ?? []),
    ...(wide.data?.absences ?? []).filter((absence) => absence.sandboxId === null && [null, region].includes(absence.region)),
  ];
  return (
    <>
      <div class="title">
        <h1>
          <Text of={id} />
        </h1>
        <Copy text={id} />
        <WindowChoice parameters={parameters} set={set} />
      </div>
      {availability.data && (
        <p>
          Availability{' '}
          <strong>
            {availability.data.share === null
              ? '–'
              : share(availability.data.reportingSeconds, availability.data.reportingSeconds + availability.data.silentSeconds)}
          </strong>
          <span class="muted">
            {' '}
            · silent for {duration(availability.data.silentSeconds)}, absent as planned for{' '}
            {duration(availability.data.absentSeconds)}
          </span>
        </p>
      )}
      {absences.map((absence) => (
        <p class="note" key={`${absence.sandboxId} ${absence.region}`}>
          Absence{absence.region !== null && <> of region <Text of={absence.region} /></>}
          {absence.sandboxId === null && absence.region === null && ' of all sandboxes'} planned by <Text of={absence.by} />, until{' '}
          {absence.until === null ? 'its next check-in' : <Time at={absence.until} />}
          {absence.reason && (
            <>
              : <Text of={absence.reason} />
            </>
          )}
        </p>
      ))}
      {isDots ? (
        <p class="note">
          An id of dots alone cannot be part of an address, so state and history cannot be shown here: see{' '}
          <a href={href('sandboxes', { prefix: id })}>its row in the list</a>.
        </p>
      ) : (
        <>
          <Shown of={summary}>{(data) => <Facts summary={data} />}</Shown>
          <Shown of={history}>{(data) => <Charts history={data} alerts={alerts.data?.alerts ?? []} />}</Shown>
        </>
      )}
      <section class="panel wide">
        <h2>Latest alerts and absences</h2>
        <Shown of={alerts}>
          {(data) => (data.alerts.length === 0 ? <p class="muted">None.</p> : <AlertRows alerts={data.alerts} />)}
        </Shown>
      </section>
    </>
  );
}
