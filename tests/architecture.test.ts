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

/** A name that a `use` declaration imports, and its path. For a glob, the name and the end of the path are `*`. */
interface Use {
  readonly name: string;
  readonly path: readonly string[];
}

/** Parses the text between `use` and `;`: `a::{b, c::{self, D as E}}` has the paths `a::b`, `a::c` and `a::c::D`. */
function parseUse(tree: string): Use[] {
  const tokens = tree.match(/::|[{},*]|\w+/g) ?? [];
  const parse = (prefix: readonly string[]): Use[] => {
    const path = [...prefix];
    for (let token = tokens.shift(); token !== undefined; token = tokens.shift()) {
      if (token === '::') continue;
      if (token === '{') {
        const uses: Use[] = [];
        while (tokens.length > 0 && tokens[0] !== '}') {
          uses.push(...parse(path));
          if (tokens[0] === ',') tokens.shift();
        }
        tokens.shift();
        return uses;
      }
      if (token !== 'self' || path.length === 0) path.push(token);
      if (tokens[0] === '::') continue;
      const alias = tokens[0] === 'as' ? tokens.splice(0, 2)[1] : undefined;
      return [{ name: alias ?? path.at(-1)!, path }];
    }
    return [];
  };
  return parse([]);
}

/** Rust code without its comments, the contents of its literals and its `#[cfg(test)] mod … { }` blocks. */
function production(source: string): string {
  const literals =
    /\/\/.*|\/\*[^]*?\*\/|\br(#*)"[^]*?"\1|"(?:\\[^]|[^"\\])*"|'(?:\\u\{\w+\}|\\x\w\w|\\.|[^'\\])'/g;
  let code = source.replace(literals, (text) => (text.startsWith('/') ? ' ' : '""'));
  for (let block = /#\[cfg\(test\)\]\s*mod \w+ \{/.exec(code); block; block = /#\[cfg\(test\)\]\s*mod \w+ \{/.exec(code)) {
    let end = block.index + block[0].length;
    for (let depth = 1; depth > 0 && end < code.length; end += 1) depth += { '{': 1, '}': -1 }[code[end]!] ?? 0;
    code = code.slice(0, block.index) + code.slice(end);
  }
  return code;
}

interface Module {
  readonly uses: readonly (Use & { readonly isExported: boolean })[];
  /** The code without its `use` declarations. */
  readonly rest: string;
}

/** The modules that each module of a crate imports. The key of `src/a/b.rs` is `a::b`, that of `lib.rs` is ''. */
function imports(sources: Sources): ReadonlyMap<string, ReadonlySet<string>> {
  const modules = new Map<string, Module>();
  for (const [file, source] of sources) {
    if (/^(bin\/|main\.rs$)/.test(file)) continue;
    const name = file.replace(/\.rs$/, '').replace(/(^|\/)(lib|mod)$/, '').replaceAll('/', '::');
    const code = production(source);
    const declarations = [...code.matchAll(/\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);/g)];
    const uses = declarations.flatMap(([, pub, tree]) => parseUse(tree!).map((use) => ({ ...use, isExported: !!pub })));
    modules.set(name, { uses, rest: code.replace(/\buse\s+[^;]+;/g, '') });
  }
  const child = (module: string, name: string) => (module === '' ? name : `${module}::${name}`);
  const mentions = (module: string, name: string) => new RegExp(`\\b${name}\\b`).test(modules.get(module)!.rest);

  /** The module that a path in `module` leads to, through any re-exports; undefined if that is another crate's. */
  const resolve = (module: string, path: readonly string[], seen: readonly string[] = []): string | undefined => {
    const key = `${module} ${path.join('::')}`;
    if (seen.includes(key)) return undefined;
    let at = module;
    let i = 0;
    if (path[0] === 'crate') at = '';
    if (path[0] === 'crate' || path[0] === 'self') i = 1;
    for (; path[i] === 'super'; i += 1) at = at.split('::').slice(0, -1).join('::');
    const isInScope = modules.has(child(at, path[0]!)) || modules.get(at)!.uses.some(({ name }) => name === path[0]);
    if (i === 0 && !isInScope) return undefined;
    for (; i < path.length && modules.has(child(at, path[i]!)); i += 1) at = child(at, path[i]!);
    if (i === path.length) return at;
    for (const use of modules.get(at)!.uses) {
      if (use.name === '*') {
        const from = resolve(at, use.path.slice(0, -1), [...seen, key]);
        if (from !== undefined && from !== at && mentions(from, path[i]!)) return from;
      } else if (use.name === path[i]) {
        return resolve(at, [...use.path, ...path.slice(i + 1)], [...seen, key]);
      }
    }
    return at;
  };

  const edges = new Map<string, Set<string>>();
  for (const [module, { uses, rest }] of modules) {
    const targets = new Set<string | undefined>();
    for (const { name, path, isExported } of uses) {
      if (name === '*') {
        // Every name in that module's scope that this module mentions.
        const from = resolve(module, path.slice(0, -1));
        if (from === undefined) continue;
        targets.add(from);
        const inScope = modules.get(from)!.uses.filter((use) => mentions(module, use.name === '*' ? '' : use.name));
        for (const use of inScope) targets.add(resolve(from, use.path.filter((part) => part !== '*')));
      } else if (!isExported || mentions(module, name)) {
        // A re-export alone is no dependency: the module only serves as a facade.
        targets.add(resolve(module, path));
      }
    }
    for (const [path] of rest.matchAll(/(?<!::)\b\w+(?:::\w+)+/g)) targets.add(resolve(module, path.split('::')));
    targets.delete(undefined);
    targets.delete(module);
    edges.set(module, targets as Set<string>);
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
    assert.ok(sources.size > 0, 'it has files');
    assert.deepEqual(circles(sources), []);
  });
}

test('the check finds an import cycle', () => {
  const tree = (b: string, root = 'mod a;\nmod b;\npub use a::A;', a = 'use crate::b::{self, B};\npub struct A;') =>
    circles(
      new Map([
        ['lib.rs', root],
        ['a.rs', a],
        ['b.rs', b],
      ]),
    );
  assert.deepEqual(tree('pub struct B;'), []);
  const nested = 'use std::{fmt::{self, Write}, fs};\nuse other::a::A;';
  assert.deepEqual(tree(`${nested}\n// use crate::a::A;\nconst T: &str = "crate::a::A";`), []);
  assert.deepEqual(tree('#[cfg(test)]\nmod tests {\n    use crate::a::A;\n    const C: char = \'}\';\n}'), []);
  for (const b of [
    'use super::a::A;',
    'fn f() { crate::a::g() }',
    'use crate::{a as other, b};',
    // All ways to import through the root's re-export.
    'use crate::A;',
    'use crate::{self as root, A as Other};',
    'use super::{A};',
    'use super::*;\nfn f(a: A) {}',
    'fn f(a: crate::A) {}',
    'pub use crate::A;\nfn f(a: A) {}',
    '#[cfg(test)]\nmod tests {\n    fn f() {}\n}\nuse crate::A;',
  ]) {
    assert.deepEqual(tree(b), [['a', 'b']], b);
  }
  const chain = 'mod a;\nmod b;\npub use std::fmt;\npub use self::a::A;\npub use A as First;';
  assert.deepEqual(tree('use crate::First;', chain), [['a', 'b']]);
  assert.deepEqual(tree('use crate::A;', 'mod a;\nmod b;\npub use a::*;'), [['a', 'b']]);
  // The root uses this re-export itself.
  assert.deepEqual(tree('use crate::Root;', 'mod a;\nmod b;\npub use b::B;\npub struct Root(B);', ''), [['', 'b']]);
});

/** The dependencies that pure crates may have. None of them does I/O. */
const PURE = ['base64ct', 'chrono', 'hmac', 'jwt-compact', 'serde', 'serde_json', 'sha2', 'subtle'];

/** The I/O of the standard library that Rust code uses. */
function standardIo(source: string): string[] {
  const code = production(source);
  const uses = [...code.matchAll(/\buse\s+([^;]+);/g)].flatMap(([, tree]) => parseUse(tree!));
  const paths = [...uses.map(({ path }) => path.join('::')), ...(code.match(/\b\w+(?:::\w+)+/g) ?? [])];
  return paths.filter((path) => /^(std|core)::(fs|net|env|process|thread|os)\b|\bSystemTime\b|\bInstant::now\b/.test(path));
}

test('the check finds the I/O of the standard library', () => {
  assert.deepEqual(standardIo('use std::{fmt, time::Duration};\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}'), []);
  for (const code of ['use std::{fmt, fs};', 'use std::{time::{Duration, SystemTime}};', 'fn f() { std::env::var("A") }']) {
    assert.notDeepEqual(standardIo(code), [], code);
  }
});

test('the crates below crates/ use no Workers API, no HTTP and no I/O', () => {
  const manifests = files.filter((file) => /^crates\/[^/]+\/Cargo\.toml$/.test(file));
  const own = manifests.map((file) => `kiloclaw-${file.split('/')[1]}`);
  for (const file of manifests) {
    // The name and the lines of each table.
    const tables = readFileSync(file, 'utf8').split(/^\[/m).map((table) => table.split(/\]\n/, 2) as [string, string]);
    const dependencies = tables.filter(([name]) => /dependencies/.test(name) && name !== 'dev-dependencies');
    // On wasm, JavaScript converts long numbers.
    const wasm = file === 'crates/json/Cargo.toml' ? ["target.'cfg(target_family = \"wasm\")'.dependencies"] : [];
    assert.deepEqual(dependencies.map(([name]) => name), ['dependencies', ...wasm], file);
    const names = [...dependencies[0]![1].matchAll(/^([\w-]+)/gm)].map(([name]) => name);
    assert.deepEqual(names.filter((name) => ![...PURE, ...own].includes(name)), [], file);
    // chrono's clock is a feature.
    assert.doesNotMatch(dependencies[0]![1], /^chrono(?!.*default-features = false)|\bclock\b/m, file);
    for (const [name, text] of crate(path.join(path.dirname(file), 'src'))) {
      assert.deepEqual(standardIo(text), [], `${file}: ${name}`);
    }
  }
});

test('tests, bench and tools share only harness/, and nothing imports a test', () => {
  for (const file of files.filter((file) => /^(tests|bench|tools|harness)\/.*\.(ts|js)$/.test(file))) {
    const [own] = file.split('/');
    for (const [, specifier] of readFileSync(file, 'utf8').matchAll(/\b(?:from|import)\b[\s(]*['"`](\.[^'"`]+)['"`]/g)) {
      const target = path.join(path.dirname(file), specifier!);
      const [room] = target.split('/');
      assert.doesNotMatch(target, /\.test\.[tj]s$|^local-ae\/test\//, `${file} imports a test`);
      if (['tests', 'bench', 'tools'].includes(room!)) assert.equal(room, own, `${file} imports ${target}`);
    }
  }
});

test('web/src imports only its own files and bundled packages, without a cycle, and nothing imports it', () => {
  const BUNDLED = /^(preact(\/hooks)?|uplot)$/;
  const specifiers = (file: string) =>
    [...readFileSync(file, 'utf8').matchAll(/\b(?:from|import)\b[\s(]*['"`]([^'"`]+)['"`]/g)].map(([, specifier]) => specifier!);
  const graph = new Map<string, string[]>();
  for (const file of files.filter((file) => /\.(tsx?|js)$/.test(file))) {
    const targets = specifiers(file).map((name) => (name.startsWith('.') ? path.join(path.dirname(file), name) : name));
    const inside = targets.filter((target) => target.startsWith('web/src/'));
    if (!file.startsWith('web/src/')) {
      assert.deepEqual(inside, [], file);
      continue;
    }
    assert.deepEqual(targets.filter((target) => !inside.includes(target) && !BUNDLED.test(target)), [], file);
    graph.set(file, inside);
  }
  assert.ok(graph.size > 3);
  // Removes the files that import none of the others, until none is left.
  for (let size = -1; size !== graph.size; ) {
    size = graph.size;
    for (const [file, targets] of graph) if (!targets.some((target) => graph.has(target))) graph.delete(file);
  }
  assert.deepEqual([...graph.keys()], [], 'a cycle');
});
