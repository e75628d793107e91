"""Measures of models trained on a world, whose P is known: exact where the sequences can be listed,
from samples elsewhere. A measure is a function and a row of WORLD_MEASURES, as measures.py has it
for text.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from .. import backend, estimators, exact
from ..backend import to_numpy
from ..model import LanguageModel
from ..storage import validate
from ..storage.shapes import Array, Bool, Float, Int, Rows, Scalar
from ..training import threads
from ..worlds import World
from . import on_worlds
from .measures import Measure
from .tables import format_table

# sequences up to which a measurement lists the space; a training step takes a hundredth of them
MAX_LISTED = 2_000_000


# keeps the random numbers of measures apart from those of data (on_worlds), for any seeds
_MEASURE = 2


@dataclass
class Sequences:
    """What a function of WORLD_MEASURES may look at: sequences, rows (n, max_len+1) on the model's
    device. They are a sample of P or of Q, each with the same weight, or all there are, with their
    probabilities `weights` (n,) under P or Q.
    """

    model: LanguageModel
    world: World
    max_len: int
    rows: Rows
    weights: Float[Array, " n"] | None = None

    @functools.cached_property
    def log_q(self) -> Float[Array, " n"]:
        """log Q(x) -> (n,)."""
        return exact.log_prob(self.model, self.rows)

    @functools.cached_property
    def impossible(self) -> Int[Array, " n"]:
        """How many tokens of x are impossible under P where they stand -> (n,)."""
        return (self.world.token_log_probs(self.rows) == -math.inf).sum(axis=1)

    @functools.cached_property
    def reverse(self) -> Float[Array, " n"]:
        """−log P(x), floored -> (n,)."""
        return -self.world.token_log_probs(self.rows, floored=True).sum(axis=1)

    @property
    def entropy(self) -> float:
        """H(P), nats per sequence."""
        return self.world.entropy(self.max_len)

    def mean(
        self, values: Float[Array, " n"] | Int[Array, " n"] | Bool[Array, " n"]
    ) -> tuple[float, float | None]:
        """The mean of `values` (n,), one number a sequence -> (value, standard error or None)."""
        values = to_numpy(values).astype(float)
        if self.weights is not None:
            return float((self.weights * values).sum()), None
        return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _forward_kl(of_p: Sequences) -> tuple[float, float | None]:
    value, error = of_p.mean(-of_p.log_q)
    return value - of_p.entropy, error


WORLD_MEASURES = {
    "forward_ce": Measure("F", ".4f", lambda x: x.mean(-x.log_q), "P", "F, forward cross-entropy"),
    "forward_kl": Measure("KL(P‖Q)", ".4f", _forward_kl, "P"),
    "reverse_kl": Measure("KL(Q‖P)", ".3f", lambda x: x.mean(x.log_q + x.reverse), "Q"),
    "reverse_ce": Measure("R", ".3f", lambda x: x.mean(x.reverse), "Q", "R, reverse cross-entropy"),
    "reverse_ce_finite": Measure(
        "R, finite part",
        ".4f",
        lambda x: x.mean(x.reverse + x.world.log_p_floor * x.impossible),
        "Q",
        "  its finite part",
    ),
    "impossible_tokens": Measure(
        "impossible", ".5f", lambda x: x.mean(x.impossible), "Q", "  impossible tokens"
    ),
    "entropy_q": Measure("H(Q)", ".4f", lambda x: x.mean(-x.log_q), "Q"),
    "validity": Measure("validity", ".5f", lambda x: x.mean(x.impossible == 0), "Q"),
}


def measure_on_world(
    model: LanguageModel, world: World, max_len: int, samples: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """WORLD_MEASURES of a model, in nats per sequence, against a world at the horizon max_len ->
    dict of floats, with "exact": True, or False and standard errors name_se.

    Exact where two million sequences list the space; else those that need P from `samples` samples
    of P, the rest from as many of Q, all drawn by `seed`, with exact log P (floored: R = finite
    part − log_p_floor · impossible tokens). Raises NotFinite, a ValueError, for a measure that is
    not a number.
    """
    is_exact = on_worlds.is_listed(world, max_len, MAX_LISTED)
    sums = _exact_sums(model, world, max_len) if is_exact else {}
    evidence = _all_sequences if is_exact else _sampled_sequences
    sequences = evidence(model, world, max_len, samples, seed)
    values, errors = {}, {}
    for name, measure in WORLD_MEASURES.items():
        if name in sums:
            values[name] = float(sums[name])
            validate.check_finite(name, values[name], infinite=True)
            continue
        values[name], error = measure.function(sequences(measure.needs))
        validate.check_finite(name, values[name], infinite=True)  # from a GPU, too
        if error is not None:
            errors[f"{name}_se"] = error
    return values | errors | {"exact": is_exact}


def _exact_sums(model: LanguageModel, world: World, max_len: int) -> dict[str, Scalar]:
    """exact.measure, by as many threads as are worth it where the model is on the CPU."""
    in_use = threads.threads_in_use() if model.xp is np else 1
    shards = exact.default_shards(world.vocab_size, max_len, in_use)
    with threads.limit_threads(in_use // shards if shards > 1 else None):
        return exact.measure(model, world, max_len, shards=shards)


def _all_sequences(
    model: LanguageModel, world: World, max_len: int, samples: int, seed: int
) -> Callable[[str], Sequences]:
    """evidence("P" or "Q"): every sequence, for the measures that exact.measure does not know."""

    @functools.cache
    def evidence(needs):
        rows = model.xp.asarray(exact.sequences(world.vocab_size, max_len))
        every = Sequences(model, world, max_len, rows)
        log_weights = world.log_prob(rows) if needs == "P" else every.log_q
        every.weights = np.exp(to_numpy(log_weights))
        return every

    return evidence


def _sampled_sequences(
    model: LanguageModel, world: World, max_len: int, samples: int, seed: int
) -> Callable[[str], Sequences]:
    """evidence("P" or "Q"): `samples` sequences of it."""

    @functools.cache
    def evidence(needs):
        draw = _draw_from_world if needs == "P" else _draw_from_model
        return Sequences(model, world, max_len, draw(model, world, max_len, samples, seed))

    return evidence


def _draw_from_world(
    model: LanguageModel, world: World, max_len: int, samples: int, seed: int
) -> Rows:
    rows = world.sample(samples, max_len, np.random.default_rng([_MEASURE, seed]))
    return model.xp.asarray(rows)


def _draw_from_model(
    model: LanguageModel, world: World, max_len: int, samples: int, seed: int
) -> Rows:
    """In groups: each keeps keys and values of all its rows."""
    xp = model.xp
    groups = []
    rng = backend.rng(int(np.random.SeedSequence([_MEASURE, seed]).generate_state(1)[0]), xp)
    for _ in tqdm(range(-(-samples // 500)), desc="sampling", delay=1, leave=False, disable=None):
        groups.append(estimators.sample(model, 500, max_len, rng))
    return xp.concatenate(groups)[:samples]


# the order of lines, in which R stands before what it is made of
_IN_WORDS = (
    "forward_ce",
    "forward_kl",
    "reverse_ce",
    "reverse_ce_finite",
    "impossible_tokens",
    "reverse_kl",
    "entropy_q",
    "validity",
)


def describe_world_measures(row: Mapping[str, float], world: World) -> list[str]:
    """Lines that print `row`, what measure_on_world found in a world -> list of str."""
    rows = []
    for name in dict.fromkeys((*_IN_WORDS, *WORLD_MEASURES)):
        measure = WORLD_MEASURES[name]
        cell = f"{row[name]:.5f}"
        if name + "_se" in row:
            cell += f" ± {row[name + '_se']:.5f}"
        if name == "impossible_tokens":
            cell += f" (each floored at {-world.log_p_floor:.2f} nats)"
        rows.append((measure.name or measure.heading, cell))
    return format_table(None, rows, "{:<26}{}").split("\n")
