"""How the checks of gpu.py are run: a device, a list of checks, one line each.

A check is a function of a Bench. It returns None or words, and has passed; or a dict of numbers,
which are figures; or raises: Skip where it cannot be run here, anything else where it has failed.
"""

import contextlib
import dataclasses
import json
import math
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import minimixce as mm
from minimixce import backend

TESTS = Path(__file__).parents[1] / "tests"


class Skip(Exception):
    """Why a check cannot be run here."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is checked. device: cuda, cuda:N, cpu, or strict, a GPU played on the CPU; xp: its array
    module; quick: small shapes only; torch: the module, where it sees the device.
    """

    device: str
    xp: Any
    quick: bool
    torch: Any = None

    @property
    def is_gpu(self):
        return self.device.startswith("cuda")

    @property
    def model_device(self):
        """What models of this device are made with."""
        return "cuda" if self.device == "strict" else self.device

    def wait(self):
        """Until the device has done all it was told to."""
        if self.is_gpu:
            self.xp.cuda.get_current_stream().synchronize()

    def free(self):
        """Hand the pools' unused memory back."""
        if self.is_gpu:
            self.xp.get_default_memory_pool().free_all_blocks()
            if self.torch:
                self.torch.cuda.empty_cache()


def open_bench(device, quick):
    """The Bench of a device by name. Raises ValueError where it is not there."""
    if device == "strict":
        sys.path.insert(0, str(TESTS))
        import strict_device

        backend.select_device = lambda name="auto": np if name == "cpu" else strict_device
        return Bench(device, strict_device, quick)
    xp = backend.select_device(device)
    return Bench(device, xp, quick, _torch(device))


def _torch(device):
    try:
        import torch
    except ImportError:
        return None
    return torch if device == "cpu" or torch.cuda.is_available() else None


# ---- checks --------------------------------------------------------------------------------------

CHECKS: list[tuple[str, int, Callable[[Bench], Any]]] = []


def check(name, seconds=120):
    """List a function as the check `name`, "group: what", which may take so many seconds."""

    def listed(function):
        CHECKS.append((name, seconds, function))
        return function

    return listed


def group_of(name):
    """The group of a check: what stands before the colon of its name."""
    return name.partition(":")[0]


def groups_of_checks():
    """The groups of all listed checks."""
    return {group_of(name) for name, _, _ in CHECKS}


def run_checks(bench, groups, label=""):
    """Run the listed checks of these groups (all for none), print a line each -> list of dicts."""
    return [
        _run(bench, label + name, seconds, function)
        for name, seconds, function in CHECKS
        if not groups or group_of(name) in groups
    ]


def _run(bench, name, seconds, function):
    started = time.perf_counter()
    try:
        with _limited_to(seconds):
            found = function(bench)
        state = "FIGURE" if isinstance(found, dict) else "PASS"
    except Skip as why:
        state, found = "SKIP", str(why)
    except Exception as error:  # whatever it is, the other checks are still to be run
        state = "FAIL"
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    finally:
        bench.free()
    result = {
        "check": name,
        "state": state,
        "found": found or "",
        "seconds": round(time.perf_counter() - started, 2),
    }
    print_line(result)
    return result


@contextlib.contextmanager
def _limited_to(seconds):
    def late(*_):
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def print_line(result):
    """One line on a check."""
    found = result["found"]
    if isinstance(found, dict):
        found = ", ".join(f"{name} {_rounded(value)}" for name, value in found.items())
    line = f"{result['state']:6s} {result['check']:<48s} {found}"
    print(f"{line}  [{result['seconds']} s]", flush=True)


def _rounded(value):
    return f"{value:.3g}" if isinstance(value, float) else value


def write_results(path, machine, results):
    """Write all of it as JSON."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"machine": machine, "checks": results}, file, indent=1)


# ---- what checks share ---------------------------------------------------------------------------


def host(x):
    """x as a NumPy array of float64."""
    x = backend.to_numpy(x) if backend.is_array(x) else x
    return np.asarray(x, np.float64)


def far(found, expected, floor=1e-30):
    """max|found − expected| / max|expected|; infinite where they are finite in other places."""
    a, b = host(found), host(expected)
    if a.shape != b.shape:
        raise AssertionError(f"shapes {a.shape} and {b.shape}")
    finite = np.isfinite(b)
    if not np.array_equal(np.isfinite(a), finite):
        return math.inf
    a, b = a[finite], b[finite]
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), floor))


def far_by_name(found, expected):
    """The largest `far` of two dicts of arrays."""
    if list(found) != list(expected):
        raise AssertionError(f"names {list(found)} and {list(expected)}")
    return max(far(found[name], expected[name], 1e-8) for name in expected)


def below(value, limit, what):
    """Words, or an AssertionError for a value above the limit."""
    if not value <= limit:
        raise AssertionError(f"{what} {value:.2e} is above {limit:.0e}")
    return f"{what} {value:.1e} (limit {limit:.0e})"


def worst_below(errors, limit):
    """The same of the largest of a dict of errors."""
    worst = max(errors, key=errors.get)
    return below(errors[worst], limit, f"worst of {len(errors)} ({worst})")


def claim(holds, words):
    """AssertionError with these words unless something holds."""
    if not holds:
        raise AssertionError(words)


def random_gpt(xp, V=23, T=16, L=2, H=2, C=16, dropout=0.0, dtype="float64", scale=10.0):
    """The same GPT on the CPU or a device, with weights large enough for every part to matter."""
    model = mm.GPT(mm.GPTConfig(V, T, L, H, C, dropout, dtype), seed=0, device="cpu")
    rng = np.random.default_rng(0)

    def moved(p):
        p = p * scale if p.ndim > 1 else p + 0.1 * rng.standard_normal(p.shape)
        return xp.asarray(p.astype(dtype))

    model.params = {name: moved(p) for name, p in model.params.items()}
    return model


def seconds_of(bench, function, repeats=10, warm=3):
    """Median of the seconds of a call, the device idle before and after."""
    for _ in range(warm):
        function()
    times = []
    for _ in range(repeats):
        bench.wait()
        started = time.perf_counter()
        function()
        bench.wait()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


@contextlib.contextmanager
def counted_reads(bench):
    """A Counter of the lines of the package that wait for the device, while inside."""
    found = Counter()

    def note():
        frame = sys._getframe(1)
        while frame and "minimixce" not in frame.f_code.co_filename:
            frame = frame.f_back
        line = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "outside"
        found[line] += 1

    if bench.is_gpu:  # every ndarray.get and Device.synchronize of CuPy calls this function
        from cupy._core import syncdetect as home

        name = "_declare_synchronize"
    elif bench.device == "strict":
        home, name = bench.xp, "_count"
    else:
        raise Skip("needs a device")
    before = getattr(home, name)
    setattr(home, name, lambda: (before(), note()))
    try:
        yield found
    finally:
        setattr(home, name, before)
