"""What the package asks of a GPU beyond CuPy's array functions: its own kernels, and cuBLAS.

The one file besides backend.py that imports CuPy, and only where something runs. The text of the
kernels is in cuda_source.py; cuda_layers.py and cuda_training.py make layers, loss head and
optimizer of them.

Products are exact float32 by default. With the environment variable CUPY_TF32=1, CuPy's own, those
of float32 take TF32 in tensor cores, several times faster, with 10 bits of mantissa in place of 23;
CuPy heeds it in products of two axes only, `matmul` in all. Sums are never products here, and
float64 is never rounded.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import array_module
from ..storage.shapes import Array, Float
from .cuda_products import Call, calls
from .cuda_source import LANES, SLICES, SOURCE, THREADS

MAX_BLOCKS = 2048  # of a kernel that goes through a long vector or over many rows
_C_TYPES = {"f": "float", "d": "double"}  # by the dtype's char
# 1 and 0 on the host, by which cuBLAS multiplies the product and what is in its place
_ONE_AND_ZERO = {char: np.array([1, 0], char) for char in _C_TYPES}
_ONE_AND_ZERO_AT = {
    char: (x.ctypes.data, x.ctypes.data + x.itemsize) for char, x in _ONE_AND_ZERO.items()
}

# ---- CuPy ----------------------------------------------------------------------------------------


def suits(*arrays: Array) -> bool:
    """Whether the kernels take `arrays`: all CuPy's and of one dtype, float32 or float64."""
    return all(type(x).__module__.partition(".")[0] == "cupy" for x in arrays) and (
        {x.dtype.char for x in arrays} in ({"f"}, {"d"})
    )


def launch(name: str, blocks: int, *arguments: Array | int | float) -> None:
    """Run kernel `name` in `blocks` blocks of THREADS threads, in the dtype of the last array.

    Arrays arrive as addresses, integers as long long, floats as double. Raises ValueError for an
    array that is not contiguous and TypeError for one of another dtype (int64 apart), since a
    kernel, which sees only the address, would take wrong numbers.
    """
    arrays = [x for x in arguments if not isinstance(x, (int, float))]
    dtype = arrays[-1].dtype
    if dtype.char not in _C_TYPES or any(x.dtype not in (dtype, np.int64) for x in arrays):
        raise TypeError(f"{name} takes float32 or float64, got {[str(x.dtype) for x in arrays]}")
    if not all(x.flags.c_contiguous for x in arrays):
        raise ValueError(f"{name} takes contiguous arrays, got steps {[x.strides for x in arrays]}")
    if blocks:
        _run(name, blocks, _C_TYPES[dtype.char], arguments)


def _run(name, blocks, real, arguments):
    _kernel(name, real)((blocks,), (THREADS,), arguments)


@functools.cache
def _kernel(name, real):
    import cupy

    # CuPy compiles the text once for all its kernels, and keeps them for each device
    return cupy.RawKernel(SOURCE, name, (f"-DREAL={real}",))


def address(x: Any) -> int:
    """Where the first number of an array of CuPy's is in the device's memory."""
    return x.data.ptr


def _multiply(call: Call, a: Array, b: Array, out: Array) -> None:
    """Make one call of cuBLAS."""
    from cupy.cuda import cublas, device, runtime

    single = out.dtype == np.float32
    kind = runtime.CUDA_R_32F if single else runtime.CUDA_R_64F
    compute = cublas.CUBLAS_COMPUTE_32F if single else cublas.CUBLAS_COMPUTE_64F
    if single and _tf32() and int(device.get_compute_capability()) >= 80:
        compute = cublas.CUBLAS_COMPUTE_32F_FAST_TF32
    one, zero = _ONE_AND_ZERO_AT[out.dtype.char]
    first = [address(b) + call.offset_a * b.itemsize, kind, call.leading_a]
    second = [address(a) + call.offset_b * a.itemsize, kind, call.leading_b]
    result = [address(out) + call.offset_c * out.itemsize, kind, call.leading_c]
    count, function = [], cublas.gemmEx
    if call.batch > 1:
        count, function = [call.batch], cublas.gemmStridedBatchedEx
        first.append(call.stride_a)
        second.append(call.stride_b)
        result.append(call.stride_c)
    function(
        device.get_cublas_handle(),
        *(int(call.transpose_a), int(call.transpose_b), call.m, call.n, call.k),
        *(one, *first, *second),
        *(zero, *result),
        *(*count, compute, cublas.CUBLAS_GEMM_DEFAULT),
    )


def _tf32():
    return int(os.environ.get("CUPY_TF32", "0")) > 0


# ---- products and sums ---------------------------------------------------------------------------


def matmul(
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    transpose_a: bool = False,
    transpose_b: bool = False,
    out: Float[Array, "... M N"] | None = None,
) -> Float[Array, "... M N"]:
    """a (…,M,K) @ b (…,K,N) -> (…,M,N), of two axes or of equal leading ones.

    With transpose_a or transpose_b the last two axes of that operand are swapped first, at no cost.
    out (…,M,N), perhaps a view of another array, takes the result. Raises TypeError or ValueError
    for dtypes or shapes that do not fit.
    """
    xp = array_module(a)
    a = a.swapaxes(-1, -2) if transpose_a else a
    b = b.swapaxes(-1, -2) if transpose_b else b
    if a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"a and b must be (…,M,K) and (…,K,N), got {a.shape} and {b.shape}")
    shape = (*a.shape[:-1], b.shape[-1])
    out = xp.empty(shape, a.dtype) if out is None else out
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if a.dtype.char not in _C_TYPES or not a.dtype == b.dtype == out.dtype:
        raise TypeError(f"a and b must be float32 or float64 both, got {a.dtype} and {b.dtype}")
    if a.size == 0 or b.size == 0:
        out[...] = 0
    elif (found := calls(a, b, out)) is not None:
        for call in found:
            _multiply(call, a, b, out)
    else:
        out[...] = _matmul_of_copies(xp.ascontiguousarray(a), xp.ascontiguousarray(b))
    return out


def _matmul_of_copies(a, b):
    out = array_module(a).empty((*a.shape[:-1], b.shape[-1]), a.dtype)
    for call in calls(a, b, out):
        _multiply(call, a, b, out)
    return out


def sum_rows(x: Float[Array, "N C"]) -> Float[Array, " C"]:
    """x (N,C) -> its sum over N, (C,), in the same order at every run."""
    x = array_module(x).ascontiguousarray(x)
    return sum_in_rounds("sum_rows", [x], x.shape[1])


def sum_in_rounds(name: str, arrays: Sequence[Float[Array, "N C"]], width: int) -> Array:
    """Kernel `name` goes over `arrays` (N,C) and leaves rows of `width` sums -> their sum (width,).

    Kernel sum_rows adds the rows up.
    """
    xp, (rows, columns) = array_module(arrays[0]), arrays[0].shape
    tiles = -(-columns // LANES)
    chunks = min(max(1, MAX_BLOCKS // max(1, tiles)), max(1, rows // (4 * SLICES)))
    sums = xp.empty((chunks, width), arrays[0].dtype)
    launch(name, chunks * tiles, *arrays, sums, rows, columns, tiles)
    return sums[0] if chunks == 1 else _last_round(sums)


def _last_round(sums):
    (chunks, width), tiles = sums.shape, -(-sums.shape[1] // LANES)
    total = array_module(sums).empty(width, sums.dtype)
    launch("sum_rows", tiles, sums, total, chunks, width, tiles)
    return total


def blocks_for(n: int) -> int:
    """How many blocks go through a vector of n numbers."""
    return min(-(-n // THREADS), MAX_BLOCKS)
