"""From characters, bytes, words or subwords to ids and back.

A tokenizer has a `kind`, by which run.json calls it, the `unit` of a token in sentences, and a
`boundary`, the id that starts and ends every document. cut(text) is the last place where a text can
be cut without a change of its ids, 0 where there is none; a cut of None means that any place will
do.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..storage import files
from ..storage.shapes import Array, FilePath, Int
from ..storage.validate import check_text
from . import gpt2_files, hugging_face, subwords

# the id that starts and ends every document; tokenizers of characters, bytes and words count their
# own tokens from 1
BOUNDARY = 0

TOKENIZER_FILE = "minimixce_tokenizer.json"


class CharTokenizer:
    """One id per character: boundary 0, then the given characters 1, 2, … in sorted order."""

    kind, unit, boundary, joiner = "character", "character", BOUNDARY, ""
    cut = None

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

    kind, unit, boundary, joiner, vocab_size = "byte", "byte", BOUNDARY, "", 257
    cut = None

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

    kind, unit, boundary, joiner = "word", "word", BOUNDARY, " "

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

    def cut(self, text: str) -> int:
        """Before the last space of any kind; 0 for a text without one."""
        return max((i for i, character in enumerate(text) if character.isspace()), default=0)

    def fields(self) -> dict[str, Any]:
        """What a run keeps of it, as JSON."""
        return {"type": self.kind, "boundary": BOUNDARY, "words": self.words}


class SubwordTokenizer:
    """GPT-2's byte-level BPE, of a transformers folder or learnt here (learn_bpe): one id per word
    or piece of one. Any text can be encoded, if all bytes are tokens.

    The ids are those of transformers' GPT2TokenizerFast, for special tokens, too: a text that says
    <|endoftext|> has a boundary there. The boundary is a token among others, 50256 in GPT-2.
    """

    kind, unit, joiner = "bpe", "token", ""

    def __init__(
        self,
        content: str,
        boundary: int,
        roles: dict[str, str] | None = None,
        path: FilePath = hugging_face.TOKENIZER_JSON,
    ) -> None:
        """content: what a tokenizer.json says; boundary: an id of it; roles: {"eos_token": …}, the
        tokens that transformers calls so; path: the file that errors name. ValueError for what is
        no byte-level BPE, and without the library tokenizers.
        """
        self.content, self.boundary, self.roles = content, boundary, dict(roles or {})
        found = gpt2_files.checked(content, path)
        self._encoder = subwords.opened(found, path)
        vocab = self._encoder.get_vocab(with_added_tokens=True)
        self.vocab_size = len(vocab)
        added = self._encoder.get_added_tokens_decoder()
        if not 0 <= boundary < self.vocab_size:
            raise ValueError(f"{path}: the boundary must be one of its ids, got {boundary!r}")
        letters = {letter: byte for byte, letter in enumerate(hugging_face.byte_letters())}
        by_id = sorted(vocab.items(), key=lambda item: item[1])
        self._bytes = [subwords.bytes_of(token, i in added, letters) for token, i in by_id]
        self._missing = {byte for letter, byte in letters.items() if letter not in vocab}
        self._may_be_cut = gpt2_files.may_be_cut(found)
        self._before, self._after = gpt2_files.special_around(found, path)
        for i in (*self._before, *self._after):
            if type(i) is not int or not 0 <= i < self.vocab_size:
                raise ValueError(f"{path}: ids must be in 0 … {self.vocab_size - 1}, got {i!r:.80}")

    def encode(self, text: str) -> Int[Array, " N"]:
        """str -> ids (n,) int32. Raises ValueError for lone surrogates, and for a character of
        which a byte is no token.
        """
        self._check(text)
        return np.array(self._encoder.encode(text).ids, np.int32)

    def encode_prompt(self, text: str) -> Int[Array, " N"]:
        """The same for the beginning of a text, as transformers' pipelines encode it: with a
        boundary first where the tokenizer's files say so, or where there is no text.
        """
        ids = [*self._before, *self.encode(text).tolist(), *self._after]
        return np.array(ids if text else [self.boundary], np.int32)

    def decode(self, ids: Int[Array, " N"] | Sequence[int]) -> str:
        """ids (n,) -> str; boundaries are left out, bytes that are not UTF-8 become the replacement
        character.
        """
        checked = _checked_ids(ids, self.vocab_size).tolist()
        data = b"".join(self._bytes[i] for i in checked if i != self.boundary)
        return data.decode("utf-8", errors="replace")

    def cut(self, text: str) -> int:
        """Before the last space or end of a line behind a word; 0 for a text without one."""
        if not self._may_be_cut:
            return 0
        return cut_before_space(text)

    def fields(self) -> dict[str, Any]:
        """What a run keeps of it, as JSON."""
        return {
            "type": self.kind,
            "boundary": self.boundary,
            "roles": self.roles,
            "tokenizer_json": self.content,
        }

    def _check(self, text: str) -> None:
        check_text("text", text)
        if not self._missing or self._missing.isdisjoint(text.encode()):
            return
        unknown = next(c for c in text if not self._missing.isdisjoint(c.encode()))
        raise ValueError(f"character {unknown!r} has a byte that is none of the tokenizer's tokens")


def cut_before_space(text: str) -> int:
    """The last place of a text before a space, or else the end of a line, that stands behind
    something else: byte-level BPE puts no such two into one token. 0 where there is none.
    """
    for space in " \n":
        place = text.rfind(space)
        while place > 0 and text[place - 1].isspace():
            place = text.rfind(space, 0, place)
        if place > 0:
            return place
    return 0


def learn_bpe(texts: Iterable[str], vocab_size: int) -> SubwordTokenizer:
    """A byte-level BPE of at most vocab_size tokens, the boundary included, learnt from texts: of
    the pairs of tokens that follow each other in a word, the most frequent becomes a token, again
    and again, until there are vocab_size or no pair is there twice.

    The same texts give the same tokenizer. Raises ValueError for a vocab_size below 257.
    """
    content, boundary = subwords.learn(texts, vocab_size)
    roles = dict.fromkeys(("bos_token", "eos_token"), hugging_face.END_OF_TEXT)
    return SubwordTokenizer(content, boundary, roles)


Tokenizer: TypeAlias = CharTokenizer | ByteTokenizer | WordTokenizer | SubwordTokenizer


def encode_prompt(tokenizer: Tokenizer, text: str) -> Int[Array, " N"]:
    """The ids (n,) that a model goes on from: of the text, with a boundary first, if transformers'
    pipelines, which open the same folder, begin with one, too.
    """
    if isinstance(tokenizer, SubwordTokenizer):
        return tokenizer.encode_prompt(text)
    return np.append(np.array([tokenizer.boundary], np.int32), tokenizer.encode(text))


def save_tokenizer(tokenizer: Tokenizer, folder: FilePath) -> None:
    """Write a tokenizer beside a model, as JSON, and once more in the form that transformers'
    AutoTokenizer opens (tokenizer.json, tokenizer_config.json).
    """
    fields = tokenizer.fields()
    if isinstance(tokenizer, SubwordTokenizer):
        content = fields.pop("tokenizer_json").encode()  # once, in a file of its own
        written = {hugging_face.TOKENIZER_JSON: content}
        written |= hugging_face.config_file(tokenizer.roles)
    else:
        tokens = getattr(tokenizer, "words", None) or getattr(tokenizer, "characters", None)
        listed = None if tokens is None else list(tokens)
        written = hugging_face.tokenizer_files(tokenizer.kind, listed)
    data = json.dumps(fields, ensure_ascii=False).encode() + b"\n"
    for name, content in ({TOKENIZER_FILE: data} | written).items():
        files.write_atomically(Path(folder) / name, content)


def load_tokenizer(folder: FilePath) -> Tokenizer:
    """The tokenizer beside a model: saved here, or a byte-level BPE that transformers wrote
    (tokenizer.json, or vocab.json with merges.txt). Raises FileNotFoundError or ValueError.
    """
    path = Path(folder) / TOKENIZER_FILE
    if not path.exists() and Path(folder).is_dir():
        return SubwordTokenizer(*gpt2_files.read_folder(folder))
    fields = files.read_json(path)
    if fields.get("type") == SubwordTokenizer.kind:
        path = Path(folder) / hugging_face.TOKENIZER_JSON  # which may be what is damaged
        fields = fields | {"tokenizer_json": files.read_text(path)}
    return tokenizer_of(fields, path)


def tokenizer_of(fields: Any, path: FilePath) -> Tokenizer:
    """The tokenizer that `fields`, read from the file `path`, describe; ValueError for others."""
    fields = fields if isinstance(fields, dict) else {}
    if fields.get("type") == SubwordTokenizer.kind:
        return _subword_tokenizer_of(fields, path)
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
    raise ValueError(f"{path} does not describe a character, byte or word tokenizer, or a BPE")


def _subword_tokenizer_of(fields: dict[str, Any], path: FilePath) -> SubwordTokenizer:
    content, boundary = fields.get("tokenizer_json"), fields.get("boundary")
    roles = fields.get("roles", {})
    named = isinstance(roles, dict) and all(isinstance(token, str) for token in roles.values())
    if not isinstance(content, str) or type(boundary) is not int or not named:
        raise ValueError(f"{path} does not describe its BPE")
    return SubwordTokenizer(content, boundary, roles, path)


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
