/**
 * The Worker's outermost part: passes events to the wasm module. After a trap the module is unusable, so the next call gets
 * a fresh instance of it, from wasm-bindgen. tools/worker.ts bundles this file with what wasm-bindgen makes, which is `wasm`.
 */
import { scheduled, watcher } from 'wasm';

import { fetch } from './check_in.js';

/** An object with handlers, not a class: the runtime would construct one for each request. */
export default { fetch, scheduled };

/** The Durable Object of the watcher. It is in Rust, in the current instance of the module. */
export class Watcher {
  #context;
  #env;

  constructor(context, env) {
    this.#context = context;
    this.#env = env;
  }

  fetch(request) {
    return watcher(this.#context, this.#env).fetch(request);
  }

  alarm() {
    return watcher(this.#context, this.#env).alarm();
  }
}
