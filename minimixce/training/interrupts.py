"""Ctrl-C that waits until a step has ended."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

# seconds in which ranks take a second signal for the first one
REPEATED = 1


@contextlib.contextmanager
def noted(wanted: bool, terminate: bool) -> Iterator[list[float]]:
    """A list that is filled by the first Ctrl-C, which then waits for the step to end; a second one
    acts at once. terminate: whether SIGTERM, with which engines of MPI end a job, does the same;
    what comes within a second of the first is then the same one, which mpiexec and a scheduler may
    both pass on.
    """
    flag: list[float] = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number, frame):
        now = time.monotonic()
        if not flag:
            flag.append(now)
        elif now >= flag[0] + (REPEATED if terminate else 0):
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM) if terminate else (signal.SIGINT,)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
