"""CPU time and most memory of each command on real text:
python benchmarks/commands.py [--gpt2 FOLDER]

Each command runs once, in a process of its own with one thread, on small inputs that are made of
the documentation in every CPython: as it is, and in the raw formats of WikiText, WebText and
WritingPrompts. --gpt2 names a folder with GPT-2's vocab.json and merges.txt; beside them a GPT-2 of
2 layers and 32 channels with random weights is put, and the commands that begin with such a folder
run, too. Prints a Markdown table. Linux and macOS.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from report import print_machine

# a command, and what it reads
BPE = "--tokenizer bpe --vocab-size 1000"
COMMANDS = [
    (f"train --data text.txt {BPE} --steps 500 --out bpe", "340 KB of text"),
    ("sample bpe --tokens 500", "the run"),
    ("eval bpe", "its validation text; 40 samples of 500"),
    (
        "eval bpe --prompt-tokens 20 --samples 50 --tokens 100 --tune-top-p",
        "50 texts, 3 seeds",
    ),
    ("prepare --format wikitext wikitext --out wikitext-lines", "3,000 paragraphs, 2 MB"),
    ("prepare --format webtext webtext --out webtext-lines", "3,000 pages, 2 MB"),
    ("prepare --format writingprompts stories --out stories-lines", "3,000 stories, 2 MB"),
    (f"prepare --data big.txt {BPE} --out encoded", "20 MB of text"),
    (
        f"train --data webtext-lines {BPE} --batches texts --block-size 128 --steps 200 --out web",
        "3,000 pages",
    ),
    ("eval web --data webtext-lines/test.txt", "300 pages; 40 samples of 500"),
]
OF_GPT2 = [
    ("sample gpt2 --tokens 200", "V = 50,257, 2/2/32"),
    ("eval gpt2 --data text.txt --samples 0 --eval-tokens 10000", "10,000 tokens"),
    ("train --init gpt2 --data text.txt --block-size 64 --steps 100 --out tuned", "the same GPT-2"),
    (
        "compare --init gpt2 --data text.txt --block-size 64 --steps 20 --seeds 0,1 --samples 4"
        " --tokens 50 --out compared",
        "6 runs of 20 steps",
    ),
]


def words_of_documentation():
    from minimixce import text

    corpus = text.load_corpus()
    return corpus.tokenizer.decode([i for i in corpus.train.tolist() if i]).split(" ")


def tokenized(passage):
    """A passage as WikiText and WritingPrompts have it: tokens with spaces between them."""
    for mark in ",.()":
        passage = passage.replace(mark, f" {mark} ")
    return " ".join(passage.split())


def make_inputs(place, gpt2):
    """Write all that COMMANDS read into the folder `place`."""
    words = words_of_documentation()
    whole = " ".join(words)
    Path(place, "text.txt").write_text(whole)
    with open(Path(place, "big.txt"), "w") as file:
        for _ in range(20_000_000 // len(whole)):
            file.write(whole)
    for name in ("wikitext", "webtext", "stories"):
        Path(place, name).mkdir()
    splits = (("train", 3000), ("valid", 300), ("test", 300))
    for number, (split, count) in enumerate(splits):
        starts = [(i * 17 + number) % (len(words) - 110) for i in range(count)]
        passages = [" ".join(words[i : i + 110]) for i in starts]
        tokens = [tokenized(passage) for passage in passages]
        paragraphs = "".join(f" {each} \n" for each in tokens)
        Path(place, "wikitext", f"wiki.{split}.raw").write_text(f" = Title = \n{paragraphs}")
        Path(place, "webtext", f"webtext.{split}.jsonl").write_text(
            "".join(json.dumps({"text": each}) + "\n" for each in passages)
        )
        Path(place, "stories", f"{split}.wp_source").write_text("[ WP ] Explain this .\n" * count)
        Path(place, "stories", f"{split}.wp_target").write_text("\n".join([*tokens, ""]))
    if gpt2:
        write_gpt2(Path(place, "gpt2"), gpt2)


def write_gpt2(folder, source):
    """A GPT-2 of random weights with the tokenizer files of the folder `source`."""
    import minimixce as mm

    config = mm.GPTConfig(50257, block_size=128, n_layer=2, n_head=2, n_embd=32)
    mm.GPT(config, device="cpu").save(folder, boundary=50256)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(Path(source, name), folder / name)


def measured(command, place):
    """CPU seconds and peak MiB of a command that runs in the folder `place`."""
    words = [sys.executable, "-m", "minimixce", *shlex.split(command), "--device", "cpu"]
    process = subprocess.Popen(
        words, cwd=place, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"minimixce {command} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (
        1 << 10 if sys.platform == "linux" else 1 << 20
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpt2", help="a folder with GPT-2's vocab.json and merges.txt")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make_inputs(args.make, args.gpt2)
        return
    print_machine()
    with tempfile.TemporaryDirectory() as place:
        # in a process of its own: what this one holds would count as the commands' memory
        making = [sys.executable, __file__, "--make", place]
        gpt2 = ["--gpt2", os.path.abspath(args.gpt2)] if args.gpt2 else []
        subprocess.run([*making, *gpt2], check=True)
        print("| command | reads | CPU s | MiB |\n| --- | --- | --- | --- |", flush=True)
        for command, reads in [*COMMANDS, *(OF_GPT2 if args.gpt2 else [])]:
            seconds, mib = measured(command, place)
            print(f"| `{command}` | {reads} | {seconds:.1f} | {mib:.0f} |", flush=True)


if __name__ == "__main__":
    main()
