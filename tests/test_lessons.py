"""What the lessons import, and that each lesson runs as a script."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import random_gpt

import minimixce as mm
from minimixce import lessons
from minimixce.experiments import plots
from minimixce.lessons import finetuning

TUTORIALS = Path(__file__).parent.parent / "tutorials"
LESSONS = [
    "0_a_derivative_by_trying",
    "1_two_cross_entropies",
    "2_sequences_and_worlds",
    "3_one_softmax_by_hand",
    "4_the_exact_reverse_gradient",
    "5_when_you_can_only_sample",
    "6_the_approximation",
    "7_the_transformer_by_hand",
    "8_experiments_read_sceptically",
    "9_fine_tuning_read_sceptically",
]
each_lesson = pytest.mark.parametrize("name", LESSONS)


@pytest.fixture(scope="module")
def builder():
    sys.path.insert(0, str(TUTORIALS))
    import build

    yield build
    sys.path.remove(str(TUTORIALS))


def test_these_are_all(builder):
    assert builder.LESSONS == LESSONS


# ---- minimixce.lessons ---------------------------------------------------------------------------


@pytest.mark.parametrize(("argv", "environment"), [(["x", "--fast"], ""), (["x"], "1")])
def test_fast_is_asked_for_on_the_command_line_or_in_the_environment(
    monkeypatch, argv, environment
):
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.delenv("MINIMIXCE_FAST", raising=False)
    assert lessons.full_or_fast(3000, 300) == 3000
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setenv("MINIMIXCE_FAST", environment)
    assert lessons.full_or_fast(3000, 300) == 300


def test_source_names_the_file_and_shows_its_lines(capsys):
    lessons.source(mm.layers.linear_forward, plots.new_figure)
    shown = capsys.readouterr().out
    assert shown.startswith("# minimixce/layers.py\ndef linear_forward(")
    assert "\n# minimixce/experiments/plots.py\ndef new_figure(" in shown


def test_tables_keep_their_lines(capsys):
    lessons.table(["token", "q"], [["a", ".5"], ["longer", ".25"]])
    assert capsys.readouterr().out == ("token     q\na        .5\nlonger  .25\n\n")


def test_a_terminal_without_greek_shows_a_question_mark_and_an_import_changes_nothing():
    code = "import sys; from minimixce import lessons; print(sys.stdout.errors)"
    code += "; lessons.table(['η'], [])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
    )
    assert result.stdout == "strict\n?\n\n", result.stderr


def test_lessons_find_the_results_that_are_stored_beside_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(TUTORIALS / f"{LESSONS[7]}.py")])
    assert lessons.lesson_folder() == TUTORIALS.resolve()


# the builder puts tutorials/ on the path
def test_the_stored_runs_measure_the_tokens_that_are_drawn(builder):
    import longer_run

    model, drawn = random_gpt(), np.zeros((10_000, 1), int)
    for temperature, top_p in ((0.7, None), (1.0, 0.8), (2.0, 0.6)):
        tokens = model.generate(drawn, 1, temperature, None, top_p, seed=1)[:, 1]
        log_q = longer_run.decoded_log_probs(model.forward(drawn[:1])[0][0, -1], temperature, top_p)
        np.testing.assert_allclose(
            np.bincount(tokens, minlength=len(log_q)) / len(tokens), np.exp(log_q), atol=0.02
        )
        assert set(tokens) == set(np.flatnonzero(log_q > -np.inf))
    rows = mm.worlds.stories().sample(50, 12, 0)
    np.testing.assert_array_equal(longer_run.world_rows(np.maximum(rows, 0)[:, :-1]), rows)


def test_sentences_that_a_model_goes_on_with_are_rows_of_the_world():
    world, max_len = mm.worlds.stories(), 8
    model = mm.GPT(mm.GPTConfig(world.vocab_size, max_len - 1, 1, 1, 8), seed=0)
    rows = world.sample(300, max_len, seed=0)
    rows = rows[(rows[:, 1:4] > 0).all(axis=1)]
    written = finetuning.go_on(model, rows, 2, seed=1)
    assert written.shape == rows.shape
    np.testing.assert_array_equal(written[:, :3], rows[:, :3])
    world.batch(written)  # ValueError for what is no row
    ends = (written[:, 1:] == 0).argmax(axis=1)
    assert ends.min() < max_len - 1 == ends.max()  # some end by themselves, some are cut off
    assert (((written[:, 1:] == 0).sum(axis=1)) == 1).all()
    again = finetuning.go_on(model, rows, 2, seed=1)
    np.testing.assert_array_equal(written, again)


@pytest.mark.slow
@each_lesson
def test_runs_as_a_script(name, tmp_path):
    result = subprocess.run(
        [sys.executable, TUTORIALS / f"{name}.py", "--fast"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(list(tmp_path.glob("lesson_figures/*.svg"))) >= 2
