"""minimixce grade."""

import argparse
from dataclasses import dataclass

from ..experiments.options import option
from .options import FileFlags, add_fields, chosen


@dataclass
class Flags:
    """The options of the command itself."""

    local: bool = option(
        False, "run the file in this process, as a student does with their own: the way there is"
    )
    task: str | None = option(None, "only this task, as 1.4", metavar="N")
    variant: int = option(0, "the variant that was handed out", metavar="K")
    hints: str = option(
        "why",
        "none: points alone; where: what differs; why: also which mistake it is, and what to read",
        choices=("none", "where", "why"),
    )


def declare(parser):
    """Declare the options of the command."""
    from ..classroom.assignments import NAMES

    parser.add_argument("assignment", default=argparse.SUPPRESS, help=", ".join(NAMES))
    parser.add_argument(
        "submission", default=argparse.SUPPRESS, help="a folder with the file, or the file itself"
    )
    add_fields(parser, Flags)
    add_fields(parser, FileFlags, helps={"out": "also write points and mistakes to FILE as JSON"})


def run(given):
    """Judge a submission and print what is wrong -> exit status, 1 unless all points are there."""
    from ..classroom import local
    from ..storage import files

    flags, file = chosen(Flags, given), chosen(FileFlags, given)
    if not flags.local:
        raise ValueError("grade needs --local: it runs the file in this process")
    files.check_not_there(file.out, file.overwrite)
    name = given["assignment"]
    whole = local.assignment(name, flags.variant)
    tasks = None if flags.task is None else [whole.task(flags.task).number]
    print(local.NOTICE.format(given["submission"]), flush=True)
    submission = local.load(name, given["submission"], flags.variant)
    found = local.judge_submission(name, submission, tasks, flags.variant)
    print(found.text(flags.hints))
    if whole.written and tasks is None:
        numbers = ", ".join(f"{n} ({p:g} points)" for n, p in whole.written.items())
        print(f"not graded by a program: {numbers}")
    if file.out:
        record = {"assignment": name, "variant": flags.variant, **found.as_dict()}
        files.write_atomically(file.out, files.to_json(record).encode())
    return 0 if found.points == found.total else 1
