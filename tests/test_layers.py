"""Every layer's backward against numerical derivatives and, with its value, against a naive layer
under HIPS autograd.

Also: float32 stays float32, attention sees no future, softmax and GELU do not overflow, dropout is
what it says.
"""

import autograd.numpy as anp
import numpy as np
import pytest
from helpers import (
    assert_close,
    autograd_oracle,
    naive_attention,
    naive_gelu,
    naive_layer_norm,
    naive_softmax,
    twenty_five_examples,
)
from hypothesis import example, given
from hypothesis import strategies as st

import minimixce as mm
from minimixce import backend, layers
from minimixce.kv import KV

# Sizes of several axes, no two of them equal, so that a swapped or wrongly summed axis shows; one
# of them is often 1.
sizes = st.permutations(range(1, 6))
ONES = [1] * 5


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape)  # the shape is the seed


def float_dtypes(x):
    """Of all floating arrays in nested tuples and lists."""
    if isinstance(x, (tuple, list)):
        return set().union(*map(float_dtypes, x))
    return {x.dtype} if isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind == "f" else set()


def check_layer(forward, backward, inputs, naive):
    """The demands on a layer. forward and naive return one array or a tuple; backward takes the
    same.
    """
    report = mm.gradcheck(forward, backward, inputs)
    assert report.max_relative_error <= 1e-6, f"\n{report}"

    rng = np.random.default_rng(1)

    def run(dtype):
        y, cache = forward(*(x.astype(dtype) if x.dtype.kind == "f" else x for x in inputs))
        several = type(y) is tuple
        ys = y if several else (y,)
        dys = tuple(rng.standard_normal(each.shape).astype(dtype) for each in ys)
        gradients = backward(dys if several else dys[0], cache)
        return several, ys, dys, gradients if isinstance(gradients, tuple) else (gradients,), cache

    several, ys, dys, gradients, _ = run("float64")

    def flat_naive(*inputs):
        values = naive(*inputs)
        return anp.concatenate([anp.ravel(each) for each in (values if several else (values,))])

    value, expected = autograd_oracle(
        flat_naive, inputs, np.concatenate([dy.ravel() for dy in dys])
    )
    assert_close(np.concatenate([each.ravel() for each in ys]), value, 1e-9, "value")
    for i, (gradient, want) in enumerate(zip(gradients, expected, strict=True)):
        if want is None:
            assert gradient is None
        else:
            assert_close(gradient, want, 1e-9, f"gradient of input {i}")

    _, ys, _, gradients, cache = run("float32")
    assert float_dtypes([ys, gradients, cache]) == {np.dtype("float32")}


@given(sizes, st.integers(0, 2))
@example(ONES, 2)
@twenty_five_examples
def test_linear(sizes, leading_axes):
    leading, n_in, n_out = sizes[:leading_axes], sizes[3], sizes[4]
    inputs = [normal(*leading, n_in), normal(n_in, n_out), normal(n_out)]
    check_layer(
        layers.linear_forward,
        layers.linear_backward,
        inputs,
        lambda x, w, b: anp.tensordot(x, w, 1) + b,
    )


@given(sizes, st.sampled_from(["int64", "int32", "uint16"]))
@example(ONES, "int64")
@twenty_five_examples
def test_embedding_of_ids(sizes, dtype):
    B, T, C, V, _ = sizes
    ids = np.random.default_rng(sizes).integers(0, V, (B, T)).astype(dtype)
    check_layer(
        layers.embedding_forward,
        layers.embedding_backward,
        [ids, normal(V, C)],
        lambda ids, weight: anp.tensordot(np.eye(V)[ids], weight, 1),
    )


@given(sizes)
@example(ONES)
@twenty_five_examples
def test_embedding_of_soft_one_hots(sizes):
    B, T, C, V, _ = sizes
    inputs = [normal(B, T, V), normal(V, C)]
    check_layer(
        layers.embedding_forward,
        layers.embedding_backward,
        inputs,
        lambda x, weight: anp.tensordot(x, weight, 1),
    )


@given(sizes, st.integers(0, 2), st.integers(0, 2))
@example(ONES, 0, 0)
@twenty_five_examples
def test_position(sizes, start, unused):
    B, T, C, *_ = sizes
    check_layer(
        lambda x, weight: layers.position_forward(x, weight, start),
        layers.position_backward,
        [normal(B, T, C), normal(start + T + unused, C)],
        lambda x, weight: anp.stack([x[:, t] + weight[start + t] for t in range(T)], axis=1),
    )


@given(sizes, st.integers(1, 3))
@example(ONES, 3)
@twenty_five_examples
def test_unembedding(sizes, axes):
    C, V = sizes[3:]
    inputs = [normal(*sizes[: axes - 1], C), normal(V, C)]
    check_layer(
        layers.unembedding_forward,
        layers.unembedding_backward,
        inputs,
        lambda x, w: anp.tensordot(x, w.T, 1),
    )


@given(sizes, st.integers(0, 2))
@example(ONES, 2)
@twenty_five_examples
def test_layer_norm(sizes, leading_axes):
    C = sizes[3]
    inputs = [3 * normal(*sizes[:leading_axes], C) + 1, normal(C), normal(C)]
    check_layer(layers.layer_norm_forward, layers.layer_norm_backward, inputs, naive_layer_norm)


@given(sizes, st.integers(1, 4))
@example(ONES, 1)
@twenty_five_examples
def test_gelu(sizes, axes):
    check_layer(layers.gelu_forward, layers.gelu_backward, [2 * normal(*sizes[:axes])], naive_gelu)


@given(sizes, st.integers(2, 4), st.sampled_from([-1, -2]))
@example(ONES, 2, -1)
@twenty_five_examples
def test_softmax(sizes, axes, axis):
    check_layer(
        lambda x: layers.softmax_forward(x, axis),
        layers.softmax_backward,
        [2 * normal(*sizes[:axes])],
        lambda x: naive_softmax(x, axis),
    )


@given(sizes, st.integers(1, 4), st.sampled_from([0.0, 0.2, 0.7]))
@example(ONES, 1, 0.5)
@twenty_five_examples
def test_dropout(sizes, axes, rate):
    shape = sizes[:axes]
    kept = np.random.default_rng(5).random(shape) >= rate
    check_layer(
        lambda x: layers.dropout_forward(x, rate, backend.rng(5, np)),
        layers.dropout_backward,
        [normal(*shape)],
        lambda x: x * kept / (1 - rate),
    )


@st.composite
def attention_sizes(draw):
    """past rows R, rows that share one G, B = RG, T, H, D with B, T, H, C = HD all different; P
    past positions.
    """
    triples = [(R, G, R * G) for R in (1, 2) for G in (1, 2, 3)]
    R, G, B = draw(st.sampled_from(triples))
    T, H, D, P = draw(
        st.tuples(*[st.integers(1, 4)] * 4).filter(lambda s: len({B, s[0], s[1], s[1] * s[2]}) == 4)
    )
    return R, G, B, T, H, D, P


@given(attention_sizes(), st.booleans(), st.sampled_from([0.0, 0.3]))
@example((1, 1, 1, 1, 1, 1, 1), False, 0.0)
@example((1, 1, 1, 1, 1, 1, 1), True, 0.0)
@example((2, 1, 2, 3, 1, 4, 2), True, 0.0)
@example((2, 2, 4, 3, 2, 3, 1), True, 0.3)
@example((2, 3, 6, 1, 2, 2, 3), True, 0.0)
@twenty_five_examples
def test_attention(sizes, with_past, rate):
    """The outputs are y and this call's keys and values, so that dkv, which comes from later
    positions, is checked too.
    """
    R, _, B, T, H, D, P = sizes
    P = P if with_past else 0
    kept = np.random.default_rng(5).random((B, H, P + T, T)) >= rate
    inputs = [
        normal(B, T, 3 * H * D),
        *([normal(R, H, P, D), normal(R, H, P, D) + 1] if with_past else []),
    ]

    def forward(qkv, *past):
        y, cache = layers.attention_forward(
            qkv, H, KV(*past) if past else None, rate, backend.rng(5, np)
        )
        return (y, cache.k, cache.v), cache

    def backward(dy, cache):
        dqkv, dpast = layers.attention_backward(dy[0], cache, KV(*dy[1:]))
        assert (dpast is not None) == with_past
        return dqkv, *(dpast or ())

    def naive(qkv, *past):
        return naive_attention(qkv, H, *(past or (None, None)), kept / (1 - rate))

    check_layer(forward, backward, inputs, naive)


def test_attention_without_dkv_is_zero_dkv():
    _, cache = layers.attention_forward(normal(2, 3, 12), 2)
    dy = normal(2, 3, 4)
    without, _ = layers.attention_backward(dy, cache)
    with_zeros, _ = layers.attention_backward(
        dy, cache, KV(np.zeros((2, 2, 3, 2)), np.zeros((2, 2, 3, 2)))
    )
    np.testing.assert_array_equal(without, with_zeros)


@pytest.mark.parametrize("with_past", [False, True])
def test_attention_sees_no_future(with_past):
    """A change at position t changes every output from t on and none before it, bit for bit."""
    past = KV(normal(1, 2, 3, 4), normal(1, 2, 3, 4)) if with_past else None
    qkv = normal(2, 5, 24)
    y, _ = layers.attention_forward(qkv, 2, past)
    for t in range(5):
        changed = qkv.copy()
        changed[:, t] += 1
        moved = layers.attention_forward(changed, 2, past)[0] != y
        assert not moved[:, :t].any()
        assert moved[:, t:].any(axis=(0, 2)).all()


def test_large_inputs_do_not_overflow():
    x = normal(3, 4)
    with np.errstate(all="raise", under="ignore"):
        probs, _ = layers.softmax_forward(x + 1e4)
        far, _ = layers.softmax_forward(np.array([[0.0, 1e4, -1e4]]))
        y, cache = layers.gelu_forward(np.array([-1e4, 1e4], "float32"))
        dx = layers.gelu_backward(np.ones_like(y), cache)
    assert_close(probs, naive_softmax(x), 1e-11)
    assert far.tolist() == [[0, 1, 0]]
    assert y.tolist() == [0, 1e4]
    assert dx.tolist() == [0, 1]


def test_dropout_with_rate_zero_is_the_identity():
    x = normal(3, 4)
    y, cache = layers.dropout_forward(x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(layers.dropout_backward(x, cache), x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(rate, dtype):
    n = 200_000
    y, _ = layers.dropout_forward(np.ones(n, dtype), rate, backend.rng(0, np))
    deviation = np.sqrt(rate * (1 - rate) / n)
    assert abs((y == 0).mean() - rate) < 5 * deviation
    assert abs(y.mean(dtype="float64") - 1) < 5 * deviation / (1 - rate)
    assert len(np.unique(y)) == 2


def test_dropout_follows_its_seed():
    x = normal(20, 20)
    first, again, other = (
        layers.dropout_forward(x, 0.5, backend.rng(seed, np))[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    "call",
    [
        lambda: layers.dropout_forward(normal(2), 0.5),
        lambda: layers.attention_forward(normal(1, 2, 6), 1, dropout=0.5),
    ],
)
def test_dropout_without_a_generator_is_an_error(call):
    with pytest.raises(ValueError, match="rng"):
        call()
