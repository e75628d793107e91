"""A student's own check: the file is run here, in this process, and told what is wrong with it.

The command `minimixce grade a1 FOLDER --local`, the public tests and the cells of the notebook all
call this, so they say the same. It runs the student's file: only for code one would run anyway.
"""

from pathlib import Path

from .assignments import assignment
from .catalogue import functions_of
from .grader.submission import CannotRead, read_submission
from .release import starter
from .results import judge_submission

NOTICE = "{} is run in this process, with all that you may do yourself."


class Submission:
    """A student's functions, from the text of a file or from a dict of names."""

    def __init__(self, text=None, path="submission.py", names=None):
        self.text, self.path = text, str(path)
        self.names = self._run() if names is None else names

    def _run(self):
        names = {"__name__": "submission", "__file__": self.path}
        exec(compile(self.text, self.path, "exec"), names)
        return names

    def functions(self):
        """The student's functions as attributes."""
        return functions_of(self.names)

    def supplied_with(self, references):
        """The same program with some of its functions replaced -> functions as attributes.

        None where there is no text to run again.
        """
        if self.text is None:
            return None
        names = self._run()
        names.update(references)
        return functions_of(names)


def load(name, folder, variant=0):
    """The submission in a folder, or the file or notebook itself -> Submission.

    Raises FileNotFoundError where it is not there, ValueError where it does not run.
    """
    try:
        whole = assignment(name, variant)
        handed = read_submission(folder, whole.file, starter(name, variant))
    except CannotRead as error:
        raise ValueError(f"{folder}: {error}") from None
    path = Path(folder, handed.name) if Path(folder).is_dir() else folder
    try:
        return Submission(handed.text, path)
    except SyntaxError as error:
        line = (error.text or "").strip()
        said = f"{path} cannot be read: line {error.lineno}: {error.msg}: {line}"
        raise ValueError(said) from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} fails to run: {type(error).__name__}: {error}") from error


def assert_task(name, number, path, variant=0):
    """Raise AssertionError with what is wrong unless a task of the file has all its points.

    For the public tests: pytest shows the message that the command prints.
    """
    __tracebackhide__ = True
    found = judge_submission(name, load(name, path, variant), [number], variant)
    if not found.judged[0].passed:
        raise AssertionError(found.judged[0].text())


def check(name, number, names, variant=0):
    """Print what there is to say of a task; names: `globals()` of a notebook."""
    found = judge_submission(name, Submission(names=names), [number], variant)
    print(found.judged[0].text())
