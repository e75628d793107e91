"""A training run from its options to its report: what `minimixce train` does, and each run of
`minimixce compare`.
"""

import contextlib
import dataclasses
import functools
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, backend, objectives, text
from ..gpt import GPT, GPTConfig
from ..model import LanguageModel
from ..storage import memory, validate
from ..storage.shapes import ArrayModule, Batch, FilePath, Loss
from ..storage.terminal import one_line
from ..training import footprint, loop, run, steps, timing
from ..training.evaluation import evaluate, loss_of_uniform, mean_loss
from ..training.ranks import Ranks
from ..training.threads import limit_threads, threads_in_use
from . import measures, on_worlds, options, starting, world_measures
from .losses import objective_or_step
from .options import TrainingOptions
from .reading import MOST_POSITIONS, describe_reading, held_out_batches, load_corpus

MOST_COUNTED = 5_000_000  # training tokens of which a 4-gram model is made, for comparison


class Stopped(KeyboardInterrupt):
    """Ctrl-C, after which a run has been saved and can go on."""


def train(
    job_options: TrainingOptions,
    out: FilePath,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], object] = print,
    warn: Callable[[str], object] | None = None,
    ranks: Ranks | None = None,
) -> "Job":
    """Train a model as job_options say, keep the run in the folder `out`, and report -> the Job.

    resume: go on with the run in `out`, whose options are options.resumed(out, …); otherwise
    FileExistsError where `out` holds a run, unless overwrite=True. say: takes each line of the
    report; warn: those on text that was not read as one would expect, by default say. ranks: the
    processes that train together and all call this alike, of which the first reports and writes.
    Ctrl-C raises Stopped once the run is saved.
    """
    out = Path(out)
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    ranks = ranks or Ranks()
    with contextlib.ExitStack() as kept:
        ranks.together(lambda: kept.enter_context(_keeping(out, ranks)))
        # results depend on threads
        kept.enter_context(limit_threads(_threads(job_options.threads, ranks)))
        if not resume:
            ranks.on_first(lambda: run.check_free(out, overwrite))
        job = ranks.together(lambda: _job(job_options, out, resume, ranks))
        ranks.check_same(job.facts())
        say(job.describe_data())
        for line in [*describe_reading(job.corpus), *job.describe_batches()]:
            (warn or say)(line)
        say(job.describe_model())
        if resume:
            ranks.on_first(lambda: run.check_corpus(out, job.corpus))
        else:
            ranks.on_first(lambda: _describe_start(job, say))
        try:
            job.fit(out, resume, progress=not job_options.quiet)
        except KeyboardInterrupt:
            if not (out / run.RUN_FILE).exists():
                raise
            name = job_options.objective
            again = f" --objective {name}" if options.is_in_file(name) else ""
            how = f"minimixce train --out {one_line(shlex.quote(str(out)))} --resume{again}"
            raise Stopped(f"stopped; go on with: {how}") from None
        ranks.on_first(lambda: _describe_result(job, out, say))
    return job


def _keeping(out: Path, ranks: Ranks) -> contextlib.AbstractContextManager[None]:
    return run.keeping(out if ranks.is_first else None)


def _threads(given: int | None, ranks: Ranks) -> int | None:
    """How many threads of linear algebra a rank has: those given, or where nothing says how many,
    its share of its machine's.
    """
    _, here = ranks.on_this_machine()
    if given is not None or here == 1 or "OMP_NUM_THREADS" in os.environ:
        return given
    return max(1, threads_in_use() // here)


def _job(job_options: TrainingOptions, out: Path, resume: bool, ranks: Ranks) -> "Job":
    try:
        return Job(job_options, out=out, resume=resume, ranks=ranks)
    except FileNotFoundError as error:
        if not resume or job_options.data is None:
            raise
        either = "--data or --validation" if job_options.validation else "--data"
        raise FileNotFoundError(f"{error}; name its new place with {either}") from None


def _describe_start(job: "Job", say: Callable[[str], object]) -> None:
    say(job.check_start())
    if job.options.objective in objectives.OBJECTIVES:  # a user's own may count its calls
        say(job.describe_time())


def _describe_result(job: "Job", out: Path, say: Callable[[str], object]) -> None:
    best = GPT.load(out, job.options.device)
    say(job.result(best))
    say(f"sample   {job.sample(best)}")
    say(
        f"files    {one_line(out)}/: config.json and model.safetensors (the best model),"
        f" {run.LAST}/, {run.METRICS_FILE}"
    )


class Job:
    """One training run: corpus, model, objective and batches made from job_options.

    corpus: a text.Corpus or on_worlds.WorldCorpus in place of the one that the options name; out:
    the folder of the run, which is not read as text; resume: whether the run is there, with its
    tokenizer, and its weights are to be loaded; ranks: the processes that train it together. Raises
    ValueError, TypeError, FileNotFoundError or MemoryError for options that cannot work.
    """

    def __init__(
        self,
        job_options: TrainingOptions,
        corpus: text.Corpus | None = None,
        out: FilePath | None = None,
        resume: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        self.options = job_options
        self.ranks = ranks or Ranks()
        self._check_options()
        xp = backend.select_device(job_options.device)
        backend.reuse_freed_memory()
        self.corpus = corpus or load_corpus(job_options, out=out, of_run=out if resume else None)
        config = GPTConfig(
            self.corpus.tokenizer.vocab_size,
            job_options.block_size,
            job_options.n_layer,
            job_options.n_head,
            job_options.n_embd,
            job_options.dropout,
        )
        check_memory(
            config, job_options.batch_size, job_options.accumulate, xp, job_options.recompute
        )
        self._config = config
        self._resume = resume
        # one of the two is None
        self.objective: Loss | None
        self.step: on_worlds.Step | None
        self.objective, self.step = objective_or_step(job_options, self.model, self.corpus)
        self.batches: text.Batches | on_worlds.RowBatches
        self.validation: text.Batches | on_worlds.RowBatches
        if job_options.world:
            self.batches, self.validation = self._batches_of_rows()
        else:
            self.batches, self.validation = self._batches_of_text()
        self._choose_shards()

    @functools.cached_property
    def model(self) -> GPT:
        """What is trained, made when it is asked for; of a run that goes on, to be filled by it."""
        o, config = self.options, self._config
        to_fill = self._resume
        model = GPT(config, o.seed, o.device) if to_fill else starting.initial_model(o, config)
        if o.objective in objectives.names("tokens"):
            # EMO's costs are of the very weights that are trained
            self.objective, _ = objective_or_step(o, model, self.corpus)
        return model

    def drop_model(self) -> None:
        """Free the memory of the model, which is made anew, untrained, when it is asked for."""
        vars(self).pop("model", None)

    def _choose_shards(self) -> None:
        """Where the number of shards is not given, settle it, so that run.json keeps it."""
        if self.options.shards is None:
            shards = 1
            if self.objective is not None and self.ranks.size == 1:
                shards = steps.shards_for(self.objective, self.model, self.batches[0])
            self.options = dataclasses.replace(self.options, shards=shards)
            self._fit_options["shards"] = shards

    def _check_options(self) -> None:
        self._fit_options = {
            name: getattr(self.options, name)
            for name in (
                "steps",
                "lr",
                "warmup",
                "final_lr",
                "weight_decay",
                "max_grad_norm",
                "accumulate",
                "average",
                "shards",
                "eval_every",
                "patience",
            )
        }
        loop.check_options(**self._fit_options)
        for name in objectives.RATIOS:
            validate.check_ratio(name, getattr(self.options, name))
        validate.check_count("eval_tokens", self.options.eval_tokens, least=2)
        validate.check_count("batch_size", self.options.batch_size)
        if self.options.batch_size < self.ranks.size:
            raise ValueError(
                f"--batch-size must be at least the number of ranks, {self.ranks.size}, got"
                f" {self.options.batch_size}"
            )
        if self.options.batches not in ("stream", "texts"):
            raise ValueError(f"--batches must be stream or texts, got {self.options.batches!r}")

    def _batches_of_text(self) -> tuple[text.Batches, text.Batches]:
        """(batches to train on, batches to validate on)."""
        o, corpus = self.options, self.corpus
        boundary = corpus.tokenizer.boundary
        sizes = (o.batch_size, o.block_size, o.seed)
        batches: text.Batches
        if o.batches == "texts":
            batches = text.whole_text_batches(corpus.train, *sizes, boundary=boundary)
        else:
            batches = text.random_batches(corpus.train, *sizes, corpus.lines, boundary=boundary)
        held_out = corpus.validation[: o.eval_tokens]
        return batches, held_out_batches(
            corpus, held_out, o.block_size, o.batches, most=o.batch_size
        )

    def _batches_of_rows(self) -> tuple[on_worlds.RowBatches, on_worlds.RowBatches]:
        """The same of a world's sequences."""
        o, corpus = self.options, on_worlds.of_world(self.corpus)
        batches = on_worlds.RowBatches(corpus.world, corpus.rows, o.batch_size, o.seed)
        held_out = corpus.held_out[: max(1, o.eval_tokens // corpus.max_len)]
        rows = max(1, min(256, MOST_POSITIONS // corpus.max_len))
        return batches, on_worlds.RowBatches(corpus.world, held_out, rows)

    def facts(self) -> dict[str, Any]:
        """What all ranks must have alike, {what it is: value}."""
        own = ("data", "device", "quiet", "recompute", "threads")  # may differ
        asked = {k: v for k, v in dataclasses.asdict(self.options).items() if k not in own}
        return {
            "version of minimixce": __version__,
            "training text (by its fingerprint)": self.corpus.fingerprint(),
        } | {f"option {options.flag(name)}": value for name, value in asked.items()}

    def describe_data(self) -> str:
        """A line: what is trained on."""
        corpus, data = self.corpus, self.options.data
        name = ", ".join(data) if data else "the documentation of this Python"
        if self.options.world:
            sampled = on_worlds.of_world(corpus)
            name = f"{sampled.world.name}, horizon {sampled.max_len}"
            if cut := float((sampled.rows[:, sampled.max_len] == 0).mean()):
                name += f" (which ends {cut:.1%} of the sequences)"
        if corpus.sources is not None:
            name += corpus.sources.describe_count()
        return f"data     {one_line(name)}: {corpus.describe_size()}"

    def describe_batches(self) -> list[str]:
        """Lines on texts that are cut to fit their rows; often none."""
        kinds = {"train on": self.batches, "validate on": self.validation}
        return [
            f"         of the texts to {what}, {cut}"
            for what, batches in kinds.items()
            if isinstance(batches, text.WholeTexts) and (cut := batches.describe_cut())
        ]

    def describe_model(self) -> str:
        """A line: what is trained, and where."""
        o = self.options
        return (
            f"model    {o.n_layer} layers, {o.n_head} heads, {o.n_embd} channels:"
            f" {self.model.num_params:,} parameters on {backend.device_name(self.model.xp)}"
            + (f", {self.ranks.size} ranks" if self.ranks.size > 1 else "")
            + (f", from {one_line(o.init)}" if o.init else "")
        )

    def check_start(self) -> str:
        """A line: the untrained model's loss, beside that of a uniform one, with a warning if it is
        far from it and the weights are new.
        """
        name = self.options.objective
        if self.step is not None:
            inputs, targets = map(self.model.xp.asarray, self.batches[0])
            initial = float(self.step(self.model, (inputs, targets))[0])
            corpus = on_worlds.of_world(self.corpus)
            reverse_part = on_worlds.describe_reverse_part(
                name, corpus.world, corpus.max_len, self.options.rloo_samples
            )
            return f"start    {name} loss {initial:.3f} nats per sequence; {reverse_part}"
        assert self.objective is not None
        initial = mean_loss(self.model, self.batches[0], self.objective)
        line = f"start    {name} loss {initial:.3f}"
        try:
            uniform = loss_of_uniform(self.objective, self.model.config.vocab_size)
        # an objective that needs the real batch, as EMO's embeddings on a GPU
        except (TypeError, ValueError):
            return line
        line += f"; a model that finds every token equally likely has {uniform:.3f}"
        if not self.options.init and abs(initial - uniform) > 0.1 * abs(uniform) + 0.05:
            line += (
                "\n         WARNING: they should be close; check the objective before trusting"
                " this run"
            )
        return line

    def describe_time(self) -> str:
        """A line: about how long training will take on this machine. Makes a few steps that change
        nothing; what ranks add to sum their gradients is not known yet.
        """
        o = self.options
        share = self.ranks.rank, self.ranks.size
        if self.step is not None:
            group_step = steps.grouped_step(self.step, share)
        else:
            assert self.objective is not None
            group_step = steps.GroupedObjective(
                self.objective, o.seed, o.shards, share, o.average, o.recompute
            )
        inputs, targets = self._typical_batch()
        with steps.ending(group_step), np.errstate(all="ignore"):
            of_batch = timing.seconds_of_step(
                lambda model, batch: group_step(model, [batch], 0), self.model, (inputs, targets)
            )
        seconds = timing.seconds_of_training(
            of_batch * o.accumulate,
            o.steps,
            inputs.size * o.accumulate,
            # a run of a step is not validated
            validations=o.steps // o.eval_every if self.step is None else 0,
            validation_positions=min(len(self.corpus.validation), o.eval_tokens),
        )
        most = "at most " if o.patience is not None else ""
        return f"time     {most}about {timing.describe(seconds)} for {o.steps:,} steps"

    def _typical_batch(self) -> Batch:
        """A batch to time: where they differ in width, one of middling size."""
        if not isinstance(self.batches, text.WholeTexts):
            return self.batches[0]
        some = [self.batches[k] for k in range(9)]
        return sorted(some, key=lambda batch: batch[0].size)[4]

    def fit(
        self, folder: FilePath, resume: bool = False, progress: bool = True
    ) -> list[dict[str, Any]]:
        """Train, and keep the run in `folder` with its run.json -> the measurements of
        training.loop.fit, a list of dicts.

        resume: go on with the run that `folder` holds; progress: whether to show a bar and print
        measurements.
        """
        return loop.fit(
            self.model,
            self.batches,
            self.objective,
            step=self.step,
            recompute=self.options.recompute,
            **self._fit_options,
            # The best model by likelihood is not the best by another objective: a run of a step
            # keeps its last.
            validation=self.validation if self.step is None else None,
            validation_eta=self.options.eta,
            seed=self.options.seed,
            folder=folder,
            boundary=self.corpus.tokenizer.boundary,
            resume=resume,
            overwrite=not resume,
            on_start=lambda new: run.write_options(
                new, dataclasses.asdict(self.options), self.corpus
            ),
            progress=progress,
            ranks=self.ranks,
        )

    def measure_on_world(self, model: LanguageModel) -> dict[str, float]:
        """world_measures.measure_on_world of a model, with this run's world and seed."""
        corpus = on_worlds.of_world(self.corpus)
        return world_measures.measure_on_world(
            model, corpus.world, corpus.max_len, seed=self.options.seed
        )

    def result(self, model: LanguageModel) -> str:
        """Lines: what a model is worth on the validation text, and on the world or beside a 4-gram
        model.
        """
        nats = evaluate(model, self.validation)["validation_mle"]
        line = f"result   validation {nats:.3f} nats per {self.corpus.tokenizer.unit}"
        if self.options.world:
            row = self.measure_on_world(model)
            how = "exact" if row["exact"] else "mean ± standard error of 10,000 samples"
            world = on_worlds.of_world(self.corpus).world
            lines = world_measures.describe_world_measures(row, world)
            return "\n         ".join([f"{line}; in nats per sequence ({how}):", *lines])
        line += f", perplexity {measures.perplexity(nats):.2f}"
        if isinstance(self.validation, text.WholeTexts) and self.validation.texts_cut:
            return f"{line} (no 4-gram model beside it: texts are cut)"
        if len(self.corpus.train) > MOST_COUNTED:
            return f"{line} (no 4-gram model beside it: more than {MOST_COUNTED:,} training tokens)"
        ngram = measures.ngram_cross_entropy(
            self.corpus.train,
            self.corpus.validation[: self.options.eval_tokens],
            4,
            self.corpus.tokenizer.vocab_size,
        )
        return f"{line} (a 4-gram model: {ngram:.3f}, {measures.perplexity(ngram):.2f})"

    def sample(self, model: LanguageModel) -> str:
        """A text of at most 300 tokens, drawn by the run's seed."""
        tokenizer = self.corpus.tokenizer
        prompt = model.xp.full((1, 1), tokenizer.boundary)
        tokens = model.generate(prompt, 300, stop=tokenizer.boundary, seed=self.options.seed)
        return tokenizer.decode(backend.to_numpy(tokens)[0])


def check_memory(
    config: GPTConfig, batch_size: int, accumulate: int, xp: ArrayModule, recompute: bool = False
) -> None:
    """Raise MemoryError where training is sure to need more memory than there is, on the host
    (memory.available) or on a GPU (backend.free_memory), before it is used up.

    config: the model's sizes; batch_size sequences a batch, `accumulate` batches a step. xp: the
    array module of the device. A GPU's weights are made on the host, which has to hold them once.
    recompute: fit's.
    """
    step = footprint.of_training(config, batch_size, accumulate, recompute, xp is not np)
    advice = "choose a smaller --n-embd, --n-layer, --block-size, --batch-size or --accumulate"
    memory.check(step.weights, "making this model's weights", advice)
    if not recompute:
        advice += ", or add --recompute"
    batches = 8 * batch_size * config.block_size * accumulate  # a step's ids and targets
    sure = 9 * (step.peak + batches) // 10  # the arithmetic may be some percent too high
    memory.check(sure, "training this model", advice, xp)
