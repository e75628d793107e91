"""What README shows is what happens: its Python blocks run, and print what stands below them."""

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import minimixce as mm
from minimixce import checks
from minimixce.experiments.fixed_points import fixed_point

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(
    r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
)


def python_block(words):
    """(code, the text block that follows it or None) of the Python block that contains `words`."""
    (i,) = (i for i, (kind, body) in enumerate(BLOCKS) if kind == "python" and words in body)
    following = BLOCKS[i + 1] if i + 1 < len(BLOCKS) else ("", "")
    return BLOCKS[i][1], following[1] if following[0] == "text" else None


def test_the_training_loop_that_opens_it(capsys):
    code, shown = python_block("objectives.mixce(logits")
    exec(code, {})
    printed = [
        [float(number) for number in line.split()] for line in capsys.readouterr().out.splitlines()
    ]
    assert len(printed) == len(shown.splitlines())
    for line, expected in zip(printed, shown.splitlines()):
        # Python versions carry different documentation, and machines round differently.
        assert line == pytest.approx([float(number) for number in expected.split()], abs=0.15)
    assert printed[-1][1] < 1.2 < printed[0][1]


def test_the_gradient_check_that_fails_on_purpose(capsys):
    code, shown = python_block("wrong on purpose")
    exec(code, {})
    assert capsys.readouterr().out == shown


def test_the_exact_gradients_of_a_known_world(capsys):
    code, shown = python_block("worlds.agreement()")
    exec(code, {})
    for line, expected in zip(
        capsys.readouterr().out.splitlines(), shown.splitlines(), strict=True
    ):
        words, wanted = line.split(), expected.split()
        assert (words[0], words[1::2]) == (wanted[0], wanted[1::2])
        assert [float(w) for w in words[2::2]] == pytest.approx(
            [float(w) for w in wanted[2::2]], abs=0.01
        )


def test_the_text_that_is_loaded_and_sampled(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text("The cat sat on the mat. The dog sat on the log.\n" * 50)
    (commands,) = (
        body.splitlines() for kind, body in BLOCKS if kind == "sh" and "story.txt" in body
    )
    from minimixce.cli import main

    small = {
        "train": ["--steps", "30", "--n-embd", "16", "--block-size", "16"],
        "eval": ["--samples", "2", "--tokens", "50"],
    }
    for command in commands:
        _, name, *rest = shlex.split(command)
        assert main([name, *rest, *small.get(name, [])]) == 0
    capsys.readouterr()
    exec(python_block('"story-run"')[0], {})
    assert capsys.readouterr().out.startswith("The ")


def test_the_loss_of_your_own(tmp_path):
    defined = {}
    exec(python_block("half_and_half")[0], defined)
    assert checks.check_objective(defined["half_and_half"]).ok


def test_ci_runs_the_same_set_up_commands_and_the_version_is_in_the_changelog():
    commands = [line for kind, body in BLOCKS if kind == "sh" for line in body.splitlines()]
    ci = (ROOT / ".ci/run").read_text()
    assert 'pip install -e ".[test]" && pytest' in commands
    assert 'pip install -q -e ".[test]" && pytest' in ci
    assert "pip install -e . && minimixce train" in commands
    assert "minimixce train" in ci
    assert f"## {mm.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_the_main_job_beats_a_4_gram_model(capsys, tmp_path, monkeypatch):
    """MINIMIXCE_MAIN_JOB, if set, is a file with what `minimixce train` has printed: .ci/run has
    just run it.
    """
    printed = os.environ.get("MINIMIXCE_MAIN_JOB")
    if printed:
        printed = Path(printed).read_text(encoding="utf-8")
    else:
        from minimixce.cli import main

        monkeypatch.chdir(tmp_path)
        assert main(["train", "--device", "cpu"]) == 0
        printed = capsys.readouterr().out
    result = re.search(
        r"validation (\S+) nats per character, perplexity \S+ \(a 4-gram model: (\S+),", printed
    )
    assert float(result[1]) < float(result[2])


def test_the_table_of_fixed_points():
    p = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
    page = (ROOT / "tutorials/which_objective.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]*?) \| (\.\d{3} .*?) \|$", page, re.M))
    shown = {label: [float(cell) for cell in cells.split("|")] for label, cells in rows.items()}
    assert len(shown) == 10
    for label, q in shown.items():
        ratio = float(label.split()[-1]) if label[-1].isdigit() else None
        if name := re.search("mixce|tailr", label):
            expected, _ = fixed_point(name[0], p, ratio)
        else:
            power = p ** (1 / ratio) if ratio else p
            expected = power / power.sum()
        assert q == pytest.approx(expected, abs=6e-4), label
