/** A connection to a gateway of Millrace that comes back by itself. */
export function connect(url: string | URL, options?: ClientOptions): Client;

export interface ClientOptions {
  /** The token, brought in the first message. When it is no good any more the client ends. */
  token?: string;
  /**
   * Gives a token. Asked once at first, and again whenever the gateway takes the last one no more, and after a while
   * if it fails or has not settled within a minute.
   */
  getToken?: () => string | Promise<string>;
  /** Bounds of the time between two tries, in milliseconds. Default 500 and 30000. */
  backoff?: { least?: number; most?: number };
  /** The class to connect with. Default the platform's own; in Node without one, a small one that comes along. */
  WebSocket?: new (url: string, protocol: string) => WebSocketLike;
}

/** connecting; open: the gateway has said hello; waiting for the next try; closed for good. */
export type ClientState = "connecting" | "open" | "waiting" | "closed";

/** Why a state began: how the connection before ended, and in how many milliseconds the next try is. */
export interface StateDetail {
  code?: number;
  reason?: string;
  delay?: number;
}

export interface Client {
  readonly state: ClientState;
  /**
   * Begins a subscription, which lasts over all connections. With a function, or with handlers, these are called
   * synchronously as messages come. Without, it is an async iterable of messages.
   */
  subscribe(options?: SubscriptionOptions, handlers?: Handlers | ((event: Event) => void)): Subscription;
  /** Calls listener when the state changes. The function that is returned takes it out again. */
  on(what: "state", listener: (state: ClientState, detail: StateDetail) => void): () => void;
  /** Calls listener for what goes wrong and is not one subscription's own. Without any it goes to console.error. */
  on(what: "error", listener: (error: MillraceError) => void): () => void;
  /** Ends the connection and all subscriptions. */
  close(): void;
}

export interface SubscriptionOptions {
  /** An endpoint's path. Default: that of the client's URL. */
  to?: string;
  /** Only these keys. */
  keys?: string[];
  /** Only keys that begin with this. */
  prefix?: string;
  /** Only events for which this expression is true, such as `speed > 80`. */
  filter?: string;
  /**
   * Where to begin: "latest" (the newest event of each key first), an id, or a time (a Date, RFC 3339 or Unix
   * milliseconds). Default: with what comes from now on.
   */
  since?: string | number | Date;
  /** Only objects inside this area. */
  area?: Area;
  /**
   * How many messages wait for whoever iterates; default 10000. When there are more the subscription pauses, and
   * goes on where it was when they have been taken. Of the newest events of each key as many wait as there are.
   */
  buffer?: number;
}

export type Area =
  | { box: [west: number, south: number, east: number, north: number] }
  | { circle: { lat: number; lon: number; radius: number } };

export interface Handlers {
  event?(event: Event): void;
  /** Events were asked for and are gone. */
  gap?(gap: Gap): void;
  /** An object is not inside the area any more. */
  left?(left: Left): void;
  /** All that there was has come; what follows happens now. After each connection, and after each update. */
  live?(live: Live): void;
  /** This client was too slow, and the gateway has left events out. */
  dropped?(dropped: Dropped): void;
  /** The newest events of all keys come once more: forget what came before. */
  reset?(reset: Reset): void;
  /** The subscription has ended because the gateway refuses it. Without this it goes to the client's listeners. */
  error?(error: MillraceError): void;
}

export type Message = Event | Gap | Left | Live | Dropped | Reset;

export interface Event {
  kind: "event";
  /** Where to go on after this event; undefined for those that "latest" begins with. */
  id: string | undefined;
  key: string;
  type: string;
  /** Event time, RFC 3339 with up to nine decimals. */
  time: string | null;
  /** The JSON value; a string if it is no JSON; a Uint8Array if it is no text. */
  data: any;
  /** The key has ended. */
  deleted: boolean;
}

export interface Gap {
  kind: "gap";
  id: string;
  /** What came after this position ... */
  after: string;
  /** ... up to and including this one is gone. */
  first: string;
  reason: "trimmed" | "new incarnation" | "truncated" | "unreadable" | (string & {});
}

export interface Left {
  kind: "left";
  id: string | undefined;
  key: string;
  type: string;
  time: string | null;
}

export interface Live {
  kind: "live";
  id: string;
}

export interface Dropped {
  kind: "dropped";
  id: string | undefined;
  /** How many. */
  events: number;
}

export interface Reset {
  kind: "reset";
}

export interface Subscription extends AsyncIterable<Message> {
  /**
   * Where to go on: `since` of a later subscription to the same. "" before anything has come. In a loop: after the
   * message that it has taken last.
   */
  readonly id: string;
  /** Nothing is left to catch up with. */
  readonly live: boolean;
  readonly ended: boolean;
  /**
   * Replaces the area. What has come into view follows as events, what has gone out of it as left, and then live.
   * An area that the gateway refuses ends the subscription.
   */
  update(change: { area: Area }): void;
  /**
   * Ends the subscription; no handler of it is called any more, and a loop over it ends with what waits. Leaving the
   * loop ends it, too.
   */
  unsubscribe(): void;
}

/**
 * What is wrong. From the gateway: invalid, not_found, denied, conflict, too_large, unavailable. The client's own:
 * unauthorized (no token, or one that is no good), protocol (one side does not understand the other), closed (an
 * operator has ended the connection, or the client has been closed); unavailable also if no WebSocket could be loaded.
 */
export type ErrorCode =
  | "invalid" | "not_found" | "denied" | "conflict" | "too_large" | "unavailable"
  | "unauthorized" | "protocol" | "closed" | (string & {});

export class MillraceError extends Error {
  constructor(code: ErrorCode, message: string, options?: ErrorOptions);
  readonly code: ErrorCode;
}

/** What the client needs of a WebSocket. */
export interface WebSocketLike {
  readonly readyState: number;
  readonly protocol: string;
  onopen: ((e: any) => void) | null;
  onmessage: ((e: { data: any }) => void) | null;
  onerror: ((e: any) => void) | null;
  /** status is that of a refused handshake, where it is known. */
  onclose: ((e: { code: number; reason: string; status?: number }) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}
