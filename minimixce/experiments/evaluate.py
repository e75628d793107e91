"""Measure the model of a run folder, and let it write: what `minimixce eval` and `minimixce sample`
do.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import backend, text
from ..model import LanguageModel, check_drawn
from ..storage import validate
from ..storage.shapes import Array, FilePath, Seed
from ..text.corpus import read_files
from ..text.tokenizers import Tokenizer
from ..training import run
from ..training.evaluation import evaluate
from . import measures, on_worlds, options, tables, world_measures
from .continuation_measures import report_continuations
from .continuations import ContinuationOptions, check_options
from .reading import describe_reading, held_out_batches, load_corpus


def evaluate_run(
    folder: FilePath,
    *,
    data: Sequence[FilePath] | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    eta: float = 0.5,
    samples: int = 40,
    tokens: int = 500,
    temperature: float = 1.0,
    eval_tokens: int = 50_000,
    seed: int = 0,
    device: str = "auto",
    verify: bool = False,
    continuations: ContinuationOptions | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Measure the best model of a run folder -> dict, the content of eval's JSON file.

    On a world where the run was trained on one (world_measures.measure_on_world); else on the first
    `eval_tokens` tokens of the files and folders `data`, of which include and exclude choose
    (text.load_corpus), by default the run's own validation text: targets, mle, mixce at `eta`,
    mean_q, and the TEXT_MEASURES of `samples` texts of `tokens` tokens, drawn by `seed` at
    `temperature` ("model"), and of as many of the text measured on ("text"). device: where the
    model is loaded, as for backend.select_device. verify: whether the prepared folder that the run
    was trained on is read whole to check it (text.load_corpus). With continuations, whose
    prompt_tokens are above 0, the model goes on from held-out texts instead, and what
    report_continuations finds is under "continuations". say: takes the lines of the report. Raises
    FileNotFoundError or ValueError for a folder that is not complete, for data that are not as they
    were, and for options out of range.
    """
    measures.check_sampling_options(samples, tokens, temperature)
    go_on = continuations is not None and continuations.prompt_tokens != 0
    if continuations is not None and go_on:
        check_options(continuations, samples, tokens)
    validate.check_ratio("eta", eta)
    validate.check_count("eval_tokens", eval_tokens, least=2)
    folder = Path(folder)
    model, tokenizer = run.open_folder(folder, device)
    has_options = (folder / run.RUN_FILE).exists()
    run_options = options.read_run(folder) if has_options else options.TrainingOptions()
    if run_options.world:
        return _evaluate_on_world(folder, run_options, model, seed, say)
    if data is None and (include or exclude):
        raise ValueError("--include and --exclude say which files of --data to read: add --data")
    if data is not None:
        if prepared := next(filter(text.is_prepared, data), None):
            raise ValueError(f"--data must name texts to measure on, got the prepared {prepared}")
        lines = run_options.lines
        ids, sources = read_files(
            data, tokenizer, lines, include=include, exclude=exclude, most=eval_tokens
        )
        corpus = text.Corpus(ids, ids, tokenizer, lines, sources)
    elif has_options:
        corpus = _corpus_of_run(folder, dataclasses.replace(run_options, verify=verify))
        ids = corpus.validation[:eval_tokens]
    else:
        raise ValueError(
            f"{folder} has no {run.RUN_FILE} that says what its validation text is; give --data"
        )
    for line in describe_reading(corpus) if data is not None else []:
        say(line)
    batches = held_out_batches(corpus, ids, model.config.block_size, run_options.batches)
    found = _losses(model, batches, eta, tokenizer, say)
    vocabulary = measures.vocabulary_of(corpus)
    if continuations is not None and go_on:
        written = report_continuations(
            *(model, ids, corpus, vocabulary, batches, continuations),
            whole=run_options.lines or run_options.batches == "texts",
            samples=samples,
            tokens=tokens,
            temperature=temperature,
            device=device,
            say=say,
        )
        return found | {"continuations": written}
    of_model = measures.measure_on_text(
        model, batches, corpus, vocabulary, samples, tokens, temperature, seed
    )
    texts = measures.held_out_texts(ids, samples, tokens)
    of_text = measures.measure_texts(texts, tokenizer, vocabulary)
    rows = {"model": [of_model]} | ({"this text": [of_text]} if of_text else {})
    say(tables.format_measures(rows))
    return found | {"model": of_model, "text": of_text}


def _losses(
    model: LanguageModel,
    batches: text.Batches,
    eta: float,
    tokenizer: Tokenizer,
    say: Callable[[str], object],
) -> dict[str, Any]:
    found = evaluate(model, batches, eta=eta)
    targets = sum(int((targets >= 0).sum()) for _, targets in batches)
    losses = {
        "targets": targets,
        "mle": found["validation_mle"],
        "mixce": found["validation_mixce"],
        "mean_q": found["mean_q"],
    }
    say(f"text     {targets:,} tokens predicted")
    say(
        f"loss     {losses['mle']:.4f} nats per {tokenizer.unit} (MLE), {losses['mixce']:.4f}"
        f" (MixCE, η = {eta}); mean q {losses['mean_q']:.4f}"
    )
    return losses


def _evaluate_on_world(
    folder: Path,
    run_options: options.TrainingOptions,
    model: LanguageModel,
    seed: int,
    say: Callable[[str], object],
) -> dict[str, float]:
    corpus = on_worlds.of_world(_corpus_of_run(folder, run_options))
    row = world_measures.measure_on_world(model, corpus.world, corpus.max_len, seed=seed)
    say("\n".join(world_measures.describe_world_measures(row, corpus.world)))
    return row


def check_nothing_to_ignore(folder: FilePath, given: Mapping[str, Any]) -> None:
    """Raise ValueError for options of text measures (names in `given`, options by name) where the
    run in `folder` was trained on a world, and for options of continuations where there are none.
    """
    of_text = {"data", "include", "exclude", "verify", "eval_tokens"} & set(given)
    of_text |= {"eta", "samples", "tokens", "temperature", "table"} & set(given)
    of_continuations = {f.name for f in dataclasses.fields(ContinuationOptions)} & set(given)
    of_text |= of_continuations
    on_a_world = (Path(folder) / run.RUN_FILE).exists() and options.read_run(folder).world
    if on_a_world and of_text:
        raise ValueError(
            f"the run in {folder} was trained on a world and is measured on it: leave out"
            f" {options.flag(min(of_text))}"
        )
    alone = (of_continuations | {"table"} & set(given)) - {"prompt_tokens"}
    if alone and not given.get("prompt_tokens"):
        raise ValueError(f"{options.flag(min(alone))} is for continuations: add --prompt-tokens")
    if given.get("prompt_tokens") and "seed" in given:
        raise ValueError("--seed is without effect beside --prompt-tokens: --seeds names several")


def _corpus_of_run(folder: Path, run_options: options.TrainingOptions) -> text.Corpus:
    """The corpus a run was trained on; ValueError if it is another one by now."""
    corpus = load_corpus(run_options, of_run=folder)
    run.check_corpus(folder, corpus)
    return corpus


def write_samples(
    model: LanguageModel,
    tokenizer: Tokenizer,
    *,
    prompt: str = "",
    count: int = 1,
    tokens: int = 500,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: Seed = 0,
    write: Callable[..., object] = print,
) -> list[dict[str, Any]]:
    """Let a model go on from a prompt, `count` times -> a list of dicts prompt, text, tokens (ids).

    Each sample ends at the boundary or after `tokens` tokens; "" starts a document. temperature,
    top_k, top_p and seed are GPT.generate's. write(text, end=…, flush=True) takes the text piece by
    piece, as it is drawn. Raises ValueError for options out of range and a prompt that the
    tokenizer does not know.
    """
    validate.check_count("--count", count)
    start = model.xp.asarray(text.encode_prompt(tokenizer, prompt)[None])
    rng = backend.rng(seed, model.xp)
    sampling = (tokens, temperature, top_k, top_p, tokenizer.boundary, rng)
    # made before anything is written, so that bad options fail first
    stream = model.stream(start, *sampling)
    records: list[dict[str, Any]] = []
    for k in range(count):
        if k:
            stream = model.stream(start, *sampling)
            write("", end="\n", flush=True)
        write(prompt, end="", flush=True)
        drawn = _write_stream(stream, tokenizer, bool(prompt), write)
        records.append({"prompt": prompt, "text": tokenizer.decode(drawn), "tokens": drawn})
    return records


def _write_stream(
    stream: Iterator[Array], tokenizer: Tokenizer, has_prompt: bool, write: Callable[..., object]
) -> list[int]:
    """Write the tokens of model.stream up to a boundary -> their ids."""
    written: list[int] = []
    pending: list[int] = []
    shown = 0  # characters of what is pending that are written already
    for drawn in stream:
        on_host = backend.to_numpy(drawn)
        check_drawn(on_host)
        token = int(on_host[0])
        if token == tokenizer.boundary:
            break
        if tokenizer.joiner and (written or has_prompt):
            write("", end=tokenizer.joiner, flush=False)
        written.append(token)
        pending.append(token)
        piece = tokenizer.decode(pending)
        # a character may take several tokens: its end may be yet to come
        whole = piece.rstrip("\N{REPLACEMENT CHARACTER}")
        if len(whole) > shown:
            write(whole[shown:], end="", flush=True)
        shown = max(shown, len(whole))
        if whole == piece:
            pending, shown = [], 0
    write(tokenizer.decode(pending)[shown:], end="\n", flush=True)
    return written
