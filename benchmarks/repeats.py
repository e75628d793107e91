"""Which settings repeat a run bit for bit: a short run under each, compared with the first.

Every run is a process of its own. Prints a Markdown table: whether all weights are equal in every
bit to those of the first run, and the largest difference between them. Other kernels need a linear
algebra library that takes OPENBLAS_CORETYPE.

    python benchmarks/repeats.py --steps 100
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import minimixce as mm
from report import print_machine

# label -> environment variables, options of the command
SETTINGS = {
    "one thread": ({"OMP_NUM_THREADS": "1"}, []),
    "one thread, once more": ({"OMP_NUM_THREADS": "1"}, []),
    "--threads 1 instead": ({}, ["--threads", "1"]),
    "two threads": ({"OMP_NUM_THREADS": "2"}, []),
    "--shards 2": ({"OMP_NUM_THREADS": "2"}, ["--shards", "2"]),
    "kernels for Haswell": ({"OMP_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Haswell"}, []),
}


def weights(folder, steps, environment, options):
    """{name: array} of the model that a training run in `folder` ends with."""
    command = [sys.executable, "-m", "minimixce", "train", "--device", "cpu", "--quiet"]
    command += ["--steps", str(steps), "--out", str(folder), *options]
    subprocess.run(command, env=os.environ | environment, check=True)
    return mm.GPT.load(folder / "last", device="cpu").params


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    print_machine()
    print("\n| | bit for bit the first | largest difference |\n| --- | --- | --- |")
    first = None
    for label, (environment, options) in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            found = weights(Path(folder) / "run", args.steps, environment, options)
        first = first or found
        same = all(found[name].tobytes() == first[name].tobytes() for name in first)
        difference = max(float(np.abs(found[name] - first[name]).max()) for name in first)
        print(f"| {label} | {'yes' if same else 'no'} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
