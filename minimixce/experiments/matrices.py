"""Measures of transition matrices (V,V): how far a learned bigram is from the true one."""

from typing import Any, cast

import numpy as np

from ..automaton import World
from ..backend import add_rows, check_array, to_numpy
from ..layers import softmax_forward
from ..model import LanguageModel
from ..storage.shapes import Array, Float, Int, Seed
from ..storage.validate import check_finite


def average_js(gold: Float[Array, "R V"], learned: Float[Array, "R V"]) -> float:
    """avg. JS of rows (R,V) of two transition matrices, `gold` and `learned`, start rows included:
    the Jensen–Shannon divergence of each pair of rows (nats, equal weights), mean over rows.

    Raises TypeError or ValueError for arrays of different shapes, or numbers that are not finite.
    """
    _check(gold, learned)
    middle = (gold + learned) / 2

    def kl(p):
        return (p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, middle, 1))).sum(axis=1)

    # rounding can take a zero below zero
    return max(0.0, float((kl(gold) + kl(learned)).mean() / 2))


def average_zeros(gold: Float[Array, "R V"], learned: Float[Array, "R V"]) -> float:
    """avg. 0s of rows (R,V) of two transition matrices: the mean learned probability where the
    gold one is 0 (0 where it nowhere is). Errors: as for average_js.
    """
    _check(gold, learned)
    impossible = learned[gold == 0]
    return float(impossible.mean()) if impossible.size else 0.0


def _check(gold: Any, learned: Any) -> None:
    for name, matrix in (("gold", gold), ("learned", learned)):
        check_array(name, matrix)
        check_finite(name, matrix)
    if gold.shape != learned.shape:
        raise ValueError(
            f"gold and learned must have one shape, got {gold.shape} and {learned.shape}"
        )


def transition_matrix(
    model: LanguageModel,
    world: World | None = None,
    samples: int = 2000,
    max_len: int | None = None,
    seed: Seed = 0,
) -> Float[Array, "V V"]:
    """Q's next-token distribution after each last token -> (V,V) on the host, row 0 the start.

    For a bigram it is Q itself. For a model with memory, Q(·|h) is averaged over the prefixes h of
    `samples` sequences of `world`, drawn by `seed` with the horizon max_len, which a world needs,
    by their last token; a token that never comes before another keeps a row of zeros. Raises
    NotFinite, a ValueError, for logits that are not finite.
    """
    V = model.config.vocab_size
    if world is None:
        return _probabilities(model, np.arange(V)[:, None])[:, 0]
    rows = world.sample(samples, cast(int, max_len), seed)  # which refuses None
    inputs, targets = world.batch(rows)
    probs = _probabilities(model, inputs)
    is_target = targets >= 0
    sums = add_rows(np.zeros((V, V)), inputs[is_target], probs[is_target])
    return sums / np.maximum(np.bincount(inputs[is_target], minlength=V), 1)[:, None]


def _probabilities(model: LanguageModel, inputs: Int[Array, "B T"]) -> Float[Array, "B T V"]:
    """softmax in float64, on the host."""
    chunks = model.logits_in_chunks(model.xp.asarray(inputs))
    logits = np.concatenate([to_numpy(part).astype("float64") for _, part in chunks])
    check_finite("logits", logits.max(axis=-1))
    return softmax_forward(logits)[0]
