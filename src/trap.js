/**
 * Whether the current instance of the wasm module is lost: after a trap, nothing may call into it. It outlives the
 * instance, so it is kept here.
 */
export const trap = { isLost: false };

export function lose() {
  trap.isLost = true;
}
