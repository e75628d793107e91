"""A student's own check: the file is run here, in this process, and told what is wrong with it.

The command `minimixce grade a1 FOLDER --local`, the public tests and the cells of the notebook all
call this, so they say the same. It runs the student's file: only for code one would run anyway.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .assignments import assignment
from .catalogue import Catalogue, functions_of
from .judge import Judged, judge

NOTICE = "{} is run in this process, with all that you may do yourself."


@cache
def catalogue(name, number, variant=0, seed=0):
    """The Catalogue of a task, made once."""
    whole = assignment(name, variant)
    return Catalogue(whole, whole.task(number), variant, seed)


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


@dataclass(frozen=True)
class Result:
    """An assignment, or some tasks of it, judged."""

    judged: tuple

    @property
    def points(self):
        """The points that were earned."""
        return sum(one.points for one in self.judged)

    @property
    def total(self):
        """The points that there are, for what is graded by a program."""
        return sum(one.total for one in self.judged)

    def text(self, hints="why"):
        """All tasks as lines, and the sum."""
        lines = [one.text(hints) for one in self.judged]
        return "\n".join([*lines, f"{self.points:g} of {self.total:g} points"])

    def as_dict(self):
        """Points, checks and codes of mistakes, as JSON has them."""
        tasks = [
            {
                "number": one.number,
                "points": one.points,
                "total": one.total,
                "checks": {c.name: c.passed for c in one.checks},
                "mistakes": [list(codes) for codes in one.finding.codes] if one.finding else [],
                "says": one.finding.text() if one.finding else "",
            }
            for one in self.judged
        ]
        return {"points": self.points, "total": self.total, "tasks": tasks}


def load(name, folder, variant=0):
    """The submission in a folder, or the file itself -> Submission.

    Raises FileNotFoundError where it is not there, ValueError where it does not run.
    """
    path = Path(folder)
    if path.is_dir():
        path = path / assignment(name, variant).file
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return Submission(path.read_text(encoding="utf-8-sig"), path)
    except SyntaxError as error:
        line = (error.text or "").strip()
        said = f"{path} cannot be read: line {error.lineno}: {error.msg}: {line}"
        raise ValueError(said) from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} fails to run: {type(error).__name__}: {error}") from error


def judge_submission(name, submission, tasks=None, variant=0, seed=0):
    """Judge the tasks of these numbers, by default all -> Result."""
    numbers = tasks or [task.number for task in assignment(name, variant).tasks]
    return Result(tuple(_judge(name, submission, n, variant, seed) for n in numbers))


def _judge(name, submission, number, variant, seed):
    """Judge one task; where it fails and is right once earlier tasks are, say so."""
    this = catalogue(name, number, variant, seed)
    found = judge(this, submission.functions())
    whole = assignment(name, variant)
    before = whole.tasks[: whole.tasks.index(this.task)]
    if found.passed or not before:
        return found
    earlier = {f: getattr(this.reference, f) for task in before for f in task.functions}
    functions = submission.supplied_with(earlier)
    if functions is None:
        return found
    again = judge(this, functions)
    if not again.passed:
        return found if found.finding and found.finding.codes else again
    return _because_of_earlier(found, again)


def _because_of_earlier(found, again):
    """Full points, with a note that only earlier tasks are wrong."""
    title = f"{again.title} (right, once the earlier tasks that it uses are)"
    return Judged(found.number, title, again.checks, None)


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
