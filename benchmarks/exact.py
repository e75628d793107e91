"""The cost of exact values and gradients, every sequence by itself against every shared prefix
once: python benchmarks/exact.py

One line a shape: the number of sequences, milliseconds of one exact gradient by list and by tree
(rounds alternate, medians), their ratio, the ratio of the positions they compute, which is what the
tree saves where arithmetic is all, and the peak of the arrays that each allocates beyond the model.
First a shape as in an experiment; then max_len alone and V alone grow. Milliseconds are of CPU
time, in one thread: what others do on the machine costs them less noise than a clock on the wall.
"""

import argparse
import gc
import os
import statistics
import time
import tracemalloc

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

import minimixce as mm
import report
from minimixce import backend, exact, worlds

MAIN = {"V": 6, "max_len": 8, "n_layer": 2, "C": 64, "dtype": "float64"}
SWEEP = {"V": 5, "max_len": 5, "n_layer": 2, "C": 32, "dtype": "float64"}
SWEEPS = {"max_len": (2, 3, 4, 5, 6, 7), "V": (2, 3, 5, 9, 13)}
LARGE = {"V": 11, "max_len": 8, "n_layer": 2, "C": 64, "dtype": "float32"}


def positions(V, max_len):
    """How many positions pass through the model -> by list, by tree."""
    listed = sum((V - 1) ** k * min(k + 1, max_len - 1) for k in range(max_len))
    return listed, sum((V - 1) ** k for k in range(max_len - 1))


def measure(what, V, max_len, n_layer, C, dtype, rounds, methods=("list", "tree")):
    model = mm.GPT(mm.GPTConfig(V, max_len, n_layer, 4, C, dtype=dtype), device="cpu")
    world = worlds.random_markov(V, 0.5, 0)

    def run(method):
        start = time.process_time()
        found = exact.loss_and_grads(
            model, world, max_len, objective="two_kls", method=method, progress=False
        )
        return time.process_time() - start, found

    seconds, found, peak = {method: [] for method in methods}, {}, {}
    for k in range(rounds + (rounds > 1)):
        for method in methods:
            elapsed, found[method] = run(method)
            if k or rounds == 1:  # the first of several rounds warms up
                seconds[method].append(elapsed)
    if len(methods) == 2:
        (a, _), (b, _) = found.values()
        assert abs(a - b) <= 1e-5 * abs(a), "list and tree disagree"
    for method in methods:
        gc.collect()
        tracemalloc.start()
        run(method)
        peak[method] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
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
        "list_ms": ms.get("list", ""),
        "tree_ms": ms["tree"],
        "speedup": ms["list"] / ms["tree"] if "list" in ms else "",
        "fewer_positions": listed / tree,
        "list_MiB": peak.get("list", ""),
        "tree_MiB": peak["tree"],
    }


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
        help="also V = 11, max_len 8: 11 million sequences, tree only",
    )
    parser.add_argument("--out", default="exact.csv")
    args = parser.parse_args()
    backend.reuse_freed_memory()
    report.print_machine(np, note="1 thread; medians of alternating rounds")
    jobs = [("main", MAIN, args.rounds, ("list", "tree"))]
    for name, sizes in SWEEPS.items():
        jobs += [(name, SWEEP | {name: size}, args.rounds + 5, ("list", "tree")) for size in sizes]
    if args.large:
        jobs.append(("large", LARGE, 1, ("tree",)))
    rows = []
    for what, shape, rounds, methods in jobs:
        rows.append(measure(what, **shape, rounds=rounds, methods=methods))
        report.print_row(rows[-1])
    report.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
