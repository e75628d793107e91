"""Forwards that are too poor for their derivative to be worth points.

A constant forward with a zero backward is consistent, and so is a linear stand-in for a layer that
is not linear: the points for consistency want a forward that is nearly the right one.
"""

from collections.abc import Sequence

import numpy as np

from .catalogue import Catalogue, Outcome, anew, copied
from .returns import Watched
from .signatures import Functions, MakePair


def degenerate(
    catalogue: Catalogue,
    functions: Functions,
    outcome: Outcome,
    pair: MakePair,
    names: Sequence[str],
) -> str:
    """Why the forward of the ordinary probe is too poor, in a sentence, or "".

    outcome: of the ordinary probe; pair: one of the task's; names: of the gradients that are
    judged. Raises what the student's functions raise.
    """
    task, right = catalogue.task, catalogue.right[0].outputs
    called = task.words.forward
    forward, _, varied = pair(Watched(anew(functions)), copied(outcome.probe.inputs))
    of_reference, _, _ = pair(catalogue.reference, copied(outcome.probe.inputs))
    y, expected = _flat(forward, varied), _flat(of_reference, varied)
    if y.shape != expected.shape:
        return f"{called} returns {y.size} numbers, not {expected.size}"
    size = float(np.linalg.norm(y) * np.linalg.norm(expected))
    if float((y * expected).sum()) < 0.5 * size:
        return f"{called} is so far from the right one that it is another function"
    for name in names:
        found = outcome.outputs.get(name)
        if found is None or np.linalg.norm(found) < 0.01 * np.linalg.norm(right[name]):
            return f"{name} is nearly zero"
    return _hardly_responds(task, forward, varied, y)


def _flat(forward, varied):
    """y of a pair's forward, one array or several, as one vector."""
    y = forward(*varied.values())[0]
    parts = y if isinstance(y, (tuple, list)) else (y,)
    return np.concatenate([np.asarray(part, float).reshape(-1) for part in parts])


def _hardly_responds(task, forward, varied, y):
    """Whether y responds to the first input in few directions, linearly, or in few rows."""
    rng = np.random.default_rng(0)
    called = task.words.forward
    name, x = next(iter(varied.items()))

    def moved(step):
        return _flat(forward, varied | {name: x + step}) - y

    steps = [rng.standard_normal(x.shape) for _ in range(3)]
    responses = np.array([moved(1e-3 * step) for step in steps])
    singular = np.linalg.svd(responses, compute_uv=False)
    if y.size >= 3 and singular[-1] < 1e-6 * singular[0]:
        return f"{called} responds to {name} in fewer than three directions"
    if task.nonlinear and np.allclose(moved(steps[0]), -moved(-steps[0]), rtol=1e-6, atol=1e-9):
        return f"{called} is linear in {name}"
    for row in _used_rows(task, x):
        step = np.zeros_like(x)
        step[row] = rng.standard_normal(x.shape[1:])
        if not moved(0.1 * step).any():
            return f"{called} does not depend on row {row} of {name}"
    return ""


def _used_rows(task, x):
    """Rows of the first input that y has to depend on."""
    return range(len(x)) if x.ndim and task.every_row else ()
