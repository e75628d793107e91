"""How many threads the linear algebra library may use."""

import contextlib
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

_MISSING = "--threads and --shards need threadpoolctl: pip install threadpoolctl"

_share_in_force = threading.Lock()


def limit_threads(count: int | None) -> AbstractContextManager[Any]:
    """A context that limits the linear algebra library to `count` threads; None leaves it as it is.

    Raises ValueError for a count out of range, and where threadpoolctl is missing.
    """
    if count is None:
        return contextlib.nullcontext()
    if not 1 <= count <= 1024:
        raise ValueError(f"--threads must be at least 1 and at most 1024, got {count}")
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise ValueError(_MISSING) from None
    return threadpool_limits(count)


def can_limit_threads() -> bool:
    """Whether threadpoolctl, which limits threads, is installed."""
    return importlib.util.find_spec("threadpoolctl") is not None


@contextlib.contextmanager
def share_of_threads(shards: int) -> Iterator[None]:
    """A context that gives each of `shards` shards its share of the linear algebra library's
    threads. The limit is the whole process's: where a run in another thread has set one, that one
    counts, since at its end a second would bring back what it found, the limit of the first.
    """
    if not _share_in_force.acquire(blocking=False):
        yield
        return
    try:
        with limit_threads(max(1, threads_in_use() // shards)):
            yield
    finally:
        _share_in_force.release()


def threads_in_use() -> int:
    """How many threads the linear algebra library would use now: after limit_threads and
    OMP_NUM_THREADS; 1 where threadpoolctl is missing.
    """
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return 1  # limit_threads says what is missing
    return max((library["num_threads"] for library in threadpool_info()), default=1)
