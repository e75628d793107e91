"""The training loop: batches in; an updated model, measurements and a run folder out.

A run folder is a Hugging Face GPT-2 folder with the best model so far, `last/` with the last one,
metrics.jsonl with one measurement a line, and resume.safetensors, the rest of the run's state in
one file that is replaced atomically.
"""

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from .. import backend, objectives
from ..model import LanguageModel
from ..optim import AdamW, clip_grads, warmup_cosine
from ..storage.shapes import Batch, FilePath, Loss, LossAndGrads
from ..storage.validate import NotFinite, check_finite
from ..training import timing
from ..training.evaluation import check_batch, check_targets, evaluate
from ..training.run import Run, found_in, keeping
from ..training.steps import (
    GroupedObjective,
    GroupStep,
    check_callable,
    describe,
    ending,
    grouped_step,
    guarded,
    settled,
    takes_normalizer,
)

MAX_COUNT = 2**63 - 1  # of anything that is counted

_SHORT = {
    "validation_mle": "val_mle",
    "validation_mixce": "val_mixce",
    "validation_loss": "val_loss",
    "tokens_per_second": "tokens/s",
}
_FORMAT = {"step": "6d", "tokens_per_second": ",.0f", "lr": ".1e"}

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
    shards: int | None = None,
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
    accumulated batches equal one big batch. step: instead of an objective, a whole step(model,
    batch) -> loss, grads; one with a parameter `number` is given the number of the batch, to seed
    its random numbers with. objective_name: what the run remembers of either, to start the count of
    the best anew when it is resumed with another; by default the function's name, with its ratios
    where it is a functools.partial (two lambdas have the same name).

    shards: on the CPU, how many parts the rows of each batch are shared out in, which are computed
    side by side, each with its share of the linear algebra library's threads. By default as many as
    it has threads, where a batch is large enough and model and objective are the package's own
    (training.shards), else 1. Others than 1 need an objective with a `normalizer`; results depend
    on shards in rounding, and with dropout in the draw. seed: of dropout.

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
    check_options(
        steps,
        lr,
        warmup,
        final_lr,
        betas,
        weight_decay,
        max_grad_norm,
        accumulate,
        shards,
        eval_every,
        patience,
    )
    if reuse_memory and model.xp is np:
        backend.reuse_freed_memory()
    # as Python's numbers: NumPy's do not go into JSON, and change the dtype of what they multiply
    lr = float(lr)
    final_lr = float(final_lr)
    objective, group_step = _objective_and_step(objective, step, model, seed, shards)
    # What overflows shows in the loss, with advice, and needs no warnings.
    with keeping(folder), np.errstate(all="ignore"), ending(group_step):
        _check_places(folder, validation, model.config.vocab_size, resume, overwrite)
        optimizer = AdamW(model.params, lr, betas, weight_decay=weight_decay)
        given = cast(Callable[..., Any], objective if step is None else step)
        name = objective_name or describe(given)
        run = Run(model, optimizer, name, folder, boundary)
        if resume:
            _take_up(run, steps)
            if on_start is not None and folder is not None:
                on_start(Path(folder))
        else:
            run.start(on_start)
        advice = (
            f"a smaller lr (now {lr}), more warmup (now {warmup}) or a smaller max_grad_norm (now"
            f" {max_grad_norm})"
        )

        def validate():
            if validation is None:
                return {}
            return evaluate(model, validation, objective, eta=validation_eta)

        report = _Report(run, validate, advice, steps, progress)
        source = settled(group_step, model, batches) if run.step else batches
        groups = _groups(source, run.step * accumulate, accumulate)
        # losses are pending where a run was interrupted
        with report.bar, _interrupt_flag(folder is not None) as interrupted:
            while run.step != steps and (run.losses or patience is None or run.worse < patience):
                group = next(groups, None)
                if group is None:
                    break
                rate = learning_rate(run.step, lr, warmup, steps, final_lr)
                try:
                    _make_step(run, group_step, group, rate, max_grad_norm)
                except NotFinite as error:
                    run.check_losses(advice)  # if it began before
                    raise FloatingPointError(
                        f"{error}, at step {run.step + 1}; try {advice}"
                    ) from None
                report.count(group)
                if run.step % eval_every == 0:
                    report.measure()
                elif run.step % _CHECK_EVERY == 0:
                    run.check_losses(advice)
                if interrupted and run.step != steps:
                    run.check_losses(advice)
                    run.save()
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
) -> tuple[Loss | None, GroupStep]:
    """What fit was given -> (the objective, or None for a step; what makes a step of a group of
    batches).
    """
    if step is not None:
        if objective is not None:
            raise TypeError("give fit an objective or a step, not both")
        check_callable("step", step)
        countable = False
    else:
        objective = objectives.mixce if objective is None else objective
        check_callable("objective", objective)
        countable = takes_normalizer(objective)
    if shards not in (None, 1) and (not countable or model.xp is not np):
        raise ValueError(
            "shards must be 1 on a GPU, for a step and for an objective without a normalizer, got"
            f" {shards}"
        )
    if step is not None:
        return None, grouped_step(step)
    assert objective is not None
    return objective, GroupedObjective(guarded(objective), seed, shards)


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


def _take_up(run: Run, steps: int | None) -> None:
    """Load a run that is to make `steps` steps in all, or as many as there are batches for."""
    run.load()
    if steps is not None and steps < run.step + bool(run.losses):
        raise ValueError(
            f"the run in {run.folder} has made {run.step} steps; steps must be more, got {steps}"
        )
    run.go_on()


def _make_step(
    run: Run, group_step: GroupStep, group: list[Batch], rate: float, max_grad_norm: float
) -> None:
    """One step of the optimizer; its loss stays on the device until the next check."""
    for batch in group:
        check_batch(batch, run.model.config.vocab_size)
    loss, grads = group_step(run.model, group, run.step)
    run.grad_norm = clip_grads(grads, max_grad_norm)
    run.optimizer.step(grads, rate)
    run.lr = rate
    run.step += 1
    run.losses.append(loss)


class _Report:
    """What a run reports: a progress bar, and every now and then a measurement that is printed and
    kept.
    """

    def __init__(
        self,
        run: Run,
        validate: Callable[[], dict[str, float]],
        advice: str,
        steps: int | None,
        progress: bool,
    ) -> None:
        from tqdm import tqdm  # here, so that models and checks work without it

        self.run = run
        self.validate = validate
        self.advice = advice
        self.progress = progress
        self.bar = tqdm(
            total=steps,
            initial=run.step,
            disable=None if progress else True,
            unit="step",
            dynamic_ncols=True,
        )
        self.first_step = run.step
        self.first_started = time.perf_counter()
        self._start_clock()

    def _start_clock(self) -> None:
        self.tokens = 0  # since the last measurement
        self.started = time.perf_counter()

    def count(self, group: list[Batch]) -> None:
        """One step more."""
        self.tokens += sum(targets.size for _, targets in group)
        self.bar.update()

    def measure(self) -> None:
        """Measure, keep, save and print; FloatingPointError for a loss that is not finite."""
        run = self.run
        run.check_losses(self.advice)
        found = {
            "step": run.step,
            "loss": float(np.mean(run.losses)),
            "grad_norm": float(cast(float, run.grad_norm)),  # a step has been made
            "lr": run.lr,
            "tokens_per_second": self.tokens / (time.perf_counter() - self.started),
        }
        try:
            found |= self.validate()
            check_finite("validation loss", found.get("validation_loss", 0.0))
        except NotFinite:
            raise FloatingPointError(
                f"the validation loss is not finite at step {run.step}; try {self.advice}"
            ) from None
        run.add(found)
        run.save()
        if self.progress:
            self._print(found)
        self._start_clock()

    def _print(self, found: dict[str, Any]) -> None:
        short = {_SHORT.get(name, name): value for name, value in found.items()}
        beside_the_bar = ("loss", *_SHORT.values())
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in short.items() if k in beside_the_bar})
        cells = (
            f"{_SHORT.get(name, name)} {value:{_FORMAT.get(name, '.3f')}}"
            for name, value in found.items()
        )
        self.bar.write("  ".join([*cells, *self._time_left()]))

    def _time_left(self) -> list[str]:
        """[how long the rest of the steps will take at the pace until now], or []."""
        step, total = self.run.step, self.bar.total
        if total is None or step == total or step == self.first_step:
            return []
        pace = (time.perf_counter() - self.first_started) / (step - self.first_step)
        return [f"left {timing.describe(pace * (total - step))}"]


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
) -> None:
    """Raise ValueError, naming the option, unless fit can work with these: steps, lr, warmup,
    final_lr, betas, weight_decay, max_grad_norm, accumulate, shards, eval_every and patience.
    """
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


@contextlib.contextmanager
def _interrupt_flag(wanted: bool) -> Iterator[list[int]]:
    """A list that is filled by the first Ctrl-C, which then waits for the step to end; a second one
    acts at once.
    """
    flag: list[int] = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number, frame):
        if flag:
            raise KeyboardInterrupt
        flag.append(number)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
