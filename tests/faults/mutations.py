"""Damage to whole folders: what may have happened to them on disks, by other programs, and by
people who meant well.
"""

import json
import os
import random
import shutil
from pathlib import Path
from typing import NamedTuple

from .scenarios import MINE, MODEL, put_mine, write_texts, wrong_ending

SMALL = f"{MODEL} --eval-every 1 --steps 2 --quiet"
COMPARE = f"compare --world agreement --objectives mle --seeds 1 {SMALL}"
GRID = "synthetic --vocab 4 --seeds 7 --objectives mle,mixce --etas 0.5 --jobs 1 --quiet"
TOO = "mine_too.txt"  # a user's file in a folder of the name of one of ours
FOLDERS = ("run", "other_run", "comparison", "grid", "prepared", "other_prepared")

# "T" is the folder that was damaged; commands that suit its kind come more often than others
READS = ("sample T --tokens 3", "eval T --samples 2 --tokens 5", "eval run --data T --samples 0")
OF_RUN = (
    *READS,
    "train --resume --out T",
    "train --resume --out T --change --steps 3",
    f"train --data story.txt --out T {SMALL}",
    f"train --data story.txt --out T --overwrite {SMALL}",
)
OF_COMPARISON = (
    f"{COMPARE} --out T --resume",
    f"{COMPARE} --out T --overwrite",
    f"{COMPARE} --out T",
    "train --resume --out T/mle_seed1",
    "sample T/mle_seed1 --tokens 3",
)
OF_GRID = (f"{GRID} --out T --resume", f"{GRID} --out T --overwrite", f"{GRID} --out T")
OF_PREPARED = (
    f"train --data T --out new {SMALL}",
    f"train --data T --out run --overwrite {SMALL}",
    "eval run --data T --samples 0",
    "prepare --data story.txt --out T",
    "prepare --data T --out new",
)
COMMANDS = {
    "run": OF_RUN,
    "other_run": OF_RUN,
    "comparison": OF_COMPARISON,
    "grid": OF_GRID,
    "prepared": OF_PREPARED,
    "other_prepared": OF_PREPARED,
}
EVERY = (*OF_RUN, *OF_COMPARISON, *OF_GRID, *OF_PREPARED)

# Values that no option has, or that no machine has the memory for: never a size in between.
WEIRD = (
    None,
    True,
    -1,
    0,
    0.5,
    10**30,
    -(10**30),
    1e308,
    float("nan"),
    "",
    "\0",
    "../x",
    "Ω" * 300,
)
WEIRD = (*WEIRD, [], {}, [[]], {"a": 1}, ["story.txt"], "0" * 5000)


def make_world(machine, place):
    """Make a world in the folder `place`: texts, a folder of each kind, and files of the user's in
    each.
    """
    place = Path(place)
    place.mkdir()
    write_texts(place)
    for command in (
        f"train --data story.txt --out run {SMALL}",
        f"train --data other.txt --out other_run {SMALL} --n-embd 4 --seed 5",
        f"{COMPARE} --out comparison",
        f"{GRID} --out grid",
        "prepare --data story.txt --out prepared",
        "prepare --data other.txt --out other_prepared --tokenizer byte --lines",
    ):
        ended = machine.run(command, place)
        assert ended.status == 0, ended
    for folder in FOLDERS:
        put_mine(place / folder)
    put_mine(place / "mine")  # a folder that no command names


# ---- mutations -----------------------------------------------------------------------------------


def files_in(folder):
    """Files in a folder that are not the user's."""
    paths = (p for p in sorted(Path(folder).rglob("*")) if p.is_file() and not p.is_symlink())
    return [p for p in paths if not _is_mine(p, folder)]


def _is_mine(path, folder):
    name = path.relative_to(folder).as_posix()
    return name in MINE or path.name == TOO


def delete(chance, path, world):
    path.unlink()


def empty(chance, path, world):
    path.write_bytes(b"")


def cut(chance, path, world):
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data) + 1)])


def extend(chance, path, world):
    path.write_bytes(path.read_bytes() + chance.choice([b"\0" * 100, b"\n", b"{}", b"x" * 4096]))


def flip_bits(chance, path, world):
    data = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 4) if data else 0):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(data))


def other_content(chance, path, world):
    path.write_bytes(
        chance.choice([b"[]", b"{}", b"null", b"the cat", b"\xff" * 300, b"[" * 10**5])
    )


def swap(chance, path, world):
    other = chance.choice(files_in(path.parent) or [path])
    a, b = path.read_bytes(), other.read_bytes()
    path.write_bytes(b)
    other.write_bytes(a)


def of_another(chance, path, world):
    folder = world / chance.choice(FOLDERS)
    same = [p for p in files_in(folder) if p.name == path.name]
    path.write_bytes(chance.choice(same or files_in(folder) or [path]).read_bytes())


def pipe(chance, path, world):
    path.unlink()
    os.mkfifo(path)


def folder_instead(chance, path, world):
    path.unlink()
    path.mkdir()
    if chance.random() < 0.5:
        (path / TOO).write_text("a user's")


def link_to_a_file(chance, path, world):
    target = chance.choice([world / "mine/mine.txt", world / "story.txt", world / "nothing"])
    path.unlink()
    path.symlink_to(target)


def link_to_itself(chance, path, world):
    path.unlink()
    path.symlink_to(path.name)


def link_to_a_device(chance, path, world):
    path.unlink()
    path.symlink_to(chance.choice(["/dev/zero", "/dev/null", "/dev/full"]))


def huge(chance, path, world):
    os.truncate(path, chance.choice([2**28, 2**36, 2**40]))  # of zeros, which take no room


def link_to_a_folder(chance, path, world):
    """The folder that the file is in becomes a link to one of the user's with the same content."""
    folder = path.parent
    if folder.parent == world or folder.is_symlink():
        return
    target = world / "mine" / f"moved_{folder.name}"
    if not target.exists():
        shutil.move(folder, target)
        folder.symlink_to(target)


def stale(chance, path, world):
    """What a kill, or somebody else, may have left."""
    content = chance.choice(
        [
            {"from": ".new-1", "files": ["config.json"], "remove": []},
            {"from": "../mine", "files": ["mine.txt"], "remove": []},
            {"from": ".new-1", "files": ["../mine/mine.txt"], "remove": ["mine.txt"]},
            {"from": ".new-1", "files": [], "remove": ["notes"]},
            {},
            [],
        ]
    )
    config = path.parent / "config.json"
    data = config.read_bytes() if config.is_file() else b"{}"
    (path.parent / ".pending.json").write_text(json.dumps(content))
    if chance.random() < 0.5:
        (path.parent / ".new-1").mkdir(exist_ok=True)
        (path.parent / ".new-1/config.json").write_bytes(data)


def field(chance, path, world):
    """A field of a JSON file, or of a line of one, is gone or something else."""
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    try:
        number = chance.randrange(len(lines))
        value = json.loads(lines[number])
        _change_field(chance, value)
        lines[number] = json.dumps(value)
    except (ValueError, RecursionError):  # it was damaged before, or is empty
        return
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _change_field(chance, value):
    while isinstance(value, (dict, list)) and value:
        key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        inner = value[key]
        if isinstance(inner, (dict, list)) and inner and chance.random() < 0.7:
            value = inner
            continue
        if chance.random() < 0.3:
            del value[key]
        else:
            value[key] = chance.choice(WEIRD)
        return


MUTATIONS = (delete, empty, cut, extend, flip_bits, other_content, swap, of_another, pipe)
MUTATIONS = (*MUTATIONS, folder_instead, link_to_a_file, link_to_itself, link_to_a_device, huge)
MUTATIONS = (*MUTATIONS, link_to_a_folder, stale)
OF_JSON = (field,) * 12


def damage(chance, world, folder):
    """One to four mutations of a folder -> their names."""
    done = []
    for _ in range(chance.randint(1, 4)):
        found = [p for p in files_in(world / folder) if p.exists()]
        if not found:
            break
        path = chance.choice(found)
        of_json = OF_JSON if path.suffix in (".json", ".jsonl") else ()
        mutation = chance.choice((*MUTATIONS, *of_json))
        try:
            mutation(chance, path, world)
        except (OSError, MemoryError) as error:  # it fits no file that was damaged before
            done.append(f"{mutation.__name__} failed: {error}")
            continue
        done.append(f"{mutation.__name__} {path.relative_to(world)}")
    return done


# ---- one case ------------------------------------------------------------------------------------


def files_of_the_user(world, written):
    """{name: bytes} of what a command must not change that may write the folder `written` (or none:
    ""): all that is not in it, and in it what the user put there. A folder of a run that was moved
    and linked to is still the run's.
    """
    found = {}
    for path in sorted(Path(world).rglob("*")):
        name = path.relative_to(world).as_posix()
        ours = (written and name.startswith(f"{written}/")) or name.startswith("mine/moved_")
        if path.is_file() and not path.is_symlink() and not (ours and not _is_users(name)):
            found[name] = path.read_bytes() if path.stat().st_size < 2**30 else b""
    return found


def _is_users(name):
    """Whether a name in a world is one of the user's, wherever it is."""
    return name.partition("/")[2] in MINE or name.endswith(f"/{TOO}")


def folder_written(command):
    """The folder that a command may change, or ""."""
    words = command.split()
    return words[words.index("--out") + 1].split("/")[0] if "--out" in words else ""


class Case(NamedTuple):
    """A damaged world: its number, what was done to it, the command that was run on it, the status
    of that, and what is wrong, or None.
    """

    seed: int
    damage: list[str]
    command: str
    status: int | None
    problem: str | None


def problem_of(machine, template, place, seed, limit=10):
    """Damage a copy of a world at random and run a command on it -> Case."""
    chance = random.Random(seed)
    world = Path(place, f"world{seed}")
    shutil.copytree(template, world, symlinks=True)
    try:
        folder = chance.choice(FOLDERS)
        done = damage(chance, world, folder)
        commands = EVERY if chance.random() < 0.2 else COMMANDS[folder]
        command = chance.choice(commands).replace("T", folder)
        written = folder_written(command)
        before = files_of_the_user(world, written)
        ended = machine.run(command, world, limit=limit)
        wrong = wrong_ending(command, ended)
        if not wrong:
            wrong = _what_was_lost(world, written, before)
        return Case(seed, done, command, ended.status, wrong)
    finally:
        shutil.rmtree(world, ignore_errors=True)


def _what_was_lost(world, written, before):
    after = files_of_the_user(world, written)
    # what was being put in place when a process was killed is put there by who reads the folder
    changed = [n for n, data in before.items() if after.get(n) != data and "pending" not in n]
    changed = [name for name in changed if "/.new-" not in name]
    return f"lost or changed: {', '.join(changed[:5])}" if changed else None
