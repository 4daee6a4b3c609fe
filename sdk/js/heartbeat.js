// Notices that the way to the gateway is dead. Browsers answer the gateway's pings without telling anyone, so
// the client asks by itself when it has heard nothing for a while.

/**
 * While the other side is silent, ask is called after one interval and dead after two and a half.
 */
export class Heartbeat {
  #interval;
  #ask;
  #dead;
  #heard = performance.now();
  #asked = 0; // when, since something was heard; 0: not
  #timer;

  /**
   * @param {number} interval in milliseconds
   * @param {() => void} ask
   * @param {() => void} dead
   */
  constructor(interval, ask, dead) {
    this.#interval = interval;
    this.#ask = ask;
    this.#dead = dead;
    this.#timer = setInterval(() => this.#look(), interval / 4);
  }

  heard() {
    this.#heard = performance.now();
    this.#asked = 0;
  }

  stop() {
    clearInterval(this.#timer);
  }

  #look() {
    const now = performance.now();
    const silent = now - this.#heard;
    if (silent < this.#interval) return;
    if (!this.#asked) {
      // Also if it is late for that: the page was asleep, and could not hear anything.
      this.#asked = now;
      this.#ask();
    } else if (silent > 2.5 * this.#interval && now - this.#asked > 1.25 * this.#interval) {
      this.stop();
      this.#dead();
    }
  }
}
