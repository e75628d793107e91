"""What a model is worth on batches it was not trained on."""

import numpy as np

from .. import objectives
from ..storage.validate import check_finite


def evaluate(model, batches, objective=None, *, eta=0.5):
    """Means over all targets of `batches` -> dict of floats.

    batches: (inputs, targets), ids (B,T) on the host, targets −1 ignored. The dict holds
    validation_mle (nats per token), mean_q (probability of the target), validation_mixce (MixCE's
    loss η·validation_mle − (1−η)·mean_q, with η = `eta`), and validation_loss: the mean of
    objective(logits, targets), or validation_mle without an objective. Raises ValueError for ids
    that the model cannot take.
    """
    nll, q, own, count = 0.0, 0.0, 0.0, 0
    for inputs, targets in batches:
        check_batch(inputs, targets, model.config.vocab_size)
        logits, _ = model.forward(model.xp.asarray(inputs))
        targets_on_device = model.xp.asarray(targets)
        targets_here = int((targets >= 0).sum())
        minus_log_q, _ = objectives.mle(logits, targets_on_device, reduction="none")
        nll += float(minus_log_q.sum())
        # ignored targets add exactly exp(−0) = 1 each
        q += float(model.xp.exp(-minus_log_q).sum()) - (targets.size - targets_here)
        if objective is not None:
            own += float(objective(logits, targets_on_device)[0]) * targets_here
        count += targets_here
    check_finite("validation loss", nll, infinite=True)  # NaN where logits are not finite
    mle, mean_q = nll / count, q / count
    return {
        "validation_mle": mle,
        "mean_q": mean_q,
        "validation_mixce": eta * mle - (1 - eta) * mean_q,
        "validation_loss": (nll if objective is None else own) / count,
    }


def check_batch(inputs, targets, vocab_size):
    """Raise ValueError for ids a model cannot take; on the host the look costs a GPU nothing, on
    the device it would wait.
    """
    if not isinstance(inputs, np.ndarray):
        return
    if not 0 <= inputs.min(initial=0) <= inputs.max(initial=0) < vocab_size:
        raise ValueError(
            f"a batch's inputs must be in 0 … {vocab_size - 1}, got {inputs.min()} … {inputs.max()}"
        )
    if not -1 <= targets.min(initial=0) <= targets.max(initial=0) < vocab_size:
        raise ValueError(
            f"a batch's targets must be in 0 … {vocab_size - 1}, or −1, got {targets.min()} …"
            f" {targets.max()}"
        )


def loss_of_uniform(objective, vocab_size):
    """The loss of a model that gives every token the probability 1/V: what an untrained model
    should be close to.

    For MixCE −η log(1/V) − (1−η)/V.
    """
    loss, _ = objective(np.zeros((1, vocab_size)), np.zeros(1, dtype=int))
    return float(loss)
