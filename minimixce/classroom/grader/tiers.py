"""Which tier of isolation to use: each is tried by an attack before it is used.

isolation.py says what the tiers are and starts a sandbox in one; attack.py is what they must hold
against.
"""

import os
import shutil
import sys
from typing import NamedTuple

from .attack import escapes
from .isolation import TIERS

_WARNING = "grade only code that you would run yourself"


class Isolation(NamedTuple):
    """A tier that was tried and works. notes: why better ones do not, and what to bear in mind."""

    tier: str
    notes: tuple[str, ...] = ()


def choose(wanted: str = "auto") -> Isolation:
    """The isolation to use -> Isolation. "auto": the best tier that works here, "none" excepted.

    Every tier is tried by a program that does what it should not be able to do. Raises ValueError,
    with the reasons, where the wanted tier, or any for "auto", does not work.
    """
    if wanted == "none":
        return Isolation("none", (_WARNING,))
    reasons: list[str] = []
    for tier in TIERS[:-1] if wanted == "auto" else (wanted,):
        why_not = reason_against(tier)
        if not why_not:
            return Isolation(tier, tuple(reasons))
        reasons.append(f"{tier}: {why_not}")
    said = "; ".join(reasons)
    if wanted == "auto":
        said += f"; without any, --isolation none: {_WARNING}"
    raise ValueError(f"isolation {wanted} does not work here: {said}")


def reason_against(tier: str) -> str:
    """Why a tier cannot be used here, or "" if it was tried and holds.

    tier: one of isolation.TIERS; "none" can always be used. Raises ValueError for another.
    """
    if tier not in TIERS:
        raise ValueError(f"isolation must be auto, {', '.join(TIERS)}, got {tier!r}")
    if tier == "none":
        return ""
    if sys.platform != "linux" and tier != "docker":
        return "only on Linux"
    if tier in ("bwrap", "docker") and shutil.which(tier) is None:
        install = {"bwrap": "apt install bubblewrap", "docker": "see docs.docker.com"}[tier]
        return f"{tier} is not installed ({install})"
    if tier == "user" and os.geteuid() != 0:
        return "needs root, to become another user"
    return escapes(tier)
