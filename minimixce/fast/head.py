"""The loss of a large vocabulary in chunks of the batch: no array holds all logits, or all dlogits.

Trick 1, *chunks of the batch*: a loss that adds up over sequences takes the logits of some of them
at a time, with the whole batch's normalizer; what dlogits are needed for, dx and dweight, is made
of a chunk's at once. Sequences stay whole, so that a loss may look at all positions of one.

Trick 2, *some tokens at a time*: adding a chunk's part to dweight (V,C) would need one more array
of that size, and read and write both. Some rows of it stay in the cache from product to sum.
"""

import math

import numpy as np

from .. import layers
from ..backend import array_module
from ..layers import _rows
from ..storage.shapes import Array, Float, Int, Loss, Scalar
from . import cuda_layers, kernels

# Logits of a chunk at most: of GPT-2's vocabulary some 330 rows, 64 MiB in float32, on the CPU,
# where products of fewer take longer, and 1,300 on a GPU, which they would leave idle.
ELEMENTS = 1 << 24
ELEMENTS_ON_GPU = 1 << 26
TOKENS = 2048  # rows of dweight at a time, on the CPU


def suits(B: int, T: int, weight: Float[Array, "V C"]) -> bool:
    """Whether B sequences (T,) have more logits by weight (V,C) than a chunk is to hold."""
    return B * T * len(weight) > _most_elements(weight)


def chunks(B: int, T: int, weight: Float[Array, "V C"]) -> list[slice]:
    """Slices that cover a batch of B sequences (T,): as few as ELEMENTS allows, of about one size.

    weight (V,C) is the unembedding's. At least one sequence is in each; where V is small, all are.
    """
    most = max(1, _most_elements(weight) // (T * len(weight)))
    size = math.ceil(B / math.ceil(B / most))
    return [slice(start, min(B, start + size)) for start in range(0, B, size)]


def _most_elements(weight: Array) -> int:
    return ELEMENTS if isinstance(weight, np.ndarray) else ELEMENTS_ON_GPU


def loss_and_grads(
    x: Float[Array, "B T C"],
    weight: Float[Array, "V C"],
    targets: Int[Array, "B T"],
    objective: Loss,
) -> tuple[Scalar, Float[Array, "B T C"], Float[Array, "V C"]]:
    """layers.unembedding_forward, an objective and layers.unembedding_backward, chunk by chunk.

    x (B,T,C), weight (V,C), targets (B,T) -> loss, dx (B,T,C), dweight (V,C). objective(logits,
    targets) -> (loss, dlogits) must add up over sequences, as one does whose normalizer is given.
    """
    xp, (B, T, _) = array_module(x), x.shape
    form = cuda_layers if kernels.suits(x, weight) else layers
    loss = xp.zeros((), x.dtype)
    dx, dweight = xp.empty_like(x), xp.zeros_like(weight)
    for rows in chunks(B, T, weight):
        logits, cache = form.unembedding_forward(x[rows], weight)
        part, dlogits = objective(logits, targets[rows])
        loss = loss + part
        del logits  # an objective may have made dlogits of another array
        if xp is np:
            dx[rows] = (_rows(dlogits) @ weight).reshape(cache.x.shape)
            _add_dweight(dweight, dlogits, cache.x)
        else:
            dx[rows], more = form.unembedding_backward(dlogits, cache)
            dweight += more
        del dlogits  # lest the next chunk's logits be made beside it
    return loss, dx, dweight


def _add_dweight(dweight, dlogits, x):
    """dweight (V,C) += dlogitsᵀ x, some tokens after the others; dlogits (b,T,V), x (b,T,C)."""
    for start in range(0, len(dweight), TOKENS):
        tokens = slice(start, start + TOKENS)
        dweight[tokens] += _rows(dlogits)[:, tokens].T @ _rows(x)
