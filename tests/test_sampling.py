"""Sampling: how many tokens are kept, prompts of unequal length, and logits that are not finite."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import strict_device as sd
from helpers import random_gpt

import minimixce as mm


class Fixed(mm.model.LanguageModel):
    """A model whose next-token logits are the same everywhere."""

    def __init__(self, logits, xp=np):
        self.row = xp.asarray(np.asarray(logits, float))
        self.params = {"row": self.row}
        self.config = SimpleNamespace(
            vocab_size=len(logits), block_size=8, n_layer=0, dropout=0.0, dtype="float64"
        )

    def extend_forward(self, x, past=None, training=False, rng=None):
        xp = self.xp
        return xp.zeros((*x.shape, 1)) + self.row, [], None


def drawn(probs, n=3000, **options):
    """The set of tokens that n draws from a distribution hold."""
    with np.errstate(divide="ignore"):
        model = Fixed(np.log(probs))
    return set(model.generate(np.zeros((n, 1), int), 1, **options)[:, 1].tolist())


@pytest.mark.parametrize(
    ("probs", "options", "kept"),
    [
        ([0.4, 0.4, 0.2], {"top_k": 1}, {0}),
        ([0.2, 0.4, 0.4], {"top_k": 1}, {1}),
        ([0.2, 0.4, 0.4], {"top_k": 2}, {1, 2}),
        ([0.25] * 4, {"top_k": 3}, {0, 1, 2}),
        ([0.25] * 4, {"top_k": np.int64(3)}, {0, 1, 2}),
        ([0.1, 0.3, 0.3, 0.3], {"top_k": 2}, {1, 2}),
        ([0.5, 0.5, 0.0, 0.0], {"top_k": 3}, {0, 1}),
        ([0.25] * 4, {"top_p": 0.5}, {0, 1}),
        ([0.25] * 4, {"top_p": 0.51}, {0, 1, 2}),
        ([0.4, 0.3, 0.2, 0.1], {"top_p": 0.9}, {0, 1, 2}),
        ([0.1, 0.2, 0.3, 0.4], {"top_p": 0.9}, {1, 2, 3}),
        ([0.4, 0.3, 0.2, 0.1], {"top_p": 0.7}, {0, 1}),
        ([0.4, 0.3, 0.2, 0.1], {"top_p": 1.0}, {0, 1, 2, 3}),
        ([0.3, 0.3, 0.3, 0.1], {"top_k": 2, "top_p": 0.5}, {0}),
        ([0.3, 0.3, 0.3, 0.1], {"top_k": np.int32(2), "top_p": np.float32(0.51)}, {0, 1}),
    ],
    ids=str,
)
def test_just_so_many_tokens_are_kept_the_lowest_ids_among_ties(probs, options, kept):
    assert drawn(probs, **options) == kept


def test_top_p_of_one_keeps_what_is_rare():
    """The threshold is p − 1e-12, but 1 means all tokens."""
    probs = np.array([[1 - 2e-13, 1e-13, 1e-13]])
    assert mm.model.nucleus(probs, 1.0).all()
    assert mm.model.nucleus(probs, 1 - 1e-9).sum() == 1
    assert mm.model.nucleus(probs, 1e-300).sum() == 1


def test_rows_are_kept_by_themselves_and_on_a_device_too():
    probs = np.array([[0.4, 0.4, 0.2], [0.2, 0.2, 0.6], [0.1, 0.45, 0.45]])
    for function, limit, want in (
        (mm.model.likeliest, 1, [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        (mm.model.likeliest, 2, [[1, 1, 0], [1, 0, 1], [0, 1, 1]]),
        (mm.model.nucleus, 0.4, [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        (mm.model.nucleus, 0.6, [[1, 1, 0], [0, 0, 1], [0, 1, 1]]),
    ):
        kept = function(probs, limit)
        np.testing.assert_array_equal(kept, np.array(want, bool))
        with sd.no_host_reads():
            on_device = function(sd.asarray(probs), limit)
        np.testing.assert_array_equal(on_device.get(), kept)


@pytest.mark.parametrize("value", [2.5, "3", True, math.nan])
def test_top_k_is_an_integer(value):
    with pytest.raises(TypeError, match="top_k must be an integer, got"):
        random_gpt().generate(np.array([[1]]), 1, top_k=value)
