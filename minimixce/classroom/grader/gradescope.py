"""What runs on Gradescope: a submission graded, the outcome written as Gradescope's results.json.

    python3 -m minimixce.classroom.grader.gradescope --root /autograder

Under the root lie source/settings.json, submission/ and results/results.json. A result that says
that the grader stopped is written first, so that there is one in any case; the whole one replaces
it in one step. Format: gradescope-autograders.readthedocs.io/en/latest/specs.
"""

import argparse
import re
import sys
import traceback
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...storage import files
from ..assignments import assignment

STOPPED = "The grader stopped before it was done. This is not your fault: tell your instructor."
MAX_OUTPUT = 8000  # bytes
SETTINGS = ("assignment", "variant", "hints", "salt", "isolation")
_CUT = "\n… (cut)"
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_TURNS = {
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    0x200E,
    0x200F,
}  # of the direction of text


def fallback() -> dict[str, Any]:
    """The results of a submission that the grader did not get to the end of."""
    return {
        "score": 0.0,
        "output": STOPPED,
        "output_format": "text",
        "stdout_visibility": "hidden",
        "tests": [],
        "extra_data": {"status": "grader failed"},
    }


def results_of(record: dict[str, Any], hints: str = "why") -> dict[str, Any]:
    """A record of grading.grade as results.json has it.

    One test for each task, with its points. The bonus has a max_score of 0, so that the sum of
    max_score is the assignment's points, of those that a program grades, and what the bonus earned
    comes on top. hints: "none", "where" or "why".
    """
    tests = [_test(task, record, hints) for task in record["tasks"]]
    return {
        "score": sum(test["score"] for test in tests),
        "execution_time": record["seconds"],
        "output": clean("\n".join(_on_the_whole(record))),
        "output_format": "text",
        "stdout_visibility": "hidden",
        "tests": tests,
        "extra_data": {
            "status": record["status"],
            **{key: record[key] for key in ("version", "variant", "seed", "isolation", "sha256")},
            "mistakes": list(record["mistakes"]),
        },
    }


def clean(text: str) -> str:
    """A text as students may see it: at most 8,000 bytes of UTF-8, lines that end in a line feed,
    and no characters that would steer a terminal or a browser.
    """
    text = _ESCAPE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    kept = "".join("\ufffd" if _is_control(character) else character for character in text)
    data = kept.encode()
    if len(data) <= MAX_OUTPUT:
        return kept
    return data[: MAX_OUTPUT - len(_CUT.encode())].decode(errors="ignore") + _CUT


def main(arguments: Sequence[str] | None = None) -> int:
    """Grade what lies under the root -> exit status, 1 where only the first result was written."""
    parser = argparse.ArgumentParser(description="Grade a submission on Gradescope.")
    parser.add_argument("--root", type=Path, default=Path("/autograder"))
    parser.add_argument("--probe", action="store_true", help="only say which sandbox works here")
    given = parser.parse_args(arguments)
    if given.probe:
        return _probe()
    results = given.root / "results" / "results.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    _write(results, fallback())
    try:
        record, hints = _grade(given.root)
        _write(results, results_of(record, hints))
    except Exception:  # the first result stands, and instructors see what is printed
        traceback.print_exc(file=sys.stdout)
        return 1
    return 0


def _grade(root):
    """The record of the submission under the root, and the hints to give."""
    from . import grading, tiers

    settings = files.read_json(root / "source" / "settings.json")
    missing = [key for key in SETTINGS if key not in settings]
    if missing:
        raise ValueError(f"settings.json lacks {', '.join(missing)}")
    found = tiers.choose(settings["isolation"])
    print(f"isolation: {found.tier}", *found.notes, sep="; ", flush=True)
    chosen = {key: settings[key] for key in ("variant", "salt")}
    submission = root / "submission"
    record = grading.grade(settings["assignment"], submission, isolation_tier=found.tier, **chosen)
    return record, settings["hints"]


def _probe():
    from . import tiers

    try:
        found = tiers.choose("auto")
    except ValueError as error:
        print(error)
        return 1
    print(f"isolation: {found.tier}", *found.notes, sep="; ")
    return 0


def _write(path, results):
    files.write_atomically(path, files.to_json(results).encode())


def _test(task, record, hints):
    is_graded = record["status"] == "graded"
    said = task["hints"][hints] if is_graded else _why_not(record)
    return {
        "score": task["points"],
        "max_score": 0.0 if task["bonus"] else task["total"],
        "status": "passed" if task["points"] == task["total"] else "failed",
        "name": clean(task["title"]) + (f", up to {task['total']:g}" if task["bonus"] else ""),
        "number": task["number"],
        "output": clean(said),
        "output_format": "text",
        "visibility": "visible",
    }


def _why_not(record):
    return f"not graded: {record['status']}: {record['says']}"


def _on_the_whole(record):
    """Lines above the tests: remarks, why nothing was graded, and what a person grades."""
    lines = list(record["remarks"])
    if record["status"] != "graded":
        lines.append(_why_not(record))
    written = assignment(record["assignment"], record["variant"]).written
    if written:
        numbers = ", ".join(f"{number} ({points:g} points)" for number, points in written.items())
        lines.append(f"Not graded by a program: {numbers}.")
    return lines


def _is_control(character):
    kind = unicodedata.category(character)
    return (kind in ("Cc", "Cs") and character not in "\n\t") or ord(character) in _TURNS


if __name__ == "__main__":
    sys.exit(main())
