"""Figures from plain results (matplotlib, the extra 'plots'). One visual grammar: the data
distribution P is blue, models Q are orange, lighter from one objective to the next, hollow where
only the temperature changed, held-out text is a blue star.
"""

import itertools
from pathlib import Path

from .measures import mean_and_deviation

P_COLOR, Q_COLOR = "#1f77b4", "#e6710a"


_MARKERS = "osv^<>DPXhp"


_LEAST = 1e-12  # what logarithmic axes of the synthetic experiments end at


_DARK, _LIGHT = (0.45, 0.18, 0.0), (1.0, 0.75, 0.5)  # the ends of Q's shades


def new_figure(**options):
    """A matplotlib Figure, without pyplot, so that the caller's backend stays as it is. ValueError
    without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError('figures need matplotlib: pip install "minimixce[plots]"') from None
    return Figure(**options)


def _shades(count):
    return [
        tuple(d + (e - d) * i / max(1, count - 1) for d, e in zip(_DARK, _LIGHT))
        for i in range(count)
    ]


def comparison(result, path):
    """The picture of `minimixce compare` -> a PNG file. `result`: the content of its table.json."""
    figure = new_figure(figsize=(15, 8.5), layout="constrained")
    axes = figure.subplots(2, 3)
    labels = list(result["objectives"])
    color = dict(zip(labels, _shades(len(labels))))
    held_out = result["held_out"]

    ax = axes[0, 0]
    for label in labels:
        for k, curve in enumerate(result["curves"][label]):
            ax.plot(
                curve["step"],
                curve["perplexity"],
                color=color[label],
                label=label if k == 0 else None,
            )
    ax.set(
        title="Learning curves, one line a seed",
        xlabel="step",
        ylabel="validation perplexity",
        yscale="log",
    )
    ax.legend(fontsize=8)

    ax = axes[0, 1]
    _plane(
        ax,
        [result["rows"][label] for label in labels],
        "o-",
        "trained with another objective",
        labels,
        (8, -14),
    )
    temperatures = result["temperatures"]
    if temperatures:
        names = [f"τ = {t}" for t in temperatures]
        _plane(
            ax, list(temperatures.values()), "s--", "MLE at lower temperature τ", names, (-44, 4)
        )
    best = min(r["perplexity"] for rows in result["rows"].values() for r in rows)
    star = {"marker": "*", "color": P_COLOR, "markersize": 17, "linestyle": "none"}
    ax.plot(
        best,
        held_out["word_validity"],
        **star,
        label="held-out text\n(its perplexity is at most this)",
    )
    ax.margins(x=0.16)
    ax.set(
        title="Word validity against perplexity",
        xlabel="validation perplexity",
        ylabel="words that occur in training",
    )
    ax.legend(fontsize=8)

    panels = [
        ("entropy", "Entropy of Q at held-out contexts", "nats per token"),
        ("diversity", "Diversity of samples", "distinct n-grams / n-grams"),
        ("repetition", "Repetition in samples", "share of text"),
        ("word_validity", "Word validity of samples", "share of words"),
    ]
    shown = result["rows"] | result["controls"]
    for ax, (name, title, unit) in zip([axes[0, 2], *axes[1]], panels):
        for x, (label, rows) in enumerate(shown.items()):
            values = [row[name] for row in rows]
            shade, fill = color.get(label, Q_COLOR), "full" if label in color else "none"
            ax.plot([x] * len(values), values, "o", color=shade, fillstyle=fill, alpha=0.8)
            ax.plot(
                [x - 0.25, x + 0.25], [sum(values) / len(values)] * 2, color=shade, linewidth=2.5
            )
        if name in held_out:
            ax.plot(len(shown), held_out[name], **star)
        ticks = [*shown, *(["held-out text"] if name in held_out else [])]
        ax.set_xticks(
            range(len(ticks)),
            [tick.replace(", ", ",\n") for tick in ticks],
            rotation=35,
            ha="right",
        )
        ax.set(title=title, ylabel=unit)
    figure.savefig(path, dpi=110)


def world_comparison(result, path):
    """The picture of `minimixce compare --world` -> a PNG file. `result` is the content of its
    table.json.
    """
    figure = new_figure(figsize=(13, 4.6), layout="constrained")
    axes = figure.subplots(1, 3)
    labels, rows = list(result["rows"]), result["rows"]
    color, marker = (
        dict(zip(labels, _shades(len(labels)))),
        dict(zip(labels, itertools.cycle(_MARKERS))),
    )
    for label in labels:
        x, y = ([row[name] for row in rows[label]] for name in ("forward_kl", "validity"))
        axes[0].plot(x, y, marker[label], color=color[label], label=label)
    axes[0].plot(0, 1, marker="*", color=P_COLOR, markersize=17, linestyle="none", label="P itself")
    axes[0].set(
        title="Validity against fit",
        xlabel="KL(P‖Q), nats per sequence",
        ylabel="probability of possible sequences",
    )
    axes[0].set_xscale("symlog", linthresh=0.1)
    axes[0].legend(fontsize=8)
    for ax, name, title in (
        (axes[1], "reverse_kl", "KL(Q‖P), floored"),
        (axes[2], "entropy_q", "Entropy of Q"),
    ):
        for x, label in enumerate(labels):
            values = [row[name] for row in rows[label]]
            errors = [row.get(f"{name}_se", 0.0) for row in rows[label]]
            ax.errorbar(
                [x] * len(values),
                values,
                yerr=errors,
                fmt=marker[label],
                color=color[label],
                capsize=3,
            )
        ax.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
        ax.set(title=title, ylabel="nats per sequence")
    axes[2].axhline(result["entropy_p"], color=P_COLOR, label="entropy of P")
    axes[2].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def synthetic(results, kept, gold, mixce, folder):
    """The figures of `minimixce synthetic` -> names of the PNG files.

    results: dicts of synthetic.run_grid; kept {label: {"learned": (V,V), "curve": list of dicts}}:
    the run of each objective at its best η in the first world and with the first seed, `gold` (V,V)
    that world, `mixce` such a dict with the one run of mixce whose loss is drawn, or an empty one.
    """
    folder = Path(folder)
    figure = new_figure(figsize=(3 * (1 + len(kept)), 3), layout="constrained")
    axes = figure.subplots(1, 1 + len(kept))
    for ax, (title, matrix) in zip(
        axes, {"P": gold, **{label: run["learned"] for label, run in kept.items()}}.items()
    ):
        shown = [[max(p, 1e-9) for p in row] for row in matrix]
        image = ax.imshow(
            shown, cmap="Blues" if title == "P" else "Oranges", norm="log", clim=(1e-6, 1)
        )
        ax.set(title=title, xlabel="next token", ylabel="last token" if title == "P" else "")
        figure.colorbar(image, ax=ax, shrink=0.8)
    figure.savefig(folder / "matrices.png", dpi=110)

    vocabularies, of_worlds = (
        list(dict.fromkeys(r[name] for r in results)) for name in ("vocab_size", "world")
    )
    objectives, etas = (
        list(dict.fromkeys(r["objective"] for r in results)),
        sorted({r["eta"] for r in results}),
    )
    figure = new_figure(
        figsize=(2 + 4 * len(vocabularies), 6.6 * len(of_worlds)), layout="constrained"
    )
    axes = figure.subplots(
        2 * len(of_worlds), len(vocabularies), squeeze=False, sharex=True, sharey="row"
    )
    panels = itertools.product(
        of_worlds, (("avg_js", "avg. JS", "nats"), ("avg_zeros", "avg. 0s", "probability"))
    )
    for row, (world, (measure, title, unit)) in zip(axes, panels):
        values = [max(r[measure], _LEAST) for r in results if r["world"] == world]
        row[0].set_ylim(min(values) / 3, 3 * max(values))
        for ax, V in zip(row, vocabularies):
            here = [r for r in results if (r["world"], r["vocab_size"]) == (world, V)]
            for color, marker, objective in zip(
                _shades(len(objectives)), itertools.cycle(_MARKERS), objectives
            ):
                own = [r for r in here if r["objective"] == objective]
                groups = {
                    eta: [max(r[measure], _LEAST) for r in own if r["eta"] == eta] for eta in etas
                }
                means = {
                    etas.index(eta): sum(values) / len(values)
                    for eta, values in groups.items()
                    if values
                }
                if objective == "mle" and means:  # it has no η: a level to compare with
                    ax.axhline(*means.values(), color=color, linestyle=":", label=objective)
                else:
                    ax.plot(
                        list(means),
                        list(means.values()),
                        f"{marker}-",
                        color=color,
                        label=objective,
                        markersize=5,
                    )
            ax.set(yscale="log", title=f"{title}, {world}, {V} tokens", xlabel="η (η = 1 is MLE)")
            ax.set_xticks(range(len(etas)), [f"{eta:g}" for eta in etas])
            ax.label_outer()
        row[0].set_ylabel(
            unit + (f", drawn as {_LEAST:.0e} where less" if min(values) == _LEAST else "")
        )
    axes[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(folder / "ratios.png", dpi=110)

    figure = new_figure(figsize=(12, 4.6), layout="constrained")
    panels = figure.subplot_mosaic([["fit", "loss"], ["fit", "surrogate"]] if mixce else [["fit"]])
    # a GPT's are not
    measured = all("avg_js" in point for run in kept.values() for point in run["curve"])
    ax, name, title = (
        panels["fit"],
        "avg_js" if measured else "loss",
        "avg. JS" if measured else "loss",
    )
    for color, marker, (label, run) in zip(
        _shades(len(kept)), itertools.cycle(_MARKERS), kept.items()
    ):
        steps, values = ([point[key] for point in run["curve"]] for key in ("step", name))
        values = [max(value, _LEAST) for value in values] if measured else values
        ax.plot(steps, values, f"{marker}-", color=color, label=label, markersize=4)
    ax.set(
        title=f"Learning at the best η: {title}",
        xlabel="step, or epoch",
        ylabel="nats" if measured else "nats, of each its own loss",
    )
    ax.set_yscale("log" if measured else "symlog")
    ax.legend(fontsize=8)
    for label, run in mixce.items():
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
    figure.savefig(folder / "curves.png", dpi=110)
    return "matrices.png", "ratios.png", "curves.png"


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


def study(rows, path):
    """Errors of the estimators of estimators.study against the number of samples -> a PNG file.
    Unbiased ones are black.
    """
    figure = new_figure(figsize=(13.5, 4.8), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    names, colors = (
        list(dict.fromkeys(row["estimator"] for row in rows)),
        itertools.cycle(_OTHER_COLORS),
    )
    for marker, name in zip(itertools.cycle(_MARKERS), names):
        own = [row for row in rows if row["estimator"] == name]
        n, color = [row["n"] for row in own], "black" if name in _UNBIASED else next(colors)
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
    figure.savefig(path, dpi=110)


def _plane(ax, groups, style, label, names, offset):
    """A curve through the mean (perplexity, validity) of each group, with bars of one standard
    deviation.
    """
    x, y = (
        [mean_and_deviation([row[name] for row in rows]) for rows in groups]
        for name in ("perplexity", "word_validity")
    )
    means, bars = ([v[0] for v in x], [v[0] for v in y]), ([v[1] for v in x], [v[1] for v in y])
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
