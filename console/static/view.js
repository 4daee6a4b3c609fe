// The drawing: streets, fences and what moves, on one canvas, in metres scaled to fit.

const flashFor = 1600; // ms
const forgetAfter = 60_000; // ms without a report
const trailLength = 240; // points
const hues = { ground: "#10151c", street: "#1e2731", avenue: "#2c3947", fence: "#5b7288", enter: "#5ad19a", exit: "#f2a65a", thing: "#8fc7ff", chosen: "#ffffff" };

export class View {
  #canvas; #context; #streets; #fences; #things = new Map();
  #followed = ""; #trail = []; #box = null; #dirtyBox = true; #scale = 1;

  constructor(canvas, setup, onSelect) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#streets = (setup.streets?.features ?? []).map((f) => ({ kind: f.properties.kind, lines: f.geometry.coordinates }));
    this.#fences = (setup.fences?.features ?? []).map((f, i) => ({
      id: String(f.id ?? f.properties?.name ?? i),
      name: f.properties?.name ?? String(f.id ?? i),
      polygons: polygonsOf(f.geometry),
      flash: 0, transition: "",
    }));
    for (const s of this.#streets) for (const line of s.lines) for (const p of line) this.#include(p[1], p[0]);
    for (const f of this.#fences) for (const p of f.polygons.flat(2)) this.#include(p[1], p[0]);
    new ResizeObserver(() => this.#resize()).observe(canvas);
    canvas.addEventListener("click", (e) => onSelect(this.#at(e.offsetX, e.offsetY)));
    requestAnimationFrame(() => this.#draw());
  }

  // move takes a report: a thing glides to where it is over the time between its last two reports.
  move(key, lat, lon) {
    const now = performance.now();
    const thing = this.#things.get(key);
    if (!this.#streets.length) this.#include(lat, lon);
    if (thing) {
      const here = glide(thing, now);
      this.#things.set(key, { from: here, to: [lat, lon], at: now, span: Math.min(2000, now - thing.at) });
    } else {
      this.#things.set(key, { from: [lat, lon], to: [lat, lon], at: now, span: 1 });
    }
    if (key === this.#followed) {
      this.#trail.push([lat, lon]);
      if (this.#trail.length > trailLength) this.#trail.shift();
    }
  }

  remove(key) {
    this.#things.delete(key);
  }

  clear() {
    this.#things.clear();
  }

  flash(fence, transition) {
    const f = this.#fences.find((f) => f.id === fence);
    if (f) Object.assign(f, { flash: performance.now() + flashFor, transition });
  }

  follow(key) {
    this.#followed = key;
    this.#trail = [];
    const thing = this.#things.get(key);
    this.#things.clear();
    if (thing) this.#things.set(key, thing);
  }

  #include(lat, lon) {
    const b = this.#box ??= { south: lat, north: lat, west: lon, east: lon };
    if (lat < b.south) b.south = lat; else if (lat > b.north) b.north = lat; else if (lon >= b.west && lon <= b.east) return;
    if (lon < b.west) b.west = lon; if (lon > b.east) b.east = lon;
    this.#dirtyBox = true;
  }

  #resize() {
    const ratio = devicePixelRatio || 1;
    this.#canvas.width = this.#canvas.clientWidth * ratio;
    this.#canvas.height = this.#canvas.clientHeight * ratio;
    this.#context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#dirtyBox = true;
  }

  #fit() {
    if (!this.#dirtyBox || !this.#box) return;
    const { south, north, west, east } = this.#box;
    this.squeeze = Math.cos(((south + north) / 2) * Math.PI / 180) || 1;
    const width = Math.max((east - west) * this.squeeze, 1e-4);
    const height = Math.max(north - south, 1e-4);
    this.#scale = 0.94 * Math.min(this.#canvas.clientWidth / width, this.#canvas.clientHeight / height);
    this.#dirtyBox = false;
  }

  #xy(lat, lon) {
    const { south, north, west, east } = this.#box;
    return [
      this.#canvas.clientWidth / 2 + (lon - (west + east) / 2) * this.squeeze * this.#scale,
      this.#canvas.clientHeight / 2 - (lat - (south + north) / 2) * this.#scale,
    ];
  }

  #at(x, y) {
    const now = performance.now();
    let best = "", nearest = 14; // pixels
    for (const [key, thing] of this.#things) {
      const [tx, ty] = this.#xy(...glide(thing, now));
      const d = Math.hypot(tx - x, ty - y);
      if (d < nearest) [best, nearest] = [key, d];
    }
    return best;
  }

  #path(points, latFirst) {
    points.forEach((p, i) => {
      const [x, y] = latFirst ? this.#xy(p[0], p[1]) : this.#xy(p[1], p[0]);
      if (i) this.#context.lineTo(x, y); else this.#context.moveTo(x, y);
    });
  }

  #draw() {
    requestAnimationFrame(() => this.#draw());
    const c = this.#context;
    c.fillStyle = hues.ground;
    c.fillRect(0, 0, this.#canvas.clientWidth, this.#canvas.clientHeight);
    if (!this.#box) return;
    this.#fit();
    const now = performance.now();

    for (const s of this.#streets) {
      c.beginPath();
      for (const line of s.lines) this.#path(line);
      c.strokeStyle = s.kind === "avenue" ? hues.avenue : hues.street;
      c.lineWidth = s.kind === "avenue" ? 5 : 3;
      c.lineCap = "round";
      c.stroke();
    }

    c.font = "12px system-ui, sans-serif";
    c.textAlign = "center";
    for (const f of this.#fences) {
      const left = Math.max(0, (f.flash - now) / flashFor);
      const hue = left > 0 ? hues[f.transition] ?? hues.enter : hues.fence;
      c.beginPath();
      for (const polygon of f.polygons) for (const ring of polygon) this.#path(ring);
      c.globalAlpha = 0.12 + 0.5 * left;
      c.fillStyle = hue;
      c.fill("evenodd");
      c.globalAlpha = 0.6 + 0.4 * left;
      c.strokeStyle = hue;
      c.lineWidth = 1 + 2 * left;
      c.stroke();
      c.globalAlpha = 0.85;
      c.fillStyle = left > 0 ? hue : "#9db0c2";
      const top = f.polygons[0][0].reduce((a, p) => (p[1] > a[1] ? p : a));
      const [x, y] = this.#xy(top[1], top[0]);
      c.fillText(f.name, x, y - 6);
      c.globalAlpha = 1;
    }

    if (this.#trail.length > 1) {
      c.beginPath();
      this.#path(this.#trail, true);
      c.strokeStyle = hues.thing;
      c.globalAlpha = 0.5;
      c.lineWidth = 2;
      c.stroke();
      c.globalAlpha = 1;
    }

    for (const [key, thing] of this.#things) {
      if (now - thing.at > forgetAfter) {
        this.#things.delete(key);
        continue;
      }
      const [x, y] = this.#xy(...glide(thing, now));
      const chosen = key === this.#followed;
      c.beginPath();
      c.arc(x, y, chosen ? 7 : 4, 0, 2 * Math.PI);
      c.fillStyle = chosen ? hues.chosen : hues.thing;
      c.fill();
    }
  }
}

function glide({ from, to, at, span }, now) {
  const part = Math.min(1, (now - at) / span);
  return [from[0] + (to[0] - from[0]) * part, from[1] + (to[1] - from[1]) * part];
}

function polygonsOf(geometry) {
  switch (geometry?.type) {
    case "Polygon": return [geometry.coordinates];
    case "MultiPolygon": return geometry.coordinates;
    default: return [];
  }
}
