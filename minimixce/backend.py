"""The only file that knows NumPy from CuPy, except for a GPU's kernels (fast/kernels.py).

Everything else asks an array where it lives (`array_module`) and stays there. A device is chosen
once, where a model is made or loaded; from then on functions follow their arrays, and mixing arrays
of two devices is an error, never a copy.
"""

import contextlib
import ctypes
import importlib
import re
import sys
import types
import warnings
from typing import Any

import numpy as np

from .storage.shapes import Array, ArrayModule, Float, Int, RandomGenerator, Seed


def array_module(x: Array) -> ArrayModule:
    """The module `x` belongs to (numpy, cupy): `xp = array_module(x)` and then `xp.exp(x)`.

    Raises TypeError for anything that is not an array, a list for example.
    """
    xp = sys.modules.get(type(x).__module__.partition(".")[0])
    if xp is None or not hasattr(xp, "ndarray"):
        raise TypeError(f"expected a NumPy or CuPy array, got {type(x).__name__}")
    return xp


def is_array(x: object) -> bool:
    """Whether array_module knows where `x` lives."""
    return hasattr(sys.modules.get(type(x).__module__.partition(".")[0]), "ndarray")


def check_array(name: str, x: Any) -> ArrayModule:
    """array_module of an argument `x`; the TypeError it may raise calls it `name`."""
    if not is_array(x):
        raise TypeError(f"{name} must be a NumPy or CuPy array, got {type(x).__name__}")
    return array_module(x)


def select_device(device: str = "auto") -> ArrayModule:
    """Return the array module for `device`: "auto", "cpu", "cuda" or "cuda:N".

    "auto" is the first CUDA device if CuPy finds one, else the CPU. "cuda:N" makes device N the
    calling thread's current device, which is where CuPy then works; every other thread still works
    on device 0, unless it asks for the device, too. Raises ValueError for another name or a missing
    device.
    """
    if device == "cpu":
        return np
    if device == "auto":
        return np if _why_no_cuda() else _cupy()
    match = re.fullmatch(r"cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if match is None:
        raise ValueError(f'device must be "auto", "cpu", "cuda" or "cuda:N", got {device!r}')
    if reason := _why_no_cuda():
        raise ValueError(f"device {device!r} is not available: {reason}")
    cupy, count = _cupy(), _cupy().cuda.runtime.getDeviceCount()
    if match[1] is not None:
        if int(match[1]) >= count:
            raise ValueError(
                f"device {device!r} is not available: CUDA devices here are cuda:0 to"
                f" cuda:{count - 1}"
            )
        cupy.cuda.Device(int(match[1])).use()
    return cupy


def _cupy() -> ArrayModule:
    import cupy

    return cupy


def _why_no_cuda() -> str | None:
    """None where CUDA works, else what is missing, in words."""
    try:
        cupy = _cupy()
    except ImportError as error:
        return (
            f'CuPy does not import ({error}); install it with pip install "minimixce[cuda12]" (or'
            " cuda13)"
        )
    if not cupy.cuda.is_available():
        return "CuPy is installed, but finds no CUDA driver or GPU"
    try:  # a GPU is not enough: kernels need NVRTC and products need cuBLAS
        ones = cupy.ones((2, 2), dtype="float32")
        float((ones @ ones).sum())
    except Exception as error:
        return (
            f"CuPy finds a GPU but cannot compute on it ({error}); the extras cuda12 and cuda13"
            " bring the CUDA libraries"
        )
    return None


def cupy_version() -> str:
    """Which CuPy is installed, in words; it has a name for each version of CUDA."""
    import importlib.metadata

    for name in ("cupy", "cupy-cuda12x", "cupy-cuda13x"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"CuPy {importlib.metadata.version(name)} ({name})"
    return "CuPy not installed"


def current_device(xp: ArrayModule) -> tuple[str, int]:
    """A key for arrays that are made with xp now, which tells them from other devices'."""
    return xp.__name__, xp.cuda.runtime.getDevice() if hasattr(xp, "cuda") else 0


def nccl(xp: ArrayModule) -> Any:
    """CuPy's module of NCCL, by which GPUs send each other arrays, or None where there is none.

    xp: the array module. NumPy has none, nor has CuPy where the library, which the extras nccl12
    and nccl13 bring, is not installed.
    """
    if xp is np:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy's, of several lines a process, that it is missing
        try:
            found = importlib.import_module(f"{xp.__name__}.cuda.nccl")
        except ImportError:
            return None
    return found if found.available else None


def device_name(xp: ArrayModule) -> str:
    """A name to print of xp's current device: "CPU", or the GPU's own."""
    if xp is np:
        return "CPU"
    device = xp.cuda.runtime.getDevice()
    return f"cuda:{device} ({xp.cuda.runtime.getDeviceProperties(device)['name'].decode()})"


def free_memory(xp: ArrayModule) -> int | None:
    """How many bytes arrays made with the module xp can still take, or None for NumPy.

    On a GPU this is what its driver calls free and what CuPy's pool keeps of freed arrays; what the
    host has, storage.memory knows.
    """
    if xp is np:
        return None
    free, _ = xp.cuda.runtime.memGetInfo()
    return int(free + xp.get_default_memory_pool().free_bytes())


def check_ids(name: str, ids: Int[Array, "*shape"], vocab_size: int, ignored: bool = False) -> None:
    """Raise ValueError unless all `ids` are in 0 … vocab_size−1, or, with ignored=True, −1.

    Models and objectives ask this of ids on the host, and so does fit of its batches before they
    leave it. Of ids that are on a GPU they do not: the look waits for the device. There CuPy wraps
    what is out of range around, without an error (id V is read as id 0, a gradient added to its
    row), so ask this once of ids that you hand to forward or to an objective yourself. ids: of
    any shape, on any device; name: what the sentence calls them.
    """
    if not ids.size:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < -ignored or high >= vocab_size:
        allowed = f"0 … {vocab_size - 1}{', or −1' if ignored else ''}"
        raise ValueError(f"{name} must be in {allowed}, got {low} … {high}")


def to_numpy(x: Array) -> Array:
    """`x`, of any shape, as a NumPy array.

    From a GPU this copies and waits, so only callers that want a number do it.
    """
    return x if isinstance(x, (np.ndarray, np.generic)) else x.get()


def add_rows(
    target: Float[Array, "V ..."], index: Int[Array, " N"], rows: Float[Array, "N ..."]
) -> Float[Array, "V ..."]:
    """target[index[n]] += rows[n] for every n, in place, repeated indices adding up.

    index (N,), rows (N,C) -> target. A GPU adds in the order in which its threads happen to come,
    so two runs there differ in rounding.
    """
    if not isinstance(target, np.ndarray):
        array_module(target).add.at(target, index, rows)
        return target
    # NumPy's add.at takes several times as long as sorting and adding up runs
    order = np.argsort(index, kind="stable")
    index = index[order]
    first = np.flatnonzero(np.diff(index, prepend=-1))
    if len(index):
        target[index[first]] += np.add.reduceat(rows[order], first, axis=0)
    return target


def blocks(x: Float[Array, " N"]) -> list[slice]:
    """Slices that cover the vector `x` (N,): on the CPU short ones, on a GPU one.

    A chain of element-wise operations that is done block by block finds its operands in the cache,
    not in memory; on a GPU every operation of every block would be one more kernel to launch.
    """
    size = 1 << 15 if isinstance(x, np.ndarray) else max(1, len(x))
    return [slice(start, start + size) for start in range(0, len(x), size)]


def rng(seed: Seed, xp: ArrayModule) -> RandomGenerator:
    """A random generator on xp's device from an integer seed; a generator passes through.

    xp: the array module. Raises ValueError for another seed.
    """
    # numpy.random has a function random, too, but it is a module.
    if hasattr(seed, "random") and not isinstance(seed, types.ModuleType):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer or a random generator, got {seed!r}")
    # CuPy's default generator takes long to set up, and a run makes one a step
    if hasattr(xp.random, "Philox4x3210"):
        return xp.random.Generator(xp.random.Philox4x3210(int(seed)))
    return xp.random.default_rng(int(seed))


def reuse_freed_memory() -> bool:
    """Have the C library keep freed blocks for the next array, not return them to the kernel.

    NumPy's large temporaries are otherwise mapped, faulted in and unmapped at every operation,
    which can cost a third of a training step (CuPy's memory pool does the same for a GPU). This
    changes the whole process, so importing minimixce never does it; the command line does, and
    scripts may. Returns False where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
    return bool(mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, (1 << 31) - 1))
