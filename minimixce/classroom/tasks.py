"""A task of an assignment: what the student writes, how it is run, and what its points are for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

_SHARES = {"forward": 0.25, "consistent": 0.35, "reference": 0.3, "manners": 0.1}


class Probe(NamedTuple):
    """One set of inputs. kind: "ordinary", "extreme" or "degenerate"; the first is ordinary."""

    kind: str
    inputs: dict


@dataclass(frozen=True)
class Mistake:
    """A known way to go wrong, as edits of the reference solution (see mistakes.py).

    Each of `edits` is one form that the mistake takes: pairs of an old text and a new one.
    """

    code: str
    task: str
    says: str  # to the student: what the program does, and what to look at
    edits: tuple
    lesson: str = ""  # "3" or "math §6": what to read; by default the task's


@dataclass(frozen=True)
class Task:
    """One task.

    run(functions, inputs) calls the student's functions -> {name of output: what came}. The
    gradients among the outputs are named in `gradients`. pair(functions, inputs) -> forward,
    backward and a dict of arrays, for a check of the derivative; None where there is none. points:
    {check: points}, the checks being "forward", "consistent", "reference", "value", "extreme",
    "degenerate", "manners" and the names of `properties`, functions of (functions, inputs) that
    return a sentence on what is wrong, or "". parts: {name of a check: (one of those checks, the
    outputs that it is about)}, where a check is split.
    """

    number: str
    title: str
    functions: tuple
    points: dict
    probes: Callable  # (seed) -> list of Probe
    run: Callable
    gradients: tuple = ()
    pair: Callable | None = None
    properties: dict = field(default_factory=dict)
    parts: dict = field(default_factory=dict)
    lesson: str = "3"
    nonlinear: bool = False  # y is not linear in the first input
    every_row: bool = True  # y depends on every row of the first input

    @property
    def total(self):
        """The points of the task."""
        return sum(self.points.values())


@dataclass(frozen=True)
class Assignment:
    """An assignment: its tasks in order, and the reference solution as source text."""

    name: str  # "a1"
    title: str
    file: str  # the student's file, "objectives.py"
    tasks: tuple
    mistakes: tuple
    source: Callable  # (variant) -> text
    variants: int = 1
    hours: str = ""
    written: dict = field(default_factory=dict)  # {number: points} of what a person grades

    @property
    def total(self):
        """The points of the assignment, what a person grades included."""
        return sum(task.total for task in self.tasks) + sum(self.written.values())

    def task(self, number):
        """The task of a number, "2.5". Raises ValueError for one that there is not."""
        for task in self.tasks:
            if task.number == number:
                return task
        known = ", ".join(task.number for task in self.tasks)
        raise ValueError(f"task must be one of {known}, got {number!r}")


def layer(name, arguments, gradients, *, constants=()):
    """run, gradients and pair of a task that is a pair of functions -> dict of fields of Task.

    The functions are `name_forward(…) -> (y, cache)` and `name_backward(dy, cache) -> tuple`.

    arguments: names of the inputs in order; gradients: names of what the backward returns;
    constants: arguments that have no gradient in the returned tuple.
    """

    def split(functions):
        return getattr(functions, f"{name}_forward"), getattr(functions, f"{name}_backward")

    def run(functions, inputs):
        forward, backward = split(functions)
        y, cache = forward(*(inputs[a] for a in arguments))
        outputs = {"y": y}
        given = backward(inputs["dy"], cache)
        given = given if isinstance(given, (tuple, list)) else (given,)
        if len(given) != len(gradients):
            raise TypeError(f"{name}_backward returns {len(given)} arrays, not {len(gradients)}")
        return outputs | dict(zip(gradients, given))

    def pair(functions, inputs):
        forward, backward = split(functions)
        varied = {a: inputs[a] for a in arguments if a not in constants}

        def forward_of(*values):
            given = dict(inputs) | dict(zip(varied, values))
            return forward(*(given[a] for a in arguments))

        return forward_of, backward, varied

    return {"run": run, "gradients": tuple(gradients), "pair": pair}


def quarters(total):
    """Points of a task with forward and backward: 25, 35, 30 and 10 %, in quarters of a point."""
    points = {name: round(4 * share * total) / 4 for name, share in _SHARES.items()}
    points["consistent"] += total - sum(points.values())
    return points


def rng_of(seed, *key):
    """A generator for probes: the same for the same seed and key."""
    return np.random.default_rng([seed, *key])
