// A strip of queries, paged in the browser. Picking one sends its number to Python once.

const states = new WeakMap();

function make(tag, className, parent, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}

function create(root) {
  const box = make("div", "gallery", root);
  const back = make("button", "turn", box, "‹");
  const strip = make("div", "strip", box);
  const forth = make("button", "turn", box, "›");
  const page = make("div", "page", box);
  back.type = forth.type = "button";
  strip.setAttribute("role", "group");
  const self = { box, back, forth, strip, page, buttons: [], start: 0, data: null, pick: null, size: 0 };
  back.addEventListener("click", () => turn(self, -1));
  forth.addEventListener("click", () => turn(self, 1));
  self.observer = new ResizeObserver(() => draw(self, true));
  self.observer.observe(strip);
  return self;
}

function turn(self, direction) {
  self.start = Math.max(0, Math.min(self.data.items.length - 1, self.start + direction * self.size));
  self.start -= self.start % self.size;
  draw(self, false);
}

// Shows the page that holds the selected query.
function reveal(self) {
  const at = self.data.items.findIndex((item) => item.query === self.data.selected);
  self.start = Math.max(0, at);
  self.start -= self.start % self.size;
}

function draw(self, resized) {
  const { data, strip, back, forth } = self;
  const width = strip.clientWidth;
  if (!data || !width) return;
  const textual = !data.sprite;
  const size = Math.max(1, Math.floor(width / (textual ? 200 : 66))) * (width < 420 && !textual ? 2 : 1);
  if (size !== self.size) {
    self.size = size;
    reveal(self);
  } else if (resized) return;
  back.setAttribute("aria-label", `Earlier ${data.noun}`);
  forth.setAttribute("aria-label", `Later ${data.noun}`);
  strip.setAttribute("aria-label", data.noun);
  strip.style.setProperty("--columns", Math.max(1, Math.floor(width / (textual ? 200 : 66))));
  strip.style.setProperty("--sprite", data.sprite ? `url("${data.sprite.url}")` : "none");
  while (self.buttons.length < size) {
    const button = make("button", "query", strip);
    button.type = "button";
    const picture = make("span", "picture", button);
    const label = make("span", "label", button);
    const entry = { button, picture, label, item: null };
    button.addEventListener("click", () => {
      if (!entry.item || entry.item.query === self.data.selected) return;
      self.data = { ...self.data, selected: entry.item.query };
      draw(self, false);
      self.pick(entry.item.query);
    });
    self.buttons.push(entry);
  }
  const rows = data.sprite ? Math.ceil(data.items.length / data.sprite.columns) : 0;
  self.buttons.forEach((entry, slot) => {
    const index = self.start + slot;
    const item = slot < size ? data.items[index] : undefined;
    entry.item = item || null;
    entry.button.hidden = !item;
    if (!item) return;
    entry.button.title = item.alt;
    entry.button.setAttribute("aria-label", item.alt);
    entry.button.setAttribute("aria-pressed", item.query === data.selected ? "true" : "false");
    entry.button.dataset.query = item.query;
    entry.button.classList.toggle("wrong", item.right === false);
    entry.label.textContent = item.label;
    if (data.sprite) {
      const columns = data.sprite.columns;
      const column = index % columns, row = Math.floor(index / columns);
      entry.picture.style.backgroundSize = `${columns * 100}% ${rows * 100}%`;
      entry.picture.style.backgroundPosition = `${columns > 1 ? (100 * column) / (columns - 1) : 0}% ${rows > 1 ? (100 * row) / (rows - 1) : 0}%`;
    } else entry.picture.textContent = item.text;
  });
  self.box.classList.toggle("textual", textual);
  const last = Math.min(data.items.length, self.start + size);
  self.page.textContent = data.items.length ? `${self.start + 1} to ${last} of ${data.items.length}` : `No ${data.noun}`;
  self.back.disabled = self.start === 0;
  self.forth.disabled = last >= data.items.length;
}

export default function ({ parentElement, data, setTriggerValue }) {
  let self = states.get(parentElement);
  if (!self) states.set(parentElement, (self = create(parentElement)));
  self.pick = (query) => setTriggerValue("query", query);
  const moved = !self.data || self.data.key !== data.key || self.data.selected !== data.selected;
  self.data = data;
  if (moved && self.size) reveal(self);
  draw(self, false);
  return () => {
    self.observer.disconnect();
    states.delete(parentElement);
  };
}
