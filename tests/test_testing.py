"""assert_gradients, the way somebody who writes a layer meets it: what it says and lets pass."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings

from minimixce import checks
from minimixce.testing import assert_gradients, check_gradients, explain, strategies

every_time_the_same = settings(derandomize=True, deadline=None, database=None, max_examples=25)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def linear(x, weight, bias):
    return x @ weight + bias, (x, weight)


def linear_backward(dy, cache):
    x, weight = cache
    return dy @ weight.T, x.T @ dy, dy.sum(axis=0)


def changed(change):
    """linear_backward after change(dx, dweight, dbias, dy)."""
    return lambda dy, cache: change(*linear_backward(dy, cache), dy)


INPUTS = normal(2, 3), normal(3, 4), normal(4)


@every_time_the_same
@given(strategies.arrays("BI", "IO", "O"))
def test_a_right_layer_passes_at_any_sizes(arrays):
    report = assert_gradients(linear, linear_backward, *arrays)
    assert [row.name for row in report.rows] == ["x", "weight", "bias"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda dx, dw, db, dy: (dx, dw / 2, db),
            "weight: everywhere 0.5 times the right one: 1/2, a mean over an axis of 2 instead of "
            "a sum",
        ),
        (
            lambda dx, dw, db, dy: (dx, dw, 2 * db),
            "bias: everywhere 2 times the right one: 2, a sum over an axis of 2 instead of a mean",
        ),
        (
            lambda dx, dw, db, dy: (dx, dw / np.sqrt(3), db),
            "weight: everywhere 0.57735 times the right one: 1/√3, 3 being the size of an axis",
        ),
        (
            lambda dx, dw, db, dy: (0.7 * dx, dw, db),
            "x: everywhere 0.7 times the right one",
        ),
        (
            lambda dx, dw, db, dy: (dx, dw, dy),
            "bias: shape (2, 4): sum over all axes but the last, along which it was broadcast",
        ),
        (
            lambda dx, dw, db, dy: (dx, dw.T, db),
            "weight: shape (4, 3): it is the transpose of the right one",
        ),
        (
            lambda dx, dw, db, dy: (dx, dw.reshape(2, 6), db),
            "weight: shape (2, 6): the right numbers; reshape it to (3, 4)",
        ),
        (
            lambda dx, dw, db, dy: (dx, dw, -db),
            "bias: the sign: everywhere −1 times the right one",
        ),
        (
            lambda dx, dw, db, dy: (dx, 0 * dw, db),
            "weight: zero everywhere, but y depends on it",
        ),
        (
            lambda dx, dw, db, dy: (dx * [[1], [0]], dw, db),
            "x: wrong only in rows [1], where it is zero",
        ),
        (
            lambda dx, dw, db, dy: (dx, dw * [1, 1, 3, 1], db),
            "weight: wrong only in columns [2], there everywhere 3 times the right one: 3, a sum "
            "over an axis of 3 instead of a mean",
        ),
        (
            lambda dx, dw, db, dy: (dx, dw, db * [1, np.nan, 1, 1]),
            "bias: not a finite number at [1]",
        ),
        (lambda dx, dw, db, dy: (0 * dx + 1, dw, db), "does not depend on dy"),
        (lambda dx, dw, db, dy: (dx, dw * np.abs(dy).sum(), db), "is not linear in dy"),
        (lambda dx, dw, db, dy: (dx, dw + 0j, db), "returned complex128"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(change, said):
    with pytest.raises(AssertionError) as failed:
        assert_gradients(linear, changed(change), *INPUTS)
    lines = str(failed.value).splitlines()
    assert lines[0] == "gradients are not OK"
    assert lines[1].split()[:2] == ["tensor", "shape"]
    assert [line.split()[0] for line in lines[2:5]] == ["x", "weight", "bias"]
    assert said in lines or any(said in line for line in lines[2:5])


@pytest.mark.parametrize("seed", range(20))
def test_an_error_that_is_none_of_the_known_ones_gets_no_sentence(seed):
    noise = np.exp(normal(3, 4, seed=seed))
    with pytest.raises(AssertionError) as failed:
        assert_gradients(linear, changed(lambda dx, dw, db, dy: (dx, dw * noise, db)), *INPUTS)
    assert len(str(failed.value).splitlines()) == 5  # the table alone
    assert "weight" in str(failed.value)


def test_a_square_transpose_is_seen():
    square = normal(3, 3)
    with pytest.raises(AssertionError, match="weight: it is the transpose of the right one"):
        assert_gradients(
            linear, changed(lambda dx, dw, db, dy: (dx, dw.T, db)), normal(2, 3), square, normal(3)
        )


def test_nested_inputs_have_gradients_of_the_same_structure():
    def forward(params, x):
        hidden = np.tanh(x @ params["layers"][0])
        return hidden @ params["layers"][1] + params["bias"], (params, x, hidden)

    def backward(dy, cache):
        params, x, hidden = cache
        dhidden = dy @ params["layers"][1].T * (1 - hidden**2)
        dlayers = [x.T @ dhidden, hidden.T @ dy]
        return {"bias": dy.sum(axis=0), "layers": dlayers}, dhidden @ params["layers"][0].T

    params = {"layers": [normal(3, 4), normal(4, 5)], "bias": normal(5)}
    report = assert_gradients(forward, backward, params, normal(2, 3))
    names = ["params['layers'][0]", "params['layers'][1]", "params['bias']", "x"]
    assert [row.name for row in report.rows] == names

    def without_bias(dy, cache):
        dparams, dx = backward(dy, cache)
        return {"layers": dparams["layers"]}, dx

    def halved(dy, cache):
        dparams, dx = backward(dy, cache)
        return dparams | {"layers": [dparams["layers"][0] / 2, dparams["layers"][1]]}, dx

    with pytest.raises(AssertionError, match=r"params\['bias'\] .*returned no gradient"):
        assert_gradients(forward, without_bias, params, normal(2, 3))
    with pytest.raises(AssertionError, match=r"params\['layers'\]\[0\]: everywhere 0.5 times"):
        assert_gradients(forward, halved, params, normal(2, 3))


def test_float32_numbers_and_integers():
    x, weight, bias = (a.astype("float32") for a in INPUTS)
    assert_gradients(linear, linear_backward, x, weight, bias)
    assert x.dtype == np.float32  # the caller's arrays stay

    def scaled(x, factor, power):
        return factor * x**power, (x, factor, power)

    def scaled_backward(dy, cache):
        x, factor, power = cache
        return dy * factor * power * x ** (power - 1), (dy * x**power).sum(), None

    report = assert_gradients(scaled, scaled_backward, normal(3), 2.0, np.array(3))
    assert [row.name for row in report.rows] == ["x", "factor"]


def test_a_single_input_needs_no_tuple_and_names_can_be_given():
    report = assert_gradients(lambda z: (z**2, z), lambda dy, z: 2 * z * dy, normal(3), names=["a"])
    assert [row.name for row in report.rows] == ["a"]
    with pytest.raises(ValueError, match="names must have one name per input, got 2 for 1"):
        assert_gradients(lambda z: (z, z), lambda dy, z: dy, normal(3), names=["a", "b"])


def test_options_are_gradcheck_s():
    def constant(x):
        return np.ones(3), None

    assert_gradients(constant, lambda dy, _: np.zeros(3), normal(3))
    with pytest.raises(AssertionError, match="y does not depend on it"):
        assert_gradients(constant, lambda dy, _: np.zeros(3), normal(3), nondegenerate=True)


def test_an_ok_row_has_no_sentence():
    report = checks.gradcheck(linear, linear_backward, INPUTS)
    assert [explain(row) for row in report.rows] == ["", "", ""]


def test_sizes_all_differ():
    @every_time_the_same
    @given(strategies.sizes("B T C H"))
    def check(size):
        assert sorted(size) == ["B", "C", "H", "T"]
        assert len(set(size.values())) == 4
        assert all(1 <= n <= 9 for n in size.values())

    check()
    with pytest.raises(ValueError, match="letters must be at most 2 different ones, got 'ABC'"):
        strategies.sizes("ABC", 1, 2)


@pytest.mark.slow
def test_pytest_shows_the_table_and_has_the_fixture(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(
            """
            import numpy as np

            def test_tanh(assert_gradients):
                assert_gradients(lambda x: (np.tanh(x), x), lambda dy, x: dy, np.ones(3))
            """
        )
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "minimixce.testing.plugin",
        "test_mine.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "1 failed" in done.stdout
    assert "AssertionError: gradients are not OK" in done.stdout
    assert "everywhere 2.38110 times" in done.stdout.replace("2.3811 ", "2.38110 ")
    assert "def assert_gradients" not in done.stdout  # its own lines are hidden


def test_gradients_in_lists_of_dicts_go_by_their_keys():
    def forward(layers):
        (layer,) = layers
        return layer["a"] * layer["b"] ** 2, layer

    def right(dy, layer):
        a, b = layer["a"], layer["b"]
        return [{"b": 2 * dy * a * b, "a": dy * b**2}]  # in another order

    def swapped(dy, layer):
        ((gradient,),) = (right(dy, layer),)
        return [{"a": gradient["b"], "b": gradient["a"]}]

    layers = [{"a": normal(3), "b": normal(3, seed=1)}]
    assert_gradients(forward, right, layers)
    with pytest.raises(AssertionError, match="gradients are not OK"):
        assert_gradients(forward, swapped, layers)


def test_what_cannot_be_told_gets_no_sentence():
    report, sentences = check_gradients(
        lambda x: (np.maximum(x, 0), x), lambda dy, x: dy * (x > 0), np.array([1.5, -2.0, 0.0])
    )
    assert report.rows[0].verdict == "CANNOT TELL"
    assert sentences == []


def test_a_number_of_gradients_that_is_not_that_of_the_inputs():
    with pytest.raises(ValueError, match="one gradient per input, 3 in all, got 2"):
        assert_gradients(linear, lambda dy, c: linear_backward(dy, c)[:2], *INPUTS)
