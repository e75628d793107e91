"""Make of grades.csv what Canvas or Moodle imports: python to_gradebook.py grades.csv --roster roster.csv --format canvas

The roster is a gradebook exported from there; columns.md says which columns count. Only points go in: no mistakes, no status.
"""

import argparse
import csv
import sys
from pathlib import Path

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


def convert(grades, roster, form, key=None, column="total"):
    """Rows for a gradebook -> (header, rows of cells, students that are not in the roster), in the roster's order.

    grades, roster: what `read` returned; form: "canvas" or "moodle"; key: the roster's column that holds what grades.csv calls
    student; column: the title of the points. Students without points are left out, so that an import leaves theirs as they are.
    Raises ValueError for a missing column, a student twice, or points that are no number.
    """
    key = key or KEYS[form]
    wanted = list(dict.fromkeys((*COLUMNS[form], key) if form == "canvas" else (key,)))
    for name, rows, needed in (("grades.csv", grades, ("student", "total")), ("the roster", roster, wanted)):
        missing = [column for column in needed if rows and column not in rows[0]]
        if missing or not rows:
            raise ValueError(f"{name} has no column {missing[0]!r}" if missing else f"{name} is empty")
    points = {}
    for row in grades:
        if row["student"] in points:
            raise ValueError(f"grades.csv has {row['student']!r} twice")
        if row["total"] and not row["total"].replace(".", "", 1).isdecimal():
            raise ValueError(f"grades.csv: total of {row['student']!r} must be a number, got {row['total']!r}")
        points[row["student"]] = row["total"]
    found = [row for row in roster if points.get(row[key])]
    if len({row[key] for row in found}) < len(found):
        raise ValueError(f"the roster has a {key} twice")
    lost = [student for student, total in points.items() if total and student not in {row[key] for row in found}]
    cells = [[*(guarded(row[name]) for name in wanted), points[row[key]]] for row in found]
    return [*wanted, column], cells, lost


def main(arguments=None):
    """Write the file -> exit status: 1 where points belong to no one in the roster."""
    parser = argparse.ArgumentParser(description="Make of grades.csv what Canvas or Moodle imports.")
    parser.add_argument("grades", help="what minimixce grade --csv wrote")
    parser.add_argument("--roster", required=True, help="the gradebook exported from Canvas or Moodle")
    parser.add_argument("--format", required=True, choices=COLUMNS)
    parser.add_argument("--key", help="the roster's column with what grades.csv calls student")
    parser.add_argument("--column", default="total", help='title of the points, for Canvas as "A1 Objectives (4711)"')
    parser.add_argument("--out", default="-", help="a file; by default the output is printed")
    given = parser.parse_args(arguments)
    try:
        header, rows, lost = convert(read(given.grades), read(given.roster), given.format, given.key, given.column)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    file = sys.stdout if given.out == "-" else open(given.out, "w", newline="", encoding="utf-8")  # noqa: SIM115
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    if file is not sys.stdout:
        file.close()
    for student in lost:
        print(f"not in the roster: {student!r}", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
