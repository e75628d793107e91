"""The references against the package, and the variants against formulas written out here."""

import math

import numpy as np
import pytest

import minimixce as mm
from minimixce import layers
from minimixce.classroom.assignments import assignment
from minimixce.classroom.catalogue import functions_of, load_source
from minimixce.testing import assert_gradients

RNG = np.random.default_rng(3)


def reference(name, variant=0):
    return functions_of(load_source(assignment(name, variant).source(variant), "reference"))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


# ---- A0 and A1 -----------------------------------------------------------------------------------

LOGITS = 2 * RNG.standard_normal((2, 5, 7))
TARGETS = np.array([[1, -1, 3, 0, 6], [2, 2, -1, 5, -1]])


def test_the_warm_up():
    a0 = reference("a0")
    loss, cache = a0.cross_entropy_forward(LOGITS[0], TARGETS[0])
    expected, dlogits = mm.objectives.mle(LOGITS[0], TARGETS[0])
    close(loss, expected)
    close(a0.cross_entropy_backward(1.0, cache)[0], dlogits)


@pytest.mark.parametrize(
    ("name", "ratio"),
    [("mle", {}), ("mixce", {"eta": 0.05}), ("mixce", {"eta": 0.5}), ("tailr", {"gamma": 0})]
    + [("tailr", {"gamma": g}) for g in (0.3, 0.7, 1)],
)
@pytest.mark.parametrize("normalizer", [None, 12])
def test_objectives(name, ratio, normalizer):
    a1 = reference("a1")
    f_and_w = getattr(a1, name)(*ratio.values())
    loss, dlogits = a1.token_loss(LOGITS, TARGETS, f_and_w, normalizer)
    right = getattr(mm.objectives, name)(LOGITS, TARGETS, **ratio, normalizer=normalizer)
    close(loss, right[0])
    close(dlogits, right[1])


def test_the_surrogate():
    a1 = reference("a1")
    loss, dlogits = a1.token_loss(LOGITS, TARGETS, a1.surrogate(0.2))
    right = mm.objectives.mixce_surrogate(LOGITS, TARGETS, eta=0.2)
    close(loss, right[0])
    close(dlogits, right[1])
    close(a1.frozen(LOGITS, LOGITS, TARGETS, 0.2), loss)


@pytest.mark.parametrize("a", [1 / 3, 1 / 2, 2 / 3])
def test_the_fixed_point_is_the_minimum(a):
    """Among distributions nearby none has less Σ p f(q)."""
    a1, p = reference("a1"), np.array([0.5, 0.3, 0.2])
    q = a1.fixed_point(p, a)
    f_and_w = a1.power(a)

    def value(q):
        return (p * f_and_w(np.log(q))[0]).sum()

    for direction in (np.array([1.0, -1, 0]), np.array([0.0, 1, -1])):
        for step in (1e-3, -1e-3):
            assert value(q + step * direction) > value(q)


# ---- A2 ------------------------------------------------------------------------------------------


def equal_pairs(ours, theirs, arguments, dy):
    """Two pairs return the same; theirs with a NamedTuple for a cache."""
    y, cache = ours[0](*arguments)
    right, right_cache = theirs[0](*arguments)
    close(y, right)
    found, expected = ours[1](dy, cache), theirs[1](dy, right_cache)
    for a, b in zip(found, expected if isinstance(expected, tuple) else (expected,)):
        if b is not None:
            close(a, b)


def test_the_textbook_layers():
    a2 = reference("a2")
    x, dy = RNG.standard_normal((2, 5, 12)), RNG.standard_normal((2, 5, 12))
    W, b = RNG.standard_normal((12, 12)), RNG.standard_normal(12)

    def pair(owner, name):
        return getattr(owner, f"{name}_forward"), getattr(owner, f"{name}_backward")

    equal_pairs(pair(a2, "linear"), pair(layers, "linear"), (x, W, b), dy)
    equal_pairs(pair(a2, "position"), pair(layers, "position"), (x, W), dy)
    equal_pairs(pair(a2, "activation"), pair(layers, "gelu"), (x,), dy)
    equal_pairs(pair(a2, "softmax"), pair(layers, "softmax"), (x, -1), dy)
    equal_pairs(pair(a2, "norm"), pair(layers, "layer_norm"), (x, W[0], b), dy)
    ids = np.array([[3, 1, 3, 0, 3], [5, 1, 0, 0, 2]])
    y, cache = a2.embedding_forward(ids, W)
    right, right_cache = layers.embedding_forward(ids, W)
    close(y, right)
    close(a2.embedding_backward(dy, cache)[0], layers.embedding_backward(dy, right_cache)[1])


def test_the_textbook_attention():
    a2, qkv = reference("a2"), RNG.standard_normal((2, 5, 36))
    dy = RNG.standard_normal((2, 5, 12))
    y, cache = a2.attention_forward(qkv, 3, a2.visible(5))
    right, right_cache = layers.attention_forward(qkv, 3)
    close(y, right)
    close(a2.attention_backward(dy, cache)[0], layers.attention_backward(dy, right_cache)[0])


def _tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _silu(x):
    return x / (1 + np.exp(-x))


def _softplus(x):
    return np.log1p(np.exp(x))


def _centred(x):
    return x - x.mean(-1, keepdims=True)


def _layer_norm(x, w, b):
    return _centred(x) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b


def _layer_norm_around_0(x, w, b):
    return _layer_norm(x, 1 + w, b)


def _rms_norm(x, w):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w


def _l2_norm(x, w, b):
    return _centred(x) / np.sqrt((_centred(x) ** 2).sum(-1, keepdims=True) + 1e-5) * w + b


def _over_root(s, D):
    return s / math.sqrt(D)


def _capped(s, D):
    return 1.5 * np.tanh(s / math.sqrt(D) / 1.5)


def _over_width(s, D):
    return s / D


FORMULAS = (  # by variant: activation, norm, who queries 4 of five and 0 of three see, scores
    (_tanh_gelu, _layer_norm, [1, 1, 1, 1, 1], [1, 0, 0], _over_root),
    (_silu, _rms_norm, [0, 0, 1, 1, 1], [1, 0, 0], _over_root),
    (lambda x: np.where(x > 0, x * x, 0), _l2_norm, [1, 1, 1, 1, 1], [1, 1, 0], _over_root),
    (_softplus, _layer_norm_around_0, [1, 0, 1, 0, 1], [1, 0, 0], _over_root),
    (_softplus, _l2_norm, [0, 0, 1, 1, 1], [1, 0, 0], _capped),
    (_silu, _layer_norm_around_0, [1, 1, 1, 1, 1], [1, 1, 0], _over_width),
)


@pytest.mark.parametrize("variant", range(assignment("a2").variants))
def test_variants_are_what_their_headings_say(variant):
    a2, x = reference("a2", variant), RNG.standard_normal((2, 5, 12))
    activation, norm, last_sees, first_sees, _ = FORMULAS[variant]
    close(a2.activation_forward(x)[0], activation(x))
    parameters = [RNG.standard_normal(12) for _ in range(1 if norm is _rms_norm else 2)]
    close(a2.norm_forward(x, *parameters)[0], norm(x, *parameters))
    assert a2.visible(5)[4].astype(int).tolist() == last_sees
    assert a2.visible(3)[0].astype(int).tolist() == first_sees
    assert_gradients(a2.activation_forward, a2.activation_backward, x)
    assert_gradients(a2.norm_forward, a2.norm_backward, x, *parameters)


@pytest.mark.parametrize("variant", range(assignment("a2").variants))
def test_attention_of_a_variant_head_by_head(variant):
    a2, qkv = reference("a2", variant), 2 * RNG.standard_normal((2, 5, 36))
    mask, scores_of = a2.visible(5), FORMULAS[variant][4]
    expected = np.zeros((2, 5, 12))
    for h in range(3):
        q, k, v = (qkv[..., at + 4 * h : at + 4 * h + 4] for at in (0, 12, 24))
        e = np.exp(scores_of(np.einsum("bid,bjd->bij", q, k), 4)) * mask
        expected[..., 4 * h : 4 * h + 4] = e @ v / e.sum(-1, keepdims=True)
    close(a2.attention_forward(qkv, 3, mask)[0], expected)
    assert_gradients(
        lambda qkv: a2.attention_forward(qkv, 3, mask), a2.attention_backward, qkv, names=["qkv"]
    )


# ---- A3 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_the_reverse_direction(horizon):
    a3 = reference("a3")
    world = mm.worlds.random_markov(4, 0.3, 5)
    logits = RNG.standard_normal((4, 4))
    log_q = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    cost = -np.maximum(np.log(np.maximum(world.probs, 1e-300)), world.log_p_floor)
    R, dlogits = a3.exact_reverse_ce(logits, cost, horizon)
    right, expected = mm.exact.bigram_loss_and_grads(
        log_q, world, objective="reverse_ce", eta=0.5, max_len=horizon
    )
    close(R, right)
    close(dlogits, expected["q_logits"] if isinstance(expected, dict) else expected)
    close(a3.reverse_grad(np.exp(log_q), cost, horizon), dlogits)
    close(a3.cost_to_go(np.exp(log_q), cost, horizon)[0, 0], R)


def test_sequences_and_their_probabilities():
    a3, world = reference("a3"), mm.worlds.random_markov(4, 0.0, 5)
    rows = a3.enumerate_sequences(4, 4)
    assert len(rows) == mm.exact.num_sequences(4, 4)
    close(a3.log_prob(np.log(world.probs), rows), world.log_prob(rows))


def test_gumbel_softmax():
    a3, logits, tau = reference("a3"), RNG.standard_normal((9, 7)), 0.7
    u, dy = RNG.uniform(0.01, 0.99, logits.shape), RNG.standard_normal(logits.shape)
    noisy = logits - np.log(-np.log(u))
    soft, cache = layers.softmax_forward(noisy / tau, -1)
    found, mine = a3.gumbel_softmax_forward(logits, lambda: u, tau, False)
    close(found, soft)
    close(a3.gumbel_softmax_backward(dy, mine)[0], layers.softmax_backward(dy, cache) / tau)
    hard, _ = a3.gumbel_softmax_forward(logits, lambda: u, tau, True)
    close(hard, np.eye(7)[noisy.argmax(axis=1)])
