// The runtime copies a Headers object natively; it would convert a plain object for each response. `nosniff` keeps
// browsers from guessing another type from the machines' texts in a body.
export const EMPTY = new Headers({ 'x-content-type-options': 'nosniff' });
const JSON_BODY = new Headers([...EMPTY, ['content-type', 'application/json']]);

/**
 * Builds a response.
 *
 * @param {number} status
 * @param {string | undefined} body JSON
 * @param {string[]} added headers: names and values in turn
 * @returns {Response}
 */
export function respond(status, body, added) {
  const common = body === undefined ? EMPTY : JSON_BODY;
  if (added.length === 0) return new Response(body, { status, headers: common });
  const headers = new Headers(common);
  for (let i = 0; i < added.length; i += 2) headers.set(added[i], added[i + 1]);
  return new Response(body, { status, headers });
}

/**
 * Logs an error and builds its response, in one crossing.
 *
 * @param {number} status
 * @param {string} body JSON
 * @param {string} line for the log
 * @param {string} [name] the name of a header that the status requires
 * @param {string} [value] the header's value
 * @returns {Response}
 */
export function refuse(status, body, line, name, value) {
  if (status >= 500) console.error(line);
  else console.warn(line);
  return respond(status, body, name === undefined ? [] : [name, value]);
}
