"""What a training step takes in memory and time, plain and with each of the forms that save memory,
beside PyTorch: python benchmarks/memory.py

Sides: plain (layers' functions, the whole batch at once), attention (plain, with attention in
blocks of queries), head (plain, with the loss head in chunks), fast (what training does by
default: all fast forms, and a batch in parts), recompute (the same with --recompute) and torch;
`--sides recompute,fast` compares these two. Each side runs in a process of its own and
waits while the others work; rounds alternate, and medians of single steps are compared. Memory is
the growth of the peak (VmHWM) from before the model is made until a few steps have been made;
beside it stands what training/footprint.py predicts.

`--arithmetic 36/20/1280` prints that prediction for a shape on a GPU as a table, without measuring;
--positions, --vocab, --dropout and --batches set T, V, the rate and the batch sizes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import report
from train_step import torch_side

SHAPES = {  # name: layers, heads, channels, T, batch, V
    "6/6/384": (6, 6, 384, 256, 8, 65),
    "12/12/768": (12, 12, 768, 1024, 1, 65),
    "V=50257": (4, 4, 128, 128, 8, 50_257),
}
SIDES = ("plain", "attention", "head", "recompute", "fast", "torch")
NEVER = 1 << 62  # elements


def resident(line):
    """MiB of this process: VmRSS, now, or VmHWM, at most so far."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(row.split()[1]) / 1024 for row in status if row.startswith(line))


def choose_forms(side):
    """Set which forms this process takes: `side` alone, or all for fast and recompute."""
    from minimixce import gpt, layers
    from minimixce.fast import head
    from minimixce.training import steps

    if side in ("fast", "recompute"):
        return
    steps.AT_ONCE = NEVER
    if side != "head":
        head.ELEMENTS = NEVER
    for name in ("attention_forward", "attention_backward"):
        if side != "attention":
            setattr(gpt, name, getattr(layers, name))
    for name in ("gelu_forward", "gelu_backward", "layer_norm_backward"):
        setattr(gpt, name, getattr(layers, name))


def numpy_side(shape, side):
    import functools

    import numpy as np

    import minimixce as mm
    from minimixce.training import steps

    choose_forms(side)
    mm.backend.reuse_freed_memory()
    n_layer, n_head, C, T, B, V = shape
    before = resident("VmRSS")
    tokens = np.random.default_rng(0).integers(0, V, (B, T + 1))
    model = mm.GPT(mm.GPTConfig(V, T, n_layer, n_head, C), device="cpu")
    optimizer = mm.AdamW(model.params, 1e-3)
    mixce = functools.partial(mm.objectives.mixce, eta=0.5)
    step = steps.GroupedObjective(mixce, recompute=side == "recompute")

    def run():
        _, grads = step(model, [(tokens[:, :-1], tokens[:, 1:])], 0)
        mm.optim.clip_grads(grads, 1.0)
        optimizer.step(grads)

    return run, before


def worker(side, shape):
    """Answer each line {"what": "run" | "memory"} with the seconds of a step, or MiB."""
    if side == "torch":
        import torch_gpt  # noqa: F401, so that its libraries are no growth

        before = resident("VmRSS")
        run, *_ = torch_side(shape, 1)
    else:
        run, before = numpy_side(shape, side)
    for line in sys.stdin:
        if json.loads(line)["what"] == "memory":
            answer = resident("VmHWM") - before
        else:
            start = time.perf_counter(), time.process_time()
            run()
            answer = time.perf_counter() - start[0], time.process_time() - start[1]
        print(json.dumps(answer), flush=True)


class Side:
    def __init__(self, name, shape):
        argv = [sys.executable, __file__, "--worker", name, "--shape", json.dumps(shape)]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what):
        print(json.dumps({"what": what}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(name, names, rounds):
    sides = {side: Side(side, SHAPES[name]) for side in names}
    found = {side: [] for side in names}
    for _ in range(rounds + 1):
        for key, side in sides.items():
            found[key].append(side.ask("run"))
    memory = {key: side.ask("memory") for key, side in sides.items()}
    for side in sides.values():
        side.close()
    base = names[-1]  # PyTorch, where it is among them
    row = {"shape": name}
    for key in names:
        wall, cpu = (statistics.median(t[k] for t in found[key][1:]) for k in (0, 1))
        row |= {f"{key}_mib": memory[key], f"{key}_ms": 1e3 * wall, f"{key}_cpu_ms": 1e3 * cpu}
        if key in ("fast", "recompute"):
            row[f"{key}_predicted_mib"] = predicted(SHAPES[name], key == "recompute").peak / 2**20
    for key in names:
        row[f"{key}_memory_ratio"] = memory[key] / memory[base]
        row[f"{key}_cpu_ratio"] = row[f"{key}_cpu_ms"] / row[f"{base}_cpu_ms"]
        row[f"{key}_wall_ratio"] = row[f"{key}_ms"] / row[f"{base}_ms"]
    return row


def predicted(shape, recompute, accumulate=1, on_gpu=False, dropout=0.0):
    """The Footprint of a step by arithmetic."""
    import minimixce as mm
    from minimixce.training import footprint

    n_layer, n_head, C, T, B, V = shape
    config = mm.GPTConfig(V, T, n_layer, n_head, C, dropout)
    return footprint.of_training(config, B, accumulate, recompute, on_gpu)


def print_arithmetic(layers, positions, vocab, batches, dropout):
    """A Markdown table: GB (10⁹ bytes) of a step of several batches on a GPU, with and without
    recompute.
    """
    parts = "weights gradients moments activations work head peak".split()
    print("| batch | recompute | " + " | ".join(parts) + " |")
    print("| --- " * (len(parts) + 2) + "|")
    for B in batches:
        for recompute in (False, True):
            shape = (*layers, positions, B, vocab)
            step = predicted(shape, recompute, 2, on_gpu=True, dropout=dropout)
            numbers = [f"{getattr(step, part) / 1e9:.1f}" for part in parts]
            print(f"| {B} | {'yes' if recompute else 'no'} | {' | '.join(numbers)} |")


def numbers(text):
    """ "36/20/1280" -> (36, 20, 1280)"""
    return tuple(map(int, text.split("/")))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--sides", default=",".join(SIDES), help="the last is the base of ratios")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", default="memory.csv")
    parser.add_argument("--arithmetic", metavar="LAYERS/HEADS/CHANNELS", type=numbers)
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=50_257)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--batches", type=numbers, default=(1, 2, 8), metavar="1/2/8")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arithmetic:
        sizes = args.positions, args.vocab, args.batches, args.dropout
        return print_arithmetic(args.arithmetic, *sizes)
    if args.worker:
        return worker(args.worker, args.shape)
    import numpy
    import torch

    report.print_machine(numpy, torch, note=f"medians of {args.rounds} alternating rounds")
    rows = []
    for name in args.shapes.split(","):
        row = measure(name, args.sides.split(","), args.rounds)
        rows.append(row)
        report.print_row(row)
    report.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
