/** Finds secrets and parts of them, plain or encoded, in outputs, answers and files. */

/** The fewest characters of a secret that count as a leak. */
const PART = 12;

/** The base64 characters that depend only on the secret, if `before` bytes precede it. */
const inBase64 = (secret: string, before: number): string =>
  Buffer.concat([Buffer.alloc(before), Buffer.from(secret)])
    .toString('base64')
    .replace(/=*$/, '')
    .slice(Math.ceil((before * 8) / 6), Math.floor(((before + Buffer.byteLength(secret)) * 8) / 6));

/** The forms of a secret, by the name of the encoding. */
export function forms(secret: string): Map<string, string[]> {
  const parts = [];
  for (let at = 0; at + PART <= secret.length; at += 1) parts.push(secret.slice(at, at + PART));
  const base64 = [0, 1, 2].map((before) => inBase64(secret, before));
  return new Map([
    ['as it is, or a part of it', parts.length > 0 ? parts : [secret]],
    ['base64', base64],
    ['base64url', base64.map((text) => text.replaceAll('+', '-').replaceAll('/', '_'))],
    ['hexadecimal', [Buffer.from(secret).toString('hex')]],
    ['URL-encoded', [encodeURIComponent(secret), new URLSearchParams([['', secret]]).toString().slice(1)]],
    ['JSON', [JSON.stringify(secret).slice(1, -1)]],
  ]);
}

/** Collected outputs, answers and files. */
export class Outputs {
  readonly #all: { readonly where: string; readonly text: string }[] = [];

  add(where: string, text: string | Buffer) {
    this.#all.push({ where, text: text.toString('latin1') });
  }

  /** Lets a test assert that the outputs contain what it expects there. */
  includes(text: string): boolean {
    return this.#all.some((one) => one.text.includes(text));
  }

  get size() {
    return this.#all.reduce((sum, { text }) => sum + text.length, 0);
  }

  /** Describes each leak: place, secret and form. */
  leaks(secrets: Readonly<Record<string, string>>): string[] {
    // Hexadecimal digits may be in either case.
    const texts = this.#all.map((all) => ({ ...all, lower: all.text.toLowerCase() }));
    return Object.entries(secrets).flatMap(([name, secret]) =>
      [...forms(secret)].flatMap(([form, looks]) =>
        texts
          .filter(({ text, lower }) =>
            form.startsWith('hex') || form.startsWith('URL')
              ? looks.some((look) => lower.includes(look.toLowerCase()))
              : looks.some((look) => text.includes(look)),
          )
          .map(({ where }) => `${where}: ${name}, ${form}`),
      ),
    );
  }
}
