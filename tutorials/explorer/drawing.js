// ---- drawing: what every view uses --------------------------------------------------------------

const NUMBERS = JSON.parse(document.getElementById("numbers").textContent); // of the package
const $ = (id) => document.getElementById(id);

/** A new SVG element in `parent`. */
function draw(parent, tag, attributes = {}, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

/** A new HTML element in `parent`. */
function put(parent, tag, properties = {}) {
  const node = Object.assign(document.createElement(tag), properties);
  parent.append(node);
  return node;
}

/** Gives an <svg> a coordinate system of CSS pixels, `height` of them high -> its width. */
function fit(svg, height, least = 280) {
  const width = Math.max(least, svg.clientWidth);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  return width;
}

/** Empties an <svg> and fits it -> a function that adds an element, and the width. */
function canvas(id, height) {
  const svg = $(id);
  svg.replaceChildren();
  const width = fit(svg, height);
  return { add: (tag, attributes, text) => draw(svg, tag, attributes, text), width };
}

/** A row of a table: its head, then a cell for each text. */
function fillRow(id, cells) {
  const row = $(id);
  while (row.children.length > 1) row.lastChild.remove();
  for (const textContent of cells) put(row, "td", { textContent });
}

/** Live regions are read out when they change, so what does not change is left alone. */
function announce(id, text) {
  text = text.replaceAll(" %", "\u00a0%").replaceAll(" = ", "\u00a0=\u00a0");
  if ($(id).textContent !== text) $(id).textContent = text;
}

/** Radio buttons for [value, {name, about}] pairs. */
function addChoices(box, group, choices, choose) {
  for (const [value, { name, about = "" }] of choices) {
    const label = put($(box), "label", { className: "choice" });
    const input = put(label, "input", { type: "radio", name: group, value });
    input.addEventListener("change", () => {
      choose(value);
      change();
    });
    const words = put(label, "span", { textContent: `${name} ` });
    put(words, "span", { className: "quiet", innerHTML: about });
  }
}

/** Marks the chosen one of radio buttons. */
const check = (group, value) => {
  document.querySelector(`input[name=${group}][value=${value}]`).checked = true;
};

function setRange(id, min, max, value) {
  const input = $(id);
  [input.min, input.max, input.step] = [min, max, 0.01];
  input.value = value;
}

/**
 * A slider for a probability: `id` is the input's, `id`-value that of its number. `spoken`: its
 * name where `name`, which is written beside it, says too little by itself.
 */
function addProbability(box, id, name, move, spoken = name) {
  const row = put($(box), "div", { className: "range token" });
  put(row, "label", { htmlFor: id, textContent: name });
  const input = put(row, "input", { type: "range", id, min: 0, max: 1, step: 0.01 });
  input.ariaLabel = spoken;
  put(row, "output", { htmlFor: id, id: `${id}-value` });
  input.addEventListener("input", () => {
    move(+input.value);
    change();
  });
}

function showProbability(id, x) {
  $(id).value = x;
  $(id).setAttribute("aria-valuetext", number(x));
  $(`${id}-value`).textContent = number(x);
}

/** `p` with p[v] = x; the others share what is left as they did before. */
function withShare(p, v, x) {
  const others = sum(p) - p[v];
  const rest = (y) => (others > 1e-9 ? (y * (1 - x)) / others : (1 - x) / (p.length - 1));
  return p.map((y, u) => (u === v ? x : rest(y)));
}

// ---- numbers and lists --------------------------------------------------------------------------

const number = (x) => (x === 0 ? "0" : x < 0.0005 ? "<.001" : x.toFixed(3));
const percent = (x) => (100 * x).toFixed(1) + " %";
const signed = (x, digits = 2) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
const minus = (x, digits = 3) => x.toFixed(digits).replace("-", "−");
const nats = (x) => (x === null ? "∞" : x.toFixed(3));
const list = (words) =>
  words.length < 2 ? words.join("") : words.slice(0, -1).join(", ") + " and " + words.at(-1);
