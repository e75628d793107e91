"""How much memory there is for a process, and the sentence that is raised before it runs out."""

import contextlib
import os
from pathlib import Path

import numpy as np

from .. import backend
from .shapes import ArrayModule

# the files in which the two versions of Linux's control groups, as containers use them, say what a
# group may have at most: (where groups of this version are, the name of the file)
_GROUPS = {
    "": ("sys/fs/cgroup", "memory.max"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
}


def available(root: str = "/") -> int | None:
    """How many bytes of memory this process can have at most, or None where no system says so.

    The least of the machine's memory, the limits of the control groups that the process is in (a
    container's), and its own (`ulimit -v`). root: where /proc and /sys are.
    """
    limits = [*_of_machine(), *_of_groups(Path(root)), *_of_process()]
    return min(limits, default=None)


def check(needed: int, what: str, advice: str, xp: ArrayModule = np) -> None:
    """Raise MemoryError unless the process can have `needed` bytes of memory.

    what: words for what needs them; advice: what to lower; xp: the array module of the device that
    has to hold them; of a GPU the memory that is free counts.
    """
    on_gpu = backend.free_memory(xp)
    most = available() if on_gpu is None else on_gpu
    if most is not None and needed > most:
        place = "" if on_gpu is None else f" free on {backend.device_name(xp)}"
        raise MemoryError(
            f"{what} needs more than {describe(needed)} of memory, and there is"
            f" {describe(most)}{place}; {advice}"
        )


def describe(size: int) -> str:
    """A number of bytes, in words: "1,234 MiB", "56 GiB"."""
    return f"{size >> 20:,} MiB" if size < 16 << 30 else f"{size >> 30:,} GiB"


def _of_machine():
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_groups(root):
    """The limits of all control groups that this process is in, those above them included."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            for controller in controllers.split(","):
                if controller in _GROUPS:
                    place, file = _GROUPS[controller]
                    yield from _up_from(root / place, name, file)


def _up_from(place, name, file):
    group = Path(name)
    # a container may see its own group as the uppermost, under another name
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            yield int((place / str(folder).lstrip("/") / file).read_text())


def _of_process():
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield soft
