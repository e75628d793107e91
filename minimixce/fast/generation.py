"""The forward pass of a GPT for one new token a row, as generation asks for it.

The arrays of one token are so small that calling NumPy, or launching a GPU's kernels, costs more
than the arithmetic. So what serves a backward pass or more than one position is left out of
GPT.extend_forward: the cache, the mask (the newest token sees every other), dropout, and the checks
of a past that was made here. The token's own key and value are stored first, so that attention is
one product with all keys and one with all values.
"""

import functools
import math
from typing import Any

from .. import layers
from ..backend import array_module
from ..kv import KV, extend_kv, num_positions
from ..storage.shapes import Array, Arrays, Float, Int
from . import cuda_layers, kernels

_EPSILON = 1e-5  # layer_norm_forward's


def token_forward(
    tokens: Int[Array, " B"], params: Arrays, config: Any, past: list[KV] | None = None
) -> tuple[Float[Array, "B V"], list[KV]]:
    """GPT.extend_forward for ids (B,) at the position after `past` -> logits (B,V), present.

    params and config are the GPT's. past, whose rows may serve several of `tokens`, and present are
    extend_forward's. Nothing is checked: the ids are in the vocabulary, and the position is in the
    window.
    """
    x = params["wte.weight"][tokens] + params["wpe.weight"][num_positions(past)]
    linear, layer_norm, gelu, attention, unembedding = _parts(x)
    present = []
    for i, names in enumerate(_names(config.n_layer)):
        ln_1, c_attn, c_proj, ln_2, c_fc, mlp_proj = [(params[w], params[b]) for w, b in names]
        qkv = linear(layer_norm(x, *ln_1), *c_attn)
        y, layer_present = attention(qkv, config.n_head, past[i] if past else None)
        x += linear(y, *c_proj)
        y = gelu(linear(layer_norm(x, *ln_2), *c_fc))
        x += linear(y, *mlp_proj)
        present.append(layer_present)
    y = layer_norm(x, params["ln_f.weight"], params["ln_f.bias"])
    return unembedding(y, params["wte.weight"]), present


@functools.cache
def _names(n_layer):
    """For each block the names of its weights and biases, in the order in which they act."""
    parts = "ln_1 attn.c_attn attn.c_proj ln_2 mlp.c_fc mlp.c_proj".split()
    return [
        [(f"h.{i}.{part}.weight", f"h.{i}.{part}.bias") for part in parts] for i in range(n_layer)
    ]


def _parts(x):
    """What token_forward is made of, where x (B,C) lives."""
    if kernels.suits(x):
        names = "linear_forward", "layer_norm_forward", "gelu_forward", "unembedding_forward"
        linear, layer_norm, gelu, unembedding = [_output(getattr(cuda_layers, n)) for n in names]
        return linear, layer_norm, gelu, _cuda_attention, unembedding
    C = x.shape[1]
    mean = array_module(x).full((C, 1), 1 / C, x.dtype)  # the product with it is a row's mean
    layer_norm = functools.partial(_layer_norm, mean)
    gelu, unembedding = _output(layers.gelu_forward), _output(layers.unembedding_forward)
    return _linear, layer_norm, gelu, _attention, unembedding


def _output(forward):
    """forward without its cache."""
    return lambda *inputs: forward(*inputs)[0]


# ---- by array functions --------------------------------------------------------------------------


def _linear(x, weight, bias):
    """x (B,I) -> (B,O)."""
    y = x @ weight
    y += bias
    return y


def _layer_norm(mean, x, weight, bias):
    """x (B,C) -> (B,C). The deviations' own mean is taken off too, always: the plain form looks
    first whether a row is so far from 0 that its mean is rounded, and the look costs more.
    """
    y = x - x @ mean
    y -= y @ mean
    std = (y * y) @ mean
    std += _EPSILON
    y /= array_module(x).sqrt(std, out=std)
    y *= weight
    y += bias
    return y


def _attention(qkv, n_head, past):
    """qkv (B,3C) and a KV of P positions, or None -> y (B,C), KV of P + 1 positions."""
    q, k, v = _heads(qkv, n_head)
    present = extend_kv(past, k, v)
    q /= math.sqrt(q.shape[-1])
    weights = q @ present.k.swapaxes(-1, -2)
    weights -= weights.max(axis=-1, keepdims=True)
    array_module(q).exp(weights, out=weights)
    y = weights @ present.v
    y /= weights.sum(axis=-1, keepdims=True)  # softmax's division, of D numbers instead of P + 1
    return y.reshape(len(qkv), -1), present


def _heads(qkv, n_head):
    """qkv (B,3C) -> q, k, v, views (B,H,1,D)."""
    return qkv.reshape(len(qkv), 3, n_head, 1, -1).swapaxes(0, 1)


# ---- by a GPU's kernels --------------------------------------------------------------------------


def _cuda_attention(qkv, n_head, past):
    """_attention in three launches and two copies."""
    q, k, v = _heads(qkv, n_head)
    present = extend_kv(past, k, v)
    scores = kernels.matmul(present.k, q, transpose_b=True)  # (B,H,P+1,1)
    probs, _ = cuda_layers.masked_softmax_forward(scores, 1 / math.sqrt(q.shape[-1]))
    y = kernels.matmul(probs, present.v, transpose_a=True)
    return y.reshape(len(qkv), -1), present
