"""Which calls of cuBLAS make a matrix product, worked out from shapes and strides alone.

Trick, *no copies*: cuBLAS takes a matrix by its address and the distance between its rows (or its
columns), and a batch of matrices by the distance between them. Transposed views, heads of a merged
array and parts of a larger array are all of that form, so they are multiplied where they lie.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..storage.shapes import Array, Float

MAX_CALLS = 16  # batches of one product; where it would take more, operands are copied


class Call(NamedTuple):
    """One call, in cuBLAS's words and order: C = op(A) op(B), `count` times.

    cuBLAS reads matrices column by column, where rows lie here. So what is our b is its A, our a
    its B, and our out, m and n its C, n and m. Offsets and strides count numbers, not bytes.
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
    count: int


def layout(x: Float[Array, "... R C"]) -> tuple[bool, int] | None:
    """How cuBLAS can take the last two axes of x (…,R,C).

    -> whether it is columns that lie in one piece, and the distance between columns (or rows); None
    if neither rows nor columns do.
    """
    rows, columns = x.shape[-2:]
    row_step, column_step = (step // x.itemsize for step in x.strides[-2:])
    if (columns == 1 or column_step == 1) and (rows == 1 or row_step >= columns):
        return False, max(1, columns) if rows == 1 else row_step
    if (rows == 1 or row_step == 1) and (columns == 1 or column_step >= rows):
        return True, max(1, rows) if columns == 1 else column_step
    return None


def batch_axes(arrays: Sequence[Float[Array, "... R C"]]) -> list[tuple[int, tuple[int, ...]]]:
    """The leading axes of arrays (…,R,C), which have the same, as few as their strides allow.

    -> [(size, (step in the first array, in the second, …)), …]. Two neighbours are one where a step
    of the outer is as long as all steps of the inner, in every array.
    """
    axes: list[tuple[int, tuple[int, ...]]] = []
    for axis, size in enumerate(arrays[0].shape[:-2]):
        if size == 1:
            continue
        steps = tuple(x.strides[axis] // x.itemsize for x in arrays)
        if axes and all(outer == size * inner for outer, inner in zip(axes[-1][1], steps)):
            axes[-1] = (axes[-1][0] * size, steps)
        else:
            axes.append((size, steps))
    return axes


def calls(
    a: Float[Array, "... M K"], b: Float[Array, "... K N"], out: Float[Array, "... M N"]
) -> Iterator[Call] | None:
    """The calls that make out (…,M,N) = a (…,M,K) @ b (…,K,N), of equal leading axes.

    None where cuBLAS cannot take the arrays as they lie, or takes them in more than MAX_CALLS.
    The longest of the leading axes becomes a batch, and the others a loop.
    """
    layouts = [layout(x) for x in (b, a, out)]
    axes = sorted(batch_axes((b, a, out)), key=lambda axis: axis[0])
    count, strides = axes.pop() if axes else (1, (0, 0, 0))
    number = 1
    for size, _ in axes:
        number *= size
    if None in layouts or layouts[2][0] or number > MAX_CALLS:
        return None
    return _calls(a.shape[-2], a.shape[-1], b.shape[-1], layouts, axes, count, strides)


def _calls(M, K, N, layouts, axes, count, strides):
    (transpose_a, leading_a), (transpose_b, leading_b), (_, leading_c) = layouts
    for index in itertools.product(*(range(size) for size, _ in axes)):
        a, b, c = (sum(i * steps[x] for i, (_, steps) in zip(index, axes)) for x in range(3))
        yield Call(
            transpose_a,
            transpose_b,
            N,
            M,
            K,
            a,
            leading_a,
            strides[0],
            b,
            leading_b,
            strides[1],
            c,
            leading_c,
            strides[2],
            count,
        )
