"""Lessons to notebooks: a percent-format file is executed, and its prose is given the numbers it asks for.

In a lesson's Markdown, {{expression}} or {{expression:.3f}} stands for a value at that place in the lesson; the notebook
holds the value, so that every reader of notebooks shows plain Markdown. Tags of cells say what a reader sees:

    setup     the first cell: the import, and what to do where it fails
    fold      code that draws or formats, folded
    check     claims of the prose as assertions: executed, and left out of the notebook
    solution  all cells of one solution become one Markdown cell that is folded everywhere
"""

import json
import os
import re
from pathlib import Path

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
FORMAT = r"(?::([^:{}\[\]()\"']*))?"  # what follows the last colon, as in an f-string
VALUE = re.compile(r"\{\{(.+?)" + FORMAT + r"\}\}", re.S)
REPOSITORY = os.environ.get("MINIMIXCE_REPOSITORY", "")  # the address that notebooks install from; "" while there is none
MISSING = "minimixce is not installed: run  pip install -e '.[plots]'  in its folder, then restart the kernel"


def to_notebook(path):
    """A lesson's file -> a notebook without outputs, the same every time; values are not filled in yet."""
    notebook = jupytext.read(path)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        cell.id = f"cell-{number}"
        cell.metadata = {"tags": tags} if tags else {}
        if "setup" in tags:
            cell.source = setup(cell.source)
    return notebook


def setup(imports):
    """The first code cell: `imports`, and before them what a machine without the package needs."""
    missing = (
        f'%pip install --quiet "minimixce[plots] @ git+{REPOSITORY}"'
        if REPOSITORY
        else f"raise ModuleNotFoundError({MISSING!r}) from None"
    )
    return f"try:\n    import minimixce\nexcept ModuleNotFoundError:\n    {missing}\n\n{imports}"


def execute(notebook, fast=False):
    """Run a notebook in tutorials/, in place, and finish it: values in the prose, checks left out, solutions folded.

    Raises nbclient's CellExecutionError with the failing cell.
    """
    notebook.cells = with_values_asked(notebook.cells)
    here = KernelSpecManager(kernel_dirs=[])  # no kernel that is installed somewhere: the Python that runs this file
    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=here),
        timeout=600,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": HERE}},
    )
    client.execute(env=os.environ | {"MINIMIXCE_FAST": "1" if fast else ""})
    notebook.cells = finished(notebook.cells)
    notebook.metadata.pop("language_info", None)
    nbformat.validate(notebook)
    return notebook


def with_values_asked(cells):
    """The cells, and before each one whose prose asks for values a code cell that prints them as JSON."""
    asked = []
    for cell in cells:
        if cell.cell_type == "markdown" and (found := VALUE.findall(cell.source)):
            values = ", ".join(f"format(({expression.strip()}), {spec!r})" for expression, spec in found)
            question = nbformat.v4.new_code_cell(f"print(__import__('json').dumps([{values}]))", id=f"{cell.id}-values")
            asked.append(question)
        asked.append(cell)
    return asked


def finished(cells):
    """Executed cells as a reader gets them."""
    done, values, solution = [], None, []
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        if cell.id.endswith("-values"):
            values = iter(json.loads("".join(output["text"] for output in cell.outputs)))
        if cell.id.endswith("-values") or "check" in tags:
            continue
        if cell.cell_type == "markdown" and values is not None:
            cell.source = VALUE.sub(lambda _, left=values: next(left), cell.source)
            values = None
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]  # progress bars
        starts = cell.cell_type == "markdown" and cell.source.startswith("**Solution")
        if solution and ("solution" not in tags or starts):
            done.append(folded(solution))
            solution = []
        if "solution" in tags:
            solution.append(cell)
        else:
            done.append(cell)
    if solution:
        done.append(folded(solution))
    for count, cell in enumerate((cell for cell in done if cell.cell_type == "code"), 1):
        show(cell, count)
    return done


def show(cell, count):
    """Give a code cell its number and the fold that its tags ask for."""
    cell.execution_count = count
    for output in cell.outputs:
        if "execution_count" in output:
            output["execution_count"] = count
    if "fold" in cell.metadata.get("tags", []):  # as myst-nb and JupyterLab call it
        cell.metadata["tags"] = [*cell.metadata["tags"], "hide-input"]
        cell.metadata["jupyter"] = {"source_hidden": True}


def folded(cells):
    """The cells of one solution -> one Markdown cell in which they are folded, code and output included."""
    heading, text = re.fullmatch(r"\*\*(.+?)\.?\*\*\s*(.*)", cells[0].source, re.S).groups()
    parts = [text]
    for cell in cells[1:]:
        parts.append(cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            plain = output.get("text") or data.get("text/plain", "")
            parts.append(data.get("text/markdown") or f"```text\n{plain.rstrip()}\n```")
    body = "\n\n".join(part.strip() for part in parts if part.strip())
    source = f"<details>\n<summary>{heading}</summary>\n\n{body}\n\n</details>"
    return nbformat.v4.new_markdown_cell(source, id=cells[0].id, metadata={"tags": ["solution"]})
