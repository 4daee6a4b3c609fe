// What the tests have in common.

import { createHmac } from "node:crypto";
import net from "node:net";
import { connect } from "../index.js";
import { NodeWebSocket } from "../node-websocket.js";

export const gateway = process.env.MILLRACE_GATEWAY ?? "";
const control = process.env.MILLRACE_CONTROL ?? "";

const patience = 20_000; // ms

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Waits until a condition holds. */
export async function until(what, holds) {
  for (const end = Date.now() + patience; !holds(); await pause(5)) {
    if (Date.now() > end) throw new Error(`this does not come: ${what}`);
  }
}

/** Tells the process that runs the gateway what to do. */
export async function tell(path, body = "") {
  const response = await fetch(control + path, { method: "POST", body });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
}

export const put = (...events) => tell("/put", events.map((e) => JSON.stringify({ type: "position", ...e })).join("\n"));

/** Connects with the WebSocket that this run is about; the client ends with the test. */
export function open(t, path, options = {}) {
  const own = process.env.MILLRACE_WEBSOCKET === "own" ? { WebSocket: NodeWebSocket } : {};
  const client = connect(`ws://${path.startsWith("/") ? gateway : ""}${path}`, { backoff: { least: 20, most: 200 }, ...own, ...options });
  const errors = [];
  client.on("error", (e) => errors.push(e));
  t.after(() => client.close());
  return Object.assign(client, { errors });
}

/** Handlers that keep what comes, in short. */
export function keep() {
  const came = [];
  const note = (text) => void came.push(text);
  return {
    came,
    event: (e) => note(e.deleted ? `${e.key} deleted` : `${e.key} ${JSON.stringify(e.data)}`),
    left: (e) => note(`${e.key} left`),
    gap: (g) => note(`gap ${g.reason}`),
    live: () => note("live"),
    reset: () => note("reset"),
    dropped: (d) => note(`dropped ${d.events}`),
    error: (e) => note(`error ${e.code}`),
  };
}

/** A token that expires in so many seconds. */
export function token(seconds, claims = {}) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + seconds;
  const text = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ iss: "tests", aud: "millrace", exp, ...claims })}`;
  return `${text}.${createHmac("sha256", process.env.MILLRACE_SECRET ?? "").update(text).digest("base64url")}`;
}

/**
 * A way to the gateway that can be disturbed: after so many bytes of a connection's answers (left), or on demand.
 */
export async function detour(t) {
  const [host, port] = gateway.split(":");
  const way = { address: "", connections: 0, left: Infinity, frozen: false, cut: () => {} };
  const pairs = new Set();
  const server = net.createServer((near) => {
    way.connections++;
    const far = net.connect(Number(port), host);
    const pair = [near, far];
    pairs.add(pair);
    for (const socket of pair) {
      socket.on("error", () => {});
      socket.on("close", () => {
        pairs.delete(pair);
        for (const s of pair) s.destroy();
      });
    }
    let left = way.left;
    near.on("data", (b) => way.frozen || far.write(b));
    far.on("data", (b) => {
      if (way.frozen) return;
      near.write(b.subarray(0, Math.min(left, b.length)));
      if ((left -= b.length) <= 0) near.destroySoon();
    });
  });
  way.cut = () => pairs.forEach((pair) => pair.forEach((s) => s.destroy()));
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  way.address = `127.0.0.1:${server.address().port}`;
  t.after(() => {
    server.close();
    way.cut();
  });
  return way;
}
