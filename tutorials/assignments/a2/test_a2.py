"""What backprop.py must do. `pytest -m task2_5` runs one task; `pytest -k diagnosis` says in words what is wrong.

The first tests of a task are its specification, readable by themselves; its last, test_diagnosis, is what `minimixce grade a2 .
--local` runs, and tells points and, where it can, which mistake it is.
"""

import inspect
from pathlib import Path

import backprop
import numpy as np
import pytest

from minimixce.classroom.local import assert_task
from minimixce.testing import assert_gradients

VARIANT = 0
HERE = Path(__file__).parent
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape)


def close(found, expected, tolerance=1e-10):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# ---- 2.1 and 2.2 ------------------------------------------------------------------------------------------------------


@pytest.mark.task2_1
@pytest.mark.parametrize("leading", [(5,), (2, 5), (2, 3, 5)])
def test_linear(leading):
    x, W, b = normal(*leading, 4), normal(4, 7), normal(7)
    y, _ = backprop.linear_forward(x, W, b)
    close(y, np.einsum("...i,io->...o", x, W) + b)
    assert_gradients(backprop.linear_forward, backprop.linear_backward, x, W, b)


@pytest.mark.task2_2
def test_embedding_adds_up_repeats_and_leaves_other_rows_at_zero():
    ids, W = np.array([[3, 1, 3], [0, 3, 1]]), normal(5, 4)
    y, cache = backprop.embedding_forward(ids, W)
    close(y[1, 1], W[3])
    (dW,) = backprop.embedding_backward(np.ones_like(y), cache)
    close(dW, np.array([1.0, 2, 0, 3, 0])[:, None] * np.ones(4))
    assert not dW[[2, 4]].any()


@pytest.mark.task2_2
def test_position():
    x, W = normal(2, 3, 4), normal(6, 4)
    y, _ = backprop.position_forward(x, W)
    close(y[1, 2], x[1, 2] + W[2])
    assert_gradients(backprop.position_forward, backprop.position_backward, x, W)


# ---- 2.3 and 2.4 ------------------------------------------------------------------------------------------------------


@pytest.mark.task2_3
def test_activation():
    x = np.array([[-50.0, -1.0, 0.3], [1.0, 2.0, 50.0]])
    y, _ = backprop.activation_forward(x)
    assert np.isfinite(y).all()
    assert_gradients(backprop.activation_forward, backprop.activation_backward, x)


@pytest.mark.task2_4
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis):
    x = normal(2, 3, 4)
    y, cache = backprop.softmax_forward(x, axis)
    close(y.sum(axis=axis), np.ones_like(y.sum(axis=axis)))
    (dx,) = backprop.softmax_backward(normal(2, 3, 4), cache)
    close(dx.sum(axis=axis), np.zeros_like(dx.sum(axis=axis)))
    (dx,) = backprop.softmax_backward(np.ones_like(y), cache)
    close(dx, np.zeros_like(x))
    assert_gradients(lambda x: backprop.softmax_forward(x, axis), backprop.softmax_backward, x)


@pytest.mark.task2_4
def test_softmax_of_large_numbers_is_finite():
    y, _ = backprop.softmax_forward(np.array([[1000.0, 0.0, -1000.0]]), 1)
    close(y, [[1.0, 0.0, 0.0]])


# ---- 2.5 and 2.6 ------------------------------------------------------------------------------------------------------


def parameters_of_norm(C):
    """A weight, and a bias where this variant's norm has one."""
    count = len(inspect.signature(backprop.norm_forward).parameters) - 1
    return [normal(C) for _ in range(count)]


@pytest.mark.task2_5
@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_norm(scale):
    x = scale * normal(2, 3, 8)
    assert_gradients(backprop.norm_forward, backprop.norm_backward, x, *parameters_of_norm(8))


@pytest.mark.task2_5
def test_rows_do_not_touch_each_other():
    x, parameters = normal(2, 3, 8), parameters_of_norm(8)
    y, _ = backprop.norm_forward(x, *parameters)
    x[0, 0] += 1
    moved, _ = backprop.norm_forward(x, *parameters)
    assert np.array_equal(moved[1], y[1])
    assert np.array_equal(moved[0, 1:], y[0, 1:])


@pytest.mark.task2_6
def test_attention():
    qkv, mask = normal(2, 5, 3 * 12), backprop.visible(5)

    def forward(qkv):
        return backprop.attention_forward(qkv, 3, mask)

    assert_gradients(forward, backprop.attention_backward, qkv)


@pytest.mark.task2_6
def test_attention_that_sees_only_itself_returns_values():
    qkv = normal(2, 5, 3 * 12)
    y, _ = backprop.attention_forward(qkv, 3, np.eye(5, dtype=bool))
    close(y, qkv[..., 24:])


@pytest.mark.task2_6
def test_what_a_query_may_not_see_moves_nothing():
    qkv, mask = normal(1, 5, 3 * 12), np.tri(5, dtype=bool)
    y, _ = backprop.attention_forward(qkv, 3, mask)
    qkv[:, 3] += 1
    moved, _ = backprop.attention_forward(qkv, 3, mask)
    assert np.array_equal(moved[:, :3], y[:, :3])


# ---- 2.7 and the bonus ------------------------------------------------------------------------------------------------


@pytest.mark.task2_7
def test_tiny_model():
    V, C = 7, 6
    names = ["norm_weight", "norm_bias"][: len(parameters_of_norm(1))]
    params = {"wte": normal(V, C), "W": normal(C, 3 * C), "b": normal(3 * C)} | {name: normal(C) for name in names}
    ids, targets = np.array([[3, 1, 3, 0], [5, 1, 0, 0]]), np.array([[1, 3, 0, -1], [1, 0, -1, -1]])

    def forward(params):
        return backprop.tiny_model(params, ids, targets)

    def backward(dy, grads):
        return ({name: dy * g for name, g in grads.items()},)

    assert_gradients(forward, backward, params)


@pytest.mark.task2_9
def test_block():
    C, F = 6, 5
    params = {"qkv_W": normal(C, 3 * C), "qkv_b": normal(3 * C), "out_W": normal(C, C), "out_b": normal(C)}
    params |= {"up_W": normal(C, F), "up_b": normal(F), "down_W": normal(F, C), "down_b": normal(C)}
    for norm in ("norm1", "norm2"):
        parts = zip(("weight", "bias"), parameters_of_norm(C))
        params |= {f"{norm}_{part}": value for part, value in parts}
    assert_gradients(backprop.block_forward, backprop.block_backward, normal(2, 3, C), params)


# ---- what the grader would say ----------------------------------------------------------------------------------------

NUMBERS = (1, 2, 3, 4, 5, 6, 7, 9)


@pytest.mark.parametrize("number", [pytest.param(f"2.{n}", marks=getattr(pytest.mark, f"task2_{n}")) for n in NUMBERS])
def test_diagnosis(number):
    assert_task("a2", number, HERE, VARIANT)
