// How long to wait before another try.

/**
 * Back-off with full jitter: a random time between 0 and a bound that doubles with each try, so that
 * clients that were cut together do not come back together.
 */
export class Backoff {
  #least;
  #most;
  #tries = 0;

  /** @param {{least?: number, most?: number}} [bounds] in milliseconds */
  constructor({ least = 500, most = 30_000 } = {}) {
    this.#least = least;
    this.#most = most;
  }

  /**
   * @param {number} [spread] what the bound is at least, in milliseconds
   * @returns {number} milliseconds to wait
   */
  next(spread = 0) {
    const bound = Math.min(this.#most, Math.max(spread, this.#least * 2 ** this.#tries));
    this.#tries++;
    return Math.random() * bound;
  }

  reset() {
    this.#tries = 0;
  }
}
