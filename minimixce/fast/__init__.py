"""Faster forms of layers that give the same numbers, and the one place that chooses them.

layers.py, objectives.py and optim.py hold the plain form of everything, which is the lesson and the
test of what is here. gpt.py and optim.py take these functions in its place; each has the plain
one's arguments and results.

| form             | where it is chosen                                            |
| ---------------- | ------------------------------------------------------------- |
| attention.py     | the CPU; no past, no dropout, more scores than a cache holds  |
| siblings.py      | the CPU; one token after a past, no dropout                   |
| blocks.py        | the CPU; arrays that a cache does not hold                    |
| head.py          | more logits than a chunk is to hold                           |
| generation.py    | a token that continues a past                                 |
| cuda_layers.py   | arrays of CuPy's, float32 or float64 (kernels.suits)          |
| cuda_training.py | the same, for clipping and AdamW                              |
"""

from typing import TypeAlias

import numpy as np

from .. import layers
from ..kv import KV
from ..storage.shapes import Array, Arrays, Float, RandomGenerator
from . import attention, blocks, cuda_layers, cuda_training, generation, head, kernels, siblings
from .attention import BlockedCache
from .siblings import SiblingsCache

AttentionCache: TypeAlias = layers.AttentionCache | BlockedCache | SiblingsCache


def _is_large(x: Array) -> bool:
    return isinstance(x, np.ndarray) and x.size >= blocks.ELEMENTS


def _form(x: Array):
    """The module with the layers for `x`, of those whose forms are the same except for kernels."""
    return cuda_layers if kernels.suits(x) else layers


def linear_forward(
    x: Float[Array, "*rows I"], weight: Float[Array, "I O"], bias: Float[Array, " O"]
) -> tuple[Float[Array, "*rows O"], layers.LinearCache]:
    """layers.linear_forward: x (…,I), weight (I,O), bias (O,) -> y (…,O), cache."""
    return _form(x).linear_forward(x, weight, bias)


def linear_backward(
    dy: Float[Array, "*rows O"], cache: layers.LinearCache
) -> tuple[Float[Array, "*rows I"], Float[Array, "I O"], Float[Array, " O"]]:
    """layers.linear_backward: dy (…,O) -> dx (…,I), dweight (I,O), dbias (O,)."""
    return _form(dy).linear_backward(dy, cache)


def unembedding_forward(
    x: Float[Array, "*rows C"], weight: Float[Array, "V C"]
) -> tuple[Float[Array, "*rows V"], layers.UnembeddingCache]:
    """layers.unembedding_forward: x (…,C), weight (V,C) -> logits (…,V), cache."""
    return _form(x).unembedding_forward(x, weight)


def unembedding_backward(
    dlogits: Float[Array, "*rows V"], cache: layers.UnembeddingCache
) -> tuple[Float[Array, "*rows C"], Float[Array, "V C"]]:
    """layers.unembedding_backward: dlogits (…,V) -> dx (…,C), dweight (V,C)."""
    return _form(dlogits).unembedding_backward(dlogits, cache)


def attention_forward(
    qkv: Float[Array, "B T QKV"],
    n_head: int,
    past: KV | None = None,
    dropout: float = 0.0,
    rng: RandomGenerator | None = None,
) -> tuple[Float[Array, "B T QKV//3"], AttentionCache]:
    """layers.attention_forward: qkv (B,T,3C) -> y (B,T,C), cache."""
    B, T, _ = qkv.shape
    scores = B * n_head * T * T
    on_cpu = isinstance(qkv, np.ndarray)
    if on_cpu and past is None and dropout == 0 and scores >= blocks.ELEMENTS:
        return attention.attention_forward(qkv, n_head)
    if on_cpu and past is not None and T == 1 and dropout == 0:
        return siblings.attention_forward(qkv, n_head, past)
    return _form(qkv).attention_forward(qkv, n_head, past, dropout, rng)


def attention_backward(
    dy: Float[Array, "B T C"],
    cache: AttentionCache,
    dkv: KV | None = None,
) -> tuple[Float[Array, "B T 3*C"], KV | None]:
    """layers.attention_backward: dy (B,T,C) -> dqkv (B,T,3C), dpast."""
    if isinstance(cache, BlockedCache):
        return attention.attention_backward(dy, cache, dkv)
    if isinstance(cache, SiblingsCache):
        return siblings.attention_backward(dy, cache, dkv)
    return _form(dy).attention_backward(dy, cache, dkv)


def gelu_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], layers.GeluCache]:
    """layers.gelu_forward: x, of any shape -> y, cache."""
    return (blocks if _is_large(x) else _form(x)).gelu_forward(x)


def gelu_backward(dy: Float[Array, "*shape"], cache: layers.GeluCache) -> Float[Array, "*shape"]:
    """layers.gelu_backward: dy, of any shape -> dx."""
    return (blocks if _is_large(dy) else _form(dy)).gelu_backward(dy, cache)


def layer_norm_forward(
    x: Float[Array, "*rows C"],
    weight: Float[Array, " C"],
    bias: Float[Array, " C"],
    epsilon: float = 1e-5,
) -> tuple[Float[Array, "*rows C"], layers.LayerNormCache]:
    """layers.layer_norm_forward: x (…,C), weight (C,), bias (C,) -> y (…,C), cache."""
    return _form(x).layer_norm_forward(x, weight, bias, epsilon)


def layer_norm_backward(
    dy: Float[Array, "*rows C"], cache: layers.LayerNormCache
) -> tuple[Float[Array, "*rows C"], Float[Array, " C"], Float[Array, " C"]]:
    """layers.layer_norm_backward: dy (…,C) -> dx (…,C), dweight (C,), dbias (C,)."""
    return (blocks if _is_large(dy) else _form(dy)).layer_norm_backward(dy, cache)


splits_head = head.suits
head_chunks = head.chunks
head_in_chunks = head.loss_and_grads
token_forward = generation.token_forward


def has_kernels_for(*tables: Arrays) -> bool:
    """Whether adamw_update and clip_grads can take these, each {name: array}; the plain forms take
    all others.
    """
    return cuda_training.suit_tables(*tables)


adamw_update = cuda_training.adamw_update
clip_grads = cuda_training.clip_grads
