"""GPT: GPT-2's transformer with the backward pass written out.

A model is a config and a dict of named arrays. The names, layouts and shapes are Hugging Face
GPT-2's, so `save` writes a folder that `transformers` opens, and GPT-2's own weights open here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from . import backend
from .fast import (  # these are layers' functions, or faster forms that give the same
    AttentionCache,
    attention_backward,
    attention_forward,
    gelu_backward,
    gelu_forward,
    head_chunks,
    head_in_chunks,
    layer_norm_backward,
    layer_norm_forward,
    linear_backward,
    linear_forward,
    splits_head,
    token_forward,
    unembedding_backward,
    unembedding_forward,
)
from .kv import KV, add_kv, extend_kv, extend_kv_backward, num_positions
from .layers import (
    DropoutCache,
    EmbeddingCache,
    GeluCache,
    LayerNormCache,
    LinearCache,
    PositionCache,
    UnembeddingCache,
    dropout_backward,
    dropout_forward,
    embedding_backward,
    embedding_forward,
    position_backward,
    position_forward,
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
    Int,
    Loss,
    LossAndGrads,
    RandomGenerator,
    Seed,
)


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT.

    vocab_size (V) tokens, at most block_size positions, n_layer blocks, n_head heads (H) that
    divide n_embd channels (C), dropout rate in [0, 1) while training, dtype "float32" to train or
    "float64" to check gradients. Raises ValueError or TypeError, naming the field, for values
    outside these.
    """

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_config(self)
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd must be a multiple of n_head, got n_embd={self.n_embd} and"
                f" n_head={self.n_head}"
            )


def param_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """What a GPTConfig makes: {name: shape} of the parameters.

    Names and layouts are Hugging Face's, in GPT-2's order; config: the sizes.
    """
    C = config.n_embd
    layer_norm: dict[str, tuple[int, ...]] = {"weight": (C,), "bias": (C,)}
    block: dict[str, dict[str, tuple[int, ...]]] = {
        "ln_1": layer_norm,
        "attn.c_attn": {"weight": (C, 3 * C), "bias": (3 * C,)},
        "attn.c_proj": {"weight": (C, C), "bias": (C,)},
        "ln_2": layer_norm,
        "mlp.c_fc": {"weight": (C, 4 * C), "bias": (4 * C,)},
        "mlp.c_proj": {"weight": (4 * C, C), "bias": (C,)},
    }
    layers = {
        f"h.{i}.{layer}": shapes for i in range(config.n_layer) for layer, shapes in block.items()
    }
    params = {
        f"{layer}.{kind}": shape
        for layer, shapes in layers.items()
        for kind, shape in shapes.items()
    }
    embeddings = {"wte.weight": (config.vocab_size, C), "wpe.weight": (config.block_size, C)}
    return embeddings | params | {"ln_f.weight": (C,), "ln_f.bias": (C,)}


def initial_params(config: GPTConfig, seed: Seed = 0) -> Arrays:
    """GPT-2's initialisation, as NumPy arrays {name: array}.

    Weights are normal with standard deviation 0.02, those that write into the residual stream
    (c_proj) divided by √(2·n_layer); biases are 0, layer-norm weights 1. config: a GPTConfig; seed:
    an integer or a backend.rng generator.
    """
    rng, residual_std = backend.rng(seed, np), 0.02 / math.sqrt(2 * config.n_layer)

    def initial(name, shape):
        if len(shape) == 1:
            return np.full(shape, 0.0 if name.endswith("bias") else 1.0, config.dtype)
        std = residual_std if name.endswith("c_proj.weight") else 0.02
        return (std * rng.standard_normal(shape)).astype(config.dtype)

    return {name: initial(name, shape) for name, shape in param_shapes(config).items()}


class BlockCache(NamedTuple):
    ln_1: LayerNormCache
    c_attn: LinearCache
    attention: AttentionCache
    attn_proj: LinearCache
    attn_dropout: DropoutCache
    ln_2: LayerNormCache
    c_fc: LinearCache
    gelu: GeluCache
    mlp_proj: LinearCache
    mlp_dropout: DropoutCache


def block_forward(
    x: Float[Array, "B T C"],
    params: Arrays,
    name: str,
    n_head: int,
    past: KV | None = None,
    dropout: float = 0.0,
    rng: RandomGenerator | None = None,
) -> tuple[Float[Array, "B T C"], BlockCache]:
    """One block, x + attention(ln_1(x)) and then x + mlp(ln_2(x)). x (B,T,C) -> y (B,T,C).

    The block's parameters are those of `params` whose names start with `name` ("h.0"). n_head,
    past, dropout and rng are attention_forward's.
    """

    def weights(layer):
        return params[f"{name}.{layer}.weight"], params[f"{name}.{layer}.bias"]

    y, ln_1 = layer_norm_forward(x, *weights("ln_1"))
    y, c_attn = linear_forward(y, *weights("attn.c_attn"))
    y, attention = attention_forward(y, n_head, past, dropout, rng)
    y, attn_proj = linear_forward(y, *weights("attn.c_proj"))
    y, attn_dropout = dropout_forward(y, dropout, rng)
    x = x + y
    y, ln_2 = layer_norm_forward(x, *weights("ln_2"))
    y, c_fc = linear_forward(y, *weights("mlp.c_fc"))
    y, gelu = gelu_forward(y)
    y, mlp_proj = linear_forward(y, *weights("mlp.c_proj"))
    y, mlp_dropout = dropout_forward(y, dropout, rng)
    return x + y, BlockCache(
        ln_1, c_attn, attention, attn_proj, attn_dropout, ln_2, c_fc, gelu, mlp_proj, mlp_dropout
    )


def block_backward(
    dx: Float[Array, "B T C"], cache: BlockCache, name: str, grads: Grads, dkv: KV | None = None
) -> tuple[Float[Array, "B T C"], KV | None]:
    """dx (B,T,C) of the block's output -> dx of its input, dpast.

    Parameter gradients are added into `grads`. x and dx are the residual stream, y and dy a branch
    off it. In x + f(x), x reaches the output directly and through f, so each half ends by adding
    what came through f to dx. name: as in block_forward; dkv: attention_backward's.
    """

    def add(layer, dweight, dbias):
        add_grad(grads, f"{name}.{layer}.weight", dweight)
        add_grad(grads, f"{name}.{layer}.bias", dbias)

    dy = dropout_backward(dx, cache.mlp_dropout)
    dy, *dw = linear_backward(dy, cache.mlp_proj)
    add("mlp.c_proj", *dw)
    dy = gelu_backward(dy, cache.gelu)
    dy, *dw = linear_backward(dy, cache.c_fc)
    add("mlp.c_fc", *dw)
    dy, *dw = layer_norm_backward(dy, cache.ln_2)
    add("ln_2", *dw)
    dx = dx + dy
    dy = dropout_backward(dx, cache.attn_dropout)
    dy, *dw = linear_backward(dy, cache.attn_proj)
    add("attn.c_proj", *dw)
    dy, dpast = attention_backward(dy, cache.attention, dkv)
    dy, *dw = linear_backward(dy, cache.c_attn)
    add("attn.c_attn", *dw)
    dy, *dw = layer_norm_backward(dy, cache.ln_1)
    add("ln_1", *dw)
    return dx + dy, dpast


class HiddenCache(NamedTuple):
    embedding: EmbeddingCache
    position: PositionCache
    dropout: DropoutCache
    blocks: list[Any]  # BlockCaches; backward takes them off the end, so a used cache is empty
    ln_f: LayerNormCache
    model: Any  # whose forward made it


class GPTCache(NamedTuple):
    hidden: HiddenCache
    unembedding: UnembeddingCache
    model: Any


class GPT(LanguageModel):
    """GPT-2 with exact gradients by hand: `.params` {name: array}, `.config`, `.num_params`.

    GPT(config, seed=0, device="auto"); the same seed gives the same parameters on every device.
    Raises TypeError for another config, ValueError for a device that is not there.
    """

    def __init__(self, config: GPTConfig, seed: Seed = 0, device: str = "auto") -> None:
        if not isinstance(config, GPTConfig):
            raise TypeError(f"config must be a GPTConfig, got {type(config).__name__}")
        xp = backend.select_device(device)
        self.config = config
        self.params = {
            name: xp.asarray(value) for name, value in initial_params(config, seed).items()
        }

    def extend_forward(
        self,
        x: IdsOrOneHots,
        past: list[KV] | None = None,
        training: bool = False,
        rng: RandomGenerator | None = None,
    ) -> tuple[Float[Array, "B T V"], list[KV], GPTCache]:
        """Continue sequences after `past` -> logits (B,T,V), present, cache.

        x: ids (B,T) or soft one-hots (B,T,V). past and present are lists with one kv.KV (keys,
        values: (rows,H,positions,D)) a layer; present is past and x together, ready to be the next
        call's past. One row of past may serve G = B/rows consecutive rows of x, as a prefix does
        its children. Dropout acts only with training=True and then needs `rng` (backend.rng).
        Raises TypeError for arrays of another device, ValueError for ids outside the vocabulary (on
        a GPU they wrap around: backend.check_ids) and for more than block_size positions.
        """
        x, present, hidden = self.hidden_forward(x, past, training, rng)
        logits, unembedding = unembedding_forward(x, self.params["wte.weight"])
        return logits, present, GPTCache(hidden, unembedding, self)

    def extend_backward(
        self,
        dlogits: Float[Array, "B T V"],
        dpresent: list[KV] | None,
        cache: GPTCache,
        grads: Grads | None = None,
    ) -> tuple[Float[Array, "B T V"] | None, list[KV] | None, Grads]:
        """dlogits (B,T,V), dpresent -> dx, dpast, grads {name: array}.

        dpresent is like present, or None for zero; dx is None for ids, dpast without a past. dpast
        is the next dpresent when a sequence was fed in pieces: go through the pieces from last to
        first, passing each one's dpast and the same grads on. Gradients are added into `grads` if
        given. dlogits and the cache may be overwritten; a cache serves one backward, and a second
        raises ValueError.
        """
        self._check_cache(cache, GPTCache)
        self._check_unused(cache.hidden)
        self._check_dlogits(dlogits, cache.unembedding.x)
        grads = {} if grads is None else grads
        dx, dweight = unembedding_backward(dlogits, cache.unembedding)
        add_grad(grads, "wte.weight", dweight)
        return self.hidden_backward(dx, dpresent, cache.hidden, grads)

    def hidden_forward(
        self,
        x: IdsOrOneHots,
        past: list[KV] | None = None,
        training: bool = False,
        rng: RandomGenerator | None = None,
    ) -> tuple[Float[Array, "B T C"], list[KV], HiddenCache]:
        """extend_forward up to what the unembedding reads -> hidden (B,T,C), present, cache.

        x, past, training, rng and errors: as for extend_forward.
        """
        past = past or None
        start = num_positions(past)
        self._check_input(x, start)
        self._check_past(past, len(x))
        config, params = self.config, self.params
        dropout = config.dropout if training else 0.0
        x, embedding = embedding_forward(x, params["wte.weight"])
        x, position = position_forward(x, params["wpe.weight"], start)
        x, dropped = dropout_forward(x, dropout, rng)
        blocks, present = [], []
        for i in range(config.n_layer):
            layer_past = past[i] if past else None
            x, block = block_forward(x, params, f"h.{i}", config.n_head, layer_past, dropout, rng)
            blocks.append(block)
            present.append(extend_kv(layer_past, block.attention.k, block.attention.v))
        x, ln_f = layer_norm_forward(x, params["ln_f.weight"], params["ln_f.bias"])
        return x, present, HiddenCache(embedding, position, dropped, blocks, ln_f, self)

    def hidden_backward(
        self,
        dx: Float[Array, "B T C"],
        dpresent: list[KV] | None,
        cache: HiddenCache,
        grads: Grads,
    ) -> tuple[Float[Array, "B T V"] | None, list[KV] | None, Grads]:
        """dx (B,T,C) of hidden_forward's output -> dx of its input, dpast, grads.

        dpresent, dpast and errors: as for extend_backward. Gradients are added into `grads`
        {name: array}, which has the unembedding's by then.
        """
        self._check_cache(cache, HiddenCache)
        self._check_unused(cache)
        dx, dweight, dbias = layer_norm_backward(dx, cache.ln_f)
        add_grad(grads, "ln_f.weight", dweight)
        add_grad(grads, "ln_f.bias", dbias)
        dpast: list[Any] = []
        for i in reversed(range(self.config.n_layer)):
            block = cache.blocks.pop()
            own = block.attention  # this call's keys and values, and the past they continue
            layer_dpresent = dpresent[i] if dpresent else None
            dpast_of_present, dkv = extend_kv_backward(layer_dpresent, own.past, own.k.shape[2])
            dx, dpast_of_attention = block_backward(dx, block, f"h.{i}", grads, dkv)
            dpast.insert(0, add_kv(dpast_of_attention, dpast_of_present))
        dx = dropout_backward(dx, cache.dropout)
        dx, dweight = position_backward(dx, cache.position)
        add_grad(grads, "wpe.weight", dweight)
        dinput, dweight = embedding_backward(dx, cache.embedding)
        add_grad(grads, "wte.weight", dweight)
        return dinput, dpast if dpast[0] else None, {name: grads[name] for name in self.params}

    # ---- the same in less memory or time: a class that inherits may have another extend_forward,
    # ---- and so gets LanguageModel's form of these three, which calls that

    def loss_and_grads(
        self,
        tokens: IdsOrOneHots,
        targets: Int[Array, "B T"],
        objective: Loss,
        rng: RandomGenerator | None = None,
        grads: Grads | None = None,
    ) -> LossAndGrads:
        """LanguageModel's; the logits of a large vocabulary are never there all at once."""
        B, T = tokens.shape[:2]
        weight = self.params["wte.weight"]
        if type(self) is not GPT or not splits_head(B, T, weight):
            return super().loss_and_grads(tokens, targets, objective, rng, grads)
        x, _, cache = self.hidden_forward(tokens, None, True, rng)
        loss, dx, dweight = head_in_chunks(x, weight, targets, objective)
        grads = {} if grads is None else grads
        add_grad(grads, "wte.weight", dweight)
        _, _, grads = self.hidden_backward(dx, None, cache, grads)
        return loss, grads

    def logits_in_chunks(
        self, tokens: IdsOrOneHots
    ) -> Iterator[tuple[slice, Float[Array, "_B T V"]]]:
        """LanguageModel's; of what is for a backward, one layer's alone is there at a time.

        tokens: ids (B,T) or soft one-hots (B,T,V). Raises TypeError or ValueError as forward does.
        """
        if type(self) is not GPT:
            yield from super().logits_in_chunks(tokens)
            return
        x = self.hidden_states(tokens)
        for rows in head_chunks(len(x), x.shape[1], self.params["wte.weight"]):
            yield rows, unembedding_forward(x[rows], self.params["wte.weight"])[0]

    def hidden_states(self, tokens: IdsOrOneHots) -> Float[Array, "B T C"]:
        """What the unembedding reads, without a backward; takes and raises what forward does."""
        self._check_input(tokens)
        params = self.params
        x, _ = embedding_forward(tokens, params["wte.weight"])
        x, _ = position_forward(x, params["wpe.weight"])
        for i in range(self.config.n_layer):
            x = block_forward(x, params, f"h.{i}", self.config.n_head)[0]
        return layer_norm_forward(x, params["ln_f.weight"], params["ln_f.bias"])[0]

    def _next_logits(
        self, x: Int[Array, "B T"], past: list[KV] | None
    ) -> tuple[Float[Array, "B V"], list[KV]]:
        """LanguageModel's; the unembedding of the last position alone."""
        if type(self) is not GPT:
            return super()._next_logits(x, past)
        if past and x.shape[1] == 1:  # a token that was drawn here, after a past that was made here
            return token_forward(x[:, 0], self.params, self.config, past)
        hidden, present, _ = self.hidden_forward(x, past)
        logits, _ = unembedding_forward(hidden[:, -1], self.params["wte.weight"])
        return logits, present

    def _check_unused(self, cache: HiddenCache) -> None:
        if len(cache.blocks) != self.config.n_layer:
            raise ValueError(CACHE_HAS_SERVED)

    def _check_past(self, past: list[KV] | None, batch: int) -> None:
        """Raise ValueError unless `past` has a KV a layer, whose rows `batch` rows can share."""
        if past is None:
            return
        if len(past) != self.config.n_layer:
            raise ValueError(
                f"past must hold keys and values of {self.config.n_layer} layers, got {len(past)}"
            )
        if batch % len(past[0].k):
            raise ValueError(
                f"{batch} rows of input cannot share {len(past[0].k)} rows of past evenly"
            )

    def save(self, folder: FilePath, overwrite: bool = False, boundary: int | None = None) -> None:
        """Write the model as a Hugging Face GPT-2 folder (config.json, model.safetensors).

        `boundary` is the tokenizer's boundary id, which becomes bos_token_id and eos_token_id.
        Raises FileExistsError for a folder that holds a model, unless overwrite=True.
        """
        checkpoint.save_gpt2(
            folder, self.config, self.params, overwrite=overwrite, boundary=boundary
        )

    @classmethod
    def load(cls, folder: FilePath, device: str = "auto", dtype: str | None = None) -> "GPT":
        """Open a Hugging Face GPT-2 folder, written here or by transformers.

        device: as for select_device; dtype=None keeps float64, else float32. Raises
        FileNotFoundError or ValueError, naming what is wrong, for a missing, corrupt or unsupported
        folder.
        """
        fields, params = checkpoint.load_gpt2(folder, dtype)
        config = GPTConfig(**fields)
        return cls._opened(folder, config, param_shapes(config), params, device)
