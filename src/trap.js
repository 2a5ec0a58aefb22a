/**
 * Whether the current instance of the wasm module is lost: after a trap, nothing may call into it. It outlives the
 * instance, so it is kept here.
 */
const state = { isLost: false };

export const trapState = () => state;

export function lose() {
  state.isLost = true;
}
