// The client against a WebSocket that is none, and the WebSocket against a server that is none.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import fs from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { mock, test } from "node:test";
import { pathToFileURL } from "node:url";
import { Backoff } from "../backoff.js";
import { Heartbeat } from "../heartbeat.js";
import { connect } from "../index.js";
import { NodeWebSocket } from "../node-websocket.js";
import { keep, pause, until } from "./support.js";

test("jitter: between nothing and a bound that doubles up to the most", (t) => {
  t.mock.method(Math, "random", () => 1 - Number.EPSILON);
  const backoff = new Backoff({ least: 100, most: 5000 });
  const bounds = Array.from({ length: 9 }, () => Math.round(backoff.next()));
  assert.deepEqual(bounds, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
  backoff.reset();
  assert.equal(Math.round(backoff.next(2000)), 2000);
  assert.equal(Math.round(backoff.next(2000)), 2000);
  for (let i = 0; i < 2000; i++) backoff.next();
  assert.equal(Math.round(backoff.next()), 5000);
  Math.random.mock.restore();
  const spread = Array.from({ length: 1000 }, () => backoff.next());
  assert.ok(Math.min(...spread) < 250 && Math.max(...spread) > 4750, "it is not spread over all of the bound");
});

/** A WebSocket that does what the test says. */
class Fake {
  static made = [];
  readyState = 0;
  protocol = "millrace.v1";
  sent = [];
  closed = 0;
  constructor(url, protocol) {
    Object.assign(this, { url, asked: protocol });
    Fake.made.push(this);
  }
  send(text) { this.sent.push(JSON.parse(text)); }
  close(code) { this.readyState = 3; this.closed = code; }
  opens() { this.readyState = 1; this.onopen({}); this.says({ hello: { connection: "x", ping: 1000, message_limit: 32768 } }); }
  says(m) { this.onmessage({ data: typeof m === "string" ? m : JSON.stringify(m) }); }
  ends(code, reason = "") { this.readyState = 3; this.onclose({ code, reason }); }
}

function fake(t, options = {}) {
  Fake.made = [];
  const states = [], errors = [];
  const client = connect("http://example.org/live", { WebSocket: Fake, ...options });
  client.on("state", (state, detail) => states.push({ state, ...detail }));
  client.on("error", (e) => errors.push(e.code));
  t.after(() => client.close());
  return { client, states, errors, socket: () => Fake.made.at(-1) };
}

const ticks = async () => { for (let i = 0; i < 10; i++) await null; };

test("tries go on, further and further apart", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  t.mock.method(Math, "random", () => 0.5);
  const { states } = fake(t);
  const delays = [];
  for (let i = 0; i < 9; i++) {
    await ticks();
    assert.equal(Fake.made.length, i + 1);
    assert.equal(Fake.made[i].url, "ws://example.org/live");
    Fake.made[i].ends(1006);
    delays.push(states.at(-1).delay);
    t.mock.timers.tick(states.at(-1).delay - 1);
    await ticks();
    assert.equal(Fake.made.length, i + 1, "it comes too early");
    t.mock.timers.tick(2);
  }
  assert.deepEqual(delays, [250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000]);
});

test("a server that does not answer is given up", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const { client } = fake(t);
  await ticks();
  t.mock.timers.tick(10_000);
  assert.equal(client.state, "waiting");
});

test("close codes", async (t) => {
  for (const [code, want] of [
    [1006, "waiting"], [1001, "waiting"], [1005, "waiting"], [1008, "waiting"], [1011, "waiting"], [1012, "waiting"], [1013, "waiting"], [4000, "waiting"],
    [1000, "closed"], [1002, "protocol"], [1003, "protocol"], [1007, "protocol"], [1009, "protocol"], [4001, "unauthorized"], [4100, "closed"], [3000, "closed"],
  ]) {
    const { client, errors, socket } = fake(t);
    const s = client.subscribe({}, keep());
    await ticks();
    socket().opens();
    socket().ends(code, "why");
    assert.equal(client.state, want === "waiting" ? "waiting" : "closed", String(code));
    assert.deepEqual(errors, want === "waiting" ? [] : [want], String(code));
    assert.equal(s.ended, want !== "waiting");
    client.close();
  }
});

test("those who are sent away come back over two seconds", async (t) => {
  t.mock.method(Math, "random", () => 0.75);
  const { states, socket } = fake(t);
  await ticks();
  socket().opens();
  socket().ends(1012);
  assert.equal(states.at(-1).delay, 1500);
});

test("a token is asked for again when it is taken no more, and when it could not be got", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  let asked = 0;
  const { client, errors, socket } = fake(t, {
    getToken: async () => {
      if (++asked === 2) throw new Error("no");
      return `token ${asked}`;
    },
  });
  await ticks();
  socket().opens();
  assert.deepEqual(socket().sent, [{ auth: "token 1" }, { unsubscribe: "" }]);
  socket().ends(1006);
  t.mock.timers.tick(1000);
  await ticks();
  socket().opens();
  assert.deepEqual(socket().sent[0], { auth: "token 1" });
  socket().ends(4001, "expired");
  t.mock.timers.tick(1000);
  await ticks();
  assert.deepEqual([client.state, errors], ["waiting", ["unauthorized"]]);
  t.mock.timers.tick(5000);
  await ticks();
  socket().opens();
  assert.deepEqual(socket().sent[0], { auth: "token 3" });
});

test("a token that never comes is asked for again, and waiting for one ends with the client", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const answers = [];
  const { client, states, errors, socket } = fake(t, { getToken: () => new Promise((answer) => answers.push(answer)) });
  await ticks();
  t.mock.timers.tick(59_999);
  await ticks();
  assert.deepEqual([client.state, errors], ["connecting", []]);
  t.mock.timers.tick(1);
  await ticks();
  assert.deepEqual([client.state, errors, Fake.made.length], ["waiting", ["unauthorized"], 0]);
  answers[0]("too late");
  t.mock.timers.tick(states.at(-1).delay + 1);
  await ticks();
  assert.deepEqual([answers.length, Fake.made.length], [2, 0]);
  answers[1]("in time");
  await ticks();
  t.mock.timers.tick(9_999); // nothing is left of the time for the token
  socket().opens();
  assert.deepEqual(socket().sent[0], { auth: "in time" });
  t.mock.timers.tick(0);
  assert.equal(client.state, "open");

  const another = fake(t, { getToken: () => new Promise(() => {}) });
  await ticks();
  another.client.close();
  t.mock.timers.tick(100_000);
  await ticks();
  assert.deepEqual([another.client.state, another.errors, Fake.made.length], ["closed", [], 0]);
});

test("a token that is more than the gateway takes ends the client", async (t) => {
  const { client, errors, socket } = fake(t, { token: "x".repeat(40_000) });
  await ticks();
  socket().readyState = 1;
  socket().onopen({});
  assert.deepEqual([client.state, errors, socket().sent], ["closed", ["too_large"], []]);
});

test("without any WebSocket it says that, and tries again", async (t) => {
  // As if this package had been bundled without the one that comes along.
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), "millrace-client-"));
  t.after(() => fs.rm(folder, { recursive: true }));
  const files = await fs.readdir(new URL("..", import.meta.url));
  for (const name of files.filter((name) => /^(?!node-).*\.js$|^package\.json$/.test(name))) {
    await fs.copyFile(new URL(`../${name}`, import.meta.url), path.join(folder, name));
  }
  const platform = globalThis.WebSocket;
  t.after(() => (globalThis.WebSocket = platform));
  globalThis.WebSocket = undefined;
  const { connect } = await import(pathToFileURL(path.join(folder, "index.js")).href);
  const errors = [];
  const client = connect("ws://example.org/", { getToken: () => assert.fail("it is not the token"), backoff: { least: 1 } });
  t.after(() => client.close());
  client.on("error", (e) => errors.push(e));
  await until("a second try", () => errors.length >= 2);
  assert.equal(errors[1].code, "unavailable");
  assert.match(errors[1].message, /WebSocket/);
});

test("a listener that closes the client has the last word", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const { client, socket } = fake(t);
  client.on("error", () => client.close());
  await ticks();
  socket().opens();
  socket().says("nonsense");
  t.mock.timers.tick(100_000);
  await ticks();
  assert.deepEqual([client.state, Fake.made.length], ["closed", 1]);

  const asking = fake(t, { getToken: () => { throw new Error("no"); } });
  asking.client.on("error", () => asking.client.close());
  await ticks();
  t.mock.timers.tick(100_000);
  await ticks();
  assert.deepEqual([asking.client.state, asking.errors], ["closed", ["unauthorized"]]);
});

test("messages that make no sense", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  for (const nonsense of ["", "{", "[]", "null", "7", '"x"', "\u0000"]) {
    const { client, errors, socket } = fake(t);
    const seen = keep();
    client.subscribe({}, seen);
    await ticks();
    socket().opens();
    socket().says({ subscribed: "1" });
    socket().says({ sub: "1", id: "0_a.1", live: true });
    socket().says(nonsense);
    assert.deepEqual([client.state, errors, seen.came], ["waiting", ["protocol"], ["live"]], nonsense);
    assert.notEqual(socket().closed, 0);
    t.mock.timers.tick(1000);
    await ticks();
    socket().opens(); // and what may have been in it is asked for again
    assert.deepEqual(socket().sent.at(-1), { subscribe: "2", since: "0_a.1" });
    client.close();
  }
  // From a later version, or about what is not there any more.
  const { client, errors, socket } = fake(t);
  const seen = keep();
  client.subscribe({}, seen);
  await ticks();
  socket().opens();
  for (const m of [{}, { news: 1 }, { sub: "9", key: "k", data: 1 }, { subscribed: "9" }, { updated: "9" }, { unsubscribed: "9" }, { pong: 1 },
    { sub: "1", news: 1 }, { key: "of the URL", data: 1, id: "0_z.1" }, { id: "0_z.1", live: true }, { error: { code: "not_found", message: "" } }]) {
    socket().says(m);
  }
  assert.deepEqual([client.state, errors, seen.came], ["open", [], []]);
  socket().says({ error: { code: "conflict", message: "again" } });
  assert.deepEqual(errors, ["conflict"]);
  socket().says({ sub: "1", id: "0_b.1", dropped: { events: 3 } });
  socket().says({ sub: "1", id: "0_b.2", key: "", type: "", time: null, data_base64: "AP8=" });
  assert.deepEqual(seen.came, ["dropped 3", ' {"0":0,"1":255}']);
});

test("a subscription that cannot be had at the moment is tried again", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const { client, socket } = fake(t);
  const seen = keep();
  const s = client.subscribe({ keys: ["k"] }, seen);
  await ticks();
  socket().opens();
  socket().says({ sub: "1", error: { code: "unavailable", message: "" } });
  t.mock.timers.tick(500);
  socket().says({ sub: "2", error: { code: "too_large", message: "" } });
  t.mock.timers.tick(1000);
  assert.deepEqual(socket().sent.slice(1), ["1", "2", "3"].map((subscribe) => ({ subscribe, keys: ["k"] })));
  socket().says({ sub: "3", error: { code: "denied", message: "" } });
  assert.deepEqual([s.ended, seen.came], [true, ["error denied"]]);
});

test("an update that the gateway had not finished begins with latest after a cut", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const { client, socket } = fake(t);
  const seen = keep();
  const area = { box: [0, 0, 1, 1] }, next = { box: [1, 1, 2, 2] };
  const s = client.subscribe({ area }, seen);
  s.update({ area }); // before anything was asked for: nothing has to be said
  await ticks();
  socket().opens();
  socket().says({ subscribed: "1" });
  socket().says({ sub: "1", id: "0_a.1", live: true });
  s.update({ area: next });
  assert.deepEqual(socket().sent.slice(1), [{ subscribe: "1", area }, { update: "1", area: next }]);
  socket().says({ sub: "1", id: "0_a.2", live: true }); // of the area before
  assert.equal(s.live, false);
  socket().says({ updated: "1" });
  socket().says({ sub: "1", key: "k", data: 1 });
  socket().ends(1006);
  t.mock.timers.tick(1000);
  await ticks();
  socket().opens();
  assert.deepEqual(socket().sent.at(-1), { subscribe: "2", area: next, since: "latest" });
  socket().says({ subscribed: "2" });
  socket().says({ sub: "2", id: "0_a.3", live: true });
  assert.deepEqual(seen.came, ["live", "k 1", "reset", "live"]);
  assert.equal(s.live, true);
  socket().ends(1006);
  t.mock.timers.tick(2000);
  await ticks();
  socket().opens();
  assert.deepEqual(socket().sent.at(-1), { subscribe: "3", area: next, since: "0_a.3" });
});

test("the buffer is for what waits, not for what a loop has taken", async (t) => {
  const { client, socket } = fake(t);
  const s = client.subscribe({ buffer: 4 });
  await ticks();
  socket().opens();
  let n = 0;
  const come = () => socket().says({ sub: String(asked().length), id: `0_a.${++n}`, key: "k", data: n });
  const asked = () => socket().sent.filter((m) => m.subscribe);
  const loop = s[Symbol.asyncIterator]();
  const take = async () => { // what is there
    let got;
    loop.next().then(({ value }) => (got = value?.data));
    await ticks();
    return got;
  };
  for (let i = 0; i < 3; i++) come();
  for (let i = 1; i < 100; i++) { // two or three always wait
    assert.equal(await take(), i);
    assert.equal(s.id, `0_a.${i}`, "what waits counts as taken");
    come();
  }
  assert.equal(socket().sent.filter((m) => m.unsubscribe).length, 0);
  come();
  assert.deepEqual(socket().sent.at(-1), { unsubscribe: "1" }); // four wait
  come(); // on its way when it was ended
  n--;
  for (let i = 100; i < 104; i++) assert.equal(await take(), i);
  assert.equal(asked().length, 1);
  const next = take();
  await null;
  assert.deepEqual(socket().sent.at(-1), { subscribe: "2", since: "0_a.103" });
  come();
  assert.equal(await next, 104);
});

test("a handler that throws disturbs nothing else", async (t) => {
  const { client, socket } = fake(t);
  const thrown = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.once("uncaughtException", (e) => thrown.push(e.message));
  let count = 0;
  const s = client.subscribe({}, () => {
    if (++count === 1) throw new Error("mine");
  });
  await ticks();
  socket().opens();
  socket().says({ sub: "1", id: "0_a.1", key: "k", data: 1 });
  socket().says({ sub: "1", id: "0_a.2", key: "k", data: 1 });
  await pause(1);
  for (const l of listeners) process.on("uncaughtException", l);
  assert.deepEqual([count, s.id, thrown, client.state], [2, "0_a.2", ["mine"], "open"]);
});

test("a page that slept asks before it gives up", (t) => {
  let now = 1000;
  t.mock.method(performance, "now", () => now);
  t.mock.timers.enable({ apis: ["setInterval"] });
  const said = [];
  const heartbeat = new Heartbeat(100, () => said.push(`ask ${now - 1000}`), () => said.push(`dead ${now - 1000}`));
  const pass = (ms) => { for (; ms > 0; ms -= 25) { now += 25; t.mock.timers.tick(25); } };
  pass(100);
  assert.deepEqual(said, ["ask 100"]);
  heartbeat.heard();
  pass(75);
  now += 10_000; // asleep
  pass(25);
  assert.deepEqual(said.slice(1), ["ask 10200"]);
  heartbeat.heard();
  pass(275);
  assert.deepEqual(said.slice(2), ["ask 10300", "dead 10475"]);
});

/** A server that answers the handshake and then sends bytes. */
async function raw(t, bytes, accept) {
  const got = [];
  const server = net.createServer((socket) => {
    socket.on("error", () => {});
    let head = "";
    socket.on("data", (b) => {
      if (head.endsWith("\r\n\r\n")) { got.push(b); return; }
      head += b.toString("latin1");
      if (!head.endsWith("\r\n\r\n")) return;
      const key = /Sec-WebSocket-Key: (.*)\r\n/.exec(head)[1];
      const sum = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
      socket.write(`HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept ?? sum}\r\nSec-WebSocket-Protocol: p\r\n\r\n`);
      for (const b of bytes) socket.write(b);
    });
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  t.after(() => server.close());
  const socket = new NodeWebSocket(`ws://127.0.0.1:${server.address().port}/`, "p");
  const came = [];
  socket.onmessage = ({ data }) => came.push(data);
  socket.onclose = ({ code }) => came.push(code);
  t.after(() => socket.close());
  return { socket, came, got };
}

test("the WebSocket for Node: frames in pieces, fragments, pings, the end", async (t) => {
  const long = Buffer.alloc(70_000, "ä");
  const frames = Buffer.concat([
    Buffer.from([0x81, 2, 0x68, 0x69]), // hi
    Buffer.from([0x01, 1, 0xc3]), Buffer.from([0x89, 1, 0x70]), Buffer.from([0x80, 1, 0xa4]), // ä around a ping
    Buffer.from([0x82, 126, 0, 3, 1, 2, 3]),
    Buffer.from([0x81, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]), long,
    Buffer.from([0x88, 5, 0x03, 0xf4, 0x62, 0x79, 0x65]), // 1012 bye
  ]);
  const { came, got } = await raw(t, [...frames.subarray(0, 40)].map((b) => Buffer.from([b])).concat([frames.subarray(40)]));
  await until("the end", () => came.length === 5);
  assert.deepEqual(came.slice(0, 2), ["hi", "ä"]);
  assert.deepEqual([...came[2]], [1, 2, 3]);
  assert.equal(came[3], long.toString());
  assert.equal(came[4], 1012);
  const answer = Buffer.concat(got);
  assert.equal(answer[0], 0x8a); // the pong, masked
  assert.equal(answer[1], 0x81);
  assert.equal(answer[6] ^ answer[2], 0x70);
  assert.equal(answer[7], 0x88);
});

test("the WebSocket for Node: what is wrong", async (t) => {
  for (const [frames, code] of [
    [[0xc1, 0], 1002], [[0x81, 0x80, 0, 0, 0, 0], 1002], [[0x80, 0], 1002], [[0x83, 0], 1002], [[0x01, 0, 0x81, 0], 1002],
    [[0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255], 1009],
  ]) {
    const { came } = await raw(t, [Buffer.from(frames)]);
    await until("the end", () => came.length === 1);
    assert.deepEqual(came, [code], String(frames));
  }
  const { came } = await raw(t, [], "wrong");
  await until("the end", () => came.length === 1);
  assert.deepEqual(came, [1006]);
  const nobody = new NodeWebSocket("ws://127.0.0.1:1/");
  const ended = [];
  nobody.onclose = ({ code }) => ended.push(code);
  assert.throws(() => nobody.send("x"));
  await until("the end", () => ended.length === 1);
  assert.throws(() => new NodeWebSocket("ftp://127.0.0.1/"), SyntaxError);
});

mock.reset();
