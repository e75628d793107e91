"""minimixce compare."""

import argparse
from dataclasses import dataclass
from typing import Any

from ..experiments.options import ComparisonOptions, check_given, option
from ..storage.terminal import one_line
from .options import CommonOptions, add_fields, chosen, of
from .output import say


@dataclass
class Flags:
    """The options of the command itself."""

    out: str = option(
        "comparison",
        "folder for the runs, table.csv, table.json and comparison.png",
        metavar="FOLDER",
    )
    overwrite: bool = option(False, "replace the comparison in FOLDER")
    resume: bool = option(
        False,
        "go on with the comparison in FOLDER, given its options again: runs that are finished are"
        " not trained again",
    )


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command on `parser`."""
    seed = "without effect: --seeds names one for each run"
    add_fields(parser, CommonOptions, helps={"seed": seed})
    add_fields(parser, Flags)
    helps = {
        "unchecked": "do not gradient-check objectives from a file",
        "quiet": "print no progress of the runs",
    }
    add_fields(parser, ComparisonOptions, leave_out=("objective",), helps=helps)


def run(given: dict[str, Any]) -> int:
    """Compare, and print the table -> exit status. given: the options that the user gave, by name.
    Raises what compare.compare raises.
    """
    from ..experiments import compare, starting

    flags = chosen(Flags, given)
    given = of(ComparisonOptions, given)
    options = ComparisonOptions(**starting.fine_tuning(given))
    check_given(options, given)
    found = compare.compare(
        options, flags.out, resume=flags.resume, overwrite=flags.overwrite, say=say
    )
    say(f"\n{found.table()}")
    say(found.note)
    say(
        f"files    {one_line(flags.out)}/: table.csv, table.json, comparison.png, and a run folder"
        " for each objective and seed"
    )
    return 0
