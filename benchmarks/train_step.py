"""One training step (forward, MixCE, backward, clipping, AdamW) beside PyTorch: python benchmarks/train_step.py

Each side runs in a process of its own and waits while the other works; rounds alternate, and medians of single steps are
compared. Also: the same matrix products alone in both BLAS libraries, their share of the step, and the growth of peak memory.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time

SHAPES = {  # name: layers, heads, channels, T, batch, V
    "4/4/128": (4, 4, 128, 64, 12, 65),
    "2/2/64": (2, 2, 64, 32, 32, 65),
    "4/4/256": (4, 4, 256, 128, 16, 512),
    "6/6/384": (6, 6, 384, 256, 8, 65),
}


def products(n_layer, n_head, C, T, B, V):
    """(count, batch, m, k, n) of every matrix product of a step, forward and backward."""
    N, D = B * T, C // n_head
    linear = [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)]
    shapes = [(n_layer, 1, N, i, o) for i, o in linear] + [(1, 1, N, C, V)]
    shapes += [(c, 1, m, n, k) for c, _, m, k, n in shapes] + [(c, 1, k, m, n) for c, _, m, k, n in shapes]
    attention = [(T, D, T), (T, T, D)]  # scores and values
    return shapes + [(3 * n_layer, B * n_head, *s) for s in attention]


def flops(shape):
    return sum(2 * count * batch * m * k * n for count, batch, m, k, n in products(*shape))


def rss():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def peak_rss():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def numpy_side(shape, threads):
    import numpy as np
    from threadpoolctl import threadpool_limits

    import minimixce as mm
    from minimixce import backend

    threadpool_limits(threads)
    backend.reuse_freed_memory()
    n_layer, n_head, C, T, B, V = shape
    before = rss()
    tokens = np.random.default_rng(0).integers(0, V, (B, T + 1))
    model = mm.GPT(mm.GPTConfig(V, T, n_layer, n_head, C), device="cpu")
    optimizer = mm.AdamW(model.params, 1e-3)

    def run():
        logits, cache = model.forward(tokens[:, :-1])
        _, dlogits = mm.objectives.mixce(logits, tokens[:, 1:], eta=0.5)
        grads = model.backward(dlogits, cache)
        mm.optim.clip_grads(grads, 1.0)
        optimizer.step(grads)

    def gemm():
        for (a, b), count in operands:
            for _ in range(count):
                a @ b

    rng = np.random.default_rng(0)
    operands = []
    for count, batch, m, k, n in products(*shape):
        lead = () if batch == 1 else (batch,)
        operands.append(((rng.random((*lead, m, k), np.float32), rng.random((*lead, k, n), np.float32)), count))
    return run, gemm, before


def torch_side(shape, threads, compiled=False):
    import torch
    from torch_gpt import TorchGPT, mixce, optimizer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    n_layer, n_head, C, T, B, V = shape
    before = rss()
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

    operands = []
    for count, batch, m, k, n in products(*shape):
        lead = () if batch == 1 else (batch,)
        operands.append(((torch.rand(*lead, m, k), torch.rand(*lead, k, n)), count))

    def gemm():
        for (a, b), count in operands:
            for _ in range(count):
                a @ b

    return run, gemm, before


def worker(side, shape, threads):
    """Answer each line {"what": "run" | "gemm" | "memory", "count": n} with a list of seconds, or MiB."""
    run, gemm, before = numpy_side(shape, threads) if side == "numpy" else torch_side(shape, threads, side == "compiled")
    for line in sys.stdin:
        order = json.loads(line)
        if order["what"] == "memory":
            answer = peak_rss() - before
        else:
            answer, function = [], run if order["what"] == "run" else gemm
            for _ in range(order["count"]):
                start = time.perf_counter()
                function()
                answer.append(time.perf_counter() - start)
        print(json.dumps(answer), flush=True)


class Side:
    def __init__(self, name, shape, threads):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        argv = [sys.executable, __file__, "--worker", name, "--shape", json.dumps(shape), "--threads", str(threads)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, what, count=1):
        print(json.dumps({"what": what, "count": count}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(name, threads, rounds, compiled):
    shape = SHAPES[name]
    sides = {side: Side(side, shape, threads) for side in ("numpy", "torch") + (("compiled",) if compiled else ())}
    for side in sides.values():
        side.ask("run", 3)
    memory = {key: side.ask("memory") for key, side in sides.items()}  # before the products alone allocate theirs
    per_round = max(2, int(0.6 / (sum(sides["torch"].ask("run", 3)) / 3)))
    seconds = {key: [] for key in sides}
    gemm = {"numpy": [], "torch": []}
    for _ in range(rounds):
        for key, side in sides.items():
            seconds[key] += side.ask("run", per_round)
        for key in gemm:
            gemm[key] += sides[key].ask("gemm", max(2, per_round // 4))
    for side in sides.values():
        side.close()
    median = {key: statistics.median(values) for key, values in seconds.items()}
    blas = {key: statistics.median(values) for key, values in gemm.items()}
    found = {
        "shape": name,
        "threads": threads,
        "numpy_ms": 1e3 * median["numpy"],
        "torch_ms": 1e3 * median["torch"],
        "ratio": median["numpy"] / median["torch"],
        "blas_ratio": blas["numpy"] / blas["torch"],
        "products_share": blas["numpy"] / median["numpy"],
        "gflops": flops(shape) / median["numpy"] / 1e9,
        "memory_mib": memory["numpy"],
        "torch_memory_mib": memory["torch"],
    }
    if compiled:
        found["ratio_to_compiled"] = median["numpy"] / median["compiled"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--thread-counts", default="1,2")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compiled", action="store_true", help="also beside torch.compile (slow to start)")
    parser.add_argument("--out", default="train_step.csv")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, args.shape, args.threads)
    import numpy
    import torch

    print(f"{platform.platform()}, {os.cpu_count()} CPUs; Python {platform.python_version()}, ", end="")
    print(f"NumPy {numpy.__version__}, PyTorch {torch.__version__}; median of {args.rounds} alternating rounds")
    rows = []
    for name in args.shapes.split(","):
        for threads in map(int, args.thread_counts.split(",")):
            row = measure(name, threads, args.rounds, args.compiled)
            rows.append(row)
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    with open(args.out, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
