"""minimixce gradcheck."""

import argparse
from typing import Any

from .options import CommonOptions, FileFlags, add_fields, chosen
from .output import say


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command on `parser`."""
    parser.add_argument(
        "pair",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="FILE.py:FORWARD,BACKWARD",
        help="a pair of functions of your own, not those of the package; FILE.py is executed",
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="SHAPE",
        help="a shape for each parameter of FORWARD, such as 2,3 or scalar; without it, a function "
        "inputs() of FILE.py returns the inputs",
    )
    add_fields(parser, CommonOptions)
    add_fields(parser, FileFlags, helps={"out": "also write the table to FILE as JSON lines"})


def run(given: dict[str, Any]) -> int:
    """Check all gradients, print the tables and write them to a file -> exit status, 1 where one is
    wrong. given: the options that the user gave, by name. Raises ValueError or FileExistsError for
    options that cannot work.
    """
    from pathlib import Path

    from .. import backend, checks
    from ..experiments import selfcheck
    from ..storage import files

    file = chosen(FileFlags, given)
    files.check_not_there(file.out, file.overwrite)
    common = chosen(CommonOptions, given)
    if "pair" in given:
        return _check_file(given, file, common)
    if "shapes" in given:
        raise ValueError("--shapes goes with FILE.py:FORWARD,BACKWARD")
    say(
        f"Numerical derivatives against the backward functions of {Path(checks.__file__).parent},"
        f" float64, on {backend.device_name(backend.select_device(common.device))}\n"
    )
    rows = []
    for title, report in selfcheck.check_everything(common.device, common.seed):
        say(f"{title}\n{report}\n", flush=True)
        rows += [{"check": title, **row.as_dict()} for row in report.rows]
    if file.out:
        files.write_lines(file.out, rows)
    wrong = sum(not row["ok"] for row in rows)
    worst = max(row["relative_error"] for row in rows)
    verdict = f"{wrong} of {len(rows)} tensors not OK" if wrong else f"all {len(rows)} tensors OK"
    say(f"{verdict}; largest relative error {worst:.1e}, allowed {1e-6:.0e}")
    return 1 if wrong else 0


def _check_file(given: dict[str, Any], file: FileFlags, common: CommonOptions) -> int:
    """The check of a pair of functions of the user's -> exit status."""
    from ..storage import files
    from ..testing.from_file import check_file

    report, sentences = check_file(given["pair"], given.get("shapes"), common.seed)
    say("\n".join([str(report), *sentences]))
    if file.out:
        files.write_lines(file.out, [{"check": given["pair"], **r.as_dict()} for r in report.rows])
    return 0 if report.ok else 1
