"""From objectives to steps: loss and gradients of a group of batches."""

import contextvars
import inspect
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .. import backend


def describe(objective):
    """A name with its ratios, to notice when a resumed run is given another objective."""
    function, options = getattr(objective, "func", objective), getattr(objective, "keywords", {})
    ratios = {
        name: value for name, value in options.items() if isinstance(value, (int, float, str))
    }
    # never a repr: its address changes with the process
    name = getattr(function, "__name__", type(function).__qualname__)
    return f"{name} {json.dumps(ratios, sort_keys=True)}"


def is_step(objective):
    """Whether fit takes `objective` for a whole step(model, batch) -> loss, grads."""
    if not callable(objective):
        raise TypeError(
            f"objective must be a function, as minimixce.objectives.mixce, got {objective!r}"
        )
    return next(iter(inspect.signature(objective).parameters), None) == "model"


def takes_normalizer(objective):
    return "normalizer" in inspect.signature(objective).parameters


def step_of_objective(objective, seed=0, shards=1):
    """step(model, group, number) -> loss, grads over a group of batches, from a token objective.

    The random numbers of dropout depend on seed, step and shard alone, so that a resumed run draws
    what an undisturbed one would. NumPy lets go of Python's lock while it computes, so the threads
    that take a shard each do run side by side.
    """
    counted = takes_normalizer(objective)

    def step_of_shard(model, group, count, number, shard):
        xp, loss, grads, rng = model.xp, 0.0, None, None
        if model.config.dropout:
            rng = backend.rng(
                int(np.random.SeedSequence([seed, number, shard]).generate_state(1)[0]), xp
            )
        for inputs, targets in group:
            rows = slice(shard * len(inputs) // shards, (shard + 1) * len(inputs) // shards)
            if rows.start == rows.stop:
                continue
            logits, cache = model.forward(xp.asarray(inputs[rows]), training=True, rng=rng)
            if counted:
                part, dlogits = objective(logits, xp.asarray(targets[rows]), normalizer=count)
            else:
                part, dlogits = (
                    value / len(group) for value in objective(logits, xp.asarray(targets))
                )
            grads = model.backward(dlogits, cache, grads)
            loss = loss + part
        return loss, grads

    def step(model, group, number):
        count = max(1, sum(int((targets >= 0).sum()) for _, targets in group))
        if shards == 1:
            return step_of_shard(model, group, count, number, 0)
        with ThreadPoolExecutor(shards) as pool:
            # so that NumPy's error settings hold there too
            contexts = [contextvars.copy_context() for _ in range(shards)]
            parts = [
                pool.submit(c.run, step_of_shard, model, group, count, number, i)
                for i, c in enumerate(contexts)
            ]
        # None: more shards than rows
        (loss, grads), *others = [p.result() for p in parts if p.result()[1] is not None]
        for more_loss, more in others:  # always in this order, so that a run repeats bit for bit
            loss = loss + more_loss
            for name, g in more.items():
                grads[name] += g
        return loss, grads

    return step


def step_of_steps(one):
    """The same from a user's step(model, batch) -> loss, grads: the mean over the group."""
    takes_number = "number" in inspect.signature(one).parameters

    def step(model, group, number):
        loss, grads = 0.0, None
        for k, (inputs, targets) in enumerate(group):
            numbered = {"number": number * len(group) + k} if takes_number else {}
            part, more = one(
                model, (model.xp.asarray(inputs), model.xp.asarray(targets)), **numbered
            )
            loss = loss + part / len(group)
            more = {name: g / len(group) for name, g in more.items()}
            grads = more if grads is None else {name: grads[name] + g for name, g in more.items()}
        return loss, grads

    return step
