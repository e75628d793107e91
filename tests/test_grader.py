"""The grader of other people's code: its messages, what it reads, and what it makes of them."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minimixce.classroom import release
from minimixce.classroom.assignments import NAMES, assignment
from minimixce.classroom.grader import (
    arguments,
    batch,
    frames,
    grading,
    isolation,
    references,
    submission,
    tiers,
)
from minimixce.classroom.grader.references import References
from minimixce.classroom.grader.remote import RemoteFunctions, Sandbox, StudentError
from minimixce.classroom.mistakes import edit
from minimixce.cli import main

TIER = "none"  # what these tests run is our own

# ---- messages ------------------------------------------------------------------------------------

ARRAYS = hnp.arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.bool_, np.complex128]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    elements={"allow_nan": True},
)
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**62), 2**62), st.floats(), st.text(max_size=20)
)
VALUES = st.recursive(
    st.one_of(PLAIN, ARRAYS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=6,
)


def there_and_back(value, other=None):
    encoder = frames.Encoder(other)
    message = frames.pack(encoder.tree(value), encoder.frames)
    assert frames.length(message) == len(message)
    assert frames.read(io.BytesIO(message)) == message
    head, parts = frames.unpack(message)
    return frames.Decoder(parts, other).value(head)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    else:
        assert a == b or (a != a and b != b)


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_values_come_back_as_they_were(value):
    assert_same(there_and_back(value), value)


@given(ARRAYS, st.data())
@settings(max_examples=60, deadline=None)
def test_layouts_of_memory_come_through(array, data):
    if array.ndim >= 2:
        array = array.transpose(data.draw(st.permutations(range(array.ndim))))
    back = there_and_back(frames.with_gaps(array))
    assert np.array_equal(back, array, equal_nan=back.dtype.kind in "fc")
    assert back.flags.writeable
    if array.size > 1 and array.ndim:
        assert not back.flags.c_contiguous
    fortran = there_and_back(np.asfortranarray(array))
    assert fortran.flags.f_contiguous == np.asfortranarray(array).flags.f_contiguous


@given(st.binary(max_size=200), st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_a_message_cut_or_changed_is_refused_or_harmless(noise, place):
    encoder = frames.Encoder(None)
    message = frames.pack(encoder.tree({"a": np.arange(3.0), "b": [1, "x"]}), encoder.frames)
    place = min(place, len(message))
    changed = message[:place] + noise + message[place + len(noise) :]
    try:
        if frames.length(changed) != len(changed):
            return
        head, parts = frames.unpack(changed)
        value = frames.Decoder(parts, None).value(head)
    except (frames.BadMessage, TypeError):
        return
    assert isinstance(value, (dict, list, str, int, float, np.ndarray, type(None)))


def npy(descr, shape, body, fortran=False):
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def test_a_frame_written_by_hand_is_read():
    assert np.array_equal(frames.read_array(npy("'<f8'", (2,), np.arange(2.0).tobytes())), [0, 1])


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        npy("'<f8'", (10**12,), bytes(8)),
        npy("'<f8'", (-1,), bytes(8)),
        npy("'<f8'", (2**40, 2**40), bytes(8)),
        npy("'<f8'", (3,), bytes(16)),
        npy("'|O'", (1,), bytes(8)),
        npy("[('a', '<f8')]", (1,), bytes(8)),
        npy("'<M8[s]'", (1,), bytes(8)),
        npy("'|S8'", (1,), bytes(8)),
        npy("'(2,)<f8'", (1,), bytes(16)),
        npy("'<f8'", "'x'", bytes(8)),
        npy("'<f8'", (True,), bytes(8)),
        npy("'<f8'", "(1.0,)", bytes(8)),
        npy("__import__('os')", (1,), bytes(8)),
        npy("'<f8'", (1,), bytes(8), fortran="'no'"),
        npy("'<f8'", (1,) * 33, bytes(8)),
    ],
)
def test_a_frame_that_lies_is_refused(frame):
    with pytest.raises(frames.BadMessage):
        frames.read_array(frame)


def test_messages_have_a_largest_size():
    with pytest.raises(frames.BadMessage, match="more than fit"):
        frames.pack({}, [bytes(frames.MAX_BODY + 1)])
    with pytest.raises(frames.BadMessage, match="too long"):
        frames.length((2**32 - 1).to_bytes(4, "big") + bytes(4))


def test_what_arguments_are_made_of_is_the_same_there():
    logits_of, pull_back = arguments.made("prefix_model", np.ones((3, 3)))
    assert logits_of.recipe.group == pull_back.recipe.group
    assert (logits_of.recipe.part, pull_back.recipe.part) == (0, 1)
    assert arguments.made("example_f_and_w").recipe.group != logits_of.recipe.group


# ---- functions in another process ----------------------------------------------------------------

PROGRAM = """
import numpy as np

def double(x):
    return 2 * x

def in_place(x):
    x *= 3
    return x.sum()

def scale_forward(x):
    return 2 * x, {"x": x, "f": lambda: 1}

def scale_backward(dy, cache):
    return (2 * dy + 0 * cache["x"],)

def make(k):
    return lambda x: k * x

def use(f, x):
    return f(x)

def helper(x):
    return -x

def uses_helper(x):
    y, cache = helper_forward(x)
    return helper(y) + cache_size(cache)

def raises():
    return 1 / 0

def none():
    pass

counter = [0]
def count():
    counter[0] += 1
    return counter[0]

def ends():
    import os
    os._exit(0)

def loops():
    while True:
        pass

def layout(x):
    return [int(x.flags.c_contiguous), int(x.flags.f_contiguous)]
"""


@pytest.fixture(scope="module")
def sandbox():
    limits = isolation.limits(TIER, seconds=1, wall=3)
    with Sandbox(TIER, limits, seconds=1e6) as made:
        yield made


@pytest.fixture
def remote(sandbox):
    functions = RemoteFunctions(sandbox, PROGRAM, "mine.py")
    yield functions
    functions.__anew__()


def test_a_call_returns_what_the_function_does(remote):
    x = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(remote.double(x), 2 * x)
    assert remote.double(3) == 6
    assert remote.none() is None


def test_changes_in_place_come_back(remote):
    x = np.ones((2, 3))
    view = x.T[1:]
    assert remote.in_place(view) == 12
    assert np.array_equal(x, np.ones((2, 3)))  # it has changed its copy
    assert remote.__anew__().__in_place__().in_place(view) == 12
    assert np.array_equal(x, [[1, 3, 3], [1, 3, 3]])
    remote.__anew__()


def test_strides_are_those_of_here(remote):
    x = np.ones((3, 4))
    assert remote.layout(x) == [1, 0]
    assert remote.layout(x.T) == [0, 1]
    assert remote.layout(x[::2, ::2]) == [0, 0]


def test_a_cache_stays_there_and_functions_can_be_called_later(remote):
    y, cache = remote.scale_forward(np.ones(2))
    assert not isinstance(cache, dict)
    assert np.array_equal(remote.scale_backward(y, cache)[0], [4, 4])
    assert remote.make(5)(2.0) == 10


def test_functions_made_of_arrays_are_made_there(remote):
    f = arguments.made("cubic_and_sine", np.array([1.0, 2.0]))
    x = np.array([0.3, 0.4])
    assert remote.use(f, x) == f(x)
    with pytest.raises(TypeError, match="cannot be sent"):
        remote.use(lambda x: x, x)


def test_errors_say_what_and_where(remote):
    with pytest.raises(StudentError, match="division by zero") as found:
        remote.raises()
    assert found.value.kind == "ZeroDivisionError"
    assert "raises, line 31" in found.value.line
    with pytest.raises(StudentError, match="not_there") as found:
        remote.not_there(1)
    assert found.value.kind == "missing"


def test_every_check_starts_anew(remote):
    assert [remote.count(), remote.count()] == [1, 2]
    y, cache = remote.scale_forward(np.ones(2))
    assert remote.__anew__().count() == 1
    with pytest.raises(StudentError, match="before"):
        remote.scale_backward(y, cache)


@pytest.mark.parametrize(("name", "kind"), [("ends", "ended"), ("loops", "too slow")])
def test_a_program_that_ends_or_loops_costs_this_check_only(remote, name, kind):
    with pytest.raises(StudentError) as found:
        getattr(remote, name)()
    assert found.value.kind == kind
    assert remote.__anew__().double(1) == 2


def test_no_two_objects_share_a_process(sandbox):
    first, second = (RemoteFunctions(sandbox, PROGRAM, "mine.py") for _ in range(2))
    assert [first.count(), first.count(), second.count()] == [1, 2, 1]
    with pytest.raises(StudentError, match="before"):
        first.count()
    assert first.__anew__().count() == 1
    first.__anew__()


def test_supplied_functions_are_computed_outside_the_sandbox(sandbox):
    program = """
def uses(x, W, b):
    y, cache = linear_forward(x, W, b=b)
    assert type(cache).__name__ == "Held"
    return y, linear_backward(y, cache)[2]
def huge():
    return visible(10**6)
def linear_forward(x, W, b):
    return 0 * x, None
"""
    x, W, b = np.ones((4, 3)), np.ones((3, 2)), np.array([1.0, 2.0])
    supplied = References("a2", 0, ["linear_forward", "linear_backward", "visible"])
    remote = RemoteFunctions(sandbox, program, "mine.py", supplied)
    y, db = remote.uses(x, W, b)
    assert np.array_equal(y, x @ W + b)
    assert np.array_equal(db, y.sum(axis=0))
    with pytest.raises(StudentError, match=r"Unable to allocate|too much time or memory"):
        remote.huge()
    assert np.array_equal(remote.__anew__().uses(x, W, b)[1], db)
    remote.__anew__()
    supplied.close()


def test_a_supplied_function_may_return_one(sandbox):
    program = "def uses(log_q):\n    f_and_w = mixce(0.5)\n    return f_and_w(log_q)[1]\n"
    supplied = References("a1", 0, ["mixce"])
    remote = RemoteFunctions(sandbox, program, "mine.py", supplied)
    assert np.allclose(remote.uses(np.log([0.5, 1.0])), [0.75, 1])
    remote.__anew__()
    supplied.close()


def test_a_submission_has_so_much_time(sandbox):
    with Sandbox(TIER, isolation.limits(TIER, seconds=1, wall=3), seconds=0.5) as short:
        remote = RemoteFunctions(short, PROGRAM, "mine.py")
        with pytest.raises(StudentError, match="takes too long"):
            remote.loops()
        with pytest.raises(StudentError, match="time is over"):
            remote.__anew__().double(1)


def test_one_process_for_each_check_where_there_is_no_fork():
    with Sandbox(TIER, isolation.limits(TIER, single=True)) as single:
        remote = RemoteFunctions(single, PROGRAM, "mine.py")
        assert [remote.count(), remote.count()] == [1, 2]
        assert remote.__anew__().count() == 1


# ---- what was handed in --------------------------------------------------------------------------

FILE = "objectives.py"
TEXT = "def f():\n    return 1\n"


def notebook(*sources):
    cells = [{"cell_type": "code", "source": source.splitlines(True)} for source in sources]
    return json.dumps({"cells": [{"cell_type": "markdown", "source": ["# x"]}, *cells]})


def zipped(path, **files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), text)
    return path


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (TEXT.encode(), TEXT),
        (b"\xef\xbb\xbf" + TEXT.encode(), TEXT),
        (TEXT.replace("\n", "\r\n").encode(), TEXT),
        (
            "# -*- coding: latin-1 -*-\ns = 'ä'\n".encode("latin-1"),
            "# -*- coding: latin-1 -*-\ns = 'ä'\n",
        ),
        ("s = 'ä'\n".encode("latin-1"), "s = 'ä'\n"),
        ("η = 1\n".encode(), "η = 1\n"),
    ],
)
def test_any_encoding_and_any_line_ends(tmp_path, data, text):
    (tmp_path / FILE).write_bytes(data)
    assert submission.read_submission(tmp_path, FILE).text == text


def test_the_file_is_found_in_folders_and_archives(tmp_path):
    nested = tmp_path / "handed" / "in"
    nested.mkdir(parents=True)
    (nested / FILE).write_text(TEXT)
    (nested / "notes.txt").write_text("x")
    assert submission.read_submission(tmp_path / "handed", FILE).name == f"in/{FILE}"
    archive = zipped(tmp_path / "a.zip", a__objectives_dot_py=TEXT, __MACOSX___dot__objectives="x")
    assert submission.read_submission(archive, FILE).text == TEXT
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(nested / FILE, "in/objectives.py")
    assert submission.read_submission(tmp_path / "a.tar.gz", FILE).text == TEXT


@pytest.mark.parametrize(
    ("files", "status", "says"),
    [
        ({"objetives.py": TEXT}, "missing file", "no objectives.py; there is objetives.py"),
        ({}, "missing file", "no objectives.py"),
        ({f"a/{FILE}": TEXT, f"b/{FILE}": TEXT}, "two candidates", "a/objectives.py, b/obj"),
        ({"a.ipynb": "{}", "b.ipynb": "{}"}, "two candidates", "a.ipynb, b.ipynb"),
        ({"a.ipynb": "[1]"}, "unreadable", "not a notebook"),
        ({FILE: "x" * (submission.MAX_BYTES + 1)}, "too large", "more than 1,048,576 bytes"),
        ({FILE: "a\0b"}, "unreadable", "not a text file"),
    ],
)
def test_what_cannot_be_graded_is_said_in_a_sentence(tmp_path, files, status, says):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(submission.CannotRead, match=says) as found:
        submission.read_submission(tmp_path, FILE)
    assert found.value.status == status


def test_names_in_an_archive_that_point_elsewhere_are_not_followed(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../objectives.py", TEXT)
        archive.writestr("/etc/objectives.py", TEXT)
        link = zipfile.ZipInfo("in/objectives.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(submission.CannotRead, match=r"no objectives\.py"):
        submission.read_submission(tmp_path / "a.zip", FILE)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        entry = tarfile.TarInfo(FILE)
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    with pytest.raises(submission.CannotRead, match=r"no objectives\.py"):
        submission.read_submission(tmp_path / "a.tar", FILE)
    (tmp_path / "in").mkdir()
    os.symlink("/etc/passwd", tmp_path / "in" / FILE)
    with pytest.raises(submission.CannotRead, match=r"no objectives\.py"):
        submission.read_submission(tmp_path / "in", FILE)


def test_an_archive_that_inflates_is_not_inflated(tmp_path):
    archive = zipped(tmp_path / "a.zip", objectives_dot_py="0" * 50_000_000)
    assert archive.stat().st_size < 100_000
    with pytest.raises(submission.CannotRead, match="more than 1,048,576 bytes"):
        submission.read_submission(archive, FILE)


def test_of_a_notebook_what_defines_something_is_taken(tmp_path):
    (tmp_path / "mine.ipynb").write_text(
        notebook(
            "!pip install evil\n%matplotlib inline\nimport numpy as np",
            "EPS = 1e-5\nC = np.sqrt(2 / np.pi)",
            "print('hello')\nopen('x', 'w')\nA = open('y')\ndef f(x):\n    return C * x\nf(1)",
            "def f(x):\n    return 2 * C * x",
            "def f(:",
            'check("a1", "1.1", globals())',
        )
    )
    handed = submission.read_submission(tmp_path, FILE)
    names = {}
    exec(handed.text, names)
    assert names["f"](1) == 2 * np.sqrt(2 / np.pi)
    assert names["EPS"] == 1e-5
    assert "A" not in names
    assert "print" not in handed.text
    assert handed.remarks == (
        "code cell 3, line 3: was left out, since it is no function, class, import or constant",
        "code cell 5 cannot be read and was left out: invalid syntax",
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_solved_notebook_beside_the_untouched_starter_counts(tmp_path, name):
    whole, starter = assignment(name), release.starter(name)
    (tmp_path / whole.file).write_text(starter, encoding="utf-8")
    book = release.notebook(name, text=whole.source(0))
    (tmp_path / f"{name}.ipynb").write_text(book, encoding="utf-8")
    handed = submission.read_submission(tmp_path, whole.file, starter)
    assert handed.name == f"{name}.ipynb"
    names = {}
    exec(handed.text, names)
    assert all(f in names for task in whole.tasks for f in task.functions)
    assert "minimixce" not in handed.text
    (tmp_path / whole.file).write_text(starter + "# mine\n", encoding="utf-8")
    assert submission.read_submission(tmp_path, whole.file, starter).name == whole.file


# ---- a record, and a table of them ---------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Submissions to A0: right, wrong in 0.3, and not to be loaded, with names of all kinds."""
    place, right = tmp_path_factory.mktemp("handed-in"), assignment("a0").source(0)
    (mistake,) = (m for m in assignment("a0").mistakes if m.code == "gradient-sign")
    wrong = edit(right, mistake.edits[0])
    for student, text in {
        "ada": right,
        "=cmd()": right,
        "bob, the 2nd": wrong,
        "łódź": "1/0\n",
    }.items():
        (place / student).mkdir()
        (place / student / "warm_up.py").write_text(text, encoding="utf-8")
    (place / "empty").mkdir()
    return place


def without_seconds(records):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def test_graded_twice_a_record_is_the_same_but_for_seconds(folder):
    once, again = (grading.grade("a0", folder / "ada", isolation_tier=TIER) for _ in range(2))
    assert without_seconds([once]) == without_seconds([again])
    assert once["points"] == once["total"] == 10
    assert once["status"] == "graded"
    other = grading.grade("a0", folder / "ada", isolation_tier=TIER, salt="x", tasks=["0.2"])
    assert other["seed"] != once["seed"]
    assert [task["number"] for task in other["tasks"]] == ["0.2"]


@pytest.mark.parametrize("as_notebook", [False, True])
def test_a_forgotten_variant_is_remarked(tmp_path, as_notebook):
    text = assignment("a2", 3).source(3)
    path = tmp_path / ("a2.ipynb" if as_notebook else "backprop.py")
    path.write_text(release.notebook("a2", 3, text) if as_notebook else text, encoding="utf-8")
    right, wrong = (
        grading.grade("a2", path, isolation_tier=TIER, variant=variant, tasks=["2.1"])
        for variant in (3, 0)
    )
    assert right["remarks"] == []
    assert wrong["remarks"] == ["its headings are those of variant 3; graded as variant 0"]


@pytest.mark.slow
def test_a_folder_becomes_a_table_and_goes_on_where_it_was_stopped(folder, tmp_path):
    out = tmp_path / "grades.csv"
    records = batch.grade_folder("a0", folder, out, isolation_tier=TIER, jobs=1)
    whole, kept = out.read_bytes(), tmp_path / "grades.csv.jsonl"
    rows = list(csv.DictReader(out.open(encoding="utf-8", newline="")))
    assert [row["student"] for row in rows] == ["'=cmd()", "ada", "bob, the 2nd", "empty", "łódź"]
    by_student = {row["student"]: row for row in rows}
    assert by_student["ada"]["total"] == "10"
    assert by_student["bob, the 2nd"]["0.2"] == "2"
    assert float(by_student["bob, the 2nd"]["0.3"]) < 5
    assert by_student["bob, the 2nd"]["mistakes"] == "gradient-sign"
    assert by_student["łódź"]["status"] == "does not load"
    assert by_student["empty"]["status"] == "missing file"
    assert "ZeroDivisionError" in records[-1]["says"]
    lines = kept.read_text(encoding="utf-8").split("\n")
    kept.write_text("\n".join(lines[:3]) + "\n" + lines[3][:50], encoding="utf-8")
    out.unlink()
    seen = []
    batch.grade_folder(
        "a0",
        folder,
        out,
        isolation_tier=TIER,
        jobs=1,
        resume=True,
        progress=lambda done, total: seen.append(total) or done,
    )
    assert seen == [3]
    assert strip(out.read_bytes()) == strip(whole)
    with pytest.raises(ValueError, match="made with another --salt: give the same, or choose"):
        batch.grade_folder("a0", folder, out, isolation_tier=TIER, salt="x", resume=True)


def strip(table):
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_the_command_grades_in_a_sandbox_and_says_in_which(folder, tmp_path, capsys):
    out = tmp_path / "a.json"
    arguments = ["grade", "a0", str(folder / "ada"), "--isolation", "none", "--json", str(out)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith("isolation: none; grade only code that you would run yourself\n")
    assert "10 of 10 points\n" in said
    assert json.loads(out.read_text(encoding="utf-8"))["isolation"] == "none"
    assert main(arguments) == 2
    assert "choose another --json" in capsys.readouterr().err


def with_softmax_wrong():
    """A0 in which 0.2 is wrong, and 0.3 right once it has another softmax."""
    text = assignment("a0").source(0).replace("np.exp(log_p)", "softmax(log_p)")
    return text.replace("def softmax(z):", "def softmax(z):\n    return z\n\n\ndef other(z):")


@pytest.mark.hostile
def test_modules_beside_a_submission_are_not_run_by_the_grader(tmp_path):
    """With an earlier task wrong, so that references are supplied."""
    place = tmp_path / "in"
    place.mkdir()
    trap = f"if __name__ != 'submission':\n    open({str(tmp_path / 'mark')!r}, 'w').close()\n"
    for name in ("json", "numpy", "multiprocessing", "pickle", "encodings", "minimixce"):
        (place / f"{name}.py").write_text(trap, encoding="utf-8")
    (place / "warm_up.py").write_text(with_softmax_wrong(), encoding="utf-8")
    program = "import sys; from minimixce.cli import main; sys.exit(main(sys.argv[1:]))"
    start = [sys.executable, "-I", "-c", program, "grade", "a0", "--isolation", "none"]
    one = subprocess.run([*start, "."], cwd=place, capture_output=True, text=True)
    assert "(right, once the earlier tasks that it uses are): 5 of 5" in one.stdout
    words = [*start, ".", "--csv", "../t.csv", "--jobs", "2"]
    subprocess.run(words, cwd=place, capture_output=True, text=True)
    assert (tmp_path / "t.csv").exists()
    assert not (tmp_path / "mark").exists()


def test_a_table_in_the_folder_of_submissions_is_not_one_of_them(folder, tmp_path):
    shutil.copytree(folder / "ada", tmp_path / "ada")
    (tmp_path / "README.txt").write_text("for the grader")
    out = tmp_path / "t.csv"
    for resume in (False, True):
        records = batch.grade_folder(
            "a0", tmp_path, out, isolation_tier=TIER, jobs=1, resume=resume
        )
        assert [record["student"] for record in records] == ["README.txt", "ada"]
    assert "is not a Python file, a notebook or an archive" in records[0]["says"]
    with pytest.raises(ValueError, match="jobs must be at least 0"):
        batch.grade_folder("a0", tmp_path, out, isolation_tier=TIER, jobs=-1)


def test_what_was_graded_is_not_overwritten_unasked(folder, tmp_path, capsys):
    """Not even while there is no table yet."""
    out, kept = tmp_path / "t.csv", tmp_path / "t.csv.jsonl"
    kept.write_text("precious")
    words = ["grade", "a0", str(folder), "--isolation", "none", "--csv", str(out)]
    assert main(words) == 2
    assert "t.csv.jsonl is from an earlier run: add --resume" in capsys.readouterr().err
    assert kept.read_text() == "precious"


def test_references_that_do_not_start_are_the_graders_fault(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(references, "_START", "raise SystemExit")
    (tmp_path / "warm_up.py").write_text(with_softmax_wrong(), encoding="utf-8")
    with pytest.raises(references.ReferencesFailed, match="did not start"):
        grading.grade("a0", tmp_path, isolation_tier=TIER)


def test_the_command_makes_a_table_and_exits_1_if_one_is_not_graded(folder, tmp_path, capsys):
    (tmp_path / "in" / "nothing").mkdir(parents=True)
    shutil.copytree(folder / "ada", tmp_path / "in" / "ada")
    out = tmp_path / "t.csv"
    arguments = ["grade", "a0", str(tmp_path / "in"), "--isolation", "none", "--csv", str(out)]
    assert main([*arguments, "--jobs", "1"]) == 1
    said = capsys.readouterr().out
    assert "nothing: missing file: no warm_up.py" in said
    assert "1 of 2 submissions graded (2 now, 0 kept from before)" in said
    assert main(arguments) == 2
    assert "--csv" in capsys.readouterr().err


def test_a_tier_that_does_not_work_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "not installed" in tiers.reason_against("docker")
    with pytest.raises(ValueError, match="isolation docker does not work here: docker: docker is"):
        tiers.choose("docker")
    with pytest.raises(ValueError, match="isolation must be"):
        tiers.reason_against("magic")


@pytest.mark.hostile
@pytest.mark.parametrize("tier", ["bwrap", "user"])
def test_reference_solutions_have_all_points_in_every_tier(tier, tmp_path):
    if why_not := tiers.reason_against(tier):
        pytest.skip(why_not)
    for name in NAMES:
        whole = assignment(name)
        (tmp_path / whole.file).write_text(whole.source(0), encoding="utf-8")
        record = grading.grade(name, tmp_path / whole.file, isolation_tier=tier)
        assert record["points"] == record["total"], grading.text_of(record)
