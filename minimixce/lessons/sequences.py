"""Drawings of lesson 2: a bigram beside its world, validity against perplexity, typical text."""

from typing import Any

import numpy as np

from ..experiments.plots import P_COLOR, Q_COLOR
from .figures import CONTROL_COLOR, figure, looks, sentence_bars, show


def draw_best_bigram(P: Any, Q: Any, impossible: float) -> None:
    """Probabilities of the sentences (7,) under P and under the MLE bigram."""
    fig = figure(height=3.4)
    ax = fig.subplots()
    sentence_bars(ax, {"P": P, "Q, the MLE bigram": Q})
    words = f"{100 * impossible:.0f} % of what\nQ writes"
    ax.annotate(words, (4.7, Q[4] + 0.02), ha="center", fontsize=9, color=Q_COLOR)
    show(
        fig,
        "Bars of all likely sentences, P beside the MLE bigram: Q agrees with P on the sentences"
        " without 'here' and moves nearly a quarter of its probability from the two possible"
        " sentences with 'here' to the two impossible ones.",
    )


def draw_validity(noise: Any, temperature: Any, bigram: Any, P: Any) -> None:
    """(perplexity, validity) of P with noise {ε: …}, at temperatures {τ: …}, of the best bigram,
    and of P.
    """
    fig = figure(height=4.4)
    ax = fig.subplots()
    drawn = (
        ("ε", noise, "P with noise ε", (7, 4)),
        ("τ", temperature, "P at temperature τ", (0, -15)),
    )
    for (name, points, label, shift), look in zip(drawn, looks(2)):
        style = {"color": look.color, "ls": look.dash, "marker": look.marker}
        ax.plot(*zip(*points.values()), label=label, **style)
        for value, xy in list(points.items())[2:]:
            ax.annotate(f"{name} = {value}", xy, shift, textcoords="offset points", fontsize=9)
    ax.plot(*bigram, "D", color=CONTROL_COLOR, markersize=8, label="the best bigram")
    ax.plot(*P, "*", color=P_COLOR, markersize=16, label="P itself", zorder=5)
    ax.set(xscale="log", xlabel="perplexity on held-out sentences", ylabel="share possible under P")
    ax.set(ylim=(0, 1.06), xlim=(4.7, 11.5))
    ax.set_xticks([5, 6, 7, 8, 9, 10], ["5", "6", "7", "8", "9", "10"])
    ax.minorticks_off()
    ax.legend(loc="center right", markerscale=0.7)
    show(
        fig,
        "Validity against perplexity on stories(): noise drops validity steeply at almost the same"
        " perplexity, a low temperature keeps everything possible while perplexity grows, and the"
        " best bigram has both high perplexity and low validity.",
    )


def draw_typical(surprise: Any, entropy: float, of_mode: float, mode: str) -> None:
    """A histogram of the surprise (n,) of sentences, nats, with the entropy and the mode's."""
    fig = figure(height=3.4)
    ax = fig.subplots()
    share = np.full(len(surprise), 1 / len(surprise))
    ax.hist(surprise, bins=np.arange(5, 41), color=P_COLOR, alpha=0.8, weights=share)
    ax.set(xlabel="surprise of a sentence, −log P(x), nats", ylabel="share of sentences")
    ax.set_ylim(top=1.45 * ax.get_ylim()[1])
    lines = ((entropy, "--", "entropy H(P)"), (of_mode, "-", f'the mode:\n"{mode}"'))
    for x, dash, label in lines:
        ax.axvline(x, color="0.2", linestyle=dash, linewidth=1.8)
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        ax.annotate(label, (x, 0.98), (5, 0), va="top", fontsize=9, **place)
    show(
        fig,
        "Histogram of the surprise of sentences of stories(): they spread around the entropy, and"
        " the mode, a three-word sentence, lies at the far left edge.",
    )
