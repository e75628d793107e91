"""What strict_device has: names, and the keyword arguments they take. CuPy has all of them
(test_strict_device.py compares).
"""

AXIS = "axis out keepdims"
METHODS = {
    "all": AXIS,
    "any": AXIS,
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
    "max": AXIS,
    "mean": "axis dtype out keepdims",
    "min": AXIS,
    "prod": "axis dtype out keepdims",
    "ravel": "order",
    "repeat": "axis",
    "reshape": "order",
    "squeeze": "axis",
    "std": "axis dtype out ddof keepdims",
    "sum": "axis dtype out keepdims",
    "swapaxes": "",
    "trace": "offset axis1 axis2 dtype out",
    "transpose": "",
    "var": "axis dtype out ddof keepdims",
    "view": "dtype",
}
OWN_METHODS = {"sort": "axis", "take": "axis out"}  # written out in strict_device
ATTRIBUTES = ("dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides")
ARITHMETIC = "add sub mul truediv floordiv mod pow matmul and or xor"
COMPARISONS = "lt le gt ge eq ne"
COMPARISON_UFUNCS = "less less_equal greater greater_equal equal not_equal".split()
UNARY = "neg pos abs invert"
HOST_READS = "__bool__ __complex__ __float__ __format__ __int__ __repr__ __str__ item tolist"

UFUNCS = (
    "abs absolute add arctan ceil cos divide equal exp exp2 expm1 floor floor_divide fmax fmin"
    " greater greater_equal isfinite isinf isnan less less_equal log log1p log2 logaddexp"
    " logical_and logical_not logical_or matmul maximum minimum multiply negative not_equal power"
    " remainder rint sign sin sqrt square subtract tanh true_divide"
)
_INTEGERS_32 = {"int32", "uint32"}
_ATOMIC = {*_INTEGERS_32, "int64", "uint64", "float32", "float64"}
WITH_AT = {  # _routines_indexing.pyx, _scatter_op_single: the dtypes of which there are atomics
    "add": {*_ATOMIC, "float16"},
    "maximum": _ATOMIC,
    "minimum": _ATOMIC,
    "subtract": _INTEGERS_32,
}

FUNCTIONS = {  # name: the keywords it takes
    "all": AXIS,
    "amax": AXIS,
    "amin": AXIS,
    "any": AXIS,
    "arange": "dtype",
    "argmax": "axis dtype out keepdims",
    "argmin": "axis dtype out keepdims",
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
    "max": AXIS,
    "mean": "axis dtype out keepdims",
    "min": AXIS,
    "moveaxis": "",
    "ones": "dtype",
    "ones_like": "dtype",
    "outer": "out",
    "packbits": "bitorder",
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
    "tensordot": "axes",
    "tile": "",
    "transpose": "axes",
    "tri": "M k dtype",
    "tril": "k",
    "triu": "k",
    "unpackbits": "bitorder",
    "var": "axis dtype out ddof keepdims",
    "vdot": "",
    "zeros": "dtype",
    "zeros_like": "dtype",
}
# arrays to join, or a shape
TAKES_A_LIST_FIRST = ("concatenate", "stack", "empty", "zeros", "ones", "full")
OWN = {  # written out in strict_device, too
    "argpartition": "axis",
    "array": "dtype",
    "asarray": "dtype",
    "ascontiguousarray": "",
    "partition": "axis",
    "take": "axis out",
    "take_along_axis": "axis",
    "where": "",
}
LINALG = {"inv": ""}
CONSTANTS = ("bool_", "float32", "float64", "inf", "int32", "int64", "nan", "newaxis", "pi")

GENERATOR = {
    "exponential": "scale size",
    "integers": "low high size dtype endpoint",
    "random": "size dtype",
    "standard_exponential": "size dtype",
    "standard_normal": "size dtype",
    "uniform": "low high size",
}
