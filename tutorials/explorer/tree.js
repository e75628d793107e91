// ---- view: the prefix tree ----------------------------------------------------------------------
//
// Q writes one token at a time, so all that it can write is a tree. A node is a prefix h; its cost
// to go U(h) is what Q will pay on average from there on. It is a sum over the children:
//
//     U(h) = Σ Q(v|h) (c(v|h) + U(hv))
//
// and the slope of U(root), the objective, in the logits after h needs the same three numbers:
//
//     Q(h) Q(v|h) (c(v|h) + U(hv) − U(h))

const TREE = NUMBERS.tree; // tokens, P's table of next-token probabilities, the horizon
const ROWS = ["start", ...TREE.tokens.slice(1)];
const COSTS = {
  reverse_ce: {
    name: "Reverse CE",
    about: "R, a token costs −log P(v|h)",
    cost: (p) => -Math.log(p),
  },
  reverse_kl: {
    name: "Reverse KL",
    about: "KL(Q‖P), it costs log Q(v|h) − log P(v|h)",
    cost: (p, q) => Math.log(q) - Math.log(p),
  },
};
const LEAST_Q = 1e-4; // log Q stays finite

const treeDefaults = () => ({
  objective: "reverse_kl",
  q: TREE.tokens.map(() => [0.3, 0.35, 0.35]),
  node: "",
  steps: 0,
});

/**
 * The tree below a prefix, with everything computed on the way back up. q: Q's table, a row for
 * each last token. -> {prefix, last, reach: Q(prefix), costToGo, children}; a child is {token, q,
 * cost, node, slope}, and its node is null where the text has ended, by "." or at the horizon.
 */
function grow(q, cost, prefix = [], reach = 1) {
  const last = prefix.at(-1) ?? 0;
  const children = TREE.tokens.map((_, token) => {
    const share = q[last][token];
    const ended = token === 0 || prefix.length + 2 === TREE.max_len;
    const node = ended ? null : grow(q, cost, [...prefix, token], reach * share);
    return { token, q: share, cost: cost(TREE.p[last][token], share), node };
  });
  const costToGo = sum(children.map((child) => child.q * toPay(child)));
  for (const child of children) child.slope = reach * child.q * (toPay(child) - costToGo);
  return { prefix, last, reach, costToGo, children };
}

const toPay = ({ cost, node }) => cost + (node ? node.costToGo : 0);
const nodesOf = (node) => [
  node,
  ...node.children.flatMap((child) => (child.node ? nodesOf(child.node) : [])),
];

/** ∂U(root)/∂logits of Q's table: a row's slopes, added over all prefixes that end in its token. */
function tableGradient(root) {
  const total = TREE.tokens.map(() => TREE.tokens.map(() => 0));
  for (const { last, children } of nodesOf(root))
    children.forEach(({ slope }, v) => {
      total[last][v] += slope;
    });
  return total;
}

/** One step of gradient descent on Q's table. */
function stepDownTree() {
  const { q, objective } = state.tree,
    rate = 0.5;
  const gradient = tableGradient(grow(q, COSTS[objective].cost));
  const logits = q.map((row, s) => row.map((x, v) => Math.log(x) - rate * gradient[s][v]));
  state.tree.q = logits.map((row) => inside(softmax(row), LEAST_Q));
  state.tree.steps += 1;
}

// ---- the picture ----

const treeHeight = 15 * 27 + 40;
const idOf = (prefix) => `node-${prefix.join("")}`;
const wordsOf = (prefix) => (prefix.length ? prefix.map((v) => TREE.tokens[v]).join(" ") : "start");

function showTree() {
  const root = grow(state.tree.q, COSTS[state.tree.objective].cost);
  const chosen = nodesOf(root).find((node) => node.prefix.join("") === state.tree.node) ?? root;
  drawTree(root, chosen);
  showTreeControls();
  showSumOfChildren(chosen);
  showLinks();
  const value = root.costToGo.toFixed(3),
    { name } = COSTS[state.tree.objective];
  const steps = state.tree.steps ? ` after ${state.tree.steps} steps downhill` : "";
  announce("tree-says", `${name}${steps}: U(start) = ${value} nats. ${sayNode(chosen)}`);
}

function drawTree(root, chosen) {
  const svg = $("tree-picture");
  const width = fit(svg, treeHeight),
    columns = TREE.max_len - 1;
  const hadFocus = svg.contains(document.activeElement);
  svg.replaceChildren();
  const edges = draw(svg, "g", { role: "presentation" }),
    nodes = draw(svg, "g", { role: "presentation" });
  const x = (depth) => 34 + (depth * (width - 34 - 62)) / columns;
  let leaves = 0;
  const place = (node, depth) => {
    // leaves from top to bottom, a node in the middle of its own
    const ends = node.children.map((child) =>
      child.node ? place(child.node, depth + 1) : { x: x(depth + 1), y: 30 + 27 * leaves++ },
    );
    const here = { x: x(depth), y: sum(ends.map((end) => end.y)) / ends.length };
    node.children.forEach((child, v) =>
      drawEdge(edges, here, ends[v], node, child, node === chosen),
    );
    drawNode(nodes, here, node, node === chosen);
    return here;
  };
  place(root, 0);
  if (hadFocus) $(idOf(chosen.prefix)).focus();
}

/** A curve from a node to a child, as wide as Q often goes there. */
function drawEdge(box, from, to, node, child, chosen) {
  const bend = (to.x - from.x) / 2;
  const d = `M${from.x},${from.y}C${from.x + bend},${from.y} ${to.x - bend},${to.y} ${to.x},${to.y}`;
  const push = chosen ? pushOf(child.slope) : "";
  const width = 1 + 11 * node.reach * child.q;
  draw(box, "path", { d, class: `edge ${push}`, "stroke-width": width.toFixed(2) });
  if (!child.node) drawLeaf(box, to, node, child);
  if (chosen || child.node) nameEdge(box, from, to, child, push);
}

/** The token and Q of it, above an edge that goes up and below one that goes down. */
function nameEdge(box, from, to, child, push) {
  const y = to.y > from.y + 12 ? to.y + 17 : to.y - 7;
  const text = `${TREE.tokens[child.token]} ${child.q.toFixed(2).replace(/^0/, "")}`;
  const at = {
    x: to.x - (child.node ? 23 : 10),
    y,
    class: `edge-name ${push}`,
    "text-anchor": "end",
  };
  draw(box, "text", at, push ? `${text} ${MARKS[push]}` : text);
}

function drawLeaf(box, { x, y }, node, child) {
  draw(box, "rect", { x: x - 3, y: y - 3, width: 6, height: 6, class: "leaf" });
  const text = [...node.prefix, child.token]
    .filter((v) => v)
    .map((v) => TREE.tokens[v])
    .join(" ");
  draw(box, "text", { x: x + 8, y: y + 4, class: "text" }, text ? `${text} .` : ".");
}

function drawNode(box, { x, y }, node, chosen) {
  const { prefix, reach, costToGo } = node;
  const item = draw(box, "g", {
    id: idOf(prefix),
    class: `node${chosen ? " chosen" : ""}`,
    transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`,
    role: "treeitem",
    tabindex: chosen ? 0 : -1,
    "aria-level": prefix.length + 1,
    "aria-selected": chosen,
    "aria-label":
      `${wordsOf(prefix)}: reached with probability ${reach.toFixed(2)}, ` +
      `cost to go ${minus(costToGo, 2)} nats`,
  });
  draw(item, "circle", { r: 18, class: "body" });
  draw(item, "circle", { r: (17 * Math.sqrt(reach)).toFixed(1), class: "reach" });
  draw(item, "text", { y: 4, class: "cost" }, minus(costToGo, 2));
  const choose = () => chooseNode(prefix.join(""));
  item.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && choose());
  item.addEventListener("click", choose);
  item.addEventListener("focus", choose);
  item.addEventListener("keydown", (event) => walk(event, prefix));
}

function chooseNode(node) {
  if (state.tree.node === node) return;
  state.tree.node = node;
  change();
}

/** Arrow keys as in any tree: right to the first child, left to the parent, up and down between. */
function walk(event, prefix) {
  const all = nodesOf(grow(state.tree.q, COSTS[state.tree.objective].cost)).map(
    (node) => node.prefix,
  );
  const here = all.findIndex((other) => other.join("") === prefix.join(""));
  const child = prefix.length + 2 < TREE.max_len ? [...prefix, 1] : null;
  const goal = {
    ArrowRight: child,
    ArrowLeft: prefix.length ? prefix.slice(0, -1) : null,
    ArrowUp: all[here - 1],
    ArrowDown: all[here + 1],
    Home: all[0],
    End: all.at(-1),
  }[event.key];
  if (!goal) return;
  event.preventDefault();
  $(idOf(goal)).focus();
}

// ---- the sum of the children, and the controls ----

function showSumOfChildren({ prefix, last, reach, costToGo, children }) {
  const h = wordsOf(prefix);
  $("tree-node").textContent = `After “${h}”, which Q reaches with probability ${reach.toFixed(3)}`;
  const body = $("tree-table").tBodies[0];
  body.replaceChildren();
  const addRow = (name, cells) => {
    const row = body.insertRow();
    put(row, "th", { scope: "row", textContent: name });
    for (const textContent of cells) put(row, "td", { textContent });
    return row;
  };
  for (const child of children) {
    const { token, q, cost, node, slope } = child;
    const toGo = node ? minus(node.costToGo) : "0";
    const push = pushOf(slope) ? `${MARKS[pushOf(slope)]} ${signed(-slope, 3)}` : "0";
    const share = minus(q * toPay(child));
    const p = TREE.p[last][token].toFixed(3);
    addRow(token ? TREE.tokens[token] : ". (the end)", [
      p,
      q.toFixed(3),
      minus(cost),
      toGo,
      share,
      push,
    ]);
  }
  addRow(`U(${h})`, ["", "", "", "", minus(costToGo), "0"]).className = "chosen";
}

const MARKS = { up: "▲", down: "▼" };

/** What descent does to a child: "up" where it is cheaper than the mean, "down", or "". */
const pushOf = (slope) => (Math.abs(slope) < 5e-5 ? "" : slope < 0 ? "up" : "down");

function sayNode({ prefix, costToGo, children }) {
  const raised = children.filter(({ slope }) => pushOf(slope) === "up");
  const names = list(raised.map(({ token }) => `“${TREE.tokens[token]}”`));
  const h = wordsOf(prefix);
  const mean = `U(${h}) = ${minus(costToGo)}`;
  if (!raised.length) return `After “${h}” every token costs the mean, ${mean}: nothing moves.`;
  const rest = raised.length > 1 ? "which cost less than that" : "which costs less than that";
  return (
    `After “${h}” the mean of what is to pay is ${mean}. Descent raises ${names}, ${rest}, ` +
    "and lowers the rest."
  );
}

function showTreeControls() {
  check("tree", state.tree.objective);
  state.tree.q.forEach((row, s) => row.forEach((x, v) => showProbability(`tree-q${s}${v}`, x)));
}

function startTree() {
  addChoices("tree-objectives", "tree", Object.entries(COSTS), (value) => {
    Object.assign(state.tree, { objective: value, steps: 0 });
  });
  ROWS.forEach((name, s) => {
    const where = s ? `after “${name}”` : "at the start";
    const box = put($("tree-q"), "fieldset", { id: `tree-row${s}` });
    put(box, "legend", { textContent: where, className: "quiet" });
    TREE.tokens.forEach((token, v) =>
      addProbability(
        box.id,
        `tree-q${s}${v}`,
        token,
        (x) => {
          state.tree.q[s] = inside(withShare(state.tree.q[s], v, x), LEAST_Q);
          state.tree.steps = 0;
        },
        `Q of “${token}” ${where}`,
      ),
    );
  });
  $("tree-step").addEventListener("click", () => {
    stepDownTree();
    change();
  });
  $("tree-steps").addEventListener("click", () => {
    for (let k = 0; k < 20; k++) stepDownTree();
    change();
  });
  $("tree-again").addEventListener("click", () => {
    state.tree = { ...treeDefaults(), objective: state.tree.objective };
    change();
  });
}

const treeToAddress = ({ objective, q, node }) => ({
  tree: objective,
  "tree.q": q.flat().map((x) => +x.toFixed(4)),
  ...(node ? { "tree.node": node } : {}),
});

function treeFromAddress(given) {
  const found = treeDefaults();
  if (Object.hasOwn(COSTS, given.get("tree"))) found.objective = given.get("tree");
  const numbers = (given.get("tree.q") || "").split(",").map(parseFloat),
    n = TREE.tokens.length;
  if (numbers.length === n * n && numbers.every((x) => x >= 0 && x <= 1))
    found.q = TREE.tokens.map((_, s) => inside(numbers.slice(n * s, n * s + n), LEAST_Q));
  if (/^[12]{1,2}$/.test(given.get("tree.node") || "")) found.node = given.get("tree.node");
  return found;
}
