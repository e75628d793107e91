"""minimixce eval."""

import argparse
from dataclasses import dataclass
from typing import Any

from ..experiments.continuations import ContinuationOptions
from ..experiments.options import option
from .options import CommonOptions, FileFlags, add_fields, chosen
from .output import say


@dataclass
class Flags:
    """What is measured, and how."""

    data: list[str] | None = option(  # noqa: RUF009 (no list is shared: it is None)
        None,
        "files or folders to measure on, and to count words as valid by; without it, the run's own"
        " validation text",
        action="extend",
    )
    include: list[str] | None = option(  # noqa: RUF009
        None,
        "of --data, read only files that match one of these patterns",
        metavar="PATTERN",
        action="extend",
    )
    exclude: list[str] | None = option(  # noqa: RUF009
        None,
        "of --data, leave out files and folders that match one of these patterns",
        metavar="PATTERN",
        action="extend",
    )
    eta: float = option(0.5, "η of the MixCE loss that is printed")
    samples: int = option(
        40, "texts to sample for diversity, repetition and word validity; 0 for none"
    )
    tokens: int = option(500, "most tokens in each")
    temperature: float = option(1.0, "of those samples")
    eval_tokens: int = option(50_000, "most tokens of the text to measure on")
    verify: bool = option(
        False,
        "read the run's prepared folder whole, to see that it is as it was prepared, also where it"
        " has more than 1 GB",
    )


@dataclass
class TableFlags:
    """A file for the table of continuations."""

    table: str | None = option(
        None, "also write the table of --prompt-tokens to FILE, in Markdown", metavar="FILE"
    )


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command on `parser`."""
    add_fields(parser, CommonOptions)
    parser.add_argument("folder", help="a run, or with --data a GPT-2 folder of transformers")
    add_fields(parser, Flags)
    add_fields(parser, ContinuationOptions)
    add_fields(parser, TableFlags)
    helps = {"out": "also write the measures to FILE as JSON", "overwrite": "replace these files"}
    add_fields(parser, FileFlags, helps=helps)


def run(given: dict[str, Any]) -> int:
    """Measure, print what was found and write it to a file -> exit status. given: the options that
    the user gave, by name. Raises ValueError, FileExistsError or FileNotFoundError for options that
    cannot work.
    """
    from ..experiments import continuation_measures, evaluate
    from ..storage import files

    file, table = chosen(FileFlags, given), chosen(TableFlags, given).table
    files.check_not_there(file.out, file.overwrite)
    files.check_not_there(table, file.overwrite, "--table")
    files.check_apart({"--out": file.out, "--table": table})
    evaluate.check_nothing_to_ignore(given["folder"], given)
    found = evaluate.evaluate_run(
        given["folder"],
        **vars(chosen(Flags, given)),
        seed=given.get("seed", 0),
        device=given.get("device", "auto"),
        continuations=chosen(ContinuationOptions, given),
        say=say,
    )
    if table:
        page = continuation_measures.markdown(found["continuations"])
        files.write_atomically(table, page.encode())
    if file.out:
        files.write_atomically(file.out, files.to_json(found).encode() + b"\n")
    return 0
