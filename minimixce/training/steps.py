"""From objectives to steps: loss and gradients of a group of batches.

An objective is a function (logits, targets) -> (loss, dlogits), a whole step a function (model,
batch) -> loss, grads. Either becomes what the loop calls: (model, group, number) -> loss, grads,
the mean over a group of batches, where number counts the groups.
"""

import contextlib
import functools
import inspect
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from .. import backend
from ..gpt import GPT
from ..model import LanguageModel, complete_grads
from ..storage.shapes import Array, Batch, Loss, LossAndGrads, RandomGenerator
from .recomputing import RecomputingGPT
from .shards import Shards, default_shards, keep_nothing, rows_of
from .threads import threads_in_use

_IN_FIT = "; a whole step, (model, batch) -> loss, grads, goes in step="


# what calling something else with (logits, targets) raises; a ValueError where it unpacks a batch
_TELLING = (AttributeError, TypeError, ValueError)

# What a step of several batches is the mean of; see GroupedObjective.
AVERAGES = ("targets", "batches")

# (model, group of batches, number of the group) -> loss, grads
GroupStep: TypeAlias = Callable[..., LossAndGrads]


# Positions of a batch that the CPU takes through the model at once, over all shards: what their
# forward leaves for backward is the most that a step holds, and longer products are hardly faster.
AT_ONCE = 1024


class NotAnObjective(TypeError, ValueError):
    """What was given as an objective fails, or does not return what an objective does."""


def describe(objective: Callable[..., Any]) -> str:
    """A function's name, with its ratios where it is a functools.partial: what a run remembers of
    its objective unless fit is told a name.
    """
    function, options = getattr(objective, "func", objective), getattr(objective, "keywords", {})
    # never a repr: its address changes with the process
    return described(getattr(function, "__name__", type(function).__qualname__), options)


def described(name: str, options: dict[str, Any]) -> str:
    """A name and those of its options {name: value} that are numbers or text, as one line: "mixce"
    and {"eta": 0.5} -> 'mixce {"eta": 0.5}'.
    """
    ratios = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in options.items()
        if isinstance(value, (int, float, str, np.number))
    }
    return f"{name} {json.dumps(ratios, sort_keys=True)}"


def check_callable(name: str, function: Any) -> None:
    """Raise TypeError unless `function`, an objective or a step, as `name` says, can be called."""
    if not callable(function):
        example = (
            "minimixce.objectives.mixce" if name == "objective" else "(model, batch) -> loss, grads"
        )
        raise TypeError(f"{name} must be a function, as {example}, got {function!r}")


def guarded(
    objective: Loss,
    name: str | None = None,
    *,
    errors: type[Exception] | tuple[type[Exception], ...] = _TELLING,
    advice: str = _IN_FIT,
) -> Loss:
    """`objective`, with a one-sentence error if it is not an objective.

    Raises NotAnObjective, which names it, if it raises one of `errors` or does not return (0-d
    loss, dlogits of logits' shape).

    name: how the sentence names it; by default its own name. advice: how the sentence ends.
    """
    name = name or describe(objective).partition(" ")[0]

    @functools.wraps(objective)
    def call(logits, targets, **options):
        try:
            result = objective(logits, targets, **options)
        except NotAnObjective:  # it was guarded already
            raise
        except errors as error:
            message = f"{name} fails: {type(error).__name__}: {error}"
            if isinstance(error, _TELLING):
                message += (
                    f"; an objective takes (logits, targets) and returns (loss, dlogits){advice}"
                )
            raise NotAnObjective(message) from error
        if not _is_loss_and_dlogits(result, logits):
            raise NotAnObjective(
                f"{name} must return (loss, dlogits), arrays of shape () and of logits' shape,"
                f" from (logits, targets){advice}"
            )
        return result

    return call


def _is_loss_and_dlogits(result: Any, logits: Array) -> bool:
    if not isinstance(result, tuple) or len(result) != 2:
        return False
    loss, dlogits = result
    loss_shape = () if isinstance(loss, (int, float)) else getattr(loss, "shape", None)
    return loss_shape == () and getattr(dlogits, "shape", None) == logits.shape


def check_recompute(recompute: bool, model: LanguageModel, step: Any = None) -> None:
    """Raise ValueError where `recompute` asks for what cannot be: model is not a GPT, or is one
    with a forward of its own, or `step`, a whole step, takes the place of an objective.
    """
    if recompute and step is not None:
        raise ValueError("recompute must be False for a step, which calls the model as it likes")
    if recompute and type(model) is not GPT:
        raise ValueError(
            "recompute must be False for a model without a GPT's blocks, got"
            f" {type(model).__name__}"
        )


def takes_normalizer(objective: Callable[..., Any]) -> bool:
    """Whether an objective has the documented keyword parameter `normalizer`, and so can take its
    targets in parts.
    """
    return "normalizer" in inspect.signature(objective).parameters


class GroupedObjective:
    """(model, group, number) -> loss, grads from an objective over tokens.

    Where it takes a `normalizer`, that is the number of targets of the whole group, so that the
    group equals one big batch; elsewhere, and with average="batches" instead of "targets", the
    batches' losses are averaged. recompute: whether a GPT's blocks are computed again in backward,
    for memory (see training/recomputing.py). The random numbers of
    dropout depend on seed, number and shard alone, so that a resumed run draws what an undisturbed
    one would. shards: how many parts every batch's rows are shared out in, which are computed side
    by side (see training/shards.py); None for as many as the first batch's shape is worth (see
    settled). share: (k, m) for rank k of m, each of which has so many shards: the sums are then
    over its own, of `shards` times m, and zero where these have no rows. `close` ends what shards
    run in.
    """

    def __init__(
        self,
        objective: Loss,
        seed: int = 0,
        shards: int | None = 1,
        share: tuple[int, int] = (0, 1),
        average: str = "targets",
        recompute: bool = False,
    ) -> None:
        self.objective = objective
        self.seed = seed
        self.shards = shards
        self.share = share
        self.average = average
        self.recompute = recompute
        self._counted = takes_normalizer(objective)
        self._side_by_side: Shards | None = None

    def __call__(self, model: LanguageModel, group: list[Batch], number: int) -> LossAndGrads:
        """Loss and gradients of a group of batches, whose number is `number`."""
        if self.shards is None:
            self.shards = shards_for(self.objective, model, group[0])
        counts = self._normalizers(group)
        if self.shards == 1:
            loss, grads = self._shard_step(model, group, counts, number, 0)
        else:
            if self._side_by_side is None:
                processes = keep_nothing(self.objective, model)
                self._side_by_side = Shards(self._shard_step, self.shards, processes)
            loss, grads = self._side_by_side(model, group, counts, number)
        if grads is None:
            return model.xp.asarray(0.0), complete_grads({}, model)
        return loss, grads

    def close(self) -> None:
        """End the processes that shards may run in."""
        if self._side_by_side is not None:
            self._side_by_side.close()

    def _normalizers(self, group):
        """What the sum over each batch's targets is divided by, so that all batches together give
        the mean.
        """
        counts = [int((targets >= 0).sum()) for _, targets in group]
        if self.average == "batches":
            return [max(1, count) * len(group) for count in counts]
        return [max(1, sum(counts))] * len(group)

    def _parts(self, model, group, counts, shard):
        """(batch, rows, normalizer) of what a shard takes through the model one after the other."""
        for batch, count in zip(group, counts, strict=True):
            n, positions = batch[0].shape
            rank, ranks = self.share
            total = ranks * self.shards
            rows = rows_of(n, (rank * self.shards + shard, total))
            size = max(1, rows.stop - rows.start)
            if model.xp is np and keep_nothing(self.objective, model):
                # dropout draws by the piece, and is to be that of as many shards without ranks
                side_by_side = total if model.config.dropout else self.shards
                size = max(1, AT_ONCE // side_by_side // positions)
            for start in range(rows.start, rows.stop, size):
                yield batch, slice(start, min(start + size, rows.stop)), count

    def _shard_step(self, model, group, counts, number, shard, grads=None):
        loss = 0.0
        rng = _dropout_rng(model, self.seed, number, self.share[0] * self.shards + shard)
        in_training = RecomputingGPT(model) if self.recompute else model
        for (inputs, targets), rows, count in self._parts(model, group, counts, shard):
            tokens, wanted = model.xp.asarray(inputs[rows]), model.xp.asarray(targets[rows])
            if self._counted:
                of_part = functools.partial(self.objective, normalizer=count)
                part, grads = in_training.loss_and_grads(tokens, wanted, of_part, rng, grads)
            else:
                logits, cache = in_training.forward(tokens, training=True, rng=rng)
                part, dlogits = (value / len(group) for value in self.objective(logits, wanted))
                grads = in_training.backward(dlogits, cache, grads)
            loss = loss + part
        return loss, grads


@contextlib.contextmanager
def ending(group_step: GroupStep) -> Iterator[None]:
    """Inside, group_step is called; at the end, the processes that it may have forked are ended."""
    try:
        yield
    finally:
        if isinstance(group_step, GroupedObjective):
            group_step.close()


def settled(group_step: GroupStep, model: LanguageModel, batches: Iterable[Batch]) -> Any:
    """`batches`, or an iterator over them, once their first has settled the shards of group_step:
    a run that goes on with later ones is to be computed as it was begun.
    """
    if not isinstance(group_step, GroupedObjective) or group_step.shards is not None:
        return batches
    rest = iter(batches)
    begin = list(itertools.islice(rest, 1))
    if begin:
        group_step.shards = shards_for(group_step.objective, model, begin[0])
    return batches if hasattr(batches, "__getitem__") else itertools.chain(begin, rest)


def shards_for(objective: Loss, model: LanguageModel, batch: Batch) -> int:
    """How many shards are worth it for batches like this one (see shards.default_shards): 1 on a
    GPU, and where the model or the objective might keep something between calls.
    """
    if model.xp is not np or not keep_nothing(objective, model):
        return 1
    rows, positions = batch[0].shape
    return default_shards(model.num_params, rows, positions, threads_in_use())


def _dropout_rng(
    model: LanguageModel, seed: int, number: int, shard: int
) -> RandomGenerator | None:
    """The generator of one step's dropout, or None for a model without."""
    if not model.config.dropout:
        return None
    drawn = np.random.SeedSequence([seed, number, shard]).generate_state(1)[0]
    return backend.rng(int(drawn), model.xp)


def grouped_step(step: Callable[..., LossAndGrads], share: tuple[int, int] = (0, 1)) -> GroupStep:
    """(model, group, number) -> loss, grads from a user's step(model, batch) -> loss, grads: the
    mean over the group. A step with the documented keyword parameter `number` is given the number
    of the batch; with `share`, (k, m) for the share k of m of it that it is to compute, such that
    the shares add up to the whole. ValueError for other shares than (0, 1) without such a
    parameter.
    """
    parameters = inspect.signature(step).parameters
    takes_number = "number" in parameters
    given = {"share": share} if "share" in parameters else {}
    if share[1] > 1 and not given:
        raise ValueError(
            "a step needs a parameter `share`, (k, m) for share k of m of its batch, to be shared"
            f" out over ranks: {describe(step)} has none"
        )

    def mean_step(model, group, number):
        loss, grads = 0.0, None
        for k, (inputs, targets) in enumerate(group):
            numbered = {"number": number * len(group) + k} if takes_number else {}
            batch = model.xp.asarray(inputs), model.xp.asarray(targets)
            part, more = step(model, batch, **numbered, **given)
            loss = loss + part / len(group)
            more = {name: g / len(group) for name, g in more.items()}
            grads = more if grads is None else {name: grads[name] + g for name, g in more.items()}
        return loss, grads

    return mean_step
