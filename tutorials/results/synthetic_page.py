"""The tables of synthetic_results.md, from the CSV files beside this one: python tutorials/results/synthetic_page.py

First it computes what needs no grid, in a minute: the fixed points of MixCE on the counts (synthetic_fixed_points.csv),
the optima of the objectives with a reverse part (synthetic_collapse.csv) and the paper's protocol with parts of it changed
(synthetic_training.csv). Then it writes every table of the page anew, between lines <!-- name --> and <!-- end -->. The
commands that made the other files stand on the page.
"""

import csv
import math
import os
import re
import statistics
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from minimixce import worlds
from minimixce.experiments import matrices
from minimixce.experiments.fixed_points import fixed_point
from minimixce.experiments.synthetic.data import counts_of, data_of
from minimixce.experiments.synthetic.grid import ETAS, SEEDS
from minimixce.experiments.synthetic.job import Job
from minimixce.experiments.synthetic.optima import fit_exact
from minimixce.experiments.synthetic.paper import fit_paper

HERE = Path(__file__).parent
PAGE = HERE.parent / "synthetic_results.md"
MEASURES = ("avg_js", "avg_zeros")
NEAR_COUNTING = (("mixce", 0.99), ("mixce", 0.9), ("mixce", 0.5), ("mixce_star", 0.99), ("two_kls", 0.99), ("two_kls", 0.5))


def read(name):
    """Rows of synthetic_NAME.csv, numbers as floats."""
    with open(HERE / f"synthetic_{name}.csv", newline="") as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text


def write(name, rows):
    with open(HERE / f"synthetic_{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# ---- what needs no grid -----------------------------------------------------------------------------------------------


def fixed_points(seed):
    """avg. JS and avg. 0s of counting (η = 1) and of MixCE's fixed point on the counts, 20 tokens."""
    data = data_of("", 20, 0.5, seed)
    counts = counts_of(data.train, 20)
    counting = counts / counts.sum(axis=1, keepdims=True)
    rows = []
    for eta in ETAS[1:]:  # at η = 0 there is none: each row is one token
        q = fixed_point("mixce", counting, eta)[0]
        found = {
            "avg_js": matrices.average_js(data.world.probs, q),
            "avg_zeros": matrices.average_zeros(data.world.probs, q),
        }
        rows.append({"seed": seed, "eta": eta, **found})
    return rows


def collapse(seed=7):
    """What the optimum of each objective writes, at 20 tokens."""
    data, rows = data_of("", 20, 0.5, seed), []
    p = data.world
    rows.append(
        {"objective": "P itself", "eta": "", "empty": p.probs[0, 0], "entropy": p.entropy(), "length": p.expected_length()}
    )
    for objective in ("mixce_star", "two_kls"):
        for eta in (0.0, 0.5, 0.9, 0.99):
            learned, *_ = fit_exact(Job("", 20, 0.5, seed, objective, eta), data)
            q = worlds.markov(learned / learned.sum(axis=1, keepdims=True))
            row = {"objective": objective, "eta": eta, "empty": q.probs[0, 0]}
            rows.append(row | {"entropy": q.entropy(), "length": q.expected_length()})
    return rows


CHANGES = {  # the protocol's training of maximum likelihood, and what is changed in it
    "the protocol": {},
    "no dropout": {"dropout": 0.0},
    "no decay": {"l2": 0.0},
    "neither": {"dropout": 0.0, "l2": 0.0},
    "both, 200 epochs, never stopped": {"epochs": 200, "patience": 200},
    "neither, 200 epochs, never stopped": {"dropout": 0.0, "l2": 0.0, "epochs": 200, "patience": 200},
}


def training(seed):
    """Where maximum likelihood ends by the paper's protocol with parts of it changed, at 20 tokens."""
    data, rows = data_of("", 20, 0.5, seed), []
    job = Job("", 20, 0.5, seed, "mle", 1.0, protocol="paper", model="neural")
    for name, changes in CHANGES.items():
        learned, _, steps, _ = fit_paper(job, data, **changes)
        rows.append({"seed": seed, "training": name, "avg_js": matrices.average_js(data.world.probs, learned), "steps": steps})
    return rows


# ---- tables -----------------------------------------------------------------------------------------------------------


def markdown(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def mean(values):
    """ "mean ± standard error", or the one value."""
    values = list(values)
    if len(values) == 1:
        return f"{values[0]:.2e}"
    return f"{statistics.mean(values):.2e} ± {statistics.stdev(values) / math.sqrt(len(values)):.0e}"


def of(rows, name="avg_js", **fields):
    """The values of one measure in the rows with these fields."""
    return [row[name] for row in rows if all(row[key] == value for key, value in fields.items())]


def summary(name):
    heads = ("world", "tokens", "objective", "best η", "avg. JS", "avg. 0s", "seeds", "gradient", "allowed to use")
    rows = []
    for r in read(name):
        measures = (f"{r[m]:.2e}" + (f" ± {r[m + '_se']:.0e}" if r["seeds"] > 1 else "") for m in MEASURES)
        measures = ("≤ 1e-12" if r[m] < 1.001e-12 and m == "avg_zeros" else text for m, text in zip(MEASURES, measures))
        eta = "" if r["objective"] == "mle" else f"{r['best_eta']:g}"
        rows.append((r["world"], f"{r['vocab_size']:g}", f"`{r['objective']}`", eta, *measures, f"{r['seeds']:g}"))
        rows[-1] += (r["gradient"], r["uses"])
    return markdown(heads, rows)


def columns():
    """MixCE at 20 tokens: counting, fixed point, and what training ends at."""
    points, runs, network, paper = read("fixed_points"), read("runs"), read("neural_runs"), read("paper_runs")
    seeds = sorted({r["seed"] for r in network})
    counting = mean(r["avg_js"] for r in points if r["eta"] == 1 and r["seed"] in seeds)
    rows = []
    for eta in ETAS:
        point = [r["avg_js"] for r in points if r["eta"] == eta and r["seed"] in seeds]
        trained = (
            [v for s in seeds for v in of(found, objective="mixce", eta=eta, vocab_size=20, seed=s)]
            for found in (runs, network, paper)
        )
        trained = [*map(list, trained)]
        above = f"{np.mean(trained[-1]) / np.mean(point):.1f}×" if point else ""
        rows.append((f"{eta:g}", counting, mean(point) if point else "none", *map(mean, trained), above))
    heads = (
        "η (η = 1 is MLE)",
        "counting",
        "fixed point on the counts",
        "table, exact",
        "network, exact",
        "the paper's protocol",
        "protocol over fixed point",
    )
    return markdown(heads, rows)


def differences():
    """Seed by seed at 20 tokens: an objective's optimum less counting, and for mixce the protocol less its own η = 1."""
    runs, paper = read("runs"), read("paper_runs")
    seeds = sorted({r["seed"] for r in paper})
    counting, rows = js(runs, seeds, "mle", 1.0), []
    for objective, eta in NEAR_COUNTING:
        optimum = js(runs, seeds, objective, eta)
        changes = optimum - counting
        row = (f"`{objective}`, η = {eta:g}", mean(changes), f"{optimum.mean() / counting.mean():.3g}×")
        row += (f"{(changes < 0).sum()} of {len(seeds)}",)
        if objective == "mixce":
            trained = js(paper, seeds, objective, eta)
            row += (mean(trained - js(paper, seeds, objective, 1.0)), mean(trained - optimum))
        rows.append(row + ("",) * (6 - len(row)))
    heads = ("", "optimum less counting", "over counting", "seeds better", "protocol less its η = 1", "protocol less optimum")
    return markdown(heads, rows)


def js(rows, seeds, objective, eta):
    """avg. JS at 20 tokens, by seed."""
    return np.array([of(rows, objective=objective, eta=eta, vocab_size=20, seed=seed)[0] for seed in seeds])


def reference():
    """Seed 7, 20 tokens: the authors' code, the protocol here, and the optimum, of which the other two are multiples."""
    runs, paper, sampled, rows = read("runs"), read("paper_runs"), read("gumbel_runs"), []
    for r in read("reference"):
        fields = {"objective": r["objective"], "eta": r["eta"], "vocab_size": 20, "seed": 7}
        (here,), (best,) = of(paper + sampled, **fields), of(runs, **fields)
        label = f"`{r['objective']}`" + ("" if r["objective"] == "mle" else f", η = {r['eta']:g}")
        how = "by RLOO, short of it" if r["objective"] == "js" else "exact"
        trained = (f"{value:.2e} ({value / best:,.{0 if value > 9.95 * best else 1}f}×)" for value in (r["avg_js"], here))
        rows.append((label, *trained, f"{best:.2e}", how))
    return markdown(("seed 7", "the authors' code", "the protocol here", "at the optimum", "found"), rows)


def changed_training():
    found = read("training")
    counting, rows = np.mean([r["avg_js"] for r in read("fixed_points") if r["eta"] == 1]), []
    for name in CHANGES:
        values = of(found, training=name)
        rows.append((name, mean(values), f"{np.mean(values) / counting:.1f}×"))
    return markdown(("training of `mle`", "avg. JS", "over counting"), rows)


def point_mass():
    rows = []
    for r in read("collapse"):
        name, eta = (r["objective"], "") if r["eta"] == "" else (f"`{r['objective']}`", f"{r['eta']:g}")
        rows.append((name, eta, f"{r['empty']:.3f}", f"{r['entropy']:.2f}", f"{r['length']:.2f}"))
    return markdown(("", "η", "Q(empty sequence)", "entropy of Q, nats", "mean length, the end counted"), rows)


def single(name):
    """Runs with one seed, each by itself, below counting on the same data."""
    counting = next(r for r in read("runs") if (r["objective"], r["vocab_size"], r["seed"]) == ("mle", 20, 7))
    rows = [("counting", "", f"{counting['avg_js']:.2e}", "0", "", "", "samples")]
    for r in read(name):
        eta = "" if r["objective"] == "mle" else f"{r['eta']:g}"
        rows.append((f"`{r['objective']}`", eta, f"{r['avg_js']:.2e}", f"{r['avg_zeros']:.2e}", f"{r['steps']:g}"))
        rows[-1] += (r["gradient"], r["uses"])
    return markdown(("objective", "η", "avg. JS", "avg. 0s", "steps", "gradient", "allowed to use"), rows)


def speed():
    rows = []
    for r in read("speed"):
        unpadded = "" if r["unpadded_ratio"] == "" else f"{r['unpadded_ratio']:.0f}×"
        rows.append((f"`{r['objective']}`", f"{r['batches']:g}", f"{r['here_s']:.3f}", f"{r['pytorch_s']:.2f}"))
        rows[-1] += (f"{r['ratio']:.0f}×", f"{r['smallest']:.0f}–{r['largest']:.0f}", unpadded)
    heads = ("objective", "batches", "here, s", "PyTorch, s", "ratio", "over rounds", "ratio without padding there")
    return markdown(heads, rows)


def dropout():
    found = read("dropout")
    rows = [(f"{r['seed']:g}", f"{r['by_row']:.2e}", f"{r['by_token']:.2e}") for r in found]
    rows.append(("mean", *(mean(r[name] for r in found) for name in ("by_row", "by_token"))))
    rows.append(("here less PyTorch", mean(r["by_row"] - r["by_token"] for r in found), ""))
    return markdown(("seed", "8 masks a row and batch (here)", "a mask a token (PyTorch)"), rows)


TABLES = {
    "table": lambda: summary("table"),
    "columns": columns,
    "differences": differences,
    "reference": reference,
    "changed training": changed_training,
    "point mass": point_mass,
    "gumbel": lambda: single("gumbel_runs"),
    "gpt": lambda: single("gpt_runs"),
    "full": lambda: summary("full_table"),
    "speed": speed,
    "dropout": dropout,
}


def rendered(page):
    """The page's text with every table written anew."""
    for name, table in TABLES.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = place.subn(rf"\g<1>\n{table()}\n\n\g<2>", page)  # no table has a backslash
        if count != 1:
            raise ValueError(f"{PAGE.name} must have one place for the table {name!r}, found {count}")
    return page


def main():
    write("fixed_points", [row for seed in SEEDS for row in fixed_points(seed)])
    write("collapse", collapse())
    write("training", [row for seed in SEEDS for row in training(seed)])
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
