"""What mm.gradcheck misses, and what it calls wrong although it is right.

Wrong gradients: in tensors of 100 to 40,000 coordinates, one coordinate is off by .1 %, 1 % or
10 %, or two coordinates are swapped, or all are off by 2e-6 of themselves, at scales from 1e-11 to
1e8; how many of them get the verdict OK? Right gradients of every kind, kinks, offsets, small and
large scales among them: how many are called WRONG (none should be), how many CANNOT TELL? Prints
two Markdown tables and writes their numbers as CSV.

    python benchmarks/gradcheck_power.py --trials 1000
"""

import argparse

import numpy as np
from tqdm import tqdm

import minimixce as mm
from report import print_machine, write_csv

SIZES = (100, 1000, 10_000, 40_000)
SCALES = (1e-11, 1.0, 1e8)


# ---- wrong gradients -----------------------------------------------------------------------------


def one_coordinate(share):
    """g with one coordinate times 1 + share."""

    def change(g, rng):
        g = g.copy()
        g[rng.integers(len(g))] *= 1 + share
        return g

    return change


def swap(g, rng):
    """g with two of its coordinates exchanged: two errors that are equal and opposite."""
    i, j = rng.choice(len(g), 2, replace=False)
    g = g.copy()
    g[[i, j]] = g[[j, i]]
    return g


def everywhere(g, rng):
    """g, all of it off by twice the tolerance."""
    return g * (1 + 2e-6)


ERRORS = {
    "one coordinate off by 0.1 %": one_coordinate(1e-3),
    "one coordinate off by 1 %": one_coordinate(1e-2),
    "one coordinate off by 10 %": one_coordinate(1e-1),
    "one coordinate dropped": one_coordinate(-1.0),
    "two coordinates swapped": swap,
    "all off by 2e-6": everywhere,
}


def misses(change, size, scale, trials):
    """-> how many of `trials` wrong gradients pass, median ‖error‖/‖gradient‖ of all."""
    passed, errors = 0, []
    for trial in range(trials):
        rng = np.random.default_rng([1, trial, size])
        x, w = rng.standard_normal(size), scale * rng.standard_normal(size)
        slope = w * (1 - np.tanh(x) ** 2)
        wrong = change(slope, rng)
        errors.append(np.linalg.norm(wrong - slope) / np.linalg.norm(slope))
        report = mm.gradcheck(
            lambda x, w=w: (np.dot(np.tanh(x), w), None),
            lambda dy, _, wrong=wrong: dy * wrong,
            [x],
            seed=trial,
        )
        passed += report.ok
    return passed, float(np.median(errors))


# ---- right gradients -----------------------------------------------------------------------------


def pair(f, df):
    """An element-wise function and its slope as forward and backward."""
    return lambda x: (f(x), x), lambda dy, x: dy * df(x)


def softmax_pair():
    return mm.layers.softmax_forward, mm.layers.softmax_backward


RIGHT = {
    "tanh": (*pair(np.tanh, lambda x: 1 - np.tanh(x) ** 2), lambda rng: rng.standard_normal(50)),
    "tanh, 40,000 coordinates": (
        *pair(np.tanh, lambda x: 1 - np.tanh(x) ** 2),
        lambda rng: rng.standard_normal((200, 200)),
    ),
    "exp from −10 to 10": (*pair(np.exp, np.exp), lambda rng: rng.uniform(-10, 10, 50)),
    "log at 1e-4": (
        *pair(np.log, lambda x: 1 / x),
        lambda rng: 10 ** rng.uniform(-4, 0, 50),
    ),
    "square root at 1e-4": (
        *pair(np.sqrt, lambda x: 0.5 / np.sqrt(x)),
        lambda rng: 10 ** rng.uniform(-4, 0, 50),
    ),
    "x² at 1e7": (*pair(np.square, lambda x: 2 * x), lambda rng: 1e7 * rng.standard_normal(50)),
    "x³ at 1e-6": (
        *pair(lambda x: x**3, lambda x: 3 * x**2),
        lambda rng: 1e-6 * rng.standard_normal(50),
    ),
    "an offset of 1e8": (
        *pair(lambda x: x + 1e8, np.ones_like),
        lambda rng: rng.standard_normal(50),
    ),
    "ReLU": (
        *pair(lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
        lambda rng: rng.standard_normal(50),
    ),
    "ReLU, 40,000 coordinates": (
        *pair(lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
        lambda rng: rng.standard_normal((200, 200)),
    ),
    "ReLU with zeros": (
        *pair(lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
        lambda rng: np.round(rng.standard_normal(50)),
    ),
    "abs(x) close to 0": (*pair(np.abs, np.sign), lambda rng: 1e-5 * rng.standard_normal(50)),
    "softmax": (*softmax_pair(), lambda rng: 3 * rng.standard_normal((5, 7))),
    "softmax, saturated": (*softmax_pair(), lambda rng: 30 * rng.standard_normal((5, 7))),
    "layer norm": (
        lambda x: mm.layers.layer_norm_forward(x, np.ones(7), np.zeros(7)),
        lambda dy, cache: mm.layers.layer_norm_backward(dy, cache)[0],
        lambda rng: rng.standard_normal((5, 7)),
    ),
    "layer norm at 1e-3": (
        lambda x: mm.layers.layer_norm_forward(x, np.ones(7), np.zeros(7)),
        lambda dy, cache: mm.layers.layer_norm_backward(dy, cache)[0],
        lambda rng: 1e-3 * rng.standard_normal((5, 7)),
    ),
    "a sum of 1e7 x₀ and x₁": (
        lambda x: (1e7 * x[0] + x[1], None),
        lambda dy, _: dy * np.array([1e7, 1.0]),
        lambda rng: rng.standard_normal(2),
    ),
    "nothing but zeros": (
        lambda x: (x - x + 1, None),
        lambda dy, _: 0 * dy,
        lambda rng: rng.standard_normal(20),
    ),
    "a shift that cancels": (
        lambda s: mm.layers.softmax_forward(np.arange(12.0).reshape(3, 4) + s),
        lambda dy, cache: mm.layers.softmax_backward(dy, cache).sum(axis=-1, keepdims=True),
        lambda rng: rng.standard_normal((3, 1)),
    ),
    "at a scale of 1e-11": (
        *pair(lambda x: 1e-11 * np.sin(x), lambda x: 1e-11 * np.cos(x)),
        lambda rng: rng.standard_normal(50),
    ),
    "at a scale of 1e8": (
        *pair(lambda x: 1e8 * np.sin(x), lambda x: 1e8 * np.cos(x)),
        lambda rng: rng.standard_normal(50),
    ),
    "float32 inside": (
        *pair(lambda x: np.sin(x.astype("float32")).astype(float), np.cos),
        lambda rng: rng.standard_normal(20),
    ),
}


def verdicts(forward, backward, draw, trials):
    """-> {verdict: how many}."""
    found = {"OK": 0, "WRONG": 0, "CANNOT TELL": 0}
    for trial in range(trials):
        x = draw(np.random.default_rng([2, trial]))
        (row,) = mm.gradcheck(forward, backward, [x], seed=trial).rows
        found[row.verdict] += 1
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--out", default="gradcheck_power.csv")
    args = parser.parse_args()
    print_machine()
    rows = []
    for name, change in tqdm(ERRORS.items(), disable=None):
        for size in SIZES:
            for scale in SCALES if size == SIZES[0] else SCALES[1:2]:
                missed, error = misses(change, size, scale, args.trials)
                rows.append(
                    {"kind": name, "coordinates": size, "scale": scale, "error": error}
                    | {"trials": args.trials, "OK": missed}
                )
    for name, (forward, backward, draw) in tqdm(RIGHT.items(), disable=None):
        found = verdicts(forward, backward, draw, args.trials)
        rows.append({"kind": f"right: {name}", "trials": args.trials} | found)
    print("\n| wrong gradients | coordinates | scale | ‖error‖/‖gradient‖ | missed |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        if "error" in row:
            cells = (row["kind"], f"{row['coordinates']:,}", f"{row['scale']:g}")
            print(f"| {' | '.join(cells)} | {row['error']:.1e} | {row['OK']} of {row['trials']} |")
    print("\n| right gradients | OK | CANNOT TELL | WRONG |\n| --- | ---: | ---: | ---: |")
    for row in rows:
        if "error" not in row:
            name = row["kind"].removeprefix("right: ")
            print(f"| {name} | {row['OK']} | {row['CANNOT TELL']} | {row['WRONG']} |")
    fields = ("kind", "coordinates", "scale", "error", "trials", "OK", "CANNOT TELL", "WRONG")
    write_csv(args.out, [{field: row.get(field, "") for field in fields} for row in rows])


if __name__ == "__main__":
    main()
