"""What reverse.py must do. `pytest -m task3_4` runs one task; `pytest -k diagnosis` says in words what is wrong."""

from pathlib import Path

import numpy as np
import pytest
import reverse

from minimixce.classroom.local import assert_task
from minimixce.testing import assert_gradients

VARIANT = 0
HERE = Path(__file__).parent
RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((3, 3))
Q = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
COST = RNG.exponential(1.0, (3, 3))


def close(found, expected, tolerance=1e-10):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# ---- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.task3_1
def test_the_forced_boundary_is_free_and_the_padding_counts_for_nothing():
    """At a horizon of 3: after one token the end is drawn, after two it is forced."""
    log_q = np.log(Q)
    found = reverse.log_prob(log_q, np.array([[0, 1, 0, -1], [0, 1, 2, 0], [0, 0, -1, -1]]))
    close(found, [log_q[0, 1] + log_q[1, 0], log_q[0, 1] + log_q[1, 2], log_q[0, 0]])


@pytest.mark.task3_2
def test_all_sequences_of_three_tokens_at_a_horizon_of_three():
    rows = {tuple(row) for row in reverse.enumerate_sequences(3, 3)}
    assert len(rows) == 1 + 2 + 4
    assert (0, 0, -1, -1) in rows
    assert (0, 2, 0, -1) in rows
    assert (0, 2, 1, 0) in rows


@pytest.mark.task3_2
def test_probabilities_of_all_sequences_sum_to_one():
    for horizon in (1, 2, 4):
        close(np.exp(reverse.log_prob(np.log(Q), reverse.enumerate_sequences(3, horizon))).sum(), 1)


@pytest.mark.task3_3
def test_listing():
    def forward(logits):
        return reverse.exact_reverse_ce(logits, COST, 3)

    assert_gradients(forward, lambda dy, dlogits: (dy * dlogits,), LOGITS, names=["logits"])


@pytest.mark.task3_3
def test_without_a_choice_there_is_no_cost_and_no_gradient():
    R, dlogits = reverse.exact_reverse_ce(LOGITS, COST, 1)
    assert R == 0
    assert not dlogits.any()


# ---- costs to go ------------------------------------------------------------------------------------------------------


@pytest.mark.task3_4
def test_costs_to_go():
    """At a horizon of 2 one token is drawn, so what is to be paid is its mean cost."""
    close(reverse.cost_to_go(Q, COST, 2), [(Q * COST).sum(axis=1), np.zeros(3), np.zeros(3)])


@pytest.mark.task3_4
@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_the_cost_to_go_of_the_start_is_the_value_by_listing(horizon):
    U = reverse.cost_to_go(Q, COST, horizon)
    assert U.shape == (horizon + 1, 3)
    assert not U[1:, 0].any()
    close(U[0, 0], reverse.exact_reverse_ce(LOGITS, COST, horizon)[0])


@pytest.mark.task3_5
@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_tree_equals_list(horizon):
    close(reverse.reverse_grad(Q, COST, horizon), reverse.exact_reverse_ce(LOGITS, COST, horizon)[1])


# ---- models and samples -----------------------------------------------------------------------------------------------


class World:
    vocab_size = 3

    def batch(self, rows):
        return np.maximum(rows[:, :-2], 0), rows[:, 1:-1].copy()

    def token_costs(self, rows):
        inputs, targets = self.batch(rows)
        return np.where(targets >= 0, COST[inputs, targets], 0)


@pytest.mark.task3_6
def test_the_gradient_of_a_bigram_model_is_the_one_by_listing():
    last = []

    def logits_of(inputs):
        last[:] = [inputs]
        return LOGITS[inputs]

    def pull_back(dlogits):
        grad = np.zeros_like(LOGITS)
        np.add.at(grad, last[0], dlogits)
        return grad

    R, grad = reverse.model_grad(logits_of, pull_back, World(), 4)
    expected, dlogits = reverse.exact_reverse_ce(LOGITS, COST, 4)
    close(R, expected)
    close(grad, dlogits)


@pytest.mark.task3_7
def test_weights_of_two_samples():
    costs = np.array([[1.0, 2.0, 4.0], [3.0, 0.0, 0.0]])
    close(reverse.reinforce_weights(costs), np.array([[7.0, 6, 4], [3, 0, 0]]) / 2)
    close(reverse.rloo_weights(costs), np.array([[4.0, 4, 4], [-4, -4, -4]]) / 2)


@pytest.mark.task3_7
def test_rloo_does_not_care_for_a_constant():
    costs = np.array([[1.0], [3.0], [4.0]])
    close(reverse.rloo_weights(costs + 10), reverse.rloo_weights(costs))


# ---- the bonus --------------------------------------------------------------------------------------------------------


def draws(seed=0):
    """A draw() that starts again: the same numbers for the same seed."""
    rng = np.random.default_rng(seed)
    return lambda: rng.uniform(1e-9, 1, LOGITS.shape)


@pytest.mark.task3_9
def test_the_soft_sample():
    def forward(logits):
        return reverse.gumbel_softmax_forward(logits, draws(), 0.5, False)

    y, _ = forward(LOGITS)
    close(y.sum(axis=1), np.ones(3))
    assert_gradients(forward, reverse.gumbel_softmax_backward, LOGITS, names=["logits"])


@pytest.mark.task3_9
def test_the_hard_sample_is_the_largest_of_the_soft_one_and_has_its_gradient():
    soft, of_soft = reverse.gumbel_softmax_forward(LOGITS, draws(), 0.5, False)
    hard, of_hard = reverse.gumbel_softmax_forward(LOGITS, draws(), 0.5, True)
    close(hard, np.eye(3)[soft.argmax(axis=1)])
    close(reverse.gumbel_softmax_backward(COST, of_hard)[0], reverse.gumbel_softmax_backward(COST, of_soft)[0])


@pytest.mark.task3_9
def test_hard_samples_come_as_often_as_the_softmax_says():
    draw = draws(1)
    mean = sum(reverse.gumbel_softmax_forward(LOGITS, draw, 0.5, True)[0] for _ in range(4000)) / 4000
    close(mean, Q, tolerance=0.04)


# ---- what the grader would say ----------------------------------------------------------------------------------------

NUMBERS = (1, 2, 3, 4, 5, 6, 7, 9)


@pytest.mark.parametrize("number", [pytest.param(f"3.{n}", marks=getattr(pytest.mark, f"task3_{n}")) for n in NUMBERS])
def test_diagnosis(number):
    assert_task("a3", number, HERE, VARIANT)
