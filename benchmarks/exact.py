"""The cost of exact values and gradients, every sequence by itself against every shared prefix
once: python benchmarks/exact.py

One line a shape: the number of sequences, milliseconds of one exact gradient by list and by tree
(rounds alternate, medians), their ratio, the ratio of the positions they compute, which is what the
tree saves where arithmetic is all, and the peak of the arrays that each allocates beyond the model.
First a shape as in an experiment; then max_len alone and V alone grow, which is drawn, too.
Milliseconds are of CPU time, in one thread: what others do on the machine costs them less noise
than a clock on the wall.

--large takes the tree of a million prefixes by one thread and by several that share its subtrees,
and beside them the matrix products of the same shapes alone, which are the floor. These are seconds
on the wall, for a machine that is idle.
"""

import argparse
import gc
import os
import statistics
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

import minimixce as mm
import report
from minimixce import backend, exact, logprob, worlds

MAIN = {"V": 6, "max_len": 8, "n_layer": 2, "C": 64, "dtype": "float64"}
SWEEP = {"V": 5, "max_len": 5, "n_layer": 2, "C": 32, "dtype": "float64"}
SWEEPS = {"max_len": (2, 3, 4, 5, 6, 7), "V": (2, 3, 5, 9, 13)}
LARGE = {"V": 11, "max_len": 8, "n_layer": 2, "C": 64, "dtype": "float32"}


def positions(V, max_len):
    """How many positions pass through the model -> by list, by tree."""
    listed = sum((V - 1) ** k * min(k + 1, max_len - 1) for k in range(max_len))
    return listed, sum((V - 1) ** k for k in range(max_len - 1))


def gradient(V, max_len, n_layer, C, dtype):
    """A function that takes one exact gradient: gradient(…)(**options) -> loss, grads."""
    model = mm.GPT(mm.GPTConfig(V, max_len, n_layer, 4, C, dtype=dtype), device="cpu")
    world = worlds.random_markov(V, 0.5, 0)
    return lambda **options: exact.loss_and_grads(
        model, world, max_len, objective="two_kls", progress=False, **options
    )


def measure(what, V, max_len, n_layer, C, dtype, rounds, methods=("list", "tree")):
    run = gradient(V, max_len, n_layer, C, dtype)
    seconds, found, peak = {method: [] for method in methods}, {}, {}
    for k in range(rounds + (rounds > 1)):
        for method in methods:
            start = time.process_time()
            found[method] = run(method=method)
            if k or rounds == 1:  # the first of several rounds warms up
                seconds[method].append(time.process_time() - start)
    (a, _), (b, _) = found.values()
    assert abs(a - b) <= 1e-5 * abs(a), "list and tree disagree"
    for method in methods:
        peak[method] = peak_memory(lambda method=method: run(method=method))
    ms = {method: 1e3 * statistics.median(times) for method, times in seconds.items()}
    listed, tree = positions(V, max_len)
    return {
        "what": what,
        "V": V,
        "max_len": max_len,
        "n_layer": n_layer,
        "C": C,
        "dtype": dtype,
        "rounds": rounds,
        "sequences": exact.num_sequences(V, max_len),
        "list_ms": ms["list"],
        "tree_ms": ms["tree"],
        "speedup": ms["list"] / ms["tree"],
        "fewer_positions": listed / tree,
        "list_MiB": peak["list"],
        "tree_MiB": peak["tree"],
    }


def peak_memory(run):
    """MiB of the arrays that run() holds at most, beyond what is there before."""
    gc.collect()
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return peak


# ---- a large tree --------------------------------------------------------------------------------


def products(prefixes, V, max_len, n_layer, C, dtype):
    """The matrix products of a forward and a backward pass over so many prefixes, alone, in groups
    of as many rows as the tree takes at once.
    """
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    rows = logprob.rows_at_once(np)
    shapes = [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)] * n_layer + [(C, V)]
    layers = [(normal(rows, i), normal(i, o), normal(rows, o)) for i, o in shapes]
    for _ in range(round(prefixes / rows)):
        for x, weight, dy in layers:
            x @ weight
            dy @ weight.T
            x.T @ dy


def wall(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure_large(shards, rounds):
    """Seconds on the wall, medians of alternating rounds, by one thread and by `shards`, and of the
    products alone; and the peak of arrays.
    """
    run, prefixes = gradient(**LARGE), positions(LARGE["V"], LARGE["max_len"])[1]

    def products_by(count):
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda _: products(prefixes / count, **LARGE), range(count)))

    seconds = {}
    for _ in range(rounds):
        for count in sorted({1, shards}):
            tree = wall(lambda count=count: run(shards=count))
            floor = wall(lambda count=count: products_by(count))
            seconds.setdefault(count, []).append((tree, floor))
    for count, found in seconds.items():
        tree, floor = (statistics.median(times) for times in zip(*found))
        yield {
            "what": "large",
            **LARGE,
            "prefixes": prefixes,
            "shards": count,
            "tree_s": tree,
            "products_s": floor,
            "ratio": tree / floor,
            "tree_MiB": peak_memory(lambda count=count: run(shards=count)),
        }


# ---- the picture ---------------------------------------------------------------------------------


def draw(rows, path):
    """How the cost of list and tree grows with max_len and with V, as an SVG file."""
    from minimixce.lessons import figures

    figure = figures.figure(height=3.0)
    style = {
        "list": {"color": figures.CONTROL_COLOR, "marker": "s", "linestyle": "--"},
        "tree": {"color": figures.OTHER_COLOR, "marker": "o", "linestyle": "-"},
    }
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name in zip(axes, SWEEPS):
        mine = [row for row in rows if row["what"] == name]
        sizes = [row[name] for row in mine]
        for method, look in style.items():
            ax.plot(sizes, [row[f"{method}_ms"] for row in mine], label=method, **look)
        fixed = next(key for key in SWEEPS if key != name)
        ax.set(yscale="log", xlabel=name, xticks=sizes, title=f"{fixed} = {SWEEP[fixed]}")
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("one exact gradient, ms")
    axes[0].legend(frameon=False, loc="upper left")
    with open(path, "w", encoding="utf-8") as file:
        file.write(figures.to_svg(figure))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="of the main shape; the sweeps, being quick, take 5 more",
    )
    parser.add_argument(
        "--large",
        action="store_true",
        help="instead V = 11, max_len 8: 11 million sequences, 1,111,111 prefixes, tree only",
    )
    parser.add_argument(
        "--shards", type=int, help="threads of --large; by default as many as the CPU has cores"
    )
    parser.add_argument("--out", default="exact", help="writes OUT.csv and OUT.svg")
    args = parser.parse_args()
    backend.reuse_freed_memory()
    if args.large:
        report.print_machine(np, note="seconds on the wall; medians of alternating rounds")
        cores = os.cpu_count() or 1
        shards = args.shards or exact.default_shards(LARGE["V"], LARGE["max_len"], cores)
        rows = [*measure_large(shards, args.rounds)]
        for row in rows:
            report.print_row(row)
        report.write_csv(f"{args.out}_large.csv", rows)
        return
    report.print_machine(np, note="1 thread, CPU time; medians of alternating rounds")
    jobs = [("main", MAIN, args.rounds)]
    for name, sizes in SWEEPS.items():
        jobs += [(name, SWEEP | {name: size}, args.rounds + 5) for size in sizes]
    rows = []
    for what, shape, rounds in jobs:
        rows.append(measure(what, **shape, rounds=rounds))
        report.print_row(rows[-1])
    report.write_csv(f"{args.out}.csv", rows)
    draw(rows, f"{args.out}.svg")


if __name__ == "__main__":
    main()
