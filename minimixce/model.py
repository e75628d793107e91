"""What every language model of the package shares: its interface, its checks, and sampling."""

import dataclasses
import math
import operator
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from . import backend
from .backend import array_module, check_array
from .kv import KV, num_positions
from .storage import checkpoint
from .storage.shapes import (
    Array,
    ArrayModule,
    Arrays,
    Bool,
    FilePath,
    Float,
    Grads,
    IdsOrOneHots,
    Int,
    Loss,
    LossAndGrads,
    RandomGenerator,
    Seed,
)
from .storage.validate import NotFinite, check_count, check_finite, check_integer, check_number

_M = TypeVar("_M", bound="LanguageModel")


def check_config(config: Any) -> None:
    """Raise ValueError or TypeError, naming the field, for a config that models cannot have.

    Every integer has to be at least 1, its dropout a rate and its dtype one that models have.
    """
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        if field.type is int:
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
            object.__setattr__(config, name, int(value))  # NumPy's integers do not go into JSON
        elif name == "dropout":
            if not isinstance(value, (int, float, np.number)) or not 0 <= value < 1:
                raise ValueError(f"dropout must be at least 0 and below 1, got {value!r}")
            object.__setattr__(config, name, float(value))
        elif name == "dtype" and value not in ("float32", "float64"):
            raise ValueError(f'dtype must be "float32" or "float64", got {value!r}')


CACHE_HAS_SERVED = "this cache has served a backward already; run forward again for a fresh one"


@runtime_checkable
class Model(Protocol):
    """What exact sums ask of a model; every LanguageModel has it, another class may.

    method="list" asks for forward and backward, the tree for extend_forward and extend_backward.
    """

    params: Arrays

    @property
    def config(self) -> Any:
        """vocab_size, block_size, n_layer, dropout, dtype."""
        ...

    def extend_forward(
        self,
        x: IdsOrOneHots,
        past: list[KV] | None = None,
        training: bool = False,
        rng: RandomGenerator | None = None,
    ) -> tuple[Float[Array, "B T V"], list[KV], Any]:
        """As LanguageModel's."""
        ...

    def extend_backward(
        self,
        dlogits: Float[Array, "B T V"],
        dpresent: list[KV] | None,
        cache: Any,
        grads: Grads | None = None,
    ) -> tuple[Float[Array, "B T V"] | None, list[KV] | None, Grads]:
        """As LanguageModel's."""
        ...


class LanguageModel:
    """What every model shares: training, generation and exact sums work with any of them.

    A model has `.params` {name: array} and `.config` (vocab_size, block_size, n_layer, dropout,
    dtype), and two methods of its own, extend_forward and extend_backward, which continue sequences
    after a past and differentiate that. Everything else that a model does is built from these two.
    """

    config: Any
    params: Arrays

    def extend_forward(
        self,
        x: IdsOrOneHots,
        past: list[KV] | None = None,
        training: bool = False,
        rng: RandomGenerator | None = None,
    ) -> tuple[Float[Array, "B T V"], list[KV], Any]:
        """Continue sequences after `past` -> logits (B,T,V), present, cache.

        x: ids (B,T) or soft one-hots (B,T,V); each model says how. With training=True dropout acts,
        from `rng`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no extend_forward")

    def extend_backward(
        self,
        dlogits: Float[Array, "B T V"],
        dpresent: list[KV] | None,
        cache: Any,
        grads: Grads | None = None,
    ) -> tuple[Float[Array, "B T V"] | None, list[KV] | None, Grads]:
        """dlogits (B,T,V), dpresent and extend_forward's cache -> dx, dpast, grads.

        dpresent is like present, or None for zero; dx is None for ids, dpast without a past. Adds
        into `grads` if given.
        """
        raise NotImplementedError(f"{type(self).__name__} has no extend_backward")

    def save(self, folder: FilePath, overwrite: bool = False, boundary: int | None = None) -> None:
        """Write the model to `folder`, in a form of each model's own; options as for GPT.save."""
        raise NotImplementedError(f"{type(self).__name__} has no save")

    @property
    def num_params(self) -> int:
        """How many numbers the parameters hold."""
        return sum(p.size for p in self.params.values())

    @property
    def xp(self) -> ArrayModule:
        """The array module of the device this model lives on."""
        return array_module(next(iter(self.params.values())))

    def forward(
        self, tokens: IdsOrOneHots, training: bool = False, rng: RandomGenerator | None = None
    ) -> tuple[Float[Array, "B T V"], Any]:
        """tokens -> logits (B,T,V), cache.

        tokens: ids (B,T) or soft one-hots (B,T,V), T ≤ config.block_size. logits[:, t] predict
        token t+1. Dropout acts only with training=True and then needs `rng`. Ids are looked at on
        the host alone; of a GPU's, backend.check_ids says what becomes of those out of range.
        """
        logits, _, cache = self.extend_forward(tokens, None, training, rng)
        return logits, cache

    def backward(
        self, dlogits: Float[Array, "B T V"], cache: Any, grads: Grads | None = None
    ) -> Grads:
        """dlogits (B,T,V) -> grads {name: array} with exactly the keys of params.

        Adds into `grads` if given.
        """
        _, _, grads = self.extend_backward(dlogits, None, cache, grads)
        return grads

    def loss_and_grads(
        self,
        tokens: IdsOrOneHots,
        targets: Int[Array, "B T"],
        objective: Loss,
        rng: RandomGenerator | None = None,
        grads: Grads | None = None,
    ) -> LossAndGrads:
        """Forward in training, objective(logits, targets), backward -> loss, grads {name: array}.

        tokens, rng: forward's; grads: backward's. The objective must add up over the rows of a
        batch, as one does whose normalizer is given: a model may give it some of them at a time.
        """
        logits, cache = self.forward(tokens, training=True, rng=rng)
        loss, dlogits = objective(logits, targets)
        return loss, self.backward(dlogits, cache, grads)

    def logits_in_chunks(
        self, tokens: IdsOrOneHots
    ) -> Iterator[tuple[slice, Float[Array, "_B T V"]]]:
        """Forward where no backward follows: an iterator over (rows, their logits (_B,T,V)).

        rows: slices that cover the batch, `tokens` as forward takes them, one after the other. A
        model may keep no cache, and not all logits at a time.
        """
        yield slice(0, len(tokens)), self.forward(tokens)[0]

    def generate(
        self,
        prompt: Int[Array, "B T0"],
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: int | None = None,
        seed: Seed = 0,
        lengths: Any = None,
    ) -> Int[Array, "B T0+{max_new_tokens}"]:
        """Sample continuations: prompt ids (B,T0) -> (B,T0+max_new_tokens) int64.

        temperature 0 takes the likeliest token; top_k keeps exactly the k likeliest, top_p the
        fewest likeliest tokens that hold probability p, of equally likely ones those with the
        lowest ids (transformers' top_k keeps all that are as likely as the k-th; its top_p is this
        one, except for the order of equals). A row that met the token `stop` is filled with it. The
        past is kept from token to token; when it fills the window, the last block_size//2 tokens
        are kept and recomputed. `seed` is an integer or a backend.rng generator. Raises NotFinite,
        a ValueError, for logits that are not finite; a GPU, which would have to wait for the look,
        draws −1 there (see check_drawn).

        lengths: B integers on the host, where prompts have unequal length: row i of prompt begins
        with lengths[i] tokens, and what follows them is not looked at. Row i of the result is these
        tokens, the new ones, then −1. Rows stand at their own positions, so each is as it would be
        without the others, except that they share the random numbers.

        >>> config = mm.GPTConfig(6, block_size=8, n_layer=1, n_head=1, n_embd=4)
        >>> mm.GPT(config, device="cpu").generate(np.array([[0]]), 4, seed=0).shape
        (1, 5)
        """
        xp = check_array("prompt", prompt)
        options = (temperature, top_k, top_p, stop, seed)
        if lengths is None:
            tokens = list(self.stream(prompt, max_new_tokens, *options))
            return xp.concatenate([prompt.astype("int64"), *(t[:, None] for t in tokens)], axis=1)
        lengths = _checked_lengths(lengths, prompt)
        window, given, kept = _aligned(prompt, lengths, self.config.block_size)
        run_on = int(kept.max() - kept.min())  # steps until the longest prompt has been read
        max_new_tokens = check_count("max_new_tokens", max_new_tokens, least=0)
        tokens = list(self._checked_stream(window, max_new_tokens + run_on, *options, given))
        return _unaligned(prompt, tokens, max_new_tokens, lengths, kept)

    def stream(
        self,
        prompt: Int[Array, "B T0"],
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: int | None = None,
        seed: Seed = 0,
    ) -> Iterator[Int[Array, " B"]]:
        """The tokens of `generate` one by one: an iterator over max_new_tokens arrays (B,).

        prompt (B,T0), temperature, top_k, top_p, stop, seed and errors: as for generate.
        """
        return self._checked_stream(prompt, max_new_tokens, temperature, top_k, top_p, stop, seed)

    def _checked_stream(
        self, prompt, max_new_tokens, temperature, top_k, top_p, stop, seed, given=()
    ):
        max_new_tokens = check_count("max_new_tokens", max_new_tokens, least=0)
        sampling = _checked_sampling(temperature, top_k, top_p)
        check_array("prompt", prompt)
        if prompt.ndim != 2 or prompt.dtype.kind not in "iu":
            raise ValueError(f"prompt must be token ids (B,T), got {prompt.dtype} {prompt.shape}")
        if stop is not None:
            check_integer("stop", stop)
        if stop is not None and not 0 <= stop < self.config.vocab_size:
            raise ValueError(
                f"stop must be a token id in 0 … {self.config.vocab_size - 1}, got {stop}"
            )
        # int64, because narrow ids would wrap around
        return self._stream(prompt.astype("int64"), max_new_tokens, sampling, stop, seed, given)

    def _stream(self, prompt, max_new_tokens, sampling, stop, seed, given):
        """given: for the first steps, (is_given, tokens), both (B,): what stands in longer prompts
        is taken as it is.
        """
        xp, block_size = array_module(prompt), self.config.block_size
        rng = backend.rng(seed, xp)
        window, past = prompt[:, -block_size:], None
        seen = [window]  # the tokens of the past, to refill the window from
        stopped = xp.zeros(len(prompt), dtype=bool)
        for step in range(max_new_tokens):
            # on a GPU every look would wait for the device
            if stop is not None and xp is np and stopped.all():
                yield xp.full(len(prompt), stop, prompt.dtype)
                continue
            logits, past = self._next_logits(window, past)
            tokens = _sample(logits, *sampling, rng).astype("int64")
            if stop is not None:
                tokens = xp.where(stopped, stop, tokens)
                stopped |= tokens == stop
            if step < len(given):
                is_given, of_prompt = given[step]
                tokens = xp.where(is_given, of_prompt, tokens)
                stopped &= ~is_given  # a stop inside a prompt, or drawn in its place, ends nothing
            yield tokens
            window = tokens[:, None]
            seen.append(window)
            if num_positions(past) == block_size:
                window, past = xp.concatenate(seen, axis=1)[:, -max(1, block_size // 2) :], None
                seen = [window]

    def _next_logits(
        self, x: Int[Array, "B T"], past: list[KV] | None
    ) -> tuple[Float[Array, "B V"], list[KV]]:
        """extend_forward's logits at the last position (B,V), and present: a model may be quicker
        when no more is asked.
        """
        logits, present, _ = self.extend_forward(x, past)
        return logits[:, -1], present

    def _check_cache(self, cache: Any, kind: Any) -> None:
        """Raise TypeError or ValueError unless this model's forward made the cache."""
        message = "cache must be one that this model's forward returned, got {}"
        if not isinstance(cache, kind):
            raise TypeError(message.format(f"a {type(cache).__name__}"))
        if cache.model is not self:
            raise ValueError(message.format("another model's"))

    def _check_device(self, name: str, x: Any) -> ArrayModule:
        """The array module of x; TypeError, naming it, unless that is the model's, too."""
        xp = check_array(name, x)
        if xp is not self.xp:
            both = f"{xp.__name__} and {self.xp.__name__}"
            raise TypeError(f"{name} and model must be on the same device, got {both}")
        return xp

    def _check_dlogits(self, dlogits: Any, x: Array) -> None:
        """Raise TypeError or ValueError unless dlogits has the shape of the logits; x (B,T,…)."""
        self._check_device("dlogits", dlogits)
        if dlogits.dtype.kind != "f":
            raise TypeError(f"dlogits must be floats, got {dlogits.dtype}")
        shape = (*x.shape[:2], self.config.vocab_size)
        if dlogits.shape != shape:
            raise ValueError(f"dlogits must have the shape of logits, {shape}, got {dlogits.shape}")

    def _check_input(self, x: Array, start: int = 0) -> None:
        """Raise TypeError or ValueError unless x can come after `start` positions."""
        V, xp = self.config.vocab_size, self._check_device("input", x)
        if x.dtype.kind in "iu":
            if x.ndim != 2:
                raise ValueError(f"token ids must have shape (B,T), got {x.shape}")
            # On a GPU this check would make every step wait for the device; fit checks batches
            # before they go there.
            if xp is np:
                backend.check_ids("token ids", x, V)
        elif x.ndim != 3 or x.shape[2] != V or x.dtype != self.config.dtype:
            raise ValueError(
                f"input must be integer ids (B,T) or {self.config.dtype} one-hots (B,T,{V}), got"
                f" {x.dtype} {x.shape}"
            )
        if len(x) == 0:
            raise ValueError("input must have at least one row, got none")
        if x.shape[1] == 0:
            raise ValueError("input must have at least one position, got 0 positions")
        if x.shape[1] > self.config.block_size - start:
            raise ValueError(
                f"an input of {x.shape[1]} positions after {start} does not fit block_size"
                f" {self.config.block_size}"
            )

    @classmethod
    def _opened(
        cls: type[_M], folder: Any, config: Any, shapes: Any, params: Any, device: str
    ) -> _M:
        """The model with these NumPy params on `device`; ValueError, naming the folder, unless they
        have these shapes.
        """
        xp = backend.select_device(device)
        checkpoint.check_shapes(folder, shapes, params)
        model = cls.__new__(cls)
        model.config, model.params = config, {name: xp.asarray(params[name]) for name in shapes}
        return model


def add_grad(grads: Grads, name: str, value: Float[Array, "..."]) -> None:
    """grads[name] += value, or the first value itself; grads: {name: array}."""
    if name in grads:
        grads[name] += value
    else:
        grads[name] = value


def xp_of(model: Model) -> ArrayModule:
    """The array module a model's parameters live in."""
    return array_module(next(iter(model.params.values())))


def complete_grads(grads: Grads, model: Model) -> Grads:
    """grads {name: array} with exactly the keys of the model's params.

    Zeros where nothing depends on a parameter of `model`, as with a horizon of 1.
    """
    return {
        name: grads[name] if name in grads else xp_of(model).zeros_like(p)
        for name, p in model.params.items()
    }


def likeliest(values: Float[Array, "B V"], count: int) -> Bool[Array, "B V"]:
    """The `count` largest values of each row, of equal ones the first: (B,V) -> bool (B,V)."""
    place = values.shape[-1] - operator.index(count)  # of the last of them where rows are sorted
    least = array_module(values).partition(values, place, axis=-1)[:, place : place + 1]
    return _at_least(values, least, count)


def nucleus(probs: Float[Array, "B V"], top_p: float) -> Bool[Array, "B V"]:
    """The likeliest tokens of each row until they hold top_p, all for 1: probs (B,V) -> bool (B,V).

    A token is left out when the likelier ones hold at least top_p − 1e-12, since sums are rounded.
    """
    xp = array_module(probs)
    if top_p == 1:
        return xp.ones(probs.shape, dtype=bool)
    ordered = -xp.sort(-probs, axis=-1)
    before = xp.cumsum(ordered, axis=-1) - ordered  # probability of all likelier tokens
    count = (before < top_p - 1e-12).sum(axis=-1, keepdims=True)
    count = xp.maximum(count, 1)  # none where top_p itself is that small
    return _at_least(probs, xp.take_along_axis(ordered, count - 1, axis=-1), count)


def _at_least(values, least, count):
    """Which values (B,V) are the `count` largest of their row, the last of which is least (B,1)."""
    larger = values > least
    equal = values == least
    places = count - larger.sum(axis=-1, keepdims=True)  # left for the equal ones
    return larger | (equal & (array_module(values).cumsum(equal, axis=-1) <= places))


def _checked_lengths(lengths: Any, prompt: Int[Array, "B T0"]) -> Int[Array, " B"]:
    """lengths as an array (B,); TypeError or ValueError unless each is in 1 … T0."""
    found, B = np.asarray(lengths), len(prompt)
    if found.dtype.kind not in "iu" or found.shape != (B,):
        got = f"shape {found.shape}" if found.dtype.kind in "iu" else found.dtype
        raise ValueError(f"lengths must be {B} integers, one for each row of prompt, got {got}")
    if prompt.ndim != 2 or not 1 <= found.min() <= found.max() <= prompt.shape[1]:
        bad = found.min() if found.min() < 1 else found.max()
        raise ValueError(f"lengths must be in 1 … {prompt.shape[1]}, got {bad}")
    return found.astype(np.int64)


def _aligned(prompt, lengths, block_size):
    """Prompts of unequal length, each from its position 0 on: what all of them have (B,T), what the
    longer ones give in the steps after it (see _stream), and how many tokens each keeps, since a
    window holds no more than block_size.
    """
    xp = array_module(prompt)
    kept = np.minimum(lengths, block_size)
    positions = np.arange(kept.max())
    place = np.minimum((lengths - kept)[:, None] + positions, prompt.shape[1] - 1)
    inside = xp.asarray(positions < kept[:, None])
    tokens = xp.where(inside, xp.take_along_axis(prompt, xp.asarray(place), axis=1), 0)
    given = [(inside[:, t], tokens[:, t]) for t in positions[kept.min() :].tolist()]
    return tokens[:, : int(kept.min())], given, kept


def _unaligned(prompt, tokens, n, lengths, kept):
    """The result of generate, from prompts of unequal length and the tokens (B,) of all steps: row
    i has drawn its own n since step kept[i] − min(kept).
    """
    xp = array_module(prompt)
    number = np.arange(prompt.shape[1] + n) - lengths[:, None]  # of a new token, below 0 in prompts
    rest = xp.zeros((len(prompt), n), dtype="int64")
    result = xp.concatenate([prompt.astype("int64"), rest], axis=1)
    result = xp.where(xp.asarray(number < 0), result, -1)
    if n == 0:
        return result
    step = np.clip(number, 0, n - 1) + (kept - kept.min())[:, None]
    new = xp.take_along_axis(xp.stack(tokens, axis=1), xp.asarray(step), axis=1)
    return xp.where(xp.asarray((number >= 0) & (number < n)), new, result)


def _sample(
    logits: Float[Array, "B V"],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    rng: RandomGenerator,
) -> Int[Array, " B"]:
    """One token a row: logits (B,V) -> ids (B,); −1 on a GPU where logits are not finite."""
    xp = array_module(logits)
    top = logits.max(axis=-1, keepdims=True)
    check_finite("logits", top)
    if temperature == 0:
        tokens = logits.argmax(axis=-1)
    else:
        tokens = _draw(_weights(logits, top, temperature, top_k, top_p), rng)
    return tokens if xp is np else xp.where(xp.isfinite(top[:, 0]), tokens, -1)


def _weights(logits, top, temperature, top_k, top_p):
    """Numbers (B,V) in proportion to the probabilities that tokens are drawn with: softmax without
    its division. top (B,1) is the largest logit of each row.
    """
    xp = array_module(logits)
    # float32 would round the cumulative sum of a large vocabulary visibly
    weights = logits.astype("float64")
    weights -= top
    weights /= temperature
    if top_k is not None and top_k < logits.shape[-1]:
        weights = xp.where(likeliest(weights, top_k), weights, -math.inf)
    xp.exp(weights, out=weights)
    if top_p is not None:
        probs = weights / weights.sum(axis=-1, keepdims=True)
        weights = xp.where(nucleus(probs, top_p), weights, 0)
    return weights


def _draw(weights, rng):
    """An index a row of weights (B,V), each with its weight's share of the row's sum -> (B,): the
    first whose cumulative weight passes a number that is uniform between 0 and the sum.
    """
    cumulative = array_module(weights).cumsum(weights, axis=-1)
    threshold = rng.random((len(weights), 1)) * cumulative[:, -1:]
    return (cumulative > threshold).argmax(axis=-1)


def check_drawn(tokens: Int[Array, "..."]) -> None:
    """Raise NotFinite if generated tokens tell of logits that were not finite.

    tokens: of any shape, on the host. There a GPU, which does not wait to be looked at, draws −1.
    """
    if tokens.size and tokens.min() < 0:
        raise NotFinite("logits must be finite, got others while generating")


def _checked_sampling(temperature, top_k, top_p):
    """The three as Python numbers; TypeError or ValueError, naming the option, for others."""
    check_number("temperature", temperature)
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be a finite number, at least 0, got {temperature}")
    if top_k is not None:
        top_k = check_count("top_k", top_k)  # an int: CuPy takes no NumPy integer everywhere
    if top_p is not None:
        check_number("top_p", top_p)
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
        top_p = float(top_p)
    return float(temperature), top_k, top_p
