"""AdamW against PyTorch's and against the formula, gradient clipping, and the shape of the
learning-rate schedule.
"""

import math

import numpy as np
import pytest

from minimixce.optim import AdamW, clip_grads, warmup_cosine

SHAPES = {"matrix": (3, 4), "vector": (4,), "stack": (2, 3, 2), "scalar": ()}
SETTINGS = [
    {"lr": 0.01},
    {"lr": 0.3, "betas": (0.5, 0.999), "eps": 1e-3, "weight_decay": 0.5},
    {"lr": 1e-3, "betas": (0.0, 0.0), "weight_decay": 0.0},
]


def start(seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}


def gradients(step):
    return start(seed=100 + step)


def learning_rate(step, lr):
    return None if step % 2 else lr * (1 + step)  # the constructor's and others


def naive_adamw(params, n_steps, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
    """Algorithm 2 of Loshchilov & Hutter 2019 as it is written, decay on matrices."""
    params = {name: p.copy() for name, p in params.items()}
    for name, p in params.items():
        m = v = np.zeros(p.shape)
        for t in range(1, n_steps + 1):
            g, rate = gradients(t)[name], learning_rate(t, lr) or lr
            m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
            m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
            decay = weight_decay * p if p.ndim >= 2 else 0
            p = p - rate * m_hat / (np.sqrt(v_hat) + eps) - rate * decay
        params[name] = p
    return params


def adamw(params, n_steps, **options):
    optimizer = AdamW(params, **options)
    for t in range(1, n_steps + 1):
        optimizer.step(gradients(t), lr=learning_rate(t, options["lr"]))
    return optimizer


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_adamw_is_the_formula(options):
    params = start()
    arrays = dict(params)
    optimizer = adamw(params, 6, **options)
    assert optimizer.steps == 6
    for name, expected in naive_adamw(start(), 6, **options).items():
        assert params[name] is arrays[name]  # updated in place
        np.testing.assert_allclose(params[name], expected, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parity
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_adamw_is_pytorchs(options):
    torch = pytest.importorskip("torch")
    params, options = start(), {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, **options}
    tensors = {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}
    matrices, others = [
        [t for t in tensors.values() if (t.ndim >= 2) == is_matrix] for is_matrix in (True, False)
    ]
    theirs = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}], **options
    )
    optimizer = AdamW(params, **options)
    for t in range(1, 7):
        for name, g in gradients(t).items():
            tensors[name].grad = torch.tensor(g)
        rate = learning_rate(t, options["lr"])
        for group in theirs.param_groups:
            group["lr"] = rate or options["lr"]
        theirs.step()
        optimizer.step(gradients(t), lr=rate)
    for name, p in params.items():
        np.testing.assert_allclose(
            p, tensors[name].detach().numpy(), rtol=0, atol=1e-12, err_msg=name
        )


def test_weight_decay_moves_matrices_only():
    params = start()
    before = {name: p.copy() for name, p in params.items()}
    AdamW(params, lr=0.1, weight_decay=0.5).step(
        {name: np.zeros(shape) for name, shape in SHAPES.items()}
    )
    for name, p in params.items():
        np.testing.assert_allclose(
            p, before[name] * (0.95 if p.ndim >= 2 else 1), rtol=1e-15, err_msg=name
        )


def test_lr_override_holds_for_one_step():
    params = {"w": np.zeros(2)}
    optimizer = AdamW(params, lr=0.5, eps=1e-12)
    moves = []
    for lr in (None, 0.1, None):
        before = params["w"].copy()
        optimizer.step({"w": np.array([2.0, -3.0])}, lr=lr)
        moves.append(params["w"] - before)
    # constant g: steps of ±lr
    np.testing.assert_allclose(moves, np.array([[0.5], [0.1], [0.5]]) * [-1, 1], rtol=1e-9)


def test_adamw_keeps_float32_and_leaves_grads_alone():
    params, grads = start(dtype="float32"), start(1, "float32")
    optimizer = AdamW(params, lr=0.1)
    optimizer.step(grads)
    for arrays in (params, optimizer.mean, optimizer.square):
        assert {np.asarray(a).dtype for a in arrays.values()} == {np.dtype("float32")}
    for name, g in start(1, "float32").items():
        np.testing.assert_array_equal(grads[name], g)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0}, "lr must be a positive number, got 0"),
        ({"lr": -1}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"lr": math.inf}, "lr"),
        ({"betas": (1.0, 0.9)}, "betas must be at least 0 and below 1"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (-0.1, 0.9)}, "betas"),
        ({"betas": (0.9, math.nan)}, "betas"),
        ({"eps": 0}, "eps must be a positive number"),
        ({"eps": -1e-8}, "eps"),
        ({"weight_decay": -0.1}, "weight_decay must be a number, at least 0"),
        ({"weight_decay": math.nan}, "weight_decay"),
    ],
    ids=str,
)
def test_adamw_rejects_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        AdamW(start(), **{"lr": 0.1, **options})


def test_adamw_rejects_other_keys_and_changes_nothing():
    params = start()
    optimizer = AdamW(params, lr=0.1)
    too_few, too_many = gradients(0), {**gradients(0), "new": np.zeros(1)}
    del too_few["vector"]
    for grads, name in ((too_few, "vector"), (too_many, "new"), ({}, "matrix")):
        with pytest.raises(ValueError, match=f"grads and params differ in .*'{name}'"):
            optimizer.step(grads)
    assert optimizer.steps == 0
    for name, p in start().items():
        np.testing.assert_array_equal(params[name], p)


# ---- clipping ------------------------------------------------------------------------------------


def joint_norm(grads):
    return np.linalg.norm(np.concatenate([g.ravel() for g in grads.values()]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("max_norm", [0.01, 1.0, 4.0])
def test_clip_grads_scales_to_the_maximum(dtype, max_norm):
    grads = start(dtype=dtype)
    before = {name: g.copy() for name, g in grads.items()}
    arrays = dict(grads)
    norm = clip_grads(grads, max_norm)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    assert norm.shape == ()
    assert norm.dtype == dtype
    np.testing.assert_allclose(norm, joint_norm(before), rtol=tolerance)
    assert norm > max_norm
    np.testing.assert_allclose(joint_norm(grads), max_norm, rtol=tolerance)
    for name, g in grads.items():
        assert g is arrays[name]
        assert g.dtype == dtype
        np.testing.assert_allclose(
            g, before[name] * (max_norm / joint_norm(before)), rtol=10 * tolerance
        )


def test_clip_grads_leaves_small_and_zero_gradients():
    grads = start()
    before = {name: g.copy() for name, g in grads.items()}
    norm = clip_grads(grads, 1.0001 * joint_norm(grads))
    np.testing.assert_allclose(norm, joint_norm(before), rtol=1e-14)
    for name, g in grads.items():
        np.testing.assert_array_equal(g, before[name])
    zero = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    assert clip_grads(zero, 1.0) == 0
    assert not any(g.any() for g in zero.values())  # any() would see a NaN


@pytest.mark.parametrize("max_norm", [0, -1.0, math.nan])
def test_clip_grads_rejects_bad_max_norm(max_norm):
    with pytest.raises(ValueError, match="max_norm"):
        clip_grads(start(), max_norm)


# ---- schedule ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("warmup", "total", "final"), [(5, 30, 0.1), (1, 10, 0.0), (0, 8, 0.5), (10, 11, 0.1)]
)
def test_warmup_cosine(warmup, total, final):
    lr = 0.4
    rates = [warmup_cosine(step, lr, warmup, total, final) for step in range(total + 10)]
    np.testing.assert_allclose(
        rates[:warmup], [lr * (i + 1) / warmup for i in range(warmup)], rtol=1e-14
    )
    assert rates[warmup] == lr == max(rates)
    assert min(rates) > 0 or final == 0
    assert all(a > b for a, b in zip(rates[warmup:total], rates[warmup + 1 : total + 1]))
    np.testing.assert_allclose(rates[total:], final * lr, atol=1e-16)
    half = warmup_cosine((warmup + total) / 2, lr, warmup, total, final)
    np.testing.assert_allclose(half, lr * (1 + final) / 2, rtol=1e-14)


def test_warmup_cosine_by_default_ends_at_a_tenth():
    assert warmup_cosine(100, 3.0, 10, 100) == pytest.approx(0.3)
    assert warmup_cosine(0, 3.0, 5, 5) == pytest.approx(0.6)
    assert math.isfinite(warmup_cosine(5, 3.0, 5, 5))


def test_what_is_no_dict_of_arrays_is_refused():
    with pytest.raises(
        TypeError, match=r"params must be a dict of arrays, as model\.params, got list"
    ):
        AdamW([np.zeros(2)], 0.1)
    with pytest.raises(
        TypeError, match="grads must be a dict of arrays, as a backward returns, got tuple"
    ):
        AdamW(start(), 0.1).step((0.0, gradients(1)))


def test_a_parameter_that_is_not_finite_does_not_spoil_the_means():
    optimizer = AdamW({"p": np.array([np.inf, 1.0])}, 0.1)
    assert (optimizer.mean["p"] == 0).all()
