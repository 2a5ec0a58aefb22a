/**
 * The instance of the wasm module that events call into. After a trap, the next event gets a fresh instance.
 * wasm-bindgen can replace it by itself, but only after it has copied the arguments' texts into the lost instance.
 */
import { __wbg_reset_state as replace } from 'wasm';

import { trap } from './trap.js';

let number = 0;

/** The number of the instance; replaces a lost instance first. */
export function instance() {
  if (trap.isLost) {
    replace();
    trap.isLost = false;
    number += 1;
    console.error(JSON.stringify({ code: 'instance_replaced', count: number }));
  }
  return number;
}

/**
 * Calls an exported function in a usable instance.
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
    // Rust does not notice a trap in the allocator while the arguments are copied.
    if (error instanceof WebAssembly.RuntimeError) trap.isLost = true;
    throw error;
  }
}
