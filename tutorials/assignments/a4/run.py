"""Run the seeds that prereg.json registers, and write results.csv beside it.

    python run.py                 in the folder with prereg.json; up to a minute a seed on half a CPU

Seeds that results.csv has already are not run again, so a run that was stopped goes on.
"""

import argparse
import csv
import sys
from pathlib import Path

from minimixce.classroom.experiment import COLUMNS, check_prereg, run_seed
from minimixce.storage.files import read_json


def main():
    """Run what is missing -> exit status."""
    parser = argparse.ArgumentParser(description="Run the seeds that prereg.json registers.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    folder = parser.parse_args().folder
    prereg = read_json(folder / "prereg.json")
    wrong = check_prereg(prereg)
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 2
    results, done = folder / "results.csv", set()
    if results.exists():
        with results.open(newline="", encoding="utf-8") as file:
            done = {int(row["seed"]) for row in csv.DictReader(file)}
    else:
        results.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    for seed in prereg["seeds"]:
        if seed not in done:
            row = run_seed(prereg, seed)
            with results.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
