"""Worlds, and the samples of them that the synthetic experiments learn from."""

import functools
from typing import NamedTuple, TypeAlias

import numpy as np

from ... import exact, worlds
from ...storage import files
from ...storage.shapes import Array, Float, Int
from .job import Job

TRAIN = 50_000  # sequences
DEVELOPMENT = 5_000  # sequences
LONGEST = 500  # tokens of a sequence

Counts: TypeAlias = Float[Array, "V V"] | Int[Array, "V V"]  # of bigrams: last token, next one
CodesAndLengths: TypeAlias = tuple[Int[Array, " N"], Int[Array, " n"]]  # of whole sequences


class Data(NamedTuple):
    """A world and samples of it: codes x_{t−1}·V + x_t of all bigrams (N,), sequence after
    sequence, and where each of the n sequences starts (n+1,). An end that is forced at LONGEST
    tokens does not count (in the reference it does).
    """

    world: worlds.World
    train: Int[Array, " N"]
    starts: Int[Array, " S"]
    development: Int[Array, " M"]
    development_lengths: Int[Array, " D"]


def world_of(corpus: str, vocab_size: int, zeros: float, seed: int) -> worlds.World:
    """The bigram world of a job -> worlds.World of vocab_size tokens.

    corpus: the path of a text file, whose world depends on no seed, or "" for the random world of
    `zeros` and `seed`. Raises ValueError, naming the file, for a poor corpus.
    """
    if not corpus:
        return worlds.random_markov(vocab_size, zeros, seed)
    try:
        return worlds.from_text(files.read_bytes(corpus).decode("utf-8"), vocab_size)
    except UnicodeDecodeError as error:
        raise ValueError(f"{corpus} is not UTF-8 text ({error.reason})") from None
    except ValueError as error:
        raise ValueError(
            f"{corpus} does not make a world of {vocab_size} tokens: {error}"
        ) from None


@functools.lru_cache(maxsize=2)
def data_of(
    corpus: str,
    vocab_size: int,
    zeros: float,
    seed: int,
    train: int = TRAIN,
    development: int = DEVELOPMENT,
) -> Data:
    """`train` and `development` sequences of a job's world -> Data, in arrays that cannot be
    written to.

    The other arguments are world_of's. The same arguments give the same samples, and
    the last two calls are remembered.
    """
    world = world_of(corpus, vocab_size, zeros, seed)
    parts: list[Array] = []
    lengths_of_parts: list[Array] = []
    rng = np.random.default_rng([seed, vocab_size])
    # in parts: rows of 500 columns are mostly padding
    for first in range(0, train + development, 5_000):
        rows = world.sample(min(5_000, train + development - first), LONGEST, rng)
        inputs, targets = rows[:, :-2], rows[:, 1:-1]
        is_target = targets >= 0
        parts.append((inputs * vocab_size + targets)[is_target])
        lengths_of_parts.append(is_target.sum(axis=1))
    codes, lengths = np.concatenate(parts), np.concatenate(lengths_of_parts)
    starts = np.append(0, np.cumsum(lengths))
    for array in (codes, lengths, starts):
        array.setflags(write=False)
    return Data(
        world, codes[: starts[train]], starts[: train + 1], codes[starts[train] :], lengths[train:]
    )


def counts_of(
    codes: Int[Array, " N"], vocab_size: int
) -> Float[Array, "{vocab_size} {vocab_size}"]:
    """Bigram counts (V,V) of codes (N,), V being vocab_size: row x_{t−1}, column x_t."""
    return np.bincount(codes, minlength=vocab_size**2).reshape(vocab_size, vocab_size).astype(float)


def forward_counts(job: Job, data: Data) -> Float[Array, "V V"]:
    """What the forward part of the exact protocol sees of P: bigram counts (V,V) of the sample that
    `data` holds, or, where the job says so, those expected of as many sequences.
    """
    if job.forward == "population":
        return exact.bigram_counts(data.world) * (len(data.starts) - 1)
    return counts_of(data.train, job.vocab_size)
