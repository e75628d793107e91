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
    with one gradient per input, None for integer inputs (see minimixce.gradcheck, whose `options`
    go here too: tolerance, coordinates, nondegenerate, seed). An input may be an array, a number,
    or a dict, list or tuple of such, whose gradient then has the same structure. float32 and
    float16 are checked in float64, on the same numbers. names: one for each input; by default those
    of forward's parameters. Returns the Report.

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
    flat_names = [name for leaves, _ in structures for name, _ in leaves]
    flat_inputs = [_as_float64(x) for leaves, _ in structures for _, x in leaves]

    def flat_forward(*values):
        values = iter(values)
        return forward(*(rebuild(values) for _, rebuild in structures))

    def flat_backward(dy, cache):
        gradients = backward(dy, cache)
        if len(inputs) == 1 and not isinstance(gradients, tuple):
            gradients = (gradients,)
        if not isinstance(gradients, (tuple, list)) or len(gradients) != len(inputs):
            return gradients  # gradcheck says what is wrong with it
        pairs = zip(gradients, structures)
        return tuple(leaf for g, (leaves, _) in pairs for leaf in _leaves_like(g, leaves))

    report = gradcheck(flat_forward, flat_backward, flat_inputs, names=flat_names, **options)
    sizes = {name: np.shape(x) for name, x in zip(flat_names, flat_inputs)}
    return report, [line for row in report.rows if (line := explain(row, sizes))]


def _names(forward, inputs):
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


def _structure(x, name, path=()):
    """-> [(name, array), …] of the leaves of x, and a function that builds x of new leaves.

    The function takes an iterator over all new leaves.
    """
    if isinstance(x, dict):
        children = {key: _structure(value, f"{name}[{key!r}]") for key, value in x.items()}
        leaves = [leaf for part, _ in children.values() for leaf in part]
        return leaves, lambda new: {key: rebuild(new) for key, (_, rebuild) in children.items()}
    if isinstance(x, (list, tuple)):
        children = [_structure(value, f"{name}[{k}]") for k, value in enumerate(x)]
        leaves = [leaf for part, _ in children for leaf in part]
        make = type(x) if type(x) in (list, tuple) else lambda values: type(x)(*values)
        return leaves, lambda new: make([rebuild(new) for _, rebuild in children])
    return [(name, x)], next


def _leaves_like(g, leaves):
    """The leaves of a gradient, in the order of those of its input; None for what it lacks."""
    if isinstance(g, dict):
        found = {}
        for key, value in g.items():
            for name, leaf in _structure(value, f"[{key!r}]")[0]:
                found[name] = leaf
        return [found.get(_below(name)) for name, _ in leaves]
    if isinstance(g, (list, tuple)):
        flat = [leaf for leaf in _flat(g)]
        return flat if len(flat) == len(leaves) else [None] * len(leaves)
    return [g] if len(leaves) == 1 else [None] * len(leaves)


def _flat(g):
    if isinstance(g, (list, tuple)):
        for part in g:
            yield from _flat(part)
    elif isinstance(g, dict):
        for part in g.values():
            yield from _flat(part)
    else:
        yield g


def _below(name):
    """ "params['w']" -> "['w']": a leaf's name inside the input it is part of."""
    return name[name.index("[") :]


def _as_float64(x):
    if isinstance(x, (int, float)) and not isinstance(x, bool):
        return np.asarray(x, np.float64)
    if hasattr(x, "dtype") and x.dtype.kind == "f" and x.dtype != np.float64:
        array_module(x)  # TypeError for what is no NumPy or CuPy array
        return x.astype(np.float64)
    return x
