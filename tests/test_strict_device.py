"""The strict device itself: it does what CuPy does. Where there is a GPU the same claims are put to
CuPy.
"""

import inspect
import operator

import numpy as np
import pytest
import strict_device as sd
import strict_device_names as names

from minimixce import backend


def devices():
    """strict_device, and CuPy where it can compute."""
    try:
        return [sd, backend.select_device("cuda")]
    except ValueError:
        return [sd]


on_every_device = pytest.mark.parametrize("xp", devices(), ids=lambda xp: xp.__name__)


def six(xp, dtype="float64"):
    return xp.asarray(np.arange(6, dtype=dtype).reshape(2, 3))


def assert_is(x, expected):
    """x, an array of a device, has these values and this dtype."""
    np.testing.assert_array_equal(x.get(), expected)
    assert x.dtype == np.asarray(expected).dtype


# ---- what is refused -----------------------------------------------------------------------------


HOST = np.arange(6.0).reshape(2, 3)
HOST_INDEX = np.array([0, 1])
MIXTURES = {  # of an array x of a device, or y of the integers 0, 1, with what is on the host
    "where": lambda xp, x, y: np.where(x > 0, HOST, 0),
    "array": lambda xp, x, y: np.array([x, x]),
    "asarray": lambda xp, x, y: np.asarray(x),
    "+": lambda xp, x, y: x + HOST,
    "reversed +": lambda xp, x, y: HOST + x,
    "@": lambda xp, x, y: x @ HOST.T,
    "reversed @": lambda xp, x, y: HOST.T @ x,
    "==": lambda xp, x, y: x == HOST,
    "<": lambda xp, x, y: HOST < x,
    "an array of one number": lambda xp, x, y: x * np.array(2.0),
    "add of NumPy": lambda xp, x, y: np.add(HOST, x),
    "in place": lambda xp, x, y: x.__iadd__(HOST),
    "reversed in place": lambda xp, x, y: HOST.__iadd__(x),
    "index of an array": lambda xp, x, y: HOST[y],
    "number as index": lambda xp, x, y: HOST[y[0]],
    "stored": lambda xp, x, y: HOST.__setitem__(0, x[0]),
    "exp": lambda xp, x, y: xp.exp(HOST),
    "choice": lambda xp, x, y: xp.where(x > 0, HOST, 0),
    "joined": lambda xp, x, y: xp.concatenate([HOST, x]),
    "result": lambda xp, x, y: xp.exp(x, out=HOST),
    "inverse": lambda xp, x, y: xp.linalg.inv(HOST[:, :2]),
    "range": lambda xp, x, y: range(y[0]),  # CuPy's arrays have no __index__
    "operator.index": lambda xp, x, y: operator.index(y[0]),
    "slice": lambda xp, x, y: x[: y[1]],
    "random": lambda xp, x, y: xp.random.default_rng(0).random((2, 3), out=HOST),
}


@on_every_device
@pytest.mark.parametrize("mix", MIXTURES.values(), ids=MIXTURES)
def test_mixing_with_the_host_is_refused(xp, mix):
    x, y = six(xp), xp.asarray(HOST_INDEX)
    with pytest.raises((TypeError, np.linalg.LinAlgError)):  # inv's, in CuPy
        mix(xp, x, y)
    assert_is(x, HOST)


STRICTER = {  # than CuPy, which uploads
    "index": lambda x, y: x[HOST_INDEX],
    "two indices": lambda x, y: x[HOST_INDEX, y],
    "list": lambda x, y: x[[0, 1]],
    "list of numbers": lambda x, y: sd.sum([1.0, 2.0]),
    "place to add": lambda x, y: sd.add.at(x, HOST_INDEX, 1),
    "vdot": lambda x, y: sd.vdot(HOST, HOST),
    "keyword where": lambda x, y: sd.exp(x, where=x > 0),
    "keyword of a method": lambda x, y: x.sum(where=x > 0),
    "keyword initial": lambda x, y: sd.max(x, initial=0),
}


@pytest.mark.parametrize("call", STRICTER.values(), ids=STRICTER)
def test_hidden_copies_and_unlisted_keywords_are_refused(call):
    with pytest.raises(TypeError):
        call(six(sd), sd.asarray(HOST_INDEX))


def test_what_cupy_lacks_is_not_there():
    for name in ("choice", "permutation", "shuffle", "normal"):
        assert not hasattr(sd.random.default_rng(0), name)
    for missing in ("piecewise", "random_sample", "isclose"):
        assert not hasattr(sd, missing)


@on_every_device
def test_partition_takes_no_numpy_integer(xp):
    x = xp.asarray(np.array([3.0, 1.0, 2.0]))
    for function in (xp.partition, xp.argpartition):
        with pytest.raises(TypeError, match="not iterable"):
            function(x, np.int64(1))
    assert_is(xp.partition(x, 1)[1], 2.0)
    assert_is(xp.partition(x, [0, 1])[1], 2.0)
    assert_is(x[xp.argpartition(x, -1)[-1]], 3.0)


@on_every_device
def test_at_is_refused_where_there_is_no_atomic(xp):
    index = xp.asarray(np.array([0, 0]))
    for dtype in ("float32", "float64", "int64"):
        with pytest.raises(TypeError, match=r"subtract\.at"):
            xp.subtract.at(xp.zeros(3, dtype), index, 1)
    for name in ("int16", "bool"):
        with pytest.raises(TypeError, match=r"add\.at"):
            xp.add.at(xp.zeros(3, name), index, 1)
    x = xp.zeros(3, "int32")
    xp.subtract.at(x, index, 1)
    assert_is(x, np.array([-2, 0, 0], "int32"))
    y = xp.zeros(3)
    xp.subtract.at(y, slice(0, 2), 1.0)  # without arrays it is a subtraction
    assert_is(y, np.array([-1.0, -1.0, 0.0]))


@on_every_device
def test_where_takes_no_bool_as_condition(xp):
    for condition in (True, False, 1):
        with pytest.raises(AttributeError, match="astype"):
            xp.where(condition, six(xp), 0)
    assert_is(xp.where(np.bool_(True), six(xp), 0), HOST)
    assert_is(xp.where(six(xp) > 2, 1, 0).sum(), 3)
    (found,) = xp.where(xp.asarray(np.array([0, 5])))
    assert_is(found, np.array([1]))


@on_every_device
def test_a_transposed_view_is_not_sorted_in_place(xp):
    x = xp.asarray(np.array([[3.0, 1.0], [2.0, 0.0]]))
    with pytest.raises(NotImplementedError, match="non-contiguous"):
        x.T.sort()
    assert_is(xp.sort(x.T), np.array([[2.0, 3.0], [0.0, 1.0]]))
    x.sort()
    assert_is(x, np.array([[1.0, 3.0], [0.0, 2.0]]))


@on_every_device
def test_host_values_are_stored_one_at_a_time_only(xp):
    x = six(xp)
    for value in (HOST[0], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match="fill"):
            x[0] = value
    x[0] = np.array(7.0)
    x[1] = np.float32(8)
    assert_is(x, np.array([[7.0] * 3, [8.0] * 3]))


# ---- what is allowed -----------------------------------------------------------------------------


@on_every_device
def test_numpy_functions_become_the_devices(xp):
    x = six(xp)
    assert type(np.exp(x)) is type(x)
    assert_is(np.square(x), np.square(HOST))
    assert_is(np.add(x, np.float64(1)), HOST + 1)
    assert_is(np.sum(x), 15.0)
    assert_is(np.where(x > 2, x, 0), np.where(HOST > 2, HOST, 0))
    assert_is(np.concatenate([x, x]), np.concatenate([HOST, HOST]))
    inverse = np.linalg.inv(x[:, :2] + 1)
    np.testing.assert_allclose(inverse.get(), np.linalg.inv(HOST[:, :2] + 1))
    out = xp.zeros(6).reshape(2, 3)
    assert np.negative(x, out=out) is out
    np.add.at(out, xp.asarray(HOST_INDEX), 1)
    assert_is(out, 1 - HOST)
    assert_is(x < np.array(2.0), np.array([[True, True, False], [False] * 3]))
    assert_is(np.array(2.0) == x, HOST == 2)


@on_every_device
def test_numbers_out_of_range_raise_and_ids_wrap_around(xp):
    x = xp.asarray(np.array([10.0, 11.0, 12.0]))
    ids = xp.asarray(np.array([3, -4, 1, -1]))
    for found in (x[ids], x.take(ids), xp.take(x, ids), xp.take_along_axis(x, ids, 0)):
        assert_is(found, np.array([10.0, 12.0, 11.0, 12.0]))
    matrix = six(xp)
    assert_is(matrix[ids[:1], ids[:1]], np.array([3.0]))  # row 3 of 2 is 1, column 3 of 3 is 0
    assert_is(matrix[:, ids[:1]], np.array([[0.0], [3.0]]))
    assert_is(matrix[..., None, ids[:1]], np.array([[[0.0]], [[3.0]]]))
    assert_is(xp.take(matrix, ids, axis=1)[0], np.array([0.0, 2.0, 1.0, 2.0]))
    x[ids[:1]] = 5.0
    xp.add.at(x, ids, 1)
    assert_is(x, np.array([6.0, 12.0, 14.0]))
    with pytest.raises(IndexError):
        x[3]


@on_every_device
def test_host_values_are_uploaded_where_arrays_are_indices(xp):
    x = six(xp)
    x[xp.asarray(HOST_INDEX), xp.asarray(HOST_INDEX)] = np.array([8.0, 9.0])
    x[x == 2] = [7.0]
    xp.add.at(x, xp.asarray(np.array([1, 1])), np.ones((2, 3), "float32"))
    assert_is(x, np.array([[8.0, 1.0, 7.0], [5.0, 11.0, 7.0]]))


@on_every_device
def test_what_is_added_takes_the_dtype_of_the_target(xp):
    x = xp.zeros(2, "int32")
    xp.add.at(x, xp.asarray(np.array([0, 0])), xp.asarray(np.array([1.9, 1.9])))
    assert_is(x, np.array([2, 0], "int32"))


@on_every_device
def test_numbers_and_slices_give_views_and_arrays_copies(xp):
    x = six(xp)
    number = x[0, 1]
    number += 10
    for row in x:
        row += 1
    for element in x[1]:
        element *= 2
    copy = x[xp.asarray(np.array(0))]
    copy += 100
    assert_is(x, np.array([[1.0, 12.0, 3.0], [8.0, 10.0, 12.0]]))
    with pytest.raises(TypeError, match="0-d"):
        iter(x.sum())


def strides(x):
    return x.strides


@on_every_device
def test_results_are_allocated_in_c_order(xp):
    x = six(xp).T  # (3,2), its columns one after another
    in_order, in_columns = (16, 8), (8, 24)
    ones = xp.ones((3, 2))
    for made in (
        x + 1,
        1 - x,
        -x,
        x * x,
        xp.exp(x),
        xp.where(ones > 0, x, x),
        xp.sort(x),
        x.copy(),
        x.clip(0, 1),
        xp.concatenate([x, x]),
        xp.cumsum(x, axis=1),
        x[xp.asarray(np.array([0, 1, 2]))],
        x.astype("float32").T.astype("float64").T + 0,
    ):
        assert strides(made) == in_order
    cube = xp.ones((4, 3, 2)).transpose(2, 1, 0)
    assert strides(cube.sum(axis=2)) == strides(xp.max(cube, axis=2)) == (24, 8)
    for kept in (x, x.astype("float64"), xp.zeros_like(x), xp.empty_like(x)):
        assert strides(kept) == in_columns
    y = x.astype("float64")
    y += ones  # in place nothing is allocated
    assert strides(y) == in_columns


@on_every_device
def test_a_singular_matrix_has_no_finite_inverse_and_no_error(xp):
    singular, regular = np.ones((2, 2)), np.array([[2.0, 1.0], [1.0, 1.0]])
    assert not np.isfinite(xp.linalg.inv(xp.asarray(singular)).get()).all()
    _, second = xp.linalg.inv(xp.asarray(np.stack([singular, regular])))
    np.testing.assert_allclose(second.get(), [[1.0, -1.0], [-1.0, 2.0]])


@on_every_device
def test_the_packages_generators_are_philox(xp):
    drawn = backend.rng(7, xp)
    assert type(drawn) is xp.random.Generator
    same = xp.random.Generator(xp.random.Philox4x3210(7))
    for dtype in ("float32", "float64"):
        a, b = (g.random((3, 4), dtype=dtype) for g in (drawn, same))
        assert_is(a, b.get())
        assert 0 <= a.get().min() <= a.get().max() < 1
        assert a.dtype == dtype
    assert xp.random.default_rng(drawn) is drawn


@on_every_device
def test_dtypes_and_0d_arrays_follow_numpy(xp):
    x = six(xp, "float32")
    assert (x * 2.0).dtype == (2 - x).dtype == xp.where(x > 1, x, 0).dtype == np.float32
    by_float64 = (x * np.float64(2), np.float64(2) * x, x / xp.asarray(np.ones(3)))
    assert {y.dtype.name for y in by_float64} == {"float64"}
    drawn = xp.random.default_rng(0).random()
    for reduced in (x.sum(), x.max(), x[0, 1], xp.vdot(x, x), x.argmax(), x.all(), drawn):
        assert type(reduced) is type(x)
        assert reduced.shape == ()
    view = x[1]
    view += 1
    x.T[0, 0] = 9
    xp.add.at(x, xp.asarray(np.array([0, 0])), x[1])
    assert_is(x, np.array([[17, 11, 14], [4, 5, 6]], "float32"))


@on_every_device
def test_an_upload_is_a_copy(xp):
    source = np.zeros(2)
    uploaded = xp.asarray(source)
    source += 1
    assert_is(uploaded, np.zeros(2))
    assert xp.asarray(uploaded) is uploaded


# ---- waits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        float,
        int,
        bool,
        complex,
        repr,
        str,
        lambda x: x.item(),
        lambda x: x.get(),
        lambda x: x.tolist(),
        lambda x: f"{x[0]:.1f}",
        lambda x: x[x > 0],
        lambda x: x.__setitem__(x > 0, 2.0),
        lambda x: sd.where(x > 0),
        lambda x: 1.0 in x,
        lambda x: np.float64(x[0]),
    ],
)
def test_strict_device_counts_host_reads(read):
    x = sd.asarray(np.array([1.0]))
    before = sd.host_reads
    read(x[0] if read in (float, int, complex) else x)
    assert sd.host_reads > before
    with pytest.raises(AssertionError, match="host reads"), sd.no_host_reads():
        read(x[0] if read in (float, int, complex) else x)


def test_going_through_a_vector_reads_nothing():
    with sd.no_host_reads():
        assert len([*six(sd)[0]]) == 3


# ---- names ---------------------------------------------------------------------------------------


def _keywords(function):
    try:
        return {*inspect.signature(function).parameters}
    except ValueError:  # compiled: its docstring starts with the signature
        first = function.__doc__.partition("\n")[0]
        return {*first.translate(str.maketrans("(),=", "    ")).split()}


def test_strict_device_offers_only_what_cupy_has():
    cupy = pytest.importorskip("cupy")
    ufuncs = dict.fromkeys(names.UFUNCS.split(), "out dtype casting")
    for there, here in (
        (cupy, names.FUNCTIONS | names.OWN | ufuncs),
        (cupy.ndarray, names.METHODS | names.OWN_METHODS),
        (cupy.random.Generator, names.GENERATOR),
        (cupy.random.Philox4x3210, {"__init__": "seed size"}),
        (cupy.linalg, names.LINALG),
    ):
        for name, allowed in here.items():
            assert {*allowed.split()} <= _keywords(getattr(there, name)), name
    members = {*vars(sd.ndarray)} - {"_hidden", "__dict__", "__weakref__"}
    assert not members - {*dir(cupy.ndarray)}
    assert not [name for name in names.CONSTANTS if not hasattr(cupy, name)]
    assert not [name for name in names.WITH_AT if not hasattr(getattr(cupy, name), "at")]
    for name in vars(sd.cuda.runtime):
        assert hasattr(cupy.cuda.runtime, name)
    assert all(
        hasattr(cupy.get_default_memory_pool(), name) for name in vars(sd.get_default_memory_pool())
    )
