"""What objectives.py must do. `pytest -m task1_4` runs one task; `pytest -k diagnosis` says in words what is wrong.

The first tests of a task are its specification, readable by themselves; its last, test_diagnosis, is what `minimixce grade a1 .
--local` runs, and tells points and, where it can, which mistake it is.
"""

from pathlib import Path

import numpy as np
import objectives
import pytest

from minimixce.classroom.local import assert_task

VARIANT = 0
HERE = Path(__file__).parent


def close(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, strict=False)


def example():
    """Logits (2,3,4) and targets (2,3), of which two are ignored."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 3, 4)), np.array([[1, -1, 3], [0, 2, -1]])


def slope(f, log_q, step=1e-5):
    """The derivative of f in log q, which is −w."""
    return (f(log_q + step) - f(log_q - step)) / (2 * step)


LOG_Q = np.log([0.9, 0.5, 0.135, 0.02])  # around q = 0.135 a forgotten stop gradient turns the sign


# ---- 1.1 --------------------------------------------------------------------------------------------------------------


@pytest.mark.task1_1
def test_log_softmax_is_log_of_softmax():
    z = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    close(objectives.log_softmax(z), np.log(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)))


@pytest.mark.task1_1
def test_log_softmax_of_large_logits_is_finite_and_a_shift_changes_nothing():
    z = np.array([[1000.0, 0.0, -1000.0]])
    close(objectives.log_softmax(z), [[0.0, -1000.0, -2000.0]])
    close(objectives.log_softmax(z / 1000 + 7), objectives.log_softmax(z / 1000))


@pytest.mark.task1_1
def test_float32_stays_float32():
    assert objectives.log_softmax(np.zeros((2, 3), np.float32)).dtype == np.float32


# ---- 1.2 --------------------------------------------------------------------------------------------------------------


@pytest.mark.task1_2
def test_loss_and_gradient_of_two_logits():
    """q = ½: MLE's loss is log 2, its gradient softmax − onehot."""

    def mle(log_q):
        return -log_q, np.ones_like(log_q)

    loss, dlogits = objectives.token_loss(np.zeros((1, 2)), np.array([1]), mle)
    close(loss, np.log(2))
    close(dlogits, [[0.5, -0.5]])


@pytest.mark.task1_2
def test_ignored_targets_count_for_nothing():
    logits, targets = example()
    loss, dlogits = objectives.token_loss(logits, targets, square_root)
    kept = targets >= 0
    alone, dalone = objectives.token_loss(logits[kept], targets[kept], square_root)
    close(loss, alone)
    close(dlogits[kept], dalone)
    assert not dlogits[~kept].any()


@pytest.mark.task1_2
def test_no_target_at_all_is_zero():
    loss, dlogits = objectives.token_loss(np.ones((1, 2, 3)), np.full((1, 2), -1), square_root)
    assert loss == 0
    assert not dlogits.any()


@pytest.mark.task1_2
def test_two_halves_add_up_to_the_whole():
    logits, targets = example()
    whole, dwhole = objectives.token_loss(logits, targets, square_root)
    halves = [objectives.token_loss(logits[i : i + 1], targets[i : i + 1], square_root, normalizer=4) for i in (0, 1)]
    close(halves[0][0] + halves[1][0], whole)
    close(np.concatenate([halves[0][1], halves[1][1]]), dwhole)


@pytest.mark.task1_2
def test_inputs_stay_as_they_are():
    logits, targets = example()
    before = logits.copy(), targets.copy()
    objectives.token_loss(logits, targets, square_root)
    close(logits, before[0])
    close(targets, before[1])


def square_root(log_q):
    """f = −2 √q, whose weight is √q."""
    return -2 * np.exp(log_q / 2), np.exp(log_q / 2)


# ---- 1.3 to 1.7: f and w ----------------------------------------------------------------------------------------------


@pytest.mark.task1_3
def test_mle():
    f, w = objectives.mle()(LOG_Q)
    close(f, -LOG_Q)
    close(w, np.ones(4))


@pytest.mark.task1_4
@pytest.mark.parametrize("eta", [0, 0.05, 0.5, 1])
def test_mixce_weight_is_the_slope_of_its_value(eta):
    f_and_w = objectives.mixce(eta)
    close(-slope(lambda x: f_and_w(x)[0], LOG_Q), f_and_w(LOG_Q)[1], 1e-8)


@pytest.mark.task1_4
def test_mixce_values_and_its_limit():
    f, w = objectives.mixce(0.5)(np.log([0.5]))
    close(f, [0.5 * np.log(2) - 0.25])
    close(w, [0.75])
    close(objectives.mixce(1)(LOG_Q), (-LOG_Q, np.ones(4)))


@pytest.mark.task1_5
def test_surrogate_has_the_gradient_of_mixce_and_another_value():
    f, w = objectives.surrogate(0.05)(LOG_Q)
    close(f, -(0.05 + 0.95 * np.exp(LOG_Q)) * LOG_Q)
    close(w, 0.05 + 0.95 * np.exp(LOG_Q))


@pytest.mark.task1_5
def test_only_the_frozen_value_has_that_gradient():
    f_and_w = objectives.surrogate(0.05)
    assert np.abs(-slope(lambda x: f_and_w(x)[0], LOG_Q) - f_and_w(LOG_Q)[1]).max() > 0.1
    logits, targets = example()
    _, dlogits = objectives.token_loss(logits, targets, f_and_w)
    step = np.zeros_like(logits)
    step[0, 0, 1] = 1e-5
    up, down = (objectives.frozen(logits + s, logits, targets, 0.05) for s in (step, -step))
    close((up - down) / 2e-5, dlogits[0, 0, 1], 1e-8)


@pytest.mark.task1_6
@pytest.mark.parametrize("gamma", [0, 0.3, 0.7, 1])
def test_tailr_weight_is_the_slope_of_its_value(gamma):
    f_and_w = objectives.tailr(gamma)
    close(-slope(lambda x: f_and_w(x)[0], LOG_Q), f_and_w(LOG_Q)[1], 1e-8)


@pytest.mark.task1_6
def test_tailr_values_and_its_limits():
    f, w = objectives.tailr(0.5)(np.log([0.5]))
    close(f, [-2 * np.log(0.75)])
    close(w, [2 / 3])
    far = np.array([-700.0, -800.0])
    close(objectives.tailr(0)(far), (-far, np.ones(2)))
    close(objectives.tailr(1)(LOG_Q), (1 - np.exp(LOG_Q), np.exp(LOG_Q)))
    close(objectives.tailr(1 - 1e-12)(LOG_Q)[0], 1 - np.exp(LOG_Q), 1e-6)


@pytest.mark.task1_7
@pytest.mark.parametrize("a", [1 / 3, 1 / 2, 2 / 3])
def test_power_weight_is_the_slope_of_its_value(a):
    f_and_w = objectives.power(a)
    close(-slope(lambda x: f_and_w(x)[0], LOG_Q), f_and_w(LOG_Q)[1], 1e-8)
    close(f_and_w(np.log([0.25]))[1], [0.25**a])


@pytest.mark.task1_7
@pytest.mark.parametrize("a", [1 / 3, 1 / 2, 2 / 3])
def test_fixed_point_is_where_no_exchange_of_mass_helps(a):
    """p f′(q) is the same for every token, and q sums to one."""
    p = np.array([0.5, 0.3, 0.2])
    q = objectives.fixed_point(p, a)
    close(q.sum(), 1)
    pull = p * objectives.power(a)(np.log(q))[1] / q
    close(pull, pull[0])


# ---- what the grader would say ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [pytest.param(f"1.{n}", marks=getattr(pytest.mark, f"task1_{n}")) for n in range(1, 8)])
def test_diagnosis(number):
    assert_task("a1", number, HERE, VARIANT)
