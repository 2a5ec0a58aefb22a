/**
 * `worker-build --release`: compiles the Worker into `build/`. Runs inside `tools/setup --wasm`.
 *
 *   worker-build --release [--out-dir FOLDER] [CARGO-OPTION...]
 *
 * It does what the tool of that name does for this Worker, with the same output except for one line of metadata. That tool is
 * another program in Rust, which would have to be compiled for minutes before the Worker is, and most of it downloads the
 * programs that are here already.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { build } from 'esbuild';

import { command, Failure } from '../harness/command.ts';

const ROOT = path.join(import.meta.dirname, '..');
const SHIM = path.join(import.meta.dirname, 'worker-shim.js');

/** Events of the runtime, whose handlers get the event, the bindings and the context. */
const EVENTS = ['fetch', 'queue', 'scheduled', 'email', 'connect'];
/** What the runtime of wasm-bindgen exports for the shim. */
const INTERNAL = ['__wbg_reset_state', '__worker_init_state'];

/** Encodings that workerd knows: what rustc emits by default, and exceptions, which wasm-bindgen catches. */
const FEATURES = [
  'mutable-globals',
  'sign-ext',
  'nontrapping-float-to-int',
  'bulk-memory',
  'multivalue',
  'reference-types',
  'exception-handling',
];

function run(program: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): string {
  const options = { cwd: ROOT, env: { ...process.env, ...env }, encoding: 'utf8' } as const;
  const { status, error, stdout } = spawnSync(program, args, { ...options, stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 1e8 });
  if (error !== undefined) throw new Failure(`cannot run ${program}: ${error.message}`);
  if (status !== 0) throw new Failure(`${program} failed: see above`);
  return stdout;
}

/** The shim for what the module exports. */
function shim(bindings: string): string {
  const names = [...bindings.matchAll(/^export (?:async )?function (\w+)\(|^export \{ \w+ as (\w+) \}/gm)].map(
    ([, declared, renamed]) => declared ?? renamed!,
  );
  const handlers = names
    .filter((name) => !INTERNAL.includes(name))
    .map((name) =>
      EVENTS.includes(name)
        ? `Entrypoint.prototype.${name} = function ${name} (arg) {\n  return exports.${name}.call(this, arg, this.env, this.ctx);\n}\n`
        : `Entrypoint.prototype.${name} = exports.${name};\n`,
    );
  const classes = [...bindings.matchAll(/^export class (\w+) \{/gm)].map(
    ([, name]) => `export const ${name} = new Proxy(exports.${name}, classProxyHooks);\n`,
  );
  return readFileSync(SHIM, 'utf8').replace('$HANDLERS', () => handlers.join('')) + classes.join('');
}

async function main(): Promise<void> {
  const options = process.argv.slice(2);
  if (options.shift() !== '--release') throw new Failure('usage: worker-build --release [--out-dir FOLDER] [CARGO-OPTION...]');
  const out = path.join(ROOT, options[0] === '--out-dir' ? options.splice(0, 2)[1]! : 'build');

  const cargo = ['build', '--lib', '--release', '--target', 'wasm32-unknown-unknown', ...options];
  // wasm-bindgen's macro then uses the futures of js-sys instead of another crate.
  run('cargo', cargo, { WASM_BINDGEN_USE_JS_SYS: '1' });
  const { target_directory: target, packages } = JSON.parse(run('cargo', ['metadata', '--no-deps', '--format-version', '1']));
  const { name } = packages.find((one: { manifest_path: string }) => one.manifest_path === path.join(ROOT, 'Cargo.toml'));
  const compiled = path.join(target, 'wasm32-unknown-unknown/release', `${name.replaceAll('-', '_')}.wasm`);

  // Built aside, so that `build/` is never half of it.
  const stage = path.join(out, `.new-${process.pid}`);
  mkdirSync(stage, { recursive: true });
  try {
    const recovery = ['--experimental-reset-state-function', '--force-enable-abort-handler'];
    run('wasm-bindgen', ['--target', 'module', '--no-typescript', ...recovery, '--out-dir', stage, '--out-name', 'index', compiled]);
    const wasm = path.join(stage, 'index_bg.wasm');
    run('wasm-opt', [wasm, '--output', wasm, '-O', ...FEATURES.map((feature) => `--enable-${feature}`), '--debuginfo']);
    const entry = path.join(stage, 'shim.js');
    writeFileSync(entry, shim(readFileSync(path.join(stage, 'index.js'), 'utf8')));
    const { outputFiles } = await build({
      absWorkingDir: stage,
      entryPoints: ['./shim.js'],
      bundle: true,
      minify: true,
      format: 'esm',
      external: ['./index_bg.wasm', 'cloudflare:*'],
      outfile: 'bundle.js',
      write: false,
      logLevel: 'warning',
    });
    // wrangler does not know the import of a module's source.
    const bundle = outputFiles[0]!.text.replaceAll('import source ', 'import ');
    writeFileSync(path.join(stage, 'bundle.js'), bundle);
    renameSync(wasm, path.join(out, 'index_bg.wasm'));
    renameSync(path.join(stage, 'bundle.js'), path.join(out, 'index.js'));
  } finally {
    rmSync(stage, { recursive: true, force: true });
  }
}

await command('worker-build', main);
