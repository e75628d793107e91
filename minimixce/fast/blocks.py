"""Layers on the CPU, block by block: what one operation leaves is in the cache for the next.

Trick: NumPy makes a whole pass over memory for every operation. A large array is cut into blocks
that fit the second-level cache, and all operations are done on one block before the next is begun.
The numbers are those of layers.py, except for the order of sums.
"""

from collections.abc import Iterator

import numpy as np

from ..layers import _GELU_CUBIC, _GELU_SATURATED, _GELU_SCALE, GeluCache, LayerNormCache
from ..storage.shapes import Array, Float

ELEMENTS = 1 << 16  # of a block: a quarter of a MiB in float32, of which a few must fit


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices over `rows` rows of `columns` numbers, of about ELEMENTS numbers each."""
    size = max(1, ELEMENTS // columns)
    return (slice(start, start + size) for start in range(0, rows, size))


def gelu_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], GeluCache]:
    """layers.gelu_forward in blocks and without temporaries. x, of any shape -> y, cache."""
    # not empty_like, which lays them out as x: of a transposed array reshape makes a copy
    y, gate = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    flat_x, flat_y, flat_gate = x.reshape(-1), y.reshape(-1), gate.reshape(-1)
    for block in row_blocks(x.size, 1):
        x_here, u = flat_x[block], flat_gate[block]
        np.multiply(x_here, x_here, out=u)
        u *= _GELU_CUBIC * _GELU_SCALE
        u += _GELU_SCALE
        u *= x_here
        np.tanh(u, out=u)
        u *= 0.5
        u += 0.5
        np.multiply(x_here, u, out=flat_y[block])
    return y, GeluCache(x, gate)


def gelu_backward(dy: Float[Array, "*shape"], cache: GeluCache) -> Float[Array, "*shape"]:
    """layers.gelu_backward in blocks and without temporaries. dy, of any shape -> dx."""
    dx = np.empty(dy.shape, dy.dtype)
    flat_x, flat_gate = cache.x.reshape(-1), cache.gate.reshape(-1)
    flat_dy, flat_dx = dy.reshape(-1), dx.reshape(-1)
    scratch = np.empty(min(dy.size, ELEMENTS), dy.dtype)
    for block in row_blocks(dy.size, 1):
        gate, d = flat_gate[block], flat_dx[block]
        rest = scratch[: len(d)]
        x = np.clip(flat_x[block], -_GELU_SATURATED, _GELU_SATURATED, out=rest)
        np.multiply(x, x, out=d)
        d *= 6 * _GELU_CUBIC * _GELU_SCALE
        d += 2 * _GELU_SCALE
        d *= x
        d *= np.subtract(1, gate, out=rest)
        d += 1
        d *= gate
        d *= flat_dy[block]
    return dx


def layer_norm_backward(
    dy: Float[Array, "*rows C"], cache: LayerNormCache
) -> tuple[Float[Array, "*rows C"], Float[Array, " C"], Float[Array, " C"]]:
    """layers.layer_norm_backward in blocks of rows. dy (…,C) -> dx (…,C), dweight (C,), dbias (C,).

    The means over dn = dy · weight are products of dy, and of dy · normed, with weight / C.
    """
    C = dy.shape[-1]
    rows, normed, rstd = dy.reshape(-1, C), cache.normed.reshape(-1, C), cache.rstd.reshape(-1, 1)
    dx, ones = np.empty_like(rows), np.ones(len(rows), dy.dtype)
    dweight, dbias = np.zeros_like(cache.weight), np.zeros_like(cache.weight)
    mean_weight = cache.weight[:, None] / C
    for block in row_blocks(*rows.shape):
        d, n, dx_here = rows[block], normed[block], dx[block]
        along = d * n
        ones_here = ones[: len(d)]
        dweight += ones_here @ along
        dbias += ones_here @ d
        np.multiply(d, cache.weight, out=dx_here)
        dx_here -= d @ mean_weight
        dx_here -= np.multiply(n, along @ mean_weight, out=along)
        dx_here *= rstd[block]
    return dx.reshape(dy.shape), dweight, dbias
