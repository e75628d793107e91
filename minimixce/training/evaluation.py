"""What a model is worth on batches it was not trained on."""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import objectives
from ..backend import check_ids, is_array
from ..model import LanguageModel
from ..storage.shapes import Array, Batch, Float, Int, Loss
from ..storage.validate import check_finite, check_ratio
from .ranks import Ranks
from .steps import takes_normalizer


def evaluate(
    model: LanguageModel,
    batches: Iterable[Batch],
    objective: Loss | None = None,
    *,
    eta: float = 0.5,
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """Means over all targets of `batches` -> dict of floats.

    batches: (inputs, targets), ids (B,T) on the host, targets −1 ignored. The dict holds
    validation_mle (nats per token), mean_q (probability of the target), validation_mixce (MixCE's
    loss η·validation_mle − (1−η)·mean_q, with η = `eta`), and validation_loss: the mean of
    objective(logits, targets), or validation_mle without an objective. ranks: the processes that
    all call this with the same arguments, and share the batches out. Raises ValueError for ids that
    the model cannot take.
    """
    eta = check_ratio("eta", eta)
    ranks = ranks or Ranks()
    of_this_rank = itertools.islice(batches, ranks.rank, None, ranks.size)
    sums = ranks.together(lambda: _sums(model, of_this_rank, objective))
    nll, q, own, count = ranks.total(sums)
    check_targets("batches", int(count))
    check_finite("validation loss", nll, infinite=True)  # NaN where logits are not finite
    mle, mean_q = nll / count, q / count
    return {
        "validation_mle": mle,
        "mean_q": mean_q,
        "validation_mixce": eta * mle - (1 - eta) * mean_q,
        "validation_loss": (nll if objective is None else own) / count,
    }


def _sums(
    model: LanguageModel, batches: Iterable[Batch], objective: Loss | None
) -> tuple[float, float, float, int]:
    """Sums over all targets -> −log q, q, the objective, 1."""
    nll, q, own, count = 0.0, 0.0, 0.0, 0
    for batch in batches:
        inputs, targets = check_batch(batch, model.config.vocab_size)
        targets_on_device = model.xp.asarray(targets)
        targets_here = int((targets >= 0).sum())
        for rows, logits in _chunks(model, inputs, objective):
            wanted = targets_on_device[rows]
            minus_log_q, _ = objectives.mle(logits, wanted, reduction="none")
            nll += float(minus_log_q.sum())
            # ignored targets add exactly exp(−0) = 1 each
            q += float(model.xp.exp(-minus_log_q).sum()) - int((targets[rows] < 0).sum())
            if objective is not None:
                own += _share_of_mean(objective, logits, wanted, targets_here) * targets_here
        count += targets_here
    return nll, q, own, count


def mean_loss(model: LanguageModel, batch: Batch, objective: Loss) -> float:
    """objective(logits, targets) of a model on a batch, (inputs, targets), without a backward."""
    inputs, targets = batch
    count = int((targets >= 0).sum())
    targets = model.xp.asarray(targets)
    return sum(
        _share_of_mean(objective, logits, targets[rows], count)
        for rows, logits in _chunks(model, inputs, objective)
    )


def _chunks(
    model: LanguageModel, inputs: Int[Array, "B T"], objective: Loss | None
) -> Iterable[tuple[slice, Float[Array, "_B T V"]]]:
    """model.logits_in_chunks, all in one where the objective has to see all of them."""
    chunks = model.logits_in_chunks(model.xp.asarray(inputs))
    if objective is None or takes_normalizer(objective):
        return chunks
    logits = [part for _, part in chunks]
    whole = logits[0] if len(logits) == 1 else model.xp.concatenate(logits)
    return [(slice(0, len(inputs)), whole)]


def _share_of_mean(
    objective: Loss, logits: Float[Array, "B T V"], targets: Int[Array, "B T"], count: int
) -> float:
    """What one of _chunks adds to the objective's mean over `count` targets."""
    common = {"normalizer": max(1, count)} if takes_normalizer(objective) else {}
    return float(objective(logits, targets, **common)[0])


def check_targets(name: str, count: int) -> None:
    """Raise ValueError for batches, called `name`, without a target (a `count` of 0): nothing can
    be averaged over them.
    """
    if count == 0:
        raise ValueError(f"{name} must hold at least one target, got none")


def check_batch(batch: Any, vocab_size: int) -> Batch:
    """inputs, targets of a batch. TypeError or ValueError unless they are two integer arrays (B,T)
    of ids below vocab_size, targets −1 or more; on the host the look at ids costs a GPU nothing, on
    the device it would wait.
    """
    kind = "a batch must be (inputs, targets), two integer arrays of one shape (B,T), got"
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        number = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise TypeError(f"{kind} a {type(batch).__name__}{number}")
    for x in batch:
        if not is_array(x):
            raise TypeError(f"{kind} a {type(x).__name__}")
        if x.dtype.kind not in "iu":
            raise TypeError(f"{kind} {x.dtype}")
    inputs, targets = batch
    if inputs.ndim != 2 or inputs.shape != targets.shape:
        raise ValueError(f"{kind} {inputs.shape} and {targets.shape}")
    if not inputs.size:
        raise ValueError(f"a batch must have at least one row and one position, got {inputs.shape}")
    if isinstance(inputs, np.ndarray) and isinstance(targets, np.ndarray):
        check_ids("a batch's inputs", inputs, vocab_size)
        check_ids("a batch's targets", targets, vocab_size, ignored=True)
    return inputs, targets


def loss_of_uniform(objective: Loss, vocab_size: int) -> float:
    """The loss of a model that gives each of vocab_size = V tokens the probability 1/V, by
    `objective`: what an untrained model should be close to.

    For MixCE −η log(1/V) − (1−η)/V.
    """
    loss, _ = objective(np.zeros((1, vocab_size)), np.zeros(1, dtype=int))
    return float(loss)
