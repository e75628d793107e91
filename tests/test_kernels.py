"""The GPU's kernels against the plain forms, their text run on a CPU by cuda_on_cpu.

The threads of a block take their turns in two orders, which shows a barrier that is missing. NVRTC
compiles the text for GPUs where its wheel is installed.
"""

import ctypes
import itertools
import math
from pathlib import Path

import cuda_on_cpu
import numpy as np
import pytest
from helpers import random_gpt

import minimixce as mm
from minimixce import layers, objectives
from minimixce.backend import is_array, to_numpy
from minimixce.fast import cuda_layers, cuda_training, kernels
from minimixce.fast.cuda_source import SOURCE, THREADS
from minimixce.fast.generation import token_forward
from minimixce.kv import KV


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    if not cuda_on_cpu.CAN_COMPILE:
        pytest.skip("g++ runs the kernels on a CPU, and is not installed")
    folder = tmp_path_factory.mktemp("kernels")
    return {real: cuda_on_cpu.compile_kernels(folder, real) for real in ("float", "double")}


@pytest.fixture(params=["forwards", "backwards"])
def on_cpu(request, libraries, monkeypatch):
    """Kernels and products take NumPy's arrays."""

    def run(name, blocks, real, arguments):
        cuda_on_cpu.run(libraries, name, blocks, real, arguments, request.param == "backwards")

    monkeypatch.setattr(kernels, "_run", run)
    monkeypatch.setattr(kernels, "_multiply", cuda_on_cpu.multiply)
    monkeypatch.setattr(kernels, "address", lambda x: x.ctypes.data)


# ---- comparing -----------------------------------------------------------------------------------

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def flat(tree):
    """The arrays and numbers in nested tuples."""
    if isinstance(tree, tuple):
        return [x for part in tree for x in flat(part)]
    if isinstance(tree, np.generic):  # NumPy's for a 0-d array
        return [np.asarray(tree)]
    return [to_numpy(tree) if is_array(tree) else tree]


def assert_same(fast, plain, dtype, what=""):
    """Equal to rounding, in shape, in dtype and in where they are NaN or infinite."""
    fast, plain = flat(fast), flat(plain)
    assert len(fast) == len(plain)
    for i, (x, y) in enumerate(zip(fast, plain)):
        if not isinstance(y, np.ndarray):
            assert x is y or x == y
            continue
        assert x.shape == y.shape
        assert x.dtype == y.dtype == dtype
        finite = y[np.isfinite(y)]
        size = np.abs(finite).max() if finite.size else 0
        np.testing.assert_allclose(
            x, y, rtol=1e-5 if dtype == "float32" else 1e-12,
            atol=(3e-6 if dtype == "float32" else 1e-14) * max(size, 1e-30), err_msg=f"{what} {i}",
        )  # fmt: skip


def normal(rng, *shape, dtype="float64"):
    return rng.standard_normal(shape).astype(dtype)


def awkward(rng, *shape, dtype="float64"):
    """Normal numbers, some of them huge, some infinite, some NaN."""
    x = normal(rng, *shape, dtype=dtype)
    x[rng.random(shape) < 0.05] *= 1000
    for value in (np.inf, -np.inf, np.nan):
        x[rng.random(shape) < 0.02] = value
    return x


def mostly_impossible(rng, *shape, dtype="float64"):
    """Normal numbers, three of four of them −inf."""
    x = normal(rng, *shape, dtype=dtype)
    x[rng.random(shape) < 0.75] = -np.inf
    return x


# ---- which arrays -------------------------------------------------------------------------------


def test_no_array_of_the_cpu_suits():
    import strict_device

    x = np.ones((2, 3), "float32")
    assert not kernels.suits(x)
    assert not kernels.suits(strict_device.asarray(x))
    assert not cuda_training.suit_tables({"w": x}, {"w": x})


def test_arrays_of_cupy_suit_where_they_are_of_one_dtype_that_kernels_know():
    class Array:
        __module__ = "cupy"

        def __init__(self, dtype):
            self.dtype = np.dtype(dtype)

    half, single, double = map(Array, ("float16", "float32", "float64"))
    assert kernels.suits(single, single)
    assert kernels.suits(double)
    assert not kernels.suits(half)
    assert not kernels.suits(single, double)
    assert not kernels.suits(single, np.ones(2, "float32"))


def test_a_kernel_takes_no_array_that_it_would_read_wrongly():
    x = np.ones((4, 6))
    with pytest.raises(ValueError, match="contiguous"):
        kernels.launch("gelu_forward", 1, x[:, ::2], x, x, 12)
    with pytest.raises(TypeError, match="float32"):
        kernels.launch("gelu_forward", 1, x.astype("float32"), x, x, 12)
    with pytest.raises(TypeError, match="float16"):
        kernels.launch("gelu_forward", 1, *[x.astype("float16")] * 3, 12)


# ---- layers --------------------------------------------------------------------------------------

ANY_SHAPE = [(1,), (0, 3), (3, 5), (2, 1, 700), (THREADS * 3 + 1,)]


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("shape", ANY_SHAPE)
def test_gelu(on_cpu, dtype, shape):
    rng = np.random.default_rng(1)
    x, dy = 3 * awkward(rng, *shape, dtype=dtype), normal(rng, *shape, dtype=dtype)
    with np.errstate(all="ignore"):
        fast, plain = cuda_layers.gelu_forward(x), layers.gelu_forward(x)
        assert_same(fast, plain, dtype)
        assert_same(cuda_layers.gelu_backward(dy, plain[1]), layers.gelu_backward(dy, plain[1]),
                    dtype)  # fmt: skip


@pytest.mark.slow
def test_gelu_goes_through_more_numbers_than_threads(on_cpu, monkeypatch):
    monkeypatch.setattr(kernels, "MAX_BLOCKS", 2)
    x = normal(np.random.default_rng(1), 5, 2 * THREADS + 3)
    assert_same(cuda_layers.gelu_forward(x), layers.gelu_forward(x), "float64")


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("shape", [(1,), (3, 1), (2, 2, 5), (0, 4), (3, THREADS + 1), (2, 700)])
def test_layer_norm(on_cpu, dtype, shape):
    rng = np.random.default_rng(2)
    x, dy = normal(rng, *shape, dtype=dtype), normal(rng, *shape, dtype=dtype)
    weight, bias = normal(rng, 2, shape[-1], dtype=dtype)
    plain = layers.layer_norm_forward(x, weight, bias, 1e-3)
    assert_same(cuda_layers.layer_norm_forward(x, weight, bias, 1e-3), plain, dtype)
    assert_same(
        cuda_layers.layer_norm_backward(dy, plain[1]),
        layers.layer_norm_backward(dy, plain[1]),
        dtype,
    )


@pytest.mark.slow
def test_layer_norm_of_rows_far_from_zero(on_cpu):
    """Against float64: the mean's rounding is taken away; NaN and infinite rows stay NaN."""
    rng = np.random.default_rng(3)
    x = normal(rng, 6, 300)
    x += np.array([0, 50, 1e4, -1e5, 1e6, 0])[:, None]
    x[5] = 4321.125  # a constant row
    x = x.astype("float32")
    weight, bias = normal(rng, 2, 300, dtype="float32")
    y, _ = cuda_layers.layer_norm_forward(x, weight, bias)
    exact, _ = layers.layer_norm_forward(*(each.astype("float64") for each in (x, weight, bias)))
    np.testing.assert_allclose(y, exact, rtol=0, atol=2e-5)
    x[1, 7], x[2, 7] = np.nan, np.inf
    with np.errstate(all="ignore"):
        y, _ = cuda_layers.layer_norm_forward(x, weight, bias)
    assert np.isnan(y).all(axis=1).tolist() == [False, True, True, False, False, False]


def plain_masked_softmax(scores, scale):
    """And 0 for the keys that are not seen, which are NaN in the plain form where others are."""
    K, T = scores.shape[-2:]
    seen = np.arange(K)[:, None] <= np.arange(T) + K - T
    masked = np.where(seen, scores.dtype.type(scale) * scores, -np.inf)
    probs = np.where(seen, layers.softmax_forward(masked, -2)[0], 0)
    return probs, layers.SoftmaxCache(probs, -2)


SCORES = [(1, 1, 1, 1), (2, 3, 5, 5), (1, 2, 9, 4), (2, 1, 70, 40), (1, 1, 300, 33), (1, 2, 40, 1)]


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("shape", SCORES)
def test_masked_softmax(on_cpu, dtype, shape):
    rng = np.random.default_rng(4)
    for make in (normal, awkward, mostly_impossible):
        scores = 2 * make(rng, *shape, dtype=dtype)
        dprobs = normal(rng, *shape, dtype=dtype)
        with np.errstate(all="ignore"):
            plain = plain_masked_softmax(scores, 0.3)
            expected = layers.softmax_backward(dprobs, plain[1]) * np.dtype(dtype).type(0.3)
            fast = cuda_layers.masked_softmax_forward(scores.copy(), 0.3)
            assert_same(fast, plain, dtype)
            if make is normal:
                cache = layers.SoftmaxCache(np.asfortranarray(plain[0]), -2)
                got = cuda_layers.masked_softmax_backward(dprobs.copy(), cache, 0.3)
                assert_same(got, expected, dtype)


@pytest.mark.slow
def test_masked_scores_are_not_read(on_cpu):
    ones = np.where(np.arange(5)[:, None] <= np.arange(5), 1.0, np.nan).reshape(1, 1, 5, 5)
    probs, cache = cuda_layers.masked_softmax_forward(ones.copy())
    np.testing.assert_allclose(probs.sum(axis=-2), 1, rtol=1e-14)
    np.testing.assert_allclose(
        cuda_layers.masked_softmax_backward(ones.copy(), cache), 0, atol=1e-15
    )


def attention_case(rng, B, T, H, D, past, G, dtype):
    qkv, dy = normal(rng, B, T, 3 * H * D, dtype=dtype), normal(rng, B, T, H * D, dtype=dtype)
    kv = KV(*normal(rng, 2, B // G, H, past, D, dtype=dtype)) if past else None
    dkv = KV(*normal(rng, 2, B, H, T, D, dtype=dtype)) if past else None
    return qkv, dy, kv, dkv


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1, 0, 1), (2, 5, 3, 2, 0, 1), (4, 3, 2, 1, 6, 2), (2, 37, 1, 4, 0, 1)]
)
def test_attention(on_cpu, dtype, dropout, sizes):
    H = sizes[2]
    qkv, dy, past, dkv = attention_case(np.random.default_rng(5), *sizes, dtype)

    def forward(module):
        return module.attention_forward(qkv, H, past, dropout, np.random.default_rng(6))

    plain, fast = forward(layers), forward(cuda_layers)
    assert_same(fast, plain, dtype, "forward")
    expected = layers.attention_backward(dy, plain[1], dkv)
    for module, cache in itertools.product((layers, cuda_layers), (plain[1], fast[1])):
        assert_same(module.attention_backward(dy, cache, dkv), expected, dtype, "backward")


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("rows", [(), (1,), (2, 3), (70,)])
def test_linear_and_unembedding(on_cpu, dtype, rows):
    rng = np.random.default_rng(7)
    x, weight, bias, dy = (
        normal(rng, *shape, dtype=dtype) for shape in ((*rows, 5), (5, 4), (4,), (*rows, 4))
    )
    if not rows:  # a matrix at least
        x, dy = x[None], dy[None]
    plain = layers.linear_forward(x, weight, bias)
    assert_same(cuda_layers.linear_forward(x, weight, bias), plain, dtype)
    assert_same(
        cuda_layers.linear_backward(dy, plain[1]), layers.linear_backward(dy, plain[1]), dtype
    )
    plain = layers.unembedding_forward(x, weight.T)
    assert_same(cuda_layers.unembedding_forward(x, weight.T), plain, dtype)
    assert_same(
        cuda_layers.unembedding_backward(dy, plain[1]),
        layers.unembedding_backward(dy, plain[1]),
        dtype,
    )


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (0, 4), (300, 70), (1000, 33)])
def test_sums_over_rows(on_cpu, dtype, shape):
    x = normal(np.random.default_rng(8), *shape, dtype=dtype)
    got = kernels.sum_rows(x)
    np.testing.assert_allclose(got, x.astype("float64").sum(axis=0), rtol=1e-5, atol=1e-4)
    assert (got.shape, got.dtype) == (shape[1:], dtype)
    weights = np.arange(shape[0], dtype=dtype)[:, None]
    np.testing.assert_array_equal(
        kernels.sum_rows(weights * np.ones(shape, dtype)), np.full(shape[1], weights.sum())
    )


# ---- a token of a text that is being generated ---------------------------------------------------


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("shared_by", [1, 3])
def test_one_more_token(on_cpu, monkeypatch, dtype, shared_by):
    """From no past to a full window, or after two rows that serve three tokens each."""
    model = random_gpt(vocab_size=7, dtype=dtype)
    tokens = np.random.default_rng(0).integers(0, 7, (2 * shared_by, 6))
    past = model.extend_forward(tokens[:2, :2])[1] if shared_by > 1 else None
    plain, plain_past = [], past
    for t in range(2 if past else 0, 6):
        logits, plain_past, _ = model.extend_forward(tokens[:, t : t + 1], plain_past)
        plain.append((t, logits[:, 0], plain_past[1]))
    monkeypatch.setattr(kernels, "suits", lambda *arrays: True)
    for t, logits, present in plain:
        fast, past = token_forward(tokens[:, t], model.params, model.config, past)
        assert_same(fast, logits, dtype, f"logits {t}")
        assert_same(past[1], present, dtype, f"keys and values {t}")


# ---- loss head -----------------------------------------------------------------------------------

TERMS = [
    (objectives._mle, None),
    (objectives._mixce, 0.3),
    (objectives._mixce_surrogate, 0.3),
    (objectives._tailr, 0.2),
]


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (2, 3, THREADS + 9), (0, 4)])
@pytest.mark.parametrize("make", [normal, awkward, mostly_impossible])
def test_loss_head(on_cpu, dtype, shape, make):
    rng = np.random.default_rng(10)
    logits = make(rng, *shape, dtype=dtype)
    targets = rng.integers(-1, shape[-1], shape[:-1]).astype("int32")
    for (terms, ratio), options in itertools.product(
        TERMS, [(), (5.0,), (np.asarray(3.0, dtype),), (None, "none")]
    ):
        arguments = logits.copy(), targets, terms, ratio, *options
        with np.errstate(all="ignore"):
            expected = objectives.token_objective(*arguments)
            assert_same(cuda_training.token_objective(*arguments), expected, dtype)
        np.testing.assert_array_equal(arguments[0], logits)


@pytest.mark.slow
def test_an_id_out_of_range_gives_nan_and_dlogits_may_take_the_place_of_logits(on_cpu):
    logits = normal(np.random.default_rng(11), 3, 4)
    targets = np.array([0, 4, -1])
    log_q, tops, sums = cuda_training.target_log_q(logits, targets)
    assert np.isnan(log_q[:2]).tolist() == [False, True]
    weights = np.array([2.0, 1.0, np.nan])
    expected = 2 * (layers.softmax_forward(logits)[0][0] - np.eye(4)[0])
    got = cuda_training.weighted_softmax(logits, targets, weights, tops, sums, out=logits)
    assert got is logits
    np.testing.assert_allclose(got[0], expected, rtol=1e-12)
    assert (got[2] == 0).all()


# ---- optimizer -----------------------------------------------------------------------------------

PARAMETERS = {"a": (3, 4), "b": (4,), "c": (1,), "d": (2, 1, 5), "e": (0, 3), "f": (30, 40)}


def parameters(rng, dtype):
    return {name: normal(rng, *shape, dtype=dtype) for name, shape in PARAMETERS.items()}


def check_adamw(send, dtype):
    rng = np.random.default_rng(12)
    params = parameters(rng, dtype)
    copies = {name: send(p) for name, p in params.items()}
    plain, fast = (mm.AdamW(each, lr=0.01, weight_decay=0.3) for each in (params, copies))
    for step in range(1, 4):
        grads = parameters(rng, dtype)
        plain.step(grads)
        beta1, beta2 = fast.betas
        numbers = {
            "step_size": 0.01 / (1 - beta1**step),
            "root_scale": 1 / math.sqrt(1 - beta2**step),
            "eps": fast.eps,
            "keep": 1 - 0.01 * 0.3,
        }
        grads = {name: send(g) for name, g in grads.items()}
        cuda_training.adamw_update(copies, grads, fast._mean, fast._square, fast.betas, **numbers)
    assert_same(tuple(copies.values()), tuple(params.values()), dtype)
    assert_same((fast._mean, fast._square), (plain._mean, plain._square), dtype)


@pytest.mark.slow
@DTYPES
def test_adamw(on_cpu, dtype):
    check_adamw(np.array, dtype)


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("max_norm", [0.5, 1e6, math.inf])
@pytest.mark.parametrize("bad", [None, np.nan, np.inf])
def test_clipping(on_cpu, dtype, max_norm, bad):
    grads = parameters(np.random.default_rng(13), dtype)
    if bad is not None:
        grads["d"][0, 0, 2] = bad
    copies = {name: g.copy() for name, g in grads.items()}
    with np.errstate(all="ignore"):
        expected = np.asarray(mm.optim.clip_grads(grads, max_norm))
        assert_same(cuda_training.clip_grads(copies, max_norm), expected, dtype)
    assert_same(tuple(copies.values()), tuple(grads.values()), dtype)


# ---- NVIDIA's compiler and CuPy ------------------------------------------------------------------


def nvrtc():
    """NVIDIA's run-time compiler out of its wheel, which needs no GPU."""
    spec = pytest.importorskip("nvidia", reason="NVRTC's wheel is not installed").__path__
    found = [path for folder in spec for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    if not found:
        pytest.skip("NVRTC's wheel is not installed")
    return ctypes.CDLL(str(min(found, key=lambda path: len(path.name))))


@pytest.mark.parity
@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("gpu", ["sm_80", "sm_90"])
def test_nvidias_compiler_takes_the_kernels(real, gpu):
    library, program = nvrtc(), ctypes.c_void_p()
    options = [f"-DREAL={real}", f"--gpu-architecture={gpu}", "-std=c++17"]
    texts = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    library.nvrtcCreateProgram(ctypes.byref(program), SOURCE.encode(), None, 0, None, None)
    status = library.nvrtcCompileProgram(program, len(options), texts)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert (status, log.value.decode()) == (0, "")
    library.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, ptx)
    assert all(f".entry {name}(".encode() in ptx.value for name in cuda_on_cpu.NAMES)


# ---- a real GPU ----------------------------------------------------------------------------------


# a layer, the shapes of what its forward takes, further arguments, the shape of its output
@pytest.mark.slow
@DTYPES
def test_a_model_and_its_optimizer_take_the_kernels_where_they_suit(on_cpu, monkeypatch, dtype):
    def trained():
        gpt = random_gpt(dtype=dtype)
        optimizer = mm.AdamW(gpt.params, 1e-2)
        tokens = np.random.default_rng(3).integers(0, gpt.config.vocab_size, (3, 4))
        for _ in range(3):
            logits, cache = gpt.forward(tokens)
            _, dlogits = objectives.mixce(logits, tokens, eta=0.3)
            grads = gpt.backward(dlogits, cache)
            norm = mm.optim.clip_grads(grads, 0.1)
            optimizer.step(grads)
        return norm, *gpt.params.values()

    plain, launched, run = trained(), [], kernels._run
    monkeypatch.setattr(kernels, "suits", lambda *arrays: True)
    monkeypatch.setattr(
        kernels, "_run", lambda name, *rest: [launched.append(name), run(name, *rest)]
    )
    fast = trained()
    assert {"adamw_update", "scale_gradients", "masked_softmax_forward"} <= set(launched)
    for x, y in zip(fast, plain):
        # Adam magnifies the rounding of gradients that are zero
        np.testing.assert_allclose(x, y, atol=2e-3 if dtype == "float32" else 1e-9)


LAYERS = [
    ("linear", [(3, 70, 5), (5, 40), (40,)], (), (3, 70, 40)),
    ("unembedding", [(3, 70, 5), (300, 5)], (), (3, 70, 300)),
    ("gelu", [(3, 70, 5)], (), (3, 70, 5)),
    ("layer_norm", [(300, 70), (70,), (70,)], (), (300, 70)),
    ("attention", [(3, 70, 3 * 20)], (4,), (3, 70, 20)),
]
MODULES = [(cuda_layers, cuda_training, cuda_training, kernels), (layers, objectives, mm.optim, np)]


def of_layer(module, send, layer, dtype):
    """y, cache and gradients, from the same numbers whatever the module."""
    name, shapes, further, out = layer
    rng = np.random.default_rng(14)
    inputs = [send(normal(rng, *shape, dtype=dtype)) for shape in shapes]
    y, cache = getattr(module, f"{name}_forward")(*inputs, *further)
    return (
        y,
        cache,
        getattr(module, f"{name}_backward")(send(normal(rng, *out, dtype=dtype)), cache),
    )


def of_training(head, optimizer, product, send, dtype):
    """A loss and its gradient, clipped gradients, and a product of heads."""
    rng = np.random.default_rng(15)
    logits, grads = normal(rng, 40, 300, dtype=dtype), parameters(rng, dtype)
    arguments = send(logits), send(rng.integers(-1, 300, 40)), objectives._mixce, 0.3
    grads = {name: send(g) for name, g in grads.items()}
    norm = optimizer.clip_grads(grads, 0.5)
    q, k, _ = layers._split_heads(send(normal(rng, 3, 6, 60, dtype=dtype)), 4, 3)
    return (
        head.token_objective(*arguments), norm, tuple(grads.values()),
        product.matmul(k, q.swapaxes(-1, -2)),
    )  # fmt: skip


def check_everything(send, dtype):
    fast, plain = MODULES
    for layer in LAYERS:
        got, expected = (
            of_layer(fast[0], send, layer, dtype),
            of_layer(plain[0], np.array, layer, dtype),
        )
        assert_same(got, expected, dtype, layer[0])
    assert_same(
        of_training(*fast[1:], send, dtype), of_training(*plain[1:], np.array, dtype), dtype
    )


@pytest.mark.slow
@DTYPES
def test_what_is_asked_of_a_gpu_holds_on_a_cpu(on_cpu, dtype):
    check_everything(np.array, dtype)


@pytest.mark.parity
@DTYPES
def test_a_gpu_gives_the_same(monkeypatch, dtype):
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("CuPy finds no GPU")
    monkeypatch.delenv("CUPY_TF32", raising=False)
    check_everything(cupy.asarray, dtype)
    check_adamw(cupy.asarray, dtype)
