/** Writes a data point for each request, with the user agent and the path. */
export default {
  /**
   * @param {Request} request
   * @param {{ VISITS: import('../dataset.js').Dataset }} env
   */
  fetch(request, env) {
    const { pathname } = new URL(request.url);
    const visitor = request.headers.get('user-agent') ?? '';
    env.VISITS.writeDataPoint({ indexes: [visitor], blobs: [pathname], doubles: [1] });
    return new Response('thank you for your visit\n');
  },
};
