"""Measures of fit that need no model class."""

import numpy as np


def ngram_cross_entropy(train, validation, n, vocab_size):
    """Nats per token of an interpolated Witten–Bell n-gram model: the counting baseline for a character model.

    P_k(w|h) = (c(hw) + T(h) P_{k−1}(w|h′)) / (c(h) + T(h)), where T(h) is the number of different tokens seen after the
    context h, h′ drops its oldest token, and P_0 = 1/V (Witten & Bell 1991). train, validation: ids (n,); every validation
    token but the first is a target.
    """
    targets = validation[1:].astype(np.int64)
    prob = np.full(len(targets), 1 / vocab_size)
    for length in range(n):  # of the context
        seen_context, seen_next = _contexts(train, length, vocab_size), train[1:].astype(np.int64)
        pairs, pair_counts = np.unique(seen_context * vocab_size + seen_next, return_counts=True)
        contexts, first, kinds = np.unique(pairs // vocab_size, return_index=True, return_counts=True)
        context_counts = np.add.reduceat(pair_counts, first)
        context = _contexts(validation, length, vocab_size)
        c_pair = _look_up(pairs, pair_counts, context * vocab_size + targets)
        c, t = _look_up(contexts, context_counts, context), _look_up(contexts, kinds, context)
        seen = c > 0
        prob[seen] = ((c_pair + t * prob) / np.maximum(c + t, 1))[seen]
    return float(-np.log(prob).mean())


def _contexts(tokens, length, vocab_size):
    """One integer for the `length` tokens before each target; boundaries stand before the beginning."""
    padded = np.concatenate([np.zeros(max(length - 1, 0), np.int64), tokens[:-1].astype(np.int64)])
    code = np.zeros(len(tokens) - 1, np.int64)
    for i in range(length):
        code = code * vocab_size + padded[i : i + len(code)]
    return code


def _look_up(keys, values, wanted):
    """values of the sorted keys, 0 where a wanted key is absent."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
