/**
 * The few types of workerd's that the service uses. `@cloudflare/workers-types` would declare them
 * as globals for the whole repository, next to Node's.
 */
declare module 'cloudflare:workers' {
  export type SqlStorageValue = string | number | ArrayBuffer | null;

  export interface SqlStorageCursor {
    raw(): IterableIterator<SqlStorageValue[]>;
  }

  export interface SqlStorage {
    exec(query: string, ...bindings: SqlStorageValue[]): SqlStorageCursor;
  }

  export interface DurableObjectState {
    storage: { sql: SqlStorage };
  }

  export abstract class DurableObject {
    ctx: DurableObjectState;
    env: unknown;
    constructor(ctx: DurableObjectState, env: unknown);
  }

  /** A Durable Object from outside: its methods, all asynchronous. */
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
