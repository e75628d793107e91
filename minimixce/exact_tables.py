"""Exact sums for tables Q, whose next token depends on the last one alone: dynamic programming with
a horizon, a closed form without.

Prefixes h that end in the same token, at the same length and with the world in the same state, have
the same future, and so the same cost to go

    U(h) = Σ_v Q(v|h) [c(v|h) + m(v|h) U(hv)],

where costs add (m = 1, and U = 0 at the end) or, for overlap, multiply (c = 0, m = P(v|h), and
U = 1 at the end). A prefix is met with the weight μ(h) = Π Q m, and the gradient is a sum over the
prefixes that share their logits:

    ∂L/∂logits(h)_v = Σ μ(h) Q(v|h) [c(v|h) + m(v|h) U(hv) − U(h)].
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from .automaton import World
from .backend import add_rows, array_module
from .logprob import log_softmax, times_log
from .objectives import OBJECTIVES, check_objective_ratio, exact_names, parts
from .storage.shapes import Array, Float, Scalar
from .storage.validate import check_horizon

_TOO_MANY_VISITS = 1e10  # expected in one sequence; more lose ten of the sixteen digits of float64


def bigram_loss_and_grads(
    q_logits: Float[Array, "V V"],
    world: World,
    *,
    objective: str = "two_kls",
    eta: float = 0.5,
    max_len: int | None = None,
    counts: Array | None = None,
) -> tuple[Scalar, Float[Array, "V V"]]:
    """The exact value and gradient of an objective for a table Q -> loss, dlogits (V,V).

    The loss is 0-d float64, in nats per sequence. q_logits (V,V): row x_{t−1} holds the logits of
    x_t. With a horizon max_len any world will do; without (max_len=None) it must be Markov.
    objective: as in loss_and_grads, except js, whose log Q(x)/M(x) does not add up over tokens;
    eta: its ratio (for tailr, γ). counts (V,V): raw bigram counts of a sample (row x_{t−1}, column
    x_t, boundary 0); they replace P in the forward part and are divided by counts[0].sum(), the
    number of sequences, while the constant H(P) of the KL divergences stays the world's. Raises
    TypeError or ValueError for arguments that do not fit, FloatingPointError where Q hardly ever
    ends a sequence and there is no horizon.
    """
    xp, V = _check(q_logits, world, objective, eta, counts)
    _population(world, max_len)  # checks the two
    log_q = log_softmax(q_logits)
    loss, dlogits = 0.0, xp.zeros((V, V))
    for share, name in parts(objective, eta):
        if share == 0:
            continue
        if OBJECTIVES[name].f_and_w is not None:
            part, dpart = _forward_part(name, eta, log_q, world, max_len, counts, xp)
        else:
            part, dpart = _reverse_part(name, log_q, world, max_len, xp)
        loss = loss + share * part
        dlogits = dlogits + share * dpart
    return xp.asarray(loss), dlogits.astype(q_logits.dtype)


def bigram_counts(world: World, max_len: int | None = None) -> Float[Array, "V V"]:
    """Expected number of times x_t follows x_{t−1} in a sequence of P -> (V,V) float64.

    Forced boundaries do not count. Without a horizon (max_len=None) the world must be Markov, or
    ValueError is raised.
    """
    return _population(world, max_len)[0].copy()


def _check(q_logits, world, objective, ratio, counts):
    """The array module and V; TypeError or ValueError for arguments that do not fit."""
    if objective == "js":
        raise ValueError("js has no dynamic programme: use loss_and_grads")
    allowed = [name for name in exact_names() if name != "js"]
    if objective not in allowed:
        raise ValueError(f"objective must be one of {', '.join(allowed)}, got {objective!r}")
    check_objective_ratio(objective, ratio)
    xp, V = array_module(q_logits), world.vocab_size
    if q_logits.dtype not in ("float32", "float64"):
        raise TypeError(f"q_logits must be float32 or float64, got {q_logits.dtype}")
    if counts is not None and array_module(counts) is not xp:
        raise TypeError("q_logits and counts must be on the same device")
    if q_logits.shape != (V, V):
        raise ValueError(f"q_logits must have shape ({V},{V}), got {q_logits.shape}")
    return xp, V


# ---- the part under P ----------------------------------------------------------------------------


def _forward_part(name, ratio, log_q, world, max_len, counts, xp):
    """Expectations over P of a loss on tokens: they see P through its bigram counts alone."""
    expected, entropy = _population(world, max_len)
    if counts is None:
        counts = xp.asarray(expected)
    else:
        # On a GPU the look at the numbers would wait for the device.
        fits = xp is not np or ((counts >= 0).all() and counts[0].sum() > 0)
        if counts.shape != log_q.shape or not fits:
            raise ValueError(
                f"counts must be {log_q.shape}, not negative, with sequences that start, got "
                f"{counts.shape}"
            )
        counts = counts / counts[0].sum()
    row = OBJECTIVES[name]
    f, w = row.f_and_w(log_q, ratio, xp)
    loss = times_log(counts, f, xp).sum() - (entropy if row.minus_entropy else 0.0)
    weights = counts * w
    return loss, weights.sum(axis=1, keepdims=True) * xp.exp(log_q) - weights


@functools.lru_cache(maxsize=16)  # worlds never change
def _population(world, max_len):
    """Under P: expected bigram counts (V,V), and H(P)."""
    if max_len is None and not world.is_markov:
        raise ValueError(
            "max_len=None needs a Markov world, whose state is the last token; give this one a "
            "max_len"
        )
    log_p = np.log(np.where(world.probs > 0, world.probs, 1))
    if max_len is None:
        counts = world.visits()[:, None] * world.probs
        return counts, -float((counts * log_p).sum())
    check_horizon(max_len)
    state, last, following = _pairs(world)
    p = world.probs[state]
    visits, weight = np.zeros(len(state)), np.zeros(len(state))
    weight[0] = 1.0
    for _ in range(max_len - 1):
        visits += weight
        weight = _step_on(following, weight[:, None] * p)
    counts = visits[:, None] * p
    entropy = -float((counts * log_p[state]).sum())
    return add_rows(np.zeros((world.vocab_size, world.vocab_size)), last, counts), entropy


# ---- the part under Q ----------------------------------------------------------------------------


class _Moves(NamedTuple):
    """What happens after a prefix, a row for each kind of prefix: (rows,V), and U at the end."""

    q: Float[Array, "K V"]  # Q(v|h)
    c: Float[Array, "K V"]  # what is added
    m: Float[Array, "K V"]  # what is multiplied
    end: float


def _reverse_part(name, log_q, world, max_len, xp):
    """R, KL(Q‖P) and overlap by the cost to go -> loss, dlogits (V,V)."""
    tables = world.tables(xp)
    if max_len is None:  # rows are last tokens
        moves = _moves(name, log_q, tables.log_p, tables.log_p_floored, xp)
        loss, dlogits = _without_horizon(moves, xp)
    else:  # rows are pairs of world state and last token
        state, last, following = (xp.asarray(x) for x in _pairs(world))
        moves = _moves(name, log_q[last], tables.log_p[state], tables.log_p_floored[state], xp)
        loss, dlogits = _with_horizon(moves, following, max_len, xp)
        dlogits = add_rows(xp.zeros((world.vocab_size, world.vocab_size)), last, dlogits)
    return (-loss, -dlogits) if name == "overlap" else (loss, dlogits)


def _moves(name, log_q, log_p, log_p_floored, xp):
    q = xp.exp(log_q)
    if name == "overlap":
        return _Moves(q, xp.zeros(q.shape), xp.exp(log_p), 1.0)
    cost = xp.where(q > 0, OBJECTIVES[name].cost(log_q, log_p_floored), 0)  # of what is met
    return _Moves(q, cost, xp.ones(q.shape), 0.0)


def _without_horizon(moves, xp):
    """A Markov world: U = (I − A)⁻¹ c̄ and μ = e_b (I − A)⁻¹, A being Q∘m without column b."""
    q, c, m, end = moves
    goes_on = q * m
    goes_on[:, 0] = 0
    inverse, ends = _inverse(goes_on, xp)
    if xp is not np or not ends:  # a row that is never met may lead nowhere
        inverse, ends = _inverse(xp.where(_is_met(goes_on, xp)[:, None], goes_on, 0), xp)
    visits = inverse[0]  # μ
    if xp is np and not ends:
        raise FloatingPointError(
            "Q hardly ever ends a sequence, so its expected cost is not finite; give a max_len"
        )
    U = inverse @ ((q * c).sum(axis=1) + q[:, 0] * m[:, 0] * end)
    next_U = U.copy()
    next_U[0] = end
    U = xp.where(ends, U, math.nan)  # on a GPU, where raising would have to wait
    return U[0], visits[:, None] * q * (c + m * next_U - U[:, None])


def _inverse(goes_on, xp):
    """(I − A)⁻¹, and whether the start, row 0, is followed by few enough tokens to trust it."""
    try:
        inverse = xp.linalg.inv(xp.eye(len(goes_on)) - goes_on)
    except np.linalg.LinAlgError:  # a token that is followed by nothing but itself
        inverse = xp.full(goes_on.shape, math.inf)
    return inverse, xp.abs(inverse[0]).sum() < _TOO_MANY_VISITS


def _is_met(goes_on, xp):
    """Which rows can be met from row 0 -> (V,) bool: by squaring, as no GPU has to wait then."""
    leads_to = xp.eye(len(goes_on)) + (goes_on > 0)
    for _ in range(len(goes_on).bit_length()):
        leads_to = (leads_to @ leads_to > 0).astype("float64")
    return leads_to[0] > 0


def _with_horizon(moves, following, max_len, xp):
    """Any world: following (K,V) are the rows that come next; one table of U for each length."""
    q, c, m, end = moves
    if max_len == 1:
        return xp.full((), end), xp.zeros(q.shape)

    def cost_of_each(U):
        next_U = U[following]
        next_U[:, 0] = end
        return c + m * next_U

    costs = [xp.full(len(q), end)]  # where the boundary is forced
    for _ in range(max_len - 1):  # from the end to the start
        costs.append((q * cost_of_each(costs[-1])).sum(axis=1))
    loss = costs[-1][0]
    dlogits, weight = xp.zeros(q.shape), xp.zeros(len(q))
    weight[0] = 1.0  # μ
    while len(costs) > 1:  # and from the start to the end
        U = costs.pop()
        advantage = cost_of_each(costs[-1]) - U[:, None]
        dlogits += weight[:, None] * q * advantage
        weight = _step_on(following, weight[:, None] * q * m)
    return loss, dlogits


def _step_on(following, flow):
    """Weights (K,) one token later: the flow (K,V) into each row, from moves that do not end."""
    index, values = following[:, 1:].reshape(-1), flow[:, 1:].reshape(-1)
    if isinstance(flow, np.ndarray):
        return np.bincount(index, values, len(flow))
    # CuPy's bincount waits for the device.
    return add_rows(array_module(flow).zeros(len(flow)), index, values)


@functools.lru_cache(maxsize=16)
def _pairs(world):
    """Reachable pairs of world state and last token -> state (K,), last (K,), following (K,V).

    Row 0 is the start.
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
