"""Processes that run jobs side by side, and end when their parent does."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

from .. import backend


@contextlib.contextmanager
def worker_pool(workers: int, jobs: int) -> Iterator[tuple[Executor | None, int]]:
    """A context with (executor, number of workers) for `jobs` jobs; the executor is None where they
    are best run one after another in this process.

    workers: how many processes, 0 for one a core; never more than jobs. Under `python -m
    mpi4py.futures` the executor is MPI's, and uses all its ranks; `workers` is ignored. A job has
    one thread of linear algebra, wherever it runs, since their number would change the last digits
    of its results; OMP_NUM_THREADS, where it is set, says otherwise. When the context ends with an
    exception, Ctrl-C included, the workers are ended at once, in the middle of their jobs. Raises
    ValueError for workers below 0.
    """
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    threads = os.environ.get("OMP_NUM_THREADS")  # read by workers as they start
    if on_mpi():
        from mpi4py import MPI
        from mpi4py.futures import MPIPoolExecutor

        with MPIPoolExecutor(env={"OMP_NUM_THREADS": threads or "1"}) as executor:
            try:
                yield executor, max(1, MPI.COMM_WORLD.Get_size() - 1)
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                raise
        return
    count = count_workers(workers, jobs)
    if count == 1 and (threads or not jobs):
        yield None, 1
        return
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        count, context, initializer=end_with_parent, initargs=(os.getpid(),)
    ) as executor:
        try:
            os.environ["OMP_NUM_THREADS"] = threads or "1"
            with without_interrupts():
                for _ in range(count):
                    executor.submit(int)  # starts a worker
            yield executor, count
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        finally:
            if not threads:
                del os.environ["OMP_NUM_THREADS"]


def on_mpi() -> bool:
    """Whether this is the first process of `python -m mpi4py.futures`, whose others are workers."""
    return "mpi4py.futures" in sys.modules


def count_workers(workers: int, jobs: int) -> int:
    """How many of `jobs` jobs run at a time, with `workers` as in worker_pool and without MPI."""
    return max(1, min(workers or os.cpu_count() or 1, jobs))


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """A context that ignores Ctrl-C, also in processes that are started in it: it is for their
    parent, which ends them. Outside the main thread, which alone can say so, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_with_parent(parent: int) -> None:
    """In a worker: keep freed memory, and end within a second of the process `parent` (its id),
    whose workers are not told when it is killed.
    """
    backend.reuse_freed_memory()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
