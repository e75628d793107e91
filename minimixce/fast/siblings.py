"""Attention of one new token in each row, on the CPU, where G rows share a past: the tree's case.

Trick: a row's own key meets one query only, and NumPy takes a batch of products of single numbers
one by one. So siblings stand side by side, (B,H,1,D) -> (B/G,H,G,D), by one copy: products with the
shared past serve all G of them, and what is a token's own is a sum of element-wise products. Keys
are the first axis of the scores, so that a softmax goes over long rows.
"""

import math
from typing import NamedTuple

import numpy as np

from ..kv import KV
from ..layers import SoftmaxCache, _transpose, softmax_backward, softmax_forward
from ..storage.shapes import Array, Float


class SiblingsCache(NamedTuple):
    q: Float[Array, "B H 1 D"]
    k: Float[Array, "B H 1 D"]
    v: Float[Array, "B H 1 D"]
    past: KV
    folded: Float[Array, "3 R H G D"]  # q, k, v
    softmax: SoftmaxCache  # of scores (P+1,R,H,G)


def _of_past(scores: Float[Array, "K R H G"]) -> Float[Array, "R H P G"]:
    """The scores of all keys except the last, a view whose matrices the products take as it is."""
    return scores[:-1].transpose(1, 2, 0, 3)


def _own(a: Float[Array, "R H G D"], b: Float[Array, "R H G D"]) -> Float[Array, "R H G"]:
    """The product of each row of a with that of b."""
    return np.einsum("rhgd,rhgd->rhg", a, b)


def attention_forward(
    qkv: Float[Array, "B 1 QKV"], n_head: int, past: KV
) -> tuple[Float[Array, "B 1 QKV//3"], SiblingsCache]:
    """layers.attention_forward: qkv (B,1,3C), past of R = B/G rows -> y (B,1,C), cache."""
    R, H, P, D = past.k.shape
    B = len(qkv)
    parts = qkv.reshape(R, B // R, 3, H, D)
    folded = np.ascontiguousarray(parts.transpose(2, 0, 3, 1, 4))  # (3,R,H,G,D)
    q, k, v = folded
    scores = np.empty((P + 1, R, H, B // R), qkv.dtype)
    np.matmul(past.k, _transpose(q), out=_of_past(scores))
    scores[P] = _own(k, q)
    scores /= math.sqrt(D)
    probs, softmax = softmax_forward(scores, axis=0)
    y = _transpose(_of_past(probs)) @ past.v
    y += probs[P, ..., None] * v
    q, k, v = qkv.reshape(B, 3, H, 1, D).swapaxes(0, 1)  # views (B,H,1,D)
    return y.swapaxes(1, 2).reshape(B, 1, -1), SiblingsCache(q, k, v, past, folded, softmax)


def attention_backward(
    dy: Float[Array, "B 1 C"], cache: SiblingsCache, dkv: KV | None = None
) -> tuple[Float[Array, "B 1 3*C"], KV]:
    """layers.attention_backward: dy (B,1,C) -> dqkv (B,1,3C), dpast."""
    (q, k, v), past, probs = cache.folded, cache.past, cache.softmax.probs
    R, H, P, D = past.k.shape
    B = len(dy)
    dy = np.ascontiguousarray(dy.reshape(R, B // R, H, D).swapaxes(1, 2))  # (R,H,G,D)
    dprobs = np.empty_like(probs)
    np.matmul(past.v, _transpose(dy), out=_of_past(dprobs))
    dprobs[P] = _own(v, dy)
    dscores = softmax_backward(dprobs, cache.softmax)
    dscores /= math.sqrt(D)
    own = dscores[P, ..., None]
    dqkv = np.empty((R, B // R, 3, H, D), dy.dtype)
    dq, dk, dv = dqkv.transpose(2, 0, 3, 1, 4)  # views (R,H,G,D)
    np.add(_transpose(_of_past(dscores)) @ past.k, own * k, out=dq)
    np.multiply(own, q, out=dk)
    np.multiply(probs[P, ..., None], dy, out=dv)
    if dkv is not None:
        by_row = dqkv.reshape(B, 3, H, 1, D)
        by_row[:, 1] += dkv.k
        by_row[:, 2] += dkv.v
    dpast = KV(_of_past(dscores) @ q, _of_past(probs) @ dy)
    return dqkv.reshape(B, 1, -1), dpast
