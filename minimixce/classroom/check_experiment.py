"""What a program can check of A4: the pre-registration, the seeds, the interval, one seed again.

The conclusion is for a person, with the rubric. No result earns or loses points: only whether it
was found as registered and is stated as it is.
"""

import csv
import io
import subprocess
from pathlib import Path
from typing import NamedTuple

from ..storage.files import read_bytes, read_json
from ..storage.shapes import FilePath
from . import experiment

_SAME = 1e-6  # of the same numbers on the same machine
_NEAR = 0.03  # of a share, where another machine rounds otherwise in training
_MOST_RESULTS = 1 << 20  # bytes of results.csv


class Item(NamedTuple):
    """One thing that was looked at."""

    name: str
    ok: bool
    says: str


def check_folder(folder: FilePath, rerun: int | None = None) -> list[Item]:
    """Look at prereg.json, results.csv and summary.json of a folder -> list of Item.

    rerun: a seed to run again, which takes up to a minute. Raises FileNotFoundError for a folder
    that is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist")
    prereg, items = _read(folder, "prereg.json")
    if prereg is not None:
        wrong = experiment.check_prereg(prereg)
        items.append(Item("pre-registration", not wrong, "; ".join(wrong) or "complete"))
        items.append(_registered_first(folder))
    rows = _rows(folder, items)
    if prereg is None or rows is None or not items[0].ok:
        return items
    items.append(_seeds(prereg, rows))
    items.append(_control(rows))
    items += _intervals(folder, prereg, rows)
    if rerun is not None:
        items.append(_again(prereg, rows, rerun))
    return items


def _read(folder, name):
    """A JSON file, or None and what is wrong."""
    try:
        return read_json(folder / name), []
    except (FileNotFoundError, ValueError) as error:
        return None, [Item(name, False, str(error))]


def _rows(folder, items):
    """The rows of results.csv as numbers, or None and an Item."""
    path = folder / "results.csv"
    try:
        text = read_bytes(path, _MOST_RESULTS).decode("utf-8")
        lines = csv.DictReader(io.StringIO(text, newline=""))
        rows = [{k: float(v) for k, v in row.items()} for row in lines]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        items.append(Item("results.csv", False, f"cannot be read: {error}"))
        return None
    if not rows or set(rows[0]) != set(experiment.COLUMNS):
        columns = ", ".join(experiment.COLUMNS)
        items.append(Item("results.csv", False, f"must have the columns {columns}"))
        return None
    return rows


def _registered_first(folder):
    """Whether prereg.json was committed before results.csv, and not changed since."""
    dates = {}
    for name in ("prereg.json", "results.csv"):
        command = ["git", "-C", str(folder), "log", "--format=%H", "--", name]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return Item("registered first", False, "cannot be told: the folder is in no repository")
        dates[name] = found.stdout.split()
    if not dates["prereg.json"]:
        return Item("registered first", False, "prereg.json is not committed")
    if len(dates["prereg.json"]) > 1:
        return Item("registered first", False, "prereg.json was changed after its first commit")
    if not dates["results.csv"]:
        return Item("registered first", True, "prereg.json is committed, results.csv not yet")
    first, result = dates["prereg.json"][-1], dates["results.csv"][-1]
    command = ["git", "-C", str(folder), "merge-base", "--is-ancestor", first, result]
    earlier = first != result and subprocess.run(command, capture_output=True).returncode == 0
    says = "before the results" if earlier else "not before the results"
    return Item("registered first", earlier, says)


def _seeds(prereg, rows):
    found = sorted(int(row["seed"]) for row in rows)
    if found != sorted(prereg["seeds"]):
        says = f"results.csv has seeds {found}, registered are {sorted(prereg['seeds'])}"
        return Item("seeds", False, says)
    return Item("seeds", True, f"all {len(found)} that were registered, and no others")


def _control(rows):
    """Whether the control's entropy is that of MixCE."""
    off = max(abs(row["entropy_mixce"] - row["entropy_control"]) for row in rows)
    says = f"entropies differ by at most {off:.3f} nats a sentence"
    return Item("control", off < 0.1, says)


def _intervals(folder, prereg, rows):
    """summary.json against what the rows give."""
    stated, items = _read(folder, "summary.json")
    if stated is None:
        return items
    expected = experiment.summary(prereg, rows)
    for name in ("mixce - mle", "mixce - control"):
        right, found = expected[name], stated.get(name)
        said = ", ".join(f"{part} {value:.4f}" for part, value in right.items())
        ok = isinstance(found, dict) and all(
            isinstance(found.get(part), (int, float)) and abs(found[part] - value) < 1e-4
            for part, value in right.items()
        )
        items.append(Item(f"interval of {name}", ok, f"recomputed: {said}"))
    right, found = expected["coverage"], stated.get("coverage")
    ok = isinstance(found, dict) and all(
        isinstance(found.get(part), (int, float)) and abs(found[part] - value) < 0.01
        for part, value in right.items()
    )
    said = ", ".join(f"{part} {value:.3f}" for part, value in right.items())
    items.append(Item("coverage", ok, f"simulated: {said}"))
    return items


def _again(prereg, rows, seed):
    """One seed run again, against its row."""
    name = f"seed {seed} again"
    row = next((row for row in rows if row["seed"] == seed), None)
    if row is None:
        return Item(name, False, "results.csv has no such seed")
    again = experiment.run_seed(prereg, seed)
    off = max(abs(again[part] - row[part]) for part in ("mle", "mixce", "control"))
    if off < _SAME:
        return Item(name, True, "the same numbers")
    says = f"shares differ by up to {off:.4f}"
    if off < _NEAR:
        return Item(name, True, f"{says}, as where another machine rounds otherwise")
    return Item(name, False, says)
