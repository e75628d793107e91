"""Figures from plain results (matplotlib, the extra 'plots'). One visual grammar: the data
distribution P is blue, models Q are vermillion, lighter from one objective to the next, hollow
where only the temperature changed, held-out text is a blue star.
"""

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..storage import files
from ..storage.shapes import Array, FilePath, Float
from .measures import TEXT_MEASURES, Measure, mean_and_deviation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any  # matplotlib's, which is imported where a figure is made

# blue and vermillion of Okabe and Ito, which readers of every kind of sight tell apart
P_COLOR, Q_COLOR = "#0072b2", "#d55e00"


_MARKERS = "osv^<>DPXhp"


SYNTHETIC_FIGURES = ("matrices.png", "ratios.png", "curves.png")


_LEAST_SHOWN = 1e-12  # where logarithmic axes of the synthetic experiments end


_MOST_TILTED = 7  # names below a panel: more of them stand upright


# the ends of Q's shades, 3:1 on white
_DARK, _LIGHT = (0.24, 0.08, 0.0), (213 / 255, 94 / 255, 0.0)


def new_figure(**options: Any) -> Figure:
    """A matplotlib Figure with these options, without pyplot, so that the caller's backend stays as
    it is. ValueError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError('figures need matplotlib: pip install "minimixce[plots]"') from None
    return Figure(**options)


def _save(figure: Figure, path: FilePath) -> None:
    """Write a figure whole or not at all, in the format of the ending of `path`."""
    data = io.BytesIO()
    figure.savefig(data, dpi=110, format=Path(path).suffix[1:] or "png")
    files.write_atomically(path, data.getvalue())


def shades_of_q(count: int) -> list[tuple[float, ...]]:
    """`count` shades of Q's vermillion, from dark to light -> list of matplotlib colours."""
    return [
        tuple(d + (e - d) * i / max(1, count - 1) for d, e in zip(_DARK, _LIGHT))
        for i in range(count)
    ]


# ---- comparisons ---------------------------------------------------------------------------------


def comparison(
    result: dict[str, Any], path: FilePath, measures: Mapping[str, Measure] = TEXT_MEASURES
) -> None:
    """The picture of `minimixce compare` -> the PNG file `path`. `result`: the content of its
    table.json.

    Learning curves, word validity against perplexity, and a panel for each of `measures` that has
    one and that all runs have.
    """
    all_rows = [row for rows in result["rows"].values() for row in rows]
    panels = [
        (name, *measure.panel)
        for name, measure in measures.items()
        if measure.panel is not None and all(name in row for row in all_rows)
    ]
    rows = -(-(2 + len(panels)) // 3)
    figure = new_figure(figsize=(15, 4.25 * rows), layout="constrained")
    axes = figure.subplots(rows, 3).reshape(-1)
    labels = list(result["objectives"])
    color = dict(zip(labels, shades_of_q(len(labels))))
    _learning_curves(axes[0], result["curves"], color)
    _validity_against_perplexity(axes[1], result, labels)
    for ax, (name, title, unit) in zip(axes[2:], panels):
        _values_of_groups(ax, name, result, color)
        ax.set(title=title, ylabel=unit)
    for ax in axes[2 + len(panels) :]:
        ax.remove()
    _save(figure, path)


def _learning_curves(ax: Axes, curves: dict[str, Any], color: dict[str, tuple[float, ...]]) -> None:
    for label, shade in color.items():
        for k, curve in enumerate(curves[label]):
            name = label if k == 0 else None
            ax.plot(curve["step"], curve["perplexity"], color=shade, label=name)
    ax.set(
        title="Learning curves, one line a seed",
        xlabel="step",
        ylabel="validation perplexity",
        yscale="log",
    )
    ax.legend(fontsize=8)


_STAR: dict[str, Any] = {"marker": "*", "color": P_COLOR, "markersize": 17, "linestyle": "none"}


def _validity_against_perplexity(ax: Axes, result: dict[str, Any], labels: list[str]) -> None:
    groups = [result["rows"][label] for label in labels]
    _plane(ax, groups, "o-", "trained with another objective", labels, (8, -14))
    if temperatures := result["temperatures"]:
        groups = list(temperatures.values())
        names = [f"τ = {t}" for t in temperatures]
        _plane(ax, groups, "s--", "MLE at lower temperature τ", names, (-44, 4))
    best = min(r["perplexity"] for rows in result["rows"].values() for r in rows)
    label = "held-out text\n(its perplexity is at most this)"
    ax.plot(best, result["held_out"]["word_validity"], **_STAR, label=label)
    ax.margins(x=0.16)
    ax.set(
        title="Word validity against perplexity",
        xlabel="validation perplexity",
        ylabel="words that occur in training",
    )
    ax.legend(fontsize=8)


def _plane(
    ax: Axes,
    groups: list[list[dict[str, Any]]],
    style: str,
    label: str,
    names: list[str],
    offset: tuple[int, int],
) -> None:
    """A curve through the mean (perplexity, validity) of each group, with bars of one standard
    deviation.
    """
    x, y = (
        [mean_and_deviation([row[name] for row in rows]) for rows in groups]
        for name in ("perplexity", "word_validity")
    )
    means = ([v[0] for v in x], [v[0] for v in y])
    bars = ([v[1] for v in x], [v[1] for v in y])
    fill = "none" if "--" in style else "full"
    ax.errorbar(
        *means,
        xerr=bars[0],
        yerr=bars[1],
        fmt=style,
        color=Q_COLOR,
        fillstyle=fill,
        label=label,
        capsize=3,
    )
    for at, name in zip(zip(*means), names):
        ax.annotate(name, at, xytext=offset, textcoords="offset points", fontsize=8, color=Q_COLOR)


def _values_of_groups(
    ax: Axes, name: str, result: dict[str, Any], color: dict[str, tuple[float, ...]]
) -> None:
    """The measure `name` of every run, in a column for each objective and control, and of held-out
    text, where it has it.
    """
    shown = result["rows"] | {
        label: rows for label, rows in result["controls"].items() if all(name in r for r in rows)
    }
    held_out = result["held_out"]
    for x, (label, rows) in enumerate(shown.items()):
        values = [row[name] for row in rows]
        shade = color.get(label, Q_COLOR)
        fill = "full" if label in color else "none"
        ax.plot([x] * len(values), values, "o", color=shade, fillstyle=fill, alpha=0.8)
        mean = sum(values) / len(values)
        ax.plot([x - 0.25, x + 0.25], [mean] * 2, color=shade, linewidth=2.5)
    if name in held_out:
        ax.plot(len(shown), held_out[name], **_STAR)
    ticks = [*shown, *(["held-out text"] if name in held_out else [])]
    if len(ticks) > _MOST_TILTED:
        ax.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=8)
        return
    names = [tick.replace(", ", ",\n") for tick in ticks]
    ax.set_xticks(range(len(ticks)), names, rotation=35, ha="right")


def world_comparison(result: dict[str, Any], path: FilePath) -> None:
    """The picture of `minimixce compare --world` -> the PNG file `path`. `result` is the content of
    its table.json.
    """
    figure = new_figure(figsize=(13, 4.6), layout="constrained")
    axes = figure.subplots(1, 3)
    rows = result["rows"]
    style = dict(zip(rows, zip(shades_of_q(len(rows)), itertools.cycle(_MARKERS))))
    for label, (color, marker) in style.items():
        x, y = ([row[name] for row in rows[label]] for name in ("forward_kl", "validity"))
        axes[0].plot(x, y, marker, color=color, label=label)
    axes[0].plot(0, 1, **_STAR, label="P itself")
    axes[0].set(
        title="Validity against fit",
        xlabel="KL(P‖Q), nats per sequence",
        ylabel="probability of possible sequences",
    )
    axes[0].set_xscale("symlog", linthresh=0.1)
    axes[0].legend(fontsize=8)
    _values_with_errors(axes[1], "reverse_kl", "KL(Q‖P), floored", rows, style)
    _values_with_errors(axes[2], "entropy_q", "Entropy of Q", rows, style)
    axes[2].axhline(result["entropy_p"], color=P_COLOR, label="entropy of P")
    axes[2].legend(fontsize=8)
    _save(figure, path)


def _values_with_errors(
    ax: Axes, name: str, title: str, rows: dict[str, Any], style: dict[str, Any]
) -> None:
    for x, (label, (color, marker)) in enumerate(style.items()):
        values = [row[name] for row in rows[label]]
        errors = [row.get(f"{name}_se", 0.0) for row in rows[label]]
        ax.errorbar([x] * len(values), values, yerr=errors, fmt=marker, color=color, capsize=3)
    ax.set_xticks(range(len(style)), list(style), rotation=35, ha="right")
    ax.set(title=title, ylabel="nats per sequence")


# ---- the synthetic experiments -------------------------------------------------------------------


def synthetic(
    results: Sequence[dict[str, Any]],
    best: dict[str, dict[str, Any]],
    gold: Float[Array, "V V"],
    at_a_ratio: dict[str, dict[str, Any]],
    folder: FilePath,
) -> tuple[str, ...]:
    """The figures of `minimixce synthetic` -> names of the PNG files in `folder`.

    results: dicts as synthetic.grid.run_grid returns, with their "world" by name. best {label:
    {"learned": (V,V), "curve": list of dicts}}: the run of each objective at its best η in the
    first world and with the first seed; gold (V,V): that world; at_a_ratio: such a dict with the
    one run of mixce whose loss is drawn, or an empty one.
    """
    figures = (_matrices(best, gold), _ratios(results), _curves(best, at_a_ratio))
    for name, figure in zip(SYNTHETIC_FIGURES, figures):
        _save(figure, Path(folder) / name)
    return SYNTHETIC_FIGURES


def _matrices(best: dict[str, dict[str, Any]], gold: Float[Array, "V V"]) -> Figure:
    """P and what each objective learned of it, probabilities on a logarithmic scale."""
    matrices = {"P": gold} | {label: run["learned"] for label, run in best.items()}
    figure = new_figure(figsize=(3 * len(matrices), 3), layout="constrained")
    for ax, (title, matrix) in zip(figure.subplots(1, len(matrices)), matrices.items()):
        colors = "Blues" if title == "P" else "Oranges"
        image = ax.imshow(np.maximum(matrix, 1e-9), cmap=colors, norm="log", clim=(1e-6, 1))
        ax.set(title=title, xlabel="next token", ylabel="last token" if title == "P" else "")
        figure.colorbar(image, ax=ax, shrink=0.8)
    return figure


def _ratios(results: Sequence[dict[str, Any]]) -> Figure:
    """avg. JS and avg. 0s against η: two rows for each world, a column for each vocabulary."""
    vocabularies = list(dict.fromkeys(r["vocab_size"] for r in results))
    of_worlds = list(dict.fromkeys(r["world"] for r in results))
    objectives = list(dict.fromkeys(r["objective"] for r in results))
    etas = sorted({r["eta"] for r in results})
    size = (2 + 4 * len(vocabularies), 6.6 * len(of_worlds))
    figure = new_figure(figsize=size, layout="constrained")
    axes = figure.subplots(
        2 * len(of_worlds), len(vocabularies), squeeze=False, sharex=True, sharey="row"
    )
    measures = ("avg_js", "avg. JS", "nats"), ("avg_zeros", "avg. 0s", "probability")
    for row, (world, (measure, title, unit)) in zip(axes, itertools.product(of_worlds, measures)):
        of_world = [r for r in results if r["world"] == world]
        values = [max(r[measure], _LEAST_SHOWN) for r in of_world]
        row[0].set_ylim(min(values) / 3, 3 * max(values))
        for ax, V in zip(row, vocabularies):
            here = [r for r in of_world if r["vocab_size"] == V]
            _means_against_ratio(ax, here, measure, objectives, etas)
            ax.set(yscale="log", title=f"{title}, {world}, {V} tokens", xlabel="η (η = 1 is MLE)")
            ax.set_xticks(range(len(etas)), [f"{eta:g}" for eta in etas])
            ax.label_outer()
        cut = f", drawn as {_LEAST_SHOWN:.0e} where less" if min(values) == _LEAST_SHOWN else ""
        row[0].set_ylabel(unit + cut)
    axes[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _means_against_ratio(
    ax: Axes,
    results: Sequence[dict[str, Any]],
    measure: str,
    objectives: list[str],
    etas: list[float],
) -> None:
    """A line for each objective: the mean over seeds at each η."""
    shades, markers = shades_of_q(len(objectives)), itertools.cycle(_MARKERS)
    for color, marker, objective in zip(shades, markers, objectives):
        means = {}
        for x, eta in enumerate(etas):
            own = [r for r in results if (r["objective"], r["eta"]) == (objective, eta)]
            if values := [max(r[measure], _LEAST_SHOWN) for r in own]:
                means[x] = sum(values) / len(values)
        if objective == "mle" and means:  # it has no η: a level to compare with
            ax.axhline(*means.values(), color=color, linestyle=":", label=objective)
            continue
        at, y = list(means), list(means.values())
        ax.plot(at, y, f"{marker}-", color=color, label=objective, markersize=5)


def _curves(best: dict[str, dict[str, Any]], at_a_ratio: dict[str, dict[str, Any]]) -> Figure:
    """avg. JS on the way of each objective, and the true and printed loss of the one mixce run."""
    figure = new_figure(figsize=(12, 4.6), layout="constrained")
    layout: Any = [["fit", "loss"], ["fit", "surrogate"]] if at_a_ratio else [["fit"]]
    panels = figure.subplot_mosaic(layout)
    _learning(panels["fit"], best)
    for label, run in at_a_ratio.items():
        steps = [point["step"] for point in run["curve"]]
        for key, title, color, line in (
            ("loss", f"{label}: its true loss", Q_COLOR, "-"),
            (
                "surrogate",
                "what its surrogate prints on the way, by the same gradient",
                _DARK,
                "--",
            ),
        ):
            panels[key].plot(steps, [point[key] for point in run["curve"]], f".{line}", color=color)
            panels[key].set(title=title, ylabel="nats per sequence", xscale="symlog")
            panels[key].set_xlim(left=-0.1)
        panels["surrogate"].set(xlabel="step, or epoch")
    return figure


def _learning(ax: Axes, best: dict[str, dict[str, Any]]) -> None:
    # a GPT's curve has its loss alone
    measured = all("avg_js" in point for run in best.values() for point in run["curve"])
    name, title = ("avg_js", "avg. JS") if measured else ("loss", "loss")
    shades, markers = shades_of_q(len(best)), itertools.cycle(_MARKERS)
    for color, marker, (label, run) in zip(shades, markers, best.items()):
        steps, values = ([point[key] for point in run["curve"]] for key in ("step", name))
        values = [max(value, _LEAST_SHOWN) for value in values] if measured else values
        ax.plot(steps, values, f"{marker}-", color=color, label=label, markersize=4)
    ax.set(
        title=f"Learning at the best η: {title}",
        xlabel="step, or epoch",
        ylabel="nats" if measured else "nats, of each its own loss",
    )
    ax.set_yscale("log" if measured else "symlog")
    ax.legend(fontsize=8)


# ---- the study of estimators ---------------------------------------------------------------------


_UNBIASED = ("reinforce", "reward_to_go", "rloo", "k2")


_OTHER_COLORS = (
    "#9467bd",
    "#2ca02c",
    "#d62728",
    "#8c564b",
    "#e377c2",
    "#17becf",
    "#bcbd22",
    "#7f7f7f",
)


def study(rows: Sequence[dict[str, Any]], path: FilePath) -> None:
    """Errors of the estimators against the number of samples -> the PNG file `path`. rows: what
    estimators.study found. Unbiased estimators are black.
    """
    figure = new_figure(figsize=(13.5, 4.8), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    names = list(dict.fromkeys(row["estimator"] for row in rows))
    colors = itertools.cycle(_OTHER_COLORS)
    for marker, name in zip(itertools.cycle(_MARKERS), names):
        own = [row for row in rows if row["estimator"] == name]
        n = [row["n"] for row in own]
        color = "black" if name in _UNBIASED else next(colors)
        for ax, value in zip(axes, ("mse", "variance", "bias2")):
            y, bars = ([row[key] for row in own] for key in (value, f"{value}_se"))
            shown = (
                [v if v > 2 * e else float("nan") for v, e in zip(y, bars)]
                if value == "bias2"
                else y
            )
            style = f"{marker}{'-' if color == 'black' else '--'}"
            ax.errorbar(
                n, shown, yerr=bars, fmt=style, color=color, capsize=2, markersize=5, label=name
            )
    titles = ("Mean squared error", "Variance", "Squared bias, where two standard errors from 0")
    sizes = sorted({row["n"] for row in rows})
    for ax, title in zip(axes, titles):
        ax.set(xscale="log", yscale="log", xlabel="samples n", title=title)
        ax.set_xticks(sizes, [str(n) for n in sizes])
        ax.minorticks_off()
        ax.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    axes[0].set_ylabel("over the exact gradient's squared norm")
    axes[2].legend(
        *axes[0].get_legend_handles_labels(),
        fontsize=8,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    _save(figure, path)
