"""Drawings of lesson 0: a derivative as a slope, and a graph of numbers with their gradients."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..experiments.plots import P_COLOR, Q_COLOR
from .figures import CONTROL_COLOR, figure, show


class Node(NamedTuple):
    """A number of a graph: its name and formula, where it stands (column, row), its value, its
    gradient (None while it is not known), and the names of the nodes it is made from.
    """

    name: str
    formula: str
    place: tuple[float, float]
    value: float
    gradient: float | None
    made_from: Sequence[str] = ()


def draw_slope(f: Callable[[Any], Any], x: float, h: float) -> None:
    """The function f near x, the two points that are tried, h to both sides, and the line through
    them.
    """
    fig = figure(height=3.0)
    ax = fig.subplots()
    around = np.linspace(x - 2, x + 2, 200)
    ax.plot(around, f(around), color=P_COLOR, lw=2)
    tried = np.array([x - h, x + h])
    slope = (f(tried[1]) - f(tried[0])) / (2 * h)
    line = np.array([x - 1.6, x + 1.6])
    ax.plot(line, f(tried[0]) + slope * (line - tried[0]), color=Q_COLOR, lw=1.6, ls=(0, (5, 1.5)))
    ax.plot(tried, f(tried), "o", color=Q_COLOR, ms=6)
    words = {"textcoords": "offset points", "color": Q_COLOR}
    ax.annotate("f(x − h)", (tried[0], f(tried[0])), (-6, 6), ha="right", va="bottom", **words)
    ax.annotate("f(x + h)", (tried[1], f(tried[1])), (8, -4), ha="left", va="top", **words)
    ax.set(xlabel="x", ylabel="f(x)")
    show(
        fig,
        "A curve, two points on it a little to the left and right of x, and a line of their slope.",
    )


def draw_graph(nodes: Sequence[Node], alt: str) -> None:
    """Boxes with name, formula, value and, where it is known, gradient, and arrows between them."""
    columns = max(node.place[0] for node in nodes) + 1
    rows = max(node.place[1] for node in nodes) + 1
    fig = figure(height=0.4 + 0.95 * rows)
    ax = fig.subplots()
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.45, -0.55))
    ax.axis("off")
    place = {node.name: node.place for node in nodes}
    for node in nodes:
        for other in node.made_from:
            _arrow(ax, place[other], node.place)
        _box(ax, node)
    show(fig, alt)


_WIDE, _HIGH = 0.74, 0.62  # of a box


def _arrow(ax, start, end):
    style = {"arrowstyle": "->", "color": CONTROL_COLOR, "shrinkA": 0, "shrinkB": 0}
    between = _WIDE / 2 + 0.02
    ax.annotate("", (end[0] - between, end[1]), (start[0] + between, start[1]), arrowprops=style)


def _box(ax, node):
    from matplotlib.patches import FancyBboxPatch

    column, row = node.place
    corner = (column - _WIDE / 2, row - _HIGH / 2)
    style = {"boxstyle": "round,pad=0,rounding_size=0.06", "fc": "white", "ec": CONTROL_COLOR}
    ax.add_patch(FancyBboxPatch(corner, _WIDE, _HIGH, **style))
    title = f"{node.name} = {node.formula}" if node.formula else node.name
    lines = [(title, "black"), (_number(node.value), P_COLOR)]
    if node.gradient is not None:
        lines.append((f"gradient {_number(node.gradient)}", Q_COLOR))
    for (words, color), at in zip(lines, (-0.19, 0.0, 0.19)):
        ax.text(column, row + at, words, color=color, fontsize=9, ha="center", va="center")


def _number(value):
    return f"{value:.4g}".replace("-", "−")
