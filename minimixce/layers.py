"""The layers of a transformer as pairs of plain functions.

`y, cache = *_forward(inputs)` computes the layer and keeps what its derivative will need;
`*_backward(dy, cache)` takes dL/dy and returns dL/d(input) for each input. A name that starts with
d is always the derivative of the loss L with respect to the rest of the name, and has that array's
shape. Read each pair side by side: the backward undoes the forward's lines in reverse order.

Shapes: B batch, T time, C channels, H heads, D = C/H channels of one head, V vocabulary, I and O
any input and output width. Every function follows its arrays (NumPy or CuPy) and computes in their
dtype.
"""

import math
from typing import Any, NamedTuple

from .backend import add_rows, array_module
from .kv import (
    KV,
    past_scores_backward,
    past_scores_forward,
    past_values_backward,
    past_values_forward,
)


def _rows(x):
    """(…,C) -> (N,C): all leading axes as one, so that a layer is one matrix product."""
    return x.reshape(-1, x.shape[-1])


# ---- linear --------------------------------------------------------------------------------------


class LinearCache(NamedTuple):
    x: Any
    weight: Any


def linear_forward(x, weight, bias):
    """y = x W + b. x (…,I), weight (I,O), bias (O,) -> y (…,O)."""
    y = _rows(x) @ weight
    y += bias
    return y.reshape(*x.shape[:-1], -1), LinearCache(x, weight)


def linear_backward(dy, cache):
    """dy (…,O) -> dx (…,I), dweight (I,O), dbias (O,).

    One output is y_no = Σ_i x_ni W_io + b_o. Each x_ni feeds every y_no with slope W_io, so dx_ni =
    Σ_o dy_no W_io, that is dy Wᵀ. Each W_io feeds y_no in every row n with slope x_ni, so dW = xᵀ
    dy. b_o feeds every row with slope 1.
    """
    x, weight = cache
    dbias = _rows(dy).sum(axis=0)
    dweight = _rows(x).T @ _rows(dy)
    dx = _rows(dy) @ weight.T
    return dx.reshape(x.shape), dweight, dbias


# ---- embeddings ----------------------------------------------------------------------------------


class EmbeddingCache(NamedTuple):
    x: Any
    weight: Any


def embedding_forward(x, weight):
    """Token embedding. x: ids (B,T) or soft one-hots (B,T,V); weight (V,C) -> y (B,T,C)."""
    y = weight[x] if x.dtype.kind in "iu" else (_rows(x) @ weight).reshape(*x.shape[:-1], -1)
    return y, EmbeddingCache(x, weight)


def embedding_backward(dy, cache):
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
    weight: Any
    start: int


def position_forward(x, weight, start=0):
    """Add the embedding of each position. x (B,T,C) at positions start … start+T−1, weight
    (block_size,C) -> y (B,T,C).
    """
    y = x + weight[start : start + x.shape[1]]
    return y, PositionCache(weight, start)


def position_backward(dy, cache):
    """dy (B,T,C) -> dx (B,T,C), dweight (block_size,C).

    y = x + w, so both slopes are 1; row t of w was added to every sequence of the batch, so its
    derivative is a sum over B.
    """
    weight, start = cache
    dweight = array_module(dy).zeros_like(weight)
    dweight[start : start + dy.shape[1]] = dy.sum(axis=0)
    return dy, dweight


class UnembeddingCache(NamedTuple):
    x: Any
    weight: Any


def unembedding_forward(x, weight):
    """The output projection tied to the token embedding: logits = x Wᵀ. x (B,T,C), weight (V,C) ->
    logits (B,T,V).
    """
    logits = _rows(x) @ weight.T
    return logits.reshape(*x.shape[:-1], -1), UnembeddingCache(x, weight)


def unembedding_backward(dlogits, cache):
    """dlogits (B,T,V) -> dx (B,T,C), dweight (V,C): linear_backward with Wᵀ in the place of W.

    The same W was used as the token embedding, so the model adds this dweight to that of
    embedding_backward.
    """
    x, weight = cache
    dweight = _rows(dlogits).T @ _rows(x)
    dx = _rows(dlogits) @ weight
    return dx.reshape(x.shape), dweight


# ---- layer norm ----------------------------------------------------------------------------------


def _mean(x):
    """(…,C) -> (…,1). As a product with a vector of 1/C, which BLAS sums faster than a reduction
    over a short axis does.
    """
    weights = array_module(x).full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)
    return (_rows(x) @ weights).reshape(*x.shape[:-1], 1)


class LayerNormCache(NamedTuple):
    normed: Any
    rstd: Any
    weight: Any


def layer_norm_forward(x, weight, bias, epsilon=1e-5):
    """Every row of x to mean 0 and variance 1, then scaled and shifted. x (…,C), weight (C,), bias
    (C,) -> y (…,C).
    """
    xp = array_module(x)
    normed = x - _mean(x)
    variance = _mean(xp.square(normed))
    rstd = 1 / xp.sqrt(variance + epsilon)  # one over the standard deviation, (…,1)
    normed *= rstd
    y = normed * weight
    y += bias
    return y, LayerNormCache(normed, rstd, weight)


def layer_norm_backward(dy, cache):
    """dy (…,C) -> dx (…,C), dweight (C,), dbias (C,).

    Write n = (x − μ) r with r = 1/σ, and dn = dy · weight. x_j reaches n_i in three ways: directly
    (slope r), through μ
    (slope −r/C), and through r. For the last, r = (v + ε)^(−½) and ∂v/∂x_j = 2 (x_j − μ)/C give
    ∂r/∂x_j = −r² n_j / C,
    so the slope is (x_i − μ) · (−r² n_j / C) = −r n_i n_j / C. Summing the three over i:
        dx_j = r (dn_j − mean_i(dn_i) − n_j mean_i(dn_i n_i)),
    that is: what remains of dn once its mean and its component along n, which the layer cannot pass
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


class GeluCache(NamedTuple):
    x: Any
    gate: Any


def gelu_forward(x):
    """GELU in GPT-2's tanh form: y = x g, g = ½ (1 + tanh u), u = s (x + k x³), s = √(2/π), k =
    0.044715. Any shape.
    """
    xp = array_module(x)
    gate = x * x
    gate *= _GELU_CUBIC * _GELU_SCALE
    gate += _GELU_SCALE
    gate *= x  # u
    xp.tanh(gate, out=gate)
    gate *= 0.5
    gate += 0.5
    y = x * gate
    return y, GeluCache(x, gate)


def gelu_backward(dy, cache):
    """dy -> dx, same shape.

    tanh′ = 1 − tanh² gives g′(u) = 2 g (1 − g), and u′ = s (1 + 3k x²). Product rule: dy/dx = g + x
    · 2 g (1 − g) u′.
    """
    x, gate = cache
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
    y: Any


def relu_forward(x):
    """ReLU: y = max(x, 0). Any shape."""
    y = array_module(x).maximum(x, 0)
    return y, ReluCache(y)


def relu_backward(dy, cache):
    """dy -> dx, same shape: the slope is 1 where x > 0, which is where y > 0, and 0 elsewhere (at 0
    too, by convention).
    """
    return dy * (cache.y > 0)


# ---- softmax -------------------------------------------------------------------------------------


class SoftmaxCache(NamedTuple):
    probs: Any
    axis: int


def softmax_forward(x, axis=-1):
    """probs = exp(x) / Σ exp(x) along `axis`; the maximum is subtracted first, which changes
    nothing but the range.
    """
    xp = array_module(x)
    probs = x - x.max(axis=axis, keepdims=True)
    xp.exp(probs, out=probs)
    probs /= probs.sum(axis=axis, keepdims=True)
    return probs, SoftmaxCache(probs, axis)


def softmax_backward(dprobs, cache):
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
    scale: Any


def dropout_forward(x, rate=0.0, rng=None):
    """Set each element to zero with probability `rate`, the others times 1/(1−rate), so that the
    mean stays. Any shape.

    rate 0 (the default) passes x through; otherwise `rng` (backend.rng) draws the mask.
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


def dropout_backward(dy, cache):
    """dy -> dx: y = x · scale with the mask held fixed, so dx = dy · scale."""
    return dy if cache.scale is None else dy * cache.scale


class AttentionCache(NamedTuple):
    q: Any  # (B,H,T,D)
    k: Any
    v: Any
    past: Any  # KV of B/G rows, or None
    softmax: SoftmaxCache
    dropout: DropoutCache
    probs: Any  # (B,H,P+T,T) after dropout: P past keys, then T own


def _split_heads(x, n_head, parts):
    """(B,T,parts·C) -> `parts` views (B,H,T,D)."""
    B, T, _ = x.shape
    return x.reshape(B, T, parts, n_head, -1).transpose(2, 0, 3, 1, 4)


def _merge_heads(parts):
    """The reverse: a list of (B,H,T,D) -> (B,T,parts·C)."""
    B, H, T, D = parts[0].shape
    merged = array_module(parts[0]).empty((B, T, len(parts), H, D), parts[0].dtype)
    for i, part in enumerate(parts):
        merged[:, :, i] = part.swapaxes(1, 2)
    return merged.reshape(B, T, -1)


def _transpose(x):
    return x.swapaxes(-1, -2)


def attention_forward(qkv, n_head, past=None, dropout=0.0, rng=None):
    """Causal multi-head attention. qkv (B,T,3C): queries, keys, values side by side -> y (B,T,C).

    y_i = Σ_j p_ij v_j with p_i = softmax_j(q_i·k_j / √D) over the positions j ≤ i. With `past` (a
    kv.KV of P positions) the T positions continue it and see all of it; past may have B/G rows,
    each of which then serves G consecutive rows of qkv. dropout and rng are dropout_forward's, for
    the probabilities p. This call's own keys and values are in the cache.

    Scores are kept keys first, (…,keys,queries): sums over the second last axis vectorise where
    sums over a short last axis do not.
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
    weights, softmax = softmax_forward(scores, axis=-2)
    probs, dropped = dropout_forward(weights, dropout, rng)
    y = _transpose(probs[:, :, -T:]) @ v
    if past is not None:
        y += past_values_forward(probs[:, :, :-T], past)
    return _merge_heads([y]), AttentionCache(q, k, v, past, softmax, dropped, probs)


def attention_backward(dy, cache, dkv=None):
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
    dweights = dropout_backward(dprobs, dropped)
    dscores = softmax_backward(dweights, softmax)
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
