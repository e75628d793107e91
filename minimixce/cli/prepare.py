"""minimixce prepare."""

import argparse
import shlex
from dataclasses import dataclass
from typing import Any

from ..experiments.options import TextOptions, TrainingOptions, check_given, flag, option
from ..storage.terminal import one_line
from ..text import formats
from .options import CommonOptions, add_fields, chosen, names, of
from .output import say

_DESCRIPTION = (
    "encode a large text once, into files that training reads as it needs them: memory stays small"
    " at any size; or, with --format, turn the raw files of a public corpus in PATH into texts of"
    " one line each. FOLDER then holds train.txt, validation.txt and test.txt, and goes to --data"
    " as it is. Of encoded text it holds train.bin and validation.bin, the ids of both streams,"
    " and minimixce_corpus.json, which records the length and SHA-256 of each. A folder that has"
    " changed since is refused: prepare it again. The files come into FOLDER all together at the"
    " end; after a kill or a full disk, run the same command again."
)


@dataclass
class FormatFlags:
    """What to turn into lines."""

    format: str | None = option(
        None,
        "which public corpus the raw files in PATH are; tokens are joined to text by sacremoses"
        " (needs the extra 'text')",
        choices=tuple(formats.FORMATS),
    )
    max_documents: int | None = option(
        None,
        "with --format: keep at most N texts of each split, drawn at random by --seed",
        metavar="N",
    )


@dataclass
class Flags:
    """The options of the command itself."""

    out: str = option("prepared", "folder for the files: give it to --data", metavar="FOLDER")
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
        "seed": "draws the texts of --max-documents, and has no other effect: a text is split in"
        " the same way by all seeds",
    }
    add_fields(parser, CommonOptions, helps=without)
    parser.add_argument(
        "path",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="PATH",
        help="with --format: the folder of the raw files; all other texts come with --data",
    )
    add_fields(parser, FormatFlags)
    data = "UTF-8 files and folders; without it, the documentation in every CPython"
    add_fields(parser, TextOptions, leave_out=("verify",), helps={"data": data})
    add_fields(parser, Flags)


def run(given: dict[str, Any]) -> int:
    """Encode a text, or turn it into lines, and print how much it is -> exit status. given: the
    options that the user gave, by name. Raises ValueError or FileNotFoundError for options that
    cannot work.
    """
    from ..experiments import reading

    flags = chosen(Flags, given)
    if "format" in given:
        return _write_lines(given, flags)
    for name in ("path", "max_documents"):
        if name in given:
            what = flag(name) if name == "max_documents" else f"PATH, here {given[name]},"
            raise ValueError(f"{what} goes with --format; name texts to encode with --data")
    given = of(TextOptions, given)
    options = TrainingOptions(**given)
    check_given(options, given)
    corpus = reading.load_corpus(options, flags.out, flags.overwrite)
    say(
        f"{corpus.describe_size()}, in {one_line(flags.out)}/;"
        f" train on them with --data {one_line(shlex.quote(flags.out))}"
    )
    for line in reading.describe_reading(corpus):
        say(line)
    return 0


def _write_lines(given: dict[str, Any], flags: Flags) -> int:
    """The command with --format."""
    if unused := sorted((names(TextOptions) - names(CommonOptions)) & set(given)):
        raise ValueError(
            f"--format reads the files of a public corpus, and goes without {flag(unused[0])}"
        )
    if "path" not in given:
        raise ValueError("--format reads raw files from PATH, a folder: name it")
    options = chosen(FormatFlags, given)
    seed = chosen(CommonOptions, given).seed
    counts = formats.write_lines(
        given["format"],
        given["path"],
        flags.out,
        max_documents=options.max_documents,
        seed=seed,
        overwrite=flags.overwrite,
        progress=True,
    )
    for split, count in counts.items():
        say(f"{split + '.txt':14}  {count.written:,} of {count.read:,} texts")
    folder = one_line(shlex.quote(flags.out))
    say(
        f"in {one_line(flags.out)}/, each a line of {formats.LEAST_WORDS} to"
        f" {formats.MOST_WORDS:,} words; train on them with --data {folder} --batches texts, and"
        f" measure with minimixce eval RUN --data {folder}/test.txt"
    )
    return 0
