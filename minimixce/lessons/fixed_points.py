"""Where training of one softmax ends, by the formulas that lesson 3 derives."""

import numpy as np


def mixce_q(p, lam, eta):
    """The q (V,) at which p w(q) = λ q with MixCE's w; it sums to one at a single λ."""
    return eta * p / (lam - (1 - eta) * p)


def tailr_q(p, lam, gamma):
    """The same with TaiLr's w, or 0 where that would be negative."""
    return np.maximum(0, (p / lam - gamma) / (1 - gamma))


def fixed_point(formula, p, ratio):
    """Where training ends in a context with data p (V,) -> q, which sums to one, and its λ.

    formula: mixce_q or tailr_q, with its ratio η or γ; q = formula(p, λ, ratio).
    """
    # λ, a mean weight, is at most 1
    low, high = ((1 - ratio) * p.max() if formula is mixce_q else 0), 1
    for _ in range(100):
        lam = (low + high) / 2
        low, high = (lam, high) if formula(p, lam, ratio).sum() > 1 else (low, lam)
    return formula(p, high, ratio), high
