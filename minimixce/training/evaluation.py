"""What a model is worth on batches it was not trained on."""

import numpy as np

from .. import objectives


def evaluate(model, batches, objective=None):
    """Means over all targets of `batches`: validation_mle (nats per token), mean_q (probability of
    the target), validation_mixce (MixCE's loss η·validation_mle − (1−η)·mean_q, η the objective's
    or ½), and validation_loss, the objective's own, or MLE's without one.
    """
    eta = getattr(objective, "keywords", {}).get("eta", 0.5)
    nll, q, own, count = 0.0, 0.0, 0.0, 0
    for inputs, targets in batches:
        check_batch(inputs, targets, model.config.vocab_size)
        logits, _ = model.forward(model.xp.asarray(inputs))
        targets_there, kept = model.xp.asarray(targets), int((targets >= 0).sum())
        minus_log_q, _ = objectives.mle(logits, targets_there, reduction="none")
        nll += float(minus_log_q.sum())
        # ignored targets add exactly exp(−0) = 1 each
        q += float(model.xp.exp(-minus_log_q).sum()) - (targets.size - kept)
        own += 0.0 if objective is None else float(objective(logits, targets_there)[0]) * kept
        count += kept
    means = {"validation_mle": nll / count, "mean_q": q / count}
    means["validation_mixce"] = eta * means["validation_mle"] - (1 - eta) * means["mean_q"]
    return means | {"validation_loss": (nll if objective is None else own) / count}


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
