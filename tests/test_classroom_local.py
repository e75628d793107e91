"""A student's hour: the command, the public tests and the notebook, which say the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minimixce.classroom.assignments import NAMES, assignment
from minimixce.classroom.local import Submission, check, load
from minimixce.classroom.results import judge_submission
from minimixce.cli import main

FOLDER = Path(__file__).parent.parent / "tutorials" / "assignments"
WRONG = ("w = eta + (1 - eta) * q", "w = eta + (1 - eta) * q * (1 + log_q)")


@pytest.fixture
def folder(tmp_path):
    """A student's folder: A1 with MixCE wrong."""
    shutil.copytree(FOLDER / "a1", tmp_path / "mine")
    text = assignment("a1").source(0)
    assert WRONG[0] in text
    (tmp_path / "mine" / "objectives.py").write_text(text.replace(*WRONG), encoding="utf-8")
    return tmp_path / "mine"


def test_the_command_says_what_is_wrong_and_exits_1(folder, capsys):
    assert main(["grade", "a1", str(folder), "--local"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("objectives.py runs in this process")
    assert "1.4 MixCE: 3.5 of 8, not yet" in out
    assert "under a stop gradient" in out
    assert "Read lesson 6." in out
    assert "40.5 of 45 points" in out
    assert "not graded by a program: 1.8 (5 points)" in out


def test_the_command_exits_0_for_a_task_that_is_right(folder, capsys):
    assert main(["grade", "a1", str(folder / "objectives.py"), "--local", "--task", "1.2"]) == 0
    assert "10 of 10 points" in capsys.readouterr().out


def test_the_result_is_a_file(folder, tmp_path, capsys):
    out = tmp_path / "result.json"
    main(["grade", "a1", str(folder), "--local", "--hints", "none", "--json", str(out)])
    found = json.loads(out.read_text(encoding="utf-8"))
    mixce = found["tasks"][3]
    assert mixce["mistakes"] == [["stop-gradient-forgotten"]]
    assert mixce["checks"]["forward"]
    assert not mixce["checks"]["consistent"]
    assert "stop gradient" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a9", ".", "--local"], "assignment must be one of"),
        (["a1", "nowhere", "--local"], "does not exist"),
        (["a1", ".", "--local", "--variant", "9"], "variant must be in 0 … 2"),
        (["a1", ".", "--local", "--task", "9.9"], "task must be one of 1.1, "),
        (["a1", ".", "--jobs", "2"], "--jobs has no meaning beside one submission"),
        (["a1", ".", "--local", "--csv", "x.csv"], "--local and --csv exclude each other"),
        (["a1", ".", "--local", "--salt", "x"], "--salt has no meaning beside --local"),
        (["a1", ".", "--csv", "x.csv", "--task", "1.1"], "--task has no meaning beside --csv"),
        (["a1", ".", "--release", "--json", "x"], "--json has no meaning beside --release"),
        (["a1", ".", "--csv", "x", "--resume", "--overwrite"], "exclude each other"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, says, capsys):
    assert main(["grade", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [("def f(:\n", "line 1"), ("1/0\n", "ZeroDivisionError"), ("raise SystemExit", "SystemExit")],
)
def test_a_file_that_does_not_run(text, says, tmp_path):
    (tmp_path / "objectives.py").write_text(text)
    with pytest.raises(ValueError, match=says):
        load("a1", tmp_path)


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("", "missing", "defines no function 'mixce'"),
        (
            "def mixce(eta):\n    return 1 + ''",
            "exception",
            "mixce stops at line 2 with log_q (9,): TypeError",
        ),
        (
            "def mixce(eta):\n    return lambda log_q: (None, None)",
            "exception",
            "f_and_w of mixce returned None",
        ),
        ("def mixce(eta):\n    return lambda log_q: (log_q[:2], log_q)", "shape", "f: shape (2,)"),
        ("def mixce(eta):\n    return lambda x: (x * float('nan'), x)", "not finite", "f: not a"),
    ],
)
def test_what_else_can_be_wrong(text, kind, says):
    found = judge_submission("a1", Submission(text), ["1.4"]).judged[0]
    assert found.points == 0 or kind in ("shape", "not finite")
    assert found.finding.kind == kind
    assert says in found.text()
    assert not found.finding.codes


@pytest.mark.slow
def test_public_tests_and_notebook_say_what_the_command_says(folder, capsys):
    main(["grade", "a1", str(folder), "--local", "--task", "1.4"])
    said = capsys.readouterr().out.splitlines()[1:-1]
    names = {}
    exec((folder / "objectives.py").read_text(encoding="utf-8"), names)
    check("a1", "1.4", names)
    assert capsys.readouterr().out.splitlines() == said
    command = [sys.executable, "-m", "pytest", "-q", "-m", "task1_4", "-k", "diagnosis"]
    ran = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}
    )
    assert ran.returncode == 1
    for line in said:
        assert line.strip() in ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_public_tests_pass_with_the_solution_and_fail_with_the_starter(name, tmp_path):
    shutil.copytree(FOLDER / name, tmp_path / "mine")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    starter = subprocess.run(command, cwd=tmp_path / "mine", capture_output=True, text=True)
    assert " passed" not in starter.stdout
    whole = assignment(name)
    (tmp_path / "mine" / whole.file).write_text(whole.source(0), encoding="utf-8")
    solution = subprocess.run(command, cwd=tmp_path / "mine", capture_output=True, text=True)
    assert solution.returncode == 0, solution.stdout


def test_options_may_stand_anywhere(folder, tmp_path, capsys):
    for words in (["--local", "a1", folder], ["a1", "--local", folder], ["a1", folder, "--local"]):
        assert main(["grade", *map(str, words), "--task", "1.2"]) == 0
    assert main(["grade", "a0", "--release", str(tmp_path / "a0")]) == 0
    assert (tmp_path / "a0" / "warm_up.py").is_file()
