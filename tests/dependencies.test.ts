/** Every dependency has an allowed source and a stated purpose. deny.toml has the rules for licences and bans. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

const CRATES_IO = 'registry+https://github.com/rust-lang/crates.io-index';
const NPM = 'https://registry.npmjs.org/';

/** The tracked files that match. */
const tracked = (...patterns: string[]) =>
  execFileSync('git', ['ls-files', '--', ...patterns], { encoding: 'utf8' }).split('\n').filter(Boolean);

const text = (file: string) => readFileSync(file, 'utf8');

/** Sources in a lock file other than crates.io. */
const foreignCrates = (lock: string) =>
  [...lock.matchAll(/^source = "(.*)"$/gm)]
    .map(([, source]) => source)
    .filter((source) => source !== CRATES_IO);

interface NpmPackage {
  readonly resolved?: string;
  readonly integrity?: string;
  readonly link?: boolean;
}

/** Packages in a lock file that are not from npm's registry, or have no integrity hash. */
const foreignPackages = (lock: string) =>
  Object.entries((JSON.parse(lock) as { packages: Record<string, NpmPackage> }).packages)
    .filter(([path, { link }]) => path.includes('node_modules/') && link !== true)
    .filter(([, { resolved = NPM, integrity }]) => !resolved.startsWith(NPM) || !integrity)
    .map(([path]) => path);

/** Dependencies in a manifest without a comment above them; two adjacent ones may share a comment. */
function unexplained(manifest: string): string[] {
  const names = [];
  let section = '';
  let covered = 0;
  for (const line of manifest.split('\n')) {
    const name = /^([\w-]+)[ .].*=/.exec(line)?.[1];
    if (line.startsWith('[')) section = line;
    if (line.startsWith('#')) covered = 2;
    else if (name === undefined || !/^\[(target\..*\.|dev-|build-)?dependencies\]/.test(section)) covered = 0;
    else if (covered > 0) covered -= 1;
    else names.push(name);
  }
  return names;
}

test('every crate in a lock file comes from crates.io', () => {
  const locks = tracked('Cargo.lock', '**/Cargo.lock');
  assert.ok(locks.includes('Cargo.lock'));
  for (const lock of locks) assert.deepEqual(foreignCrates(text(lock)), [], lock);
});

test("every package in a lock file comes from npm's registry and has an integrity hash", () => {
  const locks = tracked('package-lock.json', '**/package-lock.json');
  assert.ok(locks.includes('package-lock.json'));
  for (const lock of locks) assert.deepEqual(foreignPackages(text(lock)), [], lock);
});

test('the repository configures no registry', () => {
  assert.deepEqual(tracked('*.npmrc', '*pip.conf', '*.yarnrc*', '*credentials.toml'), []);
  for (const file of tracked('*.cargo/config*')) {
    assert.doesNotMatch(text(file), /^\s*\[?(source|registry|registries)\b/m, file);
  }
});

test('every dependency in a Cargo.toml states its purpose', () => {
  // Except in [workspace.dependencies]: the purpose is beside each use.
  const manifests = tracked('Cargo.toml', '**/Cargo.toml');
  assert.ok(manifests.length > 6);
  for (const manifest of manifests) assert.deepEqual(unexplained(text(manifest)), [], manifest);
});

test('every dependency in a package.json states its purpose', () => {
  for (const file of tracked('package.json', '**/package.json')) {
    const manifest = JSON.parse(text(file)) as Record<string, Record<string, string> | undefined>;
    for (const kind of ['dependencies', 'devDependencies', 'optionalDependencies', 'peerDependencies']) {
      const reasons = manifest[`//${kind}`] ?? {};
      assert.deepEqual(Object.keys(reasons), Object.keys(manifest[kind] ?? {}), `${kind} of ${file}`);
      for (const [name, reason] of Object.entries(reasons)) assert.ok(reason.length > 10, name);
    }
  }
});

test('these checks can fail', () => {
  assert.deepEqual(foreignCrates(`source = "${CRATES_IO}"\nsource = "sparse+https://mirror.example/"\n`), [
    'sparse+https://mirror.example/',
  ]);
  const packages = {
    '': {},
    'local-ae': {},
    'node_modules/local-ae': { resolved: 'local-ae', link: true },
    'node_modules/good': { integrity: 'sha512-x' },
    'node_modules/also-good': { resolved: `${NPM}also-good.tgz`, integrity: 'sha512-x' },
    'node_modules/elsewhere': { resolved: 'https://mirror.example/x.tgz', integrity: 'sha512-x' },
    'node_modules/good/node_modules/unpinned': { resolved: `${NPM}x.tgz` },
  };
  assert.deepEqual(foreignPackages(JSON.stringify({ packages })), [
    'node_modules/elsewhere',
    'node_modules/good/node_modules/unpinned',
  ]);
  const manifest = ['[dependencies]', 'a = "1"', '# Why.', 'b = "1"', 'c.workspace = true', 'd = "1"'];
  assert.deepEqual(unexplained([...manifest, '[lints]', 'e = 1'].join('\n')), ['a', 'd']);
});
