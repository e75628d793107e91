"""The GPU's kernels and products against the plain forms, without a GPU.

The CUDA text itself runs: cuda_on_cpu.h makes C++ of it, whose threads are coroutines, in two
orders. Arrays lie between guards of NaN, so that a kernel that reads or writes past an end is
found. The calls of cuBLAS are carried out as its manual describes them, number by number. NVRTC
compiles the text for GPUs where its wheel is installed.
"""

import ctypes
import itertools
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import twenty_five_examples
from hypothesis import given
from hypothesis import strategies as st

import minimixce as mm
from minimixce import layers, objectives
from minimixce.fast import cuda_layers, cuda_training, kernels
from minimixce.fast.cuda_products import MAX_CALLS, View, batch_axes, calls, layout
from minimixce.fast.cuda_source import SOURCE, THREADS
from minimixce.kv import KV

HERE = Path(__file__).parent
GUARD = 64  # numbers before and after every array
NAMES = [line.split("(")[0].split()[-1] for line in SOURCE.splitlines() if "__global__" in line]

# ---- a GPU on the CPU ----------------------------------------------------------------------------


def compile_kernels(folder, real, source=SOURCE):
    """The kernels as a shared library for the C type `real`."""
    launchers = "".join(
        f'extern "C" int launch_{name}(unsigned grid, unsigned block, void** arguments, int r)'
        f" {{ return on_cpu::launch({name}, grid, block, arguments, r); }}\n"
        for name in NAMES
    )
    text, library = folder / f"{real}.cpp", folder / f"{real}.so"
    text.write_text(f'#define REAL {real}\n#include "cuda_on_cpu.h"\n{source}\n{launchers}')
    # glibc's checked longjmp takes a jump from one coroutine's stack to another for an error
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Werror", "-ffp-contract=off"]
    command += ["-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-I", HERE, text, "-o", library]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("g++ runs the kernels on a CPU, and is not installed")
    folder = tmp_path_factory.mktemp("kernels")
    return {real: compile_kernels(folder, real) for real in ("float", "double")}


def guarded(x):
    """A copy of x between guards -> the copy, all of it."""
    fill = np.nan if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    whole = np.full(x.size + 2 * GUARD, fill, x.dtype)
    whole[GUARD : GUARD + x.size] = x.ravel()
    return whole


def run_on_cpu(libraries, name, blocks, real, arguments, backwards):
    pointers, wholes = [], []
    for x in arguments:
        if isinstance(x, np.ndarray):
            whole = guarded(x)
            wholes.append((x, whole, whole.copy()))
            value = ctypes.c_void_p(whole.ctypes.data + GUARD * whole.itemsize)
        else:
            value = ctypes.c_longlong(x) if isinstance(x, int) else ctypes.c_double(x)
        pointers.append(value)
    array = (ctypes.c_void_p * len(pointers))(*(ctypes.addressof(value) for value in pointers))
    function = getattr(libraries[real], f"launch_{name}")
    assert function(blocks, THREADS, array, int(backwards)) == 0, f"{name}: threads part ways"
    for x, whole, before in wholes:
        for edge in (slice(GUARD), slice(GUARD + x.size, None)):
            np.testing.assert_array_equal(whole[edge], before[edge], f"{name} writes outside")
        if x.flags.writeable:
            x[...] = whole[GUARD : GUARD + x.size].reshape(x.shape)


def matrix(memory, offset, leading, stride, count, rows, columns, transpose):
    """What cuBLAS reads: `count` matrices (rows,columns), column by column, then transposed."""
    if transpose:
        rows, columns = columns, rows
    assert leading >= max(1, rows)
    item = memory.itemsize
    last = offset + (count - 1) * stride + (columns - 1) * leading + rows
    assert offset >= 0
    assert stride >= 0
    everything = np.lib.stride_tricks.as_strided(memory, (last,), (item,))
    found = np.lib.stride_tricks.as_strided(
        everything[offset:], (count, rows, columns), (stride * item, item, leading * item)
    )
    return found.swapaxes(1, 2) if transpose else found


def multiply_on_cpu(call, a, b, out):
    """cublasGemmStridedBatchedEx of our b, a and out."""
    one = call
    first = matrix(b, one.offset_a, one.leading_a, one.stride_a, one.batch, one.m, one.k,
                   one.transpose_a)  # fmt: skip
    second = matrix(a, one.offset_b, one.leading_b, one.stride_b, one.batch, one.k, one.n,
                    one.transpose_b)  # fmt: skip
    result = matrix(out, one.offset_c, one.leading_c, one.stride_c, one.batch, one.m, one.n, False)
    result[...] = first @ second


@pytest.fixture(params=["forwards", "backwards"])
def on_cpu(request, libraries, monkeypatch):
    """Kernels and products take NumPy's arrays."""

    def run(name, blocks, real, arguments):
        run_on_cpu(libraries, name, blocks, real, arguments, request.param == "backwards")

    monkeypatch.setattr(kernels, "_run", run)
    monkeypatch.setattr(kernels, "_multiply", multiply_on_cpu)
    monkeypatch.setattr(kernels, "address", lambda x: x.ctypes.data)


# ---- comparing -----------------------------------------------------------------------------------

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def flat(tree):
    """The arrays and numbers in nested tuples."""
    if isinstance(tree, tuple):
        return [x for part in tree for x in flat(part)]
    return [tree]


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


# ---- which arrays -------------------------------------------------------------------------------


def test_no_array_of_the_cpu_suits():
    import strict_device

    x = np.ones((2, 3), "float32")
    assert not kernels.suits(x)
    assert not kernels.suits(strict_device.asarray(x))
    assert not cuda_training.suit_tables({"w": x}, {"w": x})


def test_a_kernel_takes_no_array_that_it_would_read_wrongly():
    x = np.ones((4, 6))
    with pytest.raises(ValueError, match="contiguous"):
        kernels.launch("gelu_forward", 1, x[:, ::2], x, x, 12)
    with pytest.raises(TypeError, match="float32"):
        kernels.launch("gelu_forward", 1, x.astype("float32"), x, x, 12)
    with pytest.raises(TypeError, match="float16"):
        kernels.launch("gelu_forward", 1, *[x.astype("float16")] * 3, 12)


@pytest.mark.parametrize(("value", "on"), [(None, False), ("0", False), ("1", True)])
def test_tf32_is_cupys_own_setting(monkeypatch, value, on):
    if value is None:
        monkeypatch.delenv("CUPY_TF32", raising=False)
    else:
        monkeypatch.setenv("CUPY_TF32", value)
    assert kernels._tf32() is on


# ---- products ------------------------------------------------------------------------------------

sides = st.integers(1, 5)


def a_view(draw, shape):
    """An array of `shape` that is a view of another one: permuted, cut, with steps, or repeated."""
    order = draw(st.permutations(range(len(shape))))
    larger = [size + draw(st.integers(0, 2)) for size in shape]
    steps = [draw(st.sampled_from([1, 1, 1, 2])) for _ in shape]
    memory = np.random.default_rng(draw(st.integers(0, 99))).standard_normal(
        [larger[axis] * steps[axis] for axis in order]
    )
    x = memory.transpose(np.argsort(order))
    x = x[tuple(slice(0, n * step, step) for n, step in zip(shape, steps))]
    if len(shape) > 2 and draw(st.booleans()):
        x = np.broadcast_to(x[:1], shape)
    return x


@st.composite
def products(draw):
    batch = draw(st.lists(sides, max_size=3))
    M, K, N = draw(sides), draw(sides), draw(sides)
    transpose_a, transpose_b = draw(st.booleans()), draw(st.booleans())
    a = a_view(draw, [*batch, *((K, M) if transpose_a else (M, K))])
    b = a_view(draw, [*batch, *((N, K) if transpose_b else (K, N))])
    return a, b, transpose_a, transpose_b, draw(st.booleans())


@pytest.fixture
def product_on_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_multiply", multiply_on_cpu)
        yield


@twenty_five_examples
@given(product=products())
def test_products_of_views(product):
    a, b, transpose_a, transpose_b, into_view = product
    expected = (a.swapaxes(-1, -2) if transpose_a else a) @ (
        b.swapaxes(-1, -2) if transpose_b else b
    )
    out, rest = None, None
    if into_view:  # every second row of every second matrix of a larger array
        rest = np.full([2 * n for n in expected.shape[:-1]] + [expected.shape[-1] + 1], 7.0)
        out = rest[(*[slice(None, None, 2)] * (expected.ndim - 1), slice(0, -1))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_multiply", multiply_on_cpu)
        got = kernels.matmul(a, b, transpose_a, transpose_b, out)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    if into_view:
        assert got is out
        out[...] = 7
        assert (rest == 7).all()


def heads(dtype="float64"):
    """q, k, v of attention (B,H,T,D), B = 3, H = 4, as they lie in qkv; scores (B,H,T,T)."""
    rng = np.random.default_rng(0)
    q, k, v = layers._split_heads(normal(rng, 3, 6, 3 * 4 * 5, dtype=dtype), 4, 3)
    return q, k, v, normal(rng, 3, 4, 6, 6, dtype=dtype)


def test_heads_are_multiplied_where_they_lie():
    q, k, v, scores = heads()
    found = [*calls(k, q.swapaxes(-1, -2), np.empty((3, 4, 6, 6)))]
    assert [call.batch for call in found] == [4, 4, 4]  # a batch of the heads for each row
    merged = np.empty((3, 6, 4, 5)).swapaxes(1, 2)
    assert len([*calls(scores.swapaxes(-1, -2), v, merged)]) == 3
    assert [call.batch for call in calls(scores, scores, scores)] == [12]


def test_operands_are_copied_where_calls_would_be_many(product_on_cpu):
    rng = np.random.default_rng(0)
    a, b = (normal(rng, 17, 2, 18, 3).swapaxes(1, 2) for _ in range(2))
    b = b.swapaxes(-1, -2)
    assert min(a.shape[:2]) > MAX_CALLS
    assert calls(a, b, np.empty((17, 18, 2, 2))) is None
    np.testing.assert_allclose(kernels.matmul(a, b), a @ b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "steps", "expected"),
    [
        ((6, 8), (8, 1), (False, 8)),
        ((8, 6), (1, 8), (True, 8)),  # transposed
        ((3, 3), (16, 1), (False, 16)),  # every second row, some columns
        ((6, 4), (8, 2), None),  # every second column
        ((6, 8), (0, 1), None),  # one row repeated
        ((6, 8), (-8, 1), None),  # upside down
        ((1, 8), (0, 1), (False, 8)),
        ((6, 1), (8, 1), (False, 8)),
        ((1, 8), (1, 9), (True, 9)),  # a row of a transposed matrix
        ((1, 1), (0, 0), (False, 1)),
    ],
)
def test_layouts(shape, steps, expected):
    assert layout(View(shape, steps)) == expected


def test_leading_axes_become_one_where_steps_allow():
    whole = View((2, 3, 4, 5, 6), (360, 120, 30, 6, 1))
    assert batch_axes([whole]) == [(24, (30,))]
    repeated = View((2, 3, 4, 5, 6), (0, 0, 30, 6, 1))
    assert batch_axes([whole, repeated]) == [(6, (120, 0)), (4, (30, 30))]
    assert batch_axes([View((1, 5, 1, 5, 6), (7, 60, 7, 6, 1))]) == [(5, (60,))]


def test_empty_products_are_zero(product_on_cpu):
    assert kernels.matmul(np.ones((2, 0)), np.ones((0, 3))).tolist() == [[0.0] * 3] * 2
    assert kernels.matmul(np.ones((0, 2, 4)), np.ones((0, 4, 3))).shape == (0, 2, 3)


def test_products_that_do_not_fit_say_so():
    a, b = np.ones((2, 3)), np.ones((4, 5))
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(4, 5\)"):
        kernels.matmul(a, b)
    with pytest.raises(ValueError, match=r"out must have shape \(2, 2\)"):
        kernels.matmul(a, a.T, out=np.ones((2, 3)))
    with pytest.raises(TypeError, match="float32 and float64"):
        kernels.matmul(a.astype("float32"), a.T)


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
    for make in (normal, awkward):
        scores = 2 * make(rng, *shape, dtype=dtype)
        dprobs = normal(rng, *shape, dtype=dtype)
        with np.errstate(all="ignore"):
            plain = plain_masked_softmax(scores, 0.3)
            expected = layers.softmax_backward(dprobs, plain[1]) * np.dtype(dtype).type(0.3)
            fast = cuda_layers.masked_softmax_forward(scores.copy(), 0.3)
            assert_same(fast, plain, dtype)
            if make is normal:
                got = cuda_layers.masked_softmax_backward(dprobs.copy(), plain[1], 0.3)
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


@DTYPES
def test_the_mean_is_a_reduction(dtype):
    x = normal(np.random.default_rng(9), 2, 3, 7, dtype=dtype)
    assert_same(kernels.mean(x), layers._mean(x), dtype)


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
@pytest.mark.parametrize("make", [normal, awkward])
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
    targets = np.array([0, -1, 4])
    log_q, tops, sums = cuda_training.target_log_q(logits, targets)
    assert np.isnan(log_q).tolist() == [False, False, True]
    weights = np.array([2.0, np.nan, 1.0])
    expected = 2 * (layers.softmax_forward(logits)[0][0] - np.eye(4)[0])
    got = cuda_training.weighted_softmax(logits, targets, weights, tops, sums, out=logits)
    assert got is logits
    np.testing.assert_allclose(got[0], expected, rtol=1e-12)
    assert (got[1] == 0).all()


# ---- optimizer -----------------------------------------------------------------------------------

PARAMETERS = {"a": (3, 4), "b": (4,), "c": (1,), "d": (2, 1, 5), "e": (0, 3), "f": (30, 40)}


def parameters(rng, dtype):
    return {name: normal(rng, *shape, dtype=dtype) for name, shape in PARAMETERS.items()}


@pytest.mark.slow
@DTYPES
def test_adamw(on_cpu, dtype):
    rng = np.random.default_rng(12)
    params = parameters(rng, dtype)
    copies = {name: p.copy() for name, p in params.items()}
    plain, fast = (mm.AdamW(each, lr=0.01, weight_decay=0.3) for each in (params, copies))
    for step in range(1, 4):
        grads = parameters(rng, dtype)
        plain.step(grads)
        beta1, beta2 = fast.betas
        step_size, root_scale = 0.01 / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
        cuda_training.adamw_update(
            copies, grads, fast._mean, fast._square, fast.betas, step_size, root_scale, fast.eps,
            keep=1 - 0.01 * 0.3,
        )  # fmt: skip
    assert_same(tuple(copies.values()), tuple(params.values()), dtype)
    assert_same((fast._mean, fast._square), (plain._mean, plain._square), dtype)


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
    assert all(f".entry {name}(".encode() in ptx.value for name in NAMES)


@pytest.mark.parity
@pytest.mark.parametrize("tf32", [False, True])
@DTYPES
def test_cublas_gets_its_arguments_in_cupys_order(monkeypatch, dtype, tf32):
    pytest.importorskip("cupy")
    try:
        from cupy.cuda import cublas, device
    except ImportError as error:
        pytest.skip(f"cuBLAS is not installed: {error}")
    got = []
    for name in ("gemmEx", "gemmStridedBatchedEx"):
        signature = getattr(cublas, name).__doc__.partition("(")[2].partition(")")[0]
        words = [argument.split()[-1] for argument in signature.split(",")]
        monkeypatch.setattr(
            cublas,
            name,
            lambda *values, words=words: got.append(dict(zip(words, values, strict=True))),
        )
    monkeypatch.setattr(device, "get_cublas_handle", lambda: 1)
    monkeypatch.setattr(device, "get_compute_capability", lambda: "90")
    monkeypatch.setattr(kernels, "address", lambda x: x.ctypes.data)
    monkeypatch.setenv("CUPY_TF32", str(int(tf32)))
    q, k, _, scores = heads(dtype)
    for a, b, out in ((k, q.swapaxes(-1, -2), scores), (k[0, 0], q[0, 0].T, scores[0, 0])):
        got.clear()
        expected = [*calls(a, b, out)]
        for call in expected:
            kernels._multiply(call, a, b, out)
        for call, words in zip(expected, got, strict=True):
            assert (words["transa"], words["transb"]) == (call.transpose_a, call.transpose_b)
            assert (words["m"], words["n"], words["k"]) == (call.m, call.n, call.k)
            assert words["A"] == b.ctypes.data + call.offset_a * b.itemsize
            assert words["B"] == a.ctypes.data + call.offset_b * a.itemsize
            assert words["C"] == out.ctypes.data + call.offset_c * out.itemsize
            leading = call.leading_a, call.leading_b, call.leading_c
            assert (words["lda"], words["ldb"], words["ldc"]) == leading
            if call.batch > 1:
                strides = call.stride_a, call.stride_b, call.stride_c
                assert (words["strideA"], words["strideB"], words["strideC"]) == strides
                assert words["batchCount"] == call.batch
            kind = {"float32": "32F", "float64": "64F"}[dtype]
            fast = "_FAST_TF32" if tf32 and dtype == "float32" else ""
            assert words["computeType"] == getattr(cublas, f"CUBLAS_COMPUTE_{kind}{fast}")
            data = {"float32": 0, "float64": 1}[dtype]  # CUDA_R_32F, CUDA_R_64F
            assert words["Atype"] == words["Btype"] == words["Ctype"] == data
            assert words["algo"] == cublas.CUBLAS_GEMM_DEFAULT
