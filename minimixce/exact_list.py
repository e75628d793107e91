"""Exact sums by the list of all sequences: each is scored separately, shared prefix or not.

    L = Σ_x φ(P(x), Q(x)),   w(x) = ∂L/∂log Q(x),
    ∂L/∂logits(x, t) = w(x) (onehot(x_t) − softmax(logits(x, t)))

The plainest of the exact sums, and the oracle of the others. Memory does not grow with the number
of sequences, because every term is added and forgotten.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .automaton import World
from .logprob import Prefixes, Summand, Sums, chosen, log_softmax, rows_at_once
from .model import xp_of
from .storage.shapes import Grads, Rows


def num_sequences(vocab_size: int, max_len: int) -> int:
    """How many sequences there are of V = vocab_size tokens and at most T = max_len of them.

    (V−1)^0 + … + (V−1)^(T−1), the boundary included in max_len.
    """
    base = vocab_size - 1
    return max_len if base == 1 else (base**max_len - 1) // (base - 1)


def sequences(vocab_size: int, max_len: int, start: int = 0, stop: int | None = None) -> Rows:
    """Sequences number start … stop−1 of all there are, shortest first -> rows (n, max_len+1).

    Rows are laid out the way worlds sample them: the boundary, tokens, the boundary, then −1.
    Tokens are below vocab_size; stop=None means all.
    """
    total = num_sequences(vocab_size, max_len)
    stop = total if stop is None else min(stop, total)
    rows = np.full((max(stop - start, 0), max_len + 1), -1)
    rows[:, 0] = 0
    first = 0
    for length in range(max_len):  # of the ordinary tokens
        end = first + (vocab_size - 1) ** length
        if end > start:
            own = rows[max(first - start, 0) : end - start]
            _write_numbers(own[:, 1 : length + 1], max(start - first, 0), vocab_size - 1)
            own[:, length + 1] = 0
        if end >= stop:
            break
        first = end
    return rows


def _write_numbers(rows, start, base):
    """Write start, start + 1, … into rows (n, length), each by its digits, of which 1 is zero."""
    rows[:] = 1
    number = np.arange(start, start + len(rows))
    place = rows.shape[1] - 1
    while number.any():
        rows[:, place] += number % base
        number //= base
        place -= 1


def sum_over_list(
    model: Any,  # a Model with forward and backward
    world: World,
    max_len: int,
    summand: Summand,
    sums: Sums,
    grads: Grads | None,
    visited: Callable[[int], object],
) -> None:
    """Add what every sequence contributes to `sums`, and to `grads` {name: array} unless None.

    model: anything with config, params, forward and backward; world: a World of the same
    vocabulary; max_len: the horizon; summand: a logprob.Summand. visited(n) is called for every n
    sequences that are done.
    """
    xp, V = xp_of(model), world.vocab_size
    group = max(1, rows_at_once(xp) // max_len)  # rows of tokens
    for length in range(max_len):  # of the ordinary tokens: sequences of one length fill their rows
        first, end = num_sequences(V, length), num_sequences(V, length + 1)
        positions = min(length + 1, max_len - 1)  # a forced boundary is no target
        for start in range(first, end, group):
            rows = xp.asarray(sequences(V, max_len, start, min(start + group, end)))
            _sum_over_rows(model, world, rows, positions, summand, sums, grads)
            visited(len(rows))


def _sum_over_rows(model, world, rows, positions, summand, sums, grads):
    """The same for rows (n, max_len+1) whose targets are at the first `positions` positions."""
    xp, targets = xp_of(model), rows[:, 1 : positions + 1]
    log_p = world.token_log_probs(rows)[:, :positions]
    floored = world.token_log_probs(rows, floored=True)[:, :positions]
    log_q = xp.zeros(log_p.shape)
    if positions:
        logits, cache = model.forward(rows[:, :positions])
        log_q_next = log_softmax(logits)  # (n,T,V)
        log_q = chosen(log_q_next, targets)
    impossible = (log_p == -math.inf).sum(axis=1)
    x = Prefixes(log_q.sum(axis=1), log_p.sum(axis=1), floored.sum(axis=1), impossible, None)
    if summand.of_sequences is not None:
        values, w = summand.of_sequences(x, xp)
        sums.add(values)
        weights = None if w is None else w[:, None] * xp.ones(log_q.shape)
    if summand.of_tokens is not None:
        values, weights = summand.of_tokens(xp.exp(x.log_p)[:, None], log_q, xp)
        sums.add(values)
    if grads is None or not positions:
        return
    dlogits = -weights[:, :, None] * xp.exp(log_q_next)
    n, t = xp.arange(len(rows))[:, None], xp.arange(positions)
    dlogits[n, t, targets] += weights
    model.backward(dlogits.astype(logits.dtype), cache, grads)
