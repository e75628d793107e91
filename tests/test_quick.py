"""How long training takes: `train --quick`, the time that is said before and while training, and
memory that fit reuses unless told not to.
"""

import json
import re

import numpy as np
import pytest

import minimixce as mm
from minimixce import backend, cli, text
from minimixce.experiments import jobs, options
from minimixce.training import timing

TINY = "--n-layer 1 --n-embd 8 --n-head 2 --block-size 8 --batch-size 2 --warmup 1 --device cpu"


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("the cat sat on the mat and the dog sat on the log\n" * 40)
    return str(path)


def train(capsys, *argv):
    status = cli.main(["train", *map(str, argv)])
    return status, *capsys.readouterr()


def test_quick_sets_what_was_not_given(capsys, tmp_path, story):
    out = tmp_path / "run"
    given = ["--steps", 12, "--n-embd", 16, "--block-size", 16, "--eval-every", 6]
    status, printed, _ = train(capsys, "--quick", "--data", story, "--out", out, *given)
    assert status == 0
    assert "sample" in printed
    run = json.loads((out / "run.json").read_text())
    assert (run["steps"], run["n_embd"], run["block_size"]) == (12, 16, 16)
    for name in ("lr", "batch_size", "eval_tokens"):
        assert run[name] == options.QUICK[name] != getattr(options.TrainingOptions(), name)


def test_quick_is_less_work_than_the_default():
    default, quick = options.TrainingOptions(), options.TrainingOptions(**options.QUICK)

    def work(o):
        return o.steps * o.batch_size * o.block_size * o.n_layer * o.n_embd**2

    assert work(quick) < work(default) / 10


def test_quick_starts_a_run_and_does_not_go_on_with_one(capsys, tmp_path):
    status, _, error = train(capsys, "--quick", "--resume", "--out", tmp_path)
    assert status == 2
    assert "--quick starts a run" in error


def test_the_time_is_said_before_training_and_what_is_left_of_it_after(capsys, tmp_path, story):
    flags = [*TINY.split(), "--steps", 6, "--eval-every", 2]
    _, printed, _ = train(capsys, "--data", story, "--out", tmp_path / "run", *flags)
    lines = printed.splitlines()
    (said,) = (i for i, line in enumerate(lines) if line.startswith("time "))
    assert re.fullmatch(r"time     about \d+ s for 6 steps", lines[said])
    steps = [i for i, line in enumerate(lines) if line.startswith("step ")]
    assert said < steps[0]
    assert [bool(re.search(r"left \d+ s$", lines[i])) for i in steps] == [True, True, False]


def test_saying_how_long_it_takes_changes_nothing(story):
    flags = {"data": [story], "n_layer": 1, "n_embd": 8, "n_head": 2, "block_size": 8}
    job = jobs.Job(options.TrainingOptions(**flags, dropout=0.5, device="cpu"))
    before = {name: value.copy() for name, value in job.model.params.items()}
    job.describe_time()
    assert all(np.array_equal(value, before[name]) for name, value in job.model.params.items())


def test_the_estimate_counts_steps_and_validations():
    assert timing.seconds_of_training(0.1, 50, 100) == pytest.approx(5)
    both = timing.seconds_of_training(0.1, 50, 100, validations=4, validation_positions=1000)
    assert 5 + 4 * 0.2 < both < 5 + 4 * 1.0  # 1000 positions forwards: less than ten whole steps


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (7.4, "7 s"),
        (44, "40 s"),
        (125, "2.1 minutes"),
        (1000, "17 minutes"),
        (2.5 * 3600, "2.5 hours"),
        (50 * 3600, "2.1 days"),
    ],
)
def test_durations_are_as_coarse_as_they_are_sure(seconds, words):
    assert timing.describe(seconds) == words


@pytest.mark.parametrize("wanted", [True, False])
def test_fit_reuses_freed_memory_unless_told_not_to(monkeypatch, wanted):
    called = []
    monkeypatch.setattr(backend, "reuse_freed_memory", lambda: called.append(True))
    model = mm.GPT(mm.GPTConfig(5, 4, 1, 1, 4), device="cpu")
    batches = text.random_batches(np.arange(40) % 5, 2, 4)
    options = {} if wanted else {"reuse_memory": False}
    mm.fit(model, batches, steps=1, progress=False, **options)
    assert called == [True] * wanted
