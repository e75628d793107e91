"""Which calls of cuBLAS make a matrix product, worked out from shapes and strides alone.

Trick, *no copies*: cuBLAS takes a matrix by its address and the distance between its rows (or its
columns), and a batch of matrices by the distance between them. Transposed views, heads of a merged
array and parts of a larger array are all of that form, so they are multiplied where they lie.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from ..storage.shapes import Array, Float

MAX_CALLS = 16  # of one product; where it would take more, operands are copied


class View(NamedTuple):
    """Where an array's numbers lie: its shape, and the steps of each axis in numbers."""

    shape: tuple[int, ...]
    steps: tuple[int, ...]


class Call(NamedTuple):
    """One call, in cuBLAS's words and order: C = op(A) op(B), `batch` times.

    cuBLAS reads matrices column by column, where here rows are in one piece. So its A is our b, its
    B our a, and its C, m and n our out, n and m. Offsets and strides count numbers, not bytes.
    """

    transpose_a: bool
    transpose_b: bool
    m: int
    n: int
    k: int
    offset_a: int
    leading_a: int
    stride_a: int
    offset_b: int
    leading_b: int
    stride_b: int
    offset_c: int
    leading_c: int
    stride_c: int
    batch: int


def calls(
    a: Float[Array, "... M K"], b: Float[Array, "... K N"], out: Float[Array, "... M N"]
) -> tuple[Call, ...] | None:
    """The calls that make out (…,M,N) = a (…,M,K) @ b (…,K,N), of equal leading axes.

    None where cuBLAS cannot take the arrays as they lie, or not in MAX_CALLS.
    """
    key = a.shape, a.strides, b.shape, b.strides, out.shape, out.strides, out.itemsize
    return _calls(*key)


@functools.lru_cache(maxsize=1 << 12)  # a model asks for the same few products at every step
def _calls(*key):
    *shapes_and_strides, itemsize = key
    a, b, out = (
        View(shape, tuple(step // itemsize for step in strides))
        for shape, strides in zip(shapes_and_strides[::2], shapes_and_strides[1::2])
    )
    layouts = [layout(x) for x in (b, a, out)]
    if any(step < 0 for x in (a, b, out) for step in x.steps):
        return None
    # the longest of the leading axes becomes a batch, the others a loop
    axes = sorted(batch_axes((b, a, out)), key=lambda axis: axis[0])
    batch, strides = axes.pop() if axes else (1, (0, 0, 0))
    if None in layouts or layouts[2][0] or math.prod(size for size, _ in axes) > MAX_CALLS:
        return None
    sizes = out.shape[-1], out.shape[-2], a.shape[-1]
    transposed = layouts[0][0], layouts[1][0]
    leading = [distance for _, distance in layouts]
    found = []
    for index in itertools.product(*(range(size) for size, _ in axes)):
        offsets = (sum(i * steps[x] for i, (_, steps) in zip(index, axes)) for x in range(3))
        places = itertools.chain(*zip(offsets, leading, strides))
        found.append(Call(*transposed, *sizes, *places, batch))
    return tuple(found)


def layout(x: View) -> tuple[bool, int] | None:
    """How cuBLAS can take the last two axes of x (…,R,C).

    -> whether it is columns that lie in one piece, and the distance between columns (or rows); None
    if neither rows nor columns do.
    """
    rows, columns = x.shape[-2:]
    row_step, column_step = x.steps[-2:]
    if (columns == 1 or column_step == 1) and (rows == 1 or row_step >= columns):
        return False, columns if rows == 1 else row_step
    if (rows == 1 or row_step == 1) and (columns == 1 or column_step >= rows):
        return True, rows if columns == 1 else column_step
    return None


def batch_axes(arrays: Sequence[View]) -> list[tuple[int, tuple[int, ...]]]:
    """The leading axes of arrays (…,R,C), which are the same, as few as their steps allow.

    -> [(size, (step in the first array, in the second, …)), …]. Two neighbours are one where a step
    of the outer is as long as all steps of the inner, in every array.
    """
    axes: list[tuple[int, tuple[int, ...]]] = []
    for axis, size in enumerate(arrays[0].shape[:-2]):
        if size == 1:
            continue
        steps = tuple(x.steps[axis] for x in arrays)
        if axes and all(outer == size * inner for outer, inner in zip(axes[-1][1], steps)):
            axes[-1] = (axes[-1][0] * size, steps)
        else:
            axes.append((size, steps))
    return axes
