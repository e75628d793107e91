"""What points are for: consistency, manners, float32; and the comparer."""

import json

import numpy as np
import pytest

from minimixce.classroom import release
from minimixce.classroom.assignments import NAMES, assignment
from minimixce.classroom.compare import as_result, distance, is_float32, row_errors
from minimixce.classroom.local import Submission
from minimixce.classroom.results import judge_submission


def judged(name, number, text, variant=0):
    """A task judged with some functions of the reference replaced."""
    source = assignment(name, variant).source(variant)
    return judge_submission(name, Submission(source + "\n" + text), [number], variant).judged[0]


def passed(found):
    return {check.name for check in found.checks if check.passed}


# ---- consistency ---------------------------------------------------------------------------------


def test_a_backward_of_ones_own_wrong_forward_earns_its_points():
    found = judged(
        "a2",
        "2.5",
        """
def norm_forward(x, weight, bias):
    d = x - x.mean(-1, keepdims=True)
    C = x.shape[-1]
    r = 1 / np.sqrt((d * d).sum(-1, keepdims=True) / (C - 1) + EPSILON)
    return d * r * weight + bias, (d * r, r, weight, C)


def norm_backward(dy, cache):
    n, r, weight, C = cache
    rows = tuple(range(dy.ndim - 1))
    dn = dy * weight
    along = (dn * n).sum(-1, keepdims=True) / (C - 1)
    dx = r * (dn - dn.mean(-1, keepdims=True) - n * along)
    return dx, (dy * n).sum(rows), dy.sum(rows)
""",
    )
    assert passed(found) == {"dx consistent", "parameters consistent", "manners"}
    assert "in the forward" in found.finding.why


@pytest.mark.parametrize(
    ("y", "slope", "says"),
    [
        ("0 * x", "0 * x", "consistent: the forward does not depend on x"),
        ("0 * x + x.mean() + 1", "0 * x", "zero everywhere"),
        ("0.5 * x", "0.5 + 0 * x", "the forward is linear in x"),
        ("-x * np.abs(x)", "-2 * np.abs(x)", "it is another function"),
        (
            "FIRST(x) * x * np.abs(x)",
            "FIRST(x) * 2 * np.abs(x)",
            "depend on row 1|another function",
        ),
    ],
)
def test_a_poor_forward_earns_nothing_for_its_derivative(y, slope, says):
    found = judged(
        "a2",
        "2.3",
        f"""
def FIRST(x):
    return (np.arange(len(x)) == 0).reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)


def activation_forward(x):
    return {y}, x


def activation_backward(dy, x):
    return (dy * ({slope}),)
""",
    )
    consistent = next(check for check in found.checks if check.name == "consistent")
    assert not consistent.passed
    assert any(part in found.text() for part in says.split("|")), found.text()


def test_an_ignored_dy_is_seen():
    found = judged("a2", "2.3", "def activation_backward(dy, cache):\n    return (cache[0] + 1,)")
    assert found.finding.kind == "ignores dy"
    assert "dx: does not depend on dy" in found.text()


def test_a_factor_is_said_and_not_guessed_to_be_a_mistake():
    found = judged(
        "a2",
        "2.3",
        "_right = activation_backward\n\ndef activation_backward(dy, cache):\n"
        "    return (1.25 * _right(dy, cache)[0],)",
    )
    assert "dx: everywhere 1.25 times the right one" in found.text("where")
    assert found.finding.codes == ()
    assert "not the derivative of your own forward" in found.finding.why


def test_where_a_factor_comes_from_is_not_guessed():
    """dk twice too large is √D for D = 4, and not the batch of 2."""
    found = judged(
        "a2",
        "2.6",
        """
_right = attention_backward


def attention_backward(dy, cache):
    (dqkv,) = _right(dy, cache)
    C = dy.shape[-1]
    dqkv[..., C : 2 * C] *= math.sqrt(cache[0].shape[-1])
    return (dqkv,)
""",
    )
    assert found.finding.codes == (("scale-missing-in-one",),)
    assert "everywhere 2 times the right one" in found.text()
    assert "axis of 2" not in found.text()


# ---- manners -------------------------------------------------------------------------------------

LOG_SOFTMAX = (
    "def log_softmax(z):\n    {}\n    return z - np.logaddexp.reduce(z, -1, keepdims=True)"
)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("z -= z.max(axis=-1, keepdims=True)", "changes its input z in place"),
        ("z = z.astype(float)", "float64 for float32 inputs"),
        ("assert z.flags.c_contiguous", "not contiguous"),
        ("assert z.size > 1", "size 1"),
    ],
)
def test_manners(line, says):
    found = judged("a1", "1.1", LOG_SOFTMAX.format(line))
    manners = next(check for check in found.checks if check.name == "manners")
    assert not manners.passed
    assert says in manners.says


def test_float32_passes_and_gets_no_mistake_named():
    low = "z = z.astype(np.float32)"
    assert "value" in passed(judged("a1", "1.1", LOG_SOFTMAX.format(low)))
    wrong = LOG_SOFTMAX.format(low).replace("-1, keepdims", "0, keepdims")
    found = judged("a1", "1.1", wrong)
    assert "value" not in passed(found)
    assert found.finding.codes == ()
    double = judged("a1", "1.1", wrong.replace(low, "pass"))
    assert double.finding.codes == (("softmax-axis",),)


# ---- the comparer --------------------------------------------------------------------------------


def test_nan_shapes_and_kinds_do_not_pass():
    a = np.ones((2, 3))
    assert distance(np.full((2, 3), np.nan), a) == np.inf
    assert distance(np.full((2, 3), np.nan), np.full((2, 3), np.nan)) == 0
    assert distance(np.ones(()), a) == np.inf
    for value in (None, [1.0], "1", np.ones(2, complex), np.ones(2, bool), np.array([None]), True):
        with pytest.raises(TypeError):
            as_result(value)

    class Sly(np.ndarray):
        def __eq__(self, other):
            return True

    with pytest.raises(TypeError, match="Sly"):
        as_result(np.ones(2).view(Sly))


def test_an_error_is_relative_to_its_row():
    right = np.array([[1e4, 2e4], [1.0, 2.0]])
    wrong = right + np.array([[0, 0], [1e-2, 0]])
    assert row_errors(wrong, right) == pytest.approx([0, 1e-2 / 2], rel=1e-2)
    assert distance(np.array([1e4, 1.0]), np.array([1e4, 1.1])) > 0.05


def test_float32_is_known_by_its_numbers():
    values = np.array([0.1, 0.2])
    assert not is_float32([values])
    assert is_float32([values.astype(np.float32).astype(float)])


# ---- notebooks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_checks_every_task_after_its_functions(name):
    cells = [cell["source"] for cell in json.loads(release.notebook(name))["cells"]]
    code = ["".join(source) for source in cells]
    for task in assignment(name).tasks:
        call = f'check("{name}", "{task.number}", globals())'
        at = next(k for k, source in enumerate(code) if call in source)
        defined = "\n".join(code[:at])
        assert all(f"def {function}(" in defined for function in task.functions)
