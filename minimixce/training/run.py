"""A run and its folder.

The folder holds config.json and model.safetensors (the best model so far, as Hugging Face keeps a
GPT-2), last/ (the last one), metrics.jsonl (a measurement a line), resume.safetensors (the whole
state, replaced atomically) and, for a run of the command line, run.json (the options it was started
with) and its tokenizer.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import text
from ..backend import to_numpy
from ..gpt import GPT
from ..model import LanguageModel
from ..optim import AdamW
from ..storage import checkpoint, files, install
from ..storage.shapes import Array, FilePath, Scalar
from ..text import hugging_face
from ..text.tokenizers import Tokenizer

METRICS_FILE = "metrics.jsonl"
STATE_FILE = "resume.safetensors"
LAST = "last"
RUN_FILE = "run.json"


class Run:
    """What changes while a run goes on, and its folder.

    model, optimizer: what is trained, and the state it is trained with. objective: a name that
    tells one objective from another (steps.describe). folder: where to keep the run, or None.
    boundary: the token that ends a text, or None.
    """

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

    def __init__(
        self,
        model: LanguageModel,
        optimizer: AdamW,
        objective: str,
        folder: FilePath | None,
        boundary: int | None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.folder = None if folder is None else Path(folder)
        self.boundary = boundary
        self.step = 0
        self.losses: list[Any] = []  # since the last measurement
        self.measurements: list[dict[str, Any]] = []
        self.grad_norm: float | Scalar | None = None
        self.lr: float | None = None
        # least validation loss, and measurements since then
        self.best = float("inf")
        self.worse = 0

    def check_losses(self, advice: str) -> None:
        """Bring the losses since the last measurement to the host; FloatingPointError, which ends
        with `advice`, if one is not finite.
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

    def add(self, found: dict[str, Any]) -> None:
        """Keep a measurement, the dict `found`, and count those since the least validation_loss."""
        self.measurements.append(found)
        self.losses = []
        if "validation_loss" in found:
            self.worse = 0 if found["validation_loss"] < self.best else self.worse + 1
            self.best = min(self.best, found["validation_loss"])

    def save(self) -> None:
        """Export the models and metrics, then replace the state: a kill at any moment leaves a
        state that is never ahead of them. Does nothing without a folder.
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
        info = {name: getattr(self, name) for name in self._REMEMBERED}
        info["grad_norm"] = None if self.grad_norm is None else float(self.grad_norm)
        checkpoint.save_state(self.folder / STATE_FILE, self._arrays(), info)

    def start(self, on_start: Callable[[Path], object] | None) -> None:
        """Save for the first time, so that the run can be loaded and resumed whenever it is killed.

        on_start(folder), where there is one, writes to the same folder. All of it takes the place
        of an earlier run together, or none of it does.
        """
        if self.folder is None:
            return
        # a tokenizer that a program put there itself stays
        keep = TOKENIZER_NAMES if on_start is None else ()
        with install.replacing(self.folder, NAMES, keep) as new:
            place, self.folder = self.folder, new
            try:
                self.save()
                if on_start is not None:
                    on_start(new)
            finally:
                self.folder = place

    def load(self) -> None:
        """Take the state that `save` left; ValueError or FileNotFoundError where it is damaged, of
        another model, or missing.
        """
        if self.folder is None:
            raise ValueError("a run without a folder has nothing to load")
        state = self.folder / STATE_FILE
        arrays, info = checkpoint.load_state(state)
        expected = {name: array.shape for name, array in self._arrays().items()}
        checkpoint.check_shapes(state, expected, arrays)
        for name, array in self._arrays().items():
            array[...] = self.model.xp.asarray(arrays[name])
        objective = self.objective
        for name in self._REMEMBERED:
            setattr(self, name, info[name])
        self.optimizer.steps = self.step
        # losses of another scale: what was best by them says nothing now
        if objective != self.objective:
            self.objective = objective
            self.best = float("inf")
            self.worse = 0

    def _arrays(self) -> dict[str, Array]:
        """{name: array} of all that training changes, the arrays themselves."""
        groups = {
            "params": self.model.params,
            "mean": self.optimizer.mean,
            "square": self.optimizer.square,
        }
        return {
            f"{kind}.{name}": array
            for kind, group in groups.items()
            for name, array in group.items()
        }


TOKENIZER_NAMES = (text.TOKENIZER_FILE, hugging_face.TOKENIZER_JSON, hugging_face.CONFIG_JSON)
# all that a run keeps in its folder, and may replace there
NAMES = (
    *TOKENIZER_NAMES,
    RUN_FILE,
    "config.json",
    "model.safetensors",
    STATE_FILE,
    METRICS_FILE,
    LAST,
    checkpoint.GENERATION_FILE,
)


def found_in(folder: FilePath) -> str | None:
    """The name of something in `folder` that a run would overwrite, or None."""
    return next((name for name in NAMES if (Path(folder) / name).exists()), None)


def settle(folder: FilePath) -> None:
    """Put in place what the start of a run had left to do in `folder` when it was killed.

    Raises FileExistsError where that run is still starting.
    """
    if install.is_pending(folder):
        with install.locked(folder):
            install.finish(folder, NAMES)


def open_folder(folder: FilePath, device: str = "auto") -> tuple[GPT, Tokenizer]:
    """The best model of a run's folder, on `device`, and its tokenizer -> (GPT, tokenizer). Raises
    FileNotFoundError or ValueError where one is missing, damaged, or does not fit the other.
    """
    settle(folder)
    model = GPT.load(folder, device)
    tokenizer = text.load_tokenizer(folder)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model"
            f" {model.config.vocab_size}"
        )
    return model, tokenizer


def write_options(folder: FilePath, options: dict[str, Any], corpus: text.Corpus) -> None:
    """Write run.json and the tokenizer to `folder`: options (a dict), with what is true of the
    corpus instead of what was asked for, and the corpus's fingerprint.
    """
    text.save_tokenizer(corpus.tokenizer, folder)
    found = {
        "data_fingerprint": corpus.fingerprint(),
        "lines": corpus.lines,
        "tokenizer": corpus.tokenizer.kind,
    }
    data = json.dumps(options | found, indent=2).encode() + b"\n"
    files.write_atomically(Path(folder) / RUN_FILE, data)


def read_options(folder: FilePath, fits: Callable[[str, Any], bool]) -> dict[str, Any]:
    """The options in a folder's run.json -> dict. fits(name, value) says whether an option may be
    so; ValueError for a file with one that does not, FileNotFoundError without a file.
    """
    path = Path(folder) / RUN_FILE
    options = files.read_json(path)
    for name, value in options.items():
        if not (type(value) is int if name == "data_fingerprint" else fits(name, value)):
            raise ValueError(f"{path} is damaged: {name} cannot be {value!r}")
    options.pop("data_fingerprint", None)
    return options


def check_corpus(folder: FilePath, corpus: text.Corpus) -> None:
    """Raise ValueError unless `corpus` has the fingerprint of the one the run in `folder` was
    started with.
    """
    fingerprint = files.read_json(Path(folder) / RUN_FILE).get("data_fingerprint")
    if fingerprint != corpus.fingerprint():
        raise ValueError(
            f"the training text is not the one the run in {folder} was started with, or its"
            " held-out part is not"
        )
