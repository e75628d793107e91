"""What the lessons share: how they show figures, sentences with numbers and the package's own lines, and one visual grammar.

A lesson is a percent-format Python file. Run as a script it prints and saves its figures; in a notebook, and on the page
made from it, the same calls show pictures, formatted prose and code. P is blue, Q is orange, what P cannot produce is shaded,
and the sentences of the agreement() world always come in the same order.
"""

import base64
import inspect
import io
import os
import re
import sys
import textwrap
from pathlib import Path

import numpy as np

import minimixce as mm
from minimixce.experiments.plots import P_COLOR, Q_COLOR, new_figure

FAST = "--fast" in sys.argv or bool(os.environ.get("MINIMIXCE_FAST"))  # a tenth of the work, for tests
INVALID_COLOR = "0.9"  # the shade behind what P cannot produce
_shown = []  # figures of this script so far, to number their files
if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="replace")  # a terminal without η prints a question mark


def few(full, fast):
    """`full` when a lesson is read, `fast` when it is tested."""
    return fast if FAST else full


# ---- showing ----------------------------------------------------------------------------------------------------------


def _display(data):
    """Show a dict of representations by MIME type in a notebook -> False where there is none."""
    if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
        return False
    from IPython.display import display

    display(data, raw=True)
    return True


def say(markdown):
    """Prose whose numbers were computed just now. Lines are joined as Markdown joins them."""
    text = inspect.cleandoc(markdown)
    if not _display({"text/markdown": text, "text/plain": text}):
        for paragraph in text.split("\n\n"):
            laid = re.search(r"^(- |\d\. |\||```|    )", paragraph, re.M)  # lists, tables and code keep their lines
            print(paragraph if laid else textwrap.fill(paragraph, 100), end="\n\n")


def source(*objects):
    """The lines of functions or classes as they stand in their files, so that what a lesson explains cannot go stale."""
    for thing in objects:
        code = inspect.getsource(inspect.unwrap(thing)).rstrip()
        path = Path(inspect.getsourcefile(thing))
        where = f"# {path.parent.name}/{path.name}"
        if not _display({"text/markdown": f"```python\n{where}\n{code}\n```", "text/plain": code}):
            print(f"{where}\n{code}\n")


def table(headings, rows):
    """A table: headings, then rows of strings or numbers already formatted; the first column is left-aligned."""
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (headings, *rows)]
    lines.insert(1, "| --- |" + " ---: |" * (len(headings) - 1))
    text = "\n".join(lines)
    widths = [max(len(str(row[i])) for row in (headings, *rows)) for i in range(len(headings))]
    plain = "\n".join(
        "  ".join(f"{cell!s:{'<' if i == 0 else '>'}{w}}" for i, (cell, w) in enumerate(zip(row, widths)))
        for row in (headings, *rows)
    )
    if not _display({"text/markdown": text, "text/plain": plain}):
        print(f"{plain}\n")


def figure(width=7.5, height=3.6):
    """A matplotlib Figure, inches, with a layout in which nothing overlaps."""
    return new_figure(figsize=(width, height), layout="constrained")


def show(fig, alt):
    """Show a figure; alt is one sentence that says what there is to see, for those who cannot see it."""
    buffer = io.BytesIO()
    fig.savefig(buffer, dpi=110, format="png", metadata={"Software": None})
    if _display({"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": alt}):
        return
    _shown.append(alt)
    folder = Path("lesson_figures")
    folder.mkdir(exist_ok=True)
    path = folder / f"{Path(sys.argv[0]).stem}_{len(_shown)}.png"
    path.write_bytes(buffer.getvalue())
    print(f"[{path}: {alt}]\n")


# ---- the agreement() world, in one order everywhere -------------------------------------------------------------------

MAX_LEN = 4  # the horizon of every sum over its sentences: three words and the boundary
VALID = ("cat sleeps", "cats sleep", "cat here sleeps", "cats here sleep")
INVALID = ("cat here sleep", "cats here sleeps")  # what a model that forgets the number across "here" writes
SENTENCES = (*VALID, *INVALID, "anything else")


def sentence_probs(model):
    """The probability a model, or the world itself, gives to each of SENTENCES, at horizon MAX_LEN -> (7,)."""
    world = mm.worlds.agreement()
    rows = world.rows(SENTENCES[:-1], MAX_LEN)
    log_probs = model.log_prob(rows) if isinstance(model, mm.worlds.World) else mm.exact.log_prob(model, rows)
    probs = np.exp(log_probs)
    return np.append(probs, max(0.0, 1 - probs.sum()))


def sentence_bars(ax, distributions, legend=True):
    """Bars of SENTENCES side by side for each of {label: (7,)}; the label "P" is blue, others are shades of orange."""
    others = [label for label in distributions if label != "P"]
    shades = dict(zip(others, oranges(len(others)))) | {"P": P_COLOR}
    width, middle = 0.8 / len(distributions), (len(distributions) - 1) / 2
    ax.axvspan(len(VALID) - 0.5, len(SENTENCES) - 0.5, color=INVALID_COLOR, zorder=0)
    for i, (label, probs) in enumerate(distributions.items()):
        ax.bar(np.arange(len(SENTENCES)) + (i - middle) * width, probs, width, color=shades[label], label=label, zorder=2)
    ax.set_xticks(range(len(SENTENCES)), [re.sub(r" (?=\S+$)", "\n", s) for s in SENTENCES], fontsize=8)
    ax.set_xlim(-0.5, len(SENTENCES) - 0.5)
    ax.set_ylabel("probability")
    ax.text(
        len(SENTENCES) - 0.55, ax.get_ylim()[1] * 0.97, "impossible under P", ha="right", va="top", fontsize=8, color="0.35"
    )
    if legend:
        ax.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.88))


def oranges(count):
    """`count` shades of Q's orange, from dark to light."""
    if count == 1:
        return [Q_COLOR]
    dark, light = np.array([0.45, 0.18, 0.0]), np.array([1.0, 0.75, 0.5])
    return [tuple(dark + (light - dark) * i / (count - 1)) for i in range(count)]


def optimal_table(objective, eta=0.5, world=None, max_len=MAX_LEN, steps=3000):
    """The table bigram at which an exact objective is least, from the uniform start -> mm.TableBigram.

    A rate that falls to nothing takes AdamW to the optimum as nearly as float64 can show; in fast mode less near.
    """
    world = mm.worlds.agreement() if world is None else world
    model = mm.TableBigram(world.vocab_size)
    optimizer, steps = mm.AdamW(model.params, lr=0.1, weight_decay=0.0), few(steps, 300)
    for step in range(steps):
        if objective == "js":
            _, grads = mm.exact.loss_and_grads(model, world, max_len, objective=objective, eta=eta)
        else:
            _, dlogits = mm.exact.bigram_loss_and_grads(
                model.params["logits"], world, objective=objective, eta=eta, max_len=max_len
            )
            grads = {"logits": dlogits}
        optimizer.step(grads, lr=mm.optim.warmup_cosine(step, 0.1, 0, steps, 1e-4))
    return model


# ---- fixed points, which lesson 3 derives -----------------------------------------------------------------------------


def mixce_q(p, lam, eta):
    """The q (V,) at which p w(q) = λ q with MixCE's w; it sums to one at a single λ."""
    return eta * p / (lam - (1 - eta) * p)


def tailr_q(p, lam, gamma):
    """The same with TaiLr's w, or 0 where that would be negative."""
    return np.maximum(0, (p / lam - gamma) / (1 - gamma))


def fixed_point(formula, p, ratio):
    """Where training ends in a context with data p (V,) -> q = formula(p, λ, ratio) that sums to one, and its λ."""
    low, high = ((1 - ratio) * p.max() if formula is mixce_q else 0), 1  # λ, a mean weight, is at most 1
    for _ in range(100):
        lam = (low + high) / 2
        low, high = (lam, high) if formula(p, lam, ratio).sum() > 1 else (low, lam)
    return formula(p, high, ratio), high
