/** The types of the Workers runtime that the peers and the driver use. */

/** The Worker's bindings; a secret that is not set is absent. */
export interface Env {
  readonly KILOCLAW_CONTROLLER_AE: { writeDataPoint(point: DataPoint): void };
  readonly KILOCODE_API_KEY?: string;
  readonly GATEWAY_TOKEN_SECRET?: string;
  readonly JWT_SECRET?: string;
  readonly JWT_ISSUER?: string;
  readonly JWT_AUDIENCE?: string;
}

export interface DataPoint {
  readonly indexes: string[];
  readonly blobs: string[];
  readonly doubles: number[];
}

declare module 'node:crypto' {
  namespace webcrypto {
    interface SubtleCrypto {
      timingSafeEqual(a: ArrayBuffer | Uint8Array, b: ArrayBuffer | Uint8Array): boolean;
    }
  }
}

declare global {
  interface Uint8Array {
    toHex(): string;
  }
}
