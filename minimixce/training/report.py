"""What a run reports while it goes on."""

import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from ..storage.shapes import Batch
from ..storage.validate import NotFinite, check_finite
from . import timing
from .ranks import Ranks
from .run import Run

_SHORT = {
    "validation_mle": "val_mle",
    "validation_mixce": "val_mixce",
    "validation_loss": "val_loss",
    "tokens_per_second": "tokens/s",
}
_FORMAT = {"step": "6d", "tokens_per_second": ",.0f", "lr": ".1e"}


class Report:
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
        ranks: Ranks,
    ) -> None:
        from tqdm import tqdm  # here, so that models and checks work without it

        self.run = run
        self.validate = validate
        self.advice = advice
        self.progress = progress
        self.ranks = ranks
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
        run.add(self.ranks.from_first(lambda: found))  # seconds differ between ranks
        self.ranks.on_first(run.save)
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
