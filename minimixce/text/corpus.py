"""A corpus: one stream of ids for training and one for validation."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..storage.shapes import Array, FilePath, Int, Seed
from . import formats, prepared
from .documents import NotText, lines_of, pieces_of, python_docs
from .pieces import WholeWords, encode_pieces
from .sources import LeftOut, Search, Source, Sources, describe_left_out, listed, reason_of
from .splits import Document, FirstReading, GivenSplits, by_document, by_line, places_of_lines
from .tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    cut_before_space,
    learn_bpe,
)

TOKENIZERS = ("character", "byte", "bpe")  # that are made for a text, by their names
VOCAB_SIZE = 4096  # tokens that a BPE learns
HELD_OUT = 0.1  # share of a text for validation


class Corpus(NamedTuple):
    """What training needs of a text: ids of both splits (n,), the tokenizer they were made with,
    and whether each line is a sequence of its own.

    The ids are uint16, or uint32 where there are many tokens. Those of a prepared folder are
    prepared.TokenFiles, which are sliced like arrays; np.asarray reads a whole one. sources: which
    files were read and which were not, or None where there were no files to read.
    """

    train: prepared.Tokens
    validation: prepared.Tokens
    tokenizer: Tokenizer
    lines: bool = False
    sources: Sources | None = None

    def describe_size(self) -> str:
        """How many tokens there are, in words; where the vocabulary is not the text's own, it may
        hold many that the text lacks.
        """
        size = f"{self.tokenizer.vocab_size:,}"
        is_own = self.tokenizer.kind == "character"
        return (
            f"{len(self.train):,} training and {len(self.validation):,} validation tokens,"
            f" {f'{size} different' if is_own else f'from a vocabulary of {size}'}"
        )

    def fingerprint(self) -> int:
        """A number that changes with every token of both streams and with how they are read, to
        notice that data changed under a run.
        """
        streams = [prepared.digest(ids, self.tokenizer.vocab_size) for ids in self[:2]]
        content = json.dumps([self.tokenizer.fields(), self.lines, *streams])
        # 48 bits: an integer that every reader of JSON takes as it is
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:6], "big")


def load_corpus(
    paths: FilePath | Sequence[FilePath] | None = None,
    *,
    tokenizer: str | Tokenizer = "character",
    vocab_size: int = VOCAB_SIZE,
    lines: bool = False,
    held_out: float = HELD_OUT,
    seed: Seed = 0,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    validation: FilePath | Sequence[FilePath] | None = None,
    without: Sequence[FilePath] = (),
    folder: FilePath | None = None,
    overwrite: bool = False,
    verify: bool = False,
) -> Corpus:
    """A corpus from UTF-8 text files and folders, or by default from Python's documentation.

    Each file is a document, or with lines=True each line. Documents are drawn at random into the
    validation split until it holds `held_out` of the characters; a single document is cut, its end
    held out. Lines are drawn by a hash, so that all copies of a line are on one side. Or
    `validation`, files and folders, is what is held out, and nothing is split; what it has, a
    document or a line, is not trained on.

    tokenizer: "character", "byte", "bpe", of at most vocab_size tokens, learnt from what is trained
    on, or one that exists (load_tokenizer). A prepared corpus has its own.

    Of a folder all files are read, except for hidden ones and what is no text. include, exclude:
    patterns (fnmatch) of the files to read and of files and folders not to, each for a name or a
    path below the folder; without: folders where results go, which are never read. Each file is
    read once, and a document that is the same as another left out: corpus.sources says what was.

    With `folder` the streams are written there and read from there as they are needed, so that
    memory stays bounded at any size; overwrite: whether they may replace a prepared corpus. Such a
    folder is itself a path to load from; one of more than 1 GB is only read whole, to check it,
    with verify=True. A folder of lines that formats.write_lines made is one, too, with its own
    validation text. Raises FileNotFoundError or ValueError, naming the file, for what is missing,
    empty, not text or not as it was prepared.
    """
    _check_options(tokenizer, held_out, paths, validation)
    paths = None if paths is None else listed("paths", paths)
    patterns = (_patterns("include", include), _patterns("exclude", exclude))
    if paths is not None and len(paths) == 1 and prepared.is_prepared(paths[0]):
        if folder is not None:
            raise ValueError(f"{paths[0]} is a prepared corpus already")
        if any(patterns) or validation is not None:
            raise ValueError(
                f"{paths[0]} is a prepared corpus: include, exclude and validation were settled"
                " when it was prepared"
            )
        return _opened(paths[0], tokenizer, verify)

    if paths is not None and len(paths) == 1 and formats.is_lines(paths[0]):
        if any(patterns) or validation is not None or held_out != HELD_OUT:
            raise ValueError(
                f"{paths[0]} holds texts with splits of their own, from prepare --format: include,"
                " exclude, validation and held_out cannot be given"
            )
        to_train, validation = formats.open_lines(paths[0])
        paths, lines = [to_train], True
    search = Search(*patterns, without if folder is None else [*without, folder])
    into = contextlib.nullcontext(_keep_in_memory)
    with into if folder is None else prepared.preparing(folder, overwrite) as write:
        place = places_of_lines(seed) if lines and validation is None else None
        found = _read_first(paths, listed("validation", validation), search, FirstReading(place))
        given = GivenSplits(found.documents, found.validation, lines)

        def splits() -> prepared.Splits:
            if place is not None:
                return by_line(found.documents, held_out, place)
            return by_document(found.documents, held_out, seed) if validation is None else given

        characters = found.characters - {"\n"} if lines else found.characters
        made = _tokenizer(tokenizer, characters, splits, vocab_size)
        train, held = write(made, splits(), lines)[:2]
    remarks = search.remarks() + _on_vocabulary(tokenizer, made, vocab_size)
    if validation is not None:
        remarks += given.remarks()
    elif lines or len(found.documents) > 1:
        remarks += _on_share(len(held) / (len(train) + len(held)), held_out, lines)
    no_files = paths is None and validation is None
    return Corpus(train, held, made, lines, None if no_files else found.sources(remarks))


def _opened(folder: FilePath, tokenizer: str | Tokenizer, verify: bool) -> Corpus:
    """A prepared corpus; ValueError where another tokenizer is asked for than it has."""
    found = Corpus(*prepared.open_streams(folder, verify))
    if not isinstance(tokenizer, str) and tokenizer.fields() != found.tokenizer.fields():
        raise ValueError(
            f"{folder} was prepared with another tokenizer; prepare it with this one: --tokenizer"
            " FOLDER names the folder that has it"
        )
    return found


def _tokenizer(
    tokenizer: str | Tokenizer,
    characters: set[str],
    splits: Callable[[], prepared.Splits],
    vocab_size: int,
) -> Tokenizer:
    """The tokenizer itself, or the one of that name for a text of these characters and splits."""
    if tokenizer == "byte":
        return ByteTokenizer()
    if tokenizer == "bpe":
        return learn_bpe(_whole_texts(splits()), vocab_size)
    return CharTokenizer(characters) if isinstance(tokenizer, str) else tokenizer


def _whole_texts(splits: prepared.Splits) -> Iterator[str]:
    """What is trained on, in pieces of whole words; what is held out teaches a tokenizer
    nothing.
    """
    words = WholeWords(cut_before_space)
    for split, piece in splits:
        if split == "train":
            yield from [words.end()] if piece is None else words.add(piece)


def _on_vocabulary(tokenizer, made, vocab_size):
    """A sentence where a text has fewer tokens than asked for."""
    if tokenizer != "bpe" or made.vocab_size == vocab_size:
        return []
    return [f"the text has {made.vocab_size:,} tokens for a BPE, fewer than {vocab_size:,}"]


def _check_options(tokenizer, held_out, paths, validation):
    for name, value in (("paths", paths), ("validation", validation)):
        if value is not None and not listed(name, value):
            raise ValueError(f"{name} must name a file or folder, got none")
    if isinstance(tokenizer, str) and tokenizer not in TOKENIZERS:
        *names, last = (f'"{name}"' for name in TOKENIZERS)
        raise ValueError(f"tokenizer must be {', '.join(names)} or {last}, got {tokenizer!r}")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be above 0 and below 1, got {held_out}")
    if validation is not None and held_out != HELD_OUT:
        raise ValueError(
            f"held_out is for a text that is split, got {held_out} beside a validation text; leave"
            " one of them out"
        )


def _patterns(name, value):
    return [str(pattern) for pattern in listed(name, value)]


class _Found(NamedTuple):
    """What a first reading found: documents to train on, or to split, those to hold out, the
    characters of all, and what is not read again.
    """

    documents: list[Document]
    validation: list[Document]
    characters: set[str]
    left_out: list[LeftOut]

    def sources(self, remarks: Sequence[str]) -> Sources:
        """For corpus.sources, with more remarks."""
        files, held_out = (
            tuple(document.path for document in documents if document.path)
            for documents in (self.documents, self.validation)
        )
        return Sources(files, held_out, tuple(self.left_out), tuple(remarks))


def _read_first(
    paths: Sequence[FilePath] | None,
    validation: Sequence[FilePath],
    search: Search,
    reading: FirstReading,
) -> _Found:
    """Find the documents and read them once. What both name is held out."""
    held = reading.files(search.find(validation, again="in the validation text"))
    _check_some_text(validation, reading, search)
    if paths is None:
        documents = reading.texts(python_docs())
    else:
        before, reading.characters = reading.characters, set()
        documents = reading.files(search.find(paths))
        _check_some_text(paths, reading, search)
        reading.characters |= before
    left_out = sorted([*search.left_out, *reading.left_out])
    return _Found(documents, held, reading.characters, left_out)


def _check_some_text(paths, reading, search):
    if paths and not "".join(reading.characters).strip():
        left_out = sorted([*search.left_out, *reading.left_out])
        why = f"; {describe_left_out(left_out)}" if left_out else ""
        raise ValueError(f"{', '.join(map(str, paths))} holds no text{why}")


def _on_share(share, held_out, lines):
    """A sentence where the share of a text that is held out is far from the one asked for."""
    if abs(share - held_out) <= held_out / 4:
        return []
    why = "all copies of a line are on one side" if lines else "files are held out whole"
    return [f"held out {share:.1%} of the text, not {held_out:.1%}: {why}"]


class _Ids:
    """Ids in memory, of a small type, to which more are added without a second copy of all."""

    def __init__(self, vocab_size):
        self._dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self._data = bytearray()

    def __len__(self):
        return len(self._data) // self._dtype.itemsize

    def append(self, ids):
        self._data += ids.astype(self._dtype).tobytes()

    def cut(self, length):
        del self._data[length * self._dtype.itemsize :]

    def array(self):
        return np.frombuffer(self._data, self._dtype)


def _keep_in_memory(tokenizer, splits, lines):
    streams = {split: _Ids(tokenizer.vocab_size) for split in prepared.SPLITS}
    prepared.encode_splits(tokenizer, splits, lambda split, ids: streams[split].append(ids))
    return [streams[split].array() for split in prepared.SPLITS]


def encode_files(
    paths: Sequence[FilePath],
    tokenizer: Tokenizer,
    lines: bool = False,
    *,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    most: int | None = None,
) -> Int[Array, " N"]:
    """Files and folders as one stream of ids (n,), for a tokenizer that exists: each file, or each
    line, a document; the first `most` of them, after which nothing is read.

    include, exclude: see load_corpus. Raises FileNotFoundError or ValueError, naming the file, for
    what is missing, empty, not text or has characters that the tokenizer does not know.
    """
    return read_files(paths, tokenizer, lines, include=include, exclude=exclude, most=most)[0]


def read_files(
    paths: Sequence[FilePath],
    tokenizer: Tokenizer,
    lines: bool = False,
    *,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    most: int | None = None,
) -> tuple[Int[Array, " N"], Sources]:
    """encode_files, and what was read."""
    search = Search(_patterns("include", include), _patterns("exclude", exclude))
    stream = _Ids(tokenizer.vocab_size)
    stream.append(np.array([tokenizer.boundary]))
    read, left_out = [], []
    for source in search.find(listed("paths", paths)):
        before = len(stream)
        try:
            for ids in _encoded(source, tokenizer, lines):
                stream.append(ids)
                if most is not None and len(stream) >= most:
                    break
        except (NotText, OSError) as error:
            if source.is_named:
                raise
            stream.cut(before)
            left_out.append(LeftOut(source.path, reason_of(error)))
            continue
        read.append(source.path)
        if most is not None and len(stream) >= most:
            stream.cut(most)
            break
    left_out = sorted([*search.left_out, *left_out])
    ids = stream.array()
    if (ids == tokenizer.boundary).all():
        why = f"; {describe_left_out(left_out)}" if left_out else ""
        raise ValueError(f"{', '.join(map(str, paths))} holds no text{why}")
    return ids, Sources(tuple(read), (), tuple(left_out), tuple(search.remarks()))


def _encoded(source: Source, tokenizer: Tokenizer, lines: bool) -> Iterator[Int[Array, " n"]]:
    """The ids of a file, piece by piece, with a boundary behind the file or each line."""
    boundary = np.array([tokenizer.boundary])
    if not lines:
        yield from encode_pieces(tokenizer, source.chunks())
        yield boundary
        return
    for line in lines_of(source.chunks()):
        yield from encode_pieces(tokenizer, pieces_of(line))
        yield boundary
