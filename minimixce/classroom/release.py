"""What students get: the source without its solutions, as a file and as a notebook, with the
handout and the public tests.
"""

import json
import posixpath
import re
from pathlib import Path

from .. import __version__
from ..storage import files
from .assignments import assignment

EXPERIMENT = "a4"  # which has no functions to write, so no starter and no variants
_BY_HAND = ("README.md", "conftest.py", "test_{name}.py")
_OF_EXPERIMENT = (
    *("README.md", "prereg_template.json", "report_template.md", "rubric.md", "run.py"),
    *(f"example/{file}" for file in ("prereg.json", "results.csv", "summary.json")),
    *("example/analysis.py", "example/report.md"),
)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)\s#]+)(?:#[^)\s]*)?\)")
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
_STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")


def clear_solutions(text: str) -> str:
    """A source without what stands between the markers, as nbgrader's ClearSolutions leaves it.

    Raises ValueError for markers that do not match.
    """
    lines, inside = [], False
    for number, line in enumerate(text.split("\n"), 1):
        if BEGIN in line:
            if inside:
                raise ValueError(f"line {number}: {BEGIN} inside a solution")
            inside = True
            indent = line[: len(line) - len(line.lstrip())]
            lines += [indent + stub for stub in _STUB]
        elif END in line:
            if not inside:
                raise ValueError(f"line {number}: {END} without a beginning")
            inside = False
        elif not inside:
            lines.append(line)
    if inside:
        raise ValueError(f"there is no {END} at the end")
    return "\n".join(lines)


def solution_lines(text: str) -> set[str]:
    """The lines of code that only the solutions have: what no release may hold -> set."""
    kept, found, inside = set(clear_solutions(text).split("\n")), set(), False
    for line in text.split("\n"):
        if BEGIN in line or END in line:
            inside = BEGIN in line
        elif inside and line.strip():
            found.add(line)
    return found - kept


def starter(name: str, variant: int = 0) -> str:
    """The starter of an assignment: it imports, and every task raises NotImplementedError."""
    return clear_solutions(assignment(name, variant).source(variant))


def files_of(name: str, variant: int = 0) -> dict[str, str]:
    """The files of a release, as they are in the repository -> {path in its folder: text}.

    name: "a0" … "a4". Raises ValueError for an assignment or variant that there is not,
    FileNotFoundError where this installation has no handouts.
    """
    if name == EXPERIMENT:
        if variant != 0:
            raise ValueError(f"{name} has no variants, got {variant}")
        return _written_by_hand(name, _OF_EXPERIMENT)
    whole = assignment(name, variant)
    made = {whole.file: starter(name, variant), f"{name}.ipynb": notebook(name, variant)}
    by_hand = _written_by_hand(name, [file.format(name=name) for file in _BY_HAND])
    tests = f"test_{name}.py"
    settings = f"VARIANT = {variant}"
    by_hand[tests] = re.sub(r"^VARIANT = \d+$", settings, by_hand[tests], flags=re.MULTILINE)
    return made | by_hand


def write(name: str, folder: str | Path, variant: int = 0) -> list[Path]:
    """Write what students get of an assignment into a folder, made if need be -> paths.

    Starter, notebook, handout, public tests and their conftest.py; of a4 the handout, templates,
    rubric, run.py and example. In the handout links to other parts of the repository become names
    of files, and commands name the variant. Raises FileExistsError, and writes nothing, where one
    of the files is there already; otherwise as files_of.
    """
    folder, made = Path(folder), files_of(name, variant)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another name for the release's folder")
    there = [file for file in made if (folder / file).exists()]
    if there:
        raise FileExistsError(f"{folder} has {', '.join(there)} already; choose a new folder")
    for file, text in made.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        given = _for_outside(name, variant, file, text)
        files.write_atomically(folder / file, given.encode())
    return [folder / file for file in made]


def handout(name: str, variant: int = 0) -> str:
    """The handout of an assignment as `write` writes it. Raises as files_of."""
    return _for_outside(name, variant, "README.md", files_of(name, variant)["README.md"])


def _written_by_hand(name, names):
    """{file: text} of an assignment's files, of the installed package or of a clone."""
    package = Path(__file__).parent.parent
    places = [package / "handouts" / name, package.parent / "tutorials" / "assignments" / name]
    folder = next((place for place in places if (place / "README.md").is_file()), None)
    if folder is None:
        said = "install it from a wheel of a release, or use a clone of the repository"
        raise FileNotFoundError(f"this minimixce has no handout of {name}; {said}")
    return {file: (folder / file).read_text(encoding="utf-8") for file in names}


def _for_outside(name, variant, file, text):
    """A file's text as it is of use in another place than the repository."""
    if file.endswith(".md"):
        text = _without_links(f"tutorials/assignments/{name}/{file}", text)
    if file == "README.md":
        text = _stamped(name, variant, text)
    if variant and file.endswith((".md", ".py")):
        text = _with_variant(name, variant, text)
    return text


def _without_links(path, text):
    """Markdown from the repository for outside it: links out of its folder become files' names."""
    folder = path.rsplit("/", 1)[0]

    def named(found):
        target = posixpath.normpath(f"{folder}/{found[2]}")
        inside = target.startswith("/".join(path.split("/")[:3]) + "/")
        return found[0] if inside else f"{found[1]} (`{target}`)"

    return _LINK.sub(named, text)


def _stamped(name, variant, text):
    """A handout with a line below its title: the version and variant that it is of."""
    of = f"minimixce {__version__}" + ("" if name == EXPERIMENT else f", variant {variant}")
    title, rest = text.split("\n", 1)
    where = "`tutorials/` and `minimixce/` are folders of its repository."
    return f"{title}\n\nFor {of}; {where}\n{rest}"


def _with_variant(name, variant, text):
    """A text whose commands name the variant; what follows in the line stays in its column."""
    option = f" --variant {variant}"

    def named(found):
        return found[1] + option + " " * max(len(found[2]) - len(option), min(len(found[2]), 2))

    return re.sub(rf"(minimixce grade {name} \.\s+--local)( *)", named, text)


def cells(text: str) -> list[tuple[str, str]]:
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


def notebook(name: str, variant: int = 0, text: str | None = None) -> str:
    """A notebook of a starter, with a cell that checks each task -> JSON text, the same each time.

    text: another source than the starter, for instance with its solutions.
    """
    whole = assignment(name, variant)
    with_checks = text is None
    made: list[dict] = []
    for kind, source in cells(text or starter(name, variant)):
        made.append(_cell(kind, source, len(made), nbgrader=_STUB[1] in source or BEGIN in source))
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
