/**
 * Builds the page and the description of the API into `web/dist`, which the Worker serves: `node web/build.ts`. With
 * `--watch`, builds again after each change. Script and style have a hash in their names, so that browsers may cache
 * them for a year.
 */
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { context, type BuildResult, type Plugin } from 'esbuild';

const WEB = import.meta.dirname;
const DIST = path.join(WEB, 'dist');
/** The description of the API, a static file like the page. */
const OPENAPI = path.join(WEB, '../src/openapi.json');
const MODULES = path.join(WEB, '../node_modules');
/** Bundled libraries; their licences must be included. */
const LIBRARIES = ['preact', 'uplot'];
const ASSETS = path.join(DIST, 'assets');

/** Writes the HTML that names the other files, and removes those of earlier builds. */
function writeHtml({ metafile, errors }: BuildResult): void {
  if (errors.length > 0 || metafile === undefined) return;
  const outputs = Object.keys(metafile.outputs).map((file) => path.relative(DIST, file));
  const named = (extension: string) => {
    const file = outputs.find((output) => output.endsWith(extension));
    if (file === undefined) throw new Error(`the build has no ${extension}`);
    return `/${file}`;
  };
  const html = readFileSync(path.join(WEB, 'index.html'), 'utf8')
    .replace('SCRIPT', named('.js'))
    .replace('STYLE', named('.css'))
    .replace('ICON', named('.svg'));
  writeFileSync(path.join(DIST, 'index.html'), html);
  cpSync(path.join(WEB, '_headers'), path.join(DIST, '_headers'));
  mkdirSync(path.join(DIST, 'api'), { recursive: true });
  writeFileSync(path.join(DIST, 'api/openapi.json'), JSON.stringify(JSON.parse(readFileSync(OPENAPI, 'utf8'))));
  const licences = LIBRARIES.map((name) => `${name}\n\n${readFileSync(path.join(MODULES, name, 'LICENSE'), 'utf8')}`);
  writeFileSync(path.join(DIST, 'licences.txt'), licences.join('\n'));
  for (const file of readdirSync(ASSETS)) {
    if (!outputs.includes(`assets/${file}`)) rmSync(path.join(ASSETS, file), { force: true });
  }
}

const html: Plugin = { name: 'html', setup: (build) => build.onEnd(writeHtml) };

mkdirSync(ASSETS, { recursive: true });
const builder = await context({
  absWorkingDir: process.cwd(),
  entryPoints: {
    page: path.join(WEB, 'src/main.tsx'),
    icon: path.join(WEB, 'icon.svg'),
    style: path.join(WEB, 'src/page.css'),
  },
  outdir: ASSETS,
  entryNames: '[name]-[hash]',
  assetNames: '[name]-[hash]',
  loader: { '.svg': 'copy' },
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2024',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'none',
  metafile: true,
  plugins: [html],
  logLevel: 'warning',
});
if (process.argv.includes('--watch')) {
  await builder.watch();
  // Ends with its standard input, as esbuild itself does.
  process.stdin.resume().on('end', () => process.exit());
} else {
  const { errors } = await builder.rebuild();
  await builder.dispose();
  process.exitCode = errors.length > 0 ? 1 : 0;
}
