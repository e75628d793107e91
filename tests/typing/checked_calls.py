"""A pytest plugin that checks every call of minimixce against its annotations: `pytest -p
checked_calls` with this folder in PYTHONPATH (tests/test_types.py runs it).

jaxtyping checks kinds and shapes, with one size for each axis of a call, and beartype the rest; the
fields of NamedTuples, the caches of layers for example, are checked when one is made. What a test
passes inside `pytest.raises` is wrong on purpose and goes unchecked, to see it refused by the
package itself.
"""

import contextlib
import functools
import importlib
import inspect
import pkgutil
import sys

import beartype
import jaxtyping
import numpy as np
import pytest

# an int is a float, and NumPy's numbers are numbers
_numbers = {int: int | np.integer, float: float | int | np.integer | np.floating}
_conf = beartype.BeartypeConf(hint_overrides=beartype.BeartypeHintOverrides(_numbers))
_refusals = []  # the pytest.raises blocks that are open


def checked(function):
    """`function`, which raises for arguments or a result that its annotations do not allow."""
    strict = beartype.beartype(conf=_conf)(function)

    @functools.wraps(function)
    def call(*args, **options):
        return (function if _refusals else strict)(*args, **options)

    return call


_raises = pytest.raises


@contextlib.contextmanager
def _raises_unchecked(*args, **options):
    with _raises(*args, **options) as info:
        _refusals.append(info)
        try:
            yield info
        finally:
            _refusals.pop()


def _check_fields(module):
    """Have the NamedTuples of a module check their fields when one is made."""
    for _, cls in inspect.getmembers(module, inspect.isclass):
        named = "_fields" in vars(cls) and cls.__module__ == module.__name__
        if named and issubclass(cls, tuple):
            cls.__new__ = jaxtyping.jaxtyped(cls.__new__, typechecker=checked)


assert "minimixce" not in sys.modules, "the hook must come before the package"
jaxtyping.install_import_hook("minimixce", "checked_calls.checked")
pytest.raises = _raises_unchecked

import minimixce  # noqa: E402

# __main__ runs the program, and the classroom has pieces of assignments and a program of its own
_UNREAD = ("minimixce.__main__", "minimixce.classroom")
for _info in pkgutil.walk_packages(minimixce.__path__, "minimixce."):
    if not _info.name.startswith(_UNREAD):
        _check_fields(importlib.import_module(_info.name))
