// ---- the page: its state, its address, and what starts it ---------------------------------------

const VIEWS = {
  simplex: {
    start: startSimplex,
    show: showSimplex,
    defaults: simplexDefaults,
    toAddress: simplexToAddress,
    fromAddress: simplexFromAddress,
  },
  tree: {
    start: startTree,
    show: showTree,
    defaults: treeDefaults,
    toAddress: treeToAddress,
    fromAddress: treeFromAddress,
  },
  context: {
    start: startContext,
    show: showContext,
    defaults: contextDefaults,
    toAddress: contextToAddress,
    fromAddress: contextFromAddress,
  },
  sentences: {
    start: startSentences,
    show: showSentences,
    defaults: sentencesDefaults,
    toAddress: sentencesToAddress,
    fromAddress: sentencesFromAddress,
  },
  training: {
    start: startTraining,
    show: showTraining,
    defaults: trainingDefaults,
    toAddress: trainingToAddress,
    fromAddress: trainingFromAddress,
  },
};

// A lesson embeds one view: explorer.html?view=simplex. Without that the page has them all.
const asked = new URLSearchParams(location.search).get("view") ?? "";
const SHOWN = Object.hasOwn(VIEWS, asked) ? [asked] : Object.keys(VIEWS);

let state = {}; // of every view, by its name

// ---- the address: #simplex=mixce&simplex.p=0.5,0.3,0.2&objective=tailr&gamma=0.1 and so on ------

/** What differs from a page just opened, of the views that it has. */
function toAddress() {
  const parts = [];
  for (const view of SHOWN) {
    const plain = VIEWS[view].toAddress(VIEWS[view].defaults());
    const entries = Object.entries(VIEWS[view].toAddress(state[view]));
    if (JSON.stringify(entries) === JSON.stringify(Object.entries(plain))) continue;
    parts.push(...entries.map(([key, value]) => `${key}=${value}`));
  }
  return "#" + parts.join("&");
}

/** The state that an address describes; what is missing or wrong keeps its default. */
function fromAddress(address) {
  const given = new URLSearchParams(address.slice(1));
  return Object.fromEntries(
    Object.entries(VIEWS).map(([name, view]) => [name, view.fromAddress(given)]),
  );
}

function numberIn(given, key, min, max, otherwise) {
  const x = parseFloat(given.get(key));
  return x >= min && x <= max ? x : otherwise;
}

/** A distribution of as many probabilities as `otherwise`, none below `least`. */
function distributionIn(given, key, otherwise, least = 0) {
  const x = (given.get(key) || "").split(",").map(parseFloat);
  const usable = x.length === otherwise.length && x.every((v) => v >= 0 && v < 1e9) && sum(x) > 0;
  return usable
    ? inside(
        x.map((v) => v / sum(x)),
        least,
      )
    : otherwise;
}

/** The same distribution with no probability below `least`. */
function inside(x, least) {
  if (Math.min(...x) >= least) return x;
  const kept = x.map((share) => Math.max(least, share));
  return kept.map((share) => share / sum(kept));
}

let writing;
function writeAddress() {
  // not at every move of a slider: browsers limit how often
  clearTimeout(writing);
  writing = setTimeout(() => history.replaceState(null, "", toAddress() || "#"), 150);
}

// ---- wiring -------------------------------------------------------------------------------------

const drawn = {}; // the state that each view was last drawn with

/** Draws the views whose state has changed, or all. */
function show(all = false) {
  for (const view of SHOWN) {
    const now = JSON.stringify(state[view]);
    if (!all && drawn[view] === now) continue;
    drawn[view] = now;
    VIEWS[view].show();
  }
}

function change() {
  show();
  writeAddress();
}

/** #tree, or #tree=reverse_kl…, also brings that view to sight. */
function goTo(address) {
  const first = address.slice(1).split(/[=&]/)[0];
  if (SHOWN.length > 1 && Object.hasOwn(VIEWS, first)) $(first).scrollIntoView();
}

function start() {
  for (const section of document.querySelectorAll("section"))
    section.hidden = !SHOWN.includes(section.id);
  document.body.classList.toggle("alone", SHOWN.length === 1);
  for (const view of SHOWN) VIEWS[view].start();
  addEventListener("hashchange", () => {
    clearTimeout(writing);
    state = fromAddress(location.hash);
    show();
    goTo(location.hash);
  });
  addEventListener("resize", () => show(true));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(true));
  state = fromAddress(location.hash);
  show();
  goTo(location.hash);
}

start();
