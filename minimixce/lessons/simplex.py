"""Drawings of lesson 1: the triangle of all distributions over three outcomes, and sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..experiments.plots import P_COLOR, Q_COLOR
from .figures import figure, sentence_bars, show

CORNERS = np.array([[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])  # where A, B, C are drawn


def draw_simplex(ax: Any, grid: Any, values: Any, P: Any) -> None:
    """The triangle of all Q, contours of values (n,) at the points grid (n,3), P (3,) as a dot."""
    x, y = (grid @ CORNERS).T
    levels = values.min() + 0.15 * np.arange(1, 16)
    ax.tricontour(x, y, values, levels=levels, colors="0.65", linewidths=0.9)
    ax.plot(*CORNERS[[0, 1, 2, 0]].T, color="0.2", linewidth=1.2)
    for name, corner, offset in zip("ABC", CORNERS, [(-11, -4), (11, -4), (0, 9)]):
        _note(ax, name, corner, offset)
    ax.plot(*(P @ CORNERS), "o", color=P_COLOR, markersize=7, zorder=4)
    ax.set(aspect="equal", xlim=(-0.12, 1.12), ylim=(-0.12, 0.97))
    ax.axis("off")


def _note(ax, text, at, offset, color="black"):
    place = {"textcoords": "offset points", "ha": "center", "va": "center", "color": color}
    ax.annotate(text, at, offset, fontsize=10, **place)


def draw_descents(grid: Any, P: Any, panels: Sequence[tuple[str, Any, Any, Any]]) -> None:
    """Four triangles. panels: (title, values (n,) at grid, path of gradient descent (steps,3), the
    minimum (3,)).
    """
    fig = figure(height=5.6)
    for ax, (title, values, path, best) in zip(fig.subplots(2, 2).ravel(), panels):
        draw_simplex(ax, grid, values, P)
        ax.plot(*(path @ CORNERS).T, color=Q_COLOR, linewidth=2)
        ax.plot(*(path[0] @ CORNERS), "s", color=Q_COLOR, markersize=5)
        ring = {"markersize": 13, "fillstyle": "none", "markeredgewidth": 2}
        ax.plot(*(best @ CORNERS), "o", color=Q_COLOR, zorder=5, clip_on=False, **ring)
        _note(ax, "P", P @ CORNERS, (-12, 9), P_COLOR)
        ax.set_title(title, loc="center", pad=10)
    show(
        fig,
        "Contours of F, R and both KL divergences over the triangle of distributions on three"
        " outcomes: R's are parallel straight lines and its minimum, ringed, is corner A; the"
        " others are bowls with their minimum at P.",
    )


def draw_two_bigrams(P: Any, best: dict[str, Any]) -> None:
    """Probabilities of the sentences, (7,) each: P's, and those of {label: bigram}."""
    fig = figure(height=3.4)
    sentence_bars(fig.subplots(), {"P": P} | best)
    show(
        fig,
        "Bars of every sentence under P and under two bigrams: the one with least KL(P‖Q) covers"
        " all four sentences and two impossible ones, the one with least KL(Q‖P) writes nothing"
        " impossible and drops a possible sentence.",
    )


def draw_mixture(grid: Any, values: Any, minima: Any, P: Any, bars: dict[str, Any]) -> None:
    """Above, contours of the mixture, values (n,) at grid, and its minima (21,3) from η = 1 to 0;
    below, the sentences of {label: (7,)}.
    """
    fig = figure(height=6.4)
    top, bottom = fig.subplots(2, 1, height_ratios=[1.15, 1])
    draw_simplex(top, grid, values, P)
    path = minima @ CORNERS
    top.plot(*path.T, color=Q_COLOR, linewidth=2.5, clip_on=False)
    for i, label, offset in (
        (0, "η = 1", (22, 8)),
        (10, "η = ½", (-2, 12)),
        (20, "η = 0", (22, -11)),
    ):
        top.plot(*path[i], "o", color=Q_COLOR, markersize=5, zorder=5, clip_on=False)
        _note(top, label, path[i], offset, Q_COLOR)
    top.set_title("Three outcomes, Q free: where the minimum goes", loc="center")
    sentence_bars(bottom, bars)
    bottom.set_title("Sentences, Q a bigram", loc="center")
    show(
        fig,
        "Above, in the triangle of distributions, the minimum of the mixture moves from P to"
        " corner A as η falls. Below, bars of the sentences: with smaller η the best bigram writes"
        " less that is impossible and concentrates.",
    )
