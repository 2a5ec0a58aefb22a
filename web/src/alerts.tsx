/** The watcher's log, undelivered messages, and planned absences. */
import { useState } from 'preact/hooks';

import { ApiError, refusalOf, request, useApi, type Absence, type Absences, type Alert, type Alerts, type Watcher } from './api.ts';
import { Choice, count, duration, href, Problem, SandboxLink, Shown, Table, Text, Time, windowOf, WindowChoice, type ViewProps } from './parts.tsx';

const PAGE = '50';

const KINDS = [
  ['', 'all'],
  ['silent', 'silent'],
  ['overdue', 'overdue'],
  ['crash_loop', 'crash loop'],
  ['clone', 'clone'],
  ['flapping', 'flapping'],
  ['quiet', 'quiet region or fleet'],
  ['absent', 'absent as planned'],
  ['stopped', 'stopped on purpose'],
  ['degraded', 'watcher degraded'],
] as const;

const BAD = ['silent', 'overdue', 'crash_loop', 'clone', 'quiet', 'degraded'];

/** Rows of the log. */
export function AlertRows({ alerts }: { alerts: readonly Alert[] }) {
  return (
    <Table class="log" label="Alerts" columns={['Time', 'Event', 'Subject', 'Since', { number: 'Duration' }, 'Reason', 'Sent']}>
      {alerts.map((alert) => (
        <tr role="row" key={alert.id}>
          <td role="cell">
            <Time at={alert.at} />
          </td>
          <td role="cell">
            <span class={`state ${alert.event === 'closed' ? 'ok' : BAD.includes(alert.kind) ? 'bad' : 'off'}`}>
              {alert.kind.replaceAll('_', ' ')} {alert.event}
            </span>
          </td>
          <td role="cell">
            {alert.sandboxId !== null ? (
              <SandboxLink id={alert.sandboxId} />
            ) : alert.scope === 'region' ? (
              <>
                region <Text of={alert.region} />
              </>
            ) : (
              `the ${alert.scope}`
            )}
          </td>
          <td role="cell">
            <Time at={alert.since} />
          </td>
          <td role="cell" class="number">
            {alert.until === null ? '' : duration((Date.parse(alert.until) - Date.parse(alert.since)) / 1_000)}
          </td>
          <td role="cell">{alert.reason === '' ? '' : <Text of={alert.reason} />}</td>
          <td role="cell">{alert.sent ? 'yes' : 'no'}</td>
        </tr>
      ))}
    </Table>
  );
}

/** Why an action is not offered. */
const MissingScope = ({ what }: { what: string }) => (
  <p class="muted">
    {what} needs the scope <code>absences:write</code>, which you do not have.
  </p>
);

interface TestResult {
  readonly channel: string;
  readonly delivered: boolean;
  readonly failure: string | null;
}

function Channels({ watcher, mayWrite }: { watcher: Watcher; mayWrite: boolean | undefined }) {
  const [tests, setTests] = useState<readonly TestResult[] | ApiError | 'sending'>();
  const send = async () => {
    setTests('sending');
    const refused = await refusalOf(async () =>
      setTests(await request<readonly TestResult[]>('/api/watcher/test', { method: 'POST' })),
    );
    if (refused) setTests(refused);
  };
  const channels = [...watcher.channels, watcher.heartbeat];
  const STATE: Record<string, string> = { on: 'ok', off: 'bad', misconfigured: 'bad', not_configured: 'off' };
  return (
    <section class="panel wide">
      <h2>Channels</h2>
      <Table label="Channels" columns={['Channel', 'State', { number: 'Undelivered' }, 'Last failure']}>
        {channels.map((channel) => (
          <tr key={channel.channel}>
            <td>{channel.channel}</td>
            <td>
              <span class={`state ${STATE[channel.state]}`}>{channel.state.replace('_', ' ')}</span>
            </td>
            <td class="number">{count(channel.undelivered)}</td>
            <td>
              {channel.lastFailure && (
                <>
                  <Time at={channel.lastFailure.at} />: <Text of={channel.lastFailure.reason} />
                </>
              )}
            </td>
          </tr>
        ))}
      </Table>
      {watcher.undelivered.length > 0 && (
        <>
          <h3>Undelivered messages</h3>
          <Table label="Undelivered messages" columns={['Created', 'Message', 'Channel', { number: 'Attempts' }, 'Next attempt', 'Failure']}>
            {watcher.undelivered.map((message) => (
              <tr key={message.id}>
                <td>
                  <Time at={message.createdAt} />
                </td>
                <td>{message.type}</td>
                <td>{message.channel}</td>
                <td class="number">{count(message.attempts)}</td>
                <td>
                  <Time at={message.nextAt} />
                </td>
                <td>{message.failure && <Text of={message.failure} />}</td>
              </tr>
            ))}
          </Table>
        </>
      )}
      {watcher.settingErrors.map(({ name, expected }) => (
        <p key={name} class="problem">
          <code>{name}</code> is not used: expected {expected}
        </p>
      ))}
      {mayWrite === false && <MissingScope what="Sending a test message" />}
      <p hidden={!mayWrite}>
        <button type="button" onClick={() => void send()} disabled={tests === 'sending'}>
          Send a test message
        </button>{' '}
        <span role="status">
          {tests === 'sending' && 'Sending…'}
          {Array.isArray(tests) && tests.length === 0 && 'No channel is configured.'}
          {Array.isArray(tests) &&
            (tests as readonly TestResult[]).map((test) => `${test.channel}: ${test.delivered ? 'delivered' : test.failure}`).join('; ')}
        </span>
      </p>
      {tests instanceof ApiError && <Problem error={tests} />}
    </section>
  );
}

/** It is not known at once whether the principal may write. */
interface Rights {
  readonly mayWrite: boolean | undefined;
}

export function AlertsView({ parameters, set, watcher, mayWrite }: ViewProps & Rights & { watcher: Watcher | undefined }) {
  const window = windowOf(parameters);
  const kind = parameters.get('kind') ?? '';
  const before = parameters.get('before') ?? '';
  const query = new URLSearchParams({ window, limit: PAGE, ...(kind && { kind }), ...(before && { before }) });
  const list = useApi<Alerts>(`/api/alerts?${query}`);
  return (
    <>
      <div class="title">
        <h1>Alerts</h1>
        <Choice label="Kind" value={kind} options={KINDS} onChange={(value) => set('kind', value)} />
        <WindowChoice parameters={parameters} set={set} />
      </div>
      <section class="panel wide">
        <Shown of={list}>
          {(data) => (
            <>
              {data.alerts.length === 0 ? <p class="muted">No alerts of this kind on this page.</p> : <AlertRows alerts={data.alerts} />}
              <nav class="pages" aria-label="Pages">
                {before !== '' && (
                  <button type="button" onClick={() => set('before', '')}>
                    Newest
                  </button>
                )}
                {data.next !== null && (
                  <button type="button" onClick={() => set('before', String(data.next))}>
                    Older
                  </button>
                )}
              </nav>
            </>
          )}
        </Shown>
      </section>
      {watcher && <Channels watcher={watcher} mayWrite={mayWrite} />}
    </>
  );
}

/** The subject of an absence. */
const Of = ({ absence: { sandboxId, region } }: { absence: Absence }) =>
  sandboxId !== null ? (
    <SandboxLink id={sandboxId} />
  ) : region !== null ? (
    <>
      region <Text of={region} />
    </>
  ) : (
    <>all sandboxes</>
  );

const LENGTHS = [
  ['3600', '1 hour'],
  ['7200', '2 hours'],
  ['28800', '8 hours'],
  ['86400', '1 day'],
  ['604800', '7 days'],
  ['', 'until the next check-in'],
] as const;

function Declare({ only, reload }: { only: string | undefined; reload: () => void }) {
  const [scope, setScope] = useState('sandbox');
  const [ids, setIds] = useState(only ?? '');
  const [length, setLength] = useState('7200');
  const [reason, setReason] = useState('');
  const [error, setError] = useState<ApiError>();
  const [done, setDone] = useState('');
  const submit = async (event: Event) => {
    event.preventDefault();
    setDone('');
    // A token for one sandbox names it, even if its id has a comma.
    const list = only !== undefined ? [only] : ids.split(',').map((id) => id.trim()).filter((id) => id !== '');
    const of = scope === 'sandbox' ? { sandboxIds: list } : scope === 'region' ? { region: ids.trim() } : { all: true };
    const body = JSON.stringify({ ...of, forSeconds: length === '' ? null : Number(length), reason });
    const plan = async () => {
      const { planned } = await request<{ planned: number }>('/api/absences', { method: 'POST', body });
      setDone(`Planned: ${count(planned)}`);
      reload();
    };
    setError(await refusalOf(plan));
  };
  return (
    <form class="panel wide declare" onSubmit={(event) => void submit(event)}>
      <h2>Plan an absence</h2>
      <div class="filters">
        <Choice
          label="Scope"
          value={scope}
          options={only ? [['sandbox', 'this sandbox']] : [['sandbox', 'sandboxes'], ['region', 'a region'], ['all', 'all sandboxes']]}
          onChange={(value) => {
            setScope(value);
            setIds(only ?? '');
            if (value !== 'sandbox' && length === '') setLength(LENGTHS[0][0]);
          }}
        />
        {scope !== 'all' && (
          <label>
            {scope === 'region' ? 'Region' : 'Ids, separated by commas'}
            <input required value={ids} readOnly={only !== undefined} onInput={(event) => setIds(event.currentTarget.value)} />
          </label>
        )}
        <Choice
          label="Duration"
          value={length}
          options={scope === 'sandbox' ? LENGTHS : LENGTHS.slice(0, -1)}
          onChange={setLength}
        />
        <label>
          Reason
          <input maxLength={200} value={reason} onInput={(event) => setReason(event.currentTarget.value)} />
        </label>
        <button type="submit">Plan</button>
        <span role="status">{done}</span>
      </div>
      {error && <Problem error={error} />}
    </form>
  );
}

export function AbsencesView({ parameters, set, only, mayWrite }: ViewProps & Rights & { only: string | undefined }) {
  const after = parameters.get('after') ?? '';
  const list = useApi<Absences>(`/api/absences?limit=100${after ? `&after=${encodeURIComponent(after)}` : ''}`);
  const [error, setError] = useState<ApiError>();
  const end = async ({ sandboxId, region }: Absence) => {
    const of: Record<string, string> = sandboxId !== null ? { sandbox: sandboxId } : region !== null ? { region } : { all: 'true' };
    const stop = async () => {
      await request(`/api/absences?${new URLSearchParams(of)}`, { method: 'DELETE' });
      list.reload();
    };
    setError(await refusalOf(stop));
  };
  return (
    <>
      <div class="title">
        <h1>Absences</h1>
      </div>
      {error && <Problem error={error} />}
      <section class="panel wide">
        <Shown of={list}>
          {(data) =>
            data.absences.length === 0 ? (
              <p class="muted">
                {after ? 'None on this page. ' : 'No planned absences.'}
                {after && <a href={href('absences')}>First page</a>}
              </p>
            ) : (
              <>
                <Table label="Planned absences" columns={['Subject', 'Since', 'Until', 'Reason', 'Planned by', ...(mayWrite ? ['End'] : [])]}>
                  {data.absences.map((absence) => (
                    <tr key={`${absence.sandboxId} ${absence.region}`}>
                      <td>
                        <Of absence={absence} />
                      </td>
                      <td>
                        <Time at={absence.since} />
                      </td>
                      <td>{absence.until === null ? 'its next check-in' : <Time at={absence.until} />}</td>
                      <td>{absence.reason === '' ? '' : <Text of={absence.reason} />}</td>
                      <td>
                        <Text of={absence.by} />
                      </td>
                      {mayWrite && (
                        <td>
                          <button type="button" onClick={() => void end(absence)}>
                            End
                          </button>
                        </td>
                      )}
                    </tr>
                  ))}
                </Table>
                <nav class="pages" aria-label="Pages">
                  {after && <a href={href('absences')}>First page</a>}
                  {data.next && (
                    <button type="button" onClick={() => set('after', data.next!)}>
                      Next page
                    </button>
                  )}
                </nav>
              </>
            )
          }
        </Shown>
      </section>
      {mayWrite && <Declare only={only} reload={list.reload} />}
      {mayWrite === false && <MissingScope what="Planning and ending absences" />}
    </>
  );
}
