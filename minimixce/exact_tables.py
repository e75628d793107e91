"""Exact sums for tables Q: dynamic programming and closed form."""

import functools
import math

import numpy as np

from .backend import add_rows, array_module
from .logprob import log_softmax
from .objectives import OBJECTIVES, parts
from .storage.validate import check_horizon, check_ratio


def bigram_loss_and_grads(
    q_logits, world, *, objective="two_kls", eta=0.5, max_len=None, counts=None
):
    """The same for a table: q_logits (V,V), row x_{t−1} the logits of x_t -> loss (0-d float64),
    dlogits (V,V).

    With a horizon max_len any world will do: prefixes with the same length, world state and last
    token share their future. Without (max_len=None) the world must be Markov, and a linear system
    takes the place of the steps. Every objective but js, whose log Q(x)/M(x) does not add up over
    tokens. `counts` (V,V), raw bigram counts of a sample (row x_{t−1}, column x_t, boundary 0),
    replace P in the forward term: they are divided by counts[0].sum(), the number of sequences. The
    constant H(P) in the KL divergences stays the world's.
    """
    if objective == "js":
        raise ValueError("js has no dynamic programme: use loss_and_grads")
    if objective not in OBJECTIVES:
        raise ValueError(
            f"objective must be one of {', '.join(o for o in OBJECTIVES if o != 'js')}, got"
            f" {objective!r}"
        )
    check_ratio("eta", eta)
    xp, V = array_module(q_logits), world.vocab_size
    if q_logits.dtype.kind != "f":
        raise TypeError(f"q_logits must be floats, got {q_logits.dtype}")
    if counts is not None and array_module(counts) is not xp:
        raise TypeError("q_logits and counts must be on the same device")
    if q_logits.shape != (V, V):
        raise ValueError(f"q_logits must have shape ({V},{V}), got {q_logits.shape}")
    _population(world, max_len)  # checks the two
    log_q = log_softmax(q_logits)
    loss, dlogits = 0.0, xp.zeros((V, V))
    for share, name in parts(objective, eta):
        if share == 0:
            continue
        if name in ("reverse_ce", "reverse_kl", "overlap"):
            part, dpart = _reverse_part(name, log_q, world, max_len, xp)
        else:
            part, dpart = _forward_part(name, eta, log_q, world, max_len, counts, xp)
        loss, dlogits = loss + share * part, dlogits + share * dpart
    return xp.asarray(loss), dlogits.astype(q_logits.dtype)


def bigram_counts(world, max_len=None):
    """Expected number of times x_t follows x_{t−1} in a sequence of P -> (V,V); forced boundaries
    do not count.
    """
    return _population(world, max_len)[0].copy()


def _forward_part(name, eta, log_q, world, max_len, counts, xp):
    """F, KL(P‖Q) or token MixCE depend on P through the expected bigram counts alone."""
    expected, entropy = _population(world, max_len)
    if counts is None:
        counts = xp.asarray(expected)
    else:
        # on a GPU this would wait
        fits = xp is not np or ((counts >= 0).all() and counts[0].sum() > 0)
        if counts.shape != log_q.shape or not fits:
            raise ValueError(
                f"counts must be {log_q.shape}, not negative, with sequences that start, got"
                f" {counts.shape}"
            )
        counts = counts / counts[0].sum()
    q = xp.exp(log_q)
    if name == "mixce":
        value, weights = eta * log_q + (1 - eta) * q, counts * (eta + (1 - eta) * q)
    else:
        value, weights = log_q, counts
    loss = -(counts * value).sum() - (entropy if name == "forward_kl" else 0.0)
    return loss, weights.sum(axis=1, keepdims=True) * q - weights


def _reverse_part(name, log_q, world, max_len, xp):
    """R, KL(Q‖P) and overlap by the cost to go  U(h) = Σ_v Q(v|h) [c(v|h) + m(v|h) U(hv)].

    Costs add (m = 1, U = 0 at the end); overlap multiplies (c = 0, m = P(v|h), U = 1 at the end). A
    prefix h is seen with the weight μ(h) = Π Q m, and ∂L/∂logits(h)_v = Σ μ(h) Q(v|h) [c(v|h) +
    m(v|h) U(hv) − U(h)] over prefixes that share them.
    """
    pairs = None if max_len is None else _pairs(world)
    tables, q = world.tables(xp), xp.exp(log_q)
    if max_len is None:
        log_p, log_p_floored = tables.log_p, tables.log_p_floored
    else:
        state, last, following = (xp.asarray(x) for x in pairs)
        log_q, q, log_p, log_p_floored = (
            log_q[last],
            q[last],
            tables.log_p[state],
            tables.log_p_floored[state],
        )
    if name == "overlap":
        c, m, end = xp.zeros(q.shape), xp.exp(log_p), 1.0
    else:
        c, m, end = -log_p_floored, xp.ones(q.shape), 0.0
        if name == "reverse_kl":
            c = c + log_q
    if max_len is None:
        loss, grad = _without_horizon(q, c, m, end, xp)
    else:
        loss, grad = _with_horizon(q, c, m, end, following, max_len, xp)
        grad = add_rows(xp.zeros((world.vocab_size, world.vocab_size)), last, grad)
    return (-loss, -grad) if name == "overlap" else (loss, grad)


def _without_horizon(q, c, m, end, xp):
    """Markov world: rows are last tokens (V). U = (I − A)⁻¹ c̄ and μ = e_b (I − A)⁻¹ with A = Q∘m
    without column b.
    """
    inside = q * m
    inside[:, 0] = 0
    try:
        inverse = xp.linalg.inv(xp.eye(len(q)) - inside)
    except np.linalg.LinAlgError:  # a token that is followed by nothing but itself
        inverse = xp.full(q.shape, math.inf)
    visits = inverse[0]
    if xp is np and not np.abs(visits).sum() < 1e10:  # of sixteen digits that many are lost
        raise FloatingPointError(
            "Q hardly ever ends a sequence, so its expected cost is not finite; give a max_len"
        )
    U = inverse @ ((q * c).sum(axis=1) + q[:, 0] * m[:, 0] * end)
    after = U.copy()
    after[0] = end
    # where a look at the numbers would wait for the device
    U = xp.where(xp.abs(visits).sum() < 1e10, U, math.nan)
    return U[0], visits[:, None] * q * (c + m * after - U[:, None])


def _with_horizon(q, c, m, end, following, max_len, xp):
    """Rows are pairs of world state and last token (K); following (K,V) are the rows that come
    next.
    """
    if max_len == 1:
        return xp.full((), end), xp.zeros(q.shape)

    def to_go(U):
        after = U[following]
        after[:, 0] = end
        return c + m * after

    costs = [xp.full(len(q), end)]
    for _ in range(max_len - 1):  # from the end to the start
        costs.append((q * to_go(costs[-1])).sum(axis=1))
    grad, weight, U = xp.zeros(q.shape), xp.zeros(len(q)), costs[-1]
    weight[0] = 1.0
    while len(costs) > 1:  # and back
        here = costs.pop()
        grad += weight[:, None] * q * (to_go(costs[-1]) - here[:, None])
        flow = weight[:, None] * q * m
        weight = _add_up(following[:, 1:].reshape(-1), flow[:, 1:].reshape(-1), len(q))
    return U[0], grad


def _add_up(index, values, size):
    """Sums of values by index -> (size,)."""
    if isinstance(values, np.ndarray):
        return np.bincount(index, values, size)
    # CuPy's bincount waits for the device
    return add_rows(array_module(values).zeros(size), index, values)


@functools.lru_cache(maxsize=16)  # worlds never change
def _pairs(world):
    """Reachable pairs of world state and last token -> state (K,), last (K,), following (K,V); row
    0 is the start.
    """
    V, seen = world.vocab_size, np.zeros(1, dtype=int)  # a pair is state·V + token
    while True:
        following = world.next_state[seen // V] * V + np.arange(V)
        grown = np.union1d(seen, following[:, 1:])
        if len(grown) == len(seen):
            break
        seen = grown
    following[:, 0] = 0
    return seen // V, seen % V, np.searchsorted(seen, following)


@functools.lru_cache(maxsize=16)
def _population(world, max_len):
    """Under P: expected bigram counts (V,V), and H(P)."""
    if max_len is None and not world.is_markov:
        raise ValueError(
            "max_len=None needs a Markov world, whose state is the last token; give this one a"
            " max_len"
        )
    if max_len is not None:
        check_horizon(max_len)
    if max_len is None:
        counts, state = world.visits()[:, None] * world.probs, slice(None)
    else:
        state, last, following = _pairs(world)
        p, weight, total = world.probs[state], np.zeros(len(state)), np.zeros(len(state))
        weight[0] = 1.0
        for _ in range(max_len - 1):
            total += weight
            flow = weight[:, None] * p
            weight = _add_up(following[:, 1:].reshape(-1), flow[:, 1:].reshape(-1), len(state))
        counts = total[:, None] * p
    log_p = np.log(np.where(world.probs > 0, world.probs, 1))[state]
    entropy = -float((counts * log_p).sum())
    return (
        counts if max_len is None else add_rows(np.zeros((world.vocab_size,) * 2), last, counts)
    ), entropy
