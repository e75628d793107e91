"""Faster forms of layers against the plain ones: the same numbers at every shape, and chosen where
they are said to be.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce import fast, layers
from minimixce.fast import attention, blocks, siblings
from minimixce.kv import KV

RNG = np.random.default_rng(0)
SIZES = st.integers(1, 5)


def normal(*shape, dtype="float64", scale=1.0):
    return (scale * RNG.standard_normal(shape)).astype(dtype)


def assert_close(found, expected, tolerance=1e-12):
    """To rounding, relative to the largest entry; NaN and infinities where expected has them."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(found), finite)
    size = np.abs(expected[finite]).max(initial=1e-30)
    assert np.abs(found[finite] - expected[finite]).max(initial=0) <= tolerance * size


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "ELEMENTS", 7)
    monkeypatch.setattr(attention, "ELEMENTS", 24)
    monkeypatch.setattr(attention, "QUERIES", 3)


pytestmark = pytest.mark.usefixtures("small_blocks")
PROPERTY = settings(max_examples=40, deadline=None)


@given(R=SIZES, G=SIZES, P=SIZES, H=SIZES, D=SIZES, scale=st.sampled_from([0.1, 1, 30]))
@PROPERTY
def test_attention_of_siblings(R, G, P, H, D, scale):
    """One token in each of R·G rows, G of which share a past, that may be the start of a room."""
    qkv, dy = normal(R * G, 1, 3 * H * D, scale=scale), normal(R * G, 1, H * D)
    past = KV(*(normal(R, H, P + 1, D, scale=scale)[:, :, :P] for _ in range(2)))
    expected, plain = layers.attention_forward(qkv, H, past)
    y, cache = fast.attention_forward(qkv, H, past)
    assert isinstance(cache, siblings.SiblingsCache)
    assert_close(y, expected)
    assert_close(cache.k, plain.k, 0)
    assert_close(cache.v, plain.v, 0)
    dkv = KV(normal(R * G, H, 1, D), normal(R * G, H, 1, D))
    for more in (None, dkv):
        expected, expected_past = layers.attention_backward(dy, plain, more)
        dqkv, dpast = fast.attention_backward(dy, cache, more)
        assert_close(dqkv, expected, 1e-11)
        assert_close(dpast.k, expected_past.k, 1e-11)
        assert_close(dpast.v, expected_past.v, 1e-11)


@given(B=SIZES, T=st.integers(1, 10), H=SIZES, D=SIZES, scale=st.sampled_from([0.1, 1, 30]))
@PROPERTY
def test_attention_in_blocks_of_queries(B, T, H, D, scale):
    """A scale of 30 leads to scores of thousands, which have to be shifted."""
    qkv, dy = normal(B, T, 3 * H * D, scale=scale), normal(B, T, H * D)
    expected, plain = layers.attention_forward(qkv, H)
    y, cache = attention.attention_forward(qkv, H)
    assert_close(y, expected)
    assert_close(cache.k, plain.k, 0)
    assert_close(cache.v, plain.v, 0)
    dkv = KV(normal(B, H, T, D), normal(B, H, T, D))
    for more in (None, dkv):
        expected, _ = layers.attention_backward(dy, plain, more)
        dqkv, dpast = attention.attention_backward(dy, cache, more)
        assert dpast is None
        # scores of thousands leave their own rounding, of thousands of units, in what is small
        assert_close(dqkv, expected, 1e-9 if scale == 30 else 1e-12)


def test_attention_in_blocks_passes_a_central_difference_and_a_broken_one_does_not():
    qkv = normal(2, 7, 3 * 4)

    def forward(qkv):
        return attention.attention_forward(qkv, 2)

    def backward(dy, cache):
        return (attention.attention_backward(dy, cache)[0],)

    def without_the_mean(dy, cache):
        return backward(dy, cache._replace(y=np.zeros_like(cache.y)))

    assert mm.gradcheck(forward, backward, [qkv]).ok
    assert not mm.gradcheck(forward, without_the_mean, [qkv]).ok


def test_a_later_key_is_never_seen_however_large_its_score():
    """Of a query whose own scores are tiny beside a later key's, nothing is lost or leaks."""
    for size in (1.0, 50.0, 1e4):
        qkv = normal(1, 6, 3 * 2)
        qkv[0, 4, :4] *= size  # query and key of one position
        y, _ = attention.attention_forward(qkv, 1)
        assert_close(y, layers.attention_forward(qkv, 1)[0])
        assert np.isfinite(y).all()
        later = qkv.copy()
        later[0, 5] = 7
        assert_close(attention.attention_forward(later, 1)[0][:, :5], y[:, :5])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_finite_spreads_as_in_the_plain_form(bad):
    qkv = normal(1, 8, 3 * 2)
    qkv[0, 2, 0] = bad
    y, _ = attention.attention_forward(qkv, 1)
    assert not np.isfinite(y[0, 2]).any()
    np.testing.assert_array_equal(np.isfinite(y[0, :2]), True)


def test_attention_in_float32_stays_there_and_close():
    qkv, dy = normal(3, 9, 3 * 8, dtype="float32"), normal(3, 9, 8, dtype="float32")
    expected, plain = layers.attention_forward(qkv, 2)
    y, cache = attention.attention_forward(qkv, 2)
    assert_close(y, expected, 1e-6)
    dqkv, _ = attention.attention_backward(dy, cache)
    assert_close(dqkv, layers.attention_backward(dy, plain)[0], 1e-5)
    assert all(e.dtype == "float32" for e in [*cache.exp_scores, *cache.rsums])


@pytest.mark.parametrize("score", [-59, 59])
def test_small_gradients_stay_precise_under_large_scores(score):
    """Of float32: what is divided by a sum of e^59 may fall below the least normal number."""
    qkv, dy = 0.1 * normal(1, 64, 12), 1e-14 * normal(1, 64, 4)
    qkv[..., [0, 4]] = 2 * math.sqrt(abs(score) / 2)
    qkv[..., 0] *= np.sign(score)
    exact = layers.attention_backward(dy, layers.attention_forward(qkv, 1)[1])[0]
    _, cache = attention.attention_forward(qkv.astype("float32"), 1)
    dqkv, _ = attention.attention_backward(dy.astype("float32"), cache)
    for found, right in zip(np.split(dqkv, 3, axis=-1), np.split(exact, 3, axis=-1)):
        assert_close(found.astype("float64"), right, 1e-4)


@given(B=SIZES, T=st.integers(1, 10), H=SIZES)
@PROPERTY
def test_blocks_cover_every_pair_of_row_and_query_once(B, T, H):
    seen = np.zeros((B, T), int)
    for rows, queries in attention.parts(B, H, T, on_cpu=True):
        seen[rows, queries] += 1
    assert (seen == 1).all()
    computed = sum(q.stop * (q.stop - q.start) for _, q in attention.parts(1, H, T, on_cpu=False))
    n = math.ceil(T / attention.QUERIES)
    assert computed <= (n + 1) / (2 * n) * (n * attention.QUERIES) ** 2  # of T² scores


@given(shape=st.lists(SIZES, min_size=1, max_size=3), scale=st.sampled_from([1, 5, 1e3, 1e20]))
@PROPERTY
@pytest.mark.filterwarnings("ignore:overflow")
def test_gelu_in_blocks(shape, scale):
    x, dy = normal(*shape, scale=scale), normal(*shape)
    expected, plain = layers.gelu_forward(x)
    y, cache = blocks.gelu_forward(x)
    assert_close(y, expected, 0)
    assert_close(cache.gate, plain.gate, 0)
    before = x.copy(), cache.gate.copy(), dy.copy()
    assert_close(blocks.gelu_backward(dy, cache), layers.gelu_backward(dy, plain), 0)
    for kept, now in zip(before, (x, cache.gate, dy)):
        np.testing.assert_array_equal(kept, now)


@pytest.mark.parametrize("view", [np.transpose, lambda x: x[:, ::2], lambda x: x[::-1]])
def test_blocks_take_views(view):
    """Their axes may be in any order in memory: what is written must not go to a copy."""
    x, dy = view(normal(6, 8)), view(normal(6, 8))
    expected, plain = layers.gelu_forward(x)
    y, cache = blocks.gelu_forward(x)
    assert_close(y, expected, 0)
    assert_close(cache.gate, plain.gate, 0)
    assert_close(blocks.gelu_backward(dy, cache), layers.gelu_backward(dy, plain), 0)
    _, cache = layers.layer_norm_forward(x, *normal(2, x.shape[1]))
    for found, right in zip(
        blocks.layer_norm_backward(dy, cache), layers.layer_norm_backward(dy, cache)
    ):
        assert_close(found, right)


@given(shape=st.lists(SIZES, min_size=2, max_size=3))
@PROPERTY
def test_layer_norm_backward_in_blocks(shape):
    x, dy, weight = normal(*shape), normal(*shape), normal(shape[-1])
    _, cache = layers.layer_norm_forward(x, weight, normal(shape[-1]))
    found = blocks.layer_norm_backward(dy, cache)
    expected = layers.layer_norm_backward(dy, cache)
    size = max(np.abs(dy * weight).max(initial=0) * np.abs(cache.rstd).max(), 1e-30)
    assert np.abs(found[0] - expected[0]).max() <= 1e-12 * size
    for some, right in zip(found[1:], expected[1:]):
        assert np.abs(some - right).max() <= 1e-12 * max(np.abs(dy).max() * len(dy) * 3, 1e-30)


def test_layer_norm_in_blocks_passes_a_central_difference_and_a_broken_one_does_not():
    inputs = [normal(6, 4), normal(4), normal(4)]

    def with_a_wrong_mean(dy, cache):
        dx, dweight, dbias = blocks.layer_norm_backward(dy, cache)
        return dx + 1e-4 * cache.rstd * cache.normed, dweight, dbias

    assert mm.gradcheck(layers.layer_norm_forward, blocks.layer_norm_backward, inputs).ok
    assert not mm.gradcheck(layers.layer_norm_forward, with_a_wrong_mean, inputs).ok


# ---- the choice ----------------------------------------------------------------------------------


def test_each_is_chosen_where_the_table_says(monkeypatch):
    chosen = []
    for module, names in (
        (attention, ["attention_forward", "attention_backward"]),
        (blocks, ["gelu_forward", "gelu_backward", "layer_norm_backward"]),
    ):
        for name in names:
            form = getattr(module, name)
            monkeypatch.setattr(
                module, name, lambda *a, f=form, n=name, **k: [chosen.append(n), f(*a, **k)][1]
            )
    gpt = mm.GPT(mm.GPTConfig(5, 8, 1, 1, 4), device="cpu")
    _, past, _ = gpt.extend_forward(np.array([[1, 2]]))
    chosen.clear()
    gpt.extend_forward(np.array([[3]]), past)
    assert "attention_forward" not in chosen  # a past: the plain form
    chosen.clear()
    logits, cache = gpt.forward(np.tile(np.arange(4), (2, 2)))
    gpt.backward(np.ones_like(logits), cache)
    assert set(chosen) == {
        "attention_forward",
        "attention_backward",
        "gelu_forward",
        "gelu_backward",
        "layer_norm_backward",
    }
    chosen.clear()
    rng = np.random.default_rng(0)
    fast.attention_forward(normal(2, 8, 12), 1, dropout=0.1, rng=rng)
    monkeypatch.setattr(blocks, "ELEMENTS", 1 << 16)
    logits, cache = gpt.forward(np.array([[1, 2, 3]]))
    gpt.backward(np.ones_like(logits), cache)
    assert chosen == []  # dropout, or all small enough for a cache


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_model_of_fast_forms_equals_one_of_plain_forms(dtype, monkeypatch):
    gpt = mm.GPT(mm.GPTConfig(9, 10, 2, 2, 8, dtype=dtype), seed=1, device="cpu")
    gpt.params = {n: (p * 20 if p.ndim > 1 else p) for n, p in gpt.params.items()}
    x, targets = RNG.integers(0, 9, (3, 10)), RNG.integers(-1, 9, (3, 10))

    def loss_and_grads():
        logits, cache = gpt.forward(x)
        loss, dlogits = mm.objectives.mixce(logits, targets, eta=0.3)
        return loss, gpt.backward(dlogits, cache)

    loss, grads = loss_and_grads()
    monkeypatch.setattr(blocks, "ELEMENTS", 1 << 30)
    plain_loss, plain = loss_and_grads()
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert abs(loss - plain_loss) <= tolerance
    size = max(np.abs(g).max() for g in plain.values())
    for name, g in plain.items():
        assert np.abs(grads[name] - g).max() <= tolerance * size, name
