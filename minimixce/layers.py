"""The layers of a transformer as pairs of plain functions.

`y, cache = *_forward(inputs)` computes the layer and keeps what its derivative will need;
`*_backward(dy, cache)` takes dL/dy and returns dL/d(input) for each input. A name that starts with
d is always the derivative of the loss L with respect to the rest of the name, and has that array's
shape. Read each pair side by side: the backward goes through the forward's lines from last to first
and applies the chain rule to each.

Shapes: B batch, T time, C channels, H heads, D = C/H channels of one head, V vocabulary, I and O
any input and output width. Every function follows its arrays (NumPy or CuPy) and computes in their
dtype.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .backend import add_rows, array_module
from .kv import (
    KV,
    past_scores_backward,
    past_scores_forward,
    past_values_backward,
    past_values_forward,
)
from .storage.shapes import Array, Float, IdsOrOneHots, RandomGenerator


def _rows(x: Float[Array, "*rows C"]) -> Float[Array, "N C"]:
    """(…,C) -> (N,C): all leading axes as one, so that a layer is one matrix product."""
    return x.reshape(-1, x.shape[-1])


# ---- linear --------------------------------------------------------------------------------------


class LinearCache(NamedTuple):
    x: Float[Array, "*rows I"]
    weight: Float[Array, "I O"]


def linear_forward(
    x: Float[Array, "*rows I"], weight: Float[Array, "I O"], bias: Float[Array, " O"]
) -> tuple[Float[Array, "*rows O"], LinearCache]:
    """y = x W + b. x (…,I), weight (I,O), bias (O,) -> y (…,O)."""
    y = _rows(x) @ weight
    y += bias
    return y.reshape(*x.shape[:-1], -1), LinearCache(x, weight)


def linear_backward(
    dy: Float[Array, "*rows O"], cache: LinearCache
) -> tuple[Float[Array, "*rows I"], Float[Array, "I O"], Float[Array, " O"]]:
    """dy (…,O) -> dx (…,I), dweight (I,O), dbias (O,).

    One output is y_no = Σ_i x_ni W_io + b_o. Each x_ni feeds every y_no with slope W_io, so
    dx_ni = Σ_o dy_no W_io, that is dy Wᵀ. Each W_io feeds y_no in every row n with slope x_ni, so
    dW = xᵀ dy. b_o feeds every row with slope 1.
    """
    x, weight = cache
    dbias = _rows(dy).sum(axis=0)
    dweight = _rows(x).T @ _rows(dy)
    dx = _rows(dy) @ weight.T
    return dx.reshape(x.shape), dweight, dbias


# ---- embeddings ----------------------------------------------------------------------------------


class EmbeddingCache(NamedTuple):
    x: IdsOrOneHots
    weight: Float[Array, "V C"]


def embedding_forward(
    x: IdsOrOneHots, weight: Float[Array, "V C"]
) -> tuple[Float[Array, "B T C"], EmbeddingCache]:
    """Token embedding. x: ids (B,T) or soft one-hots (B,T,V); weight (V,C) -> y (B,T,C)."""
    y = weight[x] if x.dtype.kind in "iu" else (_rows(x) @ weight).reshape(*x.shape[:-1], -1)
    return y, EmbeddingCache(x, weight)


def embedding_backward(
    dy: Float[Array, "B T C"], cache: EmbeddingCache
) -> tuple[Float[Array, "B T V"] | None, Float[Array, "V C"]]:
    """dy (B,T,C) -> dx (None for ids, which have no derivative; else (B,T,V)), dweight (V,C).

    Looking up row x is the product onehot(x) W, so this is linear_backward without a bias; for ids
    the product onehot(x)ᵀ dy just adds each dy to the row that was looked up, and a token that
    occurs twice adds twice.
    """
    x, weight = cache
    xp = array_module(dy)
    if x.dtype.kind in "iu":
        return None, add_rows(xp.zeros_like(weight), x.reshape(-1), _rows(dy))
    dweight = _rows(x).T @ _rows(dy)
    dx = (_rows(dy) @ weight.T).reshape(x.shape)
    return dx, dweight


class PositionCache(NamedTuple):
    weight: Float[Array, "block_size C"]
    start: int


def position_forward(
    x: Float[Array, "B T C"], weight: Float[Array, "block_size C"], start: int = 0
) -> tuple[Float[Array, "B T C"], PositionCache]:
    """Add the embedding of each position: y = x + w.

    x (B,T,C) at positions start … start+T−1, weight (block_size,C) -> y (B,T,C).
    """
    y = x + weight[start : start + x.shape[1]]
    return y, PositionCache(weight, start)


def position_backward(
    dy: Float[Array, "B T C"], cache: PositionCache
) -> tuple[Float[Array, "B T C"], Float[Array, "block_size C"]]:
    """dy (B,T,C) -> dx (B,T,C), dweight (block_size,C).

    y = x + w, so both slopes are 1; row t of w was added to every sequence of the batch, so its
    derivative is a sum over B.
    """
    weight, start = cache
    dweight = array_module(dy).zeros_like(weight)
    dweight[start : start + dy.shape[1]] = dy.sum(axis=0)
    return dy, dweight


class UnembeddingCache(NamedTuple):
    x: Float[Array, "*rows C"]
    weight: Float[Array, "V C"]


def unembedding_forward(
    x: Float[Array, "*rows C"], weight: Float[Array, "V C"]
) -> tuple[Float[Array, "*rows V"], UnembeddingCache]:
    """The output projection tied to the token embedding: logits = x Wᵀ.

    x (B,T,C), weight (V,C) -> logits (B,T,V).
    """
    logits = _rows(x) @ weight.T
    return logits.reshape(*x.shape[:-1], -1), UnembeddingCache(x, weight)


def unembedding_backward(
    dlogits: Float[Array, "*rows V"], cache: UnembeddingCache
) -> tuple[Float[Array, "*rows C"], Float[Array, "V C"]]:
    """dlogits (B,T,V) -> dx (B,T,C), dweight (V,C): linear_backward with Wᵀ in the place of W.

    The same W was used as the token embedding, so the model adds this dweight to that of
    embedding_backward.
    """
    x, weight = cache
    dweight = _rows(dlogits).T @ _rows(x)
    dx = _rows(dlogits) @ weight
    return dx.reshape(x.shape), dweight


# ---- layer norm ----------------------------------------------------------------------------------


def _mean(x: Float[Array, "*rows C"]) -> Float[Array, "*rows 1"]:
    """(…,C) -> (…,1). As a product with a vector of 1/C, which BLAS sums faster than a reduction
    over a short axis does.
    """
    weights = array_module(x).full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)
    return (_rows(x) @ weights).reshape(*x.shape[:-1], 1)


_FAR = 64  # standard deviations


class LayerNormCache(NamedTuple):
    normed: Float[Array, "*rows C"]
    rstd: Float[Array, "*rows 1"]
    weight: Float[Array, " C"]


def layer_norm_forward(
    x: Float[Array, "*rows C"],
    weight: Float[Array, " C"],
    bias: Float[Array, " C"],
    epsilon: float = 1e-5,
) -> tuple[Float[Array, "*rows C"], LayerNormCache]:
    """Every row of x to mean 0 and variance 1, then scaled and shifted.

    x (…,C), weight (C,), bias (C,) -> y (…,C). epsilon is added to the variance, so that a constant
    row becomes 0.
    """
    xp = array_module(x)
    mean = _mean(x)
    normed = x - mean
    variance = _mean(xp.square(normed))
    # Where a row is far from 0 the mean's own rounding is no longer small beside the deviations.
    far = xp.abs(mean) > _FAR * xp.sqrt(variance + epsilon)
    if xp is not np or far.any():
        normed -= xp.where(far, _mean(normed), 0)
        variance = xp.where(far, _mean(xp.square(normed)), variance)
    rstd = 1 / xp.sqrt(variance + epsilon)  # one over the standard deviation, (…,1)
    normed *= rstd
    y = normed * weight
    y += bias
    return y, LayerNormCache(normed, rstd, weight)


def layer_norm_backward(
    dy: Float[Array, "*rows C"], cache: LayerNormCache
) -> tuple[Float[Array, "*rows C"], Float[Array, " C"], Float[Array, " C"]]:
    """dy (…,C) -> dx (…,C), dweight (C,), dbias (C,).

    Write μ and v for the mean and the variance of a row, n for `normed` = (x − μ) r with
    r = (v + ε)^(−½), `rstd`, and dn for `dnormed` = dy · weight. x_j reaches n_i in three ways:

        directly,     with the slope r for i = j;
        through μ,    with the slope −r/C;
        through r:    ∂v/∂x_j = 2 (x_j − μ)/C gives ∂r/∂x_j = −r² n_j / C, so the slope is
                      (x_i − μ) (−r² n_j / C) = −r n_i n_j / C.

    The sum of dn_i times each of the three, over i, is
        dx_j = r (dn_j − mean_i(dn_i) − n_j mean_i(dn_i n_i)):
    what remains of dn once its mean and its component along n, neither of which the layer passes
    on, are taken away.
    """
    normed, rstd, weight = cache
    dbias = _rows(dy).sum(axis=0)
    dweight = _rows(dy * normed).sum(axis=0)
    dnormed = dy * weight
    along_normed = _mean(dnormed * normed)
    dx = dnormed - _mean(dnormed)
    dx -= normed * along_normed
    dx *= rstd
    return dx, dweight, dbias


# ---- GELU ----------------------------------------------------------------------------------------


_GELU_SCALE = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715


_GELU_SATURATED = 1000.0  # from here on g is 0 or 1 exactly, and x³ might overflow


class GeluCache(NamedTuple):
    x: Float[Array, "*shape"]
    gate: Float[Array, "*shape"]


def gelu_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], GeluCache]:
    """GELU in GPT-2's tanh form, y = x g with the gate g = ½ (1 + tanh u). Any shape.

    u = s (x + k x³) = x (s + s k x²), s = √(2/π), k = 0.044715. One array holds each step in turn.
    """
    u = x * x
    u *= _GELU_CUBIC * _GELU_SCALE
    u += _GELU_SCALE
    u *= x
    gate = array_module(x).tanh(u, out=u)
    gate *= 0.5
    gate += 0.5
    y = x * gate
    return y, GeluCache(x, gate)


def gelu_backward(dy: Float[Array, "*shape"], cache: GeluCache) -> Float[Array, "*shape"]:
    """dy -> dx, same shape.

    tanh′ = 1 − tanh² gives g′(u) = 2 g (1 − g), and u′ = s (1 + 3k x²). The product rule gives
    dy/dx = g + x · 2 g (1 − g) u′ = g (1 + 2u′ x (1 − g)), which is computed from the inside out.
    """
    x, gate = cache
    x = array_module(x).clip(x, -_GELU_SATURATED, _GELU_SATURATED)
    dx = x * x
    dx *= 6 * _GELU_CUBIC * _GELU_SCALE
    dx += 2 * _GELU_SCALE  # 2u′
    dx *= x
    dx *= 1 - gate
    dx += 1
    dx *= gate
    dx *= dy
    return dx


# ---- ReLU ----------------------------------------------------------------------------------------


class ReluCache(NamedTuple):
    y: Float[Array, "*shape"]


def relu_forward(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], ReluCache]:
    """ReLU: y = max(x, 0). Any shape."""
    y = array_module(x).maximum(x, 0)
    return y, ReluCache(y)


def relu_backward(dy: Float[Array, "*shape"], cache: ReluCache) -> Float[Array, "*shape"]:
    """dy -> dx, same shape.

    The slope is 1 where x > 0, which is where y > 0, and 0 elsewhere (at 0 too, by convention).
    """
    return dy * (cache.y > 0)


# ---- softmax -------------------------------------------------------------------------------------


class SoftmaxCache(NamedTuple):
    probs: Float[Array, "*shape"]
    axis: int


def softmax_forward(
    x: Float[Array, "*shape"], axis: int = -1
) -> tuple[Float[Array, "*shape"], SoftmaxCache]:
    """probs = exp(x) / Σ exp(x) along `axis`; any shape.

    The maximum is subtracted first, which changes nothing but the range.

    >>> y, cache = mm.layers.softmax_forward(np.log([1.0, 3.0]))
    >>> y.round(4).tolist()
    [0.25, 0.75]
    """
    xp = array_module(x)
    probs = x - x.max(axis=axis, keepdims=True)
    xp.exp(probs, out=probs)
    probs /= probs.sum(axis=axis, keepdims=True)
    return probs, SoftmaxCache(probs, axis)


def softmax_backward(dprobs: Float[Array, "*shape"], cache: SoftmaxCache) -> Float[Array, "*shape"]:
    """dprobs -> dx, same shape.

    ∂p_i/∂x_j = p_i (1[i=j] − p_j), hence dx_j = Σ_i dp_i p_i (1[i=j] − p_j) = p_j (dp_j − Σ_i p_i
    dp_i).
    """
    probs, axis = cache
    dx = dprobs - (probs * dprobs).sum(axis=axis, keepdims=True)
    dx *= probs
    return dx


# ---- dropout -------------------------------------------------------------------------------------


class DropoutCache(NamedTuple):
    scale: Float[Array, "*shape"] | None


def dropout_forward(
    x: Float[Array, "*shape"], rate: float = 0.0, rng: RandomGenerator | None = None
) -> tuple[Float[Array, "*shape"], DropoutCache]:
    """Set elements to zero with probability `rate`, the others times 1/(1−rate). Any shape.

    So the mean stays. rate 0 (the default) passes x through; otherwise `rng` (backend.rng) draws
    the mask, and its absence raises ValueError.
    """
    if rate == 0:
        return x, DropoutCache(None)
    if rng is None:
        raise ValueError(
            f"dropout with rate {rate} needs a random generator: pass rng=backend.rng(seed, xp)"
        )
    scale = (rng.random(x.shape, dtype=x.dtype) >= rate).astype(x.dtype)  # 0 or 1
    scale /= 1 - rate
    return x * scale, DropoutCache(scale)


def dropout_backward(dy: Float[Array, "*shape"], cache: DropoutCache) -> Float[Array, "*shape"]:
    """dy -> dx, same shape: y = x · scale with the mask held fixed, so dx = dy · scale."""
    return dy if cache.scale is None else dy * cache.scale


# ---- attention -----------------------------------------------------------------------------------
# The plain formula stands first in each function; what attention to a past adds (kv.py) follows it,
# behind `if past is not None`, and can be left out at a first reading.


class AttentionCache(NamedTuple):
    q: Float[Array, "B H T D"]  # (B,H,T,D)
    k: Float[Array, "B H T D"]
    v: Float[Array, "B H T D"]
    past: KV | None  # KV of B/G rows, or None
    softmax: SoftmaxCache
    dropout: DropoutCache
    probs: Float[Array, "B H K T"]  # (B,H,P+T,T) after dropout: P past keys, then T own


def _split_heads(
    x: Float[Array, "B T X"], n_head: int, parts: int
) -> Float[Array, "{parts} B {n_head} T D"]:
    """(B,T,parts·C) -> `parts` views (B,H,T,D)."""
    B, T, _ = x.shape
    return x.reshape(B, T, parts, n_head, -1).transpose(2, 0, 3, 1, 4)


def _merge_heads(parts: Sequence[Float[Array, "B H T D"]]) -> Float[Array, "B T X"]:
    """The reverse: a list of (B,H,T,D) -> (B,T,parts·C)."""
    B, H, T, D = parts[0].shape
    merged = array_module(parts[0]).empty((B, T, len(parts), H, D), parts[0].dtype)
    for i, part in enumerate(parts):
        merged[:, :, i] = part.swapaxes(1, 2)
    return merged.reshape(B, T, -1)


def _transpose(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def attention_forward(
    qkv: Float[Array, "B T QKV"],
    n_head: int,
    past: KV | None = None,
    dropout: float = 0.0,
    rng: RandomGenerator | None = None,
) -> tuple[Float[Array, "B T QKV//3"], AttentionCache]:
    """Causal multi-head attention. qkv (B,T,3C): queries, keys, values side by side -> y (B,T,C).

    y_i = Σ_j p_ij v_j with p_i = softmax_j(q_i·k_j / √D) over the positions j ≤ i. Scores and p are
    kept keys first, (B,H,keys,queries), so the softmax runs over axis −2: sums over the second last
    axis vectorise where sums over a short last axis do not.

    With `past` (a kv.KV of P positions) the T positions continue it and see all of it; past may
    have B/G rows, each of which then serves G consecutive rows of qkv. dropout is a rate and rng
    its random generator (see dropout_forward), for the probabilities p. This call's own keys and
    values are in the cache; its q is the unscaled view of qkv, which costs no memory. n_head: H.
    """
    xp, T = array_module(qkv), qkv.shape[1]
    q, k, v = _split_heads(qkv, n_head, 3)
    scaled_q = q / math.sqrt(q.shape[-1])
    scores = k @ _transpose(scaled_q)  # (B,H,T,T)
    # A key j > i is never seen by query i.
    scores += xp.where(xp.tri(T, dtype=bool).T, 0, -math.inf).astype(scores.dtype)
    if past is not None:
        past_scores = past_scores_forward(scaled_q, past)  # (B,H,P,T)
        scores = xp.concatenate([past_scores, scores], axis=-2)
    undropped, softmax = softmax_forward(scores, axis=-2)
    probs, dropped = dropout_forward(undropped, dropout, rng)
    y = _transpose(probs[:, :, -T:]) @ v
    if past is not None:
        y += past_values_forward(probs[:, :, :-T], past)
    return _merge_heads([y]), AttentionCache(q, k, v, past, softmax, dropped, probs)


def attention_backward(
    dy: Float[Array, "B T C"], cache: AttentionCache, dkv: KV | None = None
) -> tuple[Float[Array, "B T 3*C"], KV | None]:
    """dy (B,T,C) -> dqkv (B,T,3C), dpast (KV like past, or None).

    Two products, each with the two derivatives of a product: y = pᵀ v gives dv = p dy and
    dp = v dyᵀ; scores = k qᵀ / √D give dk = dscores q / √D and dq = dscoresᵀ k / √D. Masked scores
    need no care: p is 0 there, so dscores is too. The past does the same with its own k and v.
    `dkv` (KV (B,H,T,D)) is added: what later positions ask of this call's own keys and values.
    """
    q, k, v, past, softmax, dropped, probs = cache
    xp, (_, n_head, T, D) = array_module(dy), q.shape
    (dy,) = _split_heads(dy, n_head, 1)
    dpast = None
    dprobs = v @ _transpose(dy)
    dv = probs[:, :, -T:] @ dy
    if past is not None:
        dpast_probs, dpast_v = past_values_backward(dy, probs[:, :, :-T], past)
        dprobs = xp.concatenate([dpast_probs, dprobs], axis=-2)
    dundropped = dropout_backward(dprobs, dropped)
    dscores = softmax_backward(dundropped, softmax)
    dq = _transpose(dscores[:, :, -T:]) @ k
    dk = dscores[:, :, -T:] @ q
    if past is not None:
        dq_past, dpast_k = past_scores_backward(dscores[:, :, :-T], q, past)
        dq += dq_past
        dpast = KV(dpast_k / math.sqrt(D), dpast_v)
    dq /= math.sqrt(D)
    dk /= math.sqrt(D)
    if dkv is not None:
        dk = dk + dkv.k
        dv = dv + dkv.v
    return _merge_heads([dq, dk, dv]), dpast
