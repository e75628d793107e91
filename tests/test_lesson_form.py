"""The form of the lessons: what a reader sees teaches, numbers are computed, answers are folded."""

import ast
import functools
import re
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from minimixce.experiments import plots
from minimixce.lessons import figures

TUTORIALS = Path(__file__).parent.parent / "tutorials"
LESSONS = sorted(path.stem for path in TUTORIALS.glob("[0-9]_*.py"))
each_lesson = pytest.mark.parametrize("name", LESSONS)
REPORTING = {"print", "table", "show", "figure", "plot", "bar", "set", "legend", "subplots"}


@pytest.fixture(scope="module")
def notebooks():
    sys.path.insert(0, str(TUTORIALS))
    import notebooks

    yield notebooks
    sys.path.remove(str(TUTORIALS))


@pytest.fixture(scope="module")
def mathml():
    sys.path.insert(0, str(TUTORIALS / "_site"))
    import mathml

    yield mathml
    sys.path.remove(str(TUTORIALS / "_site"))


@functools.cache
def cells(name):
    return jupytext.read(TUTORIALS / f"{name}.py").cells


def tags(cell):
    return set(cell.metadata.get("tags", []))


def typed_numbers(text):
    """Decimals and percentages in Markdown, except in what may hold numbers: values that the lesson
    computes, formulas, code, links and citations.
    """
    for allowed in (
        r"\{\{.*?\}\}",
        r"\$\$.*?\$\$",
        r"\$[^$]*\$",
        r"```.*?```",
        r"`[^`]*`",
        r"\]\([^)]*\)",
        r"arXiv \d+\.\d+",
    ):
        text = re.sub(allowed, " ", text, flags=re.S)
    return re.findall(r"\d*\.\d+(?:e-?\d+)?|\d+(?:\.\d+)?(?=\s?%| per ?cent)", text)


def teaching_share(found):
    """Of the code that a reader sees unasked, the share of lines that neither draw, report nor
    assert. The first cell and what is folded are not counted.
    """
    shown = [
        cell.source
        for cell in found
        if cell.cell_type == "code" and not {"setup", "fold", "check", "solution"} & tags(cell)
    ]
    lines = sum(bool(line.strip()) for source in shown for line in source.splitlines())
    plumbing = {
        (number, k)
        for number, source in enumerate(shown)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assert) or called(node) in REPORTING
        for k in range(node.lineno, node.end_lineno + 1)
    }
    return 1 - len(plumbing) / lines


def called(node):
    """The last name of what a call calls, or None."""
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", None))


@each_lesson
def test_says_what_it_needs_and_what_it_gives(name):
    opening = cells(name)[0].source
    assert re.match(rf"# {name[0]} \w", opening)
    for words in ("Prose:", "with the code:", "with exercises:", "Computing:", "Before this:"):
        assert words in opening
    assert "At the end you will know" in opening


@each_lesson
def test_ends_with_a_summary_and_exercises_whose_solutions_are_folded(name):
    text = "\n".join(cell.source for cell in cells(name))
    assert "\n## Summary" in text
    assert "\n## Exercises" in text
    exercises = re.findall(r"^(\d)\. ", text.split("## Exercises")[1], re.M)
    solutions = [cell for cell in cells(name) if "solution" in tags(cell)]
    assert len(exercises) >= (3 if name[0] == "0" else 4)
    numbers = re.findall(r"^\*\*Solution (\d)", "\n".join(c.source for c in solutions), re.M)
    assert numbers == exercises == sorted(exercises)
    assert text.count("**Solution ") == len(exercises)
    assert any(cell.cell_type == "code" for cell in solutions)


@each_lesson
def test_asks_before_it_answers_and_lets_one_choose(name):
    found = cells(name)
    asked = [i for i, cell in enumerate(found) if "> **Predict" in cell.source]
    assert asked
    for i in asked:
        texts = [cell.source for cell in found[i : i + 4] if cell.cell_type == "markdown"]
        answers = "\n".join(texts)
        assert len(re.findall(r"^<details><summary>.+</summary>\n\n", answers, re.M)) >= 2
    text = "\n".join(cell.source for cell in found)
    assert text.count("<details>") == text.count("\n\n</details>")


@each_lesson
def test_most_of_the_code_that_is_shown_teaches(name):
    assert teaching_share(cells(name)) >= 0.85


@each_lesson
def test_no_number_is_typed_that_could_be_computed(name):
    prose = "\n\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")
    assert typed_numbers(prose) == []


def test_a_typed_number_would_be_noticed():
    text = "$0.5$, `0.3`, [a](b.md#1.1), arXiv 2305.1, {{x:.3f}}, 24 %, .7, 3.1e-5 or 8 per cent"
    assert typed_numbers(text) == ["24", ".7", "3.1e-5", "8"]


@each_lesson
def test_claims_are_checked_and_code_says_no_sentence(name):
    code = [cell for cell in cells(name) if cell.cell_type == "code"]
    assert not any(re.search(r"\b(say|print)\(", cell.source) for cell in code)
    assert any("check" in tags(cell) for cell in code)
    # an assertion that teaches may stay among what is shown
    assert sum("assert " in c.source for c in code if "check" not in tags(c)) <= 2
    assert any("fold" in tags(cell) for cell in code)


@each_lesson
def test_formulas_become_mathml(name, mathml):
    text = "\n\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")
    text = re.sub(r"\{\{.*?\}\}", "1", text, flags=re.S)
    found = re.findall(r"\$\$(.+?)\$\$", text, re.S)
    found += re.findall(r"(?<!\$)\$([^$\n]+?)\$(?!\$)", text)
    assert len(found) >= 3
    for latex in found:
        assert mathml.formula(latex).startswith("<math alttext=")


@pytest.mark.parametrize(
    "latex", [r"\nosuchcommand x", r"\begin{aligned} a &= b \\ c &= d \end{aligned}"]
)
def test_a_formula_that_cannot_be_shown_is_refused(latex, mathml):
    with pytest.raises(ValueError, match="cannot be shown"):
        mathml.formula(latex)


# ---- from source to notebook ---------------------------------------------------------------------


def in_its_place(source):
    """A pattern for a cell whose values are filled in."""
    return re.sub(r"\\\{\\\{.*?\\\}\\\}", "[^{}]*", re.escape(source), flags=re.S)


@each_lesson
def test_the_notebook_is_what_its_source_says(name, notebooks):
    stored = nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4).cells
    made = notebooks.finished(notebooks.to_notebook(TUTORIALS / f"{name}.py").cells)
    assert [(c.cell_type, c.id) for c in stored] == [(c.cell_type, c.id) for c in made]
    for cell, source in zip(stored, made):
        if "solution" in tags(cell):  # which hold outputs, too
            words = re.sub(r"\{\{.*?\}\}", "\n", source.source, flags=re.S)
            assert all(line in cell.source for line in words.splitlines())
        else:
            assert re.fullmatch(in_its_place(source.source), cell.source), cell.source
    code = [cell for cell in stored if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    # nothing of the machine that made it: no address in memory, no absolute path
    for output in outputs:
        text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        assert not re.search(
            r"0x[0-9a-f]{6}|(?<![\w.)])/\w[\w./-]*/[\w.-]+\.py\b|site-packages|[A-Z]:\\", text
        ), text
    pictures = [o for o in outputs if "image/svg+xml" in o.get("data", {})]
    assert pictures
    size = sum(len(output["data"]["image/svg+xml"]) for output in pictures)
    assert size < 1_000_000
    assert "{{" not in "".join(cell.source for cell in stored if cell.cell_type == "markdown")


SMALL = """# %% [markdown]
# # 1 A title

# %%
x = [0.25, {"a": 1}]

# %% [markdown]
# It is {{x[0]:.3f}}, {{x[1]["a"]}}, {{", ".join(f"{v:.1f}" for v in x[:1])}} or {{x[0:1][0]:.0%}}.

# %% tags=["check"]
x = "changed"

# %% [markdown] tags=["solution"]
# **Solution 1.** Words.

# %% tags=["solution"]
y = x.upper()

# %% [markdown] tags=["solution"]
# It is {{y}}.

# %% [markdown] tags=["solution"]
# **Solution 2.** More.
"""


def test_values_are_those_of_their_place_and_solutions_are_folded(tmp_path, notebooks):
    (tmp_path / "small.py").write_text(SMALL, encoding="utf-8")
    made = notebooks.execute(notebooks.to_notebook(tmp_path / "small.py"), fast=True)
    sources = [cell.source for cell in made.cells]
    assert sources[2] == "It is 0.250, 1, 0.2 or 25%."
    assert len(sources) == 5
    assert sources[3].startswith("<details>\n<summary>Solution 1</summary>\n\nWords.\n\n```python")
    assert "It is CHANGED." in sources[3]
    assert sources[4] == "<details>\n<summary>Solution 2</summary>\n\nMore.\n\n</details>"


def test_without_the_package_the_first_cell_says_what_to_do(notebooks, monkeypatch):
    for address, words in (("", "pip install -e"), ("https://example.org/it", "@ git+https://ex")):
        monkeypatch.setattr(notebooks, "REPOSITORY", address)
        source = notebooks.setup("import numpy as np")
        assert words in source
        assert source.endswith("\n\nimport numpy as np")
        if not address:
            compile(source, "cell", "exec")


# ---- pictures ------------------------------------------------------------------------------------


def luminance(color):
    """WCAG's relative luminance of a matplotlib colour."""
    from matplotlib.colors import to_rgb

    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", ["white", figures.INVALID_COLOR])
def test_every_colour_stands_out_from_its_ground(ground):
    fixed = [plots.P_COLOR, plots.Q_COLOR, figures.OTHER_COLOR, figures.CONTROL_COLOR]
    for color in [*fixed, *(look.color for count in range(1, 7) for look in figures.looks(count))]:
        assert contrast(color, ground) >= 3, (color, ground)


def test_models_side_by_side_differ_in_more_than_colour():
    for count in range(2, 5):
        chosen = figures.looks(count)
        assert len({look.hatch for look in chosen}) == count
        assert len({str(look.dash) for look in chosen}) == count
        assert len({look.marker for look in chosen}) == count


def test_letters_that_a_phone_would_not_show_are_refused():
    fig = figures.figure()
    fig.subplots().set_xlabel("small", fontsize=7)
    with pytest.raises(ValueError, match="small"):
        figures.show(fig, "a picture")
    wide = figures.figure()
    wide.set_figwidth(2 * figures.WIDTH)
    wide.subplots().set_xlabel("shown at half its size", fontsize=10)
    with pytest.raises(ValueError, match="half"):
        figures.show(wide, "a picture")


def test_a_picture_is_the_same_file_every_time():
    def drawn():
        fig = figures.figure()
        ax = fig.subplots()
        ax.bar([0, 1], [1, 2], hatch="////")
        return figures.to_svg(fig)

    assert drawn() == drawn()
    assert "sans-serif" in drawn()


def test_a_picture_keeps_the_digits_of_what_it_says():
    fig = figures.figure()
    fig.subplots().set_title("γ = 0.00066")
    svg = figures.to_svg(fig)
    assert "γ = 0.00066<" in svg
    assert not re.search(r'="[^"<>]*\d\.\d{3}', svg)
