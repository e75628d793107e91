"""What formulas are worth at the edge: tokens that Q rules out, numbers that are large, states that
are never reached.
"""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import strict_device as sd
from helpers import random_gpt
from test_sampling import Fixed

import minimixce as mm
from minimixce.objectives import emo, mixce, mixce_surrogate, mle, tailr

INF = math.inf


def quiet(function, *args, **options):
    with np.errstate(all="ignore"):
        return function(*args, **options)


# ---- a target that Q rules out -------------------------------------------------------------------

logits = np.array([[0.3, -INF, 0.8], [0.1, 0.2, 0.3]])
targets = np.array([1, 2])
EMBEDDING = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
AT_MINUS_INFINITY = {  # value at q = 0, weight there
    "mle": (mle, INF, 1.0),
    "mixce(0)": (partial(mixce, eta=0), 0.0, 0.0),
    "mixce(.3)": (partial(mixce, eta=0.3), INF, 0.3),
    "mixce(1)": (partial(mixce, eta=1), INF, 1.0),
    "surrogate(0)": (partial(mixce_surrogate, eta=0), 0.0, 0.0),
    "surrogate(.3)": (partial(mixce_surrogate, eta=0.3), INF, 0.3),
    "tailr(0)": (partial(tailr, gamma=0), INF, 1.0),
    "tailr(.1)": (partial(tailr, gamma=0.1), -math.log(0.1) / 0.9, 0.0),
    "tailr(.9)": (partial(tailr, gamma=0.9), -math.log(0.9) / 0.1, 0.0),
    "tailr(1)": (partial(tailr, gamma=1), 1.0, 0.0),
    "emo": (partial(emo, cost_embedding=EMBEDDING), INF, 0.5),
}


@pytest.mark.parametrize("name", AT_MINUS_INFINITY)
@pytest.mark.parametrize("xp", [np, sd], ids=["NumPy", "device"])
def test_a_target_that_q_rules_out(name, xp):
    objective, value, weight = AT_MINUS_INFINITY[name]
    if name == "emo":
        objective = partial(emo, cost_embedding=xp.asarray(EMBEDDING))
    arrays = xp.asarray(logits), xp.asarray(targets)
    f, w = quiet(objective, *arrays, reduction="none")
    assert float(f[0]) == pytest.approx(value, rel=1e-12)
    assert float(w[0]) == pytest.approx(weight, rel=1e-12)
    loss, dlogits = quiet(objective, *arrays)
    assert float(loss) == pytest.approx((value + float(f[1])) / 2, rel=1e-12)
    dlogits = mm.backend.to_numpy(dlogits) if xp is np else dlogits.get()
    if name == "emo":  # the pull on the others grows without bound
        assert not np.isnan(dlogits).any()
        assert dlogits[0, 1] == pytest.approx(-0.25)
        assert dlogits[0, 0] == -dlogits[0, 2] == INF
    else:
        rest = np.exp(logits[0]) / np.exp(logits[0]).sum()
        want = weight * (rest - np.array([0, 1, 0])) / 2
        np.testing.assert_allclose(dlogits[0], want, rtol=1e-12, atol=1e-15)


def test_tailr_at_0_is_mle_there_too():
    got, want = quiet(tailr, logits, targets, gamma=0), quiet(mle, logits, targets)
    assert got[0] == want[0] == INF
    np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
@pytest.mark.parametrize("name", AT_MINUS_INFINITY)
def test_what_is_ignored_may_hold_anything(name, bad):
    objective = AT_MINUS_INFINITY[name][0]
    good = np.array([[0.1, 0.2, 0.3], [0.5, 0.4, 0.3]])
    spoilt = np.vstack([good[:1], [[bad] * 3], good[1:]])
    want_loss, want = objective(good, np.array([2, 0]))
    loss, dlogits = quiet(objective, spoilt, np.array([2, -1, 0]))
    assert loss == want_loss
    np.testing.assert_array_equal(dlogits[[0, 2]], want)
    np.testing.assert_array_equal(dlogits[1], 0)
    device = {"cost_embedding": sd.asarray(EMBEDDING)} if name == "emo" else {}
    with sd.no_host_reads():
        loss, dlogits = quiet(
            objective, sd.asarray(spoilt), sd.asarray(np.array([2, -1, 0])), **device
        )
    assert float(loss) == pytest.approx(float(want_loss), rel=1e-15)
    np.testing.assert_array_equal(dlogits.get()[1], 0)


@pytest.mark.parametrize("dtype", ["float16", "longdouble"])
def test_logits_of_other_precision_are_refused(dtype):
    z, y = np.zeros((70_000, 2), dtype), np.zeros(70_000, int)
    for name, (objective, _, _) in AT_MINUS_INFINITY.items():
        if name != "emo":
            with pytest.raises(
                TypeError, match=f"logits must be float32 or float64, got .*{z.dtype}"
            ):
                objective(z, y)
    with pytest.raises(TypeError, match=f"q_logits must be float32 or float64, got {z.dtype}"):
        mm.exact.bigram_loss_and_grads(z[:6, [0] * 6], mm.worlds.agreement(), max_len=3)


# ---- exact sums where Q is 0 ---------------------------------------------------------------------

P = np.array([[0.2, 0.5, 0.3], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
world = mm.worlds.markov(P)
NEVER_1 = np.array([0.2, -INF, 0.1])  # a token that P says
NEVER_2_AFTER_2 = np.array([[0.2, 0.1, 0.3], [0.1, 0.4, 0.2], [0.1, 0.3, -INF]])  # one it does not


class Masked(mm.TableBigram):
    """A table with logits that are −inf without being parameters, which soft inputs multiply."""

    def extend_forward(self, x, past=None, training=False, rng=None):
        logits, present, cache = super().extend_forward(x, past, training, rng)
        return logits + self.mask[x if x.ndim == 2 else x.argmax(axis=-1)], present, cache


def table(rows):
    rows = np.zeros((3, 3)) + rows
    model = Masked(3, device="cpu")
    model.params["logits"][...] = np.where(rows > -300, rows, 0)
    model.mask = np.where(rows > -300, 0, rows)
    return model


INFINITE = {"forward_ce", "forward_kl", "mle"}


@pytest.mark.parametrize("method", ["tree", "list"])
@pytest.mark.parametrize("objective", mm.objectives.exact_names())
@pytest.mark.parametrize("eta", [0.5, 0.0, 1.0])
def test_exact_sums_where_q_is_zero(objective, method, eta):
    if objective == "js" and eta != 0.5:
        return
    model = table(NEVER_1)
    loss, grads = quiet(
        mm.exact.loss_and_grads, model, world, 4, objective=objective, eta=eta, method=method
    )
    weight = {"mixce": eta, "mixce_star": eta, "two_kls": eta, "tailr": float(eta == 0)}
    infinite = objective in INFINITE or weight.get(objective, 0) > 0
    assert (float(loss) == INF) == infinite
    nearly, nearly_grads = mm.exact.loss_and_grads(
        table(np.where(NEVER_1 > -INF, NEVER_1, -300.0)),
        world,
        4,
        objective=objective,
        eta=eta,
        method=method,
    )
    if not infinite:
        assert float(loss) == pytest.approx(float(nearly), rel=1e-12, abs=1e-100)
    np.testing.assert_allclose(grads["logits"], nearly_grads["logits"], rtol=1e-9, atol=1e-12)
    if objective != "js":
        q = np.zeros((3, 3)) + NEVER_1
        by_table, dlogits = quiet(
            mm.exact.bigram_loss_and_grads, q, world, objective=objective, eta=eta, max_len=4
        )
        assert float(by_table) == pytest.approx(float(loss), rel=1e-12)
        np.testing.assert_allclose(dlogits, grads["logits"], rtol=1e-9, atol=1e-12)


def test_measures_where_q_is_zero():
    found = quiet(mm.exact.measure, table(NEVER_1), world, 4)
    assert (
        found["forward_ce"] == found["forward_kl"] == found["mixce_star"] == found["mixce"] == INF
    )
    for name in ("reverse_ce", "reverse_kl", "js", "overlap", "entropy_q", "validity"):
        assert np.isfinite(found[name]), name
    at_0 = quiet(mm.exact.measure, table(NEVER_1), world, 4, eta=0.0)
    assert at_0["mixce_star"] == at_0["reverse_ce"]
    assert at_0["two_kls"] == at_0["reverse_kl"]
    assert np.isfinite(at_0["mixce"])
    harmless = quiet(mm.exact.measure, table(NEVER_2_AFTER_2), world, 4)
    assert np.isfinite(harmless["forward_ce"])
    rows = np.array([[0, 1, 0, -1], [0, 2, 0, -1]])
    np.testing.assert_array_equal(mm.exact.log_prob(table(NEVER_1), rows) == -INF, [True, False])


def test_costs_to_go_where_q_is_zero():
    for objective in ("reverse_ce", "reverse_kl"):
        loss, grads = quiet(mm.exact.policy_gradient, table(NEVER_1), world, 4, objective=objective)
        want, want_grads = quiet(
            mm.exact.loss_and_grads, table(NEVER_1), world, 4, objective=objective
        )
        assert loss == pytest.approx(float(want), rel=1e-12)
        np.testing.assert_allclose(grads["logits"], want_grads["logits"], atol=1e-12)


def test_measures_on_a_world_where_q_is_zero():
    from minimixce.experiments import world_measures

    found = quiet(world_measures.measure_on_world, table(NEVER_1), world, 4)
    assert found["forward_ce"] == INF
    assert np.isfinite(found["entropy_q"])


@pytest.mark.parametrize(
    "name", ["reinforce", "reward_to_go", "rloo", "k1", "k2", "k3", "importance", "gumbel"]
)
@pytest.mark.parametrize("rows", [NEVER_1, NEVER_2_AFTER_2], ids=["possible", "impossible"])
def test_estimators_where_q_is_zero(name, rows):
    model, estimator = table(rows), getattr(mm.estimators, name)
    drawn = mm.estimators.sample(model, 50, 4)
    if name == "importance":
        drawn = world.sample(50, 4)
    if name == "gumbel":
        drawn = mm.estimators.gumbel_noise(50, 4, 3)
    for objective in ("reverse_kl", "reverse_ce"):
        options = {} if name in ("k2", "k3") else {"objective": objective}
        loss, grads = quiet(estimator, model, world, drawn, **options)
        assert np.isfinite(loss)
        assert np.isfinite(grads["logits"]).all()
        nearly = table(np.where(rows > -INF, rows, -300.0))
        want, want_grads = estimator(nearly, world, drawn, **options)
        np.testing.assert_allclose(loss, want, rtol=1e-12)
        np.testing.assert_allclose(grads["logits"], want_grads["logits"], rtol=1e-9, atol=1e-12)


# ---- the closed form -----------------------------------------------------------------------------


@pytest.mark.parametrize("xp", [np, sd], ids=["NumPy", "device"])
@pytest.mark.parametrize("objective", ["reverse_ce", "reverse_kl", "overlap", "two_kls"])
def test_an_absorbing_state_that_is_never_reached(objective, xp):
    """Token 2 is followed by itself for ever, but nothing leads there."""
    q = np.array([[0.5, 0.2, -INF], [0.3, 0.1, -INF], [-INF, -INF, 0.0]])
    p = mm.worlds.markov([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    loss, dlogits = quiet(mm.exact.bigram_loss_and_grads, xp.asarray(q), p, objective=objective)
    horizon, dhorizon = quiet(
        mm.exact.bigram_loss_and_grads, q, p, objective=objective, max_len=400
    )
    assert float(loss) == pytest.approx(float(horizon), rel=1e-12)
    dlogits = dlogits if xp is np else dlogits.get()
    np.testing.assert_allclose(dlogits, dhorizon, atol=1e-12)


def test_an_absorbing_state_that_is_reached_is_refused():
    q = np.array([[0.5, 0.2, -INF], [0.3, 0.1, 0.1], [-INF, -INF, 0.0]])
    with pytest.raises(FloatingPointError, match="hardly ever ends"):
        quiet(mm.exact.bigram_loss_and_grads, q, world, objective="reverse_ce")


# ---- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1e5, -1e5, 1e3, 3e30, 0.1])
@pytest.mark.parametrize("C", [3, 7, 48, 768])
@pytest.mark.parametrize("xp", [np, sd], ids=["NumPy", "device"])
def test_layer_norm_of_constant_rows(value, C, xp):
    x = np.full((4, C), value, "float32")
    bias = np.zeros(C, "float32")
    y, cache = quiet(mm.layers.layer_norm_forward, *map(xp.asarray, (x, bias + 1, bias)))
    y = y if xp is np else y.get()
    np.testing.assert_allclose(y, 0, atol=1e-3)
    dx, _, _ = quiet(mm.layers.layer_norm_backward, xp.asarray(x * 0 + 1), cache)
    dx = dx if xp is np else dx.get()
    assert np.isfinite(dx).all()


def test_layer_norm_far_from_zero():
    """float32 against float64 of the same numbers."""
    rng = np.random.default_rng(0)
    x = (1e5 + rng.standard_normal((5, 64))).astype("float32")
    ones, zeros = np.ones(64, "float32"), np.zeros(64, "float32")
    got, _ = mm.layers.layer_norm_forward(x, ones, zeros)
    want, _ = mm.layers.layer_norm_forward(*(a.astype("float64") for a in (x, ones, zeros)))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_gelu_of_large_numbers():
    for dtype, large in (("float32", [2e13, 1e19, 3e38]), ("float64", [2e103, 1e160, 1e300])):
        x = np.array([-large[2], -large[1], -large[0], -50.0, 50.0, *large], dtype)
        y, cache = quiet(mm.layers.gelu_forward, x)
        np.testing.assert_array_equal(y, np.maximum(x, 0))
        dx = quiet(mm.layers.gelu_backward, np.ones_like(x), cache)
        np.testing.assert_array_equal(dx, (x > 0) * 1.0)


# ---- js from samples -----------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0, 1, 2, -1, math.nan])
@pytest.mark.parametrize("max_len", [1, 4])
def test_js_from_samples_has_js_s_ratios(eta, max_len):
    model = random_gpt(vocab_size=3)
    rows, noise = world.sample(4, max_len), mm.estimators.gumbel_noise(4, max_len, 3)
    with pytest.raises(ValueError, match="eta must be"), np.errstate(all="raise"):
        mm.estimators.rloo(model, world, rows, objective="js", eta=eta)
    with pytest.raises(ValueError, match="eta must be"), np.errstate(all="raise"):
        mm.estimators.gumbel(model, world, noise, objective="js", eta=eta)


def test_fixed_model_is_what_it_says():
    assert Fixed(NEVER_1).extend_forward(np.zeros((1, 2), int))[0].shape == (1, 2, 3)


def test_js_of_what_neither_p_nor_q_can_write_is_silent():
    world = mm.worlds.markov([[0.5, 0.5, 0], [1, 0, 0], [1, 0, 0]])
    model = mm.TableBigram(3, device="cpu")
    model.params["logits"][:, 2] = -math.inf  # Q rules token 2 out, and so does P
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, grads = mm.exact.loss_and_grads(model, world, 3, objective="js", eta=0.5)
    assert np.isfinite(loss)
    assert np.isfinite(grads["logits"]).all()
