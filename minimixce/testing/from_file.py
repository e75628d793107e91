"""gradcheck of a pair of functions in a Python file, the way `minimixce gradcheck FILE` runs it."""

import contextlib
import functools
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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
    are what a function `inputs()` of the file returns, a tuple or a list. The file is executed, and
    may import from its own folder. Raises FileNotFoundError, TypeError or ValueError; of an
    exception in one of the functions a ValueError that says where.
    """
    path, _, pair = target.rpartition(":")
    names = pair.split(",")
    if not path.endswith(".py") or len(names) != 2 or not all(names):
        raise ValueError(f"the pair must be FILE.py:FORWARD,BACKWARD, got {target!r}")
    with _folder_on_path(path):
        if shapes is None:
            *both, make_inputs = load_functions(path, *names, "inputs")
            inputs = _guarded(make_inputs, "inputs", path)()
            if not isinstance(inputs, (tuple, list)):
                kind = type(inputs).__name__
                raise TypeError(f"inputs() of {path} must return a tuple, got {kind}")
        else:
            both = load_functions(path, *names)
            inputs = _drawn(both[0], names[0], shapes, seed)
        forward, backward = (_guarded(f, name, path) for f, name in zip(both, names))
        return check_gradients(forward, backward, *inputs, seed=seed)


def _drawn(forward: Callable[..., Any], name: str, shapes: Sequence[str], seed: int) -> list[Any]:
    """Normal numbers of these shapes, one for each parameter of forward."""
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal(_shape(text)) for text in shapes]
    wanted = len(inspect.signature(forward).parameters)
    if len(inputs) != wanted:
        raise ValueError(
            f"shapes must be {wanted}, one for each parameter of {name}, got {len(inputs)};"
            " for other arguments than arrays of floats, write inputs()"
        )
    return inputs


@contextlib.contextmanager
def _folder_on_path(path: str) -> Iterator[None]:
    """The folder of a file first among those that imports are looked for in; what was imported from
    there is forgotten afterwards, so that another folder may have files of the same names.
    """
    folder, before = str(Path(path).resolve().parent), set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and str(Path(file).parent) == folder:
                del sys.modules[name]


def _guarded(function: Callable[..., Any], name: str, path: str) -> Callable[..., Any]:
    """The function; an exception in it becomes a ValueError with its name and line."""

    @functools.wraps(function)
    def call(*given: Any) -> Any:
        try:
            return function(*given)
        except NotImplementedError:
            raise ValueError(f"{name} is not written yet") from None
        except Exception as error:
            where = f"{name}{_line(error, path)}"
            raise ValueError(f"{where}: {type(error).__name__}: {error}") from error

    return call


def _line(error: Exception, path: str) -> str:
    """ ", line 12", the last line in the file's folder that a traceback passes through."""
    folder = Path(path).resolve().parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).resolve().parent == folder:
            name = Path(frame.filename).name
            other = "" if name == Path(path).name else f" {name},"
            return f",{other} line {frame.lineno}"
    return ""


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
