"""The options of training runs, each declared once: its default, its type and its help text.

The command line makes its flags from these fields, and run.json is written from them and read back
with its types checked by them. A program makes the same object: TrainingOptions(eta=0.1).
"""

import dataclasses
import os
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import objectives, text
from ..storage.shapes import FilePath
from ..text import formats
from ..training import run
from ..training.threads import can_limit_threads
from . import on_worlds

FREE = "may differ when a run goes on"
FIXED = "a run cannot change it"
SAME_TEXT = "may name another place, where the text is the same"


def option(
    default: Any,
    help: str,
    *,
    least: int | None = None,
    on_resume: str | None = None,
    **argparse_options: Any,
) -> Any:
    """A field of options, with its `default` and its `help` text.

    least: what the command line takes at least. on_resume: FREE or FIXED, for an option that a run
    that goes on may have otherwise without being asked, or never; SAME_TEXT: where the corpus has
    the fingerprint of the run's; None: only when asked to change. argparse_options: more for
    argparse, such as metavar.
    """
    metadata = {"help": help, "least": least, "on_resume": on_resume, "argparse": argparse_options}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass
class CommonOptions:
    """What every command takes."""

    device: str = option("auto", "auto, cpu, cuda or cuda:N", on_resume=FREE)
    seed: int = option(0, "seed of every random number", least=0, on_resume=FIXED)
    threads: int | None = option(
        None,
        "threads of the linear algebra library; all that it has by default",
        on_resume=FREE,
    )

    def __post_init__(self) -> None:
        """Python's numbers for NumPy's, which do not go into JSON."""
        for name, value in vars(self).items():
            if isinstance(value, np.generic):
                setattr(self, name, value.item())


@dataclass
class TextOptions(CommonOptions):
    """Which text, and how it is read."""

    data: list[str] | None = option(  # noqa: RUF009 (no list is shared: it is None)
        None,
        "UTF-8 files, folders, or a prepared folder; without it, the documentation in every"
        " CPython; with --resume, where the text is now",
        on_resume=SAME_TEXT,
        action="extend",
    )
    include: list[str] | None = option(  # noqa: RUF009
        None,
        "read only files that match one of these patterns, as '*.txt'",
        metavar="PATTERN",
        on_resume=SAME_TEXT,
        action="extend",
    )
    exclude: list[str] | None = option(  # noqa: RUF009
        None,
        "leave out files and folders that match one of these patterns, as 'README*'",
        metavar="PATTERN",
        on_resume=SAME_TEXT,
        action="extend",
    )
    validation: list[str] | None = option(  # noqa: RUF009
        None,
        "files and folders to hold out, instead of a share of the text",
        metavar="PATH",
        on_resume=SAME_TEXT,
        action="extend",
    )
    lines: bool = option(
        False, "each line is a sequence of its own, instead of each file", on_resume=FIXED
    )
    tokenizer: str = option(
        "character",
        "character, byte, bpe (byte-level, as GPT-2's, learnt from what is trained on; needs the"
        " extra 'text'), or a folder whose tokenizer is taken",
        metavar="{character,byte,bpe,FOLDER}",
        on_resume=FIXED,
    )
    vocab_size: int = option(
        text.VOCAB_SIZE,
        "tokens that bpe learns at most, 256 bytes and the boundary among them",
        least=257,
        on_resume=FIXED,
    )
    held_out: float = option(
        text.HELD_OUT,
        "share of the text kept for validation: whole files, whole lines or the end of a single"
        " file",
        on_resume=FIXED,
    )
    verify: bool = option(
        False,
        "read a prepared folder of more than 1 GB whole, to see that it is as it was prepared;"
        " smaller ones always are",
        on_resume=FREE,
    )


def _ratio_help(name: str, ratio: objectives.Ratio) -> str:
    mixed = ", ".join(o for o, row in objectives.OBJECTIVES.items() if row.ratio == name)
    return f"ratio {ratio.symbol} in [0,1] of {mixed} ({ratio.note})"


# The fields eta and gamma: one for each ratio that an objective has, made from RATIOS, so that a
# new ratio is an option without another line, except for type checkers.
if TYPE_CHECKING:  # type checkers do not look into RATIOS, and are told

    @dataclass
    class _RatioOptions(TextOptions):
        eta: float = 0.5
        gamma: float = 0.1
else:
    _RatioOptions = dataclasses.make_dataclass(
        "_RatioOptions",
        [
            (name, float, option(ratio.default, _ratio_help(name, ratio)))
            for name, ratio in objectives.RATIOS.items()
        ],
        bases=(TextOptions,),
        namespace={"__module__": __name__},
    )


@dataclass
class TrainingOptions(_RatioOptions):
    """All options of a training run."""

    objective: str = option(
        "mixce",
        f"{', '.join(objectives.names('tokens'))}, or FILE.py:NAME for a function of your own; with"
        f" --world also {', '.join(objectives.names('sequences'))}",
    )
    unchecked: bool = option(
        False,
        "do not gradient-check an objective from a file (for surrogates with stopped gradients)",
    )
    quiet: bool = option(False, "print no progress", on_resume=FREE)
    init: str | None = option(
        None,
        "start from the weights and the tokenizer of FOLDER, a run's or a GPT-2 folder of"
        " transformers (needs the extra 'text'); its sizes, and unless they are given its"
        " --block-size, which may be smaller, and --dropout, are the run's, and --lr is 5e-5",
        metavar="FOLDER",
        on_resume=FIXED,
    )
    world: str | None = option(
        None,
        f"train on samples of a world: {', '.join(on_worlds.WORLDS)}, random:V:ZEROS:SEED or a"
        " .json file",
        on_resume=FIXED,
    )
    sequences: int = option(
        50_000,
        "samples of the world to train on; a tenth more is held out",
        on_resume=FIXED,
    )
    max_len: int | None = option(
        None,
        "horizon of the world, where the end is forced; without it, one past the longest of 10,000",
        on_resume=FIXED,
    )
    rloo_samples: int = option(
        64, "samples of the model a step, where an objective's reverse part is not exact"
    )
    batches: str = option(
        "stream",
        "stream: blocks cut anywhere from the text, or with --lines whole lines and their pieces;"
        " texts: each document, or line, alone in a row, cut at --block-size",
        metavar="{stream,texts}",
        on_resume=FIXED,
    )
    steps: int = option(2200, "optimizer steps")
    batch_size: int = option(12, "sequences in a batch")
    accumulate: int = option(1, "batches in a step")
    average: str = option(
        "targets",
        "what a step is the mean of: targets, all of it alike; batches, the means of its batches",
        metavar="{targets,batches}",
    )
    shards: int | None = option(
        None,
        "parts of each batch that are computed side by side; by default one for each thread where"
        " the batch is large enough",
    )
    recompute: bool = option(
        False,
        "keep the inputs of blocks alone and compute the rest again in backward: less memory, more"
        " time, the same gradients",
        on_resume=FREE,
    )
    block_size: int = option(64, "positions the model sees", on_resume=FIXED)
    n_layer: int = option(2, "transformer blocks", on_resume=FIXED)
    n_head: int = option(4, "attention heads", on_resume=FIXED)
    n_embd: int = option(128, "channels", on_resume=FIXED)
    dropout: float = option(0.0, "dropout rate while training")
    lr: float = option(4e-3, "peak learning rate")
    warmup: int = option(100, "steps of linear rise to it")
    final_lr: float = option(0.1, "share of the peak that half a cosine leads down to")
    weight_decay: float = option(0.1, "AdamW's, on matrices only")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this joint norm")
    eval_every: int = option(
        200, "steps between validations, each of which saves the run", on_resume=FREE
    )
    eval_tokens: int = option(50_000, "most tokens of the validation text to measure on", least=2)
    patience: int | None = option(None, "stop after this many validations without a better one")


# What `train --quick` sets unless it is given: a run of ten seconds or so that is still worth a
# sample.
QUICK = {
    "steps": 1000,
    "lr": 6e-3,
    "batch_size": 6,
    "n_embd": 64,
    "eval_tokens": 10_000,
}


def quick(given: dict[str, Any]) -> dict[str, Any]:
    """Given options (a dict), with QUICK in the place of those that were not given.

    Products as small as these gain nothing from a second thread, and lose much where the cores are
    busy, so one thread is used.
    """
    threads = {"threads": 1} if can_limit_threads() else {}
    return QUICK | threads | given


@dataclass
class ComparisonOptions(TrainingOptions):
    """All options of a comparison; each of its runs has its own objective, ratio and seed."""

    objectives: str = option(
        "mle,mixce:0.5,mixce:0.1",
        "objectives, each with its η or γ after a colon, or FILE.py:NAME",
        on_resume=FREE,
    )
    seeds: str = option(
        "0,1,2", "seeds of the runs; all see the same split of the text", on_resume=FREE
    )
    samples: int = option(40, "texts to sample from each model", on_resume=FREE)
    tokens: int = option(500, "most tokens in each", on_resume=FREE)


# ---- types ---------------------------------------------------------------------------------------


def kind_of(field: dataclasses.Field[Any]) -> tuple[type, bool]:
    """The type of a field's values and whether None is one -> (bool, int, float, str or list,
    bool).
    """
    kind: Any = field.type
    optional = False
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
        optional = True
    return typing.get_origin(kind) or kind, optional


_FIELDS = {field.name: field for field in dataclasses.fields(ComparisonOptions)}


def fits(name: str, value: Any) -> bool:
    """Whether a file may say that the option `name` is `value`: a number may be an integer where it
    need not be one, a list holds texts.
    """
    if name not in _FIELDS:
        return False
    kind, optional = kind_of(_FIELDS[name])
    if value is None:
        return optional
    if kind is list:
        return (
            isinstance(value, list)
            and len(value) > 0
            and all(isinstance(item, str) for item in value)
        )
    return type(value) is kind or (kind is float and type(value) is int)


# ---- run.json ------------------------------------------------------------------------------------


def read_run(folder: FilePath) -> TrainingOptions:
    """The options of the run in `folder` -> TrainingOptions, or ComparisonOptions for a run of a
    comparison. Raises FileNotFoundError or ValueError for a missing or damaged run.json.
    """
    found = run.read_options(folder, fits)
    of_training = {field.name for field in dataclasses.fields(TrainingOptions)}
    return (TrainingOptions if found.keys() <= of_training else ComparisonOptions)(**found)


def resumed(folder: FilePath, given: dict[str, Any], change: bool = False) -> TrainingOptions:
    """The options of the run in `folder`, with those of `given`, a dict, in their place.

    Raises ValueError for a given option that differs: FREE ones may, FIXED ones never, those of
    SAME_TEXT where run.check_corpus finds the text the same, all others with change=True. An
    objective in a file must be given again: a folder that came from somebody else may name any
    file, and what is run is what the call says.
    """
    run.settle(folder)
    options = read_run(folder)
    if is_in_file(options.objective) and "objective" not in given:
        raise ValueError(
            f"the run in {folder} has an objective from a file, which is only run where the call"
            f" names it: add --objective {options.objective}"
        )
    for name, value in given.items():
        before = getattr(options, name, value)
        rule = _FIELDS[name].metadata["on_resume"]
        settled = rule == FIXED or (rule is None and not change)
        if value != before and settled:
            way_out = FIXED if rule == FIXED else "add --change to change it"
            raise ValueError(
                f"the run in {folder} has {flag(name)} {before}, not {value}; {way_out}"
            )
    return dataclasses.replace(options, **given)


def check_same(folder: FilePath, options: TrainingOptions) -> None:
    """Raise ValueError unless a run of a comparison has the options that the one in `folder` was
    started with; FREE ones may differ.
    """
    for name, value in dataclasses.asdict(read_run(folder)).items():
        ours = getattr(options, name)
        # what is read, and how, is compared by its fingerprint
        of_text = name in ("lines", "tokenizer")
        free = of_text or _FIELDS[name].metadata["on_resume"] in (FREE, SAME_TEXT)
        if not free and ours != value:
            raise ValueError(f"the run in {folder} has {flag(name)} {value}, not {ours}")


def flag(name: str) -> str:
    """How the command line calls the option `name`: max_len -> --max-len."""
    return "--" + name.replace("_", "-")


def is_in_file(objective: str) -> bool:
    """Whether an objective's name is FILE.py:NAME, a function in a file."""
    return objective.rpartition(":")[0].endswith(".py")


def absolute(given: dict[str, Any]) -> dict[str, Any]:
    """`given`, options by name, with whole paths in place of relative ones: what run.json holds, so
    that a run can go on from any folder -> dict.
    """
    given = dict(given)
    for name in ("data", "validation"):
        if given.get(name):
            given[name] = [os.path.abspath(path) for path in given[name]]
    if given.get("init"):
        given["init"] = os.path.abspath(given["init"])
    tokenizer = given.get("tokenizer") or ""
    if tokenizer not in text.TOKENIZERS and os.path.isdir(tokenizer):
        given["tokenizer"] = os.path.abspath(tokenizer)
    if (given.get("world") or "").endswith(".json"):
        given["world"] = os.path.abspath(given["world"])
    path, colon, name = (given.get("objective") or "").rpartition(":")
    if path.endswith(".py"):
        given["objective"] = os.path.abspath(path) + colon + name
    return given


def check_given(options: TrainingOptions, given: Iterable[str]) -> None:
    """Raise ValueError for a given option (a name in `given`) that has no meaning beside the
    others, `options`: for worlds without a world, for text with one, for folders without one, or
    settled in a prepared folder.
    """
    of_worlds = {"max_len", "sequences", "rloo_samples"} & set(given)
    if not options.world and of_worlds:
        raise ValueError(f"{flag(min(of_worlds))} is for worlds: add --world, or leave it out")
    how_read = {"tokenizer", "vocab_size", "lines", "held_out", "include", "exclude", "validation"}
    how_read &= set(given)
    of_text = how_read | {"data", "init", "samples", "tokens", "batches"} & set(given)
    if options.world and of_text:
        raise ValueError(
            f"--world brings its own text and measures and goes without {flag(min(of_text))}"
        )
    if options.validation and "held_out" in given:
        raise ValueError(
            "--held-out splits the text, and with --validation nothing is split: leave one of them"
            " out"
        )
    if options.init and {"tokenizer", "vocab_size"} & set(given):
        raise ValueError("--init brings its tokenizer: leave out --tokenizer and --vocab-size")
    if "vocab_size" in given and options.tokenizer != "bpe":
        raise ValueError("--vocab-size is for --tokenizer bpe: add it, or leave --vocab-size out")
    data = options.data or []
    of_files = {"include", "exclude"} & set(given)
    if of_files and not data and not options.validation:
        raise ValueError(f"{flag(min(of_files))} says which files of --data to read: add --data")
    how_split = how_read - {"tokenizer", "vocab_size"}
    if len(data) == 1 and formats.is_lines(data[0]) and how_split:
        raise ValueError(
            f"{data[0]} holds texts with splits of their own, from prepare --format, and goes"
            f" without {flag(min(how_split))}"
        )
    if len(data) == 1 and text.is_prepared(data[0]) and how_read:
        raise ValueError(
            f"{flag(min(how_read))} was settled when {data[0]} was prepared and cannot"
            " be given again"
        )


def parse_seeds(text: str) -> list[int]:
    """The seeds that a text names: "0,1,2" -> [0, 1, 2]. Raises ValueError unless they are
    different integers, at least 0.
    """
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds must be integers separated by commas, got {text!r}") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"--seeds must be different integers, at least 0, got {text!r}")
    return seeds
