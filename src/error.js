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
  const headers = { 'content-type': 'application/json', 'x-content-type-options': 'nosniff' };
  if (name !== undefined) headers[name] = value;
  return new Response(body, { status, headers });
}
