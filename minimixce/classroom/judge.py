"""The points of a task: each check of it tried on a student's functions."""

import functools
from dataclasses import dataclass

import numpy as np

from ..testing.gradients import check_gradients
from .catalogue import Catalogue, anew, copied, in_place, kind_of, run_probe, run_task
from .compare import TOLERANCE, distance
from .degenerate import degenerate
from .diagnose import Finding, diagnose, is_in_float32, right_outputs, stopped
from .grader.frames import with_gaps
from .returns import Watched
from .signatures import Functions, Probe

_LEFT_OUT = {("forward", True), ("reference", False)}  # check, whether an output is a gradient
_KINDS = {"value": "ordinary", "extreme": "extreme", "degenerate": "degenerate"}
_LEAST_COSINE = 0.9  # of a value with the right one, in a task without gradients to look at
_COORDINATES = 400  # tensors with more of them are checked along directions
_NO_SLOPE = "y does not depend on it"  # the reason of a row of gradcheck whose slope is zero
_OF_DY = ("is not linear in dy", "a second run of forward and backward returns another gradient")
_FLOAT32 = (
    "a NumPy number (`np.sqrt(2)`, `np.log(0.3)`, `mask.sum()`) makes a float32 array float64; a"
    " Python number (`math.sqrt(2)`, `int(n)`) does not"
)


@dataclass(frozen=True)
class Checked:
    """One check: its points, whether they were earned, and if not, a sentence."""

    name: str
    points: float
    passed: bool
    says: str = ""


@dataclass(frozen=True)
class Judged:
    """One task: its checks, and what is wrong, if anything."""

    number: str
    title: str
    checks: tuple[Checked, ...]
    finding: Finding | None

    @property
    def points(self) -> float:
        """The points that were earned."""
        return sum(check.points for check in self.checks if check.passed)

    @property
    def total(self) -> float:
        """The points that there are."""
        return sum(check.points for check in self.checks)

    @property
    def passed(self) -> bool:
        """Whether all points were earned."""
        return self.points == self.total

    def text(self, hints: str = "why") -> str:
        """A line for the task and, unless all is well, what is wrong.

        hints: "none", "where" or "why", as in minimixce.classroom.diagnose.
        """
        state = "ok" if self.passed else "not written yet" if self._unfinished() else "not yet"
        lines = [f"{self.number} {self.title}: {self.points:g} of {self.total:g}, {state}"]
        if self.passed or hints == "none" or self._unfinished():
            return lines[0]
        if self.finding:
            lines += self.finding.text(hints).splitlines()
        said: dict[str, list[str]] = {}  # the checks of each sentence
        for check in self.checks:
            if check.says and not check.passed:
                said.setdefault(check.says, []).append(check.name)
        lines += [f"{', '.join(names)}: {says}" for says, names in said.items()]
        return "\n    ".join(lines)

    def _unfinished(self):
        return self.finding is not None and self.finding.kind == "unfinished"


def judge(catalogue: Catalogue, functions: Functions) -> Judged:
    """Try every check of a task on a student's functions -> Judged.

    catalogue: the Catalogue of the task; functions: an object whose attributes they are. What the
    functions raise is part of the finding.
    """
    task = catalogue.task
    outcomes = run_task(task, functions, catalogue.probes)
    trial = _Trial(catalogue, functions, outcomes)
    checks = tuple(
        Checked(name, points, *trial.check(name)) for name, points in task.points.items()
    )
    finding = diagnose(catalogue, functions, outcomes, trial.consistency)
    return Judged(task.number, task.title, checks, finding)


class _Trial:
    """The results of one student on one task, and what can be asked of them."""

    def __init__(self, catalogue, functions, outcomes):
        self.catalogue, self.task, self.functions = catalogue, catalogue.task, functions
        self.outcomes = outcomes
        self._reports = {}
        self._called = ""  # the function of the last pair that was called
        self.float32 = is_in_float32(outcomes, catalogue.right)

    def check(self, name):
        """Whether a check passes, and a sentence where only this check has something to say."""
        if name in self.task.properties:
            return self._unless_poor(*self._property(self.task.properties[name]))
        kind, outputs = self.task.parts.get(name, (name, None))
        if kind == "manners":
            self._called = ""  # manners are those of all functions
            return self._unless_poor(*self._manners())
        if kind == "consistent":
            return self._consistent(outputs)
        return self._compared(kind, outputs), ""

    def _ordinary(self):
        return copied(self.catalogue.probes[0].inputs)

    def _compared(self, name, outputs=None):
        """Values against the reference: which outputs and which probes depends on the check."""
        # of other probes nothing but finite numbers is asked in float32, and zeros are finite
        alone = self.float32 and name in ("extreme", "degenerate")
        if alone and not self._compared("value", outputs):
            return False
        for outcome, right in zip(self.outcomes, self.catalogue.right):
            if name in _KINDS and outcome.probe.kind != _KINDS[name]:
                continue
            for output, is_right in right_outputs(outcome, right, self.float32).items():
                is_gradient = output in self.task.gradients
                if (name, is_gradient) in _LEFT_OUT or output not in (outputs or right.outputs):
                    continue
                if not is_right:
                    return False
        return True

    def consistency(self):
        """Whether the backward is the derivative of the student's own forward; None if unknown."""
        if not self._has(self.task.gradients):
            return None
        try:
            rows = self._wrong_rows()
        except (Exception, SystemExit):
            return None
        real = [row for row in rows if row.reason != _NO_SLOPE]
        return False if real else None if rows else True

    def _is_known(self):
        """Whether the finding is about an exception, which need not be said twice."""
        return self.outcomes[0].error is not None

    def _has(self, names):
        """Whether the calls that return these outputs succeeded on the first probe."""
        return all(name in self.outcomes[0].outputs for name in names)

    def _consistent(self, outputs=None):
        """Whether gradients are the derivative of the own forward, which must be a fair one."""
        names = outputs or self.task.gradients
        if not self._has(names):
            return False, ""
        values = [name for name in self.catalogue.right[0].outputs if name not in self.task.apart]
        if self._compared("forward", values) and self._compared("reference", outputs):
            return True, ""
        try:
            with np.errstate(all="ignore"):
                if rows := self._wrong_rows(names):
                    return False, self._said(rows)
                said = self._too_poor(names)
        except (Exception, SystemExit) as error:
            return False, "" if self._is_known() else stopped(error, self._called)
        return not said, said and f"no points: {said}"

    def _too_poor(self, names):
        for pair in self._pairs_with(names):
            own = self._report(pair)[0]
            kept = [name for name in names if name in own] or names
            said = degenerate(self.catalogue, self.functions, self.outcomes[0], pair, kept)
            if said:
                return said
        return ""

    def _unless_poor(self, passed, said):
        """A check that says nothing of values, not passed by what is too poor to be an attempt.

        All zeros have good manners, too, and add up.
        """
        if passed and (poor := self._poor_forward or self._zero_gradients()):
            return False, f"no points: {poor}"
        return passed, said

    @functools.cached_property
    def _poor_forward(self):
        """Why the forward is no attempt at the right one, or "" where it is one."""
        outcome, right = self.outcomes[0], self.catalogue.right[0]
        if self._compared("forward"):
            return ""
        values = [name for name in right.outputs if name not in self.task.gradients]
        if kind_of(outcome.error) == "return" and not all(v in outcome.outputs for v in values):
            return str(outcome.error)  # no array of real numbers, or not as many as there must be
        try:
            with np.errstate(all="ignore"):
                for pair in self.task.pairs:
                    if said := degenerate(self.catalogue, self.functions, outcome, pair, ()):
                        return said
        except (Exception, SystemExit) as error:
            return stopped(error, "")
        for name in () if self.task.pairs else values:
            found, expected = outcome.outputs.get(name), right.outputs[name]
            if found is None:
                continue
            if found.size != expected.size:
                return f"{name} has {found.size} numbers, not {expected.size}"
            size = np.linalg.norm(found) * np.linalg.norm(expected)
            if not (found.reshape(-1) * expected.reshape(-1)).sum() >= _LEAST_COSINE * size > 0:
                return f"{name} is so far from the right one that it is another function"
        return ""

    def _zero_gradients(self):
        """Of a check that called a backward, which gradient is nearly zero, or ""."""
        outcome, right = self.outcomes[0], self.catalogue.right[0]
        names = () if self._called.endswith("_forward") else self.task.gradients
        for name in names:
            found, least = outcome.outputs.get(name), 0.01 * np.linalg.norm(right.outputs[name])
            if found is not None and np.linalg.norm(found) < least:
                return f"{name} is nearly zero"
        return ""

    def _pairs_with(self, names):
        """The pairs that some of these gradients belong to."""
        pairs = self.task.pairs
        if len(pairs) == 1:
            return pairs
        return [pair for pair in pairs if set(names) & set(self._gradients_of(pair))]

    def _gradients_of(self, pair):
        _, _, varied = pair(self.catalogue.reference, self._ordinary())
        return [f"d{name}" for name in varied]

    def _report(self, pair):
        """Of a pair, the names of its gradients, and the Report of gradcheck."""
        if pair not in self._reports:
            watched = Watched(anew(self.functions))
            try:
                forward, backward, varied = pair(watched, self._ordinary())
                report, _ = check_gradients(
                    forward,
                    backward,
                    *varied.values(),
                    names=list(varied),
                    nondegenerate=True,
                    coordinates=_COORDINATES,
                )
            finally:
                self._called = watched.__called__
            self._reports[pair] = [f"d{name}" for name in varied], report
        return self._reports[pair]

    def _wrong_rows(self, names=None):
        """Rows of gradcheck that are not OK, of the gradients with these names."""
        found = []
        with np.errstate(all="ignore"):
            for pair in self._pairs_with(names or self.task.gradients):
                own, report = self._report(pair)
                wanted = set(own) & set(names or own) or set(own)
                found += [r for r in report.rows if not r.ok and f"d{r.name}" in wanted]
        return found

    def _said(self, rows):
        """What only gradcheck says of rows that are not OK; that numbers differ is said already."""
        said = []
        for row in rows:
            if row.reason == _NO_SLOPE:
                said.append(f"{self.task.words.forward} does not depend on {row.name}")
            for reason in row.reason.split("; "):
                if reason in _OF_DY:
                    said.append(f"d{row.name}: {reason}")
        return "; ".join(said)

    def _property(self, check):
        """Whether a property holds, and what it says."""
        watched = Watched(anew(self.functions))
        try:
            with np.errstate(all="ignore"):
                said = check(watched, self._ordinary())
            self._called = watched.__called__
        except (Exception, SystemExit) as error:
            return False, "" if self._is_known() else stopped(error, watched.__called__)
        return not said, said

    def _manners(self):
        """Whether inputs, dtype, strides and small sizes are as they should be, and if not, why."""
        if self.outcomes[0].error is not None:
            return False, ""
        said = self._bad_manners()
        if said or self._small_sizes():
            return not said, said
        known = not _same_shapes(self.outcomes[0], self.catalogue.right[0])
        said = "fails, or returns another shape, where an axis has size 1"
        return False, "" if known else said

    def _bad_manners(self):
        """What is wrong with the manners, or "": inputs changed, dtype, strides."""
        task, probe, expected = self.task, self.catalogue.probes[0], self.outcomes[0]
        inputs = copied(probe.inputs)
        functions = in_place(anew(self.functions))
        again = run_probe(task, functions, Probe("ordinary", inputs), copy=False)
        if again.error is not None:
            return f"a second call: {stopped(again.error, again.called)}"
        for name, value in probe.inputs.items():
            if isinstance(value, np.ndarray) and not np.array_equal(value, inputs[name]):
                return f"changes its input {name} in place"
        apart = Probe("ordinary", _strided(probe.inputs))
        strided = run_probe(task, anew(self.functions), apart, copy=False)
        if not _agree(strided, expected):
            return "returns something else when its inputs are not contiguous"
        single = run_probe(task, anew(self.functions), Probe("ordinary", _as_float32(probe.inputs)))
        for name, value in single.outputs.items():
            if value.ndim and value.dtype.kind == "f" and value.dtype != np.float32:
                return f"{name}: {value.dtype} for float32 inputs: {_FLOAT32}"
        return ""

    def _small_sizes(self):
        """Whether all shapes are right where an axis has size 1."""
        pairs = zip(self.outcomes, self.catalogue.right)
        return all(_same_shapes(a, b) for a, b in pairs if a.probe.kind == "degenerate")


def _strided(inputs):
    """Inputs with every array as a view whose neighbours in memory are something else."""
    return {k: with_gaps(v) if isinstance(v, np.ndarray) else v for k, v in inputs.items()}


def _as_float32(inputs):
    def lower(value):
        is_float = isinstance(value, np.ndarray) and value.dtype == np.float64
        return value.astype(np.float32) if is_float else value

    return {k: lower(v) for k, v in inputs.items()}


def _agree(a, b):
    if a.error is not None or a.outputs.keys() != b.outputs.keys():
        return False
    return all(distance(a.outputs[k], b.outputs[k]) < 100 * TOLERANCE for k in b.outputs)


def _same_shapes(outcome, right):
    shapes = {k: v.shape for k, v in outcome.outputs.items()}
    return outcome.error is None and shapes == {k: v.shape for k, v in right.outputs.items()}
