"""Log-probabilities in float64, the arithmetic that every exact sum shares."""

import math

from .backend import array_module


def log_softmax(logits):
    """(…,V) -> log-probabilities in float64."""
    xp, z = array_module(logits), logits.astype("float64")
    z = z - z.max(axis=-1, keepdims=True)
    # A logit of −inf has probability 0, and 0 times a number is 0, however large; 0 · inf would be
    # NaN.
    return xp.maximum(z - xp.log(xp.exp(z).sum(axis=-1, keepdims=True)), -1e300)


def chosen(step, targets):
    """log q of the targets: step (n,T,V), targets (n,T), −1 ignored -> (n,T)."""
    xp = array_module(step)
    n, t = xp.arange(len(targets))[:, None], xp.arange(targets.shape[1])
    return xp.where(targets >= 0, step[n, t, xp.where(targets >= 0, targets, 0)], 0)


def times_log(p, log, xp):
    """p · log, and 0 where p is, whatever the logarithm."""
    return p * xp.where(p > 0, log, 0)


def minus(log_p, log_q, xp):
    return xp.where(log_p > -math.inf, log_p, 0) - log_q
