"""Bad input, damaged files, full disks and kills: one sentence and exit status 2, nothing written,
nothing lost.

Every command runs in a small world of its own, a copy of `template`, whose names, sizes and bytes
are compared before and after. Run with `pytest -m hostile`. The fuzzing and the kills are a sample
with fixed seeds; tests/campaigns/hostile.py runs more of it, with new seeds.
"""

import contextlib
import errno
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import forget_checksums
from hypothesis import example, given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce import backend, cli

pytestmark = pytest.mark.hostile

# 0: a sample with fixed seeds; n: n times as much with new seeds (tests/campaigns/hostile.py)
CAMPAIGN = int(os.environ.get("MINIMIXCE_CAMPAIGN", "0"))
TIMES = max(1, CAMPAIGN)

SMALL = (
    "--quiet --device cpu --n-layer 1 --n-head 2 --n-embd 8 --block-size 8 --batch-size 2 --steps 6"
    " --eval-every 3 --warmup 2"
)
TRAIN = f"train --data story.txt --out new {SMALL}"
COMPARE = (
    "compare --data story.txt --out new --objectives mle,mixce:0.5 --seeds 0 --samples 2 --tokens"
    f" 20 {SMALL}"
)
PREPARE = "prepare --data story.txt --out new"
SAMPLE = "sample run --tokens 5 --device cpu"
EVAL = "eval run --samples 2 --tokens 10 --device cpu"
RESUME = "train --resume --out run"


def run(command):
    """(exit status, standard output, standard error) of one command, given as text or a list."""
    argv = shlex.split(command) if isinstance(command, str) else list(map(str, command))
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            status = cli.main(argv)
        except SystemExit as stop:  # argparse
            status = stop.code
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with texts, a finished run, a prepared corpus and objectives, good and bad."""
    folder = tmp_path_factory.mktemp("world")
    with inside(folder):
        cat = "the cat sat on the mat and the dog sat on the log\n"
        dog = "the dog sat on the mat and the cat sat on the log\n"
        Path("story.txt").write_text((cat + dog) * 10)
        Path("other.txt").write_text("the dog sat on the cat\n" * 40)
        Path("omega.txt").write_text("the Ω sat\n" * 40, encoding="utf-8")
        Path("short.txt").write_text("the")
        Path("empty.txt").write_text("")
        Path("blank.txt").write_text(" \n\n ")
        Path("latin1.txt").write_bytes("le café est fermé\n".encode("latin-1") * 40)
        Path("nul.txt").write_bytes(b"the cat\0sat\n" * 40)
        Path("noise.bin").write_bytes(random.Random(0).randbytes(3000))
        for name in ("nothing", "hidden", "mixed", "taken", "half", "pretend.py"):
            Path(name).mkdir()
        Path("hidden/.secret").write_text("the cat\n" * 40)
        Path("mixed/a.txt").write_text("the cat sat\n" * 40)
        Path("mixed/b.bin").write_bytes(b"\xff\xfe\x00")
        Path("taken/model.safetensors").write_bytes(b"a model that a user put here")
        Path("half/train.bin").write_bytes(b"tokens that a user put here")
        for name, source in OBJECTIVES.items():
            Path(f"{name}.py").write_text(source)
        assert run(TRAIN.replace("new", "run"))[0] == 0
        assert run("prepare --data story.txt --out prepared")[0] == 0
        assert run("prepare --data story.txt --lines --out prepared_lines")[0] == 0
    return folder


@contextlib.contextmanager
def inside(folder):
    """Work in `folder`."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield Path(folder)
    finally:
        os.chdir(before)


@contextlib.contextmanager
def world(template, *names):
    """Work in a fresh copy of the template, or of some of its parts."""
    with tempfile.TemporaryDirectory() as above, inside(above):
        os.mkdir("world")
        os.chdir("world")
        for path in [template / name for name in names] or template.iterdir():
            if path.is_dir():
                shutil.copytree(path, path.name)
            else:
                shutil.copy(path, path.name)
        if Path(OPTIONS).exists():  # which knows its texts by their whole path
            replace(OPTIONS, bytes(template), bytes(Path.cwd()))
        yield


def listing(folder="."):
    """{path: bytes, or None for a folder} of all that is there."""
    return {str(p): None if p.is_dir() else p.read_bytes() for p in sorted(Path(folder).rglob("*"))}


def changes(before, after):
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name, 0) != after.get(name, 0)
    )


def assert_one_sentence(command, error, words=""):
    name = shlex.split(command)[0] if isinstance(command, str) else command[0]
    assert words in error
    assert error.startswith(f"minimixce {name}: "), error
    assert error.endswith("\n")
    assert error.count("\n") == 1, error
    assert len(error.split()) > 4, error
    assert "Traceback" not in error


def assert_refused(command, words):
    """Status 2 and one sentence with these words; no file is new, gone or changed."""
    before = listing()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        status, _, error = run(command)
    assert (status, changes(before, listing())) == (2, []), error
    assert_one_sentence(command, error, words)


# ---- a table of bad input ------------------------------------------------------------------------

OBJECTIVES = {
    "good": "import minimixce as mm\nobjective = mm.objectives.mle\n",
    "number": "objective = 3\n",
    "syntax": "def objective(:\n",
    "importing": "import no_such_module_anywhere\n",
    "raising": "raise KeyError('at import')\n",
    "exiting": "import sys\nsys.exit(0)\n",
    "nul": "objective = '\0'\n",
    "none": "def objective(logits, targets): return None\n",
    "scalar": "def objective(logits, targets): return logits.sum()\n",
    "list": "def objective(logits, targets): return [logits.sum(), logits]\n",
    "three": "def objective(logits, targets): return logits.sum(), logits, logits\n",
    "shape": "def objective(logits, targets): return logits.sum(), logits.sum(axis=-1)\n",
    "key": "def objective(logits, targets): return {}['missing']\n",
    "zero": "def objective(logits, targets): return 1 / 0\n",
    "no_parameters": "def objective(): pass\n",
    "step": "def objective(model, batch): return model.forward(batch[0])\n",
    "changing": (
        "def objective(logits, targets):\n    logits += 1\n    return logits.sum(), 0 * logits"
        " + 1\n"
    ),
    "random_value": (
        "import numpy as np\nrng = np.random.default_rng(0)\n"
        "def objective(logits, targets): return np.float64(rng.random()), 0 * logits\n"
    ),
    "late": (
        "import minimixce as mm\ncalls = []\n"
        "def objective(logits, targets):\n    calls.append(0)\n"
        "    return mm.objectives.mle(logits, targets) if len(calls) < 5 else {}['late']\n"
    ),
}


def on(command, text):
    """A command of a table, on another text."""
    return command.replace("--data story.txt", f"--data {text}")


TEXTS = [  # for each command that reads a text in its own way
    ("missing.txt", "missing.txt does not exist"),
    ("story.txt missing.txt", "missing.txt does not exist"),
    ("empty.txt", "empty.txt holds no text"),
    ("blank.txt", "blank.txt holds no text"),
    ("latin1.txt", "latin1.txt is not UTF-8 text"),
    ("nul.txt", "nul.txt is not a text file: it holds a NUL"),
    ("noise.bin", "noise.bin is not a text file"),
    ("nothing", "nothing holds no files"),
    ("hidden", "hidden holds no files"),
    ("mixed/b.bin", "mixed/b.bin is UTF-16, not UTF-8 text"),
    ("story.txt/inside", "story.txt/inside"),
    ("''", "--data must name a place"),
    ("/dev/zero", "/dev/zero is neither a file nor a folder"),
    ("run", "run is the folder of a run"),
]

# For train and compare, which make their runs of the same job: a case from each place that checks.
OF_A_RUN = [
    ("--n-embd 9", "n_embd must be a multiple of n_head, got n_embd=9 and n_head=2"),
    ("--block-size 5000", "too few for blocks of 5000 + 1"),
    ("--steps 0", "steps must be at least 1, got 0"),
    ("--eval-tokens 1", "--eval-tokens must be at least 2, got 1"),
    ("--eta nan", "--eta must be between 0 and 1, got nan"),
    ("--held-out nan", "held_out must be above 0 and below 1, got nan"),
    (
        "--tokenizer word",
        "--tokenizer must be character, byte, bpe or a folder with a tokenizer, got 'word'",
    ),
    ("--lines --eval-tokens 3", "no whole line is in the 3 tokens"),
    ("--batch-size 1000000000000", "GiB of memory, and there is"),
    ("--out ''", "--out must name a place"),
    ("--out story.txt", "story.txt"),
]

MORE_OF_A_RUN = [  # for train
    ("--n-embd 0", "n_embd must be at least 1, got 0"),
    ("--n-head 0", "n_head must be at least 1, got 0"),
    ("--n-layer -1", "n_layer must be at least 1, got -1"),
    ("--block-size 0", "block_size must be at least 1, got 0"),
    ("--batch-size 0", "batch_size must be at least 1, got 0"),
    ("--steps -5", "steps must be at least 1, got -5"),
    ("--eval-every 0", "eval_every must be at least 1, got 0"),
    ("--patience 0", "patience must be at least 1, got 0"),
    ("--accumulate 0", "accumulate must be at least 1, got 0"),
    ("--warmup -1", "warmup must be at least 0, got -1"),
    (f"--warmup 1{'0' * 400}", "warmup must be at least 0 and at most 2^63 - 1"),
    ("--lr 0", "lr must be a positive number, got 0.0"),
    ("--lr nan", "lr must be a positive number, got nan"),
    ("--lr 1e400", "lr must be a positive number, got inf"),
    ("--final-lr 1.01", "final_lr must be between 0 and 1, got 1.01"),
    ("--final-lr nan", "final_lr must be between 0 and 1, got nan"),
    ("--weight-decay -1", "weight_decay must be a number, at least 0, got -1.0"),
    ("--weight-decay inf", "weight_decay must be a number, at least 0, got inf"),
    ("--max-grad-norm 0", "max_grad_norm must be a positive number"),
    ("--max-grad-norm nan", "max_grad_norm must be a positive number"),
    ("--dropout 1", "dropout must be at least 0 and below 1, got 1.0"),
    ("--dropout nan", "dropout must be at least 0 and below 1, got nan"),
    ("--eta -0.1", "--eta must be between 0 and 1, got -0.1"),
    ("--gamma 1.5", "--gamma must be between 0 and 1, got 1.5"),
    ("--gamma nan", "--gamma must be between 0 and 1, got nan"),
    ("--held-out 0", "held_out must be above 0 and below 1, got 0.0"),
    ("--held-out 1", "held_out must be above 0 and below 1, got 1.0"),
    ("--n-embd 100000000", "GiB of memory, and there is"),
    ("--n-layer 1000000000000", "GiB of memory, and there is"),
    ("--lines --block-size 1000000000000", "GiB of memory, and there is"),
    (f"--accumulate {2**62}", "GiB of memory, and there is"),
    ("--out story.txt/run", "story.txt"),
    ("--out /proc/minimixce/run", "/proc/minimixce"),
]

EVERY = [  # for every command
    ("--seed -1", "--seed must be at least 0, got -1"),
    ("--device gpu", 'device must be "auto", "cpu", "cuda" or "cuda:N", got \'gpu\''),
    ("--threads 0", "--threads must be at least 1"),
]

MORE_OF_EVERY = [  # for train
    ("--device ''", 'device must be "auto", "cpu", "cuda" or "cuda:N", got \'\''),
    ("--device cuda", "device 'cuda' is not available: there is no GPU"),
    ("--device cuda:7", "device 'cuda:7' is not available: there is no GPU"),
    (f"--threads {10**30}", "--threads must be at least 1 and at most 1024"),
]

CASES = [
    *[(on(TRAIN, text), words) for text, words in TEXTS],
    *[
        (f"{TRAIN} {option}", words)
        for option, words in [*OF_A_RUN, *MORE_OF_A_RUN, *EVERY, *MORE_OF_EVERY]
    ],
    (on(TRAIN, "short.txt"), "too few"),
    (on(TRAIN, "short.txt --lines"), "too few"),
    (f"{TRAIN} --objective gan", "--objective must be one of mle, mixce"),
    (f"{TRAIN} --objective ''", "--objective must be one of mle, mixce"),
    (f"{TRAIN} --objective mle:0.5", "--objective must be one of mle, mixce"),
    (f"{TRAIN} --objective missing.py:objective", "missing.py does not exist"),
    (f"{TRAIN} --objective good.py:", "good.py defines no function ''"),
    (f"{TRAIN} --objective good.py:nothing", "good.py defines no function 'nothing'"),
    (f"{TRAIN} --objective pretend.py:objective", "pretend.py is not a regular file but a folder"),
    (f"{TRAIN} --objective number.py:objective", "number.py defines no function 'objective'"),
    (f"{TRAIN} --objective syntax.py:objective", "syntax.py, line 1 fails to run: SyntaxError"),
    (
        f"{TRAIN} --objective importing.py:objective",
        "importing.py, line 1 fails to run: ModuleNotFoundError",
    ),
    (
        f"{TRAIN} --objective raising.py:objective",
        "raising.py, line 1 fails to run: KeyError: 'at import'",
    ),
    (f"{TRAIN} --objective exiting.py:objective", "exiting.py, line 2 fails to run: SystemExit"),
    (f"{TRAIN} --objective nul.py:objective", "nul.py fails to run"),
    *[
        (
            f"{TRAIN} --objective {name}.py:objective{unchecked}",
            f"/{name}.py must return (loss, dlogits)",
        )
        for name in ("none", "scalar", "list", "three", "shape")
        for unchecked in ("", " --unchecked")
    ],
    *[
        (f"{TRAIN} --objective {name}.py:objective{unchecked}", f"/{name}.py fails: {error}")
        for name, error in (
            ("key", "KeyError: 'missing'"),
            ("zero", "ZeroDivisionError"),
            ("no_parameters", "TypeError"),
        )
        for unchecked in ("", " --unchecked")
    ],
    (f"{TRAIN} --objective step.py:objective", "/step.py fails: AttributeError"),
    (f"{TRAIN} --objective changing.py:objective", "changes its logits in place"),
    (f"{TRAIN} --objective random_value.py:objective", "not deterministic"),
    (f"{TRAIN} --out taken", "taken already holds model.safetensors, which is no run's"),
    (
        f"{TRAIN} --out taken --overwrite",
        "taken already holds model.safetensors, which is no run's",
    ),
    (f"{TRAIN} --change", "--change goes with --resume"),
    (f"{RESUME} --overwrite", "--resume and --overwrite exclude each other"),
    ("train --resume --out missing", "run.json does not exist"),
    ("train --resume --out prepared", "run.json does not exist"),
    ("train --resume --out story.txt", "story.txt/run.json"),
    (f"{RESUME} --data other.txt", "the training text is not the one"),
    *[
        (f"{RESUME} --{name} {value}{change}", f"not {shown}; a run cannot change it")
        for name, value, shown in (
            ("held-out", "0.2", "0.2"),
            ("tokenizer", "byte", "byte"),
            ("seed", "1", "1"),
            ("block-size", "4", "4"),
            ("n-embd", "16", "16"),
            ("n-head", "1", "1"),
            ("n-layer", "2", "2"),
        )
        for change in ("", " --change")
    ],
    (f"{RESUME} --steps 5 --change", "has made 6 steps; steps must be more, got 5"),
    (f"{RESUME} --lr nan --change", "lr must be a positive number"),
    *[(f"{SAMPLE} {option}", words) for option, words in EVERY],
    ("sample missing", "missing/config.json does not exist"),
    ("sample ''", "config.json does not exist"),
    ("sample story.txt", "story.txt is a file; give the folder"),
    ("sample taken", "taken/config.json does not exist"),
    (f"{SAMPLE} --count 0", "--count must be at least 1, got 0"),
    (f"{SAMPLE} --count -3", "--count must be at least 1, got -3"),
    (f"{SAMPLE} --tokens -1", "tokens must be at least 0, got -1"),
    (f"{SAMPLE} --temperature -1", "temperature must be a finite number, at least 0, got -1.0"),
    (f"{SAMPLE} --temperature nan", "temperature must be a finite number, at least 0, got nan"),
    (f"{SAMPLE} --temperature inf", "temperature must be a finite number, at least 0, got inf"),
    (f"{SAMPLE} --top-k 0", "top_k must be at least 1, got 0"),
    (f"{SAMPLE} --top-p 0", "top_p must be above 0 and at most 1, got 0.0"),
    (f"{SAMPLE} --top-p 1.5", "top_p must be above 0 and at most 1, got 1.5"),
    (f"{SAMPLE} --top-p nan", "top_p must be above 0 and at most 1, got nan"),
    (f"{SAMPLE} --prompt 'the Ω'", "character 'Ω' does not occur"),
    (f"{SAMPLE} --prompt '\ud800'", "does not occur"),
    (
        f"{SAMPLE} --out nothing/there/x.jsonl",
        "nothing/there/x.jsonl cannot be written: nothing/there is no folder",
    ),
    (f"{SAMPLE} --out nothing", "nothing exists already; choose another --out or add --overwrite"),
    (f"{SAMPLE} --out nothing --overwrite", "nothing is not a regular file but a folder"),
    (
        f"{SAMPLE} --out story.txt",
        "story.txt exists already; choose another --out or add --overwrite",
    ),
    (f"{SAMPLE} --out ''", "--out must name a place"),
    *[(f"{EVAL} {option}", words) for option, words in EVERY],
    *[(f"{EVAL} --data {text}", words) for text, words in TEXTS if text != "blank.txt"],
    ("eval missing", "missing/config.json does not exist"),
    (f"{EVAL} --eta 2", "--eta must be between 0 and 1, got 2.0"),
    (f"{EVAL} --eta nan", "--eta must be between 0 and 1, got nan"),
    (f"{EVAL} --samples -1", "samples must be at least 0, got -1"),
    (f"{EVAL} --tokens 0", "tokens must be at least 1, got 0"),
    (f"{EVAL} --temperature 0", "temperature must be a positive number, got 0.0"),
    (f"{EVAL} --temperature nan", "temperature must be a positive number, got nan"),
    (f"{EVAL} --temperature inf", "temperature must be a positive number, got inf"),
    (f"{EVAL} --data omega.txt", "character 'Ω' does not occur"),
    (f"{EVAL} --samples 10000000000000", "nable to allocate"),
    (f"{EVAL} --eval-tokens 1", "--eval-tokens must be at least 2, got 1"),
    (
        f"{EVAL} --out story.txt",
        "story.txt exists already; choose another --out or add --overwrite",
    ),
    (
        f"{EVAL} --out nothing/there/x.json",
        "nothing/there/x.json cannot be written: nothing/there is no folder",
    ),
    ("eval run/last", "run/last/minimixce_tokenizer.json does not exist"),
    *[(f"{COMPARE} {option}", words) for option, words in [*OF_A_RUN, *EVERY]],
    (on(COMPARE, "latin1.txt"), "latin1.txt is not UTF-8 text"),
    (f"{COMPARE} --objectives ''", "--objective must be one of mle, mixce"),
    (f"{COMPARE} --objectives gan", "--objective must be one of mle, mixce"),
    (f"{COMPARE} --objectives mle:0.5", "--objectives: mle takes no ratio, got 'mle:0.5'"),
    (
        f"{COMPARE} --objectives mle,mixce:much",
        "--objectives: 'much' in 'mixce:much' is not a number",
    ),
    (f"{COMPARE} --objectives mle,mixce:2", "eta must be between 0 and 1, got 2.0"),
    (f"{COMPARE} --objectives mle,tailr:nan", "gamma must be between 0 and 1, got nan"),
    (f"{COMPARE} --objectives mle,mixce:0.5,mixce:0.50", "--objectives names mixce η=0.5 twice"),
    (f"{COMPARE} --objectives missing.py:objective", "missing.py does not exist"),
    (
        f"{COMPARE} --objectives good.py:objective,late.py:objective",
        "--objectives names objective twice",
    ),
    (f"{COMPARE} --objectives mle,key.py:objective", "/key.py fails: KeyError: 'missing'"),
    (f"{COMPARE} --resume --overwrite", "--resume and --overwrite exclude each other"),
    (f"{COMPARE} --seeds ''", "--seeds must be integers"),
    (f"{COMPARE} --seeds 0,x", "--seeds must be integers"),
    (f"{COMPARE} --seeds 0,0", "--seeds must be different integers"),
    (f"{COMPARE} --seeds -1", "--seeds must be different integers, at least 0"),
    (f"{COMPARE} --samples 0", "--samples must be at least 1, got 0"),
    (f"{COMPARE} --tokens 0", "tokens must be at least 1, got 0"),
    (f"{COMPARE} --tokens 5000", "--tokens must be at most the"),
    *[(on(PREPARE, text), words) for text, words in TEXTS],
    (f"{PREPARE} --seed -1", "--seed must be at least 0, got -1"),
    (f"{PREPARE} --held-out 0", "held_out must be above 0 and below 1, got 0.0"),
    (f"{PREPARE} --held-out nan", "held_out must be above 0 and below 1, got nan"),
    (f"{PREPARE} --tokenizer ''", "tokenizer must be"),
    (f"{PREPARE} --out ''", "--out must name a place"),
    (f"{PREPARE} --out prepared", "prepared already holds minimixce_corpus.json"),
    (f"{PREPARE} --out half", "half already holds train.bin"),
    (f"{PREPARE} --out story.txt", "story.txt: File exists"),
    (f"{PREPARE} --out story.txt/new", "story.txt"),
    (on(PREPARE, "prepared"), "prepared is a prepared corpus already"),
    *[(f"gradcheck {option}", words) for option, words in EVERY],
    (
        "gradcheck --device cpu --out story.txt",
        "story.txt exists already; choose another --out or add --overwrite",
    ),
    (
        "gradcheck --device cpu --out nothing/there/x.jsonl",
        "nothing/there/x.jsonl cannot be written: nothing/there is no folder",
    ),
]


@pytest.mark.parametrize(
    ("command", "words"), CASES, ids=[f"{c.split()[0]} {c[-50:]}" for c, _ in CASES]
)
def test_bad_input(template, monkeypatch, command, words):
    monkeypatch.setattr(backend, "_why_no_cuda", lambda: "there is no GPU")
    with world(template):
        assert_refused(command, words)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "fly",
        "train --fly",
        f"{TRAIN} --steps nan",
        f"{TRAIN} --steps 1.5",
        f"{TRAIN} --steps ''",
        f"{TRAIN} --steps {'9' * 5000}",
        f"{TRAIN} --lr fast",
        f"{TRAIN} --lr ''",
        f"{TRAIN} --n-embd 0x10",
        f"{TRAIN} --seed one",
        f"{TRAIN} --data",
        "sample",
        "sample run run",
        "sample run --top-k 1.5",
        "sample run --top-p half",
        "eval",
        "compare story.txt",
        "prepare --held-out tenth",
        "gradcheck --seed ''",
    ],
)
def test_what_does_not_parse(template, command):
    with world(template):
        before = listing()
        status, _, error = run(command)
        assert (status, changes(before, listing())) == (2, [])
    assert re.search(r"^minimixce.*: error: .+$", error.splitlines()[-1])


@pytest.mark.parametrize("module", ["matplotlib", "threadpoolctl"])
def test_a_missing_extra_is_named(template, monkeypatch, module):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with world(template):
        assert_refused(COMPARE if module == "matplotlib" else f"{TRAIN} --threads 1", module)


@pytest.mark.parametrize(
    "found", ["table.json", "table.csv", "comparison.png", "mle_seed0/config.json"]
)
def test_compare_overwrites_nothing_unasked(template, found):
    pytest.importorskip("matplotlib")
    with world(template):
        Path("new", found).parent.mkdir(parents=True)
        Path("new", found).write_text("what a user made")
        named = f"new/{Path(found).parts[0]} is there already, and not by minimixce compare"
        assert_refused(COMPARE, named)
        assert_refused(f"{COMPARE} --overwrite", named)


def test_all_runs_of_a_comparison_resume_and_evaluate(template):
    """Their text is split the same way with every seed."""
    pytest.importorskip("matplotlib")
    with world(template):
        Path("texts").mkdir()
        for k in range(12):
            Path(f"texts/{k}.txt").write_text(Path("story.txt").read_text()[k : 300 + 30 * k])
        assert run(f"{on(COMPARE, 'texts')} --seeds 1,5")[0] == 0
        for seed in (1, 5):
            status, _, error = run(f"eval new/mle_seed{seed} --device cpu --samples 0 --tokens 10")
            assert status == 0, error
            status, _, error = run(f"train --resume --out new/mle_seed{seed} --change --steps 9")
            assert status == 0, error


def test_an_objective_that_fails_while_training_leaves_a_run_to_go_on_with(template):
    with world(template):
        command = f"{TRAIN} --objective late.py:objective --unchecked --eval-every 1"
        status, _, error = run(command)
        assert status == 2
        assert_one_sentence(command, error, "/late.py fails: KeyError: 'late'")
        assert run("sample new --tokens 5")[0] == 0
        Path("late.py").write_text(OBJECTIVES["good"])
        assert run("train --resume --out new --objective late.py:objective")[0] == 0


@pytest.mark.parametrize(
    "options", ["--lr 1e30", "--lr 1e30 --steps 1", "--lr 1e308 --weight-decay 1e308"]
)
def test_a_loss_that_explodes_is_one_sentence_with_advice(template, options):
    with world(template), warnings.catch_warnings():
        warnings.simplefilter("error")
        command = f"{TRAIN} {options}"
        status, _, error = run(command)
        assert status == 2
        assert_one_sentence(command, error, "not finite")
        assert "try a smaller lr" in error
        assert run("sample new --tokens 5")[0] == 0


# ---- damaged and foreign folders -----------------------------------------------------------------


def edit(path, **fields):
    if path in (CONFIG, TOKENIZER):
        forget_checksums("run")  # to hear of the change itself
    content = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps(content | fields))


def write(path, data):
    Path(path).write_bytes(data)


def cut(path, share=0.5):
    data = Path(path).read_bytes()
    write(path, data[: int(share * len(data))])


def flip(path, position):
    data = bytearray(Path(path).read_bytes())
    data[position] ^= 4
    write(path, bytes(data))


def replace(path, old, new):
    data = Path(path).read_bytes()
    assert old in data
    write(path, data.replace(old, new))


CONFIG, WEIGHTS, TOKENIZER = (
    "run/config.json",
    "run/model.safetensors",
    "run/minimixce_tokenizer.json",
)
OPTIONS, STATE, CORPUS = "run/run.json", "run/resume.safetensors", "prepared/minimixce_corpus.json"
ON_PREPARED = on(TRAIN, "prepared")

DAMAGE = {
    "no config": (lambda: os.remove(CONFIG), (SAMPLE, EVAL), "run/config.json does not exist"),
    "empty config": (
        lambda: write(CONFIG, b""),
        (SAMPLE, EVAL),
        "run/config.json is not a JSON file",
    ),
    "config of bytes": (
        lambda: write(CONFIG, b"\xff\0"),
        (SAMPLE, EVAL),
        "run/config.json is not a JSON file",
    ),
    "nested config": (
        lambda: write(CONFIG, b"[" * 10**6),
        (SAMPLE, EVAL),
        "run/config.json is not a JSON file",
    ),
    "config a list": (
        lambda: write(CONFIG, b"[]"),
        (SAMPLE,),
        "run/config.json must hold a JSON object, got a list",
    ),
    "cut config": (lambda: cut(CONFIG), (SAMPLE, EVAL), "run/config.json is not a JSON file"),
    "another model": (
        lambda: edit(CONFIG, model_type="bert"),
        (SAMPLE,),
        "model_type='bert' is not supported",
    ),
    "no heads": (
        lambda: edit(CONFIG, n_head=None),
        (SAMPLE,),
        "n_head must be an integer, got None",
    ),
    "other heads": (
        lambda: edit(CONFIG, n_head=3),
        (SAMPLE,),
        "n_embd must be a multiple of n_head",
    ),
    "other channels": (
        lambda: edit(CONFIG, n_embd=16),
        (SAMPLE, EVAL),
        "has shape (15, 8), but config.json says (15, 16)",
    ),
    "a billion layers": (
        lambda: edit(CONFIG, n_layer=10**9),
        (SAMPLE,),
        "config.json says n_layer=1000000000",
    ),
    "huge channels": (
        lambda: edit(CONFIG, n_embd=10**30),
        (SAMPLE,),
        "config.json says (15, 1000000000",
    ),
    "dropout nan": (
        lambda: edit(CONFIG, embd_pdrop=np.nan, attn_pdrop=np.nan, resid_pdrop=np.nan),
        (SAMPLE,),
        "dropout must be at least 0 and below 1, got nan",
    ),
    "no weights": (lambda: os.remove(WEIGHTS), (SAMPLE, EVAL), "run holds no model.safetensors"),
    "empty weights": (
        lambda: write(WEIGHTS, b""),
        (SAMPLE, EVAL),
        "is not a safetensors file, or is cut short",
    ),
    "cut weights": (
        lambda: cut(WEIGHTS),
        (SAMPLE, EVAL),
        "is not a safetensors file, or is cut short",
    ),
    "cut header": (
        lambda: cut(WEIGHTS, 0.01),
        (SAMPLE, EVAL),
        "is not a safetensors file, or is cut short",
    ),
    "huge header": (
        lambda: write(WEIGHTS, b"\xff" * 8 + b"{}"),
        (SAMPLE,),
        "is not a safetensors file, or is cut short",
    ),
    "weights of text": (
        lambda: write(WEIGHTS, b"the cat sat on the mat" * 9),
        (SAMPLE,),
        "is not a safetensors file",
    ),
    "weights a folder": (
        lambda: (os.remove(WEIGHTS), os.mkdir(WEIGHTS)),
        (SAMPLE,),
        "run/model.safetensors is not a regular file but a folder",
    ),
    "weights of a state": (lambda: shutil.copy(STATE, WEIGHTS), (SAMPLE,), "run lacks the weights"),
    "only a pickle": (
        lambda: os.rename(WEIGHTS, "run/pytorch_model.bin"),
        (SAMPLE,),
        "only pytorch_model.bin, a pickle",
    ),
    "no tokenizer": (
        lambda: os.remove(TOKENIZER),
        (SAMPLE, EVAL),
        "run/minimixce_tokenizer.json does not exist",
    ),
    "tokenizer a list": (
        lambda: write(TOKENIZER, b"[]"),
        (SAMPLE,),
        "must hold a JSON object, got a list",
    ),
    "tokenizer empty": (
        lambda: write(TOKENIZER, b"{}"),
        (SAMPLE,),
        "does not describe a character, byte or word tokenizer",
    ),
    "tokenizer numbers": (
        lambda: edit(TOKENIZER, characters=[1, 2]),
        (SAMPLE,),
        "does not describe a character, byte or word",
    ),
    "other tokenizer": (
        lambda: edit(TOKENIZER, characters="abc"),
        (SAMPLE, EVAL),
        "has 4 tokens, the model 15",
    ),
    "no options": (lambda: os.remove(OPTIONS), (RESUME, EVAL), "run.json"),
    "cut options": (lambda: cut(OPTIONS), (RESUME, EVAL), "run/run.json is not a JSON file"),
    "options a list": (
        lambda: write(OPTIONS, b"[]"),
        (RESUME, EVAL),
        "run/run.json must hold a JSON object",
    ),
    "options empty": (
        lambda: write(OPTIONS, b"{}"),
        (RESUME, EVAL),
        "the training text is not the one",
    ),
    "options misspelt": (
        lambda: replace(OPTIONS, b'"steps"', b'"stepz"'),
        (RESUME, EVAL),
        "is damaged: stepz cannot be 6",
    ),
    "no steps": (
        lambda: edit(OPTIONS, steps=None),
        (RESUME, EVAL),
        "run/run.json is damaged: steps cannot be None",
    ),
    "steps of text": (
        lambda: edit(OPTIONS, steps="6"),
        (RESUME, EVAL),
        "run/run.json is damaged: steps cannot be '6'",
    ),
    "data a number": (
        lambda: edit(OPTIONS, data=5),
        (RESUME, EVAL),
        "run/run.json is damaged: data cannot be 5",
    ),
    "data of numbers": (
        lambda: edit(OPTIONS, data=[5]),
        (RESUME, EVAL),
        "run/run.json is damaged: data cannot be [5]",
    ),
    "no data": (
        lambda: edit(OPTIONS, data=[]),
        (RESUME, EVAL),
        "run/run.json is damaged: data cannot be []",
    ),
    "lr nan": (
        lambda: edit(OPTIONS, lr=np.nan),
        (RESUME,),
        "lr must be a positive number, got nan",
    ),
    "negative seed": (
        lambda: edit(OPTIONS, seed=-1),
        (RESUME,),
        "seed must be a non-negative integer",
    ),
    "objective gone": (
        lambda: edit(OPTIONS, objective=f"{os.getcwd()}/gone.py:f"),
        (f"{RESUME} --objective gone.py:f",),
        "gone.py does not exist",
    ),
    "objective from a file that the call does not name": (
        lambda: edit(OPTIONS, objective="good.py:objective"),
        (RESUME,),
        "which is only run where the call names it: add --objective good.py:objective",
    ),
    "foreign method": (
        lambda: edit(OPTIONS, run="x"),
        (RESUME,),
        "run/run.json is damaged: run cannot be 'x'",
    ),
    "other text": (
        lambda: shutil.copy("other.txt", "story.txt"),
        (RESUME, EVAL),
        "the training text is not the one",
    ),
    "text gone": (lambda: os.remove("story.txt"), (RESUME, EVAL), "story.txt does not exist"),
    "no state": (lambda: os.remove(STATE), (RESUME,), "run/resume.safetensors does not exist"),
    "empty state": (
        lambda: write(STATE, b""),
        (RESUME,),
        "is not a safetensors file, or is cut short",
    ),
    "cut state": (lambda: cut(STATE), (RESUME,), "is not a safetensors file, or is cut short"),
    "foreign state": (
        lambda: shutil.copy(WEIGHTS, STATE),
        (RESUME,),
        "run/resume.safetensors is not the state of a run",
    ),
    "a bit of a weight": (lambda: flip(STATE, -5), (RESUME,), "run/resume.safetensors is damaged"),
    "a digit of the step": (
        lambda: replace(STATE, b'"step\\":', b'"stop\\":'),
        (RESUME,),
        "run/resume.safetensors is damaged",
    ),
    "no description": (
        lambda: os.remove(CORPUS),
        (ON_PREPARED,),
        "prepared holds no text",
    ),
    "cut description": (
        lambda: cut(CORPUS),
        (ON_PREPARED,),
        "prepared/minimixce_corpus.json is not a JSON file",
    ),
    "no dtype": (
        lambda: edit(CORPUS, dtype=None),
        (ON_PREPARED,),
        "dtype must be <u2 or <u4, got None",
    ),
    "empty dtype": (
        lambda: edit(CORPUS, dtype="V0"),
        (ON_PREPARED,),
        "dtype must be <u2 or <u4, got 'V0'",
    ),
    "object dtype": (
        lambda: edit(CORPUS, dtype="O"),
        (ON_PREPARED,),
        "dtype must be <u2 or <u4, got 'O'",
    ),
    "corpus tokenizer": (
        lambda: edit(CORPUS, tokenizer=[1]),
        (ON_PREPARED,),
        "does not describe a character, byte or word tokenizer",
    ),
    "no tokens": (
        lambda: os.remove("prepared/train.bin"),
        (ON_PREPARED,),
        "prepared/train.bin is missing or cut short",
    ),
    "empty tokens": (
        lambda: write("prepared/validation.bin", b""),
        (ON_PREPARED,),
        "validation.bin is missing or cut short",
    ),
    "half a token": (
        lambda: write("prepared/train.bin", b"abc"),
        (ON_PREPARED,),
        "train.bin is missing or cut short",
    ),
    "foreign tokens": (
        lambda: write("prepared/train.bin", b"\xff" * 2000),
        (ON_PREPARED,),
        "prepared/train.bin",
    ),
    "no lines": (
        lambda: write("prepared_lines/train.bin", b"\1\0" * 400),
        (on(TRAIN, "prepared_lines"),),
        "prepared_lines/train.bin is missing or cut short",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_and_foreign_folders(template, damage):
    act, commands, words = DAMAGE[damage]
    for command in commands:
        with world(template):
            act()
            assert_refused(command, words)


def test_a_model_of_transformers_has_no_tokenizer_to_sample_with(template):
    with world(template):
        mm.GPT(mm.GPTConfig(15, 8, 1, 2, 8), device="cpu").save("foreign")
        assert_refused("sample foreign", "foreign/minimixce_tokenizer.json does not exist")
        shutil.copy(TOKENIZER, "foreign")
        assert run("sample foreign --tokens 5")[0] == 0
        assert_refused(
            "eval foreign --device cpu",
            "foreign has no run.json that says what its validation text is; give --data",
        )
        assert run("eval foreign --device cpu --data story.txt --samples 0")[0] == 0


# ---- a full disk, a closed pipe ------------------------------------------------------------------


@pytest.mark.parametrize("writes", range(24))
@pytest.mark.parametrize("resumed", [True, False])
def test_a_full_disk_loses_no_saved_run(template, monkeypatch, resumed, writes):
    """The disk fills up after a number of writes: what was saved before still loads, and goes on to
    the same end.
    """
    with world(template):
        folder, command = ("run", f"{RESUME} --change --steps 12") if resumed else ("new", TRAIN)
        shutil.copytree("run", "whole")
        if resumed:
            assert run(command.replace("--out run", "--out whole"))[0] == 0
        fsync, left = os.fsync, iter(range(writes))

        def full(number):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(number)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            status, _, error = run(command)
        if next(left, None) is not None:  # the disk was large enough
            assert status == 0
            return
        assert status == 2
        assert_one_sentence(command, error, ": No space left on device")
        assert error.startswith(f"minimixce train: {folder}/")
        assert not list(Path(folder).rglob("*.tmp"))
        if Path(folder, "run.json").exists():
            assert run(SAMPLE.replace("run", folder))[0] == 0
            assert run(command if resumed else "train --resume --out new")[0] == 0
        else:
            assert not resumed
            assert run(f"{command} --overwrite")[0] == 0
        assert_same_end(folder, "whole")


def test_a_file_too_large_for_the_disk_loses_no_saved_run(template):
    pytest.importorskip("resource")
    limited = (
        "import resource, sys; from minimixce.cli import main;"
        " resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2);"
        " sys.exit(main(sys.argv[2:]))"
    )
    with world(template):
        model, state = os.path.getsize(WEIGHTS), os.path.getsize(STATE)
        assert state - model > 1000
        size = (model + state) // 2  # the model fits; the state does not, a few digits more or less
        command = shlex.split(f"{RESUME} --change --steps 9 --lr 0.1")
        before = listing()
        done = python("-c", limited, size, *command)
        assert done.returncode == 2
        assert done.stderr == "minimixce train: run/resume.safetensors: File too large\n"
        assert listing()[STATE] == before[STATE]
        assert run(SAMPLE)[0] == 0
        assert run(command)[0] == 0
        done = python("-c", limited, 100, *shlex.split(PREPARE))
        assert done.returncode == 2
        assert_one_sentence(PREPARE, done.stderr, "File too large")
        assert not Path("new").exists()


def python(*argv, **options):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    options = {"capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run([sys.executable, *map(str, argv)], env=env, **options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", [SAMPLE, f"{RESUME}"])
def test_standard_output_that_takes_nothing(template, command):
    with world(template), open("/dev/full", "w") as full:
        edit(OPTIONS, quiet=False)
        done = python(
            "-m",
            "minimixce",
            *shlex.split(command),
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
        )
        assert done.returncode == 2
        assert (
            done.stderr.splitlines()[-1]
            == f"minimixce {command.split()[0]}: No space left on device"
        )
        assert "Exception" not in done.stderr
        assert run(RESUME)[0] == 0


def test_a_reader_that_has_seen_enough(template):
    with world(template):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as closed:
            done = python(
                "-m",
                "minimixce",
                *shlex.split(SAMPLE),
                capture_output=False,
                stdout=closed,
                stderr=subprocess.PIPE,
            )
        assert (done.returncode, done.stderr) == (141, "")


# ---- fuzzing -------------------------------------------------------------------------------------

fuzzed = settings(derandomize=not CAMPAIGN, database=None, deadline=None, max_examples=250 * TIMES)
WEIRD = st.sampled_from(
    [
        "",
        " ",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1",
        "0",
        "½",
        "٣",
        "0x8",
        "1_0",
        "1e3",
        "Ω",
        "\ud800",
        "--",
    ]
)
# Sizes are small, or so large that no machine has the memory, never in between.
INTEGERS = st.sampled_from(
    [-(10**30), -1, 0, 1, 2, 3, 5, 8, 16, 10**13, 10**18, 2**63, 10**30, 10**400]
).map(str)
NUMBERS = st.floats().map(repr) | st.sampled_from(
    ["0.5", "1", "0", "0.1", "1e-400", "1e308", "-0.0"]
)
FUZZED = {
    "--data": st.sampled_from(
        [
            "story.txt",
            "short.txt",
            "omega.txt",
            "empty.txt",
            "prepared",
            "prepared_lines",
            ".",
            "\0",
            "x" * 300,
        ]
    ),
    "--objective": st.sampled_from(
        ["mle", "mixce", "mixce_surrogate", "tailr", "emo", ":", ".py:", "good.py:objective"]
    ),
    "--tokenizer": st.sampled_from(["character", "byte", "bpe", "run", ".", "story.txt"]),
    "--init": st.sampled_from(["run", "run/last", "prepared", ".", "story.txt", "none"]),
    "--device": st.sampled_from(["cpu", "cuda:99", "cuda:-1", "cuda:٣"]),
    "--out": st.sampled_from(
        ["new", "new/deep/er", ".", "..", "run", "story.txt", "ü Ω", "x" * 300]
    ),
    "--steps": st.sampled_from(["1", "2", "4", "-1"]),
    "--threads": st.sampled_from(["1", "2", "1024", "0"]),
} | {
    f"--{name}": values
    for values, names in (
        (
            INTEGERS,
            (
                "seed batch-size accumulate block-size n-layer n-head n-embd warmup eval-every"
                " eval-tokens patience vocab-size"
            ),
        ),
        (NUMBERS, "held-out eta gamma dropout lr final-lr weight-decay max-grad-norm"),
    )
    for name in names.split()
}
OPTION = st.sampled_from(list(FUZZED)).flatmap(
    lambda name: st.tuples(st.just(name), FUZZED[name] | WEIRD)
)
FLAGS = st.lists(
    st.sampled_from(["--lines", "--overwrite", "--resume", "--change", "--unchecked"]),
    unique=True,
    max_size=2,
)


def assert_status_0_or_2(command):
    status, _, error = run(command)
    assert status in (0, 2), (command, status, error)
    assert "Traceback" not in error
    if status == 2:
        assert "error: " in error or len(error.split()) > 4, (command, error)
    return status


@fuzzed
@given(st.lists(OPTION, min_size=1, max_size=6), FLAGS)
@example([("--n-layer", "1000000000000000000000000000000")], [])
@example([("--lr", "1e308"), ("--max-grad-norm", "3e38"), ("--final-lr", "1")], [])
def test_options_of_train(template, options, flags):
    with world(
        template,
        "story.txt",
        "short.txt",
        "omega.txt",
        "empty.txt",
        "good.py",
        "prepared",
        "prepared_lines",
        "run",
    ):
        before = listing()
        command = [*shlex.split(TRAIN), *flags, *(word for option in options for word in option)]
        if (
            assert_status_0_or_2(command) == 2
            and "--overwrite" not in flags
            and "--resume" not in flags
        ):
            assert not [name for name in changes(before, listing()) if name in before]


FUZZED_READING = {
    "--temperature": NUMBERS,
    "--seed": INTEGERS,
    "--tokens": st.integers(-1, 12).map(str),
    "--count": st.sampled_from(["1", "2", "0"]),
    "--top-k": INTEGERS,
    "--top-p": NUMBERS,
    "--prompt": st.text(max_size=5) | st.text("the ca", max_size=30),
    "--out": st.sampled_from(["found", "empty.txt/found", "run", "x" * 300, "\0"]),
    "--eta": NUMBERS,
    "--samples": st.sampled_from(["-1", "0", "1", "3", "10000000000000", str(10**30)]),
    "--data": FUZZED["--data"],
}


def readings(*names):
    return st.lists(
        st.sampled_from([f"--{n}" for n in names]).flatmap(
            lambda n: st.tuples(st.just(n), FUZZED_READING[n] | WEIRD)
        )
    )


SAMPLING = readings("temperature", "seed", "tokens", "count", "top-k", "top-p", "prompt", "out")
MEASURING = readings("temperature", "seed", "tokens", "eta", "samples", "data", "out")


@fuzzed
@given(st.tuples(st.just(SAMPLE), SAMPLING) | st.tuples(st.just(EVAL), MEASURING))
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of temperatures near 0
def test_options_of_sample_and_eval(template, command):
    with world(
        template,
        "story.txt",
        "short.txt",
        "omega.txt",
        "empty.txt",
        "prepared",
        "prepared_lines",
        "run",
    ):
        before = listing()
        start, options = command
        assert_status_0_or_2(
            [*shlex.split(start), *(word for option in options for word in option)]
        )
        assert not [name for name in changes(before, listing()) if name in before]


TEXT_BYTES = st.binary(max_size=300) | st.text(max_size=300).map(
    lambda t: t.encode("utf-8", "surrogatepass")
)


@fuzzed
@given(
    TEXT_BYTES,
    st.sampled_from(
        ["", "--lines", "--tokenizer byte", "--tokenizer byte --lines", "--held-out 0.5 --seed 3"]
    ),
)
@example(b"the cat sat on the mat " * 9, "--lines")
@example(b"a\nb\n" * 50, "--lines --eval-tokens 2")
@example(b"\xef\xbb\xbfa\r\nb\rc" * 20, "")
def test_any_bytes_as_text(template, data, options):
    with world(template, "short.txt"):
        write("noise", data)
        before = listing()
        for command in (
            on(TRAIN, f"noise --steps 2 {options}"),
            f"prepare --data noise --out ready {options}",
        ):
            if assert_status_0_or_2(command) == 2:
                assert changes(before, listing()) == []
            else:
                before = listing()
        if Path("ready").exists():
            assert_status_0_or_2(f"{TRAIN} --overwrite --data ready --steps 2")


RUN_FILES = [
    "run.json",
    "config.json",
    "minimixce_tokenizer.json",
    "metrics.jsonl",
    "resume.safetensors",
    "model.safetensors",
]
POSITIONS = st.floats(0, 1, exclude_max=True)
MUTATIONS = st.one_of(
    st.lists(st.tuples(POSITIONS, st.integers(0, 7)), min_size=1, max_size=3),  # bits
    st.lists(
        st.tuples(POSITIONS.map(lambda p: p / 30), st.integers(0, 7)), min_size=1, max_size=2
    ),  # bits near the start
    POSITIONS,  # a length to cut to
    st.binary(max_size=40),  # other content
)


def mutated(data, mutation):
    if isinstance(mutation, float):
        return data[: int(mutation * len(data))]
    if isinstance(mutation, bytes):
        return mutation
    data = bytearray(data)
    for position, bit in mutation:
        data[int(position * len(data))] ^= 1 << bit
    return bytes(data)


@settings(fuzzed, max_examples=800 * TIMES)
@given(
    st.sampled_from([*RUN_FILES, "last/model.safetensors", "last/config.json"]),
    MUTATIONS,
    st.sampled_from([SAMPLE, EVAL, RESUME]),
)
@example("config.json", [], SAMPLE)
@pytest.mark.filterwarnings(
    "ignore:.*encountered in:RuntimeWarning"
)  # of weights that became huge or NaN
def test_any_damage_to_a_run(template, name, mutation, command):
    with world(template, "story.txt", "run"):
        path = Path("run", name)
        path.write_bytes(mutated(path.read_bytes(), mutation))
        before = listing()
        if assert_status_0_or_2(command) == 2:
            assert changes(before, listing()) == []
        if (
            name == "resume.safetensors"
            and before[STATE] != (template / STATE).read_bytes()
            and command == RESUME
        ):
            assert changes(before, listing()) == []  # a changed state is always noticed


# ---- kills ---------------------------------------------------------------------------------------

LONG = (
    "train --data story.txt --device cpu --n-layer 1 --n-head 2 --n-embd 16 --block-size 16"
    " --batch-size 4 --warmup 5 --dropout 0.2 --seed 3 --steps 60 --eval-every 2 --out"
)


def assert_same_end(folder, whole):
    """Models bit for bit, and the same measurements except for speed."""
    for name in ("model.safetensors", "last/model.safetensors", "config.json"):
        assert Path(folder, name).read_bytes() == Path(whole, name).read_bytes(), name

    def measurements(folder):
        found = [
            json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()
        ]
        return [{k: v for k, v in m.items() if k != "tokens_per_second"} for m in found]

    assert measurements(folder) == measurements(whole)


@pytest.fixture(scope="module")
def whole(template, tmp_path_factory):
    """A run that nothing disturbed, and the seconds from its first save to its end."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with inside(template):
        process = start(LONG, folder)
        wait_for(folder / "run.json", process)
        started = time.monotonic()
        assert process.wait(60) == 0
    return folder, time.monotonic() - started


def start(command, folder):
    return subprocess.Popen(
        [sys.executable, "-m", "minimixce", *shlex.split(command), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.001)


@pytest.mark.parametrize("seed", range(3 * TIMES))
def test_a_run_killed_again_and_again_loads_and_ends_the_same(template, whole, seed):
    whole, seconds = whole
    chance = random.Random(seed)
    with world(template, "story.txt"):
        process, folder = start(LONG, "cut"), Path("cut")
        wait_for(folder / "run.json", process)
        killed = 0
        for k in range(4):
            time.sleep(
                chance.uniform(0, seconds / 2) if k else 0
            )  # the first is sure to find it at work
            process.kill()
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
            for part in (folder, folder / "last"):
                mm.GPT.load(part, device="cpu")
            assert run("sample cut --tokens 5")[0] == 0
            before = os.stat(folder / "run.json").st_mtime_ns
            process = start("train --resume --out", "cut")
            while os.stat(folder / "run.json").st_mtime_ns == before and process.poll() is None:
                time.sleep(0.001)
        _, error = process.communicate()
        assert process.returncode == 0, error
        assert killed
        assert_same_end("cut", whole)


def test_a_run_killed_before_it_began_says_what_to_do(template):
    chance = random.Random(0)
    with world(template, "story.txt"):
        for _ in range(3):
            process = start(LONG, "cut")
            time.sleep(chance.uniform(0.1, 0.5))
            process.kill()
            process.communicate()
            if Path("cut/run.json").exists():
                assert run("sample cut --tokens 5")[0] == 0
                assert run("train --resume --out cut --change --steps 61 --quiet")[0] == 0
            elif Path("cut").exists() and listing("cut"):
                status, _, error = run("train --resume --out cut")
                assert status == 2
                assert "cut/run.json does not exist" in error
                assert run(f"{TRAIN} --out cut --overwrite")[0] == 0
            shutil.rmtree("cut", ignore_errors=True)


def test_ctrl_c_says_how_to_go_on_and_then_ends_the_same(template, whole):
    whole, _ = whole
    with world(template, "story.txt"):
        process = start(LONG, "cut")
        while process.poll() is None and not (
            Path("cut/metrics.jsonl").exists() and Path("cut/metrics.jsonl").read_text()
        ):
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130, error
        assert error.splitlines()[-1] == "stopped; go on with: minimixce train --out cut --resume"
        assert "Traceback" not in error
        steps = [
            json.loads(line)["step"] for line in Path("cut/metrics.jsonl").read_text().splitlines()
        ]
        assert 0 < steps[-1] < 60
        assert run("sample cut --tokens 5")[0] == 0
        assert run("train --resume --out cut")[0] == 0
        assert_same_end("cut", whole)


def test_a_run_stopped_between_measurements_goes_on_to_the_next_one(template):
    with world(template):
        Path("stopping.py").write_text(  # in step 5, which follows the measurement of step 4
            "import os, signal\nimport minimixce as mm\ndef objective(logits, targets):\n"
            "    file = 'new/metrics.jsonl'\n    if os.path.exists(file) and '\"step\": 4' in"
            " open(file).read(): signal.raise_signal(signal.SIGINT)\n"
            "    return mm.objectives.mle(logits, targets)\n"
        )
        command = f"{TRAIN} --objective stopping.py:objective --unchecked --eval-every 4"
        resume = f"train --out new --resume --objective {os.getcwd()}/stopping.py:objective"
        assert run(command)[::2] == (130, f"stopped; go on with: minimixce {resume}\n")
        Path("stopping.py").write_text(OBJECTIVES["good"])
        assert json.loads(Path("new/metrics.jsonl").read_text())["step"] == 4
        for steps in (4, 5):
            assert_refused(
                f"{resume} --change --steps {steps}",
                "the run in new has made 5 steps; steps must be more",
            )
        assert run(f"{resume} --change --patience 1")[0] == 0
        assert json.loads(Path("new/metrics.jsonl").read_text().splitlines()[-1])["step"] == 6


def test_ctrl_c_before_training_says_so(template, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    with world(template):
        before = listing()
        monkeypatch.setattr("minimixce.text.load_corpus", interrupted)
        assert run(TRAIN) == (130, "", "minimixce train: interrupted\n")
        assert changes(before, listing()) == []
