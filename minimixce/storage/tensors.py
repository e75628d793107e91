"""Named arrays in a safetensors file that knows when its bytes have changed.

A checksum of the whole file is in its own metadata, so that it is replaced with the content in one
step, and other readers of the format pass over it. Files without one, as other libraries write
them, are read as they are.
"""

import json
import zlib
from typing import Any

import numpy as np

from . import files
from .shapes import Array, FilePath

_OURS = "minimixce"  # metadata that begins with this is ours, and comes with a checksum
_CHECKSUM = f"{_OURS}_checksum"
_BLANK = b"00000000"  # in the place of the checksum while it is computed
_LONGEST_HEADER = 100_000_000  # safetensors' own limit

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "u1",
    "BOOL": "?",
}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}

# The library is imported where a file is read: models, exact sums and gradient checks work without
# it.


def key(name: str) -> str:
    """The metadata's key for something of this package's, under which other files have nothing."""
    return f"{_OURS}_{name}"


def write(path: FilePath, arrays: dict[str, Array], metadata: dict[str, str]) -> None:
    """Replace `path` atomically by a file with {name: NumPy array} and metadata {key: text}, among
    it something under a key().
    """
    files.write_atomically(path, _to_bytes(arrays, metadata))


def _to_bytes(arrays, metadata):
    """The file, written by hand: the library puts metadata in an order of chance, and equal runs
    have equal files.
    """
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))  # so aligned
    header = {"__metadata__": metadata | {_CHECKSUM: _BLANK.decode()}}
    parts = []
    end = 0
    for name, array in ordered:
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _CODES[array.dtype],
            "shape": list(np.shape(arrays[name])),
            "data_offsets": [begin, end],
        }
        parts.append(array.reshape(-1).view(np.uint8).data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = bytearray().join([len(text).to_bytes(8, "little"), text, *parts])
    place = _place_of_checksum(data)
    data[place : place + len(_BLANK)] = _checksum(data, place)
    return data


def read(path: FilePath) -> tuple[dict[str, Array], dict[str, Any]]:
    """({name: NumPy array}, metadata) of a file; bfloat16, which NumPy lacks, comes as float32.

    Raises FileNotFoundError, or ValueError for what is no such file or was changed since `write`.
    """
    entries, metadata = _open(path)
    return {name: _to_array(path, name, entry) for name, entry in entries}, metadata


def check(path: FilePath) -> None:
    """Raise ValueError where a file that `write` wrote was changed since; FileNotFoundError for
    none.
    """
    _open(path)


def _open(path):
    """The library's entries of a file that has not changed, and its metadata."""
    from safetensors import SafetensorError, deserialize

    data = files.read_bytes(path)
    try:
        entries = deserialize(data)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is cut short ({error})") from None
    return entries, _check(path, data)


def read_metadata(path: FilePath) -> dict[str, Any]:
    """The metadata of a file, of which nothing else is read or checked; {} for what is no such
    file.
    """
    try:
        with files.open_regular(path) as file:
            size = int.from_bytes(file.read(8), "little")
            return _metadata(file.read(size) if size <= _LONGEST_HEADER else b"")
    except (FileNotFoundError, ValueError):
        return {}


def _check(path, data):
    """The metadata of a file's bytes; ValueError where they have a checksum that does not fit."""
    end = 8 + int.from_bytes(data[:8], "little")
    metadata = _metadata(data[8:end])
    # two keys begin so: a changed letter leaves the other one to tell whose the file is
    if any(name.startswith(_OURS) for name in metadata):
        place = _place_of_checksum(data[:end])
        found = None if place is None else data[place : place + len(_BLANK)]
        if found is None or found != _checksum(data, place):
            raise ValueError(f"{path} is damaged: its checksum does not fit its content")
    return metadata


def _metadata(header):
    try:
        content = json.loads(header)
    except (ValueError, RecursionError):
        return {}
    metadata = content.get("__metadata__") if isinstance(content, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _place_of_checksum(data):
    """Where the digits of the checksum begin, or None."""
    mark = f'"{_CHECKSUM}":"'.encode()
    found = data.find(mark)
    return None if found < 0 else found + len(mark)


def _checksum(data, place):
    """Of all bytes, as if the checksum's own digits were zeros."""
    view = memoryview(data)
    crc = zlib.crc32(view[:place])
    crc = zlib.crc32(_BLANK, crc)
    crc = zlib.crc32(view[place + len(_BLANK) :], crc)
    return f"{crc:08x}".encode()


def _to_array(path, name, entry):
    if entry["dtype"] == "BF16":  # the upper half of a float32
        bits = np.frombuffer(entry["data"], "<u2").astype("<u4") << 16
        return bits.view("<f4").reshape(entry["shape"])
    if entry["dtype"] not in _DTYPES:
        raise ValueError(
            f"{path}: tensor {name} has dtype {entry['dtype']}, which is not supported"
        )
    return np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
