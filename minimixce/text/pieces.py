"""A text that comes in pieces, to a tokenizer that must not be given half a word."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..storage.shapes import Array, Int
from .tokenizers import Tokenizer

_LEAST = 1 << 16  # characters that are put together before a place to cut them is looked for
_MOST = 1 << 22  # characters without such a place that are cut all the same, to bound memory


class WholeWords:
    """Puts pieces of a text together, and cuts it where `cut`, a tokenizer's, allows.

    What `add` and then `end` return is the text, in pieces whose ids one after another are the ids
    of the whole. Only where a text has four million characters without a place to cut it, a piece
    ends anywhere.
    """

    def __init__(self, cut: Callable[[str], int] | None) -> None:
        self._cut = cut
        self._rest = ""

    def add(self, piece: str) -> list[str]:
        """Take the next piece -> texts that can be encoded by now, often none."""
        if self._cut is None:
            return [piece]
        found = []
        for start in range(0, len(piece), _LEAST):  # what is encoded takes a multiple of its size
            self._rest += piece[start : start + _LEAST]
            if len(self._rest) < _LEAST:
                continue
            place = self._cut(self._rest)
            if not place and len(self._rest) >= _MOST:
                place = len(self._rest)
            if place:
                found.append(self._rest[:place])
                self._rest = self._rest[place:]
        return found

    def end(self) -> str:
        """The rest of a text that is over."""
        found, self._rest = self._rest, ""
        return found


def encode_pieces(tokenizer: Tokenizer, pieces: Iterable[str]) -> Iterator[Int[Array, " n"]]:
    """The ids of a text that comes in pieces, piece by piece."""
    words = WholeWords(tokenizer.cut)
    for piece in pieces:
        yield from map(tokenizer.encode, words.add(piece))
    yield tokenizer.encode(words.end())


class SplitEncoder:
    """Encodes texts that come in pieces, one text after another."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words = WholeWords(tokenizer.cut)
        self._boundary = np.array([tokenizer.boundary], np.int32)

    def add(self, piece: str | None) -> Int[Array, " n"]:
        """The ids that are certain with the next piece; None ends the text, with a boundary."""
        if piece is None:
            return np.append(self._tokenizer.encode(self._words.end()), self._boundary)
        found = [self._tokenizer.encode(whole) for whole in self._words.add(piece)]
        return np.concatenate([self._boundary[:0], *found])
