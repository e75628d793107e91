"""Generation beside transformers' `generate` on the same weights: python benchmarks/generate.py

Tokens per second at batch 1 and 16, rounds alternating; and the cost of a token against its
position, which stays flat as long as the window is not full.
"""

import argparse
import os
import statistics
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import transformers

import minimixce as mm
import report
from minimixce import backend

SHAPES = {"4/4/128": (65, 256, 4, 4, 128), "12/12/768": (50257, 1024, 12, 12, 768)}


def measure(name, batch, tokens, rounds):
    model = mm.GPT(mm.GPTConfig(*SHAPES[name]), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, boundary=0)
        peer = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    prompt = np.ones((batch, 1), int)
    inputs = {
        "input_ids": torch.tensor(prompt),
        "attention_mask": torch.ones_like(torch.tensor(prompt)),
    }
    options = {
        "max_new_tokens": tokens,
        "min_new_tokens": tokens,
        "do_sample": True,
        "top_k": 0,
        "pad_token_id": 0,
    }

    def ours():
        model.generate(prompt, tokens)

    def theirs():
        with torch.no_grad():
            peer.generate(**inputs, **options)

    seconds = {ours: [], theirs: []}
    for k in range(rounds + 1):
        for side in seconds:
            start = time.perf_counter()
            side()
            if k:  # the first round warms up
                seconds[side].append(time.perf_counter() - start)
    a, b = (statistics.median(seconds[side]) for side in (ours, theirs))
    row = {
        "shape": name,
        "batch": batch,
        "tokens": tokens,
        "tokens_per_s": batch * tokens / a,
        "transformers": batch * tokens / b,
    }
    return row | {"speedup": b / a}


def cost_by_position(name="4/4/128", batch=1):
    """Milliseconds a token in each quarter of the window, and beyond it, where recomputing is
    amortised.
    """
    model = mm.GPT(mm.GPTConfig(*SHAPES[name]), device="cpu")
    block = model.config.block_size
    times = []
    for _ in range(5):
        stamps = [time.perf_counter()]
        for _ in model.stream(np.zeros((batch, 1), int), 3 * block):
            stamps.append(time.perf_counter())
        times.append(np.diff(stamps))
    times = 1e3 * np.median(times, axis=0)
    parts = {
        f"positions {i * block // 4}–{(i + 1) * block // 4}": times[
            i * block // 4 : (i + 1) * block // 4
        ]
        for i in range(4)
    }
    return {k: float(np.mean(v)) for k, v in (parts | {"beyond the window": times[block:]}).items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="also the shape of GPT-2 124M")
    parser.add_argument("--out", default="generate.csv")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    transformers.logging.set_verbosity_error()
    backend.reuse_freed_memory()
    threads = os.environ["OMP_NUM_THREADS"]
    report.print_machine(
        np,
        torch,
        transformers,
        note=f"OMP_NUM_THREADS={threads}; median of {args.rounds} alternating rounds",
    )
    rows = [measure("4/4/128", batch, 255, args.rounds) for batch in (1, 16)]
    if args.large:
        rows.append(measure("12/12/768", 1, 64, args.rounds))
    for row in rows:
        report.print_row(row)
    for part, milliseconds in cost_by_position().items():
        print(f"{part}: {milliseconds:.3f} ms a token")
    report.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
