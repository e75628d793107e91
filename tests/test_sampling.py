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


# ---- prompts of unequal length -------------------------------------------------------------------


def recorded(model):
    """The logits that each token is drawn from."""
    last, next_logits = [], model._next_logits

    def record(x, past):
        logits, present = next_logits(x, past)
        last.append(logits)
        return logits, present

    model._next_logits = record
    return last


@pytest.mark.parametrize("longest", [3, 8, 9, 13])
@pytest.mark.parametrize("new", [0, 1, 4, 20])
def test_rows_of_unequal_prompts_are_those_of_their_own_runs(longest, new):
    """Before the window of 8 is full, at its refill and after it."""
    model = random_gpt(seed=longest, vocab_size=11, block_size=8)
    rng = np.random.default_rng(new)
    lengths = np.array([1, longest, 2, longest, max(1, longest - 1)])
    prompt = rng.integers(0, 11, (5, longest))
    padded = np.where(np.arange(longest) < lengths[:, None], prompt, -1)
    together = model.generate(padded, new, temperature=0, lengths=lengths)
    assert together.shape == (5, longest + new)
    assert together.dtype == np.int64
    for row, length in enumerate(lengths):
        alone = model.generate(prompt[row : row + 1, :length], new, temperature=0)[0]
        np.testing.assert_array_equal(together[row, : length + new], alone)
        assert (together[row, length + new :] == -1).all()


def test_their_logits_are_those_of_their_own_runs():
    model = random_gpt(vocab_size=11, block_size=8)
    prompt, lengths = np.random.default_rng(0).integers(0, 11, (3, 5)), [5, 2, 4]
    together = recorded(model)
    model.generate(prompt, 12, temperature=0, lengths=lengths)
    for row, length in enumerate(lengths):
        model_alone = random_gpt(vocab_size=11, block_size=8)
        alone = recorded(model_alone)
        model_alone.generate(prompt[row : row + 1, :length], 12, temperature=0)
        first = length - min(lengths)
        for mine, own in zip(together[first:], alone):
            np.testing.assert_allclose(mine[row], own[0], atol=1e-12)


def test_equal_lengths_are_no_lengths():
    model = random_gpt(vocab_size=11, block_size=8)
    prompt = np.random.default_rng(0).integers(0, 11, (3, 5))
    options = {"temperature": 0.7, "top_k": 5, "stop": 2, "seed": 3}
    np.testing.assert_array_equal(
        model.generate(prompt, 9, lengths=[5, 5, 5], **options),
        model.generate(prompt, 9, **options),
    )


def test_stop_ends_each_row_by_itself_and_not_inside_a_prompt():
    model = random_gpt(vocab_size=4, block_size=8)
    prompt, lengths = np.full((6, 3), 2), np.array([1, 2, 3, 3, 2, 1])
    tokens = model.generate(prompt, 20, stop=2, lengths=lengths, seed=1)
    ended = 0
    for row, length in zip(tokens, lengths):
        new = row[length : length + 20].tolist()
        end = new.index(2) if 2 in new else 20
        ended += end < 19
        assert set(new[end:]) <= {2}
    assert ended > 2


def test_unequal_prompts_on_a_device():
    model = random_gpt(vocab_size=11, block_size=8)
    prompt, lengths = np.random.default_rng(0).integers(0, 11, (3, 5)), np.array([5, 2, 4])
    want = model.generate(prompt, 9, lengths=lengths, seed=1)
    model.params = {name: sd.asarray(p) for name, p in model.params.items()}
    with sd.no_host_reads():
        got = model.generate(sd.asarray(prompt), 9, lengths=lengths, seed=1)
    np.testing.assert_array_equal(got.get(), want)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([1, 2], r"lengths must be 3 integers, one for each row of prompt, got shape \(2,\)"),
        (
            [[1, 2, 3]],
            r"lengths must be 3 integers, one for each row of prompt, got shape \(1, 3\)",
        ),
        ([1, 2, 0], r"lengths must be in 1 … 5, got 0"),
        ([1, 6, 2], r"lengths must be in 1 … 5, got 6"),
        ([1.0, 2.0, 3.0], r"lengths must be 3 integers, one for each row of prompt, got float64"),
        ("abc", r"lengths must be 3 integers"),
    ],
    ids=str,
)
def test_lengths_that_do_not_fit(lengths, words):
    with pytest.raises((TypeError, ValueError), match=words):
        random_gpt(vocab_size=11).generate(np.ones((3, 5), int), 2, lengths=lengths)
