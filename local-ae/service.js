/** The service's main module: one entrypoint for the endpoint, one for the bindings. */
import { pointFromEvent } from './ingest.js';

/**
 * @import { DurableObjectNamespace, ExecutionContext } from 'cloudflare:workers'
 * @import { Store } from './store.js'
 */

export { Store } from './store.js';

/** @typedef {{ STORE: DurableObjectNamespace<Store> }} Env without `OPTIONS`, which the store reads */

/** @param {Env} env */
const theStore = (env) => env.STORE.getByName('main');

/** Serves the endpoint's socket. */
export default {
  /**
   * @param {Request} request
   * @param {Env} env
   */
  fetch(request, env) {
    return theStore(env).fetch(request);
  },
};

/** Receives events from workerd's native binding, and from nothing else: no request can forge one. */
export const ingest = {
  /**
   * @param {Request} request
   * @param {Env} env
   * @param {ExecutionContext<{ dataset: string }>} ctx
   */
  async fetch(request, env, ctx) {
    try {
      const event = /** @type {Record<string, unknown>} */ (await request.json());
      await theStore(env).insert(pointFromEvent(event, ctx.props.dataset));
    } catch (error) {
      // Only this log can report the loss: the Worker has already returned. At any status but 204, workerd
      // would add log lines without the cause.
      console.error(`local-ae: A DATA POINT IS LOST, of dataset ${ctx.props.dataset}: ${error}`);
    }
    return new Response(null, { status: 204 });
  },
};
