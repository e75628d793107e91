"""Checks that the notebooks of nbgrader and otter call: students' functions judged where they are,
in the notebook's kernel, in no sandbox.
"""

import contextlib
import io
import types
import warnings
from collections.abc import Iterator
from typing import Any

from ..judge import Judged
from ..local import Submission
from ..results import judge_submission

_OF_NOTEBOOK = ("__main__", "builtins", None)  # what __module__ is of functions defined in cells


class InKernel(Submission):
    """A student's functions, by the names of a notebook."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__(names=names)

    def supplied_with(self, references: dict[str, Any]) -> Any:
        """The same functions, which call those of `references` in place of the student's."""
        names: dict[str, Any] = dict(self.names)
        for name, value in self.names.items():
            if isinstance(value, types.FunctionType) and value.__module__ in _OF_NOTEBOOK:
                names[name] = _among(value, names)
        names.update(references)
        return Submission(names=names).functions()


def _among(function, names):
    """A function that finds others in `names`."""
    made = types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def points(
    name: str,
    number: str,
    names: dict[str, Any],
    *,
    variant: int = 0,
    hints: str = "why",
    seed: int = 0,
) -> float:
    """The points of a task, after printing what is wrong: the last expression of nbgrader's cells.

    name, number: "a1", "1.4"; names: the notebook's `globals()`; hints: "none", "where" or "why".
    Raises AssertionError, with the same text, where no point was earned.
    """
    judged, text = _judge(name, number, names, variant, hints, seed)
    if judged.points == 0:
        raise AssertionError(text)
    print(text)
    return float(judged.points)


def assert_check(
    name: str,
    number: str,
    check: str,
    names: dict[str, Any],
    *,
    variant: int = 0,
    hints: str = "why",
    seed: int = 0,
) -> None:
    """Raise AssertionError, with what is wrong with the task, unless one of its checks passes.

    For otter's tests. check: "forward", "manners" and so on, as in the task's points; names: the
    notebook's environment; the others are as for `points`.
    """
    judged, text = _judge(name, number, names, variant, hints, seed)
    if not any(one.passed for one in judged.checks if one.name == check):
        raise AssertionError(text)


def _judge(name, number, names, variant, hints, seed) -> tuple[Judged, str]:
    with _hushed():
        found = judge_submission(name, InKernel(names), [number], variant, seed)
        return found.judged[0], found.judged[0].text(hints)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """A context in which what students' code prints, and warnings, go nowhere.

    nbgrader gives no points to a cell that wrote to stderr.
    """
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
