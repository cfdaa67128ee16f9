// Shows what `events` say, and nothing else. All text goes in as text, never as markup.
"use strict";

const AGAIN_MS = 5000;
const SILENT_MS = 10000;
const MOST_POINTS = 180;

// Okabe and Ito's colours, which everybody can tell apart; the legend and each chart name them as well.
const COLOURS = {
  queue: "#e69f00", transform: "#d55e00", read: "#56b4e9", storage: "#0072b2", assemble: "#009e73", send: "#cc79a7",
  receive: "#f0e442", loader: "#000000", deferred: "#999999", device: "#ffffff",
};

const at = (id) => document.getElementById(id);
const points = [];
let latest = null;
let last = "";
let source = null;
let silence = 0;
let sorted = "rank";

function made(name, text, attributes = {}) {
  const svg = ["svg", "polygon", "polyline", "rect", "title"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const share = (part) => `${(100 * part).toFixed(1)} %`;
const many = (count) => Math.round(count).toLocaleString("en");
function size(count) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 999.95) return `${count.toFixed(unit === "B" ? 0 : 1)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}
function duration(seconds) {
  if (seconds === null) return "";
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  return `${Math.floor(seconds / 3600)}:${two((seconds / 60) % 60)}:${two(seconds % 60)}`;
}

// ---- charts: x is time, the newest at the right; y from 0 to the top ----

function chart(title, top, layers, stacked) {
  const figure = made("figure");
  figure.append(made("figcaption", title));
  const svg = made("svg", null, { viewBox: "0 0 180 100", preserveAspectRatio: "none", role: "img" });
  svg.append(made("title", title));
  const count = Math.max(...layers.map((layer) => layer.values.length), 0);
  const x = (index) => MOST_POINTS - count + index;
  const y = (value) => 100 - 100 * Math.min(value / (top || 1), 1);
  const below = new Array(count).fill(0);
  for (const layer of layers) {
    if (!stacked) {
      svg.append(made("polyline", null, { points: layer.values.map((v, i) => `${x(i)},${y(v)}`).join(" ") }));
      continue;
    }
    const upper = layer.values.map((value, index) => below[index] + value);
    const line = upper.map((v, i) => `${x(i)},${y(v)}`);
    const back = below.map((v, i) => `${x(i)},${y(v)}`).reverse();
    const area = made("polygon", null, { points: [...line, ...back].join(" "), fill: COLOURS[layer.name] || "#777" });
    area.append(made("title", layer.name));
    svg.append(area);
    upper.forEach((value, index) => { below[index] = value; });
  }
  figure.append(svg);
  return figure;
}

function drawHistory(stages) {
  const legend = stages.map((stage) => {
    const item = made("li");
    const box = made("i");
    box.style.background = COLOURS[stage] || "#777";
    item.append(box, stage);
    return item;
  });
  at("legend").replaceChildren(...legend);
  const names = [...new Set(points.flatMap((point) => Object.keys(point.waits)))].sort();
  at("waits").replaceChildren(...names.map((name) => {
    const layers = stages.map((stage, index) => ({
      name: stage, values: points.map((point) => (point.waits[name] || [])[index] || 0),
    }));
    const last = points[points.length - 1].waits[name] || [];
    return chart(`${name}: ${share(Math.min(last.reduce((sum, part) => sum + part, 0), 1))} now`, 1, layers, true);
  }));
  const values = (key) => points.map((point) => point[key]);
  const line = (title, key, top) => chart(title, top, [{ name: key, values: values(key) }], false);
  const now = points[points.length - 1];
  const most = Math.max(...values("bytes_per_s"), 1);
  at("charts").replaceChildren(
    line(`sent: ${size(now.bytes_per_s)}/s (top: ${size(most)}/s)`, "bytes_per_s", most),
    line(`workers busy: ${share(now.busy)}`, "busy", 1),
    line(`memory lent to batches: ${share(now.arena)}`, "arena", 1),
  );
}

// ---- tables ----

const COLUMNS = ["trainer", "rank", "epoch", "left_s", "samples_per_s", "waiting_share", "lane"];
const WORDS = { left_s: "left", samples_per_s: "samples/s", waiting_share: "waits" };
const SORTABLE = ["rank", "samples_per_s", "waiting_share"];

// Made once: the keyboard's focus is on one of its buttons.
function head() {
  const row = made("tr");
  for (const column of COLUMNS) {
    const words = WORDS[column] || column;
    const cell = made("th", SORTABLE.includes(column) ? null : words, { scope: "col" });
    if (SORTABLE.includes(column)) {
      const button = made("button", words, { type: "button" });
      button.onclick = () => { sorted = column; drawTrainers(latest.trainers); };
      cell.append(button);
      cell.dataset.column = column;
    }
    row.append(cell);
  }
  return row;
}

function drawTrainers(trainers) {
  const table = at("trainers");
  if (table.tHead === null) {
    table.append(made("thead"), made("tbody"));
    table.tHead.append(head());
  }
  for (const cell of table.tHead.querySelectorAll("[data-column]")) {
    const column = cell.dataset.column;
    cell.setAttribute("aria-sort", sorted !== column ? "none" : column === "rank" ? "ascending" : "descending");
  }
  const order = (one, other) => (sorted === "rank" ? one.rank - other.rank : other[sorted] - one[sorted]);
  const rows = [...trainers].sort(order).map((one) => {
    const row = made("tr");
    const [stage] = Object.entries(one.waits).sort((a, b) => b[1] - a[1])[0] || [""];
    const place = made("td", `${one.epoch} `);
    if (one.steps) {
      place.append(made("progress", null, { max: one.steps, value: one.step + 1, "aria-label": "of the epoch" }));
      place.append(` ${many(one.step + 1)} of ${many(one.steps)}`);
    }
    row.append(
      made("td", `${one.dataset}/${one.view}`), made("td", `${one.rank} of ${one.world}`), place,
      made("td", duration(one.left_s)), made("td", many(one.samples_per_s)),
      made("td", `${share(one.waiting_share)} ${stage && "for "}${stage}`), made("td", one.lane),
    );
    return row;
  });
  table.tBodies[0].replaceChildren(...rows);
}

function drawLoader(one) {
  at("loader").textContent = `loader ${one.replica}, feedline ${one.version}: ${one.state}`;
  const values = {
    workers: `${many(one.workers)}, ${share(one.busy)} of their time busy`,
    "workers that died": many(one.worker_deaths),
    "a worker's time for a batch": `${(1000 * one.batch_s).toFixed(1)} ms`,
    memory: `${size(one.arena_lent)} of ${size(one.arena_bytes)} lent to batches`,
    "batches sent": many(one.batches),
    "bad samples": many(one.bad_samples),
    trainers: many(one.trainers),
  };
  at("counters").replaceChildren(...Object.entries(values).map(([name, text]) => {
    const row = made("tr");
    row.append(made("th", name, { scope: "row" }), made("td", text));
    return row;
  }));
}

// What is shown of bad samples, by list and id. Asked for once: it does not change.
const evidence = new Map();

function drawLists(found) {
  const listed = [
    ...found.bad_samples.map((one) => `bad ${one.evidence}`), ...found.errors.map((one) => `errors ${one.evidence}`),
  ];
  for (const key of evidence.keys()) if (!listed.includes(key)) evidence.delete(key);
  drawList("errors", found.errors);
  drawList("bad", found.bad_samples);
  showEvidence();
}

function drawList(id, lines) {
  const items = lines.map((one) => {
    const item = made("li", `${one.ago_s} s ago, ${one.dataset}: ${one.message}`);
    const key = `${id} ${one.evidence}`;
    if (one.evidence && !evidence.has(key)) evidence.set(key, made("div"));
    if (one.evidence) item.append(evidence.get(key));
    else if (one.why_none) item.append(made("p", one.why_none, { class: "note" }));
    return item;
  });
  at(id).replaceChildren(...(items.length ? items : [made("li", "none")]));
}

// One after the other, the newest first: it is in no hurry.
let isAsking = false;
async function showEvidence() {
  if (isAsking) return;
  isAsking = true;
  try {
    for (const [key, place] of [...evidence]) {
      if (place.childElementCount || !evidence.has(key)) continue;
      const id = key.split(" ")[1];
      const answer = await fetch(`sample.json?${new URLSearchParams({ id })}`);
      const shown = answer.ok ? await answer.json() : { title: await answer.text(), columns: [] };
      place.replaceChildren(made("p", shown.title, { class: "note" }), ...shown.columns.map(drawColumn));
    }
  } catch (error) { /* it does not answer, and is asked again */ }
  isAsking = false;
}

function draw(found) {
  at("verdicts").replaceChildren(...found.verdicts.map((one) => {
    const line = made("p");
    if (one.training) line.append(made("b", one.training));
    line.append(one.sentence);
    return line;
  }));
  drawTrainers(found.trainers);
  drawLoader(found.loaders[0]);
  drawLists(found);
  const views = found.views;
  if (at("view").options.length !== views.length) {
    at("view").replaceChildren(...views.map((name) => made("option", name, { value: name })));
  }
}

// ---- a batch ----

function picture(image) {
  const [height, width, channels] = image.shape;
  const bytes = Uint8Array.from(atob(image.data), (letter) => letter.charCodeAt(0));
  const canvas = made("canvas", null, { width, height, role: "img", "aria-label": `row ${image.row}` });
  const pixels = new ImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      pixels.data[4 * pixel + channel] = bytes[pixel * channels + (channels < 3 ? 0 : channel)];
    }
    pixels.data[4 * pixel + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function drawColumn(column) {
  const figure = made("figure");
  figure.append(made("figcaption", `${column.name} ${column.dtype} (${column.shape.join(", ")}): ${column.summary}`));
  if (column.images.length) figure.append(...column.images.map(picture));
  else if (column.histogram.length) {
    const svg = made("svg", null, { viewBox: `0 0 ${column.histogram.length} 100`, preserveAspectRatio: "none", role: "img" });
    const most = Math.max(...column.histogram);
    svg.append(made("title", `histogram of ${column.name}`));
    column.histogram.forEach((count, index) => {
      const height = (100 * count) / most;
      svg.append(made("rect", null, { x: index, y: 100 - height, width: 0.9, height, fill: COLOURS.storage }));
    });
    figure.append(svg);
  } else if (column.values) figure.append(made("code", column.values));
  return figure;
}

async function showBatch(event) {
  event.preventDefault();
  const query = new URLSearchParams({ view: at("view").value, offset: at("offset").value });
  const answer = await fetch(`batch.json?${query}`);
  const found = answer.ok ? await answer.json() : { title: await answer.text(), columns: [] };
  at("batch").replaceChildren(made("p", found.title), ...found.columns.map(drawColumn));
}

// ---- told by the loader ----

function hear(event) {
  last = event.lastEventId;
  const found = JSON.parse(event.data);
  if (!found.goes_on) points.length = 0;
  latest = found.now;
  draw(found.now);
  if (found.points.length) {
    points.push(...found.points);
    points.splice(0, Math.max(points.length - MOST_POINTS, 0));
    drawHistory(found.stages);
  }
  at("state").textContent = `as of ${new Date().toLocaleTimeString()}`;
  document.body.dataset.ready = "yes";
  clearTimeout(silence);
  silence = setTimeout(() => listen("the loader says nothing"), SILENT_MS);
}

// A hidden page keeps no place at the loader, of which there are some.
function listen(problem) {
  if (problem) at("state").textContent = `${problem}; what is shown is of before`;
  if (source) source.close();
  source = null;
  clearTimeout(silence);
  if (document.hidden) return;
  source = new EventSource(`events?last=${encodeURIComponent(last)}`);
  source.onmessage = hear;
  source.onerror = () => lost();
  silence = setTimeout(() => listen("the loader says nothing"), SILENT_MS);
}

// Why it is refused is not told to an EventSource; it is to who asks like this.
async function lost() {
  if (source) source.close();
  source = null;
  clearTimeout(silence);
  let problem = "the loader does not answer";
  try {
    const answer = await fetch(`events?last=${encodeURIComponent(last)}`);
    if (!answer.ok) problem = await answer.text();
    else await answer.body.cancel();
  } catch (error) { /* it does not answer */ }
  at("state").textContent = `${problem}; what is shown is of before`;
  silence = setTimeout(listen, AGAIN_MS);
}

at("ask").onsubmit = showBatch;
document.addEventListener("visibilitychange", () => listen());
listen();
