"""gradcheck as a user meets it: right pairs pass, wrong ones are caught and located, and what
cannot be checked is refused.
"""

import json
import math
import re
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce import checks
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
    assert {row.method for row in report.rows} == {"16 directions"}  # four for each 100 or less
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


# ---- what cannot fool it -------------------------------------------------------------------------


def pair_of(f, slope):
    """An element-wise function and its slope as forward and backward."""
    return lambda x: (f(x), x), lambda dy, x: dy * slope(x)


def verdict(forward, backward, x, **options):
    (row,) = mm.gradcheck(forward, backward, [np.asarray(x, float)], **options).rows
    return row.verdict


def test_two_errors_that_are_equal_and_opposite():
    wrong = np.r_[9.0, np.arange(2.0, 9), 1.0, np.arange(10.0, 66)]  # 1 and 9 exchanged
    for seed in range(20):
        report = mm.gradcheck(
            lambda x: (np.arange(1.0, 66) @ x, None),
            lambda dy, c: wrong * dy,
            [np.ones(65)],
            seed=seed,
        )
        assert report.rows[0].verdict == "WRONG"
        assert report.worst.worst in [(0,), (8,)]


def test_a_small_gradient_that_is_dropped_beside_a_large_one():
    def forward(x):
        return 1e7 * x[0] + x[1], None

    assert verdict(forward, lambda dy, _: dy * np.array([1e7, 1.0]), [1.0, 1.0]) == "OK"
    for wrong in ([1e7, 0.0], [1e7, 1.001], [1e7 + 20, 1.0]):
        assert verdict(forward, lambda dy, _, w=wrong: dy * np.array(w), [1.0, 1.0]) == "WRONG"


@pytest.mark.parametrize("scale", [1e-20, 1e-11, 1e8, 1e20])
def test_no_scale_hides_an_error(scale):
    right = pair_of(lambda x: scale * np.sin(x), lambda x: scale * np.cos(x))
    wrong = pair_of(lambda x: scale * np.sin(x), lambda x: 5.5 * scale * np.cos(x))
    assert verdict(*right, [0.3, 2.0]) == "OK"
    assert verdict(*wrong, [0.3, 2.0]) == "WRONG"


@pytest.mark.parametrize(
    ("f", "slope", "x"),
    [
        (np.log, lambda x: 1 / x, [1e-4, 0.3, 1.0]),
        (np.sqrt, lambda x: 0.5 / np.sqrt(x), [1e-4, 2e-4, 3.0]),
        (np.square, lambda x: 2 * x, [1e7, -2e7]),
        (lambda x: x + 1e8, np.ones_like, [1.0, -0.3]),
        (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0, normal(200, 200)),
        (np.abs, np.sign, [1e-7, -1e-6, 1.0]),
        (np.exp, np.exp, [-10.0, 0.0, 10.0]),
    ],
    ids=["log at 1e-4", "sqrt at 1e-4", "x² at 1e7", "offset 1e8", "ReLU", "|x| near 0", "exp"],
)
def test_right_gradients_that_are_hard_to_check_are_ok(f, slope, x):
    assert verdict(*pair_of(f, slope), x) == "OK"
    assert verdict(*pair_of(f, lambda x: 1.001 * slope(x)), x) == "WRONG"


def test_a_corner_is_said_to_be_one():
    forward, backward = pair_of(lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0)
    (row,) = mm.gradcheck(forward, backward, [np.array([0.0, 1.0, -1.0])]).rows
    assert row.verdict == "CANNOT TELL"
    assert not row.ok
    assert re.search(r"at \[0\] a corner: slopes -?0 on the left, \S+ on the right", row.reason)
    assert "CANNOT TELL" in str(row_report(row))
    outside = pair_of(lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0 - (x == 0) * 1.0)
    assert verdict(*outside, [0.0, 1.0]) == "WRONG"  # no slope of the corner is −1


def row_report(row):
    return checks.Report([row])


def test_noise_is_said_to_be_too_large():
    single = pair_of(lambda x: np.sin(x.astype("float32")).astype(float), np.cos)
    for forward, backward in (single, pair_of(lambda x: x + 1e13, np.ones_like)):
        (row,) = mm.gradcheck(forward, backward, [np.array([1.0, 2.0])]).rows
        assert row.verdict == "CANNOT TELL"
        assert "noise" in row.reason
    wrong = pair_of(lambda x: np.sin(x.astype("float32")).astype(float), lambda x: 2 * np.cos(x))
    assert verdict(*wrong, [1.0, 2.0]) == "WRONG"  # by far more than the noise


def test_complex_parts_do_not_vanish():
    forward, backward = pair_of(np.sin, np.cos)
    report = mm.gradcheck(forward, lambda dy, x: backward(dy, x) + 1j, [normal(3)])
    assert report.rows[0].verdict == "WRONG"
    assert report.rows[0].method == "returned complex128"
    with pytest.raises(TypeError, match=r"forward must return real floating-point .* complex128"):
        mm.gradcheck(lambda x: (x + 0j, x), lambda dy, x: dy, [normal(3)])
    with pytest.raises(TypeError, match="gradcheck needs real numbers, but input 0 is complex128"):
        mm.gradcheck(forward, backward, [normal(3) + 0j])


def test_forwards_of_integers_and_constants():
    with pytest.raises(TypeError, match="forward must return real floating-point numbers, got int"):
        mm.gradcheck(lambda x: (np.rint(x).astype(int), x), lambda dy, x: 0 * x, [normal(3)])
    for constant in (lambda x: (np.ones(3), x), lambda x: (0 * x, x)):
        assert verdict(constant, lambda dy, x: 0 * x, normal(3)) == "OK"
        (row,) = mm.gradcheck(constant, lambda dy, x: 0 * x, [normal(3)], nondegenerate=True).rows
        assert (row.verdict, row.reason) == ("WRONG", "y does not depend on it")
    assert verdict(*pair_of(np.sin, np.cos), normal(3), nondegenerate=True) == "OK"


def test_a_backward_that_is_right_on_its_first_call_only():
    calls = []

    def backward(dy, x):
        calls.append(1)
        return dy * (2 * x if len(calls) == 1 else x)

    (row,) = mm.gradcheck(lambda x: (x * x, x), backward, [normal(3)]).rows
    assert (row.verdict, row.ok) == ("WRONG", False)
    assert "a second run of forward and backward returns another gradient" in row.reason


def test_a_backward_that_overwrites_its_input_is_refused_by_name():
    def overwrites(dy, cache):
        x, weight = cache
        weight *= 0
        return dy * weight, dy * x

    with pytest.raises(ValueError, match="backward changes its weight in place"):
        mm.gradcheck(
            lambda x, weight: (x * weight, (x, weight)),
            overwrites,
            [normal(3), normal(3, seed=1)],
            names=["x", "weight"],
        )


def test_a_backward_that_is_not_linear_in_dy():
    def forward(x):
        return x * x, x

    for backward, reason in (
        (lambda dy, x: 2 * x * np.abs(dy), "is not linear in dy"),
        (lambda dy, x: 2 * x, "does not depend on dy"),
    ):
        (row,) = mm.gradcheck(forward, backward, [normal(3)]).rows
        assert row.verdict == "WRONG"
        assert row.reason.endswith(reason)


@pytest.mark.parametrize("bad", [np.nan, 0.0, -1e-6, 1.0, np.inf])
def test_a_tolerance_that_is_none(bad):
    with pytest.raises(ValueError, match="tolerance must be above 0 and below 1"):
        mm.gradcheck(forward, backward, [normal(3), normal(3)], tolerance=bad)


@pytest.mark.parametrize("bad", [0, -1])
def test_coordinates_must_be_at_least_one(bad):
    with pytest.raises(ValueError, match=f"coordinates must be at least 1, got {bad}"):
        mm.gradcheck(forward, backward, [normal(3), normal(3)], coordinates=bad)


def test_the_report_in_markdown():
    report = mm.gradcheck(forward, wrong_at((1,), lambda g: 2 * g), [normal(2), normal(2, seed=1)])
    lines = report.to_markdown().splitlines()
    assert lines[0] == "| tensor | shape | checked by | rel. error | verdict |"
    assert len(lines) == 4
    assert lines[2].startswith("| input 0 | 2 | every coordinate | ")
    assert "| WRONG: at [1] backward says" in lines[2]
    assert lines[3].endswith("| OK |")


def test_a_row_as_a_dict_is_json():
    report = mm.gradcheck(forward, backward, [normal(2), normal(2, seed=1)])
    row = json.loads(json.dumps(report.rows[0].as_dict()))
    assert (row["name"], row["verdict"], row["ok"]) == ("input 0", "OK", True)


def test_a_shift_that_cancels_is_never_called_wrong():
    """Its gradients are zeros except for rounding, which may be the same for another dy."""
    for seed in (25, 387, 735):
        shift = np.random.default_rng([2, seed]).standard_normal((3, 1))
        report = mm.gradcheck(
            lambda s: mm.layers.softmax_forward(np.arange(12.0).reshape(3, 4) + s),
            lambda dy, cache: mm.layers.softmax_backward(dy, cache).sum(axis=-1, keepdims=True),
            [shift],
            seed=seed,
        )
        assert report.ok, report


@pytest.mark.parametrize("seed", [0, 7])
def test_dy_is_not_x_drawn_with_the_same_seed(seed):
    """Along dy = x a layer that normalises has no gradient, so that zeros would pass."""
    x = normal(3, 4, seed=seed)

    def forward(x):
        return x / np.sqrt((x * x).mean(-1, keepdims=True)), x

    assert verdict(forward, lambda dy, x: np.zeros_like(x), x, seed=seed) == "WRONG"


def test_a_forward_that_raises_beyond_its_domain():
    def forward(x):
        return np.array([math.log(v) for v in x]), x

    assert verdict(forward, lambda dy, x: dy / x, [1e-4, 1.0]) == "OK"
    assert verdict(forward, lambda dy, x: 2 * dy / x, [1e-4, 1.0]) == "WRONG"


def test_arrays_without_axes_stay_arrays():
    def forward(x):
        assert isinstance(x, np.ndarray)
        return x * x, x

    def backward(dy, x):
        dy[...] *= 2  # its own dy it may overwrite
        return dy * x

    assert verdict(forward, backward, 1.5) == "OK"


@pytest.mark.parametrize("huge", [-1e9, -1e12])
def test_one_huge_entry_does_not_set_the_steps_of_the_others(huge):
    """Masked logits."""
    assert verdict(*softmax_pair(), [0.5, 1.0, -0.3, huge]) == "OK"
    wrong = softmax_pair()[0], lambda dy, c: 1.01 * softmax_pair()[1](dy, c)
    assert verdict(*wrong, [0.5, 1.0, -0.3, huge]) == "WRONG"


def softmax_pair():
    return mm.layers.softmax_forward, mm.layers.softmax_backward


def test_many_corners_along_a_direction():
    x = np.maximum(normal(5000, seed=1), 0)  # an activation: half of it sits on ReLU's corner
    assert verdict(*pair_of(lambda x: np.maximum(x, 0), lambda x: x > 0), x) != "WRONG"


def test_what_backward_returns_is_arrays():
    with pytest.raises(TypeError, match="backward must return arrays, but input 0 got a list"):
        mm.gradcheck(lambda x: (x * x, x), lambda dy, x: ((2 * x * dy).tolist(),), [normal(3)])


@pytest.mark.parametrize("trial", [79, 115, 133])
def test_steps_of_nearly_one_length_do_not_confirm_each_other(trial):
    # saturated: tiny gradients, whose errors are nearly the same at two nearly equal steps
    x = 30 * np.random.default_rng([2, trial]).standard_normal((5, 7))
    pair = mm.layers.softmax_forward, mm.layers.softmax_backward
    assert mm.gradcheck(*pair, [x], seed=trial).rows[0].verdict != "WRONG"


def test_a_kink_closer_than_all_steps_but_the_shortest_is_not_a_wrong_gradient():
    x = np.random.default_rng([2, 24]).standard_normal((200, 200))
    report = mm.gradcheck(lambda x: (np.maximum(x, 0), x), lambda dy, x: dy * (x > 0), [x], seed=24)
    assert report.rows[0].verdict != "WRONG"
