// What goes wrong, with a code that says what to do.

/** @typedef {import("./index.js").ErrorCode} ErrorCode */

export class MillraceError extends Error {
  /**
   * @param {ErrorCode} code
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(code, message, options) {
    super(message, options);
    this.name = "MillraceError";
    /** @type {ErrorCode} */
    this.code = code;
  }
}

/**
 * A listener's mistake is the program's, not the connection's.
 *
 * @param {() => void} f
 */
export function call(f) {
  try {
    f();
  } catch (e) {
    queueMicrotask(() => {
      throw e;
    });
  }
}
