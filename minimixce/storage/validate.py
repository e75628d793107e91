"""What arguments must be: each check raises one sentence that names the argument, what came and
what is allowed."""

from typing import Any

import numpy as np

from .shapes import Array, Float

_TOLERANCE = 1e-9  # by how much a row of probabilities may miss a sum of one


class NotFinite(ValueError, FloatingPointError):
    """Numbers that had to be finite are not."""


class WithTable(ValueError):
    """A refusal of one sentence, and a table (several lines) that shows why."""

    def __init__(self, sentence: str, table: str) -> None:
        super().__init__(sentence, table)
        self.sentence = sentence
        self.table = table

    def __str__(self) -> str:
        return f"{self.sentence}\n{self.table}"


def check_finite(name: str, value: Any, infinite: bool = False) -> None:
    """Raise NotFinite unless `value`, a number or a NumPy array, is finite; with infinite=True only
    NaN is refused. An array on a GPU passes, since the look would make the device wait: there it is
    taken where numbers are brought to the host anyway.
    """
    if not isinstance(value, (np.ndarray, np.generic, int, float)):
        return
    bad = np.isnan(value) if infinite else ~np.isfinite(value)
    if bad.any():
        raise NotFinite(f"{name} must be finite, got {np.asarray(value)[bad][0]}")


def check_integer(name: str, value: object) -> None:
    """Raise TypeError unless `value` is an integer; a bool does not count."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r:.80}")


def check_count(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int. TypeError unless it is an integer, ValueError unless it is >= least."""
    check_integer(name, value)
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_number(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is a real number; a bool does not count."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r:.80}")


def check_ratio(name: str, value: Any) -> float:
    """`value` as a float, since a NumPy scalar would change the dtype of what it multiplies.

    TypeError or ValueError unless it is a number in [0, 1]; NaN is not.
    """
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
    return float(value)


def check_horizon(max_len: Any) -> None:
    """Raise ValueError unless `max_len` can be a horizon: an integer of at least 1."""
    if isinstance(max_len, bool) or not isinstance(max_len, (int, np.integer)) or max_len < 1:
        raise ValueError(f"max_len must be an integer, at least 1, got {max_len!r}")


def to_array(name: str, value: Any, kinds: str, what: str) -> Array:
    """`value`, an array or nested lists, as a NumPy array whose dtype.kind is one of `kinds`.

    what: the words for them, in the TypeError that is raised otherwise.
    """
    try:
        array = np.array(value)
    except (TypeError, ValueError):  # a ragged list, an array on a GPU
        array = np.array(None)
    if array.dtype.kind not in kinds:
        got = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"{name} must be a NumPy array or a list of {what}, got {got}")
    return array


def check_probs(name: str, value: Any) -> Float[Array, "S V"]:
    """`value` as (S,V) float64 with rows that sum to one.

    Rows that do so except for rounding keep their bits, so files round-trip. Raises TypeError or
    ValueError.
    """
    probs = to_array(name, value, "fiu", "numbers").astype(np.float64, copy=False)
    if probs.ndim != 2 or probs.shape[0] < 1 or probs.shape[1] < 2:
        raise ValueError(f"{name} must have shape (S,V) with S ≥ 1 and V ≥ 2, got {probs.shape}")
    if not (probs >= 0).all():
        raise ValueError(f"{name} must hold probabilities, got {probs.min()}")
    total = probs.sum(axis=1, keepdims=True)
    off = np.abs(total - 1)
    if not off.max() <= _TOLERANCE:
        row = int(off.argmax())
        raise ValueError(
            f"{name} must have rows that sum to one, but row {row} sums to {total[row, 0]:.12g}"
        )
    crooked = off[:, 0] > probs.shape[1] * np.finfo(np.float64).eps
    probs[crooked] /= total[crooked]
    return probs


def check_text(name: str, value: str) -> None:
    """Raise ValueError for a string with lone surrogates, which no file can hold."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} must be text that UTF-8 can hold, without lone surrogates, got"
            f" {value[error.start]!r}"
        ) from None
