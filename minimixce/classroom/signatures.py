"""A probe, and types of what the functions of a task take and return (tasks.Task says what each is
for).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

Functions: TypeAlias = Any  # a student's functions, as attributes of an object
Names: TypeAlias = dict[str, Any]  # what a program or a notebook defines, by name
Inputs: TypeAlias = dict[str, Any]  # of a probe, by name: arrays and numbers


class Probe(NamedTuple):
    """One set of inputs. kind: "ordinary", "extreme" or "degenerate"; the first is ordinary.

    about: what is special in it, "with logits of ±1000", for students.
    """

    kind: str
    inputs: Inputs
    about: str = ""


Outputs: TypeAlias = dict[str, Any]  # what the student's functions returned, by name
OneByOne: TypeAlias = Iterator[tuple[str, Any]]  # the same as pairs, as far as they came
Probes: TypeAlias = Callable[[int], list[Probe]]  # from a seed
Run: TypeAlias = Callable[[Functions, Inputs], Outputs | OneByOne]
# forward(*inputs) -> y, cache; backward(dy, cache) -> tuple; the inputs that have a gradient
Pair: TypeAlias = tuple[Callable[..., Any], Callable[..., Any], Inputs]
MakePair: TypeAlias = Callable[[Functions, Inputs], Pair]
Property: TypeAlias = Callable[[Functions, Inputs], str]  # what is wrong, in a sentence, or ""
Codes: TypeAlias = tuple[str, ...]  # of mistakes that a program makes at once
Edit: TypeAlias = tuple[str, str]  # of a source: an old text, and the new one
