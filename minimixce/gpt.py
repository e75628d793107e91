"""GPT: GPT-2's transformer with the backward pass written out, and what it shares with every other model.

A model is a config and a dict of named arrays. The names, layouts and shapes are Hugging Face GPT-2's, so `save` writes a
folder that `transformers` opens, and GPT-2's own weights open here.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from . import backend, checkpoint
from .backend import array_module
from .layers import (
    KV,
    attention_backward,
    attention_forward,
    dropout_backward,
    dropout_forward,
    embedding_backward,
    embedding_forward,
    extend_kv,
    gelu_backward,
    gelu_forward,
    layer_norm_backward,
    layer_norm_forward,
    linear_backward,
    linear_forward,
    position_backward,
    position_forward,
    softmax_forward,
    unembedding_backward,
    unembedding_forward,
)


def check_config(config):
    """Raise ValueError or TypeError, naming the field, unless every integer of a config is at least 1, its dropout a rate and
    its dtype one that models have."""
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


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT.

    vocab_size (V) tokens, at most block_size positions, n_layer blocks, n_head heads (H) that divide n_embd channels (C),
    dropout rate in [0, 1) while training, dtype "float32" to train or "float64" to check gradients.
    Raises ValueError or TypeError, naming the field, for values outside these.
    """

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self):
        check_config(self)
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd must be a multiple of n_head, got n_embd={self.n_embd} and n_head={self.n_head}")


def param_shapes(config):
    """{name: shape} of a model's parameters, Hugging Face's names and layouts in GPT-2's order."""
    C = config.n_embd
    layer_norm = {"weight": (C,), "bias": (C,)}
    block = {
        "ln_1": layer_norm,
        "attn.c_attn": {"weight": (C, 3 * C), "bias": (3 * C,)},
        "attn.c_proj": {"weight": (C, C), "bias": (C,)},
        "ln_2": layer_norm,
        "mlp.c_fc": {"weight": (C, 4 * C), "bias": (4 * C,)},
        "mlp.c_proj": {"weight": (4 * C, C), "bias": (C,)},
    }
    layers = {f"h.{i}.{layer}": shapes for i in range(config.n_layer) for layer, shapes in block.items()}
    params = {f"{layer}.{kind}": shape for layer, shapes in layers.items() for kind, shape in shapes.items()}
    embeddings = {"wte.weight": (config.vocab_size, C), "wpe.weight": (config.block_size, C)}
    return embeddings | params | {"ln_f.weight": (C,), "ln_f.bias": (C,)}


def initial_params(config, seed=0):
    """GPT-2's initialisation, as NumPy arrays: weights normal with standard deviation 0.02, those that write into the
    residual stream (c_proj) divided by √(2·n_layer); biases 0; layer-norm weights 1."""
    rng, residual_std = backend.rng(seed, np), 0.02 / math.sqrt(2 * config.n_layer)

    def initial(name, shape):
        if len(shape) == 1:
            return np.full(shape, 0.0 if name.endswith("bias") else 1.0, config.dtype)
        std = residual_std if name.endswith("c_proj.weight") else 0.02
        return (std * rng.standard_normal(shape)).astype(config.dtype)

    return {name: initial(name, shape) for name, shape in param_shapes(config).items()}


CACHE_HAS_SERVED = "this cache has served a backward already; run forward again for a fresh one"


class LanguageModel:
    """What every model shares, so that training, generation and the exact sums work with any of them.

    A model has `.params` {name: array} and `.config` (vocab_size, block_size, n_layer, dropout, dtype), and two methods of its
    own, extend_forward and extend_backward, which continue sequences after a past and differentiate that. Whatever else is
    asked of a model is made of these two.
    """

    @property
    def num_params(self):
        """How many numbers the parameters hold."""
        return sum(p.size for p in self.params.values())

    @property
    def xp(self):
        """The array module of the device this model lives on."""
        return array_module(next(iter(self.params.values())))

    def forward(self, tokens, training=False, rng=None):
        """tokens: ids (B,T) or soft one-hots (B,T,V), T ≤ config.block_size -> logits (B,T,V), cache.

        logits[:, t] predict token t+1. Dropout acts only with training=True and then needs `rng`.
        """
        logits, _, cache = self.extend_forward(tokens, None, training, rng)
        return logits, cache

    def backward(self, dlogits, cache, grads=None):
        """dlogits (B,T,V) -> grads {name: array} with exactly the keys of params; adds into `grads` if given."""
        _, _, grads = self.extend_backward(dlogits, None, cache, grads)
        return grads

    def generate(self, prompt, max_new_tokens, temperature=1.0, top_k=None, top_p=None, stop=None, seed=0):
        """Sample continuations: prompt ids (B,T0) -> (B,T0+max_new_tokens) int64.

        temperature 0 takes the likeliest token; top_k keeps the k likeliest, top_p the smallest set of likeliest tokens
        that holds probability p. A row that met the token `stop` is filled with it. The past is kept from token to token;
        when it fills the window, the last block_size//2 tokens are kept and recomputed.
        `seed` is an integer or a backend.rng generator.
        """
        tokens = list(self.stream(prompt, max_new_tokens, temperature, top_k, top_p, stop, seed))
        return array_module(prompt).concatenate([prompt.astype("int64"), *(t[:, None] for t in tokens)], axis=1)

    def stream(self, prompt, max_new_tokens, temperature=1.0, top_k=None, top_p=None, stop=None, seed=0):
        """The tokens of `generate` one by one: an iterator over max_new_tokens arrays (B,)."""
        _check_sampling(max_new_tokens, temperature, top_k, top_p)
        if prompt.ndim != 2 or prompt.dtype.kind not in "iu":
            raise ValueError(f"prompt must be token ids (B,T), got {prompt.dtype} {prompt.shape}")
        if stop is not None and not 0 <= stop < self.config.vocab_size:
            raise ValueError(f"stop must be a token id in 0 … {self.config.vocab_size - 1}, got {stop}")
        # int64, because narrow ids would wrap around
        return self._stream(prompt.astype("int64"), max_new_tokens, (temperature, top_k, top_p), stop, seed)

    def _stream(self, prompt, max_new_tokens, sampling, stop, seed):
        xp, block_size = array_module(prompt), self.config.block_size
        rng = backend.rng(seed, xp)
        window, past = prompt[:, -block_size:], None
        seen = [window]  # the tokens of the past, to refill the window from
        stopped = xp.zeros(len(prompt), dtype=bool)
        for _ in range(max_new_tokens):
            if stop is not None and xp is np and stopped.all():  # on a GPU every look would wait for the device
                yield xp.full(len(prompt), stop, prompt.dtype)
                continue
            logits, past, _ = self.extend_forward(window, past)
            tokens = _sample(logits[:, -1], *sampling, rng).astype("int64")
            if stop is not None:
                tokens = xp.where(stopped, stop, tokens)
                stopped |= tokens == stop
            yield tokens
            window = tokens[:, None]
            seen.append(window)
            if _positions(past) == block_size:
                window, past = xp.concatenate(seen, axis=1)[:, -max(1, block_size // 2) :], None
                seen = [window]

    def _check_input(self, x, start=0):
        """Raise TypeError or ValueError unless x can come after `start` positions."""
        V, xp = self.config.vocab_size, array_module(x)
        if xp is not self.xp:
            raise TypeError(f"input and model must be on the same device, got {xp.__name__} and {self.xp.__name__}")
        if x.dtype.kind in "iu":
            if x.ndim != 2:
                raise ValueError(f"token ids must have shape (B,T), got {x.shape}")
            # On a GPU this check would make every step wait for the device; fit checks batches before they go there.
            if xp is np and x.size and not (0 <= x.min() and x.max() < V):
                raise ValueError(f"token ids must be in 0 … {V - 1}, got {x.min()} … {x.max()}")
        elif x.ndim != 3 or x.shape[2] != V or x.dtype != self.config.dtype:
            raise ValueError(
                f"input must be integer ids (B,T) or {self.config.dtype} one-hots (B,T,{V}), got {x.dtype} {x.shape}"
            )
        if len(x) == 0:
            raise ValueError("input must have at least one row, got none")
        if x.shape[1] == 0:
            raise ValueError("input must have at least one position, got 0 positions")
        if x.shape[1] > self.config.block_size - start:
            raise ValueError(
                f"an input of {x.shape[1]} positions after {start} does not fit block_size {self.config.block_size}"
            )

    @classmethod
    def _opened(cls, folder, config, shapes, params, device):
        """The model with these NumPy params on `device`; ValueError, naming the folder, unless they have these shapes."""
        xp = backend.select_device(device)
        checkpoint.check_shapes(folder, shapes, params)
        model = cls.__new__(cls)
        model.config, model.params = config, {name: xp.asarray(params[name]) for name in shapes}
        return model


class BlockCache(NamedTuple):
    ln_1: Any
    c_attn: Any
    attention: Any
    attn_proj: Any
    attn_dropout: Any
    ln_2: Any
    c_fc: Any
    gelu: Any
    mlp_proj: Any
    mlp_dropout: Any


def block_forward(x, params, name, n_head, past=None, dropout=0.0, rng=None):
    """One block, x + attention(ln_1(x)) and then x + mlp(ln_2(x)). x (B,T,C) -> y (B,T,C).

    The block's parameters are those of `params` whose names start with `name` ("h.0").
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
    return x + y, BlockCache(ln_1, c_attn, attention, attn_proj, attn_dropout, ln_2, c_fc, gelu, mlp_proj, mlp_dropout)


def block_backward(dx, cache, name, grads, dkv=None):
    """dx (B,T,C) of the block's output -> dx of its input, dpast; parameter gradients are added into `grads`.

    y = x + f(x): the derivative goes down both roads, so each half ends by adding what came through f to dx.
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


class GPTCache(NamedTuple):
    embedding: Any
    position: Any
    dropout: Any
    blocks: list  # of BlockCache; backward takes them off the end, so a used cache is empty
    ln_f: Any
    unembedding: Any


class GPT(LanguageModel):
    """GPT-2 with exact gradients by hand: `.params` {name: array}, `.config`, `.num_params`.

    GPT(config, seed=0, device="auto"); the same seed gives the same parameters on every device.
    """

    def __init__(self, config, seed=0, device="auto"):
        if not isinstance(config, GPTConfig):
            raise TypeError(f"config must be a GPTConfig, got {type(config).__name__}")
        xp = backend.select_device(device)
        self.config = config
        self.params = {name: xp.asarray(value) for name, value in initial_params(config, seed).items()}

    def extend_forward(self, x, past=None, training=False, rng=None):
        """Continue sequences: x, ids (B,T) or soft one-hots (B,T,V), after `past` -> logits (B,T,V), present, cache.

        past and present are lists with one KV (keys, values: (rows,H,positions,D)) a layer; present is past and x
        together, ready to be the next call's past. One row of past may serve G = B/rows consecutive rows of x, as the
        children of a prefix do. Raises ValueError for ids outside the vocabulary and more than block_size positions.
        """
        c, params, past = self.config, self.params, past or None
        dropout = c.dropout if training else 0.0
        start = _positions(past)
        if past and len(past) != c.n_layer:
            raise ValueError(f"past must hold keys and values of {c.n_layer} layers, got {len(past)}")
        self._check_input(x, start)
        if past and len(x) % len(past[0].k):
            raise ValueError(f"{len(x)} rows of input cannot share {len(past[0].k)} rows of past evenly")
        x, embedding = embedding_forward(x, params["wte.weight"])
        x, position = position_forward(x, params["wpe.weight"], start)
        x, dropped = dropout_forward(x, dropout, rng)
        blocks, present = [], []
        for i in range(c.n_layer):
            x, block = block_forward(x, params, f"h.{i}", c.n_head, past and past[i], dropout, rng)
            blocks.append(block)
            present.append(extend_kv(past and past[i], block.attention.k, block.attention.v))
        x, ln_f = layer_norm_forward(x, params["ln_f.weight"], params["ln_f.bias"])
        logits, unembedding = unembedding_forward(x, params["wte.weight"])
        return logits, present, GPTCache(embedding, position, dropped, blocks, ln_f, unembedding)

    def extend_backward(self, dlogits, dpresent, cache, grads=None):
        """dlogits (B,T,V), dpresent (like present, or None for zero) -> dx (None for ids), dpast (None without), grads.

        dpast is the next dpresent when a sequence was fed in pieces: go through the pieces from last to first, passing
        each one's dpast and the same grads on. A cache serves one backward; a second raises ValueError.
        """
        if len(cache.blocks) != self.config.n_layer:
            raise ValueError(CACHE_HAS_SERVED)
        grads = {} if grads is None else grads
        dx, dweight = unembedding_backward(dlogits, cache.unembedding)
        add_grad(grads, "wte.weight", dweight)
        dx, dweight, dbias = layer_norm_backward(dx, cache.ln_f)
        add_grad(grads, "ln_f.weight", dweight)
        add_grad(grads, "ln_f.bias", dbias)
        dpast = []
        for i in reversed(range(self.config.n_layer)):
            block = cache.blocks.pop()
            dpast_of_present, dkv = _split_dkv(dpresent and dpresent[i], block.attention)
            dx, dpast_of_attention = block_backward(dx, block, f"h.{i}", grads, dkv)
            dpast.insert(0, _sum_kv(dpast_of_attention, dpast_of_present))
        dx = dropout_backward(dx, cache.dropout)
        dx, dweight = position_backward(dx, cache.position)
        add_grad(grads, "wpe.weight", dweight)
        dx, dweight = embedding_backward(dx, cache.embedding)
        add_grad(grads, "wte.weight", dweight)
        return dx, dpast if dpast[0] else None, {name: grads[name] for name in self.params}

    def save(self, folder, overwrite=False, boundary=None):
        """Write the model as a Hugging Face GPT-2 folder (config.json, model.safetensors).

        `boundary` is the tokenizer's boundary id, which becomes bos_token_id and eos_token_id. Raises FileExistsError for a
        folder that holds a model, unless overwrite=True.
        """
        checkpoint.save_gpt2(folder, self.config, self.params, overwrite=overwrite, boundary=boundary)

    @classmethod
    def load(cls, folder, device="auto", dtype=None):
        """Open a Hugging Face GPT-2 folder, written here or by transformers; dtype=None keeps float64, else float32.

        Raises FileNotFoundError or ValueError, naming what is wrong, for a missing, corrupt or unsupported folder.
        """
        fields, params = checkpoint.load_gpt2(folder, dtype)
        config = GPTConfig(**fields)
        return cls._opened(folder, config, param_shapes(config), params, device)


def add_grad(grads, name, value):
    """grads[name] += value, or the first value itself."""
    if name in grads:
        grads[name] += value
    else:
        grads[name] = value


def _positions(past):
    """The number of positions that a past holds; a model without layers keeps none."""
    return past[0].k.shape[2] if past else 0


def _split_dkv(dpresent, attention):
    """The reverse of extend_kv: dpresent -> its part for past, summed over the rows that shared it, and for the own KV."""
    if dpresent is None:
        return None, None
    T = attention.k.shape[2]
    own = KV(*(d[:, :, -T:] for d in dpresent))
    if attention.past is None:
        return None, own
    rows = len(attention.past.k)
    old = (d[:, :, :-T].reshape(rows, -1, *d[:, :, :-T].shape[1:]).sum(axis=1) for d in dpresent)
    return KV(*old), own


def _sum_kv(a, b):
    return a if b is None else KV(a.k + b.k, a.v + b.v)


def _sample(logits, temperature, top_k, top_p, rng):
    """One token a row: logits (B,V) -> ids (B,), by inverting the cumulative distribution at one uniform number."""
    xp = array_module(logits)
    if temperature == 0:
        return logits.argmax(axis=-1)
    logits = logits.astype("float64")  # float32 would round the cumulative sum of a large vocabulary visibly
    logits = (logits - logits.max(axis=-1, keepdims=True)) / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kth = xp.partition(logits, -top_k, axis=-1)[:, -top_k, None]
        logits = xp.where(logits < kth, -math.inf, logits)
    probs, _ = softmax_forward(logits)
    if top_p is not None:
        ordered = -xp.sort(-probs, axis=-1)
        before = xp.cumsum(ordered, axis=-1) - ordered  # probability of all likelier tokens
        least = xp.where(before < top_p, ordered, 1).min(axis=-1, keepdims=True)
        probs = xp.where(probs < least, 0, probs)
    cumulative = xp.cumsum(probs, axis=-1)
    threshold = rng.random((len(probs), 1)) * cumulative[:, -1:]
    return (cumulative <= threshold).sum(axis=-1)  # the first token whose cumulative probability passes the threshold


def _check_sampling(max_new_tokens, temperature, top_k, top_p):
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, got {max_new_tokens}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be a finite number, at least 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
