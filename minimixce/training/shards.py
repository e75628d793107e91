"""The rows of a batch shared out over the cores.

Each shard takes its share of the rows through the model. Threads are the simple way: NumPy lets go
of Python's lock while it computes. But a thread that is done with an operation waits for the lock
while another one holds it, and to be woken up takes as long as a small operation. Processes have a
lock each, so where one can be forked (Linux) and model and objective are the package's own, which
keep nothing between calls, the shards are processes: this one and children that see its parameters
in shared memory and leave their gradients there.
"""

import contextlib
import contextvars
import functools
import math
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import util
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np

from .. import objectives
from ..model import LanguageModel
from ..storage.shapes import Arrays, LossAndGrads
from .threads import share_of_threads

# (model, work, shard, grads to add to or None) -> loss, grads of a shard's rows; grads as they were
# given where it has no rows
ShardStep: TypeAlias = Callable[..., tuple[Any, Any]]

# Multiply-adds of a forward pass that keep a shard longer than handing it the work does: on two
# cores, half of a batch with as much takes milliseconds, and sharing it out some tenths of one.
WORTH_SHARING = 40_000_000


def default_shards(num_params: int, rows: int, positions: int, threads: int) -> int:
    """How many shards are worth it on the CPU: a function of shapes and threads alone, never of a
    timing, so that the same command makes the same run.

    num_params: of the model; rows, positions: of a batch; threads: those that the linear algebra
    library may use.
    """
    return max(1, min(threads, rows, rows * positions * num_params // WORTH_SHARING))


def keep_nothing(objective: Any, model: LanguageModel) -> bool:
    """Whether a call of the objective with the model's logits changes nothing but its results, so
    that it may happen in another process, and in parts: the model is of a class of this package,
    none of its methods replaced, and the objective a function of minimixce.objectives with a
    normalizer, alone or in functools.partial with numbers and text.
    """
    if type(model).__module__.partition(".")[0] != __name__.partition(".")[0]:
        return False
    if any(map(callable, vars(model).values())):
        return False
    objective = getattr(objective, "__wrapped__", objective)
    if isinstance(objective, functools.partial):
        if objective.args or not all(map(_is_constant, objective.keywords.values())):
            return False
        objective = objective.func
    return objective in (
        objectives.mle,
        objectives.mixce,
        objectives.mixce_surrogate,
        objectives.tailr,
    )


def _is_constant(value: Any) -> bool:
    return isinstance(value, (int, float, str, np.number, types.NoneType))


def rows_of(n: int, share: tuple[int, int]) -> slice:
    """The rows, of n, that number k of m takes: share = (k, m)."""
    k, m = share
    return slice(k * n // m, (k + 1) * n // m)


class Shards:
    """Shards of one training run. Shards(shard_step, count, processes): count of at least 2;
    processes: whether children may be forked, which end when `close` is called or this process
    does.
    """

    def __init__(self, shard_step: ShardStep, count: int, processes: bool) -> None:
        self.shard_step = shard_step
        self.count = count
        self.processes = processes and can_fork()
        # Between steps, too: threads of the linear algebra wait for work by spinning for a while,
        # on the core that a child needs next.
        self._limit: Any = None
        self._model: LanguageModel | None = None  # whose parameters children share
        self._params: Arrays = {}
        self._children: list[_Child] = []

    def __call__(self, model: LanguageModel, *work: Any) -> LossAndGrads:
        """The sums of loss and gradients over the shards, always in the same order, so that a run
        repeats bit for bit. What a shard raises is raised here. work: what shard_step takes between
        the model and the number of a shard.
        """
        if self._limit is None:
            self._limit = share_of_threads(self.count)
            self._limit.__enter__()
        run = self._in_processes if self.processes else self._in_threads
        return _sum(run(model, work))

    def close(self) -> None:
        """End the children, and the limit on threads; the next call would begin anew."""
        if self._limit is not None:
            self._limit.__exit__(None, None, None)
            self._limit = None
        self._end_children()

    def _end_children(self):
        for child in self._children:
            child.close()
        self._children, self._model, self._params = [], None, {}

    def _in_threads(self, model, work):
        with ThreadPoolExecutor(self.count) as pool:
            # so that NumPy's error settings hold there too
            contexts = [contextvars.copy_context() for _ in range(self.count)]
            running = [
                pool.submit(context.run, self.shard_step, model, *work, shard)
                for shard, context in enumerate(contexts)
            ]
        return [r.result() for r in running]

    def _in_processes(self, model, work):
        if self._model is not model or not _fits(self._params, model.params):
            self._end_children()
            try:
                self._fork(model)
            except OSError:  # there is no memory for them, or there are too many: threads do
                self._end_children()
                self.processes = False
                return self._in_threads(model, work)
        for name, shared in self._params.items():
            shared[...] = model.params[name]
        try:
            for child in self._children:
                child.send(work)
            own = self.shard_step(model, *work, 0)
            return [own, *(child.receive() for child in self._children)]
        except BaseException:
            self._end_children()  # a child may still be at work on what was asked of it
            raise

    def _fork(self, model):
        self._model, self._params = model, _shared_like(model.params)
        for shard in range(1, self.count):
            self._children.append(_Child(self.shard_step, model, self._params, shard))


def can_fork() -> bool:
    """Whether processes can be forked here: on Linux, and not in a process that must not have any
    children of its own (a worker of a pool).
    """
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


def _sum(found):
    """(loss, grads) of every shard -> their sums; shards without rows have no grads, nor has the
    sum of none but these.
    """
    with_rows = [of_shard for of_shard in found if of_shard[1] is not None]
    (loss, grads), *others = with_rows or found[:1]
    for more_loss, more in others:
        loss = loss + more_loss
        for name, g in more.items():
            grads[name] += g
    return loss, grads


def _fits(shared: Arrays, params: Arrays) -> bool:
    """Whether each of params has its place in `shared`: the same names, shapes and dtypes."""
    return shared.keys() == params.keys() and all(
        (shared[name].shape, shared[name].dtype) == (p.shape, p.dtype) for name, p in params.items()
    )


def _shared_like(arrays: Arrays) -> Arrays:
    """Arrays {name: array} of the same shapes in memory that forked processes share."""
    memory = mmap.mmap(-1, max(1, sum(a.nbytes for a in arrays.values())))
    found, start = {}, 0
    for name, a in arrays.items():
        found[name] = np.frombuffer(memory, a.dtype, math.prod(a.shape), start).reshape(a.shape)
        start += a.nbytes
    return found


class _Child:
    """A forked process that serves one shard."""

    def __init__(
        self, shard_step: ShardStep, model: LanguageModel, params: Arrays, shard: int
    ) -> None:
        self.grads = _shared_like(params)
        self.connection, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(
            target=_serve,
            args=(theirs, shard_step, model, params, self.grads, shard),
            daemon=True,
        )
        with _signals_waiting(), warnings.catch_warnings():
            # Python warns where there are other threads; a child takes no lock that one may hold
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        # before multiprocessing's own end at exit, by SIGTERM, which a child may not hear
        util.Finalize(self, self.process.kill, exitpriority=0)
        theirs.close()

    def send(self, work: Any) -> None:
        try:
            self.connection.send(work)
        except OSError:
            raise self._ended() from None

    def receive(self) -> tuple[Any, Any]:
        try:
            error, loss = self.connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if error is not None:
            raise error
        return loss, self.grads

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()

    def _ended(self):
        self.process.join(1)
        return RuntimeError(
            "a process that computed a share of the batch has ended (status"
            f" {self.process.exitcode}), perhaps for want of memory; --shards 1 does without"
        )


@contextlib.contextmanager
def _signals_waiting() -> Iterator[None]:
    """A context in which signals wait. A process that is forked in it hears none: Ctrl-C and others
    that a terminal sends to both are the parent's to act on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    connection: Connection,
    shard_step: ShardStep,
    model: LanguageModel,
    params: Arrays,
    grads: Arrays,
    shard: int,
) -> None:
    """A child's life: work comes in, gradients are left in `grads`, until the pipe is closed."""
    # SIGTERM, too, is for a parent that acts on it: engines of MPI send it to all processes
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    _close_all_but(connection.fileno())
    model.params = params
    with contextlib.suppress(EOFError, OSError):  # the parent has ended
        while True:
            work = connection.recv()
            connection.send(_answer(shard_step, model, work, grads, shard))
    os._exit(0)  # what Python does at its end is the parent's, too


def _answer(shard_step, model, work, grads, shard):
    """(None, loss) of a shard, or (what it raised, None)."""
    try:
        for g in grads.values():
            g[...] = 0
        loss, _ = shard_step(model, *work, shard, grads)
    except Exception as error:
        return portable(error), None
    return None, loss


def portable(error: Exception) -> Exception:
    """The error, or one that says the same where it would not come out of a pipe."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _close_all_but(kept: int) -> None:
    """Close files that the parent has open (the lock of its run, the ends of other pipes), so that
    they are free when it ends.
    """
    for name in os.listdir("/proc/self/fd"):  # a limit on their number may be huge, or be new
        if int(name) > 2 and int(name) != kept:
            with contextlib.suppress(OSError):  # that of the listing itself is closed already
                os.close(int(name))
