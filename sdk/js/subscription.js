// A subscription over all the connections that it takes.

import { Backoff } from "./backoff.js";
import { call, MillraceError } from "./error.js";

/** @typedef {import("./index.js").Area} Area */
/** @typedef {import("./index.js").Handlers} Handlers */
/** @typedef {import("./index.js").Message} Message */
/** @typedef {import("./index.js").Subscription} Declared */
/** @typedef {import("./index.js").SubscriptionOptions} SubscriptionOptions */

/**
 * What a flow needs of its client.
 *
 * @typedef {object} Wire
 * @property {(flow: Flow) => string} name gives it a name on the present connection
 * @property {(message: object) => boolean} send
 * @property {(flow: Flow, name: string) => void} forget
 * @property {(error: MillraceError) => void} error
 */

const retryable = ["unavailable", "too_large"];

/** @implements {Declared} */
export class Subscription {
  #flow;

  /** @param {Flow} flow */
  constructor(flow) {
    this.#flow = flow;
  }

  get id() {
    return this.#flow.reached;
  }

  get live() {
    return this.#flow.live;
  }

  get ended() {
    return this.#flow.ended;
  }

  /** @param {{area: Area}} change */
  update(change) {
    this.#flow.update(change.area);
  }

  unsubscribe() {
    this.#flow.end();
  }

  /** @returns {AsyncIterator<Message, void, void>} */
  [Symbol.asyncIterator]() {
    return this.#flow.iterate();
  }
}

/** Flow is what a subscription is inside, and what its client tells. */
export class Flow {
  id = ""; // of what came last
  live = false;
  ended = false;

  #wire;
  #ask; // the message subscribe, without name and since
  #since;
  #handlers;
  #backoff = new Backoff();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  #name = ""; // on the present connection; "": it is not there
  #known = false; // the gateway has said that it has begun there
  #complete; // the id tells all that is needed to go on; otherwise it has to begin with latest
  #anew = false; // it has begun with latest before
  #updates = 0; // that the gateway has not answered

  /** @type {Message[] | null} */
  #queue = null; // for the iterator; null: there are handlers
  #taken = 0; // of the queue's messages by the iterator
  #reached = ""; // the id of what it took last
  #bound; // of those that wait
  #paused = false;
  /** @type {(() => void) | null} */
  #wake = null;
  #iterated = false;
  /** @type {MillraceError | undefined} */
  #failure;

  /**
   * @param {SubscriptionOptions} options
   * @param {Handlers | undefined} handlers
   * @param {Wire} wire
   */
  constructor({ to, keys, prefix, filter, since, area, buffer = 10_000 }, handlers, wire) {
    this.#wire = wire;
    /** @type {{[member: string]: unknown}} */
    this.#ask = { to, keys, prefix, filter, area };
    this.#since = since instanceof Date ? since.toISOString() : String(since ?? "");
    this.#complete = this.#since !== "latest";
    this.#handlers = handlers;
    this.#bound = buffer;
    if (!handlers) this.#queue = [];
  }

  // reached is the id of what came last to whoever uses it: what waits for a loop does not count.
  get reached() {
    return this.#queue && this.#taken < this.#queue.length ? this.#reached : this.id;
  }

  // begin asks for it on a connection that is new.
  begin() {
    clearTimeout(this.#timer);
    if (this.ended || this.#paused || this.#name) return;
    const since = this.#complete ? this.id || this.#since : "latest";
    this.#name = this.#wire.name(this);
    this.#known = false;
    this.#updates = 0;
    try {
      if (!this.#wire.send({ subscribe: this.#name, ...this.#ask, since: since || undefined })) this.#leave();
    } catch (e) {
      this.end(/** @type {MillraceError} */ (e));
    }
  }

  subscribed() {
    this.#known = true;
    this.#backoff.reset();
    if (this.#complete) return;
    if (this.#anew) this.#emit({ kind: "reset" });
    this.#anew = true;
  }

  updated() {
    this.#updates--;
  }

  /** @param {any} m a message from the gateway about this subscription */
  take(m) {
    if (typeof m.id === "string") this.id = m.id;
    if (m.error) {
      this.#refused(new MillraceError(m.error.code, String(m.error.message)));
    } else if (m.gap) {
      this.#emit({ kind: "gap", id: m.id, after: m.gap.after, first: m.gap.first, reason: m.gap.reason });
    } else if (m.dropped) {
      this.#emit({ kind: "dropped", id: m.id, events: m.dropped.events });
    } else if (m.left) {
      this.#emit({ kind: "left", id: m.id, key: m.key, type: m.type, time: m.time });
    } else if (typeof m.key === "string") {
      const data = m.data_base64 === undefined ? m.data : bytes(m.data_base64);
      this.#emit({ kind: "event", id: m.id, key: m.key, type: m.type, time: m.time, data, deleted: m.deleted === true });
    } else if (m.live && this.#updates === 0) {
      this.#complete = this.live = true;
      this.#emit({ kind: "live", id: m.id });
    }
  }

  /** @param {Area} area */
  update(area) {
    if (this.ended) return;
    if (!this.#ask.area) throw new MillraceError("invalid", "update replaces the area of a subscription that has one");
    this.#ask.area = area;
    if (!this.#name && !this.id && !this.#anew) return; // it has not begun
    // From now on until it is live the id does not tell what of the new area the client has.
    this.#complete = this.live = false;
    if (this.#known || this.id) this.#anew = true;
    if (this.#name && this.#wire.send({ update: this.#name, area })) this.#updates++;
  }

  // cut is told when the connection is lost.
  cut() {
    clearTimeout(this.#timer);
    this.#name = "";
    this.live = false;
  }

  /** @param {MillraceError} [error] why it ends; it was wanted if there is none */
  end(error) {
    if (this.ended) return;
    this.ended = true;
    this.live = false;
    clearTimeout(this.#timer);
    this.#leave();
    this.#wire.forget(this, "");
    this.#failure = error;
    this.#wake?.();
    if (!error || this.#queue) return;
    const handler = this.#handlers?.error;
    if (handler) call(() => handler.call(this.#handlers, error));
    else this.#wire.error(error);
  }

  // iterate yields what comes. The connection cannot be held up, so when the buffer is full the subscription
  // leaves it, and comes back by its id when there is room.
  async *iterate() {
    const queue = this.#queue;
    if (!queue) throw new MillraceError("invalid", "a subscription that has handlers is not iterated");
    if (this.#iterated) throw new MillraceError("invalid", "a subscription is iterated once");
    this.#iterated = true;
    try {
      for (;;) {
        if (this.#taken < queue.length) {
          const message = queue[this.#taken++];
          if ("id" in message && message.id) this.#reached = message.id;
          if (2 * this.#taken >= queue.length) { // what this moves is no more than has been taken
            queue.splice(0, this.#taken);
            this.#taken = 0;
          }
          yield message;
          continue;
        }
        if (this.#failure) throw this.#failure;
        if (this.ended) return;
        if (this.#paused) {
          this.#paused = false;
          this.begin();
        }
        await new Promise((wake) => (this.#wake = () => wake(undefined)));
        this.#wake = null;
      }
    } finally {
      this.end();
    }
  }

  #emit(/** @type {Message} */ message) {
    if (!this.#queue) {
      const handler = /** @type {((m: Message) => void) | undefined} */ (this.#handlers?.[message.kind]);
      if (handler) call(() => handler.call(this.#handlers, message));
      return;
    }
    this.#queue.push(message);
    this.#wake?.();
    // The newest event of each key cannot be taken in parts: of them as many wait as there are.
    if (this.#queue.length - this.#taken >= this.#bound && this.#complete && this.id) {
      this.#paused = true;
      this.#leave();
    }
  }

  // #leave takes it off the present connection; what is still on its way is not listened to.
  #leave() {
    const name = this.#name;
    if (!name) return;
    this.cut();
    this.#wire.forget(this, name);
    this.#wire.send({ unsubscribe: name });
  }

  #refused(/** @type {MillraceError} */ error) {
    if (this.#known || !retryable.includes(error.code)) { // known: it was an update
      this.end(error);
      return;
    }
    const name = this.#name;
    this.cut();
    this.#wire.forget(this, name);
    this.#timer = setTimeout(() => this.begin(), this.#backoff.next());
  }
}

/** @param {string} base64 */
function bytes(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}
