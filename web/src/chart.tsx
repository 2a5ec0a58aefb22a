/** Charts over time, drawn by uPlot. Each can also show its numbers as a table. */
import { useEffect, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';

import { Table } from './parts.tsx';

export interface Line {
  readonly label: string;
  /** One value for each time. */
  readonly values: readonly (number | null)[];
  /** The name of a colour of the style sheet. */
  readonly color: string;
}

interface Props {
  readonly title: string;
  /** ISO times, at the start of each step. */
  readonly times: readonly string[];
  readonly stepSeconds: number;
  readonly lines: readonly Line[];
  /** Bars and areas are stacked. */
  readonly kind: 'line' | 'bars' | 'area';
  readonly format: (value: number) => string;
  /** Whether all values are whole numbers. */
  readonly isWhole?: boolean;
  /** Charts with the same key have the same cursor. */
  readonly sync?: string;
  readonly height?: number;
}

/** Room for the labels of the vertical axis, and right of the plot, in pixels; `.on-axis` of the style sheet has the same. */
const AXIS = 64;
const EDGE = 12;

/** Maximum number of rows in a chart's table. */
const ROWS = 300;

/** Stacks each line's values on those of the lines before it. */
function stack(lines: readonly Line[]): (number | null)[][] {
  const sums: number[] = [];
  return lines.map(({ values }) => values.map((value, i) => (sums[i] = (sums[i] ?? 0) + (value ?? 0))));
}

/** A colour of the style sheet for the canvas, in the present scheme. */
function color(element: HTMLElement, name: string): string {
  element.style.color = `var(--${name})`;
  const { color } = getComputedStyle(element);
  element.style.color = '';
  return color;
}

const hours = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const days = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' });

/** Labels of the time axis: hours, and days where one begins. */
const ticks = (splits: number[], increment: number): string[] =>
  splits.map((split) => {
    const date = new Date(split * 1_000);
    const isMidnight = date.getHours() === 0 && date.getMinutes() === 0;
    return (increment >= 86_400 || isMidnight ? days : hours).format(date);
  });

/** Distances between ticks at whole numbers. */
const WHOLE = Array.from({ length: 48 }, (_, i) => [1, 2, 5][i % 3] * 10 ** Math.floor(i / 3));

/** The values of a series without a neighbour. */
const alone: uPlot.Series.Points.Filter = (plot, series) => {
  const values = plot.data[series];
  return [...values.keys()].filter((i) => values[i] !== null && values[i - 1] == null && values[i + 1] == null);
};

/** What uPlot draws: times, then the values of each series. */
function dataOf({ times, stepSeconds, lines, kind }: Props): uPlot.AlignedData {
  const values = kind === 'line' ? lines.map((line) => [...line.values]) : stack(lines).toReversed();
  const all = [times.map((time) => Date.parse(time) / 1_000), ...values];
  // The last step also needs an end.
  if (kind === 'area' && times.length > 0) for (const [i, row] of all.entries()) row.push(i === 0 ? row.at(-1)! + stepSeconds : row.at(-1)!);
  return all as uPlot.AlignedData;
}

/** Creates a plot without data; `current` returns the latest ones. */
function create(element: HTMLDivElement, tip: HTMLDivElement, current: () => Props): [uPlot, () => void] {
  const { lines, kind, isWhole, sync, height = 170 } = current();
  const isStacked = kind !== 'line';
  // Draws the highest first, so that the others are in front of it.
  const order = isStacked ? lines.toReversed() : lines;
  const bars = uPlot.paths.bars!({ size: [0.9, 40], align: 1 });
  const stepped = uPlot.paths.stepped!({ align: 1 });
  const ink = color(element, 'muted');
  const axis = { stroke: ink, grid: { stroke: color(element, 'line'), width: 1 }, ticks: { show: false } };
  const moved = (plot: uPlot) => {
    const { times, lines, format } = current();
    const { left = 0 } = plot.cursor;
    const idx = Math.min(plot.cursor.idx ?? -1, times.length - 1);
    tip.hidden = idx < 0 || left < 0;
    if (tip.hidden) return;
    const rows = lines
      .map((line) => [line, line.values[idx]] as const)
      .filter(([, value]) => value !== null && value !== undefined && (!isStacked || value > 0));
    const head = document.createElement('strong');
    head.textContent = new Date(times[idx]).toLocaleString();
    tip.replaceChildren(
      head,
      ...rows.map(([line, value]) => {
        const row = document.createElement('div');
        const mark = document.createElement('i');
        mark.className = `swatch ${line.color}`;
        row.append(mark, `${line.label}: ${format(value!)}`);
        return row;
      }),
    );
    const place = left + plot.over.offsetLeft;
    tip.style.left = `${place > element.clientWidth / 2 ? place - tip.offsetWidth - 12 : place + 12}px`;
  };
  const plot = new uPlot(
    {
      width: element.clientWidth,
      height,
      padding: [8, EDGE, 0, 0],
      legend: { show: false },
      cursor: { drag: { setScale: false }, points: { show: !isStacked }, y: false, ...(sync ? { sync: { key: sync } } : {}) },
      scales: {
        // A step lasts until the next one, so the last step also needs room.
        x: { range: (_, min, max) => [min, kind === 'area' ? max : max + current().stepSeconds] },
        y: { range: (_, __, max) => [0, max > 0 ? max * 1.05 : 1] },
      },
      axes: [
        { ...axis, size: 28, grid: { show: false }, values: (_, splits, __, ___, increment) => ticks(splits, increment) },
        { ...axis, ...(isWhole ? { incrs: WHOLE } : {}), size: AXIS, values: (_, splits) => splits.map((split) => (split === null ? '' : current().format(split))) },
      ],
      series: [
        {},
        ...order.map((line) => ({
          label: line.label,
          stroke: color(element, line.color),
          width: isStacked ? 0 : 2,
          ...(isStacked ? { fill: color(element, line.color) } : {}),
          // A line needs two values; a value between unknown ones is a point.
          points: isStacked ? { show: false } : { filter: alone, size: 5 },
          ...(kind === 'bars' ? { paths: bars } : {}),
          ...(kind === 'area' ? { paths: stepped } : {}),
        })),
      ],
      hooks: { setCursor: [moved], setData: [moved] },
    },
    undefined,
    element,
  );
  const observer = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height }));
  observer.observe(element);
  const end = () => {
    observer.disconnect();
    plot.destroy();
  };
  return [plot, end];
}

export function Chart(props: Props) {
  const { title, times, lines, format } = props;
  const element = useRef<HTMLDivElement>(null);
  const tip = useRef<HTMLDivElement>(null);
  const [isTable, showTable] = useState(false);
  const [theme, setTheme] = useState(0);
  const data = JSON.stringify([times, lines]);
  useEffect(() => {
    const changed = () => setTheme((count) => count + 1);
    const scheme = matchMedia('(prefers-color-scheme: dark)');
    scheme.addEventListener('change', changed);
    window.addEventListener('theme', changed);
    return () => {
      scheme.removeEventListener('change', changed);
      window.removeEventListener('theme', changed);
    };
  }, []);
  const current = useRef(props);
  current.current = props;
  const plot = useRef<uPlot>(null);
  // Only new series need a new plot; new data must not move the cursor and the tooltip.
  const series = JSON.stringify([theme, lines.map(({ label, color }) => [label, color])]);
  useEffect(() => {
    const [created, end] = create(element.current!, tip.current!, () => current.current);
    plot.current = created;
    return end;
  }, [series]);
  useEffect(() => plot.current!.setData(dataOf(props)), [data, series]);
  const summary = lines.map(({ label, values }) => {
    const known = values.filter((value) => value !== null);
    return `${label}: last ${known.length > 0 ? format(known.at(-1)!) : 'unknown'}`;
  });
  return (
    <figure class="chart">
      <figcaption>
        <h3>{title}</h3>
        <button type="button" class="quiet" aria-label={`Table of ${title}`} aria-pressed={isTable} onClick={() => showTable(!isTable)}>
          Table
        </button>
        <ul class="legend">
          {lines.map((line) => (
            <li key={line.label}>
              <i class={`swatch ${line.color}`} />
              <bdi>{line.label}</bdi>
            </li>
          ))}
        </ul>
      </figcaption>
      <div class="plot" role="img" aria-label={`${title}. ${summary.join('; ')}`} hidden={isTable}>
        <div ref={element} />
        <div ref={tip} class="tip" hidden />
      </div>
      {isTable && (
        <Table label={title} columns={['Time', ...lines.map(({ label }) => ({ number: label }))]}>
          {times.slice(-ROWS).map((time, row) => (
            <tr key={time}>
              <td>
                <time dateTime={time} title={`${time} UTC`}>
                  {new Date(time).toLocaleString()}
                </time>
              </td>
              {lines.map(({ label, values }) => {
                const value = values[Math.max(0, times.length - ROWS) + row];
                return (
                  <td key={label} class="number">
                    {value === null || value === undefined ? '–' : format(value)}
                  </td>
                );
              })}
            </tr>
          ))}
        </Table>
      )}
    </figure>
  );
}
