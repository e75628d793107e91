"""Commands that write a folder, the state each starts from, and what must be true of it after
whatever happened on the way: the command, or --resume, brings it to the same end, byte for byte.
"""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

TEXT = "the cat sat on the mat and the dog sat on the log\n"
MODEL = "--n-embd 8 --n-layer 1 --n-head 1 --block-size 8 --batch-size 2 --warmup 1 --device cpu"
SMALL = f"{MODEL} --eval-every 1 --steps 2 --quiet"
OUT = "out"  # the folder that a command writes, in the folder it is run in

# what a user may have put into such a folder
MINE = {
    "mine.txt": b"what a user put here",
    "notes/results.json": b"[1, 2, 3]",
    ".mine": b"hidden",
    "mine.tmp": b"not a temporary file of ours",
}


class Scenario(NamedTuple):
    """A command, the commands that make what it starts from, and the ways to go on after a kill:
    each a sequence of commands, of which one must work and the ones before it be refused.
    """

    command: str
    before: tuple[str, ...] = ()
    ways: tuple[tuple[str, ...], ...] = ()
    reads: tuple[str, ...] = ()  # commands that must work at any moment
    mine: bool = True  # whether files of the user's are in the folder from the start
    cut: int = 0  # the last of `before` is killed at that part in ten of its operations
    done: str = ""  # a refusal with these words says that all is in place already
    leaves: bool = False  # whether a killed process's temporary file may stay


def write_texts(folder):
    """Write story.txt and other.txt to a folder -> the folder."""
    (folder / "story.txt").write_text(TEXT * 20)
    words = "cat dog mat log hat bat".split()
    lines = [f"the {a} sat on the {b}\n" for a in words for b in words]  # no line twice
    (folder / "other.txt").write_text("".join(lines))
    return folder


def scenarios(texts):
    """{name: Scenario}; texts: a folder with story.txt and other.txt."""
    data = f"--data {texts}/story.txt"
    train = f"train {data} --held-out 0.2 --out {OUT} --seed 1 {SMALL}"
    other = f"train --data {texts}/other.txt --held-out 0.2 --out {OUT} --seed 7 {SMALL}"
    resume = f"train --out {OUT} --resume"
    world = f"compare --world agreement --max-len 5 --sequences 50 --out {OUT} {SMALL}"
    other_world = f"{world} --objectives mle,js --seeds 2"
    world = f"{world} --objectives mle,mixce:0.5 --seeds 1"
    text = f"compare {data} --out {OUT} --objectives mle,mixce:0.5 --seeds 1 --samples 2"
    text = f"{text} --tokens 20 --held-out 0.2 {SMALL}"
    grid = f"synthetic --vocab 4 --out {OUT} --seeds 7 --objectives mle,mixce --etas 0.5 --jobs 1"
    grid = f"{grid} --quiet"
    other_grid = grid.replace("--seeds 7", "--seeds 42")
    prepare = f"prepare {data} --held-out 0.2 --out {OUT}"
    anew = (f"{prepare} --overwrite",)
    sample = f"sample {OUT} --tokens 3 --device cpu"
    found = {
        "train": Scenario(train, ways=((resume, train), (train, resume))),
        "train, no folder": Scenario(train, ways=((resume, train),), mine=False),
        "train --overwrite": Scenario(
            f"{train} --overwrite", (other,), ((f"{train} --overwrite",),), (sample,)
        ),
        "train --resume": Scenario(resume, (train,), ((resume,),), (sample,), cut=7),
        "prepare": Scenario(prepare, ways=((prepare,), anew), done="already holds"),
        "prepare, no folder": Scenario(
            prepare, ways=((prepare,), anew), mine=False, done="already holds"
        ),
    }
    in_run = train.replace(f"--out {OUT}", "--out run")
    for name, command in (
        ("eval --out FILE", f"eval run --samples 2 --tokens 5 --device cpu --out {OUT}/found.json"),
        ("sample --out FILE", f"sample run --tokens 5 --device cpu --out {OUT}/found.jsonl"),
    ):
        ways = ((command,), (f"{command} --overwrite",))
        found[name] = Scenario(command, (in_run,), ways, done="exists already", leaves=True)
    for name, command, old in (
        ("compare", world, other_world),
        ("compare on text", text, None),
        ("synthetic", grid, other_grid),
    ):
        again = f"{command} --resume"
        over = f"{command} --overwrite"
        found[name] = Scenario(command, ways=((again,), (command, again)))
        found[f"{name} --resume"] = Scenario(again, (command,), ((again,),), cut=7)
        if old:
            found[f"{name} --overwrite"] = Scenario(over, (old,), ((over,),))
    return found


# ---- what a folder holds -------------------------------------------------------------------------


def content(folder):
    """{name: bytes without what a clock says, None for a folder, a text for a link} of all that is
    in it.
    """
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_dir():
            found[name] = None
        else:
            found[name] = _without_times(path.name, path.read_bytes())
    return found


# what a clock says, and the length and checksum of a file that holds it
_TIMES = ("seconds", "tokens_per_second", "metrics")


def _without_times(name, data):
    if name == "resume.safetensors":
        return _state_without_times(data)
    if name in ("runs.jsonl", "metrics.jsonl"):
        lines = [json.loads(line) for line in data.splitlines()]
        return b"".join(json.dumps(_clean(line)).encode() + b"\n" for line in lines)
    return data


def _clean(value):
    if isinstance(value, dict):
        return {k: _clean(v) for k, v in value.items() if k not in _TIMES}
    return [_clean(v) for v in value] if isinstance(value, list) else value


def _state_without_times(data):
    """A safetensors file, without the checksums in its header of what holds times."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header["__metadata__"]
    texts = {name: text for name, text in metadata.items() if not name.endswith("checksum")}
    header["__metadata__"] = {
        name: _clean(json.loads(text)) if text.startswith("{") else text
        for name, text in texts.items()
    }
    return json.dumps(header).encode() + data[8 + length :]


def differences(got, wanted):
    """Names in which two contents differ, at most five, with how."""
    found = []
    for name in sorted(got.keys() | wanted.keys()):
        if name not in wanted:
            found.append(f"{name} is left over")
        elif name not in got:
            found.append(f"{name} is missing")
        elif got[name] != wanted[name]:
            found.append(f"{name} differs")
    return found[:5]


# ---- a scenario on a machine ---------------------------------------------------------------------


class Stage:
    """A scenario made ready: what it starts from, how it ends if nothing happens, and cases.

    machine: driver.Machine; place: an empty folder for it; texts: see scenarios.
    """

    def __init__(self, machine, scenario, place):
        self.machine = machine
        self.scenario = scenario
        self.place = Path(place)
        self.start = self.place / "start"
        self.start.mkdir(parents=True)
        if scenario.mine:
            put_mine(self.start / OUT)
        for k, command in enumerate(scenario.before):
            self._make_ready(command, cut=scenario.cut if k + 1 == len(scenario.before) else 0)
        self.old = content(self.start / OUT) if (self.start / OUT).exists() else {}
        with self.case("calm") as calm:
            ended = machine.run(scenario.command, calm, OUT)
            assert ended.status == 0, f"{scenario.command}: {ended}"
            self.operations = ended.operations
            self.seconds = ended.seconds
            self.calm = content(calm / OUT)
            assert not scenario.mine or mine_is_there(calm / OUT)

    def _make_ready(self, command, cut):
        if not cut:
            ended = self.machine.run(command, self.start)
            assert ended.status == 0, ended
            return
        with self.case("trial") as trial:
            number = len(self.machine.run(command, trial, OUT).operations) * cut // 10
        assert self.machine.run(command, self.start, OUT, number, "kill").status == -9

    @contextlib.contextmanager
    def case(self, name, source=None):
        """A context with a folder that is a copy of what the scenario starts from, or of source."""
        case = self.place / name
        shutil.copytree(source or self.start, case, symlinks=True)
        try:
            yield case
        finally:
            shutil.rmtree(case, ignore_errors=True)

    def run(self, command, case, **options):
        """machine.run in a case -> (Ended, what is wrong with the way it ended or None)."""
        ended = self.machine.run(command, case, **options)
        return ended, wrong_ending(command, ended)

    def problem_afterwards(self, case, way):
        """Go on in a case by one of the scenario's ways -> what is wrong, or None."""
        if self.scenario.mine and not mine_is_there(case / OUT):
            return "files of the user's are lost"
        for command in self.scenario.reads:
            ended, wrong = self.run(command, case)
            if wrong or ended.status:
                return f"{command}: {wrong or ended.err}"
        for command in way:
            ended, wrong = self.run(command, case)
            if wrong:
                return f"{command}: {wrong}"
            done = bool(self.scenario.done) and self.scenario.done in ended.err
            if ended.status == 0 or done:
                left = litter(case / OUT) if self.scenario.leaves else []
                got = {name: v for name, v in content(case / OUT).items() if name not in left}
                found = differences(got, self.calm)
                return f"unequal after {command}: {', '.join(found)}" if found else None
        return f"stuck: {command}: {ended.err}"

    def resumed_is_old_or_new(self, case):
        """After a kill of train --overwrite: --resume leads to the end of the old run or the new
        one -> what is wrong, or None.
        """
        ended, wrong = self.run(f"train --out {OUT} --resume", case)
        if wrong or ended.status:
            return f"train --resume: {wrong or ended.err}"
        got = content(case / OUT)
        if differences(got, self.calm) and differences(got, self.old):
            of_old = ", ".join(differences(got, self.old))
            return f"--resume gave neither the old run ({of_old}) nor the new one"
        return None


def put_mine(folder):
    """Put files of the user's into a folder."""
    for name, data in MINE.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def mine_is_there(folder):
    """Whether they are all there, unchanged."""
    paths = {Path(folder, name): data for name, data in MINE.items()}
    return all(path.is_file() and path.read_bytes() == data for path, data in paths.items())


def wrong_ending(command, ended, statuses=(0, 2)):
    """What is wrong with the way a command ended, or None: it hung, gave a traceback, another
    status than one of `statuses`, or with status 2 not one sentence.
    """
    name = command.split()[0] if isinstance(command, str) else command[0]
    if ended.hung:
        return f"hung for {ended.seconds:.0f} s"
    if "Traceback" in ended.err or "Exception ignored" in ended.err:
        return f"traceback: {ended.err.strip().splitlines()[-1]}"
    if ended.status not in statuses:
        return f"status {ended.status}: {ended.err[-300:]}"
    if ended.status == 2:
        lines = ended.err.splitlines()
        if len(lines) != 1 or not lines[0].startswith(f"minimixce {name}: "):
            return f"no one sentence: {ended.err[-300:]!r}"
    return None


# ---- what happens at an operation ----------------------------------------------------------------

KILLS = ("kill", "half")
ERRORS = ("full", "eio", "dead", "eintr", "short")
SIGNALS = {"int": (130, 0, -2), "term": (-15, 143, 130, 0), "hup": (-1, 129, 130, 0)}


def problem_at(stage, at, mode, way, second=0):
    """Let `mode` (faults.c) happen at operation number `at`, then go on by the scenario's way
    number `way` -> what is wrong, or None. second: of a kill, the operation of the first command
    afterwards at which that is killed, too.
    """
    statuses = (-9, 0) if mode in KILLS else SIGNALS.get(mode, (0, 2))
    with stage.case(f"{mode}_{at}") as case:
        ended = stage.machine.run(stage.scenario.command, case, OUT, at, mode)
        if mode in KILLS and ended.status == 0 and at <= len(stage.operations) - 2:
            return f"was not killed at {at} of {len(stage.operations)}"
        if second:
            first_way = stage.scenario.ways[way % len(stage.scenario.ways)]
            stage.machine.run(first_way[0], case, OUT, second, "kill")
        return _problem_after(stage, case, ended, statuses, way, mode in ERRORS, mode == "full")


def problem_at_a_moment(stage, chance):
    """Send a signal at a random moment, then go on -> what is wrong, or None."""
    name = chance.choice(["kill", *SIGNALS])
    number = getattr(signal, f"SIG{name.upper()}")
    seconds = chance.uniform(0, stage.seconds)
    with stage.case(f"moment_{chance.random()}") as case:
        command = stage.scenario.command
        ended = stage.machine.run(command, case, OUT, signals=[(int(number), seconds)])
        statuses = SIGNALS.get(name, (-9, 0))
        return _problem_after(stage, case, ended, statuses, chance.randrange(2))


def _problem_after(stage, case, ended, statuses, way, errors=False, full=False):
    """What is wrong in a case after its command has ended, or None."""
    command = stage.scenario.command
    if wrong := wrong_ending(command, ended, statuses):
        return wrong
    if ended.status == 0:
        left = litter(case / OUT) if errors else []  # what could not be removed is left
        got = {name: data for name, data in content(case / OUT).items() if name not in left}
        found = differences(got, stage.calm)
        return f"unequal with status 0: {', '.join(found)}" if found else None
    left = set(litter(case / OUT)) - set(litter(stage.start / OUT))
    if ended.status == 2 and full and left:
        return f"left behind: {', '.join(sorted(left))}"
    if command.startswith("train") and command.endswith("--overwrite"):
        with stage.case(f"{case.name}_copy", case) as copy:
            if wrong := stage.resumed_is_old_or_new(copy):
                return wrong
    return stage.problem_afterwards(case, stage.scenario.ways[way % len(stage.scenario.ways)])


def litter(folder):
    """Names of temporary files in a folder, those of the user's left out, and those that count as
    being in place.
    """
    pending = [path.parent for path in Path(folder).rglob(".pending.json")]
    found = [path for path in Path(folder).rglob("*") if not set(pending) & set(path.parents)]
    names = (path.relative_to(folder).as_posix() for path in found)
    return [n for n in names if n not in MINE and (n.endswith(".tmp") or "/.new-" in f"/{n}")]


def problem_of_two(stage, at):
    """Stop a command at an operation, start it once more, and let the first go on: the second is
    told so, or both end well, and the end is the same -> what is wrong, or None.
    """
    command = stage.scenario.command
    with stage.case(f"two_{at}") as case:
        first = stage.machine.run(command, case, OUT, at, "stop")
        if first.stopped is None:
            return wrong_ending(command, first)
        before = content_of_all(case / OUT)
        second = stage.machine.run(command, case)
        changed = differences(content_of_all(case / OUT), before)
        first = stage.machine.go_on(first.stopped)
        if wrong := wrong_ending(command, second) or wrong_ending(command, first):
            return wrong
        if second.status == 2 and changed:
            return f"the second was refused, and {', '.join(changed)}"
        if first.status == second.status == 2:
            return f"both were refused: {first.err}{second.err}"
        found = differences(content(case / OUT), stage.calm)
        return f"unequal: {', '.join(found)}" if found else None


def content_of_all(folder):
    """{name: bytes, None for a folder} of what is there now, half-written files too."""
    paths = sorted(Path(folder).rglob("*"))
    return {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in paths}
