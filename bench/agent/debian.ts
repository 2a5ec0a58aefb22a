/** The collectors that Debian packages, unpacked into our own folder instead of installed. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const FOLDER = '.tools/peers';
/** The programs, and libraries that collectd's package only suggests, although `write_http` is linked with them. */
const PACKAGES = ['prometheus-node-exporter', 'collectd-core', 'libyajl2', 'libcurl3-gnutls'];

export interface Unpacked {
  readonly root: string;
  /** Folders of the libraries that this machine may lack. */
  readonly libraries: string;
  readonly versions: Readonly<Record<string, string>>;
}

/** apt's own user has no access to our temporary folder. */
const env = { ...process.env, TMPDIR: undefined };

const apt = (args: readonly string[], cwd?: string) =>
  execFileSync('apt-get', args, { encoding: 'utf8', cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });

/** Those packages, and those of their dependencies that this machine lacks. */
function missing(): string[] {
  const args = ['install', '--print-uris', '-qq', '-y', '--reinstall', '--no-install-recommends'];
  const lines = apt([...args, ...PACKAGES]).split('\n');
  return lines.flatMap((line) => /^'\S+' ([^_\s]+)_/.exec(line)?.[1] ?? []);
}

function fetch(folder: string): void {
  let names: string[];
  try {
    names = missing();
  } catch {
    // Most containers have no package lists.
    const sudo = process.getuid?.() === 0 ? [] : ['sudo', '-n'];
    const [command, ...args] = [...sudo, 'apt-get', 'update', '-qq'];
    spawnSync(command, args, { env, stdio: 'ignore' });
    names = missing();
  }
  const archives = join(folder, 'archives');
  mkdirSync(archives, { recursive: true });
  apt(['download', '-qq', ...names], archives);
  for (const name of readdirSync(archives)) {
    execFileSync('dpkg-deb', ['--extract', join(archives, name), join(folder, 'root')]);
  }
}

/** Unpacks the collectors, once; returns the reason if that fails. */
export function unpacked(): Unpacked | string {
  if (!existsSync(FOLDER)) {
    const folder = `${FOLDER}.new`;
    rmSync(folder, { recursive: true, force: true });
    try {
      fetch(folder);
      renameSync(folder, FOLDER);
    } catch (error) {
      const { code, stderr, message } = error as NodeJS.ErrnoException & { stderr?: string };
      if (code === 'ENOENT') return 'there is no apt-get, or no dpkg-deb';
      return /^E: (.+)$/m.exec(stderr ?? '')?.[1] ?? message.split('\n')[0];
    }
  }
  const root = join(process.cwd(), FOLDER, 'root');
  const folders = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter(({ name }) => /\.so\.\d/.test(name))
    .map(({ parentPath }) => parentPath);
  const archives = readdirSync(join(FOLDER, 'archives'));
  const versions = archives.map((name) => name.split('_')).map(([name, version]) => [name, decodeURIComponent(version)]);
  return {
    root,
    libraries: [...new Set(folders)].join(':'),
    versions: Object.fromEntries(versions) as Record<string, string>,
  };
}
