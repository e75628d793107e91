"""What students get: the source without its solutions, as a file and as a notebook."""

import json
import re

from .assignments import assignment

_BEGIN, _END = "### BEGIN SOLUTION", "### END SOLUTION"
_STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")


def clear_solutions(text):
    """A source without what stands between the markers, as nbgrader's ClearSolutions leaves it.

    Raises ValueError for markers that do not match.
    """
    lines, inside = [], False
    for number, line in enumerate(text.split("\n"), 1):
        if _BEGIN in line:
            if inside:
                raise ValueError(f"line {number}: {_BEGIN} inside a solution")
            inside = True
            indent = line[: len(line) - len(line.lstrip())]
            lines += [indent + stub for stub in _STUB]
        elif _END in line:
            inside = False
        elif not inside:
            lines.append(line)
    if inside:
        raise ValueError(f"there is no {_END} at the end")
    return "\n".join(lines)


def solution_lines(text):
    """The lines of code that only the solutions have: what no release may hold -> set."""
    kept, found, inside = set(clear_solutions(text).split("\n")), set(), False
    for line in text.split("\n"):
        if _BEGIN in line or _END in line:
            inside = _BEGIN in line
        elif inside and line.strip():
            found.add(line)
    return found - kept


def starter(name, variant=0):
    """The starter of an assignment: it imports, and every task raises NotImplementedError."""
    return clear_solutions(assignment(name, variant).source(variant))


def cells(text):
    """A percent-format file -> [(kind, source)], kind "markdown" or "code"."""
    parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)
    found = []
    for title, body in zip(parts[1::2], parts[2::2]):
        body = body.strip("\n")
        if "[markdown]" in title:
            lines = [line[2:] if line.startswith("# ") else "" for line in body.split("\n")]
            found.append(("markdown", "\n".join(lines)))
        else:
            found.append(("code", body))
    return found


def notebook(name, variant=0, text=None):
    """A notebook of a starter, with a cell that checks each task -> JSON text, the same each time.

    text: another source than the starter, for instance with its solutions.
    """
    whole = assignment(name, variant)
    with_checks = text is None
    made = []
    for kind, source in cells(text or starter(name, variant)):
        made.append(_cell(kind, source, len(made), nbgrader=_STUB[1] in source or _BEGIN in source))
        tasks = [t for t in whole.tasks if f"def {t.functions[-1]}(" in source]
        if with_checks and kind == "code":
            made += [
                _check_cell(name, task, variant, len(made) + k) for k, task in enumerate(tasks)
            ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def _check_cell(name, task, variant, number):
    settings = f", variant={variant}" if variant else ""
    code = (
        "from minimixce.classroom.local import check\n\n"
        f'check("{name}", "{task.number}", globals(){settings})'
    )
    return _cell("code", code, number)


def _cell(kind, source, number, nbgrader=False):
    metadata = {}
    if nbgrader and kind == "code":
        metadata["nbgrader"] = {
            "grade": False,
            "grade_id": f"cell-{number}",
            "locked": False,
            "schema_version": 3,
            "solution": True,
            "task": False,
        }
    cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": metadata}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": source.splitlines(keepends=True)}
