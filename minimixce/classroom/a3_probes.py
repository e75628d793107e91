"""How the tasks of A3 are probed and run."""

import itertools
from collections.abc import Callable

import numpy as np

from .grader.arguments import TinyWorld, made
from .returns import WrongReturn, entry_of, gradients_of, two_of
from .signatures import Functions, Inputs, OneByOne, Outputs, Pair, Probe
from .tasks import rng_of

V, T = 4, 4


def _table(rng, v):
    """A row-stochastic table (v,v) and its logits."""
    logits = rng.standard_normal((v, v))
    e = np.exp(logits)
    return e / e.sum(axis=1, keepdims=True), logits


def _costs(rng, v):
    """−log P of a random table, with one impossible step, floored."""
    P, _ = _table(rng, v)
    if v > 2:
        P[1, 2] = 0
        P[1] /= P[1].sum()
    return -np.log(np.maximum(P, 1e-12))


def _rows(rng, horizon, v, n=9):
    """n sequences (n,horizon+1), from the empty one to those whose end is forced."""
    rows = np.full((n, horizon + 1), -1)
    rows[:, 0] = 0
    for i in range(n):
        length = i % horizon
        rows[i, 1 : length + 1] = rng.integers(1, v, length)
        rows[i, length + 1] = 0
    return rows


def log_prob_probes(seed: int) -> list[Probe]:
    """Sequences of all lengths; a horizon of 1."""
    rng = rng_of(seed, 31)

    def inputs(horizon, v):
        Q, _ = _table(rng, v)
        return {"log_q": np.log(Q), "rows": _rows(rng, horizon, v)}

    return [
        Probe("ordinary", inputs(T, 5)),
        Probe("degenerate", inputs(1, 3), "with a horizon of 1"),
    ]


def run_log_prob(functions: Functions, inputs: Inputs) -> Outputs:
    """log Q of all rows."""
    return {"log Q": functions.log_prob(inputs["log_q"], inputs["rows"])}


def sequences_probes(seed: int) -> list[Probe]:
    """Two sizes; a horizon of 1; a vocabulary of one ordinary token."""
    sizes = [("ordinary", 3, 5), ("degenerate", 4, 1), ("degenerate", 2, 3)]
    others = [Probe(kind, {"V": v, "T": t}, f"with V = {v}, T = {t}") for kind, v, t in sizes]
    return [Probe("ordinary", {"V": 4, "T": 4}), *others]


def run_sequences(functions: Functions, inputs: Inputs) -> Outputs:
    """All rows, sorted."""
    rows = np.asarray(functions.enumerate_sequences(inputs["V"], inputs["T"]))
    if rows.dtype.kind not in "iu":
        raise WrongReturn(f"enumerate_sequences returned {rows.dtype} where integers are wanted")
    if rows.ndim == 2:
        rows = rows[np.lexsort(rows.T[::-1])]
    return {"rows": rows}


def table_probes(seed: int) -> list[Probe]:
    """Logits and costs; tables that are nearly certain; a horizon of 1."""
    rng = rng_of(seed, 33)

    def inputs(horizon, scale=1.0):
        _, logits = _table(rng, V)
        logits *= scale
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        Q = e / e.sum(axis=1, keepdims=True)
        return {"logits": logits, "Q": Q, "cost": _costs(rng, V), "T": horizon}

    return [
        Probe("ordinary", inputs(T)),
        Probe("ordinary", inputs(2), "with a horizon of 2"),
        Probe("extreme", inputs(T, 15.0), "with tables that are nearly certain"),
        Probe("degenerate", inputs(1), "with a horizon of 1"),
    ]


def _listing(functions, logits, inputs, horizon):
    returned = functions.exact_reverse_ce(logits, inputs["cost"], horizon)
    return two_of("exact_reverse_ce", returned, "(R, dlogits)")


def run_listing(functions: Functions, inputs: Inputs) -> OneByOne:
    """R and its gradient, by listing."""
    yield from zip(("R", "dlogits"), _listing(functions, inputs["logits"], inputs, inputs["T"]))


def pair_listing(functions: Functions, inputs: Inputs) -> Pair:
    """R as a function of the logits."""

    def forward(logits):
        return _listing(functions, logits, inputs, inputs["T"])

    return forward, lambda dy, dlogits: (dy * dlogits,), {"logits": inputs["logits"]}


def horizon_of_one_gives_zero(functions: Functions, inputs: Inputs) -> str:
    """A property: where there is no choice, nothing is paid and every gradient is zero."""
    R, dlogits = _listing(functions, inputs["logits"], inputs, 1)
    return "" if R == 0 and not np.any(dlogits) else "R or its gradient is not 0 at a horizon of 1"


def run_to_go(functions: Functions, inputs: Inputs) -> Outputs:
    """The costs to go."""
    return {"U": functions.cost_to_go(inputs["Q"], inputs["cost"], inputs["T"])}


def run_tree(functions: Functions, inputs: Inputs) -> Outputs:
    """The gradient by costs to go."""
    return {"dlogits": functions.reverse_grad(inputs["Q"], inputs["cost"], inputs["T"])}


def model_probes(seed: int) -> list[Probe]:
    """A model whose logits depend on the whole prefix; a horizon of 2."""
    rng = rng_of(seed, 36)

    def inputs(horizon):
        return {"W": rng.standard_normal((V, V)), "cost": _costs(rng, V), "T": horizon}

    return [Probe("ordinary", inputs(T)), Probe("degenerate", inputs(2), "with a horizon of 2")]


def run_model(functions: Functions, inputs: Inputs) -> OneByOne:
    """R and the gradient of a linear model of the prefix."""
    logits_of, pull_back = made("prefix_model", inputs["W"])
    world = made("tiny_world", inputs["cost"])
    returned = functions.model_grad(logits_of, pull_back, world, inputs["T"])
    R, grads = two_of("model_grad", returned, "(R, grads)")
    yield "R", R
    yield "dW", entry_of("the grads of model_grad", grads, "W")


def pair_model(functions: Functions, inputs: Inputs) -> Pair:
    """R as a function of the model's parameters."""

    def forward(W):
        found = dict(run_model(functions, inputs | {"W": W}))
        return found["R"], found["dW"]

    return forward, lambda dy, dW: (dy * dW,), {"W": inputs["W"]}


def weights_probes(seed: int) -> list[Probe]:
    """Costs of nine samples, of two, and of single tokens."""
    rng = rng_of(seed, 37)

    def inputs(n, length):
        costs = rng.exponential(2.0, (n, length))
        drawn = np.arange(length) < 1 + np.arange(n)[:, None] % length
        return {"costs": np.where(drawn, costs, 0)}

    return [Probe("ordinary", inputs(9, 5)), Probe("degenerate", inputs(2, 1), "with two samples")]


def run_reinforce(functions: Functions, inputs: Inputs) -> OneByOne:
    """The weights of REINFORCE."""
    yield "weights of REINFORCE", functions.reinforce_weights(inputs["costs"])


def run_rloo(functions: Functions, inputs: Inputs) -> OneByOne:
    """The weights of RLOO."""
    yield "weights of RLOO", functions.rloo_weights(inputs["costs"])


def unbiased(reference: Callable[[], Functions], name: str) -> Callable[[Functions, Inputs], str]:
    """A property: over all pairs of samples, the expected estimate is the exact gradient."""

    def check(functions, inputs):
        rng = np.random.default_rng(5)
        Q, _ = _table(rng, 3)
        cost = -np.log(_table(rng, 3)[0])
        rows = reference().enumerate_sequences(3, 3)
        probability = np.exp(reference().log_prob(np.log(Q), rows))
        costs = TinyWorld(cost).token_costs(rows)
        scores = [_scores(row, Q) for row in rows]
        mean = np.zeros_like(Q)
        for i, p in enumerate(probability):
            for j, other in enumerate(probability):
                weights = getattr(functions, name)(costs[[i, j]])
                pair = zip((i, j), weights)
                estimate = sum(w * scores[k][t] for k, ws in pair for t, w in enumerate(ws))
                mean += p * other * estimate
        exact = reference().reverse_grad(Q, cost, 3)
        if np.allclose(mean, exact, rtol=1e-4, atol=1e-5):
            return ""
        return f"{name}: the expected estimate is not the exact gradient"

    return check


def _scores(row, Q):
    """∇log q of each token of a row that is drawn, in the logits, (V,V) each."""
    found = []
    for now, then in itertools.pairwise(row[:-1]):
        score = np.zeros_like(Q)
        if then >= 0:
            score[now] = -Q[now]
            score[now, then] += 1
        found.append(score)
    return found


def gumbel_probes(seed: int) -> list[Probe]:
    """Nine rows; logits that overflow, at a small τ; one row of two tokens; a vocabulary of one."""
    rng = rng_of(seed, 39)

    def inputs(logits, tau):
        noise = rng.uniform(0.02, 0.98, (2, *logits.shape))
        dy = rng.standard_normal(logits.shape)
        return {"logits": logits, "noise": noise, "tau": tau, "dy": dy}

    far = np.array([[1000.0, 1000.3, -1000.0], [0.0, -1000.0, 0.4], [-999.0, -1000.0, -1001.0]])
    return [
        Probe("ordinary", inputs(rng.standard_normal((9, 7)), 0.7)),
        Probe("extreme", inputs(far, 0.3), "with logits of ±1000 and a small τ"),
        Probe("degenerate", inputs(rng.standard_normal((1, 2)), 1.6), "with a single row"),
        Probe("degenerate", inputs(rng.standard_normal((2, 1)), 0.7), "with a vocabulary of one"),
    ]


def _gumbel(functions, logits, inputs, hard):
    draw = made("draw_from", inputs["noise"])
    returned = functions.gumbel_softmax_forward(logits, draw, inputs["tau"], hard)
    return two_of("gumbel_softmax_forward", returned)


def _gumbel_backward(functions, dy, cache):
    returned = functions.gumbel_softmax_backward(dy, cache)
    return gradients_of("gumbel_softmax_backward", returned, ("dlogits",))


def run_soft(functions: Functions, inputs: Inputs) -> OneByOne:
    """The soft sample of the noise, and the gradient through it."""
    y, cache = _gumbel(functions, inputs["logits"], inputs, False)
    yield "soft", y
    yield "dlogits of the soft", _gumbel_backward(functions, inputs["dy"], cache)[0]


def run_hard(functions: Functions, inputs: Inputs) -> OneByOne:
    """The hard sample of the same noise, and the gradient through it."""
    y, cache = _gumbel(functions, inputs["logits"], inputs, True)
    yield "hard", y
    yield "dlogits of the hard", _gumbel_backward(functions, inputs["dy"], cache)[0]


def pair_gumbel(functions: Functions, inputs: Inputs) -> Pair:
    """The soft sample as a function of the logits, with the same noise each time."""

    def forward(logits):
        return _gumbel(functions, logits, inputs, False)

    def backward(dy, cache):
        return _gumbel_backward(functions, dy, cache)

    return forward, backward, {"logits": inputs["logits"]}
