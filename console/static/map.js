// The live map: draws what /map/setup.json describes and moves it by what two subscriptions say.

import { View } from "/map/view.js";
import { subscribe } from "/map/subscribe.js";

const by = (id) => document.getElementById(id);
const kept = 40; // crossings in the list

const setup = await (await fetch("/map/setup.json")).json();
document.title = setup.title;
by("title").textContent = setup.title;

const view = new View(by("map"), setup, select);
const feeds = [];
let selected = "";

function pick(object, path) {
  return path.split(".").reduce((value, name) => value?.[name], object);
}

function moved(event) {
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
  connect();
}

function connect() {
  for (const feed of feeds.splice(0)) feed.close();
  const address = (path, parameter) =>
    selected ? `${path}?${new URLSearchParams({ [parameter]: selected })}` : path;
  if (setup.positions) {
    feeds.push(subscribe(address(setup.positions, setup.positionsParameter), { event: moved, state: showState, gap: gap("positions") }));
  }
  if (setup.crossings) {
    feeds.push(subscribe(address(setup.crossings, setup.crossingsParameter), { event: crossed, gap: gap("crossings") }));
  }
}

function showState(state) {
  by("status").dataset.state = state;
  by("status").textContent = state;
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

connect();
count();
