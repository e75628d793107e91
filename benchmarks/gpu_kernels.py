"""Every kernel of minimixce/fast against the plain form: is it right, and is it faster?

Right: against NumPy's plain form in float64, of the same numbers. Faster: on the device, at the
shape of GPT-2 124M with 8 rows of 1,024 tokens. Where there is no GPU, the plain form plays the
kernel's part, so that this file's own logic is run.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from gpu_harness import below, check, far, seconds_of
from minimixce import GPT, GPTConfig, backend, layers, objectives, optim
from minimixce.fast import attention, cuda_layers, cuda_training, generation, head, kernels


class Size(NamedTuple):
    """Batch, time, channels, heads, vocabulary."""

    B: int
    T: int
    C: int
    H: int
    V: int


SMALL, MEDIUM = Size(2, 20, 16, 2, 53), Size(2, 130, 96, 3, 1003)
GPT2 = Size(8, 1024, 768, 12, 50257)
LIMITS = {"float64": 1e-11, "float32": 1e-4}


class Draw:
    """The same random inputs on every device; for times, the device's own, which come sooner."""

    def __init__(self, bench, xp, dtype, size, anew=False):
        self.bench, self.xp, self.dtype, self.size = bench, xp, dtype, size
        self._rng = np.random.default_rng(0)
        self._here = backend.rng(0, xp) if anew else None

    def __call__(self, *shape):
        if self._here is not None:
            return self._here.random(shape, dtype=self.dtype) - 0.5
        return self.xp.asarray(self._rng.standard_normal(shape, np.float32).astype(self.dtype))

    def ids(self, low, *shape):
        return self.xp.asarray(self._rng.integers(low, self.size.V, shape))

    def fast(self, module, name, plain):
        """The function `name` of a module of kernels, or, where there is no GPU, the plain form."""
        function = getattr(module, name)
        return function if self.bench.is_gpu and self.xp is not np else plain


# ---- cases: functions of a Draw that return two calls without arguments, plain and fast ----------


def layer_inputs(name, draw):
    """What the layer's forward is called with."""
    B, T, C, H, V = draw.size
    if name == "linear":
        return draw(B, T, C), draw(C, 4 * C), draw(4 * C)
    if name == "unembedding":
        return draw(B, T, C), draw(V, C)
    if name == "attention":
        return draw(B, T, 3 * C), H
    if name == "layer_norm":
        return draw(B, T, C) + 3, draw(C), draw(C)
    return (draw(B, T, 4 * C),)  # gelu


def forward(draw, name, module=cuda_layers, always=False):
    plain = getattr(layers, f"{name}_forward")
    fast = module.attention_forward if always else draw.fast(module, f"{name}_forward", plain)
    inputs = layer_inputs(name, draw)
    return (lambda: plain(*inputs)[:1]), (lambda: fast(*inputs)[:1])


def backward(draw, name, module=cuda_layers, always=False):
    plain_forward, plain = (getattr(layers, f"{name}_{way}") for way in ("forward", "backward"))
    inputs = layer_inputs(name, draw)
    y, cache = plain_forward(*inputs)
    dy = draw(*y.shape)
    if always:  # its cache is its own
        _, own = module.attention_forward(*inputs)
        return (lambda: plain(dy, cache)), (lambda: module.attention_backward(dy, own))
    fast = draw.fast(module, f"{name}_backward", plain)
    return (lambda: plain(dy, cache)), (lambda: fast(dy, cache))


def product(draw, transposed, heads):
    """aᵀ b or a bᵀ, of two axes or of all heads of a batch, which are views."""
    B, T, C, H, _ = draw.size
    shape = (B, T, H, C // H) if heads else (B * T, C)
    a, b = draw(*shape), draw(*shape)
    a, b = (a.swapaxes(1, 2), b.swapaxes(1, 2)) if heads else (a, b)

    def plain():
        swapped = (a if transposed == "a" else b).swapaxes(-1, -2)
        return swapped @ b if transposed == "a" else a @ swapped

    matmul = draw.fast(kernels, "matmul", None)
    if matmul is None:
        return plain, plain
    return plain, lambda: matmul(a, b, **{f"transpose_{transposed}": True})


def column_sums(draw):
    x = draw(draw.size.B * draw.size.T, 4 * draw.size.C)
    fast = draw.fast(kernels, "sum_rows", lambda x: x.sum(axis=0))
    return (lambda: x.sum(axis=0)), (lambda: fast(x))


def loss_head(draw, name):
    B, T, _, _, V = draw.size
    logits, targets = draw(B, T, V), draw.ids(-1, B, T)
    plain = objectives.token_objective
    fast = draw.fast(cuda_training, "token_objective", plain)
    terms = objectives.OBJECTIVES[name].f_and_w
    return (lambda: plain(logits, targets, terms, 0.3)), (lambda: fast(logits, targets, terms, 0.3))


def chunked_head(draw):
    """The loss of some rows at a time, which no array of all logits is made for."""
    B, T, C, _, V = draw.size
    x, weight, targets = draw(B, T, C), draw(V, C), draw.ids(-1, B, T)
    objective = functools.partial(objectives.mixce, eta=0.3, normalizer=B * T)

    def plain():
        logits, cache = layers.unembedding_forward(x, weight)
        loss, dlogits = objective(logits, targets)
        return loss, *layers.unembedding_backward(dlogits, cache)

    return plain, lambda: head.loss_and_grads(x, weight, targets, objective)


def _tensors(draw, count=2):
    """{name: array} as a model has them, `count` times."""
    C, V = draw.size.C, draw.size.V
    shapes = {"wte": (V, C)}
    for i in range(12 if draw.bench.is_gpu else 2):
        shapes |= {f"{i} fc": (C, 4 * C), f"{i} proj": (4 * C, C), f"{i} bias": (4 * C,)}
    return [{name: draw(*shape) for name, shape in shapes.items()} for _ in range(count)]


def clipping(draw):
    (grads,) = _tensors(draw, 1)
    fast = draw.fast(cuda_training, "clip_grads", optim.clip_grads)
    return (
        lambda: (optim.clip_grads(grads, 1.0), *grads.values()),
        lambda: (fast(grads, 1.0), *grads.values()),
    )


def adamw(draw):
    params, grads = _tensors(draw)
    lr, betas, eps, decay = 0.01, (0.9, 0.95), 1e-8, 0.1
    optimizer = optim.AdamW(params, lr, betas, eps, decay)
    mean, square = (draw.xp.zeros(sum(p.size for p in params.values()), draw.dtype) for _ in "ms")
    step_size, root_scale = lr / (1 - betas[0]), 1 / math.sqrt(1 - betas[1])

    def plain():
        optimizer.step(grads)
        return tuple(params.values())

    def fast():
        numbers = (betas, step_size, root_scale, eps, 1 - lr * decay)
        cuda_training.adamw_update(params, grads, mean, square, *numbers)
        return tuple(params.values())

    return plain, plain if draw.fast(cuda_training, "adamw_update", None) is None else fast


def next_token(draw):
    B, _, C, H, V = draw.size
    config = GPTConfig(V, 8, 2, H, C, dtype=draw.dtype)
    model = GPT(config, device="cpu")
    model.params = {name: draw.xp.asarray(p) for name, p in model.params.items()}
    _, past, _ = model.extend_forward(draw.ids(0, B, 3))
    tokens = draw.ids(0, B)
    return (
        lambda: (model.extend_forward(tokens[:, None], past)[0][:, 0],),
        lambda: (generation.token_forward(tokens, model.params, config, past)[0],),
    )


CASES = {
    f"{name} {way.__name__}": functools.partial(way, name=name)
    for name in ("linear", "unembedding", "attention", "gelu", "layer_norm")
    for way in (forward, backward)
}
CASES |= {
    f"attention {way.__name__} in blocks": functools.partial(
        way, name="attention", module=attention, always=True
    )
    for way in (forward, backward)
}
CASES |= {
    f"product, {transposed} transposed{', of heads' if heads else ''}": functools.partial(
        product, transposed=transposed, heads=heads
    )
    for heads in (False, True)
    for transposed in "ab"
}
CASES |= {
    "sums of columns": column_sums,
    "loss head, mixce": functools.partial(loss_head, name="mixce"),
    "loss head, tailr": functools.partial(loss_head, name="tailr"),
    "loss head in chunks": chunked_head,
    "clipping": clipping,
    "AdamW": adamw,
    "the next token": next_token,
}


# ---- the checks ----------------------------------------------------------------------------------


def flat(result):
    """The arrays of a result, one or a tuple in which None may be."""
    return [x for x in (result if isinstance(result, tuple) else (result,)) if x is not None]


def is_right(bench, case):
    size, words = SMALL if bench.quick else MEDIUM, []
    plain, _ = case(Draw(bench, np, "float64", size))
    expected = [np.array(x) for x in flat(plain())]
    for dtype, limit in LIMITS.items():
        _, fast = case(Draw(bench, bench.xp, dtype, size))
        found = flat(fast())
        if len(found) != len(expected):
            raise AssertionError(f"{len(found)} results in place of {len(expected)}")
        error = max(far(a, b, 1e-8) for a, b in zip(found, expected))
        words.append(below(error, limit, dtype))
    return "; ".join(words)


def is_faster(bench, case):
    size = SMALL if bench.quick or not bench.is_gpu else GPT2
    found = {}
    for k, name in enumerate(("plain_ms", "fast_ms")):
        call = case(Draw(bench, bench.xp, "float32", size, anew=True))[k]
        found[name] = 1e3 * seconds_of(bench, call, 3 if bench.quick else 10, 1)
        bench.free()
    return found | {"ratio": found["fast_ms"] / found["plain_ms"]}


for _name, _case in CASES.items():
    check(f"kernels: {_name}")(functools.partial(is_right, case=_case))
for _name, _case in CASES.items():
    check(f"times: {_name}")(functools.partial(is_faster, case=_case))
