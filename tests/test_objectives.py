"""Objectives: gradients by three routes, values in extreme places, limits, masks, and where
training with them ends.
"""

from decimal import Decimal, localcontext
from functools import partial

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce.experiments import selfcheck
from minimixce.experiments.fixed_points import fixed_point
from minimixce.objectives import emo, mixce, mixce_surrogate, mle, tailr

derandomized = partial(settings, derandomize=True, deadline=None, database=None)
ratios = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1))
shapes = st.lists(st.integers(1, 3), min_size=0, max_size=2).map(tuple)  # of targets, () included
seeds = st.integers(0, 2**32 - 1)


def case(shape, V, seed, scale=2.0):
    """Random logits, targets with some −1, and a cost embedding."""
    rng = np.random.default_rng(seed)
    return (
        scale * rng.standard_normal((*shape, V)),
        rng.integers(-1, V, shape),
        rng.standard_normal((V, 3)),
    )


def everyone(cost_embedding, eta=0.3, gamma=0.2):
    """All objectives as functions of (logits, targets, **options)."""
    return {
        "mle": mle,
        "mixce": partial(mixce, eta=eta),
        "mixce_surrogate": partial(mixce_surrogate, eta=eta),
        "tailr": partial(tailr, gamma=gamma),
        "emo": partial(emo, cost_embedding=cost_embedding),
    }


NAMES = list(everyone(None))


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def q_of(logits, targets):
    return np.take_along_axis(softmax(logits), np.maximum(targets, 0)[..., None], axis=-1)[..., 0]


# ---- gradients -----------------------------------------------------------------------------------


def check(objective, logits, tolerance=1e-6):
    return mm.gradcheck(
        objective, lambda dy, dlogits: (dy * dlogits,), [logits], tolerance=tolerance
    )


@derandomized(max_examples=15)
@given(shapes, st.integers(1, 6), seeds, ratios, ratios)
def test_gradients_are_derivatives_of_their_own_value(shape, V, seed, eta, gamma):
    logits, targets, cost_embedding = case(shape, V, seed)
    for name, objective in everyone(cost_embedding, eta, gamma).items():
        if name not in ("mixce_surrogate", "emo"):  # they stop a gradient: next test
            report = check(lambda z, objective=objective: objective(z, targets), logits)
            assert report.ok, f"{name}\n{report}"


@derandomized(max_examples=10)
@given(shapes, st.integers(2, 6), seeds)
def test_gradients_with_the_stopped_part_frozen(shape, V, seed):
    logits, targets, cost_embedding = case(shape, V, seed)
    targets = np.where((targets < 0).all(), 0, targets)  # objective_checks divides by their number
    for title, objective in selfcheck.objective_checks(logits, targets, cost_embedding):
        report = check(objective, logits)
        assert report.ok, f"{title}\n{report}"


def test_the_unfrozen_surrogate_fails_the_check():
    """Where a gradient is stopped, dlogits is not the derivative of the value as a whole, and a
    check must notice.
    """
    logits, targets, cost_embedding = case((2, 3), 5, 0)
    for objective in (
        partial(mixce_surrogate, eta=0.3),
        partial(emo, cost_embedding=cost_embedding),
    ):
        assert not check(
            lambda z, objective=objective: objective(z, targets), logits, tolerance=1e-3
        ).ok
    # nothing is stopped that would move
    assert check(lambda z: mixce_surrogate(z, targets, eta=1.0), logits).ok


def oracle(name, logits, targets, eta, gamma, cost_embedding):
    """(loss, dlogits) by automatic differentiation of math §6; stopped parts are constants."""
    keep = np.flatnonzero(targets >= 0)
    y, N = targets[keep], max(1, len(keep))
    unit = cost_embedding / np.linalg.norm(cost_embedding, axis=-1, keepdims=True)

    def q_and_log_q(z):
        log_probs = z[keep] - anp.log(anp.sum(anp.exp(z[keep]), axis=-1, keepdims=True))
        log_q = log_probs[np.arange(len(y)), y]
        return anp.exp(log_q), log_q, anp.exp(log_probs)

    def d(probs):
        return sum(
            probs[:, v] * np.where(y == v, 0, 1 - unit[y] @ unit[v])
            for v in range(logits.shape[-1])
        )

    q0, log_q0, probs0 = q_and_log_q(logits)
    d0 = d(probs0)

    def loss(z):
        q, log_q, probs = q_and_log_q(z)
        if name == "mle":
            f = -log_q
        elif name == "mixce":
            f = -eta * log_q - (1 - eta) * q
        elif name == "mixce_surrogate":
            f = -(eta + (1 - eta) * q0) * log_q
        elif name == "tailr":
            f = 1 - q if gamma == 1 else -anp.log(gamma + (1 - gamma) * q) / (1 - gamma)
        else:
            ratio = np.where(d0 > 0, -log_q0 / np.where(d0 > 0, d0, 1), 0)
            f = 0.5 * (-log_q + ratio * d(probs))
        return anp.sum(f) / N

    return loss(logits), grad(loss)(logits)


@derandomized(max_examples=20)
@given(
    st.integers(1, 6),
    st.integers(2, 7),
    seeds,
    ratios,
    st.one_of(st.sampled_from([0, 1]), st.floats(0, 0.99)),
)
def test_values_and_gradients_match_autograd(N, V, seed, eta, gamma):
    logits, targets, cost_embedding = case((N,), V, seed, scale=1.5)
    for name, objective in everyone(cost_embedding, eta, gamma).items():
        loss, dlogits = objective(logits, targets)
        expected, dexpected = oracle(name, logits, targets, eta, gamma, cost_embedding)
        np.testing.assert_allclose(loss, expected, rtol=1e-9, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(dlogits, dexpected, rtol=0, atol=1e-9, err_msg=name)


@derandomized(max_examples=10)
@given(st.integers(2, 6), seeds, ratios)
def test_weight_without_the_stop_gradient(V, seed, eta):
    """Differentiating the surrogate's weight as well gives η + (1−η) q (1 + log q), which is not
    MixCE's.
    """
    z, _, _ = case((), V, seed)

    def surrogate(z):
        log_q = z[0] - anp.log(anp.sum(anp.exp(z)))
        return -(eta + (1 - eta) * anp.exp(log_q)) * log_q

    q = softmax(z)
    toward_target = q - np.eye(V)[0]
    unstopped = eta + (1 - eta) * q[0] * (1 + np.log(q[0]))
    np.testing.assert_allclose(grad(surrogate)(z), unstopped * toward_target, atol=1e-12)
    _, dlogits = mixce_surrogate(z, np.array(0), eta=eta)
    np.testing.assert_allclose(dlogits, (eta + (1 - eta) * q[0]) * toward_target, atol=1e-12)


# ---- values, weights and limits ------------------------------------------------------------------


@derandomized(max_examples=15)
@given(shapes, st.integers(2, 6), seeds, ratios, ratios)
def test_per_token_losses_and_weights_match_the_table(shape, V, seed, eta, gamma):
    logits, targets, cost_embedding = case(shape, V, seed)
    q, keep = q_of(logits, targets), targets >= 0
    table = {
        "mle": (-np.log(q), np.ones_like(q)),
        "mixce": (-eta * np.log(q) - (1 - eta) * q, eta + (1 - eta) * q),
        "mixce_surrogate": (-(eta + (1 - eta) * q) * np.log(q), eta + (1 - eta) * q),
        "tailr": (
            1 - q if gamma == 1 else -np.log1p(-(1 - gamma) * (1 - q)) / (1 - gamma),
            q / (gamma + (1 - gamma) * q),
        ),
        "emo": (-np.log(q), None),
    }
    for name, objective in everyone(cost_embedding, eta, gamma).items():
        losses, weights = objective(logits, targets, reduction="none")
        loss, dlogits = objective(logits, targets)
        f, w = table[name]
        assert losses.shape == weights.shape == targets.shape
        np.testing.assert_allclose(
            losses, np.where(keep, f, 0), rtol=1e-12, atol=1e-13, err_msg=name
        )
        if w is not None:
            np.testing.assert_allclose(
                weights, np.where(keep, w, 0), rtol=1e-12, atol=1e-13, err_msg=name
            )
            one_hot = np.eye(V)[np.maximum(targets, 0)]
            in_full = weights[..., None] * (softmax(logits) - one_hot) / max(1, keep.sum())
            np.testing.assert_allclose(dlogits, in_full, atol=1e-14, err_msg=name)
        np.testing.assert_allclose(
            losses.sum() / max(1, keep.sum()), loss, rtol=1e-12, atol=1e-15, err_msg=name
        )
        # For EMO, too, the weight is the pull on the target's own logit in units of MLE's.
        pull = -np.take_along_axis(dlogits, np.maximum(targets, 0)[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(
            weights * (1 - q) / max(1, keep.sum()), pull, rtol=1e-9, atol=1e-14, err_msg=name
        )


@derandomized(max_examples=10)
@given(shapes, st.integers(1, 6), seeds, st.sampled_from(["float32", "float64"]))
def test_limits_are_mle_exactly(shape, V, seed, dtype):
    logits, targets, _ = case(shape, V, seed)
    logits = logits.astype(dtype)
    for limit in (
        partial(mixce, eta=1),
        partial(mixce, eta=1.0),
        partial(mixce_surrogate, eta=1.0),
        partial(tailr, gamma=0.0),
    ):
        for reduction in ("mean", "none"):
            for got, expected in zip(
                limit(logits, targets, reduction=reduction),
                mle(logits, targets, reduction=reduction),
                strict=True,
            ):
                np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(
        tailr(logits, targets, gamma=1.0)[1], mixce(logits, targets, eta=0.0)[1]
    )


@derandomized(max_examples=10)
@given(shapes, st.integers(1, 6), seeds)
def test_emo_has_the_value_of_mle(shape, V, seed):
    logits, targets, cost_embedding = case(shape, V, seed)
    np.testing.assert_allclose(
        emo(logits, targets, cost_embedding)[0], mle(logits, targets)[0], rtol=1e-14
    )
    np.testing.assert_array_equal(
        emo(logits, targets, cost_embedding, reduction="none")[0],
        mle(logits, targets, reduction="none")[0],
    )


def test_emo_where_there_is_nothing_to_move():
    """Rows of one direction cost nothing: d = 0, the ratio is read as 0, and half of MLE's gradient
    stays.
    """
    logits, targets, _ = case((6,), 4, 3)
    _, dmle = mle(logits, targets)
    for cost_embedding in (np.ones((4, 4)), np.outer([1.0, 2, 3, 4], [3.0, 0])):
        np.testing.assert_allclose(
            emo(logits, targets, cost_embedding)[1], dmle / 2, rtol=1e-12, atol=1e-15
        )
    q = q_of(logits, targets)[:, None]
    keep = (targets >= 0)[:, None]
    expected = (
        0.5
        * (1 - np.log(q) * q / (1 - q))
        * (softmax(logits) - np.eye(4)[targets])
        * keep
        / keep.sum()
    )
    # costs 0 and 1: d = 1 − q
    np.testing.assert_allclose(emo(logits, targets, np.eye(4))[1], expected, atol=1e-15)
    assert np.isfinite(emo(logits, targets, np.zeros((4, 2)))[1]).all()


def test_emo_of_equal_embeddings_does_not_hang_on_rounding():
    logits, targets, _ = case((6,), 4, 3)
    row = np.random.default_rng(4).standard_normal(5)
    np.testing.assert_allclose(
        emo(logits, targets, np.tile(row, (4, 1)))[1], mle(logits, targets)[1] / 2, atol=1e-12
    )


@pytest.mark.parametrize(
    "gamma",
    [5e-324, 1e-300, 1e-12, 0.1, 0.5, np.nextafter(0.5, 1), 0.9, 1 - 1e-12, np.nextafter(1, 0)],
)
def test_tailr_near_its_limits(gamma):
    """Against 400-digit arithmetic, for q from e⁻⁷⁰⁰ to 1 − e⁻³⁰: the two forms of f and the limits
    join without a step.
    """
    gap = np.array([-30.0, -5, -0.5, 0.5, 5, 30, 300, 700])  # of the other logit above the target's
    losses, weights = tailr(
        np.stack([np.zeros_like(gap), gap], -1),
        np.zeros(len(gap), int),
        gamma=gamma,
        reduction="none",
    )
    with localcontext() as context:
        context.prec = 400  # digits, enough for 1 − q and for γ next to either end
        g = Decimal(float(gamma))
        q = [1 / (1 + Decimal(x).exp()) for x in gap]
        mix = [g + (1 - g) * x for x in q]
        f = [float(-m.ln() / (1 - g)) for m in mix]
        w = [float(x / m) for x, m in zip(q, mix)]
    np.testing.assert_allclose(weights, w, rtol=1e-12, atol=0)
    np.testing.assert_allclose(losses, f, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("eta", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("V", [1, 2, 50])
def test_mixce_of_a_uniform_model(eta, V):
    logits, targets = np.zeros((4, V)), np.arange(4) % V
    loss, dlogits = mixce(logits, targets, eta=eta)
    np.testing.assert_allclose(loss, eta * np.log(V) - (1 - eta) / V, atol=1e-15)
    np.testing.assert_allclose(dlogits, (eta + (1 - eta) / V) * mle(logits, targets)[1], atol=1e-16)


# ---- masks, parts, and what must not change ------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masked_targets_count_for_nothing(name, dtype):
    logits, _, cost_embedding = case((2, 3), 5, 0)
    logits, objective = logits.astype(dtype), everyone(cost_embedding.astype(dtype))[name]
    for shape in ((2, 3), (0, 3)):
        loss, dlogits = objective(logits[: shape[0]], np.full(shape, -1))
        assert loss == 0
        assert dlogits.shape == (*shape, 5)
        assert not dlogits.any()
        assert not any(
            x.any() for x in objective(logits[: shape[0]], np.full(shape, -1), reduction="none")
        )
    targets = np.array([[0, -1, 4], [-1, -1, 2]])
    keep = targets >= 0
    loss, dlogits = objective(logits, targets)
    loss_of_kept, dlogits_of_kept = objective(logits[keep], targets[keep])
    np.testing.assert_allclose(loss, loss_of_kept, rtol=1e-6 if dtype == "float32" else 1e-14)
    np.testing.assert_array_equal(dlogits[keep], dlogits_of_kept)
    assert not dlogits[~keep].any()


@pytest.mark.parametrize("name", NAMES)
def test_parts_with_the_whole_count_add_to_the_whole(name):
    logits, targets, cost_embedding = case((4, 6), 5, 1)
    objective = everyone(cost_embedding)[name]
    loss, dlogits = objective(logits, targets)
    count = int((targets >= 0).sum())
    assert 0 < count < targets.size
    parts = [
        objective(logits[i:j], targets[i:j], normalizer=count) for i, j in ((0, 1), (1, 3), (3, 4))
    ]
    np.testing.assert_allclose(sum(part[0] for part in parts), loss, rtol=1e-13)
    np.testing.assert_allclose(
        np.concatenate([part[1] for part in parts]), dlogits, rtol=1e-13, atol=1e-18
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_shape_and_inputs(name, dtype):
    logits, targets, cost_embedding = case((2, 3), 5, 2)
    logits, cost_embedding = logits.astype(dtype), cost_embedding.astype(dtype)
    objective, copies = (
        everyone(cost_embedding)[name],
        [x.copy() for x in (logits, targets, cost_embedding)],
    )
    for integers in ("int32", "int64", "int16"):
        loss, dlogits = objective(logits, targets.astype(integers))
        assert isinstance(loss, np.ndarray)
        assert (loss.shape, dlogits.shape) == ((), logits.shape)
        assert loss.dtype == dlogits.dtype == dtype
        losses, weights = objective(logits, targets.astype(integers), reduction="none")
        assert losses.dtype == weights.dtype == dtype
        assert {x.dtype for x in objective(logits, targets.astype(integers), normalizer=7)} == {
            np.dtype(dtype)
        }
    objective(logits, np.abs(targets).astype("uint8"))
    dlogits += 1
    for now, before in zip((logits, targets, cost_embedding), copies):
        np.testing.assert_array_equal(now, before)
    order = np.asfortranarray(logits)  # any memory layout
    np.testing.assert_allclose(
        objective(order, targets)[1], objective(logits, targets)[1], rtol=1e-6
    )


@derandomized(max_examples=10)
@given(shapes, st.integers(1, 6), seeds, st.floats(-100, 100))
def test_a_constant_added_to_all_logits_changes_nothing(shape, V, seed, constant):
    logits, targets, cost_embedding = case(shape, V, seed)
    for objective in everyone(cost_embedding).values():
        loss, dlogits = objective(logits, targets)
        moved_loss, moved_dlogits = objective(logits + constant, targets)
        np.testing.assert_allclose(moved_loss, loss, atol=1e-12)
        np.testing.assert_allclose(moved_dlogits, dlogits, atol=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_huge_logits(name, dtype):
    big = 1e4
    logits = np.array(
        [
            [big, -big, 0],
            [big, -big, 0],
            [-big, -big, -big],
            [big, big, -big],
            [-big, -0.9 * big, 3],
        ],
        dtype,
    )
    targets, V = np.array([0, 1, 2, 0, 0]), 3
    log_q = np.array([0, -2 * big, -np.log(3), -np.log(2), -big - 3])
    q = np.exp(log_q)
    softmax_of_each = np.array([[1, 0, 0], [1, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0], [0, 0, 1]])
    eta, gamma = 0.25, 0.25
    f, w = {
        "mle": (-log_q, np.ones(5)),
        "mixce": (-eta * log_q - (1 - eta) * q, eta + (1 - eta) * q),
        "mixce_surrogate": (-(eta + (1 - eta) * q) * log_q, eta + (1 - eta) * q),
        "tailr": (-np.log(gamma + (1 - gamma) * q) / (1 - gamma), q / (gamma + (1 - gamma) * q)),
        "emo": (-log_q, None),
    }[name]
    objective = everyone(np.eye(V, dtype=dtype), eta, gamma)[name]
    tolerance = (
        {"rtol": 1e-6, "atol": 1e-7} if dtype == "float32" else {"rtol": 1e-14, "atol": 1e-15}
    )
    losses, weights = objective(logits, targets, reduction="none")
    loss, dlogits = objective(logits, targets, normalizer=1)
    np.testing.assert_allclose(losses, f, **tolerance)
    np.testing.assert_allclose(loss, f.sum(), **tolerance)
    # cosine costs are 0 and 1: d = 1 − q, and w = ½ (1 − q log q / (1 − q)), ½ (1 + 1) at q = 1
    if name == "emo":
        w = 0.5 + 0.5 * np.where(q < 1, -log_q * q / np.where(q < 1, 1 - q, 1), 1)
    np.testing.assert_allclose(weights, w, **tolerance)
    np.testing.assert_allclose(
        dlogits, w[:, None] * (softmax_of_each - np.eye(V)[targets]), **tolerance
    )


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1e-9, 1 + 1e-9, 2, float("nan"), float("inf")])
def test_ratios_outside_0_to_1(value):
    logits, targets, _ = case((3,), 4, 0)
    for objective, name in ((mixce, "eta"), (mixce_surrogate, "eta"), (tailr, "gamma")):
        with pytest.raises(ValueError, match=f"{name} must be between 0 and 1, got {value}"):
            objective(logits, targets, **{name: value})


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments(name):
    logits, targets, cost_embedding = case((2, 3), 5, 0)
    objective = everyone(cost_embedding)[name]
    for bad in (targets[:1], targets[..., None], targets.reshape(-1), np.array(0)):
        with pytest.raises(
            ValueError, match="targets must have the shape of logits without its last axis"
        ):
            objective(logits, bad)
    for bad in (targets.astype(float), targets > 0):
        with pytest.raises(TypeError, match="logits must be floats and targets integers"):
            objective(logits, bad)
    with pytest.raises(TypeError, match="logits must be floats"):
        objective(logits.astype(int), targets)
    with pytest.raises(TypeError, match="logits must be a NumPy or CuPy array, got list"):
        objective(logits.tolist(), targets)
    for value in (5, -2, 1000):
        bad = targets.copy()
        bad[1, 1] = value
        with pytest.raises(ValueError, match=rf"targets must be in 0 … 4, or −1, got .*{value}"):
            objective(logits, bad)
    for normalizer in (0, -1, float("nan")):
        with pytest.raises(
            ValueError, match=f"normalizer must be a positive number, got {normalizer}"
        ):
            objective(logits, targets, normalizer=normalizer)
    for reduction in ("sum", None, ""):
        with pytest.raises(
            ValueError, match=f'reduction must be "mean" or "none", got {reduction!r}'
        ):
            objective(logits, targets, reduction=reduction)


@pytest.mark.parametrize("shape", [(4, 3), (6, 3), (5,), (1, 5, 3)])
def test_bad_cost_embedding(shape):
    logits, targets, _ = case((2, 3), 5, 0)
    with pytest.raises(ValueError, match=r"cost_embedding must have shape \(5, C\), got \("):
        emo(logits, targets, np.ones(shape))


# ---- where training ends -------------------------------------------------------------------------


def trained(objective, p, steps=1500):
    """q after gradient descent on E_{x~p} of the objective, logits being the only parameters: at
    most so many steps, fewer where nothing moves any more.

    Every step is divided by q, which moves no fixed point and lets a q on its way to 0 arrive in
    finite time.
    """
    V = len(p)
    z = np.zeros(V)
    for _ in range(steps):
        _, dlogits = objective(np.tile(z, (V, 1)), np.arange(V), normalizer=1)
        before, z = z, np.maximum(z - 0.5 * (p @ dlogits) / softmax(z), z.max() - 100)
        if np.abs(z - before).max() < 1e-13:
            break
    return softmax(z)


WORKED = np.array([0.5, 0.25, 0.15, 0.07, 0.03])


@pytest.mark.parametrize("p", [WORKED, np.array([0.4, 0.35, 0.25])], ids=["worked example", "flat"])
@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.9])
def test_fixed_points(p, ratio):
    np.testing.assert_allclose(trained(mle, p), p, atol=1e-10)
    np.testing.assert_allclose(
        trained(partial(mixce, eta=ratio), p), fixed_point("mixce", p, ratio)[0], atol=1e-8
    )
    np.testing.assert_allclose(
        trained(partial(mixce_surrogate, eta=ratio), p),
        fixed_point("mixce", p, ratio)[0],
        atol=1e-8,
    )
    np.testing.assert_allclose(
        trained(partial(tailr, gamma=ratio), p, 5000), fixed_point("tailr", p, ratio)[0], atol=1e-6
    )


def test_worked_example():
    mixed, truncated = (
        trained(partial(mixce, eta=0.1), WORKED),
        trained(partial(tailr, gamma=0.1), WORKED),
    )
    np.testing.assert_allclose(mixed, [0.850, 0.088, 0.040, 0.016, 0.006], atol=5e-4)
    np.testing.assert_allclose(truncated, [0.630, 0.259, 0.111, 0, 0], atol=6e-4)
    assert truncated[3:].max() < 1e-6 < mixed[4]  # TaiLr cuts the tail off, MixCE keeps it
