"""Flags from options that are declared elsewhere, or here, each once, and what the user gave."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from ..experiments.options import (
    CommonOptions,
    TrainingOptions,
    absolute,
    flag,
    kind_of,
    option,
)
from ..objectives import RATIOS
from ..storage.validate import check_ratio

_Options = TypeVar("_Options")
_Number = TypeVar("_Number", int, float)


@dataclass
class FileFlags:
    """A file for the result of a command that prints it."""

    out: str | None = option(None, "also write the result to FILE", metavar="FILE")
    overwrite: bool = option(False, "replace FILE")


def add_fields(
    parser: argparse.ArgumentParser,
    options_class: type[Any],
    leave_out: Iterable[str] = (),
    helps: dict[str, str] | None = None,
) -> None:
    """Add to `parser` a flag for each field of the dataclass options_class, except those in
    leave_out.

    A flag's type and default are its field's; a bool is a switch. helps: {name: help text} in place
    of the fields' own. The options every command takes are left out of classes that extend them.
    """
    if options_class is not CommonOptions and issubclass(options_class, CommonOptions):
        leave_out = {*leave_out, *names(CommonOptions)}
    for field in dataclasses.fields(options_class):
        if field.name in leave_out:
            continue
        kind, _ = kind_of(field)
        help = (helps or {}).get(field.name, field.metadata["help"])
        how = dict(field.metadata["argparse"])
        if kind is bool:
            how["action"] = "store_true"
        elif kind is list:
            how["nargs"] = "+"
        else:
            how["type"] = kind
            if field.default not in (None, ""):
                help += f" (default: {field.default})"
        parser.add_argument(
            flag(field.name),
            default=argparse.SUPPRESS,  # so that only what the user gave is there
            help=help.replace("%", "%%"),
            **how,
        )


def names(*options_classes: type[Any]) -> set[str]:
    """The names of all fields of options_classes, dataclasses of options -> set."""
    return {field.name for cls in options_classes for field in dataclasses.fields(cls)}


def complete(given: dict[str, Any]) -> dict[str, Any]:
    """What the user gave (`given`), checked as far as a flag by itself can be, with whole paths ->
    dict. Raises ValueError for an empty path and a number out of range.
    """
    for name in ("out", "data", "validation", "init", "table", "features"):
        value = given.get(name)
        if value == "" or (isinstance(value, list) and "" in value):
            raise ValueError(f"--{name} must name a place, got an empty text")
    for field in dataclasses.fields(TrainingOptions):
        least = field.metadata["least"]
        if least is not None and given.get(field.name, least) < least:
            raise ValueError(
                f"{flag(field.name)} must be at least {least}, got {given[field.name]}"
            )
    for name in RATIOS:
        if name in given:
            check_ratio(flag(name), given[name])
    return absolute(given)


def chosen(options_class: type[_Options], given: dict[str, Any]) -> _Options:
    """What the user gave (`given`), and the defaults of other options -> an options_class."""
    return options_class(**of(options_class, given))


def of(options_class: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Those given options that are fields of options_class -> dict."""
    return {name: given[name] for name in names(options_class) if name in given}


def parse_numbers(
    name: str, text: str | None, kind: Callable[[str], _Number]
) -> list[_Number] | None:
    """The different numbers that the text of an option names: "0.1,0.5" -> [0.1, 0.5]; None for an
    option that was not given.

    name: the option's, for errors; kind: int or float. Raises ValueError for another text, or a
    number that is named twice.
    """
    if text is None:
        return None
    try:
        values = [kind(item) for item in text.split(",")]
    except ValueError:
        raise ValueError(f"--{name} must be numbers separated by commas, got {text!r}") from None
    if len(set(values)) < len(values):
        raise ValueError(f"--{name} names a number twice: {text}")
    return values
