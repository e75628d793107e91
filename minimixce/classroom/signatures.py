"""Types of what the functions of a task take and return (tasks.Task says what each is for)."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from .tasks import Probe

Functions: TypeAlias = Any  # a student's functions, as attributes of an object
Inputs: TypeAlias = dict[str, Any]  # of a probe, by name: arrays and numbers
Outputs: TypeAlias = dict[str, Any]  # what the student's functions returned, by name
OneByOne: TypeAlias = Iterator[tuple[str, Any]]  # the same as pairs, as far as they came
Probes: TypeAlias = Callable[[int], list[Probe]]  # from a seed
# forward(*inputs) -> y, cache; backward(dy, cache) -> tuple; the inputs that have a gradient
Pair: TypeAlias = tuple[Callable[..., Any], Callable[..., Any], Inputs]
