"""Corpora, tokenizers and batches: from files to arrays of ids.

A corpus is one stream of ids a split, boundary · document · boundary · document · … · boundary. Batches are blocks cut from
it, or, where each line of the text is a sequence of its own, whole lines with padding. Everything here is NumPy on the host
and works alike on memory-mapped streams; training moves each batch to the model's device.
"""

import json
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import backend, checkpoint

BOUNDARY = 0  # the id that starts and ends every document; tokenizers count their own tokens from 1
TOKENIZER_FILE = "minimixce_tokenizer.json"
_CHUNK = 1 << 20  # characters read and encoded at a time


# ---- tokenizers -------------------------------------------------------------------------------------------------------


class CharTokenizer:
    """One id per character: boundary 0, then the given characters 1, 2, … in sorted order."""

    kind, boundary, joiner = "character", BOUNDARY, ""

    def __init__(self, characters):
        self.characters = "".join(sorted(set(characters)))
        codes = _code_points(self.characters)
        self._id_of_code = np.zeros(int(codes.max(initial=0)) + 1, np.int32)
        self._id_of_code[codes] = np.arange(1, len(codes) + 1)

    @property
    def vocab_size(self):
        """V, the boundary included."""
        return 1 + len(self.characters)

    def encode(self, text):
        """str -> ids (n,) int32. Raises ValueError that names the first character the tokenizer does not have."""
        codes = _code_points(text)
        known = codes < len(self._id_of_code)
        ids = np.where(known, self._id_of_code[np.where(known, codes, 0)], 0)
        if not ids.all():
            unknown = text[int(np.argmin(ids))]
            raise ValueError(f"character {unknown!r} does not occur in the text this tokenizer was made from")
        return ids

    def decode(self, ids):
        """ids (n,) -> str; boundaries are left out."""
        return "".join(self.characters[i - 1] for i in np.asarray(ids).tolist() if i != BOUNDARY)

    def fields(self):
        """What a run keeps of it, as JSON."""
        return {"type": self.kind, "boundary": BOUNDARY, "characters": self.characters}


class ByteTokenizer:
    """One id per byte of UTF-8: boundary 0, byte b is id b + 1, so any text can be encoded (V = 257)."""

    kind, boundary, joiner, vocab_size = "byte", BOUNDARY, "", 257

    def encode(self, text):
        """str -> ids (n,) int32."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32) + 1

    def decode(self, ids):
        """ids (n,) -> str; boundaries are left out, bytes that are not UTF-8 become the replacement character."""
        ids = np.asarray(ids)
        return (ids[ids != BOUNDARY] - 1).astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def fields(self):
        """What a run keeps of it, as JSON."""
        return {"type": self.kind, "boundary": BOUNDARY}


class WordTokenizer:
    """One id per word of a world: boundary 0, then the given words 1, 2, … in their order."""

    kind, boundary, joiner = "word", BOUNDARY, " "

    def __init__(self, words):
        self.words = list(words)
        bad = next((w for i, w in enumerate(self.words) if w.split() != [w] or w in self.words[:i]), None)
        if bad is not None:
            raise ValueError(f"words must be different and without spaces, to be told apart in a text, got {bad!r}")
        self._id_of_word = {word: i for i, word in enumerate(self.words, start=1)}

    @property
    def vocab_size(self):
        """V, the boundary included."""
        return 1 + len(self.words)

    def encode(self, text):
        """str -> ids (n,) int32. Raises ValueError that names the first word the tokenizer does not have."""
        for word in text.split():
            if word not in self._id_of_word:
                raise ValueError(f"word {word!r} is none of this tokenizer's")
        return np.array([self._id_of_word[word] for word in text.split()], np.int32)

    def decode(self, ids):
        """ids (n,) -> str, words joined by spaces; boundaries are left out."""
        return " ".join(self.words[i - 1] for i in np.asarray(ids).tolist() if i != BOUNDARY)

    def fields(self):
        """What a run keeps of it, as JSON."""
        return {"type": self.kind, "boundary": BOUNDARY, "words": self.words}


def save_tokenizer(tokenizer, folder):
    """Write a tokenizer beside a model, as JSON."""
    data = json.dumps(tokenizer.fields(), ensure_ascii=False).encode() + b"\n"
    checkpoint.write_atomically(Path(folder) / TOKENIZER_FILE, data)


def load_tokenizer(folder):
    """The tokenizer that was saved beside a model. Raises FileNotFoundError or ValueError."""
    path = Path(folder) / TOKENIZER_FILE
    return _tokenizer_of(checkpoint.read_json(path), path)


def _tokenizer_of(fields, path):
    fields = fields if isinstance(fields, dict) else {}
    if fields.get("type") == ByteTokenizer.kind:
        return ByteTokenizer()
    if fields.get("type") == CharTokenizer.kind and isinstance(fields.get("characters"), str):
        return CharTokenizer(fields["characters"])
    words = fields.get("words")
    if fields.get("type") == WordTokenizer.kind and isinstance(words, list) and all(isinstance(w, str) for w in words):
        return WordTokenizer(words)
    raise ValueError(f"{path} does not describe a character, byte or word tokenizer")


def _code_points(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


# ---- documents --------------------------------------------------------------------------------------------------------


def python_docs():
    """The default corpus: the language reference topics every CPython carries -> list of documents (str).

    Topics quote each other, so a paragraph of 40 or more characters is kept only where it first occurs; otherwise text
    held out would have been seen in training.
    """
    from pydoc_data.topics import topics

    return drop_repeated_paragraphs(topics.values())


def drop_repeated_paragraphs(documents, min_length=40):
    """Documents without the paragraphs (blank-line separated) of min_length or more characters that occurred before."""
    seen, kept_documents = set(), []
    for document in documents:
        kept = []
        for paragraph in document.split("\n\n"):
            key = " ".join(paragraph.split())
            if len(key) >= min_length and key in seen:
                continue
            seen.add(key)
            kept.append(paragraph)
        kept_documents.append("\n\n".join(kept).strip("\n"))
    return [document for document in kept_documents if document]


def _find_files(paths):
    """Files as they are, folders as all their files in sorted order, hidden ones left out."""
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            visible = (p for p in path.rglob("*") if not any(s.startswith(".") for s in p.relative_to(path).parts))
            inside = sorted(p for p in visible if p.is_file())
            if not inside:
                raise ValueError(f"{path} holds no files")
            files += inside
        elif path.is_file():
            files.append(path)
        elif path.exists():  # a pipe, for example, which could be read only once
            raise ValueError(f"{path} is neither a file nor a folder")
        else:
            raise FileNotFoundError(f"{path} does not exist")
    return files


def _read_chunks(path):
    """The text of a UTF-8 file in pieces of bounded size."""
    try:
        with open(path, encoding="utf-8") as file:
            while chunk := file.read(_CHUNK):
                if "\0" in chunk:
                    raise ValueError(f"{path} is not a text file: it holds a NUL character")
                yield chunk
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason})") from None


def _lines(chunks):
    """Lines of a text that comes in pieces, without their ends; blank lines are left out."""
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split("\n")
        yield from (line for line in whole if line.strip())
    if rest.strip():
        yield rest


# ---- corpora ----------------------------------------------------------------------------------------------------------


class Corpus(NamedTuple):
    """What training needs of a text: ids of both splits (n,), the tokenizer they were made with, and whether each line is
    a sequence of its own."""

    train: np.ndarray
    validation: np.ndarray
    tokenizer: object
    lines: bool = False

    def fingerprint(self):
        """A number that tells one training stream from another, to notice that data changed under a run."""
        sample = self.train
        if len(sample) > 1_000_000:  # stretches, so that a mapped file is not read whole
            starts = np.linspace(0, len(sample) - 1000, 1000).astype(np.int64)
            sample = sample[starts[:, None] + np.arange(1000)]
        letters = zlib.crc32(json.dumps(self.tokenizer.fields()).encode())
        return zlib.crc32(sample.astype(np.int32).tobytes(), letters) ^ len(self.train)


def load_corpus(paths=None, *, tokenizer="character", lines=False, held_out=0.1, seed=0, folder=None):
    """A corpus from UTF-8 text files and folders, or by default from Python's documentation.

    Each file is a document, or with lines=True each line. Documents are drawn at random into the validation split until it
    holds `held_out` of the characters; a single document is cut, its end held out. With `folder` the streams are written
    there and memory-mapped, so that memory stays bounded whatever the size; such a folder is itself a path to load from.
    Raises FileNotFoundError or ValueError, naming the file, for what is missing, empty or not text.
    """
    if tokenizer not in ("character", "byte"):
        raise ValueError(f'tokenizer must be "character" or "byte", got {tokenizer!r}')
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be between 0 and 1, got {held_out}")
    paths = [paths] if isinstance(paths, (str, Path)) else paths
    if paths is not None and len(paths) == 1 and is_prepared(paths[0]):
        if folder is not None:
            raise ValueError(f"{paths[0]} is a prepared corpus already")
        return _open_prepared(Path(paths[0]))
    if folder is not None:
        _check_nothing_is_prepared(Path(folder))
    if paths is None:
        sources = [lambda d=d: iter([d]) for d in python_docs()]
    else:
        sources = [lambda p=p: _read_chunks(p) for p in _find_files(paths)]

    sizes, characters = [], set()
    for source in sources:
        size = 0
        for chunk in source():
            size += len(chunk)
            characters.update(chunk)
        sizes.append(size)
    if sum(sizes) == 0 or not "".join(characters).strip():
        raise ValueError(f"{', '.join(map(str, paths))} holds no text")
    made = CharTokenizer(characters - {"\n"} if lines else characters) if tokenizer == "character" else ByteTokenizer()
    sources, sizes = zip(*((source, size) for source, size in zip(sources, sizes) if size))  # without empty files
    splits = _line_splits(sources, held_out, seed) if lines else _document_splits(sources, sizes, held_out, seed)
    write = _write_to(Path(folder), made) if folder is not None else _keep_in_memory(made)
    return Corpus(*write(splits, lines), made, lines)


def encode_files(paths, tokenizer, lines=False):
    """Files and folders as one stream of ids (n,), for a tokenizer that exists: each file, or each line, a document."""
    stream = [np.array([BOUNDARY], np.int32)]
    for path in _find_files(paths):
        for piece in _lines(_read_chunks(path)) if lines else ["".join(_read_chunks(path))]:
            stream += [tokenizer.encode(piece), stream[0]]
    if len(stream) == 1 or not any(len(piece) for piece in stream[1::2]):
        raise ValueError(f"{', '.join(map(str, paths))} holds no text")
    return np.concatenate(stream)


def split_documents(sizes, held_out, seed=0):
    """Which documents to hold out whole: drawn at random while they fit into held_out of all characters -> set of numbers.

    At least one is held out, the smallest where none fits, and at least one is not.
    """
    budget, chosen = held_out * sum(sizes), set()
    for i in backend.rng(seed, np).permutation(len(sizes)):
        if sizes[i] <= budget and len(chosen) < len(sizes) - 1:
            chosen.add(int(i))
            budget -= sizes[i]
    return chosen or {int(np.argmin(sizes))}


def _document_splits(sources, sizes, held_out, seed):
    """Yield (split, text or None) pairs: pieces of text for "train" or "validation", None where a document ends."""
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
        for line in _lines(source()):
            # The first two go one to each split, so that neither is empty.
            split = ("train", "validation")[number] if number < 2 else "validation" if rng.random() < held_out else "train"
            number += 1
            yield split, line
            yield split, None


def _encode_splits(tokenizer, splits, append):
    """Pass the ids of each piece to append(split, ids), with boundaries before, between and after documents."""
    for split in ("train", "validation"):
        append(split, np.array([BOUNDARY], np.int32))
    for split, piece in splits:
        append(split, np.array([BOUNDARY], np.int32) if piece is None else tokenizer.encode(piece))


def _keep_in_memory(tokenizer):
    def write(splits, lines):
        parts = {"train": [], "validation": []}
        _encode_splits(tokenizer, splits, lambda split, ids: parts[split].append(ids))
        return [np.concatenate(parts[split]) for split in ("train", "validation")]

    return write


# ---- prepared folders -------------------------------------------------------------------------------------------------

_CORPUS_FILE, _STREAMS = "minimixce_corpus.json", ("train.bin", "validation.bin")


def _check_nothing_is_prepared(folder):
    for name in (_CORPUS_FILE, *_STREAMS):
        if (folder / name).exists():
            raise FileExistsError(f"{folder} already holds {name}; delete what is there or choose another folder")


def is_prepared(path):
    """Whether `path` is a folder of token files that load_corpus wrote."""
    return (Path(path) / _CORPUS_FILE).exists()


def _write_to(folder, tokenizer):
    """Write the streams to files and map them. The description comes last, so a half-written folder is not mistaken for one."""
    dtype = np.dtype("<u2") if tokenizer.vocab_size <= 1 << 16 else np.dtype("<u4")

    def write(splits, lines):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(folder / _STREAMS[0], "wb") as train, open(folder / _STREAMS[1], "wb") as validation:
                files = {"train": train, "validation": validation}
                _encode_splits(tokenizer, splits, lambda split, ids: files[split].write(ids.astype(dtype).tobytes()))
        except BaseException:
            for name in _STREAMS:
                (folder / name).unlink(missing_ok=True)
            raise
        description = {"tokenizer": tokenizer.fields(), "lines": lines, "dtype": dtype.str}
        data = json.dumps(description, ensure_ascii=False).encode()
        checkpoint.write_atomically(folder / _CORPUS_FILE, data)
        return _open_prepared(folder)[:2]

    return write


def _open_prepared(folder):
    description = checkpoint.read_json(folder / _CORPUS_FILE)
    tokenizer = _tokenizer_of(description.get("tokenizer", {}), folder / _CORPUS_FILE)
    if description.get("dtype") not in ("<u2", "<u4"):
        raise ValueError(f"{folder / _CORPUS_FILE}: dtype must be <u2 or <u4, got {description.get('dtype')!r}")
    dtype, streams = np.dtype(description["dtype"]), []
    for path in (folder / name for name in _STREAMS):
        if not path.exists() or path.stat().st_size == 0 or path.stat().st_size % dtype.itemsize:
            raise ValueError(f"{path} is missing or cut short; prepare the corpus again")
        streams.append(np.memmap(path, dtype, mode="r"))
    return Corpus(*streams, tokenizer, bool(description.get("lines")))


# ---- batches ----------------------------------------------------------------------------------------------------------


class Batches:
    """Batches (inputs, targets), each (B,T) int32 on the host, cut from a stream: targets[:, t] follows inputs[:, t].

    `batches[k]` is batch k; iterating goes on for ever when the blocks are drawn at random (random_batches), and ends after
    one pass when they are taken in order (consecutive_batches). Batch k depends on (seed, k) alone, so that training can go
    on from any step. Where a sequence ends before T tokens, inputs are padded with 0 and targets with −1.
    """

    def __init__(self, tokens, pick, count, batch_size, block_size):
        self._tokens, self._pick, self._count = tokens, pick, count
        self.batch_size, self.block_size = batch_size, block_size

    def __getitem__(self, k):
        if self._count is not None and not 0 <= k < self._count:
            raise IndexError(k)
        starts, lengths = self._pick(k)
        offsets = np.arange(self.block_size + 1)
        blocks = self._tokens[np.minimum(starts[:, None] + offsets, len(self._tokens) - 1)].astype(np.int32)
        inside = offsets[:-1] < lengths[:, None]
        return np.where(inside, blocks[:, :-1], 0), np.where(inside, blocks[:, 1:], -1)

    def __len__(self):
        if self._count is None:
            raise TypeError("random batches never end")
        return self._count


def random_batches(tokens, batch_size, block_size, seed=0, lines=False):
    """Endless Batches drawn from a stream at random: blocks that start anywhere, or whole lines (see _sequences)."""
    _check_sizes(tokens, batch_size, block_size)
    if lines:
        all_starts, all_lengths = _sequences(tokens, block_size, lines)
    elif len(tokens) <= block_size:
        raise ValueError(f"the text has {len(tokens)} tokens, too few for blocks of {block_size} + 1")

    def pick(k):
        rng = np.random.default_rng([seed, k])
        if lines:
            i = rng.integers(0, len(all_starts), batch_size)
            return all_starts[i], all_lengths[i]
        return rng.integers(0, len(tokens) - block_size, batch_size), np.full(batch_size, block_size)

    return Batches(tokens, pick, None, batch_size, block_size)


def consecutive_batches(tokens, batch_size, block_size, lines=False):
    """Batches that make every token but the first a target exactly once, in order."""
    _check_sizes(tokens, batch_size, block_size)
    starts, lengths = _sequences(tokens, block_size, lines)

    def pick(k):
        rows = slice(k * batch_size, (k + 1) * batch_size)
        return starts[rows], lengths[rows]

    return Batches(tokens, pick, -(-len(starts) // batch_size), batch_size, block_size)


def _sequences(tokens, block_size, lines):
    """Where to cut a stream so that every token is a target once -> starts, lengths, each (n,).

    With lines, a sequence runs from one boundary to the next; what is longer than block_size goes on in the next sequence.
    """
    last = len(tokens) - 1
    if not lines:
        starts = np.arange(0, last, block_size)
        return starts, np.minimum(block_size, last - starts)
    boundaries = np.flatnonzero(tokens == BOUNDARY)
    if len(boundaries) < 2:
        raise ValueError(f"no whole line is in the {len(tokens)} tokens to train or validate on")
    first, length = boundaries[:-1], np.diff(boundaries)
    pieces = -(-length // block_size)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # of the piece in its line
    starts = np.repeat(first, pieces) + number * block_size
    return starts, np.minimum(block_size, np.repeat(first + length, pieces) - starts)


def _check_sizes(tokens, batch_size, block_size):
    for name, value in (("batch_size", batch_size), ("block_size", block_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if len(tokens) < 2:
        raise ValueError(f"a split of the text has {len(tokens)} tokens, too few to train or validate on")
