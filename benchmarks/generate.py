"""Generation beside transformers' `generate` on the same weights: python benchmarks/generate.py

Milliseconds a token (one for each row of the batch) at batch 1 and 16, rounds alternating between
minimixce, the same model generating by its plain forward pass, transformers, and the floor: reading
all weights once, as a product of a matrix of that size with a vector. Also what a token costs at
its position in the window, and beyond the window, where recomputing half of it is shared among the
tokens.
"""

import argparse
import itertools
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

# On one thread the CPU's time, which other processes hardly change.
clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter

SHAPES = {"4/4/128": (65, 256, 4, 4, 128), "12/12/768": (50257, 1024, 12, 12, 768)}


class Plain(mm.GPT):
    """A GPT that generates by extend_forward, as every class that inherits does."""


def peer_of(model):
    """transformers' model of the same weights, and what its generate takes for a prompt."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, boundary=0)
        peer = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()

    def generate(prompt, tokens):
        ids = torch.tensor(prompt)
        with torch.no_grad():
            peer.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=True,
                top_k=0,
                pad_token_id=0,
            )

    return generate


def reader_of(model):
    """A function that reads as many bytes as the model's weights have, `tokens` times."""
    C = model.config.n_embd
    weights = np.ones((model.num_params // C, C), "float32")
    vector = np.ones(C, "float32")

    def read(prompt, tokens):
        for _ in range(tokens):
            weights @ vector

    return read


def measure(name, batch, tokens, rounds):
    model = mm.GPT(mm.GPTConfig(*SHAPES[name]), device="cpu")
    plain = Plain(model.config, device="cpu")
    plain.params = model.params
    sides = {
        "ms": model.generate,
        "plain_ms": plain.generate,
        "transformers_ms": peer_of(model),
        "floor_ms": reader_of(model),
    }
    prompt = np.ones((batch, 1), int)
    times = {side: [] for side in sides}
    for k in range(rounds + 1):
        for side, generate in sides.items():
            start = clock()
            generate(prompt, tokens)
            if k:  # the first round warms up
                times[side].append(1e3 * (clock() - start) / tokens)
    row = {side: statistics.median(found) for side, found in times.items()}
    row["speedup"] = row["transformers_ms"] / row["ms"]
    row["over_floor"] = row["ms"] / row["floor_ms"]
    return {"shape": name, "batch": batch, "positions": f"0–{tokens}"} | row


def cost_by_position(name, batch, rounds):
    """Rows like measure's, of minimixce alone, for each quarter of the window and beyond it."""
    model = mm.GPT(mm.GPTConfig(*SHAPES[name]), device="cpu")
    block = model.config.block_size
    times = []
    for _ in range(rounds):
        stamps = [clock()]
        for _ in model.stream(np.zeros((batch, 1), int), 3 * block):
            stamps.append(clock())
        times.append(np.diff(stamps))
    times = 1e3 * np.median(times, axis=0)
    edges = [i * block // 4 for i in range(5)] + [len(times)]
    return [
        {
            "shape": name,
            "batch": batch,
            "positions": f"{start}–{end}" if end <= block else f"beyond {start}",
            "ms": float(times[start:end].mean()),
        }
        for start, end in itertools.pairwise(edges)
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="also the shape of GPT-2 124M")
    parser.add_argument("--out", default="generate.csv")
    args = parser.parse_args()
    threads = os.environ["OMP_NUM_THREADS"]
    torch.set_num_threads(int(threads))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    backend.reuse_freed_memory()
    note = (
        f"OMP_NUM_THREADS={threads}; {clock.__name__}, median of {args.rounds} alternating rounds"
    )
    report.print_machine(np, torch, transformers, note=note)
    cases = [("4/4/128", 1, 255), ("4/4/128", 16, 255)]
    if args.large:
        cases.append(("12/12/768", 1, 32))
    rows = []
    for name, batch, tokens in cases:
        rows.append(measure(name, batch, tokens, args.rounds))
        report.print_row(rows[-1])
    for batch in (1, 16):
        for row in cost_by_position("4/4/128", batch, args.rounds):
            report.print_row(row)
            rows.append(dict.fromkeys(rows[0], "") | row)
    report.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
