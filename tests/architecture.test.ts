/** The rules of docs/architecture.md that the source files can show. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], { encoding: 'utf8' })
  .trim()
  .split('\n');

type Sources = ReadonlyMap<string, string>;

/** The paths of a `use` declaration, with groups expanded: `a::{b, c::d}` becomes `a::b` and `a::c::d`. */
function expand(use: string): string[] {
  const [, head, body] = /^([\w:]*)\{(.*)\}$/s.exec(use.trim()) ?? [];
  if (body === undefined) return [use.trim().replace(/\s+as\s+\w+$/, '')];
  const parts: string[] = [''];
  let depth = 0;
  for (const c of body) {
    depth += c === '{' ? 1 : c === '}' ? -1 : 0;
    if (c === ',' && depth === 0) parts.push('');
    else parts[parts.length - 1] += c;
  }
  return parts.filter((part) => part.trim() !== '').flatMap((part) => expand(part).map((path) => head + path));
}

/** The modules that each module of a crate imports. The key of `src/a/b.rs` is `a::b`, that of `lib.rs` is ''. */
function imports(sources: Sources): ReadonlyMap<string, ReadonlySet<string>> {
  const modules = new Map<string, string>();
  for (const [file, text] of sources) {
    if (/^(bin\/|main\.rs$)/.test(file)) continue;
    modules.set(file.replace(/\.rs$/, '').replace(/(^|\/)(lib|mod)$/, '').replaceAll('/', '::'), text);
  }
  const edges = new Map<string, Set<string>>();
  for (const [module, source] of modules) {
    const text = source.replace(/#\[cfg\(test\)\]\s*mod \w+ \{.*/s, '').replace(/\/\/.*/g, '');
    const children = [...text.matchAll(/^\s*(?:pub(?:\([a-z]+\))? )?mod (\w+);/gm)].map(([, name]) => name!);
    const facade = new Set([...text.matchAll(/\bpub(?:\([a-z]+\))? use ([^;]+);/g)].flatMap(([, use]) => expand(use!)));
    const paths = [...text.matchAll(/\buse ([^;]+);/g)].flatMap(([, use]) => expand(use!));
    const rest = text.replace(/\buse [^;]+;/g, '');
    for (const [path] of rest.matchAll(/\b(?:crate|self|super)(?:::\w+)+/g)) paths.push(path);
    for (const [path, head] of rest.matchAll(/\b(\w+)(?:::\w+)+/g)) if (children.includes(head!)) paths.push(path);

    const targets = new Set<string>();
    for (const path of paths) {
      const parts = path.split('::');
      let base = module === '' ? [] : module.split('::');
      if (parts[0] === 'crate') base = [];
      else if (parts[0] === 'super') while (parts[0] === 'super') base.pop(), parts.shift();
      else if (parts[0] !== 'self' && !children.includes(parts[0]!)) continue;
      if (parts[0] === 'crate' || parts[0] === 'self') parts.shift();
      let target = [...base, ...parts];
      while (target.length > 0 && !modules.has(target.join('::'))) target.pop();
      // A re-export makes a module a facade of its child, not dependent on it.
      if (target.join('::') !== module && !facade.has(path)) targets.add(target.join('::'));
    }
    edges.set(module, targets);
  }
  return edges;
}

/** Groups of modules that import each other, directly or indirectly. */
function circles(sources: Sources): string[][] {
  const edges = imports(sources);
  const reachable = (from: string): Set<string> => {
    const seen = new Set<string>();
    const queue = [...edges.get(from)!];
    for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
      if (seen.has(next)) continue;
      seen.add(next);
      queue.push(...edges.get(next)!);
    }
    return seen;
  };
  const reach = new Map([...edges.keys()].map((module) => [module, reachable(module)]));
  const groups = [...edges.keys()]
    .filter((module) => reach.get(module)!.has(module))
    .map((module) => [...reach.get(module)!].filter((other) => reach.get(other)!.has(module)).sort());
  return [...new Map(groups.map((group) => [group.join(), group])).values()];
}

const crate = (folder: string): Sources => {
  const inside = files.filter((file) => file.startsWith(`${folder}/`) && file.endsWith('.rs'));
  return new Map(inside.map((file) => [path.relative(folder, file), readFileSync(file, 'utf8')]));
};

const CRATES = [
  'src',
  'agent/src',
  'local-ae/aesql/src',
  ...new Set(files.filter((file) => /^crates\/[^/]+\/src\//.test(file)).map((file) => file.split('/').slice(0, 3).join('/'))),
];

for (const folder of CRATES) {
  test(`${folder} has no import cycle`, () => {
    const sources = crate(folder);
    assert.ok(sources.size > 1, 'it has files');
    assert.deepEqual(circles(sources), []);
  });
}

test('the check finds an import cycle', () => {
  const tree = (b: string) =>
    new Map([
      ['lib.rs', 'mod a;\nmod b;\npub use a::A;'],
      ['a.rs', 'use crate::b::{self, B};'],
      ['b.rs', b],
    ]);
  assert.deepEqual(circles(tree('pub struct B;')), []);
  assert.deepEqual(circles(tree('use super::a::A;')), [['a', 'b']]);
  assert.deepEqual(circles(tree('fn f() { crate::a::g() }')), [['a', 'b']]);
  assert.deepEqual(circles(tree('#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}')), []);
});

test('the crates below crates/ use no Workers API, no HTTP and no I/O', () => {
  for (const file of files.filter((file) => /^crates\/[^/]+\/Cargo\.toml$/.test(file))) {
    const [, dependencies] = /\[dependencies\]\n(.*?)(?:\n\[|$)/s.exec(readFileSync(file, 'utf8')) ?? [];
    assert.ok(dependencies, file);
    assert.doesNotMatch(dependencies, /^(worker|wasm-bindgen|js-sys|ureq|tokio|rustix|nix)\b/m, file);
    for (const [name, text] of crate(path.join(path.dirname(file), 'src'))) {
      const code = text.replace(/#\[cfg\(test\)\]\s*mod \w+ \{.*/s, '');
      assert.doesNotMatch(code, /\bstd::(fs|net|env|process|thread)\b|SystemTime|Instant::now/, `${file}: ${name}`);
    }
  }
});

test('tests, bench and tools share only harness/, and nothing imports a test', () => {
  for (const file of files.filter((file) => /^(tests|bench|tools|harness)\/.*\.(ts|js)$/.test(file))) {
    const [own] = file.split('/');
    for (const [, specifier] of readFileSync(file, 'utf8').matchAll(/from '(\.[^']+)'/g)) {
      const target = path.join(path.dirname(file), specifier!);
      const [room] = target.split('/');
      assert.doesNotMatch(target, /\.test\.[tj]s$|^local-ae\/test\//, `${file} imports a test`);
      if (['tests', 'bench', 'tools'].includes(room!)) assert.equal(room, own, `${file} imports ${target}`);
    }
  }
});
