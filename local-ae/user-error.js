/** An error that its reader can fix. The command line prints it in one line, without a stack. */
export class UserError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(`local-ae: ${message}`);
  }
}
