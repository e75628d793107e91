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
| mixce_star | η F + (1−η) R                                | η w_F + (1−η) w_R  |
| forward_kl | KL(P‖Q) = F − H(P)                           | −P                 |
| reverse_kl | KL(Q‖P) = R − H(Q)                           | Q (log Q − log P)  |
| two_kls    | η KL(P‖Q) + (1−η) KL(Q‖P)                    | mixed likewise     |
| js         | η KL(P‖M) + (1−η) KL(Q‖M), M = η P + (1−η) Q | (1−η) Q log(Q/M)   |
| overlap    | −Σ P Q                                       | −P Q               |

An objective is added in one place: a function here and a row of OBJECTIVES, at the end; one with a
new kind of ratio needs a row of RATIOS besides.
Sources: MixCE, Zhang et al., ACL 2023; TaiLr, Ji et al., ICLR 2023; EMO, Ren et al., ICLR 2024.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .backend import array_module, check_array, check_ids
from .logprob import Prefixes, log_mixture, minus, times_log
from .storage.shapes import Array, ArrayModule, Float, Int, Loss, LossAndDlogits, Scalar
from .storage.validate import check_ratio

Logits: TypeAlias = Float[Array, "*batch V"]
Targets: TypeAlias = Int[Array, "*batch"]
Normalizer: TypeAlias = float | Scalar | Int[Array, ""] | None
TokenTerms: TypeAlias = Callable[[Array, Any, ArrayModule], tuple[Array, Array]]
SequenceTerms: TypeAlias = Callable[[Prefixes, Any, ArrayModule], tuple[Array, Array]]

# ---- losses on tokens ----------------------------------------------------------------------------


def mle(
    logits: Logits, targets: Targets, *, normalizer: Normalizer = None, reduction: str = "mean"
) -> LossAndDlogits:
    """Maximum likelihood, the forward cross-entropy: −log q.

    logits (…,V), targets (…) integers, −1 ignored -> loss (0-d, nats per target), dlogits (…,V).
    normalizer: the number to divide by in place of the count of targets. reduction="none" returns
    loss and weight of every target. Raises TypeError or ValueError for arrays that do not fit, and
    for targets out of range on the host; for those on a GPU there is backend.check_ids.

    >>> loss, dlogits = mm.objectives.mle(np.log([[0.75, 0.25]]), np.array([0]))
    >>> round(float(loss), 4), dlogits.round(4).tolist()
    (0.2877, [[-0.25, 0.25]])
    """
    return token_objective(logits, targets, _mle, None, normalizer, reduction)


def _mle(log_q, ratio, xp):
    return -log_q, xp.ones_like(log_q)


def mixce(
    logits: Logits,
    targets: Targets,
    *,
    eta: float = 0.5,
    normalizer: Normalizer = None,
    reduction: str = "mean",
) -> LossAndDlogits:
    """MixCE: −η log q − (1−η) q with the ratio 0 ≤ η ≤ 1 (η = 1 is MLE).

    eta: η. Zhang et al. 2023, eq. 7. Other arguments, shapes and errors as for mle.

    >>> loss, dlogits = mm.objectives.mixce(np.log([[0.75, 0.25]]), np.array([0]), eta=0.5)
    >>> round(float(loss), 4), dlogits.round(5).tolist()
    (-0.2312, [[-0.21875, 0.21875]])
    """
    eta = check_ratio("eta", eta)
    return token_objective(logits, targets, _mixce, eta, normalizer, reduction)


def _mixce(log_q, eta, xp):
    q = xp.exp(log_q)
    forward = -eta * log_q if eta > 0 else 0.0  # 0 also where log q is −inf
    return forward - (1 - eta) * q, eta + (1 - eta) * q


def mixce_surrogate(
    logits: Logits,
    targets: Targets,
    *,
    eta: float = 0.5,
    normalizer: Normalizer = None,
    reduction: str = "mean",
) -> LossAndDlogits:
    """MixCE the way the reference code writes it: −(η + (1−η) sg[q]) log q (η = 1 is MLE).

    sg stops the gradient: the weight is taken at the current logits and then held fixed. So the
    gradient is mixce's, but the value is another, and dlogits is NOT the derivative of that value:
    a numerical check of it fails, and should. Arguments, shapes and errors as for mle.
    """
    eta = check_ratio("eta", eta)
    return token_objective(logits, targets, _mixce_surrogate, eta, normalizer, reduction)


def _mixce_surrogate(log_q, eta, xp):
    w = eta + (1 - eta) * xp.exp(log_q)
    return -times_log(w, log_q, xp), w


def tailr(
    logits: Logits,
    targets: Targets,
    *,
    gamma: float = 0.1,
    normalizer: Normalizer = None,
    reduction: str = "mean",
) -> LossAndDlogits:
    """TaiLr: w = q / (γ + (1−γ) q) with the ratio 0 ≤ γ ≤ 1.

    gamma: γ. γ = 0 is MLE, γ = 1 has the gradient of MixCE at η = 0. Ji et al. 2023, eq. 8, without
    its lower clamp on w. Other arguments, shapes and errors as for mle.
    """
    gamma = check_ratio("gamma", gamma)
    return token_objective(logits, targets, _tailr, gamma, normalizer, reduction)


def _tailr(log_q, gamma, xp):
    log_gamma = math.log(gamma) if gamma > 0 else -math.inf
    log_rest = math.log1p(-gamma) if gamma < 1 else -math.inf
    # log(γ + (1−γ) q), exactly log q at γ = 0
    log_mix = xp.logaddexp(xp.full_like(log_q, log_gamma), log_rest + log_q)
    w = xp.exp(log_q - log_mix) if gamma > 0 else xp.ones_like(log_q)
    if gamma == 1:
        f = -xp.expm1(log_q)  # the limit, 1 − q
    elif gamma > 0.5:
        # the same f in a form that is exact also where 1−γ is tiny
        f = -xp.log1p((1 - gamma) * xp.expm1(log_q)) / (1 - gamma)
    else:
        f = -log_mix / (1 - gamma)
    return f, w


def token_objective(
    logits: Logits,
    targets: Targets,
    f_and_w: TokenTerms,
    ratio: Any,
    normalizer: Normalizer = None,
    reduction: str = "mean",
) -> LossAndDlogits:
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
    loss = xp.asarray((xp.where(is_target, f, 0) * scale).sum())
    w = xp.where(is_target, w, 0) * scale
    # dlogits = w (softmax − onehot) / N, in the array of probs: no other is as large.
    dlogits = probs
    dlogits *= w[:, None]
    dlogits[row, y] -= w
    _clear_ignored(dlogits, is_target, xp)
    return loss, dlogits.reshape(logits.shape)


def emo(
    logits: Logits,
    targets: Targets,
    cost_embedding: Float[Array, "V C"],
    *,
    normalizer: Normalizer = None,
    reduction: str = "mean",
) -> LossAndDlogits:
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
        q = xp.exp(log_q)
        pull = 0.5 + 0.5 * xp.where(rest > 0, xp.where(q > 0, ratio, 0) * d * q / safe, 1)
        return _per_token(-log_q, pull, is_target, targets, xp)
    scale = 0.5 * _scale(is_target, normalizer, log_q.dtype, xp)
    loss = xp.asarray((-2 * scale * xp.where(is_target, log_q, 0)).sum())
    # ∂/∂z_v of −log q is q_v − 1[v = target]; of d it is q_v (cost_v − d). Where log q is −inf, so
    # is the pull on tokens that cost more than d; tokens without probability feel none.
    further = cost - d[:, None]
    further = xp.where(further == 0, 0, ratio[:, None] * further)
    dlogits = xp.where(probs > 0, probs * (1 + further), 0)
    dlogits[row, y] -= 1
    dlogits *= scale[:, None]
    _clear_ignored(dlogits, is_target, xp)
    return loss, dlogits.reshape(logits.shape)


def _transport_cost(cost_embedding, logits, y, row, xp):
    """1 − cos(e_v, e_target) for every token v and target, (N,V)."""
    V = logits.shape[-1]
    check_array("cost_embedding", cost_embedding)
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


def _clear_ignored(dlogits, is_target, xp):
    """Zeros in the rows (N,V) that are ignored, in which 0 · NaN and 0 · inf would be NaN."""
    if xp is not np:  # to know which rows they are, a GPU would have to wait
        dlogits[...] = xp.where(is_target[:, None], dlogits, 0)
    elif not is_target.all():
        dlogits[~is_target] = 0


def _per_token(f, w, is_target, targets, xp):
    shape = targets.shape
    return xp.where(is_target, f, 0).reshape(shape), xp.where(is_target, w, 0).reshape(shape)


def _check(logits, targets, reduction):
    xp = check_array("logits", logits)
    check_array("targets", targets)
    if logits.dtype.kind != "f" or targets.dtype.kind not in "iu":
        raise TypeError(
            f"logits must be floats and targets integers, got {logits.dtype} and {targets.dtype}"
        )
    if array_module(targets) is not xp:
        raise TypeError(
            "logits and targets must be on the same device, got "
            f"{xp.__name__} and {array_module(targets).__name__}"
        )
    if logits.dtype not in ("float32", "float64"):
        raise TypeError(f"logits must be float32 or float64, got {logits.dtype}")
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            "targets must have the shape of logits without its last axis, "
            f"{logits.shape[:-1]}, got {targets.shape}"
        )
    # On a GPU this look would make every step wait for the device; fit checks batches on the host.
    if xp is np:
        check_ids("targets", targets, logits.shape[-1], ignored=True)
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
    cost = times_log(q, x.log_q - x.log_p_floored, xp)
    return cost, cost


def _js(x, eta, xp):
    p, q = xp.exp(x.log_p), xp.exp(x.log_q)
    log_m = log_mixture(x.log_p, x.log_q, eta, xp)
    under_q = times_log((1 - eta) * q, minus(x.log_q, log_m, xp), xp)
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

    An objective over tokens has `loss`, and `f_and_w` if it is a sum of f(q). One over sequences
    has `terms`, or is a mixture and has `mixes`; an expectation over P of token losses has
    `f_and_w` too, an expectation over Q of costs that add up over tokens has `cost`.
    """

    over: str  # "tokens" or "sequences"
    ratio: str | None = None  # the name of its ratio, a key of RATIOS
    loss: Loss | None = None  # (logits, targets, *, <ratio>, normalizer, reduction)
    f_and_w: TokenTerms | None = None  # (log_q, ratio, xp) -> f, w
    terms: SequenceTerms | None = None  # (x, ratio, xp) -> φ, w
    cost: Callable[[Array, Array], Array] | None = (
        None  # (log_q, log_p_floored) of each token -> cost of each token
    )
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
    degenerate: float  # where all mass on any one token is a fixed point (fixed_points.py)


RATIOS = {
    "eta": Ratio("η", 0.5, "η = 1 is MLE", degenerate=0),
    "gamma": Ratio("γ", 0.1, "γ = 0 is MLE", degenerate=1),
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


def names(over: str | None = None) -> list[str]:
    """The names of all objectives, or of those over "tokens" or over "sequences" -> list."""
    return [name for name, row in OBJECTIVES.items() if over in (None, row.over)]


def exact_names() -> list[str]:
    """The names of the objectives that exact sums can find -> list.

    All that are expectations under P or Q, which is all except those that stop a gradient.
    """
    return [name for name, row in OBJECTIVES.items() if not row.stops_gradient]


def parts(name: str, ratio: Any) -> tuple[tuple[float, str], ...]:
    """What an objective is a sum of -> ((share, name of the part), …).

    ((ratio, "forward_kl"), (1−ratio, "reverse_kl")) for two_kls; ((1.0, name),) for what is no
    mixture.
    """
    row = OBJECTIVES[name]
    if row.mixes is None:
        return ((1.0, name),)
    return (ratio, row.mixes[0]), (1 - ratio, row.mixes[1])


def information_used(name: str, ratio: float | None = None) -> str:
    """What an objective looks at -> "samples" (of P), "P" (its probabilities) or "samples and P".

    name: a key of OBJECTIVES; ratio: by default that of RATIOS. An expectation over P is estimated
    from samples of P; everything else needs P itself.
    """
    ratio = _ratio_or_default(name, ratio)
    used = [OBJECTIVES[part] for share, part in parts(name, ratio) if share]
    from_samples = [row.over == "tokens" or row.f_and_w is not None for row in used]
    if all(from_samples):
        return "samples"
    return "samples and P" if any(from_samples) else "P"


def check_objective_ratio(name: str, value: float) -> None:
    """Raise TypeError or ValueError unless the objective `name` can have the ratio `value`."""
    row = OBJECTIVES[name]
    check_ratio(row.ratio or "eta", value)
    if row.open_ratio and not 0 < value < 1:
        raise ValueError(
            f"{row.ratio} must be above 0 and below 1 for {name}, which is zero there, got {value}"
        )


def label(name: str, ratio: float | None = None) -> str:
    """How an objective is called in tables: "mixce η=0.5", "tailr γ=0.1", "mle".

    name: a key of OBJECTIVES; ratio: by default the one of RATIOS.
    """
    row = OBJECTIVES[name]
    ratio = _ratio_or_default(name, ratio)
    return f"{name} {RATIOS[row.ratio].symbol}={ratio:g}" if row.ratio else name


def _ratio_or_default(name: str, ratio: float | None) -> float | None:
    kind = OBJECTIVES[name].ratio
    return RATIOS[kind].default if ratio is None and kind else ratio


def token_loss(
    name: str, *, cost_embedding: Float[Array, "V C"] | None = None, **ratios: float
) -> Loss:
    """The loss of an objective over tokens with its ratio bound -> loss(logits, targets, …).

    name: a key of OBJECTIVES. ratios (eta=, gamma=): the one the objective has is used, its default
    where it is not given. cost_embedding (V,C): for emo, which cannot do without. Raises TypeError
    for another keyword, ValueError for another objective, a bad ratio or a missing embedding.
    """
    if unknown := sorted(ratios.keys() - RATIOS.keys()):
        raise TypeError(f"ratios must be among {', '.join(RATIOS)}, got {', '.join(unknown)}")
    row = OBJECTIVES.get(name)
    if row is None or row.loss is None:
        raise ValueError(f"objective must be one of {', '.join(names('tokens'))}, got {name!r}")
    bound: dict[str, Any] = {}
    if row.ratio:
        bound[row.ratio] = ratios.get(row.ratio, RATIOS[row.ratio].default)
        check_ratio(row.ratio, bound[row.ratio])
    if row.needs_embedding:
        if cost_embedding is None:
            raise ValueError(f"{name} needs a cost_embedding (V,C), got None")
        bound["cost_embedding"] = cost_embedding
    return functools.partial(row.loss, **bound)
