// ---- distributions over a few outcomes: what each objective is, and how it falls ----------------
//
// p, q: arrays of probabilities, P's and Q's. All logarithms are natural: values are in nats.

const sum = (x) => x.reduce((total, v) => total + v, 0);
const dot = (x, y) => x.reduce((total, v, i) => total + v * y[i], 0);
const norm = (x) => Math.sqrt(dot(x, x));
const timesLog = (x, y) => (x > 0 ? x * Math.log(y) : 0); // 0 log 0 is 0
const entropy = (x) => -x.reduce((total, v) => total + timesLog(v, v), 0);
const crossEntropy = (x, y) => -x.reduce((total, v, i) => total + timesLog(v, y[i]), 0);
const kl = (x, y) => crossEntropy(x, y) - entropy(x);
const mix = (share, x, y) => x.map((v, i) => share * v + (1 - share) * y[i]);

function softmax(z) {
  const top = Math.max(...z); // it cancels, and without it e^z may overflow
  const e = z.map((v) => Math.exp(v - top));
  const total = sum(e);
  return e.map((v) => v / total);
}

// Every objective has a loss(p, q, ratio), and weight(p, q, ratio): for each outcome, its
// probability q times the slope of the loss in q, which is the slope in log q.
// `limit` says at which ratio it is maximum likelihood.
const ETA = { symbol: "η", min: 0.01, max: 1, start: 0.5, limit: "η = 1 is MLE" };
const OBJECTIVES = {
  forward_ce: {
    name: "Forward CE",
    about: "maximum likelihood, −Σ p log q",
    family: "forward",
    loss: crossEntropy,
    weight: (p) => p.map((x) => -x),
  },
  forward_kl: {
    name: "Forward KL",
    about: "KL(P‖Q), the same up to H(P)",
    family: "forward",
    sameAs: "forward_ce",
    loss: kl,
    weight: (p) => p.map((x) => -x),
  },
  reverse_ce: {
    name: "Reverse CE",
    about: "−Σ q log p",
    family: "reverse",
    loss: (p, q) => crossEntropy(q, p),
    weight: (p, q) => q.map((y, v) => -y * Math.log(p[v])),
  },
  reverse_kl: {
    name: "Reverse KL",
    about: "KL(Q‖P) = reverse CE − H(Q)",
    family: "reverse",
    loss: (p, q) => kl(q, p),
    weight: (p, q) => q.map((y, v) => (y > 0 ? y * Math.log(y / p[v]) : 0)),
  },
  overlap: {
    name: "Overlap",
    about: "−Σ p q",
    family: "reverse",
    loss: (p, q) => -dot(p, q),
    weight: (p, q) => p.map((x, v) => -x * q[v]),
  },
  two_kls: {
    name: "Two KLs",
    about: "η KL(P‖Q) + (1−η) KL(Q‖P)",
    family: "mixed",
    ratio: ETA,
    loss: (p, q, eta) => eta * kl(p, q) + (1 - eta) * kl(q, p),
    weight: (p, q, eta) => mix(eta, weightOf("forward_kl", p, q), weightOf("reverse_kl", p, q)),
  },
  mixce_star: {
    name: "MixCE*",
    about: "η forward CE + (1−η) reverse CE",
    family: "mixed",
    ratio: ETA,
    loss: (p, q, eta) => eta * crossEntropy(p, q) + (1 - eta) * crossEntropy(q, p),
    weight: (p, q, eta) => mix(eta, weightOf("forward_ce", p, q), weightOf("reverse_ce", p, q)),
  },
  mixce: {
    name: "MixCE",
    about: "−Σ p (η log q + (1−η) q)",
    family: "mixed",
    ratio: { ...ETA, start: 0.2 },
    loss: (p, q, eta) => eta * crossEntropy(p, q) - (1 - eta) * dot(p, q),
    weight: (p, q, eta) => p.map((x, v) => -x * (eta + (1 - eta) * q[v])),
  },
  tailr: {
    name: "TaiLr",
    about: "−Σ p log(γ + (1−γ) q) / (1−γ)",
    family: "mixed",
    ratio: { symbol: "γ", min: 0, max: 0.99, start: 0.1, limit: "γ = 0 is MLE" },
    loss: (p, q, gamma) =>
      crossEntropy(
        p,
        q.map((y) => gamma + (1 - gamma) * y),
      ) /
      (1 - gamma),
    weight: (p, q, gamma) => p.map((x, v) => (-x * q[v]) / (gamma + (1 - gamma) * q[v])),
  },
  js: {
    name: "Jensen–Shannon",
    short: "JS",
    about: "η KL(P‖M) + (1−η) KL(Q‖M), M = ηP + (1−η)Q",
    family: "mixed",
    ratio: { ...ETA, max: 0.99, limit: "always least at Q = P" },
    loss: (p, q, eta) => eta * kl(p, mix(eta, p, q)) + (1 - eta) * kl(q, mix(eta, p, q)),
    weight(p, q, eta) {
      const m = mix(eta, p, q);
      return q.map((y, v) => (y > 0 ? (1 - eta) * y * Math.log(y / m[v]) : 0));
    },
  },
};

const lossOf = (name, p, q, ratio) => OBJECTIVES[name].loss(p, q, ratio);
const weightOf = (name, p, q, ratio) => OBJECTIVES[name].weight(p, q, ratio);

/** ∂loss/∂logits, where q = softmax(logits): w − q Σ w. */
function gradientOf(name, p, q, ratio) {
  const w = weightOf(name, p, q, ratio);
  const total = sum(w);
  return w.map((x, v) => x - q[v] * total);
}

/**
 * The way down from `start`: gradient descent in the logits with very short steps, so short that
 * the path is the flow's, dz/dt = −∂loss/∂z. A step moves q by at most 0.01, and is halved until
 * the loss falls. -> the points q on the way; the last is where it ends, or all but ends.
 */
function descend(name, p, start, ratio) {
  const path = [start];
  let z = start.map(Math.log);
  for (let step = 0; step < 600; step++) {
    const q = path.at(-1);
    const next = stepDown(name, p, z, q, ratio);
    if (!next) break;
    z = next.z;
    path.push(next.q);
    if (Math.max(...next.q) > 0.9995) break; // in a corner, which it reaches only in the limit
  }
  return path;
}

/** One step of `descend`: the new z and q, or null where the loss falls no more. */
function stepDown(name, p, z, q, ratio) {
  const slope = gradientOf(name, p, q, ratio);
  const speed = norm(q.map((y, v) => y * (slope[v] - dot(q, slope)))); // of q, as z moves
  const loss = lossOf(name, p, q, ratio);
  let length = Math.min(0.01 / speed, 0.5 / norm(slope));
  for (let halving = 0; halving < 40 && Number.isFinite(length); halving++, length /= 2) {
    // The slope half-way makes the path bend where the flow bends (the midpoint rule).
    const middle = softmax(z.map((x, v) => x - (length / 2) * slope[v]));
    const halfway = gradientOf(name, p, middle, ratio);
    const newZ = z.map((x, v) => x - length * halfway[v]);
    const newQ = softmax(newZ);
    if (lossOf(name, p, newQ, ratio) < loss - 1e-13) return { z: newZ, q: newQ };
  }
  return null;
}
