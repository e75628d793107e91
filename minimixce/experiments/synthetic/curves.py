"""What is written down of a run on its way."""

import numpy as np

from .. import matrices


def average_js(world, learned):
    """avg. JS of learned (V,V) over the rows that sequences of P come to: a corpus's world may have
    rows without data.
    """
    return matrices.average_js(world.probs[world.reachable], learned[world.reachable])


def surrogate(q, counts, eta):
    """What MixCE's surrogate prints, −(η + (1−η) q) log q, where the true loss is −η log q − (1−η)
    q: the same gradient. Nats per sequence, q and counts (V,V).
    """
    return float(
        -(counts * (eta + (1 - eta) * q) * np.log(np.maximum(q, 1e-300))).sum() / counts[0].sum()
    )


def curve_point(step, loss, q, job, world, counts):
    """A point of a job's curve, at the transition matrix q (V,V) -> dict.

    counts (V,V): what mixce's surrogate is printed on; the other objectives do not look at it.
    """
    point = {"step": step, "loss": float(loss), "avg_js": average_js(world, q)}
    if job.objective == "mixce":
        point["surrogate"] = surrogate(q, counts, job.eta)
    return point
