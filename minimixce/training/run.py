"""A run and its folder.

The folder holds config.json and model.safetensors (the best model so far, as Hugging Face keeps a
GPT-2), last/ (the last one), metrics.jsonl (a measurement a line, which only grows),
resume.safetensors (the whole state, replaced atomically) and, for a run of the command line,
run.json (the options it was started with) and its tokenizer.
"""

import contextlib
import functools
import json
import math
import os
import reprlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import text
from ..backend import to_numpy
from ..gpt import GPT
from ..model import LanguageModel
from ..optim import AdamW
from ..storage import checkpoint, files, install
from ..storage.journal import Journal
from ..storage.shapes import Array, FilePath, Scalar
from ..text.tokenizers import Tokenizer
from .ranks import Ranks

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

    _REMEMBERED = ("step", "grad_norm", "lr", "best", "worse", "objective")

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
        self._journal = Journal()  # what METRICS_FILE holds of them
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
        state that is never ahead of them. Does nothing without a folder; FileNotFoundError where
        the folder has vanished since the run was started.
        """
        if self.folder is None:
            return
        self._check_there()
        try:
            self._export(self.folder)
        except FileNotFoundError:
            self._check_there()
            raise

    def _check_there(self) -> None:
        """Raise FileNotFoundError unless the folder still holds the run: it is not made anew in a
        place from which somebody removed or moved it.
        """
        if self.folder is not None and not (self.folder / STATE_FILE).exists():
            raise FileNotFoundError(
                f"{self.folder} no longer holds the run; it was removed or moved before step"
                f" {self.step}"
            )

    def _export(self, folder: Path) -> None:
        measured_just_now = self.measurements and self.measurements[-1]["step"] == self.step
        # without validation the last is the best
        if self.best == float("inf") or (measured_just_now and self.worse == 0):
            self.model.save(folder, overwrite=True, boundary=self.boundary)
        self.model.save(folder / LAST, overwrite=True, boundary=self.boundary)
        self._journal.extend(folder / METRICS_FILE, self.measurements)
        info = {name: getattr(self, name) for name in self._REMEMBERED}
        info["grad_norm"] = None if self.grad_norm is None else float(self.grad_norm)
        info["metrics"] = vars(self._journal)
        # an array, since there may be millions
        pending = {_LOSSES: np.asarray(self.losses, np.float64)}
        checkpoint.save_state(folder / STATE_FILE, self._arrays() | pending, info)

    def start(self, on_start: Callable[[Path], object] | None) -> None:
        """Save for the first time, so that the run can be loaded and resumed whenever it is killed.

        on_start(folder), where there is one, writes to the same folder. All of it takes the place
        of an earlier run together, or none of it does.
        """
        if self.folder is None:
            return
        # a tokenizer that a program put there itself stays
        keep = checkpoint.TOKENIZER_FILES if on_start is None else ()
        with install.replacing(self.folder, NAMES, keep) as new:
            if on_start is not None:
                on_start(new)
            self._export(new)  # last, since the model remembers the tokenizer beside it

    def load(self) -> None:
        """Take the state that `save` left, and write nothing; ValueError or FileNotFoundError where
        something of it is damaged, of another model, or missing, PermissionError where the run
        could not be kept.
        """
        if self.folder is None:
            raise ValueError("a run without a folder has nothing to load")
        state = self.folder / STATE_FILE
        arrays, info = checkpoint.load_state(state)
        if not os.access(self.folder, os.W_OK):
            raise PermissionError(f"{self.folder} is read-only, so that its run cannot go on there")
        install.check_no_links(self.folder, NAMES)
        losses = arrays.get(_LOSSES, np.zeros(0))
        _check_arrays(state, arrays, self._arrays() | {_LOSSES: losses})
        _check_info(state, info)
        self._journal = Journal(**info["metrics"])
        self.measurements = self._journal.read(self.folder / METRICS_FILE)
        _check_measurements(self.folder / METRICS_FILE, self.measurements, info["step"])
        for place in (self.folder, self.folder / LAST):
            if (place / checkpoint.WEIGHTS_FILE).exists():
                checkpoint.check_model(place)
        for name, array in self._arrays().items():
            array[...] = self.model.xp.asarray(arrays[name])
        objective = self.objective
        for name in self._REMEMBERED:
            setattr(self, name, info[name])
        self.losses = losses.tolist()
        self.optimizer.steps = self.step
        # losses of another scale: what was best by them says nothing now
        if objective != self.objective:
            self.objective = objective
            self.best = float("inf")
            self.worse = 0

    def go_on(self) -> None:
        """Take back the measurements that were written after the state that was loaded."""
        if self.folder is not None:
            self._journal.extend(self.folder / METRICS_FILE, self.measurements)

    def spread(self, ranks: Ranks) -> None:
        """Take over what the first of `ranks` has loaded."""
        names = (*self._REMEMBERED, "losses", "measurements")
        known = ranks.from_first(lambda: {name: getattr(self, name) for name in names})
        for name, value in known.items():
            setattr(self, name, value)
        self.optimizer.steps = self.step
        if ranks.size == 1:
            return
        for array in self._arrays().values():
            first = ranks.from_first(functools.partial(to_numpy, array))
            array[...] = self.model.xp.asarray(first)

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


# of the state: the losses since the last measurement
_LOSSES = "losses"


def _is_count(value):
    return type(value) is int and 0 <= value <= 2**63 - 1


def _is_number(value):
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


# how each thing that a state remembers can be, beside its arrays
_FITS: dict[str, Callable[[Any], bool]] = {
    "step": _is_count,
    "grad_norm": lambda value: value is None or _is_number(value),
    "lr": lambda value: value is None or _is_number(value),
    "best": lambda value: value == math.inf or _is_number(value),
    "worse": _is_count,
    "objective": lambda value: isinstance(value, str),
    "metrics": lambda value: (
        isinstance(value, dict)
        and value.keys() == vars(Journal()).keys()
        and all(map(_is_count, value.values()))
    ),
}


def _check_info(state: Path, info: dict[str, Any]) -> None:
    """Raise ValueError unless `info`, from the file `state`, is what a run remembers."""
    for name, fits in _FITS.items():
        if name not in info:
            raise ValueError(f"{state} is damaged: it lacks {name}")
        if not fits(info[name]):
            raise ValueError(f"{state} is damaged: {name} cannot be {reprlib.repr(info[name])}")


def _check_arrays(state: Path, found: dict[str, Array], expected: dict[str, Array]) -> None:
    """Raise ValueError unless the arrays in `state` have the names, shapes and dtypes that a run's
    have.
    """
    checkpoint.check_shapes(state, {name: array.shape for name, array in expected.items()}, found)
    for name, array in expected.items():
        dtype = "float64" if name == _LOSSES else array.dtype
        if found[name].dtype != dtype:
            raise ValueError(f"{state}: {name} is {found[name].dtype}, but the run has {dtype}")
    if found[_LOSSES].ndim != 1 or not np.isfinite(found[_LOSSES]).all():
        raise ValueError(f"{state} is damaged: {_LOSSES} must be a row of finite numbers")


def _check_measurements(path: Path, found: list[dict[str, Any]], step: int) -> None:
    """Raise ValueError unless each of `found`, from the file `path`, is a measurement of one of the
    first `step` steps.
    """
    for number, measurement in enumerate(found, start=1):
        numbers = all(type(value) in (int, float) for value in measurement.values())
        at = measurement.get("step", 0)
        if not numbers or not _is_count(at) or not 1 <= at <= step:
            raise ValueError(
                f"{path}, line {number}, is no measurement of the run's {step} steps:"
                f" {reprlib.repr(measurement)}"
            )


# all that a run keeps in its folder, and may replace there
NAMES = (
    *checkpoint.TOKENIZER_FILES,
    RUN_FILE,
    checkpoint.CONFIG_FILE,
    checkpoint.WEIGHTS_FILE,
    STATE_FILE,
    METRICS_FILE,
    LAST,
    checkpoint.GENERATION_FILE,
)


def found_in(folder: FilePath, tokenizer: bool = True) -> str | None:
    """The name of something in `folder` that a run would replace, or None. tokenizer: whether one
    counts, which a program may have put there for the run.
    """
    names = [name for name in NAMES if tokenizer or name not in checkpoint.TOKENIZER_FILES]
    return next((name for name in names if os.path.lexists(Path(folder) / name)), None)


def is_run(folder: FilePath) -> bool:
    """Whether a run is in `folder`: what it goes on from, or what says its options."""
    return any(os.path.lexists(Path(folder) / name) for name in (RUN_FILE, STATE_FILE))


def check_free(folder: FilePath, overwrite: bool) -> None:
    """Raise FileExistsError unless a new run may begin in `folder`: nothing of a run's names is
    there, or with overwrite=True a run is, and not a model from elsewhere, which may be the only
    copy.
    """
    found = found_in(folder)
    if found is None:
        return
    if not is_run(folder):
        raise FileExistsError(
            f"{folder} already holds {found}, which is no run's and would be replaced; choose"
            " another --out"
        )
    if not overwrite:
        raise FileExistsError(
            f"{folder} already holds a run ({found}); choose another --out, or add --resume or"
            " --overwrite"
        )


@contextlib.contextmanager
def keeping(folder: FilePath | None) -> Iterator[None]:
    """A context in which this process alone keeps a run in `folder`, where what an earlier one had
    left to do is done. None: nothing is kept. Raises what install.locked and install.finish raise.
    """
    if folder is None:
        yield
        return
    with install.locked(folder):
        install.finish(folder, NAMES)
        yield


def settle(folder: FilePath) -> None:
    """Put in place what the start of a run had left to do in `folder` when it was killed.

    Raises FileExistsError where that run is still starting.
    """
    install.settle(folder, NAMES)


def open_folder(folder: FilePath, device: str = "auto") -> tuple[GPT, Tokenizer]:
    """The best model of a run's folder, on `device`, and its tokenizer -> (GPT, tokenizer). Raises
    FileNotFoundError or ValueError where one is missing, damaged, or does not fit the other.
    """
    settle(folder)
    model = GPT.load(folder, device)
    tokenizer = text.load_tokenizer(folder)
    checkpoint.check_beside(folder)
    check_vocabulary(folder, tokenizer, model.config.vocab_size)
    return model, tokenizer


def check_vocabulary(folder: FilePath, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raise ValueError unless the tokenizer in `folder` has as many tokens as the model there,
    vocab_size.
    """
    if tokenizer.vocab_size != vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model {vocab_size}"
        )


def write_options(folder: FilePath, options: dict[str, Any], corpus: text.Corpus) -> None:
    """Write run.json and the tokenizer to `folder`: options (a dict), with what is true of the
    corpus instead of what was asked for, and the corpus's fingerprint.

    A folder that the tokenizer was taken from stays there by its name.
    """
    if not _holds(folder, corpus.tokenizer):
        text.save_tokenizer(corpus.tokenizer, folder)
    found: dict[str, Any] = {
        "data_fingerprint": corpus.fingerprint(),
        "lines": corpus.lines,
    }
    asked = options.get("tokenizer", "")
    if asked in text.TOKENIZERS or not os.path.isdir(asked):
        found["tokenizer"] = corpus.tokenizer.kind
    data = json.dumps(options | found, indent=2).encode() + b"\n"
    files.write_atomically(Path(folder) / RUN_FILE, data)


def _holds(folder, tokenizer):
    """Whether a run that goes on has its tokenizer's files already, which its model remembers."""
    complete = all((Path(folder) / name).exists() for name in checkpoint.TOKENIZER_FILES)
    return complete and text.load_tokenizer(folder).fields() == tokenizer.fields()


def read_options(folder: FilePath, fits: Callable[[str, Any], bool]) -> dict[str, Any]:
    """The options in a folder's run.json -> dict. fits(name, value) says whether an option may be
    so; ValueError for a file with one that does not, FileNotFoundError without a file.
    """
    path = Path(folder) / RUN_FILE
    options = files.read_json(path)
    for name, value in options.items():
        if not (type(value) is int if name == "data_fingerprint" else fits(name, value)):
            raise ValueError(f"{path} is damaged: {name} cannot be {reprlib.repr(value)}")
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
