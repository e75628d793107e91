"""A0, the warm-up: how each task is probed and what its points are for."""

from functools import cache
from pathlib import Path

import numpy as np

from .grader.arguments import made
from .mistakes import read_mistakes
from .signatures import Probe
from .tasks import Assignment, Task, layer, quarters, rng_of


def _gradient_probes(seed):
    rng = rng_of(seed, 1)

    def inputs(*shape):
        x, a = rng.standard_normal(shape), rng.standard_normal(shape)
        return {"x": x, "a": a, "h": 0.05}

    one = Probe("degenerate", inputs(1), "with a single coordinate")
    return [Probe("ordinary", inputs(2, 5)), one]


def _run_gradient(functions, inputs):
    """The numerical gradient of a function with third derivatives, and one where all x meet."""
    f = made("cubic_and_sine", inputs["a"])
    return {"gradient": functions.numerical_gradient(f, inputs["x"], inputs["h"])}


def _softmax_probes(seed):
    rng = rng_of(seed, 2)
    far = np.array([[1000.0, 0.0, -1000.0], [-1000.0, -1001.0, -999.0]])
    return [
        Probe("ordinary", {"z": 2 * rng.standard_normal((2, 5, 7))}),
        Probe("extreme", {"z": far}, "with logits of ±1000"),
        Probe("degenerate", {"z": rng.standard_normal((1, 1))}, "with a vocabulary of one"),
    ]


def _cross_entropy_probes(seed):
    rng = rng_of(seed, 3)

    def inputs(logits, targets):
        return {"logits": logits, "targets": np.array(targets), "dy": np.array(1.7)}

    far = np.array([[1000.0, 0.0, -1000.0], [20.0, 0.0, 3.0], [0.0, 0.5, 0.1]])
    return [
        Probe("ordinary", inputs(2 * rng.standard_normal((9, 7)), [3, -1, 0, 6, 2, -1, 5, 1, 2])),
        Probe("extreme", inputs(far, [1, 1, -1]), "with logits of ±1000"),
        Probe("degenerate", inputs(rng.standard_normal((1, 4)), [2]), "with a single row"),
        Probe("degenerate", inputs(rng.standard_normal((2, 4)), [-1, -1]), "with no target at all"),
    ]


@cache
def _source(variant=0):
    return (Path(__file__).parent / "sources" / "a0_warm_up.py").read_text(encoding="utf-8")


@cache
def assignment(variant: int = 0) -> Assignment:
    """A0, which has one variant -> Assignment."""
    gradient = Task(
        "0.1",
        "a numerical gradient",
        ("numerical_gradient",),
        {"value": 2.5, "manners": 0.5},
        _gradient_probes,
        _run_gradient,
        lesson="3",
    )
    softmax = Task(
        "0.2",
        "softmax",
        ("softmax",),
        {"value": 1, "extreme": 0.75, "manners": 0.25},
        _softmax_probes,
        lambda s, i: {"softmax": s.softmax(i["z"])},
        lesson="1",
    )
    cross_entropy = Task(
        "0.3",
        "the cross-entropy",
        ("cross_entropy_forward", "cross_entropy_backward"),
        quarters(5),
        _cross_entropy_probes,
        **layer(
            "cross_entropy", ("logits", "targets"), ("dlogits",), constants=("targets",), y="loss"
        ),
        lesson="3",
        nonlinear=True,
        every_row=False,
    )
    tasks = (gradient, softmax, cross_entropy)
    return Assignment("a0", "Warm-up", "warm_up.py", tasks, read_mistakes("a0"), _source, hours="1")
