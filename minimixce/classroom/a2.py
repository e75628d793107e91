"""A2, backprop by hand: variants, probes and points.

Probes have axes of different sizes, (B,T,H,D,C,V,O) = (2,5,3,4,12,7,11), so that no transpose or
sum over the wrong axis goes unnoticed.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np

from .catalogue import functions_of, load_source
from .mistakes import read_mistakes
from .tasks import Assignment, Probe, Task, layer, quarters, rng_of

B, T, H, D, V, O = 2, 5, 3, 4, 7, 11  # noqa: E741
C = H * D

_SOURCES = Path(__file__).parent / "sources"
_REPLACED = ("2.3 GELU", "2.5 Layer norm", "2.6 Who sees whom: causal")
VARIANTS = (
    _REPLACED,
    ("2.3 SiLU", "2.5 RMS norm", "2.6 Who sees whom: a window of 3"),
    ("2.3 Squared ReLU", "2.5 Centred L2 norm", "2.6 Who sees whom: a prefix of 2"),
    ("2.3 Softplus", "2.5 Layer norm with a weight around 0", "2.6 Who sees whom: every second"),
)


# ---- the source of a variant ---------------------------------------------------------------------


@cache
def source(variant=0):
    """The reference solution of a variant: three sections of the textbook form are replaced."""
    text = (_SOURCES / "a2_backprop.py").read_text(encoding="utf-8")
    if variant:
        sections = _sections((_SOURCES / "a2_variants.txt").read_text(encoding="utf-8"))
        own = _sections(text)
        for old, new in zip(_REPLACED, VARIANTS[variant]):
            text = text.replace(own[old], sections[new].rstrip() + "\n\n\n")
    return text.rstrip() + "\n"


def _sections(text):
    """{heading: text from its cell to the next heading's}."""
    parts = re.split(r"^(?=# %% \[markdown\]\n# ## )", text, flags=re.MULTILINE)
    return {part.splitlines()[1].removeprefix("# ## "): part for part in parts[1:]}


@cache
def _reference(variant):
    return functions_of(load_source(source(variant), "reference"))


# ---- probes --------------------------------------------------------------------------------------


def _normal(rng, *shape):
    return rng.standard_normal(shape)


def _linear_probes(seed):
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


def _embedding_probes(seed):
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


def _run_embedding(functions, inputs):
    dy = inputs["dy"]
    y, cache = functions.embedding_forward(inputs["ids"], inputs["W"])
    given = functions.embedding_backward(dy, cache)
    dW = given[-1] if isinstance(given, (tuple, list)) else given
    y_position, cache = functions.position_forward(inputs["x"], inputs["P"])
    dx, dP = functions.position_backward(dy, cache)
    return {"y": y, "y with positions": y_position, "dW": dW, "dx": dx, "dP": dP}


def _pair_embedding(functions, inputs):
    def forward(W, x, P):
        y, cache = functions.embedding_forward(inputs["ids"], W)
        y_position, cache_position = functions.position_forward(x, P)
        return (y, y_position), (cache, cache_position)

    def backward(dy, caches):
        given = functions.embedding_backward(dy[0], caches[0])
        dW = given[-1] if isinstance(given, (tuple, list)) else given
        return (dW, *functions.position_backward(dy[1], caches[1]))

    return forward, backward, {name: inputs[name] for name in ("W", "x", "P")}


def _activation_probes(seed):
    rng = rng_of(seed, 23)

    def inputs(x):
        return {"x": x, "dy": _normal(rng, *x.shape)}

    far = np.array([-50.0, 50.0, 1000.0, -1000.0, -8.0, 8.0, 1e-3, 20.0])
    return [
        Probe("ordinary", inputs(2 * _normal(rng, B, T, C))),
        Probe("extreme", inputs(far)),
        Probe("degenerate", inputs(_normal(rng, 1))),
    ]


def _softmax_probes(seed):
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


def _ones_give_zero(functions, inputs):
    y, cache = functions.softmax_forward(inputs["x"], inputs["axis"])
    (dx,) = functions.softmax_backward(np.ones_like(y), cache)
    return "" if np.abs(dx).max() < 1e-6 else "dx is not 0 for a dy of ones"


def _norm_probes(has_bias):
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


def _attention_probes(variant):
    def probes(seed):
        rng = rng_of(seed, 26)

        def inputs(b, t, heads, scale=1.0):
            qkv, dy = scale * _normal(rng, b, t, 3 * heads * D), _normal(rng, b, t, heads * D)
            mask = _reference(variant).visible(t)
            return {"qkv": qkv, "n_head": heads, "mask": mask, "dy": dy}

        return [
            Probe("ordinary", inputs(B, T, H)),
            Probe("ordinary", inputs(B, T, 1)),
            Probe("extreme", inputs(B, T, H, 30.0)),
            Probe("degenerate", inputs(1, 1, H)),
        ]

    return probes


def _run_attention(functions, inputs):
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


def _pair_attention(functions, inputs):
    def forward(qkv):
        return functions.attention_forward(qkv, inputs["n_head"], inputs["mask"])

    def backward(dy, cache):
        given = functions.attention_backward(dy, cache)
        return given if isinstance(given, (tuple, list)) else (given,)

    return forward, backward, {"qkv": inputs["qkv"]}


def _masked_positions_do_not_matter(functions, inputs):
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


def _heads_are_alone(functions, inputs):
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


def _model_probes(variant):
    def probes(seed):
        rng = rng_of(seed, 27)
        has_bias = _has_bias(variant)

        def inputs(ids, targets):
            shapes = {"wte": (V, C), "W": (C, 3 * C), "b": (3 * C,), "norm_weight": (C,)}
            shapes |= {"norm_bias": (C,)} if has_bias else {}
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


def _params(inputs):
    return {k: v for k, v in inputs.items() if k not in ("ids", "targets", "x", "dy")}


def _run_model(functions, inputs):
    params = _params(inputs)
    loss, grads = functions.tiny_model(params, inputs["ids"], inputs["targets"])
    return {"loss": loss} | {f"d{name}": grads[name] for name in params}


def _pair_model(functions, inputs):
    params = _params(inputs)

    def forward(*values):
        return functions.tiny_model(dict(zip(params, values)), inputs["ids"], inputs["targets"])

    def backward(dy, grads):
        return tuple(dy * grads[name] for name in params)

    return forward, backward, params


def _block_probes(variant):
    def probes(seed):
        rng = rng_of(seed, 29)
        shapes = {"norm1_weight": (C,), "qkv_W": (C, 3 * C), "qkv_b": (3 * C,)}
        shapes |= {"out_W": (C, C), "out_b": (C,), "norm2_weight": (C,)}
        shapes |= {"up_W": (C, O), "up_b": (O,), "down_W": (O, C), "down_b": (C,)}
        if _has_bias(variant):
            shapes |= {"norm1_bias": (C,), "norm2_bias": (C,)}

        def inputs(b, t):
            params = {name: 0.4 * _normal(rng, *shape) for name, shape in shapes.items()}
            return {"x": _normal(rng, b, t, C), "dy": _normal(rng, b, t, C)} | params

        return [Probe("ordinary", inputs(B, T)), Probe("degenerate", inputs(1, 1))]

    return probes


def _run_block(functions, inputs):
    params = _params(inputs)
    y, cache = functions.block_forward(inputs["x"], params)
    dx, grads = functions.block_backward(inputs["dy"], cache)
    return {"y": y, "dx": dx} | {f"d{name}": grads[name] for name in params}


def _pair_block(functions, inputs):
    params = _params(inputs)

    def forward(x, *values):
        return functions.block_forward(x, dict(zip(params, values)))

    def backward(dy, cache):
        dx, grads = functions.block_backward(dy, cache)
        return (dx, *(grads[name] for name in params))

    return forward, backward, {"x": inputs["x"]} | params


# ---- the table -----------------------------------------------------------------------------------


def _has_bias(variant):
    return "norm_forward(x, weight, bias)" in source(variant)


def _norm_task(variant):
    parameters = ("dweight", "dbias") if _has_bias(variant) else ("dweight",)
    names = ("x", "weight", "bias")[: 1 + len(parameters)]
    points = {"forward": 4, "dx consistent": 5, "dx": 4, "parameters consistent": 3}
    return Task(
        "2.5",
        VARIANTS[variant][1][4:].lower(),
        ("norm_forward", "norm_backward"),
        points | {"parameters": 2.5, "manners": 1.5},
        _norm_probes(_has_bias(variant)),
        **layer("norm", names, ("dx", *parameters)),
        parts={
            "dx consistent": ("consistent", ("dx",)),
            "dx": ("reference", ("dx",)),
            "parameters consistent": ("consistent", parameters),
            "parameters": ("reference", parameters),
        },
        lesson="7",
        nonlinear=True,
    )


def _attention_task(variant):
    return Task(
        "2.6",
        "attention",
        ("visible", "attention_forward", "attention_backward"),
        {"forward": 5, "masked": 2, "manners": 1, "dv": 4}
        | {"consistent": 4.5, "dq and dk": 3.5, "heads": 4},
        _attention_probes(variant),
        _run_attention,
        ("dq", "dk", "dv"),
        _pair_attention,
        {"masked": _masked_positions_do_not_matter, "heads": _heads_are_alone},
        {"dv": ("reference", ("dv",)), "dq and dk": ("reference", ("dq", "dk"))},
        lesson="7",
        nonlinear=True,
    )


def _whole_tasks(variant):
    """The tiny model and the block."""
    names = [f"d{name}" for name in _params(_model_probes(variant)(0)[0].inputs)]
    in_block = [f"d{name}" for name in _params(_block_probes(variant)(0)[0].inputs)]
    model = Task(
        "2.7",
        "a tiny model",
        ("tiny_model",),
        quarters(12),
        _model_probes(variant),
        _run_model,
        tuple(names),
        _pair_model,
        lesson="7",
        nonlinear=True,
        every_row=False,
    )
    block = Task(
        "2.9",
        "bonus: a block",
        ("block_forward", "block_backward"),
        quarters(10),
        _block_probes(variant),
        _run_block,
        ("dx", *in_block),
        _pair_block,
        lesson="7",
        nonlinear=True,
    )
    return model, block


@cache
def assignment(variant=0):
    """A2 in one of its four variants -> Assignment."""
    linear = Task(
        "2.1",
        "linear",
        ("linear_forward", "linear_backward"),
        quarters(8),
        _linear_probes,
        **layer("linear", ("x", "W", "b"), ("dx", "dW", "db")),
        lesson="7",
    )
    embedding = Task(
        "2.2",
        "embeddings",
        ("embedding_forward", "embedding_backward", "position_forward", "position_backward"),
        quarters(8),
        _embedding_probes,
        _run_embedding,
        ("dW", "dx", "dP"),
        _pair_embedding,
        lesson="7",
        every_row=False,
    )
    activation = Task(
        "2.3",
        VARIANTS[variant][0][4:],
        ("activation_forward", "activation_backward"),
        quarters(8),
        _activation_probes,
        **layer("activation", ("x",), ("dx",)),
        lesson="7",
        nonlinear=True,
    )
    softmax = Task(
        "2.4",
        "softmax",
        ("softmax_forward", "softmax_backward"),
        quarters(7) | {"ones": 1},
        _softmax_probes,
        **layer("softmax", ("x", "axis"), ("dx",), constants=("axis",)),
        properties={"ones": _ones_give_zero},
        lesson="7",
        nonlinear=True,
    )
    layers = (linear, embedding, activation, softmax, _norm_task(variant), _attention_task(variant))
    return Assignment(
        "a2",
        "Backprop by hand",
        "backprop.py",
        (*layers, *_whole_tasks(variant)),
        read_mistakes("a2"),
        source,
        variants=len(VARIANTS),
        hours="10–12",
        written={"2.8": 12},
    )
