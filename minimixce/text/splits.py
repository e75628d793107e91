"""What is trained on and what is held out: whole documents, or all copies of a line."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .. import backend
from ..storage.shapes import Seed
from .documents import NotText, lines_of, pieces_of
from .prepared import Splits
from .sources import LeftOut, Source, reason_of, shown

Place: TypeAlias = Callable[[str], bytes]  # of a line, in an order that looks random


class Document(NamedTuple):
    """A document: a function that yields its text piece by piece, and what a first reading found.

    size: in characters. least, greatest: the places of its lines, where they were asked for. path:
    its file, if it has one.
    """

    chunks: Callable[[], Iterator[str]]
    size: int
    digest: bytes
    least: bytes
    greatest: bytes
    path: Path | None = None


class FirstReading:
    """The first of two readings of a text, which finds out what the second needs to know.

    characters: that occur; left_out: files that are not read again, so far. place: that of a line,
    where the places of lines are asked for.
    """

    def __init__(self, place: Place | None = None) -> None:
        self._place = place
        self._paths: dict[bytes, Path] = {}  # of documents, by their digests
        self.characters: set[str] = set()
        self.left_out: list[LeftOut] = []

    def texts(self, texts: Iterable[str]) -> list[Document]:
        """Documents from texts in memory, as they are."""
        documents = []
        for text in texts:
            document, characters = self._read(partial(iter, [text]), None)
            self.characters |= characters
            documents.append(document)
        return documents

    def files(self, sources: Iterable[Source]) -> list[Document]:
        """Documents from those of the files that are text, not empty, and different from each other
        and from all before. Raises ValueError or OSError for one that the user named and that is
        not text.
        """
        documents = []
        for source in sources:
            try:
                document, characters = self._read(source.chunks, source.path)
            except (NotText, OSError) as error:
                if source.is_named:
                    raise
                self.left_out.append(LeftOut(source.path, reason_of(error)))
                continue
            other = self._paths.setdefault(document.digest, source.path)
            if document.size == 0:
                self.left_out.append(LeftOut(source.path, "empty"))
            elif other != source.path:
                self.left_out.append(LeftOut(source.path, f"the same text as {shown(other)}"))
            else:
                self.characters |= characters
                documents.append(document)
        return documents

    def _read(
        self, chunks: Callable[[], Iterator[str]], path: Path | None
    ) -> tuple[Document, set[str]]:
        size, digest = 0, hashlib.sha256()
        characters: set[str] = set()
        # before it is read, so that a change meanwhile is noticed, too
        again = chunks if path is None else partial(_unchanged, chunks, path, _mark(path))

        def counted():
            nonlocal size
            for chunk in chunks():
                size += len(chunk)
                digest.update(chunk.encode())
                characters.update(chunk)
                yield chunk

        least, greatest = b"\xff" * 9, b""  # above all places, below all
        for line in lines_of(counted()) if self._place else counted():
            if self._place:
                here = self._place(line)
                least, greatest = min(least, here), max(greatest, here)
        return Document(again, size, digest.digest(), least, greatest, path), characters


def _unchanged(
    chunks: Callable[[], Iterator[str]], path: Path, mark: tuple[int, ...]
) -> Iterator[str]:
    """The text of a file, piece by piece. ValueError where the file has changed since its first
    reading, as by a program that writes to it: what was found out then is not true of it.
    """
    _check_mark(path, mark)
    yield from chunks()
    _check_mark(path, mark)


def _mark(path: Path) -> tuple[int, ...]:
    """What tells that a file has changed."""
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def _check_mark(path: Path, mark: tuple[int, ...]) -> None:
    if _mark(path) != mark:
        raise ValueError(f"{path} changed while it was read; try again once nothing writes to it")


# ---- documents -----------------------------------------------------------------------------------


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


def by_document(documents: Sequence[Document], held_out: float, seed: Seed) -> Splits:
    """Yield (split, text or None) pairs: pieces of text for "train" or "validation", None where a
    document ends. The end of a single document is held out.
    """
    if len(documents) > 1:
        chosen = split_documents([document.size for document in documents], held_out, seed)
        for i, document in enumerate(documents):
            yield from _whole("validation" if i in chosen else "train", document)
        return
    (document,) = documents
    left = document.size - round(held_out * document.size)  # characters still to go to training
    for chunk in document.chunks():
        yield "train", chunk[:left]
        yield "validation", chunk[left:]
        left = max(0, left - len(chunk))
    yield "train", None
    yield "validation", None


def _whole(split: str, document: Document) -> Splits:
    yield from ((split, chunk) for chunk in document.chunks())
    yield split, None


# ---- lines ---------------------------------------------------------------------------------------


def places_of_lines(seed: Seed) -> Place:
    """A function that gives each line a place, the same for all its copies, by a hash."""
    rng: Any = backend.rng(seed, np)
    key = rng.bytes(16)
    return lambda line: hashlib.blake2b(line.encode(), digest_size=8, key=key).digest()


def by_line(documents: Sequence[Document], held_out: float, place: Place) -> Splits:
    """The same for lines, each a document of its own: those of the first places are held out, a
    share of about held_out, so that all copies of a line are on one side.

    At least one is held out and at least one is not. ValueError where no two are different.
    """
    least = min(document.least for document in documents)
    greatest = max(document.greatest for document in documents)
    if least >= greatest:
        raise ValueError("the text has too few different lines to hold any of them out: 1")
    last = max(least, int(held_out * (1 << 64)).to_bytes(8, "big"))
    for document in documents:
        for line in lines_of(document.chunks()):
            here = place(line)
            split = "validation" if here <= last and here != greatest else "train"
            yield from _whole_line(split, line)


def _whole_line(split: str, line: str) -> Splits:
    yield from ((split, piece) for piece in pieces_of(line))
    yield split, None


# ---- what is held out is given -------------------------------------------------------------------


class GivenSplits:
    """The same where the validation text was given: `train` and `validation` are documents.

    With lines=True a line that the validation text has is not trained on.
    """

    def __init__(
        self, train: Sequence[Document], validation: Sequence[Document], lines: bool
    ) -> None:
        self._train, self._validation, self._lines = train, validation, lines
        self._left_out = 0

    def remarks(self) -> list[str]:
        """What of the training text was left out, once all was read: a sentence, or none."""
        several = "a line" if self._left_out == 1 else f"{self._left_out:,} lines"
        return [f"left out {several} that the validation text has, too"] if self._left_out else []

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        if not self._lines:
            for split, documents in (("validation", self._validation), ("train", self._train)):
                for document in documents:
                    yield from _whole(split, document)
            return
        held_out = set()
        for line in _lines_of(self._validation):
            held_out.add(_digest(line))
            yield from _whole_line("validation", line)
        for line in _lines_of(self._train):
            if _digest(line) in held_out:
                self._left_out += 1
            else:
                yield from _whole_line("train", line)


def _lines_of(documents: Sequence[Document]) -> Iterator[str]:
    for document in documents:
        yield from lines_of(document.chunks())


def _digest(line: str) -> bytes:
    return hashlib.blake2b(line.encode(), digest_size=16).digest()
