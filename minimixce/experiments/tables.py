"""Tables as lines of text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .measures import TEXT_MEASURES, Measure, spread


def format_table(
    headings: Sequence[Any] | None, rows: Iterable[Sequence[Any]], line: str | None = None
) -> str:
    """A table as text, one line a row, without a line break at the end.

    headings: strings, or None for a table without them. rows: sequences of as many cells each,
    strings or anything that str takes; numbers come formatted. line: the format string of a line,
    such as "{:<20}{:>12}"; without one, columns are as wide as their widest cell and two spaces
    apart, the first aligned on the left and the others on the right.

    >>> from minimixce.experiments.tables import format_table
    >>> print(format_table(["loss", "nats"], [["MLE", 1.5], ["MixCE", 0.25]]))
    loss   nats
    MLE     1.5
    MixCE  0.25
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if headings is not None:
        cells.insert(0, [str(heading) for heading in headings])
    if line is None:
        widths = [max(map(len, column)) for column in zip(*cells)]
        line = "  ".join(f"{{:{'>' if i else '<'}{width}}}" for i, width in enumerate(widths))
    return "\n".join(line.format(*row) for row in cells)


def format_markdown(headings: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """The same table in Markdown; cells are set as text, with their bars escaped.

    >>> from minimixce.experiments.tables import format_markdown
    >>> print(format_markdown(["loss", "nats"], [["MLE", 1.5]]))
    | loss | nats |
    | --- | --- |
    | MLE | 1.5 |
    """
    lines = [headings, ["---"] * len(headings), *rows]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def measures_by_row(
    groups: Mapping[str, Sequence[Mapping[str, Any]]], measures: Mapping[str, Measure]
) -> tuple[list[str], list[list[str]]]:
    """The table of format_measures the other way round, a row a measure -> headings, rows. What no
    group has is left out.
    """
    columns = [
        [*_cells(spread(group, measures), measures, len(group) > 1)] for group in groups.values()
    ]
    headings = [measure.heading for measure in measures.values()]
    rows = [[heading, *cells] for heading, *cells in zip(headings, *columns)]
    return ["", *groups], [row for row in rows if any(row[1:])]


def format_measures(
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    measures: Mapping[str, Measure] = TEXT_MEASURES,
) -> str:
    """A table of measurements: a row a group, a column a measure, mean ± standard deviation over
    the group -> text.

    groups: {label: list of dicts as measure_on_text or measure_on_world returns}; measures:
    TEXT_MEASURES or WORLD_MEASURES. A measure that one of a group lacks is an empty cell, and a
    group of one has no deviation.
    """
    rows = [
        (label, *_cells(spread(group, measures), measures, len(group) > 1))
        for label, group in groups.items()
    ]
    headings = ("", *(measure.heading for measure in measures.values()))
    return format_table(headings, rows, "{:<28}" + "{:>18}" * len(measures))


def _cells(
    found: dict[str, tuple[float, float]], measures: Mapping[str, Measure], with_deviation: bool
) -> Iterator[str]:
    for name, measure in measures.items():
        if name not in found:
            yield ""
            continue
        mean, deviation = (f"{value:{measure.format}}" for value in found[name])
        yield f"{mean} ± {deviation}" if with_deviation else mean
