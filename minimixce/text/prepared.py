"""Prepared corpora: folders of token files, of which every change is noticed.

A folder holds the ids of both streams as they are, train.bin and validation.bin, and their
description, minimixce_corpus.json: tokenizer, and the length and SHA-256 of each stream and of the
description itself. The three come into the folder together (storage.install).
"""

import contextlib
import hashlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np

from ..storage import files, install
from ..storage.shapes import Array, FilePath, Int
from .pieces import SplitEncoder
from .tokenizers import Tokenizer, tokenizer_of

# pairs (split, text or None): a piece of text for "train" or "validation", None where a document
# ends
Splits: TypeAlias = Iterable[tuple[str, str | None]]

SPLITS = ("train", "validation")
_DESCRIPTION = "minimixce_corpus.json"
NAMES = (_DESCRIPTION, *(f"{split}.bin" for split in SPLITS))

ALWAYS_VERIFIED = 1 << 30  # bytes of both streams up to which they are read whole to open them
_PIECE = 1 << 17  # tokens, or bytes, at a time
_AGAIN = "prepare the corpus again"


class TokenFile:
    """A stream of ids in a file, read where it is asked for: len(stream), stream[i] and stream[a:b]
    -> ids (b − a,); np.asarray(stream) is all of it.

    Reads come from the file that was opened, also where another one has taken its name. ValueError,
    naming the file, where it has been cut short by then or holds an id that is no token's. It is
    not mapped into memory, where a file that is cut would end the process without a word.
    """

    def __init__(
        self, path: FilePath, dtype: np.dtype[Any], length: int, sha256: str, vocab_size: int
    ) -> None:
        """path: of a file of `length` ids of type dtype, whose bytes have the SHA-256 `sha256`.
        vocab_size: what ids are below. ValueError for a file of another size.
        """
        self.path, self.dtype, self.sha256 = Path(path), dtype, sha256
        self._length, self._vocab_size = length, vocab_size
        try:
            self._file = files.open_regular(path)
        except FileNotFoundError:
            raise ValueError(f"{path} is missing or cut short; {_AGAIN}") from None
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        size = os.fstat(self._file.fileno()).st_size
        if size < self.nbytes:
            raise ValueError(f"{path} is missing or cut short; {_AGAIN}")
        if size > self.nbytes:
            raise ValueError(
                f"{path} has {size:,} bytes, {self.nbytes:,} were written to it; {_AGAIN}"
            )

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """The size of the file."""
        return self._length * self.dtype.itemsize

    @overload
    def __getitem__(self, key: int) -> int: ...

    @overload
    def __getitem__(self, key: slice) -> Int[Array, " n"]: ...

    def __getitem__(self, key: int | slice) -> int | Int[Array, " n"]:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                raise ValueError(f"{self.path} is read in one direction, got a step of {step}")
            return self._read(start, max(start, stop))
        number = key + len(self) if key < 0 else key
        if not 0 <= number < len(self):
            raise IndexError(key)
        return int(self._read(number, number + 1)[0])

    def __array__(self, dtype=None, copy=None):
        return self[:].astype(dtype or self.dtype)

    def verify(self) -> None:
        """Read all of it. Raises ValueError unless it has the checksum that it was made with."""
        found = hashlib.sha256()
        for start in range(0, self.nbytes, _PIECE):
            found.update(self._bytes(start, min(_PIECE, self.nbytes - start)))
        if found.hexdigest() != self.sha256:
            raise ValueError(f"{self.path} has changed since it was written; {_AGAIN}")

    def _read(self, start, stop):
        size = self.dtype.itemsize
        ids = np.frombuffer(self._bytes(start * size, (stop - start) * size), self.dtype)
        if ids.size and (largest := ids.max()) >= self._vocab_size:
            raise ValueError(
                f"{self.path}: ids must be in 0 … {self._vocab_size - 1}, got {largest}; {_AGAIN}"
            )
        return ids

    def _bytes(self, start, count):
        data = b""
        with files.naming(self.path):
            while left := count - len(data):
                more = self._some_bytes(start + len(data), left)
                if not more:
                    break
                data += more
        if len(data) < count:
            raise ValueError(f"{self.path} was cut short while it was in use; {_AGAIN}")
        return data

    def _some_bytes(self, start, count):
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), min(count, 1 << 30), start)
        with self._lock:  # on Windows, all reads share one position
            self._file.seek(start)
            return self._file.read(count)


# of a corpus: in memory, or in a file of a prepared folder
Tokens: TypeAlias = Int[Array, " _N"] | TokenFile


class Prepared(NamedTuple):
    """What a prepared folder holds: the fields of a corpus."""

    train: TokenFile
    validation: TokenFile
    tokenizer: Tokenizer
    lines: bool


Write: TypeAlias = Callable[[Tokenizer, Splits, bool], Prepared]


def encode_splits(
    tokenizer: Tokenizer, splits: Splits, append: Callable[[str, Int[Array, " n"]], Any]
) -> None:
    """Pass the ids of each piece to append(split, ids), with boundaries before, between and after
    documents.
    """
    encoders = {split: SplitEncoder(tokenizer) for split in SPLITS}
    for split in SPLITS:
        append(split, np.array([tokenizer.boundary], np.int32))
    for split, piece in splits:
        append(split, encoders[split].add(piece))


def digest(ids: Tokens, vocab_size: int) -> str:
    """The SHA-256 of a stream, the same in memory and in a file -> hexadecimal digits.

    Of a file it is the one it was written with. vocab_size: how many tokens there are.
    """
    if isinstance(ids, TokenFile):
        return ids.sha256
    found = hashlib.sha256()
    for start in range(0, len(ids), _PIECE):
        piece = ids[start : start + _PIECE]
        found.update(np.ascontiguousarray(piece, _dtype_of(vocab_size)).data)
    return found.hexdigest()


def _dtype_of(vocab_size: int) -> np.dtype[Any]:
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def is_prepared(path: FilePath) -> bool:
    """Whether `path` is a folder of token files that load_corpus wrote."""
    return install.holds(path, _DESCRIPTION)


@contextlib.contextmanager
def preparing(folder: FilePath, overwrite: bool = False) -> Iterator[Write]:
    """A context in which `folder` is this process's, with the function that writes a corpus to it:
    write(tokenizer, splits, lines) -> Prepared.

    All of the corpus is in the folder in the end or nothing of it, wherever the process is stopped.
    Raises FileExistsError where another process is at work there, where the folder holds a prepared
    corpus, unless overwrite=True, and where it holds files of these names that are not of one.
    """
    folder = Path(folder)
    with install.locked(folder):
        install.finish(folder, NAMES)
        _check_nothing_is_lost(folder, overwrite)

        def write(tokenizer, splits, lines):
            with install.replacing(folder, NAMES) as new:
                _write(new, tokenizer, splits, lines)
            return open_streams(folder, verify=True)

        yield write


def _check_nothing_is_lost(folder: Path, overwrite: bool) -> None:
    there = [name for name in NAMES if os.path.lexists(folder / name)]
    if there and _DESCRIPTION not in there:
        raise FileExistsError(
            f"{folder} already holds {there[0]}, which is of no prepared corpus; choose another"
            " --out"
        )
    if there and not overwrite:
        raise FileExistsError(
            f"{folder} already holds {there[0]}; choose another --out or add --overwrite"
        )


def _write(folder: Path, tokenizer: Tokenizer, splits: Splits, lines: bool) -> None:
    dtype = _dtype_of(tokenizer.vocab_size)
    with contextlib.ExitStack() as stack:
        streams = {
            split: stack.enter_context(_Stream(folder / f"{split}.bin", dtype)) for split in SPLITS
        }
        encode_splits(tokenizer, splits, lambda split, ids: streams[split].append(ids))
    description = {
        "tokenizer": tokenizer.fields(),
        "lines": lines,
        "dtype": dtype.str,
        "streams": {
            split: {"tokens": stream.tokens, "sha256": stream.sha256.hexdigest()}
            for split, stream in streams.items()
        },
    }
    description["sha256"] = _seal(description)
    data = json.dumps(description, ensure_ascii=False).encode()
    files.write_atomically(folder / _DESCRIPTION, data)


class _Stream:
    """A file that ids are appended to, on the disk when its context ends."""

    def __init__(self, path, dtype):
        self._path, self._dtype = path, dtype
        self.tokens, self.sha256 = 0, hashlib.sha256()

    def __enter__(self):
        with files.naming(self._path):
            self._file = open(self._path, "xb")
        return self

    def append(self, ids):
        data = ids.astype(self._dtype).tobytes()
        with files.naming(self._path):
            self._file.write(data)
        self.tokens += len(ids)
        self.sha256.update(data)

    def __exit__(self, kind, error, trace):
        with files.naming(self._path), self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())


def _seal(description: dict[str, Any]) -> str:
    """The SHA-256 of all that a description says, except its own."""
    content = {name: value for name, value in description.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_streams(folder: FilePath, verify: bool = False) -> Prepared:
    """The corpus in a prepared folder, whose streams are read where they are asked for.

    They are checked by their lengths, and up to ALWAYS_VERIFIED bytes or with verify=True by their
    checksums. Raises FileNotFoundError or ValueError, naming the file, for a folder that is not as
    it was prepared.
    """
    folder = Path(folder)
    install.settle(folder, NAMES)
    path = folder / _DESCRIPTION
    description = files.read_json(path)
    tokenizer = tokenizer_of(description.get("tokenizer", {}), path)
    dtype, recorded = _checked(description, path)
    train, validation = (
        TokenFile(folder / f"{split}.bin", dtype, tokens, sha256, tokenizer.vocab_size)
        for split, (tokens, sha256) in zip(SPLITS, recorded)
    )
    if files.read_json(path) != description:
        raise ValueError(f"{folder} was prepared anew while it was opened; try again")
    if verify or train.nbytes + validation.nbytes <= ALWAYS_VERIFIED:
        train.verify()
        validation.verify()
    return Prepared(train, validation, tokenizer, bool(description.get("lines")))


def _checked(
    description: dict[str, Any], path: Path
) -> tuple[np.dtype[Any], list[tuple[int, str]]]:
    """What a description, read from `path`, says of the streams -> the type of their ids, (tokens,
    SHA-256) of each; ValueError for one that has changed.
    """
    if description.get("dtype") not in ("<u2", "<u4"):
        raise ValueError(f"{path}: dtype must be <u2 or <u4, got {description.get('dtype')!r}")
    if "sha256" not in description:
        raise ValueError(f"{path} is of an earlier version of minimixce; {_AGAIN}")
    if description["sha256"] != _seal(description):
        raise ValueError(f"{path} has changed since it was written; {_AGAIN}")
    dtype = np.dtype(description["dtype"])
    streams = description.get("streams")
    found = []
    for split in SPLITS:
        stream = streams.get(split) if isinstance(streams, dict) else None
        tokens, sha256 = (
            (stream.get("tokens"), stream.get("sha256")) if isinstance(stream, dict) else (0, "")
        )
        if type(tokens) is not int or tokens < 1 or not isinstance(sha256, str):
            raise ValueError(f"{path} does not describe the stream {split}; {_AGAIN}")
        found.append((tokens, sha256))
    return dtype, found
