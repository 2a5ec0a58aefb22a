/**
 * Expands queries and reads answers like Altinity's ClickHouse plugin (vertamedia-clickhouse-datasource), as
 * far as the dashboard needs it, to run its queries without Grafana. Written after the behaviour of the plugin
 * (github.com/Altinity/clickhouse-grafana, versions 3.x), not copied from its source:
 *
 * 1. `$conditionalTest(SQL, $variable)` becomes SQL, or nothing if the variable is All (`conditionalTest` in
 *    src/datasource/helpers).
 * 2. `${variable:sqlstring}` is Grafana's own format: comma-separated values in single quotes, with quotes in
 *    them doubled. The dashboard avoids a plain `$variable`: the plugin does not quote a value that looks like a
 *    number, so a string would be compared with a number.
 * 3. The plugin's macros are replaced as text (`replace` and `getTimeSeries` in pkg/eval/eval_query.go). The
 *    dashboard avoids `$table`, which puts `default.` before the name.
 * 4. ` FORMAT JSON` is appended (`seriesQuery` in src/datasource/datasource.ts).
 */

/** One query of a panel, as the plugin stores it: the fields that matter here. */
export interface Target {
  readonly query: string;
  readonly format: 'time_series' | 'table';
  readonly dateTimeColDataType: string;
}

/** The user's choices at the top of a dashboard. */
export interface Selection {
  /** The time range, in milliseconds since 1970. */
  readonly from: number;
  readonly to: number;
  /** The length of a step, in seconds; Grafana derives it from the time range. */
  readonly interval: number;
  /** The selected values of each variable. */
  readonly variables: Readonly<Record<string, 'All' | readonly string[]>>;
}

/** The supported macros; the plugin has more. */
const MACROS = new Set(['timeSeries', 'timeFilter', 'from', 'to', 'interval', 'conditionalTest']);

/** All that Grafana or the plugin would replace: `$name` and `${name:format}`, without the `$`. */
export const references = (query: string): string[] =>
  [...query.matchAll(/\$(\w+|\{[^}]*\})/g)].map(([, name]) => name);

/** The query that a panel sends. */
export function expand(target: Target, selection: Selection): string {
  const query = variables(target.query, selection);
  const { dateTimeColDataType: column } = target;
  const macros: Record<string, string> = {
    timeSeries: `(intDiv(toUInt32(${column}), $interval) * $interval) * 1000`,
    timeFilter: `${column} >= toDateTime($from) AND ${column} <= toDateTime($to)`,
    ...bounds(selection),
    interval: String(selection.interval),
  };
  // In this order: the first two contain the others.
  const expanded = Object.entries(macros).reduce(
    (text, [name, value]) => text.replaceAll(new RegExp(`\\$${name}\\b`, 'g'), () => value),
    query.trim(),
  );
  return `${expanded} FORMAT JSON`;
}

/** The query that a variable sends: only `$from` and `$to` work there in all versions. */
export function expandVariable(query: string, selection: Selection): string {
  const { from, to } = bounds(selection);
  const expanded = query.replaceAll('$from', from).replaceAll('$to', to);
  return `${expanded.replaceAll('\n', ' ')} FORMAT JSON`;
}

const bounds = ({ from, to }: Selection) => ({
  from: String(Math.floor(from / 1000)),
  to: String(Math.floor(to / 1000)),
});

function variables(query: string, selection: Selection): string {
  for (const reference of references(query)) {
    const name = /^\{(\w+):sqlstring\}$/.exec(reference)?.[1] ?? reference;
    if (MACROS.has(name) || Object.hasOwn(selection.variables, name)) continue;
    throw new Error(`nothing replaces $${reference}`);
  }
  return conditional(query, selection).replace(/\$\{(\w+):sqlstring\}/g, (_, name: string) => {
    const values = selection.variables[name];
    if (values === 'All') throw new Error(`$${name} at All is not within $conditionalTest`);
    return values.map((value) => `'${value.replaceAll("'", "''")}'`).join(',');
  });
}

function conditional(query: string, selection: Selection): string {
  const macro = '$conditionalTest(';
  const start = query.indexOf(macro);
  if (start === -1) return query;
  let end = start + macro.length;
  for (let open = 1; open > 0; end++) {
    if (end === query.length) throw new Error('a $conditionalTest has no end');
    open += { '(': 1, ')': -1 }[query[end]] ?? 0;
  }
  const [, sql, name] = /^(.*),\s*\$(\w+)$/s.exec(query.slice(start + macro.length, end - 1)) ?? [];
  if (!Object.hasOwn(selection.variables, name)) throw new Error(`there is no variable $${name}`);
  const kept = selection.variables[name] === 'All' ? '' : sql.trim();
  return conditional(`${query.slice(0, start)} ${kept} ${query.slice(end)}`, selection);
}

/** An answer in `FORMAT JSON`. */
export interface Answer {
  readonly meta: readonly { readonly name: string; readonly type: string }[];
  readonly data: readonly Readonly<Record<string, unknown>>[];
}

/** The rows of a table; converts numeric columns, which may arrive as strings, to numbers. */
export const table = ({ meta, data }: Answer): Record<string, unknown>[] =>
  data.map((row) =>
    Object.fromEntries(
      meta.map(({ name, type }) => [
        name,
        /^U?Int\d+$|^Float\d+$/.test(type) ? Number(row[name]) : row[name],
      ]),
    ),
  );

/**
 * The series of a graph by name, as pairs of time and value. The first column is the time in milliseconds.
 * Further columns of GROUP BY name the series; without them, the value columns do.
 */
export function timeSeries(query: string, { meta, data }: Answer): Record<string, [number, number][]> {
  const [time] = meta.map(({ name }) => name);
  const keys = (/\nGROUP BY (.+)/.exec(query)?.[1] ?? '').split(', ').filter((key) => key !== time);
  const series: Record<string, [number, number][]> = {};
  for (const row of data) {
    for (const { name } of meta) {
      if (name === time || keys.includes(name)) continue;
      const label = keys.length > 0 ? keys.map((key) => String(row[key])).join(', ') : name;
      (series[label] ??= []).push([Number(row[time]), Number(row[name])]);
    }
  }
  return series;
}
