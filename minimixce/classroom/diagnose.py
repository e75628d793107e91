"""What is wrong with a solution: from what it returns, in words that can be relied on.

The order: an exception, a shape, a number that is not finite, a gradient that ignores dy or is a
multiple of the right one, whether the backward is the derivative of its own forward, and at last
the catalogue: a mistake, or two, is named only if a program with that mistake returns the same in
every row of every probe. What none of this explains is called wrong and nothing more.
"""

import traceback
from dataclasses import dataclass

import numpy as np

from ..checks import Row
from ..slopes import WRONG
from ..testing.sentences import explain
from .catalogue import anew, copied, kind_of, run_probe
from .compare import FLOAT32, TOLERANCE, distance, is_float32, row_errors
from .tasks import Probe

HINTS = ("none", "where", "why")


@dataclass(frozen=True)
class Finding:
    """What was found. kind: "missing", "unfinished", "exception", "shape", "not finite",
    "ignores dy" or "wrong"; codes: alternatives, each a tuple of the codes of mistakes.
    """

    kind: str
    where: str
    why: str = ""
    codes: tuple = ()
    lesson: str = ""

    def text(self, hints="why"):
        """The hint as text: "none" says nothing, "where" what differs, "why" the mistake too."""
        if hints == "none":
            return ""
        parts = [self.where]
        if hints == "why":
            parts += [self.why, f"Read {self.lesson}." if self.lesson else ""]
        return "\n".join(part for part in parts if part)


def is_in_float32(outcomes, right):
    """Whether the ordinary results were computed in float32."""
    mine, expected = outcomes[0].outputs, right[0].outputs
    return bool(mine) and is_float32(mine.values()) and not is_float32(expected.values())


def right_outputs(outcome, right, float32=False):
    """{name: whether it is right} for every output that there should be on one probe.

    float32: the ordinary probe is compared more coarsely, on others only shapes are.
    """
    verdicts = {}
    for name, expected in right.outputs.items():
        found = outcome.outputs.get(name)
        if found is None or found.shape != expected.shape:
            verdicts[name] = False
        elif not float32:
            verdicts[name] = distance(found, expected) <= TOLERANCE
        elif outcome.probe.kind == "ordinary":
            verdicts[name] = distance(found, expected, floor=1) <= FLOAT32
        else:
            verdicts[name] = bool(np.isfinite(found).all())
    return verdicts


def diagnose(catalogue, functions, outcomes, is_consistent=None):
    """What is wrong with results -> Finding, or None if nothing is.

    is_consistent() -> whether the backward is the derivative of the student's own forward, or None
    where that was not tried.
    """
    float32 = is_in_float32(outcomes, catalogue.right)
    for outcome, right in zip(outcomes, catalogue.right):
        verdicts = right_outputs(outcome, right, float32)
        if outcome.error is None and all(verdicts.values()):
            continue
        if outcome.error is not None:
            found = _of_error(catalogue, outcome)
        else:
            found = _of_outputs(catalogue, functions, outcome, right, verdicts)
        if found.kind in ("missing", "unfinished") or float32:
            return found
        return _with_reasons(catalogue, outcomes, found, is_consistent)
    return None


def _of_error(catalogue, outcome):
    error, kind = outcome.error, kind_of(outcome.error)
    if kind == "NotImplementedError":
        return Finding("unfinished", "not written yet: it raises NotImplementedError")
    if kind == "missing":
        return Finding("missing", f"the file defines no function {str(error)!r}")
    line = _line_of(error)
    where = f"{kind}{line}{_on(outcome.probe)}: {error}"
    return Finding("exception", where)


def _line_of(error):
    """ ", line 12" of the student's file, where the traceback has one."""
    if hasattr(error, "line"):  # it comes from a sandbox
        return error.line
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "minimixce" not in frame.filename and "numpy" not in frame.filename:
            return f" in {frame.name}, line {frame.lineno},"
    return ""


def _on(probe):
    return "" if probe.kind == "ordinary" else f" on the {probe.kind} probe"


def _of_outputs(catalogue, functions, outcome, right, verdicts):
    """What differs on the first probe that shows something."""
    wrong = [name for name, is_right in verdicts.items() if not is_right]
    kinds, sentences = [], []
    for name in wrong:
        kind, sentence = _of_output(name, outcome, right)
        kinds.append(kind)
        sentences.append(sentence)
    kind = min(kinds, key=("missing output", "shape", "not finite", "wrong").index)
    if kind == "wrong" and (ignoring := _ignores_dy(catalogue, functions, outcome, wrong)):
        kind = "ignores dy"
        sentences += [f"{name}: does not depend on dy" for name in ignoring]
    fine = [name for name, is_right in verdicts.items() if is_right]
    if fine:
        sentences.append(f"right: {', '.join(fine)}")
    on = _on(outcome.probe)
    return Finding(kind, "\n".join([f"Differs{on}:", *sentences] if on else sentences))


def _of_output(name, outcome, right):
    """One wrong output -> kind and sentence."""
    found, expected = outcome.outputs.get(name), right.outputs[name]
    if found is None:
        return "missing output", f"{name}: is not returned"
    said = without_cause(explain(_row(name, found, expected)))
    if found.shape != expected.shape:
        return "shape", said
    if not np.isfinite(found).all() and np.isfinite(expected).all():
        return "not finite", said
    if expected.any() and not found.any():
        return "wrong", f"{name}: zero everywhere"
    return "wrong", said or _rows(name, found, expected)


def without_cause(sentence):
    """A sentence of testing.sentences that ends with a factor, without where it may come from.

    2 may be a sum over an axis of 2, or √4: which of them is for the catalogue to say.
    """
    factor = " times the right one"
    head, found, _ = sentence.partition(factor)
    return head + found


def _row(name, found, expected):
    nan = float("nan")
    return Row(name, expected.shape, "", 0.0, (), nan, nan, WRONG, "", found, expected)


def _rows(name, found, expected):
    """ "y: wrong in 3 of 10 rows, most in row [1, 2]"."""
    errors = row_errors(found, expected)
    if errors.size == 1:
        return f"{name}: wrong, {float(found.reshape(-1)[0]):.6g}"
    shape = expected.shape[:-1] if expected.ndim >= 2 else expected.shape
    worst = [int(k) for k in np.unravel_index(int(errors.argmax()), shape)]
    wrong = int((errors > TOLERANCE).sum())
    return f"{name}: wrong in {wrong} of {errors.size} rows, most in row {worst}"


def _ignores_dy(catalogue, functions, outcome, wrong):
    """Names of wrong gradients that stay as they are when dy is another."""
    inputs = outcome.probe.inputs
    if "dy" not in inputs:
        return []
    other = copied(inputs) | {"dy": np.flip(inputs["dy"]) + 1}
    again = run_probe(catalogue.task, anew(functions), Probe(outcome.probe.kind, other))
    return [
        name
        for name in wrong
        if name in catalogue.task.gradients
        and name in again.outputs
        and outcome.outputs[name].any()
        and np.array_equal(outcome.outputs[name], again.outputs[name])
    ]


def _with_reasons(catalogue, outcomes, found, is_consistent):
    """The finding, with the mistakes that explain all results, or what the derivative says."""
    named = catalogue.name(outcomes)
    lesson = lesson_text(catalogue.task.lesson)
    if named:
        why, lesson = _sentence(catalogue, named)
    else:
        why = _of_consistency(is_consistent)
    return Finding(found.kind, found.where, why, tuple(named), lesson)


def _sentence(catalogue, named):
    """What alternatives say, and what to read."""
    mistakes = catalogue.mistakes
    said = [" And: ".join(mistakes[code].says for code in codes) for codes in named]
    lessons = sorted(
        {mistakes[c].lesson or catalogue.task.lesson for codes in named for c in codes}
    )
    if len(said) > 1:
        said = ["One of these, between which the results do not decide:", *said]
    return "\n".join(said), " and ".join(lesson_text(lesson) for lesson in lessons)


def _of_consistency(is_consistent):
    consistent = is_consistent() if is_consistent else None
    if consistent is None:
        return ""
    if consistent:
        return "The backward is the derivative of your own forward: look for it in the forward."
    return "The backward is not the derivative of your own forward."


def lesson_text(lesson):
    """ "3" -> "lesson 3"; "math §6" stays."""
    return f"lesson {lesson}" if lesson.isdigit() else lesson
