"""The package's own lines, how much work a lesson does, and where its folder is."""

import inspect
import os
import sys
from pathlib import Path
from typing import Any

from .display import display, in_notebook, write

_PACKAGE = Path(__file__).resolve().parent.parent


def full_or_fast(full: Any, fast: Any) -> Any:
    """`full` when a lesson is read, `fast` when it is tested.

    It is tested with --fast on the command line or MINIMIXCE_FAST in the environment.
    """
    return fast if "--fast" in sys.argv or os.environ.get("MINIMIXCE_FAST") else full


def lesson_folder() -> Path:
    """The folder of the running lesson: the script's, or in a notebook the current one -> Path."""
    return Path.cwd() if in_notebook() else Path(sys.argv[0]).resolve().parent


def source(*objects: Any) -> None:
    """Show the source lines of functions or classes, read from their files.

    What a lesson explains can then not go stale. Above the lines stands the name of the file.
    """
    for thing in objects:
        code = inspect.getsource(inspect.unwrap(thing)).rstrip()
        where = f"# {_short_path(Path(inspect.getsourcefile(thing) or ''))}"
        if not display({"text/markdown": f"```python\n{where}\n{code}\n```", "text/plain": code}):
            write(f"{where}\n{code}\n")


def _short_path(path):
    """minimixce/experiments/plots.py for a file of the package; elsewhere folder and name."""
    path = path.resolve()
    base = _PACKAGE.parent if path.is_relative_to(_PACKAGE) else path.parent.parent
    return path.relative_to(base).as_posix()
