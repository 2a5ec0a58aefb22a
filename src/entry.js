/** The Worker's entry point: passes events to the module `wasm`, which tools/worker.ts builds. */
import { scheduled, watcher } from 'wasm';

import { fetch } from './check_in.js';
import { call } from './instance.js';

/** An object with handlers, not a class: the runtime would construct one for each request. */
export default { fetch, scheduled: (_event, env) => call(scheduled, env) };

/** The watcher's Durable Object. Its state is in Rust, in the current instance of the module. */
export class Watcher {
  #context;
  #env;

  constructor(context, env) {
    this.#context = context;
    this.#env = env;
  }

  fetch(request) {
    return call(watcher, this.#context, this.#env).fetch(request);
  }

  alarm() {
    return call(watcher, this.#context, this.#env).alarm();
  }
}
