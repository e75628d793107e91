"""A task of an assignment: what the student writes, how it is run, and what its points are for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .returns import gradients_of, two_of
from .signatures import Edit, MakePair, Probes, Property, Run

_SHARES = {"forward": 0.25, "consistent": 0.35, "reference": 0.3, "manners": 0.1}


@dataclass(frozen=True)
class Mistake:
    """A known way to go wrong, as edits of the reference solution (see mistakes.py).

    Each of `edits` is one form that the mistake takes: pairs of an old text and a new one.
    """

    code: str
    task: str
    says: str  # to the student: what the program does, and what to look at
    edits: tuple[tuple[Edit, ...], ...]
    lesson: str = ""  # "3" or "math §6": what to read; by default the task's


class Words(NamedTuple):
    """How to speak of a task's gradient: what it is, of what, and of what it is the derivative."""

    gradient: str = "the backward"
    forward: str = "the forward"
    relation: str = "the derivative of your own forward"


_WORDS = Words()


@dataclass(frozen=True)
class Task:
    """One task.

    run(functions, inputs) calls the student's functions -> {name of output: what came}, or yields
    (name, what came), so that an exception in a later call leaves what came before it. run may be a
    tuple of such functions, each of which is tried even if others fail. The gradients
    among the outputs are named in `gradients`. pair(functions, inputs) -> forward, backward and a
    dict of arrays, for a check of the derivative; a tuple of such functions where there are several
    pairs; None where there is none. apart: outputs that no pair's forward has. points:
    {check: points}, the checks being "forward", "consistent", "reference", "value", "extreme",
    "degenerate", "manners" and the names of `properties`, functions of (functions, inputs) that
    return a sentence on what is wrong, or "". parts: {name of a check: (one of those checks, the
    outputs that it is about)}, where a check is split.
    """

    number: str
    title: str
    functions: tuple[str, ...]
    points: dict[str, float]
    probes: Probes
    run: Run | tuple[Run, ...]
    gradients: tuple[str, ...] = ()
    pair: MakePair | tuple[MakePair, ...] | None = None
    properties: dict[str, Property] = field(default_factory=dict)
    parts: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    lesson: str = "3"
    nonlinear: bool = False  # y is not linear in the first input
    every_row: bool = True  # y depends on every row of the first input
    apart: tuple[str, ...] = ()
    words: Words = _WORDS

    @property
    def total(self) -> float:
        """The points of the task."""
        return sum(self.points.values())

    @property
    def runs(self) -> tuple[Run, ...]:
        """`run` as a tuple of functions."""
        return self.run if isinstance(self.run, tuple) else (self.run,)

    @property
    def pairs(self) -> tuple[MakePair, ...]:
        """`pair` as a tuple of functions, which may be empty."""
        return self.pair if isinstance(self.pair, tuple) else (self.pair,) if self.pair else ()


@dataclass(frozen=True)
class Assignment:
    """An assignment: its tasks in order, and the reference solution as source text."""

    name: str  # "a1"
    title: str
    file: str  # the student's file, "objectives.py"
    tasks: tuple[Task, ...]
    mistakes: tuple[Mistake, ...]
    source: Callable[[int], str]  # of a variant
    variants: int = 1
    hours: str = ""
    written: dict[str, float] = field(default_factory=dict)  # points of what a person grades

    @property
    def total(self) -> float:
        """The points of the assignment, what a person grades included."""
        return sum(task.total for task in self.tasks) + sum(self.written.values())

    def task(self, number: str) -> Task:
        """The task of a number, "2.5". Raises ValueError for one that no program can judge."""
        for task in self.tasks:
            if task.number == number:
                return task
        if number in self.written:
            raise ValueError(f"{number} is read by a person, not by a program")
        known = ", ".join(task.number for task in self.tasks)
        raise ValueError(f"task must be one of {known}, got {number!r}")


def layer(
    name: str,
    arguments: Sequence[str],
    gradients: Sequence[str],
    *,
    constants: Sequence[str] = (),
    y: str = "y",
) -> dict[str, Any]:
    """run, gradients and pair of a task that is a pair of functions -> dict of fields of Task.

    The functions are `name_forward(…) -> (y, cache)` and `name_backward(dy, cache) -> tuple`.

    arguments: names of the inputs in order; gradients: names of what the backward returns;
    constants: arguments that have no gradient in the returned tuple; y: the name of the value.
    """

    def forward(functions, values):
        called = f"{name}_forward"
        return two_of(called, getattr(functions, called)(*values), f"({y}, cache)")

    def backward(functions, dy, cache):
        called = f"{name}_backward"
        return gradients_of(called, getattr(functions, called)(dy, cache), gradients)

    def run(functions, inputs):
        value, cache = forward(functions, [inputs[a] for a in arguments])
        yield y, value
        yield from zip(gradients, backward(functions, inputs["dy"], cache))

    def pair(functions, inputs):
        varied = {a: inputs[a] for a in arguments if a not in constants}

        def forward_of(*values):
            given = dict(inputs) | dict(zip(varied, values))
            return forward(functions, [given[a] for a in arguments])

        return forward_of, lambda dy, cache: backward(functions, dy, cache), varied

    return {"run": run, "gradients": tuple(gradients), "pair": pair}


def quarters(total: float) -> dict[str, float]:
    """Points of a task with forward and backward: 25, 35, 30 and 10 %, in quarters of a point."""
    points = {name: round(4 * share * total) / 4 for name, share in _SHARES.items()}
    points["consistent"] += total - sum(points.values())
    return points


def by_tensor(total: float, gradients: Sequence[str], values: Sequence[str] = ()) -> dict[str, Any]:
    """Points as of `quarters`, the gradients' parts split among them -> fields of Task, a dict.

    gradients: their names; values: names of the other outputs, where they are several.
    """
    shares = quarters(total)
    points, parts = {}, {}
    for kind, names in (("forward", values), ("consistent", gradients), ("reference", gradients)):
        if not names:
            points[kind] = shares[kind]
            continue
        each = [int(4 * shares[kind]) // len(names) / 4] * len(names)
        for k in range(int(4 * (shares[kind] - sum(each)))):
            each[k] += 0.25
        for name, share in zip(names, each):
            check = f"{name} consistent" if kind == "consistent" else name
            points[check] = share
            parts[check] = kind, (name,)
    return {"points": points | {"manners": shares["manners"]}, "parts": parts}


def rng_of(seed: int, *key: int) -> np.random.Generator:
    """A generator for probes: the same for the same seed and key."""
    return np.random.default_rng([seed, *key])
