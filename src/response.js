/**
 * Builds a response.
 *
 * @param {number} status
 * @param {string | undefined} body JSON
 * @param {string[]} headers names and values in turn
 * @returns {Response}
 */
export function respond(status, body, headers) {
  // Keeps browsers from guessing another type, whatever texts from machines the body holds.
  const all = new Headers({ 'x-content-type-options': 'nosniff' });
  if (body !== undefined) all.set('content-type', 'application/json');
  for (let i = 0; i < headers.length; i += 2) all.set(headers[i], headers[i + 1]);
  return new Response(body, { status, headers: all });
}

/**
 * Logs an error and builds its response, in one crossing: a request with a wrong key must not cost more than one
 * with the right key.
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
