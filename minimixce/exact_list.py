"""Exact sums by the list of all sequences."""

import math

import numpy as np
from tqdm import tqdm

from .logprob import chosen, log_softmax, times_log
from .model import xp_of
from .objectives import Prefix, terms, token_terms

# prefixes, or sequences, computed at once: enough for long products, few enough to stay in the
# cache
_ROWS = 2048


def num_sequences(vocab_size, max_len):
    """How many sequences there are: (V−1)^0 + … + (V−1)^(T−1)."""
    return sum((vocab_size - 1) ** k for k in range(max_len))


def sequences(vocab_size, max_len, start=0, stop=None):
    """Sequences number start … stop−1 of all there are, shortest first -> rows (n, max_len+1), as
    worlds sample them.
    """
    total = num_sequences(vocab_size, max_len)
    number = np.arange(start, total if stop is None else min(stop, total))
    rows = np.full((len(number), max_len + 1), -1)
    rows[:, 0] = 0
    first = 0
    for length in range(max_len):  # of the ordinary tokens, the digits of a number in base V−1
        count = (vocab_size - 1) ** length
        own = (first <= number) & (number < first + count)
        if not own.any():
            first += count
            continue
        digits = number[own] - first
        for t in range(length, 0, -1):
            rows[own, t] = 1 + digits % (vocab_size - 1)
            digits //= vocab_size - 1
        rows[own, length + 1] = 0
        first += count
    return rows


MEASURES = (
    "forward_ce",
    "reverse_ce",
    "js",
    "overlap",
    "entropy_p",
    "entropy_q",
    "validity",
    "impossible_tokens",
)


def measures(eta, x, xp):
    """Summands of MEASURES."""
    p, q = xp.exp(x.log_p), xp.exp(x.log_q)
    js = eta if 0 < eta < 1 else 0.5
    phi = (terms(name, js, x, xp)[0] for name in ("forward_ce", "reverse_ce", "js", "overlap"))
    own = (
        -times_log(p, x.log_p, xp),
        -q * x.log_q,
        xp.where(x.log_p > -math.inf, q, 0),
        q * x.impossible,
    )
    return dict(zip(MEASURES, (*phi, *own)))


class Sums(dict):
    """Sums by name, on the device."""

    def add(self, name, values):
        self[name] = self.get(name, 0.0) + values.sum()

    def total(self, name, xp):
        return xp.asarray(self.get(name, 0.0), dtype="float64")


def by_list(model, world, max_len, sums, objective, eta, grads, progress):
    """Visit every sequence; without an objective, sum up measures."""
    xp, total = xp_of(model), num_sequences(world.vocab_size, max_len)
    with bar_of(total, progress, "sequence") as bar:
        # of the ordinary tokens: sequences of one length fill their rows
        for length in range(max_len):
            first, count = num_sequences(world.vocab_size, length), (world.vocab_size - 1) ** length
            group = max(1, _ROWS // max_len)
            for start in range(first, first + count, group):
                rows = xp.asarray(
                    sequences(world.vocab_size, max_len, start, min(start + group, first + count))
                )
                _list_rows(
                    model, world, rows, min(length + 1, max_len - 1), sums, objective, eta, grads
                )
                bar.update(len(rows))


def _list_rows(model, world, rows, positions, sums, objective, eta, grads):
    """Contributions of rows with targets at the first `positions` positions."""
    xp, targets = xp_of(model), rows[:, 1 : positions + 1]
    log_p = world.token_log_probs(rows)[:, :positions]
    floored = world.token_log_probs(rows, floored=True)[:, :positions]
    log_q = xp.zeros(log_p.shape)
    if positions:
        logits, cache = model.forward(rows[:, :positions])
        step = log_softmax(logits)
        log_q = chosen(step, targets)
    x = Prefix(
        log_q.sum(axis=1),
        log_p.sum(axis=1),
        floored.sum(axis=1),
        (log_p == -math.inf).sum(axis=1),
        None,
    )
    if objective is None:
        for name, values in measures(eta, x, xp).items():
            sums.add(name, values)
    if objective in (None, "mixce"):
        phi, weights = token_terms(eta, xp.exp(x.log_p)[:, None], log_q)
        sums.add("mixce", phi)
    else:
        phi, weights = terms(objective, eta, x, xp)
        sums.add(objective, phi)
        weights = weights[:, None] * xp.ones(log_q.shape)
    if grads is None or not positions:
        return
    dlogits = -weights[:, :, None] * xp.exp(step)
    n, t = xp.arange(len(rows))[:, None], xp.arange(positions)
    dlogits[n, t, targets] += weights
    model.backward(dlogits.astype(logits.dtype), cache, grads)


def bar_of(total, progress, unit):
    return tqdm(
        total=total,
        unit=unit,
        unit_scale=True,
        delay=1,
        disable=None if progress and total >= _SHOW_BAR_FROM else True,
    )


_SHOW_BAR_FROM = 100_000  # prefixes or sequences
