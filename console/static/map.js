// The live map: draws what /map/setup.json describes and moves it by what two subscriptions say.

import { Ledger } from "/map/ledger.js";
import { connect } from "/map/sdk/index.js";
import { View } from "/map/view.js";

const by = (id) => document.getElementById(id);
const kept = 40; // crossings in the list

const setup = await (await fetch("/map/setup.json")).json();
document.title = setup.title;
by("title").textContent = setup.title;

const view = new View(by("map"), setup, select);
const client = setup.connect ? connect(setup.connect) : null;
const ledger = new Ledger(setup.demo?.number);
let subscriptions = [];
let selected = "";

function pick(object, path) {
  return path.split(".").reduce((value, name) => value?.[name], object);
}

function moved(event) {
  ledger.enter(event);
  if (event.deleted) {
    view.remove(event.key);
    return;
  }
  const lat = Number(pick(event.data, setup.lat));
  const lon = Number(pick(event.data, setup.lon));
  if (Number.isFinite(lat) && Number.isFinite(lon)) view.move(event.key, lat, lon);
  if (event.key === selected && event.data) showFields(event.data);
}

function crossed({ data }) {
  if (!data) return;
  view.flash(data.fence, data.transition);
  const item = document.createElement("li");
  item.className = data.transition === "enter" ? "enter" : "exit";
  const time = document.createElement("time");
  time.dateTime = data.time;
  time.textContent = new Date(data.time).toLocaleTimeString();
  const verb = data.transition === "enter" ? "enters" : "leaves";
  item.append(time, `${data.key} ${verb} ${data.properties?.name ?? data.fence}`);
  list(item);
}

function list(item) {
  by("crossings").prepend(item);
  while (by("crossings").children.length > kept) by("crossings").lastChild.remove();
}

function gap(where) {
  return (g) => {
    const item = document.createElement("li");
    item.className = "gap";
    item.textContent = `${where}: events are missing (${g.reason})`;
    list(item);
  };
}

function showFields(data) {
  by("fields").replaceChildren(...Object.entries(data).filter(([, v]) => typeof v !== "object").flatMap(([name, value]) => {
    const dt = document.createElement("dt");
    const dd = document.createElement("dd");
    dt.textContent = name;
    dd.textContent = String(value);
    return [dt, dd];
  }));
}

// Selecting a key subscribes to that key alone: the server sends nothing else.
function select(key) {
  selected = key;
  view.follow(key);
  by("selected").hidden = !key;
  by("selected-key").textContent = key;
  by("fields").replaceChildren();
  by("crossings").replaceChildren();
  subscribe();
}

function subscribe() {
  for (const s of subscriptions) s.unsubscribe();
  const keys = selected ? [selected] : undefined;
  const since = setup.latest ? "latest" : undefined;
  ledger.begin();
  subscriptions = [
    setup.positions && client.subscribe({ to: setup.positions, keys, since }, { event: moved, gap: gap("positions"), reset }),
    setup.crossings && client.subscribe({ to: setup.crossings, keys }, { event: crossed, gap: gap("crossings") }),
  ].filter(Boolean);
}

// The newest event of each key comes again, for those that are still there.
function reset() {
  ledger.begin();
  view.clear();
}

const shown = { open: "live", waiting: "reconnecting", closed: "closed" };
client?.on("state", (state) => {
  if (!shown[state]) return; // one more try
  by("status").dataset.state = shown[state];
  by("status").textContent = shown[state];
  if (state === "open") showKills();
});

// What shows that nothing is lost when the program dies.
function showLedger() {
  for (const name of ["received", "lost", "repeated"]) by(name).textContent = ledger[name].toLocaleString("en");
  for (const name of ["lost", "repeated"]) by(name).classList.toggle("wrong", ledger[name] > 0);
}

async function showKills() {
  if (!setup.demo) return;
  try {
    const { kills } = await (await fetch(setup.demo.kills)).json();
    by("kills").textContent = String(kills);
    by("kill").disabled = false;
    by("killed").textContent = kills ? "It is back, and this page has gone on where it was." : "";
  } catch {
    // Killed again; the next connection asks.
  }
}

async function kill() {
  by("kill").disabled = true;
  by("killed").textContent = "Killed. Nobody could say goodbye.";
  try {
    const response = await fetch(setup.demo.kill, { method: "POST" });
    if (!response.ok) by("killed").textContent = await response.text();
  } catch {
    // Nor could it answer.
  }
}

if (setup.demo) {
  by("demo").hidden = false;
  by("kill").addEventListener("click", kill);
  setInterval(showLedger, 200);
}

by("clear").addEventListener("click", () => select(""));
by("map").addEventListener("keydown", (e) => { if (e.key === "Escape") select(""); });

const cells = setup.counters.map(({ name }) => {
  const box = document.createElement("div");
  const dt = document.createElement("dt");
  const dd = document.createElement("dd");
  dt.textContent = name;
  dd.textContent = "0";
  box.append(dt, dd);
  by("counters").append(box);
  return dd;
});

async function count() {
  try {
    const values = await (await fetch("/map/counters")).json();
    values.forEach((value, i) => { cells[i].textContent = value.toLocaleString("en"); });
  } catch {
    // The status line says that the connection is gone.
  }
  setTimeout(count, 1000);
}

if (client) subscribe();
count();
