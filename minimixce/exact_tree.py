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

import contextvars
import math
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from .automaton import Tables, World
from .backend import array_module
from .kv import KV
from .logprob import Prefixes, Summand, Sums, log_softmax, rows_at_once
from .model import Model, add_grad, xp_of
from .storage.shapes import Array, Float, Grads

_SUBTREES = 8  # for each thread at least, so that one more or less hardly makes it late

# what sum_over_tree asks of a rule is said there
Rule: TypeAlias = Callable[..., tuple[Array | None, Array, dict[str, Array]]]


def by_sequence_weights(summand: Summand) -> Rule:
    """The rule of the weights W(h), for an objective over sequences (summand.of_sequences)."""

    def rule(prefix, child, log_q_next, from_children, ended, xp):
        values, w = summand.of_sequences(_select(child, ended), xp)
        child_weight = from_children.copy()  # W(hv)
        child_weight[:, ended] = w
        prefix_weight = child_weight.sum(axis=1)  # W(h)
        dlogits = child_weight - prefix_weight[:, None] * xp.exp(log_q_next)
        return dlogits, prefix_weight, values

    return rule


def by_token_weights(summand: Summand) -> Rule:
    """The rule for a loss on tokens, in expectation over P (summand.of_tokens).

    Every token is weighted by itself, so nothing comes from below and nothing goes up.
    """

    def rule(prefix, child, log_q_next, from_children, ended, xp):
        values, token_weight = summand.of_tokens(xp.exp(child.log_p), log_q_next, xp)
        total = token_weight.sum(axis=1)
        dlogits = token_weight - total[:, None] * xp.exp(log_q_next)
        return dlogits, xp.zeros(len(total)), values

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
        return dlogits, cost, {}

    return rule


def by_values(summand: Summand) -> Rule:
    """The rule without a gradient: values of sequences and tokens, by both halves of `summand`."""

    def rule(prefix, child, log_q_next, from_children, ended, xp):
        of_sequences, _ = summand.of_sequences(_select(child, ended), xp)
        of_tokens, _ = summand.of_tokens(xp.exp(child.log_p), log_q_next, xp)
        return None, xp.zeros(len(log_q_next)), of_sequences | of_tokens

    return rule


def sum_over_tree(
    model: Model,
    world: World,
    max_len: int,
    rule: Rule,
    sums: Sums,
    grads: Grads | None,
    visited: Callable[[int], object],
    shards: int = 1,
) -> Float[Array, "1"]:
    """Visit every prefix -> what the rule says of the empty one, (1,).

    rule(prefix, child, log_q_next, from_children, ended, xp) says what n prefixes contribute:
    `prefix` and `child` are the logprob.Prefixes of them, (n,), and of their children, (n,V);
    log_q_next (n,V) is log Q(v|h), from_children (n,V) what the children told, 0 for those that
    are whole sequences, and `ended` the slice of those. It returns dlogits (n,V), or None, what to
    tell the parent, (n,), and values {name: array}. Values are added to `sums` and gradients into
    `grads` {name: array} unless it is None; visited(n) is called for every n prefixes that are
    done.

    Children of a prefix are consecutive rows, so the model's attention to the shared past needs no
    gather. Depth first, in groups of rows: the gradient in the keys and values of some prefixes is
    complete when their subtrees are done, so memory holds one group of rows a level. model: a
    model.Model, of the vocabulary of `world`; max_len: the horizon.

    shards: how many threads take a share of the subtrees each; memory then holds as many groups a
    level. Their sums are always added in the same order.
    """
    xp = xp_of(model)
    if max_len == 1:  # no prefix has a choice
        return xp.zeros(1)
    walk = _Walk(model, world.tables(xp), max_len, rule, sums, grads, visited, shards)
    zero = xp.zeros(1)
    root = Prefixes(zero, zero, zero, zero, xp.zeros(1, dtype=int))
    return walk.visit(xp.zeros(1, dtype=int), None, root, 0)[0]


@dataclass(frozen=True)
class _Walk:
    """A way through the tree: sum_over_tree's arguments, with what one thread adds up."""

    model: Model
    tables: Tables
    max_len: int
    rule: Rule
    sums: Sums
    grads: Grads | None
    visited: Callable[[int], object]
    shards: int

    def visit(self, tokens, past, prefix, depth):
        """Prefixes that end in `tokens` (n,) -> what the rule tells their parents, dpast."""
        xp = array_module(tokens)
        logits, present, cache = self.model.extend_forward(tokens[:, None], past)
        log_q_next = log_softmax(logits[:, 0])
        child = _children(self.tables, prefix, log_q_next)
        if depth == self.max_len - 2:  # after each child the boundary is forced
            ended, from_children, dpresent = slice(None), xp.zeros(log_q_next.shape), None
        else:
            ended = slice(0, 1)
            from_children, dpresent = self.visit_children(present, child, depth + 1)
        dlogits, to_parent, values = self.rule(prefix, child, log_q_next, from_children, ended, xp)
        self.sums.add(values)
        self.visited(len(tokens))
        if self.grads is None:
            return to_parent, None
        dlogits = dlogits[:, None].astype(logits.dtype)
        _, dpast, _ = self.model.extend_backward(dlogits, dpresent, cache, self.grads)
        return to_parent, dpast

    def visit_children(self, past, child, depth):
        """The children that go on, group by group -> what they return (n,V), dpast."""
        n, V = child.log_q.shape
        if self.shards > 1 and n >= _SUBTREES * self.shards:
            return self.share_out(past, child, depth)
        xp = array_module(child.log_q)
        from_children, dpasts = xp.zeros((n, V)), []
        for start in range(0, n, group := max(1, rows_at_once(xp) // (V - 1))):
            rows = slice(start, start + group)
            shared, parents = _select_rows(past, child, rows)
            prefix = Prefixes(*(field[:, 1:].reshape(-1) for field in parents))
            tokens = xp.tile(xp.arange(1, V), len(parents.log_q))
            returned, dshared = self.visit(tokens, shared, prefix, depth)
            from_children[rows, 1:] = returned.reshape(-1, V - 1)
            dpasts.append(dshared)
        return from_children, _join(dpasts)

    def share_out(self, past, child, depth):
        """visit_children by threads, each of which takes its share of the rows -> the same."""
        n, over, lock = len(child.log_q), threading.Event(), threading.Lock()

        def visited(count):
            if over.is_set():
                raise CancelledError
            with lock:
                self.visited(count)

        own = [
            replace(
                self,
                sums=Sums(),
                grads=None if self.grads is None else {},
                visited=visited,
                shards=1,
            )
            for _ in range(self.shards)
        ]

        def shard(i):
            rows = slice(i * n // self.shards, (i + 1) * n // self.shards)
            return own[i].visit_children(*_select_rows(past, child, rows), depth)

        from_children, dpasts = zip(*_in_threads(self.shards, shard, over))
        for walk in own:  # always in this order, so that a sum repeats bit for bit
            self.sums.add(walk.sums)
            for name, grad in (walk.grads or {}).items():
                add_grad(self.grads, name, grad)
        return array_module(child.log_q).concatenate(from_children), _join(dpasts)


def _in_threads(count: int, work: Callable[[int], Any], over: threading.Event) -> list[Any]:
    """work(0), …, work(count − 1), each in a thread -> what they return.

    NumPy lets go of Python's lock while it computes, so they do run side by side. `over` is set
    once one has failed or Ctrl-C came, for the others to look at and raise CancelledError; the
    error of the first that failed by itself is raised.
    """
    with ThreadPoolExecutor(count) as pool:
        try:
            # so that NumPy's error settings hold there too
            contexts = [contextvars.copy_context() for _ in range(count)]
            running = [pool.submit(c.run, work, i) for i, c in enumerate(contexts)]
            wait(running, return_when=FIRST_EXCEPTION)
        finally:
            over.set()
    for error in (thread.exception() for thread in running):
        if error is not None and not isinstance(error, CancelledError):
            raise error
    return [thread.result() for thread in running]


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


def _select_rows(past, child, rows):
    """Some rows of a past and of the children of its prefixes."""
    return [KV(kv.k[rows], kv.v[rows]) for kv in past], Prefixes(*(field[rows] for field in child))


def _join(dpasts):
    """dpast of several groups, one below the other; None from a model without layers."""
    if dpasts[0] is None or len(dpasts) == 1:
        return dpasts[0]
    xp = array_module(dpasts[0][0].k)
    return [
        KV(xp.concatenate([kv.k for kv in layer]), xp.concatenate([kv.v for kv in layer]))
        for layer in zip(*dpasts)
    ]
