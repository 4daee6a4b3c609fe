// The client against the real gateway. The tests share its one stream, and use keys of their own.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { detour, gateway, keep, open, pause, put, tell, token, until } from "./support.js";

before(() => assert.ok(gateway, "MILLRACE_GATEWAY is not set: go test ./sdk/js runs these tests"));

test("keys, prefix and filter; unsubscribe", async (t) => {
  const client = open(t, "/live");
  const [keys, prefix, filter, path] = [keep(), keep(), keep(), keep()];
  const to = "/events";
  const first = client.subscribe({ to, keys: ["a1", "a2"] }, keys);
  client.subscribe({ to, prefix: "a" }, prefix);
  client.subscribe({ to, prefix: "a", filter: "speed > 80" }, filter);
  client.subscribe({ to: "/events/{k}", keys: ["a3"] }, path);
  await until("live", () => [keys, prefix, filter, path].every(({ came }) => came[0] === "live"));
  assert.equal(client.state, "open");
  await put({ key: "a1", data: { speed: 1 } }, { key: "b", data: { speed: 99 } });
  await put({ key: "a3", data: { speed: 90 } });
  await put({ key: "a2", data: "text" });
  await until("all", () => keys.came.length === 3 && prefix.came.length === 4 && path.came.length === 2);
  assert.deepEqual(keys.came.slice(1), ['a1 {"speed":1}', 'a2 "text"']);
  assert.deepEqual(filter.came.slice(1), ['a3 {"speed":90}']);
  assert.deepEqual(path.came.slice(1), ['a3 {"speed":90}']);

  first.unsubscribe();
  assert.equal(first.ended, true);
  await put({ key: "a1", data: 2 });
  await until("the others go on", () => prefix.came.length === 5);
  await pause(20);
  assert.equal(keys.came.length, 3);
  assert.deepEqual(client.errors, []);
});

test("an endpoint with a stream of its own", async (t) => {
  const client = open(t, "/events?key=c1");
  const seen = keep();
  client.subscribe({ keys: ["c2"] }, seen);
  await until("live", () => seen.came.length === 1);
  await put({ key: "c1", data: 1 }, { key: "c2", data: 2 });
  await until("the event", () => seen.came.length === 2);
  assert.equal(seen.came[1], "c2 2");
  assert.deepEqual(client.errors, []);
});

test("what comes: id, type, time, bytes, the end of a key", async (t) => {
  const client = open(t, "/live");
  const events = [];
  const s = client.subscribe({ to: "/events", keys: ["d"] }, (e) => events.push(e));
  await until("live", () => s.live);
  await put({ key: "d", type: "x y", data: { n: [1, "ü"] } });
  await put({ key: "d", data: null, deleted: true });
  await until("the events", () => events.length === 2);
  const [e, end] = events;
  assert.match(e.id, /^\d+_[0-9a-v]+-/);
  assert.deepEqual([e.kind, e.key, e.type, e.data, e.deleted], ["event", "d", "x y", { n: [1, "ü"] }, false]);
  assert.ok(Math.abs(Date.parse(e.time) - Date.now()) < 86_400_000);
  assert.equal(end.deleted, true);
  assert.equal(s.id, end.id);
});

test("since an id, a time and the beginning", async (t) => {
  const client = open(t, "/live");
  await put({ key: "e", data: 1 }, { key: "e", data: 2 });
  const all = keep();
  let id = "";
  client.subscribe({ to: "/events", keys: ["e"], since: new Date(0) }, { ...all, event: (e) => { all.event(e); id ||= e.id; } });
  await until("all", () => all.came.length === 3);
  assert.deepEqual(all.came, ["e 1", "e 2", "live"]);
  const rest = keep();
  client.subscribe({ to: "/events", keys: ["e"], since: id }, rest);
  await until("the rest", () => rest.came.length === 2);
  assert.deepEqual(rest.came, ["e 2", "live"]);
});

test("latest, areas and their replacement", async (t) => {
  const client = open(t, "/live");
  await put({ key: "f1", data: { lat: 1, lon: 1 } }, { key: "f2", data: { lat: 5, lon: 5 } }, { key: "f1", data: { lat: 1, lon: 2 } });
  const seen = keep();
  const s = client.subscribe({ to: "/events", prefix: "f", since: "latest", area: { box: [0, 0, 3, 3] } }, seen);
  await until("live", () => s.live);
  assert.deepEqual(seen.came.splice(0), ['f1 {"lat":1,"lon":2}', "live"]);
  s.update({ area: { circle: { lat: 5, lon: 5, radius: 1000 } } });
  assert.equal(s.live, false);
  await until("live", () => s.live);
  assert.deepEqual(seen.came.splice(0).sort(), ["f1 left", 'f2 {"lat":5,"lon":5}', "live"]);
  await put({ key: "f2", data: { lat: 50, lon: 5 } });
  await until("it has left", () => seen.came.length === 1);
  assert.equal(seen.came[0], "f2 left");

  // An update that is asked for while there is no connection.
  await tell("/stop?how=cut");
  s.update({ area: { box: [0, 40, 10, 60] } });
  seen.came.length = 0;
  await tell("/start");
  await until("live", () => s.live);
  assert.deepEqual(seen.came, ["reset", 'f2 {"lat":50,"lon":5}', "live"]);
});

test("latest begins anew if it is cut before it is complete, and not afterwards", async (t) => {
  const keys = Array.from({ length: 4000 }, (_, i) => `g${i}`);
  await put(...keys.map((key) => ({ key, data: { text: key.repeat(30) } })));
  const way = await detour(t);
  const client = open(t, `${way.address}/live`);
  way.left = 200_000; // bytes of each connection
  const table = new Map();
  let resets = 0, twice = 0;
  const s = client.subscribe({ to: "/events", prefix: "g", since: "latest" }, {
    event: ({ key, data }) => { if (table.has(key)) twice++; table.set(key, data); },
    reset: () => { resets++; table.clear(); },
  });
  await until("it is cut", () => way.connections > 2);
  assert.equal(s.live, false);
  way.left = Infinity;
  way.cut();
  await until("live", () => s.live);
  assert.ok(resets > 0);
  assert.equal(table.size, keys.length);
  assert.equal(twice, 0);
  const before = resets;
  way.cut();
  await until("it is noticed", () => !s.live);
  await until("live", () => s.live);
  assert.equal(resets, before);
});

test("a loop over what comes, held up for longer than its buffer", async (t) => {
  const client = open(t, "/live");
  const s = client.subscribe({ to: "/events", prefix: "h", buffer: 50 });
  await until("live", () => s.live);
  const total = 2000;
  for (let n = 0; n < total; n += 100) await put(...Array.from({ length: 100 }, (_, i) => ({ key: `h${i % 7}`, data: n + i })));
  await pause(50);
  const next = {};
  let count = 0, waited = false;
  for await (const m of s) {
    if (m.kind !== "event") continue;
    assert.ok(m.data >= (next[m.key] ?? 0), `${m.key}: ${m.data} comes again`);
    next[m.key] = m.data + 1;
    if (++count === total) break;
    if (count % 500 === 0) { waited = true; await pause(30); }
  }
  assert.ok(waited);
  assert.equal(s.ended, true);
  await assert.rejects(async () => { for await (const _ of client.subscribe({ to: "/events" }, () => {})); }, { code: "invalid" });
});

test("a loop ends with its client, and throws what the gateway refuses", async (t) => {
  const client = open(t, "/live");
  await assert.rejects(async () => { for await (const _ of client.subscribe({ to: "/nowhere" })); }, { code: "not_found" });
  setTimeout(() => client.close(), 50);
  for await (const _ of client.subscribe({ to: "/events", keys: ["i"] }));
  assert.equal(client.state, "closed");
  assert.throws(() => client.subscribe({}), { code: "closed" });
});

test("what the gateway refuses", async (t) => {
  const client = open(t, "/live");
  const [wrong, denied, area, loud] = [keep(), keep(), keep(), keep()];
  const one = client.subscribe({ to: "/events", filter: "speed >" }, wrong);
  client.subscribe({ to: "/guarded" }, denied);
  const moved = client.subscribe({ to: "/events", area: { box: [0, 0, 1, 1] } }, area);
  client.subscribe({ to: "/events", prefix: "x".repeat(40_000) }, loud);
  client.subscribe({ to: "/nowhere" }, () => {});
  await until("the errors", () => one.ended && denied.came.length === 1 && moved.live && loud.came.length === 1 && client.errors.length === 1);
  assert.deepEqual([wrong.came, denied.came, loud.came], [["error invalid"], ["error denied"], ["error too_large"]]);
  assert.equal(client.errors[0].code, "not_found");
  moved.update({ area: { box: [1, 1, 0, -1] } });
  await until("the end", () => moved.ended);
  assert.deepEqual(area.came, ["live", "error invalid"]);
  assert.throws(() => client.subscribe({ to: "/events" }, {}).update({ area: { box: [0, 0, 1, 1] } }), { code: "invalid" });
  assert.equal(client.state, "open");
});

test("tokens", async (t) => {
  const fixed = open(t, "/guarded", { token: token(60) });
  const seen = keep();
  const s = fixed.subscribe({ keys: ["j"] }, seen);
  await until("live", () => s.live);

  // One that expires is replaced, and nothing is missed meanwhile.
  let asked = 0;
  const renewed = open(t, "/guarded", { getToken: async () => token(++asked === 1 ? 2 : 60) });
  const numbers = [];
  const codes = [];
  renewed.on("state", (_, { code }) => code && codes.push(code));
  const r = renewed.subscribe({ keys: ["j"] }, ({ data }) => numbers.push(data));
  await until("live", () => r.live);
  let driving = true;
  const driven = (async () => {
    for (let n = 0; driving; n++) {
      await put({ key: "j", data: n });
      await pause(20);
    }
  })();
  try {
    await until("it is live with the second token", () => asked === 2 && r.live);
  } finally {
    driving = false;
    await driven;
  }
  await put({ key: "j", data: -1 });
  await until("all", () => numbers.at(-1) === -1);
  numbers.pop();
  assert.deepEqual(numbers, numbers.map((_, i) => i));
  assert.deepEqual(codes, [4001]);
  assert.equal(asked, 2);

  for (const options of [{ token: token(-60) }, {}]) {
    const refused = open(t, "/guarded", options);
    const ended = refused.subscribe({}, {});
    await until("the end", () => refused.state === "closed");
    assert.equal(refused.errors.at(-1).code, "unauthorized");
    assert.equal(ended.ended, true);
  }
});

test("a way that goes silent is noticed", async (t) => {
  const way = await detour(t);
  const client = open(t, `${way.address}/live`);
  const seen = keep();
  const s = client.subscribe({ to: "/events", keys: ["k"] }, seen);
  await until("live", () => s.live);
  await pause(1500); // nothing happens, and the connection stays
  assert.equal(way.connections, 1);
  way.frozen = true;
  await put({ key: "k", data: 1 });
  const begun = performance.now();
  await until("it is noticed", () => client.state !== "open");
  const took = performance.now() - begun;
  assert.ok(took > 600 && took < 3000, `it took ${took} ms, with pings every 500`);
  way.frozen = false;
  await until("the event", () => seen.came.includes("k 1"));
});

test("restarts at random moments lose and repeat nothing", async (t) => {
  const client = open(t, "/live");
  const keys = Array.from({ length: 20 }, (_, i) => `l${i}`);
  const sent = new Map(keys.map((key) => [key, 0]));
  const subscriptions = [{ prefix: "l" }, { keys: keys.slice(0, 3) }, { prefix: "l", filter: "n % 2 == 0" }].map((wish) => {
    const books = { next: new Map(), lost: 0, repeated: 0, received: 0, gaps: 0, step: wish.filter ? 2 : 1 };
    books.subscription = client.subscribe({ to: "/events", ...wish }, {
      event({ key, data: { n } }) {
        const expected = books.next.get(key) ?? 0;
        if (n < expected) books.repeated++;
        if (n > expected) books.lost += (n - expected) / books.step;
        books.next.set(key, n + books.step);
        books.received++;
      },
      gap() { books.gaps++; },
    });
    return books;
  });
  await until("live", () => subscriptions.every(({ subscription }) => subscription.live));
  let driving = true;
  const driven = (async () => {
    while (driving) {
      await put(...Array.from({ length: 10 }, () => {
        const key = keys[Math.floor(Math.random() * keys.length)];
        const n = sent.get(key);
        sent.set(key, n + 1);
        return { key, data: { n } };
      }));
      await pause(1);
    }
  })();
  const codes = new Set();
  client.on("state", (state, { code }) => state === "waiting" && codes.add(code));
  for (let i = 0; i < 5; i++) {
    await pause(20 + 300 * Math.random());
    await tell(`/stop?how=${i % 2 ? "cut" : "drain"}`);
    await pause(100 * Math.random());
    await tell("/start");
    if (i < 3) await until("it is back", () => client.state === "open"); // the last ones come while it comes back
  }
  driving = false;
  await driven;
  for (const [key, n] of sent) await put({ key, data: { n } }, { key, data: { n: n + 1 } });
  await until("all", () => subscriptions.every((books) => [...books.next].every(([key, n]) => n >= sent.get(key) + 1)));
  await pause(50);
  for (const { lost, repeated, received, gaps } of subscriptions) {
    assert.deepEqual({ lost, repeated, gaps }, { lost: 0, repeated: 0, gaps: 0 });
    assert.ok(received > 100, `only ${received} came`);
  }
  assert.ok(codes.has(1012) && codes.has(1006), `the connections ended with ${[...codes]}`);
});

test("a gap is said", async (t) => {
  await put({ key: "m", data: 1 });
  const client = open(t, "/live");
  const seen = keep();
  const s = client.subscribe({ to: "/events", keys: ["m"] }, seen);
  await until("live", () => s.live);
  await put({ key: "m", data: 2 });
  await until("the event", () => seen.came.length === 2);
  await tell("/stop?how=cut");
  await put({ key: "m", data: 3 });
  await tell("/trim");
  await put({ key: "m", data: 4 });
  await tell("/start");
  await until("the end", () => seen.came.includes("m 4") && s.live);
  assert.deepEqual(seen.came, ["live", "m 2", "gap trimmed", "m 4", "live"]);
});
