"""The package checks its own gradients: what `minimixce gradcheck` prints."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .. import backend, kv, layers, objectives
from ..backend import array_module
from ..bigram import Bigram, BigramConfig, TableBigram
from ..checks import Report, gradcheck
from ..gpt import GPT, GPTConfig
from ..model import LanguageModel
from ..objectives import Logits, Targets
from ..storage.shapes import Array, ArrayModule, Float, Int, Loss

_M = TypeVar("_M", bound=LanguageModel)


def check_everything(device: str = "cpu", seed: int = 0) -> Iterator[tuple[str, Report]]:
    """Gradient-check every layer, every objective and whole models in float64 on `device`, with
    inputs drawn by `seed`: yields (title, checks.Report). Raises ValueError for a device that is
    not there.
    """
    xp = backend.select_device(device)
    draw = _Draw(xp, np.random.default_rng(seed))

    def check(title, forward, backward, **inputs):
        names = list(inputs)
        return title, gradcheck(forward, backward, list(inputs.values()), names=names, seed=seed)

    x = draw.normal(B, T, C)
    yield from _layer_checks(check, draw, x, seed)
    yield from _attention_checks(check, draw)
    targets = draw.ids(-1, V, B, T)
    logits, cost_embedding = draw.normal(B, T, V), draw.normal(V, C)
    for title, objective in objective_checks(logits, targets, cost_embedding):
        yield check(title, objective, lambda dy, dlogits: (dy * dlogits,), logits=logits)
    yield "the whole model, MixCE loss", check_model(xp, draw.rng, seed)
    yield "the bigram, MixCE loss", check_model(xp, draw.rng, seed, small_bigram(draw.rng))
    table = random_params(TableBigram(5, device="cpu"), draw.rng)
    yield "the table bigram, MixCE loss", check_model(xp, draw.rng, seed, table)


B, T, C, H, V = 2, 3, 8, 2, 5  # batch, time, channels, heads, vocabulary of the checks


class _Draw(NamedTuple):
    """Random inputs on a device."""

    xp: ArrayModule
    rng: np.random.Generator

    def normal(self, *shape: int) -> Float[Array, "..."]:
        return self.xp.asarray(self.rng.standard_normal(shape))

    def ids(self, low: int, high: int, *shape: int) -> Int[Array, "..."]:
        return self.xp.asarray(self.rng.integers(low, high, shape))


def _layer_checks(
    check: Callable[..., tuple[str, Report]], draw: _Draw, x: Float[Array, "B T C"], seed: int
) -> Iterator[tuple[str, Report]]:
    """Every layer except attention, on x (B,T,C)."""
    xp, normal = draw.xp, draw.normal
    linear = layers.linear_forward, layers.linear_backward
    yield check("linear", *linear, x=x, weight=normal(C, 7), bias=normal(7))
    embedding = layers.embedding_forward, layers.embedding_backward
    yield check("embedding of ids", *embedding, ids=draw.ids(0, V, B, T), weight=normal(V, C))
    onehots = normal(B, T, V)
    yield check("embedding of soft one-hots", *embedding, onehots=onehots, weight=normal(V, C))
    yield check(
        "position",
        lambda x, w: layers.position_forward(x, w, 1),
        layers.position_backward,
        x=x,
        weight=normal(T + 2, C),
    )
    unembedding = layers.unembedding_forward, layers.unembedding_backward
    yield check("unembedding", *unembedding, x=x, weight=normal(V, C))
    layer_norm = layers.layer_norm_forward, layers.layer_norm_backward
    yield check("layer norm", *layer_norm, x=x, weight=normal(C), bias=normal(C))
    yield check("GELU", layers.gelu_forward, layers.gelu_backward, x=x)
    # away from its corner
    yield check("ReLU", layers.relu_forward, layers.relu_backward, x=x + 0.1 * xp.sign(x))
    yield check("softmax", layers.softmax_forward, layers.softmax_backward, x=x)
    yield check(
        "dropout",
        lambda x: layers.dropout_forward(x, rate=0.3, rng=backend.rng(seed, xp)),
        layers.dropout_backward,
        x=x,
    )


def _attention_checks(
    check: Callable[..., tuple[str, Report]], draw: _Draw
) -> Iterator[tuple[str, Report]]:
    """Attention alone, and after a past that its rows share."""
    yield check(
        "attention",
        lambda qkv: layers.attention_forward(qkv, H),
        lambda dy, cache: layers.attention_backward(dy, cache)[:1],
        qkv=draw.normal(B, T, 3 * C),
    )

    def forward(qkv, k, v):
        return layers.attention_forward(qkv, H, kv.KV(k, v))

    def backward(dy, cache):
        dqkv, dpast = layers.attention_backward(dy, cache)
        return dqkv, *dpast

    past = {name: draw.normal(1, H, 2, C // H) for name in ("past.k", "past.v")}
    qkv = draw.normal(B, T, 3 * C)
    yield check("attention, rows sharing a past", forward, backward, qkv=qkv, **past)


# ---- objectives ----------------------------------------------------------------------------------


def objective_checks(
    logits: Logits, targets: Targets, cost_embedding: Float[Array, "V C"], ratio: float = 0.3
) -> Iterator[tuple[str, Loss]]:
    """(title, function of logits -> (loss, dlogits)) for every objective over tokens in
    objectives.OBJECTIVES, at `ratio`: first those whose dlogits is the derivative of their loss.

    logits (…,V), targets (…), −1 ignored, cost_embedding (V,C), which EMO needs. Where an objective
    stops a gradient, the loss is the one that dlogits is the derivative of: its stopped part is
    taken at the given logits and held there, in a form that FROZEN has. Raises ValueError for an
    objective that stops a gradient and has none.
    """
    rows = objectives.OBJECTIVES
    names = sorted(objectives.names("tokens"), key=lambda name: rows[name].stops_gradient)
    for name in names:
        kind = rows[name].ratio
        ratios = {kind: ratio} if kind else {}
        objective = objectives.token_loss(name, cost_embedding=cost_embedding, **ratios)
        if not rows[name].stops_gradient:
            yield _title(name, ratio), functools.partial(objective, targets=targets)
        elif name in FROZEN:
            part, frozen = FROZEN[name]
            loss = frozen(logits, targets, cost_embedding, ratio)
            yield f"{name}, frozen {part}", _with_loss(loss, objective, targets)
        else:
            raise ValueError(f"{name} stops a gradient and has no form in selfcheck.FROZEN")


def _title(name: str, ratio: float) -> str:
    known = objectives.RATIOS.get(objectives.OBJECTIVES[name].ratio or "")
    return f"{name}, {known.symbol} = {ratio:g} ({known.note})" if known else name


def _with_loss(loss: Callable[[Array], Array], objective: Loss, targets: Targets) -> Loss:
    """An objective's dlogits with another value: z -> (loss(z), dlogits)."""
    return lambda z: (loss(z), objective(z, targets)[1])


def _frozen_surrogate(
    logits: Logits, targets: Targets, cost_embedding: Float[Array, "V C"], eta: float
) -> Callable[[Array], Array]:
    """−w log q with w = η + (1−η) q at the given logits."""
    xp = array_module(logits)
    is_target = targets >= 0
    log_loss = objectives.mle(logits, targets, reduction="none")[0]
    w = eta + (1 - eta) * xp.exp(-log_loss)

    def loss(z):
        nll, _ = objectives.mle(z, targets, reduction="none")
        return (w * nll).sum() / is_target.sum()

    return loss


def _frozen_emo(
    logits: Logits, targets: Targets, cost_embedding: Float[Array, "V C"], ratio: float
) -> Callable[[Array], Array]:
    """½ (−log q + r d) with r = −log q / d at the given logits."""
    xp = array_module(logits)
    is_target = targets >= 0
    unit = cost_embedding / xp.sqrt((cost_embedding**2).sum(axis=-1, keepdims=True))
    # (B,T,V); the target's own is 0 up to rounding
    cost = 1 - unit[xp.where(is_target, targets, 0)] @ unit.T

    def transport(z):
        return (layers.softmax_forward(z)[0] * cost).sum(axis=-1)

    r = objectives.mle(logits, targets, reduction="none")[0] / transport(logits)

    def loss(z):
        nll, _ = objectives.mle(z, targets, reduction="none")
        return 0.5 * (nll + r * transport(z)).sum() / is_target.sum()

    return loss


# what is frozen of objectives that stop a gradient, and the loss that is left: (logits, targets,
# cost_embedding, ratio) -> function of logits
FROZEN = {"mixce_surrogate": ("weight", _frozen_surrogate), "emo": ("ratio", _frozen_emo)}


# ---- models --------------------------------------------------------------------------------------


def random_params(model: _M, rng: np.random.Generator) -> _M:
    """The model with parameters drawn from `rng`, all random and far from zero, so that no term of
    a gradient hides.
    """
    drawn: dict[str, Any] = {
        name: rng.standard_normal(p.shape) * 0.5 for name, p in model.params.items()
    }
    model.params = drawn
    return model


def small_gpt(rng: np.random.Generator) -> GPT:
    """A float64 GPT small enough for every coordinate to be checked, with parameters drawn from
    `rng`, on the CPU.
    """
    config = GPTConfig(
        vocab_size=5, block_size=4, n_layer=2, n_head=2, n_embd=4, dropout=0.1, dtype="float64"
    )
    return random_params(GPT(config, device="cpu"), rng)


def small_bigram(rng: np.random.Generator) -> Bigram:
    """A float64 Bigram with parameters drawn from `rng`, on the CPU. None of its hidden units is so
    near the corner of ReLU that a numerical derivative would reach across.
    """
    model = Bigram(
        BigramConfig(vocab_size=5, n_embd=4, n_hidden=6, dropout=0.1, dtype="float64"), device="cpu"
    )
    while True:
        p = random_params(model, rng).params
        if np.abs(p["embedding.weight"] @ p["hidden.weight"] + p["hidden.bias"]).min() > 0.01:
            return model


def check_model(
    xp: ArrayModule, rng: np.random.Generator, seed: int = 0, model: LanguageModel | None = None
) -> Report:
    """Gradient-check a float64 model of 5 tokens (by default a small GPT), with its dropout, under
    MixCE -> checks.Report, a row for each parameter.

    xp: the array module of the device; rng: of ids, targets and a default model; seed: of dropout
    and of the check.
    """
    model = small_gpt(rng) if model is None else model
    model.params = {name: xp.asarray(p) for name, p in model.params.items()}
    tokens = xp.asarray(rng.integers(0, 5, (2, 4)))
    targets = xp.asarray(rng.integers(-1, 5, (2, 4)))
    names = list(model.params)

    def forward(*values):
        model.params = dict(zip(names, values))
        logits, cache = model.forward(tokens, training=True, rng=backend.rng(seed, xp))
        loss, dlogits = objectives.mixce(logits, targets, eta=0.5)
        return loss, (dlogits, cache)

    def backward(dy, cache):
        dlogits, cache = cache
        return tuple(model.backward(dy * dlogits, cache).values())

    return gradcheck(forward, backward, list(model.params.values()), names=names, seed=seed)
