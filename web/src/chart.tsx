/** Charts over time, drawn by uPlot; each has its figures as a table, too. */
import { useEffect, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';

import { Table } from './parts.tsx';

export interface Line {
  readonly label: string;
  /** One for each time. */
  readonly values: readonly (number | null)[];
  /** The name of a colour of the style sheet. */
  readonly color: string;
}

interface Props {
  readonly title: string;
  /** ISO times, at the start of each step. */
  readonly times: readonly string[];
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

/** The most rows of a chart's table. */
const ROWS = 300;

/** Each line's values on top of those of the lines before it. */
function stack(lines: readonly Line[]): (number | null)[][] {
  const sums: number[] = [];
  return lines.map(({ values }) => values.map((value, i) => (sums[i] = (sums[i] ?? 0) + (value ?? 0))));
}

/** A colour of the style sheet as a canvas takes it, for the present scheme. */
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

/** Distances of ticks between whole numbers. */
const WHOLE = Array.from({ length: 48 }, (_, i) => [1, 2, 5][i % 3] * 10 ** Math.floor(i / 3));

/** The values of a series without a neighbour. */
const alone: uPlot.Series.Points.Filter = (plot, series) => {
  const values = plot.data[series];
  return [...values.keys()].filter((i) => values[i] !== null && values[i - 1] == null && values[i + 1] == null);
};

function draw(element: HTMLDivElement, tip: HTMLDivElement, props: Props): () => void {
  const { times, lines, kind, format, isWhole, sync, height = 170 } = props;
  const isStacked = kind !== 'line';
  const x = times.map((time) => Date.parse(time) / 1_000);
  // The highest is drawn first: the others are in front of it.
  const order = lines.map((_, i) => (isStacked ? lines.length - 1 - i : i));
  const values = isStacked ? stack(lines) : lines.map((line) => [...line.values]);
  // A step lasts until the next one: the last one needs room, too.
  const step = x.length > 1 ? x[1] - x[0] : 0;
  const bars = uPlot.paths.bars!({ size: [0.9, 40], align: 1 });
  const stepped = uPlot.paths.stepped!({ align: 1 });
  const ink = color(element, 'muted');
  const axis = { stroke: ink, grid: { stroke: color(element, 'line'), width: 1 }, ticks: { show: false } };
  const moved = (plot: uPlot) => {
    const { idx, left = 0 } = plot.cursor;
    tip.hidden = idx === null || idx === undefined || left < 0;
    if (idx === null || idx === undefined || tip.hidden) return;
    const rows = lines
      .map((line) => [line, line.values[idx]] as const)
      .filter(([, value]) => value !== null && value !== undefined && (!isStacked || value > 0));
    const head = document.createElement('strong');
    head.textContent = new Date(x[idx] * 1_000).toLocaleString();
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
      legend: { show: false },
      cursor: { drag: { setScale: false }, points: { show: !isStacked }, y: false, ...(sync ? { sync: { key: sync } } : {}) },
      scales: { x: { range: (_, min, max) => [min, max + (isStacked ? step : 0)] }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.05 : 1] } },
      axes: [
        { ...axis, size: 28, grid: { show: false }, values: (_, splits, __, ___, increment) => ticks(splits, increment) },
        { ...axis, ...(isWhole ? { incrs: WHOLE } : {}), size: 64, values: (_, splits) => splits.map((split) => (split === null ? '' : format(split))) },
      ],
      series: [
        {},
        ...order.map((i) => ({
          label: lines[i].label,
          stroke: color(element, lines[i].color),
          width: isStacked ? 0 : 2,
          ...(isStacked ? { fill: color(element, lines[i].color) } : {}),
          // A line needs two values: one between unknown ones is a point.
          points: isStacked ? { show: false } : { filter: alone, size: 5 },
          ...(kind === 'bars' ? { paths: bars } : {}),
          ...(kind === 'area' ? { paths: stepped } : {}),
        })),
      ],
      hooks: { setCursor: [moved] },
    },
    [x, ...order.map((i) => values[i])] as uPlot.AlignedData,
    element,
  );
  const observer = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height }));
  observer.observe(element);
  return () => {
    observer.disconnect();
    plot.destroy();
  };
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
  useEffect(() => draw(element.current!, tip.current!, props), [data, theme]);
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
