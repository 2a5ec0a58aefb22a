/** Calls a variant's handler repeatedly in its own isolate, to measure it without the HTTP server. */
import variant from 'variant';

/** @typedef {{ times: number, status: number, url: string, init: RequestInit }} Job */

export default {
  /**
   * @param {Request} request
   * @param {object} env
   * @param {object} context
   */
  async fetch(request, env, context) {
    const { times, status, url, init } = /** @type {Job} */ (await request.json());
    for (let i = 0; i < times; i += 1) {
      const response = await call(new Request(url, init), env, context);
      if (response.status !== status) return new Response(`${response.status}`, { status: 500 });
    }
    return new Response(null, { status: 204 });
  },
};

/**
 * Constructs a class for every request, as the runtime does.
 *
 * @param {Request} request
 * @param {object} env
 * @param {object} context
 */
function call(request, env, context) {
  return typeof variant === 'function'
    ? new variant(context, env).fetch(request)
    : variant.fetch(request, env, context);
}
