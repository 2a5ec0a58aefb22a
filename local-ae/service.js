/** The service's main module, with an entrypoint for the endpoint and one for the bindings. */
import { pointFromEvent } from './ingest.js';

/**
 * @import { DurableObjectNamespace, ExecutionContext } from 'cloudflare:workers'
 * @import { Store } from './store.js'
 */

export { Store } from './store.js';

/** @typedef {{ STORE: DurableObjectNamespace<Store> }} Env without `OPTIONS`, which only the store reads */

/** @param {Env} env */
const theStore = (env) => env.STORE.getByName('main');

/** Handles requests to the endpoint. */
export default {
  /**
   * @param {Request} request
   * @param {Env} env
   */
  fetch(request, env) {
    return theStore(env).fetch(request);
  },
};

/** Receives events from workerd's native binding only: no request can reach this entrypoint. */
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
      // The Worker has already returned, so only the log can report the loss. At any status other than 204,
      // workerd would add log lines that lack the cause.
      console.error(`local-ae: A DATA POINT IS LOST, of dataset ${ctx.props.dataset}: ${error}`);
    }
    return new Response(null, { status: 204 });
  },
};
