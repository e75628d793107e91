"""How far two results are apart, row by row: the comparer of the classroom.

np.testing.assert_allclose lets pass NaN against NaN, a scalar against any shape, and complex
against real numbers; and one error for a whole array hides a small row beside a large one. Here a
row is what the last axis runs over, each entry of a vector is a row of its own, and a row's error
is relative to that row.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..storage.shapes import Array, Float

TOLERANCE = 1e-7  # a result in float64 is right within this
FLOAT32 = 2e-5  # and one in float32 within this, relative to the whole array
SAME = 10 * TOLERANCE  # two results of wrong programs within this come from the same mistake
_FLOOR = 1e-5  # of the largest entry: rows smaller than this are measured against it


_NOT_ONE = "{} where a plain array is wanted"


def with_article(name: str) -> str:
    """ "list" -> "a list", "array" -> "an array"."""
    return f"{'an' if name[:1] in 'aeiouAEIO' else 'a'} {name}"


def as_result(value: Any) -> np.ndarray:
    """What a function returned, as an array of numbers. Raises TypeError for anything else."""
    if isinstance(value, np.ndarray) and type(value) is not np.ndarray:
        raise TypeError(_NOT_ONE.format(with_article(type(value).__name__)))
    if not isinstance(value, (np.ndarray, np.generic, int, float)) or isinstance(value, bool):
        if value is None:
            raise TypeError(_NOT_ONE.format("None"))
        name = getattr(value, "type_name", type(value).__name__)  # of what stays in a sandbox
        raise TypeError(_NOT_ONE.format(with_article(name)))
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"an array of {array.dtype} where real numbers are wanted")
    return array


def row_errors(a: np.ndarray, b: np.ndarray, floor: float = _FLOOR) -> Float[Array, " rows"]:
    """The relative error of each row of a against b, arrays of the same shape -> (rows,).

    Rows smaller than `floor` times the largest entry are measured against that. NaN and infinities
    agree only where b has the same, else the error is infinite.
    """
    a, b = _rows(np.asarray(a, float)), _rows(np.asarray(b, float))
    if a.size == 0:
        return np.zeros(len(a))
    both = np.stack([np.abs(a), np.abs(b)])
    finite = np.where(np.isfinite(both), both, 0)
    scale = np.maximum(finite.max(axis=(0, 2)), floor * finite.max())
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    difference = np.where(equal, 0, np.where(np.isnan(difference), np.inf, difference))
    return difference.max(axis=1) / np.where(scale > 0, scale, 1)


def _rows(a):
    return a.reshape(-1, a.shape[-1]) if a.ndim >= 2 else a.reshape(-1, 1)


def distance(a: np.ndarray, b: np.ndarray, floor: float = _FLOOR) -> float:
    """The largest row error of two arrays; infinite where their shapes differ."""
    if a.shape != b.shape:
        return np.inf
    return float(row_errors(a, b, floor).max(initial=0))


def is_float32(arrays: Iterable[np.ndarray]) -> bool:
    """Whether results were computed in float32: every number in them is one of float32's."""
    with np.errstate(over="ignore"):
        return all(np.array_equal(a, a.astype(np.float32), equal_nan=True) for a in arrays)
