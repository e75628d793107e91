"""The training loop: batches in; an updated model, measurements and a run folder out.

A run folder is a Hugging Face GPT-2 folder with the best model so far, `last/` with the last one,
metrics.jsonl with one measurement a line, and resume.safetensors, the rest of the run's state in
one file that is replaced atomically.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from .. import backend, objectives
from ..model import LanguageModel
from ..optim import AdamW, clip_grads, warmup_cosine
from ..storage.shapes import Batch, FilePath, Loss, LossAndGrads
from ..storage.validate import NotFinite
from ..training import interrupts
from ..training.evaluation import check_batch, check_targets, evaluate
from ..training.ranks import Ranks, fingerprint, fingerprint_of_batches
from ..training.report import Report
from ..training.run import Run, found_in, keeping
from ..training.steps import (
    AVERAGES,
    GroupedObjective,
    GroupStep,
    check_callable,
    check_recompute,
    describe,
    ending,
    grouped_step,
    guarded,
    settled,
    takes_normalizer,
)

MAX_COUNT = 2**63 - 1  # of anything that is counted

# steps between checks of the losses, each of which makes a GPU finish its queue
_CHECK_EVERY = 100


def fit(
    model: LanguageModel,
    batches: Iterable[Batch],
    objective: Loss | None = None,
    *,
    step: Callable[..., LossAndGrads] | None = None,
    steps: int | None = None,
    lr: float = 1e-3,
    warmup: int = 0,
    final_lr: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.1,
    max_grad_norm: float = 1.0,
    accumulate: int = 1,
    average: str = "targets",
    shards: int | None = None,
    recompute: bool = False,
    validation: Iterable[Batch] | None = None,
    validation_eta: float = 0.5,
    eval_every: int = 250,
    patience: int | None = None,
    seed: int = 0,
    folder: FilePath | None = None,
    boundary: int | None = None,
    objective_name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[Path], object] | None = None,
    progress: bool = True,
    reuse_memory: bool = True,
    ranks: Any = None,
) -> list[dict[str, Any]]:
    """Train `model` on `batches` with AdamW, in place -> a list of measurements, one dict every
    eval_every steps.

    batches: (inputs, targets), ids (B,T) on the host, from a list, any iterable or
    text.random_batches; `accumulate` of them make one step. `steps` steps are made, or as many as
    there are batches for. Without `steps` the learning rate stays at lr after `warmup` steps; with
    it, half a cosine leads down to final_lr·lr. betas and weight_decay are AdamW's; gradients are
    scaled down to the joint norm max_grad_norm.

    objective: (logits, targets) -> (loss, dlogits), as in minimixce.objectives; by default mixce.
    One with a `normalizer` parameter is given the number of targets of the whole step, so that
    accumulated batches equal one big batch; with average="batches" a step is the mean of its
    batches' means. step: instead of an objective, a whole step(model, batch) -> loss, grads; one
    with a parameter `number` is given the number of the batch, to seed its random numbers with.
    objective_name: what the run remembers of either, to start the count of the best anew when it is
    resumed with another; by default the function's name, with its ratios where it is a
    functools.partial (two lambdas have the same name).

    shards: on the CPU, how many parts the rows of each batch are shared out in, which are computed
    side by side, each with its share of the linear algebra library's threads. By default as many as
    it has threads, where a batch is large enough and model and objective are the package's own
    (training.shards), else 1. Others than 1 need an objective with a `normalizer`; results depend
    on shards in rounding, and with dropout in the draw. seed: of dropout. recompute: whether to
    keep a GPT's blocks' inputs alone and compute the rest again in backward (training.recomputing).

    validation: batches to iterate over; measurements then hold those of `evaluate`, with
    validation_eta as the η of validation_mixce; the best model is the one with the least
    validation_loss, and training stops after `patience` measurements without a better one.

    folder: where to keep the run (module docstring), with `boundary` as the token that ends a text;
    overwrite=True replaces a run there; resume=True goes on with it, under the same options and
    threads on the CPU bit for bit as if never stopped. Ctrl-C then ends the current step, saves,
    and raises KeyboardInterrupt. on_start(place) may write files of its own to the folder
    `place` before the first step; where the run is new they come into `folder` together with the
    run's, or not at all. progress: whether to show a bar and print the measurements, with the time
    that is left.

    reuse_memory: on the CPU, have the C library keep freed memory for the next array
    (backend.reuse_freed_memory); this makes steps faster and lasts for the whole process. False
    leaves the process as it is.

    ranks: a communicator of mpi4py's (MPI.COMM_WORLD), whose processes all call fit alike and train
    one model together: each takes its rows of every batch through the model, gradients are summed,
    and the first alone writes and reports. So N ranks make what shards=N make, to rounding; shards
    are 1 in each unless given. They need an objective with a `normalizer`, or a step with a
    parameter `share`, which is given (k, N) for its share k of N of the batch. Ctrl-C and SIGTERM
    then stop all of them after the same step (training.ranks).

    Each measurement has step, loss (mean since the last one), grad_norm (before clipping, at this
    step), lr and tokens_per_second. Raises FloatingPointError, naming the step, when the loss is no
    longer finite; ValueError for options out of range; FileExistsError for a folder that holds
    files of a run's names, or in which another process is at work; TypeError, which says what an
    objective takes and returns, for one that does not.

    >>> world, model = mm.worlds.agreement(), mm.TableBigram(6, device="cpu")
    >>> batches = [world.batch(world.sample(8, max_len=4, seed=k)) for k in range(20)]
    >>> mm.fit(model, batches, mm.objectives.mle, lr=0.1, progress=False)[-1]["step"]
    20
    """
    ranks = ranks if isinstance(ranks, Ranks) else Ranks(ranks)
    options: dict[str, Any] = {
        "steps": steps,
        "lr": lr,
        "warmup": warmup,
        "final_lr": final_lr,
        "betas": betas,
        "weight_decay": weight_decay,
        "max_grad_norm": max_grad_norm,
        "accumulate": accumulate,
        "shards": shards,
        "eval_every": eval_every,
        "patience": patience,
        "average": average,
    }
    objective = objectives.mixce if objective is None and step is None else objective
    name = objective_name or describe(cast(Callable[..., Any], objective or step))
    more = {"objective": name, "validation_eta": validation_eta, "seed": seed, "resume": resume}
    # what differed would have ranks wait for each other in different places, or drift apart
    ranks.check_same({f"option {of}": value for of, value in (options | more).items()})
    check_options(**options)
    check_recompute(recompute, model, step)
    if reuse_memory and model.xp is np:
        backend.reuse_freed_memory()
    # as Python's numbers: NumPy's do not go into JSON, and change the dtype of what they multiply
    lr = float(lr)
    final_lr = float(final_lr)
    folder = folder if ranks.is_first else None
    objective, group_step = ranks.together(
        lambda: _objective_and_step(objective, step, model, seed, shards, ranks, average, recompute)
    )
    # What overflows shows in the loss, with advice, and needs no warnings.
    with contextlib.ExitStack() as kept, np.errstate(all="ignore"), ending(group_step):
        ranks.together(lambda: kept.enter_context(keeping(folder)))
        ranks.together(
            lambda: _check_places(
                folder, validation, model.config.vocab_size, resume and ranks.is_first, overwrite
            )
        )
        optimizer = AdamW(model.params, lr, betas, weight_decay=weight_decay)
        run = Run(model, optimizer, name, folder, boundary)
        if resume:
            _take_up(run, steps, ranks)
            ranks.on_first(lambda: on_start and on_start(Path(cast(FilePath, folder))))
        else:
            ranks.on_first(lambda: run.start(on_start))
        advice = (
            f"a smaller lr (now {lr}), more warmup (now {warmup}) or a smaller max_grad_norm (now"
            f" {max_grad_norm})"
        )

        def validate():
            if validation is None:
                return {}
            return evaluate(model, validation, objective, eta=validation_eta, ranks=ranks)

        report = Report(run, validate, advice, steps, progress and ranks.is_first, ranks)
        source = settled(group_step, model, batches) if run.step else batches
        groups = _groups(source, run.step * accumulate, accumulate)
        if ranks.size > 1:
            groups = _same_on_all(ranks, groups, model, validation)
        wanted = folder is not None or ranks.size > 1
        # losses are pending where a run was interrupted
        with report.bar, interrupts.noted(wanted, terminate=ranks.size > 1) as interrupted:
            while run.step != steps and (run.losses or patience is None or run.worse < patience):
                rate = learning_rate(run.step, lr, warmup, steps, final_lr)
                try:
                    group = _make_step(
                        run, group_step, groups, rate, max_grad_norm, ranks, interrupted
                    )
                except NotFinite as error:
                    run.check_losses(advice)  # if it began before
                    raise FloatingPointError(
                        f"{error}, at step {run.step + 1}; try {advice}"
                    ) from None
                if group is None:
                    break
                report.count(group)
                if run.step % eval_every == 0:
                    report.measure()
                elif run.step % _CHECK_EVERY == 0:
                    run.check_losses(advice)
                if ranks.stops(bool(interrupted)) and run.step != steps:
                    run.check_losses(advice)
                    ranks.on_first(run.save)
                    raise KeyboardInterrupt
            if run.losses:
                report.measure()
        return run.measurements


def _objective_and_step(
    objective: Loss | None,
    step: Callable[..., LossAndGrads] | None,
    model: LanguageModel,
    seed: int,
    shards: int | None,
    ranks: Ranks,
    average: str,
    recompute: bool,
) -> tuple[Loss | None, GroupStep]:
    """What fit was given -> (the objective, or None for a step; what makes this rank's part of a
    step of a group of batches).
    """
    if step is not None:
        if objective is not None:
            raise TypeError("give fit an objective or a step, not both")
        check_callable("step", step)
        countable = False
    else:
        assert objective is not None
        check_callable("objective", objective)
        countable = takes_normalizer(objective)
    if shards not in (None, 1) and (not countable or model.xp is not np):
        raise ValueError(
            "shards must be 1 on a GPU, for a step and for an objective without a normalizer, got"
            f" {shards}"
        )
    share = ranks.rank, ranks.size
    if step is not None:
        return None, grouped_step(step, share)
    assert objective is not None
    if ranks.size > 1:
        shards = shards or 1
        if not countable:
            raise ValueError(
                "an objective needs a parameter `normalizer` to be shared out over ranks:"
                f" {describe(objective)} has none"
            )
    how = (seed, shards, share, average, recompute)
    return objective, GroupedObjective(guarded(objective), *how)


def _check_places(
    folder: FilePath | None,
    validation: Iterable[Batch] | None,
    vocab_size: int,
    resume: bool,
    overwrite: bool,
) -> None:
    """Raise an error unless fit can keep the run in `folder` and measure it on `validation`."""
    if resume and folder is None:
        raise ValueError("resume=True needs the folder of the run")
    there = None if folder is None else found_in(folder, tokenizer=False)
    if there and not (resume or overwrite):
        raise FileExistsError(
            f"{folder} already holds a run ({there}); choose another folder, or resume=True or"
            " overwrite=True"
        )
    if validation is None:
        return
    if iter(validation) is validation:
        raise TypeError(
            "validation must be batches that can be iterated over again and again, got an iterator"
        )
    targets = (check_batch(batch, vocab_size)[1] for batch in validation)
    check_targets("validation", any((of_batch >= 0).any() for of_batch in targets))


def _take_up(run: Run, steps: int | None, ranks: Ranks) -> None:
    """Load a run that is to make `steps` steps in all, or as many as there are batches for."""

    def load() -> None:
        run.load()
        if steps is not None and steps < run.step + bool(run.losses):
            raise ValueError(
                f"the run in {run.folder} has made {run.step} steps; steps must be more, got"
                f" {steps}"
            )

    ranks.on_first(load)
    run.spread(ranks)
    ranks.on_first(run.go_on)


def _same_on_all(
    ranks: Ranks,
    groups: Iterator[list[Batch]],
    model: LanguageModel,
    validation: Iterable[Batch] | None,
) -> Iterator[list[Batch]]:
    """The groups again, of which the first is looked at; ValueError unless all ranks have the same
    of everything here.
    """
    first = ranks.together(lambda: next(groups, None))
    facts = {
        "version of NumPy": np.__version__,
        "weights (by their fingerprint)": fingerprint(model.params.values()),
        "batches (by the fingerprint of the first)": fingerprint_of_batches(first or []),
        "validation batches (by their fingerprint)": fingerprint_of_batches(validation or []),
    }
    ranks.check_same(facts)
    return itertools.chain([] if first is None else [first], groups)


def _make_step(
    run: Run,
    group_step: GroupStep,
    groups: Iterator[list[Batch]],
    rate: float,
    max_grad_norm: float,
    ranks: Ranks,
    interrupted: list[float],
) -> list[Batch] | None:
    """One step of the optimizer on the next group -> that group, or None where there is none. Its
    loss stays on the device until the next check.
    """
    group: list[Batch] | None = None

    def of_this_rank() -> LossAndGrads | None:
        nonlocal group
        group = next(groups, None)
        if group is None:
            return None
        for batch in group:
            check_batch(batch, run.model.config.vocab_size)
        return group_step(run.model, group, run.step)

    made = ranks.step(run.model, of_this_rank, interrupted)
    if made is None:
        return None
    loss, grads = made
    run.grad_norm = clip_grads(grads, max_grad_norm)
    run.optimizer.step(grads, rate)
    run.lr = rate
    run.step += 1
    run.losses.append(loss)
    return group


def check_options(
    steps: int | None = None,
    lr: float = 1e-3,
    warmup: int = 0,
    final_lr: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.1,
    max_grad_norm: float = 1.0,
    accumulate: int = 1,
    shards: int | None = None,
    eval_every: int = 250,
    patience: int | None = None,
    average: str = "targets",
) -> None:
    """Raise ValueError, naming the option, unless fit can work with these: steps, lr, warmup,
    final_lr, betas, weight_decay, max_grad_norm, accumulate, shards, eval_every, patience, average.
    """
    if average not in AVERAGES:
        raise ValueError(f"average must be {' or '.join(AVERAGES)}, got {average!r}")
    counts = {
        "steps": steps,
        "eval_every": eval_every,
        "accumulate": accumulate,
        "patience": patience,
        "warmup": warmup,
    }
    if shards is not None and not 1 <= shards <= 1024:
        raise ValueError(f"shards must be at least 1 and at most 1024, got {shards}")
    for name, value in counts.items():
        least = 0 if name == "warmup" else 1
        if value is not None and not least <= value <= MAX_COUNT:
            limit = " and at most 2^63 - 1" if value > MAX_COUNT else ""
            raise ValueError(f"{name} must be at least {least}{limit}, got {value}")
    if not 0 <= final_lr <= 1:
        raise ValueError(f"final_lr must be between 0 and 1, got {final_lr}")
    if not 0 < max_grad_norm <= float(np.finfo(np.float32).max):
        raise ValueError(
            f"max_grad_norm must be a positive number that float32 can hold, got {max_grad_norm}"
        )
    AdamW({"any": np.zeros(1)}, lr, betas, weight_decay=weight_decay)


def learning_rate(step: int, lr: float, warmup: int, steps: int | None, final_lr: float) -> float:
    """The rate of step 0, 1, …: a linear rise over `warmup` steps to lr, then half a cosine down to
    final_lr·lr after `steps`, or constant where the end is not known.
    """
    if steps is None:
        return lr * min(1.0, (step + 1) / max(1, warmup))
    return warmup_cosine(step, lr, warmup, steps, final_lr)


def _groups(batches: Iterable[Batch], first: int, size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches from number `first` on; a rest too small for a group is left out."""
    numbered = hasattr(batches, "__getitem__")
    source = _numbered(batches, first) if numbered else itertools.islice(iter(batches), first, None)
    while len(group := list(itertools.islice(source, size))) == size:
        yield group


def _numbered(batches, first):
    for k in itertools.count(first):
        try:
            yield batches[k]
        except IndexError:
            return
