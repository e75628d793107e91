"""Estimators of the reverse gradient against the exact one: python benchmarks/estimators.py

A GPT (2 layers, 2 heads, 32 channels) on the agreement world, initialised at random and after 200
steps of maximum likelihood: bias, variance and mean squared error of every estimator over the
squared norm of the exact gradient; then how many samples RLOO needs for a relative error of 1 % and
what they cost beside the exact gradient. Writes CSV and a PNG.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import minimixce as mm
import report
from minimixce import backend, estimators, exact, worlds
from minimixce.experiments import on_worlds, plots


def seconds(function, rounds=7):
    """Median over calls, after one to warm up."""
    function()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def samples_for(error, model, world, max_len, objective):
    """How many samples RLOO needs for that relative error, summed exactly over all sequences: its
    baseline is the mean cost for large n, so that a sample contributes the variance Σ Q(x) (C(x) −
    mean)² ‖∇log Q(x)‖² − ‖g‖².
    """

    def flat(grads):
        return np.concatenate([g.reshape(-1) for g in grads.values()]).astype(float)

    rows = exact.sequences(world.vocab_size, max_len)
    q, mean = (
        np.exp(exact.log_prob(model, rows)),
        float(exact.loss_and_grads(model, world, max_len, objective=objective)[0]),
    )
    g = flat(exact.loss_and_grads(model, world, max_len, objective=objective)[1])
    second = 0.0
    for row, share in zip(rows, q):
        score = flat(estimators.k1(model, world, row[None], objective="reverse_kl")[1])
        second += (
            share
            * (float(estimators.k1(model, world, row[None], objective=objective)[0]) - mean) ** 2
            * (score @ score)
        )
    return int(np.ceil((second / (g @ g) - 1) / error**2))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [name for name, row in mm.objectives.OBJECTIVES.items() if row.cost]
    parser.add_argument("--objective", default="reverse_kl", choices=names)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--out", default="estimators.csv")
    args = parser.parse_args()
    backend.reuse_freed_memory()
    report.print_machine(np, note=args.objective)
    world, max_len, rows = worlds.agreement(), 4, []
    model = mm.GPT(mm.GPTConfig(world.vocab_size, max_len - 1, 2, 2, 32), seed=0, device="cpu")
    batches = on_worlds.RowBatches(world, world.sample(10_000, max_len, seed=0), 32, 0)
    for steps in (0, 200):
        if steps:
            mm.fit(
                model, batches, mm.objectives.mle, steps=steps, lr=3e-3, warmup=20, progress=False
            )
        validity = float(exact.measure(model, world, max_len)["validity"])
        print(f"\nafter {steps} steps of maximum likelihood, validity {validity:.3f}")
        found = estimators.study(
            model, world, max_len, objective=args.objective, sizes=(4, 16, 64), repeats=args.repeats
        )
        print(estimators.format_study(found))
        rows += [{"steps": steps, **row} for row in found]
        needed = samples_for(0.01, model, world, max_len, args.objective)

        def rloo():
            drawn = estimators.sample(model, 4096, max_len, seed=1)
            estimators.rloo(model, world, drawn, objective=args.objective)

        exactly = seconds(
            lambda: exact.loss_and_grads(model, world, max_len, objective=args.objective)
        )
        sampled = seconds(rloo) * needed / 4096
        print(
            f"RLOO needs {needed:,} samples for an error of 1 %: {sampled:.3g} s (timed at 4,096"
            " samples)"
        )
        print(f"the exact gradient: {exactly:.3g} s")
    report.write_csv(args.out, rows)
    plots.study([row for row in rows if row["steps"] == 0], args.out.removesuffix(".csv") + ".png")


if __name__ == "__main__":
    main()
