"""Files that come into a folder together: whatever is killed, all of them or none are there."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minimixce.storage import install

NAMES = ("a", "b", "last", "old")

# counts the calls that change files, and ends the process, as a kill does, at one of them
KILLED = """
import builtins, os, sys
at, count = int(sys.argv[1]), 0
open_file = builtins.open

def counted(function):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == at:
            os._exit(137)
        return function(*args, **kwargs)
    return call

def opened(file, mode="r", *args, **kwargs):
    if not set(mode) & set("wxa+"):
        return open_file(file, mode, *args, **kwargs)
    global count
    count += 1
    if count == at:
        os._exit(137)
    stream = open_file(file, mode, *args, **kwargs)
    half = count + 1 == at
    if half and "b" in mode:
        write = stream.write
        def cut(data):
            write(bytes(data)[: len(data) // 2])
            stream.flush()
            os._exit(137)
        class Cut:
            def __enter__(self): return self
            def __exit__(self, *error): stream.close()
            def __getattr__(self, name): return getattr(stream, name)
        made = Cut()
        made.write = cut
        return made
    return stream

builtins.open = opened
for name in ("replace", "rename", "unlink", "mkdir", "rmdir", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
status = 0
BODY
os._exit(0 if count < at else 1)
"""


def killed_at(number, body, *arguments, **options):
    """Run a program that ends at its number-th operation on files -> whether it got so far."""
    program = KILLED.replace("BODY", body)
    command = [sys.executable, "-c", program, str(number), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode in (0, 137), done.stderr
    return done.returncode == 137


def put(folder, **contents):
    with install.replacing(folder, NAMES) as new:
        for name, text in contents.items():
            path = new / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes().decode("latin-1")
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_new_files_take_the_place_of_the_old_ones_and_of_nothing_else(tmp_path):
    folder = tmp_path / "f"
    put(folder, a="1", old="1", last__x="1")
    (folder / "mine").write_text("mine")
    put(folder, a="2", b="2", last__x="2")
    assert contents(folder) == {"a": "2", "b": "2", "last/x": "2", "mine": "mine"}
    assert sorted(os.listdir(folder)) == ["a", "b", "last", "mine"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    for name in (".new-0123456789abcdef", ".new-ideas"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("1")
    install.finish(tmp_path, NAMES)
    assert contents(tmp_path) == {".new-ideas/a": "1"}
    put(tmp_path, a="2")
    assert contents(tmp_path) == {"a": "2", ".new-ideas/a": "1"}


def test_an_exception_leaves_everything_as_it_was(tmp_path):
    def fail(error):
        with install.replacing(tmp_path / "f", NAMES) as new:
            (new / "a").write_text("2")
            raise error(28, "full", str(new / "a"))

    with pytest.raises(OSError, match="full") as found:
        fail(OSError)
    assert found.value.filename == str(tmp_path / "f" / "a")
    assert not (tmp_path / "f").exists()
    put(tmp_path / "f", a="1")
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt)
    assert contents(tmp_path / "f") == {"a": "1"}


def test_an_interrupt_at_any_moment_leaves_the_old_files_or_the_new_ones(tmp_path, monkeypatch):
    """When the disk is waited for, which takes longest, the list of new files is there or not."""
    sync = os.fsync
    seen = set()
    for stop in range(1, 20):
        folder = tmp_path / str(stop)
        put(folder, a="1", old="1", last__x="1")
        left = [stop]

        def interrupted(place, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            sync(place)

        monkeypatch.setattr(os, "fsync", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            put(folder, a="2", b="2", last__x="2")
        monkeypatch.setattr(os, "fsync", sync)
        install.finish(folder, NAMES)
        found = contents(folder)
        assert found in ({"a": "1", "old": "1", "last/x": "1"}, {"a": "2", "b": "2", "last/x": "2"})
        assert sorted(os.listdir(folder)) == sorted({name.partition("/")[0] for name in found})
        seen.add(found["a"])
        if left[0] > 0:  # it was not interrupted
            break
    assert left[0] > 0
    assert seen == {"1", "2"}


def test_a_full_disk_is_said_of_the_folder_not_of_the_list_in_it(tmp_path, monkeypatch):
    """The list of new files is the last to be written, and no user knows it."""

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)

    put(tmp_path, a="1")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as found:
        put(tmp_path, a="2")
    assert found.value.filename == str(tmp_path)
    assert contents(tmp_path) == {"a": "1"}


def test_an_error_of_the_disk_names_the_file_that_was_to_come(tmp_path, monkeypatch):
    def broken(place):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error") as found:
        put(tmp_path, a="2")
    assert found.value.filename == str(tmp_path / "a")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "content",
    [
        {"from": "../x", "files": ["a"], "remove": []},
        {"from": ".new-1/../..", "files": ["a"], "remove": []},
        {"from": ".new-1", "files": ["../a"], "remove": []},
        {"from": ".new-1", "files": ["mine"], "remove": []},
        {"from": ".new-1", "files": ["last/.."], "remove": []},
        {"from": ".new-1", "files": ["/etc/passwd"], "remove": []},
        {"from": 1, "files": [], "remove": []},
        {"from": ".new-1", "files": [], "remove": ["mine"]},
        {"from": ".new-1", "files": ["a"]},
        {"from": ".new-1", "files": "a", "remove": []},
        {},
    ],
)
def test_a_list_from_somebody_else_moves_nothing(tmp_path, content):
    (tmp_path / ".pending.json").write_text(json.dumps(content))
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".new-1").mkdir()
    (tmp_path / ".new-1" / "mine").write_text("theirs")
    with pytest.raises(ValueError, match=r"\.pending\.json is damaged"):
        install.finish(tmp_path, NAMES)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("place", ["last", ".new-1/last"])
def test_no_link_to_a_folder_is_followed(tmp_path, place):
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    mine.mkdir()
    for name in ("config", "key"):
        (mine / name).write_text("mine")
    (theirs / ".new-1").mkdir(parents=True)
    if place == "last":
        (theirs / ".new-1" / "last").mkdir()
        (theirs / ".new-1" / "last" / "config").write_text("theirs")
    (theirs / place).symlink_to(mine)
    listed = {"from": ".new-1", "files": ["last/config", "last/key"], "remove": []}
    (theirs / ".pending.json").write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=f"{place} is a link to a folder"):
        install.finish(theirs, NAMES)
    assert contents(mine) == {"config": "mine", "key": "mine"}


PUT = """
from minimixce.storage import install
with install.replacing(sys.argv[2], ("a", "b", "last", "old")) as new:
    os.mkdir(new / "last")
    for name in ("a", "b", "last/x"):
        with open(new / name, "wb") as stream:
            stream.write(b"new")
"""


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
def test_fit_is_alone_in_a_folder(tmp_path, how):
    import numpy as np

    import minimixce as mm

    model = mm.GPT(mm.GPTConfig(5, 4, 1, 1, 4), device="cpu")
    batch = (np.ones((1, 4), int), np.ones((1, 4), int))

    def fit(**options):
        mm.fit(model, batches(), folder=tmp_path, progress=False, **options)

    def batches():
        yield batch
        with pytest.raises(FileExistsError, match="another process is at work"):
            other.submit(fit, **how).result()
        yield batch

    with ThreadPoolExecutor(1) as other:
        fit()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "model.safetensors", "last"])
def test_fit_replaces_nothing_unasked(tmp_path, name):
    import numpy as np

    import minimixce as mm

    (tmp_path / name).write_text("mine")
    model = mm.GPT(mm.GPTConfig(5, 4, 1, 1, 4), device="cpu")
    batches = [(np.ones((1, 4), int), np.ones((1, 4), int))]
    with pytest.raises(FileExistsError, match=f"already holds a run \\({name}\\)"):
        mm.fit(model, batches, folder=tmp_path, progress=False)
    assert contents(tmp_path) == {name: "mine"}


def test_a_tokenizer_that_a_program_saved_itself_stays(tmp_path):
    import numpy as np

    import minimixce as mm
    from minimixce import text

    tokenizer = text.CharTokenizer("abcd")
    text.save_tokenizer(tokenizer, tmp_path)
    before = contents(tmp_path)
    model = mm.GPT(mm.GPTConfig(tokenizer.vocab_size, 4, 1, 1, 4), device="cpu")
    batches = [(np.ones((1, 4), int), np.ones((1, 4), int))]
    for overwrite in (False, True):
        mm.fit(model, batches, folder=tmp_path, overwrite=overwrite, progress=False)
        after = contents(tmp_path)
        assert {name: after.get(name) for name in before} == before


@pytest.mark.slow
def test_killed_at_any_operation_all_are_there_or_none(tmp_path):
    old, new = (
        {"a": "old", "old": "old", "last/x": "old"},
        {"a": "new", "b": "new", "last/x": "new"},
    )
    seen = []
    for number in range(1, 200):
        folder = tmp_path / str(number)
        put(folder, a="old", old="old", last__x="old")
        reached = killed_at(number, PUT, folder)
        install.finish(folder, NAMES)
        found = {k: v for k, v in contents(folder).items() if not k.startswith(".new-")}
        assert found in (old, new), number
        seen.append(found == new)
        put(folder, a="3", last__x="3")
        assert contents(folder) == {"a": "3", "last/x": "3"}
        if not reached:
            break
    assert not reached
    assert seen == sorted(seen)
    assert 5 < seen.index(True) < len(seen) - 5


TRAIN = """
from minimixce.cli import main
words = sys.argv[2:]
sys.argv[:] = ["minimixce"]
main(words)
"""


STEP = 1 if os.environ.get("MINIMIXCE_CAMPAIGN") else 5  # 1: kills at every operation, not a fifth


def kept(folder):
    """What equal runs have in common, the speed of their steps left out."""
    names = (
        "model.safetensors",
        "last/model.safetensors",
        "config.json",
        "run.json",
        "minimixce_tokenizer.json",
    )
    found = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
    assert "run.json" in found
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["metrics.jsonl"] = [{**line, "tokens_per_second": 0} for line in lines]
    return found


@pytest.mark.hostile
@pytest.mark.parametrize("begin", ["new", "overwrite", "resume"])
def test_train_killed_at_any_operation_goes_on_and_ends_the_same(tmp_path, begin):
    from minimixce.cli import main

    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the log\n" * 20)
    small = "--n-embd 8 --n-layer 1 --n-head 1 --block-size 8 --batch-size 2 --warmup 1 --quiet"
    small += f" --device cpu --eval-every 1 --held-out 0.2 --data {text}"
    command = f"train --steps 2 --seed 1 {small}"
    old, calm = tmp_path / "old", tmp_path / "calm"
    if begin == "overwrite":
        assert main(f"train --steps 2 --seed 7 {small} --out {old}".split()) == 0
        command += " --overwrite"
    if begin == "resume":
        assert main(f"{command} --out {old}".split()) == 0
        shutil.copytree(old, calm)
        command = "train --resume --change --steps 4 --dropout 0.1 --quiet"
    assert main(f"{command} --out {calm}".split()) == 0
    expected = kept(calm)
    number, reached, unlike = 1, True, 0
    while reached:
        folder = tmp_path / f"killed{number}"
        if begin != "new":
            shutil.copytree(old, folder)
        reached = killed_at(number, TRAIN, *command.split(), "--out", folder)
        status = main(f"train --out {folder} --resume --quiet".split())
        if status or kept(folder) != expected:  # it had not begun: then as at first
            unlike += 1
            if begin != "new":
                assert kept(folder) == kept(old), number
            assert main(f"{command} --out {folder}".split()) == 0, number
        assert kept(folder) == expected, number
        assert not [p for p in Path(folder).rglob("*") if p.name.endswith(".tmp")]
        shutil.rmtree(folder)
        number += STEP if number > 8 else 1
    assert number > 60
    print(f"{begin}: killed at {number - 1} operations; {unlike} times before it had begun")


def test_a_run_that_is_half_in_place_is_read_as_the_whole_one(tmp_path, capsys):
    """As a kill leaves it between the first rename and the last."""
    from minimixce.cli import main
    from minimixce.training import run

    small = "--n-embd 8 --n-layer 1 --n-head 1 --block-size 8 --batch-size 2 --warmup 1 --quiet"
    for name, letters in (("old", "abcd"), ("new", "wxyz")):
        (tmp_path / f"{name}.txt").write_text(f"{letters} {letters[::-1]}\n" * 60)
        words = f"train --data {tmp_path}/{name}.txt --out {tmp_path}/{name} --steps 2 {small}"
        assert main(words.split()) == 0
    old, new = tmp_path / "old", tmp_path / "new"
    waiting = old / ".new-0123456789abcdef"
    waiting.mkdir()
    listed = []
    for path in sorted(new.rglob("*")):
        name = path.relative_to(new)
        if path.is_file():
            (waiting / name).parent.mkdir(exist_ok=True)
            (waiting / name).write_bytes(path.read_bytes())
            listed.append(name.as_posix())
    (old / ".pending.json").write_text(
        json.dumps({"from": waiting.name, "files": listed, "remove": []})
    )
    os.replace(waiting / "minimixce_tokenizer.json", old / "minimixce_tokenizer.json")
    capsys.readouterr()
    assert main(["sample", str(old), "--tokens", "40"]) == 0
    assert not set("abcd") & set(capsys.readouterr().out)
    assert run.found_in(old)
    assert not install.is_pending(old)
    assert contents(old) == {name: text for name, text in contents(new).items()}


def test_a_second_process_in_a_folder_is_told_so(tmp_path):
    def come_in():
        with install.locked(tmp_path / "f"):
            pass

    # to the kernel, another thread that opens the folder is like another process
    with ThreadPoolExecutor(1) as other, install.locked(tmp_path / "f"):
        come_in()  # a thread that has the lock may
        for _ in range(2):
            with pytest.raises(FileExistsError, match="another process"):
                other.submit(come_in).result()
    assert not (tmp_path / "f").exists()
    with install.locked(tmp_path / "f"):
        (tmp_path / "f" / "x").touch()
    assert (tmp_path / "f" / "x").exists()
