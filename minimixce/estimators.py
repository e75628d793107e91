"""Estimates of reverse cross-entropy and reverse KL, and of their gradients, from samples; and the
study of their errors.

Every estimator takes samples, never draws, and returns loss (0-d float64, nats per sequence) and
grads {name: array}. With C(x) = −log P(x) for objective "reverse_ce" and
C(x) = log Q(x) − log P(x) for "reverse_kl", P floored per token, each token of sample i moves
log q_t up by some weight a_t:   gradient = mean_i Σ_t a_t ∇ log q_t.

| estimator    | a_t                                   | unbiased?                                |
| reinforce    | C(x)                                  | yes                                      |
| reward_to_go | Σ_{s≥t} c_s, costs from this token on | yes: earlier costs do not depend on it   |
| rloo         | C(x) − mean of the other samples' C   | yes: others do not depend on it; n ≥ 2   |
| k1           | 1 for reverse_kl, 0 for reverse_ce    | no: its expectation is zero              |
| k2           | log Q(x) − log P(x)                   | yes, for reverse_kl; per token no        |
| k3           | 1 − P(x)/Q(x)                         | no: the other KL's gradient; per token   |
|              |                                       | neither's                                |
| importance   | (Q(x)/P(x)) C(x), samples of P        | no, where P has zeros that Q has not     |
| gumbel       | not of this form: through the samples | no: the soft derivative of a hard choice |
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import backend, exact
from .automaton import World
from .logprob import chosen, log_mixture, log_softmax, times_log
from .model import LanguageModel, complete_grads
from .objectives import OBJECTIVES, check_objective_ratio
from .storage.shapes import Array, ArrayModule, Bool, Float, Grads, Int, LossAndGrads, Rows, Seed
from .storage.validate import check_finite, check_integer


def sample(model: LanguageModel, n: int, max_len: int, seed: Seed = 0) -> Rows:
    """n sequences of Q, the boundary forced at max_len -> rows (n, max_len+1) int64.

    Rows are laid out the way worlds sample them, on the model's device. seed: an integer or a
    backend.rng generator. Raises ValueError for n < 1 and for a horizon the model is too short for.

    >>> mm.estimators.sample(mm.TableBigram(6, device="cpu"), 2, max_len=4, seed=0).tolist()
    [[0, 3, 0, -1, -1], [0, 1, 0, -1, -1]]
    """
    xp = model.xp
    check_integer("n", n)
    check_integer("max_len", max_len)
    if n < 1 or not 1 <= max_len <= model.config.block_size + 1:
        raise ValueError(
            f"n must be at least 1 and max_len in 1 … block_size + 1, got {n} and {max_len}"
        )
    tokens = model.generate(xp.zeros((n, 1), dtype=int), max_len - 1, stop=0, seed=seed)
    rows = xp.concatenate([tokens, xp.zeros((n, 1), dtype=tokens.dtype)], axis=1)
    boundaries_so_far = xp.cumsum(rows == 0, axis=1)
    return xp.where(boundaries_so_far > 2, -1, rows)  # the first starts the row, the second ends it


# ---- from weights of tokens to gradients ---------------------------------------------------------


class Scored(NamedTuple):
    """Rows (n, max_len+1) under Q and P: arrays (n,T), T = max_len−1, 0 where nothing is drawn."""

    is_target: Bool[Array, "n T"]
    targets: Int[Array, "n T"]  # −1 read as 0
    log_q: Float[Array, "n T"]
    log_p: Float[Array, "n T"]  # −inf where impossible
    cost: Float[Array, "n T"]  # c of each token, of the objective
    # log Q(·|h) before each token, (n,T,V); None at a horizon of 1
    log_q_next: Float[Array, "n T V"] | None
    cache: Any


def score(model: LanguageModel, world: World, rows: Rows, objective: str) -> Scored:
    """Rows (n, max_len+1) under Q and P -> Scored.

    model: a LanguageModel, whose distribution is Q; world: a World, P, of the same vocabulary;
    rows: samples, laid out the way worlds sample them, on the model's device; objective:
    "reverse_ce" or "reverse_kl", which says what tokens cost. Raises TypeError or ValueError for
    other arguments.
    """
    cost_of_tokens = _check_objective(objective)
    _check_vocabulary(model, world)
    xp = model.xp
    inputs, targets = world.batch(rows)
    is_target = targets >= 0
    log_p = world.token_log_probs(rows)
    floored = world.token_log_probs(rows, floored=True)
    log_q, log_q_next, cache = log_p, None, None  # at a horizon of 1 nothing is chosen
    if inputs.shape[1]:
        logits, cache = model.forward(inputs)
        log_q_next = log_softmax(logits)
        log_q = chosen(log_q_next, targets)
    cost = cost_of_tokens(log_q, floored)
    targets = xp.where(is_target, targets, 0)
    return Scored(is_target, targets, log_q, log_p, cost, log_q_next, cache)


def pull_back(
    model: LanguageModel, scored: Scored, weights: Float[Array, "n T"] | Float[Array, "n 1"]
) -> Grads:
    """weights (n,T) or (n,1), held fixed -> grads of mean_i Σ_t weight · log q_t.

    scored: what score said of n rows under the model; it serves once.
    """
    xp, (n, T) = model.xp, scored.targets.shape
    if T == 0:
        return complete_grads({}, model)
    weights = xp.where(scored.is_target, weights, 0) / n
    dlogits = -weights[:, :, None] * xp.exp(scored.log_q_next)
    dlogits[xp.arange(n)[:, None], xp.arange(T), scored.targets] += weights
    return model.backward(dlogits.astype(_dtype(model)), scored.cache)


# ---- the estimators ------------------------------------------------------------------------------


def reinforce(
    model: LanguageModel, world: World, rows: Rows, *, objective: str = "reverse_ce"
) -> LossAndGrads:
    """REINFORCE (Williams 1992): each token is weighted by the cost of its whole sequence.

    rows (n, max_len+1): samples of Q. Unbiased, since ∇E_Q[C] = E_Q[C ∇log Q] + E_Q[∇C] and E_Q[∇C]
    = E_Q[∇log Q] = 0; but every token pays for the luck of all the others. Arguments and errors: as
    for score.
    """
    s = score(model, world, rows, objective)
    total = s.cost.sum(axis=1)
    return total.mean(), pull_back(model, s, total[:, None])


def reward_to_go(
    model: LanguageModel, world: World, rows: Rows, *, objective: str = "reverse_ce"
) -> LossAndGrads:
    """REINFORCE with each token weighted by the costs from it on.

    rows (n, max_len+1): samples of Q. Unbiased: given the tokens before it, E[∇log q_t] = 0, so
    what those cost contributes nothing but variance. Arguments and errors: as for score.
    """
    s = score(model, world, rows, objective)
    to_go = s.cost[:, ::-1].cumsum(axis=1)[:, ::-1]
    return s.cost.sum(axis=1).mean(), pull_back(model, s, to_go)


def rloo(
    model: LanguageModel,
    world: World,
    rows: Rows,
    *,
    objective: str = "reverse_ce",
    eta: float = 0.5,
) -> LossAndGrads:
    """REINFORCE with a leave-one-out baseline (Kool et al. 2019).

    rows (n, max_len+1): at least two samples of Q; each is weighted by how much worse it is than
    the mean of the others. Unbiased, because the others are independent of it. Also for objective
    "js", with C = (1−η) log(Q/M): the gradient is all of js's, though the value is only its part
    under Q. eta: the ratio η of js. Other arguments and errors: as for score; ValueError for one
    sample.

    >>> model, world = mm.TableBigram(6, device="cpu"), mm.worlds.agreement()
    >>> rows = mm.estimators.sample(model, 64, max_len=4, seed=0)
    >>> loss, grads = mm.estimators.rloo(model, world, rows, objective="reverse_ce")
    """
    if len(rows) < 2:
        raise ValueError(
            f"rloo needs at least 2 samples, one of which is left out, got {len(rows)}"
        )
    s, total = score_sequences(model, world, rows, objective, eta)
    others = (total.sum() - total) / (len(rows) - 1)
    return total.mean(), pull_back(model, s, (total - others)[:, None])


def score_sequences(
    model: LanguageModel, world: World, rows: Rows, objective: str, eta: float
) -> tuple[Scored, Float[Array, " n"]]:
    """Rows (n, max_len+1) -> Scored, and C of each row (n,) for an objective of rloo's."""
    _check_objective_or_js(objective, eta)
    s = score(model, world, rows, "reverse_kl" if objective == "js" else objective)
    if objective != "js":
        return s, s.cost.sum(axis=1)
    log_q, log_p = s.log_q.sum(axis=1), s.log_p.sum(axis=1)
    return s, (1 - eta) * _cost_and_slopes("js", eta, log_q, log_p, model.xp)[0]


def k1(
    model: LanguageModel, world: World, rows: Rows, *, objective: str = "reverse_kl"
) -> LossAndGrads:
    """The sample mean of C, differentiated as if the samples were given.

    rows (n, max_len+1): samples of Q. Biased: its gradient has expectation 0 (for reverse_ce it is
    0), because how the samples come about is left out. Its value is unbiased. Arguments and errors:
    as for score.
    """
    s = score(model, world, rows, objective)
    weight = 1.0 if objective == "reverse_kl" else 0.0
    weights = model.xp.full(s.cost.shape, weight)
    return s.cost.sum(axis=1).mean(), pull_back(model, s, weights)


def k2(model: LanguageModel, world: World, rows: Rows, *, per: str = "sequence") -> LossAndGrads:
    """½ (log Q − log P)² as a loss on samples of Q, for KL(Q‖P).

    rows (n, max_len+1). per="sequence": the gradient is REINFORCE's, unbiased; its value is not KL.
    per="token", summed: biased, since it misses what a token does to later costs. Arguments and
    errors: as for score.
    """
    _check_per(per)
    s = score(model, world, rows, "reverse_kl")
    difference = s.cost if per == "token" else s.cost.sum(axis=1, keepdims=True)
    return (difference**2).sum(axis=1).mean() / 2, pull_back(model, s, difference)


def k3(model: LanguageModel, world: World, rows: Rows, *, per: str = "sequence") -> LossAndGrads:
    """P/Q − 1 − log(P/Q) as a loss on samples of Q, for KL(Q‖P).

    rows (n, max_len+1). The value is unbiased (except for the floor where P = 0); the gradient is
    biased: per="sequence", its expectation is the gradient of the other divergence, KL(P‖Q);
    per="token", it is neither's. Arguments and errors: as for score.
    """
    _check_per(per)
    s = score(model, world, rows, "reverse_kl")
    log_ratio, difference = s.log_p - s.log_q, s.cost
    if per == "sequence":
        log_ratio = log_ratio.sum(axis=1, keepdims=True)
        difference = difference.sum(axis=1, keepdims=True)
    ratio = model.xp.exp(log_ratio)  # 0 where P = 0
    return (ratio - 1 + difference).sum(axis=1).mean(), pull_back(model, s, 1 - ratio)


def importance(
    model: LanguageModel, world: World, rows: Rows, *, objective: str = "reverse_ce"
) -> LossAndGrads:
    """Samples of P weighted by Q/P.

    rows (n, max_len+1): samples of P. Biased where P has zeros: it never sees what P never
    produces, which is what reverse cross-entropy punishes. Unbiased, with a variance that grows
    with length, where P has none. Arguments and errors: as for score.
    """
    s = score(model, world, rows, objective)
    weight = model.xp.exp((s.log_q - s.log_p).sum(axis=1))
    weighted = times_log(weight, s.cost.sum(axis=1), model.xp)
    return weighted.mean(), pull_back(model, s, weighted[:, None])


# ---- Gumbel-softmax ------------------------------------------------------------------------------


def gumbel_noise(
    n: int, max_len: int, vocab_size: int, seed: Seed = 0, xp: ArrayModule = np
) -> Float[Array, "{max_len}-1 {n} {vocab_size}"]:
    """Standard Gumbel noise -> (max_len−1, n, V) float64.

    argmax(logits + noise) is a sample of softmax(logits). vocab_size: V; seed: an integer or a
    backend.rng generator; xp: the array module, NumPy by default.
    """
    return -xp.log(-xp.log(1 - backend.rng(seed, xp).random((max_len - 1, n, vocab_size))))


def gumbel(
    model: LanguageModel,
    world: World,
    noise: Iterable[Float[Array, "n V"]],
    *,
    objective: str = "reverse_ce",
    eta: float = 0.5,
    tau: float = 1.0,
) -> LossAndGrads:
    """Gumbel-softmax, straight-through (Jang et al. 2017): the noise decides the samples.

    noise: an array (max_len−1, n, V) of gumbel_noise, or any other iterable of steps (n,V); on the
    CPU it is read until every sequence has ended. Forward a token is the hard choice argmax(logits
    + noise). Backward it is softmax((logits + noise)/τ), and derivatives flow through the cost of
    each token and through its embedding as the next input; not through the state of the world nor
    the end of a sequence, which is how the paper's code does it. Biased, more at a large τ; a small
    τ pays with variance. objective "js" is the part of js that samples of Q give, E_Q[log(Q/M)]
    with M = η P + (1−η) Q. Raises ValueError for a bad objective, η or τ. model, world: as for
    score; eta: η of js; tau: τ.
    """
    _check_objective_or_js(objective, eta)
    _check_vocabulary(model, world)
    if not tau > 0:
        raise ValueError(f"tau must be a positive number, got {tau}")
    steps, log_q, log_p = _gumbel_forward(model, world, noise)
    if not steps:  # a horizon of 1
        return model.xp.zeros(()), complete_grads({}, model)
    cost, by_log_q, by_log_p = _cost_and_slopes(objective, eta, log_q, log_p, model.xp)
    grads = _gumbel_backward(model, steps, by_log_q[:, None], by_log_p[:, None], tau)
    return cost.mean(), complete_grads(grads, model)


class _Step(NamedTuple):
    """One token of n sequences."""

    cache: Any
    log_q_next: Float[Array, "n V"]  # (n,V)
    log_p_next: Float[Array, "n V"]  # (n,V), floored
    noise: Float[Array, "n V"]  # (n,V)
    choice: Float[Array, "n V"]  # one-hot (n,V)
    alive: Float[Array, "n 1"]  # (n,1), 1 where the sequence has not ended before


def _gumbel_forward(model, world, noise):
    """-> a list of _Step, log Q and log P (floored) of the sequences, (n,)."""
    xp, tables, steps = model.xp, world.tables(model.xp), []
    one_hot, dtype, past = xp.eye(world.vocab_size), _dtype(model), None
    for g in noise:
        check_finite("noise", g)
        if past is None:
            x = xp.zeros(len(g), dtype=int)
            state = xp.zeros(len(g), dtype=int)
            log_q, log_p, alive = xp.zeros(len(g)), xp.zeros(len(g)), xp.ones((len(g), 1))
        elif xp is np and not alive.any():
            break
        logits, past, cache = model.extend_forward(one_hot[x][:, None].astype(dtype), past)
        log_q_next = log_softmax(logits[:, 0])
        log_p_next = tables.log_p_floored[state]
        x = (log_q_next + g).argmax(axis=1)
        log_q = log_q + (alive * _finite(log_q_next, xp) * one_hot[x]).sum(axis=1)
        log_p = log_p + (alive * log_p_next * one_hot[x]).sum(axis=1)
        steps.append(_Step(cache, log_q_next, log_p_next, g, one_hot[x], alive))
        alive = alive * (x > 0)[:, None]
        state = tables.next_state[state, x]
    return (steps, log_q, log_p) if steps else (steps, None, None)


def _finite(log_q, xp):
    """log q with 0 for −inf: of tokens that are never chosen, softly or not."""
    return xp.where(log_q > -math.inf, log_q, 0)


def _gumbel_backward(model, steps, by_log_q, by_log_p, tau):
    """by_log_q, by_log_p (n,1): slopes of the cost in log Q and log P -> grads. Empties `steps`."""
    xp, dtype, n = model.xp, _dtype(model), len(by_log_q)
    grads, dpast, dchoice = {}, None, 0.0
    while steps:
        cache, log_q_next, log_p_next, g, choice, alive = steps.pop()
        soft = xp.exp(log_softmax((log_q_next + g) / tau))
        by_token = by_log_q * _finite(log_q_next, xp) + by_log_p * log_p_next
        dchoice = dchoice + alive * by_token / n
        dlogits = soft * (dchoice - (soft * dchoice).sum(axis=1, keepdims=True)) / tau
        dlogits += alive * by_log_q * (choice - xp.exp(log_q_next)) / n
        dlogits = dlogits[:, None].astype(dtype)
        dx, dpast, grads = model.extend_backward(dlogits, dpast, cache, grads)
        dchoice = dx[:, 0]
    return grads


def _cost_and_slopes(objective, eta, log_q, log_p, xp):
    """Cost of whole sequences and its slopes in log Q and in log P, each (n,)."""
    one = xp.ones(log_q.shape)
    if objective == "js":
        log_m = log_mixture(log_p, log_q, eta, xp)
        share_of_p = xp.exp(math.log(eta) + log_p - log_m)  # in M
        return log_q - log_m, share_of_p, -share_of_p
    cost = OBJECTIVES[objective].cost(log_q, log_p)
    return cost, one if objective == "reverse_kl" else 0 * one, -one


def _dtype(model):
    return next(iter(model.params.values())).dtype


def _check_objective_or_js(objective, eta):
    """Raise ValueError for an objective, or an η of js, that has no estimate."""
    if objective == "js":
        check_objective_ratio("js", eta)
    else:
        _check_objective(objective)


def _check_objective(objective):
    """The cost of an objective's tokens (Objective.cost), or ValueError."""
    if objective not in OBJECTIVES or OBJECTIVES[objective].cost is None:
        allowed = " or ".join(f'"{name}"' for name, row in OBJECTIVES.items() if row.cost)
        raise ValueError(f"objective must be {allowed}, got {objective!r}")
    return OBJECTIVES[objective].cost


def _check_vocabulary(model, world):
    if model.config.vocab_size != world.vocab_size:
        raise ValueError(
            f"model and world must share a vocabulary, got {model.config.vocab_size} and "
            f"{world.vocab_size} tokens"
        )


def _check_per(per):
    if per not in ("sequence", "token"):
        raise ValueError(f'per must be "sequence" or "token", got {per!r}')


# ---- the study -----------------------------------------------------------------------------------

_OF_BOTH = {
    "reinforce": reinforce,
    "reward_to_go": reward_to_go,
    "rloo": rloo,
    "importance": importance,
    "k1": k1,
}
_OF_KL = {
    "k2": lambda m, w, rows, objective: k2(m, w, rows),
    "k2 per token": lambda m, w, rows, objective: k2(m, w, rows, per="token"),
    "k3": lambda m, w, rows, objective: k3(m, w, rows),
    "k3 per token": lambda m, w, rows, objective: k3(m, w, rows, per="token"),
}


def study(
    model: LanguageModel,
    world: World,
    max_len: int,
    *,
    objective: str = "reverse_ce",
    sizes: Sequence[int] = (4, 16, 64),
    repeats: int = 200,
    taus: Sequence[float] = (1.0, 0.1),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The errors of every estimator against the exact gradient g of `objective`.

    For each number n of `sizes`, `repeats` (R) fresh draws give estimates ĝ with mean ḡ -> a list
    of dicts, one an estimator and n, with, over ‖g‖²: mse = mean ‖ĝ − g‖², variance = tr Cov(ĝ),
    bias2 = ‖ḡ − g‖² − tr Cov(ĝ)/R (the correction makes it unbiased, so it can come out below
    zero), each with its standard error (mse_se, …); the standard deviation and bias as roots (std,
    bias, relative to ‖g‖); and z, the largest |z| of ḡ − g along 16 fixed random directions. gumbel
    comes once per τ of `taus`. Raises ValueError where the exact gradient cannot be had or is zero.
    model, world, max_len: as for loss_and_grads, whose gradient is taken; seed: of all draws.
    """
    _check_objective(objective)
    if repeats < 2 or min(sizes) < 2:
        raise ValueError(f"repeats and sizes must be at least 2, got {repeats} and {tuple(sizes)}")
    _, grads = exact.loss_and_grads(model, world, max_len, objective=objective)
    g = _flat(grads)
    if (needed := 8 * len(g) * repeats * (len(_OF_BOTH) + len(_OF_KL) + len(taus))) > 4e9:
        raise ValueError(
            f"the estimates would take {needed / 1e9:.0f} GB; choose a smaller model or fewer"
            f" repeats (now {repeats})"
        )
    if not np.isfinite(g).all():
        raise ValueError("the exact gradient is not finite here; look at the model's parameters")
    if not (g * g).sum() > 0:
        raise ValueError(
            "the exact gradient is zero here, so errors relative to it are not defined"
        )
    found = []
    for n in sizes:
        estimates: dict[str, list[Array]] = {}
        for r in range(repeats):
            drawn = _estimates(model, world, max_len, objective, n, taus, (seed, n, r))
            for name, estimate in drawn:
                estimates.setdefault(name, []).append(_flat(estimate))
        found += [
            {"estimator": name, "n": n, **_errors(np.array(e), g, seed)}
            for name, e in estimates.items()
        ]
    return found


def format_study(rows: list[dict[str, Any]]) -> str:
    """The rows that `study` found, as a table to print."""
    lines = [f"{'estimator':<16}{'n':>5}{'mse':>20}{'variance':>20}{'bias²':>20}"]
    for row in rows:
        line = f"{row['estimator']:<16}{row['n']:>5}"
        for name in ("mse", "variance", "bias2"):
            cell = f"{row[name]:.3g} ± {row[name + '_se']:.1g}"
            line += f"{cell:>20}"
        lines.append(line)
    return "\n".join(lines)


def _estimates(model, world, max_len, objective, n, taus, seed):
    """Every estimator's (name, grads) on one draw; all that take samples of Q see the same."""
    of_q, of_p, of_noise = (int(s) for s in np.random.SeedSequence(seed).generate_state(3))
    rows = sample(model, n, max_len, of_q)
    for name, estimator in (_OF_BOTH | (_OF_KL if objective == "reverse_kl" else {})).items():
        drawn = model.xp.asarray(world.sample(n, max_len, of_p)) if name == "importance" else rows
        yield name, estimator(model, world, drawn, objective=objective)[1]
    noise = gumbel_noise(n, max_len, world.vocab_size, of_noise, model.xp)
    for tau in taus:
        yield f"gumbel τ={tau:g}", gumbel(model, world, noise, objective=objective, tau=tau)[1]


def _errors(estimates, g, seed):
    """estimates (R,D), g (D,) -> bias, variance and mean squared error over ‖g‖², with standard
    errors.
    """
    R, scale = len(estimates), (g * g).sum()
    mean = estimates.mean(axis=0)
    centred, bias = estimates - mean, mean - g
    squares = (centred**2).sum(axis=1) * R / (R - 1)
    errors = ((estimates - g) ** 2).sum(axis=1)
    variance = squares.mean()
    # Var(‖ḡ − g‖²) of a nearly normal ḡ is 4 bᵀ Cov b / R + 2 tr(Cov²) / R².
    along = ((centred @ bias) ** 2).sum() / (R - 1)
    trace_of_square = ((centred @ centred.T) ** 2).sum() / (R - 1) ** 2
    directions = np.random.default_rng(seed).standard_normal((len(g), 16))
    projections = (estimates - g) @ directions
    spread = projections.std(axis=0, ddof=1)
    z = np.abs(projections.mean(axis=0)) / np.where(spread > 0, spread / np.sqrt(R), 1)
    found = {
        "mse": errors.mean() / scale,
        "mse_se": errors.std(ddof=1) / np.sqrt(R) / scale,
        "variance": variance / scale,
        "variance_se": squares.std(ddof=1) / np.sqrt(R) / scale,
        "bias2": ((bias**2).sum() - variance / R) / scale,
        "bias2_se": np.sqrt(4 * along / R + 2 * trace_of_square / R**2) / scale,
        "z": z.max(),
    }
    found |= {"std": np.sqrt(found["variance"]), "bias": np.sqrt(max(found["bias2"], 0.0))}
    return {name: float(value) for name, value in found.items()}


def _flat(grads):
    return np.concatenate(
        [backend.to_numpy(g).astype("float64").reshape(-1) for g in grads.values()]
    )
