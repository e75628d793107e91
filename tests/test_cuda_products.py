"""Products of cuBLAS: which calls are made of shapes and strides, and what they compute."""

import ctypes

import cuda_on_cpu
import numpy as np
import pytest
from helpers import twenty_five_examples
from hypothesis import given
from hypothesis import strategies as st

from minimixce import layers
from minimixce.fast import kernels
from minimixce.fast.cuda_products import MAX_CALLS, View, batch_axes, calls, layout

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
        patch.setattr(kernels, "_multiply", cuda_on_cpu.multiply)
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
        patch.setattr(kernels, "_multiply", cuda_on_cpu.multiply)
        got = kernels.matmul(a, b, transpose_a, transpose_b, out)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    if into_view:
        assert got is out
        out[...] = 7
        assert (rest == 7).all()


def heads(dtype="float64"):
    """q, k, v of attention (B,H,T,D), B = 3, H = 4, as they lie in qkv; scores (B,H,T,T)."""
    rng = np.random.default_rng(0)
    q, k, v = layers._split_heads(rng.standard_normal((3, 6, 3 * 4 * 5)).astype(dtype), 4, 3)
    return q, k, v, rng.standard_normal((3, 4, 6, 6)).astype(dtype)


def test_heads_are_multiplied_where_they_lie(product_on_cpu, monkeypatch):
    q, k, v, scores = heads()
    monkeypatch.delattr(kernels, "_matmul_of_copies")
    product = kernels.matmul(k, q, transpose_b=True)
    np.testing.assert_allclose(product, k @ q.swapaxes(-1, -2), rtol=1e-12, atol=1e-12)
    found = [*calls(k, q.swapaxes(-1, -2), np.empty((3, 4, 6, 6)))]
    assert [call.batch for call in found] == [4, 4, 4]  # a batch of the heads for each row
    merged = np.empty((3, 6, 4, 5)).swapaxes(1, 2)
    assert len([*calls(scores.swapaxes(-1, -2), v, merged)]) == 3
    assert [call.batch for call in calls(scores, scores, scores)] == [12]


def test_operands_are_copied_where_calls_would_be_many(product_on_cpu):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((17, 2, 18, 3)).swapaxes(1, 2) for _ in range(2))
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
        ((6, 8), (1, 0), None),  # one column repeated
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


def test_the_result_may_go_into_a_transposed_array(product_on_cpu):
    a, b = np.random.default_rng(0).standard_normal((2, 4, 4))
    out = np.empty((4, 4)).T
    assert kernels.matmul(a[:3], b, out=out[:3]).base is out.base
    np.testing.assert_allclose(out[:3], a[:3] @ b, rtol=1e-12, atol=1e-12)


def test_reversed_operands_are_copied(product_on_cpu):
    a, b = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
    assert calls(a[::-1], b, np.empty((3, 4, 4))) is None
    np.testing.assert_allclose(kernels.matmul(a[::-1], b), a[::-1] @ b, rtol=1e-12, atol=1e-12)


def test_empty_products_are_zero(product_on_cpu):
    out = np.ones((2, 3))
    assert kernels.matmul(np.ones((2, 0)), np.ones((0, 3)), out=out) is out
    assert (out == 0).all()
    assert kernels.matmul(np.ones((0, 2, 4)), np.ones((0, 4, 3))).shape == (0, 2, 3)


def test_products_that_do_not_fit_say_so():
    a, b = np.ones((2, 3)), np.ones((4, 5))
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(4, 5\)"):
        kernels.matmul(a, b)
    with pytest.raises(ValueError, match=r"out must have shape \(2, 2\)"):
        kernels.matmul(a, a.T, out=np.ones((2, 3)))
    with pytest.raises(TypeError, match="float32 and float64"):
        kernels.matmul(a.astype("float32"), a.T)


# ---- CuPy's part


@pytest.mark.parametrize(("value", "on"), [(None, False), ("0", False), ("1", True)])
def test_tf32_is_cupys_own_setting(monkeypatch, value, on):
    if value is None:
        monkeypatch.delenv("CUPY_TF32", raising=False)
    else:
        monkeypatch.setenv("CUPY_TF32", value)
    assert kernels._tf32() is on


@pytest.mark.parity
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
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
    one_matrix = k[0, 0], q[0, 0].T, scores[0, 0]
    for a, b, out in ((k, q.swapaxes(-1, -2), scores), (scores, k, k), one_matrix):
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
            for name, value in (("alpha", 1), ("beta", 0)):
                at = ctypes.string_at(words[name], np.dtype(dtype).itemsize)
                assert np.frombuffer(at, dtype) == value
            kind = {"float32": "32F", "float64": "64F"}[dtype]
            fast = "_FAST_TF32" if tf32 and dtype == "float32" else ""
            assert words["computeType"] == getattr(cublas, f"CUBLAS_COMPUTE_{kind}{fast}")
            data = {"float32": 0, "float64": 1}[dtype]  # CUDA_R_32F, CUDA_R_64F
            assert words["Atype"] == words["Btype"] == words["Ctype"] == data
            assert words["algo"] == cublas.CUBLAS_GEMM_DEFAULT
