/** The main module of the service behind the bindings and the endpoint: its two entrances. */
import { pointFromEvent } from './ingest.js';

/**
 * @import { DurableObjectNamespace, ExecutionContext } from 'cloudflare:workers'
 * @import { Store } from './store.js'
 */

export { Store } from './store.js';

/** @typedef {{ STORE: DurableObjectNamespace<Store> }} Env and what the store reads of it */

/** @param {Env} env */
const theStore = (env) => env.STORE.getByName('main');

/** The socket of the endpoint leads here. */
export default {
  /**
   * @param {Request} request
   * @param {Env} env
   */
  fetch(request, env) {
    return theStore(env).fetch(request);
  },
};

/** workerd's native binding leads here, and nothing else does: no request can pose as it. */
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
      // The Worker that wrote the point was answered long ago: nobody else can say it. For any other
      // status, workerd would add lines of its own that name no cause.
      console.error(`local-ae: A DATA POINT IS LOST, of dataset ${ctx.props.dataset}: ${error}`);
    }
    return new Response(null, { status: 204 });
  },
};
