"""Drawings of lesson 5: estimates of a derivative, clouds of gradients, errors against samples."""

from typing import Any

import numpy as np

from ..experiments.plots import P_COLOR, Q_COLOR
from .figures import CONTROL_COLOR, OTHER_COLOR, Look, figure, looks, show

_BY_SCORE = ("REINFORCE", "reward to go", "RLOO")
_SOFT = ("Gumbel-softmax, τ = 1", "Gumbel-softmax, τ = 0.1")


def draw_ways(ways: dict[str, Any], exact: float, n: int = 16) -> None:
    """Histograms of the means of n draws each, {label: draws (m,)}, and a line at the exact
    derivative.
    """
    fig = figure(height=4.6)
    bins = np.linspace(-12, 16, 113)
    axes = fig.subplots(len(ways), 1, sharex=True, sharey=True)
    for ax, (name, draws) in zip(axes, ways.items()):
        means = draws[: len(draws) // n * n].reshape(-1, n).mean(axis=1)
        ax.hist(means, bins, color=Q_COLOR, histtype="stepfilled")
        ax.axvline(exact, color="black", lw=1.2)
        ax.set(title=name, yticks=[])
        ax.spines["left"].set_visible(False)
    axes[0].annotate("exact", (exact, 0.9), (6, 0), **_IN_POINTS, ha="left", va="top")
    axes[-1].set_xlabel(f"estimate of the derivative from {n} draws")
    show(
        fig,
        "Three unbiased estimates around the exact derivative: pathwise narrow, score function"
        " wide, with f + 10 wider still.",
    )


_IN_POINTS: dict[str, Any] = {
    "xycoords": ("data", "axes fraction"),
    "textcoords": "offset points",
    "fontsize": 9,
}


def draw_clouds(clouds: dict[str, Any]) -> None:
    """Estimates {label: (m,2)}, along and across the exact gradient, in its lengths; samples of P
    are blue.
    """
    fig = figure(height=6.6)
    axes = fig.subplots(len(clouds) // 2, 2, sharex=True, sharey=True)
    ring = {"mec": "black", "mfc": "none", "ls": "none", "ms": 9, "mew": 1.2}
    for ax, (name, points) in zip(axes.flat, clouds.items()):
        ax.axhline(0, color="0.85", lw=0.8, zorder=0)
        color = P_COLOR if name == "importance weights" else Q_COLOR
        dots = {"color": color, "alpha": 0.4, "ms": 5, "mew": 0, "rasterized": True}
        ax.plot(*points.T, ".", **dots)
        ax.plot(1, 0, "+", color="black", ms=13, mew=2, label="exact gradient")
        ax.plot(*points.mean(axis=0), "o", **ring, label="mean of the estimates")
        ax.set_title(name)
        ax.set(xlim=(-1.6, 3.6), ylim=(-2, 2), yticks=[-1, 0, 1])
    fig.supxlabel("along the exact gradient, in its lengths", fontsize=10)
    fig.supylabel("across", fontsize=10)
    fig.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    show(
        fig,
        "Six clouds of estimates: those of REINFORCE, reward to go and RLOO around the exact"
        " gradient, ever narrower; importance weights at zero; Gumbel-softmax beside the gradient,"
        " small at τ = 1, wide at τ = 0.1.",
    )


def draw_errors(sizes: Any, raw: dict[str, Any], scaled: dict[str, Any]) -> None:
    """Mean squared errors {label: [(error, its standard error), …]} against sizes: as the estimates
    come, above, and at their best multiplier, below.
    """
    fig = figure(height=7.2)
    titles = ("As they come: step multiplier 1", "Each at its best multiplier")
    axes = fig.subplots(2, 1, sharex=True)
    for ax, errors, title in zip(axes, (raw, scaled), titles):
        for name, found in errors.items():
            look = _look(name)
            style = {"color": look.color, "ls": look.dash, "marker": look.marker, "ms": 5}
            ax.errorbar(sizes, *zip(*found), capsize=2, label=name, **style)
        ax.axhline(1, color=CONTROL_COLOR, lw=0.8, zorder=0, label="a gradient of zero")
        ax.set(xscale="log", yscale="log", title=title, ylabel="mean squared error / ‖g‖²")
        ticks = [0.2, 0.5, 1] if ax is axes[1] else [0.2, 0.5, 1, 2, 5, 10, 20]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_xticks(sizes, [str(n) for n in sizes])
        ax.minorticks_off()
    axes[1].set_xlabel("samples n")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    show(
        fig,
        "Errors against samples. As they come: the unbiased fall about as 1/n from far above 1,"
        " Gumbel-softmax at τ = 1 stays near 0.5. At the best multiplier all are below 1, and RLOO"
        " passes Gumbel-softmax before 16 samples.",
    )


def _look(name):
    """By the score: vermillion, solid; by a soft choice: green, dashed; samples of P: blue."""
    if name in _BY_SCORE:
        i = _BY_SCORE.index(name)
        return Look(looks(3)[i].color, "", "-", "os^"[i])
    if name in _SOFT:
        i = _SOFT.index(name)
        return Look(OTHER_COLOR, "", ("--", ":")[i], "Dv"[i])
    return Look(P_COLOR, "", "-.", "*")
