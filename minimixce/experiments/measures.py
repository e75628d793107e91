"""Measures of fit."""

import re

import numpy as np

from ..backend import add_rows, to_numpy
from ..layers import softmax_forward


def ngram_cross_entropy(train, validation, n, vocab_size):
    """Nats per token of an interpolated Witten–Bell n-gram model: the counting baseline for a
    character model.

    P_k(w|h) = (c(hw) + T(h) P_{k−1}(w|h′)) / (c(h) + T(h)), where T(h) is the number of different
    tokens seen after the context h, h′ drops its oldest token, and P_0 = 1/V (Witten & Bell 1991).
    train, validation: ids (n,); every validation token but the first is a target.
    """
    targets = validation[1:].astype(np.int64)
    prob = np.full(len(targets), 1 / vocab_size)
    for length in range(n):  # of the context
        seen_context, seen_next = _contexts(train, length, vocab_size), train[1:].astype(np.int64)
        pairs, pair_counts = np.unique(seen_context * vocab_size + seen_next, return_counts=True)
        contexts, first, kinds = np.unique(
            pairs // vocab_size, return_index=True, return_counts=True
        )
        context_counts = np.add.reduceat(pair_counts, first)
        context = _contexts(validation, length, vocab_size)
        c_pair = _look_up(pairs, pair_counts, context * vocab_size + targets)
        c, t = _look_up(contexts, context_counts, context), _look_up(contexts, kinds, context)
        seen = c > 0
        prob[seen] = ((c_pair + t * prob) / np.maximum(c + t, 1))[seen]
    return float(-np.log(prob).mean())


def _contexts(tokens, length, vocab_size):
    """One integer for the `length` tokens before each target; boundaries stand before the
    beginning.
    """
    padded = np.concatenate([np.zeros(max(length - 1, 0), np.int64), tokens[:-1].astype(np.int64)])
    code = np.zeros(len(tokens) - 1, np.int64)
    for i in range(length):
        code = code * vocab_size + padded[i : i + len(code)]
    return code


def _look_up(keys, values, wanted):
    """values of the sorted keys, 0 where a wanted key is absent."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def diversity(ids, longest=4):
    """Distinct n-grams over all n-grams of a text (n,), n = 1 … 4 pooled; n-grams with n > 2 of one
    repeated token are left out. 1 is no repetition at all; NaN for an empty text.
    """
    ids, distinct, total = np.asarray(ids), 0, 0
    for n in range(1, min(longest, len(ids)) + 1):
        grams = np.lib.stride_tricks.sliding_window_view(ids, n)
        if n > 2:
            grams = grams[(grams != grams[:, :1]).any(axis=1)]
        distinct += len(np.unique(grams, axis=0)) if len(grams) else 0
        total += len(grams)
    return distinct / total if total else float("nan")


def repetition(ids, times=3):
    """(share of a text (n,) inside phrases repeated three or more times in a row, length of the
    longest such phrase or 0).

    A phrase of length L stands `times` in a row where x_i = x_{i+L} for (times−1)·L consecutive i.
    """
    ids = np.asarray(ids)
    inside, longest = np.zeros(len(ids), bool), 0
    for length in range(1, len(ids) // times + 1):
        same = np.concatenate([[0], (ids[:-length] == ids[length:]).astype(np.int8), [0]])
        starts, ends = np.flatnonzero(np.diff(same) == 1), np.flatnonzero(np.diff(same) == -1)
        for start, end in zip(starts, ends):
            if end - start >= (times - 1) * length:
                # A phrase that is itself a repeated shorter one does not count as longer.
                longest = (
                    max(longest, length) if not inside[start : end + length].all() else longest
                )
                inside[start : end + length] = True
    return (float(inside.mean()) if len(ids) else float("nan")), longest


def words(text):
    """The words of a text: runs of letters, with apostrophes inside."""
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text)


def word_validity(texts, vocabulary):
    """Share of the words of `texts` that are in the set `vocabulary`; a text's first and last word
    may be cut off and are left out. NaN without words.
    """
    inner = [word for text in texts for word in words(text)[1:-1]]
    return sum(word in vocabulary for word in inner) / len(inner) if inner else float("nan")


def mean_and_deviation(values):
    """Mean and standard deviation (n − 1) of some numbers; the deviation of a single one is 0."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def average_js(gold, learned):
    """avg. JS of two transition matrices (V,V), start rows included: the Jensen–Shannon divergence
    of each pair of rows (nats, equal weights), mean over rows.
    """
    middle = (gold + learned) / 2

    def kl(p):
        return (p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, middle, 1))).sum(axis=1)

    # rounding can take a zero below zero
    return max(0.0, float((kl(gold) + kl(learned)).mean() / 2))


def average_zeros(gold, learned):
    """avg. 0s: the mean learned probability where the gold one is 0 (0 where it nowhere is)."""
    impossible = learned[gold == 0]
    return float(impossible.mean()) if impossible.size else 0.0


def transition_matrix(model, world=None, samples=2000, max_len=None, seed=0):
    """Q's next-token distribution after each last token -> (V,V) on the host, row 0 the start.

    For a bigram it is Q itself. For a model with memory, Q(·|h) is averaged over the prefixes h of
    `samples` sequences of `world`, by their last token; a token that never comes before another
    keeps a row of zeros.
    """
    V = model.config.vocab_size
    if world is None:
        logits, _ = model.forward(model.xp.arange(V)[:, None])
        return to_numpy(softmax_forward(logits[:, 0].astype("float64"))[0])
    inputs, targets = world.batch(world.sample(samples, max_len, seed))
    logits, _ = model.forward(model.xp.asarray(inputs))
    probs = to_numpy(softmax_forward(logits.astype("float64"))[0])
    there = targets >= 0
    sums = add_rows(np.zeros((V, V)), inputs[there], probs[there])
    return sums / np.maximum(np.bincount(inputs[there], minlength=V), 1)[:, None]
