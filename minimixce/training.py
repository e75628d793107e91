"""The training loop: batches in; an updated model, measurements and a run folder out.

A run folder is a Hugging Face GPT-2 folder with the best model so far, `last/` with the last one, metrics.jsonl with one
measurement a line, and resume.safetensors, the whole state of the run in one file that is replaced atomically.
"""

import contextlib
import contextvars
import inspect
import itertools
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from . import backend, checkpoint, objectives
from .backend import to_numpy
from .optim import AdamW, clip_grads, warmup_cosine

METRICS_FILE, STATE_FILE, LAST = "metrics.jsonl", "resume.safetensors", "last"
_SHORT = {
    "validation_mle": "val_mle",
    "validation_mixce": "val_mixce",
    "validation_loss": "val_loss",
    "tokens_per_second": "tokens/s",
}
_FORMAT = {"step": "6d", "tokens_per_second": ",.0f", "lr": ".1e"}
MOST = 2**63 - 1  # of anything that is counted
_LOOK_EVERY = 100  # steps between looks at the losses, each of which makes a GPU finish its queue


def fit(
    model,
    batches,
    objective=objectives.mixce,
    *,
    steps=None,
    lr=1e-3,
    warmup=0,
    final_lr=0.1,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    max_grad_norm=1.0,
    accumulate=1,
    shards=1,
    validation=None,
    eval_every=250,
    patience=None,
    seed=0,
    folder=None,
    boundary=None,
    resume=False,
    overwrite=False,
    on_start=None,
    progress=True,
):
    """Train `model` on `batches` with AdamW, in place -> a list of measurements, one dict every eval_every steps.

    batches: (inputs, targets), ids (B,T) on the host, from a list, any iterable or text.random_batches; `accumulate` of them
    make one step. `steps` steps are made, or as many as there are batches for. Without `steps` the learning rate stays at lr
    after `warmup` steps; with it, half a cosine leads down to final_lr·lr.
    objective: (logits, targets) -> (loss, dlogits), as in minimixce.objectives, or a whole step(model, batch) -> loss, grads;
    a function whose first parameter is named `model` is taken for the latter; where it has a parameter `number` it is given
    the number of the batch, to seed its random numbers with. An objective with a `normalizer` parameter is
    given the number of targets of the whole step, so that accumulated batches equal one big batch.
    shards: on the CPU, split the rows of each batch over this many threads; worth it for models of 100 channels and more, with
    the linear algebra library limited to its share of the cores (threadpoolctl, or OMP_NUM_THREADS). Needs an objective with a
    `normalizer`; results depend on shards in rounding, and with dropout in the draw.
    validation: batches to iterate over; measurements then hold those of `evaluate`, the best model is the one with the
    least validation_loss, and training stops after `patience` measurements without a better one.
    seed: of dropout. folder: where to keep the run (module docstring), with `boundary` as the token that ends a text;
    overwrite=True replaces a run there; resume=True goes on with it, under the same options and threads on the CPU bit for bit
    as if never stopped. Ctrl-C then ends the current step, saves, and raises KeyboardInterrupt. on_start() is called before
    the first step, once the folder holds the run.

    Each measurement has step, loss (mean since the last one), grad_norm (before clipping, at this step), lr and
    tokens_per_second. Raises FloatingPointError, naming the step, when the loss is no longer finite; ValueError for options
    out of range.
    """
    check_options(steps, lr, warmup, final_lr, betas, weight_decay, max_grad_norm, accumulate, shards, eval_every, patience)
    if shards > 1 and (is_step(objective) or not _takes_normalizer(objective) or model.xp is not np):
        raise ValueError(f"shards must be 1 on a GPU, for a step and for an objective without a normalizer, got {shards}")
    step_function = _step_of_steps(objective) if is_step(objective) else step_of_objective(objective, seed, shards)
    if resume and folder is None:
        raise ValueError("resume=True needs the folder of the run")
    if (
        folder is not None
        and not (resume or overwrite)
        and any((Path(folder) / f).exists() for f in (STATE_FILE, "config.json"))
    ):
        raise FileExistsError(f"{folder} already holds a run; choose another folder, or resume=True or overwrite=True")
    if validation is not None and iter(validation) is validation:
        raise TypeError("validation must be batches that can be iterated over again and again, got an iterator")
    run = _Run(model, AdamW(model.params, lr, betas, weight_decay=weight_decay), objective, folder, boundary)
    if resume:
        run.load()
        if steps is not None and steps < run.step + bool(run.losses):
            raise ValueError(f"the run in {folder} has made {run.step} steps; steps must be more, got {steps}")
    else:
        run.save()  # so that a run can be loaded and resumed whenever it is killed
    if on_start is not None:
        on_start()
    advice = f"a smaller lr (now {lr}), more warmup (now {warmup}) or a smaller max_grad_norm (now {max_grad_norm})"
    groups = _groups(batches, run.step * accumulate, accumulate)
    bar = tqdm(total=steps, initial=run.step, disable=None if progress else True, unit="step", dynamic_ncols=True)
    tokens, started = 0, time.perf_counter()

    def measure():
        nonlocal tokens, started
        run.look_at_losses(advice)
        found = {"step": run.step, "loss": float(np.mean(run.losses)), "grad_norm": float(run.grad_norm), "lr": run.lr}
        found["tokens_per_second"] = tokens / (time.perf_counter() - started)
        if validation is not None:
            found |= evaluate(model, validation, None if is_step(objective) else objective)
            if not np.isfinite(found["validation_loss"]):
                raise FloatingPointError(f"the validation loss is not finite at step {run.step}; try {advice}")
        run.add(found)
        run.save()
        if progress:
            bar.set_postfix({_SHORT.get(k, k): f"{v:.3g}" for k, v in found.items() if k in ("loss", *_SHORT)})
            tqdm.write("  ".join(f"{_SHORT.get(k, k)} {v:{_FORMAT.get(k, '.3f')}}" for k, v in found.items()))
        tokens, started = 0, time.perf_counter()

    # What overflows shows in the loss, with advice, and needs no warnings; losses are pending where a run was interrupted.
    with bar, _interrupt_flag(folder is not None) as interrupted, np.errstate(all="ignore"):
        while run.step != steps and (run.losses or patience is None or run.worse < patience):
            group = next(groups, None)
            if group is None:
                break
            for inputs, targets in group:
                _check_batch(inputs, targets, model.config.vocab_size)
            rate = learning_rate(run.step, lr, warmup, steps, final_lr)
            loss, grads = step_function(model, group, run.step)
            grad_norm = clip_grads(grads, max_grad_norm)
            run.optimizer.step(grads, rate)
            del grads  # or they would stay in memory beside the next step's activations
            run.step += 1
            run.losses.append(loss)  # stays on the device until the next look
            tokens += sum(targets.size for _, targets in group)
            bar.update()
            run.grad_norm, run.lr = grad_norm, rate
            if run.step % eval_every == 0:
                measure()
            elif run.step % _LOOK_EVERY == 0:
                run.look_at_losses(advice)
            if interrupted and run.step != steps:
                run.look_at_losses(advice)
                run.save()
                raise KeyboardInterrupt
        if run.losses:
            measure()
    return run.measurements


def check_options(
    steps=None,
    lr=1e-3,
    warmup=0,
    final_lr=0.1,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    max_grad_norm=1.0,
    accumulate=1,
    shards=1,
    eval_every=250,
    patience=None,
):
    """Raise ValueError, naming the option, unless fit can work with these."""
    counts = {"steps": steps, "eval_every": eval_every, "accumulate": accumulate, "patience": patience, "warmup": warmup}
    if not 1 <= shards <= 1024:
        raise ValueError(f"shards must be at least 1 and at most 1024, got {shards}")
    for name, value in counts.items():
        least = 0 if name == "warmup" else 1
        if value is not None and not least <= value <= MOST:
            raise ValueError(f"{name} must be at least {least}{' and at most 2^63 - 1' if value > MOST else ''}, got {value}")
    if not 0 <= final_lr <= 1:
        raise ValueError(f"final_lr must be between 0 and 1, got {final_lr}")
    if not 0 < max_grad_norm <= float(np.finfo(np.float32).max):
        raise ValueError(f"max_grad_norm must be a positive number that float32 can hold, got {max_grad_norm}")
    AdamW({"any": np.zeros(1)}, lr, betas, weight_decay=weight_decay)


def evaluate(model, batches, objective=None):
    """Means over all targets of `batches`: validation_mle (nats per token), mean_q (probability of the target),
    validation_mixce (MixCE's loss η·validation_mle − (1−η)·mean_q, η the objective's or ½), and validation_loss, the
    objective's own, or MLE's without one.
    """
    eta = getattr(objective, "keywords", {}).get("eta", 0.5)
    nll, q, own, count = 0.0, 0.0, 0.0, 0
    for inputs, targets in batches:
        _check_batch(inputs, targets, model.config.vocab_size)
        logits, _ = model.forward(model.xp.asarray(inputs))
        targets_there, kept = model.xp.asarray(targets), int((targets >= 0).sum())
        minus_log_q, _ = objectives.mle(logits, targets_there, reduction="none")
        nll += float(minus_log_q.sum())
        q += float(model.xp.exp(-minus_log_q).sum()) - (targets.size - kept)  # ignored targets add exactly exp(−0) = 1 each
        own += 0.0 if objective is None else float(objective(logits, targets_there)[0]) * kept
        count += kept
    means = {"validation_mle": nll / count, "mean_q": q / count}
    means["validation_mixce"] = eta * means["validation_mle"] - (1 - eta) * means["mean_q"]
    return means | {"validation_loss": (nll if objective is None else own) / count}


def _check_batch(inputs, targets, vocab_size):
    """Raise ValueError for ids a model cannot take; on the host the look costs a GPU nothing, on the device it would wait."""
    if not isinstance(inputs, np.ndarray):
        return
    if not 0 <= inputs.min(initial=0) <= inputs.max(initial=0) < vocab_size:
        raise ValueError(f"a batch's inputs must be in 0 … {vocab_size - 1}, got {inputs.min()} … {inputs.max()}")
    if not -1 <= targets.min(initial=0) <= targets.max(initial=0) < vocab_size:
        raise ValueError(f"a batch's targets must be in 0 … {vocab_size - 1}, or −1, got {targets.min()} … {targets.max()}")


def loss_of_uniform(objective, vocab_size):
    """The loss of a model that gives every token the probability 1/V: what an untrained model should be close to.

    For MixCE −η log(1/V) − (1−η)/V.
    """
    loss, _ = objective(np.zeros((1, vocab_size)), np.zeros(1, dtype=int))
    return float(loss)


def learning_rate(step, lr, warmup, steps, final_lr):
    """The rate of step 0, 1, …: a linear rise, then half a cosine down, or constant where the end is not known."""
    if steps is None:
        return lr * min(1.0, (step + 1) / max(1, warmup))
    return warmup_cosine(step, lr, warmup, steps, final_lr)


class _Run:
    """What changes while a run goes on, and its folder."""

    _REMEMBERED = ("step", "losses", "measurements", "grad_norm", "lr", "best", "worse", "objective")

    def __init__(self, model, optimizer, objective, folder, boundary):
        self.model, self.optimizer, self.objective, self.boundary = model, optimizer, _describe(objective), boundary
        self.folder = None if folder is None else Path(folder)
        self.step, self.losses, self.measurements, self.grad_norm, self.lr = 0, [], [], None, None
        self.best, self.worse = float("inf"), 0  # least validation loss, and measurements since then

    def look_at_losses(self, advice):
        """Bring the losses since the last measurement to the host; FloatingPointError if one is not finite."""
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
            raise FloatingPointError(f"the gradient is not finite at step {self.step}; try {advice}")

    def add(self, found):
        self.measurements.append(found)
        self.losses = []
        if "validation_loss" in found:
            self.worse = 0 if found["validation_loss"] < self.best else self.worse + 1
            self.best = min(self.best, found["validation_loss"])

    def save(self):
        """Export the models and metrics, then replace the state: whatever a kill leaves, the state is never ahead of them."""
        if self.folder is None:
            return
        measured_just_now = self.measurements and self.measurements[-1]["step"] == self.step
        if self.best == float("inf") or (measured_just_now and self.worse == 0):  # without validation the last is the best
            self.model.save(self.folder, overwrite=True, boundary=self.boundary)
        self.model.save(self.folder / LAST, overwrite=True, boundary=self.boundary)
        lines = "".join(json.dumps(m) + "\n" for m in self.measurements)
        checkpoint.write_atomically(self.folder / METRICS_FILE, lines.encode())
        arrays = {f"{kind}.{name}": value for kind, group in self._groups().items() for name, value in group.items()}
        info = {name: getattr(self, name) for name in self._REMEMBERED}
        info["grad_norm"] = None if self.grad_norm is None else float(self.grad_norm)
        checkpoint.save_state(self.folder / STATE_FILE, arrays, info)

    def load(self):
        arrays, info = checkpoint.load_state(self.folder / STATE_FILE)
        expected = {f"{kind}.{name}": a.shape for kind, group in self._groups().items() for name, a in group.items()}
        checkpoint.check_shapes(self.folder / STATE_FILE, expected, arrays)
        for kind, group in self._groups().items():
            for name, value in group.items():
                value[...] = self.model.xp.asarray(arrays[f"{kind}.{name}"])
        objective = self.objective
        for name in self._REMEMBERED:
            setattr(self, name, info[name])
        self.optimizer.steps = self.step
        if objective != self.objective:  # losses of another scale: what was best by them says nothing now
            self.objective, self.best, self.worse = objective, float("inf"), 0

    def _groups(self):
        return {"params": self.model.params, "mean": self.optimizer.mean, "square": self.optimizer.square}


def _describe(objective):
    """A name with its ratios, to notice when a resumed run is given another objective."""
    function, options = getattr(objective, "func", objective), getattr(objective, "keywords", {})
    ratios = {name: value for name, value in options.items() if isinstance(value, (int, float, str))}
    name = getattr(function, "__name__", type(function).__qualname__)  # never a repr: its address changes with the process
    return f"{name} {json.dumps(ratios, sort_keys=True)}"


def is_step(objective):
    """Whether fit takes `objective` for a whole step(model, batch) -> loss, grads."""
    if not callable(objective):
        raise TypeError(f"objective must be a function, as minimixce.objectives.mixce, got {objective!r}")
    return next(iter(inspect.signature(objective).parameters), None) == "model"


def _takes_normalizer(objective):
    return "normalizer" in inspect.signature(objective).parameters


def step_of_objective(objective, seed=0, shards=1):
    """step(model, group, number) -> loss, grads over a group of batches, from a token objective.

    The random numbers of dropout depend on seed, step and shard alone, so that a resumed run draws what an undisturbed one
    would. NumPy lets go of Python's lock while it computes, so the threads that take a shard each do run side by side.
    """
    takes_normalizer = _takes_normalizer(objective)

    def step_of_shard(model, group, count, number, shard):
        xp, loss, grads, rng = model.xp, 0.0, None, None
        if model.config.dropout:
            rng = backend.rng(int(np.random.SeedSequence([seed, number, shard]).generate_state(1)[0]), xp)
        for inputs, targets in group:
            rows = slice(shard * len(inputs) // shards, (shard + 1) * len(inputs) // shards)
            if rows.start == rows.stop:
                continue
            logits, cache = model.forward(xp.asarray(inputs[rows]), training=True, rng=rng)
            if takes_normalizer:
                part, dlogits = objective(logits, xp.asarray(targets[rows]), normalizer=count)
            else:
                part, dlogits = (value / len(group) for value in objective(logits, xp.asarray(targets)))
            grads = model.backward(dlogits, cache, grads)
            loss = loss + part
        return loss, grads

    def step(model, group, number):
        count = max(1, sum(int((targets >= 0).sum()) for _, targets in group))
        if shards == 1:
            return step_of_shard(model, group, count, number, 0)
        with ThreadPoolExecutor(shards) as pool:
            contexts = [contextvars.copy_context() for _ in range(shards)]  # so that NumPy's error settings hold there too
            parts = [pool.submit(c.run, step_of_shard, model, group, count, number, i) for i, c in enumerate(contexts)]
        (loss, grads), *others = [p.result() for p in parts if p.result()[1] is not None]  # None: more shards than rows
        for more_loss, more in others:  # always in this order, so that a run repeats bit for bit
            loss = loss + more_loss
            for name, g in more.items():
                grads[name] += g
        return loss, grads

    return step


def _step_of_steps(one):
    """The same from a user's step(model, batch) -> loss, grads: the mean over the group."""
    takes_number = "number" in inspect.signature(one).parameters

    def step(model, group, number):
        loss, grads = 0.0, None
        for k, (inputs, targets) in enumerate(group):
            numbered = {"number": number * len(group) + k} if takes_number else {}
            part, more = one(model, (model.xp.asarray(inputs), model.xp.asarray(targets)), **numbered)
            loss = loss + part / len(group)
            more = {name: g / len(group) for name, g in more.items()}
            grads = more if grads is None else {name: grads[name] + g for name, g in more.items()}
        return loss, grads

    return step


def _groups(batches, first, size):
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
def _interrupt_flag(wanted):
    """A list that is filled by the first Ctrl-C, which then waits for the step to end; a second one acts at once."""
    flag = []
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
