// The live explorer, part 3 of 4: the DOM, made once, and the two curves, redrawn on a new payload or width.

const SVG = "http://www.w3.org/2000/svg";

function element(tag, className, parent, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}

function shape(tag, attributes, parent) {
  const node = document.createElementNS(SVG, tag);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (parent) parent.appendChild(node);
  return node;
}

function build(root) {
  const box = element("div", "tda");
  const bar = element("div", "bar", box);
  const presets = element("div", "presets", bar);
  presets.setAttribute("role", "group");
  presets.setAttribute("aria-label", "Set λ to");
  const label = element("label", "number", bar, "λ");
  const number = element("input", "", label);
  number.type = "text";
  number.inputMode = "decimal";
  number.setAttribute("aria-label", "λ, type a value");
  const readout = element("div", "readout", bar);
  const kind = element("div", "kind", box);
  const scrub = element("div", "scrub", box);
  const plots = element("div", "plots", scrub);
  const track = element("div", "track", scrub);
  const slider = element("input", "slider", track);
  Object.assign(slider, { type: "range", min: 0, max: STEPS, step: 1 });
  slider.setAttribute("aria-label", "Regularization λ");
  const axis = shape("svg", { class: "axis", "aria-hidden": "true" }, scrub);
  const layers = element("div", "layers", box);
  const problem = element("div", "problem", box);
  problem.setAttribute("role", "status");
  const sides = element("div", "sides", box);
  const side = (name, title, explains) => {
    const section = element("section", `side ${name}`, sides);
    const head = element("header", "", section);
    element("h3", "", head, title);
    element("span", "", head, explains);
    const grid = element("div", "grid", section);
    grid.setAttribute("role", "list");
    grid.setAttribute("aria-label", `${title} training examples`);
    return { grid, cards: new Map(), free: [], sign: name === "helpful" ? 1 : -1 };
  };
  const helpful = side("helpful", "Helpful", "raise this prediction's goodness");
  const harmful = side("harmful", "Harmful", "lower it");
  const note = element("div", "note", box);
  const live = element("div", "live", box);
  live.setAttribute("aria-live", "polite");
  root.appendChild(box);
  return { box, presets, number, readout, kind, scrub, plots, slider, axis, layers, problem, helpful, harmful, note, live };
}

function buildCard(grid) {
  const card = element("div", "card", grid);
  card.setAttribute("role", "listitem");
  const top = element("div", "top", card);
  const rank = element("span", "rank", top);
  const mark = element("span", "verdict", top);
  const picture = element("div", "picture", card);
  picture.setAttribute("role", "img");
  const label = element("div", "label", card);
  const score = element("div", "score", card);
  const interval = element("div", "interval", card);
  const bar = element("div", "fill", element("div", "gauge", card));
  return { card, rank, mark, picture, label, score, interval, bar, shown: -1, slot: -1, text: "" };
}

// The lowest and highest rank over training seeds at the nearest λ of the grid, counted from the side's own end.
function drawInterval(self, side, card, index) {
  if (self.rankRow < 0) {
    if (card.interval.textContent) card.interval.textContent = "";
    return;
  }
  const { numbers, cards, numTrain, numSeeds } = self.payload;
  const at = 2 * (self.rankRow * cards.length + index);
  const [low, high] = [numbers.ranks.values[at], numbers.ranks.values[at + 1]];
  const [first, last] = side.sign > 0 ? [low, high] : [numTrain + 1 - high, numTrain + 1 - low];
  const text = first === last ? `seeds ${first}` : `seeds ${first}–${last}`;
  if (card.interval.textContent === text) return;
  card.interval.textContent = text;
  card.interval.title = `Over ${numSeeds} training seeds its rank among all ${numTrain} training examples, from this side's end, is ${first} to ${last}`;
}

function fill(self, card, index) {
  const { sprite, cards, queryLabel } = self.payload;
  const item = cards[index];
  if (card.shown === item.position && card.key === self.payload.key) return;
  card.shown = item.position;
  card.key = self.payload.key;
  card.card.dataset.position = item.position;
  card.card.title = item.alt;
  if (sprite) {
    const column = index % sprite.columns, row = Math.floor(index / sprite.columns);
    const rows = Math.ceil(cards.length / sprite.columns);
    card.picture.style.backgroundSize = `${sprite.columns * 100}% ${rows * 100}%`;
    card.picture.style.backgroundPosition = `${sprite.columns > 1 ? (100 * column) / (sprite.columns - 1) : 0}% ${rows > 1 ? (100 * row) / (rows - 1) : 0}%`;
  } else card.picture.textContent = item.text;
  card.picture.setAttribute("aria-label", item.alt);
  const same = item.class !== "" && item.class === queryLabel;
  card.card.classList.toggle("same", same);
  card.card.classList.toggle("wrong", item.right === false);
  card.mark.textContent = item.right === false ? "✗" : item.right === true ? "✓" : "";
  card.mark.title = item.right === false ? "the model gets this one wrong" : "the model gets this one right";
  card.label.textContent = item.label;
}

function drawStrips(self) {
  const { plots, axis } = self.view;
  const { payload } = self;
  const inner = self.width - self.left - self.right;
  const x = (lambda) => self.left + fractionOf(lambda, self.axis) * inner;
  plots.replaceChildren();
  self.strips = [];
  const strip = (name, curve, options) => {
    const height = self.width < 520 ? 92 : 112;
    const svg = shape("svg", { class: `strip ${name}`, width: self.width, height, role: "img", "aria-label": options.alt }, plots);
    const y = (value) => height - 8 - ((value - options.low) / (options.high - options.low)) * (height - 26);
    for (const tick of options.ticks) {
      shape("line", { class: "gridline", x1: self.left, x2: self.width - self.right, y1: y(tick), y2: y(tick) }, svg);
      shape("text", { class: "tick", x: self.left - 6, y: y(tick) + 3.5, "text-anchor": "end" }, svg).textContent = signed(tick, 1);
    }
    shape("text", { class: "title", x: self.left, y: 11 }, svg).textContent = self.width < 520 ? options.brief : options.title;
    const points = curve.x.map((value, i) => ({ value, i })).filter((p) => p.value > 0);
    const line = (ys, rows = points) => rows.map((p, k) => `${k ? "L" : "M"}${x(p.value).toFixed(1)},${y(ys[p.i]).toFixed(1)}`).join("");
    const zero = curve.x[0] === 0;
    if (curve.low) {
      shape("path", { class: "band", d: `${line(curve.high)}${line(curve.low, [...points].reverse()).replace("M", "L")}Z` }, svg);
      if (zero) shape("line", { class: "whisker", x1: x(0), x2: x(0), y1: y(curve.low[0]), y2: y(curve.high[0]) }, svg);
    }
    for (const mark of options.marks) shape("line", { class: `mark ${mark.kind}`, x1: x(mark.value), x2: x(mark.value), y1: 16, y2: height - 8 }, svg);
    if (options.level) shape("line", { class: "level", x1: self.left, x2: self.width - self.right, y1: y(options.level), y2: y(options.level) }, svg);
    if (curve.query) {
      shape("path", { class: "own", d: line(curve.query) }, svg);
      if (zero) shape("circle", { class: "own-dot", cx: x(0), cy: y(curve.query[0]), r: 3 }, svg);
    }
    shape("path", { class: "mean", d: line(curve.mean) }, svg);
    if (zero) shape("circle", { class: "mean-dot", cx: x(0), cy: y(curve.mean[0]), r: 3 }, svg);
    const cursor = shape("g", { class: "cursor" }, svg);
    shape("line", { x1: 0, x2: 0, y1: 14, y2: height - 6 }, cursor);
    const dot = shape("circle", { cx: 0, r: 4.5 }, cursor);
    self.strips.push({ cursor, dot, y, curve });
  };
  const marks = payload.presets.filter((p) => p.value > 0);
  if (payload.lds) {
    const values = [...payload.lds.high, ...(payload.lds.query || []), ...payload.lds.low].filter(Number.isFinite);
    const low = Math.min(0, Math.floor(Math.min(...values) * 5) / 5);
    const high = Math.max(0.2, Math.ceil(Math.max(...values) * 5) / 5);
    const step = high - low > 1 ? 0.4 : 0.2;
    const ticks = [];
    for (let t = Math.ceil(low / step) * step; t <= high + 1e-9; t += step) ticks.push(Math.abs(t) < 1e-9 ? 0 : t);
    strip("lds", payload.lds, { low, high, ticks, marks, title: payload.lds.title, brief: payload.lds.brief, alt: payload.lds.alt });
  }
  if (payload.xi) strip("xi", payload.xi, { low: 0, high: 1, ticks: [0, 0.5, 1], level: payload.xi.threshold, marks, title: payload.xi.title, brief: payload.xi.brief, alt: payload.xi.alt });

  axis.replaceChildren();
  axis.setAttribute("width", self.width);
  axis.setAttribute("height", 30);
  const put = (at, text) => {
    shape("line", { x1: at, x2: at, y1: 0, y2: 5 }, axis);
    shape("text", { x: at, y: 17, "text-anchor": "middle" }, axis).textContent = text;
  };
  put(self.left, "0");
  const every = self.width < 520 ? 2 : 1;
  for (let power = Math.ceil(self.axis.low) + every - 1; power <= self.axis.high; power += every) put(x(10 ** power), powerOfTen(power));
  shape("text", { class: "title", x: self.width - self.right, y: 29, "text-anchor": "end" }, axis).textContent = payload.lambdaTitle;
}
