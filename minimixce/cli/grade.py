"""minimixce grade."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..experiments.options import option
from .options import add_fields, chosen
from .output import say

_EXPERIMENT = "a4"
_KITS = ("gradescope", "nbgrader", "otter")
# what is done, by the option that asks for it (None: one submission, in a sandbox), and the options
# that have a meaning there
_TOGETHER = {
    "local": {"task", "variant", "hints", "json", "overwrite"},
    "csv": {"variant", "isolation", "salt", "json", "jobs", "resume", "overwrite"},
    "release": {"variant"},
    "gradescope": {"variant", "hints", "salt"},
    "nbgrader": {"variant", "hints", "salt"},
    "otter": {"variant", "hints", "salt"},
    None: {"task", "variant", "hints", "isolation", "salt", "json", "overwrite"},
}
_OF_EXPERIMENT = {"local", "task", "json", "overwrite"}  # of a4, unless it is released


@dataclass
class Flags:
    """The options of the command itself."""

    local: bool = option(
        False, "run the file in this process, as students do with their own, in no sandbox"
    )
    task: str | None = option(
        None, "only this task, as 1.4; of a4: the seed to run again", metavar="N"
    )
    variant: int = option(0, "the variant that was handed out", metavar="K")
    hints: str = option(
        "why",
        "none: points alone; where: what differs; why: also which mistake it is, and what to read",
        choices=("none", "where", "why"),
    )
    isolation: str = option(
        "auto",
        "the sandbox: auto is the best of bwrap, user and docker that works here; none is no"
        " sandbox, for code that you would run yourself",
        choices=("auto", "bwrap", "user", "docker", "none"),
    )
    salt: str = option(
        "", "a text that students do not know: it decides the numbers in the probes", metavar="TEXT"
    )
    json: str | None = option(None, "also write the result to FILE as JSON", metavar="FILE")
    csv: str | None = option(
        None, "grade every submission in the folder PLACE, into the table FILE", metavar="FILE"
    )
    jobs: int = option(0, "with --csv: how many side by side, 0 is one for each core", metavar="N")
    resume: bool = option(False, "with --csv: go on where an earlier run was stopped")
    overwrite: bool = option(False, "replace the files of --json and --csv")
    release: bool = option(False, "write what students get to the folder PLACE")
    gradescope: bool = option(False, "write the autograder for Gradescope to the folder PLACE")
    nbgrader: bool = option(
        False, "write the assignment as nbgrader's source notebook to the folder PLACE"
    )
    otter: bool = option(
        False, "write the assignment as a notebook for otter assign to the folder PLACE"
    )


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    from ..classroom.assignments import NAMES

    names = ", ".join([*NAMES, _EXPERIMENT])
    parser.add_argument("assignment", default=argparse.SUPPRESS, help=names)
    parser.add_argument(
        "place",
        default=argparse.SUPPRESS,
        metavar="PLACE",
        help="a submission: a file, folder or archive; with --csv a folder of submissions; what is"
        " written with --release, --gradescope, --nbgrader and --otter",
    )
    add_fields(parser, Flags)


def run(given: dict[str, Any]) -> int:
    """Judge a submission, or a folder of them, or write what belongs to an assignment -> exit
    status, 1 unless a submission has all points, or some submission of a folder was not graded.
    """
    from ..classroom.assignments import NAMES, assignment
    from ..storage import files

    flags, name, path = chosen(Flags, given), given["assignment"], given["place"]
    _check_together(name, given)
    if any(getattr(flags, kit) for kit in _KITS):
        return _write_kits(name, path, flags)
    files.check_not_there(flags.json, flags.overwrite or flags.resume, "--json")
    if flags.csv:
        from ..classroom.grader.batch import kept_beside

        kept = kept_beside(flags.csv)
        if kept.exists() and not (flags.overwrite or flags.resume):
            raise FileExistsError(
                f"{kept} is from an earlier run: add --resume to go on with it, --overwrite to"
                " grade everything again, or choose another --csv"
            )
        files.check_not_there(flags.csv, flags.overwrite or flags.resume, "--csv")
    if flags.release:
        return _release(name, path, flags)
    if name == _EXPERIMENT:
        return _check_experiment(path, flags)
    if name not in NAMES:
        names = ", ".join([*NAMES, _EXPERIMENT])
        raise ValueError(f"assignment must be one of {names}, got {name!r}")
    whole = assignment(name, flags.variant)
    tasks = None if flags.task is None else [whole.task(flags.task).number]
    if flags.local:
        return _judge_here(whole, path, tasks, flags)
    if flags.csv:
        return _grade_folder(name, path, flags)
    return _grade(whole, path, tasks, flags)


def _check_together(name, given):
    """Raise ValueError for an option that has no meaning beside the others."""
    asked = [job for job in _TOGETHER if job in given]
    if {"resume", "overwrite"} <= set(given):
        raise ValueError("--resume and --overwrite exclude each other")
    if len(asked) > 1 and not set(asked) <= set(_KITS):
        raise ValueError(f"--{asked[0]} and --{asked[1]} exclude each other")
    job = asked[0] if asked else None
    allowed = _TOGETHER[job]
    if name == _EXPERIMENT and job != "release":
        allowed = _OF_EXPERIMENT
    options = {field.name for field in dataclasses.fields(Flags)} - set(asked)
    for option_name in sorted(options & set(given) - allowed):
        beside = f"--{job}" if job else f"one submission of {name}"
        raise ValueError(f"--{option_name} has no meaning beside {beside}; leave it out")


def _judge_here(whole, path, tasks, flags):
    """A student's own check, in this process."""
    from ..classroom import local, results

    file = whole.file if Path(path).is_dir() else Path(path).name
    say(local.NOTICE.format(file), flush=True)
    submission = local.load(whole.name, path, flags.variant)
    found = results.judge_submission(whole.name, submission, tasks, flags.variant)
    say(found.text(flags.hints))
    _say_what_is_written(whole, tasks)
    numbers = tasks or [task.number for task in whole.tasks]
    record = results.points_of(whole, numbers, found.judged)
    _write_json(flags, {"assignment": whole.name, "variant": flags.variant, **record})
    return 0 if record["points"] == record["total"] else 1


def _grade(whole, path, tasks, flags):
    """One submission, in a sandbox."""
    from ..classroom.grader import grading

    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist")
    tier = _isolation(flags)
    record = grading.grade(
        whole.name,
        path,
        isolation_tier=tier,
        variant=flags.variant,
        salt=flags.salt,
        tasks=tasks,
    )
    say(grading.text_of(record, flags.hints))
    _say_what_is_written(whole, tasks)
    how = f"variant {flags.variant}, seed {record['seed']}, isolation {tier}"
    say(f"{how}, version {record['version']}")
    _write_json(flags, record)
    return 0 if record["status"] == "graded" and record["points"] == record["total"] else 1


def _grade_folder(name, folder, flags):
    """A folder of submissions, in sandboxes."""
    from tqdm import tqdm

    from ..classroom.grader import batch

    new = 0

    def progress(done, total):
        nonlocal new
        new = total
        return tqdm(done, total=total, unit="submission", disable=None)

    batch.submissions(folder, flags.csv)  # what is wrong with it is said before the trial of tiers
    try:
        records = batch.grade_folder(
            name,
            folder,
            flags.csv,
            isolation_tier=_isolation(flags),
            variant=flags.variant,
            salt=flags.salt,
            jobs=flags.jobs,
            resume=flags.resume,
            progress=progress,
        )
    except KeyboardInterrupt:
        kept = batch.kept_beside(flags.csv)
        said = f"interrupted; what is graded is in {kept}: the same command with --resume goes on"
        raise KeyboardInterrupt(said) from None
    others = [record for record in records if record["status"] != "graded"]
    for record in others:
        say(f"{record['student']}: {record['status']}: {record['says']}")
    counts = f"{new} now, {len(records) - new} kept from before"
    graded = len(records) - len(others)
    say(f"{graded} of {len(records)} submissions graded ({counts}), into {flags.csv}")
    _write_json(flags, {"submissions": records})
    return 1 if others else 0


def _isolation(flags):
    """The tier to use, after saying which it is and why."""
    from ..classroom.grader import tiers

    found = tiers.choose(flags.isolation)
    say(f"isolation: {found.tier}" + "".join(f"; {note}" for note in found.notes), flush=True)
    return found.tier


def _release(name, folder, flags):
    """What students get, into a new folder."""
    from ..classroom import release

    for path in release.write(name, folder, flags.variant):
        say(path)
    return 0


def _write_kits(name, folder, flags):
    """The files for other systems."""
    from ..classroom.grader import exports

    for kit in _KITS:
        if getattr(flags, kit):
            settings = {"variant": flags.variant, "hints": flags.hints, "salt": flags.salt}
            for path in exports.WRITERS[kit](name, folder, **settings):
                say(path)
    return 0


def _say_what_is_written(whole, tasks):
    if whole.written and tasks is None:
        numbers = ", ".join(f"{n} ({p:g} points)" for n, p in whole.written.items())
        say(f"not graded by a program: {numbers}")


def _write_json(flags, record):
    from ..storage import files

    if flags.json:
        files.write_atomically(flags.json, files.to_json(record).encode())


def _check_experiment(folder, flags):
    """What a program can check of A4 -> exit status."""
    from ..classroom.check_experiment import check_folder

    seed = flags.task
    if seed is not None and not seed.isdecimal():
        raise ValueError(f"--task must be a seed to run again, as 12, got {seed!r}")
    items = check_folder(folder, None if seed is None else int(seed))
    for item in items:
        say(f"{item.name}: {'ok' if item.ok else 'not yet'}: {item.says}")
    say("for a person, with the rubric: the control's meaning, the conclusion, the oral")
    _write_json(flags, {"assignment": _EXPERIMENT, "items": [item._asdict() for item in items]})
    return 0 if all(item.ok for item in items) else 1
