/**
 * Installs the packed package in an empty folder, and runs the README's commands unchanged. The first run needs npm's
 * registry; later runs use npm's cache.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify, stripVTControlCharacters } from 'node:util';

import { freePort } from '../support/port.js';
import { blocks, emptyFolder, fileOf, FOLDER, pack } from '../support/package.js';

const run = promisify(execFile);

const repository = path.join(FOLDER, '..');
const programs = (process.env.PATH ?? '').split(path.delimiter).filter((folder) => !folder.startsWith(repository));

/** The environment of a new user: from this repository, only the running Node. Prefers cached packages. */
const ENV = {
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_|^INIT_CWD$|^LOCAL_AE_/.test(name))),
  PATH: [path.dirname(process.execPath), ...programs].join(path.delimiter),
  npm_config_prefer_offline: 'true',
  npm_config_audit: 'false',
  WRANGLER_SEND_METRICS: 'false',
  CLOUDFLARE_CF_FETCH_ENABLED: 'false',
};

const packed = await pack(await emptyFolder({ after }));

/**
 * Runs shell commands up to the first error, and returns their output.
 *
 * @param {string} commands
 * @param {string} cwd
 */
async function shell(commands, cwd) {
  const { stdout, stderr } = await run('sh', ['-e', '-c', commands], { cwd, env: ENV });
  return { stdout, stderr };
}

/** @param {string} folder @param {import('../support/package.js').Block[]} found writes the files among them */
async function writeFiles(folder, found) {
  for (const [name, text] of found.map(fileOf).filter((file) => file !== undefined)) {
    await mkdir(path.dirname(path.join(folder, name)), { recursive: true });
    await writeFile(path.join(folder, name), text);
  }
}

/** The README's `npm install` with the tarball instead of the name. @param {string} command */
function install(command) {
  assert.match(command, /^npm install .*\blocal-ae\b/);
  return command.replace(/\blocal-ae\b/, `'${packed.tarball}'`);
}

test('the package has its programs, its licence, and nothing else', async () => {
  assert.deepEqual(
    packed.files.filter((file) => !/^\w[\w-]*\.js$/.test(file)),
    [
      'LICENSE',
      'README.md',
      'aesql/README.md',
      'build/engine.js',
      'build/engine.wasm',
      'example/visits.js',
      'example/visits.sql',
      'package.json',
      'types.d.ts',
      'workerd.capnp',
    ],
  );
  const licence = (/** @type {string} */ folder) => readFile(path.join(FOLDER, folder, 'LICENSE'), 'utf8');
  assert.equal(await licence('.'), await licence('..'));
});

test("the package's texts link only to its own files, and do not name its repository", async () => {
  const { name } = JSON.parse(await readFile(path.join(FOLDER, '../package.json'), 'utf8'));
  const [project] = name.split('-');
  for (const file of packed.files.filter((file) => !file.startsWith('build/'))) {
    const text = await readFile(path.join(FOLDER, file), 'utf8');
    if (file !== 'package.json') assert.ok(!text.toLowerCase().includes(project), `${file} names ${project}`);
    if (!file.endsWith('.md')) continue;
    const links = [...text.matchAll(/\]\((?!https:)([^)#]*)(?:#([^)]*))?\)/g)];
    for (const [link, target, anchor] of links) {
      const linked = target === '' ? file : path.posix.join(path.posix.dirname(file), target);
      assert.ok(packed.files.includes(linked), `${file}: ${link}`);
      if (anchor === undefined) continue;
      const titles = (await readFile(path.join(FOLDER, linked), 'utf8')).match(/^#+ .*$/gm) ?? [];
      const anchors = titles.map((title) => title.replace(/^#+ /, '').toLowerCase().replaceAll(/[^\w -]/g, '').replaceAll(' ', '-'));
      assert.ok(anchors.includes(anchor), `${file}: ${link}`);
    }
  }
});

test('the versions in the README are those of the package', async () => {
  const { peerDependencies, engines } = JSON.parse(await readFile(path.join(FOLDER, 'package.json'), 'utf8'));
  const readme = await readFile(path.join(FOLDER, 'README.md'), 'utf8');
  const ranges = [engines.miniflare, peerDependencies.wrangler, engines.node];
  const [miniflare, wrangler, node] = ranges.map((range) => range.replace('>=', ''));
  assert.ok(readme.includes(`This package needs Miniflare ${miniflare} or later, which wrangler ${wrangler} includes.`));
  assert.ok(readme.includes(`with Node ${node} or later`));
});

describe('in an empty folder, with the README', () => {
  test('the quick start works unchanged', async (t) => {
    const folder = await emptyFolder(t, 'quick start '); // with a space
    const found = await blocks('Quick start');
    const commands = found.filter(({ language }) => language === 'sh').map(({ text }) => text);
    const [installation, dev, visits, query, types, ...rest] = commands;
    assert.deepEqual(rest, []);
    await shell(install(installation), folder);
    await writeFiles(folder, found);

    // Only the ports differ, since other programs may use the README's.
    const ports = new Map([['8787', await freePort()], ['9310', await freePort()]]);
    const moved = (/** @type {string} */ text) => text.replaceAll(/\b(8787|9310)\b/g, (port) => `${ports.get(port)}`);
    assert.equal(dev, 'npx local-ae dev\n');
    const program = spawn(
      'npx',
      ['local-ae', 'dev', '--port', `${ports.get('8787')}`, '--ae-port', `${ports.get('9310')}`, '--inspector-port', '0'],
      { cwd: folder, env: ENV, stdio: ['ignore', 'pipe', 'pipe'], detached: true },
    );
    const exited = new Promise((resolve) => program.once('exit', resolve));
    t.after(async () => {
      if (program.exitCode === null && program.signalCode === null) process.kill(-(/** @type {number} */ (program.pid)), 'SIGKILL');
      await exited;
    });
    let output = '';
    for (const stream of [program.stdout, program.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (output += stripVTControlCharacters(text)));
    }
    const printed = found.filter(({ language }) => language === '').flatMap(({ text }) => moved(text).trim().split('\n'));
    assert.equal(printed.length, 2);
    const deadline = Date.now() + 60_000;
    while (!printed.every((line) => output.includes(line))) {
      assert.ok(Date.now() < deadline && program.exitCode === null, output);
      await delay(50);
    }

    assert.equal((await shell(moved(visits), folder)).stdout, 'thank you for your visit\n'.repeat(2));
    const expected = found.find(({ language }) => language === 'json');
    // Points arrive a moment after the response.
    let answer = '';
    while (!answer.includes('"visits":"2"')) {
      assert.ok(Date.now() < deadline, answer);
      answer = (await shell(moved(query), folder)).stdout;
    }
    assert.deepEqual(JSON.parse(answer), JSON.parse(expected?.text ?? ''));
    await access(path.join(folder, '.wrangler/state/v3/local-ae'));

    // An edit of the deployed configuration takes effect while the Worker runs.
    const source = path.join(folder, 'src/index.ts');
    const config = path.join(folder, 'wrangler.jsonc');
    await writeFile(config, (await readFile(config, 'utf8')).replace('"main"', '"vars": { "CITY": "Oslo" },\n  "main"'));
    await writeFile(source, (await readFile(source, 'utf8')).replace("'thank you for your visit\\n'", 'env.CITY'));
    let reply = '';
    while (reply !== 'Oslo') {
      assert.ok(Date.now() < deadline, `${reply}\n${output}`);
      await delay(100);
      reply = await fetch(`http://127.0.0.1:${ports.get('8787')}/`).then((response) => response.text(), () => '');
    }

    // As Ctrl-C does: all processes receive the signal, and all must end.
    process.kill(-(/** @type {number} */ (program.pid)), 'SIGINT');
    await once(program, 'close'); // once the last process has closed its output

    // Code in Node writes to the same store.
    const [proxy] = (await blocks('Other ways to run it')).filter(({ text }) => text.includes('getPlatformProxy'));
    const poll = `
      env.VISITS.writeDataPoint({ blobs: ['/from-node'] });
      for (let text = ''; !text.includes('/from-node'); ) {
        const response = await fetch('http://127.0.0.1:${ports.get('9310')}/points');
        text = await response.text();
        if (text.includes('/from-node')) console.log(JSON.parse(text).points.length);
      }
      await dispose();`;
    await writeFile(path.join(folder, 'proxy.mjs'), `${proxy.text}${poll}`);
    assert.ok(Number((await shell('node proxy.mjs', folder)).stdout.trim().split('\n').at(-1)) >= 3);

    await shell(types, folder);
    assert.match(await readFile(path.join(folder, 'worker-configuration.d.ts'), 'utf8'), /VISITS: AnalyticsEngineDataset;/);
    // The type check fails for a wrong field.
    await writeFile(source, (await readFile(source, 'utf8')).replace('writeDataPoint({', 'writeDataPoint({ blob: 1,'));
    await assert.rejects(shell(types, folder), { stdout: /'blob' does not exist/ });

    // The package's own types, as its users check them.
    const own = [
      "import { plugins, type DatasetOptions } from 'local-ae';",
      "import type { Plugin } from 'miniflare';",
      "export const plugin: Plugin = plugins['local-ae'];",
      "export const options: DatasetOptions = { dataset: 'visits', port: 9310, token: null };",
      '// @ts-expect-error: no other plugin',
      "export const other = plugins['other'];",
      '// @ts-expect-error: it is not any',
      "export const number: number = plugins['local-ae'];",
      '// @ts-expect-error: a misspelt option',
      "export const misspelt: DatasetOptions = { dataset: 'visits', prot: 9310 };",
    ];
    await writeFile(path.join(folder, 'own.ts'), own.join('\n'));
    await shell('npx tsc --ignoreConfig --strict --noEmit --skipLibCheck --module nodenext own.ts', folder);
  });

  test('the linter works unchanged', async (t) => {
    const folder = await emptyFolder(t);
    const [installation] = (await blocks('Quick start')).map(({ text }) => text);
    // The linter needs no other package.
    await shell(install(installation).replace(/ wrangler.*/, ''), folder);
    assert.deepEqual((await readdir(path.join(folder, 'node_modules'))).filter((name) => !name.startsWith('.')), ['local-ae']);
    const found = await blocks('Check SQL');
    await writeFiles(folder, found);
    const [{ text: command }] = found.filter(({ language }) => language === 'sh');
    const [{ text: expected }] = found.filter(({ language }) => language === '');
    await assert.rejects(shell(command, folder), { code: 1, stdout: expected, stderr: '' });
    await assert.rejects(shell('npx local-ae dev', folder), {
      code: 2,
      stderr: /^local-ae: wrangler is not installed in .*: npm install --save-dev wrangler\n$/,
    });
  });
});

test('npm refuses to install it beside an older wrangler', async (t) => {
  const folder = await emptyFolder(t);
  const command = `npm install --package-lock-only '${packed.tarball}' wrangler@4.100.0`;
  await assert.rejects(shell(command, folder), { stderr: /ERESOLVE[^]*wrangler@">=4\.164\.0" from local-ae/ });
});

test('without the engine, or with a broken one, the error says what to do', async (t) => {
  const folder = await emptyFolder(t);
  await cp(FOLDER, folder, { recursive: true, dereference: true, filter: (file) => !/[\\/](test|aesql|engine|support)$/.test(file) });
  const wasm = path.join(folder, 'build/engine.wasm');
  const advice = /^local-ae: the SQL engine is missing \(.*engine\.wasm.*\): install the package again; in a clone of its repository, build it with "npm run engine"\n$/;
  const lint = () => shell('node cli.js check example/visits.sql', folder);
  await lint();
  await writeFile(wasm, (await readFile(wasm)).subarray(0, 100_000));
  await assert.rejects(lint(), { code: 2, stderr: advice });
  await rm(wasm);
  await assert.rejects(lint(), { code: 2, stderr: advice });
  await assert.rejects(run('npm', ['pack', '--dry-run'], { cwd: folder, env: ENV }), 'npm packs it without the engine');
  const script = "import('./index.js').then(({ plugins }) => plugins['local-ae'].getServices(" +
    "{ options: { config: { env: { A: { dev: { plugin: { name: 'local-ae' }, options: { dataset: 'a', port: " +
    `${await freePort()} } } } } } }, sharedOptions: {}, tmpPath: 'state' }))`;
  await assert.rejects(run(process.execPath, ['--eval', script], { cwd: folder, env: ENV }), {
    stderr: /local-ae: the SQL engine is missing/,
  });
});
