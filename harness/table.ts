/** A Markdown table that is aligned in its source, too: labels to the left, numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((_, column) =>
    Math.max(3, ...[head, ...rows].map((row) => row[column].length)),
  );
  const line = (cells: readonly string[]) => {
    const [label, ...numbers] = cells;
    const aligned = numbers.map((cell, i) => cell.padStart(widths[i + 1]));
    return `| ${[label.padEnd(widths[0]), ...aligned].join(' | ')} |`;
  };
  const rule = widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`));
  return [line(head), line(rule), ...rows.map(line)].join('\n');
}
