"""A run and its folder."""

import json
from pathlib import Path

import numpy as np

from ..backend import to_numpy
from ..storage import checkpoint, files
from ..training.steps import describe

METRICS_FILE, STATE_FILE, LAST = "metrics.jsonl", "resume.safetensors", "last"


class Run:
    """What changes while a run goes on, and its folder."""

    _REMEMBERED = (
        "step",
        "losses",
        "measurements",
        "grad_norm",
        "lr",
        "best",
        "worse",
        "objective",
    )

    def __init__(self, model, optimizer, objective, folder, boundary):
        self.model, self.optimizer, self.objective, self.boundary = (
            model,
            optimizer,
            describe(objective),
            boundary,
        )
        self.folder = None if folder is None else Path(folder)
        self.step, self.losses, self.measurements, self.grad_norm, self.lr = 0, [], [], None, None
        # least validation loss, and measurements since then
        self.best, self.worse = float("inf"), 0

    def look_at_losses(self, advice):
        """Bring the losses since the last measurement to the host; FloatingPointError if one is not
        finite.
        """
        seen = [loss for loss in self.losses if isinstance(loss, float)]
        fresh = self.losses[len(seen) :]
        if fresh:
            seen += to_numpy(self.model.xp.stack(fresh)).astype(float).tolist()
        self.losses = seen
        finite = np.isfinite(seen)
        if not finite.all():
            first = self.step - len(seen) + int(np.argmin(finite)) + 1
            raise FloatingPointError(f"the loss is not finite since step {first}; try {advice}")
        if self.grad_norm is not None and not np.isfinite(float(self.grad_norm)):
            raise FloatingPointError(
                f"the gradient is not finite at step {self.step}; try {advice}"
            )

    def add(self, found):
        self.measurements.append(found)
        self.losses = []
        if "validation_loss" in found:
            self.worse = 0 if found["validation_loss"] < self.best else self.worse + 1
            self.best = min(self.best, found["validation_loss"])

    def save(self):
        """Export the models and metrics, then replace the state: whatever a kill leaves, the state
        is never ahead of them.
        """
        if self.folder is None:
            return
        measured_just_now = self.measurements and self.measurements[-1]["step"] == self.step
        # without validation the last is the best
        if self.best == float("inf") or (measured_just_now and self.worse == 0):
            self.model.save(self.folder, overwrite=True, boundary=self.boundary)
        self.model.save(self.folder / LAST, overwrite=True, boundary=self.boundary)
        lines = "".join(json.dumps(m) + "\n" for m in self.measurements)
        files.write_atomically(self.folder / METRICS_FILE, lines.encode())
        arrays = {
            f"{kind}.{name}": value
            for kind, group in self._groups().items()
            for name, value in group.items()
        }
        info = {name: getattr(self, name) for name in self._REMEMBERED}
        info["grad_norm"] = None if self.grad_norm is None else float(self.grad_norm)
        checkpoint.save_state(self.folder / STATE_FILE, arrays, info)

    def load(self):
        arrays, info = checkpoint.load_state(self.folder / STATE_FILE)
        expected = {
            f"{kind}.{name}": a.shape
            for kind, group in self._groups().items()
            for name, a in group.items()
        }
        checkpoint.check_shapes(self.folder / STATE_FILE, expected, arrays)
        for kind, group in self._groups().items():
            for name, value in group.items():
                value[...] = self.model.xp.asarray(arrays[f"{kind}.{name}"])
        objective = self.objective
        for name in self._REMEMBERED:
            setattr(self, name, info[name])
        self.optimizer.steps = self.step
        # losses of another scale: what was best by them says nothing now
        if objective != self.objective:
            self.objective, self.best, self.worse = objective, float("inf"), 0

    def _groups(self):
        return {
            "params": self.model.params,
            "mean": self.optimizer.mean,
            "square": self.optimizer.square,
        }
