"""Options of runs: declared once, written to run.json and read back with their types checked."""

import dataclasses
import json

import pytest

from minimixce import cli, objectives
from minimixce.experiments import options
from minimixce.experiments.options import ComparisonOptions, TrainingOptions
from minimixce.training.run import RUN_FILE

SMALL = (
    "--n-layer 1 --n-embd 8 --n-head 2 --block-size 8 --batch-size 2 --steps 4 --eval-every 2"
    " --warmup 1 --device cpu --quiet"
)


def write_run(folder, **values):
    (folder / RUN_FILE).write_text(json.dumps({"data_fingerprint": 1} | values))


@pytest.mark.parametrize("kind", [TrainingOptions, ComparisonOptions])
def test_a_run_is_read_back_as_it_was_written(tmp_path, kind):
    before = kind(data=["a.txt"], eta=0.25, max_len=7, lines=True, patience=3)
    write_run(tmp_path, **dataclasses.asdict(before))
    assert options.read_run(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", None),
        ("steps", 1.0),
        ("steps", True),
        ("lr", "fast"),
        ("lines", 1),
        ("data", "a.txt"),
        ("data", []),
        ("data", [1]),
        ("world", 5),
        ("objective", None),
        ("data_fingerprint", "x"),
        ("nothing", 1),
        ("overwrite", True),
    ],
)
def test_a_value_of_another_type_is_damage(tmp_path, name, value):
    write_run(tmp_path, **{name: value})
    with pytest.raises(ValueError, match=f"is damaged: {name} cannot be"):
        options.read_run(tmp_path)


def test_what_may_be_none_or_an_integer_is_no_damage(tmp_path):
    write_run(tmp_path, lr=1, patience=None, data=None, world=None, max_len=5)
    assert options.read_run(tmp_path) == TrainingOptions(lr=1, max_len=5)


def test_a_run_goes_on_with_its_options_and_those_that_may_differ(tmp_path):
    write_run(tmp_path, steps=10, seed=3)
    assert options.resumed(tmp_path, {}) == TrainingOptions(steps=10, seed=3)
    given = {"eval_every": 5, "steps": 10}
    assert options.resumed(tmp_path, given) == TrainingOptions(steps=10, seed=3, eval_every=5)
    assert options.resumed(tmp_path, {"steps": 20}, change=True).steps == 20
    with pytest.raises(ValueError, match="--steps 10, not 20; add --change to change it"):
        options.resumed(tmp_path, {"steps": 20})
    with pytest.raises(ValueError, match="--seed 3, not 4; a run cannot change it"):
        options.resumed(tmp_path, {"seed": 4}, change=True)


def test_every_ratio_has_an_option_with_its_default():
    assert objectives.RATIOS.keys() >= {"eta", "gamma"}
    for name, ratio in objectives.RATIOS.items():
        assert getattr(TrainingOptions(), name) == ratio.default


def test_a_row_of_the_table_of_objectives_is_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "story.txt").write_text("the cat sat on the mat\n" * 40)
    seen = []

    def confident(logits, targets, *, eta, normalizer=None, reduction="mean"):
        seen.append(eta)
        return objectives.mixce(logits, targets, eta=eta, normalizer=normalizer)

    row = objectives.Objective("tokens", "eta", loss=confident)
    monkeypatch.setitem(objectives.OBJECTIVES, "confident", row)
    data = f"--data {tmp_path / 'story.txt'} --out"
    train = f"train {SMALL} {data} {tmp_path / 'run'} --objective confident --eta 0.125"
    assert cli.main(train.split()) == 0
    assert set(seen) == {0.125}
    compare = f"compare {SMALL} {data} {tmp_path / 'c'} --objectives confident:0.25 --seeds 0"
    assert cli.main([*compare.split(), "--samples", "1", "--tokens", "5"]) == 0
    assert (tmp_path / "c" / "confident_eta0.25_seed0" / "config.json").exists()


def test_the_eta_of_the_command_line_is_the_one_of_validation(tmp_path):
    (tmp_path / "story.txt").write_text("the cat sat on the mat\n" * 40)
    train = f"train {SMALL} --data {tmp_path / 'story.txt'} --out {tmp_path / 'run'} --eta 0.125"
    for objective in ("mixce", "mle"):
        assert cli.main([*train.split(), "--objective", objective, "--overwrite"]) == 0
        line = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
        found = json.loads(line)
        expected = 0.125 * found["validation_mle"] - 0.875 * found["mean_q"]
        assert found["validation_mixce"] == pytest.approx(expected, rel=1e-12)
