// ---- view: the simplex --------------------------------------------------------------------------
//
// A distribution over three outcomes A, B, C is a point of a triangle: its probabilities are the
// weights that a corner, all mass on one outcome, has in it. So P is a point, Q is a point, and
// training is a path.

const OUTCOMES = ["A", "B", "C"];
const LEAST = 0.005; // no probability of P or of a start is smaller: log p stays finite
const GRID = 56; // steps along a side of the grid on which the loss is computed for its contours
const PIXELS = 80; // along a side of the shading, which the browser smooths
const SHARES = [0.02, 0.06, 0.13, 0.22, 0.33, 0.46, 0.6, 0.75, 0.9]; // of the area, in a contour
const STARTS = [
  // of the paths of one objective: some near the corners, some along the sides
  [0.86, 0.07, 0.07],
  [0.07, 0.86, 0.07],
  [0.07, 0.07, 0.86],
  [0.47, 0.47, 0.06],
  [0.47, 0.06, 0.47],
  [0.06, 0.47, 0.47],
  [0.7, 0.26, 0.04],
  [0.7, 0.04, 0.26],
  [0.26, 0.7, 0.04],
  [0.04, 0.7, 0.26],
  [0.26, 0.04, 0.7],
  [0.04, 0.26, 0.7],
];
const ALL = "all"; // in place of an objective: the path of every one, from one start
const NUMBERED = Object.keys(OBJECTIVES).filter((name) => !OBJECTIVES[name].sameAs);

const simplexDefaults = () => ({
  objective: "mixce",
  ratio: Object.fromEntries(
    Object.entries(OBJECTIVES).map(([name, own]) => [name, own.ratio && own.ratio.start]),
  ),
  p: [0.55, 0.3, 0.15],
  q: [0.12, 0.18, 0.7],
});

/** Where things are in a picture of this width. */
function planOf(width) {
  const side = Math.min(width - 56, 600);
  const left = (width - side) / 2,
    top = 26,
    high = (side * Math.sqrt(3)) / 2;
  return {
    side,
    left,
    top,
    high,
    height: top + high + 34,
    point: (q) => [left + side * (q[2] + q[0] / 2), top + high * (1 - q[0])],
    at(x, y) {
      // and back, to the nearest distribution with no probability below LEAST
      const a = 1 - (y - top) / high,
        c = (x - left) / side - a / 2;
      return inside([a, 1 - a - c, c], LEAST);
    },
  };
}

const onPath = (points) =>
  "M" + points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");

// ---- contours ----

/** The loss at every point of a triangular grid, grid[i][j], at q = (i, j, rest). */
function lossGrid(name, p, ratio) {
  const share = (i) => (i + 0.05) / (GRID + 0.15); // a little inside: on the edge it may be ∞
  return Array.from({ length: GRID + 1 }, (_, i) =>
    Array.from({ length: GRID + 1 - i }, (_, j) => {
      const q = [share(i), share(j), share(GRID - i - j)];
      return { q, loss: lossOf(name, p, q, ratio) };
    }),
  );
}

/** The lines on which the loss equals each level -> an SVG path for each. */
function contours(grid, levels, plan) {
  const lines = levels.map(() => "");
  const cut = (...corners) => {
    const losses = corners.map((corner) => corner.loss);
    const lowest = Math.min(...losses);
    const highest = Math.max(...losses);
    levels.forEach((level, k) => {
      if (lowest < level && level <= highest) lines[k] += onPath(crossings(corners, level, plan));
    });
  };
  for (let i = 0; i < GRID; i++) {
    for (let j = 0; j < GRID - i; j++) {
      cut(grid[i][j], grid[i + 1][j], grid[i][j + 1]);
      if (j) cut(grid[i][j], grid[i + 1][j], grid[i + 1][j - 1]);
    }
  }
  return lines;
}

/** The two points where a level crosses the sides of a small triangle. */
function crossings(corners, level, plan) {
  const found = [];
  corners.forEach((a, k) => {
    const b = corners[(k + 1) % 3];
    if (a.loss < level === b.loss < level) return;
    const share = (level - a.loss) / (b.loss - a.loss);
    found.push(plan.point(mix(share, b.q, a.q)));
  });
  return found;
}

/** Shade the triangle: the lower the loss, the stronger. `sorted`: the losses of the grid. */
function shade(name, p, ratio, sorted, plan) {
  const picture = $("simplex-shade");
  const place = { left: plan.left, top: plan.top, width: plan.side, height: plan.high };
  for (const [key, pixels] of Object.entries(place)) picture.style[key] = `${pixels}px`;
  picture.width = picture.height = PIXELS;
  const context = picture.getContext("2d");
  const image = context.createImageData(PIXELS, PIXELS);
  const [red, green, blue] = getComputedStyle(picture).color.match(/\d+/g);
  for (let k = 0; k < PIXELS * PIXELS; k++) {
    const a = 1 - (Math.floor(k / PIXELS) + 0.5) / PIXELS;
    const c = ((k % PIXELS) + 0.5) / PIXELS - a / 2;
    if (c < -0.02 || a + c > 1.02) continue; // outside the triangle
    const q = [Math.max(1e-3, a), Math.max(1e-3, 1 - a - c), Math.max(1e-3, c)];
    const rank = rankOf(lossOf(name, p, q, ratio), sorted);
    image.data[4 * k] = red;
    image.data[4 * k + 1] = green;
    image.data[4 * k + 2] = blue;
    image.data[4 * k + 3] = 105 * (1 - rank) ** 2.2;
  }
  context.putImageData(image, 0, 0);
}

/** The share of sorted values below x. */
function rankOf(x, sorted) {
  let low = 0,
    high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low / sorted.length;
}

// ---- the picture ----

function showSimplex() {
  const svg = $("simplex-plane"),
    plan = planOf(Math.max(280, svg.parentNode.clientWidth));
  fit(svg, plan.height);
  simplexPlan = plan;
  drawFrame(plan);
  const paths = state.simplex.objective === ALL ? drawEveryObjective(plan) : drawOneObjective(plan);
  placeHandles(plan);
  showSimplexControls();
  showSimplexTable();
  announce("simplex-says", saySimplex(paths));
}

let simplexPlan; // of the picture as it is drawn, by which pointers find their distribution

function drawFrame({ point }) {
  const frame = $("simplex-frame");
  frame.replaceChildren();
  const line = (a, b, name) =>
    draw(frame, "path", { d: onPath([point(a), point(b)]), class: name });
  for (const share of [0.25, 0.5, 0.75]) {
    const rest = 1 - share;
    line([share, rest, 0], [share, 0, rest], "grid");
    line([rest, share, 0], [0, share, rest], "grid");
    line([rest, 0, share], [0, rest, share], "grid");
  }
  const corners = [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
  ];
  draw(frame, "path", { d: onPath(corners.map(point)) + "Z", class: "side" });
  corners.forEach((corner, v) => {
    const [x, y] = point(corner);
    draw(frame, "text", { x, y: v ? y + 22 : y - 9, class: "corner" }, OUTCOMES[v]);
  });
}

/** Contours of one objective and its paths from all of STARTS -> the paths. */
function drawOneObjective(plan) {
  const { objective: name, p, ratio } = state.simplex,
    own = ratio[name];
  const grid = lossGrid(name, p, own);
  const sorted = grid
    .flat()
    .map((cell) => cell.loss)
    .sort((a, b) => a - b);
  shade(name, p, own, sorted, plan);
  $("simplex-shade").hidden = false;
  const box = $("simplex-contours");
  box.replaceChildren();
  const levels = SHARES.map((share) => sorted[Math.floor(share * sorted.length)]);
  for (const d of contours(grid, levels, plan)) draw(box, "path", { d, class: "contour" });
  const paths = STARTS.map((start) => descend(name, p, start, own));
  drawPaths(
    plan,
    paths.map((path) => ({ path, family: "one" })),
  );
  const [x, y] = plan.point(lowest(name, p, paths, own));
  draw($("simplex-paths"), "circle", { cx: x, cy: y, r: 8, class: "least" });
  return paths;
}

/** The path of every objective from one start -> the paths. */
function drawEveryObjective(plan) {
  const { p, q, ratio } = state.simplex;
  $("simplex-shade").hidden = true;
  $("simplex-contours").replaceChildren();
  const lines = NUMBERED.map((name, k) => ({
    path: descend(name, p, q, ratio[name]),
    family: OBJECTIVES[name].family,
    label: k + 1,
  }));
  drawPaths(plan, lines);
  labelEnds(plan, lines);
  return lines.map((line) => line.path);
}

function drawPaths(plan, lines) {
  const box = $("simplex-paths");
  box.replaceChildren();
  for (const { path, family } of lines) {
    const points = path.map(plan.point);
    draw(box, "path", { d: onPath(points), class: `path ${family}` });
    arrow(box, points, family);
    const [x, y] = points.at(-1);
    draw(box, "circle", { cx: x, cy: y, r: 3.5, class: `end ${family}` });
    run(box, points, family);
  }
}

/** A dot that runs down a path once, unless the reader asked for less motion or is dragging. */
function run(box, points, family) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (still || document.body.classList.contains("dragging") || points.length < 12) return;
  const dot = draw(box, "circle", { r: 4.5, class: `runner ${family}` });
  const motion = { path: onPath(points), dur: "1.6s", begin: "indefinite", fill: "freeze" };
  draw(dot, "animateMotion", motion).beginElement();
}

/** An arrow head half-way along a path, where the path is long enough to need one. */
function arrow(box, points, family) {
  if (points.length < 12) return;
  const half = Math.floor(points.length / 2),
    [x, y] = points[half],
    [before, above] = points[half - 2];
  const turn = (Math.atan2(y - above, x - before) * 180) / Math.PI;
  const transform = `translate(${x.toFixed(1)},${y.toFixed(1)}) rotate(${turn.toFixed(0)})`;
  draw(box, "path", { d: "M-5,-4.5L5,0L-5,4.5Z", transform, class: `head ${family}` });
}

/** Numbers at the ends of paths; ends that lie close together share one label. */
function labelEnds(plan, lines) {
  const groups = [];
  for (const { path, label } of lines) {
    const [x, y] = plan.point(path.at(-1));
    const near = groups.find((group) => Math.hypot(group.x - x, group.y - y) < 20);
    if (near) near.labels.push(label);
    else groups.push({ x, y, labels: [label] });
  }
  for (const { x, y, labels } of groups)
    draw($("simplex-paths"), "text", { x: x + 9, y: y - 8, class: "point" }, labels.join(", "));
}

const lowest = (name, p, paths, ratio) =>
  paths
    .map((path) => path.at(-1))
    .reduce((best, q) => (lossOf(name, p, q, ratio) < lossOf(name, p, best, ratio) ? q : best));

// ---- its two handles ----

const HANDLES = {
  p: { name: "P, the data", label: "P" },
  q: { name: "Q, where training starts", label: "Q" },
};
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function addHandle(which) {
  const handle = draw($("simplex-plane"), "g", {
    id: `handle-${which}`,
    class: `handle ${which}`,
    tabindex: 0,
    role: "slider",
    "aria-label": HANDLES[which].name,
    "aria-valuemin": 0,
    "aria-valuemax": 1,
    "aria-describedby": "simplex-hint",
  });
  draw(handle, "circle", { r: 22, class: "reach" }); // a finger needs 44 pixels
  draw(handle, "circle", { r: 13, class: "ring" });
  if (which === "p") draw(handle, "path", { d: "M0,-9L9,0L0,9L-9,0Z", class: "mark" });
  else draw(handle, "circle", { r: 7, class: "mark" });
  draw(handle, "text", { x: 0, y: -15, class: "handle-name" }, HANDLES[which].label);
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    handle.focus({ focusVisible: false });
    document.body.classList.add("dragging");
    event.preventDefault();
  });
  handle.addEventListener("pointermove", (event) => {
    if (handle.hasPointerCapture(event.pointerId)) drag(which, event);
  });
  handle.addEventListener("lostpointercapture", () => document.body.classList.remove("dragging"));
  handle.addEventListener("keydown", (event) => nudge(which, event));
}

let dragged = 0; // the frame that is to draw the last movement

function drag(which, { clientX, clientY }) {
  cancelAnimationFrame(dragged);
  dragged = requestAnimationFrame(() => {
    const box = $("simplex-plane").getBoundingClientRect();
    moveTo(which, clientX - box.left, clientY - box.top);
  });
}

function nudge(which, event) {
  const by = MOVES[event.key];
  if (event.key !== "Home" && !by) return;
  event.preventDefault();
  if (!by) {
    state.simplex[which] = simplexDefaults()[which];
    change();
    return;
  }
  const [x, y] = simplexPlan.point(state.simplex[which]);
  const step = simplexPlan.side * (event.shiftKey ? 0.05 : 0.01);
  moveTo(which, x + step * by[0], y + step * by[1]);
}

function moveTo(which, x, y) {
  state.simplex[which] = simplexPlan.at(x, y);
  change();
}

function placeHandles(plan) {
  for (const which of Object.keys(HANDLES)) {
    const [x, y] = plan.point(state.simplex[which]),
      handle = $(`handle-${which}`);
    handle.setAttribute("transform", `translate(${x.toFixed(1)},${y.toFixed(1)})`);
    handle.setAttribute("aria-valuenow", state.simplex[which][0].toFixed(3));
    handle.setAttribute("aria-valuetext", inWords(state.simplex[which]));
  }
  $("handle-q").style.display = state.simplex.objective === ALL ? "" : "none";
}

const inWords = (q) => q.map((x, v) => `${OUTCOMES[v]} ${x.toFixed(2)}`).join(", ");

// ---- controls, table and words ----

const KEYS = {
  one: [
    ["path one", "Q’s ways down, from twelve starts"],
    ["contour", "equal loss; the deeper the green, the lower"],
    ["least", "where it is least"],
  ],
  all: [
    ["path forward", "forward"],
    ["path reverse", "reverse"],
    ["path mixed", "mixed; numbers as in the table"],
  ],
};

function showKey(which) {
  const box = $("simplex-key");
  box.replaceChildren();
  for (const [name, words] of KEYS[which]) {
    const item = put(box, "li");
    const svg = draw(item, "svg", { viewBox: "0 0 26 12", "aria-hidden": true });
    if (name === "least") draw(svg, "circle", { cx: 13, cy: 6, r: 4.5, class: name });
    else draw(svg, "path", { d: "M1,6H25", class: name });
    item.append(words);
  }
}

function showSimplexControls() {
  const { objective, p, ratio } = state.simplex,
    own = objective !== ALL && OBJECTIVES[objective].ratio;
  check("simplex", objective);
  $("simplex-ratio-box").hidden = !own;
  if (own) {
    setRange("simplex-ratio", own.min, own.max, ratio[objective]);
    $("simplex-ratio-name").textContent = `${own.symbol} (${own.limit})`;
    $("simplex-ratio-value").textContent = ratio[objective].toFixed(2);
  }
  p.forEach((x, v) => showProbability(`simplex-p${v}`, x));
  showKey(objective === ALL ? "all" : "one");
}

function showSimplexTable() {
  const { objective, p, q, ratio } = state.simplex;
  const narrow = $("simplex-table").parentNode.clientWidth < 540; // fewer digits, to fit
  const shares = (x) => x.map((v) => (narrow ? v.toFixed(2).replace(/^0/, "") : number(v)));
  const row = (id, x, losses) =>
    fillRow(id, [...losses, ...shares(x), entropy(x).toFixed(narrow ? 2 : 3)]);
  row("simplex-of-p", p, ["", ""]);
  row("simplex-of-q", q, ["", ""]);
  for (const name of NUMBERED) {
    const end = descend(name, p, q, ratio[name]).at(-1);
    const losses = [q, end].map((x) => minus(lossOf(name, p, x, ratio[name]), narrow ? 2 : 3));
    row(`simplex-${name}`, end, losses);
    $(`simplex-${name}`).classList.toggle("chosen", name === objective);
    const own = OBJECTIVES[name].ratio;
    $(`simplex-${name}-ratio`).textContent = own ? ` ${own.symbol} ${ratio[name].toFixed(2)}` : "";
  }
}

function saySimplex(paths) {
  const { objective: name, p, ratio } = state.simplex;
  if (name === ALL)
    return (
      "Nine objectives, one start. Those that are least at Q = P come together " +
      "in P; MixCE, TaiLr and MixCE* stop at something sharper; reverse CE and overlap go to a corner."
    );
  const own = OBJECTIVES[name].ratio,
    at = own ? ` at ${own.symbol} = ${ratio[name].toFixed(2)}` : "";
  const ends = distinct(paths.map((path) => path.at(-1))),
    best = lowest(
      name,
      p,
      ends.map((q) => [q]),
      ratio[name],
    );
  const away = Math.max(...best.map((x, v) => Math.abs(x - p[v])));
  const where =
    away < 0.002 ? "at P itself" : `at Q = (${best.map((x) => x.toFixed(2)).join(", ")}), not at P`;
  const parts = [`${OBJECTIVES[name].name}${at} is least ${where}.`];
  if (away >= 0.002)
    parts.push(`Entropy: ${entropy(p).toFixed(2)} nats in P, ${entropy(best).toFixed(2)} there.`);
  if (ends.length > 1)
    parts.push(
      `Paths end in ${ends.length} places: where training ends depends on where it starts.`,
    );
  return parts.join(" ");
}

/** The points that are further than 0.02 from those before them. */
const distinct = (points) =>
  points.filter(
    (q, k) =>
      !points
        .slice(0, k)
        .some((other) => Math.max(...q.map((x, v) => Math.abs(x - other[v]))) < 0.02),
  );

// ---- starting, and the address ----

function startSimplex() {
  const about = "each from the same start, Q";
  addChoices(
    "simplex-objectives",
    "simplex",
    [...Object.entries(OBJECTIVES), [ALL, { name: "All at once", about }]],
    (value) => {
      state.simplex.objective = value;
    },
  );
  $("simplex-ratio").addEventListener("input", (event) => {
    state.simplex.ratio[state.simplex.objective] = +event.target.value;
    change();
  });
  OUTCOMES.forEach((name, v) =>
    addProbability(
      "simplex-p",
      `simplex-p${v}`,
      name,
      (x) => {
        state.simplex.p = inside(withShare(state.simplex.p, v, x), LEAST);
      },
      `P of ${name}`,
    ),
  );
  const body = $("simplex-table").tBodies[0];
  const addRow = (id, name) => {
    const row = Object.assign(body.insertRow(), { id });
    return put(row, "th", { scope: "row", textContent: name });
  };
  addRow("simplex-of-p", "P").className = "p";
  addRow("simplex-of-q", "Q, the start").className = "q";
  NUMBERED.forEach((name, k) => {
    const head = addRow(
      `simplex-${name}`,
      `${k + 1} ${OBJECTIVES[name].short ?? OBJECTIVES[name].name}`,
    );
    put(head, "span", { id: `simplex-${name}-ratio`, className: "quiet" });
  });
  addHandle("q");
  addHandle("p");
}

const simplexToAddress = ({ objective, ratio, p, q }) => ({
  simplex: objective,
  ...(ratio[objective] === undefined ? {} : { "simplex.ratio": ratio[objective] }),
  "simplex.p": p.map((x) => +x.toFixed(4)),
  "simplex.q": q.map((x) => +x.toFixed(4)),
});

function simplexFromAddress(given) {
  const found = simplexDefaults(),
    objective = given.get("simplex");
  if (Object.hasOwn(OBJECTIVES, objective) || objective === ALL) found.objective = objective;
  const own = found.objective !== ALL && OBJECTIVES[found.objective].ratio;
  if (own)
    found.ratio[found.objective] = numberIn(given, "simplex.ratio", own.min, own.max, own.start);
  for (const which of ["p", "q"])
    found[which] = distributionIn(given, `simplex.${which}`, found[which], LEAST);
  return found;
}
