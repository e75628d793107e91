"""gradcheck as an assertion: nested inputs, names from the signature, what is wrong in words."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend import array_module
from ..checks import Report, gradcheck
from .sentences import explain


def assert_gradients(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    *inputs: Any,
    names: Sequence[str] | None = None,
    **options: Any,
) -> Report:
    """Raise AssertionError, with a table and what is wrong in words, unless every gradient is OK.

    forward(*inputs) -> (y, cache), y one array or a tuple of arrays; backward(dy, cache) -> a tuple
    with one gradient per input, None or nothing at all for integer arrays (see minimixce.gradcheck,
    whose `options` go here too: tolerance, coordinates, nondegenerate, seed). An input may be an
    array, a number, or a dict, list or tuple of such, whose gradient then has the same structure.
    float32 and float16 are checked in float64, on the same numbers. names: one for each input; by
    default those of forward's parameters. Returns the Report.

    Raises TypeError or ValueError where gradcheck does, for what cannot be checked.

        def test_linear(rng=np.random.default_rng(0)):
            x, W, b = rng.standard_normal((2, 3)), rng.standard_normal((3, 4)), np.zeros(4)
            assert_gradients(linear_forward, linear_backward, x, W, b)
    """
    __tracebackhide__ = True  # pytest shows the caller's line and the message, not this function
    report, sentences = check_gradients(forward, backward, *inputs, names=names, **options)
    if not report.ok:
        raise AssertionError("\n".join(["gradients are not OK", str(report), *sentences]))
    return report


def check_gradients(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    *inputs: Any,
    names: Sequence[str] | None = None,
    **options: Any,
) -> tuple[Report, list[str]]:
    """What assert_gradients checks -> the Report, and a list of sentences on what is wrong.

    Arguments and errors are those of assert_gradients.
    """
    names = _names(forward, inputs) if names is None else list(names)
    if len(names) != len(inputs):
        raise ValueError(f"names must have one name per input, got {len(names)} for {len(inputs)}")
    structures = [_structure(x, name) for x, name in zip(inputs, names)]
    flat_names = [name for leaves, _, _ in structures for name, _ in leaves]
    flat_inputs = [_as_float64(x) for leaves, _, _ in structures for _, x in leaves]

    def flat_forward(*values):
        values = iter(values)
        return forward(*(rebuild(values) for _, rebuild, _ in structures))

    def flat_backward(dy, cache):
        gradients = backward(dy, cache)
        if len(inputs) == 1 and not isinstance(gradients, tuple):
            gradients = (gradients,)
        gradients = _with_none_for_integers(gradients, inputs)
        count = len(gradients) if isinstance(gradients, (tuple, list)) else 1
        if count != len(inputs):
            raise ValueError(
                f"backward must return one gradient per input, {len(inputs)} in all, got {count}"
            )
        pairs = zip(gradients, structures)
        return tuple(leaf for g, (_, _, take_apart) in pairs for leaf in take_apart(g))

    report = gradcheck(flat_forward, flat_backward, flat_inputs, names=flat_names, **options)
    sizes = {name: np.shape(x) for name, x in zip(flat_names, flat_inputs)}
    return report, [line for row in report.rows if (line := explain(row, sizes))]


def _with_none_for_integers(gradients: Any, inputs: Sequence[Any]) -> Any:
    """The gradients of a backward that may leave out integer arrays, with None for them."""
    is_integer = [isinstance(x, np.ndarray) and x.dtype.kind in "iub" for x in inputs]
    wanted = len(inputs) - sum(is_integer)
    if wanted == 1 and not isinstance(gradients, (tuple, list, dict)):
        gradients = (gradients,)
    if not any(is_integer) or not isinstance(gradients, (tuple, list)) or len(gradients) != wanted:
        return gradients
    given = iter(gradients)
    return tuple(None if integer else next(given) for integer in is_integer)


def _names(forward: Callable[..., Any], inputs: Sequence[Any]) -> list[str]:
    """The names of forward's parameters, as far as they can be known."""
    try:
        parameters = [
            p.name
            for p in inspect.signature(forward).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):  # built-in functions have no signature
        parameters = []
    return [parameters[i] if i < len(parameters) else f"input {i}" for i in range(len(inputs))]


def _structure(x, name):
    """What x is made of: its leaves [(name, array), …]; a function that builds x from an iterator
    over new leaves; and one that takes a gradient of the same structure apart, with None for
    everything it lacks.
    """
    if isinstance(x, dict):
        parts = {key: _structure(value, f"{name}[{key!r}]") for key, value in x.items()}

        def rebuild(new):
            return {key: part[1](new) for key, part in parts.items()}

        def take_apart(g):
            g = g if isinstance(g, dict) else {}
            return [leaf for key, part in parts.items() for leaf in part[2](g.get(key))]

        return [leaf for part in parts.values() for leaf in part[0]], rebuild, take_apart
    if isinstance(x, (list, tuple)):
        items = [_structure(value, f"{name}[{k}]") for k, value in enumerate(x)]
        make = type(x) if type(x) in (list, tuple) else lambda values: type(x)(*values)

        def rebuild(new):
            return make([item[1](new) for item in items])

        def take_apart(g):
            fits = isinstance(g, (list, tuple)) and len(g) == len(items)
            g = g if fits else [None] * len(items)
            return [leaf for item, part in zip(items, g) for leaf in item[2](part)]

        return [leaf for item in items for leaf in item[0]], rebuild, take_apart
    return [(name, x)], next, lambda g: [g]


def _as_float64(x):
    if isinstance(x, (int, float)) and not isinstance(x, bool):
        return np.asarray(x, np.float64)
    if hasattr(x, "dtype") and x.dtype.kind == "f" and x.dtype != np.float64:
        array_module(x)  # TypeError for what is no NumPy or CuPy array
        return x.astype(np.float64)
    return x
