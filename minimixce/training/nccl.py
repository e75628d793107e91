"""Sums over the GPUs of ranks, from GPU to GPU, by NCCL."""

import platform
from typing import Any, cast

from .. import backend
from ..storage.shapes import Array, ArrayModule


class SumOfGpus:
    """What sums an array over ranks, each of which has a GPU of its own.

    xp: the array module; nccl: CuPy's module of NCCL (backend.nccl); communicator: mpi4py's, on all
    of whose ranks this is made together. Raises nccl.NcclError, a RuntimeError, where the GPUs do
    not reach each other.
    """

    def __init__(self, xp: ArrayModule, nccl: Any, communicator: Any) -> None:
        self._xp, self._nccl = xp, nccl
        rank, size = communicator.Get_rank(), communicator.Get_size()
        identity = communicator.bcast(nccl.get_unique_id() if rank == 0 else None)
        self._communicator = nccl.NcclCommunicator(size, identity, rank)
        self._kinds = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}

    def __call__(self, array: Array) -> None:
        """Replace `array`, contiguous and of one shape and dtype on all ranks, by the sum, when the
        current stream comes to it: nothing waits here.
        """
        place, kind = cast(Any, array.data).ptr, self._kinds[array.dtype.name]
        stream = self._xp.cuda.get_current_stream().ptr
        self._communicator.allReduce(place, place, array.size, kind, self._nccl.NCCL_SUM, stream)


def sum_of_gpus(xp: ArrayModule, communicator: Any) -> SumOfGpus | None:
    """SumOfGpus, where every rank has NCCL and a GPU that no other has, else None: gradients then
    go through the host. xp: the array module of this rank; communicator: mpi4py's, on all of whose
    ranks this is called.
    """
    nccl = backend.nccl(xp)
    own = None if nccl is None else (platform.node(), xp.cuda.Device().pci_bus_id)
    gpus = communicator.allgather(own)
    if None in gpus or len(set(gpus)) < len(gpus):
        return None
    return SumOfGpus(xp, nccl, communicator)
