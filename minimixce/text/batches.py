"""Batches cut from a stream of ids."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from ..storage.shapes import Array, Batch, Int
from .prepared import TokenFile, Tokens
from .tokenizers import BOUNDARY

_PIECE = 1 << 17  # tokens in which boundaries are looked for at a time


class Batches:
    """Batches (inputs, targets), each (B,T) int32 on the host, cut from a stream: targets[:, t]
    follows inputs[:, t].

    `batches[k]` is batch k; iterating goes on for ever when the blocks are drawn at random
    (random_batches), and ends after one pass when they are taken in order (consecutive_batches).
    Batch k depends on (seed, k) alone, so that training can go on from any step. Where a sequence
    ends before T tokens, inputs are padded with 0 and targets with −1.
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
        offsets = np.arange(self.block_size + 1)
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

    def __iter__(self) -> Iterator[Batch]:
        for k in itertools.count() if self._count is None else range(self._count):
            yield self[k]

    def __len__(self) -> int:
        if self._count is None:
            raise TypeError("random batches never end")
        return self._count


def random_batches(
    tokens: Tokens, batch_size: int, block_size: int, seed: int = 0, lines: bool = False
) -> Batches:
    """Endless Batches drawn from a stream at random: blocks that start anywhere, or whole lines
    (see _sequences).
    """
    _check_sizes(tokens, batch_size, block_size)
    if lines:
        all_starts, all_lengths = _sequences(tokens, block_size, lines)
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
    tokens: Tokens, batch_size: int, block_size: int, lines: bool = False
) -> Batches:
    """Batches that make every token but the first a target exactly once, in order."""
    _check_sizes(tokens, batch_size, block_size)
    starts, lengths = _sequences(tokens, block_size, lines)

    def pick(k):
        rows = slice(k * batch_size, (k + 1) * batch_size)
        return starts[rows], lengths[rows]

    return Batches(tokens, pick, -(-len(starts) // batch_size), batch_size, block_size)


def _sequences(
    tokens: Tokens, block_size: int, lines: bool
) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """Where to cut a stream so that every token is a target once -> starts, lengths, each (n,).

    With lines, a sequence runs from one boundary to the next; what is longer than block_size goes
    on in the next sequence.
    """
    last = len(tokens) - 1
    if not lines:
        starts = np.arange(0, last, block_size)
        return starts, np.minimum(block_size, last - starts)
    boundaries = np.concatenate(
        [
            start + np.flatnonzero(tokens[start : start + _PIECE] == BOUNDARY)
            for start in range(0, len(tokens), _PIECE)
        ]
    )
    if len(boundaries) < 2:
        raise ValueError(f"no whole line is in the {len(tokens)} tokens to train or validate on")
    first, length = boundaries[:-1], np.diff(boundaries)
    pieces = -(-length // block_size)
    # of the piece in its line
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(first, pieces) + number * block_size
    return starts, np.minimum(block_size, np.repeat(first + length, pieces) - starts)


def _check_sizes(tokens: Tokens, batch_size: int, block_size: int) -> None:
    for name, value in (("batch_size", batch_size), ("block_size", block_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if len(tokens) < 2:
        raise ValueError(
            f"a split of the text has {len(tokens)} tokens, too few to train or validate on"
        )
