"""Generation's fast form of one token against the plain forward pass, and what a draw is."""

import numpy as np
import pytest
import strict_device as sd
from helpers import assert_close, random_gpt, twenty_five_examples
from hypothesis import given
from hypothesis import strategies as st

import minimixce as mm
from minimixce.fast.generation import token_forward

TOLERANCE = {"float32": 2e-5, "float64": 1e-13}
dtypes = st.sampled_from(["float32", "float64"])


class Plain(mm.GPT):
    """A GPT that generates by extend_forward, as a class does that may have changed it."""


def plain(model):
    """The same model, that generates by extend_forward."""
    other = Plain(model.config, device="cpu")
    other.params = model.params
    return other


# ---- one token -----------------------------------------------------------------------------------


def assert_same_token(model, tokens, past, dtype):
    """token_forward is extend_forward after `past`: logits and present, which are returned."""
    want, want_present, _ = model.extend_forward(tokens[:, None], past)
    logits, present = token_forward(tokens, model.params, model.config, past)
    assert logits.dtype == dtype
    assert_close(logits, want[:, 0], TOLERANCE[dtype], "logits")
    for got, expected in zip(present, want_present, strict=True):
        assert_close(got.k, expected.k, TOLERANCE[dtype], "keys")
        assert_close(got.v, expected.v, TOLERANCE[dtype], "values")
    return present


@twenty_five_examples
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([(1, 1), (1, 3), (2, 4), (3, 6)]),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.4]),
    dtypes,
)
def test_a_token_is_that_of_the_plain_forward(rows, n_layer, heads, start, dropout, dtype):
    """From no past, or after a prompt of `start` tokens, to the end of the window."""
    model = random_gpt(rows, 7, 6, n_layer, *heads, dropout, dtype)
    tokens = np.random.default_rng(start).integers(0, 7, (rows, 6))
    past = model.extend_forward(tokens[:, :start])[1] if start else None
    for t in range(start, 6):
        past = assert_same_token(model, tokens[:, t], past, dtype)


@twenty_five_examples
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), dtypes)
def test_rows_of_a_past_serve_several_tokens(rows, shared_by, start, dtype):
    model = random_gpt(start, 7, 6, dtype=dtype)
    rng = np.random.default_rng(rows)
    _, past, _ = model.extend_forward(rng.integers(0, 7, (rows, start)))
    for _ in range(2):
        past = assert_same_token(model, rng.integers(0, 7, rows * shared_by), past, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_past_may_be_continued_twice(dtype):
    """Keys and values are written in place, but never over those of another continuation."""
    model = random_gpt(vocab_size=7, block_size=9, dtype=dtype)
    tokens = np.random.default_rng(0).integers(0, 7, (2, 2, 9))  # of two branches that begin alike
    tokens[1, :, :4] = tokens[0, :, :4]
    _, past, _ = model.extend_forward(tokens[0, :, :3])
    past = assert_same_token(model, tokens[0, :, 3], past, dtype)
    branches = [past, past]
    for t in range(4, 9):
        branches = [
            token_forward(branch[:, t], model.params, model.config, present)[1]
            for branch, present in zip(tokens, branches)
        ]
    for branch, present in zip(tokens, branches):
        _, want, _ = model.extend_forward(branch)
        assert_close(present[1].k, want[1].k, TOLERANCE[dtype], "keys")
        assert_close(present[1].v, want[1].v, TOLERANCE[dtype], "values")
    assert past[0].k.shape[2] == 4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_too_large_for_an_exponential(dtype):
    model = random_gpt(vocab_size=7, dtype=dtype)
    for layer in range(2):
        model.params[f"h.{layer}.attn.c_attn.weight"] *= np.asarray(200, dtype)
    tokens, past = np.random.default_rng(0).integers(0, 7, (3, 6)), None
    with np.errstate(over="raise", invalid="raise"):
        for t in range(6):
            past = assert_same_token(model, tokens[:, t], past, dtype)


@pytest.mark.parametrize("far", [10.0, 1e3, 1e5])
def test_rows_far_from_zero(far):
    """Where the mean's own rounding is not small beside the deviations, float32 is as near to
    float64 as the plain form is.
    """
    exact = random_gpt(vocab_size=7, n_layer=1, n_embd=64)
    exact.params["wpe.weight"] = np.round(exact.params["wpe.weight"], 2) + far
    model = random_gpt(vocab_size=7, n_layer=1, n_embd=64, dtype="float32")
    model.params = {name: p.astype("float32") for name, p in exact.params.items()}
    exact.params = {name: p.astype("float64") for name, p in model.params.items()}
    tokens = np.arange(7)
    want = exact.forward(tokens[:, None])[0][:, 0]
    got, _ = token_forward(tokens, model.params, model.config)
    by_plain = model.forward(tokens[:, None])[0][:, 0]
    assert np.abs(got - want).max() <= 2 * np.abs(by_plain - want).max()


def test_a_token_on_a_device():
    """It is NumPy's token bit for bit, and nothing waits for the device."""
    model = random_gpt(vocab_size=7, dtype="float32")
    tokens = np.random.default_rng(0).integers(0, 7, (4, 6))
    params = {name: sd.asarray(p) for name, p in model.params.items()}
    past, past_there = None, None
    for t in range(6):
        logits, past = token_forward(tokens[:, t], model.params, model.config, past)
        there = sd.asarray(tokens[:, t])
        with sd.no_host_reads():
            logits_there, past_there = token_forward(there, params, model.config, past_there)
        np.testing.assert_array_equal(logits_there.get(), logits)


# ---- long texts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1, 7, 32])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_long_texts_are_those_of_the_plain_forward(block_size, dtype):
    """Many windows long: greedy, and drawn."""
    model = random_gpt(1, 50, block_size, n_embd=8, dtype=dtype)
    prompt = np.random.default_rng(0).integers(0, 50, (3, 4))
    for options in ({"temperature": 0}, {"top_k": 20, "top_p": 0.9, "seed": 5}, {"stop": 3}):
        np.testing.assert_array_equal(
            model.generate(prompt, 150, **options), plain(model).generate(prompt, 150, **options)
        )


def test_long_texts_from_prompts_of_unequal_length():
    model = random_gpt(1, 50, 8, dtype="float32")
    prompt, lengths = np.random.default_rng(0).integers(0, 50, (4, 11)), [11, 1, 8, 5]
    for options in ({"temperature": 0}, {"seed": 5}):
        np.testing.assert_array_equal(
            model.generate(prompt, 60, lengths=lengths, **options),
            plain(model).generate(prompt, 60, lengths=lengths, **options),
        )


def test_dropout_is_for_training():
    with_dropout, without = random_gpt(dropout=0.5), random_gpt()
    prompt = np.zeros((3, 2), int)
    np.testing.assert_array_equal(with_dropout.generate(prompt, 30), without.generate(prompt, 30))


def test_a_gpt_with_a_forward_of_its_own_generates_by_it():
    class Only3(mm.GPT):
        def extend_forward(self, x, past=None, training=False, rng=None):
            logits, present, cache = super().extend_forward(x, past, training, rng)
            logits[..., 3] = 1e3
            return logits, present, cache

    model = Only3(mm.GPTConfig(5, 8, 1, 1, 4), device="cpu")
    assert (model.generate(np.array([[1]]), 20)[0, 1:] == 3).all()


@pytest.mark.parametrize("prompt", [[[5]], [[-1]], [[1, 2, 5]]], ids=str)
def test_the_prompt_s_ids_are_looked_at(prompt):
    with pytest.raises(ValueError, match=r"token ids must be in 0 … 4, got"):
        random_gpt().generate(np.array(prompt), 3)


# ---- a draw --------------------------------------------------------------------------------------


class Uniform:
    """A generator whose numbers are given."""

    def __init__(self, number):
        self.number = number

    def random(self, size):
        return np.full(size, self.number)


@twenty_five_examples
@given(st.integers(1, 40), st.sampled_from([0.05, 1.0, 20.0]), dtypes, st.integers(0, 99))
def test_a_draw_inverts_the_distribution_function(V, scale, dtype, seed):
    """The token is the first whose probability, added to those before it, passes the uniform
    number.
    """
    logits = (scale * np.random.default_rng(seed).standard_normal((1, V))).astype(dtype)
    logits[0, ::3] = -np.inf if V > 1 else 0
    probs = np.exp(logits.astype(float) - logits.max())
    before = np.append(0, np.cumsum(probs / probs.sum()))
    for token in range(V):
        if before[token + 1] - before[token] > 1e-12:  # else a matter of rounding
            middle = (before[token] + before[token + 1]) / 2
            assert mm.model._sample(logits, 1.0, None, None, Uniform(middle)) == [token]


@pytest.mark.parametrize("V", [3, 7, 1000, 50257])
@pytest.mark.parametrize(("number", "place"), [(0.0, 1), (1 - 2.0**-53, -2)])
def test_the_ends_of_the_unit_interval_draw_no_token_of_probability_zero(V, number, place):
    logits = np.random.default_rng(V).standard_normal((8, V)).astype("float32")
    logits[:, [0, -1]] = -np.inf
    tokens = mm.model._sample(logits, 1.0, None, None, Uniform(number))
    np.testing.assert_array_equal(tokens, range(V)[place])
