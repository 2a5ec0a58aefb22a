/**
 * The dashboard in `grafana/`, without Grafana: its structure and its queries. Each query is expanded as the plugin
 * does it, checked, run on a small fleet, and compared with results that were counted by hand.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';

import layout from '../crates/check-in/data-point.json' with { type: 'json' };
import dashboard from '../grafana/dashboards/fleet.json' with { type: 'json' };
import { freePort, insert, miniflare, worker } from '../local-ae/support/instance.js';
import { check } from './support/aesql.ts';
import {
  expand,
  expandVariable,
  references,
  table,
  timeSeries,
  type Answer,
  type Selection,
  type Target,
} from './support/grafana.ts';

const PLUGIN = 'vertamedia-clickhouse-datasource';
const MINUTE = 60_000;

const { panels } = dashboard;
const variables = dashboard.templating.list.filter(({ type }) => type === 'query');

function target(title: string): Target {
  const panel = panels.find((panel) => panel.title === title);
  assert.ok(panel !== undefined, `there is no panel ${title}`);
  return panel.targets[0] as Target;
}

// The fleet's times are in minutes before `END`, the start of a step of ten minutes. The time range ends three
// minutes later, so its last step is incomplete.
const END = Math.floor(Date.now() / (10 * MINUTE)) * 10 * MINUTE - 10 * MINUTE;
const ago = (minutes: number): number => END - minutes * MINUTE;

interface CheckIn {
  readonly state?: string;
  readonly version?: string;
  readonly exit?: string;
  readonly restarts?: number;
  readonly total?: number;
  /** The sample interval. */
  readonly weight?: number;
}

interface Machine {
  readonly region: string;
  readonly version: string;
  readonly openclaw: string;
  readonly load: number;
  readonly in: number;
  readonly out: number;
  /** Used and total bytes, if known. */
  readonly disk?: readonly [number, number];
  /** With the minutes before `END`. */
  readonly checkIns: readonly (readonly [minutes: number, checkIn?: CheckIn])[];
}

const FLEET: Readonly<Record<string, Machine>> = {
  // Upgraded within the time range; the only one with a check-in in the last step.
  steady: {
    region: 'ams',
    version: '1.1.0',
    openclaw: '2026.3.13',
    load: 1,
    in: 600,
    out: 60,
    disk: [50, 100],
    checkIns: [
      [55, { version: '1.0.0' }],
      [45, { version: '1.0.0' }],
      [35, { version: '1.0.0' }],
      [25],
      [15],
      [5],
      [-2],
    ],
  },
  // Sampled; its last check-in is exactly 15 minutes before the end of the range.
  'o-brien': {
    region: 'iad',
    version: '1.1.0',
    openclaw: '2026.3.13',
    load: 3,
    in: 1200,
    out: 0,
    disk: [900, 1_000],
    checkIns: [52, 42, 32, 22, 12].map((minutes) => [minutes, { weight: 2 }]),
  },
  // The counter resets to 1: the difference of its extremes is 6, but there were 9 restarts.
  crashing: {
    region: 'iad',
    version: '1.0.0',
    openclaw: '2026.3.12',
    load: 2,
    in: 300,
    out: 0,
    checkIns: [
      [53, { total: 5 }],
      [43, { state: 'crashed', total: 7, restarts: 2, exit: 'signal:SIGSEGV' }],
      [33, { total: 1, restarts: 1, exit: 'signal:SIGSEGV' }],
      [23, { state: 'crashed', total: 3, restarts: 2, weight: 3, exit: 'code:1' }],
      [13, { state: 'crashed', total: 3, exit: 'code:1' }],
      [3, { state: 'crashed', total: 3, exit: 'code:1' }],
    ],
  },
  gone: {
    region: 'ams',
    version: '1.0.0',
    openclaw: '',
    load: 0.5,
    in: 0,
    out: 0,
    disk: [0, 1_000],
    checkIns: [[51], [41], [31], [21]],
  },
  parked: {
    region: '',
    version: '1.0.0',
    openclaw: '',
    load: 0.5,
    in: 0,
    out: 0,
    checkIns: [[54], [44, { state: 'shutting_down', exit: 'code:0' }]],
  },
  // Before the time range, and after it.
  outside: {
    region: 'syd',
    version: '9.9.9',
    openclaw: '9.9.9',
    load: 99,
    in: 1e9,
    out: 1e9,
    checkIns: [
      [70, { restarts: 1000 }],
      [-4, { restarts: 1000 }],
    ],
  },
};

const POINTS = Object.entries(FLEET).flatMap(([sandbox, machine]) =>
  machine.checkIns.map(([minutes, checkIn = {}]) => ({
    dataset: layout.dataset,
    timestamp: ago(minutes),
    _sample_interval: checkIn.weight ?? 1,
    index1: sandbox,
    blob1: sandbox,
    blob2: checkIn.version ?? machine.version,
    blob4: machine.openclaw,
    blob6: checkIn.state ?? 'running',
    blob7: machine.region,
    blob8: `m-${sandbox}`,
    blob9: checkIn.exit ?? '',
    double1: checkIn.restarts ?? 0,
    double2: checkIn.total ?? 0,
    double3: 60,
    double4: machine.load,
    double5: machine.in,
    double6: machine.out,
    ...(machine.disk && { double7: machine.disk[0], double8: machine.disk[1] }),
  })),
);

const ALL = { sandbox: 'All', state: 'All', region: 'All', version: 'All' } as const;
const select = (chosen: Selection['variables'] = {}): Selection => ({
  from: ago(60),
  to: ago(-3),
  interval: 600,
  variables: { ...ALL, ...chosen },
});

/** All, each variable alone, and values that could end a literal or a macro. */
const SELECTIONS: readonly Selection[] = [
  select(),
  select({ sandbox: ['steady'] }),
  select({ sandbox: ['o-brien', 'steady'] }),
  select({ state: ['crashed'] }),
  select({ region: ['iad', 'ams'] }),
  select({ version: ['1.1.0'] }),
  select({ sandbox: ['12', '$from'], state: ['a"b'], region: ['--'], version: [')'] }),
];

test('the dashboard has the structure that Grafana requires', () => {
  assert.equal(dashboard.schemaVersion, 42);
  assert.equal(dashboard.id, null, 'Grafana sets the id');
  assert.doesNotMatch(JSON.stringify(dashboard), /"orgId"|Bearer|accounts\//);

  const ids = panels.map(({ id }) => id);
  assert.equal(new Set(ids).size, ids.length, 'each panel has an id of its own');
  const titles = panels.map(({ title }) => title);
  assert.equal(new Set(titles).size, titles.length, 'each panel has a title of its own');

  for (const { title, type, gridPos, fieldConfig, description } of panels) {
    assert.ok(['stat', 'timeseries', 'table'].includes(type), `${title}: ${type}`);
    assert.ok(gridPos.x >= 0 && gridPos.w > 0 && gridPos.x + gridPos.w <= 24, `${title} is outside`);
    assert.ok(gridPos.y >= 0 && gridPos.h > 0, `${title} is outside`);
    assert.ok(description.length > 20, `${title} has no description`);
    assert.ok(fieldConfig.defaults !== undefined);
    for (const other of panels) {
      if (other.title === title) continue;
      const { x, y, w, h } = other.gridPos;
      const beside = x >= gridPos.x + gridPos.w || gridPos.x >= x + w;
      const below = y >= gridPos.y + gridPos.h || gridPos.y >= y + h;
      assert.ok(beside || below, `${title} overlaps ${other.title}`);
    }
  }
});

test('each panel sends one query to the selected data source, in the format that the plugin reads', () => {
  const datasource = { type: PLUGIN, uid: '${datasource}' };
  const [first] = dashboard.templating.list;
  assert.deepEqual([first.type, first.name, first.query], ['datasource', 'datasource', PLUGIN]);
  for (const { title, type, targets, datasource: own } of panels) {
    assert.deepEqual(own, datasource, title);
    assert.equal(targets.length, 1, title);
    const [query] = targets;
    assert.deepEqual(query.datasource, datasource, title);
    assert.equal(query.format, type === 'timeseries' ? 'time_series' : 'table', title);
    assert.deepEqual([query.dateTimeType, query.dateTimeColDataType], ['DATETIME', 'timestamp'], title);
    // By default, the plugin adds or invents data.
    assert.deepEqual([query.extrapolate, query.add_metadata, query.round], [false, false, '0s'], title);
  }
  for (const { name, datasource: own, multi, includeAll, refresh } of variables) {
    assert.deepEqual(own, datasource, name);
    assert.deepEqual([multi, includeAll, refresh], [true, true, 2], name);
  }
});

test('each panel formats only fields that its query returns', () => {
  for (const { title, type, fieldConfig, targets } of panels) {
    if (type === 'timeseries') continue; // stored values may name the series
    const [columns] = targets[0].query.split('\nFROM');
    const names = [...columns.matchAll(/(\w+),?$/gm)].map(([, name]) => name);
    const formatted = fieldConfig.overrides.map(({ matcher }) => matcher.options);
    assert.deepEqual(formatted.filter((name) => !names.includes(name)), [], title);
  }
});

test('every panel uses all variables, and the provisioning has its data source', () => {
  assert.deepEqual(variables.map(({ name }) => name), Object.keys(ALL));
  const used = new Set(panels.flatMap(({ targets }) => references(targets[0].query)));
  for (const name of Object.keys(ALL)) {
    for (const { title, targets } of panels) {
      assert.ok(references(targets[0].query).includes(name), `${title} ignores $${name}`);
    }
    assert.ok(used.has(`{${name}:sqlstring}`));
  }
  const source = readFileSync('grafana/provisioning/datasources/analytics-engine.yaml', 'utf8');
  const [current] = dashboard.templating.list;
  assert.match(source, new RegExp(`^    uid: ${String(current.current.value)}$`, 'm'));
  assert.match(source, new RegExp(`^    type: ${PLUGIN}$`, 'm'));
  assert.match(source, /^      httpHeaderValue1: Bearer \$AE_API_TOKEN$/m, 'the file has no secret');
});

test('every query is bounded in time, weights sampled points, and uses index1', () => {
  for (const { title, targets } of panels) {
    const { query } = targets[0];
    assert.match(query, /WHERE \$timeFilter\b/, `${title} is not bounded in time`);
    assert.doesNotMatch(query, /blob1\b|double2\b/, `${title}: index1 is fast, double2 can reset`);
    assert.match(query, new RegExp(`FROM ${layout.dataset}\n`), title);
    for (const [aggregate] of query.matchAll(/\b(sum|avg|quantile\w*)\(.*/gi)) {
      assert.match(aggregate, /_sample_interval/, `${title} does not weight ${aggregate}`);
    }
    assert.doesNotMatch(query, /--|\bavg\b/i, title);
  }
  const inRange = 'WHERE timestamp >= toDateTime($from) AND timestamp <= toDateTime($to)\n';
  for (const { name, query } of variables) assert.ok(String(query).includes(inRange), name);
});

test('Analytics Engine accepts every query with every selection', () => {
  const queries = SELECTIONS.flatMap((selection) => [
    ...panels.map(({ targets }) => expand(targets[0] as Target, selection)),
    ...variables.map((variable) => expandVariable(String(variable.query), selection)),
  ]);
  assert.equal(queries.length, SELECTIONS.length * (panels.length + variables.length));
  assert.equal(check(queries.join('\n;\n')), '');
});

test('the check finds macros and variables that nothing replaces', () => {
  const panel = target('Restarts');
  const withMore = (more: string) => expand({ ...panel, query: `${panel.query}\n${more}` }, select());
  assert.throws(() => withMore('$rate(a)'), /nothing replaces \$rate/);
  assert.throws(() => withMore('${sandbox:csv}'), /nothing replaces \$\{sandbox:csv\}/);
  assert.throws(() => withMore('${sandbox:sqlstring}'), /\$sandbox at All/);
});

// The tests below use the local Analytics Engine.

let port: number;
const context = { stop: async () => {} };

before(async () => {
  port = await freePort();
  const instance = miniflare([worker({ DATASET: { dataset: layout.dataset, port } })]);
  context.stop = () => instance.dispose();
  await instance.ready;
  const stored = await insert(port, POINTS);
  assert.deepEqual(await stored.json(), { points: POINTS.length });
});
after(() => context.stop());

/** Sends a query like Grafana's server, which only has a URL and a header. */
async function ask(sql: string): Promise<Answer> {
  const url = new URL(`http://127.0.0.1:${port}/client/v4/accounts/local/analytics_engine/sql`);
  url.searchParams.set('query', sql);
  const response = await fetch(url, { headers: { authorization: 'Bearer local' } });
  const text = await response.text();
  assert.equal(response.status, 200, `${text}\n${sql}`);
  return JSON.parse(text) as Answer;
}

/** Panels whose results were compared. */
const compared = new Set<string>();

function answer(title: string, chosen?: Selection['variables']): Promise<Answer> {
  compared.add(title);
  return ask(expand(target(title), select(chosen)));
}

const rows = async (title: string, chosen?: Selection['variables']) =>
  table(await answer(title, chosen));

const series = async (title: string, chosen?: Selection['variables']) =>
  timeSeries(target(title).query, await answer(title, chosen));

/** Values by the start of their step, in minutes before `END`. */
const at = (values: Readonly<Record<number, number>>): [number, number][] =>
  Object.entries(values)
    .map(([minutes, value]): [number, number] => [ago(Number(minutes)), value])
    .sort(([one], [other]) => one - other);

test('Fleet at a glance', async () => {
  const glance = async (chosen?: Selection['variables']) =>
    Object.values((await rows('Fleet at a glance', chosen))[0]);
  const [row] = await rows('Fleet at a glance');
  assert.deepEqual(row, { seen: 5, reporting: 3, running: 2, crashed: 1, silent: 1, stopped: 1 });
  assert.deepEqual(await glance({ sandbox: ['o-brien', 'steady'] }), [2, 2, 2, 0, 0, 0]);
  assert.deepEqual(await glance({ region: ['iad'] }), [2, 2, 1, 1, 0, 0]);
  // Only the latest check-in counts: earlier, `crashing` ran, and `steady` had 1.0.0.
  assert.deepEqual(await glance({ state: ['running'] }), [3, 2, 2, 0, 1, 0]);
  assert.deepEqual(await glance({ version: ['1.0.0'] }), [3, 1, 0, 1, 1, 1]);
  assert.deepEqual(await glance({ sandbox: ['nobody'] }), [0, 0, 0, 0, 0, 0]);
});

test('In this time range', async () => {
  assert.deepEqual(await rows('In this time range'), [
    // 7 + 5 · 2 + (5 + 3) + 4 + 2; 2 + 1 + 2 · 3; 7 · 600 + 10 · 1200 + 8 · 300; 7 · 60
    { check_ins: 31, restarts: 9, received: 18_600, sent: 420 },
  ]);
  assert.deepEqual(await rows('In this time range', { version: ['1.1.0'] }), [
    { check_ins: 14, restarts: 0, received: 14_400, sent: 240 },
  ]);
});

test('States over time', async () => {
  assert.deepEqual(await series('States over time'), {
    running: at({ 60: 5, 50: 3, 40: 4, 30: 3, 20: 2, 10: 1 }),
    crashed: at({ 50: 1, 30: 1, 20: 1, 10: 1 }),
    shutting_down: at({ 50: 1 }),
  });
  assert.deepEqual(await series('States over time', { state: ['crashed'], region: ['iad'] }), {
    crashed: at({ 50: 1, 30: 1, 20: 1, 10: 1 }),
  });
});

test('Restarts', async () => {
  const restarts = at({ 60: 0, 50: 2, 40: 1, 30: 6, 20: 0, 10: 0, 0: 0 });
  assert.deepEqual(await series('Restarts'), { restarts });
  assert.deepEqual(await series('Restarts', { sandbox: ['o-brien'] }), {
    restarts: at({ 60: 0, 50: 0, 40: 0, 30: 0, 20: 0 }),
  });
});

test('Load p95', async () => {
  assert.deepEqual(await series('Load p95'), {
    // From 30 minutes on: 0.5, 1, 2, 2, 2, 3, 3. Without weights the median would be 1.
    p50: at({ 60: 1, 50: 1, 40: 2, 30: 2, 20: 2, 10: 1 }),
    p95: at({ 60: 3, 50: 3, 40: 3, 30: 3, 20: 3, 10: 2 }),
    highest: at({ 60: 3, 50: 3, 40: 3, 30: 3, 20: 3, 10: 2 }),
  });
});

test('Bandwidth', async () => {
  assert.deepEqual(await series('Bandwidth'), {
    received: at({ 60: 5.5, 50: 5.5, 40: 5.5, 30: 6.5, 20: 5.5, 10: 1.5 }),
    sent: at({ 60: 0.1, 50: 0.1, 40: 0.1, 30: 0.1, 20: 0.1, 10: 0.1 }),
  });
});

test('Exit reasons', async () => {
  assert.deepEqual(await rows('Exit reasons'), [
    { reason: 'code:1', restarts: 6, sandboxes: 1 },
    { reason: 'signal:SIGSEGV', restarts: 3, sandboxes: 1 },
  ]);
});

test('Most restarts', async () => {
  assert.deepEqual(await rows('Most restarts'), [
    {
      sandbox: 'crashing',
      restarts: 9,
      exit_reason: 'code:1',
      version: '1.0.0',
      last_restart: ago(23),
    },
  ]);
});

test('Silent machines', async () => {
  const gone = {
    sandbox: 'gone',
    machine: 'm-gone',
    region: 'ams',
    last_seen_ms: ago(21),
    state: 'running',
    verdict: 'silent',
    exit_reason: '',
    version: '1.0.0',
  };
  const parked = {
    sandbox: 'parked',
    machine: 'm-parked',
    region: '',
    last_seen_ms: ago(44),
    state: 'shutting_down',
    verdict: 'stopped on purpose',
    exit_reason: 'code:0',
    version: '1.0.0',
  };
  assert.deepEqual(await rows('Silent machines'), [gone, parked]);
  assert.deepEqual(await rows('Silent machines', { state: ['running'] }), [gone]);
  // The last check-in of `steady` with 1.0.0 was 35 minutes before, due to an upgrade, not silence.
  assert.deepEqual(await rows('Silent machines', { version: ['1.0.0'], sandbox: ['steady'] }), []);
});

test('Version rollout', async () => {
  assert.deepEqual(await series('Version rollout'), {
    '1.0.0': at({ 60: 4, 50: 4, 40: 3, 30: 2, 20: 1, 10: 1 }),
    '1.1.0': at({ 60: 1, 50: 1, 40: 1, 30: 2, 20: 2, 10: 1 }),
  });
});

test('Versions now', async () => {
  assert.deepEqual(await rows('Versions now'), [
    { version: '1.0.0', openclaw_version: 'unknown', sandboxes: 2, reporting: 0 },
    { version: '1.1.0', openclaw_version: '2026.3.13', sandboxes: 2, reporting: 2 },
    { version: '1.0.0', openclaw_version: '2026.3.12', sandboxes: 1, reporting: 1 },
  ]);
});

test('Restarts by version', async () => {
  assert.deepEqual(await series('Restarts by version'), {
    '1.0.0': at({ 60: 0, 50: 2, 40: 1, 30: 6, 20: 0, 10: 0 }),
    '1.1.0': at({ 60: 0, 50: 0, 40: 0, 30: 0, 20: 0, 10: 0, 0: 0 }),
  });
  assert.deepEqual(await series('Restarts by version', { state: ['crashed'], version: ['1.0.0'] }), {
    '1.0.0': at({ 50: 2, 30: 6, 20: 0, 10: 0 }),
  });
});

test('Fullest disks', async () => {
  assert.deepEqual(await rows('Fullest disks'), [
    { sandbox: 'o-brien', share: 0.9, used: 900, size: 1_000, reported: ago(12) },
    { sandbox: 'steady', share: 0.5, used: 50, size: 100, reported: ago(-2) },
  ]);
});

test('Latest check-ins', async () => {
  const latest = await rows('Latest check-ins');
  assert.deepEqual(
    latest.map(({ at }) => at),
    POINTS.map(({ timestamp }) => timestamp)
      .filter((time) => time >= ago(60) && time <= ago(-3))
      .sort((one, other) => other - one),
  );
  assert.deepEqual((await rows('Latest check-ins', { state: ['crashed'] }))[2], {
    at: ago(23),
    sandbox: 'crashing',
    machine: 'm-crashing',
    region: 'iad',
    state: 'crashed',
    restarts: 2,
    exit_reason: 'code:1',
    uptime: 60,
    load: 2,
    received: 300,
    sent: 0,
    version: '1.0.0',
    openclaw_version: '2026.3.12',
  });
});

test('every panel was compared, and answers every selection', async () => {
  assert.deepEqual([...compared], panels.map(({ title }) => title));
  for (const { targets } of panels) {
    for (const selection of SELECTIONS) await ask(expand(targets[0] as Target, selection));
  }
});

/** A dashboard query in the cookbook's form: one day back, in steps of ten minutes. */
function documented(query: string): string {
  const day = "timestamp > NOW() - INTERVAL '1' DAY";
  const step = "INTERVAL '10' MINUTE";
  return query
    .replace(/\n *\$conditionalTest\(.*\)/g, '')
    .replace('\nWHERE true', '')
    .replace('$timeFilter', day)
    .replace('timestamp >= toDateTime($from) AND timestamp <= toDateTime($to)', day)
    .replace('toDateTime(intDiv($to, $interval) * $interval)', `toStartOfInterval(NOW(), ${step})`)
    .replaceAll('toDateTime($to)', 'NOW()')
    .replace('$timeSeries', `toStartOfInterval(timestamp, ${step})`)
    .replaceAll('$interval', '600');
}

test('docs/queries.md has the query of every panel, and each one runs', async () => {
  const sections = readFileSync('docs/queries.md', 'utf8').split('\n## ').slice(1);
  const cookbook = sections.flatMap((section): [string, string][] => {
    const sql = /^```sql\n(.*?)\n```$/ms.exec(section)?.[1];
    return sql === undefined ? [] : [[section.split('\n')[0], sql]];
  });
  const dashboards = panels.map(({ title, targets }) => [title, documented(targets[0].query)]);
  const [{ query: filter }] = variables;
  assert.deepEqual(cookbook, [...dashboards, ['Filters', documented(String(filter))]]);
  for (const section of sections.slice(1)) assert.match(section, /\*\*The trap\.\*\* /);
  for (const [title, sql] of cookbook) {
    assert.deepEqual(references(sql), [], title);
    assert.ok((await ask(sql)).data.length > 0, title);
  }
});

test('Analytics Engine refuses a selected value with a quote, with a clear error', async () => {
  const sql = expand(target('Restarts'), select({ sandbox: ["o'brien"] }));
  assert.match(check(sql), /error: backslash and single-quote characters in strings are unsupported/);
});

test('the variables offer the stored values, except those that could end a literal', async () => {
  // Grafana doubles quotes and does not escape backslashes; Analytics Engine refuses both.
  const unsafe = ['a\\', '\\', "o'brien", "'", "\\'"];
  const points = unsafe.map((text) => ({
    dataset: layout.dataset,
    timestamp: ago(1),
    ...{ index1: text, blob6: text, blob7: text, blob2: text },
  }));
  assert.deepEqual(await (await insert(port, points)).json(), { points: points.length });
  const offered = await Promise.all(
    variables.map(async ({ name, query }) => {
      const { data } = await ask(expandVariable(String(query), select()));
      return [name, data.map(({ text }) => text)];
    }),
  );
  assert.deepEqual(Object.fromEntries(offered), {
    sandbox: ['crashing', 'gone', 'o-brien', 'parked', 'steady'],
    state: ['crashed', 'running', 'shutting_down'],
    region: ['ams', 'iad'],
    version: ['1.0.0', '1.1.0'],
  });
});
