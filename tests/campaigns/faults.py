"""The full campaign of tests/test_faults.py: kills, full disks, signals and second processes at
every operation on files, or at every few of them, and folders damaged at random.

    python tests/campaigns/faults.py --jobs 2

takes about an hour of one core and writes what it found, with the date, to faults.json beside this
file. `--only train` repeats the lines whose command contains that word and keeps the others. The
exit status is 1 where something is wrong.
"""

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from faults import driver, mutations, scenarios  # noqa: E402

# for each command, how often a fault is tried: at every n-th operation; "kill twice" and "moment"
# so many times
ALL = {"kill": 1, "half": 1, "full": 2, "eio": 2, "dead": 4, "eintr": 6, "short": 6}
ALL |= {"int": 2, "term": 6, "hup": 6, "two": 4, "kill twice": 40, "moment": 40}
OF_FEW = dict.fromkeys(ALL, 1) | {"kill twice": 40, "moment": 40}
LONG = {"kill": 1, "half": 6, "full": 12, "eio": 12, "dead": 48, "eintr": 96, "short": 96}
LONG |= {"int": 12, "term": 96, "hup": 96, "two": 48, "kill twice": 10, "moment": 10}
PLAN = {
    "train": ALL,
    "train, no folder": {"kill": 1, "half": 4},
    "train --overwrite": ALL,
    "train --resume": ALL,
    "prepare": OF_FEW,
    "prepare, no folder": {"kill": 1, "half": 1},
    "sample --out FILE": OF_FEW | {"kill twice": 5, "moment": 20},
    "eval --out FILE": OF_FEW | {"kill twice": 5, "moment": 10},
    "compare": LONG,
    "compare --resume": {"kill": 1, "half": 6, "full": 12},
    "compare --overwrite": {"kill": 1, "half": 12, "full": 24},
    "compare on text": {"kill": 12, "half": 24, "full": 48},
    "compare on text --resume": {"kill": 12, "half": 24, "full": 48},
    "synthetic": LONG | {"half": 2, "full": 4, "eio": 4, "int": 4, "two": 8},
    "synthetic --resume": {"kill": 1, "half": 4, "full": 8},
    "synthetic --overwrite": {"kill": 1, "half": 4, "full": 8},
}
KINDS = ("stuck", "unequal", "traceback", "hung", "lost")
FOLDERS_AT_ONCE = 50


def trials(stage, mode, every, seed):
    """[(a name, a function that returns what is wrong or None), …] of one line of the campaign."""
    last = len(stage.operations)
    chance = random.Random(seed)
    if mode == "moment":
        return [(k, lambda: scenarios.problem_at_a_moment(stage, chance)) for k in range(every)]
    if mode == "kill twice":
        pairs = [(chance.randint(1, last), chance.randint(1, last)) for _ in range(every)]
        return [
            (f"{a}, {b}", lambda a=a, b=b: scenarios.problem_at(stage, a, "kill", a, second=b))
            for a, b in pairs
        ]
    numbers = range(1 + seed % every, last + 1, every)
    if mode == "two":
        return [(at, lambda at=at: scenarios.problem_of_two(stage, at)) for at in numbers]
    return [(at, lambda at=at: scenarios.problem_at(stage, at, mode, way=at)) for at in numbers]


def of_command(name, mode, every, seed):
    """One line of the campaign."""
    with tempfile.TemporaryDirectory() as place, driver.Machine("warm_studies.py") as machine:
        place = Path(os.path.realpath(place))
        (place / "texts").mkdir()
        texts = scenarios.write_texts(place / "texts")
        stage = scenarios.Stage(machine, scenarios.scenarios(texts)[name], place / "stage")
        tried = trials(stage, mode, every, seed)
        wrong = {name: found for name, trial in tried if (found := trial())}
        line = {"command": name, "fault": mode, "operations": len(stage.operations)}
        return line | counted(len(tried), wrong)


def counted(tried, wrong):
    """How many trials there were, how many of them went wrong in which way, and the first few."""
    kinds = Counter(
        next((kind for kind in KINDS if kind in found), "other") for found in wrong.values()
    )
    line = {"tried": tried} | {kind: kinds[kind] for kind in (*KINDS, "other")}
    return line | ({"first": dict([*wrong.items()][:5])} if wrong else {})


def of_folders(first, last):
    """Damaged folders of the seeds from first up to, not including, last -> list of Case."""
    with tempfile.TemporaryDirectory() as place, driver.Machine("warm_studies.py") as machine:
        place = Path(os.path.realpath(place))
        mutations.make_world(machine, place / "template")
        seeds = range(first, last)
        return [mutations.problem_of(machine, place / "template", place, seed) for seed in seeds]


def run(options, seed):
    """Yield the lines of the campaign as they are done."""
    plan = [(name, mode, every) for name in PLAN for mode, every in PLAN[name].items()]
    plan = [row for row in plan if options.only in row[0]]
    plan.sort(key=lambda row: list(ALL).index(row[1]))  # kills first
    first = seed % 10**6
    folders = range(first, first + options.folders, FOLDERS_AT_ONCE)
    with ProcessPoolExecutor(options.jobs) as pool:
        work = {pool.submit(of_command, *row, seed): row for row in plan}
        cases = []
        if options.only in "folders":
            last = first + options.folders
            cases = [pool.submit(of_folders, a, min(a + FOLDERS_AT_ONCE, last)) for a in folders]
        for done in as_completed(work):
            yield done.result()
        found = [case for done in cases for case in done.result()]
    if found:
        wrong = {case.seed: f"{case.command}: {case.problem}" for case in found if case.problem}
        ended = Counter(case.status for case in found)
        line = {"command": "folders", "fault": "damage", "first_seed": first}
        yield line | counted(len(found), wrong) | {"worked": ended[0], "refused": ended[2]}


# ---- a table for tutorials/promises.md -----------------------------------------------------------

COLUMNS = {  # a heading: the faults that it counts
    "kills": ("kill", "half", "kill twice"),
    "disk": ("full", "eio", "dead", "eintr", "short"),
    "signals": ("int", "term", "hup", "moment"),
    "two at once": ("two",),
}


def table(found):
    """What a campaign found, the content of faults.json -> lines of a table in Markdown."""
    lines = [line for line in found["lines"] if line["command"] != "folders"]
    rows = [["command", "operations", *COLUMNS, "stuck", "unequal", "otherwise wrong"]]
    rows.append(["---"] * len(rows[0]))
    for name in dict.fromkeys(line["command"] for line in lines):
        of_name = [line for line in lines if line["command"] == name]
        tried = [
            sum(line["tried"] for line in of_name if line["fault"] in faults)
            for faults in COLUMNS.values()
        ]
        rows.append([f"`{name}`", of_name[0]["operations"], *tried, *_wrong(of_name)])
    for line in found["lines"]:
        if line["command"] == "folders":
            rows.append([f"{line['tried']:,} damaged folders", *[""] * 5, *_wrong([line])])
    return [f"| {' | '.join(map(str, row))} |" for row in rows]


def _wrong(lines):
    """Of the trials of some lines: stuck, unequal, wrong in another way."""
    others = [name for name in (*KINDS, "other") if name not in ("stuck", "unequal")]
    sums = {name: sum(line[name] for line in lines) for name in (*KINDS, "other")}
    return [sums["stuck"], sums["unequal"], sum(sums[name] for name in others)]


# ---- the whole of it -----------------------------------------------------------------------------


def kept(path, only):
    """The lines of an earlier campaign that are not repeated."""
    if not only or not path.exists():
        return []
    lines = json.loads(path.read_text(encoding="utf-8"))["lines"]
    return [line for line in lines if only not in line["command"]]


def write(path, lines, seed, seconds):
    order = {
        (name, mode): k for k, (name, mode) in enumerate((n, m) for n in PLAN for m in PLAN[n])
    }
    lines = sorted(lines, key=lambda line: order.get((line["command"], line["fault"]), 10**6))
    names = ("tried", *KINDS, "other")
    found = {
        "date": date.today().isoformat(),
        "seed": seed,
        "minutes": round(seconds / 60),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in ("minimixce", "numpy", "safetensors", "matplotlib")},
        "total": {name: sum(line[name] for line in lines) for name in names},
        "lines": lines,
    }
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found["total"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--folders", type=int, default=1000, help="damaged folders")
    parser.add_argument("--only", default="", help="a word in the commands to repeat")
    parser.add_argument("--seed", type=int, help="(default: from the clock)")
    parser.add_argument("--out", type=Path, default=HERE / "faults.json")
    options = parser.parse_args()
    if driver.why_not():
        sys.exit(driver.why_not())
    seed = time.time_ns() % 2**32 if options.seed is None else options.seed
    started = time.monotonic()
    lines = kept(options.out, options.only)
    for line in run(options, seed):
        lines.append(line)
        print(json.dumps(line, ensure_ascii=False), flush=True)
        write(options.out, lines, seed, time.monotonic() - started)
    total = write(options.out, lines, seed, time.monotonic() - started)
    print("\n".join(table(json.loads(options.out.read_text(encoding="utf-8")))))
    print(f"{total}\nwritten to {options.out}")
    return int(any(number for name, number in total.items() if name != "tried"))


if __name__ == "__main__":
    sys.exit(main())
