"""What a student hears who has only the handouts: halves of tasks, slips, and what is said of them.

Each case is what somebody wrote in an hour with an assignment, and what would have helped.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minimixce.classroom.assignments import NAMES, assignment
from minimixce.classroom.local import Submission, check, load
from minimixce.classroom.release import starter
from minimixce.classroom.results import judge_submission
from minimixce.cli import main
from minimixce.testing import assert_gradients
from minimixce.testing.gradients import check_gradients

FOLDER = Path(__file__).parent.parent / "tutorials" / "assignments"
LINEAR = """
def linear_forward(x, W, b):
    return x @ W + b, (x, W)
"""
EMBEDDING = """
def embedding_forward(ids, W):
    return W[ids], (ids, W)


def embedding_backward(dy, cache):
    dW = np.zeros_like(cache[1])
    np.add.at(dW, cache[0], dy)
    return (dW,)
"""
POSITION = """
def position_forward(x, W):
    return x + W[: x.shape[1]], W
"""


def judged(name, number, *edits, text="", source=None):
    """A task judged: of the reference, with (old, new) replaced and a text behind it."""
    program = assignment(name).source(0) if source is None else source
    for old, new in edits:
        assert program.count(old) == 1, old
        program = program.replace(old, new)
    return judge_submission(name, Submission(f"{program}\n{text}"), [number]).judged[0]


def passed(found):
    return {check.name for check in found.checks if check.passed}


# ---- a task half written -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text", "points", "says"),
    [
        ("2.1", LINEAR, 2, "linear_backward is not written yet\n    right: y"),
        ("2.2", EMBEDDING, 3, "position_forward is not written yet\n    right: y, dW"),
        ("2.2", POSITION, 1, "embedding_forward is not written yet\n    right: y with positions"),
    ],
)
def test_what_is_written_earns_its_points(number, text, points, says):
    found = judged("a2", number, text=text, source=starter("a2"))
    assert found.points == points
    assert says in found.text()


def test_a_mask_or_a_fixed_point_does_not_wait_for_the_rest():
    found = judged("a2", "2.6", text="def visible(T):\n    return np.tri(T, dtype=bool)")
    assert found.passed
    source = starter("a2").replace("def visible", "def other")
    alone = judged("a2", "2.6", text="def visible(T):\n    return np.tri(T) > 0", source=source)
    assert passed(alone) == {"visible"}
    point = assignment("a1").source(0).replace("def power", "def other")
    assert passed(judged("a1", "1.7", source=point)) == {"fixed point"}


def test_a_pass_without_its_normalizer_is_worth_something():
    text = "_whole = token_loss\n\n\ndef token_loss(z, y, f, normalizer=None):\n"
    text += "    if normalizer:\n        raise NotImplementedError\n    return _whole(z, y, f)"
    assert passed(judged("a1", "1.2", text=text)) == {"loss", "consistent", "reference"}


def test_one_estimator_does_not_wait_for_the_other():
    found = judged("a3", "3.7", ("def rloo_weights", "def other_weights"))
    assert passed(found) == {"REINFORCE", "REINFORCE unbiased"}
    assert "right: weights of REINFORCE" in found.text()


# ---- exceptions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("dx = dy @ W.T", "dx = dy @ W", "A has 11 columns and B 12 rows"),
        ("dW = x_rows.T @", "dW = x.T @", "A has 2 columns and B 10 rows"),
        ("    x, W = cache\n    x_rows", "    x, W, b = cache\n    x_rows", "not enough values"),
    ],
)
def test_an_exception_in_a_backward_leaves_the_forward_its_points(old, new, says):
    found = judged("a2", "2.1", (old, new))
    assert passed(found) == {"forward"}
    said = found.text()
    assert "linear_backward stops at line" in said
    assert "with x (2,5,12), W (12,11), b (11,), dy (2,5,11): ValueError: " in said
    assert says in said
    assert "right: y" in said
    assert "derivative" not in said
    assert "gufunc" not in said


def test_the_line_is_the_students_wherever_the_file_lies(tmp_path):
    folder = tmp_path / "minimixce" / "numpy"
    folder.mkdir(parents=True)
    text = assignment("a2").source(0).replace("dx = dy @ W.T", "dx = dy @ W")
    (folder / "backprop.py").write_text(text, encoding="utf-8")
    found = judge_submission("a2", load("a2", folder), ["2.1"]).judged[0]
    line = text.split("dx = dy @ W\n")[0].count("\n") + 1
    assert f"linear_backward stops at line {line} with" in found.text()


def test_a_helper_that_stops_is_named_with_the_function_that_called_it():
    text = "def _shift(z):\n    return z - z.maximum()\n"
    text += "def log_softmax(z):\n    return _shift(z)\n"
    said = judged("a1", "1.1", text=text).text()
    assert "log_softmax stops in _shift, line" in said
    assert "line ,:" not in said
    assert ",:" not in said


# ---- what was returned ---------------------------------------------------------------------------

NO_RETURN = "    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))\n"


@pytest.mark.parametrize(
    ("name", "number", "old", "new", "says"),
    [
        (
            "a2",
            "2.1",
            "    return y, (x, W)\n",
            "    return y\n",
            "linear_forward returned one array; it must return (y, cache)",
        ),
        ("a2", "2.1", "    return dx, dW, db\n", "    return dx, dW\n", "a tuple of 2; it must"),
        ("a1", "1.1", NO_RETURN, "    shifted\n", "log_softmax returned None: is its `return`"),
        (
            "a1",
            "1.2",
            "    return loss, dlogits.reshape(logits.shape)\n",
            "    return loss\n",
            "token_loss returned one array; it must return (loss, dlogits)",
        ),
        (
            "a2",
            "2.7",
            " | dict(zip(norm_names, dnorm))\n    ### END",
            "\n    ### END",
            "the grads of tiny_model have no 'norm_weight'",
        ),
    ],
)
def test_a_wrong_return_is_said_of_the_function_that_returned(name, number, old, new, says):
    said = judged(name, number, (old, new)).text()
    assert says in said
    assert "unpack" not in said
    assert "derivative" not in said


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "mle returned None: is its `return` missing? It must return a function, f_and_w"),
        ("\n    return f_and_w(1.0)", "mle returned a tuple of 2; it must return a function"),
    ],
)
def test_a_closure_that_is_not_returned(body, says):
    text = "def mle():\n    def f_and_w(log_q):\n        return -log_q, 1 + 0 * log_q\n"
    said = judged("a1", "1.3", text=text + body).text()
    assert says in said
    assert "not callable" not in said


def test_a_forward_of_two_rows_without_a_cache_is_not_taken_for_a_pair():
    """An array of two rows can be unpacked into two names, and then the backward is blamed."""
    text = (
        "def softmax_forward(x, axis):\n    return np.exp(x) / np.exp(x).sum(axis, keepdims=True)"
    )
    assert "softmax_forward returned one array" in judged("a2", "2.4", text=text).text()


@pytest.mark.parametrize(
    ("name", "number", "function"),
    [
        ("a0", "0.3", "cross_entropy_backward"),
        ("a2", "2.2", "embedding_backward"),
        ("a2", "2.3", "activation_backward"),
        ("a2", "2.4", "softmax_backward"),
        ("a2", "2.6", "attention_backward"),
    ],
)
def test_a_single_gradient_needs_no_tuple_anywhere(name, number, function):
    text = f"_right = {function}\n\n\ndef {function}(dy, cache):\n    return _right(dy, cache)[0]"
    assert judged(name, number, text=text).passed


# ---- where to look -------------------------------------------------------------------------------


def test_the_forward_is_not_blamed_where_it_is_right():
    """Only the backward divides by a count of zero."""
    change = "_right = cross_entropy_backward\n\n\ndef cross_entropy_backward(dy, cache):\n"
    change += "    d = _right(dy, cache)[0]\n    return (d if cache[1].any() else d + np.nan,)"
    said = judged("a0", "0.3", text=change).text()
    assert "With no target at all:" in said
    assert "dlogits: not a finite number" in said
    assert "look for it in the forward" not in said
    other = change.replace("d + np.nan", "d + 0.5")
    said = judged("a0", "0.3", text=other).text()
    assert "The forward is right here: the fault is in the backward." in said


def test_a_shape_alone_says_nothing_of_the_derivative():
    text = "def mle():\n    return lambda log_q: (-log_q, np.array(1.0))"
    said = judged("a1", "1.3", text=text).text()
    assert "w: shape (): it must be (9,)" in said
    assert "look for it" not in said


def test_a_gradient_that_is_right_is_not_blamed_for_a_loss_that_is_wrong():
    found = judged("a0", "0.3", (".sum() / count\n", ".sum() / count * 1.3\n"))
    assert "right: dlogits" in found.text()
    assert "derivative" not in found.text()
    assert "backward" not in found.text()


def test_the_forward_comes_first_where_both_are_wrong():
    text = "_right = cross_entropy_backward\n\n\ndef cross_entropy_backward(dy, cache):\n"
    text += "    return (1.1 * _right(dy, cache)[0],)"
    found = judged("a0", "0.3", (".sum() / count\n", ".sum() / count * 1.3\n"), text=text)
    lines = [line.strip() for line in found.text().splitlines()]
    assert lines[1].startswith("loss: everywhere 1.3")
    assert "loss is wrong: mend the forward first, and look at the gradient again." in lines
    assert not any(line.startswith("consistent") for line in lines)


def test_an_objective_is_spoken_of_as_f_and_w():
    said = judged("a1", "1.4", ("w = eta + (1 - eta) * q", "w = eta + (1 - eta) * q**1.1")).text()
    assert "w is not −df/d log q of your own f." in said
    assert "backward" not in said
    assert "numbers say" not in said


def test_a_gradient_of_another_function_earns_nothing_and_is_told_why():
    edits = (
        ("f = -eta * log_q - (1 - eta) * q", "f = -(1 - eta) * log_q - eta * q"),
        (
            "w = eta + (1 - eta) * q",
            "w = (1 - eta) + eta * q",
        ),
    )
    found = judged("a1", "1.4", *edits)
    assert "consistent" not in passed(found)
    why = "f is so far from the right one that it is another function"
    assert f"consistent, manners: no points: {why}" in found.text()
    assert "η and 1−η are swapped" in found.text()


@pytest.mark.parametrize(
    ("name", "number", "old", "new", "says"),
    [
        ("a0", "0.1", "/ (2 * h)", "/ 2 * h", "write `/ (2 * h)`"),
        ("a0", "0.3", "dlogits / count", "dlogits / is_target.sum()", "N is 0"),
        ("a1", "1.1", "z.max(axis=-1, keepdims=True)", "z.max()", "take each row's own"),
        ("a1", "1.2", "(w / n)[:", "(w / (normalizer or is_target.sum()))[:", "N is 0"),
        ("a1", "1.7", "return -w / a, w", "return -w, a * w", "f lacks its factor 1/a; w is right"),
    ],
)
def test_slips_of_an_hour_are_in_the_catalogues(name, number, old, new, says):
    assert says in judged(name, number, (old, new)).text()


def test_ignored_targets_that_the_backward_indexes_are_named():
    text = """
def cross_entropy_backward(dy, cache):
    log_p, is_target, row, column, count = cache
    d = np.exp(log_p)
    d[row, np.where(is_target, column, -1)] -= 1
    return (dy * d / count,)
"""
    found = judged("a0", "0.3", text=text)
    assert found.finding.codes == (("gradient-not-masked",),)
    assert "must have gradient 0" in found.text()


def test_a_probe_is_described_and_a_number_has_no_index():
    shift = "    shifted = logits - logits.max(axis=-1, keepdims=True)\n"
    said = judged("a0", "0.3", (shift, "    shifted = logits\n")).text()
    assert "With logits of ±1000:" in said
    assert "loss: not a finite number\n" in said
    assert "probe" not in said


VARIANTS = [(name, k) for name in NAMES for k in range(assignment(name).variants)]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_probe_but_the_first_says_what_is_special_in_it(name, variant):
    for task in assignment(name, variant).tasks:
        about = [probe.about for probe in task.probes(0)]
        assert about[0] == ""
        assert all(text.startswith(("with ", "over ")) for text in about[1:]), task.number


# ---- points --------------------------------------------------------------------------------------


def test_one_tensor_that_is_wrong_costs_its_own_points():
    found = judged("a2", "2.1", ("db = dy_rows.sum(axis=0)", "db = dy_rows.mean(axis=0)"))
    assert passed(found) == {c.name for c in found.checks} - {"db", "db consistent"}
    found = judged("a2", "2.2", ("dW[:T] = dy.sum(axis=0)", "dW[:T] = dy.mean(axis=0)"))
    wrong = {"dW of the positions", "dW of the positions consistent"}
    assert passed(found) == {c.name for c in found.checks} - wrong


def test_the_parts_of_the_surrogate_are_apart():
    value = judged(
        "a1",
        "1.5",
        ("    return -weight * log_q, weight", "    return -weight * log_q * 1.2, weight"),
    )
    assert passed(value) == {c.name for c in value.checks} - {"f"}
    frozen = judged("a1", "1.5", ("return values.sum() / max", "return 2 * values.sum() / max"))
    assert passed(frozen) >= {"f", "w", "plain value", "manners"}
    mixce = "return -eta * log_q - (1 - eta) * np.exp(log_q), weight"
    plain = judged("a1", "1.5", ("return -weight * log_q, weight", mixce)).text()
    assert "so nothing in f is held constant" in plain


def test_manners_say_what_makes_float32_float64_and_nothing_twice():
    edit = "    k = math.sqrt(2 / math.pi)\n    t =", "    k = np.sqrt(2 / np.pi)\n    t ="
    said = judged("a2", "2.3", edit).text()
    assert "float64 for float32 inputs: a NumPy number" in said
    assert "math.sqrt" in said
    shape = judged("a2", "2.1", ("db = dy_rows.sum(axis=0)", "db = dy_rows.sum(axis=0)[None]"))
    assert "where an axis has size 1" not in shape.text()
    assert "manners" not in passed(shape)


def test_limits_say_the_weight():
    text = "def mixce(eta):\n    return lambda log_q: (-log_q, 1.1 + 0 * log_q)"
    assert "η = 1: mixce(1) must have weight 1" in judged("a1", "1.4", text=text).text()


def test_the_bonus_is_counted_apart():
    source = Submission(assignment("a2").source(0))
    said = judge_submission("a2", source, ["2.4", "2.9"]).text()
    assert said.endswith("8 of 8 points, bonus 10 of 10")
    assert judge_submission("a2", source, ["2.4"]).text().endswith("8 of 8 points")


# ---- files and notebooks -------------------------------------------------------------------------


def test_files_that_are_missing_or_stop_are_one_sentence(tmp_path, capsys):
    with pytest.raises(
        FileNotFoundError, match=r"objectives\.py does not exist.*: give the folder"
    ):
        load("a1", tmp_path)
    (tmp_path / "objectives.py").write_text("import math\n\nmath.sqrt(-1)\n")
    with pytest.raises(ValueError, match=r"objectives\.py, line 3 fails to run: ValueError"):
        load("a1", tmp_path)
    assert main(["grade", "a1", str(tmp_path), "--local", "--task", "1.8"]) == 2
    assert "1.8 is read by a person" in capsys.readouterr().err


def notebook(text):
    """The names of a notebook in which these cells ran."""
    names = {}
    exec(text, names)
    return names


def test_a_notebook_gets_right_earlier_functions_as_a_file_does(capsys):
    source = assignment("a1").source(0)
    check("a1", "1.2", notebook(source.replace("return shifted - np.log", "return lg(shifted) -")))
    assert "10 of 10, ok" in capsys.readouterr().out
    check("a1", "1.3", notebook(source.replace("def mle", "def mel")))
    assert "the notebook defines no function 'mle': run its cell" in capsys.readouterr().out


# ---- gradcheck -----------------------------------------------------------------------------------

PAIR = """
import numpy as np
from {} import look_up

def forward(ids, W):
    return look_up(ids, W), (ids, W)

def backward(dy, cache):
    dW = np.zeros_like(cache[1])
    np.add.at(dW, cache[0], dy)
    return (dW,)

def unwritten(dy, cache):
    raise NotImplementedError

def crashing(dy, cache):
    return dy @ np.ones(99)

def inputs():
    return np.array([[1, 0, 1]]), np.ones((4, 3))
"""


@pytest.fixture
def pair(tmp_path):
    """A file with a pair for integers, which imports another beside it."""
    (tmp_path / "beside_the_pair.py").write_text("def look_up(ids, W):\n    return W[ids]\n")
    (tmp_path / "pair.py").write_text(PAIR.format("beside_the_pair"))
    return tmp_path / "pair.py"


@pytest.mark.parametrize(
    ("backward", "more", "says"),
    [
        ("backward", [], "W                          4×3            every coordinate"),
        ("unwritten", [], "minimixce gradcheck: unwritten is not written yet"),
        ("crashing", [], "minimixce gradcheck: crashing, line 17: ValueError: matmul"),
        ("backward", ["--shapes", "2,3", "4,3"], "forward, beside_the_pair.py, line 2: IndexError"),
        (
            "backward",
            ["--shapes", "2,3"],
            "for other arguments than arrays of floats, write inputs",
        ),
    ],
)
def test_gradcheck_of_a_file_says_what_there_is_in_one_line(pair, backward, more, says, capsys):
    status = main(["gradcheck", f"{pair}:forward,{backward}", *more])
    captured = capsys.readouterr()
    assert says in captured.out + captured.err
    assert status == (0 if "every" in says else 2)
    assert str(pair.parent) not in sys.path


def test_integer_arrays_may_be_left_out_of_the_gradients():
    def forward(ids, W):
        return W[ids], (ids, W)

    def backward(dy, cache):
        dW = np.zeros_like(cache[1])
        np.add.at(dW, cache[0], dy)
        return (dW,)

    assert_gradients(forward, backward, np.array([1, 0, 1]), np.ones((3, 2)))


def test_the_handouts_example_of_gradcheck_runs(tmp_path, capsys):
    handout = (FOLDER / "a2" / "README.md").read_text(encoding="utf-8")
    block = handout.split("    # attention.py")[1].split("\n", 1)[1].split("\n\nStart")[0]
    code = "".join(line.removeprefix("    ") for line in block.splitlines(keepends=True))
    (tmp_path / "attention.py").write_text(code)
    (tmp_path / "backprop.py").write_text(assignment("a2").source(0), encoding="utf-8")
    assert main(["gradcheck", f"{tmp_path}/attention.py:forward,attention_backward"]) == 0
    assert "OK" in capsys.readouterr().out


def test_table_c_of_2_8_is_what_gradcheck_says_and_its_factor_has_one_cause():
    handout = (FOLDER / "a2" / "README.md").read_text(encoding="utf-8")
    text = assignment("a2").source(0).replace("@ q * scale", "@ q")
    assert text != assignment("a2").source(0)
    names = {}
    exec(text, names)

    def forward(qkv):
        return names["attention_forward"](qkv, 4, names["visible"](5))

    qkv = np.random.default_rng(0).standard_normal((2, 5, 36))
    report, (sentence,) = check_gradients(forward, names["attention_backward"], qkv)
    assert report.rows[0].reason in handout
    assert sentence.split("there ")[1] in handout
    assert f"{np.sqrt(12 / 4):.6g} times" in sentence


@pytest.mark.slow
def test_what_the_handouts_have_one_type_is_short(tmp_path):
    shutil.copytree(FOLDER / "a1", tmp_path / "mine")
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-m", "task1_3"]
    command += ["-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=tmp_path / "mine", capture_output=True, text=True)
    assert ran.returncode == 1
    assert len(ran.stdout.splitlines()) < 60
