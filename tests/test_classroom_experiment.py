"""A4 and the concept test: the pre-registration, the interval, one seed, the forms."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minimixce.classroom import experiment
from minimixce.classroom.check_experiment import check_folder
from minimixce.cli import main

FOLDER = Path(__file__).parent.parent / "tutorials" / "assignments"
EXAMPLE = FOLDER / "a4" / "example"
PREREG = json.loads((EXAMPLE / "prereg.json").read_text(encoding="utf-8"))
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture
def folder(tmp_path):
    """The worked example in a repository, registered before it was run."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    copy = tmp_path / "mine"
    copy.mkdir()
    git = ["git", "-C", str(copy), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    for name in ("prereg.json", "results.csv", "summary.json"):
        shutil.copy(EXAMPLE / name, copy)
        subprocess.run([*git, "add", name], check=True)
        subprocess.run([*git, "commit", "-q", "-m", name], check=True)
    return copy


def test_the_example_passes_and_is_the_report(folder):
    items = check_folder(folder)
    assert [item for item in items if not item.ok] == []
    report = (EXAMPLE / "report.md").read_text(encoding="utf-8")
    summary = json.loads((EXAMPLE / "summary.json").read_text(encoding="utf-8"))
    for value in summary["mixce - mle"].values():
        assert f"{value:.3f}" in report


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"eta": 1}, "eta must be a ratio above 0 and below 1, got 1"),
        ({"seeds": [1, 2, 3, 4, 4]}, "seeds must be at least five different integers"),
        ({"direction": "up"}, "direction must be higher, lower or either"),
        ({"hypothesis": "yes"}, "hypothesis must be a sentence that can turn out wrong"),
        ({"steps": 5000}, "steps must be at least 100 and at most 1500"),
        ({"samples": 2000.0}, "samples must be sentences to measure on"),
        ({"level": True}, "level must be of the interval"),
        ({"extra": 1}, "extra is no field"),
    ],
)
def test_a_bad_registration_is_one_sentence_a_field(change, says):
    sentences = experiment.check_prereg(PREREG | change)
    assert len(sentences) == 1
    assert sentences[0].startswith(says)


def test_an_empty_registration_names_every_field():
    assert len(experiment.check_prereg({})) == len(experiment.FIELDS)
    template = json.loads((FOLDER / "a4" / "prereg_template.json").read_text(encoding="utf-8"))
    assert set(template) == set(experiment.FIELDS)


def test_students_quantiles_are_those_of_the_tables():
    table = {(0.975, 1): 12.7062, (0.975, 4): 2.7764, (0.95, 9): 1.8331, (0.995, 29): 2.7564}
    for (probability, degrees), value in table.items():
        assert experiment.t_quantile(probability, degrees) == pytest.approx(value, abs=1e-4)


def test_an_interval_by_hand():
    mean, low, high = experiment.interval([1.0, 2.0, 3.0], 0.95)
    half = 4.302653 / np.sqrt(3)  # s = 1, two degrees of freedom
    assert (mean, low, high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-5)
    with pytest.raises(ValueError, match="must be at least 2, got 1"):
        experiment.interval([1.0], 0.95)


def test_coverage_is_the_level_with_students_quantile_alone():
    found = experiment.coverage(5, 0.95)
    assert found["t"] == pytest.approx(0.95, abs=0.006)
    assert found["normal"] == pytest.approx(0.878, abs=0.01)


def names_of_wrong(folder):
    return {item.name for item in check_folder(folder) if not item.ok}


def test_what_a_program_notices(folder):
    results, summary = folder / "results.csv", folder / "summary.json"
    lines = results.read_text(encoding="utf-8").splitlines(keepends=True)
    results.write_text("".join(lines[:-1]), encoding="utf-8")
    assert {"seeds", "interval of mixce - mle"} <= names_of_wrong(folder)
    results.write_text("".join([*lines[:-1], lines[-1].replace("15.0945", "14.0945")]))
    assert names_of_wrong(folder) == {"control"}
    results.write_text(
        "seed," + "1" * 200_000 + "\n1,2\n"
    )  # more than the module csv takes in a cell
    assert names_of_wrong(folder) == {"results.csv"}
    results.write_text("".join(lines), encoding="utf-8")
    stated = json.loads(summary.read_text(encoding="utf-8"))
    stated["mixce - mle"]["low"] += 0.001
    stated["coverage"]["normal"] = 0.95
    summary.write_text(json.dumps(stated), encoding="utf-8")
    assert names_of_wrong(folder) == {"interval of mixce - mle", "coverage"}
    summary.unlink()
    assert names_of_wrong(folder) == {"summary.json"}


def test_a_registration_that_was_changed_afterwards_is_noticed(folder):
    git = ["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    (folder / "prereg.json").write_text(json.dumps(PREREG | {"eta": 0.31}), encoding="utf-8")
    subprocess.run([*git, "commit", "-q", "-a", "-m", "a better question"], check=True)
    assert names_of_wrong(folder) == {"registered first"}


@needs_git
def test_results_that_came_first_are_noticed(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    for name in ("results.csv", "prereg.json", "summary.json"):
        shutil.copy(EXAMPLE / name, tmp_path)
        subprocess.run([*git, "add", name], check=True)
        subprocess.run([*git, "commit", "-q", "-m", name], check=True)
    assert names_of_wrong(tmp_path) == {"registered first"}


def test_the_command(folder, capsys):
    assert main(["grade", "a4", str(folder), "--local"]) == 0
    assert "coverage: ok" in capsys.readouterr().out
    assert main(["grade", "a4", str(folder), "--local", "--task", "x"]) == 2
    assert main(["grade", "a4", str(folder / "nowhere"), "--local"]) == 2


def test_a_small_seed_is_the_same_twice():
    small = PREREG | {"steps": 5, "sentences": 100, "samples": 50}
    first = experiment.run_seed(small, 3)
    assert tuple(first) == experiment.COLUMNS
    assert first == experiment.run_seed(small, 3)
    assert first != experiment.run_seed(small, 4)


@pytest.mark.slow
def test_one_seed_of_the_example_again(folder):
    items = check_folder(folder, rerun=12)
    assert items[-1].ok, items[-1].says


# ---- the concept test ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def concept_test():
    sys.path.insert(0, str(FOLDER / "concept_test"))
    import make

    yield make
    sys.path.remove(str(FOLDER / "concept_test"))
    sys.modules.pop("make")


def test_forms_and_key_are_what_the_script_makes(concept_test):
    for name, text in concept_test.files().items():
        assert (FOLDER / "concept_test" / name).read_text(encoding="utf-8") == text


def test_every_question_has_one_right_answer_and_four_others(concept_test):
    for letter in "AB":
        items = concept_test.form(letter)
        assert len(items) == 10
        for item in items:
            assert concept_test.RIGHT in item.choices
            assert len(item.choices) == len(set(item.choices.values())) == 5, item
    topics = [[item.topic for item in concept_test.form(letter)] for letter in "AB"]
    assert topics[0] == topics[1]
    pairs = zip(concept_test.form("A"), concept_test.form("B"))
    assert all(a.question != b.question for a, b in pairs)


def test_right_answers_by_hand(concept_test):
    right = [item.choices[concept_test.RIGHT] for item in concept_test.form("A")]
    assert right == [
        "(−0.50, 0.30, 0.20)",
        "0.768",  # (log 2 + log 4 + log 1.25) / 3
        "0.600",  # 0.2 + 0.8 · 0.5
        "−E_Q log P",
        "(0.94, 0.06)",  # p²: 0.64 and 0.04
        "(0.00, 0.00, 0.00, 0.00)",
        "1, 2, 3",
        "OK: the backward is the derivative of this forward",
        "4.50",  # 6 − (1 + 2) / 2
        "6",
    ]
