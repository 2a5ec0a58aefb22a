/**
 * The decoded parameters of a URL's query, names and values in turn. Rust's own parser of URLs would
 * bring tables for international domain names along, which are larger than the rest of the Worker.
 *
 * @param {string} url
 * @returns {string[]}
 */
export const parameters = (url) => [...new URL(url).searchParams].flat();
