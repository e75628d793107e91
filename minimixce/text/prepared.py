"""Prepared corpora: folders of token files that are mapped into memory."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..storage import files
from ..storage.shapes import Array, FilePath, Int
from .tokenizers import BOUNDARY, Tokenizer, tokenizer_of

# pairs (split, text or None): a piece of text for "train" or "validation", None where a document
# ends
Splits: TypeAlias = Iterable[tuple[str, str | None]]

_CORPUS_FILE, _STREAMS = "minimixce_corpus.json", ("train.bin", "validation.bin")


class Prepared(NamedTuple):
    """What a prepared folder holds: the fields of a corpus."""

    train: Int[Array, " N"]
    validation: Int[Array, " M"]
    tokenizer: Tokenizer
    lines: bool


def encode_splits(
    tokenizer: Tokenizer, splits: Splits, append: Callable[[str, Int[Array, " n"]], Any]
) -> None:
    """Pass the ids of each piece to append(split, ids), with boundaries before, between and after
    documents.
    """
    for split in ("train", "validation"):
        append(split, np.array([BOUNDARY], np.int32))
    for split, piece in splits:
        append(split, np.array([BOUNDARY], np.int32) if piece is None else tokenizer.encode(piece))


def check_nothing_is_prepared(folder: FilePath) -> None:
    """Raise FileExistsError for a folder that holds a file of a prepared corpus."""
    for name in (_CORPUS_FILE, *_STREAMS):
        if (Path(folder) / name).exists():
            raise FileExistsError(
                f"{folder} already holds {name}; delete what is there or choose another folder"
            )


def is_prepared(path: FilePath) -> bool:
    """Whether `path` is a folder of token files that load_corpus wrote."""
    return (Path(path) / _CORPUS_FILE).exists()


def write_streams(folder: FilePath, tokenizer: Tokenizer, splits: Splits, lines: bool) -> Prepared:
    """Write the streams to files and map them. The description comes last, so a half-written folder
    is not mistaken for one.
    """
    folder = Path(folder)
    dtype = np.dtype("<u2") if tokenizer.vocab_size <= 1 << 16 else np.dtype("<u4")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (
            open(folder / _STREAMS[0], "wb") as train,
            open(folder / _STREAMS[1], "wb") as validation,
        ):
            streams = {"train": train, "validation": validation}
            encode_splits(
                tokenizer,
                splits,
                lambda split, ids: streams[split].write(ids.astype(dtype).tobytes()),
            )
    except BaseException:
        for name in _STREAMS:
            (folder / name).unlink(missing_ok=True)
        raise
    description = {"tokenizer": tokenizer.fields(), "lines": lines, "dtype": dtype.str}
    data = json.dumps(description, ensure_ascii=False).encode()
    files.write_atomically(folder / _CORPUS_FILE, data)
    return open_streams(folder)


def open_streams(folder: FilePath) -> Prepared:
    """The streams of a prepared folder, mapped into memory. Raises FileNotFoundError or ValueError,
    naming the file, for a folder that is not one.
    """
    folder = Path(folder)
    description = files.read_json(folder / _CORPUS_FILE)
    tokenizer = tokenizer_of(description.get("tokenizer", {}), folder / _CORPUS_FILE)
    if description.get("dtype") not in ("<u2", "<u4"):
        raise ValueError(
            f"{folder / _CORPUS_FILE}: dtype must be <u2 or <u4, got {description.get('dtype')!r}"
        )
    dtype, streams = np.dtype(description["dtype"]), []
    for path in (folder / name for name in _STREAMS):
        if not path.exists() or path.stat().st_size == 0 or path.stat().st_size % dtype.itemsize:
            raise ValueError(f"{path} is missing or cut short; prepare the corpus again")
        streams.append(np.memmap(path, dtype, mode="r"))
    train, validation = streams
    return Prepared(train, validation, tokenizer, bool(description.get("lines")))
