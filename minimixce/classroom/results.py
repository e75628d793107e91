"""An assignment judged: its tasks one after the other, with the points that they earned.

A submission is a Program: local.Submission runs a student's functions in this process,
grader.grading.RemoteSubmission in a sandbox.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from .assignments import assignment
from .catalogue import Catalogue
from .diagnose import HINTS
from .judge import Judged, judge
from .signatures import Functions, Names
from .tasks import Assignment, Task


@runtime_checkable
class Program(Protocol):
    """What can be judged: a student's functions, and the same with some of them replaced."""

    def functions(self) -> Functions:
        """The student's functions as attributes."""
        ...

    def supplied_with(self, references: Names) -> Functions:
        """The same, {name: function} in place of the student's of these names."""
        ...


@lru_cache(maxsize=64)  # seeds differ from one submission to the next
def catalogue(name: str, number: str, variant: int = 0, seed: int = 0) -> Catalogue:
    """The Catalogue of a task, made once while it is needed.

    Raises ValueError for an assignment, variant or task that there is not.
    """
    whole = assignment(name, variant)
    return Catalogue(whole, whole.task(number), variant, seed)


@dataclass(frozen=True)
class Result:
    """An assignment, or some tasks of it, judged."""

    judged: tuple[Judged, ...]

    @property
    def points(self) -> float:
        """The points that were earned."""
        return sum(one.points for one in self.judged)

    @property
    def total(self) -> float:
        """The points that there are, for what is graded by a program."""
        return sum(one.total for one in self.judged)

    def text(self, hints: str = "why") -> str:
        """All tasks as lines, and the sum. hints: "none", "where" or "why", as in diagnose."""
        lines = [one.text(hints) for one in self.judged]
        return "\n".join([*lines, sum_of({"tasks": [_task(one) for one in self.judged]})])


def points_of(
    whole: Assignment, numbers: Sequence[str], judged: Sequence[Judged]
) -> dict[str, Any]:
    """Points, checks and mistakes of the tasks with these numbers, judged or not, as a dict of
    plain values: "points" and "total" of all but the bonus, "bonus", "mistakes", "tasks".
    """
    by_number = {one.number: one for one in judged}
    tasks = [
        _task(by_number[number]) if number in by_number else _not_judged(whole.task(number))
        for number in numbers
    ]
    graded = [task for task in tasks if not task["bonus"]]
    return {
        "points": float(sum(task["points"] for task in graded)),
        "total": float(sum(task["total"] for task in graded)),
        "bonus": float(sum(task["points"] for task in tasks if task["bonus"])),
        "mistakes": sorted({code for t in tasks for codes in t["mistakes"] for code in codes}),
        "tasks": tasks,
    }


def _task(one: Judged) -> dict[str, Any]:
    found = one.finding
    return {
        "number": one.number,
        "title": one.title,
        "bonus": one.title.startswith("bonus"),
        "points": float(one.points),
        "total": float(one.total),
        "checks": {c.name: c.passed for c in one.checks},
        "mistakes": [list(codes) for codes in found.codes] if found else [],
        "hints": {hints: one.text(hints) for hints in HINTS},
    }


def _not_judged(task: Task) -> dict[str, Any]:
    record = {"number": task.number, "title": task.title, "points": 0.0, "total": float(task.total)}
    record |= {"bonus": task.title.startswith("bonus"), "checks": {}, "mistakes": []}
    return record | {"hints": dict.fromkeys(HINTS, "")}


def sum_of(record: dict[str, Any]) -> str:
    """The sum of the tasks in a record as text: "52 of 88 points, bonus 0 of 10"."""

    def share(tasks):
        return f"{sum(t['points'] for t in tasks):g} of {sum(t['total'] for t in tasks):g}"

    bonus = [task for task in record["tasks"] if task["bonus"]]
    total = share([task for task in record["tasks"] if not task["bonus"]]) + " points"
    return f"{total}, bonus {share(bonus)}" if bonus else total


def judge_submission(
    name: str,
    submission: Program,
    tasks: Sequence[str] | None = None,
    variant: int = 0,
    seed: int = 0,
) -> Result:
    """Judge the tasks of these numbers, by default all -> Result.

    name, variant: of the assignment; seed: of the probes. Raises ValueError for an assignment,
    variant or task that there is not.
    """
    numbers = tasks or [task.number for task in assignment(name, variant).tasks]
    return Result(tuple(_judge(name, submission, n, variant, seed) for n in numbers))


def _judge(name, submission, number, variant, seed):
    """Judge one task; where it fails and is right once earlier tasks are, say so."""
    this = catalogue(name, number, variant, seed)
    found = judge(this, submission.functions())
    whole = assignment(name, variant)
    before = whole.tasks[: whole.tasks.index(this.task)]
    if found.passed or not before:
        return found
    earlier = {f: getattr(this.reference, f) for task in before for f in task.functions}
    again = judge(this, submission.supplied_with(earlier))
    if not again.passed:
        return found if found.finding and found.finding.codes else again
    return _because_of_earlier(found, again)


def _because_of_earlier(found, again):
    """Full points, with a note that only earlier tasks are wrong."""
    title = f"{again.title} (right, once the earlier tasks that it uses are)"
    return Judged(found.number, title, again.checks, None)
