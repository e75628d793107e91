"""Log-probabilities: their values, their limits, and what they are next to a zero."""

import math

import numpy as np
import pytest
from helpers import assert_close

from minimixce import exact, logprob, worlds


def test_log_softmax_is_in_float64_and_sums_to_one():
    logits = np.random.default_rng(0).standard_normal((3, 2, 5)).astype("float32")
    found = logprob.log_softmax(1000 * logits)
    assert found.dtype == np.float64
    assert_close(np.exp(found).sum(axis=-1), np.ones((3, 2)), 1e-14)


def test_a_logit_of_minus_infinity_is_a_probability_of_zero_that_costs_nothing():
    found = logprob.log_softmax(np.array([0.0, -math.inf, 0.0]))
    assert_close(np.exp(found), [0.5, 0, 0.5], 1e-15)
    assert found[1] == -math.inf
    assert logprob.times_log(np.exp(found), found, np)[1] == 0


def test_an_exact_value_stays_finite_where_q_rules_out_what_p_does_too():
    world = worlds.markov([[0.5, 0.5, 0], [1, 0, 0], [1, 0, 0]])
    q_logits = np.zeros((3, 3))
    q_logits[:, 2] = -math.inf
    for objective in ("forward_ce", "reverse_kl", "mixce"):
        loss, dlogits = exact.bigram_loss_and_grads(q_logits, world, objective=objective, max_len=4)
        assert np.isfinite(loss)
        assert np.isfinite(dlogits).all()


def test_chosen_takes_the_targets_and_nothing_where_there_is_none():
    log_q = np.arange(12.0).reshape(1, 3, 4)
    assert logprob.chosen(log_q, np.array([[2, -1, 0]])).tolist() == [[2, 0, 8]]


def test_products_and_differences_with_an_infinite_logarithm():
    p, log = np.array([0.0, 0.5]), np.array([-math.inf, math.log(0.5)])
    assert logprob.times_log(p, log, np).tolist() == [0, 0.5 * math.log(0.5)]
    assert logprob.minus(log, np.zeros(2), np).tolist() == [0, math.log(0.5)]


@pytest.mark.parametrize("eta", [0.1, 0.5, 0.9])
def test_the_mixture_is_that_of_probabilities(eta):
    p, q = np.array([0.0, 0.3, 1.0]), np.array([0.2, 0.7, 1e-30])
    with np.errstate(divide="ignore"):
        found = logprob.log_mixture(np.log(p), np.log(q), eta, np)
    assert_close(np.exp(found), eta * p + (1 - eta) * q, 1e-14)


def test_sums_by_name():
    sums = logprob.Sums()
    sums.add({"a": np.array([1.0, 2.0])})
    sums.add({"a": np.array([3.0]), "b": np.array([1.0])})
    assert [float(sums.total(name, np)) for name in "abc"] == [6, 1, 0]
