"""Drawings of lesson 3: weights of objectives, and where each of them ends."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..experiments.plots import P_COLOR
from .figures import CONTROL_COLOR, INVALID_COLOR, figure, looks, show


def draw_weights(weights: dict[str, Callable[[Any], Any]]) -> None:
    """w(q) of each {label: function of q}, above for all q, below with small q enlarged."""
    fig = figure(height=5.4)
    top, bottom = fig.subplots(2, 1)
    q = np.sort(np.append(np.geomspace(1e-4, 1, 200), np.linspace(1e-4, 1, 200)))
    for ax in (top, bottom):
        for (label, weight), look in zip(weights.items(), looks(len(weights))):
            ax.plot(q, weight(q) + 0 * q, color=look.color, ls=look.dash, lw=2, label=label)
        ax.set(ylabel="weight w(q)", ylim=(0, 1.05))
    top.set(title="all q", xlim=(0, 1))
    bottom.set(title="small q enlarged", xscale="log", xlim=(1e-4, 1))
    bottom.set_xlabel("q, the model's probability of the token that came")
    bottom.legend(loc="upper left", bbox_to_anchor=(0, 0.92), frameon=False)
    show(
        fig,
        "Weight against q: MLE 1 everywhere; MixCE straight lines from η to 1; TaiLr steep near"
        " zero, then flat near 1.",
    )


def draw_forgotten(etas: Any) -> None:
    """The weight of MixCE's surrogate with its stop gradient, and without it, at each η."""
    fig = figure(height=3.8)
    ax = fig.subplots()
    q = np.linspace(1e-4, 1, 300)
    for eta, look in zip(etas, looks(len(etas))):
        ax.plot(q, eta + (1 - eta) * q, color=look.color, lw=2, label=f"η = {eta}")
        without = eta + (1 - eta) * q * (1 + np.log(q))
        ax.plot(
            q, without, color=look.color, lw=2, ls=(0, (1.2, 1.2)), label=f"η = {eta}, forgotten"
        )
    ax.axhspan(-0.22, 0, color=INVALID_COLOR, lw=0, zorder=0)
    words = {"ha": "right", "va": "center", "fontsize": 9}
    ax.text(0.98, -0.14, "negative: pushes away what the data say", **words)
    ax.set(xlabel="q, the model's probability of the token that came", ylabel="weight")
    ax.set(xlim=(0, 1), ylim=(-0.22, 1.6))
    ax.legend(ncols=2, loc="upper left", frameon=False)
    show(
        fig,
        "Weights with and without the stop gradient: without it they dip near q = 0.1 and are"
        " negative there at small η.",
    )


def draw_fixed_points(p: Any, curves: dict[str, Callable[[Any], Any]], cut: float) -> None:
    """Where training ends against p (V,): {label: function of p -> q, NaN where it has none}. cut:
    the p below which TaiLr has nothing left.
    """
    fig = figure(height=4.2)
    ax = fig.subplots()
    grid = np.linspace(0, 0.55, 300)
    ax.plot(grid, grid, color=P_COLOR, lw=1.5, label="MLE: q = p")
    ax.plot(p, p, "o", color=P_COLOR)
    for (label, q_of), look in zip(curves.items(), looks(len(curves))):
        ax.plot(grid, q_of(grid), color=look.color, lw=2, ls=look.dash, label=label)
        ax.plot(p, q_of(p), look.marker, color=look.color)
    arrow = {"arrowstyle": "->", "color": CONTROL_COLOR}
    words = "TaiLr is exactly zero\nleft of here"
    ax.annotate(words, (cut, 0), (0.012, 0.33), ha="left", fontsize=9, arrowprops=arrow)
    ax.set(xlabel="p, the data's probability of a token", ylabel="q, where training ends")
    ax.set(xlim=(0, 0.55), ylim=(-0.02, 0.95))
    ax.set_xticks(p, [f"{a:.2f}" for a in p])
    ax.tick_params(axis="x", rotation=45)
    ax.legend(loc="upper left", frameon=False)
    show(
        fig,
        "Optimal q against p, one context: MLE on the diagonal, MixCE bent upwards at the right,"
        " TaiLr zero at small p.",
    )
