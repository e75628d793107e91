// ---- in the tree: the links from reverse CE to MixCE --------------------------------------------
//
// Reverse CE needs P itself. Four links lead to a loss that needs sentences of P only. Two of them
// are exact; the other two change the objective, and by how much depends on Q. Here each link's
// value, and the angle between its push on Q's table and that of reverse CE.

/** Every sentence of the tree: its steps {last, token, q}, and its probability under P and Q. */
function sentencesOf(q, last = 0, depth = 1) {
  return TREE.tokens.flatMap((_, token) => {
    const step = { last, token, q: q[last][token] };
    const p = TREE.p[last][token];
    if (token === 0 || depth + 1 === TREE.max_len) return [{ steps: [step], p, q: step.q }];
    return sentencesOf(q, token, depth + 1).map((rest) => ({
      steps: [step, ...rest.steps],
      p: p * rest.p,
      q: step.q * rest.q,
    }));
  });
}

/** Σ weight(sentence, step) ∇log q(step), as slopes in the logits of Q's table. */
function weightedSlopes(q, sentences, weight) {
  const slopes = TREE.tokens.map(() => TREE.tokens.map(() => 0));
  for (const sentence of sentences)
    for (const step of sentence.steps)
      q[step.last].forEach((share, v) => {
        slopes[step.last][v] += weight(sentence, step) * ((v === step.token ? 1 : 0) - share);
      });
  return slopes;
}

/** Value and slopes of every link, from reverse CE to MixCE at η = 0. */
function linksOf(q) {
  const all = sentencesOf(q);
  const overlap = sum(all.map((x) => x.p * x.q));
  const ofOverlap = weightedSlopes(q, all, (x) => -x.p * x.q);
  return {
    reverse: {
      value: sum(all.map((x) => -x.q * Math.log(x.p))),
      slopes: weightedSlopes(q, all, (x) => -x.q * Math.log(x.p)),
    },
    jensen: {
      value: -Math.log(overlap),
      slopes: ofOverlap.map((row) => row.map((slope) => slope / overlap)),
    },
    overlap: { value: -overlap, slopes: ofOverlap },
    tokens: {
      value: -sum(all.map((x) => x.p * sum(x.steps.map((step) => step.q)))),
      slopes: weightedSlopes(q, all, (x, step) => -x.p * step.q),
    },
  };
}

/** The angle between two tables of slopes, in degrees; null where one of them is all but zero. */
function angle(a, b) {
  const [x, y] = [a.flat(), b.flat()];
  const lengths = norm(x) * norm(y);
  if (lengths < 1e-18) return null;
  return (Math.acos(Math.max(-1, Math.min(1, dot(x, y) / lengths))) * 180) / Math.PI;
}

function showLinks() {
  const links = linksOf(state.tree.q);
  for (const [name, { value, slopes }] of Object.entries(links)) {
    const turned = angle(slopes, links.reverse.slopes);
    fillRow(`link-${name}`, [minus(value), turned === null ? "–" : `${turned.toFixed(0)}°`]);
  }
}
