"""What is wrong with a solution: from what it returns, in words that can be relied on.

The order: an exception, a shape, a number that is not finite, a gradient that ignores dy or is a
multiple of the right one, whether the backward is the derivative of its own forward, and at last
the catalogue: a mistake, or two, is named only if a program with that mistake returns the same in
every row of every probe. What none of this explains is called wrong and nothing more.
"""

import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..checks import Row
from ..slopes import WRONG
from ..testing.sentences import explain
from .catalogue import Catalogue, Outcome, anew, copied, kind_of, run_probe
from .compare import FLOAT32, TOLERANCE, distance, is_float32, row_errors
from .signatures import Codes, Functions, Probe

HINTS = ("none", "where", "why")
_NOT_THE_STUDENTS = tuple(str(Path(p).parent) for p in (np.__file__, Path(__file__).parent))
_MANY = 8  # arrays whose shapes are no longer listed
_INNER_SIZES = re.compile(
    r"gufunc signature \(n\?,k\),\(k,m\?\).*size (\d+) is different from (\d+)"
)


@dataclass(frozen=True)
class Finding:
    """What was found. kind: "missing", "unfinished", "partly written", "exception", "shape",
    "not finite", "ignores dy" or "wrong"; codes: alternatives, each a tuple of the codes of
    mistakes.
    """

    kind: str
    where: str
    why: str = ""
    codes: tuple[Codes, ...] = ()
    lesson: str = ""

    def text(self, hints: str = "why") -> str:
        """The hint as text: "none" says nothing, "where" what differs, "why" the mistake too."""
        if hints == "none":
            return ""
        parts = [self.where]
        if hints == "why":
            parts += [self.why, f"Read {self.lesson}." if self.lesson else ""]
        return "\n".join(part for part in parts if part)


def is_in_float32(outcomes: Sequence[Outcome], right: Sequence[Outcome]) -> bool:
    """Whether the ordinary results were computed in float32, and those of the reference not.

    outcomes, right: of run_task, with the student's functions and the reference's.
    """
    mine, expected = outcomes[0].outputs, right[0].outputs
    return bool(mine) and is_float32(mine.values()) and not is_float32(expected.values())


def right_outputs(outcome: Outcome, right: Outcome, float32: bool = False) -> dict[str, bool]:
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


def diagnose(
    catalogue: Catalogue,
    functions: Functions,
    outcomes: Sequence[Outcome],
    consistency: Callable[[], bool | None] | None = None,
) -> Finding | None:
    """What is wrong, from the first probe that shows something -> Finding, or None.

    outcomes: of run_task with the student's functions; consistency: a function () -> whether the
    backward is the derivative of its own forward on the first probe, None where that is not known.
    """
    float32 = is_in_float32(outcomes, catalogue.right)
    for outcome, right in zip(outcomes, catalogue.right):
        verdicts = right_outputs(outcome, right, float32)
        if outcome.error is None and all(verdicts.values()):
            continue
        if outcome.error is not None:
            found = _of_error(outcome, right, verdicts)
            return found if float32 else _with_a_name(catalogue, outcomes, found)
        wrong = [name for name, is_right in verdicts.items() if not is_right]
        found = _of_outputs(catalogue, functions, outcome, right, verdicts)
        if float32:
            return found
        if outcome is not outcomes[0]:
            why = _on_another_probe(catalogue.task, wrong, found.kind)
        else:
            why = _of_consistency(catalogue.task, wrong, found.kind, consistency)
        return _with_reasons(catalogue, outcomes, found, why)
    return None


# ---- exceptions ----------------------------------------------------------------------------------


def _of_error(outcome, right, verdicts):
    """What stopped, and what came before it."""
    kind, outputs = kind_of(outcome.error), outcome.outputs
    if kind == "NotImplementedError" and not outputs:
        return Finding("unfinished", "not written yet: it raises NotImplementedError")
    kinds = {"NotImplementedError": "partly written", "missing": "missing"}
    sentences = [_on(outcome.probe) + stopped(outcome.error, outcome.called, outcome.probe)]
    there = [name for name in verdicts if name in outputs]
    sentences += [_of_output(name, outcome, right)[1] for name in there if not verdicts[name]]
    fine = [name for name in there if verdicts[name]]
    sentences += [f"right: {', '.join(fine)}"] if fine else []
    return Finding(kinds.get(kind, "exception"), "\n".join(sentences))


def stopped(error: BaseException, called: str, probe: Probe | None = None) -> str:
    """A sentence on an exception: which function stops where, with which shapes, and why.

    called: the name of the student's function that was called, "" where none was.
    """
    kind = kind_of(error)
    if kind == "NotImplementedError":
        return f"{called or 'this'} is not written yet"
    if kind == "missing":
        return getattr(error, "says", "the file defines no function {!r}").format(str(error))
    if kind == "return":
        return str(error)
    if kind in ("too slow", "ended", "not run"):
        return f"{called}: {error}" if called else str(error)
    if not called:
        return f"{kind}: {error}"
    place = _place_of(error)
    own = f"in {called.partition(' of ')[0]}, "  # "f_and_w of mixce"
    place = f" at {place.removeprefix(own)}" if place.startswith(own) else place and f" {place}"
    return f"{called} stops{place}{_shapes(probe)}: {kind}: {_in_words(str(error))}"


def _place_of(error):
    """ "in f, line 12" of the student's file, where the traceback has one."""
    if hasattr(error, "line"):  # it comes from a sandbox
        return error.line.strip(" ,")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*_NOT_THE_STUDENTS, "<frozen")):
            return f"in {frame.name}, line {frame.lineno}"
    return ""


def _shapes(probe):
    """ " with x (2,5,12), dy (2,5,11)", the arrays of a probe, where they are not too many."""
    arrays = {k: v for k, v in probe.inputs.items() if np.ndim(v)} if probe else {}
    if not 0 < len(arrays) <= _MANY:
        return ""
    listed = (f"{k} {str(np.shape(v)).replace(' ', '')}" for k, v in arrays.items())
    return f" with {', '.join(listed)}"


def _in_words(text):
    """The text of an exception; NumPy's on a product of matrices without its signatures."""
    if found := _INNER_SIZES.search(text):
        right, left = found.groups()
        return f"in a product A @ B, A has {left} columns and B {right} rows"
    return text


def _on(probe):
    """ "With logits of ±1000: ", what is special in a probe, "" for the first."""
    return f"{probe.about[0].upper()}{probe.about[1:]}: " if probe.about else ""


# ---- values --------------------------------------------------------------------------------------


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
    on = _on(outcome.probe).strip()
    return Finding(kind, "\n".join([on, *sentences] if on else sentences))


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


def without_cause(sentence: str) -> str:
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


# ---- reasons -------------------------------------------------------------------------------------


def _with_a_name(catalogue, outcomes, found):
    """The finding of an exception, with the mistake that explains all results, if there is one."""
    if found.kind in ("missing", "unfinished", "partly written"):
        return found
    named = catalogue.name(outcomes, pairs=False)
    if not named:
        return found
    why, lesson = _sentence(catalogue, named)
    return Finding(found.kind, found.where, why, tuple(named), lesson)


def _with_reasons(catalogue, outcomes, found, why):
    """The finding, with the mistakes that explain all results, or else with `why`."""
    named = catalogue.name(outcomes)
    lesson = lesson_text(catalogue.task.lesson)
    if named:
        why, lesson = _sentence(catalogue, named)
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


def _parted(task, wrong):
    """Names of wrong outputs -> those of the forward, and the gradients."""
    gradients = [name for name in wrong if name in task.gradients]
    return [name for name in wrong if name not in (*gradients, *task.apart)], gradients


def _of_consistency(task, wrong, kind, consistency):
    """What the derivative of the own forward says of wrong results on the first probe."""
    values, gradients = _parted(task, wrong)
    if not gradients or not task.pairs or consistency is None:
        return ""
    words, consistent = task.words, consistency() if kind in ("wrong", "ignores dy") else None
    if values and consistent:
        return _sentence_of(f"{words.gradient} is {words.relation}: look for it in {words.forward}")
    if values:
        return _mend_first(values, words)
    return _sentence_of(f"{words.gradient} is not {words.relation}") if consistent is False else ""


def _on_another_probe(task, wrong, kind):
    """In which of the two to look, where the first probe showed nothing."""
    values, gradients = _parted(task, wrong)
    if not gradients or not task.pairs or kind in ("shape", "missing output"):
        return ""
    if values:
        return _mend_first(values, task.words)
    return _sentence_of(
        f"{task.words.forward} is right here: the fault is in {task.words.gradient}"
    )


def _mend_first(values, words):
    verb = "is" if len(values) == 1 else "are"
    said = f"{', '.join(values)} {verb} wrong: mend {words.forward} first, and look at the gradient"
    return f"{said} again."


def _sentence_of(text):
    """With a full stop and, where it begins with "the", a capital letter."""
    return f"{text.replace('the ', 'The ', 1) if text.startswith('the ') else text}."


def lesson_text(lesson: str) -> str:
    """ "3" -> "lesson 3"; "math §6" stays."""
    return f"lesson {lesson}" if lesson.isdigit() else lesson
