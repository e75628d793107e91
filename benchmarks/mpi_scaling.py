"""Training steps on one, two and four ranks: python benchmarks/mpi_scaling.py

Strong scaling keeps the batch, weak scaling gives every rank a batch of that size. Each rank has
one thread. Jobs of all sizes alternate, round by round, and medians over all steps of all rounds
are compared. A step is what `fit` makes of a batch: forward, MixCE, backward, the sum over ranks,
clipping, AdamW. Its parts: the rank's own forward and backward; waiting for the slowest rank; the
sum itself; the rest, which is copying gradients, clipping and AdamW. Then the formula of
tutorials/mpi.md predicts more ranks from what one rank needs, on a network of --gigabits and
--microseconds.
"""

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

SHAPES = {  # name: layers, heads, channels, T, batch, V
    "4/4/128": (4, 4, 128, 64, 12, 65),
    "4/4/256": (4, 4, 256, 128, 16, 512),
}
PARTS = ("step", "own", "wait", "sum")


class Timed:
    """A communicator that notes how long its sums take, and how long it waits before them."""

    def __init__(self, communicator):
        self.communicator = communicator
        self.wait = self.sum = 0.0

    def __getattr__(self, name):
        return getattr(self.communicator, name)

    def Allreduce(self, own, summed):
        start = time.perf_counter()
        self.communicator.Barrier()
        together = time.perf_counter()
        self.communicator.Allreduce(own, summed)
        self.wait, self.sum = together - start, time.perf_counter() - together


def worker(shape, weak, count):
    """On every rank: rank 0 prints the seconds of each part, one list a part, and the bytes."""
    import numpy as np
    from mpi4py import MPI

    import minimixce as mm
    from minimixce import backend
    from minimixce.training import ranks, steps

    backend.reuse_freed_memory()
    n_layer, n_head, C, T, B, V = shape
    timed = Timed(MPI.COMM_WORLD)
    group = ranks.Ranks(timed)
    rows = B * group.size if weak else B
    tokens = np.random.default_rng(0).integers(0, V, (rows, T + 1))
    batch = tokens[:, :-1], tokens[:, 1:]
    model = mm.GPT(mm.GPTConfig(V, T, n_layer, n_head, C), device="cpu")
    optimizer = mm.AdamW(model.params, 1e-3)
    mixce = functools.partial(mm.objectives.mixce, eta=0.5)
    step = steps.GroupedObjective(mixce, share=(group.rank, group.size))
    found = {part: [] for part in PARTS}

    def own():
        start = time.perf_counter()
        made = step(model, [batch], 0)
        found["own"].append(time.perf_counter() - start)
        return made

    for _ in range(count + 3):
        start = time.perf_counter()
        _, grads = group.step(model, own, False)
        mm.optim.clip_grads(grads, 1.0)
        optimizer.step(grads)
        found["step"].append(time.perf_counter() - start)
        found["wait"].append(timed.wait)
        found["sum"].append(timed.sum)
    if group.is_first:
        seconds = {part: values[3:] for part, values in found.items()}
        size = 4 * sum(p.size for p in model.params.values())
        print(json.dumps(seconds | {"bytes": size}), flush=True)


def one_job(size, shape, weak, count):
    mpiexec = shutil.which("mpiexec", path=f"{sys.prefix}/bin") or shutil.which("mpiexec")
    argv = [mpiexec, "-n", str(size), sys.executable, __file__, "--worker", json.dumps(shape)]
    argv += ["--steps", str(count), *(["--weak"] if weak else [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout)


def predicted(own, rest, size, ranks, gigabits, microseconds, weak):
    """Seconds of a step on `ranks` ranks: the formula of tutorials/mpi.md."""
    bandwidth, latency = gigabits / 8 * 1e9, microseconds * 1e-6
    of_sum = 2 * (ranks - 1) / ranks * size / bandwidth + 2 * (ranks - 1) * latency
    return own / (1 if weak else ranks) + rest + (of_sum if ranks > 1 else 0)


def report(name, found, given):
    """Print a table of the parts' medians, and what the formula makes of one rank's."""
    size = found[1, False]["bytes"]
    print(f"\n{name}: {size / 1e6:.1f} MB of gradients")
    print(f"{'':8}{'ranks':>6}{'step ms':>9}{'own':>8}{'wait':>8}{'sum':>8}{'rest':>8}{'speed':>8}")
    medians = {}
    for (ranks, weak), job in found.items():
        of = {part: statistics.median(job[part]) for part in PARTS}
        of["rest"] = of["step"] - of["own"] - of["wait"] - of["sum"]
        medians[ranks, weak] = of
        speed = medians[1, False]["step"] / of["step"] * (ranks if weak else 1)
        cells = "".join(f"{1000 * of[part]:8.2f}" for part in ("own", "wait", "sum", "rest"))
        kind = "weak" if weak else "strong"
        print(f"{kind:8}{ranks:6}{1000 * of['step']:9.2f}{cells}{speed:8.2f}")
    one = medians[1, False]
    print(f"predicted at {given.gigabits:g} Gbit/s and {given.microseconds:g} µs:")
    for ranks in (8, 64, 1024):
        for weak in (False, True):
            of = (one["own"], one["step"] - one["own"], size)
            seconds = predicted(*of, ranks, given.gigabits, given.microseconds, weak)
            speed = one["step"] / seconds * (ranks if weak else 1)
            kind = "weak" if weak else "strong"
            print(f"{kind:8}{ranks:6}{1000 * seconds:9.2f}{'':32}{speed:8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=15, help="timed steps of a job")
    parser.add_argument("--sizes", default="1,2", help="numbers of ranks, 1 among them")
    parser.add_argument("--gigabits", type=float, default=10.0, help="of the network, a second")
    parser.add_argument("--microseconds", type=float, default=20.0, help="for a message to begin")
    parser.add_argument("--weak", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker, given.weak, given.steps)
        return
    sizes = [int(size) for size in given.sizes.split(",")]
    kinds = [(size, weak) for weak in (False, True) for size in sizes if not weak or size > 1]
    for name in given.shapes.split(","):
        found = {}
        for _ in range(given.rounds):
            for size, weak in kinds:
                job = one_job(size, SHAPES[name], weak, given.steps)
                kept = found.setdefault((size, weak), {part: [] for part in PARTS})
                for part in PARTS:
                    kept[part] += job[part]
                kept["bytes"] = job["bytes"]
        report(name, found, given)


if __name__ == "__main__":
    main()
