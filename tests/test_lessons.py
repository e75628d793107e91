"""The lessons: their form, that their notebooks are what their sources say, and that each runs as a
script.
"""

import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
from helpers import random_gpt

import minimixce as mm
from minimixce import lessons
from minimixce.experiments import plots

TUTORIALS = Path(__file__).parent.parent / "tutorials"
LESSONS = [
    "1_two_cross_entropies",
    "2_sequences_and_worlds",
    "3_one_softmax_by_hand",
    "4_the_exact_reverse_gradient",
    "5_when_you_can_only_sample",
    "6_the_approximation",
    "7_the_transformer_by_hand",
    "8_experiments_read_sceptically",
]
each_lesson = pytest.mark.parametrize("name", LESSONS)


@pytest.fixture(scope="module")
def builder():
    sys.path.insert(0, str(TUTORIALS))
    import build

    yield build
    sys.path.remove(str(TUTORIALS))


@functools.cache
def cells(name):
    return jupytext.read(TUTORIALS / f"{name}.py").cells


def has_tag(cell, tag):
    return tag in cell.metadata.get("tags", [])


def typed_numbers(text):
    """Decimals and percentages in Markdown, except in what may hold numbers: formulas, code, links
    and citations.
    """
    for allowed in (
        r"\$\$.*?\$\$",
        r"\$[^$]*\$",
        r"```.*?```",
        r"`[^`]*`",
        r"\]\([^)]*\)",
        r"arXiv \d+\.\d+",
    ):
        text = re.sub(allowed, " ", text, flags=re.S)
    return re.findall(r"\d*\.\d+(?:e-?\d+)?|\d+(?:\.\d+)?(?=\s?%| per ?cent)", text)


def numbers_typed_where_one_says(source):
    """The same for the constant parts of what code passes to say(), except settings: numbers that
    the code itself holds.
    """
    nodes = [*ast.walk(ast.parse(source))]
    settings = {
        float(node.value)
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    }
    said = [
        node.args[0]
        for node in nodes
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say"
    ]
    texts = (
        " ".join(
            part.value for part in getattr(text, "values", [text]) if isinstance(part, ast.Constant)
        )
        for text in said
    )
    return [
        x
        for text in texts
        for x in typed_numbers(text)
        if not {float(x), float(x) / 100} & settings
    ]


def test_these_are_all(builder):
    assert builder.LESSONS == LESSONS


@each_lesson
def test_says_what_it_needs_and_what_it_gives(name):
    opening = cells(name)[0].source
    assert re.match(rf"# {name[0]} \w", opening)
    for words in ("Reading:", "Computing:", "Before this:"):
        assert words in opening
    assert "At the end you will know" in opening


@each_lesson
def test_ends_with_a_summary_and_exercises_whose_solutions_run(name):
    sources = [cell.source for cell in cells(name)]
    text = "\n".join(sources)
    assert "\n## Summary" in text
    assert "\n## Exercises" in text
    exercises = re.findall(r"^(\d)\. ", text.split("## Exercises")[1], re.M)
    solutions = [cell for cell in cells(name) if has_tag(cell, "solution")]  # the tag folds them
    assert len(exercises) >= 4
    assert exercises == sorted(exercises)
    assert (
        re.findall(r"^\*\*Solution (\d)", "\n".join(cell.source for cell in solutions), re.M)
        == exercises
    )
    assert text.count("**Solution ") == len(exercises)
    assert any(cell.cell_type == "code" for cell in solutions)


@each_lesson
def test_has_pictures_and_asks_before_it_answers(name):
    found = cells(name)
    code = "\n".join(cell.source for cell in found if cell.cell_type == "code")
    assert len(re.findall(r"\bshow\(", code)) >= 2
    for i, cell in enumerate(found):
        if has_tag(cell, "reveal"):
            assert "**Predict.**" in found[i - 1].source
    assert (
        sum(has_tag(cell, "reveal") for cell in found)
        == sum("> **Predict" in cell.source for cell in found)
        > 0
    )


@each_lesson
def test_no_number_is_typed_that_could_be_computed(name):
    assert (
        typed_numbers(
            "\n\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")
        )
        == []
    )
    assert (
        numbers_typed_where_one_says((TUTORIALS / f"{name}.py").read_text(encoding="utf-8")) == []
    )


def test_a_typed_number_would_be_noticed():
    assert typed_numbers(
        "$0.5$ and `0.3`, [a](b.md#1.1), arXiv 2305.1, 24 %, .7, 3.1e-5 or 8 per cent"
    ) == [
        "24",
        ".7",
        "3.1e-5",
        "8",
    ]
    assert numbers_typed_where_one_says("x = 0.3\nsay(f'at 0.3, 30 %: {x:.2f}, or 0.24')") == [
        "0.24"
    ]


@each_lesson
def test_formulas_become_mathml(name, builder):
    text = "\n\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")
    found = re.findall(r"\$\$(.+?)\$\$", text, re.S) + re.findall(
        r"(?<!\$)\$([^$\n]+?)\$(?!\$)", text
    )
    assert len(found) >= 3
    for latex in found:
        mathml = builder.formula(latex)
        assert mathml.startswith("<math")
        assert "\\" not in mathml


@pytest.mark.parametrize(
    "latex", [r"\nosuchcommand x", r"\begin{aligned} a &= b \\ c &= d \end{aligned}"]
)
def test_a_formula_that_cannot_be_shown_is_refused(latex, builder):
    with pytest.raises(ValueError, match="cannot be shown"):
        builder.formula(latex)


def said_by(notebook):
    """What its source decides of a notebook: type, id, source, tags and folds of every cell."""
    return [(cell.cell_type, cell.id, cell.source, cell.metadata) for cell in notebook.cells]


@each_lesson
def test_the_notebook_is_what_its_source_says(name, builder):
    notebook = nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)
    assert said_by(notebook) == said_by(builder.to_notebook(TUTORIALS / f"{name}.py"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    # nothing of the machine that made it: no address in memory, no absolute path
    for output in outputs:
        text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        assert not re.search(
            r"0x[0-9a-f]{6}|(?<![\w.)])/\w[\w./-]*/[\w.-]+\.py\b|site-packages|[A-Z]:\\", text
        ), text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("## Summary", "## In short"),
        ("say(", "print("),
        (' tags=["solution"]', ""),
        ("# %% [markdown]\n", ""),
    ],
)
def test_a_changed_cell_would_be_noticed(builder, tmp_path, old, new):
    path = TUTORIALS / f"{LESSONS[0]}.py"
    (tmp_path / "changed.py").write_text(
        path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8"
    )
    assert said_by(builder.to_notebook(tmp_path / "changed.py")) != said_by(
        builder.to_notebook(path)
    )


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


def test_prose_is_wrapped_and_tables_keep_their_lines(capsys):
    lessons.say("Some words\nand more.\n\n- one\n- two")
    lessons.table(["token", "q"], [["a", ".5"], ["longer", ".25"]])
    assert capsys.readouterr().out == (
        "Some words and more.\n\n- one\n- two\n\ntoken     q\na        .5\nlonger  .25\n\n"
    )


def test_a_terminal_without_greek_shows_a_question_mark_and_an_import_changes_nothing():
    code = "import sys; from minimixce import lessons; print(sys.stdout.errors); lessons.say('η')"
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
    assert len(list(tmp_path.glob("lesson_figures/*.png"))) >= 2
