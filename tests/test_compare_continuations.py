"""compare --prompt-tokens, the fine-tuning experiment: its numbers by hand, what it refuses, and
that nothing is lost where it is killed.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import minimixce as mm
from minimixce import cli, text
from minimixce.experiments import compare as compare_command
from minimixce.experiments import continuation_runs, intervals
from minimixce.experiments.compare_continuations import choose, difference
from minimixce.experiments.continuations import ContinuationOptions

# ---- formulas ------------------------------------------------------------------------------------


def test_how_many_pairs_it_takes_by_hand():
    """n ≥ ((t₁ + t₂) s / d)² with d = 2, s = 1: of printed tables of t, 4.33 at n = 4 and 3.45 at
    n = 5.
    """
    assert intervals.pairs_needed([1.0, 2.0, 3.0]) == 5
    # d = 0.1, s = 1: the normal quantiles give (1.960 + 0.842)² / 0.01 = 784.9, Student's two more
    assert intervals.pairs_needed([-0.9, 0.1, 1.1]) == 787
    assert intervals.pairs_needed([-0.9, 0.1, 1.1]) == intervals.pairs_needed([-1.1, -0.1, 0.9])
    assert intervals.pairs_needed([0.5, 0.5]) == 2  # no deviation
    assert intervals.pairs_needed([-1.0, 1.0]) is None
    with pytest.raises(ValueError, match="at least 2"):
        intervals.pairs_needed([1.0])


def test_so_many_pairs_find_a_difference_as_often_as_is_said():
    rng = np.random.default_rng(0)
    n = intervals.pairs_needed([-0.2, 0.8, 1.8])  # d = 0.8, s = 1
    values = 0.8 + rng.standard_normal((20_000, n))
    errors = values.std(axis=1, ddof=1) / n**0.5
    found = np.abs(values.mean(axis=1)) > intervals.t_quantile(0.975, n - 1) * errors
    assert 0.79 < found.mean() < 0.84


def test_differences_are_of_the_same_seeds():
    a = [{"seed": 0, "diversity": 0.9, "mauve": 0.5}, {"seed": 1, "diversity": 0.7, "mauve": 0.6}]
    b = [{"seed": 0, "diversity": 0.8}, {"seed": 1, "diversity": 0.4}]
    found = difference(a, b)
    assert set(found) == {"diversity"}  # what only one of them has cannot be compared
    assert found["diversity"]["mean"] == pytest.approx(0.2)
    # deviation 0.1 √2, standard error 0.1, and 12.706 of these
    assert found["diversity"]["low"] == pytest.approx(0.2 - 1.2706, abs=1e-4)
    assert found["diversity"]["high"] == pytest.approx(0.2 + 1.2706, abs=1e-4)
    assert difference(a[:1], b[:1])["diversity"] == {"mean": pytest.approx(0.1)}


def test_the_choice_by_hand():
    found = {"mle": (0.5, 0.9), "a": (0.6, 0.3), "b": (0.4, 0.5), "c": (0.9, 0.4)}
    rows = {
        label: [{"diversity": d - 0.1, "mauve": m}, {"diversity": d + 0.1, "mauve": m}]
        for label, (d, m) in found.items()
    }
    assert choose(rows, {"diversity": 0.5, "mauve": 1.0}) == "b"
    assert choose(rows, {"diversity": 0.52}) == "a"
    assert choose(rows, {"diversity": 1.0}) == "c"


def test_texts_that_were_seen_are_not_tested_on():
    train, held = np.array([0, 1, 2, 0, 3, 3, 0]), np.array([0, 4, 0])
    corpus = text.Corpus(train, held, text.CharTokenizer("abcdef"))
    test = np.array([0, 1, 2, 0, 5, 1, 0, 4, 0, 1, 0], np.uint16)
    kept, left_out = continuation_runs._without_seen(test, corpus)
    assert kept.tolist() == [0, 5, 1, 0, 1, 0]
    assert kept.dtype == np.uint16
    assert left_out == 2
    kept, left_out = continuation_runs._without_seen(test[:4], corpus)
    assert (len(kept), left_out) == (0, 1)


def test_every_file_is_one_that_compare_may_replace():
    """And no two ways to write have the same."""
    options = ContinuationOptions(tune_top_p=True)
    ways = continuation_runs.ways(["mle", "mixce η=0.5", "mine"], [0, 1], options)
    assert len({way.file for way in ways}) == len(ways) == 2 * (3 + 4 + 4)
    assert all(compare_command._is_name(way.file) for way in ways)
    for name in ("texts/mine.json", "texts/../mle_seed0_test.json", "texts/mle_seed0"):
        assert not compare_command._is_name(name)


# ---- the command ---------------------------------------------------------------------------------

WORDS = ("cat", "dog", "log", "mat", "sat", "on", "the", "and")
RUN = (
    "--init start --data data --validation validation --test test --out out --steps 6 --warmup 2"
    " --eval-every 3 --eval-tokens 400 --batch-size 4 --prompt-tokens 4 --tokens 12 --samples 20"
    " --span-words 4 --spans 30 --objectives mle,mixce:0.5,mixce:0.1 --seeds 0,1 --quiet"
).split()


def compare(*more):
    """Exit status of RUN, with --test TEXT, which adds up otherwise, in the place of its own."""
    words = list(RUN)
    if "--test" in more:
        at = words.index("--test")
        del words[at : at + 2]
    return cli.main(["compare", *words, *more])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model to start from, and documents of random words."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, count in (("data", 8), ("validation", 4), ("test", 4)):
        (tmp_path / name).mkdir()
        for i in range(count):
            words = rng.choice(WORDS, 150)
            (tmp_path / name / f"{i}.txt").write_text(" ".join(words) + ".\n")
    bpe = text.learn_bpe([" ".join(WORDS) + ".\n"], 270)
    config = mm.GPTConfig(bpe.vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=16)
    mm.GPT(config, device="cpu").save("start", boundary=bpe.boundary)
    text.save_tokenizer(bpe, "start")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("--test empty", "empty holds no files"),
        ("--test data", "--test must name texts that are not trained on or held out already"),
        ("--objectives mixce:0.5", "--objectives must name mle"),
        ("--objectives mle", "--objectives must name mle"),
        ("--prompt-tokens 12", "--prompt-tokens must be at least 1 and less than --tokens, 12"),
        ("--tokens 1000", "the validation text is too short: continuations need two stretches"),
        ("--top-p 0.9 --tune-top-p", "--top-p and --tune-top-p exclude each other"),
        ("--prompt-tokens 0", "is for continuations: add --prompt-tokens"),
        ("--init no", "no/config.json does not exist"),
        ("--init bare", "tokenizer"),
        ("--features bare", "tokenizer"),
    ],
)
def test_what_cannot_work_is_one_sentence_before_anything_is_trained(
    folder, capsys, given, sentence
):
    (folder / "empty").mkdir()
    mm.GPT.load("start", "cpu").save("bare", boundary=0)
    assert compare(*given.split()) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (folder / "out" / "mle_seed0").exists()


def test_what_is_missing_is_asked_for(folder, capsys):
    without = [word for word in RUN if word not in ("--test", "test")]
    assert cli.main(["compare", *without]) == 2
    assert "name them with --test" in capsys.readouterr().err
    without = [word for word in RUN if word not in ("--init", "start")]
    assert cli.main(["compare", *without]) == 2
    assert "name its folder with --features" in capsys.readouterr().err


@pytest.mark.parity
def test_too_few_texts_for_mauve_are_one_sentence(folder, capsys):
    pytest.importorskip("mauve")
    assert compare("--mauve", "--samples", "19") == 2
    assert "MAUVE needs at least 20 texts of each kind, got 19" in capsys.readouterr().err
    for path in (folder / "test").iterdir():
        path.write_text(path.read_text()[:100])
    assert compare("--mauve") == 2
    assert "the test text is too short: MAUVE needs at least 20" in capsys.readouterr().err


@pytest.mark.slow
def test_the_experiment_from_end_to_end(folder, capsys):
    assert compare("--tune-top-p") == 0
    printed = capsys.readouterr().out
    found = json.loads((folder / "out" / "table.json").read_text())
    assert "the best by validation diversity nearest to human text's" in printed
    others = [label for label in found["rows"] if label != "mle"]
    assert found["chosen"] in others
    human = found["validation"]["human text"][0]["diversity"]
    far = {
        label: abs(np.mean([row["diversity"] for row in found["validation"][label]]) - human)
        for label in others
    }
    assert found["chosen"] == min(far, key=far.get)
    assert set(found["controls"]) == {f"mle, entropy of {label}" for label in others} | {
        f"{label}, top-p" for label in found["rows"]
    }
    for label in others:
        for row, control in zip(
            found["rows"][label], found["controls"][f"mle, entropy of {label}"]
        ):
            assert control["seed"] == row["seed"]
            assert control["temperature"] <= 1
    with open(folder / "out" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (3 + 3 + 2) + 1
    page = (folder / "out" / "table.md").read_text()
    assert page.count("\n| perplexity |") == 3
    written = json.loads((folder / "out" / "texts" / "mle_seed1_test.json").read_text())
    assert len(written["texts"]) == len(written["tokens"]) == found["texts"]["test"]
    assert (folder / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def results(out):
    return {name: (out / name).read_bytes() for name in ("table.json", "table.csv", "table.md")}


@pytest.mark.slow
def test_a_killed_experiment_goes_on_and_ends_as_it_would_have(folder):
    """Killed when the first run is trained, when the first texts are there, and when the first are
    measured; what is written is not written again.
    """
    assert compare() == 0
    expected = results(folder / "out")
    command = [sys.executable, "-m", "minimixce", "compare", *RUN, "--out", "killed"]
    killed = folder / "killed"
    seen = {
        "trained": lambda: (killed / "mle_seed0" / "config.json").exists(),
        "written": lambda: len([*killed.glob("texts/*.json")]) > 3,
        "measured": lambda: any('"row"' in p.read_text() for p in killed.glob("texts/*.json")),
    }
    before = {}
    for more, is_there in zip(([], ["--resume"], ["--resume"]), seen.values()):
        process = subprocess.Popen([*command, *more], stderr=subprocess.PIPE)
        while not is_there() and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        for name, content in before.items():
            assert json.loads((killed / name).read_text())["texts"] == content
        paths = killed.glob("texts/*.json")
        before = {f"texts/{p.name}": json.loads(p.read_text())["texts"] for p in paths}
    ages = {p: p.stat().st_mtime_ns for p in killed.glob("*_seed*/model.safetensors")}
    assert ages
    assert subprocess.run([*command, "--resume"], check=False).returncode == 0
    assert results(killed) == expected
    assert ages == {p: p.stat().st_mtime_ns for p in ages}


@pytest.mark.slow
def test_what_changes_is_written_and_measured_anew(folder, capsys):
    assert compare() == 0
    path = folder / "out" / "texts" / "mle_seed0_test.json"
    before = json.loads(path.read_text())
    before["texts"][0] = "mine"
    path.write_text(json.dumps(before))
    assert compare("--resume", "--spans", "10") == 0
    again = json.loads(path.read_text())
    assert again["tokens"] == before["tokens"]
    assert again["texts"][0] == "mine"  # not written again
    assert again["by"] != before["by"]
    assert compare("--resume", "--tokens", "10") == 0
    assert max(map(len, json.loads(path.read_text())["tokens"])) == 10


@pytest.mark.parity
@pytest.mark.slow
def test_the_choice_is_by_validation_mauve(folder, capsys):
    pytest.importorskip("mauve")
    assert compare("--mauve") == 0
    found = json.loads((folder / "out" / "table.json").read_text())
    means = {
        label: np.mean([row["mauve"] for row in rows])
        for label, rows in found["validation"].items()
        if label not in ("mle", "human text")
    }
    assert found["chosen"] == max(means, key=means.get)
    assert found["differences"][f"{found['chosen']} − mle"]["mauve"]["low"] is not None
