"""Drawings of lesson 4: the tree of prefixes with its costs to go, and gradients row by row."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..exact_list import sequences
from ..exact_tree import by_cost_to_go, sum_over_tree
from ..logprob import Sums
from ..model import Model
from ..objectives import OBJECTIVES
from ..storage.shapes import Array, Float
from ..worlds import World
from .figures import INVALID_COLOR, OTHER_COLOR, Q_COLOR, figure, looks, sentence_bars, show

Prefix = tuple[int, ...]  # the tokens of a prefix; () is the empty one


class AtPrefix(NamedTuple):
    """What the rule of costs to go finds at a prefix h: Q(h), U(h) in nats, and
    c(v|h) + U(hv) − U(h) for each token v.
    """

    reach: float
    U: float
    bracket: Float[Array, " V"]


def costs_to_go(
    model: Model, world: World, max_len: int, objective: str = "reverse_ce"
) -> dict[Prefix, AtPrefix]:
    """What exact_tree.by_cost_to_go finds at every prefix -> {prefix: AtPrefix}, shortest first.

    model: on the CPU, with no probability of zero; objective: "reverse_ce" or "reverse_kl", or
    ValueError is raised, as for a tree of more than 2,000 prefixes, which cannot be drawn.
    """
    rows = sequences(world.vocab_size, max_len - 1)
    if len(rows) > 2000:
        raise ValueError(f"a tree of at most 2,000 prefixes can be watched, got {len(rows):,}")
    cost_of_tokens = OBJECTIVES[objective].cost
    if cost_of_tokens is None:
        raise ValueError(f"objective must have costs that add over tokens, got {objective!r}")
    rule = by_cost_to_go(cost_of_tokens)
    found: list[AtPrefix] = []

    def watched(prefix, child, log_q_next, from_children, ended, xp):
        dlogits, cost, values = rule(prefix, child, log_q_next, from_children, ended, xp)
        brackets = dlogits / np.exp(prefix.log_q[:, None] + log_q_next)
        level = zip(np.exp(prefix.log_q), cost, brackets)
        found[:0] = [AtPrefix(float(reach), float(U), bracket) for reach, U, bracket in level]
        return dlogits, cost, values

    sum_over_tree(model, world, max_len, watched, Sums(), None, lambda count: None)
    return {tuple(int(v) for v in row if v > 0): here for row, here in zip(rows, found)}


def triples(world: World, max_len: int) -> int:
    """How many different (length, state of the world, last token) the prefixes have."""
    V, state, total = world.vocab_size, np.zeros(1, dtype=int), 0
    for _ in range(max_len - 1):
        total += len(state)
        following = world.next_state[state] * V + np.arange(V)  # a state and a token as one number
        state = np.unique(following[:, 1:]) // V
    return total


def draw_tree(
    found: Mapping[Prefix, AtPrefix], reach: Mapping[Prefix, float], world: World, least: float
) -> None:
    """The tree of the sequences whose probability in `reach` {tokens drawn: Q} is at least `least`,
    with the brackets of `found` on its edges.
    """
    leaves = [x for x in reach if reach[x] >= least]
    wide = {x[:k]: 0.0 for x in leaves for k in range(1, len(x) + 1)}
    for h in wide:
        wide[h] = reach[h] if h in reach else found[h].reach
    leaves.sort(key=lambda x: [-wide[x[:k]] for k in range(1, len(x) + 1)])
    height = _heights(leaves)
    fig = figure(height=5.0)
    ax = fig.subplots()
    for h in wide:
        _edge(ax, h, height, wide[h], found[h[:-1]].bracket[h[-1]])
    for h in wide:
        impossible = h in reach and not _possible(world, h)
        box = {"facecolor": INVALID_COLOR if impossible else "white", "edgecolor": "none", "pad": 2}
        ax.text(len(h), height[h], world.words[h[-1]] or "(end)", bbox=box, **_MIDDLE)
    ax.text(0, height[()], "start", **_MIDDLE)
    _say_colours(ax, len(leaves))
    ax.set(xlim=(-0.22, 3.3), ylim=(-len(leaves) - 1.1, 0.5))
    ax.axis("off")
    show(
        fig,
        "Prefix tree of the agreement world: edges to impossible last words and both edges to"
        " 'here' are dearer than the average, the edges to the verbs of each noun cheaper.",
    )


_MIDDLE: dict[str, Any] = {"ha": "center", "va": "center"}


def _heights(leaves):
    """Where every prefix stands: its leaves one below the other, itself in their middle."""
    height = {x: -float(i) for i, x in enumerate(leaves)}
    for length in reversed(range(max(map(len, leaves)))):
        for h in {x[:length] for x in leaves if len(x) > length}:
            below = {height[x[: length + 1]] for x in leaves if x[:length] == h and len(x) > length}
            height[h] = sum(below) / len(below)
    return height


def _possible(world, tokens):
    state = 0
    for v in tokens:
        if world.probs[state, v] == 0:
            return False
        state = world.next_state[state, v]
    return True


def _edge(ax, h, height, reach, bracket):
    """From a prefix to the next, as thick as it is probable, with what it costs more or less."""
    x0, x1, y0, y1 = len(h) - 0.78, len(h) - 0.24, height[h[:-1]], height[h]
    half = 0.02 + 0.4 * reach
    ax.fill_between([x0, x1], [y0 - half, y1 - half], [y0 + half, y1 + half], **_style(bracket))
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    number = f"{bracket:+.1f}".replace("-", "−")
    ax.text(x0 + 0.3, y0 + 0.56 * (y1 - y0), number, fontsize=9, bbox=box, **_MIDDLE)


def _style(bracket):
    dear = bracket > 0
    color, hatch = (Q_COLOR, "////") if dear else (OTHER_COLOR, "")
    return {"facecolor": color, "hatch": hatch, "edgecolor": "white", "lw": 0}


def _say_colours(ax, below):
    words = ("dearer than the average token here: pushed down", "cheaper: pushed up")
    for i, (bracket, text) in enumerate(zip((1, -1), words)):
        y = -below + 0.05 - 0.62 * i
        ax.fill_between([0.1, 0.4], y - 0.18, y + 0.18, **_style(bracket))
        ax.text(0.5, y, text, va="center", fontsize=9)


def draw_rows(gradients: Mapping[str, Any], rows: Sequence[int], world: World) -> None:
    """A panel of bars for each of `rows`, last tokens: gradients {name: (V,V)} side by side."""
    fig = figure(height=6.6)
    axes = fig.subplots(len(rows), 1, sharex=True)
    places = np.arange(world.vocab_size)
    for ax, row in zip(axes, rows):
        for i, (look, (name, dz)) in enumerate(zip(looks(len(gradients)), gradients.items())):
            style = {"color": look.color, "hatch": look.hatch, "edgecolor": "white", "lw": 0}
            ax.bar(places + 0.27 * (i - 1), dz[row], 0.27, label=name, **style)
        ax.axhline(0, color="black", lw=0.8)
        ax.set(title=f"logits after “{world.words[row]}”", ylabel="gradient, nats")
    axes[-1].set_xticks(places, ["(end)", *world.words[1:]])
    axes[0].legend(loc="lower left", frameon=False)
    show(
        fig,
        "Bars of the gradient after cat, cats and here: after both nouns the token-level bars for"
        " 'here' go down and the exact ones up.",
    )


def draw_ends(distributions: Mapping[str, Any]) -> None:
    """Sentence probabilities {name: (7,)} of P and of where training ends."""
    fig = figure(height=3.6)
    sentence_bars(fig.subplots(), dict(distributions))
    show(
        fig,
        "Bars of P, MLE and the two ends: token level keeps a fifth on an impossible sentence,"
        " sequence level none.",
    )
