"""Files that are written whole or not at all, and the formats of results: JSON, JSON lines, CSV."""

import contextlib
import csv
import glob
import io
import json
import math
import os
import runpy
import secrets
import stat
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import memory
from .shapes import FilePath

MOST_JSON = 1 << 26  # bytes of a JSON file; in memory it takes up to twenty times as many
_MOST_DIGITS = 300  # of an integer in a JSON file: any of them can be made a float
_MOST_CODE = 1 << 22  # bytes of a Python file


def read_bytes(path: FilePath, most: int | None = None) -> bytes:
    """The content of a regular file -> bytes, at most `most` of them.

    Raises FileNotFoundError, or ValueError for what is no file (a pipe, which would be waited for,
    a device, which may never end, a folder) and for a file of more than `most` bytes;
    MemoryError for one that no memory here can hold.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise ValueError(f"{path} has {size:,} bytes; at most {most:,} are read")
        memory.check(size, f"{path}, read whole,", "give another file")
        with naming(path):
            data: bytes = file.read()
    return data


def open_regular(path: FilePath) -> io.BufferedReader:
    """A regular file, opened to read bytes from.

    Raises FileNotFoundError, or ValueError for what is no file (see read_bytes).
    """
    try:
        # looked at before it is opened, since opening a device can already do something
        _check_regular(path, os.stat(path).st_mode)
        place = os.open(path, os.O_RDONLY | _NO_WAIT | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    file = open(place, "rb")  # noqa: SIM115 - for the caller to close
    try:
        _check_regular(path, os.fstat(place).st_mode)  # it may have been replaced in between
    except BaseException:
        file.close()
        raise
    return file


_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a pipe that nothing writes to is opened at once
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def _check_regular(path, mode):
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")
        raise ValueError(f"{path} is not a regular file but {kind}")


@contextlib.contextmanager
def naming(path: FilePath) -> Iterator[None]:
    """A context whose errors of the system name the file `path`: those of reading, writing and a
    full disk name none.
    """
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def read_json(path: FilePath, most: int = MOST_JSON) -> dict[str, Any]:
    """A JSON object from a file of at most `most` bytes, or FileNotFoundError, or ValueError that
    names the file.
    """
    data = read_bytes(path, most)
    try:
        value = json.loads(data.decode("utf-8"), parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(value).__name__}")
    return value


def read_text(path: FilePath, most: int = MOST_JSON) -> str:
    """A UTF-8 text from a file of at most `most` bytes, or FileNotFoundError, or ValueError that
    names the file.
    """
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason})") from None


def _integer(digits):
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"an integer of {len(digits):,} digits")
    return int(digits)


def write_atomically(path: FilePath, data: bytes | bytearray) -> None:
    """Write bytes to `path` so that a crash at any moment leaves the old file or the new one.

    The temporary name is new and cannot be guessed: no file of the user's is overwritten by it, and
    no link that somebody put there is followed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with naming(path):  # the user knows no temporary file
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException as error:
        if not isinstance(error, FileExistsError):  # otherwise the file is somebody else's
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise
    sync_folder(path.parent)


def remove_temporaries(path: FilePath) -> None:
    """Remove what write_atomically left beside `path` where its process was killed."""
    path = Path(path)
    hexadecimal = "[0-9a-f]" * 16
    for left in path.parent.glob(f".{glob.escape(path.name)}.{hexadecimal}.tmp"):
        left.unlink(missing_ok=True)


def sync_folder(folder: FilePath) -> None:
    """Make new names in a folder last, where a system can say so."""
    with contextlib.suppress(OSError):
        place = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def check_not_there(path: FilePath | None, overwrite: bool = False, option: str = "--out") -> None:
    """Raise FileExistsError if the file of a result is there already, unless overwrite=True, and
    ValueError or OSError where none can be: in place of a folder or a device, or in no folder. This
    is for before the work, which would be lost.

    option: the one that names the file, for the sentence.
    """
    if not path:
        return
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not (folder := Path(path).parent).is_dir():
            raise FileNotFoundError(
                f"{option} {path} cannot be written: {folder} is no folder"
            ) from None
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists already; choose another {option} or add --overwrite")
    _check_regular(path, mode)


def check_apart(places: Mapping[str, FilePath | None]) -> None:
    """Raise ValueError if two options, {option: path or None}, name the same file."""
    options: dict[str, str] = {}
    for option, path in places.items():
        if not path:
            continue
        other = options.setdefault(os.path.realpath(path), option)
        if other != option:
            raise ValueError(f"{other} and {option} must name different files, got {path} for both")


def to_json(value: Any) -> str:
    """JSON, with null for the numbers it cannot hold (a measure of no text is NaN)."""

    def clean(v):
        if isinstance(v, dict):
            return {str(k): clean(x) for k, x in v.items()}
        if isinstance(v, list):
            return [clean(x) for x in v]
        v = v.item() if isinstance(v, np.generic) else v
        return None if isinstance(v, float) and not math.isfinite(v) else v

    return json.dumps(clean(value), indent=1)


def write_lines(path: FilePath, records: Iterable[dict[str, Any]]) -> None:
    """Write dicts to a file as JSON lines, whole or not at all."""
    data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    # half of a surrogate pair, as an undecodable byte of a prompt, becomes JSON's escape for it
    write_atomically(path, data.encode(errors="backslashreplace"))


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """CSV of dicts with the same keys, a heading first -> str; cells are csv_cell's."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, rows[0], lineterminator="\n")
    writer.writerow({name: csv_cell(name) for name in rows[0]})
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue()


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_cell(value: Any) -> Any:
    """`value`, with a quote before a text that a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def load_functions(path: FilePath, *names: str) -> Any:
    """Run a Python file -> the functions of these names that it defines, in order.

    The file is executed: give none that you would not run yourself. Raises FileNotFoundError, or
    ValueError that names the file, where it fails to run or lacks one of them.
    """
    path = Path(path)
    read_bytes(path, _MOST_CODE)  # Python itself would wait for a pipe
    try:
        defined = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        line = _line_in(path, error)
        where = f", line {line}" if line else ""
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ValueError(f"{path}{where} fails to run: {said}") from error
    for name in names:
        if not callable(defined.get(name)):
            raise ValueError(f"{path} defines no function {name!r}")
    return [defined[name] for name in names]


def _line_in(path, error):
    """The number of the line of a Python file at which an error arose, or None."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.walk_tb(error.__traceback__)
    lines = [number for frame, number in frames if frame.f_code.co_filename == str(path)]
    return lines[-1] if lines else None
