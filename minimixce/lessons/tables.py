"""Tables of strings and numbers."""

from .display import display, write


def table(headings, rows):
    """Show a table: headings, then rows of strings or of numbers that are already formatted.

    The first column is left-aligned, the others right-aligned.
    """
    if not display(
        {"text/markdown": _markdown(headings, rows), "text/plain": _plain(headings, rows)}
    ):
        write(f"{_plain(headings, rows)}\n")


def _markdown(headings, rows):
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (headings, *rows)]
    lines.insert(1, "| --- |" + " ---: |" * (len(headings) - 1))
    return "\n".join(lines)
