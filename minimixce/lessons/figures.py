"""Pictures in the lessons' visual grammar: P blue, Q vermillion, what P cannot produce shaded.

Colours are those of Okabe and Ito that have at least 3:1 against white and against the shade; a
second mark always says the same (a hatch, a dash, a marker or a word), so that no picture needs
colour to be read. A figure is as wide as a phone shows it, with letters that can be read there.
"""

import io
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..experiments.plots import P_COLOR, Q_COLOR, new_figure, shades_of_q
from .display import display, write
from .sentences import SENTENCES, VALID

INVALID_COLOR = "#ececec"  # the shade behind what P cannot produce
CONTROL_COLOR = "#595959"  # of what no model is trained for: a temperature, a floor, a bound
OTHER_COLOR = "#007a5a"  # a third thing beside P and Q: Okabe and Ito's green, darker
WIDTH = 5.2  # inches: 1:1 in a column of 374 points, and still legible on a phone of 390 pixels
LETTERS = 10.0  # points
LEAST_LETTERS = 9.0  # points, of all that `show` shows

_HATCHES = ("", "////", "----", "xxxx", "||||", "\\\\\\\\")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1, 1.5)))
_MARKERS = "os^Dv*"

_shown: list[str] = []  # figures of this script so far, to number their files


class Look(NamedTuple):
    """How one of several models is drawn, wherever it appears: colour, hatch of bars, dash and
    marker of lines.
    """

    color: Any
    hatch: str
    dash: Any
    marker: str


def looks(count: int) -> list[Look]:
    """`count` ways to draw models side by side, from dark to Q's vermillion -> list of Look."""
    return [
        Look(color, _HATCHES[i % 6], _DASHES[i % 4], _MARKERS[i % 6])
        for i, color in enumerate(shades_of_q(count) if count > 1 else [Q_COLOR])
    ]


def figure(height: float = 3.2) -> Any:
    """A matplotlib Figure, WIDTH by `height` inches, with a layout in which nothing overlaps and
    letters of a size that a phone shows.
    """
    _set_letters()
    return new_figure(figsize=(WIDTH, height), layout="constrained")


def _set_letters():
    """matplotlib's defaults, for this process: a lesson's, which draws nothing else."""
    import matplotlib

    matplotlib.rcParams.update(
        {
            "font.size": LETTERS,
            "axes.titlesize": LETTERS + 1,
            "axes.labelsize": LETTERS,
            "xtick.labelsize": LEAST_LETTERS,
            "ytick.labelsize": LEAST_LETTERS,
            "legend.fontsize": LEAST_LETTERS,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "hatch.linewidth": 0.6,
            "svg.fonttype": "none",  # letters stay letters
            "svg.hashsalt": "minimixce",  # the same file every time
        }
    )


def show(fig: Any, alt: str) -> None:
    """Show a figure in a notebook; a script writes it to lesson_figures/ in the current folder.

    alt: one sentence that describes the picture, for readers who cannot see it. ValueError for
    letters that a phone would not show.
    """
    svg = to_svg(fig)
    if small := [text for text, size in letters(fig) if size < LEAST_LETTERS]:
        raise ValueError(
            f"letters must have {LEAST_LETTERS} points at {WIDTH} inches: {small[0]!r}"
        )
    if display({"image/svg+xml": svg, "text/plain": alt}):
        return
    _shown.append(alt)
    folder = Path("lesson_figures")
    folder.mkdir(exist_ok=True)
    path = folder / f"{Path(sys.argv[0]).stem}_{len(_shown)}.svg"
    path.write_text(svg, encoding="utf-8")
    write(f"[{path}: {alt}]\n")


def to_svg(fig: Any) -> str:
    """A matplotlib Figure -> its SVG, the same every time, on a white ground that stays white in a
    dark theme.
    """
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # a hundredth of a point is enough for the eye, and the same on every machine; what a picture
    # says keeps its digits
    svg = re.sub(r"<[^>]*>", lambda tag: _hundredths(tag[0]), buffer.getvalue())
    # browsers have their own sans-serif; matplotlib's is not on every machine
    return svg.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")


def _hundredths(tag: str) -> str:
    return re.sub(r"(?<=\d\.\d\d)\d+", "", tag)


def letters(fig: Any) -> list[tuple[str, float]]:
    """Every text of a figure and its size in points at WIDTH inches -> list of (text, size).

    A picture that is wider is shown smaller, and its letters with it.
    """
    from matplotlib.text import Text

    scale = WIDTH / fig.get_figwidth()
    found = fig.findobj(lambda thing: isinstance(thing, Text) and thing.get_visible())
    return [(text.get_text(), text.get_fontsize() * scale) for text in found if text.get_text()]


def sentence_bars(ax: Any, distributions: dict[str, Any], legend: bool = True) -> None:
    """Draw bars of SENTENCES side by side for each of {label: (7,)} into a matplotlib Axes.

    The label "P" is blue, others are shades of vermillion with a hatch each.
    """
    others = [label for label in distributions if label != "P"]
    look = dict(zip(others, looks(len(others)))) | {"P": Look(P_COLOR, "", "-", "o")}
    width = 0.8 / len(distributions)
    middle = (len(distributions) - 1) / 2
    ax.axvspan(len(VALID) - 0.5, len(SENTENCES) - 0.5, color=INVALID_COLOR, lw=0, zorder=0)
    for i, (label, probs) in enumerate(distributions.items()):
        x = np.arange(len(SENTENCES)) + (i - middle) * width
        style = {"color": look[label].color, "hatch": look[label].hatch, "edgecolor": "white"}
        ax.bar(x, probs, width, label=label, zorder=2, lw=0, **style)
    ax.set_xticks(range(len(SENTENCES)), [s.replace(" ", "\n") for s in SENTENCES])
    ax.set_xlim(-0.5, len(SENTENCES) - 0.5)
    ax.set_ylabel("probability")
    end, top = len(SENTENCES) - 0.55, ax.get_ylim()[1] * 1.02
    ax.text(end, top, "impossible under P", ha="right", va="bottom", fontsize=9, color="#595959")
    if legend:
        ax.legend(loc="upper right", frameon=False)
