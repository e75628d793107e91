"""Tables of strings and numbers."""

from collections.abc import Iterable, Sequence
from typing import Any

from ..experiments.tables import format_table
from .display import display, write


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Show a table: headings, then rows of strings or of numbers that are already formatted.

    The first column is left-aligned, the others right-aligned.
    """
    text = format_table(headings, rows)
    if not display({"text/markdown": as_markdown(headings, rows), "text/plain": text}):
        write(f"{text}\n")


def as_markdown(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The same table as Markdown, for a place in the prose."""
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (headings, *rows)]
    lines.insert(1, "| --- |" + " ---: |" * (len(headings) - 1))
    return "\n".join(lines)
