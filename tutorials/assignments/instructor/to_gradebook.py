"""Make of grades.csv what Canvas or Moodle imports: python to_gradebook.py grades.csv --roster roster.csv --format canvas

The roster is a gradebook exported from there; columns.md says which columns count. Only points go in: no mistakes, no status.
"""

import argparse
import csv
import io
import math
import sys
from pathlib import Path
from typing import NamedTuple

COLUMNS = {
    "canvas": ("Student", "ID", "SIS User ID", "SIS Login ID", "Section"),
    "moodle": ("Email address",),
}
KEYS = {"canvas": "SIS Login ID", "moodle": "Email address"}
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of a formula


def guarded(cell):
    """A cell that no spreadsheet computes: with a ' before it where it begins like a formula."""
    return f"'{cell}" if cell.startswith(FORMULAS) else cell


def unguarded(cell):
    """What `guarded` was given."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULAS) else cell


def read(path):
    """The rows of a CSV file as dicts, without the guards. Raises FileNotFoundError, ValueError for a row of another length."""
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, restkey="", restval=None))
    if any("" in row or None in row.values() for row in rows):
        raise ValueError(f"{path} has rows that are longer or shorter than its first one")
    return [{name: unguarded(cell) for name, cell in row.items()} for row in rows]


class Gradebook(NamedTuple):
    """What is written, and whose points are not in it: {student: why}."""

    header: list
    rows: list
    left_out: dict


def convert(grades, roster, form, key=None, column="total", bonus=False):
    """Points for a gradebook, in the roster's order -> Gradebook.

    grades, roster: what `read` returned; form: "canvas" or "moodle"; key: the roster's column that holds what grades.csv calls
    student; column: the title of the points; bonus: whether to add it to them. A submission that was not graded is left out, so
    that an import leaves the student's points as they are. Raises ValueError for a missing column, a student twice, or points
    that are no number.
    """
    key = key or KEYS[form]
    wanted = list(dict.fromkeys((*COLUMNS[form], key))) if form == "canvas" else [key]
    _check("grades.csv", grades, ("student", "status", "total", *(["bonus"] if bonus else ())), "student")
    _check("the roster", roster, wanted, key)
    points, left_out = {}, {}
    for row in grades:
        if row["status"] == "graded":
            points[row["student"]] = sum(_number(row, name) for name in ("total", "bonus")[: 1 + bonus])
        else:
            left_out[row["student"]] = row["status"]
    there = {row[key] for row in roster}
    left_out |= {student: "not in the roster" for student in points if student not in there}
    found = [row for row in roster if row[key] in points]
    rows = [[*(guarded(row[name]) for name in wanted), f"{points[row[key]]:g}"] for row in found]
    return Gradebook([*wanted, guarded(column)], rows, left_out)


def _check(name, rows, columns, key):
    """Raise ValueError unless there are rows with these columns, and different keys, empty ones aside."""
    if not rows:
        raise ValueError(f"{name} has no rows")
    for column in columns:
        if column not in rows[0]:
            raise ValueError(f"{name} has no column {column!r}; it has {', '.join(rows[0])}")
    keys = [row[key] for row in rows if row[key]]
    if twice := {k for k in keys if keys.count(k) > 1}:
        raise ValueError(f"{name} has {min(twice)!r} twice")


def _number(row, name):
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"grades.csv: {name} of {row['student']!r} must be a number of points, got {row[name]!r}")
    return value


def main(arguments=None):
    """Write the file -> exit status: 1 where someone's points are not in it."""
    parser = argparse.ArgumentParser(description="Make of grades.csv what Canvas or Moodle imports.")
    parser.add_argument("grades", help="what minimixce grade --csv wrote")
    parser.add_argument("--roster", required=True, help="the gradebook exported from Canvas or Moodle")
    parser.add_argument("--format", required=True, choices=COLUMNS)
    parser.add_argument("--key", help="the roster's column with what grades.csv calls student")
    parser.add_argument("--column", default="total", help='title of the points, for Canvas as "A1 Objectives (4711)"')
    parser.add_argument("--bonus", action="store_true", help="add the bonus to the points")
    parser.add_argument("--out", default="-", help="a file; by default the output is printed")
    given = parser.parse_args(arguments)
    try:
        grades, roster = read(given.grades), read(given.roster)
        made = convert(grades, roster, given.format, given.key, given.column, given.bonus)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([made.header, *made.rows])
        if given.out == "-":
            sys.stdout.write(text.getvalue())
        else:
            Path(given.out).write_text(text.getvalue(), encoding="utf-8", newline="")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for student, why in made.left_out.items():
        print(f"left out, {why}: {student!r}", file=sys.stderr)
    return 1 if made.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
