/**
 * The workerd types that the service uses. `@cloudflare/workers-types` would declare all types as globals of the
 * whole repository, in conflict with Node's.
 */
declare module 'cloudflare:workers' {
  export type SqlStorageValue = string | number | ArrayBuffer | null;

  export interface SqlStorageCursor {
    raw(): IterableIterator<SqlStorageValue[]>;
  }

  export interface SqlStorage {
    exec(query: string, ...bindings: SqlStorageValue[]): SqlStorageCursor;
    readonly databaseSize: number;
  }

  export interface DurableObjectState {
    storage: { sql: SqlStorage; transactionSync<T>(closure: () => T): T };
  }

  export abstract class DurableObject {
    ctx: DurableObjectState;
    env: unknown;
    constructor(ctx: DurableObjectState, env: unknown);
  }

  /** The remote interface of a Durable Object: its methods, all asynchronous. */
  export type DurableObjectStub<T> = {
    [K in keyof T as T[K] extends (...args: never[]) => unknown ? K : never]: T[K] extends (
      ...args: infer A
    ) => infer R
      ? (...args: A) => Promise<Awaited<R>>
      : never;
  };

  export interface DurableObjectNamespace<T> {
    getByName(name: string): DurableObjectStub<T>;
  }

  export interface ExecutionContext<Props> {
    props: Props;
  }
}

/** Built from `engine/` by `tools/engine`. */
declare module 'engine.js' {
  export class QueryOutcome {
    readonly ok: boolean;
    readonly contentType: string;
    readonly warnings: string;
    intoBody(): Uint8Array<ArrayBuffer>;
  }

  export class Engine {
    append(lines: string, skip: number): void;
    dropOldest(points: number): void;
    query(sql: string, now: number): QueryOutcome;
    bytes(): number;
  }

  export class LintOutcome {
    readonly errors: number;
    readonly warnings: number;
    readonly text: string;
  }

  export function lint(file: string, sql: string): LintOutcome;
  export function initSync(source: { module: unknown }): void;
  export function __wbg_reset_state(): void;
}

declare module 'engine.wasm' {
  const module: unknown;
  export default module;
}

/** Node has this namespace, but only the types for browsers declare it. */
declare namespace WebAssembly {
  function validate(module: Uint8Array<ArrayBuffer>): boolean;
}
