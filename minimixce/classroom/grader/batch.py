"""A folder of submissions graded: a table with a row for each, made by several processes."""

import concurrent.futures
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...experiments.pool import worker_pool
from ...storage import files
from ..assignments import assignment
from ..release import starter
from . import grading
from .submission import _SKIPPED

_KEY = ("assignment", "version", "variant", "isolation", "salt")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # of cells that a spreadsheet would run


def submissions(folder: str | Path) -> list[Path]:
    """The submissions in a folder, in the order of their names: each entry is one.

    Raises ValueError where there are none.
    """
    found = [p for p in Path(folder).iterdir() if not p.name.startswith(".")]
    found = sorted((p for p in found if p.name not in _SKIPPED), key=lambda path: path.name)
    if not found:
        raise ValueError(f"{folder} holds no submissions")
    return found


def student_of(path: Path) -> str:
    """The name of a submission's student: that of the folder, or the file's without its ending."""
    return path.name if path.is_dir() else path.name.split(".", 1)[0] or path.name


def grade_folder(
    name: str,
    folder: str | Path,
    out: str | Path,
    *,
    isolation_tier: str,
    variant: int = 0,
    salt: str = "",
    jobs: int = 0,
    resume: bool = False,
    progress: Callable[[Iterator[Any], int], Iterator[Any]] = lambda done, total: done,
) -> list[dict[str, Any]]:
    """Grade every submission in a folder -> records, each with its "student"; writes the CSV `out`.

    jobs: how many processes, 0 for one a core. Each record is added to `out` + ".jsonl" when it is
    there, so that `resume` goes on where a run was stopped: submissions whose bytes, like version,
    variant, isolation and salt, are the same are not graded again. progress(iterator, total) may
    show how far it is. Raises ValueError for a folder without submissions, or a file to resume from
    that belongs to something else.
    """
    paths, kept_path = submissions(folder), Path(f"{out}.jsonl")
    head = _head(name, variant, isolation_tier, salt)
    kept = _read_kept(kept_path, head) if resume and kept_path.exists() else {}
    if not kept:
        files.write_atomically(kept_path, (json.dumps(head) + "\n").encode())
    records = {}
    for path in paths:
        record = kept.get(student_of(path))
        if record is not None and record["sha256"] == _sha256(path, name, variant):
            records[path] = record
    left = [path for path in paths if path not in records]
    arguments = {"isolation_tier": isolation_tier, "variant": variant, "salt": salt}
    with worker_pool(jobs, len(left)) as (executor, _):
        done = _graded(name, left, arguments, executor)
        for path, record in progress(done, len(left)):
            record = {"student": student_of(path)} | record
            records[path] = record
            with open(kept_path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
    ordered = [records[path] for path in paths]
    files.write_atomically(out, table(name, ordered, variant).encode())
    return ordered


def _graded(name, paths, arguments, executor):
    """(path, record) of every submission as they are done; one that breaks is said to be broken."""
    if executor is None:
        for path in paths:
            yield path, _grade_one(name, path, arguments)
        return
    waiting = {executor.submit(_grade_one, name, path, arguments): path for path in paths}
    for future in concurrent.futures.as_completed(waiting):
        yield waiting[future], future.result()


def _grade_one(name, path, arguments):
    """The record of a submission; an error of the grader becomes its status, not its end."""
    try:
        return grading.grade(name, path, **arguments)
    except Exception as error:  # the other submissions are not to be lost
        empty = grading.not_graded(name, **arguments)
        said = f"{type(error).__name__}: {error}"
        return empty | {"status": "grader failed", "says": f"not the student's fault: {said}"}


def _head(name, variant, isolation_tier, salt):
    from ... import __version__

    values = (name, __version__, variant, isolation_tier, grading.seed_of(salt, b""))
    return dict(zip(_KEY, values))


def _read_kept(path, head):
    """{student: record} of a file that an earlier run left; a last line cut short is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    try:
        found = json.loads(lines[0])
    except ValueError:
        found = None
    if found != head:
        raise ValueError(
            f"{path} belongs to other settings ({found}); grade without --resume, or choose another"
            " --csv"
        )
    kept = {}
    for line in lines[1:-1]:
        record = json.loads(line)
        kept[record["student"]] = record
    return kept


def _sha256(path, name, variant):
    import hashlib

    from .submission import CannotRead, read_submission

    try:
        file = assignment(name, variant).file
        data = read_submission(path, file, starter(name, variant)).data
    except (CannotRead, OSError):
        return ""
    return hashlib.sha256(data).hexdigest()


# ---- the table -----------------------------------------------------------------------------------


def table(name: str, records: list[dict[str, Any]], variant: int = 0) -> str:
    """Records as CSV: student, status, total, a column a task, mistakes, and how it was graded.

    "total" is the points without the bonus, which has its own columns. Cells that a spreadsheet
    would take for a formula have a quote before them.
    """
    numbers = [task.number for task in assignment(name, variant).tasks]
    ends = ("seconds", "version", "variant", "seed", "isolation", "sha256")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["student", "status", "total", *numbers, "bonus", "mistakes", *ends])
    for record in records:
        points = {task["number"]: task["points"] for task in record["tasks"]}
        row = [record["student"], record["status"], record["points"]]
        row += [points.get(number, 0.0) for number in numbers]
        row += [record["bonus"], " ".join(record["mistakes"]), *(record[end] for end in ends)]
        writer.writerow([_cell(value) for value in row])
    return stream.getvalue()


def _cell(value):
    if isinstance(value, float):
        return f"{value:g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
