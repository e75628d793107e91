"""The forward pass of a GPT for one new token a row, as generation asks for it.

The arrays of one token are so small that calling NumPy, or launching a GPU's kernels, costs more
than the arithmetic. So what serves a backward pass or more than one position is left out of
GPT.extend_forward: the cache, the mask (the newest token sees every other), dropout, the checks of
a past that this function made itself; and the token's own key and value are stored first, so that
attention is one product with all keys and one with all values.
"""

import math
from typing import Any

from ..backend import array_module
from ..kv import KV, extend_kv, num_positions
from ..layers import gelu_forward, softmax_forward
from ..storage.shapes import Array, Arrays, Float, Int

_EPSILON = 1e-5  # layer_norm_forward's


def token_forward(
    tokens: Int[Array, " B"], params: Arrays, config: Any, past: list[KV] | None = None
) -> tuple[Float[Array, "B V"], list[KV]]:
    """GPT.extend_forward for ids (B,) at the position after `past` -> logits (B,V), present.

    params and config are the GPT's. past, whose rows may serve several of `tokens`, and present are
    extend_forward's. Nothing is checked: the ids are in the vocabulary, and the position is in the
    window.
    """

    def weights(layer):
        return params[f"{layer}.weight"], params[f"{layer}.bias"]

    x = params["wte.weight"][tokens] + params["wpe.weight"][num_positions(past)]
    C = x.shape[1]
    mean = array_module(x).full((C, 1), 1 / C, x.dtype)  # the product with it is a row's mean
    present = []
    for i in range(config.n_layer):
        y = _layer_norm(x, mean, *weights(f"h.{i}.ln_1"))
        qkv = _linear(y, *weights(f"h.{i}.attn.c_attn"))
        y, layer_present = _attention(qkv, config.n_head, past[i] if past else None)
        x += _linear(y, *weights(f"h.{i}.attn.c_proj"))
        y = _layer_norm(x, mean, *weights(f"h.{i}.ln_2"))
        y, _ = gelu_forward(_linear(y, *weights(f"h.{i}.mlp.c_fc")))
        x += _linear(y, *weights(f"h.{i}.mlp.c_proj"))
        present.append(layer_present)
    y = _layer_norm(x, mean, *weights("ln_f"))
    return y @ params["wte.weight"].T, present


def _linear(x, weight, bias):
    """x (B,I) -> (B,O)."""
    y = x @ weight
    y += bias
    return y


def _layer_norm(x, mean, weight, bias):
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
    B = len(qkv)
    q, k, v = qkv.reshape(B, 3, n_head, 1, -1).swapaxes(0, 1)  # each (B,H,1,D)
    present = extend_kv(past, k, v)
    q /= math.sqrt(q.shape[-1])
    probs, _ = softmax_forward(q @ present.k.swapaxes(-1, -2))
    return (probs @ present.v).reshape(B, -1), present
