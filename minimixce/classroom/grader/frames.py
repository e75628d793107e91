"""Messages between the grader and the process that runs a student's code.

A message is a tree as JSON and after it bare .npy frames, one for each array of the tree. What a
student's process sends is not trusted: every length has a limit, a frame's header is read and held
against the frame's length before its numbers are, and nothing is unpickled. This file imports NumPy
and nothing of the package. It is one of the files that the sandbox holds.
"""

import ast
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

MAX_HEAD = 1 << 20  # bytes of JSON
MAX_BODY = 1 << 26  # bytes of all arrays of a message
_MAX_DEPTH = 8
_MAX_ITEMS = 4096
_KINDS = "fiubc"  # of dtypes that are sent; everything else stays where it is
_LENGTHS = struct.Struct(">II")
# Before each message to the grader, a byte says from whom it is: a student's program may write
# what it likes, but not in the name of the process that watches over it.
FROM_SANDBOX, FROM_STUDENT = b"W", b"S"


class BadMessage(Exception):
    """A message that does not keep to the protocol."""


def pack(head: Any, frames: list[bytes]) -> bytes:
    """A message as bytes. Raises BadMessage where it is too large."""
    text = json.dumps([head, [len(frame) for frame in frames]]).encode()
    size = sum(map(len, frames))
    if len(text) > MAX_HEAD or size > MAX_BODY:
        raise BadMessage(f"{size + len(text):,} bytes, more than fit in a message")
    return b"".join([_LENGTHS.pack(len(text), size), text, *frames])


def length(start: bytes) -> int | None:
    """How many bytes the message has that starts with these; None where they do not say yet.

    Raises BadMessage where it would be too long.
    """
    if len(start) < _LENGTHS.size:
        return None
    head, body = _LENGTHS.unpack_from(start)
    if head > MAX_HEAD or body > MAX_BODY:
        raise BadMessage("a message that is too long")
    return _LENGTHS.size + head + body


def unpack(message: bytes) -> tuple[Any, list[bytes]]:
    """A message -> its head and its frames. Raises BadMessage for what `pack` does not make."""
    head, _ = _LENGTHS.unpack_from(message)
    start = _LENGTHS.size + head
    try:
        tree, lengths = json.loads(message[_LENGTHS.size : start])
        frames = []
        for size in lengths:
            if type(size) is not int or not 0 <= size <= len(message) - start:
                raise ValueError("the length of a frame")
            frames.append(message[start : start + size])
            start += size
        if start != len(message):
            raise ValueError("bytes that belong to no frame")
    except (ValueError, TypeError, RecursionError) as error:
        raise BadMessage(f"not a message: {error}") from None
    return tree, frames


def read_exactly(stream: Any, count: int) -> bytes:
    """`count` bytes of a stream; fewer at its end."""
    parts = []
    while count:
        part = stream.read(min(count, 1 << 20))
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read(stream: Any) -> bytes | None:
    """The next message of a stream, as bytes; None at its end. Raises BadMessage."""
    start = read_exactly(stream, _LENGTHS.size)
    size = length(start)
    if size is None:
        return None
    rest = read_exactly(stream, size - len(start))
    return start + rest if len(start) + len(rest) == size else None


# ---- values --------------------------------------------------------------------------------------


class Encoder:
    """Turns values into trees and frames. other(value) -> the tree of what is not plain."""

    def __init__(self, other: Callable[[Any], Any]) -> None:
        self.other = other
        self.frames: list[bytes] = []

    def tree(self, value: Any, depth: int = 0) -> Any:
        """The tree of a value, its arrays in `frames`."""
        if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
            if isinstance(value, str) and len(value) > _MAX_ITEMS:
                return self.other(value)
            if type(value) is int and abs(value) >= 1 << 63:
                return self.other(value)
            return {"n": value}
        if isinstance(value, np.generic) and value.dtype.kind in _KINDS:
            return {"s": self._frame(np.asarray(value))}
        if type(value) is np.ndarray and value.dtype.kind in _KINDS and not value.dtype.fields:
            return {"a": self._frame(value), "gaps": _has_gaps(value)}
        kind = type(value)  # whose own methods are not called unless it is one of these
        if kind not in (list, tuple, dict) or depth >= _MAX_DEPTH or len(value) > _MAX_ITEMS:
            return self.other(value)
        if kind is not dict:
            items = [self.tree(item, depth + 1) for item in value]
            return {"t" if kind is tuple else "l": items}
        if all(type(key) is str for key in value):
            return {"d": [[key, self.tree(item, depth + 1)] for key, item in value.items()]}
        return self.other(value)

    def _frame(self, array):
        stream = io.BytesIO()
        np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
        self.frames.append(stream.getvalue())
        return len(self.frames) - 1


def _has_gaps(array):
    return not (array.flags.c_contiguous or array.flags.f_contiguous)


class Decoder:
    """Turns trees into values. other(tree) -> the value of what `Encoder.other` made."""

    def __init__(self, frames: list[bytes], other: Callable[[Any], Any]) -> None:
        self.frames = frames
        self.other = other
        self.arrays: dict[int, np.ndarray] = {}  # by frame, as they were made

    def value(self, tree: Any, depth: int = 0) -> Any:
        """The value of a tree. Raises BadMessage for what Encoder does not make."""
        if type(tree) is not dict or not tree or depth > _MAX_DEPTH + 1:
            raise BadMessage("not a value")
        kind, content = next(iter(tree.items()))
        if kind == "n" and (content is None or type(content) in (bool, int, float, str)):
            return content
        if kind == "a":
            return self._array(content, tree.get("gaps") is True)
        if kind == "s":
            array = self._array(content, False)
            if array.ndim:
                raise BadMessage("not a number")
            return array[()]
        if kind in ("t", "l") and type(content) is list:
            items = [self.value(item, depth + 1) for item in content]
            return tuple(items) if kind == "t" else items
        if kind == "d" and type(content) is list:
            return dict(self._item(item, depth) for item in content)
        return self.other(tree)

    def _item(self, item, depth):
        if type(item) is not list or len(item) != 2 or type(item[0]) is not str:
            raise BadMessage("not an item of a dict")
        return item[0], self.value(item[1], depth + 1)

    def _array(self, index, gaps):
        if type(index) is not int or not 0 <= index < len(self.frames):
            raise BadMessage("not the number of a frame")
        if index in self.arrays:  # one frame a thousand times would fill the memory
            raise BadMessage("a frame that is used twice")
        array = read_array(self.frames[index])
        if gaps:
            array = with_gaps(array)
        self.arrays[index] = array
        return array


def with_gaps(array: np.ndarray) -> np.ndarray:
    """The same array as a view whose neighbours in memory are something else."""
    room = np.full((*array.shape, 2), 7, array.dtype)
    room[..., 0] = array
    return room[..., 0]


def read_array(frame: bytes) -> np.ndarray:
    """The array of a bare .npy frame, its own and writable.

    Raises BadMessage where the header is not one of plain numbers, or says another length than the
    frame has.
    """
    try:
        shape, fortran, dtype, start = _header(frame)
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError) as error:
        raise BadMessage(f"not a frame: {error}") from None
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(frame) - start:
        raise BadMessage("a frame whose header does not fit its length")
    flat = np.frombuffer(frame, dtype, count, start) if count else np.zeros(0, dtype)
    order = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return order.copy(order="K")


def _header(frame):
    """shape, whether in Fortran order, dtype and where the numbers start."""
    if frame[:8] != b"\x93NUMPY\x01\x00" or len(frame) < 10:
        raise ValueError("no header")
    start = 10 + int.from_bytes(frame[8:10], "little")
    text = frame[10:start]
    if len(text) > 1000:
        raise ValueError("a header that is too long")
    header = ast.literal_eval(text.decode("latin-1").strip())
    shape, fortran = header["shape"], header["fortran_order"]
    dtype = np.dtype(header["descr"]) if type(header["descr"]) is str else None
    if dtype is None or dtype.kind not in _KINDS or dtype.fields or dtype.subdtype:
        raise ValueError("a dtype that is not one of numbers")
    if type(shape) is not tuple or len(shape) > 32 or type(fortran) is not bool:
        raise ValueError("a shape or an order that is none")
    if not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
        raise ValueError("a shape that is none")
    return shape, fortran, dtype, start
