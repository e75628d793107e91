"""Fixed points of training: the expected gradient vanishes there, by formula and by bisection."""

import numpy as np
import pytest

from minimixce.experiments.fixed_points import FORMULAS, fixed_point
from minimixce.objectives import OBJECTIVES, token_loss

ROWS = np.random.default_rng(0).dirichlet(np.ones(5), 3)
CASES = [("mle", None), ("forward_ce", None)]
CASES += [(name, ratio) for name in ("mixce", "mixce_surrogate") for ratio in (0.05, 0.5, 1.0)]
CASES += [("tailr", ratio) for ratio in (0.0, 0.1, 0.9)]


@pytest.mark.parametrize(("objective", "ratio"), CASES)
def test_no_token_is_pulled_at_a_fixed_point(objective, ratio):
    """p w(q) = λ q where q > 0, and q = 0 only where p w(0)/0 would be below λ."""
    q, lam = fixed_point(objective, ROWS, ratio)
    assert (q.shape, lam.shape) == (ROWS.shape, (3,))
    np.testing.assert_allclose(q.sum(axis=1), 1, rtol=1e-12)
    _, w = OBJECTIVES[objective].f_and_w(np.log(np.maximum(q, 1e-300)), ratio, np)
    np.testing.assert_allclose(ROWS * w, lam[:, None] * q, atol=1e-12)
    _, near_zero = OBJECTIVES[objective].f_and_w(np.log(np.full(ROWS.shape, 1e-9)), ratio, np)
    assert (ROWS * near_zero <= 1e-9 * lam[:, None])[q == 0].all()


def test_the_losses_have_no_expected_gradient_there():
    p = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
    q, _ = fixed_point("mixce", p, 0.1)
    logits = np.tile(np.log(q), (5, 1))
    _, dlogits = token_loss("mixce", eta=0.1)(logits, np.arange(5), normalizer=1)
    np.testing.assert_allclose(p @ dlogits, 0, atol=1e-14)


@pytest.mark.parametrize(("objective", "ratio"), [case for case in CASES if case[0] in FORMULAS])
def test_any_weight_is_solved_like_those_with_a_formula(objective, ratio):
    q, lam = fixed_point(objective, ROWS, ratio)
    by_bisection, its_lam = fixed_point(OBJECTIVES[objective].f_and_w, ROWS, ratio)
    np.testing.assert_allclose(by_bisection, q, atol=1e-12)
    np.testing.assert_allclose(its_lam, lam, rtol=1e-12)


def test_a_weight_above_one():
    q, lam = fixed_point(lambda log_q, ratio, xp: (None, 3 + xp.exp(log_q)), ROWS)
    np.testing.assert_allclose(ROWS * (3 + q), lam[:, None] * q, rtol=1e-12)
    assert (lam > 3).all()


def test_one_context_is_a_row_of_many():
    q, lam = fixed_point("tailr", ROWS[1], 0.1)
    many, lams = fixed_point("tailr", ROWS, 0.1)
    np.testing.assert_array_equal(q, many[1])
    assert lam == lams[1]


@pytest.mark.parametrize(
    ("objective", "ratio", "message"),
    [
        ("emo", None, "objective must be one of mle, mixce"),
        ("reverse_ce", None, "objective must be one of mle, mixce"),
        ("mixce", 0, "eta must not be 0 for mixce"),
        ("tailr", 1, "gamma must not be 1 for tailr"),
        ("mixce", 1.5, "eta must be"),
    ],
)
def test_what_has_no_single_fixed_point_is_refused(objective, ratio, message):
    with pytest.raises(ValueError, match=message):
        fixed_point(objective, ROWS, ratio)
