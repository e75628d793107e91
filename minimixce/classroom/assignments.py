"""The table of assignments, by name."""

from functools import cache

from . import a1

_MAKE = {"a1": a1.assignment}
NAMES = tuple(_MAKE)


@cache
def assignment(name, variant=0):
    """An assignment in one of its variants -> Assignment. Raises ValueError for another."""
    if name not in _MAKE:
        raise ValueError(f"assignment must be one of {', '.join(NAMES)}, got {name!r}")
    made = _MAKE[name](variant)
    if not isinstance(variant, int) or not 0 <= variant < made.variants:
        raise ValueError(f"variant must be in 0 … {made.variants - 1} for {name}, got {variant}")
    return made
