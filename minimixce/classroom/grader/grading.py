"""One submission graded: read, run in a sandbox, judged -> a record of what it earned and why."""

import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import results
from ..assignments import assignment
from ..release import starter
from .plain import one_line
from .references import References
from .remote import RemoteFunctions, Sandbox, Session, StudentError
from .submission import CannotRead, Handed, read_submission

_MANY_CALLS = 10  # of a forward by its backward; by hand one needs none


class RemoteSubmission:
    """A student's program in a sandbox, with the methods that results.judge_submission wants.

    name, variant: of the assignment. A context, which ends the sandbox.
    """

    def __init__(self, sandbox: Sandbox, handed: Handed, name: str, variant: int = 0) -> None:
        self.sandbox, self.handed = sandbox, handed
        self._references = References(name, variant, ())
        self._all: list[RemoteFunctions] = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.sandbox.close()
        self._references.close()

    def functions(self) -> RemoteFunctions:
        """The student's functions as attributes."""
        self._all.append(RemoteFunctions(self.sandbox, self.handed.text, self.handed.name))
        return self._all[-1]

    def supplied_with(self, references: dict[str, Any]) -> RemoteFunctions:
        """The same, those with these names replaced by the reference's, in another process."""
        self._references.names = list(references)
        given = self.sandbox, self.handed.text, self.handed.name, self._references
        return RemoteFunctions(*given)

    def slow(self) -> list[str]:
        """Remarks on backwards that call their forward again and again."""
        calls = {name: n for one in self._all for name, n in one.__dict__["__calls__"].items()}
        return [
            f"{name} is slow: it calls {name.removesuffix('backward')}forward {n} times, as finite"
            " differences do"
            for name, n in sorted(calls.items())
            if n >= _MANY_CALLS
        ]

    def failed(self) -> OSError | None:
        """What of the grader's own did not start, if something did not."""
        return self.sandbox.failed or self._references.failed

    def load(self) -> None:
        """Run the file once. Raises StudentError if that fails."""
        Session(self.sandbox, self.handed.text, self.handed.name).close()


def seed_of(salt: str, data: bytes) -> int:
    """The seed of a submission's probes: the same for the same salt and bytes, and a secret as
    long as the salt is one.
    """
    digest = hashlib.sha256(salt.encode() + b"\0" + data).digest()
    return int.from_bytes(digest[:6], "big")


def grade(
    name: str,
    path: str | Path,
    *,
    isolation_tier: str,
    variant: int = 0,
    salt: str = "",
    tasks: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Grade a submission -> its record, a dict of plain values.

    name: of the assignment, "a2"; path: a file, folder or archive; isolation_tier: one that
    tiers.choose returned; tasks: numbers, by default all. Of the record: "status" is "graded",
    or why it could not be; "points" and "total" (what a program grades, the bonus apart in
    "bonus"); "tasks", each with its checks, mistakes and what is wrong; "remarks"; and what it
    takes to grade it again: "version", "variant", "seed", "isolation", "sha256". Equal in every
    bit but "seconds" when graded again. Raises FileNotFoundError, ValueError for a name, variant
    or task that there is not, and SandboxFailed, an OSError, where no sandbox could be started.
    """
    start, whole = time.monotonic(), assignment(name, variant)
    numbers = list(tasks or [task.number for task in whole.tasks])
    record = not_graded(name, isolation_tier=isolation_tier, variant=variant, tasks=numbers)
    try:
        handed = read_submission(path, whole.file, starter(name, variant))
    except CannotRead as error:
        return record | {"status": error.status, "says": str(error)}
    seed = seed_of(salt, handed.data)
    record |= {"seed": seed, "sha256": hashlib.sha256(handed.data).hexdigest()}
    record["remarks"] = [*handed.remarks, *_of_another_variant(whole, variant, handed)]
    with RemoteSubmission(Sandbox(isolation_tier), handed, name, variant) as submission:
        try:
            submission.load()
            found = results.judge_submission(name, submission, numbers, variant, seed)
            record |= {"status": "graded"} | results.points_of(whole, numbers, found.judged)
            record["remarks"] += submission.slow()
            if failed := submission.failed():  # it looks like an exception in the student's code
                raise failed
        except StudentError as error:
            record |= {"status": "does not load", "says": _why_not(handed, error)}
    record["seconds"] = round(time.monotonic() - start, 2)
    return record


def _of_another_variant(whole, variant, handed):
    """A remark where the headings of a file are those of another variant's starter."""
    text = handed.data.decode("utf-8", "replace")

    def has_headings_of(number):
        found = re.findall(r"^# (## \d\S* .*)$", whole.source(number), re.MULTILINE)
        return all(heading in text for heading in found)

    if has_headings_of(variant):
        return []
    others = [number for number in range(whole.variants) if has_headings_of(number)]
    return [
        f"its headings are those of variant {number}; graded as variant {variant}"
        for number in others[:1]
    ]


def not_graded(
    name: str,
    *,
    isolation_tier: str,
    variant: int = 0,
    salt: str = "",
    tasks: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The record of a submission of which nothing could be graded; arguments as for grade."""
    from ... import __version__

    whole = assignment(name, variant)
    record: dict[str, Any] = {"assignment": name, "status": "not graded", "says": ""}
    record |= {"version": __version__, "variant": variant, "seed": 0, "isolation": isolation_tier}
    record |= {"sha256": "", "seconds": 0.0, "remarks": []}
    return record | results.points_of(whole, tasks or [task.number for task in whole.tasks], ())


def _why_not(handed, error):
    """In a sentence, why a file does not run."""
    line, name = error.line.strip().removesuffix(","), one_line(handed.name, 100)
    where = f"{name}, {line}" if line else name
    return f"{where}: {error}" if error.kind == "too slow" else f"{where}: {error.kind}: {error}"


def text_of(record: dict[str, Any], hints: str = "why") -> str:
    """A record as lines for a student: every task, what is wrong, and the sum.

    hints: "none", "where" or "why", as in minimixce.classroom.diagnose.
    """
    lines = list(record["remarks"])
    if record["status"] != "graded":
        lines.append(f"{record['status']}: {record['says']}")
    lines += [task["hints"][hints] for task in record["tasks"] if task["hints"][hints]]
    return "\n".join([*lines, results.sum_of(record)])
