"""The points of a task: each check of it tried on a student's functions."""

from dataclasses import dataclass

import numpy as np

from ..testing.gradients import check_gradients
from .catalogue import anew, copied, kind_of, run_probe, run_task
from .compare import TOLERANCE, distance
from .degenerate import degenerate
from .diagnose import Finding, diagnose, is_in_float32, right_outputs, without_cause
from .grader.frames import with_gaps
from .tasks import Probe

_LEFT_OUT = {("forward", True), ("reference", False)}  # check, whether an output is a gradient
_KINDS = {"value": "ordinary", "extreme": "extreme", "degenerate": "degenerate"}
_COORDINATES = 400  # tensors with more of them are checked along directions


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
    checks: tuple
    finding: Finding | None

    @property
    def points(self):
        """The points that were earned."""
        return sum(check.points for check in self.checks if check.passed)

    @property
    def total(self):
        """The points that there are."""
        return sum(check.points for check in self.checks)

    @property
    def passed(self):
        """Whether all points were earned."""
        return self.points == self.total

    def text(self, hints="why"):
        """A line for the task and, unless all is well, what is wrong."""
        state = "ok" if self.passed else "not written yet" if self._unfinished() else "not yet"
        lines = [f"{self.number} {self.title}: {self.points:g} of {self.total:g}, {state}"]
        if self.passed or hints == "none" or self._unfinished():
            return lines[0]
        lines += [f"{c.name}: {c.says}" for c in self.checks if not c.passed and c.says]
        if self.finding:
            lines += self.finding.text(hints).splitlines()
        return "\n    ".join(lines)

    def _unfinished(self):
        return self.finding is not None and self.finding.kind == "unfinished"


def judge(catalogue, functions):
    """Try every check of a task on a student's functions -> Judged.

    catalogue: the Catalogue of the task; functions: an object whose attributes they are.
    """
    task = catalogue.task
    outcomes = run_task(task, functions, catalogue.probes)
    trial = _Trial(catalogue, functions, outcomes)
    checks = tuple(
        Checked(name, points, *trial.check(name)) for name, points in task.points.items()
    )
    consistent = trial.consistency if task.pair else None
    finding = diagnose(catalogue, functions, outcomes, consistent)
    return Judged(task.number, task.title, checks, finding)


class _Trial:
    """The results of one student on one task, and what can be asked of them."""

    def __init__(self, catalogue, functions, outcomes):
        self.catalogue, self.task, self.functions = catalogue, catalogue.task, functions
        self.outcomes = outcomes
        self._report = None
        self.float32 = is_in_float32(outcomes, catalogue.right)

    def check(self, name):
        """Whether a check passes, and a sentence where only this check has something to say."""
        if self.outcomes[0].error is not None:
            return False, ""
        if name in self.task.properties:
            return _property(self.task.properties[name], anew(self.functions), self._ordinary())
        kind, outputs = self.task.parts.get(name, (name, None))
        if kind == "manners":
            said = self._manners()
            return not said, said
        if kind == "consistent":
            said = self._inconsistent(outputs)
            return not said, said
        return self._compared(kind, outputs), ""

    def _ordinary(self):
        return copied(self.catalogue.probes[0].inputs)

    def _compared(self, name, outputs=None):
        """Values against the reference: which outputs and which probes depends on the check."""
        for outcome, right in zip(self.outcomes, self.catalogue.right):
            if name in _KINDS and outcome.probe.kind != _KINDS[name]:
                continue
            if outcome.error is not None:
                return False
            for output, is_right in right_outputs(outcome, right, self.float32).items():
                is_gradient = output in self.task.gradients
                if (name, is_gradient) in _LEFT_OUT or output not in (outputs or right.outputs):
                    continue
                if not is_right:
                    return False
        return True

    def consistency(self):
        """Whether the backward is the derivative of the student's own forward."""
        return not self._inconsistent()

    def _inconsistent(self, outputs=None):
        """What is wrong with the backward as the derivative of the own forward, or ""."""
        if self._compared("forward") and self._compared("reference", outputs):
            return ""
        try:
            with np.errstate(all="ignore"):
                return self._derivative(outputs) or degenerate(
                    self.catalogue, self.functions, self.outcomes[0]
                )
        except (Exception, SystemExit) as error:
            return f"{kind_of(error)}: {error}"

    def _derivative(self, outputs):
        if self._report is None:
            forward, backward, varied = self.task.pair(anew(self.functions), self._ordinary())
            self._report = check_gradients(
                forward,
                backward,
                *varied.values(),
                names=list(varied),
                nondegenerate=True,
                coordinates=_COORDINATES,
            )
        report, sentences = self._report
        wrong = [r for r in report.rows if not r.ok and f"d{r.name}" in (outputs or {f"d{r.name}"})]
        if not wrong:
            return ""
        said = [line for line in sentences if line.startswith(tuple(f"{r.name}:" for r in wrong))]
        return (
            "; ".join(map(without_cause, said))
            or f"{wrong[0].name}: {wrong[0].reason or 'differs'}"
        )

    def _manners(self):
        """What is wrong with the manners, or "": inputs changed, dtype, strides, small sizes."""
        task, probe, expected = self.task, self.catalogue.probes[0], self.outcomes[0]
        inputs = copied(probe.inputs)
        try:
            with np.errstate(all="ignore"):
                task.run(anew(self.functions), inputs)
        except (Exception, SystemExit) as error:
            return f"a second call raises {kind_of(error)}: {error}"
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
                return f"{name}: {value.dtype} for float32 inputs"
        for outcome, right in zip(self.outcomes, self.catalogue.right):
            if outcome.probe.kind == "degenerate" and not _same_shapes(outcome, right):
                return "fails, or returns another shape, where an axis has size 1"
        return ""


def _property(check, functions, inputs):
    try:
        with np.errstate(all="ignore"):
            said = check(functions, inputs)
    except (Exception, SystemExit) as error:
        said = f"{kind_of(error)}: {error}"
    return not said, said


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
