"""Log-probabilities in float64: the arithmetic that every exact sum and estimator shares."""

import math
from typing import Any, NamedTuple

from .backend import array_module

_LEAST = -1e300  # stands for −inf, since 0 · −inf would be NaN where 0 · log q must be 0


class Prefixes(NamedTuple):
    """What Q and P make of some prefixes of sequences, or of whole ones: arrays of one shape."""

    log_q: Any  # log Q of the prefix
    log_p: Any  # log P, −inf where P = 0
    log_p_floored: Any  # the same with every token's log P at least world.log_p_floor
    impossible: Any  # number of tokens that P rules out
    state: Any  # where the world is


class Sums(dict):
    """Sums by name. They stay on the device until somebody asks for a total."""

    def add(self, values):
        """values: {name: array}; the sum of each array is added to that of its name."""
        for name, array in values.items():
            self[name] = self.get(name, 0.0) + array.sum()

    def total(self, name, xp):
        """The sum called `name` -> 0-d float64 array on xp's device."""
        return xp.asarray(self.get(name, 0.0), dtype="float64")


def log_softmax(logits):
    """logits (…,V) -> log-probabilities (…,V) in float64, at least −1e300.

    The training losses (objectives.py) have a form of their own, which keeps the dtype of logits
    and gives the softmax in the same pass.
    """
    xp, z = array_module(logits), logits.astype("float64")
    z = z - z.max(axis=-1, keepdims=True)
    return xp.maximum(z - xp.log(xp.exp(z).sum(axis=-1, keepdims=True)), _LEAST)


def chosen(log_q, targets):
    """Entries of the targets: log_q (n,T,V), targets (n,T), −1 ignored -> (n,T), 0 if ignored."""
    xp = array_module(log_q)
    n, t = xp.arange(len(targets))[:, None], xp.arange(targets.shape[1])
    is_target = targets >= 0
    return xp.where(is_target, log_q[n, t, xp.where(is_target, targets, 0)], 0)


def times_log(p, log, xp):
    """p · log, and 0 where p is 0, even if the logarithm is infinite there."""
    return p * xp.where(p > 0, log, 0)


def minus(log_p, log_q, xp):
    """log P − log Q, with log P = −inf read as 0: for differences that are multiplied by P."""
    return xp.where(log_p > -math.inf, log_p, 0) - log_q


def log_mixture(log_p, log_q, eta, xp):
    """log M with M = η P + (1−η) Q, for 0 < η < 1; log P may be −inf."""
    return xp.logaddexp(math.log(eta) + log_p, math.log(1 - eta) + log_q)
