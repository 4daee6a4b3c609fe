// A connection that comes back: the subprotocol millrace.v1 over WebSocket.

import { Backoff } from "./backoff.js";
import { call, MillraceError } from "./error.js";
import { Heartbeat } from "./heartbeat.js";
import { Flow, Subscription } from "./subscription.js";

/** @typedef {import("./index.js").Client} Declared */
/** @typedef {import("./index.js").ClientOptions} ClientOptions */
/** @typedef {import("./index.js").ClientState} ClientState */
/** @typedef {import("./index.js").ErrorCode} ErrorCode */
/** @typedef {import("./index.js").StateDetail} StateDetail */
/** @typedef {import("./index.js").SubscriptionOptions} SubscriptionOptions */
/** @typedef {import("./index.js").Handlers} Handlers */
/** @typedef {import("./index.js").WebSocketLike} WebSocketLike */

const subprotocol = "millrace.v1";
const tokenTimeout = 60_000; // ms for getToken; somebody may have to log in
const helloTimeout = 10_000; // ms until a connection is open and has said hello
const stable = 5_000; // ms after which a connection counts as a success
const spread = 2_000; // ms over which clients that are sent away together come back
const defaultLimit = 32 << 10; // bytes of a message to the gateway, before its hello says so

/**
 * @param {string | URL} url
 * @param {ClientOptions} [options]
 * @returns {Client}
 */
export function connect(url, options = {}) {
  return new Client(url, options);
}

/** @implements {Declared} */
export class Client {
  #url;
  #options;
  #backoff;
  /** @type {ClientState} */
  #state = "connecting";
  /** @type {Set<(state: ClientState, detail: StateDetail) => void>} */
  #onState = new Set();
  /** @type {Set<(error: MillraceError) => void>} */
  #onError = new Set();

  /** @type {Set<Flow>} */
  #flows = new Set();
  /** @type {Map<string, Flow>} */
  #named = new Map(); // those that are on the present connection, by their name there
  #names = 0;

  #attempt = 0; // tells one connection from the next, for whoever has waited
  /** @type {WebSocketLike | null} */
  #socket = null;
  #begun = 0;
  #greeted = false; // it has been told what this client wants
  #ending = false; // the subscription of the URL is being ended
  #limit = defaultLimit;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {Heartbeat | null} */
  #heartbeat = null;
  /** @type {string | undefined} */
  #token; // the one that getToken gave last

  /**
   * @param {string | URL} url
   * @param {ClientOptions} options
   */
  constructor(url, options) {
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace(/^http/, "ws");
    this.#options = options;
    this.#backoff = new Backoff(options.backoff);
    globalThis.addEventListener?.("online", this.#online);
    this.#open();
  }

  get state() {
    return this.#state;
  }

  /**
   * @param {SubscriptionOptions} [options]
   * @param {Handlers | ((event: import("./index.js").Event) => void)} [handlers]
   * @returns {Subscription}
   */
  subscribe(options = {}, handlers) {
    if (this.#state === "closed") throw new MillraceError("closed", "the client is closed");
    const flow = new Flow(options, typeof handlers === "function" ? { event: handlers } : handlers, {
      name: (flow) => this.#name(flow),
      send: (message) => this.#send(message),
      forget: (flow, name) => {
        this.#named.delete(name);
        if (flow.ended) this.#flows.delete(flow);
      },
      error: (error) => this.#report(error),
    });
    this.#flows.add(flow);
    if (this.#greeted) flow.begin();
    return new Subscription(flow);
  }

  /**
   * @param {"state" | "error"} what
   * @param {(...args: any[]) => void} listener
   * @returns {() => void} takes the listener out again
   */
  on(what, listener) {
    const listeners = /** @type {Set<(...args: any[]) => void>} */ (what === "state" ? this.#onState : this.#onError);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }

  close() {
    this.#end(1000, "");
  }

  // #open makes a connection.
  async #open() {
    const attempt = ++this.#attempt;
    clearTimeout(this.#timer);
    this.#become("connecting");
    let Socket;
    try {
      Socket = this.#options.WebSocket ?? globalThis.WebSocket ?? (await import("./node-websocket.js")).NodeWebSocket;
    } catch (cause) {
      this.#unready(attempt, new MillraceError("unavailable", `no WebSocket to connect with: ${cause}`, { cause }));
      return;
    }
    let token;
    try {
      token = this.#options.token ?? (this.#token ??= await this.#ask());
    } catch (cause) {
      this.#unready(attempt, new MillraceError("unauthorized", `no token: ${cause}`, { cause }));
      return;
    }
    if (attempt !== this.#attempt) return;
    let socket;
    try {
      socket = /** @type {WebSocketLike} */ (new Socket(this.#url.href, subprotocol));
    } catch (cause) {
      this.#stop(1006, new MillraceError("invalid", `${this.#url} cannot be connected to: ${cause}`, { cause }));
      return;
    }
    this.#socket = socket;
    this.#begun = performance.now();
    const mine = () => this.#socket === socket;
    socket.onopen = () => mine() && this.#greet(token);
    socket.onmessage = ({ data }) => {
      if (mine()) this.#take(data);
    };
    socket.onerror = () => {
      // close follows at once, but for early versions of Node's WebSocket, which leave it out.
      setTimeout(() => mine() && this.#lost(1006, ""));
    };
    socket.onclose = (e) => {
      if (mine()) this.#lost(e.code, e.reason ?? "", e.status);
    };
    this.#timer = setTimeout(() => {
      if (mine()) this.#lost(1006, `no answer within ${helloTimeout / 1000} s`);
    }, helloTimeout);
  }

  // #unready is told what an attempt lacks before it can connect. It is tried again.
  #unready(/** @type {number} */ attempt, /** @type {MillraceError} */ error) {
    if (attempt !== this.#attempt) return;
    this.#report(error);
    if (attempt === this.#attempt) this.#retry({}); // else a listener has closed the client
  }

  // #ask asks for a token. An answer that comes too late is not waited for: it is asked for again.
  async #ask() {
    const token = this.#options.getToken?.();
    if (typeof token !== "object") return token;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    /** @type {Promise<never>} */
    const late = new Promise((_, give) => {
      timer = setTimeout(() => give(new Error(`getToken has not settled within ${tokenTimeout / 1000} s`)), tokenTimeout);
    });
    this.#timer = timer; // which ends with the client
    try {
      return await Promise.race([token, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  // #greet says on a new connection what this client wants. Answers are not waited for.
  #greet(/** @type {string | undefined} */ token) {
    if (this.#socket?.protocol !== subprotocol) {
      this.#stop(1002, new MillraceError("protocol", `${this.#url} does not speak ${subprotocol}`));
      return;
    }
    try {
      if (token !== undefined) this.#send({ auth: token });
    } catch (e) { // it is too large, and stays so
      this.#stop(1009, /** @type {MillraceError} */ (e));
      return;
    }
    // An endpoint with a stream has begun to send what its URL asks for.
    this.#greeted = this.#ending = true;
    this.#send({ unsubscribe: "" });
    for (const flow of [...this.#flows]) flow.begin();
  }

  // #name lets a flow be told what comes under a new name.
  #name(/** @type {Flow} */ flow) {
    const name = String(++this.#names);
    this.#named.set(name, flow);
    return name;
  }

  // #send returns false if there is no connection; what it says is said again on the next one.
  #send(/** @type {object} */ message) {
    if (this.#socket?.readyState !== 1) return false;
    const text = JSON.stringify(message);
    const size = text.length * 3 < this.#limit ? 0 : new TextEncoder().encode(text).length;
    if (size > this.#limit) {
      throw new MillraceError("too_large", `a message of ${size} bytes is more than the gateway takes (${this.#limit})`);
    }
    this.#socket.send(text);
    return true;
  }

  #take(/** @type {unknown} */ data) {
    this.#heartbeat?.heard();
    let m;
    try {
      m = JSON.parse(/** @type {string} */ (data));
    } catch {
      // See below.
    }
    if (typeof m !== "object" || m === null || Array.isArray(m)) {
      // It may have been an event, so what came last is asked for again.
      this.#report(new MillraceError("protocol", `the gateway has sent what is no message: ${String(data).slice(0, 80)}`));
      this.#lost(1006, "a message was not understood");
      return;
    }
    if (m.hello) {
      this.#welcome(m.hello);
    } else if (typeof m.sub === "string") {
      this.#named.get(m.sub)?.take(m);
    } else if (typeof m.subscribed === "string") {
      this.#named.get(m.subscribed)?.subscribed();
    } else if (typeof m.updated === "string") {
      this.#named.get(m.updated)?.updated();
    } else if (m.unsubscribed === "") {
      this.#ending = false;
    } else if (m.error && this.#ending && m.error.code === "not_found") {
      this.#ending = false; // the URL had no subscription
    } else if (m.error) {
      this.#report(new MillraceError(m.error.code, String(m.error.message)));
    }
    // Else: of the URL's subscription, an answer that needs nothing, or from a later version.
  }

  #welcome(/** @type {{ping?: number, message_limit?: number}} */ { ping = 25_000, message_limit: limit = defaultLimit }) {
    clearTimeout(this.#timer);
    this.#limit = limit;
    this.#heartbeat?.stop();
    this.#heartbeat = new Heartbeat(
      ping,
      () => this.#send({ ping: Date.now() }),
      () => this.#lost(1006, "the gateway is silent"),
    );
    this.#become("open");
  }

  /**
   * Ends a connection and decides what then.
   *
   * @param {number} code
   * @param {string} reason
   * @param {number} [status] of a refused handshake, where it is known
   */
  #lost(code, reason, status) {
    if (this.#state === "closed") return; // by a listener that was told what is wrong
    this.#drop(4002);
    if (performance.now() - this.#begun > stable) this.#backoff.reset();
    const why = `${reason || "the connection was lost"} (${status ?? code})`;
    switch (verdict(code, status)) {
      case "stop":
        this.#stop(code, new MillraceError(code === 1000 || code >= 3000 ? "closed" : "protocol", why));
        return;
      case "token":
        if (!this.#options.getToken || this.#options.token !== undefined) {
          this.#stop(code, new MillraceError("unauthorized", why));
          return;
        }
        this.#token = undefined;
        break;
      case "spread":
        this.#retry({ code, reason }, spread);
        return;
    }
    this.#retry({ code, reason });
  }

  // #drop lets go of the socket, without waiting for it: a dead one would not say that it has closed.
  #drop(/** @type {number} */ code) {
    const socket = this.#socket;
    this.#attempt++;
    this.#socket = null;
    this.#greeted = false;
    clearTimeout(this.#timer);
    this.#heartbeat?.stop();
    this.#heartbeat = null;
    this.#named.clear();
    for (const flow of this.#flows) flow.cut();
    try {
      socket?.close(code);
    } catch {
      // It was never open.
    }
  }

  #retry(/** @type {StateDetail} */ detail, least = 0) {
    const delay = this.#backoff.next(least);
    this.#timer = setTimeout(() => this.#open(), delay);
    this.#become("waiting", { ...detail, delay });
  }

  // #online is told by browsers when the network is back.
  #online = () => {
    if (this.#state !== "waiting") return;
    this.#backoff.reset();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), this.#backoff.next());
  };

  // #stop ends the client because it makes no sense to go on.
  #stop(/** @type {number} */ code, /** @type {MillraceError} */ error) {
    if (this.#state === "closed") return;
    this.#end(code, error.message, error);
    this.#report(error);
  }

  /**
   * @param {number} code
   * @param {string} reason
   * @param {MillraceError} [error] what the subscriptions end with
   */
  #end(code, reason, error) {
    if (this.#state === "closed") return;
    globalThis.removeEventListener?.("online", this.#online);
    this.#drop(1000);
    const flows = [...this.#flows];
    this.#flows.clear();
    for (const flow of flows) flow.end(error);
    this.#become("closed", { code, reason });
  }

  #become(/** @type {ClientState} */ state, /** @type {StateDetail} */ detail = {}) {
    if (this.#state === state && state === "connecting") return;
    this.#state = state;
    for (const listener of [...this.#onState]) call(() => listener(state, detail));
  }

  #report(/** @type {MillraceError} */ error) {
    if (this.#onError.size === 0) console.error(error);
    for (const listener of [...this.#onError]) call(() => listener(error));
  }
}

/**
 * What a connection's end asks for. status is that of a refused handshake, where it is known.
 *
 * @param {number} code
 * @param {number} [status]
 * @returns {"stop" | "token" | "spread" | "retry"}
 */
function verdict(code, status) {
  if (status !== undefined) {
    if (status === 401) return "token";
    return status === 429 || status >= 500 ? "retry" : "stop";
  }
  switch (code) {
    case 1012: // it restarts
    case 1013: // it cannot go on with this client at the moment
      return "spread";
    case 4001:
      return "token";
    case 1000: // an operator
    case 1002:
    case 1003:
    case 1007:
    case 1009:
    case 1010:
      return "stop";
  }
  return code >= 3000 && code <= 4999 && code !== 4000 ? "stop" : "retry";
}
