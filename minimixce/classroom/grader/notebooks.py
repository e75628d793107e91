"""An assignment as the notebook that nbgrader, or otter assign, makes the students' one of."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import release
from ..assignments import assignment
from .grading import seed_of

Cell = dict[str, Any]
_IN_KERNEL = "minimixce.classroom.grader.in_kernel"
# what students find in otter's place of a solution
_OTTER_STUB = ('""" # BEGIN PROMPT', "raise NotImplementedError()", '"""; # END PROMPT')


class _Block(NamedTuple):
    """Neighbouring cells: those of a task, a written one, or others (number "")."""

    number: str
    cells: list[tuple[str, str]]


def for_nbgrader(name: str, variant: int = 0, hints: str = "why", salt: str = "") -> Cell:
    """nbgrader's source notebook of an assignment, with solutions -> nbformat 4 as a dict."""
    made: list[Cell] = []
    for block in _blocks(name, variant):
        if block.number in assignment(name, variant).written:
            made += _written_for_nbgrader(name, variant, block)
            continue
        for kind, source in block.cells:
            is_solution = kind == "code" and release.BEGIN in source
            settings = _settings(f"solution-{len(made)}", solution=True) if is_solution else {}
            made.append(_cell(kind, source, settings))
        if block.number:
            made.append(_grading(name, variant, block.number, hints, salt))
    return _book(made)


def _written_for_nbgrader(name, variant, block):
    """The question of a written task, and the cell for its answer, which a person grades."""
    worth = assignment(name, variant).written[block.number]
    settings = _settings(_id(block.number), grade=True, solution=True, points=worth)
    question = [_cell(kind, source) for kind, source in block.cells]
    return [*question, _cell("markdown", "YOUR ANSWER HERE", settings)]


def _grading(name, variant, number, hints, salt):
    """The locked cell that grades a task; with a salt, on other probes than students see."""
    given = f'"{name}", "{number}", globals()'
    options = _options(variant, hints)
    lines = [f"from {_IN_KERNEL} import points", "", f"points({given}{options})"]
    if salt:
        seed = f", seed={seed_of(salt, name.encode())}"
        hidden = f"points({given}{options}{seed})"
        lines += ["### BEGIN HIDDEN TESTS", hidden, "### END HIDDEN TESTS"]
    worth = assignment(name, variant).task(number).total
    settings = _settings(_id(number), grade=True, locked=True, points=worth)
    return _cell("code", "\n".join(lines), settings)


def _settings(grade_id, *, grade=False, locked=False, solution=False, points=None):
    """nbgrader's metadata of a cell."""
    found = {"grade": grade, "grade_id": grade_id, "locked": locked, "schema_version": 3}
    found |= {"solution": solution, "task": False}
    if points is not None:
        found["points"] = float(points)
    return {"nbgrader": found}


def for_otter(name: str, variant: int = 0, hints: str = "why", salt: str = "") -> Cell:
    """The notebook that `otter assign` reads, with solutions -> nbformat 4 as a dict."""
    config = ["# ASSIGNMENT CONFIG", f"name: {name}", "export_cell:", "  pdf: false"]
    config += ["tests:", "  ok_format: false", "requirements:", "  - minimixce", "files:"]
    made = [_cell("raw", "\n".join([*config, "  - README.md"]))]
    for block in _blocks(name, variant):
        if block.number in assignment(name, variant).written:
            made += _written_for_otter(name, variant, block)
        elif block.number:
            made += _question(name, variant, block, hints, salt)
        else:
            made += [_cell(kind, source) for kind, source in block.cells]
    return _book(made)


def _written_for_otter(name, variant, block):
    worth = assignment(name, variant).written[block.number]
    begin = ["# BEGIN QUESTION", f"name: {_id(block.number)}", "manual: true", f"points: {worth:g}"]
    made = [_cell("raw", "\n".join(begin))]
    made += [_cell(kind, source) for kind, source in block.cells]
    answer = "*See the rubric.*"
    made += _between("SOLUTION", [_cell("markdown", answer)])
    return [*made, _cell("raw", "# END QUESTION")]


def _question(name, variant, block, hints, salt):
    """A question of otter's: prompts, the cells with the solution, a test for each check."""
    task = assignment(name, variant).task(block.number)
    made = [_cell("raw", f"# BEGIN QUESTION\nname: {_id(block.number)}")]
    made += [_cell(kind, source) for kind, source in block.cells if kind == "markdown"]
    code = [_cell(kind, _for_otter(source)) for kind, source in block.cells if kind == "code"]
    made += _between("SOLUTION", code)
    tests = []
    for number, (check, worth) in enumerate(task.points.items(), 1):
        given = f'"{name}", "{task.number}", {check!r}, env{_options(variant, hints)}'
        tests.append(_test(number, given, 0 if salt else worth))
        if salt:
            given += f", seed={seed_of(salt, name.encode())}"
            tests.append(_test(number, given, worth, hidden=True))
    made += _between("TESTS", tests)
    return [*made, _cell("raw", "# END QUESTION")]


def _test(number, given, worth, hidden=False):
    """A test of otter's that raises an exception: of one check, with its points."""
    lines = ['""" # BEGIN TEST CONFIG', f"points: {worth:g}"]
    lines += ["hidden: true"] * hidden
    lines += ['""" # END TEST CONFIG', f"def test_{number}{'_hidden' * hidden}(env):"]
    lines += [f"    from {_IN_KERNEL} import assert_check", "", f"    assert_check({given})"]
    return _cell("code", "\n".join(lines))


def _for_otter(source):
    """A solution between otter's marks, with nbgrader's stub where it is taken out."""
    lines = []
    for line in source.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        if release.BEGIN in line:
            lines.append(f"{indent}# BEGIN SOLUTION NO PROMPT")
        elif release.END in line:
            lines += [f"{indent}# END SOLUTION", *(indent + stub for stub in _OTTER_STUB)]
        else:
            lines.append(line)
    return "\n".join(lines)


def _between(word, cells):
    return [_cell("raw", f"# BEGIN {word}"), *cells, _cell("raw", f"# END {word}")]


# ---- both ----------------------------------------------------------------------------------------


def _blocks(name, variant) -> Iterator[_Block]:
    """The cells of an assignment in order, those of each task together, written tasks among them.

    A task begins with the Markdown before its first function, and ends with its last function.
    """
    whole = assignment(name, variant)
    written = list(whole.written)
    waiting: list[tuple[str, str]] = []
    for kind, source in release.cells(whole.source(variant)):
        waiting.append((kind, source))
        if kind == "markdown":
            continue
        defined = set(re.findall(r"^def (\w+)\(", source, re.MULTILINE))
        task = next((t for t in whole.tasks if defined & set(t.functions)), None)
        if task is None:
            yield _Block("", waiting)
            waiting = []
        elif task.functions[-1] in defined:
            while written and _order(written[0]) < _order(task.number):
                yield _written(name, variant, written.pop(0))
            yield _Block(task.number, waiting)
            waiting = []
    for number in written:
        yield _written(name, variant, number)


def _written(name, variant, number):
    """A written task, as the handout has it, without what it says of a file for the answer."""
    found = re.search(
        rf"^\*\*{re.escape(number)}\*\* (.*?)(?=^\*\*|^## |\Z)",
        release.handout(name, variant),
        re.MULTILINE | re.DOTALL,
    )
    text = found[1] if found else f"See {number} in the [handout](README.md)."
    text = re.sub(r"\(in `answers\.md`\) (Make that file; a person reads it\. )?", "", text).strip()
    worth = assignment(name, variant).written[number]
    return _Block(number, [("markdown", f"## {number} In words, {worth:g} points\n\n{text}")])


def _order(number):
    return [int(part) for part in number.split(".")]


def _id(number):
    return "task_" + number.replace(".", "_")


def _options(variant, hints):
    """Arguments of the checks that are not the default."""
    found = f", variant={variant}" if variant else ""
    return found + (f', hints="{hints}"' if hints != "why" else "")


def _cell(kind, source, metadata=None):
    cell = {"cell_type": kind, "metadata": metadata or {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": source.splitlines(keepends=True)}


def _book(cells):
    """A notebook of these cells, numbered."""
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": numbered, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
