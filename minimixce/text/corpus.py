"""A corpus: one stream of ids for training and one for validation."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from ..storage.shapes import Array, FilePath, Int, Seed
from . import prepared
from .documents import find_files, lines_of, python_docs, read_chunks
from .tokenizers import BOUNDARY, ByteTokenizer, CharTokenizer, Tokenizer


class Corpus(NamedTuple):
    """What training needs of a text: ids of both splits (n,), the tokenizer they were made with,
    and whether each line is a sequence of its own. The ids of a prepared folder are
    prepared.TokenFiles, which are sliced like arrays; np.asarray reads a whole one.
    """

    train: prepared.Tokens
    validation: prepared.Tokens
    tokenizer: Tokenizer
    lines: bool = False

    def fingerprint(self) -> int:
        """A number that changes with every token of both streams and with how they are read, to
        notice that data changed under a run.
        """
        streams = [prepared.digest(ids, self.tokenizer.vocab_size) for ids in self[:2]]
        content = json.dumps([self.tokenizer.fields(), self.lines, *streams])
        # 48 bits: an integer that every reader of JSON takes as it is
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:6], "big")


def load_corpus(
    paths: str | Path | Sequence[FilePath] | None = None,
    *,
    tokenizer: str = "character",
    lines: bool = False,
    held_out: float = 0.1,
    seed: Seed = 0,
    folder: FilePath | None = None,
    overwrite: bool = False,
    verify: bool = False,
) -> Corpus:
    """A corpus from UTF-8 text files and folders, or by default from Python's documentation.

    Each file is a document, or with lines=True each line. Documents are drawn at random into the
    validation split until it holds `held_out` of the characters; a single document is cut, its end
    held out. With `folder` the streams are written there and read from there as they are needed, so
    that memory stays bounded at any size; overwrite: whether they may replace a prepared corpus.
    Such a folder is itself a path to load from; one of more than 1 GB is only read whole, to check
    it, with verify=True. Raises FileNotFoundError or ValueError, naming the file, for what is
    missing, empty, not text or not as it was prepared.
    """
    if tokenizer not in ("character", "byte"):
        raise ValueError(f'tokenizer must be "character" or "byte", got {tokenizer!r}')
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be between 0 and 1, got {held_out}")
    paths = [paths] if isinstance(paths, (str, Path)) else paths
    if paths is not None and len(paths) == 1 and prepared.is_prepared(paths[0]):
        if folder is not None:
            raise ValueError(f"{paths[0]} is a prepared corpus already")
        return Corpus(*prepared.open_streams(paths[0], verify))
    if paths is None:
        sources = [lambda d=d: iter([d]) for d in python_docs()]
    else:
        sources = [lambda p=p: read_chunks(p) for p in find_files(paths)]

    into = contextlib.nullcontext(_keep_in_memory)
    with into if folder is None else prepared.preparing(folder, overwrite) as write:
        return _make(sources, paths, tokenizer, lines, held_out, seed, write)


def _make(sources, paths, tokenizer, lines, held_out, seed, write):
    """The corpus of `sources`, each a function that yields a document piece by piece, whose streams
    write(tokenizer, splits, lines) keeps.
    """
    sizes, characters = [], set()
    for source in sources:
        size = 0
        for chunk in source():
            size += len(chunk)
            characters.update(chunk)
        sizes.append(size)
    if sum(sizes) == 0 or not "".join(characters).strip():
        raise ValueError(f"{', '.join(map(str, paths or ()))} holds no text")
    made = (
        CharTokenizer(characters - {"\n"} if lines else characters)
        if tokenizer == "character"
        else ByteTokenizer()
    )
    # without empty files
    sources, sizes = zip(*((source, size) for source, size in zip(sources, sizes) if size))
    splits = (
        _line_splits(sources, held_out, seed)
        if lines
        else _document_splits(sources, sizes, held_out, seed)
    )
    train, validation = write(made, splits, lines)[:2]
    return Corpus(train, validation, made, lines)


def encode_files(
    paths: Sequence[FilePath], tokenizer: Tokenizer, lines: bool = False
) -> Int[Array, " N"]:
    """Files and folders as one stream of ids (n,), for a tokenizer that exists: each file, or each
    line, a document.
    """
    stream = [np.array([BOUNDARY], np.int32)]
    for path in find_files(paths):
        for piece in lines_of(read_chunks(path)) if lines else ["".join(read_chunks(path))]:
            stream += [tokenizer.encode(piece), stream[0]]
    if len(stream) == 1 or not any(len(piece) for piece in stream[1::2]):
        raise ValueError(f"{', '.join(map(str, paths))} holds no text")
    return np.concatenate(stream)


def split_documents(sizes: Sequence[int], held_out: float, seed: Seed = 0) -> set[int]:
    """Which documents to hold out whole: drawn at random while they fit into held_out of all
    characters -> set of numbers.

    At least one is held out, the smallest where none fits, and at least one is not.
    """
    budget = held_out * sum(sizes)
    chosen: set[int] = set()
    rng: Any = backend.rng(seed, np)
    for i in rng.permutation(len(sizes)):
        if sizes[i] <= budget and len(chosen) < len(sizes) - 1:
            chosen.add(int(i))
            budget -= sizes[i]
    return chosen or {int(np.argmin(sizes))}


def _document_splits(sources, sizes, held_out, seed):
    """Yield (split, text or None) pairs: pieces of text for "train" or "validation", None where a
    document ends.
    """
    if len(sources) > 1:
        chosen = split_documents(sizes, held_out, seed)
        for i, source in enumerate(sources):
            split = "validation" if i in chosen else "train"
            yield from ((split, chunk) for chunk in source())
            yield split, None
        return
    left = sizes[0] - round(held_out * sizes[0])  # characters still to go to training
    for chunk in sources[0]():
        yield "train", chunk[:left]
        yield "validation", chunk[left:]
        left = max(0, left - len(chunk))
    yield "train", None
    yield "validation", None


def _line_splits(sources, held_out, seed):
    """The same for lines: each is a document, held out with probability held_out."""
    rng, number = backend.rng(seed, np), 0
    for source in sources:
        for line in lines_of(source()):
            # The first two go one to each split, so that neither is empty.
            split = (
                ("train", "validation")[number]
                if number < 2
                else "validation"
                if rng.random() < held_out
                else "train"
            )
            number += 1
            yield split, line
            yield split, None


def _keep_in_memory(tokenizer, splits, lines):
    parts = {"train": [], "validation": []}
    prepared.encode_splits(tokenizer, splits, lambda split, ids: parts[split].append(ids))
    return [np.concatenate(parts[split]) for split in ("train", "validation")]
