import { outputOf } from './command.ts';

interface Metadata {
  readonly target_directory: string;
  readonly packages: readonly { readonly name: string; readonly manifest_path: string }[];
}

/** The packages of this workspace, and the folder that cargo builds into. */
export const metadata = (): Metadata =>
  JSON.parse(outputOf('cargo', ['metadata', '--no-deps', '--format-version', '1']));
