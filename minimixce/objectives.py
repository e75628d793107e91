"""What is minimised: losses on tokens, quantities of whole sequences, and the table of them all.

**On tokens.** (logits, targets, …) -> (loss, dlogits), in one pass over the logits. Every loss
except EMO is a sum of f(q_t) over targets, q_t = Q(x_t | x_<t), and its gradient is MLE's times a
weight w(q_t):

    ∂L/∂logits_t = w(q_t) · (softmax − onehot(x_t)) / N,    w(q) = −q f′(q)

| objective          | w(q)              | f(q)                      | limits          |
| mle                | 1                 | −log q                    |                 |
| mixce(η)           | η + (1−η) q       | −η log q − (1−η) q        | η = 1 is MLE    |
| mixce_surrogate(η) | the same          | −(η + (1−η) sg[q]) log q  | η = 1 is MLE    |
| tailr(γ)           | q / (γ + (1−γ) q) | −log(γ + (1−γ) q) / (1−γ) | γ = 0 is MLE,   |
|                    |                   |                           | γ = 1 MixCE(0)  |

Shapes for all: logits (…,V), targets (…) integers, −1 ignored -> loss 0-d (nats per target),
dlogits (…,V). `normalizer` replaces N, the number of targets: give the count of a whole batch when
it comes in parts, and losses and gradients of the parts add up to those of the batch.
reduction="none" returns the loss f and the weight w of every target, both of targets' shape and 0
where ignored.

**On whole sequences**, for sums over all of them (exact.py), in nats per sequence:

| objective  | value                                        | w(x) = ∂/∂log Q(x) |
| forward_ce | F = −E_P log Q                               | −P                 |
| reverse_ce | R = −E_Q log P                               | −Q log P           |
| mixce_star | η F + (1−η) R                                |                    |
| forward_kl | KL(P‖Q) = F − H(P)                           | −P                 |
| reverse_kl | KL(Q‖P) = R − H(Q)                           | Q (log Q − log P)  |
| two_kls    | η KL(P‖Q) + (1−η) KL(Q‖P)                    |                    |
| js         | η KL(P‖M) + (1−η) KL(Q‖M), M = η P + (1−η) Q | (1−η) Q log(Q/M)   |
| overlap    | −Σ P Q                                       | −P Q               |

An objective is added in one place: a function here and a row of OBJECTIVES, at the end.
Sources: MixCE, Zhang et al., ACL 2023; TaiLr, Ji et al., ICLR 2023; EMO, Ren et al., ICLR 2024.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .backend import array_module
from .logprob import log_mixture, minus, times_log
from .storage.validate import check_ratio

# ---- losses on tokens ----------------------------------------------------------------------------


def mle(logits, targets, *, normalizer=None, reduction="mean"):
    """Maximum likelihood, the forward cross-entropy: −log q.

    logits (…,V), targets (…) integers, −1 ignored -> loss (0-d, nats per target), dlogits (…,V).
    normalizer: the number to divide by in place of the count of targets. reduction="none" returns
    loss and weight of every target. Raises TypeError or ValueError for arrays that do not fit.
    """
    return token_objective(logits, targets, _mle, None, normalizer, reduction)


def _mle(log_q, ratio, xp):
    return -log_q, xp.ones_like(log_q)


def mixce(logits, targets, *, eta=0.5, normalizer=None, reduction="mean"):
    """MixCE: −η log q − (1−η) q with the ratio 0 ≤ η ≤ 1 (η = 1 is MLE).

    Zhang et al. 2023, eq. 7. Arguments, shapes and errors as for mle.
    """
    check_ratio("eta", eta)
    return token_objective(logits, targets, _mixce, eta, normalizer, reduction)


def _mixce(log_q, eta, xp):
    q = xp.exp(log_q)
    return -eta * log_q - (1 - eta) * q, eta + (1 - eta) * q


def mixce_surrogate(logits, targets, *, eta=0.5, normalizer=None, reduction="mean"):
    """MixCE the way the reference code writes it: −(η + (1−η) sg[q]) log q (η = 1 is MLE).

    sg stops the gradient: the weight is taken at the current logits and then held fixed. So the
    gradient is mixce's, but the value is another, and dlogits is NOT the derivative of that value:
    a numerical check of it fails, and should. Arguments, shapes and errors as for mle.
    """
    check_ratio("eta", eta)
    return token_objective(logits, targets, _mixce_surrogate, eta, normalizer, reduction)


def _mixce_surrogate(log_q, eta, xp):
    w = eta + (1 - eta) * xp.exp(log_q)
    return -w * log_q, w


def tailr(logits, targets, *, gamma=0.1, normalizer=None, reduction="mean"):
    """TaiLr: w = q / (γ + (1−γ) q) with the ratio 0 ≤ γ ≤ 1.

    γ = 0 is MLE, γ = 1 has the gradient of MixCE at η = 0. Ji et al. 2023, eq. 8, without its lower
    clamp on w. Arguments, shapes and errors as for mle.
    """
    check_ratio("gamma", gamma)
    return token_objective(logits, targets, _tailr, gamma, normalizer, reduction)


def _tailr(log_q, gamma, xp):
    log_gamma = math.log(gamma) if gamma > 0 else -math.inf
    log_rest = math.log1p(-gamma) if gamma < 1 else -math.inf
    # log(γ + (1−γ) q), exactly log q at γ = 0
    log_mix = xp.logaddexp(xp.full_like(log_q, log_gamma), log_rest + log_q)
    if gamma == 1:
        f = -xp.expm1(log_q)  # the limit, 1 − q
    elif gamma > 0.5:
        # the same f in a form that is exact also where 1−γ is tiny
        f = -xp.log1p((1 - gamma) * xp.expm1(log_q)) / (1 - gamma)
    else:
        f = -log_mix / (1 - gamma)
    return f, xp.exp(log_q - log_mix)


def token_objective(logits, targets, f_and_w, ratio, normalizer=None, reduction="mean"):
    """The pass that all token objectives except EMO share -> loss, dlogits.

    f_and_w(log_q, ratio, xp) gives loss and weight of every target from log q, all (N,).
    The other arguments, shapes and errors are mle's.
    """
    xp = _check(logits, targets, reduction)
    y, is_target, row = _flat_targets(targets, xp)
    log_q, probs = _log_q_and_softmax(logits, y, row, xp)
    f, w = f_and_w(log_q, ratio, xp)
    if reduction == "none":
        return _per_token(f, w, is_target, targets, xp)
    scale = _scale(is_target, normalizer, log_q.dtype, xp)  # 1/N, and 0 where ignored
    loss = xp.asarray((f * scale).sum())
    w = w * scale
    dlogits = probs
    dlogits *= w[:, None]
    dlogits[row, y] -= w  # w (softmax − onehot) / N
    return loss, dlogits.reshape(logits.shape)


def emo(logits, targets, cost_embedding, *, normalizer=None, reduction="mean"):
    """EMO, an upper bound of the earth mover distance: ½ (−log q + sg[−log q / d] d).

    Ren et al. 2024, eq. 9. d = Σ_v q(v) (1 − cos(e_v, e_target)) is the cost of moving Q's mass to
    the target, with the rows e of cost_embedding (V,C), of logits' dtype, held fixed and brought to
    unit norm; the target's own cost is exactly 0 and the ratio is read as 0 where d is. The value
    equals MLE's; only the gradient differs. With reduction="none" the weight is the pull on the
    target's own logit in units of MLE's, −∂L/∂logit_target / (1 − q), which for the other
    objectives is w(q). The other arguments, shapes and errors are mle's.
    """
    xp = _check(logits, targets, reduction)
    y, is_target, row = _flat_targets(targets, xp)
    cost = _transport_cost(cost_embedding, logits, y, row, xp)
    log_q, probs = _log_q_and_softmax(logits, y, row, xp)
    d = (probs * cost).sum(axis=-1)
    ratio = xp.where(d > 0, -log_q / xp.where(d > 0, d, 1), 0)
    if reduction == "none":
        rest = -xp.expm1(log_q)  # 1 − q
        safe = xp.where(rest > 0, rest, 1)
        pull = 0.5 + 0.5 * xp.where(rest > 0, ratio * d * xp.exp(log_q) / safe, 1)
        return _per_token(-log_q, pull, is_target, targets, xp)
    scale = 0.5 * _scale(is_target, normalizer, log_q.dtype, xp)
    loss = xp.asarray((-2 * scale * log_q).sum())
    # ∂/∂z_v of −log q is q_v − 1[v = target]; of d it is q_v (cost_v − d).
    dlogits = probs * (1 + ratio[:, None] * (cost - d[:, None]))
    dlogits[row, y] -= 1
    dlogits *= scale[:, None]
    return loss, dlogits.reshape(logits.shape)


def _transport_cost(cost_embedding, logits, y, row, xp):
    """1 − cos(e_v, e_target) for every token v and target, (N,V)."""
    V = logits.shape[-1]
    if cost_embedding.ndim != 2 or len(cost_embedding) != V:
        raise ValueError(f"cost_embedding must have shape ({V}, C), got {cost_embedding.shape}")
    if cost_embedding.dtype != logits.dtype:
        raise TypeError(
            f"cost_embedding must be {logits.dtype} like logits, got {cost_embedding.dtype}"
        )
    norm = xp.sqrt(xp.square(cost_embedding).sum(axis=-1, keepdims=True))
    unit = cost_embedding / xp.maximum(norm, np.finfo(norm.dtype).tiny)
    cost = 1 - unit[y] @ unit.T
    # Equal embeddings differ by rounding only, which is no distance.
    cost = xp.where(cost > 8 * np.finfo(cost.dtype).eps, cost, 0)
    cost[row, y] = 0
    return cost


def _log_q_and_softmax(logits, y, row, xp):
    """log q of the targets (N,), and the whole softmax (N,V), which becomes dlogits in place."""
    z = logits.reshape(-1, logits.shape[-1])
    z = z - z.max(axis=-1, keepdims=True)
    log_q = z[row, y]
    xp.exp(z, out=z)
    total = z.sum(axis=-1)
    z /= total[:, None]
    return log_q - xp.log(total), z


def _flat_targets(targets, xp):
    """targets (…) -> ids (N,), ignored ones read as 0; is_target (N,) bool; row numbers (N,)."""
    y = targets.reshape(-1)
    is_target = y >= 0
    return xp.where(is_target, y, 0), is_target, xp.arange(len(y))


def _scale(is_target, normalizer, dtype, xp):
    """1/N for each target and 0 where ignored, (N,).

    N is counted on the device and is at least 1, so that an empty batch has loss 0.
    """
    if normalizer is None:
        normalizer = xp.maximum(is_target.sum(), 1).astype(dtype)
    elif isinstance(normalizer, (int, float, np.number)) and not normalizer > 0:
        raise ValueError(f"normalizer must be a positive number, got {normalizer}")
    return is_target.astype(dtype) / normalizer


def _per_token(f, w, is_target, targets, xp):
    shape = targets.shape
    return xp.where(is_target, f, 0).reshape(shape), xp.where(is_target, w, 0).reshape(shape)


def _check(logits, targets, reduction):
    xp = array_module(logits)
    if logits.dtype.kind != "f" or targets.dtype.kind not in "iu":
        raise TypeError(
            f"logits must be floats and targets integers, got {logits.dtype} and {targets.dtype}"
        )
    if array_module(targets) is not xp:
        raise TypeError(
            "logits and targets must be on the same device, got "
            f"{xp.__name__} and {array_module(targets).__name__}"
        )
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            "targets must have the shape of logits without its last axis, "
            f"{logits.shape[:-1]}, got {targets.shape}"
        )
    # On a GPU this look would make every step wait for the device; fit checks batches on the host.
    V = logits.shape[-1]
    if xp is np and targets.size and not (-1 <= targets.min() and targets.max() < V):
        got = f"{targets.min()} … {targets.max()}"
        raise ValueError(f"targets must be in 0 … {V - 1}, or −1, got {got}")
    if reduction not in ("mean", "none"):
        raise ValueError(f'reduction must be "mean" or "none", got {reduction!r}')
    return xp


# ---- quantities of whole sequences ---------------------------------------------------------------
# x: logprob.Prefixes of whole sequences -> φ(P(x), Q(x)) and w(x) = ∂φ/∂log Q(x), both like x.log_q


def _forward_ce(x, eta, xp):
    p = xp.exp(x.log_p)
    return -times_log(p, x.log_q, xp), -p


def _forward_kl(x, eta, xp):
    p = xp.exp(x.log_p)
    return times_log(p, minus(x.log_p, x.log_q, xp), xp), -p


def _reverse_ce(x, eta, xp):
    q = xp.exp(x.log_q)
    return -q * x.log_p_floored, -q * x.log_p_floored


def _reverse_kl(x, eta, xp):
    # Σ Q (log Q − log P) has the weight Q (log Q − log P + 1); a constant times Q may be left out,
    # since the Q(x) always sum to one.
    q = xp.exp(x.log_q)
    return q * (x.log_q - x.log_p_floored), q * (x.log_q - x.log_p_floored)


def _js(x, eta, xp):
    p, q = xp.exp(x.log_p), xp.exp(x.log_q)
    log_m = log_mixture(x.log_p, x.log_q, eta, xp)
    under_q = (1 - eta) * q * (x.log_q - log_m)
    under_p = eta * times_log(p, minus(x.log_p, log_m, xp), xp)
    return under_q + under_p, under_q


def _overlap(x, eta, xp):
    p, q = xp.exp(x.log_p), xp.exp(x.log_q)
    return -p * q, -p * q


def _cost_ce(log_q, log_p_floored):
    return -log_p_floored


def _cost_kl(log_q, log_p_floored):
    return log_q - log_p_floored


# ---- the table -----------------------------------------------------------------------------------


class Objective(NamedTuple):
    """A row of OBJECTIVES: what the rest of the package has to know of an objective.

    An objective over tokens has `loss`, and `f_and_w` unless it is EMO. One over sequences has
    `terms`, or is a mixture and has `mixes`; an expectation over P of token losses has `f_and_w`
    too, an expectation over Q of costs that add up over tokens has `cost`.
    """

    over: str  # "tokens" or "sequences"
    ratio: str | None = None  # the name of its ratio, a key of RATIOS
    loss: Callable | None = None  # (logits, targets, *, <ratio>, normalizer, reduction)
    f_and_w: Callable | None = None  # (log_q, ratio, xp) -> f, w
    terms: Callable | None = None  # (x, ratio, xp) -> φ, w
    cost: Callable | None = None  # (log_q, log_p_floored) of each token -> cost of each token
    mixes: tuple[str, str] | None = None  # the part that η multiplies, the part that 1−η does
    stops_gradient: bool = False  # dlogits is not the derivative of the value that is returned
    needs_embedding: bool = False  # its loss takes cost_embedding
    open_ratio: bool = False  # its ratio may be neither 0 nor 1
    minus_entropy: bool = False  # the constant H(P) is subtracted from the expectation of f


class Ratio(NamedTuple):
    """How a ratio is written, what it is by default, and where it is maximum likelihood."""

    symbol: str
    default: float
    note: str


RATIOS = {
    "eta": Ratio("η", 0.5, "η = 1 is MLE"),
    "gamma": Ratio("γ", 0.1, "γ = 0 is MLE"),
}

OBJECTIVES = {
    "mle": Objective("tokens", loss=mle, f_and_w=_mle),
    "mixce": Objective("tokens", "eta", loss=mixce, f_and_w=_mixce),
    "mixce_surrogate": Objective(
        "tokens", "eta", loss=mixce_surrogate, f_and_w=_mixce_surrogate, stops_gradient=True
    ),
    "tailr": Objective("tokens", "gamma", loss=tailr, f_and_w=_tailr),
    "emo": Objective("tokens", loss=emo, stops_gradient=True, needs_embedding=True),
    "forward_ce": Objective("sequences", terms=_forward_ce, f_and_w=_mle),
    "reverse_ce": Objective("sequences", terms=_reverse_ce, cost=_cost_ce),
    "mixce_star": Objective("sequences", "eta", mixes=("forward_ce", "reverse_ce")),
    "forward_kl": Objective("sequences", terms=_forward_kl, f_and_w=_mle, minus_entropy=True),
    "reverse_kl": Objective("sequences", terms=_reverse_kl, cost=_cost_kl),
    "two_kls": Objective("sequences", "eta", mixes=("forward_kl", "reverse_kl")),
    "js": Objective("sequences", "eta", terms=_js, open_ratio=True),
    "overlap": Objective("sequences", terms=_overlap),
}


def names(over=None):
    """The names of all objectives, or of those over "tokens" or over "sequences" -> list."""
    return [name for name, row in OBJECTIVES.items() if over in (None, row.over)]


def exact_names():
    """The names of the objectives that exact sums can find -> list.

    All that are expectations under P or Q, which is all except those that stop a gradient.
    """
    return [name for name, row in OBJECTIVES.items() if not row.stops_gradient]


def parts(name, ratio):
    """What an objective is a sum of -> ((share, name of the part), …).

    ((η, "forward_kl"), (1−η, "reverse_kl")) for two_kls; ((1.0, name),) for what is no mixture.
    """
    row = OBJECTIVES[name]
    if row.mixes is None:
        return ((1.0, name),)
    return (ratio, row.mixes[0]), (1 - ratio, row.mixes[1])


def information_used(name, ratio=None):
    """What an objective looks at -> "samples" (of P), "P" (its probabilities) or "samples and P".

    An expectation over P is estimated from samples of P; everything else needs P itself.
    """
    used = [OBJECTIVES[part] for share, part in parts(name, ratio) if share]
    from_samples = [row.over == "tokens" or row.f_and_w is not None for row in used]
    if all(from_samples):
        return "samples"
    return "samples and P" if any(from_samples) else "P"


def check_objective_ratio(name, value):
    """Raise TypeError or ValueError unless the objective `name` can have the ratio `value`."""
    row = OBJECTIVES[name]
    check_ratio(row.ratio or "eta", value)
    if row.open_ratio and not 0 < value < 1:
        raise ValueError(
            f"{row.ratio} must be above 0 and below 1 for {name}, which is zero there, got {value}"
        )


def label(name, ratio=None):
    """How an objective is called in tables: "mixce η=0.5", "tailr γ=0.1", "mle"."""
    row = OBJECTIVES[name]
    return f"{name} {RATIOS[row.ratio].symbol}={ratio:g}" if row.ratio else name


def token_loss(name, *, cost_embedding=None, **ratios):
    """The loss of an objective over tokens with its ratio bound -> loss(logits, targets, …).

    ratios (eta=, gamma=): the one the objective has is used, its default where it is not given.
    cost_embedding (V,C): for emo. Raises ValueError for another objective or a bad ratio.
    """
    row = OBJECTIVES.get(name)
    if row is None or row.over != "tokens":
        raise ValueError(f"objective must be one of {', '.join(names('tokens'))}, got {name!r}")
    bound = {}
    if row.ratio:
        bound[row.ratio] = ratios.get(row.ratio, RATIOS[row.ratio].default)
        check_ratio(row.ratio, bound[row.ratio])
    if row.needs_embedding:
        bound["cost_embedding"] = cost_embedding
    return functools.partial(row.loss, **bound)
