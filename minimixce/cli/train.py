"""minimixce train."""

import argparse
import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

from ..experiments.options import (
    FREE,
    QUICK,
    TrainingOptions,
    check_given,
    flag,
    option,
    quick,
    resumed,
)
from ..training.ranks import Ranks, of_mpi
from .options import CommonOptions, add_fields, chosen, of
from .output import say

_MAY_DIFFER = ", ".join(
    field.name
    for field in dataclasses.fields(TrainingOptions)
    if field.metadata["on_resume"] == FREE
)


@dataclass
class Flags:
    """The options of the command itself."""

    out: str = option(
        "run",
        "folder for the model, its tokenizer, metrics and the state to resume from",
        metavar="FOLDER",
    )
    overwrite: bool = option(False, "replace the run in FOLDER")
    resume: bool = option(
        False, f"go on with the run in FOLDER, with its options; {_MAY_DIFFER} may differ"
    )
    quick: bool = option(
        False,
        "a small model and a short run, half a minute or less: "
        + ", ".join(f"{flag(name)} {value}" for name, value in QUICK.items())
        + " where you give no others",
    )
    change: bool = option(
        False,
        "with --resume: options of the objective and the optimizer given here replace the run's",
    )


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command on `parser`."""
    add_fields(parser, CommonOptions)
    add_fields(parser, Flags)
    add_fields(parser, TrainingOptions)


def give_up() -> None:
    """What is to be done where the options of the command cannot be read: other ranks may have
    begun with theirs.
    """
    with contextlib.suppress(ValueError):  # there is no MPI
        of_mpi().end_together(2)


def run(given: dict[str, Any]) -> int:
    """Train, and print the report -> exit status. given: the options that the user gave, by name.
    Raises ValueError, FileExistsError or FileNotFoundError for options that cannot work. Under
    mpiexec all ranks train one model.
    """
    ranks = of_mpi()
    try:
        _train(given, ranks)
    except BaseException:
        if ranks.end_together(2) and not ranks.is_first:
            return 2  # the first says why
        raise
    return 0


def _train(given: dict[str, Any], ranks: Ranks) -> None:
    from ..experiments import jobs, starting

    flags = chosen(Flags, given)
    ways = ("resume", "overwrite", "quick", "change")
    ranks.check_same({f"option {flag(name)}": getattr(flags, name) for name in ways})
    if flags.change and not flags.resume:
        raise ValueError("--change goes with --resume")
    if flags.quick and flags.resume:
        raise ValueError("--quick starts a run; leave it out with --resume")
    given = of(TrainingOptions, given)
    if flags.resume and not flags.overwrite:
        options = ranks.from_first(lambda: resumed(flags.out, given, flags.change))
    else:
        settled = starting.fine_tuning(given)
        options = TrainingOptions(**(quick(settled) if flags.quick else settled))
    check_given(options, given)
    silent = lambda line: None  # noqa: E731
    report = silent if options.quiet or not ranks.is_first else say
    # what of the text was not read matters in a run without a report, too
    warn = (lambda line: say(line, file=sys.stderr)) if options.quiet else say
    warn = warn if ranks.is_first else silent
    how = {"resume": flags.resume, "overwrite": flags.overwrite}
    jobs.train(options, flags.out, **how, say=report, warn=warn, ranks=ranks)
