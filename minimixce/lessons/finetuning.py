"""Lesson 9: sentences that a model goes on with, and drawings of MAUVE."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..experiments.plots import P_COLOR, Q_COLOR
from ..model import LanguageModel
from ..storage.shapes import Int
from .figures import CONTROL_COLOR, INVALID_COLOR, LEAST_LETTERS, OTHER_COLOR, figure, show


def go_on(
    model: LanguageModel,
    rows: Int[np.ndarray, "n L"],
    words: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> Int[np.ndarray, "n L"]:
    """Let a model go on from the first `words` words of sentences (n, max_len+1) until each ends or
    has max_len tokens -> rows like those of World.sample.
    """
    more = rows.shape[1] - words - 2  # the last column is forced
    drawn = model.generate(rows[:, : words + 1], more, temperature, stop=0, seed=seed)
    drawn = np.pad(drawn, ((0, 0), (0, 1)))
    is_end = drawn[:, 1:] == 0
    behind = (is_end.cumsum(axis=1) - is_end) > 0
    drawn[:, 1:][behind] = -1
    return drawn


def draw_clusters(human: Any, model: Any, centres: Any, shares: Any, curve: Any) -> None:
    """Features (n,2) of human and model texts with the centres of their clusters (k,2); the share
    of each cluster in either kind (k,), shares: a pair; and the divergence curve, a pair (x, y).
    """
    fig = figure(height=8.6)
    points, bars, area = fig.subplots(3, 1, height_ratios=(1.25, 0.8, 1))
    points.plot(*human.T, "o", color=P_COLOR, ms=4, mfc="none", label="human texts", ls="none")
    points.plot(*model.T, "x", color=Q_COLOR, ms=4, label="the model's texts", ls="none")
    for number, centre in enumerate(centres, 1):
        box = {"boxstyle": "circle,pad=0.25", "fc": "white", "ec": "black"}
        points.text(*centre, str(number), ha="center", va="center", bbox=box, zorder=5)
    points.set(title="Features of texts, and their clusters", xticks=[], yticks=[])
    points.legend(loc="lower right", frameon=False)
    _draw_shares(bars, shares)
    _draw_area(area, curve)
    show(
        fig,
        "Four clouds of points: two are shared, one has human texts only, one has the model's only."
        " Below, the bars of their shares; at the bottom the curve, far from the corner (1, 1).",
    )


def _draw_shares(ax, shares):
    numbers = np.arange(1, len(shares[0]) + 1)
    ax.bar(numbers - 0.2, shares[0], 0.4, color=P_COLOR, label="p, human")
    ax.bar(numbers + 0.2, shares[1], 0.4, color=Q_COLOR, hatch="////", ec="white", label="q, model")
    ax.set(title="Two histograms", ylabel="share", xlabel="cluster", xticks=numbers, ylim=(0, 0.7))
    ax.legend(frameon=False, ncols=2, loc="upper right")


def _draw_area(ax, curve):
    ax.fill_between(*curve, color=INVALID_COLOR, lw=0)
    ax.plot(*curve, color=CONTROL_COLOR, marker="o", ms=3, lw=1.5)
    ax.plot(1, 1, "*", color=P_COLOR, ms=13, clip_on=False)
    ax.annotate("equal histograms", (1, 1), (-10, -4), textcoords="offset points", ha="right")
    ax.set(title="The curve, and MAUVE, the area under it", xlim=(0, 1.02), ylim=(0, 1.02))
    ax.set_xlabel("exp(−c KL(q‖r)): little where q invents")
    ax.set_ylabel("exp(−c KL(p‖r)):\nlittle where q leaves out")


def draw_two_measures(runs: Mapping[str, Any], human: tuple[float, float]) -> None:
    """MAUVE against the share of possible sentences: {label: (seeds, 2)}, a dot for each seed, and
    the human texts' own two numbers.
    """
    fig = figure(height=3.9)
    ax = fig.subplots()
    styles = (
        (Q_COLOR, "o", "full"),
        (OTHER_COLOR, "^", "full"),
        (OTHER_COLOR, "^", "none"),
        (CONTROL_COLOR, "s", "full"),
        (CONTROL_COLOR, "s", "none"),
    )
    for (label, points), (color, marker, fill) in zip(runs.items(), styles):
        style = {"color": color, "marker": marker, "fillstyle": fill, "ms": 7, "ls": "none"}
        ax.plot(*np.transpose(points), label=label, **style)
    ax.plot(*human, "*", color=P_COLOR, ms=15, ls="none", label="other human texts", zorder=5)
    ax.set(xlabel="share of sentences that are possible", ylabel="MAUVE", ylim=(0, 1.02))
    ax.legend(loc="lower left", frameon=False)
    show(
        fig,
        "MAUVE against possible sentences: MLE has a high MAUVE and few possible sentences, MixCE"
        " at the small η more possible ones and the least MAUVE; its control has more of both.",
    )


def draw_sizes(found: Mapping[str, Mapping[str, Any]]) -> None:
    """MAUVE against the number of texts, a panel for each model whose features compare them:
    {features: {kind of text: (texts, mean, deviation)}}, kinds human, unbiased, top-p.
    """
    fig = figure(height=7.4)
    axes = fig.subplots(len(found), 1, sharex=True, sharey=True)
    styles = ((P_COLOR, "-", "o"), (Q_COLOR, "--", "s"), (OTHER_COLOR, ":", "^"))
    for ax, (features, kinds) in zip(axes, found.items()):
        for (kind, (texts, mean, deviation)), (color, dash, marker) in zip(kinds.items(), styles):
            style = {"color": color, "ls": dash, "marker": marker, "ms": 4, "capsize": 2}
            ax.errorbar(texts, mean, deviation, label=kind, **style)
        ax.set(title=f"features of {features}", ylabel="MAUVE", xscale="log")
    ax.set_xlabel("texts of each kind")
    ax.set_xticks(texts, [f"{n:g}" for n in texts], fontsize=LEAST_LETTERS)
    ax.minorticks_off()
    axes[0].legend(loc="lower right", frameon=False)
    show(
        fig,
        "By features of trained models the three kinds of text lie together up to a few hundred"
        " texts, then top-p falls below unbiased samples; by random weights the order is reversed.",
    )
