"""The package checks its own gradients: what `minimixce gradcheck` prints."""

import numpy as np

from .. import backend, kv, layers, objectives
from ..backend import array_module
from ..bigram import Bigram, BigramConfig, TableBigram
from ..checks import gradcheck
from ..gpt import GPT, GPTConfig


def check_everything(device="cpu", seed=0):
    """Gradient-check every layer, every objective and whole models in float64 on `device`: yields
    (title, Report).
    """
    xp = backend.select_device(device)
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return xp.asarray(rng.standard_normal(shape))

    def ids(low, high, *shape):
        return xp.asarray(rng.integers(low, high, shape))

    def check(title, forward, backward, **inputs):
        return title, gradcheck(
            forward, backward, list(inputs.values()), names=list(inputs), seed=seed
        )

    B, T, C, H, V = 2, 3, 8, 2, 5
    x, dropout = normal(B, T, C), {"rate": 0.3}
    yield check(
        "linear",
        layers.linear_forward,
        layers.linear_backward,
        x=x,
        weight=normal(C, 7),
        bias=normal(7),
    )
    embedding = layers.embedding_forward, layers.embedding_backward
    yield check("embedding of ids", *embedding, ids=ids(0, V, B, T), weight=normal(V, C))
    yield check(
        "embedding of soft one-hots", *embedding, onehots=normal(B, T, V), weight=normal(V, C)
    )
    yield check(
        "position",
        lambda x, w: layers.position_forward(x, w, 1),
        layers.position_backward,
        x=x,
        weight=normal(T + 2, C),
    )
    yield check(
        "unembedding",
        layers.unembedding_forward,
        layers.unembedding_backward,
        x=x,
        weight=normal(V, C),
    )
    yield check(
        "layer norm",
        layers.layer_norm_forward,
        layers.layer_norm_backward,
        x=x,
        weight=normal(C),
        bias=normal(C),
    )
    yield check("GELU", layers.gelu_forward, layers.gelu_backward, x=x)
    # away from its corner
    yield check("ReLU", layers.relu_forward, layers.relu_backward, x=x + 0.1 * xp.sign(x))
    yield check("softmax", layers.softmax_forward, layers.softmax_backward, x=x)
    yield check(
        "dropout",
        lambda x: layers.dropout_forward(x, **dropout, rng=backend.rng(seed, xp)),
        layers.dropout_backward,
        x=x,
    )
    yield check(
        "attention",
        lambda qkv: layers.attention_forward(qkv, H),
        lambda dy, cache: layers.attention_backward(dy, cache)[:1],
        qkv=normal(B, T, 3 * C),
    )

    def attention_after_past(qkv, k, v):
        return layers.attention_forward(qkv, H, kv.KV(k, v))

    def attention_after_past_backward(dy, cache):
        dqkv, dpast = layers.attention_backward(dy, cache)
        return dqkv, *dpast

    past = {"past.k": normal(1, H, 2, C // H), "past.v": normal(1, H, 2, C // H)}
    yield check(
        "attention, rows sharing a past",
        attention_after_past,
        attention_after_past_backward,
        qkv=normal(B, T, 3 * C),
        **past,
    )

    targets = ids(-1, V, B, T)
    logits, cost_embedding = normal(B, T, V), normal(V, C)
    for title, objective in objective_checks(logits, targets, cost_embedding):
        yield check(title, objective, lambda dy, dlogits: (dy * dlogits,), logits=logits)

    yield "the whole model, MixCE loss", check_model(xp, rng, seed)
    yield "the bigram, MixCE loss", check_model(xp, rng, seed, small_bigram(rng))
    yield (
        "the table bigram, MixCE loss",
        check_model(xp, rng, seed, random_params(TableBigram(5, device="cpu"), rng)),
    )


def objective_checks(logits, targets, cost_embedding):
    """(title, function of logits -> (loss, dlogits)) for every objective.

    Where an objective stops a gradient, the loss is the one that dlogits is the derivative of: its
    stopped part is taken at the given logits and held there.
    """
    for title, name, options in (
        ("mle", "mle", {}),
        ("mixce, η = 0.3 (η = 1 is MLE)", "mixce", {"eta": 0.3}),
        ("tailr, γ = 0.3 (γ = 0 is MLE)", "tailr", {"gamma": 0.3}),
    ):
        yield (
            title,
            lambda z, name=name, options=options: getattr(objectives, name)(z, targets, **options),
        )

    xp = array_module(logits)
    kept = targets >= 0
    # η + (1−η) q at the given logits
    frozen_w = 0.3 + 0.7 * xp.exp(-objectives.mle(logits, targets, reduction="none")[0])

    def surrogate(z):
        nll, _ = objectives.mle(z, targets, reduction="none")
        return (frozen_w * nll).sum() / kept.sum(), objectives.mixce_surrogate(z, targets, eta=0.3)[
            1
        ]

    yield "mixce_surrogate, frozen weight", surrogate

    unit = cost_embedding / xp.sqrt((cost_embedding**2).sum(axis=-1, keepdims=True))
    # (B,T,V); the target's own is 0 up to rounding
    cost = 1 - unit[xp.where(kept, targets, 0)] @ unit.T

    def transport(z):
        return (layers.softmax_forward(z)[0] * cost).sum(axis=-1)

    frozen_ratio = objectives.mle(logits, targets, reduction="none")[0] / transport(logits)

    def emo(z):
        nll, _ = objectives.mle(z, targets, reduction="none")
        loss = 0.5 * (nll + frozen_ratio * transport(z)).sum() / kept.sum()
        return loss, objectives.emo(z, targets, cost_embedding)[1]

    yield "emo, frozen ratio", emo


def random_params(model, rng):
    """The model with parameters that are all random and far from zero, so that no term of a
    gradient hides.
    """
    model.params = {name: rng.standard_normal(p.shape) * 0.5 for name, p in model.params.items()}
    return model


def small_gpt(rng):
    """A float64 GPT small enough for every coordinate to be checked, with random parameters, on the
    CPU.
    """
    config = GPTConfig(
        vocab_size=5, block_size=4, n_layer=2, n_head=2, n_embd=8, dropout=0.1, dtype="float64"
    )
    return random_params(GPT(config, device="cpu"), rng)


def small_bigram(rng):
    """A Bigram none of whose hidden units is so near the corner of ReLU that a numerical derivative
    would reach across.
    """
    model = Bigram(
        BigramConfig(vocab_size=5, n_embd=4, n_hidden=6, dropout=0.1, dtype="float64"), device="cpu"
    )
    while True:
        p = random_params(model, rng).params
        if np.abs(p["embedding.weight"] @ p["hidden.weight"] + p["hidden.bias"]).min() > 0.01:
            return model


def check_model(xp, rng, seed=0, model=None):
    """Gradient-check a float64 model of 5 tokens (by default a small GPT), with its dropout, under
    MixCE: one row of the report for each parameter.
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
