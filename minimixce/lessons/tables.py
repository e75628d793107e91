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


def _plain(headings, rows):
    rows = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(headings))]
    return "\n".join("  ".join(_aligned(row, widths)) for row in rows)


def _aligned(row, widths):
    first, *others = zip(row, widths)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
