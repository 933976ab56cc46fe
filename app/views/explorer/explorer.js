// The live explorer: one query's training examples re-ranked while λ moves, entirely in the browser.
//
//   explorer(root, payload, onRest) → stop()
//
// The scores of the candidates are  s = B·φ(σ; λ)  with the method's filter φ, the formula of the Python side. Calling
// it again on the same root updates what is there: DOM nodes are made once and reused, every frame writes only
// transforms, text and one background-position per card.
// All text from the data enters by textContent; nothing is parsed as HTML.
// Part 4 of 4: state and frames; numbers.js, filters.js and view.js stand before it.

const GAP = 8; // pixels between cards
const instances = new WeakMap();
let remembered = { sequence: null, lambda: 0 }; // survives a re-mount of the element within one page load

function create(root) {
  const view = build(root);
  const self = { view, lambda: 0, sequence: null, frame: 0, rest: 0, payload: null, strips: [], width: 0, changed: 0, onRest: null };

  const draw = () => {
    self.frame = 0;
    drawFrame(self);
  };
  self.schedule = () => {
    if (!self.frame) self.frame = requestAnimationFrame(draw);
  };
  self.set = (lambda, fromUser) => {
    const now = performance.now();
    // Cards glide to their places after a jump; while λ is dragged they follow at once.
    view.box.classList.toggle("dragging", fromUser && now - self.changed < GLIDE_MS);
    self.changed = now;
    self.lambda = lambda;
    remembered = { sequence: self.sequence, lambda };
    self.schedule();
    if (!fromUser) return;
    clearTimeout(self.rest);
    self.rest = setTimeout(() => {
      announce(self);
      self.onRest(self.lambda);
    }, REST_MS);
  };
  view.slider.addEventListener("input", () => self.set(lambdaAt(view.slider.valueAsNumber, self.axis), true));
  view.slider.addEventListener("keydown", (event) => {
    const fine = event.shiftKey ? 1 : 5;
    const move = { ArrowRight: fine, ArrowUp: fine, ArrowLeft: -fine, ArrowDown: -fine, PageUp: STEPS, PageDown: -STEPS }[event.key];
    if (!move) return; // Home and End are the browser's own
    event.preventDefault();
    const go = (lambda) => {
      self.set(lambda, true);
      view.slider.value = Math.round(fractionOf(lambda, self.axis) * STEPS); // at once, for whoever reads it aloud
    };
    if (Math.abs(move) === STEPS) return go(decadeFrom(self.lambda, Math.sign(move), self.axis));
    const at = Math.round(fractionOf(self.lambda, self.axis) * STEPS);
    let step = at + move;
    if (at < NOTCH && move > 0) step = NOTCH; // leave the notch in one press
    else if (step < NOTCH) step = 0;
    go(lambdaAt(Math.min(STEPS, step), self.axis));
  });
  const typed = () => {
    const value = Number(view.number.value.trim().replace("−", "-").replace(",", "."));
    if (view.number.value.trim() !== "" && Number.isFinite(value) && value >= 0) self.set(value, true);
    else view.number.value = formatLambda(self.lambda); // a word or a negative number: keep what was
  };
  view.number.addEventListener("change", typed);
  const pointed = (event) => {
    const area = view.plots.getBoundingClientRect();
    const inside = (event.clientX - area.left - self.left) / (self.width - self.left - self.right);
    self.set(lambdaAt(Math.round(Math.min(1, Math.max(0, inside)) * STEPS), self.axis), true);
  };
  view.plots.addEventListener("pointerdown", (event) => {
    if (!self.payload.hasLambda) return;
    view.plots.setPointerCapture(event.pointerId);
    pointed(event);
  });
  view.plots.addEventListener("pointermove", (event) => {
    if (view.plots.hasPointerCapture(event.pointerId)) pointed(event);
  });
  self.observer = new ResizeObserver(() => layout(self));
  self.observer.observe(view.box);
  self.stop = () => {
    self.observer.disconnect();
    clearTimeout(self.rest);
    cancelAnimationFrame(self.frame);
    instances.delete(root);
  };
  return self;
}

export function explorer(root, payload, onRest) {
  let self = instances.get(root);
  if (!self) instances.set(root, (self = create(root)));
  self.onRest = onRest;
  const fresh = self.payload?.key !== payload.key;
  if (fresh) accept(self, payload);
  else self.payload = { ...payload, numbers: self.payload.numbers };
  if (self.sequence !== payload.lambda.sequence) {
    // λ came from outside (URL, another page, side bar); our own reports come back with the old sequence
    self.sequence = payload.lambda.sequence;
    self.set(remembered.sequence === self.sequence ? remembered.lambda : payload.lambda.value, false);
  }
  layout(self);
  if (fresh) reorder(self);
  return self.stop;
}

function accept(self, payload) {
  const eigenvalues = decode(Float32Array, payload.eigenvalues);
  const count = payload.cards.length;
  payload.numbers = {
    filter: prepareFilter(payload, eigenvalues),
    ranks: payload.ranks && { grid: payload.ranks.grid, values: decode(Int32Array, payload.ranks.values) },
    products: decode(Float32Array, payload.products),
    weights: new Float32Array(eigenvalues.length),
    scores: new Float32Array(count),
    order: Array.from({ length: count }, (_, i) => i),
  };
  self.payload = payload;
  self.axis = { low: Math.log10(payload.range[0]), high: Math.log10(payload.range[1]) };
  self.view.box.classList.toggle("fixed", !payload.hasLambda);
  self.view.box.classList.toggle("textual", !payload.sprite);
  self.view.box.style.setProperty("--sprite", payload.sprite ? `url("${payload.sprite.url}")` : "none");
  for (const side of [self.view.helpful, self.view.harmful]) {
    for (const card of side.cards.values()) {
      side.free.push(card);
      card.card.hidden = true;
      card.shown = -1;
    }
    side.cards.clear();
  }
  self.view.presets.replaceChildren();
  for (const preset of payload.presets) {
    const button = element("button", "", self.view.presets, preset.label);
    button.type = "button";
    button.title = preset.title;
    button.dataset.lambda = preset.value;
    button.addEventListener("click", () => self.set(preset.value, true));
  }
  self.view.note.textContent = payload.note || "";
  self.view.kind.textContent = payload.kind;
  self.view.box.classList.toggle("ranked", Boolean(payload.ranks));
}

// ---------------------------------------------------------------- layout: on a new payload and on a new width

function layout(self) {
  const width = self.view.box.clientWidth;
  if (!self.payload || !width) return;
  self.width = width;
  self.left = width < 520 ? 34 : 46;
  self.right = 20;
  self.view.scrub.style.setProperty("--left", `${self.left}px`);
  self.view.scrub.style.setProperty("--right", `${self.right}px`);
  if (self.payload.hasLambda) drawStrips(self);
  for (const side of [self.view.helpful, self.view.harmful]) {
    const inner = side.grid.clientWidth;
    const textual = !self.payload.sprite;
    side.columns = textual ? Math.max(1, Math.floor(inner / 300)) : Math.max(2, Math.floor(inner / 94));
    side.cell = (inner + GAP) / side.columns;
    side.height = (textual ? 112 : 128) + (self.payload.ranks ? 15 : 0);
    side.count = inner < 260 ? Math.min(10, self.payload.num) : self.payload.num;
    for (const card of side.cards.values()) card.slot = -1;
  }
  drawFrame(self);
}

// ---------------------------------------------------------------- one frame

function drawFrame(self) {
  const { payload, view, lambda } = self;
  if (!payload || !self.width) return;
  const { filter, products, weights, scores, order } = payload.numbers;
  const problem = weigh(filter, lambda, weights);
  Object.assign(view.box.dataset, { shown: payload.key, lambda }); // what the screen is of, for whoever waits for it
  if (view.problem.textContent !== problem) view.problem.textContent = problem;
  view.box.classList.toggle("broken", problem !== "");
  if (payload.hasLambda) drawCursor(self, problem === "");
  if (problem) return; // no ranking where the method has no numbers
  multiply(products, weights, scores);
  self.rankRow = rankRow(payload, lambda);
  order.sort((a, b) => scores[b] - scores[a] || a - b);
  const largest = Math.max(Math.abs(scores[order[0]] || 0), Math.abs(scores[order[order.length - 1]] || 0)) || 1;
  const half = Math.ceil(order.length / 2); // never the same example on both sides
  const top = Math.min(view.helpful.count, half);
  const bottom = Math.min(view.harmful.count, order.length - top);
  place(self, view.helpful, order.slice(0, top), largest);
  place(self, view.harmful, order.slice(order.length - bottom).reverse(), largest);
}

function place(self, side, chosen, largest) {
  const { payload } = self;
  const { scores } = payload.numbers;
  const keep = new Set(chosen);
  for (const [index, card] of side.cards) {
    if (!keep.has(index)) {
      side.cards.delete(index);
      side.free.push(card);
    }
  }
  chosen.forEach((index, slot) => {
    let card = side.cards.get(index);
    if (!card) {
      card = side.free.pop() || buildCard(side.grid);
      side.cards.set(index, card);
      card.card.hidden = false;
      card.slot = -1;
      fill(self, card, index);
    }
    if (card.slot !== slot) {
      const x = (slot % side.columns) * side.cell, y = Math.floor(slot / side.columns) * side.height;
      if (card.slot < 0) card.card.classList.add("placed"); // a newcomer appears in its place, it does not fly in
      else card.card.classList.remove("placed");
      card.card.style.transform = `translate(${x}px, ${y}px)`;
      card.card.style.width = `${side.cell - GAP}px`;
      card.card.dataset.rank = slot + 1;
      card.rank.textContent = slot + 1;
      card.slot = slot;
    }
    const text = formatScore(scores[index]);
    if (card.text !== text) card.score.textContent = card.text = text;
    drawInterval(self, side, card, index);
    card.bar.style.transform = `scaleX(${Math.min(1, Math.abs(scores[index]) / largest)})`;
  });
  for (const card of side.free) card.card.hidden = true;
  const rows = Math.ceil(chosen.length / side.columns);
  if (side.rows !== rows || side.drawn !== side.height) side.grid.style.height = `${rows * side.height}px`;
  side.rows = rows;
  side.drawn = side.height;
}

function drawCursor(self, hasScores) {
  const { view, lambda, payload } = self;
  const fraction = fractionOf(lambda, self.axis);
  const at = self.left + fraction * (self.width - self.left - self.right);
  const step = Math.round(fraction * STEPS);
  if (view.slider.valueAsNumber !== step) view.slider.value = step;
  const written = formatLambda(lambda);
  const layers = payload.blocks.map((block) => `${block.name} ${formatLambda(lambda * block.scale)}`).join(" · ");
  view.layers.textContent = layers && `λ by layer, absolute: ${layers}`;
  view.slider.setAttribute("aria-valuetext", `λ = ${written}`);
  if (view.number.getRootNode().activeElement !== view.number) view.number.value = written;
  for (const strip of self.strips) {
    const value = hasScores ? interpolate(strip.curve, "mean", lambda) : NaN;
    strip.cursor.setAttribute("transform", `translate(${at.toFixed(1)},0)`);
    strip.dot.style.display = Number.isFinite(value) ? "" : "none";
    if (Number.isFinite(value)) strip.dot.setAttribute("cy", strip.y(value).toFixed(1));
  }
  const parts = [];
  if (payload.lds) {
    const [mean, low, high, own] = ["mean", "low", "high", "query"].map((column) => interpolate(payload.lds, column, lambda));
    parts.push(Number.isFinite(mean) ? `LDS ${signed(mean, 3)} (${signed(low, 3)} to ${signed(high, 3)})` : "LDS not computed at this λ");
    if (Number.isFinite(own)) parts.push(`this query ${signed(own, 2)}`);
  }
  const xi = payload.xi ? interpolate(payload.xi, "mean", lambda) : NaN;
  if (Number.isFinite(xi)) parts.push(`ξ̄ ${signed(xi, 2)}`);
  view.readout.textContent = hasScores ? parts.join("  ·  ") : "";
  for (const button of view.presets.children) {
    const value = Number(button.dataset.lambda);
    button.setAttribute("aria-pressed", value === lambda || Math.abs(value - lambda) < 1e-3 * value ? "true" : "false");
  }
}

// Reading order follows rank.
function reorder({ view }) {
  for (const side of [view.helpful, view.harmful]) {
    const shown = [...side.cards.values()].sort((a, b) => a.slot - b.slot);
    shown.forEach((card, i) => {
      if (side.grid.children[i] !== card.card) side.grid.insertBefore(card.card, side.grid.children[i]);
    });
  }
}

// After a rest: reading order follows rank again, and a screen reader hears the leaders once.
function announce(self) {
  const { view, payload } = self;
  reorder(self);
  const first = [...view.helpful.cards.entries()].find(([, card]) => card.slot === 0);
  if (first) view.live.textContent = `λ = ${formatLambda(self.lambda)}. Most helpful: ${payload.cards[first[0]].alt}`;
}
