"""Where training of one softmax ends: the fixed points p w(q) = λ q of objectives over tokens.

In a context with next-token probabilities p, the expected gradient of an objective with the weight
w(q) is Σ_x p_x w(q_x) (q_v − 1[v = x]). It vanishes where p_v w(q_v) = λ q_v for every v, with λ =
Σ_x p_x w(q_x), the mean weight.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from ..objectives import OBJECTIVES, RATIOS, TokenTerms, check_objective_ratio, names
from ..storage.shapes import Array, Float

Formula: TypeAlias = Callable[[Array, Array, Any], Array]  # (p, λ, ratio) -> q


def mle_q(
    p: Float[Array, "..."], lam: Float[Array, "..."], ratio: float | None = None
) -> Float[Array, "..."]:
    """The q at which p w(q) = λ q with maximum likelihood's w, which is 1.

    p: probabilities of the data (…,V); lam: λ, which broadcasts with p -> q like p. ratio is not
    used: mle has none.
    """
    return p / lam


def mixce_q(p: Float[Array, "..."], lam: Float[Array, "..."], eta: float) -> Float[Array, "..."]:
    """The q at which p w(q) = λ q with MixCE's w; it sums to one at a single λ, above (1−η) max p.

    p: probabilities of the data (…,V); lam: λ, which broadcasts with p; eta: η -> q like p.
    """
    return eta * p / np.maximum(lam - (1 - eta) * p, 1e-300)


def tailr_q(p: Float[Array, "..."], lam: Float[Array, "..."], gamma: float) -> Float[Array, "..."]:
    """The q at which p w(q) = λ q with TaiLr's w, or 0 where that would be negative.

    p: probabilities of the data (…,V); lam: λ, which broadcasts with p; gamma: γ, below 1 -> q like
    p.
    """
    return np.maximum(0, (p / lam - gamma) / (1 - gamma))


FORMULAS: dict[object, Formula] = {
    "mle": mle_q,
    "mixce": mixce_q,
    "mixce_surrogate": mixce_q,
    "tailr": tailr_q,
}


def fixed_point(
    objective: str | TokenTerms,
    p: Float[Array, "*batch V"] | Sequence[Any],
    ratio: float | None = None,
) -> tuple[Float[Array, "*batch V"], Float[Array, "*batch"]]:
    """Where training with an objective ends in contexts with the data p -> q like p, and λ.

    objective: a name in objectives.OBJECTIVES, or a function f_and_w(log_q, ratio, xp) as its rows
    have them, with w(q)/q falling in q. p (V,) or (S,V): each row sums to one, and so does that of
    q; λ is one number a row, () or (S,). ratio: η or γ. Raises ValueError for an objective without
    such a w, and for the ratios at which all mass on any one token is a fixed point: η = 0 of mixce
    and γ = 1 of tailr.

    >>> from minimixce.experiments.fixed_points import fixed_point
    >>> q, lam = fixed_point("mixce", [0.75, 0.25], 0.5)
    >>> q.round(3).tolist()
    [0.823, 0.177]
    """
    f_and_w = objective if callable(objective) else _f_and_w(objective, ratio)
    q_of = FORMULAS.get(objective) or _inverse(f_and_w)
    p = np.asarray(p, dtype=float)
    low, high = np.zeros((*p.shape[:-1], 1)), np.ones((*p.shape[:-1], 1))
    if q_of is mixce_q and ratio is not None:
        # between λ where the sum is infinite and λ where q ≤ p
        low = (1 - ratio) * p.max(axis=-1, keepdims=True)
        high = low + ratio
    while (too_low := q_of(p, high, ratio).sum(axis=-1, keepdims=True) > 1 + 1e-12).any():
        low, high = np.where(too_low, high, low), np.where(too_low, 2 * high, high)
    for _ in range(200):
        lam = (low + high) / 2
        too_low = q_of(p, lam, ratio).sum(axis=-1, keepdims=True) > 1
        low, high = np.where(too_low, lam, low), np.where(too_low, high, lam)
    return q_of(p, high, ratio), high[..., 0]


def _f_and_w(objective: str, ratio: float | None) -> TokenTerms:
    row = OBJECTIVES.get(objective)
    if row is None or row.f_and_w is None:
        known = ", ".join(name for name in names() if OBJECTIVES[name].f_and_w)
        raise ValueError(f"objective must be one of {known}, got {objective!r}")
    if row.ratio:
        check_objective_ratio(objective, cast(float, ratio))  # None is refused there
        if ratio == RATIOS[row.ratio].degenerate:
            raise ValueError(
                f"{row.ratio} must not be {ratio} for {objective}: all mass on any one token is a"
                " fixed point there"
            )
    return row.f_and_w


def _inverse(f_and_w: TokenTerms) -> Formula:
    """A formula like the others for any w, by bisection: the largest q with p w(q) ≥ λ q.

    It looks beyond 1, up to 2, since the sum has to rise above one where λ is too low.
    """

    def q_of(p, lam, ratio):
        low, high = np.zeros(p.shape), np.full(p.shape, 2.0)
        for _ in range(100):
            q = (low + high) / 2
            _, w = f_and_w(np.log(q), ratio, np)
            too_low = p * w > lam * q
            low, high = np.where(too_low, q, low), np.where(too_low, high, q)
        return low

    return q_of
