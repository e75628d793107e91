"""A file of JSON lines that only grows, and is known up to a length: what comes after it was
written by a process that was killed, and is not part of it.
"""

import io
import json
import os
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import files
from .shapes import FilePath


class Journal:
    """How much of a file of JSON lines is known: its first `size` bytes, which hold `lines` records
    and have the checksum `crc`.
    """

    def __init__(self, size: int = 0, lines: int = 0, crc: int = 0) -> None:
        self.size = size
        self.lines = lines
        self.crc = crc

    def extend(self, path: FilePath, records: Sequence[dict[str, Any]]) -> None:
        """Append those of `records`, all that the file is to hold, that it does not hold yet; they
        are on the disk when this returns.

        A file that is not as it was left (missing, longer, a link) is replaced by a whole new one.
        """
        path = Path(path)
        fresh = _to_lines(records[self.lines :])
        if self._append(path, fresh):
            self.size += len(fresh)
            self.crc = zlib.crc32(fresh, self.crc)
        else:
            whole = _to_lines(records)
            files.write_atomically(path, whole)
            self.size = len(whole)
            self.crc = zlib.crc32(whole)
        self.lines = len(records)

    def _append(self, path, data):
        """Whether `data` now follows what the file held: only where it is still ours alone."""
        if not self._is_as_left(path):
            return False
        if not data:
            return True
        with files.naming(path), open(path, "r+b", opener=_open_no_link) as file:
            file.seek(self.size)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return True

    def _is_as_left(self, path):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return False
        # a second name may be that of a copy which somebody keeps
        return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size == self.size

    def read(self, path: FilePath) -> list[dict[str, Any]]:
        """The records in the known part of the file. Raises FileNotFoundError, or ValueError where
        it is cut short or changed.
        """
        data = files.read_bytes(path)
        if len(data) < self.size:
            raise ValueError(f"{path} is cut short: it held {self.lines:,} lines")
        known = data[: self.size]
        if zlib.crc32(known) != self.crc or known.count(b"\n") != self.lines:
            raise ValueError(f"{path} is damaged: its checksum does not fit its content")
        return [_record(path, number, line) for number, line in enumerate(io.BytesIO(known), 1)]


def _to_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _record(path, number, line):
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}, is not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}, line {number}, is not a JSON object")
    return record


def _open_no_link(path, flags):
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))
