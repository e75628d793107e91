"""A GPU played on the CPU: runs the text of kernels, and carries out calls of cuBLAS.

cuda_on_cpu.h makes C++ of the CUDA text, whose threads are coroutines. Arrays lie between guards of
NaN, so that a kernel that reads or writes past an end is found. Calls of cuBLAS are carried out as
its manual describes them, number by number.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np

from minimixce.fast.cuda_source import SOURCE, THREADS

GUARD = 64  # numbers before and after every array
NAMES = [line.split("(")[0].split()[-1] for line in SOURCE.splitlines() if "__global__" in line]
CAN_COMPILE = shutil.which("g++") is not None


def compile_kernels(folder, real, source=SOURCE):
    """The kernels as a shared library for the C type `real`."""
    launchers = "".join(
        f'extern "C" int launch_{name}(unsigned grid, unsigned block, void** arguments, int r)'
        f" {{ return on_cpu::launch({name}, grid, block, arguments, r); }}\n"
        for name in NAMES
    )
    text, library = folder / f"{real}.cpp", folder / f"{real}.so"
    text.write_text(f'#define REAL {real}\n#include "cuda_on_cpu.h"\n{source}\n{launchers}')
    # glibc's checked longjmp takes a jump from one coroutine's stack to another for an error
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Werror", "-ffp-contract=off"]
    command += [
        "-U_FORTIFY_SOURCE",
        "-shared",
        "-fPIC",
        "-I",
        Path(__file__).parent,
        text,
        "-o",
        library,
    ]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def guarded(x, number):
    """A copy of x between guards, all of it; their NaN bears the number of the argument.

    So a NaN that a kernel reads in one guard and writes into another is found, too.
    """
    whole = np.empty(x.size + 2 * GUARD, x.dtype)
    nan = {"f4": 0x7FC00000, "f8": 0x7FF8000000000000, "i8": -(1 << 62)}[x.dtype.str[1:]]
    whole.view(f"i{x.itemsize}")[...] = nan + 1 + number
    whole[GUARD : GUARD + x.size] = x.ravel()
    return whole


def run(libraries, name, blocks, real, arguments, backwards):
    pointers, wholes = [], []
    for number, x in enumerate(arguments):
        if isinstance(x, np.ndarray):
            whole = guarded(x, number)
            wholes.append((x, whole, whole.copy()))
            value = ctypes.c_void_p(whole.ctypes.data + GUARD * whole.itemsize)
        else:
            value = ctypes.c_longlong(x) if isinstance(x, int) else ctypes.c_double(x)
        pointers.append(value)
    array = (ctypes.c_void_p * len(pointers))(*(ctypes.addressof(value) for value in pointers))
    function = getattr(libraries[real], f"launch_{name}")
    assert function(blocks, THREADS, array, int(backwards)) == 0, f"{name}: threads part ways"
    for x, whole, before in wholes:
        for edge in (slice(GUARD), slice(GUARD + x.size, None)):
            assert whole[edge].tobytes() == before[edge].tobytes(), f"{name} writes outside"
        if x.flags.writeable:
            x[...] = whole[GUARD : GUARD + x.size].reshape(x.shape)


def matrix(memory, offset, leading, stride, count, rows, columns, transpose):
    """What cuBLAS reads: `count` matrices (rows,columns), column by column, then transposed."""
    if transpose:
        rows, columns = columns, rows
    assert leading >= max(1, rows)
    item = memory.itemsize
    last = offset + (count - 1) * stride + (columns - 1) * leading + rows
    assert offset >= 0
    assert stride >= 0
    everything = np.lib.stride_tricks.as_strided(memory, (last,), (item,))
    found = np.lib.stride_tricks.as_strided(
        everything[offset:], (count, rows, columns), (stride * item, item, leading * item)
    )
    return found.swapaxes(1, 2) if transpose else found


def multiply(call, a, b, out):
    """cublasGemmStridedBatchedEx of our b, a and out."""
    one = call
    first = matrix(b, one.offset_a, one.leading_a, one.stride_a, one.batch, one.m, one.k,
                   one.transpose_a)  # fmt: skip
    second = matrix(a, one.offset_b, one.leading_b, one.stride_b, one.batch, one.k, one.n,
                    one.transpose_b)  # fmt: skip
    result = matrix(out, one.offset_c, one.leading_c, one.stride_c, one.batch, one.m, one.n, False)
    result[...] = first @ second
