"""How the tasks of A2 are probed and run.

Axes have different sizes, (B,T,H,D,C,V,O) = (2,5,3,4,12,7,11), so that no transpose or sum over the
wrong axis goes unnoticed.
"""

import numpy as np

from .a2_source import has_bias, has_cap, reference
from .tasks import Probe, rng_of

B, T, H, D, V, O = 2, 5, 3, 4, 7, 11  # noqa: E741
C = H * D


def _normal(rng, *shape):
    return rng.standard_normal(shape)


def linear_probes(seed):
    """x with two, three and four axes."""
    rng = rng_of(seed, 21)

    def inputs(*leading):
        parts = {"x": _normal(rng, *leading, C), "W": _normal(rng, C, O), "b": _normal(rng, O)}
        return parts | {"dy": _normal(rng, *leading, O)}

    return [
        Probe("ordinary", inputs(B, T)),
        Probe("ordinary", inputs(T)),
        Probe("ordinary", inputs(B, 3, T)),
        Probe("degenerate", inputs(1, 1)),
    ]


def embedding_probes(seed):
    """Ids with repeats, and rows that none names."""
    rng = rng_of(seed, 22)

    def inputs(ids):
        b, t = ids.shape
        W, P = _normal(rng, V, C), _normal(rng, T + 3, C)
        x, dy = _normal(rng, b, t, C), _normal(rng, b, t, C)
        return {"ids": ids, "W": W, "x": x, "P": P, "dy": dy}

    return [
        Probe("ordinary", inputs(np.array([[3, 1, 3, 0, 3], [5, 1, 0, 0, 2]]))),
        Probe("degenerate", inputs(np.array([[4]]))),
    ]


def run_embedding(functions, inputs):
    """Both embeddings, forward and backward."""
    dy = inputs["dy"]
    y, cache = functions.embedding_forward(inputs["ids"], inputs["W"])
    given = functions.embedding_backward(dy, cache)
    dW = given[-1] if isinstance(given, (tuple, list)) else given
    y_position, cache = functions.position_forward(inputs["x"], inputs["P"])
    dx, dP = functions.position_backward(dy, cache)
    return {"y": y, "y with positions": y_position, "dW": dW, "dx": dx, "dP": dP}


def pair_embedding(functions, inputs):
    """Both embeddings as one function of W, x and P."""

    def forward(W, x, P):
        y, cache = functions.embedding_forward(inputs["ids"], W)
        y_position, cache_position = functions.position_forward(x, P)
        return (y, y_position), (cache, cache_position)

    def backward(dy, caches):
        given = functions.embedding_backward(dy[0], caches[0])
        dW = given[-1] if isinstance(given, (tuple, list)) else given
        return (dW, *functions.position_backward(dy[1], caches[1]))

    return forward, backward, {name: inputs[name] for name in ("W", "x", "P")}


def activation_probes(seed):
    """Ordinary numbers, and such as overflow."""
    rng = rng_of(seed, 23)

    def inputs(x):
        return {"x": x, "dy": _normal(rng, *x.shape)}

    far = np.array([-50.0, 50.0, 1000.0, -1000.0, -8.0, 8.0, 1e-3, 20.0])
    return [
        Probe("ordinary", inputs(2 * _normal(rng, B, T, C))),
        Probe("extreme", inputs(far)),
        Probe("degenerate", inputs(_normal(rng, 1))),
    ]


def softmax_probes(seed):
    """Two axes, and numbers that overflow."""
    rng = rng_of(seed, 24)

    def inputs(x, axis):
        return {"x": x, "axis": axis, "dy": _normal(rng, *x.shape)}

    far = np.array([[1000.0, 0.0, -1000.0], [1000.0, 999.0, 1001.0]])
    return [
        Probe("ordinary", inputs(2 * _normal(rng, B, T, V), 1)),
        Probe("ordinary", inputs(2 * _normal(rng, B, T, V), -1)),
        Probe("extreme", inputs(far, -1)),
        Probe("degenerate", inputs(_normal(rng, 1, 1), -1)),
    ]


def ones_give_zero(functions, inputs):
    """A property: a dy of ones moves nothing, since the sum is always one."""
    y, cache = functions.softmax_forward(inputs["x"], inputs["axis"])
    (dx,) = functions.softmax_backward(np.ones_like(y), cache)
    return "" if np.abs(dx).max() < 1e-6 else "dx is not 0 for a dy of ones"


def norm_probes(has_bias):
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
            Probe("extreme", inputs(1e-3 * _normal(rng, 3, C) + 1e-2)),
            Probe("degenerate", inputs(_normal(rng, 1, 1, C))),
        ]

    return probes


def attention_probes(variant):
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
            Probe("ordinary", inputs(B, T, 1)),
            Probe("extreme", inputs(B, T, H, far)),
            Probe("degenerate", inputs(1, 1, H)),
        ]

    return probes


def run_attention(functions, inputs):
    """The mask, and attention forward and backward with the right mask."""
    qkv = inputs["qkv"]
    mask = functions.visible(qkv.shape[1])
    y, cache = functions.attention_forward(qkv, inputs["n_head"], inputs["mask"])
    given = functions.attention_backward(inputs["dy"], cache)
    dqkv = given[0] if isinstance(given, (tuple, list)) else given
    if np.shape(dqkv) != qkv.shape:
        shape = np.shape(dqkv)
        raise TypeError(f"attention_backward returns shape {shape}, not {qkv.shape}")
    dq, dk, dv = np.split(dqkv, 3, axis=-1)
    seen = np.asarray(mask)
    return {"y": y, "visible": seen.astype(int), "dq": dq, "dk": dk, "dv": dv}


def pair_attention(functions, inputs):
    """Attention as a function of qkv."""

    def forward(qkv):
        return functions.attention_forward(qkv, inputs["n_head"], inputs["mask"])

    def backward(dy, cache):
        given = functions.attention_backward(dy, cache)
        return given if isinstance(given, (tuple, list)) else (given,)

    return forward, backward, {"qkv": inputs["qkv"]}


def masked_positions_do_not_matter(functions, inputs):
    """What a query may not see moves nothing of its result, bit for bit."""
    qkv, mask = inputs["qkv"], inputs["mask"]
    y, _ = functions.attention_forward(qkv, inputs["n_head"], mask)
    for j in range(qkv.shape[1]):
        other = qkv.copy()
        other[:, j] += 1
        moved, _ = functions.attention_forward(other, inputs["n_head"], mask)
        unseen = ~mask[:, j] & (np.arange(len(mask)) != j)
        if not np.array_equal(moved[:, unseen], y[:, unseen]):
            return f"a query that may not see position {j} depends on it"
    return ""


def heads_are_alone(functions, inputs):
    """All heads together return what each returns alone."""
    qkv, mask = inputs["qkv"], inputs["mask"]
    width = qkv.shape[-1] // 3 // inputs["n_head"]
    y, _ = functions.attention_forward(qkv, inputs["n_head"], mask)
    parts = qkv.reshape(*qkv.shape[:2], 3, -1)
    for h in range(inputs["n_head"]):
        part = slice(h * width, (h + 1) * width)
        alone = np.concatenate([parts[:, :, k, part] for k in range(3)], axis=-1)
        expected, _ = functions.attention_forward(alone, 1, mask)
        if not np.allclose(y[..., part], expected, rtol=1e-5, atol=1e-5):
            return f"head {h} returns something else alone than among the others"
    return ""


def model_probes(variant):
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
            Probe("degenerate", inputs(np.array([[4]]), np.array([[2]]))),
            Probe("degenerate", inputs(np.array([[4, 1]]), np.array([[-1, -1]]))),
        ]

    return probes


def params_of(inputs):
    """Those inputs that are parameters."""
    return {k: v for k, v in inputs.items() if k not in ("ids", "targets", "x", "dy")}


def run_model(functions, inputs):
    """The loss and every gradient."""
    params = params_of(inputs)
    loss, grads = functions.tiny_model(params, inputs["ids"], inputs["targets"])
    return {"loss": loss} | {f"d{name}": grads[name] for name in params}


def pair_model(functions, inputs):
    """The loss as a function of all parameters."""
    params = params_of(inputs)

    def forward(*values):
        return functions.tiny_model(dict(zip(params, values)), inputs["ids"], inputs["targets"])

    def backward(dy, grads):
        return tuple(dy * grads[name] for name in params)

    return forward, backward, params


def block_probes(variant):
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

        return [Probe("ordinary", inputs(B, T)), Probe("degenerate", inputs(1, 1))]

    return probes


def run_block(functions, inputs):
    """The block, forward and backward."""
    params = params_of(inputs)
    y, cache = functions.block_forward(inputs["x"], params)
    dx, grads = functions.block_backward(inputs["dy"], cache)
    return {"y": y, "dx": dx} | {f"d{name}": grads[name] for name in params}


def pair_block(functions, inputs):
    """The block as a function of x and all parameters."""
    params = params_of(inputs)

    def forward(x, *values):
        return functions.block_forward(x, dict(zip(params, values)))

    def backward(dy, cache):
        dx, grads = functions.block_backward(dy, cache)
        return (dx, *(grads[name] for name in params))

    return forward, backward, {"x": inputs["x"]} | params
