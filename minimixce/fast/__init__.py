"""Faster forms of layers that give the same numbers, and the one place that chooses them.

layers.py holds the plain form of everything, which is the lesson and the test of what is here.
gpt.py takes these functions in its place; each has the plain one's arguments and results.

| form         | where it is chosen                                           |
| ------------ | ------------------------------------------------------------ |
| attention.py | no past, no dropout, and scores that are too many for a cache |
| blocks.py    | arrays of the CPU that are too large for a cache              |
| head.py      | more logits than a chunk holds, and more than one sequence    |
| generation.py | one more token of a text that is being generated             |
"""

import numpy as np

from .. import layers
from ..kv import KV
from ..storage.shapes import Array, Float, RandomGenerator
from . import attention, blocks, generation, head
from .attention import BlockedCache


def _is_large(x: Array) -> bool:
    return isinstance(x, np.ndarray) and x.size >= blocks.ELEMENTS


def attention_forward(
    qkv: Float[Array, "B T QKV"],
    n_head: int,
    past: KV | None = None,
    dropout: float = 0.0,
    rng: RandomGenerator | None = None,
) -> tuple[Float[Array, "B T QKV//3"], layers.AttentionCache | BlockedCache]:
    """layers.attention_forward: qkv (B,T,3C) -> y (B,T,C), cache."""
    B, T, _ = qkv.shape
    if past is None and dropout == 0 and B * n_head * T * T >= blocks.ELEMENTS:
        return attention.attention_forward(qkv, n_head)
    return layers.attention_forward(qkv, n_head, past, dropout, rng)


def attention_backward(
    dy: Float[Array, "B T C"],
    cache: layers.AttentionCache | BlockedCache,
    dkv: KV | None = None,
) -> tuple[Float[Array, "B T 3*C"], KV | None]:
    """layers.attention_backward: dy (B,T,C) -> dqkv (B,T,3C), dpast."""
    if isinstance(cache, BlockedCache):
        return attention.attention_backward(dy, cache, dkv)
    return layers.attention_backward(dy, cache, dkv)


def gelu_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], layers.GeluCache]:
    """layers.gelu_forward: x, of any shape -> y, cache."""
    return (blocks if _is_large(x) else layers).gelu_forward(x)


def gelu_backward(dy: Float[Array, "*shape"], cache: layers.GeluCache) -> Float[Array, "*shape"]:
    """layers.gelu_backward: dy, of any shape -> dx."""
    return (blocks if _is_large(dy) else layers).gelu_backward(dy, cache)


def layer_norm_backward(
    dy: Float[Array, "*rows C"], cache: layers.LayerNormCache
) -> tuple[Float[Array, "*rows C"], Float[Array, " C"], Float[Array, " C"]]:
    """layers.layer_norm_backward: dy (…,C) -> dx (…,C), dweight (C,), dbias (C,)."""
    return (blocks if _is_large(dy) else layers).layer_norm_backward(dy, cache)


head_chunks = head.chunks
head_in_chunks = head.loss_and_grads
token_forward = generation.token_forward


def splits_head(B: int, T: int, weight: Float[Array, "V C"]) -> bool:
    """Whether B sequences (T,) have so many logits by weight (V,C) that head_in_chunks pays."""
    return len(head_chunks(B, T, weight)) > 1
