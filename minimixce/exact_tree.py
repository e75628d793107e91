"""Exact sums by the tree of prefixes."""

from .backend import array_module
from .exact_list import _ROWS, bar_of, measures
from .kv import KV
from .logprob import log_softmax
from .model import xp_of
from .objectives import Prefix, terms, token_terms


def tree(model, world, max_len, rule, grads, progress):
    """Visit every prefix once, depth first in groups of rows, forward on the way down and backward
    on the way up.

    `rule(prefix, child, step, below, ended)` says what prefixes (n rows) contribute: child and step
    are the Prefix and log Q(v|h), (n,V), of their children, below (n,V) what the children returned,
    `ended` the children that are whole sequences; it returns dlogits (n,V), or None, and what to
    tell the parent (n,). Children of a prefix are consecutive rows, so the model's attention to the
    shared past needs no gather. Gradients in the keys and values of a group of prefixes are
    complete when its subtrees are done: memory holds one group of rows a level, the children of at
    least one prefix.
    """
    xp, V = xp_of(model), world.vocab_size
    if max_len == 1:  # no prefix has a choice
        return xp.zeros(1)
    tables = world.tables(xp)
    root = Prefix(*(xp.zeros(1) for _ in range(4)), xp.zeros(1, dtype=int))
    total = sum((V - 1) ** k for k in range(max_len - 1))
    bar = bar_of(total, progress, "prefix")
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
                children = Prefix(*(field[rows, 1:].reshape(-1) for field in child))
                shared = [KV(kv.k[rows], kv.v[rows]) for kv in present]
                told, dshared = visit(xp.tile(words, len(step[rows])), shared, children, depth + 1)
                below[rows, 1:] = told.reshape(-1, V - 1)
                parts.append(dshared)
            dpresent = _join(parts, xp)
        dlogits, told = rule(prefix, child, step, below, slice(None) if last else slice(0, 1))
        bar.update(len(tokens))
        if grads is None:
            return told, None
        _, dpast, _ = model.extend_backward(
            dlogits[:, None].astype(logits.dtype), dpresent, cache, grads
        )
        return told, dpast

    with bar:
        return visit(xp.zeros(1, dtype=int), None, root, 0)[0]


def by_weights(sums, objective, eta):
    """The rule of W(h) = Σ w(x) over x through h:  ∂L/∂logits(h)_v = W(hv) − W(h) Q(v|h)."""

    def rule(prefix, child, step, below, ended):
        xp = array_module(step)
        if objective == "mixce":
            phi, below = token_terms(eta, xp.exp(child.log_p), step)
        else:
            phi, below[:, ended] = terms(
                objective, eta, Prefix(*(field[:, ended] for field in child)), xp
            )
        sums.add(objective, phi)
        told = below.sum(axis=1)
        return below - told[:, None] * xp.exp(step), told

    return rule


def by_cost_to_go(objective):
    """The rule of U(h): see policy_gradient. Where the boundary is forced nothing is to come, and U
    stays 0.
    """

    def rule(prefix, child, step, below, ended):
        xp = array_module(step)
        cost = prefix.log_p_floored[:, None] - child.log_p_floored
        if objective == "reverse_kl":
            cost = cost + step
        to_go = cost + below
        told = (xp.exp(step) * to_go).sum(axis=1)
        return xp.exp(prefix.log_q[:, None] + step) * (to_go - told[:, None]), told

    return rule


def by_measures(sums, eta):
    """The rule that has no gradient."""

    def rule(prefix, child, step, below, ended):
        xp = array_module(step)
        for name, values in measures(
            eta, Prefix(*(field[:, ended] for field in child)), xp
        ).items():
            sums.add(name, values)
        sums.add("mixce", token_terms(eta, xp.exp(child.log_p), step)[0])
        return None, below[:, 0]

    return rule


def _extend(tables, prefix, step):
    """prefix (n,), step = log Q(v|h) (n,V) -> Prefix (n,V), tables a world's."""
    log_q, log_p, log_p_floored, impossible, state = prefix
    return Prefix(
        log_q[:, None] + step,
        log_p[:, None] + tables.log_p[state],
        log_p_floored[:, None] + tables.log_p_floored[state],
        impossible[:, None] + tables.impossible[state],
        tables.next_state[state],
    )


def _join(parts, xp):
    """Gradients of several groups' shared pasts, one below the other; None from a model without
    layers.
    """
    if parts[0] is None or len(parts) == 1:
        return parts[0]
    return [
        KV(xp.concatenate([kv.k for kv in layer]), xp.concatenate([kv.v for kv in layer]))
        for layer in zip(*parts)
    ]
