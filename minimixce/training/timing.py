"""How long training will take: known roughly before it starts, and better with every step."""

import time
from collections.abc import Callable

import numpy as np

from ..model import LanguageModel
from ..storage.shapes import Batch, LossAndGrads

# What clipping, AdamW and the loop add to the time of a forward and a backward pass, and what share
# of it a forward pass alone takes. Rounded values of what small GPTs need on a CPU.
_OVERHEAD = 1.15
_FORWARD = 0.35


def seconds_of_step(step: Callable[..., LossAndGrads], model: LanguageModel, batch: Batch) -> float:
    """The time of one step(model, batch) -> loss, grads, the optimizer's part added. Nothing is
    changed.

    The first step, which warms caches and thread pools up, counts only where it is long.
    """
    seconds: list[float] = []
    while len(seconds) < 12 and sum(seconds) < 1:
        started = time.perf_counter()
        loss, grads = step(model, batch)
        # numbers in Python: a GPU has then finished its queue
        float(loss)
        for gradient in grads.values():
            float(gradient.reshape(-1)[0])
        seconds.append(time.perf_counter() - started)
    return _OVERHEAD * float(np.median(seconds[1:] or seconds))


def seconds_of_training(
    of_step: float, steps: int, positions: int, validations: int = 0, validation_positions: int = 0
) -> float:
    """of_step seconds for each of `steps`, whose batches have `positions` positions, and for each
    of the validations a forward pass over validation_positions.
    """
    of_validation = of_step * _FORWARD * validation_positions / positions
    return steps * of_step + validations * of_validation


def describe(seconds: float) -> str:
    """A duration, in seconds, in words, as coarse as an estimate is: "40 s", "2 minutes", "3.5
    hours".
    """
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 90:
        return f"{10 * round(seconds / 10)} s"
    hours = seconds / 3600
    if hours < 1.5:
        return f"{_coarse(60 * hours)} minutes"
    return f"{_coarse(hours)} hours" if hours < 48 else f"{_coarse(hours / 24)} days"


def _coarse(number: float) -> str:
    return f"{number:.1f}" if number < 3 else f"{number:.0f}"
