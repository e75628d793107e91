"""Training losses on tokens: (logits, targets, …) -> (loss, dlogits), in one pass over the logits.

Every loss but EMO is a sum of f(q_t) over targets, q_t = Q(x_t | x_<t), and its gradient is MLE's
times a weight w(q_t):

    ∂L/∂logits_t = w(q_t) · (softmax − onehot(x_t)) / N,    w(q) = −q f′(q)

| objective                | w(q)               | f(q)                            | limits
| | mle                      | 1                  | −log q                          |
| | mixce(η)                 | η + (1−η) q        | −η log q − (1−η) q              | η = 1 is MLE
| | mixce_surrogate(η)       | the same           | −(η + (1−η) sg[q]) log q        | η = 1 is MLE
| | tailr(γ)                 | q / (γ + (1−γ) q)  | −log(γ + (1−γ) q) / (1−γ)       | γ = 0 is MLE,
γ = 1 is MixCE(η = 0) |

Shapes for all: logits (…,V), targets (…) integers, −1 ignored -> loss 0-d (nats per target),
dlogits (…,V). `normalizer` replaces N, the number of targets: give the count of a whole batch when
it comes in parts, and losses and gradients of the parts add up to those of the batch.
reduction="none" returns the loss f and the weight w of every target, both of targets' shape and 0
where ignored. Sources: MixCE, Zhang et al., ACL 2023; TaiLr, Ji et al., ICLR 2023; EMO, Ren et al.,
ICLR 2024.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from .backend import array_module
from .logprob import minus, times_log
from .storage.validate import check_ratio


def mle(logits, targets, *, normalizer=None, reduction="mean"):
    """Maximum likelihood, the forward cross-entropy: −log q. Shapes and options: see the module."""
    return _token_objective(
        logits, targets, lambda log_q, xp: (-log_q, xp.ones_like(log_q)), normalizer, reduction
    )


def mixce(logits, targets, *, eta=0.5, normalizer=None, reduction="mean"):
    """MixCE: −η log q − (1−η) q, 0 ≤ η ≤ 1 (η = 1 is MLE). Zhang et al. 2023, eq. 7; shapes and
    options: see the module.
    """
    check_ratio("eta", eta)

    def f_and_w(log_q, xp):
        q = xp.exp(log_q)
        return -eta * log_q - (1 - eta) * q, eta + (1 - eta) * q

    return _token_objective(logits, targets, f_and_w, normalizer, reduction)


def mixce_surrogate(logits, targets, *, eta=0.5, normalizer=None, reduction="mean"):
    """MixCE as the reference code writes it: −(η + (1−η) sg[q]) log q (η = 1 is MLE).

    sg stops the gradient: the weight is taken at the current logits and then held fixed. So the
    gradient is mixce's, but the value is another, and dlogits is NOT the derivative of that value:
    a numerical check of it fails, and should.
    """
    check_ratio("eta", eta)

    def f_and_w(log_q, xp):
        w = eta + (1 - eta) * xp.exp(log_q)
        return -w * log_q, w

    return _token_objective(logits, targets, f_and_w, normalizer, reduction)


def tailr(logits, targets, *, gamma=0.1, normalizer=None, reduction="mean"):
    """TaiLr: w = q / (γ + (1−γ) q), 0 ≤ γ ≤ 1 (γ = 0 is MLE, γ = 1 has the gradient of MixCE at η =
    0).

    Ji et al. 2023, eq. 8, without its lower clamp on w. Shapes and options: see the module.
    """
    check_ratio("gamma", gamma)

    def f_and_w(log_q, xp):
        log_gamma = math.log(gamma) if gamma > 0 else -math.inf
        log_rest = math.log1p(-gamma) if gamma < 1 else -math.inf
        # log(γ + (1−γ) q), exactly log q at γ = 0
        log_mix = xp.logaddexp(xp.full_like(log_q, log_gamma), log_rest + log_q)
        if gamma == 1:
            f = -xp.expm1(log_q)  # the limit, 1 − q
        elif gamma > 0.5:
            # the same f, exact also where 1−γ is tiny
            f = -xp.log1p((1 - gamma) * xp.expm1(log_q)) / (1 - gamma)
        else:
            f = -log_mix / (1 - gamma)
        return f, xp.exp(log_q - log_mix)

    return _token_objective(logits, targets, f_and_w, normalizer, reduction)


def emo(logits, targets, cost_embedding, *, normalizer=None, reduction="mean"):
    """EMO, an upper bound of the earth mover distance: ½ (−log q + sg[−log q / d] d). Ren et al.
    2024, eq. 9.

    d = Σ_v q(v) (1 − cos(e_v, e_target)) is the cost of moving Q's mass to the target, with the
    rows e of cost_embedding (V,C) held fixed and brought to unit norm; the target's own cost is
    exactly 0 and the ratio is read as 0 where d is. The value equals MLE's; only the gradient
    differs. With reduction="none" the weight is the pull on the target's own logit in units of
    MLE's, −∂L/∂logit_target / (1 − q), which for the other objectives is w(q).
    """
    xp = _check(logits, targets, reduction)
    if cost_embedding.ndim != 2 or len(cost_embedding) != logits.shape[-1]:
        raise ValueError(
            f"cost_embedding must have shape ({logits.shape[-1]}, C), got {cost_embedding.shape}"
        )
    if cost_embedding.dtype != logits.dtype:
        raise TypeError(
            f"cost_embedding must be {logits.dtype} like logits, got {cost_embedding.dtype}"
        )
    norm = xp.sqrt(xp.square(cost_embedding).sum(axis=-1, keepdims=True))
    unit = cost_embedding / xp.maximum(norm, np.finfo(norm.dtype).tiny)
    y, keep, index = _flat_targets(targets, xp)
    log_q, probs = _log_q_and_softmax(logits, y, index, xp)
    cost = 1 - unit[y] @ unit.T  # (N,V)
    # equal embeddings: rounding is no distance
    cost = xp.where(cost > 8 * np.finfo(cost.dtype).eps, cost, 0)
    cost[index, y] = 0
    d = (probs * cost).sum(axis=-1)
    ratio = xp.where(d > 0, -log_q / xp.where(d > 0, d, 1), 0)
    if reduction == "none":
        one_minus_q = -xp.expm1(log_q)
        pull = 0.5 + 0.5 * xp.where(
            one_minus_q > 0,
            ratio * d * xp.exp(log_q) / xp.where(one_minus_q > 0, one_minus_q, 1),
            1,
        )
        return _per_token(-log_q, pull, keep, targets, xp)
    scale = 0.5 * _scale(keep, normalizer, log_q.dtype, xp)
    # ∂/∂z_v of −log q is q_v − 1[v = target]; of d it is q_v (cost_v − d).
    dlogits = probs * (1 + ratio[:, None] * (cost - d[:, None]))
    dlogits[index, y] -= 1
    dlogits *= scale[:, None]
    return xp.asarray((-2 * scale * log_q).sum()), dlogits.reshape(logits.shape)


def _token_objective(logits, targets, f_and_w, normalizer, reduction):
    """The pass all objectives but EMO share; f_and_w(log_q, xp) -> f, w, each (N,)."""
    xp = _check(logits, targets, reduction)
    y, keep, index = _flat_targets(targets, xp)
    log_q, probs = _log_q_and_softmax(logits, y, index, xp)
    f, w = f_and_w(log_q, xp)
    if reduction == "none":
        return _per_token(f, w, keep, targets, xp)
    scale = _scale(keep, normalizer, log_q.dtype, xp)
    w = w * scale
    probs *= w[:, None]
    probs[index, y] -= w  # now w (softmax − onehot) / N
    return xp.asarray((f * scale).sum()), probs.reshape(logits.shape)


def _log_q_and_softmax(logits, y, index, xp):
    """log q of the targets (N,) and the whole softmax (N,V), which becomes dlogits in place."""
    z = logits.reshape(-1, logits.shape[-1])
    z = z - z.max(axis=-1, keepdims=True)
    log_q = z[index, y]
    xp.exp(z, out=z)
    total = z.sum(axis=-1)
    z /= total[:, None]
    return log_q - xp.log(total), z


def _flat_targets(targets, xp):
    """targets (…) -> ids (N,) with ignored ones read as 0, keep (N,) bool, row numbers (N,)."""
    y = targets.reshape(-1)
    keep = y >= 0
    return xp.where(keep, y, 0), keep, xp.arange(len(y))


def _scale(keep, normalizer, dtype, xp):
    """1/N for each target and 0 where ignored, (N,); N counts on the device, at least 1, so an
    empty batch has loss 0.
    """
    if normalizer is None:
        normalizer = xp.maximum(keep.sum(), 1).astype(dtype)
    elif isinstance(normalizer, (int, float, np.number)) and not normalizer > 0:
        raise ValueError(f"normalizer must be a positive number, got {normalizer}")
    return keep.astype(dtype) / normalizer


def _per_token(f, w, keep, targets, xp):
    return xp.where(keep, f, 0).reshape(targets.shape), xp.where(keep, w, 0).reshape(targets.shape)


def _check(logits, targets, reduction):
    xp = array_module(logits)
    if logits.dtype.kind != "f" or targets.dtype.kind not in "iu":
        raise TypeError(
            f"logits must be floats and targets integers, got {logits.dtype} and {targets.dtype}"
        )
    if array_module(targets) is not xp:
        raise TypeError(
            f"logits and targets must be on the same device, got {xp.__name__} and"
            f" {array_module(targets).__name__}"
        )
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets must have the shape of logits without its last axis, {logits.shape[:-1]}, got"
            f" {targets.shape}"
        )
    # On a GPU this check would make every step wait for the device; fit checks batches before they
    # go there.
    if xp is np and targets.size and not (-1 <= targets.min() and targets.max() < logits.shape[-1]):
        raise ValueError(
            f"targets must be in 0 … {logits.shape[-1] - 1}, or −1, got {targets.min()} …"
            f" {targets.max()}"
        )
    if reduction not in ("mean", "none"):
        raise ValueError(f'reduction must be "mean" or "none", got {reduction!r}')
    return xp


OBJECTIVES = (
    "forward_ce",
    "reverse_ce",
    "mixce_star",
    "forward_kl",
    "reverse_kl",
    "two_kls",
    "js",
    "overlap",
    "mixce",
)


class Prefix(NamedTuple):
    """Prefixes or whole sequences, any shape of arrays: log-probabilities so far, and where the
    world is.
    """

    log_q: Any
    log_p: Any  # −inf where P = 0
    log_p_floored: Any
    impossible: Any  # how many of the tokens are
    state: Any


def terms(objective, eta, x, xp):
    """φ and w = ∂φ/∂log Q of sequences x, for every objective that is a sum of φ(P(x), Q(x)).
    Formulas: the table above.
    """
    p, q = xp.exp(x.log_p), xp.exp(x.log_q)
    if objective == "forward_ce":
        return -times_log(p, x.log_q, xp), -p
    if objective == "forward_kl":
        return times_log(p, minus(x.log_p, x.log_q, xp), xp), -p
    if objective == "reverse_ce":
        return -q * x.log_p_floored, -q * x.log_p_floored
    if objective == "reverse_kl":
        return q * (x.log_q - x.log_p_floored), q * (x.log_q - x.log_p_floored)
    if objective == "js":
        log_m = xp.logaddexp(math.log(eta) + x.log_p, math.log(1 - eta) + x.log_q)
        own = (1 - eta) * q * (x.log_q - log_m)
        return own + eta * times_log(p, minus(x.log_p, log_m, xp), xp), own
    if objective == "overlap":
        return -p * q, -p * q
    a, b = {"mixce_star": ("forward_ce", "reverse_ce"), "two_kls": ("forward_kl", "reverse_kl")}[
        objective
    ]
    return tuple(
        eta * f + (1 - eta) * r for f, r in zip(terms(a, eta, x, xp), terms(b, eta, x, xp))
    )


def token_terms(eta, p, log_q):
    """The same for token MixCE: p is P of everything up to a token, log_q that token's own log q_t."""
    q = array_module(log_q).exp(log_q)
    return -p * (eta * log_q + (1 - eta) * q), -p * (eta + (1 - eta) * q)


def parts(objective, eta):
    if objective == "mixce_star":
        return (eta, "forward_ce"), (1 - eta, "reverse_ce")
    if objective == "two_kls":
        return (eta, "forward_kl"), (1 - eta, "reverse_kl")
    return ((1.0, objective),)
