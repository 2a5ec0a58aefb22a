/** Turns samples into the tables of results and targets. */
import { table } from '../harness/table.ts';
import type { Metric, Samples } from './measure.ts';
import { median } from './median.ts';

/** The variant that all ratios are against. */
const BASELINE = 'typescript';

const ROWS: readonly { metric: Metric; label: string; digits: number }[] = [
  { metric: 'inProcess', label: 'CPU per accepted check-in, in process, µs', digits: 1 },
  { metric: 'http', label: 'CPU per accepted check-in, HTTP, µs', digits: 1 },
  { metric: 'wrongKey', label: 'CPU per wrong key, HTTP, µs', digits: 1 },
  { metric: 'invalidBody', label: 'CPU per invalid body, HTTP, µs', digits: 1 },
  ...([1, 16, 64] as const).flatMap((connections) => {
    const at = connections === 1 ? '1 connection' : `${connections} connections`;
    return [
      { metric: `throughput${connections}`, label: `Check-ins per second, ${at}`, digits: 0 } as const,
      { metric: `p50At${connections}`, label: `Latency p50, ${at}, µs`, digits: 0 } as const,
      { metric: `p99At${connections}`, label: `Latency p99, ${at}, µs`, digits: 0 } as const,
    ];
  }),
  { metric: 'coldStart', label: 'Cold start, ms', digits: 1 },
  { metric: 'resident', label: 'Memory (RSS) under load, MiB', digits: 1 },
  { metric: 'size', label: 'Bundle, gzipped, kB', digits: 1 },
];

/** An upper bound. */
interface Target {
  readonly label: string;
  readonly limit: number;
  readonly metric: Metric;
  /** The divisor: a metric of a variant. Without it, the limit is for the figure itself. */
  readonly over?: readonly [Metric, string];
}

const TARGETS: readonly Target[] = [
  { label: 'CPU in process / typescript', limit: 0.55, metric: 'inProcess', over: ['inProcess', BASELINE] },
  { label: 'CPU over HTTP / typescript', limit: 0.68, metric: 'http', over: ['http', BASELINE] },
  { label: 'CPU of a wrong key / of an accepted check-in', limit: 1, metric: 'wrongKey', over: ['http', 'rust'] },
  { label: 'Cold start / typescript', limit: 0.8, metric: 'coldStart', over: ['coldStart', BASELINE] },
  { label: 'Memory under load / typescript', limit: 1, metric: 'resident', over: ['resident', BASELINE] },
  { label: 'Bundle, gzipped, kB', limit: 170, metric: 'size' },
];

/** The ratio of each round: ratios vary less from round to round than their values do. */
function ratios(
  samples: Samples,
  of: readonly [Metric, string],
  over: readonly [Metric, string],
): readonly number[] {
  const divisors = samples.get(...over);
  return samples.get(...of).map((value, round) => value / divisors[round]);
}

/** Medians, and in parentheses the medians of the ratios to the baseline. */
export function results(samples: Samples, variants: readonly string[]): string {
  const rows = ROWS.map(({ metric, label, digits }) => [
    label,
    ...variants.map((variant) => {
      const values = samples.get(metric, variant);
      if (values.length === 0) return '–';
      const value = median(values).toFixed(digits);
      if (variant === BASELINE) return value;
      return `${value} (${median(ratios(samples, [metric, variant], [metric, BASELINE])).toFixed(2)})`;
    }),
  ]);
  return table(['', ...variants], rows);
}

/** Each target and whether the Worker meets it. If even the floor misses it, no Worker could. */
export function targets(samples: Samples): string {
  const rows = TARGETS.map(({ label, limit, metric, over }) => {
    const figures = (variant: string) =>
      over === undefined ? samples.get(metric, variant) : ratios(samples, [metric, variant], over);
    const digits = over === undefined ? 0 : 2;
    const all = figures('rust');
    const floor = median(figures('floor'));
    const [low, high] = [Math.min(...all), Math.max(...all)].map((value) => value.toFixed(digits));
    const verdict = median(all) <= limit ? 'met' : floor > limit ? 'below the floor' : '**missed**';
    return [
      label,
      `≤ ${limit.toFixed(digits)}`,
      median(all).toFixed(digits),
      all.length === 1 ? '' : `${low} to ${high}`,
      Number.isNaN(floor) ? '' : floor.toFixed(digits),
      verdict,
    ];
  });
  return table(['rust', 'target', 'measured', 'rounds', 'floor', ''], rows);
}

/** The ratios of one variant to another: their median and range. */
export function comparison(samples: Samples, variant: string, other: string): string {
  const rows = ROWS.flatMap(({ metric, label }) => {
    const all = ratios(samples, [metric, variant], [metric, other]).toSorted((a, b) => a - b);
    if (all.length === 0) return [];
    const [low, high] = [all[0], all[all.length - 1]].map((value) => value.toFixed(2));
    return [[label.replace(/, (µs|ms|MiB|kB)$/, ''), median(all).toFixed(3), `${low} to ${high}`]];
  });
  return table(['', `${variant} / ${other}`, 'rounds'], rows);
}

export interface Document {
  readonly facts: Readonly<Record<string, string>>;
  readonly results: string;
  readonly targets: string;
  /** Sections of their own, in Markdown. */
  readonly native: string;
  readonly localAe: string;
  readonly operators: string;
}

export function page({ facts, results, targets, native, localAe, operators }: Document): string {
  const list = Object.entries(facts).map(([name, value]) => `- ${name}: ${value}`);
  return `# Measured

Written by \`npm run bench\`; [README.md](README.md) explains each number.

${list.join('\n')}

## Results

Medians. In parentheses: the ratio to \`${BASELINE}\`, as the median of the ratios within each round. Compare
only the ratios: the same variant differs by 10 to 25 % from run to run.

${results}

## Targets

${targets}

${native}
${localAe}
${operators}`;
}
