"""minimixce prepare."""

import argparse
from dataclasses import dataclass
from typing import Any

from ..experiments.options import TextOptions, TrainingOptions, check_given, option
from .options import CommonOptions, add_fields, chosen, of


@dataclass
class Flags:
    """The options of the command itself."""

    out: str = option("prepared", "folder for the token files: give it to --data", metavar="FOLDER")


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command on `parser`."""
    add_fields(parser, CommonOptions)
    add_fields(parser, TextOptions)
    add_fields(parser, Flags)


def run(given: dict[str, Any]) -> int:
    """Encode a text, and print how much it is -> exit status. given: the options that the user
    gave, by name. Raises ValueError or FileNotFoundError for options that cannot work.
    """
    from ..experiments import jobs

    out = chosen(Flags, given).out
    given = of(TextOptions, given)
    options = TrainingOptions(**given)
    check_given(options, given)
    corpus = jobs.load_corpus(options, out)
    print(
        f"{len(corpus.train):,} training and {len(corpus.validation):,} validation tokens,"
        f" {corpus.tokenizer.vocab_size} different, in {out}/; train on them with --data {out}"
    )
    return 0
