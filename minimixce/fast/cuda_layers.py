"""Layers on a GPU: kernels of their own in place of a dozen passes over memory, and no copies.

Each function has the arguments, results and caches of the one it is named after in layers.py, so
that a plain backward may follow a fast forward and the other way round. Arrays: kernels.suits.
"""

import math

from ..backend import array_module
from ..kv import (
    KV,
    past_scores_backward,
    past_scores_forward,
    past_values_backward,
    past_values_forward,
)
from ..layers import (
    AttentionCache,
    GeluCache,
    LayerNormCache,
    LinearCache,
    SoftmaxCache,
    UnembeddingCache,
    _rows,
    _split_heads,
    dropout_backward,
    dropout_forward,
)
from ..storage.shapes import Array, Float, RandomGenerator
from . import kernels
from .cuda_source import LANES

# ---- linear and unembedding ----------------------------------------------------------------------


def linear_forward(
    x: Float[Array, "*rows I"], weight: Float[Array, "I O"], bias: Float[Array, " O"]
) -> tuple[Float[Array, "*rows O"], LinearCache]:
    """layers.linear_forward: x (…,I), weight (I,O), bias (O,) -> y (…,O), cache."""
    y = kernels.matmul(_rows(x), weight)
    y += bias
    return y.reshape(*x.shape[:-1], -1), LinearCache(x, weight)


def linear_backward(
    dy: Float[Array, "*rows O"], cache: LinearCache
) -> tuple[Float[Array, "*rows I"], Float[Array, "I O"], Float[Array, " O"]]:
    """layers.linear_backward: dy (…,O) -> dx (…,I), dweight (I,O), dbias (O,)."""
    x, weight = cache
    dbias = kernels.sum_rows(_rows(dy))
    dweight = kernels.matmul(_rows(x), _rows(dy), transpose_a=True)
    dx = kernels.matmul(_rows(dy), weight, transpose_b=True)
    return dx.reshape(x.shape), dweight, dbias


def unembedding_forward(
    x: Float[Array, "*rows C"], weight: Float[Array, "V C"]
) -> tuple[Float[Array, "*rows V"], UnembeddingCache]:
    """layers.unembedding_forward: x (…,C), weight (V,C) -> logits (…,V), cache."""
    logits = kernels.matmul(_rows(x), weight, transpose_b=True)
    return logits.reshape(*x.shape[:-1], -1), UnembeddingCache(x, weight)


def unembedding_backward(
    dlogits: Float[Array, "*rows V"], cache: UnembeddingCache
) -> tuple[Float[Array, "*rows C"], Float[Array, "V C"]]:
    """layers.unembedding_backward: dlogits (…,V) -> dx (…,C), dweight (V,C)."""
    x, weight = cache
    dweight = kernels.matmul(_rows(dlogits), _rows(x), transpose_a=True)
    dx = kernels.matmul(_rows(dlogits), weight)
    return dx.reshape(x.shape), dweight


# ---- attention -----------------------------------------------------------------------------------


def masked_softmax_forward(
    scores: Float[Array, "B H K T"], scale: float = 1.0
) -> tuple[Float[Array, "B H K T"], SoftmaxCache]:
    """Softmax over the keys of scale · scores, causal, in the place of scores.

    scores (B,H,K,T), contiguous: the T queries are the last T of the K positions, and query i sees
    the first K − T + i + 1 keys; others are not read, and their probability is 0.
    -> probs (B,H,K,T), cache.
    """
    B, H, K, T = scores.shape
    tiles = -(-T // LANES)
    blocks = B * H * tiles
    kernels.launch("masked_softmax_forward", blocks, scores, K, T, tiles, float(scale))
    return scores, SoftmaxCache(scores, -2)


def masked_softmax_backward(
    dprobs: Float[Array, "B H K T"], cache: SoftmaxCache, scale: float = 1.0
) -> Float[Array, "B H K T"]:
    """dprobs (B,H,K,T), contiguous -> dscores (B,H,K,T) in the place of dprobs."""
    B, H, K, T = dprobs.shape
    tiles = -(-T // LANES)
    probs = array_module(dprobs).ascontiguousarray(cache.probs)
    blocks = B * H * tiles
    kernels.launch("masked_softmax_backward", blocks, probs, dprobs, K, T, tiles, float(scale))
    return dprobs


def attention_forward(
    qkv: Float[Array, "B T QKV"],
    n_head: int,
    past: KV | None = None,
    dropout: float = 0.0,
    rng: RandomGenerator | None = None,
) -> tuple[Float[Array, "B T QKV//3"], AttentionCache]:
    """layers.attention_forward: qkv (B,T,3C) -> y (B,T,C), cache."""
    xp, (B, T, _) = array_module(qkv), qkv.shape
    q, k, v = _split_heads(qkv, n_head, 3)
    D = q.shape[-1]
    scores = kernels.matmul(k, q, transpose_b=True)
    if past is not None:
        scores = xp.concatenate([past_scores_forward(q, past), scores], axis=-2)
    undropped, softmax = masked_softmax_forward(scores, 1 / math.sqrt(D))
    probs, dropped = dropout_forward(undropped, dropout, rng)
    merged = xp.empty((B, T, n_head, D), qkv.dtype)
    y = merged.swapaxes(1, 2)
    kernels.matmul(probs[:, :, -T:], v, transpose_a=True, out=y)
    if past is not None:
        y += past_values_forward(probs[:, :, :-T], past)
    return merged.reshape(B, T, -1), AttentionCache(q, k, v, past, softmax, dropped, probs)


def attention_backward(
    dy: Float[Array, "B T C"], cache: AttentionCache, dkv: KV | None = None
) -> tuple[Float[Array, "B T 3*C"], KV | None]:
    """layers.attention_backward: dy (B,T,C) -> dqkv (B,T,3C), dpast (KV like past, or None)."""
    q, k, v, past, softmax, dropped, probs = cache
    xp, (B, n_head, T, D) = array_module(dy), q.shape
    (dy,) = _split_heads(dy, n_head, 1)
    dqkv = xp.empty((B, T, 3, n_head, D), dy.dtype)
    dq, dk, dv = dqkv.transpose(2, 0, 3, 1, 4)
    dpast = None
    dprobs = kernels.matmul(v, dy, transpose_b=True)
    kernels.matmul(probs[:, :, -T:], dy, out=dv)
    if past is not None:
        dpast_probs, dpast_v = past_values_backward(dy, probs[:, :, :-T], past)
        dprobs = xp.concatenate([dpast_probs, dprobs], axis=-2)
    dundropped = dropout_backward(dprobs, dropped)
    dscores = masked_softmax_backward(dundropped, softmax, 1 / math.sqrt(D))
    kernels.matmul(dscores[:, :, -T:], k, transpose_a=True, out=dq)
    kernels.matmul(dscores[:, :, -T:], q, out=dk)
    if past is not None:
        dq_past, dpast_k = past_scores_backward(dscores[:, :, :-T], q, past)
        dq += dq_past
        dpast = KV(dpast_k, dpast_v)
    if dkv is not None:
        dk += dkv.k
        dv += dkv.v
    return dqkv.reshape(B, T, -1), dpast


# ---- GELU ----------------------------------------------------------------------------------------


def gelu_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], GeluCache]:
    """layers.gelu_forward: x, of any shape -> y, cache."""
    xp = array_module(x)
    x = xp.ascontiguousarray(x).reshape(x.shape)
    y, gate = xp.empty(x.shape, x.dtype), xp.empty(x.shape, x.dtype)
    kernels.launch("gelu_forward", kernels.blocks_for(x.size), x, y, gate, x.size)
    return y, GeluCache(x, gate)


def gelu_backward(dy: Float[Array, "*shape"], cache: GeluCache) -> Float[Array, "*shape"]:
    """layers.gelu_backward: dy -> dx, same shape."""
    xp = array_module(dy)
    dy, x, gate = (xp.ascontiguousarray(each) for each in (dy, *cache))
    dx = xp.empty(cache.x.shape, dy.dtype)
    kernels.launch("gelu_backward", kernels.blocks_for(dx.size), dy, x, gate, dx, dx.size)
    return dx


# ---- layer norm ----------------------------------------------------------------------------------


def layer_norm_forward(
    x: Float[Array, "*rows C"],
    weight: Float[Array, " C"],
    bias: Float[Array, " C"],
    epsilon: float = 1e-5,
) -> tuple[Float[Array, "*rows C"], LayerNormCache]:
    """layers.layer_norm_forward: x (…,C), weight (C,), bias (C,) -> y (…,C), cache."""
    xp, C = array_module(x), x.shape[-1]
    x, shape = xp.ascontiguousarray(_rows(x)), x.shape
    y, normed = xp.empty(shape, x.dtype), xp.empty(shape, x.dtype)
    rstd = xp.empty((*shape[:-1], 1), x.dtype)
    outputs = y, normed, rstd
    kernels.launch("layer_norm_forward", len(x), x, weight, bias, *outputs, C, float(epsilon))
    return y, LayerNormCache(normed, rstd, weight)


def layer_norm_backward(
    dy: Float[Array, "*rows C"], cache: LayerNormCache
) -> tuple[Float[Array, "*rows C"], Float[Array, " C"], Float[Array, " C"]]:
    """layers.layer_norm_backward: dy (…,C) -> dx (…,C), dweight (C,), dbias (C,)."""
    xp, C = array_module(dy), dy.shape[-1]
    dy, shape = xp.ascontiguousarray(_rows(dy)), dy.shape
    normed, rstd = xp.ascontiguousarray(_rows(cache.normed)), xp.ascontiguousarray(cache.rstd)
    dx = xp.empty(shape, dy.dtype)
    kernels.launch("layer_norm_backward", len(dy), dy, normed, rstd, cache.weight, dx, C)
    sums = kernels.sum_in_rounds("layer_norm_sums", [dy, normed], 2 * C)
    return dx, sums[:C], sums[C:]
