"""What the command line says and how it ends: one line without control characters for bad input,
for files that are none, for too little memory, and for Ctrl-C at any moment.
"""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_hostile import CAMPAIGN, SMALL, TIMES, inside, run, template, world  # noqa: F401

import minimixce as mm
from minimixce import cli, text, worlds
from minimixce.experiments import on_worlds
from minimixce.storage import files, memory, tensors
from minimixce.storage.terminal import one_line, printable
from minimixce.storage.validate import WithTable
from minimixce.text import documents

ESCAPE = "\x1b[31mred\x1b[0m"
KINDS = {"pipe": "a pipe", "zero": "a device", "folder": "a folder", "socket": "a socket"}


def plant(path, kind):
    """Put something that is no file at `path`, in place of what is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with inside(path.parent), socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="a file that no one can read")
@pytest.mark.parametrize("read", [files.read_bytes, lambda path: list(documents.read_chunks(path))])
def test_an_error_of_reading_names_the_file(read):
    with pytest.raises(OSError, match="Input/output error") as found:
        read("/proc/self/mem")
    assert found.value.filename == "/proc/self/mem"


# ---- what is printed -----------------------------------------------------------------------------


@given(st.text())
@example(ESCAPE)
@example("a\u202eb\u2066c\x9b\x7f\udcff\ud800\r\n\tΩ é")
def test_printable_changes_just_what_a_terminal_would_act_on(given):
    shown = printable(given)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in shown if c not in "\n\t")
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert printable(shown) == shown
    harmless = all(unicodedata.category(c) not in ("Cc", "Cs", "Cf", "Zl", "Zp") for c in given)
    assert not harmless or shown == one_line(given) == given
    assert one_line(given) == shown.replace("\n", "\\n").replace("\t", "\\t")
    assert len(one_line(given).splitlines()) <= 1


def test_printable_shows_what_was_there():
    assert printable(ESCAPE + "\n") == r"\x1b[31mred\x1b[0m" + "\n"
    assert one_line("a\u202e\udcff\ud800\n") == r"a\u202e\xff\ud800\n"


@pytest.fixture
def writer(tmp_path):
    """The folder of an untrained model that writes control characters."""
    tokenizer = text.CharTokenizer("ab\x1b\u202e\n")
    model = mm.GPT(mm.GPTConfig(tokenizer.vocab_size, 8, 1, 1, 8), device="cpu")
    model.save(tmp_path / "run", boundary=tokenizer.boundary)
    text.save_tokenizer(tokenizer, tmp_path / "run")
    return tmp_path / "run"


def test_samples_have_no_control_characters_unless_they_are_asked_for(writer):
    command = ["sample", writer, "--prompt", "a\x1b", "--count", 9, "--device", "cpu"]
    status, shown, _ = run([*command, "--out", writer / "samples.jsonl"])
    exact = run([*command, "--raw"])[1]
    assert status == 0
    assert {"\x1b", "\u202e"} <= set(exact)
    assert shown == printable(exact) != exact
    records = map(json.loads, (writer / "samples.jsonl").read_text().split("\n")[:-1])
    assert "\n".join(r["prompt"] + r["text"] + "\n" for r in records) == exact


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["sample", "a\nb"], r"a\nb/config.json does not exist"),
        (["sample", ESCAPE], r"\x1b[31mred\x1b[0m/config.json does not exist"),
        (["sample", "\udcff"], r"\xff/config.json does not exist"),
        (["sample", "x", "y\n\x1b"], r"unrecognized arguments: y\n\x1b"),
        (["train", "--data", "\u202e"], r"\u202e does not exist"),
        ([ESCAPE], r"invalid choice: '\x1b[31mred\x1b[0m'"),
        (["sample", "x", "--top-k=--"], "argument --top-k: invalid int value: '--'"),
        (["train", "--steps=--"], "argument --steps: invalid int value: '--'"),
        (["sample", "x", "--tokens", "9" * 5000], "argument --tokens: invalid int value: '999"),
        (["eval", "\ud800"], "/config.json"),
        (["train", "--world", "random:999999999:0.5:1"], "a world of 999,999,999 states"),
        (["train", "--world", "agreement", "--sequences", str(10**15)], "smaller --sequences or"),
    ],
)
def test_bad_words_are_one_short_line(monkeypatch, tmp_path, argv, words):
    monkeypatch.chdir(tmp_path)
    status, _, error = run(argv)
    assert status == 2
    assert words in error
    assert error == printable(error)
    assert error.count("\n") == 1
    assert len(error) < 1200


def test_a_working_directory_that_is_gone_is_said(monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    status, _, error = run(["train", "--data", "a.txt", "--out", tmp_path / "run"])
    assert (status, error) == (2, "minimixce train: the working directory no longer exists\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_standard_error_that_takes_nothing_changes_no_status(monkeypatch, tmp_path):
    full = open("/dev/full", "w")  # noqa: SIM115 - closing it fails
    monkeypatch.setattr(sys, "stderr", full)
    assert cli.main(["sample", str(tmp_path / "nowhere")]) == 2
    with contextlib.suppress(OSError):
        full.close()


def test_a_text_may_be_two_dashes(writer):
    status, _, error = run(["sample", writer, "--prompt=--"])
    assert (status, "'-'" in error) == (2, True)  # a character that the tokenizer does not know


def test_a_table_below_a_sentence_keeps_its_lines():
    from minimixce.cli.program import _sentence

    assert _sentence(WithTable("a\n\x1b", "b\nc\x1b"), "train") == "a\\n\\x1b\nb\nc\\x1b"
    assert str(WithTable("a", "b")) == "a\nb"


def test_too_little_memory_says_what_to_make_smaller():
    from minimixce.cli.program import _sentence

    with pytest.raises(MemoryError) as numpys:
        np.zeros((1 << 28, 1 << 28))
    said = _sentence(numpys.value, "sample")
    assert said == (
        "not enough memory (Unable to allocate 512. PiB); choose a smaller --tokens or --count"
    )
    with pytest.raises(ValueError, match=r"array is too big|allowed size") as numpys:
        np.zeros((1 << 40, 1 << 40))
    assert _sentence(numpys.value, "grade") == "not enough memory; choose a smaller input"
    assert _sentence(MemoryError(), "sample") == (
        "not enough memory; choose a smaller --tokens or --count"
    )
    assert _sentence(MemoryError("a sentence"), "sample") == "a sentence"


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "read", [files.read_bytes, files.read_json, tensors.read, files.load_functions]
)
def test_only_regular_files_are_read(tmp_path, kind, read):
    plant(tmp_path / "it", kind)
    with pytest.raises(ValueError, match=f"it is not a regular file but {KINDS[kind]}"):
        read(tmp_path / "it")


def test_a_file_has_at_most_so_many_bytes(tmp_path):
    (tmp_path / "it").write_bytes(b"12345")
    assert files.read_bytes(tmp_path / "it", 5) == files.read_bytes(tmp_path / "it") == b"12345"
    with pytest.raises(ValueError, match="it has 5 bytes; at most 4 are read"):
        files.read_bytes(tmp_path / "it", 4)
    with open(tmp_path / "large", "wb") as large:
        large.truncate(1 << 42)  # of holes
    with pytest.raises(MemoryError, match="large, read whole, needs more than 4,096 GiB"):
        files.read_bytes(tmp_path / "large")
    with pytest.raises(FileNotFoundError, match="other does not exist"):
        files.read_bytes(tmp_path / "other")


@pytest.mark.parametrize("digits", [301, 5000])
def test_integers_of_json_can_be_made_floats(tmp_path, digits):
    (tmp_path / "it").write_text('{"a": ' + "9" * digits + "}")
    with pytest.raises(ValueError, match=f"an integer of {digits:,} digits"):
        files.read_json(tmp_path / "it")
    (tmp_path / "it").write_text('{"a": ' + "9" * 300 + "}")
    assert float(files.read_json(tmp_path / "it")["a"]) == 1e300


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\n\ndef f():\n    return 1 / 0\nf()\n", "line 4 fails to run: ZeroDivisionError:"),
        ("x = 1\ndef f(:\n", "line 2 fails to run: SyntaxError: invalid syntax"),
        ("import sys\nsys.exit()\n", "line 2 fails to run: SystemExit"),
    ],
)
def test_a_file_of_functions_that_fails_says_at_which_line(tmp_path, source, words):
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(ValueError, match=f"mine.py, {re.escape(words)}"):
        files.load_functions(tmp_path / "mine.py", "f")


def test_no_cell_of_a_table_is_a_formula():
    rows = [{"=a": "=1+1", "b": -1.5}, {"=a": "@x", "b": -2}, {"=a": "a-b", "b": "\t"}]
    assert files.to_csv(rows) == "'=a,b\n'=1+1,-1.5\n'@x,-2\na-b,'\t\n"


def test_half_a_surrogate_pair_can_be_kept_as_json(tmp_path):
    files.write_lines(tmp_path / "it", [{"prompt": "a\udcff\U0001f600"}])
    assert json.loads((tmp_path / "it").read_bytes()) == {"prompt": "a\udcff\U0001f600"}


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "file", "content", "most"),
    [
        ("0::/a/b", "sys/fs/cgroup/a/b/memory.max", "4096", 4096),
        ("0::/a/b", "sys/fs/cgroup/a/memory.max", "8192", 8192),  # of the group above
        ("0::/of/the/host", "sys/fs/cgroup/memory.max", "123", 123),  # as a container sees its own
        ("4:memory:/a", "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "77", 77),
        ("3:cpu,memory:/", "sys/fs/cgroup/memory/memory.limit_in_bytes", "78", 78),
        ("0::/", "sys/fs/cgroup/memory.max", "max", None),
        ("0::/", "elsewhere", "1", None),
    ],
)
def test_a_container_s_limit_is_what_there_is(tmp_path, group, file, content, most):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"2:cpu:/x\n{group}\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content + "\n")
    of_this_machine = memory.available(str(tmp_path / "nothing"))
    assert memory.available(str(tmp_path)) == (most or of_this_machine)


def test_a_limit_of_the_process_counts():
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 44, before[1]))
        assert memory.available() <= 1 << 44
        with pytest.raises(MemoryError, match=r"^this needs more than 16,384 GiB of memory, and "):
            memory.check((1 << 44) + 1, "this", "make it smaller")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    ("end", "most"),
    [
        *[(0.5, 2), (0.5, 300), (0.1, 256), (0.1, 257), (0.001, 3)],
        pytest.param(0.01, 900, marks=pytest.mark.hostile),
        pytest.param(0.001, 600, marks=pytest.mark.hostile),
    ],
)
def test_a_horizon_is_that_of_whole_rows_and_takes_narrower_ones(end, most):
    made = worlds.markov([[end, 1 - end], [end, 1 - end]])
    rows = made.sample(10_000, most, seed=0)
    assert on_worlds.horizon(made, most) == min(most, (rows >= 0).sum(axis=1).max())


def test_a_horizon_takes_no_memory_for_a_large_window(monkeypatch):
    widths, sample = [], worlds.World.sample
    spy = lambda self, n, most, seed: widths.append(most) or sample(self, n, most, seed)  # noqa: E731
    monkeypatch.setattr(worlds.World, "sample", spy)
    assert on_worlds.horizon(worlds.agreement(), 12_001) == 5
    assert max(widths) <= 256


# ---- Ctrl-C --------------------------------------------------------------------------------------


def python(*argv, **options):
    environment = os.environ | options.pop("environment", {})
    return subprocess.Popen(
        [sys.executable, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def test_what_starts_first_imports_next_to_nothing():
    program = "import sys, minimixce.cli; print(*sys.modules)"
    loaded = set(
        python("-S", "-c", program, cwd=Path(mm.__file__).parents[1]).communicate()[0].split()
    )
    assert "minimixce.cli" in loaded
    assert not loaded & {"numpy", "argparse", "typing", "re", "minimixce.backend"}


def test_ctrl_c_while_numpy_is_imported_is_one_line(tmp_path):
    (tmp_path / "numpy.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError('what a module of C makes of it')\n"
    )
    stopped = python("-m", "minimixce", "train", environment={"PYTHONPATH": str(tmp_path)})
    assert stopped.communicate(timeout=60) == ("", "minimixce train: interrupted\n")
    assert stopped.returncode == 130


def test_names_are_there_as_soon_as_they_are_used():
    program = (
        "import sys, minimixce as mm; assert 'numpy' not in sys.modules\n"
        "assert mm.GPT is mm.gpt.GPT and mm.fit is mm.training.loop.fit\n"
        "assert set(mm.__all__) <= set(dir(mm))\n"
        "from minimixce import *\n"
        "assert worlds is mm.worlds and not hasattr(mm, 'other') and not hasattr(mm, '_other')\n"
    )
    done = python("-c", program)
    assert (done.communicate()[1], done.returncode) == ("", 0)


@pytest.mark.hostile
@pytest.mark.parametrize("command", ["-m minimixce", f"{Path(sys.executable).parent}/minimixce"])
def test_ctrl_c_in_the_first_second_prints_no_traceback_of_ours(tmp_path, command):
    """What Python does before the package is imported (its module site), and as it enters our first
    function, is out of our hands.
    """
    argv = command.split() if command.startswith("-m") else [command]
    ends = []
    for moment in np.linspace(0, 1, 20):
        running = python(*argv, "train", "--quiet", "--out", "run", cwd=tmp_path)
        time.sleep(moment)
        running.send_signal(signal.SIGINT)
        try:
            error = running.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:  # Python itself lost it, in a callback of an import
            running.kill()
            continue
        if re.search(r"in main\n +def main\(", error):
            continue
        files_of_traceback = re.findall(r'File "([^"]*)"', error)
        assert not [f for f in files_of_traceback if "minimixce/" in f and "/bin/" not in f], error
        ends.append((running.returncode, error))
    assert (130, "minimixce train: interrupted\n") in ends


# ---- a folder with what is no file ---------------------------------------------------------------

SAMPLE, EVAL = "sample run --tokens 3 --device cpu", "eval run --samples 1 --tokens 3 --device cpu"
RESUME = "train --resume --out run"


@pytest.mark.hostile
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_a_run_s_folder_is_one_sentence(template, kind):  # noqa: F811
    """In every place of a run's folder, at once and without reading what never ends."""
    names = [str(path.relative_to(template / "run")) for path in (template / "run").rglob("*")]
    refused = set()
    for name in [*names, ".pending.json"]:
        # going on with a run reads all of its files
        for command in (SAMPLE, EVAL, RESUME) if kind == "pipe" else (RESUME,):
            with world(template, "run", "story.txt"):
                plant(Path("run") / name, kind)
                signal.alarm(10)  # which would end the tests
                status, _, error = run(command)
                signal.alarm(0)
                assert status in (0, 2), (name, command, error)
                assert error.count("\n") == (status == 2), (name, command, error)
                if status == 2:
                    refused.add(name)
    assert refused >= {"config.json", "model.safetensors", "run.json", "resume.safetensors"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak < 4 << 20  # in KiB: nothing was read without end


@pytest.mark.hostile
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "command",
    [
        f"train --data it --out new {SMALL}",
        f"train --world it.json --out new {SMALL}",
        f"train --data story.txt --objective it.py:f --out new {SMALL}",
        "prepare --data it --out new",
        "gradcheck it.py:f,g",
        "synthetic --corpus it --vocab 3 --quiet --jobs 1 --out new",
        "grade a4 it",
    ],
)
def test_what_is_no_file_in_place_of_a_file_is_one_sentence(template, command, kind):  # noqa: F811
    with world(template, "story.txt"):
        place = Path(re.search(r"\bit[.\w]*", command)[0])
        plant(place, kind)
        if kind == "folder":
            (place / "prereg.json").mkdir()
        signal.alarm(20)
        status, _, error = run(command)
        signal.alarm(0)
        assert status in (1, 2)
        assert error.count("\n") == (status == 2)
        assert "Errno" not in error


@pytest.mark.hostile
def test_a_world_larger_than_a_limit_of_memory_is_one_sentence(tmp_path):
    """A small file of many states and words needs a large table."""
    states = [{"probs": {"0": 1.0}, "next": {}, "else": 0}] * 5000
    words = ["", *map(str, range(1, 5000))]
    content = {"name": "w", "log_p_floor": -69.0, "words": words, "states": states}
    (tmp_path / "w.json").write_text(json.dumps(content))
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))\n"
        "from minimixce.cli import main\n"
        "sys.exit(main(['train', '--world', 'w.json', '--threads', '1']))\n"
    )
    done = python("-c", program, cwd=tmp_path, environment={"OPENBLAS_NUM_THREADS": "1"})
    assert done.communicate(timeout=100)[1] == (
        f"minimixce train: {tmp_path}/w.json, a world of 5,000 states and 5,000 tokens needs more"
        " than 762 MiB of memory, and there is 600 MiB; make one of fewer\n"
    )
    assert done.returncode == 2


# ---- any words -----------------------------------------------------------------------------------

NUMBERS = "-1 0 1 2 3 -0.0 nan inf -inf 1e999 1e308 1e-320 0.5 1.5 ٣ ½ 0x10 1_0 0,1 0,,1 2,3 1,x"
NAMES = "-- - = no/such story.txt run other.py:f .py:f agreement mle,mle mle:2 mixce:nan mixce: js"
STRANGE = "auto cuda:99 cuda:x * [ True None {} random:5:nan:1 random:0:0:0 random:1e9:0:0 w.json"
# a large number of these is a long run, and no mistake; and a world is measured for seconds
LONG = set("--steps --tokens --count --samples --sequences --eval-tokens --seeds --world".split())
HUGE = ["1" + "0" * 400, "9" * 5000, str(1 << 63), str(10**20), "x" * 300, "x" * 5000]
RAW = ["", "a\udcffb", ESCAPE, "a\nb", "/dev/null", "/dev/zero", "random:5:0.5:" + "9" * 30]
WORDS = [*NUMBERS.split(), *NAMES.split(), *STRANGE.split(), *HUGE, *RAW]
BEGINNINGS = {
    "train": f"train --out new --data story.txt {SMALL}",
    "compare": (
        "compare --out new --data story.txt --objectives mle --seeds 0 --samples 1 --tokens 3"
        f" {SMALL}"
    ),
    "sample": SAMPLE,
    "eval": EVAL,
    "prepare": "prepare --out new --data story.txt",
    "gradcheck": "gradcheck no.py:f,g",
    "grade": "grade a1 no.py",
}
OF_PYTHON = re.compile(
    r"invalid literal|could not convert|unhashable|NoneType|object (is not|has no|cannot)|codec"
    r"|not subscriptable|operand|embedded null|too large to convert|list index|Errno"
    r"|got an unexpected|required positional|Exceeds the limit|broadcast|not supported between"
    r"|math domain|truth value|cannot convert|<class|<built|0x[0-9a-f]{6}|Traceback"
)


def options_of(command):
    return sorted(
        set(re.findall(r"--[a-z][a-z-]*", run([command, "--help"])[1])) - LONG - {"--help"}
    )


@pytest.mark.hostile
@pytest.mark.parametrize("command", BEGINNINGS)
def test_any_words_are_refused_in_a_line_without_python_s(template, command):  # noqa: F811
    rng = random.Random(f"{command} {time.time() if CAMPAIGN else 0}")
    options = options_of(command)
    with world(template, "run", "story.txt"):
        end = time.monotonic() + 4 * TIMES
        while time.monotonic() < end:
            argv = BEGINNINGS[command].split()
            for _ in range(rng.randint(1, 2)):
                option, word = rng.choice(options), rng.choice(WORDS)
                argv += rng.choice([[option, word], [f"{option}={word}"], [word]])
            status, _, error = run(argv)
            assert status in (0, 1, 2), argv
            if status == 2 and "\nname" not in error:
                assert error.count("\n") == 1, argv
                assert error == printable(error), argv
                assert len(error) < 1200, argv
                assert not OF_PYTHON.search(error), (argv, error)
            shutil.rmtree("new", ignore_errors=True)
