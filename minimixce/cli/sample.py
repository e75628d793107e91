"""minimixce sample."""

import argparse
from dataclasses import dataclass
from typing import Any

from ..experiments.options import option
from .options import CommonOptions, FileFlags, add_fields, chosen
from .output import say


@dataclass
class Flags:
    """What is written, and how."""

    prompt: str = option("", "text to go on from; without one, the start of a document")
    tokens: int = option(500, "most tokens to write")
    count: int = option(1, "samples to write, one after another")
    temperature: float = option(1.0, "below 1 sharpens, 0 takes the likeliest token")
    top_k: int | None = option(None, "keep the k likeliest tokens")
    top_p: float | None = option(None, "keep the likeliest tokens that hold this probability")


@dataclass
class PrintFlags:
    """How it is printed."""

    raw: bool = option(
        False,
        "print control characters as they are, not as \\x1b; FILE has them as they are",
    )


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command on `parser`."""
    add_fields(parser, CommonOptions)
    parser.add_argument("folder", help="a run, or a GPT-2 folder of transformers")
    add_fields(parser, Flags)
    add_fields(parser, PrintFlags)
    add_fields(parser, FileFlags, helps={"out": "also write the samples to FILE as JSON lines"})


def run(given: dict[str, Any]) -> int:
    """Print samples as they are drawn, and write them to a file -> exit status. given: the options
    that the user gave, by name. Raises ValueError, FileExistsError or FileNotFoundError for options
    that cannot work.
    """
    from ..experiments import evaluate
    from ..storage import files
    from ..training.run import open_folder

    file = chosen(FileFlags, given)
    files.check_not_there(file.out, file.overwrite)
    common = chosen(CommonOptions, given)
    model, tokenizer = open_folder(given["folder"], common.device)
    write = print if chosen(PrintFlags, given).raw else say
    records = evaluate.write_samples(
        model, tokenizer, **vars(chosen(Flags, given)), seed=common.seed, write=write
    )
    if file.out:
        files.write_lines(file.out, records)
    return 0
