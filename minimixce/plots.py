"""Figures from plain results (matplotlib, the extra 'plots'). One visual grammar: the data distribution P is blue, models Q
are orange, lighter where they trained with less maximum likelihood, held-out text is a blue star."""

P_COLOR, Q_COLOR = "#1f77b4", "#e6710a"
_SHADES = ("#8c3b00", "#e6710a", "#ffab5e", "#ffd5ad")


def _pyplot():
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise ValueError('figures need matplotlib: pip install "minimixce[plots]"') from None
    return plt


def comparison(result, path):
    """The picture of `minimixce compare` -> a PNG file. `result` is the content of its table.json."""
    plt = _pyplot()
    figure, axes = plt.subplots(2, 3, figsize=(15, 8.5), layout="constrained")
    labels = list(result["objectives"])
    color = {label: _SHADES[min(i, len(_SHADES) - 1)] for i, label in enumerate(labels)}
    held_out = result["held_out"]

    ax = axes[0, 0]
    for label in labels:
        for k, curve in enumerate(result["curves"][label]):
            ax.plot(curve["step"], curve["perplexity"], color=color[label], label=label if k == 0 else None)
    ax.set(title="Learning curves, one line a seed", xlabel="step", ylabel="validation perplexity", yscale="log")
    ax.legend()

    ax = axes[0, 1]
    _plane(ax, [result["rows"][label] for label in labels], Q_COLOR, "o-", "η (marker labels)", labels)
    temperatures = result["temperatures"]
    _plane(ax, list(temperatures.values()), "#555555", "s--", "MLE, temperature", [f"τ {t}" for t in temperatures])
    best = min(r["perplexity"] for rows in result["rows"].values() for r in rows)
    star = {"marker": "*", "color": P_COLOR, "markersize": 17, "linestyle": "none"}
    ax.plot(best, held_out["word_validity"], **star, label="held-out text\n(its perplexity is at most this)")
    ax.set(title="Word validity against perplexity", xlabel="validation perplexity", ylabel="words that occur in training")
    ax.legend()

    panels = [
        ("entropy", "Entropy of Q at held-out contexts", "nats per token"),
        ("diversity", "Diversity of samples", "distinct n-grams / n-grams"),
        ("repetition", "Repetition in samples", "share of text"),
        ("word_validity", "Word validity of samples", "share of words"),
    ]
    shown = [*labels, *result["controls"]]
    for ax, (name, title, unit) in zip([axes[0, 2], *axes[1]], panels):
        for x, label in enumerate(shown):
            rows = result["rows"].get(label) or result["controls"][label]
            values = [row[name] for row in rows]
            ax.plot([x] * len(values), values, "o", color=color.get(label, "#555555"), alpha=0.6)
            ax.plot([x - 0.25, x + 0.25], [sum(values) / len(values)] * 2, color=color.get(label, "#555555"), linewidth=2.5)
        if name in held_out:
            ax.plot(len(shown), held_out[name], **star)
        ticks = shown + (["held-out text"] if name in held_out else [])
        ax.set_xticks(range(len(ticks)), [tick.replace(", ", ",\n") for tick in ticks], rotation=35, ha="right")
        ax.set(title=title, ylabel=unit)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plane(ax, groups, color, style, label, names):
    """A curve through the mean (perplexity, validity) of each group, with bars of one standard deviation."""
    import numpy as np

    points = np.array([[[row["perplexity"], row["word_validity"]] for row in rows] for rows in groups])  # (group, seed, 2)
    mean = points.mean(axis=1)
    bars = points.std(axis=1, ddof=1) if points.shape[1] > 1 else np.zeros_like(mean)
    ax.errorbar(*mean.T, xerr=bars[:, 0], yerr=bars[:, 1], fmt=style, color=color, label=label, capsize=3)
    for (x, y), name in zip(mean, names):
        ax.annotate(name, (x, y), xytext=(6, 6), textcoords="offset points", fontsize=8, color=color)
