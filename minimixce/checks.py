"""Gradient checking: numerical derivatives against a backward function.

`gradcheck` takes any pair of functions in the form of layers.py; `check_everything` runs it on every layer, every objective
and whole models, which is what `minimixce gradcheck` prints.
"""

from dataclasses import dataclass

import numpy as np

from . import backend, layers, objectives
from .backend import array_module, to_numpy
from .bigram import Bigram, BigramConfig, TableBigram
from .gpt import GPT, GPTConfig


@dataclass(frozen=True)
class Row:
    """What was found for one input tensor."""

    name: str
    shape: tuple
    method: str  # "every coordinate", "3 directions" or what is wrong with the gradient's shape
    relative_error: float
    worst: tuple  # index of the coordinate that disagrees most
    analytic: float  # the backward's derivative there
    numeric: float  # the numerical one
    ok: bool


@dataclass(frozen=True, repr=False)
class Report:
    """A gradcheck's outcome: true if every gradient is right; print it for a table, one line a tensor."""

    rows: list
    tolerance: float = 1e-6

    @property
    def ok(self):
        """Whether every tensor's error is within the tolerance."""
        return all(row.ok for row in self.rows)

    @property
    def max_relative_error(self):
        """The largest relative error over all tensors."""
        return max(row.relative_error for row in self.rows)

    @property
    def worst(self):
        """The row of the tensor with the largest relative error."""
        return max(self.rows, key=lambda row: row.relative_error)

    def __bool__(self):
        return self.ok

    def __repr__(self):
        return str(self)

    def __str__(self):
        lines = [f"{'tensor':<26} {'shape':<14} {'checked by':<17} {'rel. error':>10}"]
        for r in self.rows:
            line = f"{r.name:<26} {'×'.join(map(str, r.shape)) or 'scalar':<14} {r.method:<17} {r.relative_error:>10.1e}"
            if r.ok:
                lines.append(f"{line}  OK")
            elif not r.worst and r.shape:
                lines.append(f"{line}  WRONG")
            else:
                lines.append(
                    f"{line}  WRONG: at {list(r.worst)} backward says {r.analytic:.4g}, the numbers say {r.numeric:.4g}"
                )
        return "\n".join(lines)


def gradcheck(forward, backward, inputs, *, names=None, tolerance=1e-6, floor=1e-4, coordinates=64, seed=0):
    """Compare backward with numerical derivatives of forward -> Report (.ok, .max_relative_error, .worst).

    forward(*inputs) -> (y, cache), y one array or a tuple of arrays; backward(dy, cache) -> a tuple with one gradient per
    input (or the one gradient itself), None for integer inputs, which are held fixed. Floating inputs must be float64.

    The derivative checked is that of Σ y·dy for one random dy: central differences of fourth order, at every coordinate of
    a tensor with at most `coordinates` elements, else along random directions (a wrong gradient is almost surely wrong
    along each), and then at coordinates too if they disagree, to name the worst. Per tensor the error is
    max|analytic − numeric| / max(max|analytic|, max|numeric|, floor); the floor lets gradients that are exactly zero pass.
    Raises TypeError or ValueError for inputs that cannot be checked, or a forward that changes its inputs or is not
    deterministic.
    """
    inputs = list(inputs)
    names = list(names) if names is not None else [f"input {i}" for i in range(len(inputs))]
    if len(names) != len(inputs):
        raise ValueError(f"names must have one name per input, got {len(names)} for {len(inputs)}")
    for name, x in zip(names, inputs):
        if not hasattr(x, "dtype"):
            raise TypeError(f"gradcheck needs arrays, but {name} is a {type(x).__name__}")
        if x.dtype.kind == "f" and x.dtype != np.float64:
            raise TypeError(f"gradcheck needs float64 (float32 rounds too coarsely), but {name} is {x.dtype}")
    if not any(x.dtype.kind == "f" for x in inputs):
        raise ValueError("gradcheck needs at least one float64 input, got none")
    rng = np.random.default_rng(seed)
    originals = inputs
    inputs = [x.copy() for x in originals]

    returned = forward(*inputs)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError("forward must return (y, cache)")
    returned, cache = returned
    y = [np.asarray(a) if np.isscalar(a) else a.copy() for a in _as_tuple(returned)]
    dy = [array_module(a).asarray(rng.standard_normal(a.shape)) for a in y]
    for name, x, original in zip(names, inputs, originals):
        if not _equal(x, original):
            raise ValueError(f"forward changes its {name} in place")
    again = _as_tuple(forward(*inputs)[0])
    if not all(_equal(a, b) for a, b in zip(y, again)):
        raise ValueError("forward is not deterministic: two calls on the same inputs differ (seed its random numbers)")
    copies = tuple(d.copy() for d in dy)  # backward may overwrite what it is given
    gradients = backward(copies if isinstance(returned, (tuple, list)) else copies[0], cache)
    gradients = _as_tuple(gradients)
    if len(gradients) != len(inputs):
        raise ValueError(f"backward must return one gradient per input, {len(inputs)} in all, got {len(gradients)}")
    gradients = [None if g is None else g.copy() for g in gradients]
    inputs = [x.copy() for x in originals]  # backward may have overwritten a cached input

    def slope(i, direction):
        """d/ds Σ dy·y(inputs[i] + s·direction) at s = 0; differences are taken element by element, before they cancel."""
        x, total = inputs[i], 0.0
        step = 3e-5
        for s, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            inputs[i] = x + s * step * direction
            moved = _as_tuple(forward(*inputs)[0])
            total += weight * sum(float(((a - b) * d).sum()) for a, b, d in zip(moved, y, dy))
        inputs[i] = x
        return total / (12 * step)

    rows = []
    for i, (name, x, g) in enumerate(zip(names, inputs, gradients)):
        if x.dtype.kind != "f":
            continue
        rows.append(_check_tensor(name, x, g, lambda d, i=i: slope(i, d), rng, tolerance, floor, coordinates))
    return Report(rows, tolerance)


def _check_tensor(name, x, g, slope, rng, tolerance, floor, coordinates):
    if g is None or g.shape != x.shape:
        got = "no gradient" if g is None else f"shape {g.shape}"
        return Row(name, x.shape, f"returned {got}", float("inf"), (), float("nan"), float("nan"), False)
    xp, g = array_module(x), to_numpy(g)

    def compare(directions):
        """Relative error over some directions, and for each: analytic, numeric, their difference."""
        analytic, numeric = [], []
        for d in directions:
            touched = d != 0  # a NaN elsewhere in g is not this direction's
            analytic.append((g[touched] * d[touched]).sum())
            numeric.append(slope(xp.asarray(d)))
        analytic, numeric = np.array(analytic), np.array(numeric)
        error = np.abs(analytic - numeric)
        error[~np.isfinite(error)] = np.inf
        size = max(np.abs(analytic).max(initial=0), np.abs(numeric).max(initial=0), floor)
        relative = error.max(initial=0) / size if np.isfinite(error).all() else np.inf
        return float(relative), analytic, numeric, error

    def signs(chosen):
        """A random direction of ±1 at the chosen coordinates."""
        direction = np.zeros(x.size)
        direction[chosen] = rng.choice([-1.0, 1.0], len(chosen))
        return direction.reshape(x.shape)

    relative, method, chosen = 0.0, "every coordinate", np.arange(x.size)
    if x.size > coordinates:
        method = "3 directions"
        relative, *_ = compare(signs(chosen) for _ in range(3))
        if relative <= tolerance:
            chosen = np.abs(g).argmax(keepdims=True).reshape(-1)
        while len(chosen) > coordinates:  # close in on the coordinate that is wrong: keep the half that disagrees more
            chosen = max(np.array_split(chosen, 2), key=lambda half: compare([signs(half)])[3][0])
    per_coordinate, analytic, numeric, error = compare(np.abs(signs([k])) for k in chosen)
    relative = max(relative, per_coordinate)
    if not len(chosen):
        return Row(name, x.shape, method, relative, (), float("nan"), float("nan"), relative <= tolerance)
    k = int(error.argmax())
    worst = tuple(int(n) for n in np.unravel_index(chosen[k], x.shape))
    return Row(name, x.shape, method, relative, worst, float(analytic[k]), float(numeric[k]), relative <= tolerance)


def _as_tuple(y):
    return tuple(y) if isinstance(y, (tuple, list)) else (y,)


def _equal(a, b):
    return bool(((a == b) | ((a != a) & (b != b))).all())  # NaN equals NaN here


def check_everything(device="cpu", seed=0):
    """Gradient-check every layer, every objective and whole models in float64 on `device`: yields (title, Report)."""
    xp = backend.select_device(device)
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return xp.asarray(rng.standard_normal(shape))

    def ids(low, high, *shape):
        return xp.asarray(rng.integers(low, high, shape))

    def check(title, forward, backward, **inputs):
        return title, gradcheck(forward, backward, list(inputs.values()), names=list(inputs), seed=seed)

    B, T, C, H, V = 2, 3, 8, 2, 5
    x, dropout = normal(B, T, C), {"rate": 0.3}
    yield check("linear", layers.linear_forward, layers.linear_backward, x=x, weight=normal(C, 7), bias=normal(7))
    embedding = layers.embedding_forward, layers.embedding_backward
    yield check("embedding of ids", *embedding, ids=ids(0, V, B, T), weight=normal(V, C))
    yield check("embedding of soft one-hots", *embedding, onehots=normal(B, T, V), weight=normal(V, C))
    yield check(
        "position", lambda x, w: layers.position_forward(x, w, 1), layers.position_backward, x=x, weight=normal(T + 2, C)
    )
    yield check("unembedding", layers.unembedding_forward, layers.unembedding_backward, x=x, weight=normal(V, C))
    yield check("layer norm", layers.layer_norm_forward, layers.layer_norm_backward, x=x, weight=normal(C), bias=normal(C))
    yield check("GELU", layers.gelu_forward, layers.gelu_backward, x=x)
    yield check("ReLU", layers.relu_forward, layers.relu_backward, x=x + 0.1 * xp.sign(x))  # away from its corner
    yield check("softmax", layers.softmax_forward, layers.softmax_backward, x=x)
    yield check(
        "dropout", lambda x: layers.dropout_forward(x, **dropout, rng=backend.rng(seed, xp)), layers.dropout_backward, x=x
    )
    yield check(
        "attention",
        lambda qkv: layers.attention_forward(qkv, H),
        lambda dy, cache: layers.attention_backward(dy, cache)[:1],
        qkv=normal(B, T, 3 * C),
    )

    def attention_after_past(qkv, k, v):
        return layers.attention_forward(qkv, H, layers.KV(k, v))

    def attention_after_past_backward(dy, cache):
        dqkv, dpast = layers.attention_backward(dy, cache)
        return dqkv, *dpast

    past = {"past.k": normal(1, H, 2, C // H), "past.v": normal(1, H, 2, C // H)}
    yield check(
        "attention, rows sharing a past", attention_after_past, attention_after_past_backward, qkv=normal(B, T, 3 * C), **past
    )

    targets = ids(-1, V, B, T)
    logits, cost_embedding = normal(B, T, V), normal(V, C)
    for title, objective in objective_checks(logits, targets, cost_embedding):
        yield check(title, objective, lambda dy, dlogits: (dy * dlogits,), logits=logits)

    yield "the whole model, MixCE loss", check_model(xp, rng, seed)
    yield "the bigram, MixCE loss", check_model(xp, rng, seed, small_bigram(rng))
    yield "the table bigram, MixCE loss", check_model(xp, rng, seed, random_params(TableBigram(5, device="cpu"), rng))


def objective_checks(logits, targets, cost_embedding):
    """(title, function of logits -> (loss, dlogits)) for every objective.

    Where an objective stops a gradient, the loss is the one that dlogits is the derivative of: its stopped part is taken
    at the given logits and held there.
    """
    for title, name, options in (
        ("mle", "mle", {}),
        ("mixce, η = 0.3 (η = 1 is MLE)", "mixce", {"eta": 0.3}),
        ("tailr, γ = 0.3 (γ = 0 is MLE)", "tailr", {"gamma": 0.3}),
    ):
        yield title, lambda z, name=name, options=options: getattr(objectives, name)(z, targets, **options)

    xp = array_module(logits)
    kept = targets >= 0
    frozen_w = 0.3 + 0.7 * xp.exp(-objectives.mle(logits, targets, reduction="none")[0])  # η + (1−η) q at the given logits

    def surrogate(z):
        nll, _ = objectives.mle(z, targets, reduction="none")
        return (frozen_w * nll).sum() / kept.sum(), objectives.mixce_surrogate(z, targets, eta=0.3)[1]

    yield "mixce_surrogate, frozen weight", surrogate

    unit = cost_embedding / xp.sqrt((cost_embedding**2).sum(axis=-1, keepdims=True))
    cost = 1 - unit[xp.where(kept, targets, 0)] @ unit.T  # (B,T,V); the target's own is 0 up to rounding

    def transport(z):
        return (layers.softmax_forward(z)[0] * cost).sum(axis=-1)

    frozen_ratio = objectives.mle(logits, targets, reduction="none")[0] / transport(logits)

    def emo(z):
        nll, _ = objectives.mle(z, targets, reduction="none")
        loss = 0.5 * (nll + frozen_ratio * transport(z)).sum() / kept.sum()
        return loss, objectives.emo(z, targets, cost_embedding)[1]

    yield "emo, frozen ratio", emo


def check_objective(objective, seed=0):
    """Gradient-check an objective, (logits, targets) -> (loss, dlogits), on random logits with an ignored target."""
    rng = np.random.default_rng(seed)
    logits, targets = 2 * rng.standard_normal((2, 4, 6)), rng.integers(0, 6, (2, 4))
    targets[0, 1] = -1
    return gradcheck(
        lambda z: objective(z, targets), lambda dy, dlogits: (dy * dlogits,), [logits], names=["logits"], seed=seed
    )


def random_params(model, rng):
    """The model with parameters that are all random and far from zero, so that no term of a gradient hides."""
    model.params = {name: rng.standard_normal(p.shape) * 0.5 for name, p in model.params.items()}
    return model


def small_gpt(rng):
    """A float64 GPT small enough for every coordinate to be checked, with random parameters, on the CPU."""
    config = GPTConfig(vocab_size=5, block_size=4, n_layer=2, n_head=2, n_embd=8, dropout=0.1, dtype="float64")
    return random_params(GPT(config, device="cpu"), rng)


def small_bigram(rng):
    """A Bigram none of whose hidden units is so near the corner of ReLU that a numerical derivative would reach across."""
    model = Bigram(BigramConfig(vocab_size=5, n_embd=4, n_hidden=6, dropout=0.1, dtype="float64"), device="cpu")
    while True:
        p = random_params(model, rng).params
        if np.abs(p["embedding.weight"] @ p["hidden.weight"] + p["hidden.bias"]).min() > 0.01:
            return model


def check_model(xp, rng, seed=0, model=None):
    """Gradient-check a float64 model of 5 tokens (by default a small GPT), with its dropout, under MixCE: one row of the report
    for each parameter."""
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
