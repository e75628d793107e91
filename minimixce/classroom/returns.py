"""What a student's function returned, taken apart; and in a sentence, what it must return."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .compare import as_result, with_article
from .signatures import Functions


class WrongReturn(TypeError):
    """What a function returned is not what it must return; the text is a whole sentence."""

    kind = "return"


class Watched:
    """A student's functions as attributes; remembers which was called last, and what it returned.

    functions: an object whose attributes they are, here or in a sandbox.
    """

    def __init__(self, functions: Functions) -> None:
        self.__dict__.update(__functions__=functions, __called__="", __returned__=None)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*given):
            self.__dict__.update(__called__=name, __returned__=None)
            returned = getattr(self.__functions__, name)(*given)
            self.__dict__["__returned__"] = returned
            return returned

        return call


def now_calls(functions: Functions, name: str) -> None:
    """Note that what a student's function returned is called next, under this name."""
    if isinstance(functions, Watched):
        functions.__dict__.update(__called__=name, __returned__=None)


def array_of(functions: Functions, output: str, value: Any) -> np.ndarray:
    """An output as an array -> a copy. Raises WrongReturn, with the function that returned it.

    functions: the Watched functions, of which the last that was called returned `value`.
    """
    called = functions.__called__ or "the function"
    try:
        return as_result(value).copy()
    except TypeError as error:
        whole = value is functions.__returned__
        if value is None and whole:
            raise WrongReturn(f"{called} returned None: is its `return` missing?") from None
        place = "" if whole else f" for {output}"
        raise WrongReturn(f"{called} returned {error}{place}") from None


def two_of(name: str, returned: Any, wanted: str = "(y, cache)") -> Any:
    """The two things that a function returned. Raises WrongReturn where there are not two."""
    if isinstance(returned, (tuple, list)) and len(returned) == 2:
        return returned
    raise _wrong(name, returned, wanted)


def gradients_of(name: str, returned: Any, wanted: Sequence[str]) -> tuple[Any, ...]:
    """The gradients that a backward returned, a tuple.

    wanted: their names. A single one may be returned without a tuple, and None for inputs that are
    integers is left out. Raises WrongReturn where their number is another one.
    """
    given = returned if isinstance(returned, (tuple, list)) else (returned,)
    if len(given) > len(wanted):
        given = [g for g in given if g is not None]
    if len(given) == len(wanted) and returned is not None:
        return tuple(given)
    comma = "," if len(wanted) == 1 else ""
    raise _wrong(name, returned, f"({', '.join(wanted)}{comma})")


def function_of(name: str, returned: Any, wanted: str = "f_and_w") -> Any:
    """The function that a function returned. Raises WrongReturn where it is none."""
    if callable(returned):
        return returned
    raise _wrong(name, returned, f"a function, {wanted}")


def entry_of(name: str, returned: Any, key: str) -> Any:
    """An entry of a dict, called `name`. Raises WrongReturn where it has none."""
    if isinstance(returned, dict) and key in returned:
        return returned[key]
    if isinstance(returned, dict):
        raise WrongReturn(f"{name} have no {key!r}")
    raise WrongReturn(f"{name} are {described(returned)}; a dict is wanted")


def described(value: Any) -> str:
    """What something is, in a word or two: "None", "one array", "a tuple of 3"."""
    if value is None:
        return "None"
    if isinstance(value, (np.ndarray, np.generic)):
        return "one array"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if callable(value):
        return "a function"
    return with_article(getattr(value, "type_name", type(value).__name__))  # "type_name": remote


def _wrong(name, returned, wanted):
    missing = ": is its `return` missing? It" if returned is None else "; it"
    return WrongReturn(f"{name} returned {described(returned)}{missing} must return {wanted}")
