"""The table of assignments, by name."""

from collections.abc import Callable
from functools import cache

from . import a0, a1, a2, a3
from .tasks import Assignment

_MAKE: dict[str, Callable[..., Assignment]] = {
    "a0": a0.assignment,
    "a1": a1.assignment,
    "a2": a2.assignment,
    "a3": a3.assignment,
}
NAMES = tuple(_MAKE)


@cache
def assignment(name: str, variant: int = 0) -> Assignment:
    """An assignment in one of its variants -> Assignment. Raises ValueError for another."""
    if name not in _MAKE:
        raise ValueError(f"assignment must be one of {', '.join(NAMES)}, got {name!r}")
    variants = _MAKE[name](0).variants
    if not isinstance(variant, int) or not 0 <= variant < variants:
        raise ValueError(f"variant must be in 0 … {variants - 1} for {name}, got {variant}")
    return _MAKE[name](variant)
