"""From objectives to steps: loss and gradients of a group of batches.

An objective is a function (logits, targets) -> (loss, dlogits), a whole step a function (model,
batch) -> loss, grads. Either becomes what the loop calls: (model, group, number) -> loss, grads,
the mean over a group of batches, where number counts the groups.
"""

import contextvars
import functools
import inspect
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np

from .. import backend
from ..model import LanguageModel
from ..storage.shapes import Array, Loss, LossAndGrads, RandomGenerator

_IN_FIT = "; a whole step, (model, batch) -> loss, grads, goes in step="


# what calling something else with (logits, targets) raises; a ValueError where it unpacks a batch
_TELLING = (AttributeError, TypeError, ValueError)

# (model, group of batches, number of the group) -> loss, grads
GroupStep: TypeAlias = Callable[..., LossAndGrads]


class NotAnObjective(TypeError, ValueError):
    """What was given as an objective fails, or does not return what an objective does."""


def describe(objective: Callable[..., Any]) -> str:
    """A function's name, with its ratios where it is a functools.partial: what a run remembers of
    its objective unless fit is told a name.
    """
    function, options = getattr(objective, "func", objective), getattr(objective, "keywords", {})
    # never a repr: its address changes with the process
    return described(getattr(function, "__name__", type(function).__qualname__), options)


def described(name: str, options: dict[str, Any]) -> str:
    """A name and those of its options {name: value} that are numbers or text, as one line: "mixce"
    and {"eta": 0.5} -> 'mixce {"eta": 0.5}'.
    """
    ratios = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in options.items()
        if isinstance(value, (int, float, str, np.number))
    }
    return f"{name} {json.dumps(ratios, sort_keys=True)}"


def check_callable(name: str, function: Any) -> None:
    """Raise TypeError unless `function`, an objective or a step, as `name` says, can be called."""
    if not callable(function):
        example = (
            "minimixce.objectives.mixce" if name == "objective" else "(model, batch) -> loss, grads"
        )
        raise TypeError(f"{name} must be a function, as {example}, got {function!r}")


def guarded(
    objective: Loss,
    name: str | None = None,
    *,
    errors: type[Exception] | tuple[type[Exception], ...] = _TELLING,
    advice: str = _IN_FIT,
) -> Loss:
    """`objective`, with a one-sentence error if it is not an objective.

    Raises NotAnObjective, which names it, if it raises one of `errors` or does not return (0-d
    loss, dlogits of logits' shape).

    name: how the sentence names it; by default its own name. advice: how the sentence ends.
    """
    name = name or describe(objective).partition(" ")[0]

    @functools.wraps(objective)
    def call(logits, targets, **options):
        try:
            result = objective(logits, targets, **options)
        except NotAnObjective:  # it was guarded already
            raise
        except errors as error:
            message = f"{name} fails: {type(error).__name__}: {error}"
            if isinstance(error, _TELLING):
                message += (
                    f"; an objective takes (logits, targets) and returns (loss, dlogits){advice}"
                )
            raise NotAnObjective(message) from error
        if not _is_loss_and_dlogits(result, logits):
            raise NotAnObjective(
                f"{name} must return (loss, dlogits), arrays of shape () and of logits' shape,"
                f" from (logits, targets){advice}"
            )
        return result

    return call


def _is_loss_and_dlogits(result: Any, logits: Array) -> bool:
    if not isinstance(result, tuple) or len(result) != 2:
        return False
    loss, dlogits = result
    loss_shape = () if isinstance(loss, (int, float)) else getattr(loss, "shape", None)
    return loss_shape == () and getattr(dlogits, "shape", None) == logits.shape


def takes_normalizer(objective: Callable[..., Any]) -> bool:
    """Whether an objective has the documented keyword parameter `normalizer`, and so can take its
    targets in parts.
    """
    return "normalizer" in inspect.signature(objective).parameters


def grouped_objective(objective: Loss, seed: int = 0, shards: int = 1) -> GroupStep:
    """(model, group, number) -> loss, grads from an objective over tokens.

    Where it takes a `normalizer`, that is the number of targets of the whole group, so that the
    group equals one big batch; elsewhere the batches' losses are averaged. The random numbers of
    dropout depend on seed, number and shard alone, so that a resumed run draws what an undisturbed
    one would. shards: threads that take their share of every batch's rows each. NumPy lets go of
    Python's lock while it computes, so they do run side by side.
    """
    counted = takes_normalizer(objective)

    def shard_step(model, group, count, number, shard):
        loss, grads = 0.0, None
        rng = _dropout_rng(model, seed, number, shard)
        for inputs, targets in group:
            rows = slice(shard * len(inputs) // shards, (shard + 1) * len(inputs) // shards)
            if rows.start == rows.stop:
                continue
            logits, cache = model.forward(model.xp.asarray(inputs[rows]), training=True, rng=rng)
            targets_on_device = model.xp.asarray(targets[rows])
            if counted:
                part, dlogits = objective(logits, targets_on_device, normalizer=count)
            else:
                part, dlogits = (
                    value / len(group) for value in objective(logits, targets_on_device)
                )
            grads = model.backward(dlogits, cache, grads)
            loss = loss + part
        return loss, grads

    def step(model, group, number):
        count = max(1, sum(int((targets >= 0).sum()) for _, targets in group))
        if shards == 1:
            return shard_step(model, group, count, number, 0)
        return _sum_of_shards(shards, lambda shard: shard_step(model, group, count, number, shard))

    return step


def _dropout_rng(
    model: LanguageModel, seed: int, number: int, shard: int
) -> RandomGenerator | None:
    """The generator of one step's dropout, or None for a model without."""
    if not model.config.dropout:
        return None
    drawn = np.random.SeedSequence([seed, number, shard]).generate_state(1)[0]
    return backend.rng(int(drawn), model.xp)


def _sum_of_shards(shards: int, shard_step: Callable[[int], Any]) -> LossAndGrads:
    """Run shard_step(0), …, shard_step(shards − 1) in threads and add up loss and grads."""
    with ThreadPoolExecutor(shards) as pool:
        # so that NumPy's error settings hold there too
        contexts = [contextvars.copy_context() for _ in range(shards)]
        running = [pool.submit(c.run, shard_step, i) for i, c in enumerate(contexts)]
    # None: more shards than rows
    (loss, grads), *others = [r.result() for r in running if r.result()[1] is not None]
    for more_loss, more in others:  # always in this order, so that a run repeats bit for bit
        loss = loss + more_loss
        for name, g in more.items():
            grads[name] += g
    return loss, grads


def grouped_step(step: Callable[..., LossAndGrads]) -> GroupStep:
    """(model, group, number) -> loss, grads from a user's step(model, batch) -> loss, grads: the
    mean over the group. A step with the documented keyword parameter `number` is given the number
    of the batch.
    """
    takes_number = "number" in inspect.signature(step).parameters

    def mean_step(model, group, number):
        loss, grads = 0.0, None
        for k, (inputs, targets) in enumerate(group):
            numbered = {"number": number * len(group) + k} if takes_number else {}
            batch = model.xp.asarray(inputs), model.xp.asarray(targets)
            part, more = step(model, batch, **numbered)
            loss = loss + part / len(group)
            more = {name: g / len(group) for name, g in more.items()}
            grads = more if grads is None else {name: grads[name] + g for name, g in more.items()}
        return loss, grads

    return mean_step
