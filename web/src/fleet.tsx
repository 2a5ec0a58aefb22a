/** The fleet view. */
import { useState } from 'preact/hooks';

import {
  useApi,
  type Facet,
  type Fleet,
  type FleetHistory,
  type Incident,
  type Incidents,
  type Loaded,
  type OpenAlert,
  type Series,
  type Watcher,
} from './api.ts';
import { Chart, type Line } from './chart.tsx';
import {
  Ago,
  bytes,
  count,
  href,
  lateness,
  load,
  Problem,
  SandboxLink,
  share,
  Shown,
  STATES,
  Table,
  Text,
  useNow,
  visible,
  windowOf,
  WindowChoice,
  type ViewProps,
} from './parts.tsx';

/** Maximum number of values in a facet; the list of sandboxes has all. */
const ROWS = 12;
/** Maximum number of incidents until the reader expands the list. */
const INCIDENTS = 8;

/** Maximum number of incidents in a request. */
const LIMIT = 100;

/** Maximum number of incidents that the watcher names. */
const OPEN = 50;

const KINDS: Record<OpenAlert['kind'] | Incident['kind'], string> = {
  quiet: 'Quiet',
  no_check_ins: 'No check-ins at all',
  clone: 'Cloned',
  crash_loop: 'Crash loop',
  flapping: 'Flapping',
  silent: 'Silent',
  overdue: 'Overdue',
};

function cause(incident: Incident): string {
  switch (incident.kind) {
    case 'no_check_ins':
      return 'suspect the ingest path: route, DNS, credentials';
    case 'clone':
      return `${count(incident.machines ?? 0)} machines check in under its id`;
    case 'crash_loop':
      return `${count(incident.restarts ?? 0)} restarts in this window, ${count(incident.mostInAnHour ?? 0)} within an hour${incident.lastExitReason ? `, last exit: ${incident.lastExitReason}` : ''}`;
    case 'silent':
      return `last state: ${incident.supervisorState ?? 'unknown'}${incident.flyRegion ? `, region ${incident.flyRegion}` : ''}`;
  }
}

/** A row of "Needs attention". */
interface Trouble {
  readonly kind: OpenAlert['kind'] | Incident['kind'];
  readonly sandboxId?: string | null;
  readonly region?: string | null;
  readonly since: string;
  readonly cause: string;
  readonly planned?: boolean;
}

/** Causes for incidents without a reason from the watcher. */
const MEANINGS: Partial<Record<OpenAlert['kind'], string>> = {
  clone: 'several machines check in under its id',
  crash_loop: 'its process restarts again and again',
  flapping: 'it falls silent and returns again and again',
};

/** An open incident from the watcher. `/api/incidents` has a more detailed cause. */
function ofWatcher(open: OpenAlert, incidents: readonly Incident[]): Trouble {
  const kind = open.kind === 'overdue' ? 'silent' : open.kind;
  const incident = incidents.find((incident) => incident.kind === kind && incident.sandboxId === open.sandboxId);
  return { ...open, cause: incident ? cause(incident) : open.reason || MEANINGS[open.kind] || '' };
}

/** What needs attention: from the watcher if it is current, otherwise from the window's incidents. */
function Attention({ report, watcher, isCurrent }: { report: Incidents | undefined; watcher: Watcher | undefined; isCurrent: boolean }) {
  const [isLong, showAll] = useState(false);
  const incidents = report?.incidents ?? [];
  const open = (watcher?.attention ?? []).filter(({ kind }) => isCurrent || kind === 'quiet');
  const critical = incidents.filter(({ severity }) => severity === 'critical');
  const now: Trouble[] = open.map((alert) => ofWatcher(alert, incidents));
  if (!isCurrent) now.push(...critical.map((incident) => ({ ...incident, cause: cause(incident) })));
  const total = report && (
    <p class="muted">
      In this window, resolved and planned ones included: silent {count(report.totals.silent)}, crash loops{' '}
      {count(report.totals.crashLoops)}, clones {count(report.totals.clones)}
      {report.missing.length > 0 && `; incomplete: ${report.missing.join(', ')}`}
    </p>
  );
  if (now.length === 0) {
    return (
      <>
        <p class="well">Nothing needs attention.</p>
        {total}
      </>
    );
  }
  return (
    <>
      <Table class="attention" label="What needs attention" columns={['What', 'Sandbox', { number: 'Since' }, 'Cause']}>
        {(isLong ? now : now.slice(0, INCIDENTS)).map(({ kind, sandboxId, region, since, cause, planned }) => (
          <tr role="row" key={`${kind} ${sandboxId} ${region}`}>
            <td role="cell">
              <span class={`state ${planned ? 'off' : kind === 'flapping' ? 'warn' : 'bad'}`}>{KINDS[kind]}</span>
            </td>
            <td role="cell">
              {sandboxId ? (
                <SandboxLink id={sandboxId} />
              ) : kind === 'quiet' ? (
                <a href={href('alerts', { kind })}>{region === null ? 'the fleet' : <>region <Text of={region} /></>}</a>
              ) : (
                'all'
              )}
            </td>
            <td role="cell" class="number">
              <Ago at={since} />
            </td>
            <td role="cell">
              {planned && (
                <>
                  <a href={href('absences')}>absence planned</a>{' '}
                </>
              )}
              {cause && <Text of={cause} />}
            </td>
          </tr>
        ))}
      </Table>
      {now.length > INCIDENTS && (
        <p>
          <button type="button" aria-expanded={isLong} onClick={() => showAll(!isLong)}>
            {isLong ? 'Show fewer' : `Show ${count(now.length - INCIDENTS)} more`}
          </button>
          {isLong && now.length >= (isCurrent ? OPEN : LIMIT) && (
            <>
              {' '}
              The list ends here: see <a href={href('sandboxes', { silent: 'true' })}>all that are silent</a>.
            </>
          )}
        </p>
      )}
      {total}
    </>
  );
}

/** A facet with the share of silent sandboxes. */
interface FacetsProps {
  readonly title: string;
  readonly column: string;
  readonly facets: readonly Facet[];
  /** The parameter of the list of sandboxes. */
  readonly filter: string;
}

function Facets({ title, column, facets, filter }: FacetsProps) {
  const all = facets.reduce((sum, { sandboxes }) => sum + sandboxes, 0);
  const silent = ({ sandboxes, reporting }: Facet) => sandboxes - reporting;
  // The largest values, and of the others those with the most silent sandboxes.
  const others = facets.slice(ROWS).filter((facet) => silent(facet) > 0).toSorted((a, b) => silent(b) - silent(a));
  const shown = [...facets.slice(0, ROWS), ...others.slice(0, ROWS)];
  return (
    <section class="panel">
      <h2>{title}</h2>
      <Table label={title} columns={[column, { number: 'Sandboxes' }, { number: 'Share' }, { number: 'Silent' }]}>
        {shown.map(({ value, sandboxes, reporting }) => (
          <tr key={value ?? ''}>
            <td>
              <a href={href('sandboxes', { [filter]: value ?? '' })}>
                <Text of={value} />
              </a>
            </td>
            <td class="number">{count(sandboxes)}</td>
            <td class="number meter">
              <meter min={0} max={all || 1} value={sandboxes} aria-label={`Share of ${visible(value ?? 'unknown')}`} />
              <span class="percent">{share(sandboxes, all)}</span>
            </td>
            <td class={`number ${sandboxes > reporting && !OFF.includes(value ?? '') ? 'bad' : ''}`}>{share(sandboxes - reporting, sandboxes)}</td>
          </tr>
        ))}
      </Table>
      {facets.length > shown.length && <p class="muted">{count(facets.length - shown.length)} smaller ones are not shown.</p>}
    </section>
  );
}

const name = (series: Series) => (series.name === null ? 'others' : visible(series.name) || 'unknown');

/** States in which a sandbox is silent on purpose. */
const OFF = ['shutting_down', 'stopping', 'stopped'];

/** Colours by rank: the most common values come first. */
const lines = (all: readonly Series[], what: 'sandboxes' | 'restarts'): Line[] =>
  all.map((series, i) => ({
    label: name(series),
    values: series[what] ?? [],
    color: series.name === null ? 'series-rest' : `series-${i % 8}`,
  }));

const COLORS: Readonly<Record<string, string>> = { ...STATES, shutting_down: 'off' };

function OverTime({ history }: { history: FleetHistory }) {
  const { times, stepSeconds, states, controllerVersions, openclawVersions } = history;
  const common = { times, stepSeconds, format: count, isWhole: true, sync: 'fleet' };
  const byState = lines(states, 'sandboxes').map((line) => ({ ...line, color: COLORS[line.label] ?? line.color }));
  const restarted = controllerVersions.filter(({ restarts }) => restarts?.some((number) => number > 0));
  return (
    <div class="grid quarters">
      <section class="panel">
        <Chart {...common} title="Restarts by controller version" kind="bars" lines={lines(restarted, 'restarts')} />
      </section>
      <section class="panel">
        <Chart {...common} title="Sandboxes that checked in, by state" kind="area" lines={byState} />
      </section>
      <section class="panel">
        <Chart {...common} title="Controller versions" kind="area" lines={lines(controllerVersions, 'sandboxes')} />
      </section>
      <section class="panel">
        <Chart {...common} title="OpenClaw versions" kind="area" lines={lines(openclawVersions, 'sandboxes')} />
      </section>
    </div>
  );
}

const Figure = (props: { label: string; value: string; state?: string; link?: string; note?: string }) => (
  <a class={`figure ${props.state ?? ''}`} href={props.link ?? '#/fleet'}>
    <span class="value">{props.value}</span>
    <span class="label">{props.label}</span>
    {props.note && <span class="muted">{props.note}</span>}
  </a>
);

/** Numbers of sandboxes by state. */
interface Counts {
  readonly sandboxes: number;
  readonly reporting: number;
  readonly silent: number;
  /** Unknown without the watcher: they are silent then. */
  readonly away?: number;
  readonly off: number;
  /** Until when check-ins count, for figures from the watcher. */
  readonly until?: string;
}

/** From the watcher: available at once, and absent sandboxes are not silent. Undefined unless it is current. */
function countsOf(watcher: Watcher | undefined, now: number): Counts | undefined {
  if (!watcher?.sandboxes || watcher.state === 'off') return undefined;
  const { degradedSince, horizon, open } = watcher.watch;
  if (degradedSince !== null || horizon === null || lateness(watcher, now) > 0) return undefined;
  const { sandboxes } = watcher;
  const [silent, away, off] = [open.silent + open.overdue, open.absent, open.stopped];
  return { sandboxes, reporting: Math.max(0, sandboxes - silent - away - off), silent, away, off, until: horizon };
}

/** From the query over the window. */
const countsOfFleet = ({ sandboxes, reporting, silent, silentAfterShutdown: off }: Fleet): Counts => ({
  sandboxes,
  reporting,
  silent: silent - off,
  off,
});

function Figures({ counts, fleet, crashLoops }: { counts: Counts; fleet: Fleet | undefined; crashLoops: number | undefined }) {
  const { sandboxes, reporting, silent, away, off, until } = counts;
  const crashed = fleet && (fleet.supervisorStates.find(({ value }) => value === 'crashed')?.reporting ?? 0);
  const parts = [
    ['ok', Math.max(0, reporting - (crashed ?? 0)), crashed === undefined ? 'reporting' : 'reporting, not crashed'],
    ['bad', crashed ?? 0, 'crashed'],
    ['warn', silent, 'silent'],
    ['off', off + (away ?? 0), away === undefined ? 'off on purpose' : 'away or off on purpose'],
  ] as const;
  const summary = parts.map(([, number, label]) => `${count(number)} ${label}`).join(', ');
  return (
    <>
      <div class="figures">
        <Figure label="reporting" value={count(reporting)} state="ok" note={`of ${count(sandboxes)}`} link={href('sandboxes', { silent: 'false' })} />
        <Figure
          label="silent"
          value={count(silent)}
          state={silent > 0 ? 'warn' : ''}
          link={href('sandboxes', { silent: 'true' })}
        />
        <Figure label="away" value={away === undefined ? '–' : count(away)} note={`${count(off)} off on purpose`} link={href('absences')} />
        <Figure
          label="crashed"
          value={crashed === undefined ? '…' : count(crashed)}
          state={crashed || crashLoops ? 'bad' : ''}
          note={crashLoops === undefined ? undefined : `${count(crashLoops)} in a crash loop`}
          link={href('sandboxes', { state: 'crashed', silent: 'false' })}
        />
        <Figure
          label="restarts"
          value={fleet ? count(fleet.restarts) : '…'}
          note={fleet && `of ${count(fleet.restartedSandboxes)} sandboxes`}
          link={href('sandboxes', { restarted: 'true', sort: '-restarts' })}
        />
      </div>
      <div class="strip" role="img" aria-label={summary} title={summary}>
        {parts.map(([state, number]) => number > 0 && <span key={state} class={state} style={{ flexGrow: number }} />)}
      </div>
      <p class="muted">
        {until !== undefined && (
          <>
            Reporting, silent and away: by the watcher, <Ago at={until} /> ago
            {fleet ? '. ' : '; the rest is loading.'}
          </>
        )}
        {fleet && (
          <>
            In this window: {count(fleet.checkIns)} check-ins of {count(fleet.machines)} machines · load p50 {load(fleet.loadAvg5m.p50)}, p95{' '}
            {load(fleet.loadAvg5m.p95)} · {bytes(fleet.bandwidthBytesIn)} in, {bytes(fleet.bandwidthBytesOut)} out
            {fleet.missing.length > 0 && ' · the smallest groups are left out'}
          </>
        )}
      </p>
    </>
  );
}

/** `isNext`: the watcher has responded, or its time is over. */
export function FleetView(props: ViewProps & { fleet: Loaded<Fleet>; watcher: Watcher | undefined; isNext: boolean }) {
  const { fleet, watcher, isNext } = props;
  const query = `?window=${encodeURIComponent(windowOf(props.parameters))}`;
  const incidents = useApi<Incidents>(isNext ? `/api/incidents${query}&limit=${LIMIT}` : undefined);
  // After the other figures, since its queries cost as much as all others together.
  const isAnswered = fleet.data !== undefined || fleet.error !== undefined;
  const history = useApi<FleetHistory>(isAnswered ? `/api/fleet/history${query}` : undefined);
  const watched = countsOf(watcher, useNow());
  const crashLoops = watched && watcher?.watch.open.crashLoops;
  return (
    <>
      <div class="title">
        <h1>Fleet</h1>
        <WindowChoice parameters={props.parameters} set={props.set} />
      </div>
      {watched && fleet.data === undefined ? (
        <>
          {fleet.error && <Problem error={fleet.error} reload={fleet.reload} />}
          <div>
            <Figures counts={watched} fleet={undefined} crashLoops={crashLoops} />
          </div>
        </>
      ) : (
        <Shown of={fleet}>
          {(data) =>
            data.sandboxes === 0 ? (
              <div class="empty">
                <h2>{data.noCheckInsYet ? 'No check-in yet' : 'No check-ins in this window'}</h2>
                <p>
                  {data.noCheckInsYet
                    ? 'The first check-in creates the dataset. Start an agent; it appears here within seconds.'
                    : 'Choose a longer window, or check that machines reach the Worker.'}
                </p>
              </div>
            ) : (
              <Figures counts={watched ?? countsOfFleet(data)} fleet={data} crashLoops={crashLoops} />
            )
          }
        </Shown>
      )}
      <section class="panel wide">
        <h2>Needs attention</h2>
        {watched && incidents.data === undefined ? (
          <>
            <Attention report={undefined} watcher={watcher} isCurrent />
            {incidents.error && <Problem error={incidents.error} reload={incidents.reload} />}
          </>
        ) : (
          <Shown of={incidents}>{(data) => <Attention report={data} watcher={watcher} isCurrent={watched !== undefined} />}</Shown>
        )}
      </section>
      <Shown of={history}>{(data) => <OverTime history={data} />}</Shown>
      {fleet.data && fleet.data.sandboxes > 0 && (
        <div class="grid quarters">
          <Facets title="Regions" column="Region" facets={fleet.data.flyRegions} filter="region" />
          <Facets title="States" column="State" facets={fleet.data.supervisorStates} filter="state" />
          <Facets title="Controller versions" column="Controller" facets={fleet.data.controllerVersions} filter="version" />
          <Facets title="OpenClaw versions" column="OpenClaw" facets={fleet.data.openclawVersions} filter="version" />
        </div>
      )}
    </>
  );
}
