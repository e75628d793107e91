"""What is written down of a run on its way."""

from typing import Any, TypeAlias

import numpy as np

from ...storage.shapes import Array, Float, Scalar
from ...worlds import World
from .. import matrices
from .data import CodesAndLengths, Counts
from .job import Job

Curve: TypeAlias = list[dict[str, Any]]  # points, as curve_point makes them
# the learned transition matrix, the loss that was minimised (nats per sequence), steps, the curve
Fitted: TypeAlias = tuple[Float[Array, "V V"], float, int, Curve]


def average_js(world: World, learned: Float[Array, "V V"]) -> float:
    """avg. JS of learned (V,V) over the rows that sequences of P come to: a corpus's world may have
    rows without data.
    """
    return matrices.average_js(world.probs[world.reachable], learned[world.reachable])


def surrogate(q: Float[Array, "V V"], counts: Counts, eta: float) -> float:
    """What MixCE's surrogate prints, −(η + (1−η) q) log q, where the true loss is −η log q − (1−η)
    q: the same gradient. Nats per sequence; q and counts (V,V), eta: η.
    """
    return float(
        -(counts * (eta + (1 - eta) * q) * np.log(np.maximum(q, 1e-300))).sum() / counts[0].sum()
    )


def curve_point(
    step: int,
    loss: float | Scalar,
    q: Float[Array, "V V"],
    job: Job,
    world: World,
    counts: Counts | CodesAndLengths,
) -> dict[str, float]:
    """A point of a job's curve, at the transition matrix q (V,V) -> dict: step, loss (nats per
    sequence), avg_js against the world, and for mixce the surrogate.

    counts (V,V): what mixce's surrogate is printed on; the other objectives do not look at it.
    """
    point = {"step": step, "loss": float(loss), "avg_js": average_js(world, q)}
    if job.objective == "mixce" and not isinstance(counts, tuple):
        point["surrogate"] = surrogate(q, counts, job.eta)
    return point
