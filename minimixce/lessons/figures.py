"""Pictures in the lessons' visual grammar: P is blue, Q orange, what P cannot produce is shaded."""

import base64
import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..experiments.plots import P_COLOR, Q_COLOR, new_figure
from .display import display, write
from .sentences import SENTENCES, VALID

INVALID_COLOR = "0.9"  # the shade behind what P cannot produce
_shown: list[str] = []  # figures of this script so far, to number their files


def figure(width: float = 7.5, height: float = 3.6) -> Any:
    """A matplotlib Figure of that many inches, with a layout in which nothing overlaps."""
    return new_figure(figsize=(width, height), layout="constrained")


def show(fig: Any, alt: str) -> None:
    """Show a figure in a notebook; a script writes it to lesson_figures/ in the current folder.

    alt: one sentence that describes the picture, for readers who cannot see it.
    """
    buffer = io.BytesIO()
    fig.savefig(buffer, dpi=110, format="png", metadata={"Software": None})
    if display({"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": alt}):
        return
    _shown.append(alt)
    folder = Path("lesson_figures")
    folder.mkdir(exist_ok=True)
    path = folder / f"{Path(sys.argv[0]).stem}_{len(_shown)}.png"
    path.write_bytes(buffer.getvalue())
    write(f"[{path}: {alt}]\n")


def sentence_bars(ax: Any, distributions: dict[str, Any], legend: bool = True) -> None:
    """Draw bars of SENTENCES side by side for each of {label: (7,)} into a matplotlib Axes.

    The label "P" is blue, others are shades of orange.
    """
    others = [label for label in distributions if label != "P"]
    shades = dict(zip(others, oranges(len(others)))) | {"P": P_COLOR}
    width = 0.8 / len(distributions)
    middle = (len(distributions) - 1) / 2
    ax.axvspan(len(VALID) - 0.5, len(SENTENCES) - 0.5, color=INVALID_COLOR, zorder=0)
    for i, (label, probs) in enumerate(distributions.items()):
        x = np.arange(len(SENTENCES)) + (i - middle) * width
        ax.bar(x, probs, width, color=shades[label], label=label, zorder=2)
    two_lines = [re.sub(r" (?=\S+$)", "\n", sentence) for sentence in SENTENCES]
    ax.set_xticks(range(len(SENTENCES)), two_lines, fontsize=8)
    ax.set_xlim(-0.5, len(SENTENCES) - 0.5)
    ax.set_ylabel("probability")
    end, top = len(SENTENCES) - 0.55, ax.get_ylim()[1] * 0.97
    ax.text(end, top, "impossible under P", ha="right", va="top", fontsize=8, color="0.35")
    if legend:
        ax.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.88))


def oranges(count: int) -> Any:
    """`count` shades of Q's orange, from dark to light -> list of matplotlib colours."""
    if count == 1:
        return [Q_COLOR]
    dark = np.array([0.45, 0.18, 0.0])
    light = np.array([1.0, 0.75, 0.5])
    return [tuple(dark + (light - dark) * i / (count - 1)) for i in range(count)]
