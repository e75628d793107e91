"""Training on worlds: batches of sampled sequences and objectives that need P.

Token objectives (mle, mixce, tailr, …) see samples only. Objectives over sequences take their
forward part from the samples of the batch and their reverse part from P itself: exactly where all
sequences can be listed, else by RLOO with fresh samples of Q.
"""

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from .. import estimators, exact, objectives, text, worlds
from ..model import LanguageModel, complete_grads
from ..storage import memory, validate
from ..storage.shapes import Array, Batch, Grads, Int, LossAndGrads, Rows
from ..training.shards import rows_of
from ..worlds import World

Step: TypeAlias = Callable[..., LossAndGrads]  # (model, batch, *, number=0) -> loss, grads

SEQUENCE_OBJECTIVES = tuple(objectives.names("sequences"))

# the worlds that have a name -> what makes them
WORLDS = {"agreement": worlds.agreement, "stories": worlds.stories}

# a tag that keeps the random numbers of data apart from those of measures (world_measures),
# for any seeds
_DATA = 1


# sequences up to which the reverse part of a step is exact; a measurement may take a hundred times
# as many (world_measures)
MAX_LISTED = 20_000


def open_world(name: str) -> World:
    """A name of WORLDS, "random:V:ZEROS:SEED" (worlds.random_markov) or a JSON file that World.save
    wrote -> World. Raises ValueError or FileNotFoundError.
    """
    if name in WORLDS:
        return WORLDS[name]()
    if name.startswith("random:"):
        try:
            vocab_size, zeros, seed = name.split(":")[1:]
            numbers = int(vocab_size), float(zeros), int(seed)
        except ValueError:
            raise ValueError(
                f"world must be random:VOCABULARY:ZEROS:SEED, as random:20:0.5:7, got {name!r}"
            ) from None
        return worlds.random_markov(*numbers)
    if not name.endswith(".json"):
        raise ValueError(
            f"world must be {', '.join(WORLDS)}, random:VOCABULARY:ZEROS:SEED or a .json file, got"
            f" {name!r}"
        )
    return worlds.load(name)


def horizon(world: World, most: int) -> int:
    """One more than the length of the longest of 10,000 sampled sequences of a world, so that their
    end is drawn and learnt, not forced; at most `most`.
    """
    width = min(most, 256)
    while True:  # no wider than these sequences need: `most` may be a whole context window
        rows = world.sample(10_000, width, seed=0)
        longest = int((rows >= 0).sum(axis=1).max())
        if longest <= width or width == most:
            return min(longest, most)
        width = min(most, 2 * width)


class WorldCorpus(text.Corpus):
    """Sequences that a world sampled, in a corpus's place: the streams of both splits, and .world,
    .max_len, .rows and .held_out, the rows they come from. The same in every run, for any
    seed.
    """

    world: World
    max_len: int
    rows: Int[Array, "n L"]
    held_out: Int[Array, "m L"]

    def fingerprint(self) -> int:
        """As a corpus's, and of the world itself, since objectives and measures look at it."""
        found = super().fingerprint()
        for array in (
            self.world.probs,
            self.world.next_state,
            np.array([self.world.log_p_floor, self.max_len]),
        ):
            found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
        return found


def of_world(corpus: text.Corpus) -> WorldCorpus:
    """`corpus`, which must be a WorldCorpus: TypeError for one of a text."""
    if not isinstance(corpus, WorldCorpus):
        raise TypeError(f"corpus must be of a world, got a {type(corpus).__name__}")
    return corpus


def load_corpus(name: str, sequences: int, max_len: int | None, most: int) -> WorldCorpus:
    """The corpus of the world called `name` (open_world): `sequences` to train on, a tenth more to
    validate; max_len None: see horizon.

    Raises ValueError for fewer than 10 sequences, or a max_len below 2 or above `most`, and what
    open_world raises.
    """
    if sequences < 10:
        raise ValueError(f"sequences must be at least 10, got {sequences}")
    world = open_world(name)
    max_len = horizon(world, most) if max_len is None else max_len
    if not 2 <= max_len <= most:
        raise ValueError(
            f"max_len must be at least 2 and at most block_size + 1 = {most}, got {max_len}"
        )
    memory.check(
        8 * (sequences + sequences // 10) * (max_len + 1),
        f"a corpus of {sequences:,} sequences of up to {max_len:,} tokens",
        "choose a smaller --sequences or --max-len",
    )
    rows, held_out = (
        world.sample(n, max_len, np.random.default_rng([_DATA, k]))
        for k, n in enumerate((sequences, sequences // 10))
    )
    # each row up to its end, then b
    train, validation = (np.append(part[:, :-1][part[:, 1:] >= 0], 0) for part in (rows, held_out))
    corpus = WorldCorpus(train, validation, text.WordTokenizer(world.words[1:]), True)
    corpus.world, corpus.max_len, corpus.rows, corpus.held_out = world, max_len, rows, held_out
    return corpus


class RowBatches:
    """Batches (inputs, targets), each (batch_size, max_len−1), of rows that a world sampled, as
    worlds.World.batch cuts them.

    With a seed: endless, batch k drawn at random by (seed, k) alone. Without: one pass in order.
    Raises ValueError for a batch_size below 1.
    """

    def __init__(self, world: World, rows: Rows, batch_size: int, seed: int | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.world, self.rows, self.batch_size, self.seed = world, rows, batch_size, seed

    def __getitem__(self, k: int) -> Batch:
        if self.seed is not None:
            chosen = np.random.default_rng([self.seed, k]).integers(
                0, len(self.rows), self.batch_size
            )
            return self.world.batch(self.rows[chosen])
        if not 0 <= k < len(self):
            raise IndexError(k)
        return self.world.batch(self.rows[k * self.batch_size : (k + 1) * self.batch_size])

    def __iter__(self) -> Iterator[Batch]:
        k = 0
        while self.seed is not None or k < len(self):
            yield self[k]
            k += 1

    def __len__(self) -> int:
        if self.seed is not None:
            raise TypeError("random batches never end")
        return -(-len(self.rows) // self.batch_size)


def is_listed(world: World, max_len: int, most: int = MAX_LISTED) -> bool:
    """Whether the space of a world's sequences of at most max_len tokens has at most `most`
    sequences; by default: whether the reverse part of a training step is exact.
    """
    return max_len < 1000 and exact.num_sequences(world.vocab_size, max_len) <= most


def describe_reverse_part(name: str, world: World, max_len: int, samples: int) -> str:
    """In words, how a step of the objective `name` gets what P alone, the world, can say, at the
    horizon max_len: `samples` is how many RLOO draws.
    """
    if all(_is_from_samples(part) for _, part in objectives.parts(name, 0.5)):
        return "from samples of P"
    if is_listed(world, max_len):
        return (
            f"reverse part exact, over {exact.num_sequences(world.vocab_size, max_len):,} sequences"
        )
    return f"reverse part by RLOO with {samples} samples of Q a step"


def sequence_step(
    name: str, world: World, max_len: int, *, eta: float = 0.5, samples: int = 64, seed: int = 0
) -> Step:
    """A whole step for minimixce.fit(…, step=) -> step(model, batch, *, number=0, share=(0, 1)) ->
    loss, grads: the objective `name`, one of SEQUENCE_OBJECTIVES, in nats per sequence of at most
    max_len tokens of the world, with the ratio `eta`.

    Where the space is listed, js and overlap, which have no part from samples alone, are exact as a
    whole. Where it is not, the reverse part is RLOO with `samples` fresh samples of Q, drawn by
    `seed` and the number of the batch alone, so that a resumed run draws what an undisturbed one
    would; the loss of js is then its Q part alone, and overlap raises ValueError. The model is used
    without dropout. With share=(k, m) it computes its share of this: number k of m takes its rows
    of the batch and of the samples, which each draws whole; what is exact is number 0's alone.
    Raises ValueError for options out of range.
    """
    if name not in SEQUENCE_OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(SEQUENCE_OBJECTIVES)}, got {name!r}")
    validate.check_ratio("eta", eta)
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    if name == "overlap" and not is_listed(world, max_len):
        raise ValueError(
            f"{name} is exact only, and horizon {max_len} has too many sequences to list; choose a"
            " shorter one"
        )
    objectives.check_objective_ratio(name, eta)
    return functools.partial(
        _step, name=name, world=world, max_len=max_len, eta=eta, samples=samples, seed=seed
    )


def _step(
    model: LanguageModel,
    batch: Batch,
    *,
    number: int = 0,
    share: tuple[int, int] = (0, 1),
    name: str,
    world: World,
    max_len: int,
    eta: float,
    samples: int,
    seed: int,
) -> LossAndGrads:
    loss: Any = 0.0
    grads: Grads = {}
    for ratio, part in objectives.parts(name, eta):
        if ratio == 0:
            continue
        if _is_from_samples(part):
            part_loss, more = _forward_part(model, batch, ratio, part, world, max_len, share)
        else:
            if is_listed(world, max_len):
                part_loss, more = _exact_part(model, part, world, max_len, eta, share)
            else:
                drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
                rows = estimators.sample(model, samples, max_len, drawn)
                part_loss, more = _share_of_rloo(model, world, rows, part, eta, share)
            part_loss = ratio * part_loss
            more = {n: ratio * g for n, g in more.items()}
        loss = loss + part_loss
        grads = {n: grads[n] + g for n, g in more.items()} if grads else more
    return loss, grads


def _is_from_samples(part: str) -> bool:
    """Whether a part is an expectation over P of token losses, which samples of P estimate."""
    return objectives.OBJECTIVES[part].f_and_w is not None


def _forward_part(
    model: LanguageModel,
    batch: Batch,
    ratio: float,
    part: str,
    world: World,
    max_len: int,
    share: tuple[int, int],
) -> LossAndGrads:
    """`ratio` of a part that samples of P estimate, on a share of those of the batch, per sequence
    of the whole.
    """
    row = objectives.OBJECTIVES[part]
    assert row.f_and_w is not None  # _is_from_samples(part)
    n = len(batch[0])
    rows = rows_of(n, share)
    entropy = world.entropy(max_len) if row.minus_entropy and share[0] == 0 else 0.0
    if rows.start == rows.stop:
        return model.xp.asarray(-ratio * entropy), complete_grads({}, model)
    inputs, targets = (x[rows] for x in batch)
    logits, cache = model.forward(inputs)
    loss, dlogits = objectives.token_objective(logits, targets, row.f_and_w, None, normalizer=n)
    return ratio * (loss - entropy), model.backward(ratio * dlogits, cache)


def _exact_part(
    model: LanguageModel, part: str, world: World, max_len: int, eta: float, share: tuple[int, int]
) -> LossAndGrads:
    """A part that needs P itself, by summing over every sequence."""
    if share[0] > 0:
        return model.xp.asarray(0.0), complete_grads({}, model)
    return exact.loss_and_grads(model, world, max_len, objective=part, eta=eta, progress=False)


def _share_of_rloo(
    model: LanguageModel, world: World, rows: Rows, part: str, eta: float, share: tuple[int, int]
) -> LossAndGrads:
    """A share of estimators.rloo: all rows are scored, since each is compared with all others, and
    the gradients are those of the share's own.
    """
    k, m = share
    if m == 1:
        return estimators.rloo(model, world, rows, objective=part, eta=eta)
    n = len(rows)
    costs, own = [], None
    for other in range(m):
        of_other = rows_of(n, (other, m))
        if of_other.start < of_other.stop:
            scored, cost = estimators.score_sequences(model, world, rows[of_other], part, eta)
            costs.append(cost)
            if other == k:
                own = scored, cost
    if own is None:
        return model.xp.asarray(0.0), complete_grads({}, model)
    scored, cost = own
    total = sum(c.sum() for c in costs)
    above_others = (cost - (total - cost) / (n - 1)) * (len(cost) / n)  # pull_back divides by len
    return cost.sum() / n, estimators.pull_back(model, scored, above_others[:, None])
