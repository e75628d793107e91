"""Log-probabilities in float64: the arithmetic that every exact sum and estimator shares."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from .backend import array_module
from .storage.shapes import Array, ArrayModule, Float, Int, Scalar
from .storage.validate import check_finite


class Prefixes(NamedTuple):
    """Log-probabilities of prefixes, or of whole sequences, under Q and P: arrays of one shape."""

    log_q: Float[Array, "*shape"]  # log Q of the prefix
    log_p: Float[Array, "*shape"]  # log P, −inf where P = 0
    log_p_floored: Float[
        Array, "*shape"
    ]  # the same with every token's log P at least world.log_p_floor
    impossible: Float[Array, "*shape"] | Int[Array, "*shape"]  # number of tokens that P rules out
    state: Int[Array, "*shape"] | None  # where the world is


class Summand(NamedTuple):
    """What a sum over sequences adds up: values by name, and weights that make the gradient.

    of_sequences(x, xp), x the Prefixes of whole sequences, -> {name: values},
    w = ∂/∂log Q(x), or None. of_tokens(p, log_q, xp), p = P of everything up to a token and log_q
    the log q_t of that token alone, -> the same for each token. One of the two may be None.
    """

    of_sequences: Callable[[Prefixes, ArrayModule], tuple[dict[str, Array], Array | None]] | None
    of_tokens: Callable[[Array, Array, ArrayModule], tuple[dict[str, Array], Array | None]] | None


class Sums(dict):
    """Sums by name. They stay on the device until somebody asks for a total."""

    def add(self, values: Mapping[str, Float[Array, "..."]]) -> None:
        """values: {name: array}, of any shape; the sum of each is added to that of its name."""
        for name, array in values.items():
            self[name] = self.get(name, 0.0) + array.sum()

    def total(self, name: str, xp: ArrayModule) -> Scalar:
        """The sum called `name` -> 0-d float64 array on xp's device."""
        return xp.asarray(self.get(name, 0.0), dtype="float64")


def rows_at_once(xp: ArrayModule) -> int:
    """How many rows an exact sum hands to a model at once, by xp, the array module of its device.

    Enough for long products: on the CPU few enough for the layers' arrays to stay in a core's
    cache, on a GPU as many as fill it.
    """
    return 1024 if xp is np else 65_536


def log_softmax(logits: Float[Array, "*batch V"]) -> Float[Array, "*batch V"]:
    """logits (…,V) -> log-probabilities (…,V) in float64, −inf where a logit is.

    The training losses (objectives.py) have a form of their own, which keeps the dtype of logits
    and gives the softmax in the same pass. Raises storage.validate.NotFinite for logits that are
    no distribution (NaN, +inf, or a row of −inf), on the host only: on a GPU they come out as NaN.
    """
    xp, z = array_module(logits), logits.astype("float64")
    top = z.max(axis=-1, keepdims=True)
    check_finite("logits", top)
    z = z - top
    return z - xp.log(xp.exp(z).sum(axis=-1, keepdims=True))


def chosen(log_q: Float[Array, "n T V"], targets: Int[Array, "n T"]) -> Float[Array, "n T"]:
    """Entries of the targets: log_q (n,T,V), targets (n,T), −1 ignored -> (n,T), 0 if ignored."""
    xp = array_module(log_q)
    n, t = xp.arange(len(targets))[:, None], xp.arange(targets.shape[1])
    is_target = targets >= 0
    return xp.where(is_target, log_q[n, t, xp.where(is_target, targets, 0)], 0)


def times_log(
    p: Float[Array, "..."], log: Float[Array, "..."], xp: ArrayModule
) -> Float[Array, "..."]:
    """p · log, arrays of one shape, and 0 where p is 0, even if the logarithm is infinite there.

    xp: their array module.
    """
    return p * xp.where(p > 0, log, 0)


def minus(
    log_p: Float[Array, "..."], log_q: Float[Array, "..."], xp: ArrayModule
) -> Float[Array, "..."]:
    """log P − log Q, arrays of one shape, with log P = −inf read as 0.

    For differences that are multiplied by P. log_p, log_q: the logarithms; xp: their array module.
    """
    return xp.where(log_p > -math.inf, log_p, 0) - log_q


def log_mixture(
    log_p: Float[Array, "*shape"], log_q: Float[Array, "*shape"], eta: float, xp: ArrayModule
) -> Float[Array, "*shape"]:
    """log M with M = η P + (1−η) Q, for 0 < η < 1.

    log_p, log_q: logarithms of one shape, log P may be −inf; eta: η; xp: their array module.
    """
    return xp.logaddexp(math.log(eta) + log_p, math.log(1 - eta) + log_q)
