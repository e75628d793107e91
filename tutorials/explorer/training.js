// ---- view: a bigram trained in the page ---------------------------------------------------------
//
// Two bigrams start alike, knowing nothing, and are trained side by side on the same data: one by
// maximum likelihood, one by MixCE. A bigram is a table, a row of logits for each last token. In
// expectation over P its loss is a sum over the rows, where the "p" of a row are the numbers of
// times that P goes from this token to each other: the objectives of distributions.js as they are.

const { counts, tokens_of, vocabulary } = NUMBERS.training;
const LAST_STEP = 400;
const RATE = 2;
const TRAINED = { mle: 1, mixce: null }; // the η of each; MixCE's is the reader's

const blankTable = () => vocabulary.map(() => vocabulary.map(() => 0));
const trainingDefaults = () => ({ eta: 0.1, step: 0, mle: blankTable(), mixce: blankTable() });

/** The loss of a table of logits, in expectation over P, and its slopes. */
function tableLoss(z, eta) {
  const rows = z.map(softmax);
  return {
    loss: sum(rows.map((q, s) => lossOf("mixce", counts[s], q, eta))),
    slopes: rows.map((q, s) => gradientOf("mixce", counts[s], q, eta)),
  };
}

/** One step of gradient descent for both tables. */
function trainOnce() {
  const now = state.training;
  for (const [name, fixed] of Object.entries(TRAINED)) {
    const { slopes } = tableLoss(now[name], fixed ?? now.eta);
    now[name] = now[name].map((row, s) => row.map((x, v) => x - RATE * slopes[s][v]));
  }
  now.step += 1;
}

/** The probability that a table gives to each sentence; the last is "anything else". */
function sentencesUnder(z) {
  const q = z.map(softmax);
  const follow = (tokens) =>
    tokens.reduce((product, token, t) => product * q[t ? tokens[t - 1] : 0][token], 1);
  const known = tokens_of.map(follow);
  return [...known, Math.max(0, 1 - sum(known))];
}

// ---- running ----

let running = 0; // the frame that will train on, or 0

function runTraining() {
  if (running) return stopTraining();
  if (state.training.step >= LAST_STEP) restartTraining();
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return finishTraining();
  const go = () => {
    trainOnce();
    running = state.training.step < LAST_STEP ? requestAnimationFrame(go) : 0;
    change();
  };
  running = requestAnimationFrame(go);
  showTraining();
}

function stopTraining() {
  cancelAnimationFrame(running);
  running = 0;
  showTraining();
}

function finishTraining() {
  while (state.training.step < LAST_STEP) trainOnce();
  change();
}

function restartTraining() {
  stopTraining();
  state.training = { ...trainingDefaults(), eta: state.training.eta };
  change();
}

// ---- picture, table and words ----

function showTraining() {
  const { eta, step, mle, mixce } = state.training;
  const q = { mle: sentencesUnder(mle), mixce: sentencesUnder(mixce) };
  drawSentences("training-bars", [
    ["p", NUMBERS.p],
    ["c", q.mle],
    ["q", q.mixce],
  ]);
  setRange("training-eta", 0.01, 1, eta);
  $("training-eta-value").textContent = eta.toFixed(2);
  $("training-run").textContent = running ? "Pause" : "Train";
  $("training-mixce-name").textContent = `MixCE, η = ${eta.toFixed(2)}`;
  const possible = (values) => sum(values.slice(0, NUMBERS.valid));
  const surprise = (z) => minus(tableLoss(z, 1).loss);
  fillRow("training-step", [step, step]);
  fillRow("training-loss", [surprise(mle), surprise(mixce)]);
  fillRow("training-valid", [percent(possible(q.mle)), percent(possible(q.mixce))]);
  if (!running) announce("training-says", sayTraining(possible(q.mle), possible(q.mixce)));
}

function sayTraining(mle, mixce) {
  const { eta, step } = state.training;
  if (!step) return "Both bigrams know nothing: every token is as likely as every other.";
  const parts = [
    `After ${step} steps, ${percent(mle)} of what the MLE bigram writes is possible ` +
      `under P, and ${percent(mixce)} of what the MixCE bigram writes.`,
  ];
  if (eta === 1) parts.push("η = 1 is MLE: they are the same.");
  else if (step >= LAST_STEP) parts.push("MixCE pays for that with a loss −log q that is higher.");
  return parts.join(" ");
}

// ---- starting, and the address ----

function startTraining() {
  $("training-run").addEventListener("click", runTraining);
  $("training-again").addEventListener("click", restartTraining);
  $("training-eta").addEventListener("input", (event) => {
    state.training.eta = +event.target.value;
    restartTraining();
  });
}

const trainingToAddress = ({ eta }) => ({ training: eta });

function trainingFromAddress(given) {
  return { ...trainingDefaults(), eta: numberIn(given, "training", 0.01, 1, 0.1) };
}
