"""gradcheck of a pair of functions in a Python file, the way `minimixce gradcheck FILE` runs it."""

import inspect
from collections.abc import Sequence

import numpy as np

from ..checks import Report
from ..storage.files import load_functions
from .gradients import check_gradients


def check_file(
    target: str, shapes: Sequence[str] | None = None, seed: int = 0
) -> tuple[Report, list[str]]:
    """Check a pair of functions of a Python file -> its Report, and what is wrong in sentences.

    target: "FILE.py:FORWARD,BACKWARD". The inputs are normal numbers, drawn by `seed`, of the given
    shapes, texts such as "2,3" or "scalar", one for each parameter of FORWARD; without shapes they
    are what a function `inputs()` of the file returns, a tuple or a list. The file is executed.
    Raises FileNotFoundError, TypeError or ValueError.
    """
    path, _, pair = target.rpartition(":")
    names = pair.split(",")
    if not path.endswith(".py") or len(names) != 2 or not all(names):
        raise ValueError(f"the pair must be FILE.py:FORWARD,BACKWARD, got {target!r}")
    if shapes is None:
        forward, backward, make_inputs = load_functions(path, *names, "inputs")
        inputs = make_inputs()
        if not isinstance(inputs, (tuple, list)):
            raise TypeError(f"inputs() of {path} must return a tuple, got {type(inputs).__name__}")
    else:
        forward, backward = load_functions(path, *names)
        rng = np.random.default_rng(seed)
        inputs = [rng.standard_normal(_shape(text)) for text in shapes]
        wanted = len(inspect.signature(forward).parameters)
        if len(inputs) != wanted:
            raise ValueError(
                f"shapes must be {wanted}, one for each parameter of {names[0]}, got {len(inputs)}"
            )
    return check_gradients(forward, backward, *inputs, seed=seed)


def _shape(text: str) -> tuple[int, ...]:
    """ "2,3" -> (2, 3)."""
    if text == "scalar":
        return ()
    try:
        shape = tuple(int(n) for n in text.split(","))
    except ValueError:
        shape = (-1,)
    if min(shape) < 0:
        raise ValueError(f"a shape must be sizes with commas, as 2,3, or scalar, got {text!r}")
    return shape
