"""Drawings of lesson 6: the chain from the reverse cross-entropy to MixCE, and its tails."""

from typing import Any

import numpy as np

from ..experiments.plots import P_COLOR, Q_COLOR
from .figures import CONTROL_COLOR, INVALID_COLOR, figure, looks, sentence_bars, show


def draw_bound(s: Any, R: Any, bound: Any) -> None:
    """R and its lower bound (n,) in nats against s (n,), the share of an impossible sentence."""
    fig = figure(height=3.0)
    ax = fig.subplots()
    of_R, of_bound = looks(2)
    ax.fill_between(s, bound, R, color=INVALID_COLOR, lw=0)
    ax.plot(s, R, color=of_R.color, ls=of_R.dash, lw=2)
    ax.plot(s, bound, color=of_bound.color, ls=of_bound.dash, lw=2)
    ax.text(0.55, 41, "R, link 0", ha="right", color=of_R.color)
    ax.text(0.98, 5, "its bound, link 1", ha="right", va="bottom", color=of_bound.color)
    ax.text(0.66, 22, "what the bound\ndoes not see", ha="center", va="center")
    ax.set(xlabel='share of the impossible "cat here sleep"', ylabel="nats per sentence")
    ax.set(xlim=(0, 1), ylim=(0, None))
    show(
        fig,
        "R rises in a straight line with the share of an impossible sentence, the lower bound"
        " stays almost flat.",
    )


def draw_weights(lengths: Any, of_sentences: Any, of_tokens: Any) -> None:
    """The weight of each sentence in link 3 and the mean weight of its tokens in link 4 (n,),
    against lengths (n,) in tokens.
    """
    fig = figure(height=3.4)
    ax = fig.subplots()
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(lengths))
    words = ("mean of q over its tokens (link 4)", "Q(x), the sentence's weight (link 3)")
    marks = zip((of_tokens, of_sentences), ("v", "o"), reversed(looks(2)), words)
    for weights, marker, look, label in marks:
        style = {"color": look.color, "ms": 3, "alpha": 0.4, "rasterized": True}
        ax.plot(lengths + jitter, weights, marker, **style)
        ax.plot([], [], marker, color=look.color, label=label)
    ax.set(yscale="log", xticks=range(4, 23, 2))
    ax.set(xlabel="length of the sentence, tokens with its end", ylabel="weight")
    ax.legend(loc="lower left")
    show(
        fig,
        "Sentence weights fall exponentially with length, over many orders of magnitude; token"
        " weights do not.",
    )


def draw_links(cosines: Any, P: Any, alone: Any, mixed: Any) -> None:
    """Three panels: cosines {place: (4,)} of each link's gradient to R's; sentence probabilities
    {link: (7,)} at its optimum alone, and mixed with F; P (7,) beside them.
    """
    fig = figure(height=8.6)
    top, middle, bottom = fig.subplots(3, 1)
    for i, (name, look) in enumerate(zip(alone, looks(len(alone)))):
        heights = [row[i] for row in cosines.values()]
        style = {"color": look.color, "hatch": look.hatch, "edgecolor": "white", "lw": 0}
        top.bar(np.arange(len(cosines)) + (i - 1.5) * 0.2, heights, 0.2, label=name, **style)
    places = [place.replace(" ", "\n", 1).replace(", ", ",\n") for place in cosines]
    top.set_xticks(range(len(cosines)), places)
    top.set(title="Where it points: cosine to ∇R", ylabel="cosine", ylim=(0, 1.6))
    top.legend(ncols=2, loc="upper center", frameon=False)
    panels = ((middle, alone, "Where it ends, alone"), (bottom, mixed, "Where it ends, with F"))
    for ax, models, title in panels:
        sentence_bars(ax, {"P": P} | models, legend=False)
        ax.set_title(title)
    bottom.legend(loc="upper right", bbox_to_anchor=(1, 0.95), frameon=False)
    show(
        fig,
        "Above, cosines to ∇R of four links at four models; below, sentence probabilities at each"
        " link's optimum, alone and mixed.",
    )


def draw_prices(curves: Any, tempered: Any, ring: int) -> None:
    """The share of valid sentences against KL(P‖Q): curves {link: [measures, …]} from MLE on as η
    falls, with a ring around the `ring`-th; tempered: the same of MLE at lower temperatures.
    """
    fig = figure(height=4.4)
    ax = fig.subplots()
    circle = {"marker": "o", "ms": 12, "mfc": "none", "mew": 1.6, "ls": "none"}
    for (name, points), look in zip(curves.items(), looks(len(curves))):
        kl, valid = _prices(points)
        style = {"color": look.color, "ls": look.dash, "marker": look.marker, "ms": 4}
        ax.plot(kl, valid, label=name, **style)
        ax.plot(kl[ring], valid[ring], color=look.color, **circle)
    kl, valid = _prices(tempered)
    style = {"color": CONTROL_COLOR, "ls": ":", "marker": "s", "mfc": "none", "ms": 4}
    ax.plot(kl, valid, label="MLE at lower temperature", **style)
    ax.plot(kl[0], valid[0], "*", color=Q_COLOR, ms=15, mec="black", label="MLE")
    ax.plot([], [], color=CONTROL_COLOR, label="η = 0.5", **circle)
    ax.set(xlabel="price: KL(P‖Q), nats per sentence", ylabel="share of valid sentences")
    ax.set(xscale="log", xlim=(0.32, 3))
    ax.set_xticks([0.35, 0.5, 1, 2, 3], ["0.35", "0.5", "1", "2", "3"])
    ax.xaxis.set_minor_locator(ax.xaxis.get_major_locator())
    ax.legend(loc="lower right")
    show(
        fig,
        "Validity against KL(P‖Q): R above, links 1 to 3 on one curve below, token MixCE and MLE's"
        " temperature together, lowest.",
    )


def _prices(points):
    return zip(*((point.forward_kl, point.validity) for point in points))


def draw_tails(p: Any, ends: Any) -> None:
    """Where objectives end, {label: q (V,)}, against the data's p (V,), on logarithmic axes."""
    fig = figure(height=3.8)
    ax = fig.subplots()
    ax.plot(p, p, color=P_COLOR, lw=2, label="the data: q = p, MLE")
    for (label, q), look in zip(ends.items(), looks(len(ends))):
        ax.plot(p[q > 0], q[q > 0], color=look.color, lw=2, ls=look.dash, label=label)
    ax.set(xlabel="p, the data's probability of a token", ylabel="q, where training ends")
    ax.set(xscale="log", yscale="log", ylim=(min(q[q > 0].min() for q in ends.values()) / 2, 1))
    ax.legend(loc="upper left", frameon=False)
    show(
        fig,
        "On double logarithmic axes MixCE's tail runs parallel to the data's, a temperature's falls"
        " steeper, TaiLr's stops.",
    )
