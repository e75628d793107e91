"""Drawings of lesson 8: runs over several seeds, and three ways to make a model more careful."""

from typing import Any

import numpy as np

from ..experiments.plots import P_COLOR, Q_COLOR
from .figures import CONTROL_COLOR, LEAST_LETTERS, OTHER_COLOR, figure, looks, show


def draw_seeds(etas: Any, counting: Any, optimum: Any, trained: Any) -> None:
    """avg. JS against etas (n,): of MixCE's optimum and of the trained network, both (n, seeds),
    one line a seed, and the mean of counting (seeds,).
    """
    fig = figure(height=3.6)
    ax = fig.subplots()
    places = np.arange(len(etas))
    kinds = (("MixCE's optimum,\ngiven the counts", optimum), ("the trained network", trained))
    for (label, values), look in zip(kinds, looks(2)):
        style = {"color": look.color, "ls": look.dash, "marker": look.marker, "ms": 4, "lw": 1}
        ax.plot(places, values, **style)
        ax.text(0.3, np.max(values[:2]) * 1.15, label, color=look.color, va="bottom")
    floor = np.mean(counting)
    ax.axhline(floor, color=CONTROL_COLOR, ls=":", lw=1.5)
    ax.text(places[-1], floor * 0.9, "counting", color=CONTROL_COLOR, ha="right", va="top")
    ax.set(yscale="log", xlabel="η (η = 1 is MLE)", ylabel="avg. JS, nats")
    ax.set_xticks(places, [f"{eta:g}" for eta in etas])
    show(
        fig,
        "avg. JS against η, one line a seed: the optimum starts at the level of counting, the"
        " trained network more than ten times as far up, and they meet at the smallest η.",
    )


def draw_careful(ways: Any, etas: Any, p: Any, label: str, alt: str, most: float = np.inf) -> None:
    """What samples are like against perplexity, up to `most`, and below it against entropy.

    ways: {name: (perplexity, entropy, what is drawn)}, each (points, seeds), from plain MLE on;
    first MixCE's, its points at etas, then that of the temperature. p: the same three of P, the
    first two None where they are unknown.
    """
    fig = figure(height=7.2)
    axes = fig.subplots(2, 1, sharey=True)
    for k, (ax, limit) in enumerate(zip(axes, (most, np.inf))):
        drawn = {name: _within(limit, way[k], way[2]) for name, way in ways.items()}
        _draw_ways(ax, drawn)
        if p[k] is not None:
            ax.plot(p[k], p[2], "*", color=P_COLOR, ms=15, zorder=5, label="P itself", ls="none")
        else:
            ax.axhline(p[2], color=P_COLOR, lw=1.5, label="held-out text")
        ax.margins(x=0.1)
        ax.set_ylabel(label)
        mixce, tempered = ([values.mean(axis=1) for values in way] for way in [*drawn.values()][:2])
        _name_points(ax, etas, mixce, tempered if k else None)
    axes[0].set_xlabel("perplexity of held-out text")
    axes[1].set_xlabel("entropy of Q(·|h) on held-out text, nats")
    axes[0].legend(*axes[1].get_legend_handles_labels(), loc="lower right", frameon=False)
    show(fig, alt)


def _within(most, xs, ys):
    """The points of a way that are drawn: what is infinite is left out."""
    kept = xs.mean(axis=1) < most
    return xs[kept], ys[kept]


def _draw_ways(ax, ways):
    styles = ((Q_COLOR, "-", "o"), (CONTROL_COLOR, ":", "s"), (OTHER_COLOR, "--", "^"))
    for (name, (xs, ys)), (color, dash, marker) in zip(ways.items(), styles):
        if len(xs) < 2:  # plain MLE alone
            continue
        style = {"color": color, "ls": dash, "marker": marker, "ms": 4, "capsize": 2, "lw": 1.3}
        bars = {"xerr": _error(xs), "yerr": _error(ys)}
        ax.errorbar(xs.mean(axis=1), ys.mean(axis=1), **bars, **style, label=name)


def _error(values):
    return values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])


def _name_points(ax, etas, points, others):
    """Write η beside MixCE's points, right below; where there are others, on the side away from
    their curve, which falls.
    """
    style = {"textcoords": "offset points", "fontsize": LEAST_LETTERS, "color": Q_COLOR}
    for eta, x, y in [*zip(etas, *points)][1:]:
        shift, side = (5, -12), "left"
        if others is not None:
            above = y > np.interp(x, others[0][::-1], others[1][::-1])
            shift, side = ((5, 4), "left") if above else ((-5, -16), "right")
        ax.annotate(f"{eta:g}", (x, y), shift, ha=side, **style)
