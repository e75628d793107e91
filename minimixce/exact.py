"""Exact values and gradients of forward and reverse cross-entropy and their kin, by summing over every sequence.

Symbols as in the formulas: P is a world (worlds.py), Q a model, T = max_len the horizon, b = 0 the boundary. A sequence x has
at most T−1 ordinary tokens; after T−1 of them the boundary is forced, under P and Q alike, and contributes nothing.
All quantities are nats per sequence. Objectives, by name (ratio `eta` = η where there is one):

| name         | value                                          | w(x) = ∂/∂log Q(x)                |
| forward_ce   | F = −E_P log Q                                 | −P                                |
| reverse_ce   | R = −E_Q log P                                 | −Q log P                          |
| mixce_star   | η F + (1−η) R                                  |                                   |
| forward_kl   | KL(P‖Q) = F − H(P)                             | −P                                |
| reverse_kl   | KL(Q‖P) = R − H(Q)                             | Q (log Q − log P)                 |
| two_kls      | η KL(P‖Q) + (1−η) KL(Q‖P)                      |                                   |
| js           | η KL(P‖M) + (1−η) KL(Q‖M), M = η P + (1−η) Q   | (1−η) Q log(Q/M)                  |
| overlap      | −Σ P Q                                         | −P Q                              |
| mixce        | −E_P Σ_t [η log q_t + (1−η) q_t]               | per token: −P (η + (1−η) q_t)     |

The gradient in the logits before x_t is Σ_x w(x) (onehot(x_t) − softmax). In R and KL(Q‖P) log P is floored per token at
world.log_p_floor. Four ways to the same numbers: the list of all sequences, the tree of their prefixes, and for tables Q
dynamic programming and, without a horizon, a closed form.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from . import worlds
from .backend import add_rows, array_module
from .layers import KV
from .objectives import check_ratio

OBJECTIVES = (
    "forward_ce",
    "reverse_ce",
    "mixce_star",
    "forward_kl",
    "reverse_kl",
    "two_kls",
    "js",
    "overlap",
    "mixce",
)
MAX_SEQUENCES = 20_000_000
_ROWS = 2048  # prefixes, or sequences, computed at once: enough for long products, few enough to stay in the cache
_POSITIONS = 1 << 15  # of sequences scored at once
_DEEPEST = 500  # levels of the tree, which is walked by recursion; only two tokens make one this deep and small
_SHOW_BAR_FROM = 100_000  # prefixes or sequences


class CrossEntropies(NamedTuple):
    """F, R, H(P) and H(Q) in nats per sequence; 0-d float64 arrays on the model's device."""

    forward: Any
    reverse: Any
    entropy_p: Any
    entropy_q: Any


def num_sequences(vocab_size, max_len):
    """How many sequences there are: (V−1)^0 + … + (V−1)^(T−1)."""
    return sum((vocab_size - 1) ** k for k in range(max_len))


def loss_and_grads(
    model, world, max_len, *, objective="mixce_star", eta=0.5, method="tree", max_sequences=MAX_SEQUENCES, progress=True
):
    """The exact value of `objective` and its gradient in every parameter -> loss (0-d float64), grads {name: array}.

    method "tree" (for models with extend_forward/extend_backward) computes each shared prefix once, "list" every sequence
    for itself. Sums are in float64, the model computes in its own dtype. Raises ValueError for an unknown name, η outside
    [0,1] (for js, at 0 or 1), a world with another vocabulary, a model too short for max_len − 1 positions, and a space of
    more than `max_sequences` sequences.
    """
    _check(model, world, max_len, objective, eta, method, max_sequences)
    sums, grads = _Sums(), {}
    if method == "list" or max_len == 1:
        _list(model, world, max_len, sums, objective, eta, grads, progress)
    else:
        _tree(model, world, max_len, _by_weights(sums, objective, eta), grads, progress)
    return sums.total(objective, _xp(model)), complete(grads, model)


def policy_gradient(model, world, max_len, *, objective="reverse_ce", max_sequences=MAX_SEQUENCES, progress=True):
    """The same for reverse_ce and reverse_kl by costs to go instead of weights -> loss, grads.

    With c = −log P(v|h), or log Q(v|h) − log P(v|h), a prefix still costs U(h) = Σ_v Q(v|h) [c + U(hv)], the loss is U of the
    start, and ∂L/∂logits(h)_v = Q(h) Q(v|h) [c + U(hv) − U(h)]: the policy-gradient theorem, the exact advantage in brackets.
    """
    if objective not in ("reverse_ce", "reverse_kl"):
        raise ValueError(f'objective must be "reverse_ce" or "reverse_kl" to have a cost to go, got {objective!r}')
    _check(model, world, max_len, objective, 0.5, "tree", max_sequences)
    grads = {}
    cost = _tree(model, world, max_len, _by_cost_to_go(objective), grads, progress)
    return _xp(model).asarray(cost.sum()), complete(grads, model)


def cross_entropies(model, world, max_len, *, method="tree", max_sequences=MAX_SEQUENCES, progress=True):
    """F, R (P floored), H(P) and H(Q) -> CrossEntropies. Options and errors as in loss_and_grads."""
    found = measure(model, world, max_len, method=method, max_sequences=max_sequences, progress=progress)
    return CrossEntropies(*(found[name] for name in ("forward_ce", "reverse_ce", "entropy_p", "entropy_q")))


def measure(model, world, max_len, *, eta=0.5, method="tree", max_sequences=MAX_SEQUENCES, progress=True):
    """Every quantity at once -> dict of 0-d float64 arrays: the objectives by name (mixtures at `eta`; js at ½ where that is
    0 or 1), entropy_p, entropy_q, validity (the probability under Q of sequences with P > 0), impossible_tokens (their
    expected number under Q) and reverse_ce_finite, so that R = reverse_ce_finite − log_p_floor · impossible_tokens.
    """
    _check(model, world, max_len, "mixce_star", eta, method, max_sequences)
    sums = _Sums()
    if method == "list" or max_len == 1:
        _list(model, world, max_len, sums, None, eta, None, progress)
    else:
        _tree(model, world, max_len, _by_measures(sums, eta), None, progress)
    found = {name: sums.total(name, _xp(model)) for name in (*_MEASURES, "mixce")}
    found["forward_kl"] = found["forward_ce"] - found["entropy_p"]
    found["reverse_kl"] = found["reverse_ce"] - found["entropy_q"]
    found["mixce_star"] = eta * found["forward_ce"] + (1 - eta) * found["reverse_ce"]
    found["two_kls"] = eta * found["forward_kl"] + (1 - eta) * found["reverse_kl"]
    found["reverse_ce_finite"] = found["reverse_ce"] + world.log_p_floor * found["impossible_tokens"]
    return {name: _xp(model).asarray(value) for name, value in found.items()}


def log_prob(model, rows):
    """log Q of sequences: rows (n,T+1) as worlds sample them, on the model's device -> (n,) float64."""
    xp, (inputs, targets) = model.xp, worlds.batch(rows, model.config.vocab_size)
    if inputs.shape[1] == 0:
        return xp.zeros(len(rows))
    parts = []
    for start in range(0, len(rows), group := max(1, _POSITIONS // inputs.shape[1])):
        logits, _ = model.forward(inputs[start : start + group])
        parts.append(chosen(log_softmax(logits), targets[start : start + group]).sum(axis=1))
    return xp.concatenate(parts) if parts else xp.zeros(0)


def sequences(vocab_size, max_len, start=0, stop=None):
    """Sequences number start … stop−1 of all there are, shortest first -> rows (n, max_len+1), as worlds sample them."""
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


# ---- what a sequence contributes --------------------------------------------------------------------------------------


class _Prefix(NamedTuple):
    """Prefixes or whole sequences, any shape of arrays: log-probabilities so far, and where the world is."""

    log_q: Any
    log_p: Any  # −inf where P = 0
    log_p_floored: Any
    impossible: Any  # how many of the tokens are
    state: Any


def _terms(objective, eta, x, xp):
    """φ and w = ∂φ/∂log Q of sequences x, for every objective that is a sum of φ(P(x), Q(x)). Formulas: the table above."""
    p, q = xp.exp(x.log_p), xp.exp(x.log_q)
    if objective == "forward_ce":
        return -_times_log(p, x.log_q, xp), -p
    if objective == "forward_kl":
        return _times_log(p, _minus(x.log_p, x.log_q, xp), xp), -p
    if objective == "reverse_ce":
        return -q * x.log_p_floored, -q * x.log_p_floored
    if objective == "reverse_kl":
        return q * (x.log_q - x.log_p_floored), q * (x.log_q - x.log_p_floored)
    if objective == "js":
        log_m = xp.logaddexp(math.log(eta) + x.log_p, math.log(1 - eta) + x.log_q)
        own = (1 - eta) * q * (x.log_q - log_m)
        return own + eta * _times_log(p, _minus(x.log_p, log_m, xp), xp), own
    if objective == "overlap":
        return -p * q, -p * q
    a, b = {"mixce_star": ("forward_ce", "reverse_ce"), "two_kls": ("forward_kl", "reverse_kl")}[objective]
    return tuple(eta * f + (1 - eta) * r for f, r in zip(_terms(a, eta, x, xp), _terms(b, eta, x, xp)))


def _token_terms(eta, p, log_q):
    """The same for token MixCE: p is P of everything up to a token, log_q that token's own log q_t."""
    q = array_module(log_q).exp(log_q)
    return -p * (eta * log_q + (1 - eta) * q), -p * (eta + (1 - eta) * q)


_MEASURES = ("forward_ce", "reverse_ce", "js", "overlap", "entropy_p", "entropy_q", "validity", "impossible_tokens")


def _measures(eta, x, xp):
    """Summands of _MEASURES."""
    p, q = xp.exp(x.log_p), xp.exp(x.log_q)
    js = eta if 0 < eta < 1 else 0.5
    phi = (_terms(name, js, x, xp)[0] for name in ("forward_ce", "reverse_ce", "js", "overlap"))
    own = (-_times_log(p, x.log_p, xp), -q * x.log_q, xp.where(x.log_p > -math.inf, q, 0), q * x.impossible)
    return dict(zip(_MEASURES, (*phi, *own)))


def _times_log(p, log, xp):
    """p · log, and 0 where p is, whatever the logarithm."""
    return p * xp.where(p > 0, log, 0)


def _minus(log_p, log_q, xp):
    return xp.where(log_p > -math.inf, log_p, 0) - log_q


class _Sums(dict):
    """Sums by name, on the device."""

    def add(self, name, values):
        self[name] = self.get(name, 0.0) + values.sum()

    def total(self, name, xp):
        return xp.asarray(self.get(name, 0.0), dtype="float64")


# ---- the tree ---------------------------------------------------------------------------------------------------------


def _tree(model, world, max_len, rule, grads, progress):
    """Visit every prefix once, depth first in groups of rows, forward on the way down and backward on the way up.

    `rule(prefix, child, step, below, ended)` says what prefixes (n rows) contribute: child and step are the _Prefix and
    log Q(v|h), (n,V), of their children, below (n,V) what the children returned, `ended` the children that are whole
    sequences; it returns dlogits (n,V), or None, and what to tell the parent (n,). Children of a prefix are consecutive rows,
    so the model's attention to the shared past needs no gather. Gradients in the keys and values of a group of prefixes are
    complete when its subtrees are done: memory holds one group of rows a level, the children of at least one prefix.
    """
    xp, V = _xp(model), world.vocab_size
    if max_len == 1:  # no prefix has a choice
        return xp.zeros(1)
    tables = world.tables(xp)
    root = _Prefix(*(xp.zeros(1) for _ in range(4)), xp.zeros(1, dtype=int))
    total = sum((V - 1) ** k for k in range(max_len - 1))
    bar = _bar(total, progress, "prefix")
    words = xp.arange(1, V)

    def visit(tokens, past, prefix, depth):
        logits, present, cache = model.extend_forward(tokens[:, None], past)
        step = log_softmax(logits[:, 0])
        child = _extend(tables, prefix, step)
        last = depth == max_len - 2
        below, dpresent = xp.zeros(step.shape), None
        if not last:
            parts = []
            for start in range(0, len(tokens), group := max(1, _ROWS // (V - 1))):
                rows = slice(start, start + group)
                children = _Prefix(*(field[rows, 1:].reshape(-1) for field in child))
                shared = [KV(kv.k[rows], kv.v[rows]) for kv in present]
                told, dshared = visit(xp.tile(words, len(step[rows])), shared, children, depth + 1)
                below[rows, 1:] = told.reshape(-1, V - 1)
                parts.append(dshared)
            dpresent = _join(parts, xp)
        dlogits, told = rule(prefix, child, step, below, slice(None) if last else slice(0, 1))
        bar.update(len(tokens))
        if grads is None:
            return told, None
        _, dpast, _ = model.extend_backward(dlogits[:, None].astype(logits.dtype), dpresent, cache, grads)
        return told, dpast

    with bar:
        return visit(xp.zeros(1, dtype=int), None, root, 0)[0]


def _by_weights(sums, objective, eta):
    """The rule of W(h) = Σ w(x) over x through h:  ∂L/∂logits(h)_v = W(hv) − W(h) Q(v|h)."""

    def rule(prefix, child, step, below, ended):
        xp = array_module(step)
        if objective == "mixce":
            phi, below = _token_terms(eta, xp.exp(child.log_p), step)
        else:
            phi, below[:, ended] = _terms(objective, eta, _Prefix(*(field[:, ended] for field in child)), xp)
        sums.add(objective, phi)
        told = below.sum(axis=1)
        return below - told[:, None] * xp.exp(step), told

    return rule


def _by_cost_to_go(objective):
    """The rule of U(h): see policy_gradient. Where the boundary is forced nothing is to come, and U stays 0."""

    def rule(prefix, child, step, below, ended):
        xp = array_module(step)
        cost = prefix.log_p_floored[:, None] - child.log_p_floored
        if objective == "reverse_kl":
            cost = cost + step
        to_go = cost + below
        told = (xp.exp(step) * to_go).sum(axis=1)
        return xp.exp(prefix.log_q[:, None] + step) * (to_go - told[:, None]), told

    return rule


def _by_measures(sums, eta):
    """The rule that has no gradient."""

    def rule(prefix, child, step, below, ended):
        xp = array_module(step)
        for name, values in _measures(eta, _Prefix(*(field[:, ended] for field in child)), xp).items():
            sums.add(name, values)
        sums.add("mixce", _token_terms(eta, xp.exp(child.log_p), step)[0])
        return None, below[:, 0]

    return rule


def _extend(tables, prefix, step):
    """prefix (n,), step = log Q(v|h) (n,V) -> _Prefix (n,V), tables a world's."""
    log_q, log_p, log_p_floored, impossible, state = prefix
    return _Prefix(
        log_q[:, None] + step,
        log_p[:, None] + tables.log_p[state],
        log_p_floored[:, None] + tables.log_p_floored[state],
        impossible[:, None] + tables.impossible[state],
        tables.next_state[state],
    )


def _join(parts, xp):
    """Gradients of several groups' shared pasts, one below the other; None from a model without layers."""
    if parts[0] is None or len(parts) == 1:
        return parts[0]
    return [KV(xp.concatenate([kv.k for kv in layer]), xp.concatenate([kv.v for kv in layer])) for layer in zip(*parts)]


# ---- the list ---------------------------------------------------------------------------------------------------------


def _list(model, world, max_len, sums, objective, eta, grads, progress):
    """Visit every sequence; without an objective, sum up measures."""
    xp, total = _xp(model), num_sequences(world.vocab_size, max_len)
    with _bar(total, progress, "sequence") as bar:
        for length in range(max_len):  # of the ordinary tokens: sequences of one length fill their rows
            first, count = num_sequences(world.vocab_size, length), (world.vocab_size - 1) ** length
            group = max(1, _ROWS // max_len)
            for start in range(first, first + count, group):
                rows = xp.asarray(sequences(world.vocab_size, max_len, start, min(start + group, first + count)))
                _list_rows(model, world, rows, min(length + 1, max_len - 1), sums, objective, eta, grads)
                bar.update(len(rows))


def _list_rows(model, world, rows, positions, sums, objective, eta, grads):
    """Contributions of rows with targets at the first `positions` positions."""
    xp, targets = _xp(model), rows[:, 1 : positions + 1]
    log_p = world.token_log_probs(rows)[:, :positions]
    floored = world.token_log_probs(rows, floored=True)[:, :positions]
    log_q = xp.zeros(log_p.shape)
    if positions:
        logits, cache = model.forward(rows[:, :positions])
        step = log_softmax(logits)
        log_q = chosen(step, targets)
    x = _Prefix(log_q.sum(axis=1), log_p.sum(axis=1), floored.sum(axis=1), (log_p == -math.inf).sum(axis=1), None)
    if objective is None:
        for name, values in _measures(eta, x, xp).items():
            sums.add(name, values)
    if objective in (None, "mixce"):
        phi, weights = _token_terms(eta, xp.exp(x.log_p)[:, None], log_q)
        sums.add("mixce", phi)
    else:
        phi, weights = _terms(objective, eta, x, xp)
        sums.add(objective, phi)
        weights = weights[:, None] * xp.ones(log_q.shape)
    if grads is None or not positions:
        return
    dlogits = -weights[:, :, None] * xp.exp(step)
    n, t = xp.arange(len(rows))[:, None], xp.arange(positions)
    dlogits[n, t, targets] += weights
    model.backward(dlogits.astype(logits.dtype), cache, grads)


# ---- tables Q: dynamic programming and closed form --------------------------------------------------------------------


def bigram_loss_and_grads(q_logits, world, *, objective="two_kls", eta=0.5, max_len=None, counts=None):
    """The same for a table: q_logits (V,V), row x_{t−1} the logits of x_t -> loss (0-d float64), dlogits (V,V).

    With a horizon max_len any world will do: prefixes with the same length, world state and last token share their future.
    Without (max_len=None) the world must be Markov, and a linear system takes the place of the steps. Every objective but
    js, whose log Q(x)/M(x) does not add up over tokens. `counts` (V,V), raw bigram counts of a sample (row x_{t−1}, column
    x_t, boundary 0), replace P in the forward term: they are divided by counts[0].sum(), the number of sequences.
    The constant H(P) in the KL divergences stays the world's.
    """
    if objective == "js":
        raise ValueError("js has no dynamic programme: use loss_and_grads")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(o for o in OBJECTIVES if o != 'js')}, got {objective!r}")
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
    for share, name in _parts(objective, eta):
        if share == 0:
            continue
        if name in ("reverse_ce", "reverse_kl", "overlap"):
            part, dpart = _reverse_part(name, log_q, world, max_len, xp)
        else:
            part, dpart = _forward_part(name, eta, log_q, world, max_len, counts, xp)
        loss, dlogits = loss + share * part, dlogits + share * dpart
    return xp.asarray(loss), dlogits.astype(q_logits.dtype)


def bigram_counts(world, max_len=None):
    """Expected number of times x_t follows x_{t−1} in a sequence of P -> (V,V); forced boundaries do not count."""
    return _population(world, max_len)[0].copy()


def _parts(objective, eta):
    if objective == "mixce_star":
        return (eta, "forward_ce"), (1 - eta, "reverse_ce")
    if objective == "two_kls":
        return (eta, "forward_kl"), (1 - eta, "reverse_kl")
    return ((1.0, objective),)


def _forward_part(name, eta, log_q, world, max_len, counts, xp):
    """F, KL(P‖Q) or token MixCE depend on P through the expected bigram counts alone."""
    expected, entropy = _population(world, max_len)
    if counts is None:
        counts = xp.asarray(expected)
    else:
        fits = xp is not np or ((counts >= 0).all() and counts[0].sum() > 0)  # on a GPU this would wait
        if counts.shape != log_q.shape or not fits:
            raise ValueError(f"counts must be {log_q.shape}, not negative, with sequences that start, got {counts.shape}")
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

    Costs add (m = 1, U = 0 at the end); overlap multiplies (c = 0, m = P(v|h), U = 1 at the end). A prefix h is seen with
    the weight μ(h) = Π Q m, and ∂L/∂logits(h)_v = Σ μ(h) Q(v|h) [c(v|h) + m(v|h) U(hv) − U(h)] over prefixes that share them.
    """
    pairs = None if max_len is None else _pairs(world)
    tables, q = world.tables(xp), xp.exp(log_q)
    if max_len is None:
        log_p, log_p_floored = tables.log_p, tables.log_p_floored
    else:
        state, last, following = (xp.asarray(x) for x in pairs)
        log_q, q, log_p, log_p_floored = log_q[last], q[last], tables.log_p[state], tables.log_p_floored[state]
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
    """Markov world: rows are last tokens (V). U = (I − A)⁻¹ c̄ and μ = e_b (I − A)⁻¹ with A = Q∘m without column b."""
    inside = q * m
    inside[:, 0] = 0
    try:
        inverse = xp.linalg.inv(xp.eye(len(q)) - inside)
    except np.linalg.LinAlgError:  # a token that is followed by nothing but itself
        inverse = xp.full(q.shape, math.inf)
    visits = inverse[0]
    if xp is np and not np.abs(visits).sum() < 1e10:  # of sixteen digits that many are lost
        raise FloatingPointError("Q hardly ever ends a sequence, so its expected cost is not finite; give a max_len")
    U = inverse @ ((q * c).sum(axis=1) + q[:, 0] * m[:, 0] * end)
    after = U.copy()
    after[0] = end
    U = xp.where(xp.abs(visits).sum() < 1e10, U, math.nan)  # where a look at the numbers would wait for the device
    return U[0], visits[:, None] * q * (c + m * after - U[:, None])


def _with_horizon(q, c, m, end, following, max_len, xp):
    """Rows are pairs of world state and last token (K); following (K,V) are the rows that come next."""
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
    return add_rows(array_module(values).zeros(size), index, values)  # CuPy's bincount waits for the device


@functools.lru_cache(maxsize=16)  # worlds never change
def _pairs(world):
    """Reachable pairs of world state and last token -> state (K,), last (K,), following (K,V); row 0 is the start."""
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
        raise ValueError("max_len=None needs a Markov world, whose state is the last token; give this one a max_len")
    if max_len is not None:
        _check_horizon(max_len)
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
    return (counts if max_len is None else add_rows(np.zeros((world.vocab_size,) * 2), last, counts)), entropy


# ---- helpers ----------------------------------------------------------------------------------------------------------


def _xp(model):
    return array_module(next(iter(model.params.values())))


def log_softmax(logits):
    """(…,V) -> log-probabilities in float64."""
    xp, z = array_module(logits), logits.astype("float64")
    z = z - z.max(axis=-1, keepdims=True)
    # A logit of −inf has probability 0, and 0 times a number is 0, however large; 0 · inf would be NaN.
    return xp.maximum(z - xp.log(xp.exp(z).sum(axis=-1, keepdims=True)), -1e300)


def chosen(step, targets):
    """log q of the targets: step (n,T,V), targets (n,T), −1 ignored -> (n,T)."""
    xp = array_module(step)
    n, t = xp.arange(len(targets))[:, None], xp.arange(targets.shape[1])
    return xp.where(targets >= 0, step[n, t, xp.where(targets >= 0, targets, 0)], 0)


def _bar(total, progress, unit):
    return tqdm(
        total=total, unit=unit, unit_scale=True, delay=1, disable=None if progress and total >= _SHOW_BAR_FROM else True
    )


def complete(grads, model):
    """grads with exactly the keys of params; zeros where nothing depends on a parameter, as with a horizon of 1."""
    return {name: grads[name] if name in grads else _xp(model).zeros_like(p) for name, p in model.params.items()}


def _check(model, world, max_len, objective, eta, method, max_sequences):
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    check_ratio("eta", eta)
    if not isinstance(world, worlds.World):
        raise TypeError(f"world must be a minimixce.worlds.World, got {type(world).__name__}")
    if not hasattr(model, "config"):
        raise TypeError(f"model must be a language model, as GPT or TableBigram, got {type(model).__name__}")
    if objective == "js" and not 0 < eta < 1:
        raise ValueError(f"eta must be above 0 and below 1 for js, which is zero there, got {eta}")
    if method not in ("tree", "list"):
        raise ValueError(f'method must be "tree" or "list", got {method!r}')
    _check_horizon(max_len)
    if model.config.vocab_size != world.vocab_size:
        raise ValueError(
            f"model and world must share a vocabulary, got {model.config.vocab_size} and {world.vocab_size} tokens"
        )
    if model.config.block_size < max_len - 1:
        raise ValueError(f"max_len {max_len} needs a block_size of at least {max_len - 1}, got {model.config.block_size}")
    if method == "tree" and max_len > _DEEPEST:
        raise ValueError(f'max_len must be at most {_DEEPEST} for the tree, got {max_len}; method="list" has no such limit')
    digits = (max_len - 1) * math.log10(max(world.vocab_size - 1, 1))
    if digits > 18 or num_sequences(world.vocab_size, max_len) > max_sequences:
        count = f"{num_sequences(world.vocab_size, max_len):,}" if digits <= 18 else f"about 10^{digits:.0f}"
        raise ValueError(
            f"{world.vocab_size} tokens and max_len {max_len} make {count} sequences, more than max_sequences = "
            f"{max_sequences:,}; choose a smaller max_len, or sample (minimixce.estimators)"
        )
    if method == "tree" and not hasattr(model, "extend_forward"):
        raise ValueError(f'method must be "list" for a model without extend_forward, got "tree" for {type(model).__name__}')


def _check_horizon(max_len):
    if isinstance(max_len, bool) or not isinstance(max_len, (int, np.integer)) or max_len < 1:
        raise ValueError(f"max_len must be an integer, at least 1, got {max_len!r}")
