"""Exact values and gradients of forward and reverse cross-entropy and their kin, by summing over
every sequence.

Symbols as in the formulas: P is a world (worlds.py), Q a model, T = max_len the horizon, b = 0 the
boundary. A sequence x has at most T−1 ordinary tokens; after T−1 of them the boundary is forced,
under P and Q alike, and contributes nothing. All quantities are nats per sequence. Objectives, by
name (ratio `eta` = η where there is one):

| name         | value                                          | w(x) = ∂/∂log Q(x)
| | forward_ce   | F = −E_P log Q                                 | −P
| | reverse_ce   | R = −E_Q log P                                 | −Q log P
| | mixce_star   | η F + (1−η) R                                  |
| | forward_kl   | KL(P‖Q) = F − H(P)                             | −P
| | reverse_kl   | KL(Q‖P) = R − H(Q)                             | Q (log Q − log P)
| | two_kls      | η KL(P‖Q) + (1−η) KL(Q‖P)                      |
| | js           | η KL(P‖M) + (1−η) KL(Q‖M), M = η P + (1−η) Q   | (1−η) Q log(Q/M)
| | overlap      | −Σ P Q                                         | −P Q
| | mixce        | −E_P Σ_t [η log q_t + (1−η) q_t]               | per token: −P (η + (1−η) q_t)
|

The gradient in the logits before x_t is Σ_x w(x) (onehot(x_t) − softmax). In R and KL(Q‖P) log P is
floored per token at world.log_p_floor. Four ways to the same numbers: the list of all sequences,
the tree of their prefixes, and for tables Q dynamic programming and, without a horizon, a closed
form.
"""

import math
from typing import Any, NamedTuple

from . import automaton
from .exact_list import MEASURES, Sums, by_list, num_sequences, sequences
from .exact_tables import bigram_counts, bigram_loss_and_grads
from .exact_tree import by_cost_to_go, by_measures, by_weights, tree
from .logprob import chosen, log_softmax
from .model import complete, xp_of
from .objectives import OBJECTIVES
from .storage.validate import check_horizon, check_ratio

__all__ = [
    "bigram_counts",
    "bigram_loss_and_grads",
    "cross_entropies",
    "log_prob",
    "loss_and_grads",
    "measure",
    "num_sequences",
    "policy_gradient",
    "sequences",
]

MAX_SEQUENCES = 20_000_000


_POSITIONS = 1 << 15  # of sequences scored at once


# levels of the tree, which is walked by recursion; only two tokens make one this deep and small
_DEEPEST = 500


class CrossEntropies(NamedTuple):
    """F, R, H(P) and H(Q) in nats per sequence; 0-d float64 arrays on the model's device."""

    forward: Any
    reverse: Any
    entropy_p: Any
    entropy_q: Any


def loss_and_grads(
    model,
    world,
    max_len,
    *,
    objective="mixce_star",
    eta=0.5,
    method="tree",
    max_sequences=MAX_SEQUENCES,
    progress=True,
):
    """The exact value of `objective` and its gradient in every parameter -> loss (0-d float64),
    grads {name: array}.

    method "tree" (for models with extend_forward/extend_backward) computes each shared prefix once,
    "list" every sequence for itself. Sums are in float64, the model computes in its own dtype.
    Raises ValueError for an unknown name, η outside [0,1] (for js, at 0 or 1), a world with another
    vocabulary, a model too short for max_len − 1 positions, and a space of more than
    `max_sequences` sequences.
    """
    _check(model, world, max_len, objective, eta, method, max_sequences)
    sums, grads = Sums(), {}
    if method == "list" or max_len == 1:
        by_list(model, world, max_len, sums, objective, eta, grads, progress)
    else:
        tree(model, world, max_len, by_weights(sums, objective, eta), grads, progress)
    return sums.total(objective, xp_of(model)), complete(grads, model)


def policy_gradient(
    model, world, max_len, *, objective="reverse_ce", max_sequences=MAX_SEQUENCES, progress=True
):
    """The same for reverse_ce and reverse_kl by costs to go instead of weights -> loss, grads.

    With c = −log P(v|h), or log Q(v|h) − log P(v|h), a prefix still costs U(h) = Σ_v Q(v|h) [c +
    U(hv)], the loss is U of the start, and ∂L/∂logits(h)_v = Q(h) Q(v|h) [c + U(hv) − U(h)]: the
    policy-gradient theorem, the exact advantage in brackets.
    """
    if objective not in ("reverse_ce", "reverse_kl"):
        raise ValueError(
            'objective must be "reverse_ce" or "reverse_kl" to have a cost to go, got'
            f" {objective!r}"
        )
    _check(model, world, max_len, objective, 0.5, "tree", max_sequences)
    grads = {}
    cost = tree(model, world, max_len, by_cost_to_go(objective), grads, progress)
    return xp_of(model).asarray(cost.sum()), complete(grads, model)


def cross_entropies(
    model, world, max_len, *, method="tree", max_sequences=MAX_SEQUENCES, progress=True
):
    """F, R (P floored), H(P) and H(Q) -> CrossEntropies. Options and errors as in loss_and_grads."""
    found = measure(
        model, world, max_len, method=method, max_sequences=max_sequences, progress=progress
    )
    return CrossEntropies(
        *(found[name] for name in ("forward_ce", "reverse_ce", "entropy_p", "entropy_q"))
    )


def measure(
    model, world, max_len, *, eta=0.5, method="tree", max_sequences=MAX_SEQUENCES, progress=True
):
    """Every quantity at once -> dict of 0-d float64 arrays: the objectives by name (mixtures at
    `eta`; js at ½ where that is 0 or 1), entropy_p, entropy_q, validity (the probability under Q of
    sequences with P > 0), impossible_tokens (their expected number under Q) and reverse_ce_finite,
    so that R = reverse_ce_finite − log_p_floor · impossible_tokens.
    """
    _check(model, world, max_len, "mixce_star", eta, method, max_sequences)
    sums = Sums()
    if method == "list" or max_len == 1:
        by_list(model, world, max_len, sums, None, eta, None, progress)
    else:
        tree(model, world, max_len, by_measures(sums, eta), None, progress)
    found = {name: sums.total(name, xp_of(model)) for name in (*MEASURES, "mixce")}
    found["forward_kl"] = found["forward_ce"] - found["entropy_p"]
    found["reverse_kl"] = found["reverse_ce"] - found["entropy_q"]
    found["mixce_star"] = eta * found["forward_ce"] + (1 - eta) * found["reverse_ce"]
    found["two_kls"] = eta * found["forward_kl"] + (1 - eta) * found["reverse_kl"]
    found["reverse_ce_finite"] = (
        found["reverse_ce"] + world.log_p_floor * found["impossible_tokens"]
    )
    return {name: xp_of(model).asarray(value) for name, value in found.items()}


def log_prob(model, rows):
    """log Q of sequences: rows (n,T+1) as worlds sample them, on the model's device -> (n,)
    float64.
    """
    xp, (inputs, targets) = model.xp, automaton.batch(rows, model.config.vocab_size)
    if inputs.shape[1] == 0:
        return xp.zeros(len(rows))
    parts = []
    for start in range(0, len(rows), group := max(1, _POSITIONS // inputs.shape[1])):
        logits, _ = model.forward(inputs[start : start + group])
        parts.append(chosen(log_softmax(logits), targets[start : start + group]).sum(axis=1))
    return xp.concatenate(parts) if parts else xp.zeros(0)


def _check(model, world, max_len, objective, eta, method, max_sequences):
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    check_ratio("eta", eta)
    if not isinstance(world, automaton.World):
        raise TypeError(f"world must be a minimixce.worlds.World, got {type(world).__name__}")
    if not hasattr(model, "config"):
        raise TypeError(
            f"model must be a language model, as GPT or TableBigram, got {type(model).__name__}"
        )
    if objective == "js" and not 0 < eta < 1:
        raise ValueError(f"eta must be above 0 and below 1 for js, which is zero there, got {eta}")
    if method not in ("tree", "list"):
        raise ValueError(f'method must be "tree" or "list", got {method!r}')
    check_horizon(max_len)
    if model.config.vocab_size != world.vocab_size:
        raise ValueError(
            f"model and world must share a vocabulary, got {model.config.vocab_size} and"
            f" {world.vocab_size} tokens"
        )
    if model.config.block_size < max_len - 1:
        raise ValueError(
            f"max_len {max_len} needs a block_size of at least {max_len - 1}, got"
            f" {model.config.block_size}"
        )
    if method == "tree" and max_len > _DEEPEST:
        raise ValueError(
            f'max_len must be at most {_DEEPEST} for the tree, got {max_len}; method="list" has no'
            " such limit"
        )
    digits = (max_len - 1) * math.log10(max(world.vocab_size - 1, 1))
    if digits > 18 or num_sequences(world.vocab_size, max_len) > max_sequences:
        count = (
            f"{num_sequences(world.vocab_size, max_len):,}"
            if digits <= 18
            else f"about 10^{digits:.0f}"
        )
        raise ValueError(
            f"{world.vocab_size} tokens and max_len {max_len} make {count} sequences, more than"
            f" max_sequences = {max_sequences:,}; choose a smaller max_len, or sample"
            " (minimixce.estimators)"
        )
    if method == "tree" and not hasattr(model, "extend_forward"):
        raise ValueError(
            'method must be "list" for a model without extend_forward, got "tree" for'
            f" {type(model).__name__}"
        )
