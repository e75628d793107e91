"""minimixce grade."""

import argparse
from dataclasses import dataclass

from ..experiments.options import option
from .options import FileFlags, add_fields, chosen

_EXPERIMENT = "a4"


@dataclass
class Flags:
    """The options of the command itself."""

    local: bool = option(
        False, "run the file in this process, as a student does with their own: the way there is"
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


def declare(parser):
    """Declare the options of the command."""
    from ..classroom.assignments import NAMES

    names = ", ".join([*NAMES, _EXPERIMENT])
    parser.add_argument("assignment", default=argparse.SUPPRESS, help=names)
    parser.add_argument(
        "submission", default=argparse.SUPPRESS, help="a folder with the file, or the file itself"
    )
    add_fields(parser, Flags)
    add_fields(parser, FileFlags, helps={"out": "also write points and mistakes to FILE as JSON"})


def run(given):
    """Judge a submission and print what is wrong -> exit status, 1 unless all points are there."""
    from ..classroom import local, results
    from ..classroom.assignments import assignment
    from ..storage import files

    flags, file = chosen(Flags, given), chosen(FileFlags, given)
    if not flags.local:
        raise ValueError("grade needs --local: it runs the file in this process")
    files.check_not_there(file.out, file.overwrite)
    name = given["assignment"]
    if name == _EXPERIMENT:
        return _check_experiment(given["submission"], flags, file)
    whole = assignment(name, flags.variant)
    tasks = None if flags.task is None else [whole.task(flags.task).number]
    print(local.NOTICE.format(given["submission"]), flush=True)
    submission = local.load(name, given["submission"], flags.variant)
    found = results.judge_submission(name, submission, tasks, flags.variant)
    print(found.text(flags.hints))
    if whole.written and tasks is None:
        numbers = ", ".join(f"{n} ({p:g} points)" for n, p in whole.written.items())
        print(f"not graded by a program: {numbers}")
    if file.out:
        record = {"assignment": name, "variant": flags.variant, **found.as_dict()}
        files.write_atomically(file.out, files.to_json(record).encode())
    return 0 if found.points == found.total else 1


def _check_experiment(folder, flags, file):
    """What a program can check of A4 -> exit status."""
    from ..classroom.check_experiment import check_folder
    from ..storage import files

    seed = flags.task
    if seed is not None and not seed.isdecimal():
        raise ValueError(f"--task must be a seed to run again, as 12, got {seed!r}")
    items = check_folder(folder, None if seed is None else int(seed))
    for item in items:
        print(f"{item.name}: {'ok' if item.ok else 'not yet'}: {item.says}")
    print("for a person, with the rubric: the control's meaning, the conclusion, the oral")
    if file.out:
        record = {"assignment": _EXPERIMENT, "items": [item._asdict() for item in items]}
        files.write_atomically(file.out, files.to_json(record).encode())
    return 0 if all(item.ok for item in items) else 1
