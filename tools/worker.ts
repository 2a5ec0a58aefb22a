/**
 * Compiles the Worker into a folder: `index.js` and `index_bg.wasm`. Runs inside `tools/setup --wasm`.
 *
 *   node tools/worker.ts [--out-dir FOLDER] [CARGO-OPTION...]
 *
 * FOLDER is `build` by default. `worker-build`, the tool of workers-rs, does the same, but takes minutes to compile,
 * and mostly downloads programs that `tools/setup` has installed.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { build, type Plugin } from 'esbuild';

import { metadata } from '../harness/cargo.ts';
import { command, outputOf } from '../harness/command.ts';

const ROOT = path.join(import.meta.dirname, '..');
const ENTRY = path.join(ROOT, 'src/entry.js');

/** Features that workerd supports: those that rustc uses by default, and exceptions, which wasm-bindgen catches. */
const FEATURES = [
  'mutable-globals',
  'sign-ext',
  'nontrapping-float-to-int',
  'bulk-memory',
  'multivalue',
  'reference-types',
  'exception-handling',
];

/** Resolves wasm-bindgen's copies of the files in `src/` to the files: a module and its copy would each have a state. */
const ORIGINALS: Plugin = {
  name: 'originals',
  setup: ({ onResolve }) =>
    onResolve({ filter: /\/snippets\/kiloclaw-telemetry-[0-9a-f]+\// }, ({ path: copy }) => ({
      path: path.join(ROOT, copy.replace(/^.*\/snippets\/[^/]+\//, '')),
    })),
};

async function main(): Promise<void> {
  const options = process.argv.slice(2);
  const out = path.join(ROOT, options[0] === '--out-dir' ? options.splice(0, 2)[1]! : 'build');

  const cargo = ['build', '--lib', '--profile', 'worker', '--target', 'wasm32-unknown-unknown', ...options];
  // wasm-bindgen's macro then uses the futures of js-sys instead of another crate.
  outputOf('cargo', cargo, { WASM_BINDGEN_USE_JS_SYS: '1' });
  const { target_directory: target, packages } = metadata();
  const { name } = packages.find((one) => one.manifest_path === path.join(ROOT, 'Cargo.toml'))!;
  const compiled = path.join(target, 'wasm32-unknown-unknown/worker', `${name.replaceAll('-', '_')}.wasm`);

  // Built in another folder, so that `build/` is always complete.
  const stage = path.join(out, `.new-${process.pid}`);
  mkdirSync(stage, { recursive: true });
  try {
    const recovery = ['--experimental-reset-state-function', '--force-enable-abort-handler'];
    outputOf('wasm-bindgen', ['--target', 'module', '--no-typescript', ...recovery, '--out-dir', stage, '--out-name', 'index', compiled]);
    const wasm = path.join(stage, 'index_bg.wasm');
    // Only a stack that is almost full reaches addresses below 1024, and no runtime uses alignment hints or the sections
    // that are stripped.
    const passes = ['-Oz', '--low-memory-unused', '--dealign', '--strip-producers', '--strip-target-features'];
    outputOf('wasm-opt', [wasm, '--output', wasm, ...passes, ...FEATURES.map((feature) => `--enable-${feature}`)]);
    numberNames(wasm, path.join(stage, 'index.js'));
    const { outputFiles } = await build({
      absWorkingDir: stage,
      entryPoints: [ENTRY],
      alias: { wasm: path.join(stage, 'index.js') },
      plugins: [ORIGINALS],
      bundle: true,
      minify: true,
      format: 'esm',
      external: ['./index_bg.wasm'],
      outfile: 'bundle.js',
      write: false,
      logLevel: 'warning',
      // wasm-bindgen imports the files of one folder once for each module that names them.
      logOverride: { 'duplicate-object-key': 'silent' },
    });
    // wrangler does not support source-phase imports.
    const bundle = outputFiles[0]!.text.replaceAll('import source ', 'import ');
    writeFileSync(path.join(stage, 'bundle.js'), bundle);
    renameSync(wasm, path.join(out, 'index_bg.wasm'));
    renameSync(path.join(stage, 'bundle.js'), path.join(out, 'index.js'));
  } finally {
    rmSync(stage, { recursive: true, force: true });
  }
}

/**
 * Replaces the names of bindings, which end in hashes, by numbers of the same length. Names do not compress: numbers save
 * 2 kB of the gzipped Worker. Both files have the names.
 */
function numberNames(...files: string[]): void {
  const numbers = new Map<string, string>();
  const number = (name: string) => {
    if (!numbers.has(name)) numbers.set(name, String(numbers.size).padStart(name.length, '0'));
    return numbers.get(name)!;
  };
  for (const file of files) {
    const bytes = readFileSync(file, 'latin1');
    writeFileSync(file, bytes.replace(/(?<=__wbg_)\w+_[0-9a-f]{16}\b/g, number), 'latin1');
  }
}

await command('tools/worker.ts', main);
