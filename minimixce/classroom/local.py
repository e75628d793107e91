"""A student's own check: the file is run here, in this process, and told what is wrong with it.

The command `minimixce grade a1 FOLDER --local`, the public tests and the cells of the notebook all
call this, so they say the same. It runs the student's file: only for code one would run anyway.
"""

import traceback
from pathlib import Path
from types import FunctionType

from .assignments import assignment
from .catalogue import functions_of
from .grader.submission import CannotRead, read_submission
from .release import starter
from .results import judge_submission
from .signatures import Functions, Names

NOTICE = "{} runs in this process, with your rights: grade only code you trust."
_NOT_RUN = "the notebook defines no function {!r}: run its cell"


class Submission:
    """A student's functions, from the text of a file or from a dict of names.

    text: run here at once, raises what it raises; path: its name in tracebacks; names: used as they
    are, in place of a text.
    """

    def __init__(
        self,
        text: str | None = None,
        path: str | Path = "submission.py",
        names: Names | None = None,
    ) -> None:
        self.text, self.path = text, str(path)
        self.names = self._run() if names is None else names

    def _run(self):
        names = {"__name__": "submission", "__file__": self.path}
        exec(compile(self.text, self.path, "exec"), names)
        return names

    def functions(self) -> Functions:
        """The student's functions as attributes."""
        return self._functions(self.names)

    def supplied_with(self, references: Names) -> Functions:
        """The same program with some of its functions replaced -> functions as attributes."""
        names = _again(self.names) if self.text is None else self._run()
        names.update(references)
        return self._functions(names)

    def _functions(self, names):
        return functions_of(names, _NOT_RUN) if self.text is None else functions_of(names)


def _again(names):
    """A copy of the names that a notebook defines, whose functions find one another in the copy."""
    new = dict(names)
    for name, value in names.items():
        if isinstance(value, FunctionType) and value.__globals__ is names:
            parts = value.__code__, new, value.__name__, value.__defaults__, value.__closure__
            new[name] = FunctionType(*parts)
            new[name].__kwdefaults__ = value.__kwdefaults__
    return new


def load(name: str, folder: str | Path, variant: int = 0) -> Submission:
    """The submission in a folder, or the file or notebook itself -> Submission.

    name, variant: of the assignment. Raises FileNotFoundError where it is not there, ValueError
    where it cannot be read or does not run, and for an assignment or variant that there is not.
    """
    try:
        whole = assignment(name, variant)
        handed = read_submission(folder, whole.file, starter(name, variant))
    except CannotRead as error:
        if error.status == "missing file":
            there = str(error).removeprefix(f"no {whole.file}")
            said = f"{folder}/{whole.file} does not exist{there}: give the folder that holds it"
            raise FileNotFoundError(said) from None
        raise ValueError(f"{folder}: {error}") from None
    path = Path(folder, handed.name) if Path(folder).is_dir() else folder
    try:
        return Submission(handed.text, path)
    except SyntaxError as error:
        line = (error.text or "").strip()
        said = f"{path} cannot be read: line {error.lineno}: {error.msg}: {line}"
        raise ValueError(said) from None
    except (Exception, SystemExit) as error:
        where = f"{path}{_line(error, path)}"
        raise ValueError(f"{where} fails to run: {type(error).__name__}: {error}") from error


def _line(error, path):
    """ ", line 11", where a file's own code was when it failed."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def assert_task(name: str, number: str, path: str | Path, variant: int = 0) -> None:
    """Raise AssertionError with what is wrong unless a task of the file has all its points.

    name, number: "a1", "1.4"; path: as for `load`, which is called. For the public tests: pytest
    shows the message that the command prints.
    """
    __tracebackhide__ = True
    found = judge_submission(name, load(name, path, variant), [number], variant)
    if not found.judged[0].passed:
        raise AssertionError(found.judged[0].text())


def check(name: str, number: str, names: Names, variant: int = 0) -> None:
    """Print what there is to say of a task.

    name, number: "a1", "1.4"; names: `globals()` of a notebook.
    """
    found = judge_submission(name, Submission(names=names), [number], variant)
    print(found.judged[0].text())
