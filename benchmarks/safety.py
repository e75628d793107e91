"""What it costs that files are checked, synced and put in place together: seconds and memory of
saving, loading, preparing and reading.

    python benchmarks/safety.py

Each line is the median of a few repetitions in processes of their own. To compare with an earlier
version, put its folder first: PYTHONPATH=EARLIER python benchmarks/safety.py
"""

import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEGABYTES = 20
REPETITIONS = 3


def write_text(path):
    """A text of MEGABYTES MB, of lines that are all different."""
    chance = random.Random(0)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(5000)]
    with open(path, "w") as file:
        while file.tell() < MEGABYTES << 20:
            file.writelines(" ".join(chance.choices(words, k=12)) + "\n" for _ in range(1000))


def model():
    import minimixce as mm

    return mm.GPT(mm.GPTConfig(256, 256, 6, 8, 384), seed=0, device="cpu")


def save(place):
    made = model()
    yield
    made.save(place / "model", overwrite=True)


def load(place):
    import minimixce as mm

    yield
    mm.GPT.load(place / "model", device="cpu")


def prepare(place):
    import shutil

    from minimixce import text

    shutil.rmtree(place / "prepared", ignore_errors=True)
    yield
    text.load_corpus([place / "text.txt"], folder=place / "prepared")


def read_text(place):
    from minimixce import text

    yield
    text.load_corpus([place / "text.txt"])


def open_prepared(place):
    from minimixce import text

    yield
    text.load_corpus([place / "prepared"]).fingerprint()


def draw_batches(place):
    from minimixce import text

    corpus = text.load_corpus([place / "prepared"])
    batches = text.random_batches(corpus.train, 16, 256)
    batches[0]
    yield
    for k in range(1000):
        batches[k]


WHAT = {
    "save a model of 10 million parameters": save,
    "load it": load,
    f"prepare a text of {MEGABYTES} MB": prepare,
    "read the same text without preparing it": read_text,
    "open what was prepared, and take its fingerprint": open_prepared,
    "draw 1,000 batches of 16 × 257 tokens from it": draw_batches,
}


def measure(name, place):
    """In a process of its own: seconds of one of WHAT, and the most memory the process had."""
    work = WHAT[name](Path(place))
    next(work)
    before = time.perf_counter(), time.process_time()
    next(work, None)
    seconds = time.perf_counter() - before[0]
    computing = time.process_time() - before[1]
    print(
        json.dumps([seconds, computing, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10])
    )


def main():
    print("seconds  of computing  most memory")
    with tempfile.TemporaryDirectory() as place:
        write_text(Path(place, "text.txt"))
        for name in WHAT:
            words = [sys.executable, __file__, name, place]
            found = [
                json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
                for _ in range(REPETITIONS)
            ]
            seconds, computing, memory = map(statistics.median, zip(*found))
            print(f"{seconds:7.2f}  {computing:12.2f}  {memory:8.0f} MB  {name}", flush=True)


if __name__ == "__main__":
    measure(*sys.argv[1:]) if len(sys.argv) > 1 else main()
