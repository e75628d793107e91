"""The lessons: their form, that their notebooks are what their sources say, and that each runs as a script."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

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


def cells(name):
    return jupytext.read(TUTORIALS / f"{name}.py").cells


def prose(name):
    """Markdown cells without what may hold numbers: formulas, code, links and citations."""
    text = "\n\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")
    for allowed in (r"\$\$.*?\$\$", r"\$[^$]*\$", r"```.*?```", r"`[^`]*`", r"\]\([^)]*\)", r"arXiv \d+\.\d+"):
        text = re.sub(allowed, " ", text, flags=re.S)
    return text


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
    solved = re.findall(r"^\*\*Solution (\d)", text, re.M)
    assert len(solved) >= 4
    assert solved == exercises[: len(solved)] == sorted(exercises)
    solutions = [cell for cell in cells(name) if "solution" in cell.metadata.get("tags", [])]
    assert any(cell.cell_type == "code" for cell in solutions)


@each_lesson
def test_has_pictures_and_asks_before_it_answers(name):
    found = cells(name)
    code = "\n".join(cell.source for cell in found if cell.cell_type == "code")
    assert len(re.findall(r"\bshow\(", code)) >= 2
    for i, cell in enumerate(found):
        if "reveal" in cell.metadata.get("tags", []):
            assert "**Predict.**" in found[i - 1].source
    assert any("reveal" in cell.metadata.get("tags", []) for cell in found)


@each_lesson
def test_no_number_is_typed_that_could_be_computed(name):
    assert re.findall(r"[^\n]*(?:\d\.\d|\d ?%)[^\n]*", prose(name)) == []


@each_lesson
def test_formulas_become_mathml(name, builder):
    text = "\n\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")
    for latex in re.findall(r"\$\$(.+?)\$\$", text, re.S) + re.findall(r"(?<!\$)\$([^$\n]+?)\$(?!\$)", text):
        builder.formula(latex)


@each_lesson
def test_the_notebook_is_what_its_source_says(name, builder):
    notebook = nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)
    expected = builder.to_notebook(TUTORIALS / f"{name}.py")

    def of(cell):
        return cell.cell_type, cell.id, cell.source, cell.metadata

    assert [of(cell) for cell in notebook.cells] == [of(cell) for cell in expected.cells]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


def test_a_changed_cell_would_be_noticed(builder, tmp_path):
    source = (TUTORIALS / f"{LESSONS[0]}.py").read_text(encoding="utf-8")
    (tmp_path / "changed.py").write_text(source.replace("## Summary", "## In short"), encoding="utf-8")
    changed, kept = (builder.to_notebook(path) for path in (tmp_path / "changed.py", TUTORIALS / f"{LESSONS[0]}.py"))
    assert [cell.source for cell in changed.cells] != [cell.source for cell in kept.cells]


@pytest.mark.slow
@each_lesson
def test_runs_as_a_script(name, tmp_path):
    result = subprocess.run(
        [sys.executable, TUTORIALS / f"{name}.py", "--fast"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(list(tmp_path.glob("lesson_figures/*.png"))) >= 2
