"""Faults from outside: whatever happens to a command at one of its operations on files, nothing is
lost, and the same command or --resume brings it to the same end, byte for byte.

A library loaded before the C library (tests/faults) ends processes, fills disks and sends signals.
Run with `pytest -m hostile`: a sample with fixed seeds. tests/campaigns/faults.py tries every
operation.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from faults import driver, mutations, scenarios
from faults.scenarios import OUT

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(driver.why_not() is not None, reason=str(driver.why_not())),
]


@pytest.fixture(scope="module")
def machine():
    with driver.Machine("warm_studies.py") as made:
        yield made


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """{name: Scenario}, whose texts are in a folder."""
    return scenarios.scenarios(scenarios.write_texts(tmp_path_factory.mktemp("texts")))


@pytest.fixture(scope="module")
def stages(machine, known, tmp_path_factory):
    """Stages by name, each made when it is first asked for."""
    made = {}

    def stage(name):
        if name not in made:
            place = tmp_path_factory.mktemp("stage")
            made[name] = scenarios.Stage(machine, known[name], place / "of")
        return made[name]

    return stage


def some(stage, mode, number):
    """`number` different operations of a stage, the same every time."""
    chance = random.Random(zlib.crc32(f"{stage.scenario.command[:20]} {mode}".encode()))
    last = len(stage.operations)
    return sorted(chance.sample(range(1, last + 1), min(number, last)))


# ---- the library itself --------------------------------------------------------------------------

CALLS = """
import os, sys
place = sys.argv[1]
os.mkdir(f"{place}/a")                              # mkdir
with open(f"{place}/a/x", "wb") as file:            # open
    file.write(b"12345678")
    file.flush()                                    # write
    os.fsync(file.fileno())                         # fsync
    file.truncate(6)                                # truncate
os.replace(f"{place}/a/x", f"{place}/y")            # rename
os.chdir(place)
number = os.open("a", os.O_RDONLY)
os.close(os.open("z", os.O_WRONLY | os.O_CREAT, dir_fd=number))  # open
os.rename("z", "w", src_dir_fd=number)              # rename
os.fsync(number)                                    # fsync
os.link("y", "hard")                                # link
os.symlink("y", "soft")                             # symlink
open("y").read()
number = os.open("y", os.O_RDWR)                    # open
os.pwrite(number, b"abcd", 2)                       # write
os.writev(number, [b"1234", b"56"])                 # write
os.unlink("soft")                                   # unlink
os.rmdir("a")                                       # rmdir
open("/dev/null", "w").write("elsewhere")
"""
LISTED = re.findall(r"# (\w+)$", CALLS, re.M)


def call_them(library, place, **variables):
    place.mkdir()
    env = os.environ | {"LD_PRELOAD": str(library), "FAULTS_FOLDER": str(place)} | variables
    done = subprocess.run([sys.executable, "-c", CALLS, str(place)], env=env, capture_output=True)
    return done.returncode, done.stderr.decode()


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return driver.compile_library(tmp_path_factory.mktemp("library"))


def test_every_operation_on_the_folder_is_counted_and_no_other(library, tmp_path):
    log = tmp_path / "log"
    assert call_them(library, tmp_path / "of", FAULTS_LOG=str(log)) == (0, "")
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [name for _, name, _ in lines] == LISTED
    assert [int(number) for number, _, _ in lines] == [*range(1, len(LISTED) + 1)]
    assert all(path.startswith(f"{tmp_path}/of/") for _, _, path in lines)


@pytest.mark.parametrize(
    ("mode", "at", "status", "left"),
    [
        ("kill", 1, -signal.SIGKILL, None),
        ("kill", 2, -signal.SIGKILL, []),
        ("half", 2, -signal.SIGKILL, ["a/x 0"]),
        ("half", 3, -signal.SIGKILL, ["a/x 4"]),
        ("kill", 4, -signal.SIGKILL, ["a/x 8"]),
        ("half", 6, -signal.SIGKILL, ["y 6"]),
        ("eio", 1, "OSError: [Errno 5]", None),
        ("full", 3, "OSError: [Errno 28]", ["a/x 0"]),
        ("full", 15, 0, ["hard 6", "w 0", "y 6"]),  # removing needs no room
        ("dead", len(LISTED), "OSError: [Errno 5]", ["hard 6", "w 0", "y 6"]),
        ("eintr", 3, 0, ["hard 6", "w 0", "y 6"]),
        ("short", 3, 0, ["hard 6", "w 0", "y 6"]),
        ("term", 4, -signal.SIGTERM, ["a/x 8"]),
    ],
)
def test_what_is_asked_for_happens_at_that_operation(library, tmp_path, mode, at, status, left):
    found = call_them(library, tmp_path / "of", FAULTS_AT=str(at), FAULTS_MODE=mode)
    assert found[0] == status if isinstance(status, int) else status in found[1]
    place = tmp_path / "of"
    files = [p for p in sorted(place.rglob("*")) if p.is_file() and not p.is_symlink()]
    sizes = [f"{p.relative_to(place)} {p.stat().st_size}" for p in files]
    assert left is None or sizes == left


TRACED = (
    "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,rename,renameat,"
    "renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,ftruncate,truncate,link,linkat,symlink,symlinkat"
    ",sendfile,copy_file_range,mmap"
)


def traced(lines, folder):
    """[(name, path), …] of the lines of strace that change files beneath a folder."""
    names = {"openat": "open", "creat": "open", "mkdirat": "mkdir", "renameat": "rename"}
    names |= {"renameat2": "rename", "unlinkat": "unlink", "ftruncate": "truncate", "mmap": "mmap"}
    names |= {"fdatasync": "fsync", "pwrite64": "write", "writev": "write", "linkat": "link"}
    for line in lines:
        found = re.match(r"(?:\d+ +)?(\w+)\((.*)", line)
        if not found:
            continue
        call, rest = found.groups()
        if call in ("open", "openat") and not re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", rest):
            continue
        if call == "mmap" and not ("MAP_SHARED" in rest and "PROT_WRITE" in rest):
            continue
        path = traced_path(call, rest)
        if path == folder or path.startswith(f"{folder}/"):
            yield ("rmdir" if "AT_REMOVEDIR" in rest else names.get(call, call)), path


def traced_path(call, rest):
    """The path that a call changes; for a new name that name."""
    of_files = re.findall(r"<([^<>]*)>", rest)
    quoted = re.findall(r'"([^"]*)"', rest)
    if call in ("write", "fsync", "fdatasync", "ftruncate", "pwrite64", "writev", "mmap"):
        return of_files[0] if of_files else ""
    name = quoted[-1] if quoted else ""
    if name.startswith("/") or not of_files:
        return name
    return f"{of_files[1 if call.startswith('rename') else 0]}/{name}"


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("name", ["train", "prepare", "compare on text", "synthetic"])
def test_the_library_sees_what_strace_sees(library, known, tmp_path, name):
    """Nothing is written past it, by a memory map or by C's own files."""
    place = tmp_path / OUT
    words = ["strace", "-f", "-y", "-s", "0", "-o", tmp_path / "traced", "-e", f"trace={TRACED}"]
    env = os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    env |= {"FAULTS_FOLDER": str(place), "FAULTS_LOG": str(tmp_path / "log")}
    words += [sys.executable, "-m", "minimixce", *known[name].command.split()]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    if "ptrace" in done.stderr:
        pytest.skip("this machine allows no strace")
    assert done.returncode == 0, done.stderr
    log = [tuple(line.split(" ", 2)[1:]) for line in (tmp_path / "log").read_text().splitlines()]
    assert [*traced((tmp_path / "traced").read_text().splitlines(), str(place))] == log
    assert len(log) > 10


@pytest.mark.parametrize("at", [30, 60, 110])
def test_a_forked_process_leaves_what_one_of_its_own_leaves(machine, library, known, tmp_path, at):
    command = known["train"].command
    folders = [tmp_path / "warm", tmp_path / "cold"]
    for folder in folders:
        folder.mkdir()
    assert machine.run(command, folders[0], OUT, at, "half").status == -signal.SIGKILL
    watched = {"FAULTS_FOLDER": str(folders[1] / OUT), "FAULTS_AT": str(at), "FAULTS_MODE": "half"}
    done = driver.run_cold(library, command, folders[1], **watched)
    assert done.returncode == -signal.SIGKILL
    warm, cold = (unnamed(scenarios.content_of_all(folder)) for folder in folders)
    assert warm.keys() == cold.keys()
    timed = {name for name in warm if name.endswith(("metrics.jsonl", "resume.safetensors"))}
    assert not [n for n in warm if warm[n] != cold[n] and not any(t in n for t in timed)]


def unnamed(found):
    """Contents without the random part of temporary names, also where a file lists them."""
    return {
        re.sub(r"[0-9a-f]{16}", "X", name): data and re.sub(rb"[0-9a-f]{16}", b"X", data)
        for name, data in found.items()
    }


# ---- kills, errors, signals, two processes -------------------------------------------------------


def assert_nothing_wrong(problems):
    assert not {at: problem for at, problem in problems.items() if problem}


@pytest.mark.parametrize("mode", scenarios.KILLS)
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("train", 8),
        ("train, no folder", 3),
        ("train --overwrite", 8),
        ("train --resume", 6),
        ("prepare", 12),
        ("prepare, no folder", 4),
        ("compare", 2),
        ("compare --resume", 1),
        ("compare --overwrite", 2),
        ("compare on text --resume", 1),
        ("synthetic", 2),
        ("synthetic --resume", 1),
        ("synthetic --overwrite", 2),
        ("sample --out FILE", 5),
        ("eval --out FILE", 2),
    ],
)
def test_a_kill_at_an_operation_loses_nothing(stages, name, number, mode):
    stage = stages(name)
    where = some(stage, mode, number)
    assert_nothing_wrong({at: scenarios.problem_at(stage, at, mode, way=at) for at in where})


def test_a_kill_while_going_on_after_a_kill_loses_nothing(stages):
    chance = random.Random(5)
    for name in ("train", "train --overwrite", "prepare"):
        stage = stages(name)
        last = len(stage.operations)
        pairs = [(chance.randint(1, last), chance.randint(1, last // 2)) for _ in range(4)]
        assert_nothing_wrong(
            {
                (name, *pair): scenarios.problem_at(stage, pair[0], "kill", k, second=pair[1])
                for k, pair in enumerate(pairs)
            }
        )


@pytest.mark.parametrize("mode", scenarios.ERRORS)
@pytest.mark.parametrize(
    ("name", "number"),
    [("train", 3), ("train --overwrite", 3), ("prepare", 6), ("compare", 1), ("synthetic", 1)],
)
def test_an_error_of_the_disk_is_a_sentence_and_loses_nothing(stages, name, number, mode):
    stage = stages(name)
    where = some(stage, mode, number)
    assert_nothing_wrong({at: scenarios.problem_at(stage, at, mode, way=at) for at in where})


@pytest.mark.parametrize("mode", scenarios.SIGNALS)
@pytest.mark.parametrize(
    "name", ["train", "train --resume", "prepare", "synthetic", "sample --out FILE"]
)
def test_a_signal_loses_nothing(stages, name, mode):
    stage = stages(name)
    where = some(stage, mode, 1 if name == "synthetic" else 3)
    assert_nothing_wrong({at: scenarios.problem_at(stage, at, mode, way=at) for at in where})


@pytest.mark.parametrize("name", ["train", "train --overwrite", "prepare", "synthetic"])
def test_of_two_processes_one_works_or_both_end_well(stages, name):
    stage = stages(name)
    where = some(stage, "two", 1 if name == "synthetic" else 3)
    assert_nothing_wrong({at: scenarios.problem_of_two(stage, at) for at in where})


# ---- damaged folders -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(machine, tmp_path_factory):
    place = tmp_path_factory.mktemp("world") / "template"
    mutations.make_world(machine, place)
    return place


FOUND = [205, 746]  # numbers of damages that once ended in a traceback


@pytest.mark.parametrize("seeds", [range(20), range(20, 40), FOUND], ids=["some", "more", "found"])
def test_a_folder_that_was_damaged_at_random_is_no_traceback_and_no_loss(
    machine, template, tmp_path, seeds
):
    for seed in seeds:
        found = mutations.problem_of(machine, template, tmp_path, seed)
        assert found.problem is None, found


def test_what_the_campaign_damages_is_damaged(template, tmp_path):
    """Almost every mutation applies, and a world is copied whole."""
    done = []
    for seed in range(200):
        world = tmp_path / "world"
        shutil.copytree(template, world, symlinks=True)
        done += mutations.damage(random.Random(seed), world, mutations.FOLDERS[seed % 6])
        shutil.rmtree(world)
    assert sum(" failed: " in line for line in done) < len(done) // 20
    applied = {line.split()[0] for line in done}
    assert applied >= {mutation.__name__ for mutation in (*mutations.MUTATIONS, mutations.field)}


def test_the_ending_of_a_command_is_judged():
    def ended(status, err, hung=False):
        return driver.Ended(status, "", err, [], hung, None, 0.0)

    assert scenarios.wrong_ending("train x", ended(2, "minimixce train: x is not a file\n")) is None
    for bad in (
        ended(2, ""),
        ended(2, "x is not a file\n"),
        ended(2, "minimixce train: one\nminimixce train: two\n"),
        ended(1, "minimixce train: x is not a file\n"),
        ended(0, "Traceback (most recent call last):\nKeyError: 1\n"),
        ended(-9, "", hung=True),
        ended(-11, ""),
    ):
        assert scenarios.wrong_ending("train x", bad), bad
    assert scenarios.differences({"a": b"1", "b": b"2"}, {"a": b"1", "b": b"3", "c": None}) == [
        "b differs",
        "c is missing",
    ]
    assert Path(driver.HERE, "faults.c").exists()
