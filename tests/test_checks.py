"""gradcheck as a user meets it: right pairs pass, wrong ones are caught and located, and what
cannot be checked is refused.
"""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce.experiments import selfcheck

derandomized = partial(settings, derandomize=True, deadline=None, database=None)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def forward(x, w):
    """y = tanh(x) w, element by element: a pair anyone can check on paper."""
    return np.tanh(x) * w, (np.tanh(x), w)


def backward(dy, cache):
    tanh, w = cache
    return dy * w * (1 - tanh**2), dy * tanh


def wrong_at(index, change, which=0):
    """backward with one coordinate of one gradient changed."""

    def wrong(dy, cache):
        gradients = [np.array(g) for g in backward(dy, cache)]
        gradients[which][index] = change(gradients[which][index])
        return gradients

    return wrong


# ---- right pairs ---------------------------------------------------------------------------------


@derandomized(max_examples=10)
@given(st.lists(st.integers(1, 4), max_size=3).map(tuple), st.integers(0, 1000))
def test_a_right_pair_passes(shape, seed):
    report = mm.gradcheck(
        forward,
        backward,
        [normal(*shape, seed=seed), normal(*shape, seed=seed + 1)],
        names=["x", "w"],
    )
    assert report.ok
    assert report.max_relative_error < 1e-9
    assert [(row.name, row.shape, row.method) for row in report.rows] == [
        ("x", shape, "every coordinate"),
        ("w", shape, "every coordinate"),
    ]
    assert report.worst.relative_error == report.max_relative_error


def test_a_right_pair_of_large_tensors_passes():
    inputs = [normal(9, 40), normal(9, 40, seed=1)]
    report = mm.gradcheck(forward, backward, inputs, coordinates=100)
    assert report.ok
    assert {row.method for row in report.rows} == {"4 directions"}
    assert report.max_relative_error < 1e-8
    everywhere = mm.gradcheck(forward, backward, inputs)
    assert everywhere.ok
    assert {row.method for row in everywhere.rows} == {"every coordinate"}
    np.testing.assert_array_equal(inputs[0], normal(9, 40))  # the caller's arrays stay


def test_integer_inputs_are_held_fixed():
    ids, weight = np.array([[0, 2, 2]]), normal(3, 2)
    report = mm.gradcheck(
        mm.layers.embedding_forward,
        mm.layers.embedding_backward,
        [ids, weight],
        names=["ids", "weight"],
    )
    assert report.ok
    assert [row.name for row in report.rows] == ["weight"]


def test_tuple_outputs_and_a_single_gradient():
    def split(x):
        return (x[:2] ** 2, np.exp(x[2:])), x

    def split_backward(dy, x):
        first, second = dy
        return np.concatenate([first * 2 * x[:2], second * np.exp(x[2:])])  # not in a tuple

    def half_wrong(dy, x):
        dx = split_backward(dy, x)
        dx[2:] = 0  # as if the second output did not matter
        return (dx,)

    assert mm.gradcheck(split, split_backward, [normal(5)]).ok
    report = mm.gradcheck(split, half_wrong, [normal(5)])
    assert not report.ok
    assert report.worst.worst[0] >= 2


def test_backward_may_overwrite_what_it_is_given():
    def overwriting(dy, cache):
        tanh, w = cache
        dx = dy * w * (1 - tanh**2)
        dy *= tanh
        return dx, dy

    assert mm.gradcheck(forward, overwriting, [normal(3), normal(3, seed=1)]).ok

    def square_backward(dy, copy_of_x):
        copy_of_x *= 2
        copy_of_x *= dy
        return copy_of_x

    assert mm.gradcheck(lambda x: (x * x, x.copy()), square_backward, [normal(4)]).ok


def test_exact_zeros_pass_by_the_floor():
    """A shift of all logits has derivative 0, and rounding makes its numerical one 1e-13."""

    def shifted(x, shift):
        return mm.layers.softmax_forward(x + shift)

    def shifted_backward(dy, cache):
        dx = mm.layers.softmax_backward(dy, cache)
        return dx, dx.sum(axis=-1, keepdims=True)

    inputs = [10 * normal(3, 4), normal(3, 1)]
    report = mm.gradcheck(shifted, shifted_backward, inputs)
    assert report.ok
    zeros = mm.gradcheck(
        shifted, lambda dy, cache: (shifted_backward(dy, cache)[0], np.zeros((3, 1))), inputs
    )
    assert zeros.ok
    assert (
        mm.gradcheck(lambda x: (0 * x, None), lambda dy, _: dy * 0, [normal(3)]).max_relative_error
        == 0
    )
    assert not mm.gradcheck(
        shifted, lambda dy, cache: (shifted_backward(dy, cache)[0], np.ones((3, 1))), inputs
    ).ok


def test_empty_inputs_pass():
    assert mm.gradcheck(forward, backward, [np.zeros((0, 3)), np.zeros((0, 3))]).ok


# ---- wrong pairs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("shape", "index"),
    [
        ((), ()),
        ((3,), (2,)),
        ((4, 5), (3, 0)),
        ((8, 8), (0, 7)),
        ((5, 13), (4, 12)),
        ((2, 10, 10), (1, 0, 9)),
    ],
)
@pytest.mark.parametrize(
    "change", [lambda g: g + 0.1, lambda g: 0.0 * g, lambda g: -g], ids=["added", "zero", "sign"]
)
def test_an_error_in_one_coordinate_is_located(shape, index, which, change):
    inputs = [normal(*shape), normal(*shape, seed=1)]
    report = mm.gradcheck(forward, wrong_at(index, change, which), inputs, names=["x", "w"])
    assert not report.ok
    assert [row.ok for row in report.rows] == [which != 0, which != 1]
    row = report.worst
    assert (row.name, row.worst) == ("xw"[which], index)
    assert row.analytic == pytest.approx(float(change(row.numeric)), rel=1e-6, abs=1e-9)
    assert abs(row.analytic - row.numeric) > 1e-4
    assert report.max_relative_error == row.relative_error > 1e-4


def test_an_error_in_one_coordinate_of_a_very_large_tensor_is_caught():
    shape, index = (40, 50), (31, 7)
    report = mm.gradcheck(
        forward, wrong_at(index, lambda g: g + 3), [normal(*shape), normal(*shape, seed=1)]
    )
    assert [row.ok for row in report.rows] == [False, True]
    assert report.worst.worst == index  # a wrong gradient that is large is looked at


def test_a_missing_gradient_in_one_coordinate_of_a_very_large_tensor_is_located():
    shape, index = (40, 50), (31, 8)
    report = mm.gradcheck(
        forward, wrong_at(index, lambda g: 0.0 * g), [normal(*shape), normal(*shape, seed=1)]
    )
    assert [row.ok for row in report.rows] == [False, True]
    assert report.worst.worst == index


def test_the_tolerance():
    inputs = [normal(3, 4), normal(3, 4, seed=1)]
    for size, ok in ((1e-5, False), (2e-6, False), (5e-7, True), (1e-9, True)):
        for shape in ((3, 4), (12, 12)):
            inputs = [normal(*shape), normal(*shape, seed=1)]
            report = mm.gradcheck(
                forward,
                lambda dy, c, size=size: tuple(g * (1 + size) for g in backward(dy, c)),
                inputs,
            )
            assert [row.ok for row in report.rows] == [ok, ok]
    loose = mm.gradcheck(
        forward,
        lambda dy, c: tuple(g * (1 + 1e-5) for g in backward(dy, c)),
        inputs,
        tolerance=1e-4,
    )
    assert loose.ok
    assert loose.max_relative_error == pytest.approx(1e-5, rel=0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(3,), (9, 9)])
def test_a_gradient_that_is_not_finite_is_wrong(bad, shape):
    index = tuple(n - 1 for n in shape)
    report = mm.gradcheck(
        forward, wrong_at(index, lambda g: bad), [normal(*shape), normal(*shape, seed=1)]
    )
    assert [row.ok for row in report.rows] == [False, True]
    assert report.worst.worst == index
    assert not np.isfinite(report.worst.analytic)
    assert "WRONG" in str(report)


def test_none_and_misshapen_gradients_fail_in_their_row():
    inputs = [normal(3, 4), normal(3, 4, seed=1)]
    for replace, message in (
        (lambda g: None, "returned no gradient"),
        (lambda g: g.T, "returned shape (4, 3)"),
        (lambda g: g.sum(), "returned shape ()"),
        (lambda g: g[:1], "returned shape (1, 4)"),
    ):
        report = mm.gradcheck(
            forward, lambda dy, c, f=replace: (backward(dy, c)[0], f(backward(dy, c)[1])), inputs
        )
        assert [row.ok for row in report.rows] == [True, False]
        assert report.worst.method == message
        assert report.max_relative_error == float("inf")
        assert message in str(report)


# ---- what cannot be checked ----------------------------------------------------------------------


def test_float32_inputs():
    for dtype in ("float32", "float16"):
        with pytest.raises(TypeError, match=f"gradcheck needs float64 .*but w is {dtype}"):
            mm.gradcheck(forward, backward, [normal(3), normal(3).astype(dtype)], names=["x", "w"])


def test_a_forward_that_changes_its_inputs():
    def rectify_in_place(x):
        np.maximum(x, 0, out=x)
        return x.copy(), x > 0

    x = normal(5)
    with pytest.raises(ValueError, match="forward changes its input 0 in place"):
        mm.gradcheck(rectify_in_place, lambda dy, keep: dy * keep, (x,))
    np.testing.assert_array_equal(x, normal(5))  # gradcheck works on copies


def test_a_forward_that_changes_its_inputs_at_every_call():
    def double_in_place(x):
        x *= 2
        return x.copy(), None

    with pytest.raises(ValueError, match="forward changes its input 0 in place"):
        mm.gradcheck(double_in_place, lambda dy, _: 2 * dy, [normal(5)])


def test_a_backward_that_overwrites_an_input_kept_in_the_cache():
    """Right by the rules (a backward may overwrite its cache), so it must pass, or be refused by
    name.
    """

    def square_backward(dy, x):
        x *= 2
        x *= dy
        return x

    try:
        report = mm.gradcheck(lambda x: (x * x, x), square_backward, [normal(5)])
    except ValueError as error:
        assert "backward changes" in str(error)  # noqa: PT017
    else:
        assert report.ok, str(report)


def test_a_forward_that_is_not_deterministic():
    rng = np.random.default_rng(0)

    def dropout(x):
        return mm.layers.dropout_forward(x, 0.5, rng)

    with pytest.raises(ValueError, match="forward is not deterministic"):
        mm.gradcheck(dropout, mm.layers.dropout_backward, [normal(20)])


def test_wrong_numbers_of_gradients_and_names():
    inputs = [normal(3), normal(3)]
    for gradients in ((normal(3),), normal(3), (normal(3),) * 3, ()):
        with pytest.raises(
            ValueError, match=r"backward must return one gradient per input, 2 in all, got [013]"
        ):
            mm.gradcheck(forward, lambda dy, cache, gradients=gradients: gradients, inputs)
    with pytest.raises(ValueError, match="names must have one name per input, got 1 for 2"):
        mm.gradcheck(forward, backward, inputs, names=["x"])


def test_inputs_that_are_no_arrays():
    with pytest.raises(TypeError, match="input 1"):
        mm.gradcheck(forward, backward, [normal(2), [1.0, 2.0]])


def test_nothing_to_check():
    with pytest.raises((TypeError, ValueError), match="float64"):
        mm.gradcheck(lambda ids: (ids * 1.0, None), lambda dy, _: (None,), [np.arange(3)])


# ---- the report ----------------------------------------------------------------------------------


def test_the_report_prints_as_a_table():
    inputs, names = [normal(3, 4), normal(3, 4, seed=1)], ["h.0.attn.c_attn.weight", "w"]
    right, wrong = (
        mm.gradcheck(forward, b, inputs, names=names)
        for b in (backward, wrong_at((2, 1), lambda g: 7.5 * g, which=1))
    )
    lines = str(right).splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:2] == ["tensor", "shape"]
    for name, line in zip(names, lines[1:]):
        assert line.startswith(name)
        assert "3×4" in line
        assert line.endswith("OK")
    lines = str(wrong).splitlines()
    assert lines[1].endswith("OK")
    assert lines[2].startswith("w ")
    before, numeric = lines[2].split(" the numbers say ")
    assert before.endswith(f"WRONG: at [2, 1] backward says {wrong.worst.analytic:.4g},")
    assert wrong.worst.analytic == pytest.approx(7.5 * wrong.worst.numeric)
    assert float(numeric) == pytest.approx(wrong.worst.numeric, rel=1e-3)
    assert "scalar" in str(mm.gradcheck(forward, backward, [normal(), normal(seed=1)]))


def test_the_same_seed_gives_the_same_report():
    inputs = [normal(10, 10), normal(10, 10, seed=1)]
    first, again, other = (mm.gradcheck(forward, backward, inputs, seed=seed) for seed in (3, 3, 4))
    assert str(first) == str(again)
    assert first.rows == again.rows != other.rows


def test_check_everything_covers_every_layer_and_objective_and_passes():
    reports = dict(selfcheck.check_everything())
    assert not [title for title, report in reports.items() if not report.ok]
    assert max(report.max_relative_error for report in reports.values()) <= 1e-6
    titles = " ".join(reports).lower()
    for part in (
        "linear",
        "embedding of ids",
        "soft one-hots",
        "position",
        "unembedding",
        "layer norm",
        "gelu",
        "relu",
        "softmax",
    ):
        assert part in titles
    for part in (
        "dropout",
        "attention",
        "past",
        "mle",
        "mixce,",
        "mixce_surrogate",
        "tailr",
        "emo",
        "whole model",
    ):
        assert part in titles
    for title, model in (
        ("the whole model", mm.GPT(mm.GPTConfig(5, 4, 2, 2, 8), device="cpu")),
        ("the bigram", mm.Bigram(mm.BigramConfig(5), device="cpu")),
        ("the table bigram", mm.TableBigram(5, device="cpu")),
    ):
        names = {row.name for row in reports[f"{title}, MixCE loss"].rows}
        assert names == model.params.keys()
