"""A folder of submissions graded: a table with a row for each, made by several processes."""

import concurrent.futures
import contextlib
import csv
import hashlib
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

from ...experiments.pool import end_with_parent, worker_pool
from ...storage import files
from ..assignments import assignment
from ..release import starter
from . import grading
from .plain import one_line
from .submission import _SKIPPED, CannotRead, read_submission

_KEY = ("assignment", "version", "variant", "isolation", "salt")
_ENDINGS = (".tar.gz", ".tgz", ".tar", ".zip", ".py", ".ipynb")
_FIELDS = {"file", "student", "status", "points", "bonus", "mistakes", "tasks", "sha256"}


def submissions(folder: str | Path, out: str | Path | None = None) -> list[Path]:
    """The submissions in a folder, in the order of their names: each entry is one.

    out: a table that may lie in the same folder, and is not one. Raises ValueError where there are
    none.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"--csv needs a folder with an entry for each student, got {folder}")
    tables = () if out is None else (Path(out).absolute(), kept_beside(out).absolute())
    found = [p.absolute() for p in Path(folder).iterdir() if not p.name.startswith(".")]
    found = [p for p in found if p.name not in _SKIPPED and p not in tables]
    found.sort(key=lambda path: path.name)
    if not found:
        raise ValueError(f"{folder} holds no submissions")
    by_student: dict[str, Path] = {}
    for path in found:
        other = by_student.setdefault(student_of(path), path)
        if other is not path:
            both = f"{one_line(other.name)} and {one_line(path.name)}"
            raise ValueError(f"{folder}: {both} would both be {student_of(path)} in the table")
    return found


def kept_beside(out: str | Path) -> Path:
    """The file in which grade_folder keeps what it has done of the table `out`."""
    return Path(f"{out}.jsonl")


def student_of(path: Path) -> str:
    """The name of a submission's student: that of the folder, or the file's without its ending."""
    name = one_line(path.name, 255)
    ends = [] if path.is_dir() else [end for end in _ENDINGS if name.lower().endswith(end)]
    return name[: -len(ends[0])] or name if ends else name


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

    jobs: how many processes, 0 for one a core. Each record is added to `out` + ".jsonl" as it is
    made, so that `resume` goes on where a run was stopped: a submission whose bytes are the same
    is not graded again. progress(iterator, total) may show how far it is. Raises
    ValueError for jobs below 0, a folder without submissions, or a file to resume from that was
    made with another version, variant, isolation or salt.
    """
    if jobs < 0:
        raise ValueError(f"--jobs must be at least 0, got {jobs}")
    out = Path(out).absolute()
    paths, kept_path = submissions(folder, out), kept_beside(out)
    head = _head(name, variant, isolation_tier, salt)
    kept = _read_kept(kept_path, head) if resume and kept_path.exists() else {}
    records = {}
    for path in paths:
        record = kept.get(path.name)
        if record is not None and record["sha256"] == _sha256(path, name, variant):
            records[path] = record
    lines = [head, *({"file": path.name} | record for path, record in records.items())]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    files.write_atomically(kept_path, text.encode())  # without a line that was cut short
    left = [path for path in paths if path not in records]
    arguments = {"isolation_tier": isolation_tier, "variant": variant, "salt": salt}
    with _away_from_submissions():
        for path, record in progress(_graded(name, left, arguments, jobs), len(left)):
            records[path] = record = {"student": student_of(path)} | record
            with open(kept_path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps({"file": path.name} | record) + "\n")
    ordered = [records[path] for path in paths]
    files.write_atomically(out, table(name, ordered, variant).encode("utf-8", "replace"))
    return ordered


@contextlib.contextmanager
def _away_from_submissions():
    """A context with another working folder: a new process of Python looks for modules in the
    present one, which may hold a submission called json.py.
    """
    before = os.getcwd()
    os.chdir(os.path.abspath(os.sep))
    try:
        yield
    finally:
        os.chdir(before)


def _graded(name, paths, arguments, jobs):
    """(path, record) of every submission as they are done; one that breaks is said to be broken.

    Where a worker is killed, all that wait are lost; they are graded again, each in a process of
    its own, so that only the submission that did it goes without a grade.
    """
    lost = []
    with worker_pool(jobs, len(paths)) as (executor, _):
        if executor is None:
            for path in paths:
                yield path, _grade_one(name, path, arguments)
            return
        waiting = {executor.submit(_grade_one, name, path, arguments): path for path in paths}
        for future in concurrent.futures.as_completed(waiting):
            try:
                record = future.result()
            except BrokenExecutor:
                lost.append(waiting[future])
                continue
            yield waiting[future], record
    for path in sorted(lost, key=paths.index):
        yield path, _grade_alone(name, path, arguments)


def _grade_alone(name, path, arguments):
    """As _grade_one, in a process that nothing else needs."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        1, context, initializer=end_with_parent, initargs=(os.getpid(),)
    ) as executor:
        try:
            return executor.submit(_grade_one, name, path, arguments).result()
        except BrokenExecutor:
            return _broken(name, arguments, "its process was ended, perhaps for lack of memory")


def _grade_one(name, path, arguments):
    """The record of a submission; an error of the grader becomes its status, not its end."""
    try:
        if path.is_symlink():  # it may lead to another student's
            empty = grading.not_graded(name, **arguments)
            return empty | {"status": "unreadable", "says": "it is a link, not a file or folder"}
        return grading.grade(name, path, **arguments)
    except Exception as error:  # the other submissions are not to be lost
        return _broken(name, arguments, one_line(f"{type(error).__name__}: {error}"))


def _broken(name, arguments, said):
    empty = grading.not_graded(name, **arguments)
    return empty | {"status": "grader failed", "says": f"not the student's fault: {said}"}


def _head(name, variant, isolation_tier, salt):
    from ... import __version__

    values = (name, __version__, variant, isolation_tier, grading.seed_of(salt, b""))
    return dict(zip(_KEY, values))


def _read_kept(path, head):
    """{name of a submission: record} of a file that an earlier run left.

    Lines that were cut short are left out.
    """
    lines = files.read_bytes(path).decode("utf-8", "replace").split("\n")
    found = _json_of(lines[0])
    if found != head:
        raise ValueError(f"{path} {_difference(found, head)}, or choose another --csv")
    records = [record for line in lines[1:] if (record := _parsed(line)) is not None]
    return {record.pop("file"): record for record in records}


def _difference(found, head):
    """In words, what an earlier run had that this one has not."""
    found = found if isinstance(found, dict) and found.keys() == head.keys() else {}
    if not found:
        return "is not of a run of this command: remove it"
    names = [name for name in head if found[name] != head[name]]
    if names == ["salt"]:
        return "was made with another --salt: give the same"
    said = ", ".join(
        "salt another" if name == "salt" else f"{name} {found[name]}, not {head[name]}"
        for name in names
    )
    return f"was made with {said}: give the same options"


def _json_of(line):
    """A line's JSON, or None."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _parsed(line):
    """The record of a line, or None."""
    found = _json_of(line)
    return found if isinstance(found, dict) and _FIELDS <= found.keys() else None


def _sha256(path, name, variant):
    """The digest of a submission's bytes, as in its record; "" where it cannot be read."""
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
    return files.csv_cell(value)
