"""Training on processes of an MPI engine: the numbers of one process, one end for all, a state that
goes on.
"""

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from minimixce.storage import checkpoint

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="needs mpi4py"),
]
MPIEXEC = shutil.which("mpiexec", path=f"{sys.prefix}/bin") or shutil.which("mpiexec")
MINIMIXCE = [sys.executable, "-m", "minimixce"]
PROGRAM = Path(__file__).with_name("ranks_program.py")
SMALL = ["--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16"]
SMALL += ["--batch-size", "8", "--warmup", "5", "--device", "cpu", "--quiet"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text("The cat sat on the mat. The dog sat on the log.\n" * 60)
    return path


def command(size, *words):
    """mpiexec, for `size` ranks of python -m minimixce with these words, or of a program."""
    program = [sys.executable] if str(words[0]).endswith(".py") else MINIMIXCE
    return [MPIEXEC, "-n", str(size), *program, *map(str, words)]


def run(argv, timeout=100):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT)
    return done.returncode, done.stdout, done.stderr


def train(text, out, *words):
    return ["train", "--data", text, "--out", out, *SMALL, *map(str, words)]


def measured(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "tokens_per_second": 0} for line in lines]


def ranks_of(mpiexec):
    """The processes of a job, by rank."""
    found = {}
    for process in psutil.Process(mpiexec.pid).children(recursive=True):
        rank = process.environ().get("PMI_RANK")
        if rank is not None and "minimixce" in process.cmdline():
            found[int(rank)] = process
    return found


def start(argv, out, lines=1):
    """A job, with files for what it prints, once it has written so many measurements."""
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the job has ended
    job = subprocess.Popen(argv, stdout=errors, stderr=errors, env=ENVIRONMENT)
    until = time.monotonic() + 60
    while job.poll() is None and time.monotonic() < until:
        metrics = out / "metrics.jsonl"
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
            return job, errors
        time.sleep(0.02)
    job.kill()
    errors.seek(0)
    raise AssertionError(f"the job did not begin: {errors.read()}")


def end(job, errors, seconds=30):
    """Its status and what it said."""
    status = job.wait(seconds)
    errors.seek(0)
    with errors:
        return status, errors.read()


# ---- the same numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_equal_one_process(tmp_path, size):
    """Gradients to 1e-12, weights after fifty steps to 1e-9 of each tensor's largest entry, in
    float64: over tokens with dropout, by an objective of one's own, over sequences exactly and by
    RLOO.
    """
    status, _, errors = run(command(size, PROGRAM, "equal", tmp_path))
    assert status == 0, errors
    found, expected = (np.load(tmp_path / f"{name}.npz") for name in ("found", "expected"))
    assert set(found) == set(expected)
    assert len(found) == 4 * 28 + 2 * 16  # tensors of two blocks, and of one
    for name, want in expected.items():
        tolerance = 1e-9 if " " in name else 1e-12  # gradients have the bare name
        assert np.abs(found[name] - want).max() <= tolerance * np.abs(want).max(), name


def test_the_command_equals_shards(tmp_path, text):
    words = ["--steps", 30, "--eval-every", 10, "--dropout", 0.1, "--accumulate", 2]
    argv = [*MINIMIXCE, *map(str, train(text, tmp_path / "one", *words, "--shards", 2))]
    assert run(argv)[0] == 0
    status, _, errors = run(command(2, *train(text, tmp_path / "two", *words)))
    assert status == 0, errors
    for m, e in zip(measured(tmp_path / "two"), measured(tmp_path / "one"), strict=True):
        assert m == pytest.approx(e, rel=1e-4)
    of = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "two").iterdir()} == of
    # and on with another number of ranks
    more = ["--steps", 60, "--resume", "--change"]
    status, _, errors = run(command(4, *train(text, tmp_path / "two", *more)))
    assert status == 0, errors
    assert [m["step"] for m in measured(tmp_path / "two")] == [10, 20, 30, 40, 50, 60]


# ---- one end for all -----------------------------------------------------------------------------


def assert_usable(out):
    """The state is whole, and is of as many steps as its measurements and losses say."""
    arrays, info = checkpoint.load_state(out / "resume.safetensors")
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert info["step"] == measured(out)[-1]["step"] + len(arrays["losses"])
    return info["step"]


@pytest.mark.parametrize(
    ("number", "whom", "shards"),
    [
        (signal.SIGINT, None, 1),
        (signal.SIGTERM, None, 1),
        (signal.SIGTERM, None, 2),
        (signal.SIGTERM, 1, 1),
    ],
)
def test_a_signal_stops_all_and_the_run_goes_on(tmp_path, text, number, whom, shards):
    """To mpiexec, as by Ctrl-C and by a job scheduler, which passes SIGTERM on to the processes of
    shards, too; or to a rank.
    """
    out = tmp_path / "run"
    words = ["--steps", 100_000, "--eval-every", 20, "--lr", 1e-5, "--shards", shards]
    job, errors = start(command(2, *train(text, out, *words)), out, lines=2)
    (ranks_of(job)[whom] if whom is not None else job).send_signal(number)
    status, said = end(job, errors)
    assert status == 130
    assert "stopped; go on with: minimixce train --out" in said
    assert said.count("stopped") == 1
    stopped_at = assert_usable(out)
    more = ["--steps", stopped_at + 5, "--resume", "--change"]
    status, _, said = run(command(2, *train(text, out, *more)))
    assert status == 0, said
    assert measured(out)[-1]["step"] == stopped_at + 5


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, text):
    words = ["--steps", 400, "--eval-every", 100]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert run(command(2, *train(text, whole, *words)))[0] == 0
    job, errors = start(command(2, *train(text, out, *words)), out)
    ranks_of(job)[0].send_signal(signal.SIGTERM)
    end(job, errors)
    assert 100 <= assert_usable(out) < 400
    status, _, said = run(command(2, *train(text, out, "--resume")))
    assert status == 0, said
    assert measured(out) == measured(whole)
    for name, array in load_file(whole / "last" / "model.safetensors").items():
        assert np.array_equal(array, load_file(out / "last" / "model.safetensors")[name]), name


def test_nan_stops_all(tmp_path, text):
    status, _, said = run(command(2, *train(text, tmp_path / "run", "--lr", "1e30")))
    assert status == 2
    assert said.count("minimixce train: the loss is not finite since step") == 1


def test_kills_of_random_ranks_at_random_moments(tmp_path, text):
    """A sample of those of tests/campaigns/ranks.py."""
    drawn = random.Random(0)
    for k in range(2):
        kill_one(drawn, tmp_path / f"run{k}", text, sizes=(2, 4))


def kill_one(drawn, out, text, sizes):
    """Kill a rank of a job of two, any time after its run is there: the job ends with an error
    within 30 s, and what is left goes on with another number of ranks.
    """
    words = ["--steps", 100_000, "--eval-every", 10, "--lr", 1e-5]
    job, errors = start(command(sizes[0], *train(text, out, *words)), out)
    time.sleep(drawn.random())
    ranks_of(job)[drawn.randrange(sizes[0])].kill()
    status, said = end(job, errors)
    assert status != 0
    assert "Killed (signal 9)" in said
    _, info = checkpoint.load_state(out / "resume.safetensors")
    more = ["--steps", info["step"] + 2, "--resume", "--change"]
    status, _, said = run(command(sizes[1], *train(text, out, *more)))
    assert status == 0, said
    assert assert_usable(out) == info["step"] + 2


# ---- what is wrong with a rank -------------------------------------------------------------------


def test_ranks_that_are_not_alike(tmp_path, text):
    other = tmp_path / "other.txt"
    other.write_text(text.read_text() + "And that was that.\n")
    first = command(1, *train(text, tmp_path / "run"))
    for second, sentence in (
        (train(other, tmp_path / "run"), "the same training text (by its fingerprint): rank 0 has"),
        (train(text, tmp_path / "run", "--seed", 1), "the same option --seed: rank 0 has 0, rank"),
        (train(text, tmp_path / "run", "--resume"), "the same option --resume: rank 0 has False"),
    ):
        status, _, said = run([*first, ":", *command(1, *second)[1:]])
        assert status == 2
        assert said.count("minimixce train: all ranks must have") == 1
        assert sentence in said
        assert not (tmp_path / "run" / "resume.safetensors").exists()


def test_a_rank_that_fails_alone_ends_the_job(tmp_path, text):
    first = command(1, *train(text, tmp_path / "run"))
    second = command(1, *train(text, tmp_path / "run", "--layers", 3))[1:]
    started = time.monotonic()
    status, _, said = run([*first, ":", *second])
    assert status != 0
    assert "minimixce: error: unrecognized arguments: --layers 3" in said
    assert time.monotonic() - started < 30


def test_another_mpi_than_that_of_mpiexec(tmp_path, text, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "OMPI_COMM_WORLD_SIZE", "2")
    argv = [*MINIMIXCE, *map(str, train(text, tmp_path / "run"))]
    status, _, said = run(argv)
    assert status == 2
    assert "mpiexec started 2 processes, but mpi4py sees one of them" in said


def test_a_full_disk_is_told_to_all(tmp_path):
    status, said, errors = run(command(2, PROGRAM, "full", tmp_path))
    assert status == 0, errors
    for rank in (0, 1):
        assert f"rank {rank}: OSError File too large" in said
    assert checkpoint.load_state(tmp_path / "run" / "resume.safetensors")[1]["step"] == 0


def test_a_batch_smaller_than_the_ranks(tmp_path, text):
    words = train(text, tmp_path / "run", "--batch-size", 1)
    status, _, said = run(command(2, *words))
    assert status == 2
    assert said.count("--batch-size must be at least the number of ranks, 2, got 1") == 1


# ---- a grid of runs ------------------------------------------------------------------------------


def test_a_comparison_on_three_ranks_gives_the_same_table_killed_or_not(tmp_path, text):
    words = ["compare", "--data", text, *SMALL, "--objectives", "mle", "--seeds", "0,1"]
    words += ["--samples", "2", "--tokens", "20", "--steps", "150", "--eval-every", "20", "--out"]
    words = [*map(str, words)]
    one, three = tmp_path / "one", tmp_path / "three"
    assert run([*MINIMIXCE, *words, str(one), "--shards", "1"])[0] == 0
    argv = [MPIEXEC, "-n", "3", sys.executable, "-m", "mpi4py.futures", *MINIMIXCE[1:], *words]
    argv.append(str(three))
    job, errors = start(argv, three / "mle_seed0")
    worker = random.Random(0).choice([1, 2])
    ranks_of(job)[worker].kill()
    status, said = end(job, errors)
    assert status != 0
    assert "Killed (signal 9)" in said
    assert not (three / "table.csv").exists()
    status, _, said = run([*argv, "--resume"])
    assert status == 0, said
    assert (three / "table.csv").read_text() == (one / "table.csv").read_text()
