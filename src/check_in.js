/**
 * The way of a check-in through JavaScript: it moves bytes between the runtime and the contract, and
 * decides nothing. Crossing between JavaScript and wasm is what a check-in costs, so it crosses with
 * all that is needed at a time and never for a single header or value. `tests/budget.test.ts` counts.
 */

// An object of the runtime's own is copied there; a plain one would be converted for each check-in.
const ACCEPTED = { status: 204, headers: new Headers({ 'x-content-type-options': 'nosniff' }) };

/**
 * Makes the function that takes every request.
 *
 * @param {string[]} names of the check-in's path, of the query's parameter that asks for a dry run,
 *   and of the header with the gateway token
 * @param {number} limit of its body, in bytes
 * @param {(request: Request, env: object) => Promise<Response>} route answers everything else
 * @param {(env: object) => void} configure reads the bindings; called when they are other ones
 * @param {(post: boolean, authorization?: string, token?: string, dryRun?: string, size?: number) =>
 *   Response | undefined} admit checks what can be checked before the body is read
 * @param {(body: string, size: number, token?: string, region?: string, dryRun?: string) =>
 *   Promise<Response> | Response | undefined} accept checks the rest and, unless it is a dry run, writes the data point
 * @returns {(request: Request, env: object) => Promise<Response> | Response}
 */
export function lane([path, parameter, tokenHeader], limit, route, configure, admit, accept) {
  let configured;

  return (request, env) => {
    const query = queryAt(request.url, path);
    if (query === undefined) return route(request, env);
    if (env !== configured) {
      configure(env);
      configured = env;
    }
    const { headers } = request;
    const header = (name) => headers.get(name) ?? undefined;
    const token = header(tokenHeader);
    const dryRun =
      query === '' ? undefined : (new URLSearchParams(query).get(parameter) ?? undefined);
    const length = headers.get('content-length');
    const size = length === null ? undefined : Number(length);
    const post = request.method === 'POST';
    const refusal = admit(post, header('authorization'), token, dryRun, size);
    if (refusal !== undefined) return refusal;

    const answer = (body, size) =>
      accept(body, size, token, header('fly-region'), dryRun) ?? new Response(null, ACCEPTED);
    // A body that breaks off is no JSON.
    const unreadable = () => answer('', 0);
    return size === undefined
      ? readAtMost(request.body, limit).then(
          (bytes) => answer(decoder.decode(bytes), bytes.length),
          unreadable,
        )
      : request.text().then((body) => answer(body, size), unreadable);
  };
}

const decoder = new TextDecoder();

/**
 * The query of a URL whose path is `path`, and undefined for any other. It does not cost parsing the
 * URL, and most check-ins have no query, which costs nothing more.
 */
function queryAt(url, path) {
  const start = url.indexOf('/', 'https://'.length);
  const end = start + path.length;
  if (!url.startsWith(path, start)) return undefined;
  if (url.length === end) return '';
  return url[end] === '?' ? url.slice(end) : undefined;
}

/** The bytes of a body of unknown length, or a few more than `limit` of them. */
async function readAtMost(stream, limit) {
  let bytes = new Uint8Array();
  for await (const chunk of stream ?? []) {
    const longer = new Uint8Array(bytes.length + chunk.length);
    longer.set(bytes);
    longer.set(chunk, bytes.length);
    bytes = longer;
    if (bytes.length > limit) break;
  }
  return bytes;
}

/**
 * Whether a sandbox may check in once more.
 *
 * @param {{ limit(options: { key: string }): Promise<{ success: boolean }> }} limiter
 * @param {string} key
 * @returns {Promise<boolean>}
 */
export async function limit(limiter, key) {
  const { success } = await limiter.limit({ key });
  return success;
}

/**
 * Writes a data point.
 *
 * @param {{ writeDataPoint(point: object): void }} dataset
 * @param {string} text the index and the blobs, end to end
 * @param {Uint32Array} ends where each of them ends in `text`, in UTF-16 code units
 * @param {Float64Array} doubles
 */
export function write(dataset, text, ends, doubles) {
  // Plain loops: iterating typed arrays costs more than all the rest here.
  const texts = [];
  for (let i = 0, start = 0; i < ends.length; start = ends[i], i += 1) {
    texts.push(text.slice(start, ends[i]));
  }
  const numbers = [];
  for (let i = 0; i < doubles.length; i += 1) numbers.push(doubles[i]);
  dataset.writeDataPoint({ indexes: [texts.shift()], blobs: texts, doubles: numbers });
}
