"""Processes that train one model together, its ranks, on an MPI engine (mpi4py).

Every rank has the whole model and sees the whole of every batch, but takes its rows alone through
the model. Then gradients, loss and a few flags are summed over the ranks in one flat array, so that
all make the same step, stop at the same step, and raise the same error. The first rank alone
writes. What calls it need not ask how many ranks there are: without a communicator it is the only
one, and nothing is sent.
"""

import atexit
import math
import os
import platform
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import numpy as np

from ..backend import is_array, to_numpy
from ..model import LanguageModel
from ..storage.shapes import Array, Batch, Float, Grads, LossAndGrads, Scalar
from .nccl import SumOfGpus, sum_of_gpus
from .shards import portable

_Result = TypeVar("_Result")

# what an engine tells the processes that it starts: their number. PMIx names a rank alone.
_STARTED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")
# seconds that a rank with an error waits for the others to end with it
_PATIENCE = 5


class Ranks:
    """The ranks of a run, of which this process is one.

    communicator: mpi4py's, as MPI.COMM_WORLD, or anything with its Get_rank, Get_size, Allreduce,
    allgather and bcast; None for a process by itself. rank: the number of this one; size: how many
    there are.
    """

    def __init__(self, communicator: Any = None) -> None:
        self.communicator = communicator
        self.rank = 0 if communicator is None else int(communicator.Get_rank())
        self.size = 1 if communicator is None else int(communicator.Get_size())
        self._stopping = False
        # of the host: what this rank adds, and the sum
        self._own, self._summed = np.empty(0), np.empty(0)
        # (what sums on GPUs, or None for the host), settled by the first step
        self._by_gpus: tuple[SumOfGpus | None] | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes and reports."""
        return self.rank == 0

    # ---- errors, and what one of them knows ------------------------------------------------------

    def together(self, do: Callable[[], _Result]) -> _Result:
        """do(), called on every rank -> its result there. What it raises on any rank is raised on
        all, so that none waits for one that has failed.
        """
        if self.size == 1:
            return do()
        result: Any = None
        error: Exception | None = None
        try:
            result = do()
        except Exception as raised:
            error = raised
        self._agree(error)
        return result

    def from_first(self, do: Callable[[], _Result]) -> _Result:
        """do(), called on the first rank alone -> its result, on every rank."""
        if self.size == 1:
            return do()
        result = self.together(lambda: do() if self.is_first else None)
        found: _Result = self.communicator.bcast(result)
        return found

    def on_first(self, do: Callable[[], Any]) -> None:
        """Call do() on the first rank alone; what it raises is raised on all."""
        self.together(lambda: do() if self.is_first else None)

    def _agree(self, error: Exception | None) -> None:
        """Raise the first error that a rank has, on all of them."""
        errors = self.communicator.allgather(None if error is None else portable(error))
        found = next((e for e in errors if e is not None), None)
        if found is not None:
            raise found from error

    def check_same(self, facts: dict[str, Any]) -> None:
        """Raise ValueError, on every rank, unless all have the same `facts`, {what: value}."""
        if self.size == 1:
            return
        first, *others = self.communicator.allgather(facts)
        for rank, found in enumerate(others, start=1):
            for name, value in first.items():
                if repr(found[name]) != repr(value):  # NaN is not equal to itself
                    raise ValueError(
                        f"all ranks must have the same {name}: rank 0 has {value}, rank {rank} has"
                        f" {found[name]}"
                    )

    # ---- sums ------------------------------------------------------------------------------------

    def total(self, numbers: Iterable[float]) -> list[float]:
        """The sum over ranks of each of a few numbers, in float64."""
        own = np.array([*numbers], np.float64)
        summed = own.copy()
        if self.size > 1:
            self.communicator.Allreduce(own, summed)
        found: list[float] = summed.tolist()
        return found

    def step(
        self, model: LanguageModel, own_step: Callable[[], LossAndGrads | None], interrupted: Any
    ) -> LossAndGrads | None:
        """own_step() -> loss, grads of this rank's rows -> the sums over all ranks; None on all
        where it returns None, the batches having ended. What it raises on any rank is raised on
        all. interrupted: whether this rank was asked to stop, which `stops` then says on all.

        An engine gives every rank the same bits. On the CPU gradients are views, until the next
        step, into the array that it wrote. Those of GPUs are summed there by NCCL, where every rank
        has it, and else go through the host.
        """
        if self.size == 1:
            return own_step()
        if self._by_gpus is None:
            self._by_gpus = (self.together(lambda: sum_of_gpus(model.xp, self.communicator)),)
        own: LossAndGrads | None = None
        error: Exception | None = None
        try:
            own = own_step()
        except Exception as raised:
            error = raised
        flags = bool(interrupted), own is None and error is None, error is not None
        (by_gpus,) = self._by_gpus
        if by_gpus is not None:
            stopping, ended, failed = self.total(flags)
        else:
            self._fill(model, own, flags)
            self.communicator.Allreduce(self._own, self._summed)
            stopping, ended, failed = self._summed[-len(flags) :].tolist()
        self._stopping = stopping > 0
        if failed:
            self._agree(error)
        if ended:
            if ended < self.size:
                raise ValueError(f"batches have ended on {ended:.0f} of {self.size} ranks")
            return None
        if by_gpus is None:
            return _unflattened(model, model.xp.asarray(self._summed))
        flat = _flattened(model, *cast(LossAndGrads, own))
        by_gpus(flat)
        return _unflattened(model, flat)

    def _fill(
        self, model: LanguageModel, own: LossAndGrads | None, flags: tuple[bool, ...]
    ) -> None:
        """Gradients, loss and flags of this rank; zeros for what there is none of."""
        params = model.params.values()
        count = sum(math.prod(p.shape) for p in params)
        size, dtype = count + 1 + len(flags), np.result_type(*(p.dtype for p in params))
        if self._own.size != size or self._own.dtype != dtype:
            self._own, self._summed = np.empty(size, dtype), np.empty(size, dtype)
        if own is None:
            self._own[:] = 0
        else:
            place = self._own[: count + 1]
            if model.xp is np:
                _flattened(model, *own, out=place)
            else:
                place[:] = to_numpy(_flattened(model, *own))
        self._own[count + 1 :] = flags

    def stops(self, interrupted: bool) -> bool:
        """Whether the run is to stop after this step, on all ranks alike. interrupted: whether this
        one was asked to, which counts at once where it is the only one.
        """
        return interrupted if self.size == 1 else self._stopping

    # ---- machines --------------------------------------------------------------------------------

    def on_this_machine(self) -> tuple[int, int]:
        """(number of this rank among those of its machine, how many these are)."""
        if self.size == 1:
            return 0, 1
        names = self.communicator.allgather(platform.node())
        here = [rank for rank, name in enumerate(names) if name == names[self.rank]]
        return here.index(self.rank), len(here)

    def end_together(self, status: int) -> bool:
        """Called on a rank whose run ends with an error, where mpiexec has started it -> whether
        all end within seconds of each other, having raised the same. If this one fails alone, the
        end of its process ends the job with `status`.
        """
        if self.size == 1:
            return True
        from mpi4py import MPI

        request = MPI.COMM_WORLD.Ibarrier()  # on which nothing else is waited for
        waited_until = time.monotonic() + _PATIENCE
        while not request.Test():
            if time.monotonic() > waited_until:
                atexit.register(MPI.COMM_WORLD.Abort, status)
                return False
            time.sleep(0.01)
        return True


def fingerprint(arrays: Iterable[Array]) -> int:
    """A number that changes with any of the arrays, on either device."""
    found = 0
    for array in arrays:
        found = zlib.crc32(np.ascontiguousarray(to_numpy(array)).tobytes(), found)
        found = zlib.crc32(repr(array.shape).encode(), found)
    return found


def fingerprint_of_batches(batches: Iterable[Batch]) -> int:
    """fingerprint of all inputs and targets."""
    return fingerprint(x for batch in batches for x in batch if is_array(x))


def of_mpi() -> Ranks:
    """The ranks that mpiexec started, or this process alone where it was started without.

    Raises ValueError where mpi4py is missing, or of another MPI than mpiexec. Under `python -m
    mpi4py.futures`, whose ranks have work of their own, each is alone.
    """
    if "mpi4py.futures" in sys.modules or not any(name in os.environ for name in _STARTED):
        return Ranks()
    started = max(int(os.environ.get(name, 1)) for name in _STARTED[:2])
    try:
        from mpi4py import MPI
    except ImportError:
        raise ValueError(
            "training on many processes needs mpi4py and an MPI: pip install 'minimixce[mpi]'"
        ) from None
    size = MPI.COMM_WORLD.Get_size()
    if size == 1 < started:
        raise ValueError(
            f"mpiexec started {started} processes, but mpi4py sees one of them: its MPI,"
            f" {MPI.get_vendor()[0]}, must be that of mpiexec"
        )
    return Ranks(MPI.COMM_WORLD.Dup() if size > 1 else None)


def _flattened(
    model: LanguageModel,
    loss: Scalar | float,
    grads: Grads,
    out: Float[Array, " N"] | None = None,
) -> Float[Array, " N"]:
    """Gradients, in the order of the model's parameters, and the loss, in one array: a new one, or
    `out`.
    """
    flat = [grads[name].reshape(-1) for name in model.params]
    flat.append(model.xp.asarray(loss, flat[0].dtype).reshape(1))
    return model.xp.concatenate(flat, out=out)


def _unflattened(model: LanguageModel, flat: Float[Array, " N"]) -> LossAndGrads:
    """Loss and gradients, views into `flat`."""
    grads, start = {}, 0
    for name, p in model.params.items():
        stop = start + math.prod(p.shape)
        grads[name] = flat[start:stop].reshape(p.shape)
        start = stop
    return flat[start].copy(), grads
