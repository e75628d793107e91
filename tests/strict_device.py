"""A GPU played on the CPU: an array module that refuses everything CuPy would refuse, does what
CuPy does, and counts every wait for the device.

`backend.array_module` takes the module an array's class lives in, so this file is the device:
`ndarray` hides a NumPy array and nothing but its own kind, Python and NumPy scalars, dtypes and
tuples may meet it. A NumPy array as operand, index or argument raises TypeError; np.exp and
np.sum of one of these arrays become this device's own. Results are NumPy's bit for bit, but lie in
memory as CuPy's would, and reductions stay 0-d arrays. What makes a GPU's caller wait (float(),
if, .item(), .get(), printing, a boolean mask as index, …) works and adds one to `host_reads`.

Only the names and keyword arguments listed here exist; all of them exist in CuPy
(test_strict_device.py compares). It is stricter than CuPy in two places: CuPy uploads a NumPy
array used as an index, and a list of numbers given to some functions. Comments of the form
"core.pyx: …" name the file of CuPy 14.2's source, below cupy/ or cupy/_core/, that was read.
"""

import builtins
import contextlib
import operator
import types

import numpy as np
import strict_device_names as names

host_reads = 0

_SCALARS = (bool, int, float, complex, np.generic)


def _count():
    global host_reads
    host_reads += 1


@contextlib.contextmanager
def no_host_reads():
    """Fail if anything inside waits for the device."""
    before = host_reads
    yield
    assert host_reads == before, f"{host_reads - before} host reads"


def _is_list_of(x, kinds):
    return isinstance(x, (list, tuple)) and builtins.all(isinstance(item, kinds) for item in x)


def _hidden(x):
    """The NumPy value behind an argument, or TypeError for what must not meet this device."""
    if isinstance(x, ndarray):
        return x._hidden
    if _is_list_of(x, (ndarray, int, np.integer)):  # arrays to join; a shape; axes
        return type(x)(_hidden(item) for item in x)
    if (
        x is None
        or isinstance(x, (*_SCALARS, str, np.dtype))
        or (isinstance(x, type) and not issubclass(x, np.ndarray))
    ):
        return x
    raise TypeError(f"a strict_device function got a {type(x).__module__}.{type(x).__name__}")


def _wrap(x, order="K"):
    if isinstance(x, (np.ndarray, np.generic)):
        wrapped = object.__new__(ndarray)
        wrapped._hidden = np.asarray(x, order=order)
        return wrapped
    return [_wrap(item, order) for item in x] if isinstance(x, (list, tuple)) else x


# What gives a view, or keeps the order of its argument. _kernel.pyx and _reduction.pyx: all other
# results are made by _get_out_args_from_optionals, and so in C order, whatever order the arguments
# have; NumPy's take over theirs.
_KEEPS_ORDER = {
    *"astype broadcast_to diagonal expand_dims flip moveaxis ravel reshape squeeze".split(),
    *"swapaxes transpose view empty_like full_like ones_like zeros_like roll".split(),
}


def _call(name, function, keywords, args, kwargs):
    if unknown := kwargs.keys() - keywords:
        raise TypeError(f"{name}() takes no keyword {sorted(unknown)} on this device")
    out = kwargs.get("out")
    if out is not None and not isinstance(out, ndarray):
        raise TypeError(f"{name}(): out must be an array of this device, got {type(out).__name__}")
    result = function(*map(_hidden, args), **{key: _hidden(value) for key, value in kwargs.items()})
    if out is not None:
        return out
    return _wrap(result, "K" if name in _KEEPS_ORDER else "C")


# ---- the array -----------------------------------------------------------------------------------


class ndarray:
    """An array of this device; made by asarray() and by computing."""

    __hash__ = None

    def __init__(self, *args, **kwargs):
        raise TypeError("make arrays with asarray()")

    def __array__(self, *args, **kwargs):
        raise TypeError("NumPy cannot take an array of this device; read it with .get()")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        """core.pyx: a ufunc of NumPy's becomes this device's of the same name."""
        mine = globals().get(ufunc.__name__)
        mine = mine if method == "__call__" else getattr(mine, method, None)
        if mine is None:
            return NotImplemented
        if ufunc.__name__ in names.COMPARISON_UFUNCS:  # NumPy's 0-d arrays are let in here alone
            inputs = [x.item() if _is_host_number(x) else x for x in inputs]
        return mine(*inputs, **kwargs, **({} if out is None else {"out": out[0]}))

    def __array_function__(self, function, types, args, kwargs):
        """core.pyx: so does another function."""
        home = vars(linalg) if function.__module__ == "numpy.linalg" else globals()
        mine = home.get(function.__name__)
        return NotImplemented if mine is None else mine(*args, **kwargs)

    def __len__(self):
        return len(self._hidden)

    def __getitem__(self, index):
        hidden, fancy = _index(index, self.shape)
        # _routines_indexing.pyx: numbers and slices give a view, of one number too; arrays a copy
        found = self._hidden[hidden]
        return _wrap(np.array(found, order="C") if fancy else found)

    def __setitem__(self, index, value):
        hidden, fancy = _index(index, self.shape)
        self._hidden[hidden] = _stored(value, fancy)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))  # core.pyx: views, of which none is read

    @property
    def T(self):
        return _wrap(self._hidden.T)

    @property
    def data(self):
        """core.pyx: the memory, of which libraries of CUDA are told the address."""
        assert self._hidden.flags.c_contiguous
        return types.SimpleNamespace(ptr=self._hidden.ctypes.data)

    def get(self):
        _count()
        return self._hidden.copy()

    def sort(self, axis=-1):
        """_routines_sorting.pyx: in place, and only where memory is in order."""
        if self.ndim and not self._hidden.flags.c_contiguous:
            raise NotImplementedError("Sorting non-contiguous array is not supported.")
        self._hidden.sort(axis)

    def take(self, indices, axis=None, out=None):
        return take(self, indices, axis, out)


def _is_host_number(x):
    return isinstance(x, np.ndarray) and x.ndim == 0


def _index(index, shape):
    """What NumPy is to be indexed with, and whether arrays are in it.

    _routines_indexing.pyx (_take_kernel_core, _create_scatter_kernel, _prepare_array_indexing):
    integers in arrays that are out of range wrap around, without an error.
    """
    parts = index if isinstance(index, tuple) else (index,)
    if not builtins.any(part is Ellipsis for part in parts):
        parts = (*parts, Ellipsis)
    skipped = len(shape) - builtins.sum(map(_axes_of, parts))
    hidden, fancy, axis = [], False, 0
    for part in parts:
        if isinstance(part, ndarray):
            fancy = True
            if part.dtype == bool:
                _count()  # the size of the result is not known before
            hidden.append(_wrapped_around(part._hidden, shape[axis] if axis < len(shape) else 0))
        elif part is None or part is Ellipsis or isinstance(part, (int, np.integer, slice)):
            hidden.append(part)
        else:
            raise TypeError(f"an array of this device cannot be indexed by a {type(part).__name__}")
        axis += skipped if part is Ellipsis else _axes_of(part)
    return tuple(hidden), fancy


def _axes_of(part):
    """How many axes a part of an index stands for."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, ndarray) and part.dtype == bool else 1


def _wrapped_around(index, size):
    return index % size if size and index.dtype.kind in "iu" else index


def _stored(value, fancy):
    """What NumPy is to store. _routines_indexing.pyx: where arrays are indices, a host's values
    are uploaded (_scatter_op_single); elsewhere fill() refuses all but a single one.
    """
    if isinstance(value, (ndarray, *_SCALARS)):
        return _hidden(value)
    if not fancy and np.ndim(value):
        raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
    return np.asarray(value)


def _add_members():
    def method(name, keywords):
        return lambda self, *args, **kwargs: _call(
            name, getattr(self._hidden, name), keywords, args, kwargs
        )

    for name, keywords in names.METHODS.items():
        setattr(ndarray, name, method(name, {*keywords.split()}))
    for name in names.ATTRIBUTES:
        setattr(ndarray, name, property(lambda self, name=name: getattr(self._hidden, name)))

    def host_read(name):
        def read(self, *args):
            _count()
            return getattr(self._hidden, name)(*args)

        return read

    for name in names.HOST_READS.split():
        setattr(ndarray, name, host_read(name))

    def binary(function, swap, compares=False):
        def apply(self, other):
            if compares and _is_host_number(other):  # core.pyx: __richcmp__
                other = other.item()
            if not isinstance(other, (ndarray, np.ndarray, *_SCALARS)):
                return NotImplemented
            pair = (self._hidden, _hidden(other))  # TypeError for a NumPy array
            return _wrap(function(*(pair[::-1] if swap else pair)), "C")

        return apply

    def in_place(function):
        def apply(self, other):
            if not isinstance(other, (ndarray, *_SCALARS)):
                raise TypeError(
                    f"cannot combine an array of this device with a {type(other).__name__}"
                )
            self._hidden = function(self._hidden, _hidden(other))  # NumPy returns the same array
            return self

        return apply

    for name in names.ARITHMETIC.split():
        function = getattr(operator, f"__{name}__")
        setattr(ndarray, f"__{name}__", binary(function, swap=False))
        setattr(ndarray, f"__r{name}__", binary(function, swap=True))
        if name != "matmul":
            setattr(ndarray, f"__i{name}__", in_place(getattr(operator, f"__i{name}__")))
    for name in names.COMPARISONS.split():
        setattr(ndarray, f"__{name}__", binary(getattr(operator, name), False, True))
    for name in names.UNARY.split():
        setattr(
            ndarray,
            f"__{name}__",
            lambda self, name=name: _wrap(getattr(operator, name)(self._hidden), "C"),
        )


_add_members()

# ---- the module's functions ----------------------------------------------------------------------


class _Ufunc:
    def __init__(self, name):
        self.name, self._ufunc = name, getattr(np, name)

    def __call__(self, *args, **kwargs):
        if bad := [type(x).__name__ for x in args if not isinstance(x, (ndarray, *_SCALARS))]:
            raise TypeError(f"{self.name}() takes arrays of this device and scalars, got {bad}")
        return _call(self.name, self._ufunc, {"out", "dtype", "casting"}, args, kwargs)


def _function(name, keywords, home=np):
    def function(*args, **kwargs):
        if args and isinstance(args[0], (list, tuple)) and name not in names.TAKES_A_LIST_FIRST:
            raise TypeError(
                f"{name}() takes an array of this device, got a {type(args[0]).__name__}"
            )
        return _call(name, getattr(home, name), keywords, args, kwargs)

    return function


def _at(ufunc):
    def at(a, indices, b=None):
        hidden, fancy = _index(indices, a.shape)
        if fancy and a.dtype.name not in names.WITH_AT[ufunc.name]:
            raise TypeError(f"cupy.{ufunc.name}.at does not support {a.dtype}")
        ufunc._ufunc.at(a._hidden, hidden, np.asarray(_stored(b, fancy)).astype(a.dtype))

    return at


def take(a, indices, axis=None, out=None):
    keywords = {"axis": axis, "out": out, "mode": "wrap"}  # _take_kernel_core
    return _call("take", np.take, {*keywords}, (a, indices), keywords)


def take_along_axis(a, indices, axis):
    wrapped = _wrapped_around(indices._hidden, a.size if axis is None else a.shape[axis])
    return _call("take_along_axis", np.take_along_axis, {"axis"}, (a, _wrap(wrapped), axis), {})


def where(condition, x=None, y=None):
    """_sorting/search.py: the condition has to have the method astype, which no bool has."""
    condition = condition.astype("?", copy=False)
    if x is None and y is None:
        _count()  # the size of the result is not known before
        return tuple(_call("where", np.where, (), (condition,), {}))
    return _call("where", np.where, (), (condition, x, y), {})


def _partitioned(name):
    def function(a, kth, axis=-1):
        """_routines_sorting.pyx: what is no int is gone through, which no NumPy integer can be."""
        for k in [kth] if isinstance(kth, int) else kth:
            operator.index(k)
        return _call(name, getattr(np, name), {"axis"}, (a, kth), {"axis": axis})

    return function


partition = _partitioned("partition")
argpartition = _partitioned("argpartition")


def inv(a):
    """linalg/_solve.py: whether a matrix has an inverse is not looked at, since the look would
    wait; here, what a division by zero makes of it.
    """
    try:
        return _call("inv", np.linalg.inv, (), (a,), {})
    except np.linalg.LinAlgError:
        if a.ndim == 2:
            return _wrap(np.full(a.shape, np.nan, a.dtype))
        return _wrap(np.stack([inv(matrix)._hidden for matrix in a]))


def asarray(a, dtype=None):
    """Upload: a NumPy array, list or scalar as an array of this device; its own arrays pass
    through.
    """
    if isinstance(a, ndarray):
        return a if dtype in (None, a.dtype) else a.astype(dtype)
    return _wrap(np.array(a, dtype))


def array(a, dtype=None):
    return asarray(a, dtype).copy()


def ascontiguousarray(a):
    return _wrap(np.ascontiguousarray(asarray(a)._hidden))


class Philox4x3210:
    """CuPy's generator of bits, by name; the numbers are those of NumPy's default generator, so
    that a run here can be held against one on the CPU.
    """

    def __init__(self, seed=None, *, size=-1):
        self.numbers = np.random.default_rng(seed)


class Generator:
    """NumPy's random numbers as arrays of this device, by the methods that CuPy's Generator has."""

    def __init__(self, bit_generator):
        for name, keywords in names.GENERATOR.items():
            function = getattr(bit_generator.numbers, name)
            setattr(self, name, self._draw(name, function, {*keywords.split()}))

    @staticmethod
    def _draw(name, function, keywords):
        return lambda *args, **kwargs: asarray(_call(name, function, keywords, args, kwargs))


def default_rng(seed=None):
    return seed if isinstance(seed, Generator) else Generator(Philox4x3210(seed))


random = types.SimpleNamespace(
    default_rng=default_rng, Generator=Generator, Philox4x3210=Philox4x3210
)
linalg = types.SimpleNamespace(inv=inv)
MEMORY = [3 << 30, 4 << 30]  # bytes of the device that are free, and all of them
cuda = types.SimpleNamespace(
    runtime=types.SimpleNamespace(
        getDevice=lambda: 0,
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda device: {"name": b"a GPU played on the CPU"},
        memGetInfo=lambda: tuple(MEMORY),
    )
)


def get_default_memory_pool():
    return types.SimpleNamespace(free_bytes=lambda: 1 << 30, free_all_blocks=lambda: None)


def _add_functions():
    for name in names.UFUNCS.split():
        globals()[name] = ufunc = _Ufunc(name)
        if name in names.WITH_AT:
            ufunc.at = _at(ufunc)
    globals().update(
        {name: _function(name, {*keywords.split()}) for name, keywords in names.FUNCTIONS.items()}
    )
    globals().update({name: getattr(np, name) for name in names.CONSTANTS})


_add_functions()


def __getattr__(name):
    raise AttributeError(
        f"no {name!r} on this device: CuPy lacks it, or strict_device.py has yet to list it"
    )
