"""minimixce compare."""

import argparse
from dataclasses import dataclass
from typing import Any

from ..experiments.continuations import ContinuationOptions
from ..experiments.options import ComparisonOptions, check_given, flag, option
from ..storage.terminal import one_line
from .options import CommonOptions, add_fields, chosen, names, of
from .output import say


@dataclass
class Flags:
    """The options of the command itself."""

    out: str = option(
        "comparison",
        "folder for the runs, table.csv, table.json, table.md and comparison.png",
        metavar="FOLDER",
    )
    overwrite: bool = option(False, "replace the comparison in FOLDER")
    resume: bool = option(
        False,
        "go on with the comparison in FOLDER, given its options again: runs that are finished are"
        " not trained again",
    )


@dataclass
class TestFlags:
    """What continuations are measured on."""

    test: list[str] | None = option(  # noqa: RUF009 (no list is shared: it is None)
        None,
        "files and folders whose texts --prompt-tokens measures on (default: those of a folder"
        " from prepare --format); the validation text is for the choice among the objectives",
        metavar="PATH",
        action="extend",
    )


_NOT_HERE = ("seeds",)  # of continuations: a run goes on by its own seed


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
    prompts = (
        "instead of writing texts of their own, models go on from the first so many tokens of"
        " --samples validation texts, by which one of the objectives is chosen, and of as many of"
        " --test, on which all are measured"
    )
    features = (
        "GPT-2 folder whose hidden states MAUVE and coherence compare texts by (default: that of"
        " --init)"
    )
    of_continuations = {"prompt_tokens": prompts, "features": features}
    add_fields(parser, ContinuationOptions, leave_out=_NOT_HERE, helps=of_continuations)
    add_fields(parser, TestFlags)


def run(given: dict[str, Any]) -> int:
    """Compare, and print the table -> exit status. given: the options that the user gave, by name.
    Raises what compare.compare raises.
    """
    from ..experiments import compare, starting

    flags, test = chosen(Flags, given), chosen(TestFlags, given).test
    continuations = chosen(ContinuationOptions, given)
    alone = ({"test"} | names(ContinuationOptions)) & set(given) - {*_NOT_HERE, "prompt_tokens"}
    if alone and not continuations.prompt_tokens:
        raise ValueError(f"{flag(min(alone))} is for continuations: add --prompt-tokens")
    given = of(ComparisonOptions, given)
    options = ComparisonOptions(**starting.fine_tuning(given))
    check_given(options, given)
    found = compare.compare(
        options,
        flags.out,
        continuations=continuations,
        test=test,
        resume=flags.resume,
        overwrite=flags.overwrite,
        say=say,
    )
    say(f"\n{found.table()}")
    say(found.note)
    say(
        f"files    {one_line(flags.out)}/: table.csv, table.json, table.md, comparison.png, and a"
        " run folder for each objective and seed"
    )
    return 0
