/**
 * The Worker's outermost part: passes events to the wasm module. After a trap the module is unusable, so the next event gets
 * a fresh instance of it. tools/worker.ts bundles this file with what wasm-bindgen makes, which is `wasm`.
 *
 * An object with handlers, not a class: the runtime would construct one for each request.
 */
import * as wasm from 'wasm';

/** What the `worker` crate keeps: whether the instance is unusable, and its number. */
const state = wasm.__worker_init_state();

// A trap in a promise's reaction reaches nobody else.
addEventListener('error', ({ error }) => left(error));

/** Calls into the module with up to two arguments, in a fresh instance if the last one is unusable. */
function call(run, first, second) {
  if (state.criticalError) {
    console.log('Reinitializing Wasm application');
    wasm.__wbg_reset_state();
    state.criticalError = false;
    state.instanceId += 1;
  }
  try {
    return run(first, second);
  } catch (error) {
    left(error);
    throw error;
  }
}

/** After a call that threw. */
function left(error) {
  if (!(error instanceof WebAssembly.RuntimeError)) return;
  console.error('Critical', error);
  state.criticalError = true;
}

export default {
  fetch: (request, env) => call(wasm.fetch, request, env),
  scheduled: (event, env) => call(wasm.scheduled, event, env),
};

/** The Durable Object of the watcher; its part in Rust is of one instance of the module. */
export class Watcher {
  #context;
  #env;
  #object;
  #instance;

  constructor(context, env) {
    this.#context = context;
    this.#env = env;
  }

  fetch(request) {
    return call(() => this.#current().fetch(request));
  }

  alarm() {
    return call(() => this.#current().alarm());
  }

  #current() {
    if (this.#instance !== state.instanceId) {
      this.#object = new wasm.Watcher(this.#context, this.#env);
      this.#instance = state.instanceId;
    }
    return this.#object;
  }
}
