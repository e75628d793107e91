// ---- view: whole sentences ----------------------------------------------------------------------
//
// Q is a bigram, which cannot represent P. Where each objective is least was computed by the
// package when this page was built.

const SEQUENCE = {
  mle: { name: "MLE", about: "F = −E<sub>P</sub> log Q" },
  mixce: { name: "MixCE", about: "token by token", symbol: "η", limit: "η = 1 is MLE" },
  tailr: { name: "TaiLr", about: "token by token", symbol: "γ", limit: "γ = 0 is MLE" },
  two_kls: {
    name: "Two KLs",
    about: "η KL(P‖Q) + (1−η) KL(Q‖P)",
    symbol: "η",
    limit: "η = 1 is MLE",
  },
  mixce_star: { name: "MixCE*", about: "η F + (1−η) R", symbol: "η", limit: "η = 1 is MLE" },
  reverse_kl: { name: "Reverse KL", about: "KL(Q‖P) = R − H(Q)" },
  reverse_ce: { name: "Reverse cross-entropy", about: "R = −E<sub>Q</sub> log P" },
};

function saySentences(q, measures) {
  const { name, symbol, limit } = SEQUENCE[state.sentences.objective],
    ratio = state.sentences.at[state.sentences.objective];
  const isMLE = ratio === (state.sentences.objective === "tailr" ? 0 : 1),
    invalid = 1 - measures.validity;
  const mle = 1 - optimumOf("mle").measures.validity;
  const parts = [
    symbol
      ? isMLE
        ? `${limit}.`
        : `${name} at ${symbol} = ${ratio.toFixed(2)} (${limit}).`
      : `${name}.`,
  ];
  parts.push(
    invalid < 0.0005
      ? "Practically nothing that Q writes is impossible"
      : `${percent(invalid)} of what Q writes is impossible under P`,
  );
  parts[1] +=
    state.sentences.objective === "mle" || isMLE
      ? ", since after “here” it has forgotten the number."
      : ` (MLE: ${percent(mle)}).`;
  const lost = NUMBERS.p
    .map((_, i) => i)
    .filter((i) => i < NUMBERS.valid && q[i] < NUMBERS.p[i] / 20);
  const quoted = list(lost.map((i) => `“${NUMBERS.sentences[i]}”`));
  if (lost.length)
    parts.push(`It gives up ${quoted}${lost.every((i) => q[i] === 0) ? " entirely" : ""}.`);
  if (state.sentences.objective === "reverse_ce")
    parts.push(
      "All mass is on the likeliest sentences, of which there are two. Every other " +
        "split between them is as good; the even one is shown.",
    );
  if (state.sentences.objective === "reverse_kl")
    parts.push(
      "The others keep P’s proportions. KL(P‖Q) is finite only because the cost of " +
        "an impossible token is.",
    );
  return parts.join(" ");
}

/** Bars for the probability of every sentence. series: [kind, values], from top to bottom. */
function drawSentences(id, series) {
  const row = (innerWidth < 640 ? 12 : 16) * series.length + 10;
  const head = 20;
  const bottom = head + NUMBERS.sentences.length * row;
  const { add, width } = canvas(id, bottom + 8);
  const left = 122;
  const right = 48;
  const x = (value) => left + (value / mostLikely()) * (width - left - right);
  shadeImpossible(add, { width, right: width - right, top: head + NUMBERS.valid * row, bottom });
  for (let i = 0; i / 5 <= mostLikely() + 1e-9; i++) {
    const at = x(i / 5);
    add("line", { x1: at, x2: at, y1: head, y2: bottom, class: i ? "axis" : "zero" });
    const text = i ? (i / 5).toFixed(1) : "0";
    add("text", { x: at, y: head - 7, "text-anchor": "middle" }, text);
  }
  NUMBERS.sentences.forEach((sentence, i) => {
    const y = head + i * row;
    add("text", { x: 6, y: y + row / 2 + 5, class: "sentence" }, sentence);
    const bar = (row - 10) / series.length;
    series.forEach(([kind, values], k) => {
      const top = y + 5 + bar * k;
      const size = { width: Math.max(0, x(values[i]) - x(0)), height: bar - 2 };
      add("rect", { x: x(0), y: top, ...size, class: `bar-${kind}` });
      const at = { x: width - 4, y: top + bar / 2 + 4, "text-anchor": "end" };
      const name = `value-${kind}${bar < 14 ? " small" : ""}`;
      add("text", { ...at, class: name }, number(values[i]));
    });
  });
}

function shadeImpossible(add, { width, right, top, bottom }) {
  add("rect", { x: 0, y: top, width, height: bottom - top, class: "impossible" });
  const at = { x: right - 6, y: bottom - 8, "text-anchor": "end", class: "on-shade" };
  add("text", at, "impossible under P");
}

/** The end of the scale: the largest probability of a sentence at any optimum, rounded up. */
function mostLikely() {
  const optima = Object.values(NUMBERS.optima).flat();
  return Math.ceil(10 * Math.max(...optima.flatMap((optimum) => optimum.slice(0, 7)))) / 10;
}

/** What was computed of an objective's optimum at the state's ratio: q of sentences, measures. */
function optimumOf(name) {
  const grid = NUMBERS.ratios[name],
    row = NUMBERS.optima[name][grid ? nearest(grid, state.sentences.at[name]) : 0];
  const [validity, forward_kl, reverse_kl, entropy_q] = row.slice(7);
  return { q: row.slice(0, 7), measures: { validity, forward_kl, reverse_kl, entropy_q } };
}

function showSentences() {
  check("sentences", state.sentences.objective);
  const own = SEQUENCE[state.sentences.objective],
    { q, measures } = optimumOf(state.sentences.objective),
    mle = optimumOf("mle").measures;
  $("at-box").hidden = !own.symbol;
  if (own.symbol) {
    const grid = NUMBERS.ratios[state.sentences.objective];
    setRange("at", grid[0], grid.at(-1), state.sentences.at[state.sentences.objective]);
    $("at-name").textContent = `${own.symbol} (${own.limit})`;
    $("at-value").textContent = state.sentences.at[state.sentences.objective].toFixed(2);
  }
  announce("sentences-say", saySentences(q, measures));
  $("measured-name").textContent = own.symbol
    ? `Q, ${own.symbol} = ${state.sentences.at[state.sentences.objective].toFixed(2)}`
    : "Q";
  fillRow("validity", [percent(1), percent(mle.validity), percent(measures.validity)]);
  fillRow("forward_kl", ["0", nats(mle.forward_kl), nats(measures.forward_kl)]);
  fillRow("reverse_kl", ["0", nats(mle.reverse_kl), nats(measures.reverse_kl)]);
  fillRow("entropy_q", [nats(NUMBERS.entropy_p), nats(mle.entropy_q), nats(measures.entropy_q)]);
  drawSentences("sentences-bars", [
    ["p", NUMBERS.p],
    ["q", q],
  ]);
}

// ---- starting, and the address ----

const sentencesDefaults = () => ({
  objective: "mle",
  at: { mixce: 0.1, tailr: 0.1, two_kls: 0.5, mixce_star: 0.5 },
});

function startSentences() {
  const choose = (value) => {
    state.sentences.objective = value;
  };
  const choices = Object.entries(SEQUENCE);
  addChoices("needs-samples", "sentences", choices.slice(0, 3), choose);
  addChoices("needs-p", "sentences", choices.slice(3), choose);
  const measures = {
    validity: "validity",
    forward_kl: "KL(P‖Q), nats",
    reverse_kl: "KL(Q‖P), nats",
    entropy_q: "entropy, nats",
  };
  for (const [id, name] of Object.entries(measures)) {
    const row = Object.assign($("measures").tBodies[0].insertRow(), { id });
    put(row, "th", { scope: "row", textContent: name });
  }
  $("at").addEventListener("input", (event) => {
    state.sentences.at[state.sentences.objective] = +event.target.value;
    change();
  });
  $("floor").textContent =
    "Validity: the probability that what Q writes is possible under P. In KL(Q‖P) an impossible " +
    `token costs ${-NUMBERS.log_p_floor} nats, where the true cost is infinite.`;
}

const sentencesToAddress = ({ objective, at }) => ({
  sentences: objective,
  ...(objective in at ? { at: at[objective] } : {}),
});

function sentencesFromAddress(given) {
  const found = sentencesDefaults(),
    objective = given.get("sentences");
  if (Object.hasOwn(SEQUENCE, objective ?? "")) found.objective = objective;
  const grid = NUMBERS.ratios[found.objective];
  if (grid) {
    const at = numberIn(given, "at", grid[0], grid.at(-1), found.at[found.objective]);
    found.at[found.objective] = grid[nearest(grid, at)];
  }
  return found;
}

/** The place of the number in `grid` that is nearest to x. */
const nearest = (grid, x) =>
  grid.reduce((best, value, i) => (Math.abs(value - x) < Math.abs(grid[best] - x) ? i : best), 0);
