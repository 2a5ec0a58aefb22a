/** The fleet at first glance. */
import { useState } from 'preact/hooks';

import {
  useApi,
  type Facet,
  type Fleet,
  type FleetHistory,
  type Incident,
  type Incidents,
  type Loaded,
  type Series,
  type Watcher,
} from './api.ts';
import { Chart, type Line } from './chart.tsx';
import {
  Ago,
  bytes,
  count,
  href,
  load,
  SandboxLink,
  share,
  Shown,
  STATES,
  Table,
  Text,
  visible,
  windowOf,
  WindowChoice,
  type ViewProps,
} from './parts.tsx';

/** At most so many values; the list of sandboxes has all. */
const ROWS = 12;
/** At most so many incidents, until the reader asks for the others. */
const INCIDENTS = 8;

/** At most so many incidents are asked for. */
const LIMIT = 100;

const KINDS: Record<Incident['kind'], string> = {
  no_check_ins: 'No check-ins at all',
  clone: 'Cloned',
  crash_loop: 'Crash loop',
  silent: 'Silent',
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

function Attention({ report, quiet, away }: { report: Incidents; quiet: readonly string[]; away: number }) {
  const [isLong, showAll] = useState(false);
  const now = report.incidents.filter(({ severity }) => severity === 'critical');
  const rest = report.incidents.length - now.length;
  if (now.length === 0 && quiet.length === 0) {
    return <p class="well">Nothing needs attention.{rest > 0 && ` Less severe: ${count(rest)}, in /api/incidents.`}</p>;
  }
  const { silent, crashLoops, clones } = report.totals;
  return (
    <>
      {quiet.map((scope) => (
        <p key={scope} class="problem">
          <strong>{scope === '*' ? 'The fleet is quiet' : 'A region is quiet'}</strong>{' '}
          {scope !== '*' && <Text of={scope.replace(/^=/, '')} />} <a href={href('alerts', { kind: 'quiet' })}>See the verdict</a>
        </p>
      ))}
      <p class="muted">
        In this window, resolved and planned ones included: silent {count(silent)}, crash loops {count(crashLoops)}, clones{' '}
        {count(clones)}
        {report.missing.length > 0 && `; incomplete: ${report.missing.join(', ')}`}
        {report.incidents.length === LIMIT && `; the list has the first ${LIMIT}`}
      </p>
      {away > 0 && (
        <p class="note">
          {count(away)} of those that are silent are <a href={href('absences')}>away as planned</a>.
        </p>
      )}
      <Table class="attention" label="What needs attention" columns={['What', 'Sandbox', { number: 'Since' }, 'Cause']}>
        {(isLong ? now : now.slice(0, INCIDENTS)).map((incident) => (
          <tr key={`${incident.kind} ${incident.sandboxId}`}>
            <td>
              <span class="state bad">{KINDS[incident.kind]}</span>
            </td>
            <td>{incident.sandboxId === undefined ? 'all' : <SandboxLink id={incident.sandboxId} />}</td>
            <td class="number">
              <Ago at={incident.since} />
            </td>
            <td>
              <Text of={cause(incident)} />
            </td>
          </tr>
        ))}
      </Table>
      {now.length > INCIDENTS && (
        <p>
          <button type="button" aria-expanded={isLong} onClick={() => showAll(!isLong)}>
            {isLong ? 'Show fewer' : `Show ${count(now.length - INCIDENTS)} more`}
          </button>
        </p>
      )}
    </>
  );
}

/** A facet with the share that does not report. */
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
  // The largest, and of the others those with the most silent sandboxes.
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
  const { times, states, controllerVersions, openclawVersions } = history;
  const common = { times, format: count, isWhole: true, sync: 'fleet' };
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

function Figures({ fleet, away }: { fleet: Fleet; away: number | undefined }) {
  const inState = (state: string) => fleet.supervisorStates.find(({ value }) => value === state)?.reporting ?? 0;
  const crashed = inState('crashed');
  const off = fleet.silentAfterShutdown;
  const silent = fleet.silent - off;
  const well = fleet.reporting - crashed;
  const parts = [
    ['ok', well, 'reporting, not crashed'],
    ['bad', crashed, 'crashed'],
    ['warn', silent, 'silent'],
    ['off', off, 'off on purpose'],
  ] as const;
  const summary = parts.map(([, number, label]) => `${count(number)} ${label}`).join(', ');
  return (
    <>
      <div class="figures">
        <Figure
          label="reporting"
          value={count(fleet.reporting)}
          state="ok"
          note={`of ${count(fleet.sandboxes)}`}
          link={href('sandboxes', { silent: 'false' })}
        />
        <Figure label="silent" value={count(silent)} state={silent > 0 ? 'warn' : ''} link={href('sandboxes', { silent: 'true' })} />
        <Figure
          label="away"
          value={away === undefined ? '–' : count(away)}
          note={`${count(off)} off on purpose`}
          link={href('absences')}
        />
        <Figure
          label="crashed"
          value={count(crashed)}
          state={crashed > 0 ? 'bad' : ''}
          link={href('sandboxes', { state: 'crashed', silent: 'false' })}
        />
        <Figure
          label="restarts"
          value={count(fleet.restarts)}
          note={`of ${count(fleet.restartedSandboxes)} sandboxes`}
          link={href('sandboxes', { restarted: 'true', sort: '-restarts' })}
        />
      </div>
      <div class="strip" role="img" aria-label={summary} title={summary}>
        {parts.map(([state, number]) => number > 0 && <span key={state} class={state} style={{ flexGrow: number }} />)}
      </div>
      <p class="muted">
        {count(fleet.checkIns)} check-ins of {count(fleet.machines)} machines · load p50 {load(fleet.loadAvg5m.p50)}, p95{' '}
        {load(fleet.loadAvg5m.p95)} · {bytes(fleet.bandwidthBytesIn)} in,{' '}
        {bytes(fleet.bandwidthBytesOut)} out
        {fleet.missing.length > 0 && ' · the smallest groups are left out'}
      </p>
    </>
  );
}

export function FleetView(props: ViewProps & { fleet: Loaded<Fleet>; watcher: Watcher | undefined }) {
  const query = `?window=${encodeURIComponent(windowOf(props.parameters))}`;
  const incidents = useApi<Incidents>(`/api/incidents${query}&limit=${LIMIT}`);
  const { fleet, watcher } = props;
  // After the figures, which are looked at first: its queries cost as much as all others together.
  const isAnswered = fleet.data !== undefined || fleet.error !== undefined;
  const history = useApi<FleetHistory>(isAnswered ? `/api/fleet/history${query}` : undefined);
  return (
    <>
      <div class="title">
        <h1>Fleet</h1>
        <WindowChoice parameters={props.parameters} set={props.set} />
      </div>
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
            <Figures fleet={data} away={watcher?.watch.open.absent} />
          )
        }
      </Shown>
      <section class="panel wide">
        <h2>Needs attention</h2>
        <Shown of={incidents}>{(data) => <Attention report={data} quiet={watcher?.watch.quiet ?? []} away={watcher?.watch.open.absent ?? 0} />}</Shown>
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
