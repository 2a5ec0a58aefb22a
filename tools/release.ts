/** `npm run release`: builds what users install, into `dist/`. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';

import { build } from 'esbuild';

import { metadata } from '../harness/cargo.ts';
import { command, Failure, outputOf } from '../harness/command.ts';
import manifest from '../package.json' with { type: 'json' };

const HELP = `Usage: npm run release [-- OPTIONS]

Builds what users install, and nothing else. The same commit gives the same bytes (npm run reproducible -- --release).

  kiloclaw-worker-VERSION.tar.gz             the Worker and the page, ready for \`wrangler deploy\`
  template/                                  the same, unpacked: a repository for Cloudflare's deploy button
  kiloclaw-agent-VERSION-ARCHITECTURE.tar.gz the agent, static, with its service
  kiloclaw-agent_VERSION-1_ARCHITECTURE.deb  the same as a Debian package
  local-ae-VERSION.tgz                       the local Analytics Engine, for npm install
  sbom.cdx.json                              what is compiled or bundled into each of them (CycloneDX)
  SHA256SUMS

Options:
  --only PARTS   worker, agent or local-ae, separated by commas [default: all]
  --arch NAMES   of the agent: x86_64, aarch64, separated by commas [default: both]
  --no-build     pack the last build of the Worker, the page and the SQL engine
  --program FILE pack this program as the agent of this machine's architecture, and no Debian package
  --out FOLDER   [default: dist]
  -h, --help     print this help
`;

const ROOT = path.join(import.meta.dirname, '..');
const PARTS = ['worker', 'agent', 'local-ae'] as const;
type Part = (typeof PARTS)[number];

/** The agent's targets: static, so that one program runs on every distribution. */
const ARCHITECTURES = { x86_64: 'amd64', aarch64: 'arm64' } as const;
type Architecture = keyof typeof ARCHITECTURES;
const ARCHITECTURE_NAMES = Object.keys(ARCHITECTURES) as Architecture[];
const target = (architecture: Architecture) => `${architecture}-unknown-linux-musl`;

const text = (file: string) => readFileSync(path.join(ROOT, file), 'utf8');

const say = (what: string) => console.error(`release: ${what}`);

/** The version of all parts but local-ae, which has its own. */
function version(): string {
  const [, found] = /\[workspace\.package\]\nversion = "(.+)"/.exec(text('Cargo.toml')) ?? [];
  if (found === undefined) throw new Failure('Cargo.toml has no version');
  return found;
}

/** Time of all packed files: that of the commit, so that two builds are equal. */
function commitTime(): string {
  return process.env.SOURCE_DATE_EPOCH ?? outputOf('git', ['log', '-1', '--format=%ct']).trim();
}

/** Packs the folder `name` in `parent`; the same contents give the same bytes. */
function tar(parent: string, name: string, file: string): void {
  const modes = ['--mode=u+rw,go+r,go-w,a+X', '--owner=0', '--group=0', '--numeric-owner'];
  const packed = execFileSync(
    'tar',
    ['--create', '--sort=name', '--format=gnu', `--mtime=@${commitTime()}`, ...modes, '--directory', parent, name],
    { maxBuffer: 256 * 1024 * 1024 },
  );
  writeFileSync(file, gzipSync(packed, { level: 9 }));
}

/** A configuration of wrangler without `[build]`, which needs Rust, and without the lines that explain it. */
function withoutBuild(configuration: string): string {
  const [before, after] = configuration.split(/^(?:#.*\n)*\[build\]\n(?:.+\n)+\n/m);
  if (before === undefined || after === undefined) throw new Failure('the configuration has no [build]');
  return before + after;
}

/** The required secrets, with their purposes. */
const SECRETS = {
  KILOCODE_API_KEY: "The fleet's API key, the same on every machine.",
  GATEWAY_TOKEN_SECRET: "Each sandbox's gateway token is derived from it.",
  JWT_SECRET: 'Signs the tokens of operators.',
};

/**
 * Makes a deploy stop and name missing secrets. The configurations of the repository and for development lack this,
 * because it makes `wrangler dev` ignore all other secrets in `.dev.vars`.
 */
const requiring = (configuration: string) =>
  `${configuration}\n# Without these, a deploy stops and names what is missing.\n[secrets]\nrequired = ${JSON.stringify(Object.keys(SECRETS))}\n`;

/** `package.json` of the Worker's folder, with the secrets that the deploy button asks for. */
function workerPackage(): object {
  return {
    name: 'kiloclaw-telemetry',
    version: version(),
    private: true,
    license: manifest.license,
    type: 'module',
    scripts: {
      deploy: 'wrangler deploy',
      dev: 'local-ae dev --config wrangler.dev.toml',
      token: 'node token.js',
    },
    devDependencies: { wrangler: manifest.devDependencies.wrangler },
    cloudflare: {
      bindings: Object.fromEntries(
        Object.entries(SECRETS).map(([name, purpose]) => [
          name,
          { description: `${purpose} Make it with: openssl rand -hex 32.` },
        ]),
      ),
    },
  };
}

/** Writes the Worker's folder, prebuilt: it needs only Node. */
async function workerFolder(folder: string): Promise<void> {
  for (const file of ['build/index.js', 'build/index_bg.wasm', 'web/dist', 'LICENSE', '.dev.vars.example']) {
    cpSync(path.join(ROOT, file), path.join(folder, file), { recursive: true });
  }
  cpSync(path.join(ROOT, 'docs/release/worker.md'), path.join(folder, 'README.md'));
  const configuration = withoutBuild(text('wrangler.toml'));
  writeFileSync(path.join(folder, 'wrangler.toml'), requiring(configuration));
  writeFileSync(path.join(folder, 'wrangler.dev.toml'), `# For local development; do not deploy it.\n${configuration}`);
  writeFileSync(path.join(folder, 'package.json'), `${JSON.stringify(workerPackage(), undefined, 2)}\n`);
  writeFileSync(path.join(folder, '.gitignore'), '/node_modules/\n/.wrangler/\n.dev.vars\nsecrets.env\n*.local-ae.json\n');
  await build({
    absWorkingDir: ROOT,
    entryPoints: ['tools/token.ts'],
    outfile: path.join(folder, 'token.js'),
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node22',
    legalComments: 'inline',
    logLevel: 'warning',
  });
}

async function packWorker(out: string): Promise<void> {
  const name = `kiloclaw-worker-${version()}`;
  const template = path.join(out, 'template');
  await workerFolder(template);
  const parent = mkdtempSync(path.join(tmpdir(), 'kiloclaw-release-'));
  cpSync(template, path.join(parent, name), { recursive: true });
  tar(parent, name, path.join(out, `${name}.tar.gz`));
  rmSync(parent, { recursive: true });
}

/** Settings of a static build. Debian's cross compiler is also the linker; the system's libraries are rustc's own. */
function staticBuild(architecture: Architecture): Record<string, string> {
  const compiler = { x86_64: 'musl-gcc', aarch64: 'aarch64-linux-gnu-gcc' }[architecture];
  const name = target(architecture).replaceAll('-', '_');
  return {
    [`CC_${name}`]: compiler,
    ...(architecture === 'aarch64' ? { [`CARGO_TARGET_${name.toUpperCase()}_LINKER`]: compiler } : {}),
    // Not in Cargo.toml: the Worker has the same profile, and must not be stripped like this.
    CARGO_PROFILE_RELEASE_STRIP: 'symbols',
    RUSTFLAGS: outputOf('tools/remap-paths', []),
  };
}

/** Writes the agent's folder: the program, its service and the installer. */
function agentFolder(folder: string, program: string): void {
  mkdirSync(folder, { recursive: true });
  cpSync(program, path.join(folder, 'kiloclaw-agent'));
  for (const file of ['kiloclaw-agent.service', 'kiloclaw-agent.sysusers', 'agent.env', 'install']) {
    cpSync(path.join(ROOT, 'agent/packaging', file), path.join(folder, file));
  }
  cpSync(path.join(ROOT, 'agent/README.md'), path.join(folder, 'README.md'));
  cpSync(path.join(ROOT, 'LICENSE'), path.join(folder, 'LICENSE'));
}

function packProgram(out: string, architecture: Architecture, program: string): void {
  const name = `kiloclaw-agent-${version()}-${architecture}`;
  const parent = mkdtempSync(path.join(tmpdir(), 'kiloclaw-release-'));
  agentFolder(path.join(parent, name), program);
  tar(parent, name, path.join(out, `${name}.tar.gz`));
  rmSync(parent, { recursive: true });
}

function packAgent(out: string, architectures: readonly Architecture[]): void {
  const { target_directory: built } = metadata();
  for (const architecture of architectures) {
    say(`building the agent for ${architecture}`);
    const triple = target(architecture);
    const env = staticBuild(architecture);
    outputOf('cargo', ['build', '--quiet', '--locked', '--release', '--package', 'kiloclaw-agent', '--target', triple], env);
    packProgram(out, architecture, path.join(built, triple, 'release/kiloclaw-agent'));
    const deb = path.join(out, `kiloclaw-agent_${version()}-1_${ARCHITECTURES[architecture]}.deb`);
    outputOf('tools/setup', ['--deb', 'tools/deb', '--target', triple, '--output', deb], {
      ...env,
      SOURCE_DATE_EPOCH: commitTime(),
    });
  }
}

/** A component of CycloneDX 1.6. */
interface Component {
  readonly type: 'library' | 'application';
  readonly 'bom-ref': string;
  readonly name: string;
  readonly version: string;
  readonly purl?: string;
  readonly licenses?: readonly { readonly expression: string }[];
  readonly hashes?: readonly { readonly alg: 'SHA-256'; readonly content: string }[];
}

/** The crates that are compiled into a package for a target. Build scripts and macros are not: they leave no code. */
function crates(name: string, triple: string): Component[] {
  const checksums = new Map(
    [...text('Cargo.lock').matchAll(/^name = "(.+)"\nversion = "(.+)"\nsource = .+\nchecksum = "(.+)"$/gm)].map(
      ([, crate, number, checksum]) => [`${crate} ${number}`, checksum!],
    ),
  );
  const tree = ['tree', '--locked', '--edges', 'normal,no-proc-macro', '--prefix', 'none', '--format', '{p}|{l}'];
  const lines = outputOf('cargo', [...tree, '--package', name, '--target', triple]).split('\n');
  const found = new Map<string, Component>();
  for (const line of lines) {
    const [, crate, number, place, license] = /^(\S+) v(\S+)( \(\/.*?\))?(?: \(\*\))?\|(.*?)(?: \(\*\))?$/.exec(line) ?? [];
    // Crates of this repository are part of the application.
    if (crate === undefined || number === undefined || place !== undefined) continue;
    const purl = `pkg:cargo/${crate}@${number}`;
    const checksum = checksums.get(`${crate} ${number}`);
    if (checksum === undefined) throw new Failure(`Cargo.lock has no checksum of ${crate} ${number}`);
    found.set(purl, {
      type: 'library',
      'bom-ref': purl,
      name: crate,
      version: number,
      purl,
      // Old manifests have a slash for OR.
      licenses: [{ expression: license!.replaceAll('/', ' OR ') }],
      hashes: [{ alg: 'SHA-256', content: checksum }],
    });
  }
  return [...found.values()];
}

function npmPackage(name: string): Component {
  const { version, license } = JSON.parse(text(`node_modules/${name}/package.json`)) as Record<string, string>;
  const purl = `pkg:npm/${name}@${version}`;
  return { type: 'library', 'bom-ref': purl, name, version: version!, purl, licenses: [{ expression: license! }] };
}

/** What is compiled or bundled into each part, as CycloneDX, without serial number and time, which would differ. */
function bom(parts: readonly Part[], architectures: readonly Architecture[]): object {
  const wasm = 'wasm32-unknown-unknown';
  const applications = new Map<string, Component[]>();
  if (parts.includes('worker')) {
    applications.set('kiloclaw-worker', [
      ...crates('kiloclaw-telemetry', wasm),
      // The page, and the tool that mints tokens.
      ...['preact', 'uplot', 'jose'].map(npmPackage),
    ]);
  }
  if (parts.includes('agent')) {
    applications.set('kiloclaw-agent', architectures.flatMap((architecture) => crates('kiloclaw-agent', target(architecture))));
  }
  if (parts.includes('local-ae')) applications.set('local-ae', crates('local-ae-engine', wasm));
  const localAe = (JSON.parse(text('local-ae/package.json')) as { version: string }).version;
  const of = (name: string) => `${name}@${name === 'local-ae' ? localAe : version()}`;
  const libraries = new Map([...applications.values()].flat().map((one) => [one['bom-ref'], one]));
  const byRef = (a: string, b: string) => (a < b ? -1 : 1);
  return {
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: { component: { type: 'application', 'bom-ref': of('kiloclaw-telemetry'), name: 'kiloclaw-telemetry', version: version() } },
    components: [
      ...[...applications.keys()].map((name) => {
        const [, number] = of(name).split('@');
        return { type: 'application', 'bom-ref': of(name), name, version: number, licenses: [{ expression: manifest.license }] };
      }),
      ...[...libraries.values()].sort((a, b) => byRef(a['bom-ref'], b['bom-ref'])),
    ],
    dependencies: [
      { ref: of('kiloclaw-telemetry'), dependsOn: [...applications.keys()].map(of) },
      ...[...applications].map(([name, components]) => ({
        ref: of(name),
        dependsOn: [...new Set(components.map((one) => one['bom-ref']))].sort(byRef),
      })),
    ],
  };
}

function choices<Name extends string>(flag: string, given: string | undefined, all: readonly Name[]): Name[] {
  const names = given?.split(',') ?? [...all];
  const unknown = names.find((name) => !(all as readonly string[]).includes(name));
  if (unknown !== undefined) throw new Failure(`${flag}: '${unknown}' is none of ${all.join(', ')}`);
  return all.filter((name) => names.includes(name));
}

function options() {
  try {
    return parseArgs({
      options: {
        only: { type: 'string' },
        arch: { type: 'string' },
        'no-build': { type: 'boolean', default: false },
        program: { type: 'string' },
        out: { type: 'string', default: 'dist' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values;
  } catch (error) {
    throw new Failure(`${(error as Error).message}; see npm run release -- --help`);
  }
}

async function main(): Promise<void> {
  const { only, arch, help, program, 'no-build': noBuild, out: folder } = options();
  if (help) return void console.log(HELP);
  const parts = choices('--only', only, PARTS);
  const own = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  const architectures = program === undefined ? choices('--arch', arch, ARCHITECTURE_NAMES) : [own as Architecture];
  const out = path.resolve(folder);
  // Removes only an earlier release.
  if (existsSync(out) && readdirSync(out).length > 0 && !existsSync(path.join(out, 'SHA256SUMS'))) {
    throw new Failure(`${out} exists and is no earlier release: choose another folder with --out`);
  }
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  // Marks the folder as a release, in case this run is interrupted.
  writeFileSync(path.join(out, 'SHA256SUMS'), '');

  if (parts.includes('worker')) {
    if (!noBuild) {
      say('building the Worker and the page');
      outputOf('tools/setup', ['--wasm', 'tools/build']);
    }
    await packWorker(out);
  }
  if (parts.includes('agent') && program !== undefined) {
    packProgram(out, architectures[0]!, program);
  } else if (parts.includes('agent')) {
    outputOf('tools/setup', ['--static', ...architectures.flatMap((architecture) => ['--target', target(architecture)])]);
    packAgent(out, architectures);
  }
  if (parts.includes('local-ae')) {
    if (!noBuild) outputOf('tools/setup', ['--wasm', 'tools/engine']);
    outputOf('npm', ['pack', './local-ae', '--silent', '--pack-destination', out]);
  }
  writeFileSync(path.join(out, 'sbom.cdx.json'), `${JSON.stringify(bom(parts, architectures), undefined, 1)}\n`);

  const files = readdirSync(out, { withFileTypes: true }).filter((one) => one.isFile() && one.name !== 'SHA256SUMS');
  const sums = files.map(({ name }) => name).sort().map((name) => {
    const sum = createHash('sha256').update(readFileSync(path.join(out, name))).digest('hex');
    return `${sum}  ${name}\n`;
  });
  writeFileSync(path.join(out, 'SHA256SUMS'), sums.join(''));
  process.stdout.write(sums.join(''));
}

await command('release', main);
