"""How sure a difference between paired runs is, and how many pairs it would take to be sure."""

import functools
import math
from collections.abc import Sequence

import numpy as np

from ..storage.validate import check_count

_LIKE_NORMAL = 10_000  # degrees of freedom from which Student's t is the normal distribution


def interval(differences: Sequence[float], level: float) -> tuple[float, float, float]:
    """The mean of paired differences and its t interval -> (mean, low, high).

    Raises ValueError for fewer than two.
    """
    n = len(differences)
    check_count("the number of differences", n, least=2)
    values = np.asarray(differences, float)
    half = t_quantile((1 + level) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n)
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def pairs_needed(
    differences: Sequence[float], level: float = 0.95, power: float = 0.8
) -> int | None:
    """How many pairs it takes until an interval like the one above leaves out 0 with probability
    `power`, if the true mean and deviation are those of the paired `differences`; None where their
    mean is 0.

    The usual formula, the least n of at least 2 with n ≥ ((t₁ + t₂) s / d)²: d and s are mean and
    standard deviation, t₁ and t₂ the quantiles of Student's t with n − 1 degrees of freedom at
    (1 + level) / 2 and at `power`. Differences from few pairs are a guess at the true ones, and so
    is this number. Raises ValueError for fewer than two.
    """
    check_count("the number of differences", len(differences), least=2)
    values = np.asarray(differences, float)
    mean, deviation = abs(float(values.mean())), float(values.std(ddof=1))
    if mean == 0:
        return None

    def wanted(n):
        degrees = min(n - 1, _LIKE_NORMAL)
        quantiles = t_quantile((1 + level) / 2, degrees) + t_quantile(power, degrees)
        return (quantiles * deviation / mean) ** 2

    n = max(2, math.ceil(wanted(_LIKE_NORMAL + 1)))  # the least that it can be
    while n < wanted(n):
        n += 1
    return n


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution, by bisection of its integral, to 1e-9 or so;
    probability: at least ½.
    """
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        if _t_below(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@functools.cache  # an eigenvalue problem, which every step of a bisection needs
def _gauss():
    return np.polynomial.legendre.leggauss(80)


def _t_below(t, degrees):
    """P(T < t) for t ≥ 0: with t = √n tan θ the density is a power of cos θ."""
    end = math.atan(t / math.sqrt(degrees))
    nodes, weights = _gauss()
    theta = end * (nodes + 1) / 2
    integral = float((weights * np.cos(theta) ** (degrees - 1)).sum()) * end / 2
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    return 0.5 + math.exp(log_scale) / math.sqrt(math.pi) * integral
