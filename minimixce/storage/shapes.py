"""Types of arrays with their shapes: `Float[Array, "B T C"]` is an array of floats, (B,T,C).

The notation is jaxtyping's, which the package does not need: without it these names cost next to
nothing, and help() shows them as they are written. Type checkers read `Float[Array, …]` as an
array. Where jaxtyping is imported first, as its import hook does, its own types stand here, and a
runtime type checker can check kinds and shapes at every call; axes of one name must then have one
size throughout a call.

Axes: B batch, T time, C channels, H heads, D channels of a head, V vocabulary, S states of a world,
P past positions, K keys, R rows of a past, n sequences, L = max_len + 1. "*rows" are any number of
axes, "..." any that need not agree with others, _B one that need not. The name of a single axis has
a space before it, because linters would read "V" as the name of a type.
"""

import os
import sys
from collections.abc import Callable, Sequence
from types import GenericAlias, ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

__all__ = [
    "Array",
    "ArrayModule",
    "Arrays",
    "Batch",
    "Bool",
    "FilePath",
    "Float",
    "Grads",
    "IdsOrOneHots",
    "Int",
    "Loss",
    "LossAndDlogits",
    "LossAndGrads",
    "Matrix",
    "RandomGenerator",
    "Rows",
    "Scalar",
    "Seed",
]

if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Int

    import numpy as np

    # CuPy ships no types, so its arrays pass for these
    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
elif "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float
    from jaxtyping import Integer as Int

    Array = Any  # that is, NumPy's or CuPy's, with a kind and a shape
else:

    class _Shape:
        """The axes of an array; not a string, which would pass for the name of a type."""

        def __init__(self, axes):
            self.axes = axes.strip()

        def __repr__(self):
            return f'"{self.axes}"'

        def __eq__(self, other):
            return isinstance(other, _Shape) and self.axes == other.axes

        def __hash__(self):
            return hash(self.axes)

    class _Kind:
        """What can be written as Float[Array, "B T C"]."""

        def __class_getitem__(cls, item):
            array, axes = item
            return GenericAlias(cls, (array, axes if isinstance(axes, _Shape) else _Shape(axes)))

    # help() shows the names as they are written: without a module, as those of builtins
    Array = type("Array", (), {"__module__": "builtins", "__doc__": "NumPy's or CuPy's."})
    Bool = type("Bool", (_Kind,), {"__module__": "builtins", "__doc__": "Of booleans."})
    Float = type("Float", (_Kind,), {"__module__": "builtins", "__doc__": "Of floats."})
    Int = type("Int", (_Kind,), {"__module__": "builtins", "__doc__": "Of integers."})


@runtime_checkable
class RandomGenerator(Protocol):
    """A random generator, NumPy's or CuPy's, as backend.rng makes one."""

    def random(self, *args: Any, **options: Any) -> Any:
        """Uniform numbers in [0, 1)."""
        ...


ArrayModule: TypeAlias = ModuleType  # numpy or cupy
FilePath: TypeAlias = str | os.PathLike[str]
Seed: TypeAlias = int | RandomGenerator
Scalar: TypeAlias = Float[Array, ""]  # 0-d, on the device
Arrays: TypeAlias = dict[str, Float[Array, "..."]]  # parameters by name
Grads: TypeAlias = Arrays
Matrix: TypeAlias = Float[Array, "S V"] | Int[Array, "S V"] | Sequence[Any]  # or lists of numbers
IdsOrOneHots: TypeAlias = Int[Array, "B T"] | Float[Array, "B T V"]
Batch: TypeAlias = tuple[Int[Array, "_B _T"], Int[Array, "_B _T"]]  # inputs, targets
Rows: TypeAlias = Int[Array, "n L"]  # sequences the way worlds sample them; L = max_len + 1
LossAndGrads: TypeAlias = tuple[Scalar, Grads]
# with reduction="mean" | with reduction="none": loss and weight of every target
LossAndDlogits: TypeAlias = (
    tuple[Scalar, Float[Array, "*batch V"]] | tuple[Float[Array, "*batch"], Float[Array, "*batch"]]
)
Loss: TypeAlias = Callable[..., tuple[Array, Array]]  # (logits, targets, …) -> loss, dlogits
