/**
 * Logs an error and builds its response, in one crossing: a caller with a wrong key must not cost more
 * than one with the right one.
 *
 * @param {number} status
 * @param {string} body JSON
 * @param {string} line for the log
 * @param {string} [name] of the header that belongs to the status
 * @param {string} [value] of that header
 * @returns {Response}
 */
export function refuse(status, body, line, name, value) {
  if (status >= 500) console.error(line);
  else console.warn(line);
  const headers = { 'content-type': 'application/json', 'x-content-type-options': 'nosniff' };
  if (name !== undefined) headers[name] = value;
  return new Response(body, { status, headers });
}
