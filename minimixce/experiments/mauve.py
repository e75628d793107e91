"""MAUVE, by the library of its authors, which is imported only here, and only where it is asked
for.

mauve-text is under the GNU GPL, version 3; this package is not, and neither contains nor needs it.
"""

from typing import Any

import numpy as np

from ..storage import validate
from ..storage.shapes import Array, Float

LEAST = 20  # texts of each kind: with fewer, mauve-text takes its least number of clusters, two
RELIABLE = 1000  # texts below which a number says little by itself

_MISSING = (
    "MAUVE needs the library mauve-text, which is under the GPL and therefore in an extra of its"
    ' own: pip install "minimixce[mauve]"'
)


def check_library() -> None:
    """Raise ValueError, with the command that installs it, where mauve-text is not installed."""
    _library()


def _library() -> Any:
    """The module `mauve`. It imports PyTorch where that is installed, and does without."""
    try:
        import mauve
    except ImportError:
        raise ValueError(_MISSING) from None
    return mauve


def check_count(count: int) -> None:
    """Raise ValueError for a `count` of texts that is too small for MAUVE."""
    if count < LEAST:
        raise ValueError(
            f"MAUVE needs at least {LEAST} texts of each kind, got {count}; take more (--samples),"
            " of more held-out text (--eval-tokens)"
        )


def mauve(human: Float[Array, "n d"], model: Float[Array, "m d"], seed: int = 25) -> float:
    """MAUVE between two sets of texts, by their features -> a number from 0 (no text of one is like
    one of the other) to 1.

    human, model: a vector for each text (embeddings.last_states). The library makes them unit
    vectors, keeps the principal components that hold 90 % of their variance, groups them into a
    tenth as many clusters as there are texts in the smaller set, and compares how the two sets fall
    into these (Pillutla et al. 2021; scaling factor 5, 25 points of the curve). All settings are
    the library's own; seed: of its clusters. The number depends on the features and on how many
    texts there are, so compare only numbers with the same of both. Raises ValueError for fewer than
    LEAST texts, features of two widths or not finite, and without the library.
    """
    human, model = (validate.to_array("features", x, "fiu", "numbers") for x in (human, model))
    if human.ndim != 2 or model.ndim != 2 or human.shape[1] != model.shape[1] or not human.shape[1]:
        raise ValueError(
            f"features must have shapes (n, d) and (m, d), got {human.shape} and {model.shape}"
        )
    check_count(min(len(human), len(model)))
    validate.check_finite("features", human)
    validate.check_finite("features", model)
    found = _library().compute_mauve(p_features=human, q_features=model, seed=seed, verbose=False)
    if np.array_equal(found.p_hist, found.q_hist):
        return 1.0  # all points of the curve are ties, which the library sorts as it likes: 0.75
    return float(found.mauve)
