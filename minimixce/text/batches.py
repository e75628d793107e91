"""Batches cut from a stream of ids."""

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from ..storage.shapes import Array, Batch, Int
from .prepared import TokenFile, Tokens
from .tokenizers import BOUNDARY

_PIECE = 1 << 17  # tokens in which boundaries are looked for at a time
_POOL = 64  # batches whose texts are drawn together and then sorted by length


class Batches:
    """Batches (inputs, targets), each (B,T) int32 on the host, cut from a stream: targets[:, t]
    follows inputs[:, t].

    `batches[k]` is batch k; iterating goes on for ever when the blocks are drawn at random
    (random_batches, whole_text_batches with a seed), and ends after one pass when they are taken in
    order (consecutive_batches, whole_text_batches without). Batch k depends on (seed, k) alone, so
    that training can go on from any step. Where a sequence ends before T tokens, inputs are padded
    with 0 and targets with −1. T is block_size, except for whole texts, where it is the length of
    the longest in the batch.
    """

    def __init__(
        self,
        tokens: Tokens,
        pick: Callable[[int], tuple[Array, Array]],
        count: int | None,
        batch_size: int,
        block_size: int,
    ) -> None:
        self._tokens, self._pick, self._count = tokens, pick, count
        self.batch_size, self.block_size = batch_size, block_size

    def __getitem__(self, k: int) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
        if self._count is not None and not 0 <= k < self._count:
            raise IndexError(k)
        starts, lengths = self._pick(k)
        offsets = np.arange(self._width(lengths) + 1)
        if isinstance(self._tokens, TokenFile):  # one stretch after another
            blocks = np.zeros((len(starts), len(offsets)), np.int32)
            for row, start in zip(blocks, starts.tolist()):
                found = self._tokens[start : start + len(offsets)]
                row[: len(found)] = found
        else:
            places = np.minimum(starts[:, None] + offsets, len(self._tokens) - 1)
            blocks = self._tokens[places].astype(np.int32)
        inside = offsets[:-1] < lengths[:, None]
        return np.where(inside, blocks[:, :-1], 0), np.where(inside, blocks[:, 1:], -1)

    def _width(self, lengths: Int[Array, " B"]) -> int:
        """T of a batch whose rows have these lengths."""
        return self.block_size

    def __iter__(self) -> Iterator[Batch]:
        for k in itertools.count() if self._count is None else range(self._count):
            yield self[k]

    def __len__(self) -> int:
        if self._count is None:
            raise TypeError("random batches never end")
        return self._count


class WholeTexts(Batches):
    """Batches of whole texts (see whole_text_batches), and how much of them was cut off.

    texts: how many there are; texts_cut: how many of them have more than block_size targets;
    targets: of all texts, the boundaries that end them included; targets_cut: how many of these are
    in no batch.
    """

    def __init__(
        self,
        tokens: Tokens,
        starts: Int[Array, " n"],
        lengths: Int[Array, " n"],
        batch_size: int,
        block_size: int,
        seed: int | None,
    ) -> None:
        """starts, lengths: of every text, as _texts finds them."""
        kept = np.minimum(lengths, block_size)
        count = -(-len(starts) // batch_size)
        if seed is None:
            rows_of = _rows_by_length(kept, batch_size)
        else:
            rows_of = _rows_of_passes(kept, batch_size, count, seed)

        def pick(k):
            rows = rows_of(k)
            return starts[rows], kept[rows]

        super().__init__(tokens, pick, count if seed is None else None, batch_size, block_size)
        self.texts = len(starts)
        self.texts_cut = int((lengths > block_size).sum())
        self.targets = int(lengths.sum())
        self.targets_cut = self.targets - int(kept.sum())

    def _width(self, lengths: Int[Array, " B"]) -> int:
        return int(lengths.max())

    def describe_cut(self) -> str:
        """A sentence on what was cut off, or "" where nothing was."""
        if not self.texts_cut:
            return ""
        are = "is" if self.texts_cut == 1 else "are"
        return (
            f"{self.texts_cut:,} of {self.texts:,} {are} cut at {self.block_size} tokens, which"
            f" leaves out {self.targets_cut / self.targets:.1%} of all tokens"
        )


def random_batches(
    tokens: Tokens,
    batch_size: int,
    block_size: int,
    seed: int = 0,
    lines: bool = False,
    *,
    boundary: int = BOUNDARY,
) -> Batches:
    """Endless Batches drawn from a stream at random: blocks that start anywhere, or whole lines
    (see _sequences), which end with the id `boundary`.
    """
    _check_sizes(tokens, batch_size, block_size)
    if lines:
        all_starts, all_lengths = _sequences(tokens, block_size, lines, boundary)
    elif len(tokens) <= block_size:
        raise ValueError(
            f"the text has {len(tokens)} tokens, too few for blocks of {block_size} + 1"
        )

    def pick(k):
        rng = np.random.default_rng([seed, k])
        if lines:
            i = rng.integers(0, len(all_starts), batch_size)
            return all_starts[i], all_lengths[i]
        return rng.integers(0, len(tokens) - block_size, batch_size), np.full(
            batch_size, block_size
        )

    return Batches(tokens, pick, None, batch_size, block_size)


def consecutive_batches(
    tokens: Tokens,
    batch_size: int,
    block_size: int,
    lines: bool = False,
    *,
    boundary: int = BOUNDARY,
) -> Batches:
    """Batches that make every token but the first a target exactly once, in order; with lines, of
    whole lines, which end with the id `boundary`.
    """
    _check_sizes(tokens, batch_size, block_size)
    starts, lengths = _sequences(tokens, block_size, lines, boundary)

    def pick(k):
        rows = slice(k * batch_size, (k + 1) * batch_size)
        return starts[rows], lengths[rows]

    return Batches(tokens, pick, -(-len(starts) // batch_size), batch_size, block_size)


def whole_text_batches(
    tokens: Tokens,
    batch_size: int,
    block_size: int,
    seed: int | None = None,
    *,
    boundary: int = BOUNDARY,
) -> WholeTexts:
    """Batches in which each text of a stream, a document or a line, has a row to itself.

    A row begins with the id `boundary` and has as its targets the text's ids and the boundary that
    ends it; of a longer text, the first block_size targets, without a boundary. Texts of like
    lengths share a batch, which is as wide as the longest of them: T differs from batch to batch.

    With a seed: endless. Every pass over the texts has each of them once, in an order of its own,
    in ⌈texts / batch_size⌉ batches, one of which may have fewer rows. Without: one pass, the
    shortest texts first. Raises ValueError for a stream without a whole text.
    """
    _check_sizes(tokens, batch_size, block_size)
    starts, lengths = _texts(tokens, boundary, "text")
    return WholeTexts(tokens, starts, lengths, batch_size, block_size, seed)


def _rows_by_length(
    lengths: Int[Array, " n"], batch_size: int
) -> Callable[[int], Int[Array, " B"]]:
    """A function that gives the texts of batch k of one pass, the shortest first."""
    by_length = np.argsort(lengths, kind="stable")
    return lambda k: by_length[k * batch_size : (k + 1) * batch_size]


def _rows_of_passes(
    lengths: Int[Array, " n"], batch_size: int, count: int, seed: int
) -> Callable[[int], Int[Array, " B"]]:
    """A function that gives the texts of batch k of endless passes, of `count` batches each.

    A pass draws the texts in random order, sorts those of every _POOL batches by their lengths, so
    that a batch has little padding, and puts the batches in random order.
    """
    pools = np.arange(len(lengths)) // (_POOL * batch_size)

    @functools.lru_cache(maxsize=2)
    def arranged(number):
        rng = np.random.default_rng([seed, number])
        drawn = rng.permutation(len(lengths))
        drawn = drawn[np.lexsort((lengths[drawn], pools))]
        return drawn, rng.permutation(count)

    def rows_of(k):
        number, place = divmod(k, count)
        drawn, order = arranged(number)
        first = int(order[place]) * batch_size
        return drawn[first : first + batch_size]

    return rows_of


def _sequences(
    tokens: Tokens, block_size: int, lines: bool, boundary: int
) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """Where to cut a stream so that every token is a target once -> starts, lengths, each (n,).

    With lines, a sequence runs from one boundary to the next; what is longer than block_size goes
    on in the next sequence.
    """
    last = len(tokens) - 1
    if not lines:
        starts = np.arange(0, last, block_size)
        return starts, np.minimum(block_size, last - starts)
    first, length = _texts(tokens, boundary, "line")
    pieces = -(-length // block_size)
    # of the piece in its line
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(first, pieces) + number * block_size
    return starts, np.minimum(block_size, np.repeat(first + length, pieces) - starts)


def _texts(tokens: Tokens, boundary: int, what: str) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """Where the whole texts of a stream are -> starts, the boundary before each; lengths, in
    targets, the boundary behind it included; each (n,). what: the word for one, in the ValueError
    where there is none.
    """
    boundaries = np.concatenate(
        [
            start + np.flatnonzero(tokens[start : start + _PIECE] == boundary)
            for start in range(0, len(tokens), _PIECE)
        ]
    )
    if len(boundaries) < 2:
        advice = ""
        if what == "text":  # a document, which may be a whole book
            advice = "; take more of them (--eval-tokens), or each line for a text (--lines)"
        raise ValueError(
            f"no whole {what} is in the {len(tokens)} tokens to train or validate on{advice}"
        )
    return boundaries[:-1], np.diff(boundaries)


def _check_sizes(tokens: Tokens, batch_size: int, block_size: int) -> None:
    for name, value in (("batch_size", batch_size), ("block_size", block_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if len(tokens) < 2:
        raise ValueError(
            f"a split of the text has {len(tokens)} tokens, too few to train or validate on"
        )
