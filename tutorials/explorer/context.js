// ---- view: one context --------------------------------------------------------------------------
//
// After one prefix the data go on with five tokens. The fixed point of an objective is the q at
// which its expected gradient is zero; here it has a formula.

const TOKENS = [0, 1, 2, 3, 4];

/** The root of a decreasing function between low and high. */
function bisect(f, low, high) {
  for (let i = 0; i < 200; i++) {
    const middle = (low + high) / 2;
    if (f(middle) > 0) low = middle;
    else high = middle;
  }
  return high;
}

// Each gives the map from one p_v to q_v, which holds the normaliser λ of the whole p:
// {map, lambda}.
const FIXED_POINT = {
  mle: () => ({ map: (x) => x, lambda: 1 }),
  mixce(p, eta) {
    const map = (lambda) => (x) => (eta === 1 ? x : (eta * x) / (lambda - (1 - eta) * x));
    const low = (1 - eta) * Math.max(...p); // there the likeliest token's q is infinite
    const lambda = eta === 1 ? 1 : bisect((l) => sum(p.map(map(l))) - 1, low, low + eta * p.length);
    return { map: map(lambda), lambda };
  },
  tailr(p, gamma) {
    const map = (lambda) => (x) => Math.max(0, (x / lambda - gamma) / (1 - gamma));
    const lambda = bisect((l) => sum(p.map(map(l))) - 1, Math.max(...p), 1);
    return { map: map(lambda), lambda };
  },
  temperature(p, tau) {
    // p^(1/τ) over its sum, in units of the largest p, so that nothing underflows
    const top = Math.max(...p),
      power = (x) => (x / top) ** (1 / tau),
      lambda = sum(p.map(power));
    return { map: (x) => power(x) / lambda, lambda };
  },
};

const WEIGHT = {
  mle: () => 1,
  mixce: (q, eta) => eta + (1 - eta) * q,
  tailr: (q, gamma) => (gamma === 0 ? 1 : q / (gamma + (1 - gamma) * q)),
  temperature: () => 1,
};

/** τ ≤ 1 at which the temperature gives p the entropy h, or as near as τ = 0.01 comes. */
const sameEntropy = (p, h) =>
  bisect((tau) => h - entropy(p.map(FIXED_POINT.temperature(p, tau).map)), 0.01, 1);

const CONTEXT = {
  mle: { name: "MLE", about: "−log q" },
  mixce: {
    name: "MixCE",
    about: "−η log q − (1−η) q",
    symbol: "η",
    key: "eta",
    limit: "η = 1 is MLE",
    min: 0.01,
    max: 1,
    start: 0.1,
  },
  tailr: {
    name: "TaiLr",
    about: "total variation, softened",
    symbol: "γ",
    key: "gamma",
    limit: "γ = 0 is MLE",
    min: 0,
    max: 0.99,
    start: 0.1,
  },
  temperature: {
    name: "MLE at a temperature",
    about: "(control)",
    symbol: "τ",
    key: "tau",
    limit: "τ = 1 is MLE",
    min: 0.1,
    max: 2,
    start: 0.5,
  },
};

const factor = (x) =>
  x < 0.0005 ? "less than 0.001" : x < 0.0995 ? x.toPrecision(2) : x.toFixed(2);
const tokens = (which) =>
  (which.length === 1 ? "token " : "tokens ") + list(which.map((v) => v + 1));

function sayContext({ p, q, ratio, lambda, control }) {
  const { objective } = state.context,
    { name, symbol, limit } = CONTEXT[objective];
  if (objective === "mle") return "MLE ends at q = p. Its weight is 1, whatever q was.";
  if (ratio === (objective === "tailr" ? 0 : 1)) return `${limit}: q = p.`;
  const by = TOKENS.map((v) => q[v] / p[v]),
    kept = TOKENS.filter((v) => q[v] > 0),
    zero = TOKENS.filter((v) => p[v] > 0 && q[v] === 0);
  const most = kept.reduce((a, v) => (by[v] > by[a] ? v : a)),
    least = kept.reduce((a, v) => (by[v] < by[a] ? v : a));
  const rarest = p.indexOf(Math.min(...p.filter((x) => x > 0))),
    parts = [];
  if (by[most] - by[least] < 0.005 && !zero.length)
    return "The tokens that occur are equally likely: q = p, there is nothing to sharpen.";
  if (zero.length) parts.push(`${name} gives ${tokens(zero)} exactly zero.`);
  if (kept.length === 1) parts.push(`All mass is on ${tokens(kept)}.`);
  else
    parts.push(
      `${name} at ${symbol} = ${ratio.toFixed(2)} multiplies p by ${factor(by[most])} ` +
        `at token ${most + 1} and by ${factor(by[least])} at token ${least + 1}.`,
    );
  if (objective === "mixce")
    parts.push(
      `However small p is, q keeps at least η/λ = ${factor(ratio / lambda)} of it, so the tail stays.`,
    );
  if (objective === "tailr" && !zero.length) parts.push("No token gets zero yet.");
  if (objective === "temperature")
    parts.push(
      ratio < 1 ? "The smaller p, the harder it is squeezed." : "Above 1, q is flatter than p.",
    );
  parts.push(
    `Entropy: ${entropy(p).toFixed(2)} nats before, ${Math.abs(entropy(q)).toFixed(2)} after.`,
  );
  if (control)
    parts.push(
      `MLE of the same entropy, at τ = ${control.tau.toFixed(2)}, leaves ${tokens([rarest])} with ` +
        `${number(control.q[rarest])}, ${name} with ${number(q[rarest])}.`,
    );
  return parts.join(" ");
}

// ---- bars ----

function drawBars({ p, q, control }) {
  const height = innerWidth < 640 ? 180 : 230;
  const left = 30;
  const { add, width } = canvas("bars", height);
  const y = (x) => height - 22 - x * (height - 40);
  drawScale(add, y, left, width);
  const series = [["p", p], ["q", q], ...(control ? [["c", control.q]] : [])];
  const slot = (width - left) / TOKENS.length;
  const bar = Math.min(46, (slot * 0.86) / series.length);
  for (const v of TOKENS) {
    const middle = left + (v + 0.5) * slot;
    const at = { x: middle, y: height - 5, "text-anchor": "middle" };
    add("text", at, width < 480 ? v + 1 : `token ${v + 1}`);
    series.forEach(([kind, values], i) => {
      drawBar(add, y, { x: middle + (i - series.length / 2) * bar, bar, kind, value: values[v] });
    });
  }
}

function drawScale(add, y, left, width) {
  for (const x of [0, 0.25, 0.5, 0.75, 1]) {
    add("line", { x1: left, x2: width, y1: y(x), y2: y(x), class: x ? "axis" : "zero" });
    const text = Number.isInteger(x) ? x : String(x).slice(1);
    add("text", { x: left - 6, y: y(x) + 4, "text-anchor": "end" }, text);
  }
}

function drawBar(add, y, { x, bar, kind, value }) {
  const top = y(value);
  const size = { width: bar - 2, height: Math.max(0, y(0) - top) };
  add("rect", { x: x + 1, y: top, ...size, class: `bar-${kind}` });
  if (kind === "c" || (kind === "p" && bar < 24)) return; // the table has all of them
  const narrow = bar < 34;
  const name = `value-${kind}${narrow ? " small" : ""}`;
  const text = narrow ? number(value).replace("0.", ".") : number(value);
  add("text", { x: x + bar / 2, y: top - 4, "text-anchor": "middle", class: name }, text);
}

// ---- plots ----

/**
 * A square plot of [0,1] × [0,1]: `mleAt` as a dashed line, curves {f, kind}, and points
 * {at, kind}, of which the last are the tokens and numbered.
 */
function drawPlot(id, names, mleAt, curves, points) {
  const height = 260;
  const { add, width } = canvas(id, height);
  const x = (a) => 34 + a * (width - 46);
  const y = (b) => height - 36 - b * (height - 46);
  drawAxes(add, x, y, names, height);
  add("line", { x1: x(0), y1: y(mleAt(0)), x2: x(1), y2: y(mleAt(1)), class: "mle" });
  for (const curve of curves) drawCurve(add, x, y, curve);
  for (const { at, kind } of points)
    for (const [a, b] of at) add("circle", { cx: x(a), cy: y(b), r: 5, class: kind });
  numberPoints(
    add,
    points.at(-1).at.map(([a, b], v) => [x(a), y(b), v + 1]),
    x(1),
  );
}

function drawAxes(add, x, y, [xName, yName], height) {
  for (const tick of [0, 0.5, 1]) {
    const name = tick ? "axis" : "zero";
    add("line", { x1: x(0), x2: x(1), y1: y(tick), y2: y(tick), class: name });
    add("line", { x1: x(tick), x2: x(tick), y1: y(0), y2: y(1), class: name });
    add("text", { x: x(tick), y: y(0) + 16, "text-anchor": "middle" }, tick);
    if (tick) add("text", { x: x(0) - 6, y: y(tick) + 4, "text-anchor": "end" }, tick);
  }
  const below = { x: x(0.5), y: height - 4, "text-anchor": "middle", class: `axis-${xName}` };
  add("text", below, xName);
  const beside = { x: x(0) - 8, y: y(0.75) + 4, "text-anchor": "end", class: `axis-${yName}` };
  add("text", beside, yName);
}

function drawCurve(add, x, y, { f, kind }) {
  const holds = (a) => f(a) >= 0 && f(a) <= 1 + 1e-9; // where q is a probability
  const end = holds(1) ? 1 : bisect((a) => (holds(a) ? 1 : -1), 0, 1);
  const path = [];
  for (let i = 0; i <= 300; i++) {
    const a = (end * (1 - Math.cos((Math.PI * i) / 300))) / 2; // closest where it is steep
    path.push([x(a), y(Math.min(1, holds(a) ? f(a) : 1))]);
  }
  add("path", { d: onPath(path), class: kind });
}

/** Numbers beside points [x, y, number]; those that lie close together share one label. */
function numberPoints(add, points, right) {
  const groups = [];
  for (const point of points.sort((a, b) => b[0] - a[0] || a[2] - b[2])) {
    const near = groups.find((group) => isNear(group.at(-1), point));
    if (near) near.push(point);
    else groups.push([point]);
  }
  for (const group of groups) {
    const x = sum(group.map((point) => point[0])) / group.length;
    const y = Math.min(...group.map((point) => point[1]));
    const far = x > right - 24;
    const aside = far ? -9 : group.length === 1 ? 8 : 2;
    const at = { x: x + aside, y: y < 30 ? y + 18 : y - 9, "text-anchor": far ? "end" : "start" };
    add("text", { ...at, class: "point" }, labelOf(group.map((point) => point[2]).sort()));
  }
}

const isNear = (a, b) => Math.abs(a[0] - b[0]) < 24 && Math.abs(a[1] - b[1]) < 16;

function labelOf(numbers) {
  const isRun = numbers.length > 2 && numbers.at(-1) - numbers[0] === numbers.length - 1;
  return isRun ? `${numbers[0]}–${numbers.at(-1)}` : numbers.join(", ");
}

// ---- the view ----

function showContext() {
  const { objective, p } = state.context;
  const ratio = state.context.ratio[objective];
  const { map, lambda } = FIXED_POINT[objective](p, ratio);
  const q = p.map(map);
  const weight = (x) => WEIGHT[objective](x, ratio);
  const control = sameEntropyControl(q);
  showContextControls();
  fillContextTable(q, q.map(weight), control);
  announce("context-says", sayContext({ p, q, ratio, lambda, control }));
  showFormulas(lambda);
  drawBars({ p, q, control });
  const points = (values) => TOKENS.map((v) => [p[v], values[v]]);
  const curves = [{ f: map, kind: "curve" }];
  const dots = [{ at: points(q), kind: "dot" }];
  if (control) {
    curves.push({ f: control.map, kind: "curve-c" });
    dots.unshift({ at: points(control.q), kind: "dot-c" });
  }
  drawPlot("point-plot", ["p", "q"], (x) => x, curves, dots);
  const weights = [{ at: q.map((x) => [x, weight(x)]), kind: "dot" }];
  drawPlot("weight-plot", ["q", "w"], () => 1, [{ f: weight, kind: "curve" }], weights);
}

const hasControl = () => ["mixce", "tailr"].includes(state.context.objective);

/** MLE at the temperature that gives the entropy of q, where the reader asked for it, or null. */
function sameEntropyControl(q) {
  if (!state.context.control || !hasControl()) return null;
  const { p } = state.context;
  const tau = sameEntropy(p, entropy(q));
  const { map } = FIXED_POINT.temperature(p, tau);
  return { tau, map, q: p.map(map) };
}

function showContextControls() {
  const { objective, p, ratio } = state.context;
  const own = CONTEXT[objective];
  check("objective", objective);
  $("ratio-box").hidden = !own.symbol;
  if (own.symbol) {
    setRange("ratio", own.min, own.max, ratio[objective]);
    $("ratio-name").textContent = `${own.symbol} (${own.limit})`;
    $("ratio-value").textContent = ratio[objective].toFixed(2);
  }
  $("control-box").hidden = !hasControl();
  $("control").checked = state.context.control;
  for (const v of TOKENS) showProbability(`p${v}`, p[v]);
  const isShown = ([, preset]) => preset.every((x, v) => Math.abs(x - p[v]) < 1e-6);
  $("preset").value = Object.entries(NUMBERS.presets).find(isShown)?.[0] ?? "";
}

function fillContextTable(q, w, control) {
  fillRow("row-p", state.context.p.map(number));
  fillRow("row-q", q.map(number));
  fillRow("row-w", w.map(number));
  $("row-c").hidden = !control;
  if (!control) return;
  $("control-name").textContent = `MLE, τ = ${control.tau.toFixed(2)}`;
  fillRow("row-c", control.q.map(number));
}

/** The formulas of fixed point and weight, with the numbers in them. */
function showFormulas(lambda) {
  const { objective } = state.context;
  const ratio = state.context.ratio[objective] ?? 1;
  const l = lambda.toFixed(3);
  const r = ratio.toFixed(2);
  const rest = (1 - ratio).toFixed(2);
  $("point-formula").textContent = {
    mle: "q = p",
    mixce: `q = η p / (λ − (1−η) p) = ${r} p / (${l} − ${rest} p)`,
    tailr: `q = max(0, (p/λ − γ) / (1−γ)), λ = ${l}`,
    temperature: `q = p^(1/τ) / Σ p^(1/τ), 1/τ = ${(1 / ratio).toFixed(2)}`,
  }[objective];
  $("weight-formula").textContent = {
    mle: "w = 1",
    mixce: `w = η + (1−η) q = ${r} + ${rest} q`,
    tailr: `w = q / (γ + (1−γ) q) = q / (${r} + ${rest} q)`,
    temperature: "w = 1: τ acts after training",
  }[objective];
}

// ---- starting, and the address ----

const contextDefaults = () => ({
  objective: "mixce",
  ratio: { mixce: 0.1, tailr: 0.1, temperature: 0.5 },
  p: [...Object.values(NUMBERS.presets)[0]],
  control: false,
});

function startContext() {
  addChoices("objectives", "objective", Object.entries(CONTEXT), (value) => {
    state.context.objective = value;
  });
  addPresets();
  for (const v of TOKENS) {
    addProbability("tokens", `p${v}`, `token ${v + 1}`, (x) => {
      state.context.p = withShare(state.context.p, v, x);
    });
    put($("context-table").tHead.rows[0], "th", { scope: "col", textContent: v + 1 });
  }
  put($("tokens"), "p", {
    className: "quiet",
    textContent: "Moving one scales the others, so that they sum to one.",
  });
  $("ratio").addEventListener("input", (event) => {
    state.context.ratio[state.context.objective] = +event.target.value;
    change();
  });
  $("control").addEventListener("change", (event) => {
    state.context.control = event.target.checked;
    change();
  });
  compareWithPackage();
}

function addPresets() {
  for (const name of ["", ...Object.keys(NUMBERS.presets)])
    $("preset").append(Object.assign(new Option(name || "your own", name), { hidden: !name }));
  $("preset").addEventListener("change", (event) => {
    state.context.p = [...NUMBERS.presets[event.target.value]];
    change();
  });
}

/** The package's fixed points beside the page's own. */
function compareWithPackage() {
  const errors = NUMBERS.examples.map(({ objective, ratio, p, q }) => {
    const { map } = FIXED_POINT[objective](p, ratio);
    return Math.max(...p.map((x, v) => Math.abs(map(x) - q[v])));
  });
  $("check").textContent =
    "The fixed points of one context are computed by this page. When it was opened, it compared " +
    `${errors.length} of its own with the package’s: the largest difference is ` +
    `${Math.max(...errors).toExponential(0)}.`;
}

function contextToAddress({ objective, ratio, p, control }) {
  const { key } = CONTEXT[objective];
  return {
    objective,
    ...(key ? { [key]: ratio[objective] } : {}),
    p: p.map((x) => +x.toFixed(6)),
    ...(control ? { control: 1 } : {}),
  };
}

function contextFromAddress(given) {
  const found = contextDefaults();
  if (Object.hasOwn(CONTEXT, given.get("objective"))) found.objective = given.get("objective");
  const own = CONTEXT[found.objective];
  if (own.key) found.ratio[found.objective] = numberIn(given, own.key, own.min, own.max, own.start);
  found.p = distributionIn(given, "p", found.p);
  found.control = given.get("control") === "1";
  return found;
}
