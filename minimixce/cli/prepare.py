"""minimixce prepare."""

import argparse
import shlex
from dataclasses import dataclass
from typing import Any

from ..experiments.options import TextOptions, TrainingOptions, check_given, option
from ..storage.terminal import one_line
from .options import CommonOptions, add_fields, chosen, of
from .output import say

_DESCRIPTION = (
    "encode a large text once, into files that training reads as it needs them: memory stays small"
    " at any size. FOLDER then holds train.bin and validation.bin, the ids of both streams, and"
    " minimixce_corpus.json, which records the length and SHA-256 of each. A folder that has"
    " changed since is refused: prepare it again. The files come into FOLDER all together at the"
    " end; after a kill or a full disk, run the same command again."
)


@dataclass
class Flags:
    """The options of the command itself."""

    out: str = option("prepared", "folder for the token files: give it to --data", metavar="FOLDER")
    overwrite: bool = option(
        False,
        "replace the prepared corpus in FOLDER once the new one is complete; until then both take"
        " space",
    )


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command on `parser`."""
    parser.description = _DESCRIPTION
    without = {
        "device": "without effect: a text is encoded on the CPU",
        "seed": "without effect: a text is split in the same way by all seeds",
    }
    add_fields(parser, CommonOptions, helps=without)
    data = "UTF-8 files and folders; without it, the documentation in every CPython"
    add_fields(parser, TextOptions, leave_out=("verify",), helps={"data": data})
    add_fields(parser, Flags)


def run(given: dict[str, Any]) -> int:
    """Encode a text, and print how much it is -> exit status. given: the options that the user
    gave, by name. Raises ValueError or FileNotFoundError for options that cannot work.
    """
    from ..experiments import jobs

    flags = chosen(Flags, given)
    given = of(TextOptions, given)
    options = TrainingOptions(**given)
    check_given(options, given)
    corpus = jobs.load_corpus(options, flags.out, flags.overwrite)
    say(
        f"{len(corpus.train):,} training and {len(corpus.validation):,} validation tokens,"
        f" {corpus.tokenizer.vocab_size} different, in {one_line(flags.out)}/;"
        f" train on them with --data {one_line(shlex.quote(flags.out))}"
    )
    for line in jobs.describe_reading(corpus):
        say(line)
    return 0
