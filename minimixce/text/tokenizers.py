"""From characters, bytes or words to ids and back."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..storage import files
from ..storage.shapes import Array, FilePath, Int
from ..storage.validate import check_text
from . import hugging_face

BOUNDARY = 0  # the id that starts and ends every document; tokenizers count their own tokens from 1


TOKENIZER_FILE = "minimixce_tokenizer.json"


class CharTokenizer:
    """One id per character: boundary 0, then the given characters 1, 2, … in sorted order."""

    kind, boundary, joiner = "character", BOUNDARY, ""

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = "".join(sorted(set(characters)))
        check_text("characters", self.characters)
        codes = _code_points(self.characters)
        self._code_of_id = np.append(np.zeros(1, codes.dtype), codes)
        self._id_of_code = np.zeros(int(codes.max(initial=0)) + 1, np.int32)
        self._id_of_code[codes] = np.arange(1, len(codes) + 1)

    @property
    def vocab_size(self) -> int:
        """V, the boundary included."""
        return 1 + len(self.characters)

    def encode(self, text: str) -> Int[Array, " N"]:
        """str -> ids (n,) int32. Raises ValueError that names the first character the tokenizer
        does not have.
        """
        codes = _code_points(text)
        known = codes < len(self._id_of_code)
        ids = np.where(known, self._id_of_code[np.where(known, codes, 0)], 0)
        if not ids.all():
            unknown = text[int(np.argmin(ids))]
            raise ValueError(
                f"character {unknown!r} does not occur in the text this tokenizer was made from"
            )
        return ids

    def decode(self, ids: Int[Array, " N"] | Sequence[int]) -> str:
        """ids (n,) -> str; boundaries are left out. Raises ValueError for other ids."""
        checked = _checked_ids(ids, self.vocab_size)
        codes = self._code_of_id[checked[checked != BOUNDARY]]
        return codes.tobytes().decode("utf-32-le")

    def fields(self) -> dict[str, Any]:
        """What a run keeps of it, as JSON."""
        return {"type": self.kind, "boundary": BOUNDARY, "characters": self.characters}


class ByteTokenizer:
    """One id per byte of UTF-8: boundary 0, byte b is id b + 1, so any text can be encoded (V =
    257).
    """

    kind, boundary, joiner, vocab_size = "byte", BOUNDARY, "", 257

    def encode(self, text: str) -> Int[Array, " N"]:
        """str -> ids (n,) int32. Raises ValueError for lone surrogates."""
        check_text("text", text)
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32) + 1

    def decode(self, ids: Int[Array, " N"] | Sequence[int]) -> str:
        """ids (n,) -> str; boundaries are left out, bytes that are not UTF-8 become the replacement
        character.
        """
        checked = _checked_ids(ids, self.vocab_size)
        data = (checked[checked != BOUNDARY] - 1).astype(np.uint8).tobytes()
        return data.decode("utf-8", errors="replace")

    def fields(self) -> dict[str, Any]:
        """What a run keeps of it, as JSON."""
        return {"type": self.kind, "boundary": BOUNDARY}


class WordTokenizer:
    """One id per word of a world: boundary 0, then the given words 1, 2, … in their order."""

    kind, boundary, joiner = "word", BOUNDARY, " "

    def __init__(self, words: Iterable[str]) -> None:
        self.words = list(words)
        check_text("words", "".join(self.words))
        self._id_of_word: dict[str, int] = {}
        for i, word in enumerate(self.words, start=1):
            if word.split() != [word] or self._id_of_word.setdefault(word, i) != i:
                raise ValueError(
                    "words must be different and without spaces, to be told apart in a text, got"
                    f" {word!r}"
                )

    @property
    def vocab_size(self) -> int:
        """V, the boundary included."""
        return 1 + len(self.words)

    def encode(self, text: str) -> Int[Array, " N"]:
        """str -> ids (n,) int32. Raises ValueError that names the first word the tokenizer does not
        have.
        """
        for word in text.split():
            if word not in self._id_of_word:
                raise ValueError(f"word {word!r} is not in this tokenizer's vocabulary")
        return np.array([self._id_of_word[word] for word in text.split()], np.int32)

    def decode(self, ids: Int[Array, " N"] | Sequence[int]) -> str:
        """ids (n,) -> str, words joined by spaces; boundaries are left out.

        Raises ValueError for other ids.
        """
        checked = _checked_ids(ids, self.vocab_size)
        return " ".join(self.words[i - 1] for i in checked.tolist() if i != BOUNDARY)

    def fields(self) -> dict[str, Any]:
        """What a run keeps of it, as JSON."""
        return {"type": self.kind, "boundary": BOUNDARY, "words": self.words}


Tokenizer: TypeAlias = CharTokenizer | ByteTokenizer | WordTokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: FilePath) -> None:
    """Write a tokenizer beside a model, as JSON, and once more in the form that transformers'
    AutoTokenizer opens (tokenizer.json, tokenizer_config.json).
    """
    data = json.dumps(tokenizer.fields(), ensure_ascii=False).encode() + b"\n"
    files.write_atomically(Path(folder) / TOKENIZER_FILE, data)
    tokens = getattr(tokenizer, "words", None) or getattr(tokenizer, "characters", None)
    listed = None if tokens is None else list(tokens)
    for name, content in hugging_face.tokenizer_files(tokenizer.kind, listed).items():
        files.write_atomically(Path(folder) / name, content)


def load_tokenizer(folder: FilePath) -> Tokenizer:
    """The tokenizer that was saved beside a model. Raises FileNotFoundError or ValueError."""
    path = Path(folder) / TOKENIZER_FILE
    return tokenizer_of(files.read_json(path), path)


def tokenizer_of(fields: Any, path: FilePath) -> Tokenizer:
    """The tokenizer that `fields`, read from the file `path`, describe; ValueError for others."""
    fields = fields if isinstance(fields, dict) else {}
    if fields.get("type") == ByteTokenizer.kind:
        return ByteTokenizer()
    if fields.get("type") == CharTokenizer.kind and isinstance(fields.get("characters"), str):
        return CharTokenizer(fields["characters"])
    words = fields.get("words")
    if (
        fields.get("type") == WordTokenizer.kind
        and isinstance(words, list)
        and all(isinstance(w, str) for w in words)
    ):
        return WordTokenizer(words)
    raise ValueError(f"{path} does not describe a character, byte or word tokenizer")


def _code_points(text: str) -> Int[Array, " N"]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _checked_ids(ids, vocab_size):
    """ids as an array (n,); TypeError or ValueError unless they are a tokenizer's."""
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"ids must have one axis, got shape {ids.shape}")
    if ids.size == 0:
        return ids.astype(np.int64)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, got {ids.dtype}")
    if outside := ids[(ids < 0) | (ids >= vocab_size)].tolist():
        raise ValueError(f"ids must be in 0 … {vocab_size - 1}, got {outside[0]}")
    return ids
