"""What a report of a problem should say: versions, libraries, threads and device."""

import platform

import numpy as np

from .. import __version__, backend
from ..training import threads


def describe_versions() -> list[str]:
    """One line each: the package, Python, NumPy with its linear algebra library and that library's
    threads, CuPy, and the device that "auto" chooses.
    """
    return [
        f"minimixce {__version__}",
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"NumPy {np.__version__}, {_linear_algebra()}",
        backend.cupy_version(),
        f"device {backend.device_name(backend.select_device('auto'))}",
    ]


def _linear_algebra() -> str:
    """The library that NumPy was built with, and where threadpoolctl can tell, its kernels and
    threads, on which the last digits of results depend.
    """
    built = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    name = f"{built.get('name', 'unknown')} {built.get('version', '')}".strip()
    if not threads.can_limit_threads():
        return f"{name}, threads unknown (threadpoolctl is not installed)"
    from threadpoolctl import threadpool_info

    loaded = [library for library in threadpool_info() if library["user_api"] == "blas"]
    if not loaded:
        return name
    kernels = loaded[0].get("architecture")
    count = loaded[0]["num_threads"]
    parts = [name, f"{kernels} kernels" if kernels else "", f"{count} thread{'s' * (count != 1)}"]
    return ", ".join(filter(None, parts))
