"""The README's picture: what over-generalisation is, and what it costs to be rid of it.

    python tutorials/over_generalisation.py     # needs the extra plots; writes figures/over_generalisation.png

A bigram table, which forgets a noun's number across "here", is brought to the optimum of two objectives on a world of four
sentences. Bars are exact probabilities of sentences; no sampling is involved.
"""

import argparse
from pathlib import Path

import numpy as np

import minimixce as mm
from minimixce.experiments.plots import P_COLOR, Q_COLOR, new_figure
from minimixce.lessons.figures import INVALID_COLOR

MAX_LEN = 4  # tokens in a sentence, its end included
SENTENCES = ("cat sleeps", "cats sleep", "cat here sleeps", "cats here sleep", "cat here sleep", "cats here sleeps")
OBJECTIVES = {"maximum likelihood": "forward_ce", "two KLs, η = 0.5": "two_kls"}
COLOURS = {"the world P": P_COLOR, "maximum likelihood": Q_COLOR, "two KLs, η = 0.5": "#7f3b08"}


def optimum(objective):
    """The table that minimises an objective on agreement(), by exact gradients."""
    world = mm.worlds.agreement()
    model = mm.TableBigram(world.vocab_size)
    optimizer = mm.AdamW(model.params, lr=0.05, weight_decay=0.0)
    for _ in range(1000):
        _, grads = mm.exact.loss_and_grads(model, world, MAX_LEN, objective=objective, eta=0.5)
        optimizer.step(grads)
    return model


def distributions():
    """Name of a distribution -> its probabilities of SENTENCES."""
    world = mm.worlds.agreement()
    rows = world.rows(list(SENTENCES), MAX_LEN)
    found = {"the world P": np.exp(world.log_prob(rows))}
    for name, objective in OBJECTIVES.items():
        found[name] = np.exp(mm.exact.log_prob(optimum(objective), rows))
    return found


def percent(value):
    """0.12 -> 12 %, with a digit more where that would be 0."""
    digits = 1 if 0.0005 <= value < 0.01 else 0
    return f"{100 * value:.{digits}f} %"


def draw(found, path):
    """Bars of every distribution for every sentence, written as PNG. Sizes suit a screen of 390 points."""
    possible = found["the world P"] > 0
    places = np.arange(len(SENTENCES)) + 0.55 * ~possible  # a gap before what is impossible
    edge = places[~possible][0] - 0.5
    fig = new_figure(figsize=(7.8, 7.6), layout="constrained")
    ax = fig.subplots()
    ax.axhspan(edge, places[-1] + 0.5, color=INVALID_COLOR, zorder=0)
    for k, (name, q) in enumerate(found.items()):
        y = places + 0.27 * (k - 1)
        ax.barh(y, q, 0.25, color=COLOURS[name], label=name, zorder=2)
        for place, value in zip(y, q):
            ax.text(value + 0.006, place, percent(value), va="center", fontsize=16)
    ax.set_yticks(places, SENTENCES, fontsize=18)
    ax.set_ylim(places[-1] + 0.5, -0.5)
    ax.set_xlim(0, 0.5)
    ax.set_xticks([])
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.text(0.495, edge + 0.08, "impossible", ha="right", va="top", fontsize=18, style="italic")
    fig.legend(loc="outside upper left", frameon=False, fontsize=18)
    fig.savefig(path, dpi=100, metadata={"Software": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    figure = Path(__file__).parent / "figures" / "over_generalisation.png"
    parser.add_argument("--out", default=figure, help="file of the picture (default: the one of the README)")
    args = parser.parse_args()
    found = distributions()
    for name, q in found.items():
        print(f"{name:20}", *(f"{value:.3f}" for value in q))
    draw(found, args.out)


if __name__ == "__main__":
    main()
