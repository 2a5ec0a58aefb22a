/**
 * The instance of the wasm module that events call into. After a trap, the next event gets a fresh one. wasm-bindgen could
 * replace it by itself, but only after it has passed the arguments' texts to the lost one.
 */
import { __wbg_reset_state as replace, trap_state } from 'wasm';

const trap = trap_state();
let number = 0;

/** The number of the instance, which is a fresh one if the last one is lost. */
export function instance() {
  if (trap.isLost) {
    replace();
    trap.isLost = false;
    number += 1;
  }
  return number;
}

/**
 * Calls an exported function, of a usable instance.
 *
 * @template Result
 * @param {(...input: any[]) => Result} run
 * @param {unknown[]} input
 * @returns {Result}
 */
export function call(run, ...input) {
  instance();
  try {
    return run(...input);
  } catch (error) {
    // Of the allocator, when it copies the arguments, Rust hears nothing.
    if (error instanceof WebAssembly.RuntimeError) trap.isLost = true;
    throw error;
  }
}
