"""Causal attention in blocks of queries, without the half of the scores that are masked.

Trick 1, *blocks of queries*: a block of queries needs the keys up to its own end only, so that of
n blocks (n+1)/2n of the scores are computed and kept; on the CPU a block also fits the cache.

Trick 2, *weights without their sum*: exp(scores) is kept unscaled. The sum r⁻¹ of a query's weights
divides its output, T·D numbers, and not its probabilities, T·T; and since Σ_j p_ij dp_ij equals
y_i · dy_i, backward needs no sum over probabilities either:

    p_ij = e_ij r_i,   y_i = r_i Σ_j e_ij v_j,   dv_j = Σ_i e_ij (r_i dy_i),
    dscores_ij = e_ij ((r_i dy_i) · v_j − r_i dy_i · y_i).

Trick 3, *no shift where none is needed*: softmax subtracts the largest score of a query lest exp
overflow or its sum vanish. Neither can happen where all scores are within ±MODERATE.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..backend import array_module
from ..kv import KV
from ..layers import _split_heads, _transpose
from ..storage.shapes import Array, Float

# e^±40 times a sum's length is far inside float32's range, and so is dy divided by it: of e^60 a
# small dy would leave numbers below the least normal one
MODERATE = 40.0
QUERIES = 64  # of a block
ELEMENTS = 1 << 16  # scores at once on the CPU; see blocks.py


class BlockedCache(NamedTuple):
    q: Float[Array, "B H T D"]
    k: Float[Array, "B H T D"]
    v: Float[Array, "B H T D"]
    past: None  # as in AttentionCache, which models ask for it
    y: Float[Array, "B T H D"]
    exp_scores: list[Any]  # of every part: (b,H,keys up to the block's end,queries of the block)
    rsums: list[Any]  # (b,H,queries), one over the sums of exp_scores over the keys


def parts(B: int, H: int, T: int, on_cpu: bool) -> Iterator[tuple[slice, slice]]:
    """Rows of the batch and queries of each part: some rows on the CPU, all of them on a GPU."""
    rows = max(1, ELEMENTS // (H * T * min(T, QUERIES))) if on_cpu else B
    for first in range(0, B, rows):
        for start in range(0, T, QUERIES):
            yield slice(first, first + rows), slice(start, min(T, start + QUERIES))


def attention_forward(
    qkv: Float[Array, "B T QKV"], n_head: int
) -> tuple[Float[Array, "B T QKV//3"], BlockedCache]:
    """layers.attention_forward without past and dropout. qkv (B,T,3C) -> y (B,T,C), cache."""
    xp, (B, T, _) = array_module(qkv), qkv.shape
    q, k, v = _split_heads(qkv, n_head, 3)
    D = q.shape[-1]
    scaled_q = q / math.sqrt(D)
    visible = xp.tri(min(T, QUERIES), dtype=bool).T.astype(qkv.dtype)  # keys first, as scores
    ones = xp.ones((1, T), qkv.dtype)  # a product with ones sums faster than a reduction
    merged = xp.empty((B, T, n_head, D), qkv.dtype)
    y, exp_scores, rsums = merged.swapaxes(1, 2), [], []
    for rows, queries in parts(B, n_head, T, on_cpu=xp.__name__ == "numpy"):
        keys, own = slice(0, queries.stop), queries.stop - queries.start
        e = k[rows, :, keys] @ _transpose(scaled_q[rows, :, queries])
        _exp_of_moderate(e, queries, visible[:own, :own], xp)
        rsum = 1 / (ones[:, keys] @ e)[:, :, 0]
        of_part = _transpose(e) @ v[rows, :, keys]
        of_part *= rsum[..., None]
        y[rows, :, queries] = of_part
        exp_scores.append(e)
        rsums.append(rsum)
    return merged.reshape(B, T, -1), BlockedCache(q, k, v, None, merged, exp_scores, rsums)


def _exp_of_moderate(scores, queries, visible, xp):
    """exp(scores) in place, shifted by each query's largest score where they are not moderate; 0
    where a key comes after its query. scores (b,H,keys,Q); visible (Q,Q).
    """
    diagonal = scores[:, :, queries]  # the block's own keys, the only ones that may come later
    if xp.__name__ == "numpy" and scores.max() < MODERATE and scores.min() > -MODERATE:
        xp.exp(scores, out=scores)
        diagonal *= visible
        return
    diagonal[...] = xp.where(visible > 0, diagonal, -math.inf)
    scores -= scores.max(axis=-2, keepdims=True)
    xp.exp(scores, out=scores)


def attention_backward(
    dy: Float[Array, "B T C"], cache: BlockedCache, dkv: KV | None = None
) -> tuple[Float[Array, "B T 3*C"], None]:
    """layers.attention_backward of that forward. dy (B,T,C) -> dqkv (B,T,3C), None.

    dkv (KV (B,H,T,D)) is added to the gradients of keys and values.
    """
    q, k, v, _, merged_y, exp_scores, rsums = cache
    xp, (B, n_head, T, D) = array_module(dy), q.shape
    (dy,) = _split_heads(dy, n_head, 1)
    y = merged_y.swapaxes(1, 2)
    dqkv = xp.zeros((B, T, 3, n_head, D), dy.dtype)
    dq, dk, dv = dqkv.transpose(2, 0, 3, 1, 4)
    of_parts = parts(B, n_head, T, on_cpu=xp.__name__ == "numpy")
    for (rows, queries), e, rsum in zip(of_parts, exp_scores, rsums):
        keys = slice(0, queries.stop)
        scaled_dy = dy[rows, :, queries] * rsum[..., None]
        along_y = (scaled_dy * y[rows, :, queries]).sum(axis=-1)
        dscores = v[rows, :, keys] @ _transpose(scaled_dy)
        dscores -= along_y[:, :, None]
        dscores *= e
        dv[rows, :, keys] += e @ scaled_dy
        dk[rows, :, keys] += dscores @ q[rows, :, queries]
        dq[rows, :, queries] = _transpose(dscores) @ k[rows, :, keys]
    dq /= math.sqrt(D)
    dk /= math.sqrt(D)
    if dkv is not None:
        dk += dkv.k
        dv += dkv.v
    return dqkv.reshape(B, T, -1), None
