"""What a run starts from: new weights and a tokenizer made for its text, or those of a folder
(--init, --tokenizer), which transformers or a run wrote.
"""

import os
from typing import Any

from .. import text
from ..gpt import GPT, GPTConfig
from ..storage import checkpoint
from ..storage.shapes import FilePath
from ..text.tokenizers import Tokenizer
from ..training import run
from .options import TrainingOptions, flag

# what a run from --init has where nothing else is given: weights that are worth keeping want small
# steps, and this is the rate of the MixCE paper
FINE_TUNING = {"lr": 5e-5}

_SIZES = ("n_layer", "n_head", "n_embd")


def fine_tuning(given: dict[str, Any]) -> dict[str, Any]:
    """Given options, a dict by name, with what the folder named under "init" settles: its sizes,
    and where they are not given its block_size and dropout, and FINE_TUNING. Without "init", as
    they are.

    Raises FileNotFoundError or ValueError for a folder that cannot be opened, and for options that
    do not go with it.
    """
    folder = given.get("init")
    if not folder:
        return given
    found = _fields_of(folder)
    for name in _SIZES:
        if given.get(name, found[name]) != found[name]:
            raise ValueError(
                f"{flag(name)} is {found[name]} in {folder}, and --init takes it from there; leave"
                " it out"
            )
    positions = found["block_size"]
    if given.get("block_size", positions) > positions:
        raise ValueError(
            f"--block-size must be at most the {positions} positions of {folder}, got"
            f" {given['block_size']}"
        )
    del found["vocab_size"]
    return FINE_TUNING | found | given


def _fields_of(folder: FilePath) -> dict[str, Any]:
    run.settle(folder)
    return checkpoint.read_gpt2_fields(folder)


def tokenizer_for(job_options: TrainingOptions) -> str | Tokenizer:
    """The tokenizer that job_options ask for: one that exists, of a folder, or the name of the kind
    that text.load_corpus makes. Raises FileNotFoundError or ValueError where there is none, or one
    that does not fit the model beside it.
    """
    name, folder = job_options.tokenizer, job_options.init
    if folder:
        tokenizer = _tokenizer_in(folder)
        run.check_vocabulary(folder, tokenizer, _fields_of(folder)["vocab_size"])
        return tokenizer
    if os.path.isdir(name) and name not in text.TOKENIZERS:
        return _tokenizer_in(name)
    if name not in text.TOKENIZERS:
        *names, last = text.TOKENIZERS
        raise ValueError(
            f"--tokenizer must be {', '.join(names)}, {last} or a folder with a tokenizer, got"
            f" {name!r}"
        )
    return name


def _tokenizer_in(folder: FilePath) -> Tokenizer:
    run.settle(folder)
    tokenizer = text.load_tokenizer(folder)
    checkpoint.check_beside(folder)
    return tokenizer


def tokenizer_of_run(folder: FilePath, job_options: TrainingOptions) -> str | Tokenizer:
    """The tokenizer for the text of the run in `folder`, whose options are job_options: the name of
    what is made of the text again, or where it was learnt or came from elsewhere, the run's own.
    """
    name = job_options.tokenizer
    if not job_options.init and name in ("character", "byte"):
        return name
    found = _tokenizer_in(folder)
    is_other = name in text.TOKENIZERS and found.kind != name and not job_options.init
    return name if is_other else found


def initial_model(job_options: TrainingOptions, config: GPTConfig) -> GPT:
    """The model that a run of job_options starts with, of the sizes in `config`: new, or that of
    the folder `init`, of whose positions it keeps the first block_size.

    Raises FileNotFoundError or ValueError for a folder that cannot be opened, or has other sizes.
    """
    folder = job_options.init
    if not folder:
        return GPT(config, job_options.seed, job_options.device)
    model = GPT.load(folder, job_options.device, "float32")
    for name in ("vocab_size", *_SIZES):
        found, wanted = getattr(model.config, name), getattr(config, name)
        if found != wanted:
            raise ValueError(
                f"{name} must be {found}, as in {folder}, got {wanted}; starting.fine_tuning(…)"
                " fills in what a folder settles"
            )
    if model.config.block_size < config.block_size:
        raise ValueError(
            f"block_size must be at most the {model.config.block_size} positions of {folder}, got"
            f" {config.block_size}"
        )
    model.config = config
    positions = model.params["wpe.weight"]
    if len(positions) > config.block_size:
        model.params["wpe.weight"] = positions[: config.block_size].copy()
    return model
