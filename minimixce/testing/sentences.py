"""What is wrong with a gradient, in a sentence that needs no reference solution.

A sentence is said only where the numbers show it: the whole gradient by the backward beside the
whole numerical one. Where they show none of the known mistakes, nothing is said: never a guess.
"""

import math
from collections.abc import Iterable

import numpy as np

from ..checks import Row
from ..storage.shapes import Array

_CLOSE = 1e-5  # how near a ratio must be to a number to be called that


def explain(row: Row, shapes: dict[str, tuple[int, ...]] | None = None) -> str:
    """A sentence on `row`, a Row of gradcheck that is not OK, "" where nothing is certain.

    shapes: {name: shape} of all inputs, whose axes are where factors are looked for.
    """
    if row.verdict != "WRONG" or row.gradient is None or row.numeric_gradient is None:
        return ""
    g, right = np.asarray(row.gradient), row.numeric_gradient
    if g.shape != right.shape:
        found = _of_shape(g, right)
    elif not np.isfinite(g).all():
        found = _where(~np.isfinite(g), "not a finite number")
    else:
        sizes = {n for shape in (shapes or {}).values() for n in shape} | set(row.shape)
        found = _of_values(g, right, sizes)
    return f"{row.name}: {found}" if found else ""


def _of_shape(g: Array, right: Array) -> str:
    """A gradient of another shape than its input's."""
    if g.ndim >= 2 and g.T.shape == right.shape and _equal(g.T, right):
        return f"shape {g.shape}: it is the transpose of the right one"
    extra = g.ndim - right.ndim
    if extra > 0 and g.shape[extra:] == right.shape:
        axes = tuple(range(extra))
        summed = g.sum(axis=axes)
        kept = f"the last {right.ndim}" if right.ndim > 1 else "the last"
        which = f"all axes but {kept}" if right.ndim else "all axes"
        if _equal(summed, right):
            return f"shape {g.shape}: sum over {which}, along which it was broadcast"
    if g.size == right.size and _equal(g.reshape(right.shape), right):
        return f"shape {g.shape}: the right numbers; reshape it to {right.shape}"
    return f"shape {g.shape}: it must be {right.shape}"


def _of_values(g: Array, right: Array, sizes: Iterable[int]) -> str:
    """A gradient of the right shape: zero, a multiple, wrong in some rows, or another's place."""
    if not g.any() and right.any():
        return "zero everywhere, but y depends on it"
    wrong = ~_close(g, right)
    if not wrong.any():
        return ""
    if factor := _factor(g, right):
        return _of_factor(factor, sizes)
    if g.ndim == 2 and g.shape[0] == g.shape[1] and _equal(g.T, right):
        return "it is the transpose of the right one"
    for axis, word in ((0, "rows"), (g.ndim - 1, "columns")):
        others = tuple(a for a in range(g.ndim) if a != axis)
        at: Array = np.asarray(wrong.any(axis=others)) if others else wrong
        if g.ndim and 0 < at.sum() <= at.size / 2:
            word = word if g.ndim > 1 else "entries"
            inside = _within(g, right, at, axis, sizes)
            return f"wrong only in {word} {np.flatnonzero(at).tolist()}{inside}"
    return ""


def _within(g: Array, right: Array, at: Array, axis: int, sizes: Iterable[int]) -> str:
    """What the wrong rows have in common, where that can be said."""
    part, expected = np.compress(at, g, axis=axis), np.compress(at, right, axis=axis)
    if not part.any():
        return ", where it is zero"
    factor = _factor(part, expected)
    return f", there {_of_factor(factor, sizes)}" if factor else ""


def _factor(g: Array, right: Array) -> float | None:
    """c where g = c · right everywhere, c neither 0 nor 1; else None."""
    large = np.abs(right) > 1e-3 * np.abs(right).max(initial=0)
    if not large.any():
        return None
    c = float((g[large] * right[large]).sum() / np.square(right[large]).sum())
    if c == 0 or abs(c - 1) < _CLOSE or not _equal(g, c * right):
        return None
    return c


def _of_factor(c: float, sizes: Iterable[int]) -> str:
    """A constant factor in words, and where one of the sizes explains it, how it may have come."""
    if abs(c + 1) < _CLOSE:
        return "the sign: everywhere −1 times the right one"
    said = f"everywhere {c:.6g} times the right one"
    sizes = sorted(n for n in sizes if n > 1)
    for n in sizes:
        if abs(c * n - 1) < _CLOSE:
            return f"{said}: 1/{n}, a mean over an axis of {n} instead of a sum"
        if abs(c / n - 1) < _CLOSE:
            return f"{said}: {n}, a sum over an axis of {n} instead of a mean"
    for n in sizes:
        if abs(c * math.sqrt(n) - 1) < _CLOSE:
            return f"{said}: 1/√{n}, {n} being the size of an axis"
        if abs(c / math.sqrt(n) - 1) < _CLOSE:
            return f"{said}: √{n}, {n} being the size of an axis"
    return said


def _where(mask: Array, what: str) -> str:
    indices = np.argwhere(mask)
    first = indices[0].tolist()
    return (
        what
        + (f" at {first}" if first else "")
        + (f" and {len(indices) - 1} more places" if len(indices) > 1 else "")
    )


def _close(g: Array, right: Array) -> Array:
    scale = np.maximum(np.abs(g), np.abs(right))
    return np.abs(g - right) <= _CLOSE * scale + 1e-7 * np.abs(right).max(initial=0)


def _equal(g: Array, right: Array) -> bool:
    return g.shape == right.shape and bool(_close(g, right).all())
