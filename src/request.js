// Rust's URL parser contains tables for international domain names, which are larger than the rest of the Worker.

/**
 * The path of a URL.
 *
 * @param {string} url
 * @returns {string}
 */
export const path = (url) => new URL(url).pathname;

/**
 * The decoded parameters of a URL's query, names and values in turn.
 *
 * @param {string} url
 * @returns {string[]}
 */
export const parameters = (url) => [...new URL(url).searchParams].flat();
