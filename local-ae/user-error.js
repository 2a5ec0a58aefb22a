/** An error that the user can fix. The command line prints it on one line, without a stack. */
export class UserError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(`local-ae: ${message}`);
  }
}
