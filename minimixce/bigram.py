"""Bigrams: models whose next token depends on the last one alone, Q(x_t | x_<t) = Q(x_t | x_{t−1}).

Their whole distribution is one (V,V) table, `model.forward(xp.arange(V)[:, None])`, so everything
about them can be computed exactly. Bigram computes the rows of the table by a small network,
TableBigram has them as its parameters. Both have the interface of GPT; having nothing to remember,
they take any number of positions and their past is an empty list.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from . import backend
from .kv import KV
from .layers import (
    dropout_backward,
    dropout_forward,
    embedding_backward,
    embedding_forward,
    linear_backward,
    linear_forward,
    relu_backward,
    relu_forward,
)
from .model import CACHE_HAS_SERVED, LanguageModel, add_grad, check_config
from .storage import checkpoint
from .storage.shapes import (
    Array,
    Arrays,
    FilePath,
    Float,
    Grads,
    IdsOrOneHots,
    RandomGenerator,
    Seed,
)

_M = TypeVar("_M", bound="_BigramModel")


class _WithoutPast:
    """A bigram has no layers, and no limit on positions."""

    n_layer = 0
    block_size = sys.maxsize


@dataclass(frozen=True)
class BigramConfig(_WithoutPast):
    """The shape of a Bigram, by default the reference paper's (whose dropout is 0.1).

    vocab_size (V) tokens, n_embd (E) channels of an embedding, n_hidden (H) of the hidden layer,
    dropout rate in [0, 1) while training, dtype "float32" to train or "float64" to check gradients.
    Raises ValueError or TypeError, naming the field, for values outside these.
    """

    vocab_size: int
    n_embd: int = 50
    n_hidden: int = 50
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_config(self)


@dataclass(frozen=True)
class TableBigramConfig(_WithoutPast):
    """The shape of a TableBigram: vocab_size (V) tokens, and dtype. Raises as BigramConfig does."""

    vocab_size: int
    dtype: str = "float64"
    dropout = 0.0  # not a field: a table has no place for it

    def __post_init__(self) -> None:
        check_config(self)


def bigram_shapes(config: BigramConfig) -> dict[str, tuple[int, ...]]:
    """{name: shape} of a Bigram's parameters."""
    V, E, H = config.vocab_size, config.n_embd, config.n_hidden
    hidden = {"hidden.weight": (E, H), "hidden.bias": (H,)}
    output = {"output.weight": (H, V), "output.bias": (V,)}
    return {"embedding.weight": (V, E)} | hidden | output


def initial_bigram(config: BigramConfig, seed: Seed = 0) -> Arrays:
    """PyTorch's defaults, which the reference trains from, as NumPy arrays {name: array}.

    The embedding is standard normal, weights and bias of a linear layer are uniform in ±1/√(its
    number of inputs). config: a BigramConfig; seed: an integer or a backend.rng generator.
    """
    rng = backend.rng(seed, np)
    limits = {"hidden": 1 / math.sqrt(config.n_embd), "output": 1 / math.sqrt(config.n_hidden)}

    def initial(name, shape):
        layer, _ = name.split(".")
        value = (
            rng.standard_normal(shape)
            if layer == "embedding"
            else rng.uniform(-limits[layer], limits[layer], shape)
        )
        return value.astype(config.dtype)

    return {name: initial(name, shape) for name, shape in bigram_shapes(config).items()}


def table_shapes(config: TableBigramConfig) -> dict[str, tuple[int, ...]]:
    """{name: shape} of a TableBigram's one parameter."""
    return {"logits": (config.vocab_size, config.vocab_size)}


class BigramCache(list):
    """Caches of the layers, which a backward takes out, and the model whose forward made them."""

    def __init__(self, model: LanguageModel, layers: list[Any]) -> None:
        super().__init__(layers)
        self.model = model


class _BigramModel(LanguageModel):
    """What the two bigrams share: there is no past to continue, and a folder holds their config and
    parameters as they are.

    A class that inherits says how its config.json is marked, and which config and shapes belong to
    it.
    """

    _model_type: str
    _config_class: type
    _shapes: Callable[..., dict[str, tuple[int, ...]]]

    def save(self, folder: FilePath, overwrite: bool = False, boundary: int | None = None) -> None:
        """Write the model as a folder (config.json, model.safetensors).

        `boundary` is the tokenizer's boundary id, which becomes bos_token_id and eos_token_id.
        Raises FileExistsError for a folder that holds a model, unless overwrite=True.
        """
        fields = (
            {"model_type": self._model_type}
            | dataclasses.asdict(self.config)
            | checkpoint.boundary_fields(boundary)
        )
        checkpoint.save_model(folder, fields, self.params, overwrite=overwrite)

    def _take(self, dlogits: Any, cache: Any) -> list[Any]:
        """What a cache holds, for one backward: it is empty from then on."""
        self._check_cache(cache, BigramCache)
        if not cache:
            raise ValueError(CACHE_HAS_SERVED)
        self._check_dlogits(dlogits, cache[-1].x)
        layers = list(cache)
        cache.clear()
        return layers

    @classmethod
    def load(cls: type[_M], folder: FilePath, device: str = "auto", dtype: str | None = None) -> _M:
        """Open a folder that save wrote; dtype=None keeps float64, else float32.

        Raises FileNotFoundError or ValueError, naming what is wrong, for a missing or corrupt
        folder or another model's.
        """
        fields = {
            field.name: field.type
            for field in dataclasses.fields(cls._config_class)
            if field.name != "dtype"
        }
        fields, params = checkpoint.load_model(folder, cls._model_type, fields, dtype)
        config = cls._config_class(**fields)
        return cls._opened(folder, config, cls._shapes(config), params, device)


class Bigram(_BigramModel):
    """The reference paper's neural bigram, with `.params` and `.config`.

    logits = W₂ dropout(relu(W₁ embedding(x) + b₁)) + b₂. Bigram(config, seed=0, device="auto"); the
    same seed gives the same parameters on every device. The paper says embedding, hidden layer,
    ReLU and dropout, so dropout acts on what the hidden layer puts out. The output weights are its
    own, not tied to the embedding. Raises TypeError for another config, ValueError for a device
    that is not there.
    """

    _model_type = "minimixce-bigram"
    _config_class = BigramConfig
    _shapes = staticmethod(bigram_shapes)

    def __init__(self, config: BigramConfig, seed: Seed = 0, device: str = "auto") -> None:
        if not isinstance(config, BigramConfig):
            raise TypeError(f"config must be a BigramConfig, got {type(config).__name__}")
        xp = backend.select_device(device)
        self.config = config
        self.params = {
            name: xp.asarray(value) for name, value in initial_bigram(config, seed).items()
        }

    def extend_forward(
        self,
        x: IdsOrOneHots,
        past: list[KV] | None = None,
        training: bool = False,
        rng: RandomGenerator | None = None,
    ) -> tuple[Float[Array, "B T V"], list[KV], list[Any]]:
        """x, ids (B,T) or soft one-hots (B,T,V) -> logits (B,T,V), present, cache.

        As GPT's, but past may only be None or empty, and present is empty: logits[:, t] depend on
        x[:, t] alone.
        """
        self._check_input(x)
        _check_no_past(past)
        params, rate = self.params, self.config.dropout if training else 0.0
        x, embedding = embedding_forward(x, params["embedding.weight"])
        x, hidden = linear_forward(x, params["hidden.weight"], params["hidden.bias"])
        x, relu = relu_forward(x)
        x, dropped = dropout_forward(x, rate, rng)
        logits, output = linear_forward(x, params["output.weight"], params["output.bias"])
        return logits, [], BigramCache(self, [embedding, hidden, relu, dropped, output])

    def extend_backward(
        self,
        dlogits: Float[Array, "B T V"],
        dpresent: list[KV] | None,
        cache: list[Any],
        grads: Grads | None = None,
    ) -> tuple[Float[Array, "B T V"] | None, None, Grads]:
        """dlogits (B,T,V), dpresent (None or empty) -> dx, dpast, grads.

        dx is None for ids, else (B,T,V); dpast is None. Adds into `grads` if given. A cache serves
        one backward; a second raises ValueError.
        """
        embedding, hidden, relu, dropped, output = self._take(dlogits, cache)
        grads = {} if grads is None else grads
        dx, dweight, dbias = linear_backward(dlogits, output)
        add_grad(grads, "output.weight", dweight)
        add_grad(grads, "output.bias", dbias)
        dx = dropout_backward(dx, dropped)
        dx = relu_backward(dx, relu)
        dx, dweight, dbias = linear_backward(dx, hidden)
        add_grad(grads, "hidden.weight", dweight)
        add_grad(grads, "hidden.bias", dbias)
        dinput, dweight = embedding_backward(dx, embedding)
        add_grad(grads, "embedding.weight", dweight)
        return dinput, None, {name: grads[name] for name in self.params}


class TableBigram(_BigramModel):
    """The bigram that can be any bigram: its parameters are the table, `.config` its size.

    `.params["logits"]` (V,V) holds the logits after token s in row s. TableBigram(vocab_size,
    seed=0, device="auto", dtype="float64") starts with all logits 0, the uniform distribution; the
    seed, which every model takes, decides nothing. Looking up a row of logits is an embedding with
    V channels.
    """

    _model_type = "minimixce-table-bigram"
    _config_class = TableBigramConfig
    _shapes = staticmethod(table_shapes)

    def __init__(
        self, vocab_size: int, seed: Seed = 0, device: str = "auto", dtype: str = "float64"
    ) -> None:
        xp = backend.select_device(device)
        self.config = TableBigramConfig(vocab_size, dtype)
        self.params = {
            name: xp.zeros(shape, dtype=dtype) for name, shape in table_shapes(self.config).items()
        }

    def extend_forward(
        self,
        x: IdsOrOneHots,
        past: list[KV] | None = None,
        training: bool = False,
        rng: RandomGenerator | None = None,
    ) -> tuple[Float[Array, "B T V"], list[KV], list[Any]]:
        """x, ids (B,T) or soft one-hots (B,T,V) -> logits (B,T,V), present, cache.

        As Bigram's; training and rng change nothing. Raises TypeError or ValueError for an x or a
        past that does not fit.
        """
        self._check_input(x)
        _check_no_past(past)
        logits, embedding = embedding_forward(x, self.params["logits"])
        return logits, [], BigramCache(self, [embedding])

    def extend_backward(
        self,
        dlogits: Float[Array, "B T V"],
        dpresent: list[KV] | None,
        cache: list[Any],
        grads: Grads | None = None,
    ) -> tuple[Float[Array, "B T V"] | None, None, Grads]:
        """dlogits (B,T,V), dpresent (None or empty) -> dx, dpast, grads. As Bigram's."""
        (embedding,) = self._take(dlogits, cache)
        grads = {} if grads is None else grads
        dx, dweight = embedding_backward(dlogits, embedding)
        add_grad(grads, "logits", dweight)
        return dx, None, {name: grads[name] for name in self.params}


def _check_no_past(past):
    if past:
        raise ValueError(
            f"past must be empty, because a bigram remembers nothing, got {len(past)} layers"
        )
