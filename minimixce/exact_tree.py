"""Exact sums by the tree of prefixes: what sequences share is computed once.

Every prefix h is visited once, forward on the way down and backward on the way up. Two rules say
what a prefix has to know of its children hv to find the gradient in its own logits:

    weights   W(h) = Σ_v W(hv), w(x) where a sequence x ends;  ∂L/∂logits(h)_v = W(hv) − W(h) Q(v|h)
    costs     U(h) = Σ_v Q(v|h) [c(v|h) + U(hv)], 0 at an end;
              ∂L/∂logits(h)_v = Q(h) Q(v|h) [c(v|h) + U(hv) − U(h)]

The first is exact_list's gradient, summed over all sequences that pass through h: each adds
w(x) (onehot(x_t) − softmax), so that logit v gets the weights of those that go on with v, less
Q(v|h) times the weights of all. The second is the policy-gradient theorem.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

from .automaton import World
from .kv import KV
from .logprob import Prefixes, Summand, Sums, log_softmax
from .model import Model, xp_of
from .storage.shapes import Array, Float, Grads

_ROWS = 2048  # prefixes at once: enough for long products, few enough to stay in the cache

# what sum_over_tree asks of a rule is said there
Rule: TypeAlias = Callable[..., tuple[Array | None, Array]]


def by_sequence_weights(summand: Summand, sums: Sums) -> Rule:
    """The rule of the weights W(h), for an objective over sequences (Summand.of_sequences).

    summand: its values are added to `sums`.
    """

    def rule(prefix, child, log_q_next, from_children, ended, xp):
        values, w = summand.of_sequences(_select(child, ended), xp)
        sums.add(values)
        child_weight = from_children.copy()  # W(hv)
        child_weight[:, ended] = w
        prefix_weight = child_weight.sum(axis=1)  # W(h)
        dlogits = child_weight - prefix_weight[:, None] * xp.exp(log_q_next)
        return dlogits, prefix_weight

    return rule


def by_token_weights(summand: Summand, sums: Sums) -> Rule:
    """The rule for a loss on tokens, in expectation over P (Summand.of_tokens).

    Every token is weighted by itself, so nothing comes from below and nothing goes up. summand: its
    values are added to `sums`.
    """

    def rule(prefix, child, log_q_next, from_children, ended, xp):
        values, token_weight = summand.of_tokens(xp.exp(child.log_p), log_q_next, xp)
        sums.add(values)
        total = token_weight.sum(axis=1)
        dlogits = token_weight - total[:, None] * xp.exp(log_q_next)
        return dlogits, xp.zeros(len(total))

    return rule


def by_cost_to_go(cost_of_tokens: Callable[[Array, Array], Array]) -> Rule:
    """The rule of the costs to go U(h), for costs c that add up over tokens.

    cost_of_tokens: an Objective's `cost`. Where the boundary is forced nothing is to come, and U
    stays 0.
    """

    def rule(prefix, child, log_q_next, from_children, ended, xp):
        log_p_next = child.log_p_floored - prefix.log_p_floored[:, None]
        to_go = cost_of_tokens(log_q_next, log_p_next) + from_children  # c(v|h) + U(hv)
        to_go = xp.where(log_q_next > -math.inf, to_go, 0)  # what is never met costs nothing
        cost = (xp.exp(log_q_next) * to_go).sum(axis=1)  # U(h)
        q = xp.exp(prefix.log_q[:, None] + log_q_next)  # Q(h) Q(v|h)
        dlogits = q * (to_go - cost[:, None])
        return dlogits, cost

    return rule


def by_values(summand: Summand, sums: Sums) -> Rule:
    """The rule without a gradient: values alone are summed.

    summand: its values are added to `sums`.
    """

    def rule(prefix, child, log_q_next, from_children, ended, xp):
        sums.add(summand.of_sequences(_select(child, ended), xp)[0])
        sums.add(summand.of_tokens(xp.exp(child.log_p), log_q_next, xp)[0])
        return None, xp.zeros(len(log_q_next))  # nothing to tell the parent

    return rule


def sum_over_tree(
    model: Model,
    world: World,
    max_len: int,
    rule: Rule,
    grads: Grads | None,
    visited: Callable[[int], object],
) -> Float[Array, "1"]:
    """Visit every prefix -> what the rule says of the empty one, (1,).

    rule(prefix, child, log_q_next, from_children, ended, xp) says what n prefixes contribute:
    `prefix` and `child` are the logprob.Prefixes of them, (n,), and of their children, (n,V);
    log_q_next (n,V) is log Q(v|h), from_children (n,V) what the children told, 0 for those that
    are whole sequences, and `ended` the slice of those. It returns dlogits (n,V), or None, and what
    to tell the parent, (n,). Gradients are added into `grads` {name: array} unless it is None;
    visited(n) is called for every n prefixes that are done.

    Children of a prefix are consecutive rows, so the model's attention to the shared past needs no
    gather. Depth first, in groups of rows: the gradient in the keys and values of some prefixes is
    complete when their subtrees are done, so memory holds one group of rows a level. model: a
    model.Model, of the vocabulary of `world`; max_len: the horizon.
    """
    xp, V = xp_of(model), world.vocab_size
    if max_len == 1:  # no prefix has a choice
        return xp.zeros(1)
    tables = world.tables(xp)
    ordinary_tokens = xp.arange(1, V)

    def visit(tokens, past, prefix, depth):
        """Prefixes that end in `tokens` (n,) -> what the rule tells their parents, dpast."""
        logits, present, cache = model.extend_forward(tokens[:, None], past)
        log_q_next = log_softmax(logits[:, 0])
        child = _children(tables, prefix, log_q_next)
        if depth == max_len - 2:  # after each child the boundary is forced
            ended, from_children, dpresent = slice(None), xp.zeros(log_q_next.shape), None
        else:
            ended = slice(0, 1)
            from_children, dpresent = visit_children(present, child, depth + 1)
        dlogits, to_parent = rule(prefix, child, log_q_next, from_children, ended, xp)
        visited(len(tokens))
        if grads is None:
            return to_parent, None
        dlogits = dlogits[:, None].astype(logits.dtype)
        _, dpast, _ = model.extend_backward(dlogits, dpresent, cache, grads)
        return to_parent, dpast

    def visit_children(past, child, depth):
        """The children that go on, group by group -> what they return (n,V), dpast."""
        n = len(child.log_q)
        from_children, dpasts = xp.zeros((n, V)), []
        for start in range(0, n, group := max(1, _ROWS // (V - 1))):
            rows = slice(start, start + group)
            prefix = Prefixes(*(field[rows, 1:].reshape(-1) for field in child))
            tokens = xp.tile(ordinary_tokens, len(child.log_q[rows]))
            shared = [KV(kv.k[rows], kv.v[rows]) for kv in past]
            returned, dshared = visit(tokens, shared, prefix, depth)
            from_children[rows, 1:] = returned.reshape(-1, V - 1)
            dpasts.append(dshared)
        return from_children, _join(dpasts, xp)

    zero = xp.zeros(1)
    root = Prefixes(zero, zero, zero, zero, xp.zeros(1, dtype=int))
    return visit(xp.zeros(1, dtype=int), None, root, 0)[0]


def _children(tables, prefix, log_q_next):
    """prefix (n,), log_q_next (n,V) -> Prefixes (n,V), by a world's tables."""
    state = prefix.state
    return Prefixes(
        prefix.log_q[:, None] + log_q_next,
        prefix.log_p[:, None] + tables.log_p[state],
        prefix.log_p_floored[:, None] + tables.log_p_floored[state],
        prefix.impossible[:, None] + tables.impossible[state],
        tables.next_state[state],
    )


def _select(child, columns):
    return Prefixes(*(field[:, columns] for field in child))


def _join(dpasts, xp):
    """dpast of several groups, one below the other; None from a model without layers."""
    if dpasts[0] is None or len(dpasts) == 1:
        return dpasts[0]
    return [
        KV(xp.concatenate([kv.k for kv in layer]), xp.concatenate([kv.v for kv in layer]))
        for layer in zip(*dpasts)
    ]
