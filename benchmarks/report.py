"""What every benchmark prints about the machine and writes at its end."""

import csv
import os
import platform

TITLES = {"numpy": "NumPy", "torch": "PyTorch", "transformers": "transformers"}


def print_machine(*modules, note=""):
    """Print one line: system, CPUs, versions of Python and of `modules`, a note on the method."""
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{TITLES[module.__name__]} {module.__version__}" for module in modules]
    line = f"{platform.platform()}, {os.cpu_count()} CPUs; {', '.join(versions)}"
    print(f"{line}; {note}" if note else line, flush=True)


def print_row(row):
    """Print a dict of measurements as one line; what was not measured, "", is left out."""
    numbers = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in row.items() if v != ""}
    print("  ".join(f"{k} {v}" for k, v in numbers.items()), flush=True)


def write_csv(path, rows):
    """Write dicts that all have the same keys as a CSV file."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
