"""Drawings of lesson 7: roads to the loss, a block and its mirror, errors tensor by tensor."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..experiments.plots import P_COLOR, Q_COLOR
from .figures import CONTROL_COLOR, figure, looks, sentence_bars, show

_TRIANGLE = "Oranges"  # a colour map of probabilities; its darkest part stays unused
_SMALLEST = 1e-13  # a relative error that is drawn as none


def _box(ax, place, text, color=CONTROL_COLOR, **style):
    """A text in a box, at (x, y)."""
    frame = {"boxstyle": "round,pad=0.3", "fc": "white", "ec": color, "lw": 1.5} | style
    return ax.text(*place, text, ha="center", va="center", fontsize=9, bbox=frame)


def _arrow(ax, start, end, color=CONTROL_COLOR, lw=1.5):
    """An arrow from the edge of one box to the edge of another."""
    style = {"arrowstyle": "-|>", "color": color, "lw": lw, "shrinkA": 2, "shrinkB": 2}
    edges = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
    ax.annotate("", end.get_position(), start.get_position(), arrowprops=style | edges, zorder=4)


def draw_roads(to_a: float, to_b: float, from_a: float, from_b: float) -> None:
    """The two roads from x to L = a b, one through a = x² and one through b = 3x, with the slope of
    each step.
    """
    fig = figure(height=2.2)
    ax = fig.subplots()
    places = {"x": (0, 0), "a = x²": (1.5, 0.8), "b = 3x": (1.5, -0.8), "L = a b": (3, 0)}
    boxes = {name: _box(ax, place, name) for name, place in places.items()}
    x, a, b, end = places
    slopes = {(x, a): to_a, (x, b): to_b, (a, end): from_a, (b, end): from_b}
    for (start, stop), slope in slopes.items():
        _arrow(ax, boxes[start], boxes[stop])
        column, row = np.mean([places[start], places[stop]], axis=0)
        side = "right" if column < 1.5 else "left"
        words = {"ha": side, "va": "center", "fontsize": 9}
        ax.text(column, row + 0.22 * np.sign(row), f"slope {slope}", **words)
    ax.set(xlim=(-0.4, 3.5), ylim=(-1.1, 1.1))
    ax.axis("off")
    show(fig, "Two roads from x to L, one through a and one through b, with a slope on each step.")


def _triangle(ax, values, colors, low, high):
    """The lower triangle of (T,T) as shades with their numbers."""
    allowed = np.tri(len(values), dtype=bool)
    ax.imshow(np.where(allowed, values, np.nan), cmap=colors, vmin=low, vmax=high)
    for i, j in zip(*np.nonzero(allowed)):
        number = f"{values[i, j]:.2f}".replace("-", "−")
        ax.text(j, i, number, ha="center", va="center", fontsize=9)


def draw_head(p: Any, ds: Any) -> None:
    """One head's probabilities and the derivative of its scores, both (T,T)."""
    fig = figure(height=2.9)
    left, right = fig.subplots(1, 2)
    _triangle(left, p, _TRIANGLE, 0, 1.4)
    _triangle(right, ds, "PRGn", -1.1, 1.1)
    places = range(len(p))
    for ax, title in ((left, "forward: p"), (right, "backward: ds")):
        ax.set(title=title, xlabel="key position j", xticks=places, yticks=places)
    left.set_ylabel("query position i")
    show(
        fig,
        "Two lower triangular matrices of a head: its probabilities, whose rows sum to one, and the"
        " derivative of its scores, whose rows sum to zero.",
    )


_LAYERS = (  # of a block, from its input to its output: layer, name and parameters, its cache
    ("copy", "", ""),
    ("layer_norm", "ln_1\n{}weight\n{}bias", "n, r, weight"),
    ("linear", "attn.c_attn\n{}W, {}b", "x, W"),
    ("attention", "", "q, k, v, p"),
    ("linear", "attn.c_proj\n{}W, {}b", "x, W"),
    ("+", "", ""),
    ("copy", "", ""),
    ("layer_norm", "ln_2\n{}weight\n{}bias", "n, r, weight"),
    ("linear", "mlp.c_fc\n{}W, {}b", "x, W"),
    ("gelu", "", "x, t"),
    ("linear", "mlp.c_proj\n{}W, {}b", "x, W"),
    ("+", "", ""),
)
_OPPOSITE = {"copy": "+", "+": "copy"}  # every other layer has a backward of its own


def draw_block() -> None:
    """One block drawn twice: its forward going up, its backward coming down, caches as rungs."""
    fig = figure(height=8.6)
    ax = fig.subplots()
    left = _column(ax, -1, Q_COLOR, up=True)
    right = _column(ax, 1, P_COLOR, up=False)
    for row, (_, params, cache) in enumerate(_LAYERS):
        if cache:
            _arrow(ax, left[row], right[row], CONTROL_COLOR, lw=1)
            words = {"ha": "center", "va": "center", "fontsize": 9}
            ax.text(0, row, cache, bbox={"fc": "white", "ec": "none", "pad": 2}, zorder=5, **words)
        if params:
            enters = _box(ax, (-1.8, row), params.format("", ""), "none")
            _arrow(ax, enters, left[row], Q_COLOR, lw=1)
            leaves = _box(ax, (1.85, row), params.format("d", "d"), "none")
            _arrow(ax, right[row], leaves, P_COLOR, lw=1)
    titles = ((-1, "forward, up", Q_COLOR), (0, "cache", "black"), (1, "backward, down", P_COLOR))
    for column, title, color in titles:
        ax.text(column, len(_LAYERS) + 0.7, title, ha="center", color=color, fontsize=11)
    ax.set(xlim=(-2.35, 2.35), ylim=(-1.4, len(_LAYERS) + 1.1))
    ax.axis("off")
    show(
        fig,
        "One transformer block drawn twice, its forward layers going up on the left, its backward"
        " functions coming down on the right, joined by the caches like the rungs of a ladder.",
    )


def _column(ax, side, color, up):
    """One of the two columns: the road through its boxes, and the straight roads around each half
    -> the boxes.
    """
    names = [layer if up else _OPPOSITE.get(layer, f"{layer}\n_backward") for layer, *_ in _LAYERS]
    round_ones = {"+": {"boxstyle": "circle,pad=0.2"}}
    boxes = [
        _box(ax, (side, row), name, color, **round_ones.get(name, {}))
        for row, name in enumerate(names)
    ]
    arrays = "x (N,C)" if up else "dx (N,C)"
    ends = [_box(ax, (side, row), arrays, "white") for row in (-1, len(_LAYERS))]
    for low, high in pairwise([ends[0], *boxes, ends[1]]):
        _arrow(ax, *((low, high) if up else (high, low)), color)
    for start, end in ((0, 5), (6, 11)) if up else ((5, 0), (11, 6)):
        outside = 2.3 * side
        ax.plot([side, outside, outside], [start, start, end], color=color, lw=1.5, zorder=0)
        corner = ax.text(outside, end, "", bbox={"pad": 0})
        _arrow(ax, corner, boxes[end], color)
    return boxes


def draw_errors(errors: Mapping[str, float], wrong: int, tolerance: float, mistake: str) -> None:
    """A bar for the error of each tensor, {name: relative error}, the input at the bottom; the
    first `wrong` of them are wrong, which the layer called `mistake` after them is blamed for.
    """
    fig = figure(height=7.4)
    ax = fig.subplots()
    widths = np.maximum(list(errors.values()), _SMALLEST)
    for row, width in enumerate(widths):
        of_wrong = {"color": Q_COLOR, "hatch": "////", "edgecolor": "white", "lw": 0}
        style = of_wrong if row < wrong else {"color": CONTROL_COLOR}
        ax.barh(row, width, left=_SMALLEST, **style)
    _name_layers(ax, list(errors))
    ax.axhline(wrong - 0.5, color="black", ls="--", lw=1)
    ax.axvline(tolerance, color="black", lw=0.8)
    beside = 2 * tolerance
    ax.text(beside, wrong, mistake, fontsize=9)
    ax.text(beside, len(errors) - 1.2, "allowed up to here", fontsize=9, va="center")
    style = {"arrowstyle": "-|>", "color": P_COLOR, "lw": 1.8}
    words = {"ha": "center", "color": P_COLOR, "arrowprops": style}
    ax.annotate("the backward\ncomes from above", (2e-2, wrong + 3), (2e-2, wrong + 10), **words)
    ax.set(xscale="log", xlim=(_SMALLEST, 5), ylim=(-0.7, len(errors) - 0.3))
    ax.set_xlabel("relative error of the gradient")
    show(fig, "Relative errors by tensor: every one below the broken layer is wrong, none above.")


def _name_layers(ax, names: Sequence[str]):
    """Name each layer once, in the middle of its tensors: its weight, and its bias one higher."""
    layers: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        layers.setdefault(name.rpartition(".")[0], []).append(row)
    ax.set_yticks([np.mean(rows) for rows in layers.values()], list(layers))


def draw_sentences(distributions: Mapping[str, Any]) -> None:
    """Probabilities of the sentences (7,) under P and under models."""
    fig = figure(height=3.8)
    sentence_bars(fig.subplots(), dict(distributions))
    show(
        fig,
        "Probabilities of the sentences: the bigram spends nearly a quarter on impossible ones, the"
        " transformers lie on P.",
    )


def draw_ways(ways: Mapping[str, Any], goal: Mapping[str, float], every: int) -> None:
    """What Q gives to groups of sentences in training, {objective: {group: (n,)}}, a point every so
    many steps, and what P gives them, {group: probability}.
    """
    fig = figure(height=2.8)
    panels = fig.subplots(1, len(ways), sharey=True)
    for ax, (objective, way) in zip(panels, ways.items()):
        for (group, of_q), look in zip(way.items(), looks(len(way))):
            ax.axhline(goal[group], color=P_COLOR, ls="--", lw=1.2)
            steps = every * np.arange(1, len(of_q) + 1)
            ax.plot(steps, of_q, color=look.color, ls=look.dash, lw=2, label=group)
        ax.set(title=objective, xlabel="steps", ylim=(0, 1))
    panels[0].set_ylabel("probability")
    panels[0].legend(frameon=False, loc="upper right", ncols=2)
    show(
        fig,
        "Probability of the possible sentences with cat and with cats over the steps: MLE goes"
        " straight to P, shown dashed, the two KLs first give nearly all to cat.",
    )


def draw_looks(probs: Any, words: Sequence[str]) -> None:
    """What each head looks at from each position: attention probabilities (H,T,T), T words."""
    fig = figure(height=2.9)
    for head, (ax, p) in enumerate(zip(fig.subplots(1, len(probs)), probs)):
        _triangle(ax, p, _TRIANGLE, 0, 1.4)
        ax.set(title=f"head {head}", xlabel="looks at")
        ax.set_xticks(range(len(words)), words)
        ax.set_yticks(range(len(words)), words if head == 0 else [])
        if head == 0:
            ax.set_ylabel("from")
    show(
        fig,
        "Attention probabilities of the two heads for the words of cat here; one head looks from"
        " here at cat.",
    )
