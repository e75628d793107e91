"""The loss head and the optimizer on a GPU.

token_objective and clip_grads have the arguments and results of those they are named after, in
objectives.py and optim.py. Arrays: kernels.suits, and suit_tables for those by name. The optimizer
is chosen in __init__.py; the loss head is not yet, until a GPU has shown what it brings.
"""

import math
from typing import Any

import numpy as np

from .. import objectives
from ..backend import array_module
from ..layers import _rows
from ..storage.shapes import Array, Arrays, Float, Grads, Int, LossAndDlogits, Scalar
from . import kernels

# ---- loss head -----------------------------------------------------------------------------------


def target_log_q(
    logits: Float[Array, "N V"], targets: Int[Array, " N"]
) -> tuple[Float[Array, " N"], Float[Array, " N"], Float[Array, " N"]]:
    """logits (N,V), targets (N,) int64 -> log q of the targets, maximum and Σ exp(z − maximum).

    All (N,). The number for a target below 0 means nothing; one of V or more gives NaN.
    """
    xp, (N, V) = array_module(logits), logits.shape
    log_q, tops, sums = (xp.empty(N, logits.dtype) for _ in range(3))
    kernels.launch("target_log_q", N, logits, targets, log_q, tops, sums, V)
    return log_q, tops, sums


def weighted_softmax(
    logits: Float[Array, "N V"],
    targets: Int[Array, " N"],
    weights: Float[Array, " N"],
    tops: Float[Array, " N"],
    sums: Float[Array, " N"],
    out: Float[Array, "N V"],
) -> Float[Array, "N V"]:
    """dlogits (N,V) = weights (softmax − onehot(targets)), 0 for targets below 0, in `out`.

    tops and sums (N,) as from target_log_q. `out` (N,V) may be logits itself.
    """
    N, V = logits.shape
    kernels.launch("weighted_softmax", N, logits, targets, weights, tops, sums, out, V)
    return out


def token_objective(
    logits: objectives.Logits,
    targets: objectives.Targets,
    f_and_w: objectives.TokenTerms,
    ratio: Any,
    normalizer: objectives.Normalizer = None,
    reduction: str = "mean",
) -> LossAndDlogits:
    """objectives.token_objective: logits (…,V), targets (…) -> loss, dlogits (…,V).

    A target of V or more gives NaN, where the plain form on a GPU takes it modulo V.
    """
    xp = objectives._check(logits, targets, reduction)
    z, y = xp.ascontiguousarray(_rows(logits)), xp.ascontiguousarray(targets.reshape(-1))
    y, is_target = y.astype("int64", copy=False), y >= 0
    log_q, tops, sums = target_log_q(z, y)
    f, w = f_and_w(log_q, ratio, xp)
    if reduction == "none":
        return objectives._per_token(f, w, is_target, targets, xp)
    scale = objectives._scale(is_target, normalizer, log_q.dtype, xp)
    loss = xp.asarray((xp.where(is_target, f, 0) * scale).sum())
    w = (xp.where(is_target, w, 0) * scale).astype(log_q.dtype)
    dlogits = weighted_softmax(z, y, w, tops, sums, out=xp.empty(z.shape, z.dtype))
    return loss, dlogits.reshape(logits.shape)


# ---- optimizer -----------------------------------------------------------------------------------


def suit_tables(*tables: Arrays) -> bool:
    """Whether adamw_update and clip_grads take these, each {name: array}: suits, and each array in
    one piece.
    """
    arrays = [x for table in tables for x in table.values()]
    return kernels.suits(*arrays) and all(x.flags.c_contiguous for x in arrays)


def _table(params, grads):
    """On the device: addresses of params, addresses of grads, first numbers, and which decay."""
    xp = array_module(next(iter(grads.values())))
    sizes = [p.size for p in params.values()]
    rows = [
        [*(kernels.address(p) for p in params.values()), 0],
        [*(kernels.address(grads[name]) for name in params), 0],
        [0, *np.cumsum(sizes)],
        [*(p.ndim >= 2 for p in params.values()), 0],
    ]
    return xp.asarray(np.array(rows, np.int64)), sum(sizes)


def adamw_update(
    params: Arrays,
    grads: Grads,
    mean: Float[Array, " N"],
    square: Float[Array, " N"],
    betas: tuple[float, float],
    step_size: float,
    root_scale: float,
    eps: float,
    keep: float,
) -> None:
    """What optim.AdamW.step does to params and to its vectors mean and square (N,), in place.

    betas, eps: AdamW's; step_size and root_scale as in step; keep = 1 − lr · weight_decay, the part
    of a matrix that is kept.
    """
    table, size = _table(params, grads)
    numbers = map(float, (*betas, step_size, root_scale, eps, keep))
    blocks = kernels.blocks_for(size)
    kernels.launch("adamw_update", blocks, table, len(params), mean, square, *numbers)


def clip_grads(grads: Grads, max_norm: float) -> Scalar:
    """optim.clip_grads without its checks: grads {name: array} in place -> norm before, 0-d."""
    first = next(iter(grads.values()))
    xp, dtype = array_module(first), first.dtype
    table, size = _table(grads, grads)
    sums, result = xp.empty(max(1, kernels.blocks_for(size)), dtype), xp.empty(2, dtype)
    kernels.launch("sum_squares", len(sums), table, len(grads), sums)
    kernels.launch("norm_and_scale", 1, sums, len(sums), float(max_norm), result)
    if max_norm != math.inf:
        kernels.launch("scale_gradients", kernels.blocks_for(size), table, len(grads), result)
    return result[:1].reshape(())
