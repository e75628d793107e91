"""A GPU played on the CPU: an array module that refuses everything CuPy would refuse, and counts
every wait for the device.

`backend.array_module` takes the module an array's class lives in, so this file is the device:
`ndarray` hides a NumPy array and nothing but its own kind, Python and NumPy scalars, dtypes and
tuples may meet it. A NumPy array as operand, index or argument raises TypeError, and so does
handing one of these arrays to NumPy. Results are NumPy's bit for bit, but reductions stay 0-d
arrays, as in CuPy. What makes a GPU's caller wait (float(), if, .item(), .get(), printing, a
boolean mask as index, …) works and adds one to `host_reads`.

Only the names and keyword arguments listed here exist; all of them exist in CuPy (test_device.py
compares). It is stricter than CuPy in two places: CuPy uploads a NumPy array used as an index, and
a list of numbers given to some functions.
"""

import builtins
import contextlib
import operator
import types

import numpy as np

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


def _wrap(x):
    if isinstance(x, (np.ndarray, np.generic)):
        wrapped = object.__new__(ndarray)
        wrapped._hidden = np.asarray(x)
        return wrapped
    return [_wrap(item) for item in x] if isinstance(x, (list, tuple)) else x


def _call(name, function, keywords, args, kwargs):
    if unknown := kwargs.keys() - keywords:
        raise TypeError(f"{name}() takes no keyword {sorted(unknown)} on this device")
    out = kwargs.get("out")
    if out is not None and not isinstance(out, ndarray):
        raise TypeError(f"{name}(): out must be an array of this device, got {type(out).__name__}")
    result = function(*map(_hidden, args), **{key: _hidden(value) for key, value in kwargs.items()})
    return _wrap(result) if out is None else out


# ---- the array -----------------------------------------------------------------------------------

_AXIS = "axis out keepdims"
METHODS = {
    "all": _AXIS,
    "any": _AXIS,
    "argmax": "axis dtype out keepdims",
    "argmin": "axis dtype out keepdims",
    "argsort": "axis",
    "astype": "order copy",
    "clip": "min max out",
    "copy": "order",
    "cumprod": "axis dtype out",
    "cumsum": "axis dtype out",
    "diagonal": "offset axis1 axis2",
    "dot": "out",
    "fill": "",
    "max": _AXIS,
    "mean": "axis dtype out keepdims",
    "min": _AXIS,
    "prod": "axis dtype out keepdims",
    "ravel": "order",
    "repeat": "axis",
    "reshape": "order",
    "sort": "axis",
    "squeeze": "axis",
    "std": "axis dtype out ddof keepdims",
    "sum": "axis dtype out keepdims",
    "swapaxes": "",
    "take": "axis out",
    "trace": "offset axis1 axis2 dtype out",
    "transpose": "",
    "var": "axis dtype out ddof keepdims",
    "view": "dtype",
}
ATTRIBUTES = ("dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides")
_ARITHMETIC = "add sub mul truediv floordiv mod pow matmul and or xor"
_COMPARISONS = "lt le gt ge eq ne"
_UNARY = "neg pos abs invert"
_HOST_READS = "__bool__ __complex__ __float__ __format__ __int__ __repr__ __str__ item tolist"


class ndarray:
    """An array of this device; made by asarray() and by computing."""

    # NumPy's functions and arrays then leave binary operators to this class, and refuse the rest
    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, *args, **kwargs):
        raise TypeError("make arrays with asarray()")

    def __array__(self, *args, **kwargs):
        raise TypeError("NumPy cannot take an array of this device; read it with .get()")

    def __array_function__(self, function, *args):
        raise TypeError(f"numpy.{function.__name__} cannot take an array of this device")

    def __len__(self):
        return len(self._hidden)

    def __getitem__(self, index):
        return _wrap(self._hidden[_index(index)])

    def __setitem__(self, index, value):
        if not isinstance(value, (ndarray, *_SCALARS)):
            raise TypeError(f"cannot store a {type(value).__name__} in an array of this device")
        self._hidden[_index(index)] = _hidden(value)

    def __iter__(self):
        if self.ndim < 2:
            _count()  # element by element; rows are just views
        return (_wrap(item) for item in self._hidden)

    @property
    def T(self):
        return _wrap(self._hidden.T)

    def get(self):
        _count()
        return self._hidden.copy()


def _index(index):
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if isinstance(part, ndarray) and part.dtype == bool:
            _count()  # the size of the result is not known before
        elif not (
            part is None or part is Ellipsis or isinstance(part, (ndarray, int, np.integer, slice))
        ):
            raise TypeError(f"an array of this device cannot be indexed by a {type(part).__name__}")
    hidden = tuple(part._hidden if isinstance(part, ndarray) else part for part in parts)
    return hidden if isinstance(index, tuple) else hidden[0]


def _add_members():
    def method(name, keywords):
        return lambda self, *args, **kwargs: _call(
            name, getattr(self._hidden, name), keywords, args, kwargs
        )

    for name, keywords in METHODS.items():
        setattr(ndarray, name, method(name, {*keywords.split()}))
    for name in ATTRIBUTES:
        setattr(ndarray, name, property(lambda self, name=name: getattr(self._hidden, name)))

    def host_read(name):
        def read(self, *args):
            _count()
            return getattr(self._hidden, name)(*args)

        return read

    for name in _HOST_READS.split():
        setattr(ndarray, name, host_read(name))

    def binary(function, swap):
        def apply(self, other):
            if not isinstance(other, (ndarray, np.ndarray, *_SCALARS)):
                return NotImplemented
            pair = (self._hidden, _hidden(other))  # TypeError for a NumPy array
            return _wrap(function(*(pair[::-1] if swap else pair)))

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

    for name in _ARITHMETIC.split():
        function = getattr(operator, f"__{name}__")
        setattr(ndarray, f"__{name}__", binary(function, swap=False))
        setattr(ndarray, f"__r{name}__", binary(function, swap=True))
        if name != "matmul":
            setattr(ndarray, f"__i{name}__", in_place(getattr(operator, f"__i{name}__")))
    for name in _COMPARISONS.split():
        setattr(ndarray, f"__{name}__", binary(getattr(operator, name), swap=False))
    for name in _UNARY.split():
        setattr(
            ndarray,
            f"__{name}__",
            lambda self, name=name: _wrap(getattr(operator, name)(self._hidden)),
        )


_add_members()

# ---- the module's functions ----------------------------------------------------------------------

UFUNCS = (
    "abs absolute add arctan ceil cos divide equal exp exp2 expm1 floor floor_divide fmax fmin"
    " greater greater_equal isfinite isinf isnan less less_equal log log1p log2 logaddexp"
    " logical_and logical_not logical_or matmul maximum minimum multiply negative not_equal power"
    " remainder rint sign sin sqrt square subtract tanh true_divide"
)
WITH_AT = ("add", "maximum", "minimum", "subtract")

FUNCTIONS = {  # name: the keywords it takes
    "all": _AXIS,
    "amax": _AXIS,
    "amin": _AXIS,
    "any": _AXIS,
    "arange": "dtype",
    "argmax": "axis dtype out keepdims",
    "argmin": "axis dtype out keepdims",
    "argpartition": "axis",
    "argsort": "axis",
    "array_equal": "",
    "broadcast_to": "",
    "clip": "out",
    "concatenate": "axis out dtype",
    "count_nonzero": "axis",
    "cumprod": "axis dtype out",
    "cumsum": "axis dtype out",
    "dot": "out",
    "einsum": "",
    "empty": "dtype",
    "empty_like": "dtype",
    "expand_dims": "axis",
    "eye": "M k dtype",
    "flip": "axis",
    "full": "dtype",
    "full_like": "dtype",
    "max": _AXIS,
    "mean": "axis dtype out keepdims",
    "min": _AXIS,
    "moveaxis": "",
    "ones": "dtype",
    "ones_like": "dtype",
    "outer": "out",
    "partition": "axis",
    "prod": "axis dtype out keepdims",
    "ravel": "",
    "repeat": "axis",
    "reshape": "order",
    "roll": "axis",
    "searchsorted": "side",
    "sort": "axis",
    "squeeze": "axis",
    "stack": "axis out dtype",
    "std": "axis dtype out ddof keepdims",
    "sum": "axis dtype out keepdims",
    "swapaxes": "",
    "take": "axis out",
    "take_along_axis": "axis",
    "tensordot": "axes",
    "tile": "",
    "transpose": "axes",
    "tri": "M k dtype",
    "tril": "k",
    "triu": "k",
    "var": "axis dtype out ddof keepdims",
    "vdot": "",
    "where": "",
    "zeros": "dtype",
    "zeros_like": "dtype",
}
# arrays to join, or a shape
_TAKES_A_LIST_FIRST = ("concatenate", "stack", "empty", "zeros", "ones", "full")
LINALG = {"inv": ""}
CONSTANTS = ("bool_", "float32", "float64", "inf", "int32", "int64", "nan", "newaxis", "pi")


class _Ufunc:
    def __init__(self, name):
        self.name, self._ufunc = name, getattr(np, name)

    def __call__(self, *args, **kwargs):
        if bad := [type(x).__name__ for x in args if not isinstance(x, (ndarray, *_SCALARS))]:
            raise TypeError(f"{self.name}() takes arrays of this device and scalars, got {bad}")
        return _call(self.name, self._ufunc, {"out", "dtype", "casting"}, args, kwargs)


def _function(name, keywords, home=np):
    def function(*args, **kwargs):
        if args and isinstance(args[0], (list, tuple)) and name not in _TAKES_A_LIST_FIRST:
            raise TypeError(
                f"{name}() takes an array of this device, got a {type(args[0]).__name__}"
            )
        return _call(name, getattr(home, name), keywords, args, kwargs)

    return function


def _at(ufunc):
    return lambda a, indices, b=None: ufunc._ufunc.at(a._hidden, _index(indices), _hidden(b))


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


GENERATOR = {
    "exponential": "scale size",
    "integers": "low high size dtype endpoint",
    "random": "size dtype",
    "standard_exponential": "size dtype",
    "standard_normal": "size dtype",
    "uniform": "low high size",
}


class Generator:
    """NumPy's random numbers as arrays of this device, by the methods that CuPy's Generator has."""

    def __init__(self, seed=None):
        generator = np.random.default_rng(seed)
        for name, keywords in GENERATOR.items():
            setattr(self, name, self._draw(name, getattr(generator, name), {*keywords.split()}))

    @staticmethod
    def _draw(name, function, keywords):
        return lambda *args, **kwargs: asarray(_call(name, function, keywords, args, kwargs))


random = types.SimpleNamespace(default_rng=Generator, Generator=Generator)
linalg = types.SimpleNamespace(
    **{name: _function(name, {*keywords.split()}, np.linalg) for name, keywords in LINALG.items()}
)


def _add_functions():
    for name in UFUNCS.split():
        globals()[name] = ufunc = _Ufunc(name)
        if name in WITH_AT:
            ufunc.at = _at(ufunc)
    globals().update(
        {name: _function(name, {*keywords.split()}) for name, keywords in FUNCTIONS.items()}
    )
    globals().update({name: getattr(np, name) for name in CONSTANTS})


_add_functions()


def __getattr__(name):
    raise AttributeError(
        f"no {name!r} on this device: CuPy lacks it, or strict_device.py has yet to list it"
    )
