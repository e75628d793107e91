"""What warm_up.py must do. `pytest -m task0_3` runs one task; `pytest -k diagnosis` says in words what is wrong."""

from pathlib import Path

import numpy as np
import pytest
import warm_up

from minimixce.classroom.local import assert_task
from minimixce.testing import assert_gradients

VARIANT = 0
HERE = Path(__file__).parent


def close(found, expected, tolerance=1e-10):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.task0_1
def test_numerical_gradient_of_a_square_is_exact():
    """Central differences have no error for a polynomial of degree two, whatever h is."""
    x = np.array([[1.0, -2.0], [0.5, 3.0]])
    close(warm_up.numerical_gradient(lambda x: (x**2).sum(), x, 0.1), 2 * x)
    close(x, [[1.0, -2.0], [0.5, 3.0]])


@pytest.mark.task0_2
def test_softmax():
    close(warm_up.softmax(np.log([[2.0, 1.0, 1.0]])), [[0.5, 0.25, 0.25]])
    close(warm_up.softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]])), [[1.0, 0.0], [0.5, 0.5]])


@pytest.mark.task0_3
def test_cross_entropy_of_two_equal_logits_is_log_2():
    loss, _ = warm_up.cross_entropy_forward(np.zeros((2, 2)), np.array([1, -1]))
    close(loss, np.log(2))


@pytest.mark.task0_3
def test_cross_entropy_backward_is_the_derivative():
    logits, targets = np.random.default_rng(0).standard_normal((5, 4)), np.array([0, -1, 3, 1, 1])

    def forward(logits):
        return warm_up.cross_entropy_forward(logits, targets)

    assert_gradients(forward, warm_up.cross_entropy_backward, logits)


@pytest.mark.parametrize("number", [pytest.param(f"0.{n}", marks=getattr(pytest.mark, f"task0_{n}")) for n in (1, 2, 3)])
def test_diagnosis(number):
    assert_task("a0", number, HERE, VARIANT)
