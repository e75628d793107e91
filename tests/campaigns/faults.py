"""The full campaign of tests/test_faults.py: kills, full disks, signals and second processes at
every operation on files, or at every few of them, and folders damaged at random.

    python tests/campaigns/faults.py --jobs 2

takes about an hour of one core and writes what it found, with the date, to faults.json beside this
file. `--only train` repeats the lines whose command contains that word and keeps the others. The
exit status is 1 where something is wrong.
"""

import argparse
import functools
import json
import math
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
AT_ONCE = 20  # trials, or damaged folders, that a process is given


# ---- in a process of its own ---------------------------------------------------------------------

deadline = math.inf


def begin(place, until):
    """Work in the folder `place`, which outlives this process, and end at the time `until`."""
    global deadline
    deadline = until
    tempfile.tempdir = str(place)


@functools.cache
def machine():
    """The machine of this process."""
    return driver.Machine("warm_studies.py")


@functools.cache
def stage_of(name):
    """The stage of a scenario, which is made once."""
    place = Path(os.path.realpath(tempfile.mkdtemp()))
    (place / "texts").mkdir()
    texts = scenarios.write_texts(place / "texts")
    return scenarios.Stage(machine(), scenarios.scenarios(texts)[name], place / "stage")


@functools.cache
def world():
    """A folder with a folder for damaged worlds and one that is whole."""
    place = Path(os.path.realpath(tempfile.mkdtemp()))
    mutations.make_world(machine(), place / "template")
    return place


def operations_of(name):
    """How many operations a scenario's command has."""
    return name, len(stage_of(name).operations)


def trial(name, mode, at):
    """What is wrong after one trial, or None. at: a number of an operation, two of them, or a seed,
    as `mode` asks for.
    """
    stage = stage_of(name)
    if mode == "moment":
        return scenarios.problem_at_a_moment(stage, random.Random(at))
    if mode == "kill twice":
        return scenarios.problem_at(stage, at[0], "kill", at[0], second=at[1])
    if mode == "two":
        return scenarios.problem_of_two(stage, at)
    return scenarios.problem_at(stage, at, mode, way=at)


def of_command(name, mode, places):
    """A part of one line of the campaign: as many of the trials as there is time for."""
    wrong, tried = {}, 0
    for at in places:
        if time.time() > deadline:
            break
        if found := trial(name, mode, at):
            wrong[str(at)] = found
        tried += 1
    operations = len(stage_of(name).operations)
    return {"command": name, "fault": mode, "operations": operations} | counted(tried, wrong)


def of_folders(seeds):
    """Folders that were damaged at random."""
    cases = []
    for seed in seeds:
        if time.time() > deadline:
            break
        cases.append(mutations.problem_of(machine(), world() / "template", world(), seed))
    wrong = {str(case.seed): f"{case.command}: {case.problem}" for case in cases if case.problem}
    statuses = Counter(case.status for case in cases)
    line = {"command": "folders", "fault": "damage"} | counted(len(cases), wrong)
    return line | {"worked": statuses[0], "refused": statuses[2]}


def counted(tried, wrong):
    """How many trials there were, how many of them went wrong in which way, and the first few."""
    kinds = Counter(
        next((kind for kind in KINDS if kind in found), "other") for found in wrong.values()
    )
    line = {"tried": tried} | {kind: kinds[kind] for kind in (*KINDS, "other")}
    return line | ({"first": wrong} if wrong else {})


# ---- what is tried -------------------------------------------------------------------------------


def places_of(mode, every, operations, seed):
    """Where one line of the campaign tries its fault, in an order that soon has been everywhere."""
    chance = random.Random(f"{seed} {mode} {operations}")
    if mode == "moment":
        return [chance.randrange(2**32) for _ in range(every)]
    numbers = range(1, operations + 1)
    if mode == "kill twice":
        return [(chance.choice(numbers), chance.choice(numbers)) for _ in range(every)]
    found = [*numbers[seed % every :: every]]
    chance.shuffle(found)
    return found


def work_of(pool, options, seed):
    """Yield the tasks of a campaign: all kills, and some of every other line, come first."""
    names = [name for name in PLAN if options.only in name]
    operations = dict(pool.map(operations_of, names))
    plan = [(name, mode, every) for name in names for mode, every in PLAN[name].items()]
    plan.sort(key=lambda row: list(ALL).index(row[1]))
    if options.only in "folders":
        seeds = range(seed % 10**6, seed % 10**6 + options.folders)
        for k in range(0, len(seeds), AT_ONCE):
            yield of_folders, seeds[k : k + AT_ONCE]
    later = []
    for name, mode, every in plan:
        places = places_of(mode, every, operations[name], seed)
        parts = [places[k : k + AT_ONCE] for k in range(0, len(places), AT_ONCE)]
        now = len(parts) if mode == "kill" else 1
        yield from ((of_command, name, mode, part) for part in parts[:now])
        later += [(of_command, name, mode, part) for part in parts[now:]]
    yield from later


def run(options, seed):
    """Yield parts of the lines of a campaign as they are done."""
    until = time.time() + 60 * options.minutes
    with (
        tempfile.TemporaryDirectory() as place,
        ProcessPoolExecutor(options.jobs, initializer=begin, initargs=(place, until)) as pool,
    ):
        parts = [pool.submit(*task) for task in work_of(pool, options, seed)]
        for part in as_completed(parts):
            yield part.result()


def added(lines, part):
    """Lines with a part more in the line of its command and fault."""
    key = (part["command"], part["fault"])
    for line in lines:
        if (line["command"], line["fault"]) == key:
            for name, value in part.items():
                if name == "first":
                    line[name] = dict([*line.get(name, {}).items(), *value.items()][:5])
                elif isinstance(value, int) and name != "operations":
                    line[name] = line.get(name, 0) + value
            return lines
    return [*lines, part]


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
    parser.add_argument("--minutes", type=float, default=600, help="end after so many")
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
    for part in run(options, seed):
        lines = added(lines, part)
        if "first" in part:
            print(json.dumps(part, ensure_ascii=False), flush=True)
        write(options.out, lines, seed, time.monotonic() - started)
    total = write(options.out, lines, seed, time.monotonic() - started)
    print("\n".join(table(json.loads(options.out.read_text(encoding="utf-8")))))
    print(f"{total}\nwritten to {options.out}")
    return int(any(number for name, number in total.items() if name != "tried"))


if __name__ == "__main__":
    sys.exit(main())
