"""One training step (forward, MixCE, backward, clipping, AdamW) beside PyTorch: python
benchmarks/train_step.py

Each side runs in a process of its own, with the settings that a user has by default, and waits
while the other works; rounds alternate, and medians of single steps are compared. Also: the same
matrix products alone in both BLAS libraries; of minimixce's step the share of these products, the
share of calls (a step of as many layers on arrays of a few numbers), with the rest element-wise
work, and the share of the speed of one large product; and the growth of the most memory that a side
and its child processes held (proportional set size, polled during three steps).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import report

SHAPES = {  # name: layers, heads, channels, T, batch, V
    "4/4/128": (4, 4, 128, 64, 12, 65),
    "2/2/64": (2, 2, 64, 32, 32, 65),
    "4/4/256": (4, 4, 256, 128, 16, 512),
    "6/6/384": (6, 6, 384, 256, 8, 65),
}
PEAK = 1536  # rows and columns of the product whose speed stands for the peak


def products(n_layer, n_head, C, T, B, V):
    """(count, batch, m, k, n) of every matrix product of a step, forward and backward."""
    N, D = B * T, C // n_head
    linear = [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)]
    shapes = [(n_layer, 1, N, i, o) for i, o in linear] + [(1, 1, N, C, V)]
    shapes += [(c, 1, m, n, k) for c, _, m, k, n in shapes] + [
        (c, 1, k, m, n) for c, _, m, k, n in shapes
    ]
    attention = [(T, D, T), (T, T, D)]  # scores and values
    return shapes + [(3 * n_layer, B * n_head, *s) for s in attention]


def flops(shape):
    return sum(2 * count * batch * m * k * n for count, batch, m, k, n in products(*shape))


def memory():
    """MiB of this process and its children; what they share is counted once."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    total = 0
    for process in ["self", *children]:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            total += int(line.split()[1]) / 1024 if line.startswith("Pss:") else 0
    return total


def most_memory(work):
    """The most that `memory` finds while work() runs."""
    found, done = [memory()], threading.Event()

    def poll():
        while not done.wait(0.002):
            found.append(memory())

    poller = threading.Thread(target=poll)
    poller.start()
    work()
    done.set()
    poller.join()
    return max(found)


def numpy_side(shape, threads):
    import functools

    import numpy as np
    from threadpoolctl import threadpool_limits

    import minimixce as mm
    from minimixce import backend
    from minimixce.training import steps

    if threads is not None:
        threadpool_limits(threads)
    backend.reuse_freed_memory()
    n_layer, n_head, C, T, B, V = shape
    before = memory()
    tokens = np.random.default_rng(0).integers(0, V, (B, T + 1))
    model = mm.GPT(mm.GPTConfig(V, T, n_layer, n_head, C), device="cpu")
    optimizer = mm.AdamW(model.params, 1e-3)
    mixce = functools.partial(mm.objectives.mixce, eta=0.5)
    step = steps.GroupedObjective(mixce, shards=None)

    def run():
        _, grads = step(model, [(tokens[:, :-1], tokens[:, 1:])], 0)
        mm.optim.clip_grads(grads, 1.0)
        optimizer.step(grads)

    def random(*shape):
        return np.random.default_rng(0).random(shape, np.float32)

    return run, random, before, step.close


def torch_side(shape, threads, compiled=False):
    import torch

    from torch_gpt import TorchGPT, mixce, optimizer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    n_layer, n_head, C, T, B, V = shape
    before = memory()
    tokens = torch.randint(0, V, (B, T + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    model = TorchGPT(V, T, n_layer, n_head, C)
    adamw = optimizer(model, 1e-3)

    def loss_of():
        return mixce(model(inputs), targets, 0.5)

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def run():
        adamw.zero_grad()
        loss_of().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()

    return run, torch.rand, before, lambda: None


def multiply(operands):
    for count, a, b in operands:
        for _ in range(count):
            a @ b


def worker(side, shape, threads):
    """Answer each line {"what": "run" | "products" | "calls" | "peak" | "memory", "count": n}
    with a list of seconds, or MiB.
    """
    if side in ("torch", "compiled"):
        run, random, before, close = torch_side(shape, threads, side == "compiled")
    else:
        run, random, before, close = numpy_side(shape, threads)
    work = {"run": run}
    for line in sys.stdin:
        order = json.loads(line)
        what, answer = order["what"], []
        if what == "products" and what not in work:  # made late: memory is that of the steps alone
            lead = [
                (c, () if batch == 1 else (batch,), m, k, n)
                for c, batch, m, k, n in products(*shape)
            ]
            operands = [(c, random(*b, m, k), random(*b, k, n)) for c, b, m, k, n in lead]
            work[what] = lambda operands=operands: multiply(operands)
        if what == "calls" and what not in work:
            n_layer, n_head, *_ = shape
            work[what], *_ = numpy_side((n_layer, n_head, n_head, 1, 1, 2), None)
        if what == "peak" and what not in work:
            square = [(1, random(PEAK, PEAK), random(PEAK, PEAK))]
            work[what] = lambda square=square: multiply(square)
        if what != "run":
            close()  # products have all threads, which shards keep to their share of until then
        elif order["count"]:
            run()  # forks shards anew
        for _ in range(order["count"]):
            start = time.perf_counter()
            work[what]()
            answer.append(time.perf_counter() - start)
        if what == "memory":
            answer = most_memory(lambda: [run() for _ in range(3)]) - before
        print(json.dumps(answer), flush=True)


class Side:
    def __init__(self, name, shape, threads):
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
        }
        argv = [
            sys.executable,
            __file__,
            "--worker",
            name,
            "--shape",
            json.dumps(shape),
            "--threads",
            str(threads),
        ]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, what, count=0):
        print(json.dumps({"what": what, "count": count}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(name, threads, rounds, compiled):
    shape = SHAPES[name]
    names = ["numpy", "torch"] + ["compiled"] * compiled
    sides = {side: Side(side, shape, threads) for side in names}
    for side in sides.values():
        side.ask("run", 3)
    held = {key: side.ask("memory") for key, side in sides.items()}
    per_round = max(2, int(0.6 / (sum(sides["torch"].ask("run", 3)) / 3)))
    seconds = {
        key: [] for key in [*sides, "numpy products", "torch products", "numpy calls", "numpy peak"]
    }
    for _ in range(rounds):
        for key, side in sides.items():
            seconds[key] += side.ask("run", per_round)
        for key in ("numpy", "torch"):
            seconds[f"{key} products"] += sides[key].ask("products", max(2, per_round // 4))
        seconds["numpy calls"] += sides["numpy"].ask("calls", 5)
        seconds["numpy peak"] += sides["numpy"].ask("peak", 2)
    for side in sides.values():
        side.close()
    median = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "shape": name,
        "threads": threads,
        "numpy_ms": 1e3 * median["numpy"],
        "torch_ms": 1e3 * median["torch"],
        "ratio": median["numpy"] / median["torch"],
        "ratio_to_compiled": median["numpy"] / median["compiled"] if compiled else "",
        "blas_ratio": median["numpy products"] / median["torch products"],
        "products_share": median["numpy products"] / median["numpy"],
        "calls_share": median["numpy calls"] / median["numpy"],
        "sgemm_peak_share": flops(shape) / median["numpy"] / (2 * PEAK**3 / median["numpy peak"]),
        "memory_mib": held["numpy"],
        "torch_memory_mib": held["torch"],
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--thread-counts", default="1,2")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--compiled", action="store_true", help="also beside torch.compile (slow to start)"
    )
    parser.add_argument("--out", default="train_step.csv")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, args.shape, args.threads)
    import numpy
    import torch

    report.print_machine(numpy, torch, note=f"median of {args.rounds} alternating rounds")
    rows = []
    for name in args.shapes.split(","):
        for threads in map(int, args.thread_counts.split(",")):
            row = measure(name, threads, args.rounds, args.compiled)
            rows.append(row)
            report.print_row(row)
    report.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
