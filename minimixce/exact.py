"""Exact values and gradients of forward and reverse cross-entropy and their kin, by summing over
every sequence.

Symbols as in the formulas: P is a world (automaton.py), Q a model, T = max_len the horizon, b = 0
the boundary. A sequence x has at most T−1 ordinary tokens; after T−1 of them the boundary is
forced, under P and Q alike, and contributes nothing. All quantities are nats per sequence. The
objectives, with their formulas, are those of objectives.py; one over tokens stands for its
expectation over P, for MixCE −E_P Σ_t [η log q_t + (1−η) q_t], with the weight −P (η + (1−η) q_t)
of each token. In R and KL(Q‖P) log P is floored per token at world.log_p_floor.

There are four ways to the same numbers, a file each: the list of all sequences (exact_list.py), the
tree of their prefixes (exact_tree.py), and for tables Q dynamic programming and, without a horizon,
a closed form (exact_tables.py).
"""

import contextlib
import math
import types
from typing import NamedTuple

import numpy as np

from . import automaton
from .automaton import World
from .exact_list import num_sequences, sequences, sum_over_list
from .exact_tables import bigram_counts, bigram_loss_and_grads
from .exact_tree import (
    by_cost_to_go,
    by_sequence_weights,
    by_token_weights,
    by_values,
    sum_over_tree,
)
from .logprob import Summand, Sums, chosen, log_softmax, times_log
from .model import LanguageModel, Model, complete_grads, xp_of
from .objectives import OBJECTIVES, check_objective_ratio, exact_names, parts
from .storage.shapes import Array, Float, Grads, LossAndGrads, Rows, Scalar
from .storage.validate import check_count, check_horizon

__all__ = [
    "CrossEntropies",
    "bigram_counts",
    "bigram_loss_and_grads",
    "cross_entropies",
    "default_shards",
    "log_prob",
    "loss_and_grads",
    "measure",
    "num_sequences",
    "policy_gradient",
    "sequences",
]

MAX_SEQUENCES = 20_000_000
# of the tree, which is walked by recursion; only V = 2 makes one so deep and small
_MAX_DEPTH = 400
_MAX_SHARDS = 1024
_PREFIXES_OF_A_SHARD = 10_000  # fewer are done before a thread is worth its overhead
_SHOW_BAR_FROM = 100_000  # prefixes or sequences
_POSITIONS = 1 << 15  # of sequences scored at once in log_prob


class CrossEntropies(NamedTuple):
    """F, R, H(P) and H(Q) in nats per sequence; 0-d float64 arrays on the model's device."""

    forward: Scalar
    reverse: Scalar
    entropy_p: Scalar
    entropy_q: Scalar


def loss_and_grads(
    model: Model,
    world: World,
    max_len: int,
    *,
    objective: str = "mixce_star",
    eta: float = 0.5,
    method: str = "tree",
    max_sequences: int = MAX_SEQUENCES,
    progress: bool = True,
    shards: int = 1,
) -> LossAndGrads:
    """The exact value of an objective and its gradient in every parameter.

    Returns loss (0-d float64), grads {name: array}. objective: a name of objectives.OBJECTIVES, but
    none that stops a gradient. eta: its ratio (for tailr, γ). method "tree" (for models with
    extend_forward/extend_backward) computes each shared prefix once, "list" every sequence for
    itself. Sums are in float64, the model computes in its own dtype. Raises ValueError for an
    unknown name, a ratio outside [0,1] (for js, at 0 or 1), a world with another vocabulary, a
    model too short for max_len − 1 positions, and a space of more than `max_sequences` sequences.
    progress: whether a long sum shows a bar.

    shards: on the CPU, threads that share the subtrees; default_shards says how many are worth it.
    The linear algebra library should be limited to its share of the cores (threadpoolctl, or
    OMP_NUM_THREADS). Memory grows with them, results depend on them in rounding. Raises ValueError
    for more than one by the list or on a GPU.

    >>> model, world = mm.TableBigram(6, device="cpu"), mm.worlds.agreement()
    >>> loss, grads = mm.exact.loss_and_grads(model, world, max_len=4, objective="reverse_ce")
    >>> round(float(loss), 3), grads["logits"].shape
    (118.258, (6, 6))
    """
    _check(model, world, max_len, objective, eta, method, max_sequences)
    _check_shards(shards, method, model)
    xp = xp_of(model)
    sums = Sums()
    grads: Grads = {}
    summand = _of_objective(objective, eta)
    if method == "list" or max_len == 1:
        with _bar(num_sequences(world.vocab_size, max_len), progress, "sequence") as bar:
            sum_over_list(model, world, max_len, summand, sums, grads, bar.update)
    else:
        by_weights = by_token_weights if summand.of_sequences is None else by_sequence_weights
        rule = by_weights(summand)
        with _bar(_num_prefixes(world.vocab_size, max_len), progress, "prefix") as bar:
            sum_over_tree(model, world, max_len, rule, sums, grads, bar.update, shards)
    return sums.total(objective, xp), complete_grads(grads, model)


def policy_gradient(
    model: Model,
    world: World,
    max_len: int,
    *,
    objective: str = "reverse_ce",
    max_sequences: int = MAX_SEQUENCES,
    progress: bool = True,
    shards: int = 1,
) -> LossAndGrads:
    """The same for reverse_ce and reverse_kl by costs to go instead of weights -> loss, grads.

    With c = −log P(v|h), or log Q(v|h) − log P(v|h), a prefix still costs
    U(h) = Σ_v Q(v|h) [c + U(hv)], the loss is U of the start, and
    ∂L/∂logits(h)_v = Q(h) Q(v|h) [c + U(hv) − U(h)]: the policy-gradient theorem, with the exact
    advantage in brackets. Options and errors are those of loss_and_grads.
    """
    row = OBJECTIVES.get(objective)
    if row is None or row.cost is None:
        allowed = " or ".join(f'"{name}"' for name, row in OBJECTIVES.items() if row.cost)
        raise ValueError(f"objective must be {allowed} to have a cost to go, got {objective!r}")
    _check(model, world, max_len, objective, 0.5, "tree", max_sequences)
    _check_shards(shards, "tree", model)
    grads: Grads = {}
    with _bar(_num_prefixes(world.vocab_size, max_len), progress, "prefix") as bar:
        rule = by_cost_to_go(row.cost)
        cost = sum_over_tree(model, world, max_len, rule, Sums(), grads, bar.update, shards)
    return xp_of(model).asarray(cost.sum()), complete_grads(grads, model)


def cross_entropies(
    model: Model,
    world: World,
    max_len: int,
    *,
    method: str = "tree",
    max_sequences: int = MAX_SEQUENCES,
    progress: bool = True,
    shards: int = 1,
) -> CrossEntropies:
    """F, R (P floored), H(P) and H(Q) -> CrossEntropies. Options and errors: loss_and_grads.

    >>> model, world = mm.TableBigram(6, device="cpu"), mm.worlds.agreement()
    >>> [round(float(value), 3) for value in mm.exact.cross_entropies(model, world, max_len=4)]
    [5.375, 118.258, 1.366, 4.529]
    """
    found = measure(
        model,
        world,
        max_len,
        method=method,
        max_sequences=max_sequences,
        progress=progress,
        shards=shards,
    )
    wanted = ("forward_ce", "reverse_ce", "entropy_p", "entropy_q")
    return CrossEntropies(*(found[name] for name in wanted))


def measure(
    model: Model,
    world: World,
    max_len: int,
    *,
    eta: float = 0.5,
    method: str = "tree",
    max_sequences: int = MAX_SEQUENCES,
    progress: bool = True,
    shards: int = 1,
) -> dict[str, Scalar]:
    """Every quantity at once -> dict of 0-d float64 arrays, by name.

    The objectives over sequences (mixtures at `eta`; js at ½ where that is 0 or 1) and mixce;
    entropy_p, entropy_q; validity (the probability under Q of sequences with P > 0);
    impossible_tokens (their expected number under Q) and reverse_ce_finite, so that
    R = reverse_ce_finite − log_p_floor · impossible_tokens. Options and errors: loss_and_grads.
    """
    _check(model, world, max_len, "mixce_star", eta, method, max_sequences)
    _check_shards(shards, method, model)
    xp, sums, summand = xp_of(model), Sums(), _of_measures(eta)
    if method == "list" or max_len == 1:
        with _bar(num_sequences(world.vocab_size, max_len), progress, "sequence") as bar:
            sum_over_list(model, world, max_len, summand, sums, None, bar.update)
    else:
        rule = by_values(summand)
        with _bar(_num_prefixes(world.vocab_size, max_len), progress, "prefix") as bar:
            sum_over_tree(model, world, max_len, rule, sums, None, bar.update, shards)
    found = {name: sums.total(name, xp) for name in sums}
    found["forward_kl"] = found["forward_ce"] - found["entropy_p"]
    found["reverse_kl"] = found["reverse_ce"] - found["entropy_q"]
    for name in ("mixce_star", "two_kls"):
        (share, first), (rest, second) = parts(name, eta)
        found[name] = _mix(share, found[first], rest, found[second])
    impossible = found["impossible_tokens"]
    found["reverse_ce_finite"] = found["reverse_ce"] + world.log_p_floor * impossible
    return {name: xp.asarray(value) for name, value in found.items()}


def default_shards(vocab_size: int, max_len: int, threads: int) -> int:
    """How many shards are worth it on the CPU, at least 1.

    A function of sizes alone, never of a timing, so that the same call gives the same bits.
    vocab_size, max_len: of the tree; threads: those that the linear algebra library may use, of
    which each shard should have its share then.
    """
    prefixes = _num_prefixes(vocab_size, max_len)
    return max(1, min(threads, prefixes // _PREFIXES_OF_A_SHARD, _MAX_SHARDS))


def log_prob(model: LanguageModel, rows: Rows) -> Float[Array, " n"]:
    """log Q of sequences, (n,) float64.

    rows (n, max_len+1) are laid out the way worlds sample them, on the model's device. Raises
    TypeError or ValueError for other rows.
    """
    xp, (inputs, targets) = model.xp, automaton.batch(rows, model.config.vocab_size)
    if inputs.shape[1] == 0:
        return xp.zeros(len(rows))
    found = []
    for start in range(0, len(rows), group := max(1, _POSITIONS // inputs.shape[1])):
        of_group = targets[start : start + group]
        for part, logits in model.logits_in_chunks(inputs[start : start + group]):
            found.append(chosen(log_softmax(logits), of_group[part]).sum(axis=1))
    return xp.concatenate(found) if found else xp.zeros(0)


# ---- what is summed ------------------------------------------------------------------------------


def _of_objective(name, ratio):
    """The Summand of an objective."""
    row = OBJECTIVES[name]
    if row.terms is None and row.mixes is None:
        return Summand(None, lambda p, log_q, xp: _expected_over_p(name, row, ratio, p, log_q, xp))

    def of_sequences(x, xp):
        values, w = _terms(name, ratio, x, xp)
        return {name: values}, w

    return Summand(of_sequences, None)


def _terms(name, ratio, x, xp):
    """φ and w of sequences x; a mixture mixes those of its parts."""
    row = OBJECTIVES[name]
    if row.mixes is None:
        return row.terms(x, ratio, xp)
    (share, first), (rest, second) = parts(name, ratio)
    pairs = zip(_terms(first, ratio, x, xp), _terms(second, ratio, x, xp))
    return tuple(_mix(share, a, rest, b) for a, b in pairs)


def _mix(share, a, rest, b):
    """share · a + rest · b; a part without a share may be infinite."""
    if share == 0 or rest == 0:
        return rest * b if share == 0 else share * a
    return share * a + rest * b


def _expected_over_p(name, row, ratio, p, log_q, xp):
    """A loss on tokens in expectation over P: p f(q_t), with the weight −p w(q_t)."""
    f, w = row.f_and_w(log_q, ratio, xp)
    return {name: times_log(p, f, xp)}, -p * w


def _of_measures(eta):
    """The Summand of `measure`: all that is a sum of its own, and nothing to differentiate."""
    js_eta = eta if 0 < eta < 1 else 0.5

    def of_sequences(x, xp):
        p, q = xp.exp(x.log_p), xp.exp(x.log_q)
        values = {
            name: row.terms(x, js_eta, xp)[0]
            for name, row in OBJECTIVES.items()
            if row.terms is not None
        }
        values["entropy_p"] = -times_log(p, x.log_p, xp)
        values["entropy_q"] = -times_log(q, x.log_q, xp)
        values["validity"] = xp.where(x.log_p > -math.inf, q, 0)
        values["impossible_tokens"] = q * x.impossible
        return values, None

    def of_tokens(p, log_q, xp):
        values, _ = _expected_over_p("mixce", OBJECTIVES["mixce"], eta, p, log_q, xp)
        return values, None

    return Summand(of_sequences, of_tokens)


# ---- sizes and checks ----------------------------------------------------------------------------


def _num_prefixes(vocab_size, max_len):
    """How many prefixes have a choice: those of at most T−2 ordinary tokens."""
    return num_sequences(vocab_size, max_len - 1)


def _bar(total, progress, unit):
    """A context with .update(n): a progress bar, or for short sums nothing that is seen."""
    if not progress or total < _SHOW_BAR_FROM:
        return contextlib.nullcontext(types.SimpleNamespace(update=lambda count=1: None))
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, unit_scale=True, delay=1, disable=None)


def _check(model, world, max_len, objective, ratio, method, max_sequences):
    """Raise TypeError or ValueError, naming the argument, for what cannot be summed."""
    if objective not in exact_names():
        raise ValueError(f"objective must be one of {', '.join(exact_names())}, got {objective!r}")
    check_objective_ratio(objective, ratio)
    if not isinstance(world, automaton.World):
        raise TypeError(f"world must be a minimixce.worlds.World, got {type(world).__name__}")
    if not hasattr(model, "config"):
        raise TypeError(
            f"model must be a language model, as GPT or TableBigram, got {type(model).__name__}"
        )
    if method not in ("tree", "list"):
        raise ValueError(f'method must be "tree" or "list", got {method!r}')
    if method == "tree" and not hasattr(model, "extend_forward"):
        raise ValueError(
            'method must be "list" for a model without extend_forward, got "tree" for '
            f"{type(model).__name__}"
        )
    _check_sizes(model.config, world.vocab_size, max_len, method, max_sequences)


def _check_shards(shards, method, model):
    """Raise ValueError for a number of threads that cannot share the sum."""
    if not 1 <= check_count("shards", shards) <= _MAX_SHARDS:
        raise ValueError(f"shards must be at most {_MAX_SHARDS}, got {shards}")
    if shards > 1 and (method == "list" or xp_of(model) is not np):
        raise ValueError(f'shards must be 1 for method="list" and on a GPU, got {shards}')


def _check_sizes(config, vocab_size, max_len, method, max_sequences):
    """Raise ValueError unless the model can read the sequences and there are not too many."""
    check_horizon(max_len)
    if config.vocab_size != vocab_size:
        raise ValueError(
            f"model and world must share a vocabulary, got {config.vocab_size} and "
            f"{vocab_size} tokens"
        )
    if config.block_size < max_len - 1:
        raise ValueError(
            f"max_len {max_len} needs a block_size of at least {max_len - 1}, got "
            f"{config.block_size}"
        )
    if method == "tree" and max_len > _MAX_DEPTH:
        raise ValueError(
            f'max_len must be at most {_MAX_DEPTH} for the tree, got {max_len}; method="list" has '
            "no such limit"
        )
    digits = (max_len - 1) * math.log10(max(vocab_size - 1, 1))
    if digits > 18 or num_sequences(vocab_size, max_len) > max_sequences:
        listed = digits <= 18
        count = f"{num_sequences(vocab_size, max_len):,}" if listed else f"about 10^{digits:.0f}"
        raise ValueError(
            f"{vocab_size} tokens and max_len {max_len} make {count} sequences, more than "
            f"max_sequences = {max_sequences:,}; choose a smaller max_len, or sample "
            "(minimixce.estimators)"
        )
