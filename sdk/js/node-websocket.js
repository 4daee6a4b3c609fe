// A small WebSocket client (RFC 6455) for versions of Node that have none. Browsers never load it.

import { createHash, randomBytes } from "node:crypto";
import http from "node:http";
import https from "node:https";

const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // section 1.3
const largest = 256 << 20; // bytes of a message
const closeTimeout = 3_000; // ms for the other side's close frame

const op = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

/** @typedef {import("./index.js").WebSocketLike} WebSocketLike */

/** @implements {WebSocketLike} */
export class NodeWebSocket {
  readyState = 0;
  protocol = "";
  /** @type {WebSocketLike["onopen"]} */
  onopen = null;
  /** @type {WebSocketLike["onmessage"]} */
  onmessage = null;
  /** @type {WebSocketLike["onerror"]} */
  onerror = null;
  /** @type {WebSocketLike["onclose"]} */
  onclose = null;

  #request;
  /** @type {import("node:stream").Duplex | null} */
  #socket = null;
  /** @type {Buffer[]} */
  #chunks = []; // that no frame was made of yet
  #have = 0; // bytes of them
  #want = 2; // bytes that are needed to go on
  /** @type {Buffer[]} */
  #parts = []; // of a fragmented message
  #size = 0; // bytes of them
  #kind = 0; // of that message; 0: there is none
  /** @type {{code: number, reason: string} | null} */
  #closed = null; // what onclose says
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {string} url
   * @param {string} [protocol]
   */
  constructor(url, protocol) {
    const target = new URL(url);
    const secure = target.protocol === "wss:";
    if (!secure && target.protocol !== "ws:") throw new SyntaxError(`${url} is not ws:// or wss://`);
    target.protocol = secure ? "https:" : "http:";
    const key = randomBytes(16).toString("base64");
    /** @type {{[name: string]: string}} */
    const headers = { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key };
    if (protocol) headers["Sec-WebSocket-Protocol"] = protocol;
    this.#request = (secure ? https : http).get(target, { headers, agent: false });
    this.#request.on("upgrade", (response, socket, head) => {
      const accept = createHash("sha1").update(key + guid).digest("base64");
      if (response.headers["sec-websocket-accept"] !== accept) {
        socket.destroy();
        this.#gone(1006, "the answer to the handshake is wrong");
        return;
      }
      this.protocol = response.headers["sec-websocket-protocol"] ?? "";
      this.#open(socket, head);
    });
    this.#request.on("response", (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (/** @type {string} */ part) => (text = (text + part).slice(0, 500)));
      response.on("close", () => this.#gone(1006, text.trim(), response.statusCode));
    });
    this.#request.on("error", (e) => this.#gone(1006, e.message));
  }

  /** @param {string} text */
  send(text) {
    if (this.readyState === 0) throw new Error("the connection is not open yet");
    if (this.readyState === 1) this.#write(op.text, Buffer.from(text));
  }

  close(code = 1000, reason = "") {
    if (this.readyState === 0) {
      this.#request.destroy();
      this.#gone(1006, "");
    }
    if (this.readyState !== 1) return;
    this.#farewell(code, reason);
  }

  /**
   * @param {import("node:stream").Duplex} socket
   * @param {Buffer} head
   */
  #open(socket, head) {
    if (this.readyState !== 0) {
      socket.destroy();
      return;
    }
    this.#socket = socket;
    this.readyState = 1;
    /** @type {import("node:net").Socket} */ (socket).setNoDelay?.(true);
    socket.on("data", (chunk) => this.#feed(chunk));
    socket.on("error", () => {}); // close follows
    socket.on("end", () => socket.end());
    socket.on("close", () => this.#gone(this.#closed?.code ?? 1006, this.#closed?.reason ?? ""));
    this.onopen?.({});
    if (head.length > 0) this.#feed(head);
  }

  /**
   * @param {number} code
   * @param {string} reason
   * @param {number} [status]
   */
  #gone(code, reason, status) {
    if (this.readyState === 3) return;
    this.readyState = 3;
    clearTimeout(this.#timer);
    this.onclose?.({ code, reason, status });
  }

  // #farewell sends a close frame and waits for the other's, or for the socket's end.
  #farewell(/** @type {number} */ code, /** @type {string} */ reason) {
    this.readyState = 2;
    const payload = Buffer.alloc(2 + Buffer.byteLength(reason));
    payload.writeUInt16BE(code);
    payload.write(reason, 2);
    this.#write(op.close, payload);
    this.#timer = setTimeout(() => this.#socket?.destroy(), closeTimeout);
    this.#timer.unref?.();
  }

  #feed(/** @type {Buffer} */ chunk) {
    this.#chunks.push(chunk);
    this.#have += chunk.length;
    if (this.#have < this.#want) return;
    let b = this.#chunks.length === 1 ? this.#chunks[0] : Buffer.concat(this.#chunks);
    while (this.readyState === 1 || this.readyState === 2) {
      const size = this.#frame(b);
      if (size === 0) break;
      b = b.subarray(size);
    }
    this.#chunks = [b];
    this.#have = b.length;
  }

  // #frame takes the first frame of b and returns its length, or 0 and sets what it wants.
  #frame(/** @type {Buffer} */ b) {
    this.#want = 2;
    if (b.length < 2) return 0;
    let at = 2;
    let length = b[1] & 0x7f;
    if (length >= 126) {
      at = length === 126 ? 4 : 10;
      this.#want = at;
      if (b.length < at) return 0;
      length = length === 126 ? b.readUInt16BE(2) : Number(b.readBigUInt64BE(2));
    }
    if (b[0] & 0x70 || b[1] & 0x80) return this.#violated(1002, "a frame is masked, or has a bit that was not agreed on");
    if (length + this.#size > largest) return this.#violated(1009, "a message is too large");
    this.#want = at + length;
    if (b.length < this.#want) return 0;
    this.#handle(b[0] & 15, (b[0] & 0x80) !== 0, b.subarray(at, at + length));
    this.#want = 2;
    return at + length;
  }

  #handle(/** @type {number} */ kind, /** @type {boolean} */ final, /** @type {Buffer} */ payload) {
    switch (kind) {
      case op.ping:
        this.#write(op.pong, payload);
        return;
      case op.pong:
        return;
      case op.close:
        this.#closed = payload.length < 2 ? { code: 1005, reason: "" } : { code: payload.readUInt16BE(), reason: payload.toString("utf8", 2) };
        if (this.readyState === 1) this.#farewell(payload.length < 2 ? 1000 : this.#closed.code, "");
        this.#socket?.end();
        return;
      case op.continuation:
        kind = this.#kind;
        break;
      default:
        if (this.#kind) kind = 0; // a message within another
    }
    if (kind !== op.text && kind !== op.binary) {
      this.#violated(1002, "frames are out of order, or of an unknown kind");
      return;
    }
    this.#parts.push(payload);
    this.#size += payload.length;
    this.#kind = kind;
    if (!final) return;
    const whole = Buffer.concat(this.#parts);
    this.#parts = [];
    this.#size = this.#kind = 0;
    if (this.readyState === 1) this.onmessage?.({ data: kind === op.text ? whole.toString("utf8") : whole });
  }

  #violated(/** @type {number} */ code, /** @type {string} */ reason) {
    this.#closed = { code, reason };
    if (this.readyState === 1) this.#farewell(code, reason);
    this.#socket?.end();
    return 0;
  }

  // #write sends a frame, masked as section 5.3 demands.
  #write(/** @type {number} */ kind, /** @type {Buffer} */ payload) {
    const n = payload.length;
    const at = n < 126 ? 2 : n < 65_536 ? 4 : 10;
    const frame = Buffer.alloc(at + 4 + n);
    frame[0] = 0x80 | kind;
    frame[1] = 0x80 | (at === 2 ? n : at === 4 ? 126 : 127);
    if (at === 4) frame.writeUInt16BE(n, 2);
    if (at === 10) frame.writeBigUInt64BE(BigInt(n), 2);
    const mask = randomBytes(4);
    mask.copy(frame, at);
    for (let i = 0; i < n; i++) frame[at + 4 + i] = payload[i] ^ mask[i & 3];
    this.#socket?.write(frame);
  }
}
