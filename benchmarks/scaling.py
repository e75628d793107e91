"""How the cost of a training step grows: python benchmarks/scaling.py

Time and peak memory of one step against batch, T, C, V and n_layer, each alone around 2 layers, 4
heads, C = 128, T = 64, batch 8, V = 256; printed with the slope in the log-log plot between the two
largest sizes, and drawn beside slopes 1 and 2.
"""

import argparse
import os
import statistics
import time
import tracemalloc

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import minimixce as mm
import report
from minimixce import backend

BASE = {"batch": 8, "T": 64, "C": 128, "V": 256, "n_layer": 2}
SWEEPS = {
    "batch": (2, 4, 8, 16, 32),
    "T": (32, 64, 128, 256, 512, 1024),
    "C": (64, 128, 256, 512),
    "V": (256, 1024, 4096, 16384),
    "n_layer": (1, 2, 4, 8),
}
EXPECTED = {  # as the size grows without end
    "batch": "1: every position costs the same",
    "T": "from 1 (products) towards 2 (attention scores)",
    "C": "from 1 (element-wise) towards 2 (products)",
    "V": "from 0 towards 1 (the output projection)",
    "n_layer": "1",
}


def step_cost(batch, T, C, V, n_layer, repeats=7):
    """(seconds, MiB) of one step: median time, and peak of arrays allocated beyond model and
    optimizer.
    """
    model = mm.GPT(mm.GPTConfig(V, T, n_layer, 4, C), device="cpu")
    optimizer = mm.AdamW(model.params, 1e-3)
    tokens = np.random.default_rng(0).integers(0, V, (batch, T + 1))

    def step():
        logits, cache = model.forward(tokens[:, :-1])
        _, dlogits = mm.objectives.mixce(logits, tokens[:, 1:])
        optimizer.step(model.backward(dlogits, cache))

    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return statistics.median(times), peak / 2**20


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="scaling", help="writes OUT.csv and OUT.png")
    args = parser.parse_args()
    backend.reuse_freed_memory()
    report.print_machine(np)
    rows = []
    for name, sizes in SWEEPS.items():
        for size in sizes:
            seconds, mebibytes = step_cost(**(BASE | {name: size}))
            rows.append({"varied": name, "size": size, "ms": 1e3 * seconds, "MiB": mebibytes})
        a, b = rows[-2:]
        slopes = [np.log(b[key] / a[key]) / np.log(b["size"] / a["size"]) for key in ("ms", "MiB")]
        print(
            f"{name:<8} last slope: time {slopes[0]:.2f}, memory {slopes[1]:.2f}; expected"
            f" {EXPECTED[name]}",
            flush=True,
        )
    report.write_csv(f"{args.out}.csv", rows)

    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for ax, key, title in zip(
        figure.subplots(1, 2), ("ms", "MiB"), ("Time of a step, ms", "Peak memory of a step, MiB")
    ):
        for name in SWEEPS:
            mine = [row for row in rows if row["varied"] == name]
            x = np.array([row["size"] / BASE[name] for row in mine])
            ax.loglog(x, [row[key] for row in mine], "o-", label=name)
        middle = next(
            row[key] for row in rows if row["varied"] == "batch" and row["size"] == BASE["batch"]
        )
        for slope in (1, 2):
            ax.loglog([1, 16], [middle, middle * 16**slope], "k:", linewidth=1)
            ax.annotate(f"slope {slope}", (16, middle * 16**slope), fontsize=8)
        ax.set(title=title, xlabel="size relative to the base shape")
        ax.legend(fontsize=8)
    figure.savefig(f"{args.out}.png", dpi=110)


if __name__ == "__main__":
    main()
