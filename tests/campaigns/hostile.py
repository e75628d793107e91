"""The full campaign of tests/test_hostile.py: many times the fuzzing and the kills, with new seeds.

    python tests/campaigns/hostile.py --times 10

takes some minutes and writes what it found, with the date, to hostile.json beside this file.
`--seed` makes a campaign repeat another one's examples. The exit status is pytest's.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent
CAMPAIGN = "test_options or test_any or killed"  # names of the tests that a campaign repeats
STATISTICS = re.compile(r"::(\w+):|(\d+) passing")


def run_tests(times, seed, report):
    """pytest on the tests of the campaign -> its exit status and output."""
    words = ["-m", "hostile", "-k", CAMPAIGN, f"--hypothesis-seed={seed}", f"--junitxml={report}"]
    words += ["--hypothesis-show-statistics", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", HERE.parent / "test_hostile.py", *words],
        cwd=HERE.parent.parent,
        env=os.environ | {"MINIMIXCE_CAMPAIGN": str(times), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    print(done.stdout)
    return done.returncode, done.stdout


def examples(output):
    """{name of a fuzzing test: how many examples it passed}, from hypothesis's statistics."""
    found, name = {}, None
    for test, passed in STATISTICS.findall(output):
        if test:
            name = test
        else:
            found[name] = found.get(name, 0) + int(passed)
    return found


def results(report, tried):
    """A line for each test: seconds, examples where it is a fuzzing one, and whether it passed."""
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name")
        line = {"test": name, "seconds": round(float(case.get("time")), 1)}
        if name in tried:
            line["examples"] = tried[name]
        broken = [
            problem.get("message") for problem in (*case.iter("failure"), *case.iter("error"))
        ]
        yield line | ({"failed": broken[0]} if broken else {"passed": True})


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=10, help="that many times the usual sample")
    parser.add_argument("--seed", type=int, help="of the examples (default: from the clock)")
    parser.add_argument("--out", type=Path, default=HERE / "hostile.json")
    args = parser.parse_args()
    seed = time.time_ns() % 2**32 if args.seed is None else args.seed
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        status, output = run_tests(args.times, seed, report)
        found = {
            "date": date.today().isoformat(),
            "times": args.times,
            "seed": seed,
            "python": platform.python_version(),
            **{name: version(name) for name in ("minimixce", "numpy", "hypothesis")},
            "tests": list(results(report, examples(output))),
        }
    args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {args.out}")
    return status


if __name__ == "__main__":
    sys.exit(main())
