"""The training loop: batches in, an updated model and a list of measurements out."""

import inspect
import time

import numpy as np
from tqdm import tqdm

from . import backend, objectives
from .backend import to_numpy
from .optim import AdamW, clip_grads, warmup_cosine


_SHORT = {"validation_mle": "validation", "tokens_per_second": "tokens/s"}
_FORMAT = {"step": "5d", "tokens_per_second": ",.0f"}


def fit(
    model,
    batches,
    objective=objectives.mixce,
    *,
    steps=None,
    lr=1e-3,
    warmup=0,
    final_lr=0.1,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    max_grad_norm=1.0,
    validation=None,
    eval_every=250,
    seed=0,
    progress=True,
):
    """Train `model` on `batches` with AdamW, in place -> a list of measurements, one dict every eval_every steps.

    batches: an iterable of (inputs, targets), ids (B,T) on the host; `steps` of them, or all. Without `steps` the learning
    rate stays at lr after `warmup` steps; with it, half a cosine leads down to final_lr·lr.
    objective: (logits, targets) -> (loss, dlogits), as in minimixce.objectives, or a whole step(model, batch) -> loss, grads;
    a function whose first parameter is named `model` is taken for the latter.
    validation: a list of batches; measurements then hold those of `evaluate`. seed: of dropout.
    Each measurement has step, loss (mean since the last one), grad_norm (before clipping, at the last step), lr and
    tokens_per_second. Raises FloatingPointError, naming the step, when the loss is no longer finite.
    """
    check_options(steps, lr, warmup, final_lr, betas, weight_decay, max_grad_norm, eval_every)
    step_function = objective if _is_step(objective) else _step_of(objective, seed)
    optimizer = AdamW(model.params, lr, betas, weight_decay=weight_decay)
    measurements, losses, tokens, started, spent = [], [], 0, time.perf_counter(), 0.0
    bar = tqdm(total=steps, disable=None if progress else True, unit="step", dynamic_ncols=True)  # None: only on a terminal
    for step, (inputs, targets) in enumerate(batches):
        if step == steps:
            break
        batch = model.xp.asarray(inputs), model.xp.asarray(targets)
        loss, grads = step_function(model, batch)
        grad_norm = clip_grads(grads, max_grad_norm)
        optimizer.step(grads, lr if steps is None and step >= warmup else warmup_cosine(step, lr, warmup, steps or 0, final_lr))
        losses.append(loss)  # stays on the device: reading it every step would make a GPU wait
        tokens += targets.size
        bar.update()
        last = steps is not None and step + 1 == steps
        if (step + 1) % eval_every == 0 or last:
            first = step + 1 - len(losses)
            losses = to_numpy(model.xp.stack(losses))
            spent += time.perf_counter() - started
            if not np.isfinite(losses).all():
                raise FloatingPointError(
                    f"the loss is not finite since step {first + int(np.argmin(np.isfinite(losses))) + 1}; "
                    f"try a smaller lr (now {lr}), more warmup (now {warmup}) or a smaller max_grad_norm (now {max_grad_norm})"
                )
            found = {"step": step + 1, "loss": float(losses.mean()), "grad_norm": float(grad_norm)}
            found["tokens_per_second"] = tokens / spent
            if validation is not None:
                found |= evaluate(model, validation)
            measurements.append(found)
            if progress:
                tqdm.write("  ".join(f"{_SHORT.get(k, k)} {v:{_FORMAT.get(k, '.3f')}}" for k, v in found.items()))
            losses, started = [], time.perf_counter()
    bar.close()
    return measurements


def check_options(steps, lr, warmup=0, final_lr=0.1, betas=(0.9, 0.95), weight_decay=0.1, max_grad_norm=1.0, eval_every=250):
    """Raise ValueError, naming the option, unless fit can work with these."""
    for name, value, least in (("steps", steps, 1), ("eval_every", eval_every, 1), ("warmup", warmup, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 0 <= final_lr <= 1:
        raise ValueError(f"final_lr must be between 0 and 1, got {final_lr}")
    if not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm must be a positive number, got {max_grad_norm}")
    AdamW({}, lr, betas, weight_decay=weight_decay)


def evaluate(model, batches):
    """Mean over all targets of `batches` -> {"validation_mle": nats per token, "mean_q": probability of the target}.

    From the two, MixCE's loss is η·validation_mle − (1−η)·mean_q for every η.
    """
    nll, q, count = 0.0, 0.0, 0
    for inputs, targets in batches:
        logits, _ = model.forward(model.xp.asarray(inputs))
        minus_log_q, _ = objectives.mle(logits, model.xp.asarray(targets), reduction="none")
        kept = int((targets >= 0).sum())
        nll += float(minus_log_q.sum())
        # Ignored targets have −log q = 0, so they add exactly 1 each.
        q += float(model.xp.exp(-minus_log_q).sum()) - (targets.size - kept)
        count += kept
    return {"validation_mle": nll / count, "mean_q": q / count}


def loss_of_uniform(objective, vocab_size):
    """The loss of a model that gives every token the probability 1/V: what an untrained model should be close to.

    For MixCE −η log(1/V) − (1−η)/V.
    """
    loss, _ = objective(np.zeros((1, vocab_size)), np.zeros(1, dtype=int))
    return float(loss)


def _is_step(objective):
    return next(iter(inspect.signature(objective).parameters), None) == "model"


def _step_of(objective, seed):
    """A step(model, batch) -> loss, grads from a token objective; dropout draws from one generator for the run."""
    rng = None

    def step(model, batch):
        nonlocal rng
        rng = backend.rng(seed, model.xp) if rng is None else rng
        inputs, targets = batch
        logits, cache = model.forward(inputs, training=True, rng=rng)
        loss, dlogits = objective(logits, targets)
        return loss, model.backward(dlogits, cache)

    return step
