"""How the tasks of A2 are probed and run.

Axes have different sizes, (B,T,H,D,C,V,O) = (2,5,3,4,12,7,11), so that no transpose or sum over the
wrong axis goes unnoticed.
"""

import numpy as np

from .a2_source import has_bias, has_cap, reference
from .returns import WrongReturn, entry_of, gradients_of, two_of
from .signatures import Functions, Inputs, OneByOne, Pair, Probe, Probes
from .tasks import rng_of

B, T, H, D, V, O = 2, 5, 3, 4, 7, 11  # noqa: E741
C = H * D


def _normal(rng, *shape):
    return rng.standard_normal(shape)


def linear_probes(seed: int) -> list[Probe]:
    """x with two, three and four axes."""
    rng = rng_of(seed, 21)

    def inputs(*leading):
        parts = {"x": _normal(rng, *leading, C), "W": _normal(rng, C, O), "b": _normal(rng, O)}
        return parts | {"dy": _normal(rng, *leading, O)}

    return [
        Probe("ordinary", inputs(B, T)),
        Probe("ordinary", inputs(T), "with x of two axes"),
        Probe("ordinary", inputs(B, 3, T), "with x of four axes"),
        Probe("degenerate", inputs(1, 1), "with a single row"),
    ]


def embedding_probes(seed: int) -> list[Probe]:
    """Ids with repeats, and rows that none names."""
    rng = rng_of(seed, 22)

    def inputs(ids):
        b, t = ids.shape
        W, P = _normal(rng, V, C), _normal(rng, T + 3, C)
        x, dy = _normal(rng, b, t, C), _normal(rng, b, t, C)
        return {"ids": ids, "W": W, "x": x, "P": P, "dy": dy}

    return [
        Probe("ordinary", inputs(np.array([[3, 1, 3, 0, 3], [5, 1, 0, 0, 2]]))),
        Probe("degenerate", inputs(np.array([[4]])), "with a single token"),
    ]


def _forward(functions, name, *given):
    """What `name_forward` returns, y and cache."""
    called = f"{name}_forward"
    return two_of(called, getattr(functions, called)(*given))


def _backward(functions, name, dy, cache, wanted):
    """What `name_backward` returns, gradients of these names."""
    called = f"{name}_backward"
    return gradients_of(called, getattr(functions, called)(dy, cache), wanted)


def run_embedding(functions: Functions, inputs: Inputs) -> OneByOne:
    """The embedding, forward and backward."""
    y, cache = _forward(functions, "embedding", inputs["ids"], inputs["W"])
    yield "y", y
    yield "dW", _backward(functions, "embedding", inputs["dy"], cache, ("dW",))[0]


def run_position(functions: Functions, inputs: Inputs) -> OneByOne:
    """The positions, forward and backward."""
    y, cache = _forward(functions, "position", inputs["x"], inputs["P"])
    yield "y with positions", y
    gradients = _backward(functions, "position", inputs["dy"], cache, ("dx", "dW"))
    yield from zip(("dx", "dW of the positions"), gradients)


def pair_embedding(functions: Functions, inputs: Inputs) -> Pair:
    """The embedding as a function of W."""

    def forward(W):
        return _forward(functions, "embedding", inputs["ids"], W)

    def backward(dy, cache):
        return _backward(functions, "embedding", dy, cache, ("dW",))

    return forward, backward, {"W": inputs["W"]}


def pair_position(functions: Functions, inputs: Inputs) -> Pair:
    """The positions as a function of x and their W."""

    def forward(x, P):
        return _forward(functions, "position", x, P)

    def backward(dy, cache):
        return _backward(functions, "position", dy, cache, ("dx", "dW"))

    return forward, backward, {"x": inputs["x"], "W of the positions": inputs["P"]}


def activation_probes(seed: int) -> list[Probe]:
    """Ordinary numbers, and such as overflow."""
    rng = rng_of(seed, 23)

    def inputs(x):
        return {"x": x, "dy": _normal(rng, *x.shape)}

    far = np.array([-50.0, 50.0, 1000.0, -1000.0, -8.0, 8.0, 1e-3, 20.0])
    return [
        Probe("ordinary", inputs(2 * _normal(rng, B, T, C))),
        Probe("extreme", inputs(far), "with x of ±50 and ±1000 among others"),
        Probe("degenerate", inputs(_normal(rng, 1)), "with a single number"),
    ]


def softmax_probes(seed: int) -> list[Probe]:
    """Two axes, and numbers that overflow."""
    rng = rng_of(seed, 24)

    def inputs(x, axis):
        return {"x": x, "axis": axis, "dy": _normal(rng, *x.shape)}

    far = np.array([[1000.0, 0.0, -1000.0], [1000.0, 999.0, 1001.0]])
    return [
        Probe("ordinary", inputs(2 * _normal(rng, B, T, V), 1)),
        Probe("ordinary", inputs(2 * _normal(rng, B, T, V), -1), "over the last axis"),
        Probe("extreme", inputs(far, -1), "with x of ±1000"),
        Probe("degenerate", inputs(_normal(rng, 1, 1), -1), "over an axis of size 1"),
    ]


def ones_give_zero(functions: Functions, inputs: Inputs) -> str:
    """A property: a dy of ones moves nothing, since the sum is always one."""
    y, cache = _forward(functions, "softmax", inputs["x"], inputs["axis"])
    (dx,) = _backward(functions, "softmax", np.ones_like(y), cache, ("dx",))
    return "" if np.abs(dx).max() < 1e-6 else "dx is not 0 for a dy of ones"


def norm_probes(has_bias: bool) -> Probes:
    """Ordinary rows, and rows of small variance."""

    def probes(seed):
        rng = rng_of(seed, 25)

        def inputs(x):
            parts = {"x": x, "weight": 1 + 0.5 * _normal(rng, x.shape[-1])}
            if has_bias:
                parts["bias"] = _normal(rng, x.shape[-1])
            return parts | {"dy": _normal(rng, *x.shape)}

        offset = _normal(rng, T, 1)
        return [
            Probe("ordinary", inputs(_normal(rng, B, T, C) + 0.5 * offset)),
            Probe(
                "extreme",
                inputs(1e-3 * _normal(rng, 3, C) + 1e-2),
                "with rows of almost no variance, beside which ε counts",
            ),
            Probe("degenerate", inputs(_normal(rng, 1, 1, C)), "with a single row"),
        ]

    return probes


def attention_probes(variant: int) -> Probes:
    """Several heads, one head, large scores, one position.

    Large are scores beyond what exp can take or, where they are capped, some beyond the cap and
    some not: were all of them, no gradient would be left to compare.
    """
    far = 4.0 if has_cap(variant) else 30.0

    def probes(seed):
        rng = rng_of(seed, 26)

        def inputs(b, t, heads, scale=1.0):
            qkv, dy = scale * _normal(rng, b, t, 3 * heads * D), _normal(rng, b, t, heads * D)
            mask = reference(variant).visible(t)
            return {"qkv": qkv, "n_head": heads, "mask": mask, "dy": dy}

        return [
            Probe("ordinary", inputs(B, T, H)),
            Probe("ordinary", inputs(B, T, 1), "with a single head"),
            Probe("extreme", inputs(B, T, H, far), "with large scores"),
            Probe("degenerate", inputs(1, 1, H), "with a single position"),
        ]

    return probes


def run_visible(functions: Functions, inputs: Inputs) -> OneByOne:
    """The mask."""
    mask = functions.visible(inputs["qkv"].shape[1])
    yield "visible", mask.astype(int) if isinstance(mask, np.ndarray) else mask


def run_attention(functions: Functions, inputs: Inputs) -> OneByOne:
    """Attention forward and backward, with the right mask."""
    qkv = inputs["qkv"]
    y, cache = _forward(functions, "attention", qkv, inputs["n_head"], inputs["mask"])
    yield "y", y
    (dqkv,) = _backward(functions, "attention", inputs["dy"], cache, ("dqkv",))
    if np.shape(dqkv) != qkv.shape:
        said = f"attention_backward returned dqkv of shape {np.shape(dqkv)}; qkv has {qkv.shape}"
        raise WrongReturn(said)
    yield from zip(("dq", "dk", "dv"), np.split(dqkv, 3, axis=-1))


def pair_attention(functions: Functions, inputs: Inputs) -> Pair:
    """Attention as a function of qkv."""

    def forward(qkv):
        return _forward(functions, "attention", qkv, inputs["n_head"], inputs["mask"])

    def backward(dy, cache):
        return _backward(functions, "attention", dy, cache, ("dqkv",))

    return forward, backward, {"qkv": inputs["qkv"]}


def masked_positions_do_not_matter(functions: Functions, inputs: Inputs) -> str:
    """What a query may not see moves nothing of its result, bit for bit."""
    qkv, mask = inputs["qkv"], inputs["mask"]
    y, _ = _forward(functions, "attention", qkv, inputs["n_head"], mask)
    for j in range(qkv.shape[1]):
        other = qkv.copy()
        other[:, j] += 1
        moved, _ = _forward(functions, "attention", other, inputs["n_head"], mask)
        unseen = ~mask[:, j] & (np.arange(len(mask)) != j)
        if not np.array_equal(moved[:, unseen], y[:, unseen]):
            return f"a query that may not see position {j} depends on it"
    return ""


def heads_are_alone(functions: Functions, inputs: Inputs) -> str:
    """All heads together return what each returns alone."""
    qkv, mask = inputs["qkv"], inputs["mask"]
    width = qkv.shape[-1] // 3 // inputs["n_head"]
    y, _ = _forward(functions, "attention", qkv, inputs["n_head"], mask)
    parts = qkv.reshape(*qkv.shape[:2], 3, -1)
    for h in range(inputs["n_head"]):
        part = slice(h * width, (h + 1) * width)
        alone = np.concatenate([parts[:, :, k, part] for k in range(3)], axis=-1)
        expected, _ = _forward(functions, "attention", alone, 1, mask)
        if not np.allclose(y[..., part], expected, rtol=1e-5, atol=1e-5):
            return f"head {h} returns something else alone than among the others"
    return ""


def model_probes(variant: int) -> Probes:
    """Parameters, ids with repeats, targets with some or all ignored."""

    def probes(seed):
        rng = rng_of(seed, 27)
        with_bias = has_bias(variant)

        def inputs(ids, targets):
            shapes = {"wte": (V, C), "W": (C, 3 * C), "b": (3 * C,), "norm_weight": (C,)}
            shapes |= {"norm_bias": (C,)} if with_bias else {}
            params = {name: 0.5 * _normal(rng, *shape) for name, shape in shapes.items()}
            return params | {"ids": ids, "targets": targets}

        ids = np.array([[3, 1, 3, 0, 3], [5, 1, 0, 0, 2]])
        targets = np.array([[1, 3, 0, -1, 4], [1, 0, 0, -1, -1]])
        return [
            Probe("ordinary", inputs(ids, targets)),
            Probe("degenerate", inputs(np.array([[4]]), np.array([[2]])), "with a single token"),
            Probe(
                "degenerate",
                inputs(np.array([[4, 1]]), np.array([[-1, -1]])),
                "with no target at all",
            ),
        ]

    return probes


def params_of(inputs: Inputs) -> Inputs:
    """Those inputs that are parameters."""
    return {k: v for k, v in inputs.items() if k not in ("ids", "targets", "x", "dy")}


def _model(functions, params, inputs):
    given = functions.tiny_model(params, inputs["ids"], inputs["targets"])
    return two_of("tiny_model", given, "(loss, grads)")


def run_model(functions: Functions, inputs: Inputs) -> OneByOne:
    """The loss and every gradient."""
    params = params_of(inputs)
    loss, grads = _model(functions, params, inputs)
    yield "loss", loss
    for name in params:
        yield f"d{name}", entry_of("the grads of tiny_model", grads, name)


def pair_model(functions: Functions, inputs: Inputs) -> Pair:
    """The loss as a function of all parameters."""
    params = params_of(inputs)

    def forward(*values):
        return _model(functions, dict(zip(params, values)), inputs)

    def backward(dy, grads):
        return tuple(dy * grads[name] for name in params)

    return forward, backward, params


def block_probes(variant: int) -> Probes:
    """x and the parameters of a block."""

    def probes(seed):
        rng = rng_of(seed, 29)
        shapes = {"norm1_weight": (C,), "qkv_W": (C, 3 * C), "qkv_b": (3 * C,)}
        shapes |= {"out_W": (C, C), "out_b": (C,), "norm2_weight": (C,)}
        shapes |= {"up_W": (C, O), "up_b": (O,), "down_W": (O, C), "down_b": (C,)}
        if has_bias(variant):
            shapes |= {"norm1_bias": (C,), "norm2_bias": (C,)}

        def inputs(b, t):
            params = {name: 0.4 * _normal(rng, *shape) for name, shape in shapes.items()}
            return {"x": _normal(rng, b, t, C), "dy": _normal(rng, b, t, C)} | params

        one = Probe("degenerate", inputs(1, 1), "with a single row")
        return [Probe("ordinary", inputs(B, T)), one]

    return probes


def _block_backward(functions, dy, cache):
    given = functions.block_backward(dy, cache)
    return two_of("block_backward", given, "(dx, grads)")


def run_block(functions: Functions, inputs: Inputs) -> OneByOne:
    """The block, forward and backward."""
    params = params_of(inputs)
    y, cache = _forward(functions, "block", inputs["x"], params)
    yield "y", y
    dx, grads = _block_backward(functions, inputs["dy"], cache)
    yield "dx", dx
    for name in params:
        yield f"d{name}", entry_of("the grads of block_backward", grads, name)


def pair_block(functions: Functions, inputs: Inputs) -> Pair:
    """The block as a function of x and all parameters."""
    params = params_of(inputs)

    def forward(x, *values):
        return _forward(functions, "block", x, dict(zip(params, values)))

    def backward(dy, cache):
        dx, grads = _block_backward(functions, dy, cache)
        return (dx, *(grads[name] for name in params))

    return forward, backward, {"x": inputs["x"]} | params
