"""What commands print, through one function."""

from typing import Any

from ..storage.terminal import printable


def say(text: object = "", **how: Any) -> None:
    r"""print(text) with visible escapes (\x1b) in place of control characters, which may come from
    a model or a file's name and would do something in a terminal. how: print's end, file and flush.
    """
    if "end" in how:
        how["end"] = printable(how["end"])
    print(printable(text), **how)
