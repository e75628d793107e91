"""Submissions that attack the grader, by name, in every tier of isolation that works here.

Each starts from the reference solution, with one function replaced, so that the other task can be
held to its full points. Run with `pytest -m hostile`. What would harm a machine (forks without
end, deleting, filling a disk) runs only in tiers that were tried before, and aims at a folder that
the test has made.
"""

import contextlib
import csv
import functools
import gzip
import io
import json
import os
import socket
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest

import minimixce
from minimixce.classroom.assignments import assignment
from minimixce.classroom.grader import batch, frames, grading, isolation, remote, submission, tiers
from minimixce.classroom.grader.plain import one_line
from minimixce.classroom.grader.references import References

pytestmark = pytest.mark.hostile

SEALED = ("bwrap", "user", "docker")  # tiers that promise more than limits
# all in every tier, and each submission graded twice: a quarter of an hour, otherwise a third of it
ALL = os.environ.get("MINIMIXCE_ALL_TIERS") == "1"
IN_EVERY_TIER = ("test_what_is_forbidden_does_not_work",)
why_not = functools.cache(tiers.reason_against)  # each tier is attacked once, when it is asked for

# what hostile programs use; tried(action) -> whether it worked
HELP = """

import gc, json, os, socket, stat, struct, sys
def tried(action):
    try:
        action()
    except BaseException:
        return False
    return True
def link():
    for fd in range(64):
        if tried(lambda: os.fstat(fd)) and stat.S_ISSOCK(os.fstat(fd).st_mode):
            return fd
def message(head, parts=()):
    text = json.dumps([head, [len(part) for part in parts]]).encode()
    return struct.pack(">II", len(text), sum(map(len, parts))) + text + b"".join(parts)
def right(z):
    shifted = z - z.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
"""


@pytest.fixture(params=SEALED)
def tier(request):
    """A tier that promises more than limits, if it works here."""
    in_brief = request.param == "bwrap" or request.function.__name__ in IN_EVERY_TIER
    if not (in_brief or ALL):
        pytest.skip("with MINIMIXCE_ALL_TIERS=1")
    if why_not(request.param):
        pytest.skip(why_not(request.param))
    return request.param


class Place:
    """What a hostile program aims at, and what must be as it was when it is over."""

    def __init__(self, folder):
        self.temporary = folder / "temporary"
        self.here = folder / "here"
        self.canary = folder / "canary"
        for path in (self.temporary, self.here, self.canary):
            path.mkdir()
        self.canary.chmod(0o777)
        (self.canary / "secret").write_text("secret")
        (self.canary / "secret").chmod(0o666)

    def running(self):
        """Processes of a grading."""
        found = psutil.Process().children(recursive=True)
        uid = isolation._another_user()
        for process in psutil.process_iter(["uids", "cmdline"]):
            uids, line = process.info["uids"], " ".join(process.info["cmdline"] or [])
            if uids and uids.real == uid != isolation._NOBODY:
                found.append(process)
            if f"{self.temporary}/minimixce-grader" in line:
                found.append(process)
        tracker = "multiprocessing.resource_tracker"  # of this test's own process
        return [p for p in found if tracker not in " ".join(_command(p))]

    def check(self):
        """Nothing is left running or written."""
        end = time.monotonic() + 10
        while self.running() and time.monotonic() < end:  # what was killed takes a moment to end
            time.sleep(0.05)
        assert self.running() == []
        assert [p.name for p in self.temporary.iterdir() if "minimixce-python" not in p.name] == []
        assert list(self.here.iterdir()) == []
        assert [p.name for p in self.canary.iterdir()] == ["secret"]
        assert (self.canary / "secret").read_text() == "secret"
        assert not Path("/dev/shm/minimixce-hostile").exists()
        assert not Path("/tmp/minimixce-hostile").exists()


def _command(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


@pytest.fixture
def place(tmp_path_factory, monkeypatch):
    for above in (tmp_path_factory.getbasetemp(), *tmp_path_factory.getbasetemp().parents):
        if above != Path(tempfile.gettempdir()) and os.stat(above).st_uid == os.geteuid():
            above.chmod(above.stat().st_mode | 0o555)  # or nothing in it could be attacked
    folder = tmp_path_factory.mktemp("hostile")
    folder.chmod(0o755)
    made = Place(folder)
    isolation._python_for_others()  # a copy that lasts, where it needs one
    monkeypatch.setattr(tempfile, "tempdir", str(made.temporary))
    monkeypatch.setattr(isolation, "SECONDS", 1)  # half of what it is, and these take half as long
    monkeypatch.setattr(isolation, "WALL", 3)
    monkeypatch.chdir(made.here)
    return made


GOOD = {"a1": ("1.1", "1.3"), "a2": ("2.1", "2.4")}


def graded(name, text, tier, folder, tasks=None, data=None):
    """Grade a text -> the record, the same the second time."""
    folder.mkdir(exist_ok=True)
    path = folder / assignment(name).file
    path.write_bytes(text.encode() if data is None else data)
    asked = {"isolation_tier": tier, "tasks": tasks, "salt": "s"}
    first = grading.grade(name, path, **asked)
    if ALL or zlib.crc32(path.read_bytes()) % 5 == 0:  # of the others one in five
        second = grading.grade(name, path, **asked)
        assert first | {"seconds": 0} == second | {"seconds": 0}
    return first


def points(record):
    return {task["number"]: (task["points"], task["total"]) for task in record["tasks"]}


def assert_points(record, hostile, other, expected):
    """The hostile task has what it should have, the other one has all."""
    assert record["status"] == "graded", record["says"]
    found = points(record)
    assert found[other][0] == found[other][1]
    wanted = found[hostile][1] if expected == "full" else expected
    assert found[hostile][0] == wanted, grading.text_of(record)


def a1(body):
    """A1 with log_softmax replaced."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
    return f"{assignment('a1').source(0)}{HELP}\n\ndef log_softmax(z):\n{lines}"


def a2(code):
    """A2 with functions replaced."""
    return f"{assignment('a2').source(0)}{HELP}\n\n{code}"


def check_a1(body, expected, says, tier, place, tmp_path):
    """log_softmax with a hostile body, then a good submission."""
    record = graded("a1", a1(body), tier, tmp_path / "bad", GOOD["a1"])
    text = grading.text_of(record)
    place.check()
    assert_points(record, *GOOD["a1"], expected)
    assert says in text
    assert "Traceback" not in text
    assert str(Path(minimixce.__file__).parent) not in text
    good = assignment("a1").source(0)
    (tmp_path / "good.py").write_text(good)
    after = grading.grade("a1", tmp_path / "good.py", isolation_tier=tier, tasks=["1.3"])
    assert after["points"] == after["total"] == 3


# ---- resources, ends, forks ----------------------------------------------------------------------

ENDED = "ended itself in the middle of a call"
SLOW = "it takes too long: more than 1 s of computing"
# in all tiers: what only needs limits of time and memory, and a grader that lives
LIMITS = {
    "endless loop": ("while True: pass", 0, SLOW),
    "8 GB at once": ("return np.ones(10**9)", 0, "MemoryError"),
    "8 GB that are never touched": ("return np.empty((10**5, 10**4))", 0, "MemoryError"),
    "100 MB printed": ("print('x' * 10**8, flush=True)\nreturn right(z)", "full", ""),
    "100 MB to stderr": ("sys.stderr.write('x' * 10**8)\nreturn right(z)", "full", ""),
    "sys.exit(0)": ("sys.exit(0)", 0, "SystemExit"),
    "os._exit(0)": ("os._exit(0)", 0, ENDED),
    "a signal to itself": ("os.abort()", 0, "ended"),
    "SIGXCPU is ignored": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        0,
        SLOW,
    ),
    "a handler for SIGXCPU": (
        "import signal\nsignal.signal(signal.SIGXCPU, lambda *a: None)\nwhile True: pass",
        0,
        SLOW,
    ),
    "an endless exception handler": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        0,
        SLOW,
    ),
    "recursion without end": ("return log_softmax(z)", 0, "RecursionError"),
    "a high limit of recursion": (
        "sys.setrecursionlimit(10**9)\nf = lambda x: f(x)\nreturn f(z)",
        0,
        "",
    ),
    "atexit": ("import atexit\natexit.register(print, 'x')\nreturn right(z)", "full", ""),
    "all descriptors closed": ("os.closerange(0, 64)\nreturn right(z)", 0, ENDED),
    "60 MB returned": ("return np.zeros(60 * 10**6 // 8)", 0, "shape"),
    "80 MB returned": ("return np.zeros(10**7)", 0, "more than fit"),
    "a tracer": ("sys.settrace(lambda *a: None)\nreturn right(z)", "full", ""),
    "patched builtins": (
        "import builtins\nfor name in ('isinstance', 'len', 'open', '__import__', 'type'):\n"
        "    setattr(builtins, name, lambda *a: True)\nreturn z",
        0,
        "",
    ),
    "patched NumPy": (
        "np.exp = np.array_equal = np.testing.assert_allclose = lambda *a, **k: True\n"
        "np.lib.format.write_array = np.asarray = lambda *a, **k: None\nreturn 0 * z",
        0,
        "",
    ),
    "sleeps": ("import time\ntime.sleep(100)", 0, "3 s in all"),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("tier", isolation.TIERS)
def test_limits_hold(name, tier, place, tmp_path):
    if why_not(tier):
        pytest.skip(why_not(tier))
    check_a1(*LIMITS[name], tier, place, tmp_path)


SHUT = "return right(z)"  # what could be done raises, and costs the points
FORBIDDEN = {
    "a list that grows": ("x = []\nwhile True: x.append(np.zeros(10**7))", 0, "MemoryError"),
    "fork bomb": ("while True: os.fork()", 0, "PermissionError"),
    "a process": ("os.posix_spawn('/bin/true', ['true'], {})", 0, "Error"),
    "threads": (
        "import threading\nwhile True: threading.Thread(target=int).start()",
        0,
        "can't start new thread",
    ),
    "setsid daemon": (
        "def daemon():\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
        "            import time\n            time.sleep(600)\n        os._exit(0)\n"
        f"assert not tried(daemon) and not tried(os.setsid)\n{SHUT}",
        "full",
        "",
    ),
    "deletes what there is": (
        "import shutil\nfor path in (CANARY, HERE, '/grader', '/library', '/tmp'):\n"
        "    shutil.rmtree(path, ignore_errors=True)\n"
        "could = [p for p in ('/', '/usr', '/tmp', '/dev/shm', CANARY) if tried(\n"
        "    lambda: open(os.path.join(p, 'minimixce-hostile'), 'w'))]\n"
        "assert not tried(lambda: open(os.path.join(CANARY, 'secret'), 'a'))\n"
        f"assert not could, could\n{SHUT}",
        "full",
        "",
    ),
    "fills /tmp and /dev/shm": (
        "for folder in ('/tmp', '/dev/shm', '/dev/mqueue', '/run', '/var/tmp', '.'):\n"
        "    path = os.path.join(folder, 'minimixce-hostile')\n"
        "    assert not tried(lambda: open(path, 'wb').write(bytes(1 << 30))), folder\n"
        f"    assert not tried(lambda: os.mkdir(path)), folder\n{SHUT}",
        "full",
        "",
    ),
    "reads frames, gc and modules": (
        "assert not [name for name in sys.modules if 'minimixce' in name]\n"
        "frame, seen = sys._getframe(), []\n"
        "while frame:\n    seen += [v for v in frame.f_locals.values()]\n    frame = frame.f_back\n"
        "seen += gc.get_objects()\nanswer = right(z)\n"
        "found = [v for v in seen if type(v) is np.ndarray and v is not answer\n"
        "         and v.shape == z.shape and np.allclose(v, answer)]\n"
        f"assert not found or z.size == 1\n{SHUT}",
        "full",
        "",
    ),
    "opens the reference": (
        "for path in (PACKAGE, PACKAGE + '/classroom', PACKAGE + '/classroom/grader', HERE):\n"
        "    assert not tried(lambda: os.listdir(path)), path\n"
        "assert not tried(lambda: open(PACKAGE + '/classroom/sources/a1_objectives.py').read())\n"
        "for pid in (os.getppid(), 1, GRADER):\n"
        "    for name in ('environ', 'cmdline', 'mem', 'maps'):\n"
        f"        assert not tried(lambda: open(f'/proc/{{pid}}/{{name}}', 'rb').read(1))\n{SHUT}",
        "full",
        "",
    ),
    "imports minimixce by path": (
        "sys.path[:0] = [os.path.dirname(PACKAGE), *PATHS]\n"
        f"assert not tried(lambda: __import__('minimixce'))\n{SHUT}",
        "full",
        "",
    ),
    "sockets": (
        "for address in (('127.0.0.1', PORT), ('192.0.2.1', 80)):\n"
        "    assert not tried(lambda: socket.create_connection(address, 1)), address\n"
        "assert not tried(socket.socketpair)\n"
        f"assert not tried(lambda: socket.socket(socket.AF_UNIX))\n{SHUT}",
        "full",
        "",
    ),
    "sends signals": (
        "import fcntl, signal\nparent = os.getppid()\n"
        "for pid in (parent, GRADER, -1, 0):\n"
        "    assert not tried(lambda: os.kill(pid, 0)), pid\n"
        "assert not tried(lambda: signal.pidfd_send_signal(os.pidfd_open(parent), 9))\n"
        # a signal of one's choice when a descriptor is ready, which needs no call of kill
        "read, write = os.pipe()\n"
        "assert not tried(lambda: fcntl.fcntl(read, 10, 9))\n"
        "assert not tried(lambda: fcntl.fcntl(read, 8, parent))\n"
        f"fcntl.fcntl(read, 4, os.O_ASYNC | os.O_NONBLOCK)\nos.write(write, b'x')\n{SHUT}",
        "full",
        "",
    ),
    "changes limits": (
        "import resource\nassert not tried(lambda: resource.prlimit(os.getppid(), "
        "resource.RLIMIT_CPU, (0, 0)))\n"
        "assert not tried(lambda: resource.setrlimit(resource.RLIMIT_CPU, (9, 9)))\n"
        f"assert not tried(lambda: os.setpriority(0, 0, 19))\n{SHUT}",
        "full",
        "",
    ),
    "leaves notes for the next check": (
        "for path in ('/tmp', '/dev/shm', '.', HERE, CANARY):\n"
        "    for action in (lambda: os.mkdir(path + '/n'), lambda: open(path + '/m', 'w'),\n"
        "                   lambda: os.symlink('x', path + '/l'),\n"
        "                   lambda: os.mkfifo(path + '/f')):\n"
        f"        assert not tried(action), path\n{SHUT}",
        "full",
        "",
    ),
}


def aimed(body, place, port):
    """A body with the names of what it is to attack."""
    package = str(Path(minimixce.__file__).parent)
    values = {"CANARY": str(place.canary), "HERE": str(place.here), "PACKAGE": package}
    values |= {"PORT": port, "GRADER": os.getpid(), "PATHS": [p for p in sys.path if p]}
    return "".join(f"{key} = {value!r}\n" for key, value in values.items()) + body


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_is_forbidden_does_not_work(name, tier, place, tmp_path):
    body, expected, says = FORBIDDEN[name]
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        body = aimed(body, place, server.getsockname()[1])
        check_a1(body, expected, says, tier, place, tmp_path)


# ---- messages ------------------------------------------------------------------------------------

UNREADABLE = "answer cannot be read"
WROTE = "wrote to the grader's connection"
ARRAY = "b'\\x93NUMPY\\x01\\x00' + struct.pack('<H', len(h := {header!r})) + h.encode() + {body}"
LIE = "\"{'descr': '<f8', 'fortran_order': False, 'shape': (10**12,)}\\n\""
SEND = "os.write(link(), {})\n"


def with_frame(header, body="bytes(8)"):
    array = ARRAY.format(header=header, body=body)
    return f"os.write(link(), message({{'returned': {{'a': 0}}}}, [{array}]))\nos._exit(0)"


def header(descr, shape):
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}\n"


FORGED = {
    "garbage": ("os.write(link(), b'garbage, and more of it')\nreturn right(z)", WROTE),
    "every descriptor": (
        "for fd in range(64): tried(lambda: os.write(fd, b'x' * 100))\nreturn right(z)",
        WROTE,
    ),
    "half a message": ("os.write(link(), message({'returned': 1})[:-3])\nos._exit(0)", ENDED),
    "half a message, then nothing": (
        "os.write(link(), message({'returned': 1})[:-3])\nwhile True: pass",
        SLOW,
    ),
    "a huge length": ("os.write(link(), b'\\xff' * 8)\nreturn right(z)", WROTE),
    "more than one message": (
        "os.write(link(), message({'returned': {'n': 1}}) * 50)\nreturn right(z)",
        WROTE,
    ),
    "messages without end": (
        "m = message({'returned': {'n': 1}}) * 1000\nwhile True: os.write(link(), m)",
        WROTE,
    ),
    "not a dict": ("os.write(link(), message('ended'))\nos._exit(0)", UNREADABLE),
    "a number": ("os.write(link(), message(7))\nos._exit(0)", UNREADABLE),
    "the end, forged": (
        "os.write(link(), message({'ended': 'closed', 'seconds': -1e9}))\nos._exit(0)",
        UNREADABLE,
    ),
    "an error, forged": ("os.write(link(), message({'error': 7}))\nos._exit(0)", ""),
    "an error of the grader's kind": (
        "os.write(link(), message({'error': {'kind': 'return', 'text': 'full points'}}))\n"
        "os._exit(0)",
        "Exception: full points",
    ),
    "nested too deeply": (
        "os.write(link(), struct.pack('>II', 10**6, 0) + b'[' * 10**6)\nos._exit(0)",
        UNREADABLE,
    ),
    "a huge number": (
        "os.write(link(), struct.pack('>II', 10**6, 0) + b'1' * 10**6)\nos._exit(0)",
        UNREADABLE,
    ),
    "lengths that lie": (
        't = b\'[{"returned": {"a": 0}}, [-5, 10]]\'\n'
        "os.write(link(), struct.pack('>II', len(t), 5) + t + b'12345')\nos._exit(0)",
        UNREADABLE,
    ),
    "a header that lies": (with_frame(header("<f8", "(10**12,)")), UNREADABLE),
    "a header that claims 8 TB": (with_frame(header("<f8", f"({10**12},)")), UNREADABLE),
    "object dtype": (with_frame(header("|O", "(1,)")), UNREADABLE),
    "structured dtype": (with_frame(header([("a", "<f8")], "(1,)")), UNREADABLE),
    "a header of code": (with_frame("__import__('os').getpid()\n"), UNREADABLE),
    "an empty array of huge axes": (
        with_frame(header("<f8", f"(0, {1 << 39}, {1 << 39})"), "b''"),
        "",
    ),
    "one frame a thousand times": (
        "a = "
        + ARRAY.format(
            header=header("<f8", "(1 << 22,)").replace("1 << 22", str(1 << 22)),
            body="bytes(1 << 25)",
        )
        + "\n"
        "m = message({'returned': {'l': [{'a': 0}] * 4000}}, [a])\n"
        "while m: m = m[os.write(link(), m):]\nos._exit(0)",
        UNREADABLE,
    ),
    "changes that were not asked for": (
        "m = message({'returned': {'n': 1}, 'changed': [[[], {}], 7]})\n"
        "os.write(link(), m)\nos._exit(0)",
        "",
    ),
    "a call of the reference": (
        "os.write(link(), message({'supplied': 'log_softmax', 'with': {'t': []},"
        " 'named': {'d': []}}))\nanswer = os.read(link(), 10**6)\n"
        "raise ValueError(answer[8:].decode())",
        "no such function to call",
    ),
    "calls without end": (
        "m = message({'supplied': [], 'with': 7, 'named': None})\n"
        "while True:\n    os.write(link(), m)\n    os.read(link(), 10**6)",
        SLOW,
    ),
    "handles that were not given out": (
        "os.write(link(), message({'returned': {'kept': 10**9, 'type': 'x' * 10**5,"
        " 'callable': True}}))\nos._exit(0)",
        "",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_messages_end_one_check(name, tier, place, tmp_path):
    body, says = FORGED[name]
    check_a1(body, 0, says, tier, place, tmp_path)


# ---- values --------------------------------------------------------------------------------------

EVIL = """class Evil{base}:
    def _evil(self, *a, **k): raise ValueError('evil')
    __len__ = __iter__ = __float__ = __array__ = __eq__ = __bool__ = __hash__ = _evil
    __index__ = __getitem__ = __array_function__ = __array_ufunc__ = __getattr__ = _evil
    __class__ = property(lambda self: str)
"""
VALUES = {
    "object array": ("np.array([object()])", 0, "array of object"),
    "NaN": ("np.full_like(z, np.nan)", 0, "finite"),
    "a scalar": ("np.float64(-1.9)", 0, "shape"),
    "a Python number": ("-1.9", 0, "shape"),
    "complex": ("right(z) + 0j", 0, "complex"),
    "bool": ("right(z) > -2", 0, "bool"),
    "structured": ("right(z).view([('a', '<f8')])", 0, "array"),
    "strings": ("right(z).astype(str)", 0, "array of"),
    "empty": ("np.zeros((0, 7))", 0, "shape"),
    "None": ("None", 0, "is its `return` missing"),
    "a subclass": (
        "right(z).view(type('M', (np.ndarray,), {'__eq__': lambda *a: True}))",
        0,
        "",
    ),
    "a masked array": ("np.ma.array(right(z))", 0, "MaskedArray"),
    "a matrix": ("np.matrix(right(z).reshape(-1, 1))", 0, "matrix"),
    "a generator": ("(x for x in right(z))", 0, "generator"),
    "the input itself": ("z", 0, ""),
    "zeros": ("0 * z", 0, ""),
    "a longer copy": ("np.concatenate([right(z)] * 2)", 0, "shape"),
    "longdouble": ("right(z.astype(np.longdouble)).astype(np.longdouble)", 3.5, ""),
    "float32": ("right(z.astype(np.float32))", "full", ""),
    "Fortran order": ("np.asfortranarray(right(z))", "full", ""),
    "negative strides": ("right(z)[::-1].copy()[::-1]", "full", ""),
    "a read-only array": ("np.broadcast_to(right(z), z.shape)", "full", ""),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_held_against_what_they_must_be(name, tier, place, tmp_path):
    value, expected, says = VALUES[name]
    check_a1(f"return {value}", expected, says, tier, place, tmp_path)


BODIES = {
    "a cyclic list": ("a = [z]\na.append(a)\nreturn a", 0, ""),
    "a list of lists of lists": (
        "a = [0] * 4000\nfor _ in range(7): a = [a] * 4000\nreturn a",
        0,
        "",
    ),
    "an object with hostile methods": (EVIL.format(base="") + "return Evil()", 0, ""),
    "a str with hostile methods": (EVIL.format(base="(str)") + "return Evil()", 0, ""),
    "a float with hostile methods": (EVIL.format(base="(float)") + "return Evil()", 0, ""),
    "an array with hostile methods": (
        EVIL.format(base="(np.ndarray)") + "return np.ndarray.__new__(Evil, z.shape)",
        0,
        "",
    ),
    "a number with hostile methods": (EVIL.format(base="(np.float64)") + "return Evil()", 0, ""),
    "a type with a hostile name": (
        "return type('x\\x1b[31m\\n2.1 linear: 8 of 8, ok', (), {})()",
        0,
        "x�[31m 2.1 linear: 8 of 8, ok",
    ),
    "inputs changed in place": (
        "z -= z.max(axis=-1, keepdims=True)\nreturn z - np.log(np.exp(z).sum(-1, keepdims=True))",
        3.5,
        "changes its input z in place",
    ),
    "shape and dtype changed in place": (
        "y = right(z)\nz.shape = -1\nz.dtype = np.int64\nreturn y",
        "full",
        "",
    ),
    "a mutable default": (
        "return right(z, *cache) if False else right(z)\ndef other(cache=[]): return cache",
        "full",
        "",
    ),
    "a memory map": (
        "import mmap\nm = mmap.mmap(-1, z.nbytes)\n"
        "y = np.frombuffer(m).reshape(z.shape)\ny[...] = right(z)\nreturn y",
        "full",
        "",
    ),
    "HTML in an exception": ("raise ValueError('<script>alert(1)</script>')", 0, "<script>"),
    "ANSI in an exception": ("raise ValueError('\\x1b[2J\\x1b[31mred\\x07')", 0, "�[2J�[31mred"),
    "lines like the grader's": (
        "raise ValueError('x\\n1.1 log-softmax: 4 of 4, ok\\r\\n45 of 45 points\\u2028y')",
        0,
        "x 1.1 log-softmax: 4 of 4, ok 45 of 45 points y",
    ),
    "marks of direction": ("raise ValueError('\\u202eabc\\u2066')", 0, "�abc�"),
    "half a surrogate pair": ("raise ValueError('a\\ud800b')", 0, "a�b"),
    "10 MB in an exception": ("raise ValueError('x' * 10**7)", 0, "xxx…"),
    "a text that never comes": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
        0,
        SLOW,
    ),
    "a text that raises": (
        "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E",
        0,
        "an exception without a text",
    ),
    "a text that is none": (
        "class S(str):\n    __getitem__ = __len__ = lambda *a: 1 / 0\n"
        "class E(Exception):\n    def __str__(self): return S('x')\nraise E",
        0,
        "",
    ),
    "an exception of the grader's kind": (
        "raise type('missing', (Exception,), {})('full points')",
        0,
        "Exception: full points",
    ),
    "an exception with a hostile name": (
        "raise type('a\\n45 of 45 points\\x1b[m', (Exception,), {})('x')",
        0,
        "a 45 of 45 points�[m: x",
    ),
    "a forged traceback": (
        "e = SyntaxError('x', ('/etc/passwd', 7, 1, 'line\\nline'))\nraise e",
        0,
        "",
    ),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", 0, "KeyboardInterrupt"),
    "StopIteration": ("raise StopIteration", 0, "StopIteration"),
}


@pytest.mark.parametrize("name", BODIES)
def test_objects_and_exceptions_do_not_reach_the_grader(name, tier, place, tmp_path):
    check_a1(*BODIES[name], tier, place, tmp_path)
    for line in grading.text_of(graded("a1", a1(BODIES[name][0]), tier, tmp_path, ["1.1"])):
        assert line.isprintable() or line == "\n"


# ---- points without a solution -------------------------------------------------------------------

ZERO = """
def linear_forward(x, W, b): return np.zeros((*x.shape[:-1], len(b)), x.dtype), (x, W, b)
def linear_backward(dy, cache): return tuple(0 * a for a in cache)
def embedding_forward(ids, W): return np.zeros((*ids.shape, W.shape[1]), W.dtype), W
def embedding_backward(dy, W): return (0 * W,)
def position_forward(x, W): return 0 * x, (x, W)
def position_backward(dy, cache): return tuple(0 * a for a in cache)
def activation_forward(x): return 0 * x, x
def activation_backward(dy, x): return (0 * x,)
def softmax_forward(x, axis): return 0 * x, x
def softmax_backward(dy, x): return (0 * x,)
def norm_forward(x, weight, bias): return 0 * x, (x, weight, bias)
def norm_backward(dy, cache): return tuple(0 * a for a in cache)
def attention_forward(qkv, n_head, mask): return 0 * qkv[..., : qkv.shape[-1] // 3], qkv
def attention_backward(dy, qkv): return (0 * qkv,)
def visible(T): return np.ones((T, T), bool)
def tiny_model(params, ids, targets):
    return params["wte"].sum() * 0, {k: 0 * v for k, v in params.items()}
def block_forward(x, params): return 0 * x, (x, params)
def block_backward(dy, cache): return 0 * cache[0], {k: 0 * v for k, v in cache[1].items()}
"""
ZERO_A1 = """
def log_softmax(z): return 0 * z
def token_loss(logits, targets, f_and_w, normalizer=None): return 0 * logits.sum(), 0 * logits
def nothing(*a): return lambda log_q: (0 * log_q, 0 * log_q)
mle = mixce = surrogate = tailr = power = nothing
def frozen(z, z0, targets, eta): return 0 * z.sum()
def fixed_point(p, a): return 0 * p
"""


@pytest.mark.parametrize(("name", "code"), [("a1", ZERO_A1), ("a2", ZERO)])
def test_constant_forwards_and_zero_backwards_earn_nothing(name, code, tier, place, tmp_path):
    record = graded(name, assignment(name).source(0) + code, tier, tmp_path / "bad")
    place.check()
    assert {number: have for number, (have, _) in points(record).items() if have} == {}


EARN = {  # code, task, points at most
    "linear for the activation": (
        "def activation_forward(x): return 0.5 * x, x\n"
        "def activation_backward(dy, x): return (0.5 * dy,)",
        "2.3",
        0,
    ),
    "ones for a softmax, and zeros": (
        "def softmax_backward(dy, cache): return (0 * dy,)",
        "2.4",
        1.75,
    ),
    "a mask that it opens": (
        "_attention = attention_forward\ndef attention_forward(qkv, n_head, mask):\n"
        "    mask[...] = True\n    return _attention(qkv, n_head, mask)",
        "2.6",
        10.5,  # what a forward without a mask earns, and "masked" is not in it
    ),
    "random answers": (
        "def linear_forward(x, W, b): return np.random.randn(*x.shape[:-1], len(b)), (x, W)",
        "2.1",
        2.5,
    ),
}


@pytest.mark.parametrize("name", EARN)
def test_tricks_earn_no_more_than_they_are_worth(name, tier, place, tmp_path):
    code, task, most = EARN[name]
    record = grading.grade("a2", written(tmp_path, a2(code)), isolation_tier=tier, tasks=[task])
    assert points(record)[task][0] <= most, grading.text_of(record)
    if name == "a mask that it opens":
        assert record["tasks"][0]["checks"]["masked"] is False


def written(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(text)
    return path


def test_the_argument_of_a_limit_cannot_be_changed_for_it(tier, tmp_path):
    code = "\ndef tailr(gamma):\n    def f_and_w(log_q):\n        log_q[...] = 0\n"
    code += "        return -0.9 * log_q, np.ones_like(log_q)\n    return f_and_w\n"
    path = written(tmp_path, assignment("a1").source(0) + code)
    record = grading.grade("a1", path, isolation_tier=tier, tasks=["1.6"])
    assert record["points"] == 0, grading.text_of(record)


def test_finite_differences_get_a_remark(tier, place, tmp_path):
    code = """
def linear_backward(dy, cache):
    x, W = cache
    grads = []
    b = np.zeros(W.shape[1])
    for a in (x, W, b):
        g = np.zeros_like(a)
        for i in np.ndindex(a.shape):
            old = a[i]
            a[i] = old + 1e-6
            up = linear_forward(x, W, b)[0]
            a[i] = old - 1e-6
            down = linear_forward(x, W, b)[0]
            a[i] = old
            g[i] = ((up - down) * dy).sum() / 2e-6
        grads.append(g)
    return tuple(grads)
"""
    record = graded("a2", a2(code), tier, tmp_path / "bad", GOOD["a2"])
    assert any("linear_backward is slow: it calls linear_forward" in r for r in record["remarks"])
    good = graded("a2", assignment("a2").source(0), tier, tmp_path / "good", ["2.1", "2.5"])
    assert good["remarks"] == []


def test_references_are_there_for_later_tasks_only(tier, place, tmp_path):
    code = "\n\ndef log_softmax(z):\n    return 0 * z\n\ndef mle():\n    return log_softmax\n"
    text, tasks = assignment("a1").source(0) + code, ["1.1", "1.2", "1.3"]
    record = graded("a1", text, tier, tmp_path / "bad", tasks)
    place.check()
    found = points(record)
    assert found["1.1"][0] == 0
    assert found["1.2"] == (10, 10)  # right, once log_softmax is
    assert found["1.3"][0] == 0


# ---- the file ------------------------------------------------------------------------------------


def test_a_loop_at_import_is_named_and_costs_little(tier, place, tmp_path):
    record = graded("a1", a1("pass") + "\nwhile True: pass\n", tier, tmp_path / "bad")
    place.check()
    assert record["status"] == "does not load"
    assert record["says"] == f"objectives.py: {SLOW}, or 3 s in all"
    assert record["points"] == 0
    assert record["seconds"] < 10


def test_a_loop_in_one_task_leaves_all_others(tier, place, tmp_path):
    code = "def activation_forward(x):\n    while True: pass"
    record = graded("a2", a2(code), tier, tmp_path / "bad")
    place.check()
    lost = [n for n, (have, most) in points(record).items() if have != most]
    assert lost == ["2.3"]  # the block uses it, and gets the reference's
    assert points(record)["2.3"][0] == 0


def test_a_syntax_error_shows_the_line(tier, tmp_path):
    text = a1("pass").replace("def frozen(z, z0, targets, eta):", "def frozen(z, z0, targets, eta:")
    record = graded("a1", text, tier, tmp_path / "bad")
    assert record["status"] == "does not load"
    number = text.split("\n").index("def frozen(z, z0, targets, eta:") + 1
    assert f"line {number}: " in record["says"]
    assert "def frozen(z, z0, targets, eta:" in record["says"]
    assert "Traceback" not in record["says"]


BIG = {
    "nested brackets": "x = " + "(" * 400_000 + ")" * 400_000,
    "minus signs": "x = " + "-" * 500_000 + "1",
    "attributes": "x = a" + ".a" * 400_000,
    "a power": "x = 9 ** 9 ** 9 ** 9",
    "a constant of 10 GB": "x = (1,) * 10 ** 9 + 'a' * 10 ** 10",
    "definitions": "def f(): 0\n" * 90_000,
    "a long line of sums": "x = " + "1 + " * 200_000 + "1",
    "NUL": "x = 1\0",
    "more than 1 MB": "#" * (1 << 20) + "\n\n",
}


@pytest.mark.parametrize("name", BIG)
def test_files_that_are_made_to_break_the_compiler(name, tier, place, tmp_path):
    text = BIG[name] + "\n"
    record = graded("a1", text, tier, tmp_path / "bad", ["1.3"])
    place.check()
    assert record["status"] != "graded" or name == "definitions"
    assert record["points"] == 0
    assert record["seconds"] < 12


DATA = {
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "BOM": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "tabs": lambda text: text.replace("    ", "\t").encode(),
    "Latin-1": lambda text: text.encode("ascii", "ignore") + "# Müller\n".encode("latin-1"),
    "a cookie of Latin-1": lambda text: (
        b"# coding: latin-1\n" + text.encode("ascii", "ignore") + b"# M\xfcller\n"
    ),
    "a cookie that takes hours": lambda text: (
        b"# coding: punycode\n" + text.encode("ascii", "ignore")
    ),
    "another alphabet": lambda text: text.encode() + ("# " + "ж" * 150_000 + "\n").encode(),
}


@pytest.mark.parametrize("name", DATA)
def test_encodings_and_ends_of_lines_cost_nothing(name, tier, tmp_path):
    data = DATA[name](assignment("a1").source(0))
    record = graded("a1", "", tier, tmp_path / "mine", GOOD["a1"], data)
    assert_points(record, *GOOD["a1"], "full")


# ---- what is read in the grader's own process ----------------------------------------------------

FILE = "objectives.py"


def refused(path, status, seconds=10):
    start = time.process_time()
    with pytest.raises(submission.CannotRead) as caught:
        submission.read_submission(path, FILE)
    assert caught.value.status == status
    assert str(caught.value).isprintable()
    assert time.process_time() - start < seconds


def test_files_that_are_not_there_or_are_too_many(tmp_path):
    folder = tmp_path / "mine"
    (folder / "deep" / "er").mkdir(parents=True)
    refused(folder, "missing file")
    (folder / "objective.py").write_text("misspelt")
    refused(folder, "missing file")
    (folder / "deep" / "er" / FILE).write_text("x = 1")
    assert submission.read_submission(folder, FILE).text == "x = 1"
    (folder / "deep" / FILE).write_text("x = 2")
    refused(folder, "two candidates")
    (folder / FILE).symlink_to("/etc/passwd")
    os.mkfifo(folder / "fifo.py")
    refused(folder, "two candidates")
    os.mkfifo(tmp_path / "a.py")
    refused(tmp_path / "a.py", "unreadable")


def tar_of(path, entries, mode="w"):
    """A tar of (TarInfo fields, data)."""
    with tarfile.open(path, mode) as archive:
        for fields, data in entries:
            info = tarfile.TarInfo()
            for key, value in fields.items():
                setattr(info, key, value)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("odd", ["../objectives.py", "/objectives.py", "a/../../objectives.py"])
def test_names_that_point_outside_are_not_candidates(odd, tmp_path):
    refused(tar_of(tmp_path / "a.tar", [({"name": odd}, b"x")]), "missing file")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(odd, "x")
    refused(tmp_path / "a.zip", "missing file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.zip"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_not_files(kind, tmp_path):
    fields = {"name": FILE, "type": kind, "linkname": "/etc/passwd"}
    refused(tar_of(tmp_path / "a.tar", [(fields, b"")]), "missing file")
    both = [({"name": FILE}, b"x = 1"), (fields, b"")]
    found = submission.read_submission(tar_of(tmp_path / "b.tar", both), FILE)
    assert found.text == "x = 1"


def test_archives_that_inflate_are_not_inflated(tmp_path):
    bomb = tmp_path / "a.tar.gz"
    head = tar_of(tmp_path / "a.tar", [({"name": "big"}, b"")]).read_bytes()[:512]
    big = bytearray(head)
    big[124:136] = b"%011o\0" % (1 << 32)
    big[148:156] = b"        "
    big[148:156] = b"%06o\0 " % sum(big)
    with gzip.open(bomb, "wb", compresslevel=9) as stream:
        stream.write(bytes(big))
        for _ in range(128):
            stream.write(bytes(1 << 20))
    refused(bomb, "too large")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(FILE, bytes(1 << 28))
    refused(tmp_path / "a.zip", "too large")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(FILE, "x = 1")
    refused(tmp_path / "b.zip", "unreadable")
    (tmp_path / "c.zip").write_bytes(bytes(submission._MAX_ARCHIVE + 1))
    refused(tmp_path / "c.zip", "too large")
    entries = [({"name": f"f{k}"}, b"") for k in range(submission._MAX_ENTRIES + 10)]
    refused(tar_of(tmp_path / "d.tar", entries), "too many files")


def test_archives_that_are_damaged_or_nested_are_refused_in_a_sentence(tmp_path):
    chain = tar_of(tmp_path / "a.tar", [({"name": "x", "type": b"x"}, b"5 a=\n")] * 3000)
    refused(chain, "unreadable")
    data = gzip.compress(tar_of(tmp_path / "b.tar", [({"name": FILE}, b"x = 1")]).read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        broken[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        (tmp_path / "c.tgz").write_bytes(bytes(broken[: int(rng.integers(1, len(data) + 1))]))
        with contextlib.suppress(submission.CannotRead):
            assert submission.read_submission(tmp_path / "c.tgz", FILE).text
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(FILE, "x = 1\n" * 99)
    data = (tmp_path / "d.zip").read_bytes()
    for k in range(len(data)):
        (tmp_path / "e.zip").write_bytes(data[:k] + bytes([data[k] ^ 255]) + data[k + 1 :])
        with contextlib.suppress(submission.CannotRead):
            submission.read_submission(tmp_path / "e.zip", FILE)


def notebook(*sources):
    cells = [{"cell_type": "code", "source": source} for source in sources]
    return json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {}})


def test_notebooks_made_to_keep_the_grader_busy(tmp_path):
    path = tmp_path / "mine.ipynb"
    path.write_text(notebook("def f(): 0\n" * 20_000))
    start = time.process_time()
    assert submission.read_submission(path, FILE).text.count("def f(): 0") == 20_000
    assert time.process_time() - start < 10
    path.write_text(notebook("x = 1\n" * 60_000))
    refused(path, "too large")
    for source in ("x = " + "-" * 200_000 + "1", "(" * 200_000, "x" + ".x" * 100_000):
        path.write_text(notebook("def g(): return 1", source))
        handed = submission.read_submission(path, FILE)
        assert "def g(): return 1" in handed.text
    path.write_text("[" * 100_000)
    refused(path, "unreadable")
    path.write_text(notebook("x = '\ud800'"))
    assert submission.read_submission(path, FILE).text
    path.write_text(notebook("x = '\f a\x1c b é'\ny = 'é'; z = 2\ndef f():\n    return 'ж'"))
    names = {}
    exec(submission.read_submission(path, FILE).text, names)
    assert (names["x"], names["y"], names["z"], names["f"]()) == ("\f a\x1c b é", "é", 2, "ж")


def test_a_notebook_out_of_order_with_commands_is_graded(tier, place, tmp_path):
    cells = assignment("a1").source(0).split("# %%\n")
    book = [
        "!pip install evil",
        "%matplotlib inline\n!rm -rf x",
        *cells[::-1],
        "log_softmax(1 / 0)",
    ]
    path = tmp_path / "mine.ipynb"
    path.write_text(notebook(*book))
    record = grading.grade("a1", path, isolation_tier=tier)
    place.check()
    assert record["points"] == record["total"]


# ---- the grader's own functions, called by a program ---------------------------------------------


def test_arguments_that_would_take_all_memory_or_time_end_a_process_of_their_own():
    """A reference is right and still needs what its arguments ask for."""
    others = children()  # pools of other tests and their tracker may live as long as this process
    references = References("a2", 0, ["visible", "linear_forward"])
    before = psutil.Process().memory_info().rss

    def answer(name, *values):
        encoder = frames.Encoder(None)
        tree = encoder.tree(values)
        head = {"supplied": name, "with": tree, "named": {"d": []}}
        return references.answer(head, encoder.frames)

    start = time.monotonic()
    assert "error" in answer("visible", 10**9)[0]
    assert "error" in answer("linear_forward", np.ones((10**6, 1)), np.ones((1, 10**5)), 0.0)[0]
    slow, _, seconds = answer("linear_forward", np.ones((2000, 2000)), np.ones((2000, 2000)), 0.0)
    assert "error" in slow or seconds >= 0
    assert "error" in answer("attention_forward", 1)[0]
    for _ in range(200):  # what is held is forgotten with its check
        references.forget()
        answer("linear_forward", np.ones((1000, 1000)), np.ones((1000, 1)), 0.0)
    good, parts, seconds = answer("visible", 3)
    assert np.array_equal(frames.Decoder(parts, None).value(good["returned"]), np.tri(3) > 0)
    assert seconds < 1
    assert time.monotonic() - start < 60
    assert psutil.Process().memory_info().rss - before < 1 << 28
    assert children() - others
    references.close()
    assert children() <= others


def children():
    return set(psutil.Process().children(recursive=True))


def test_waiting_is_counted_also_where_nothing_is_computed(tier):
    program = "import time\ndef rests():\n    time.sleep(1)\n"
    with remote.Sandbox(tier) as sandbox:
        sandbox.patience = 2.5
        functions = remote.RemoteFunctions(sandbox, program, "mine.py")
        for _ in range(3):
            functions.__anew__().rests()
        with pytest.raises(remote.StudentError, match="time is over"):
            functions.__anew__().rests()


def test_a_sandbox_that_does_not_start_is_no_fault_of_the_students(tmp_path, monkeypatch):
    path = written(tmp_path, assignment("a1").source(0))
    monkeypatch.setattr(isolation, "FILES", ("child.py",))  # it lacks what it imports
    with pytest.raises(remote.SandboxFailed):
        grading.grade("a1", path, isolation_tier="none")
    record = batch._grade_one("a1", path, {"isolation_tier": "none"})
    assert record["status"] == "grader failed"
    assert record["says"].startswith("not the student's fault")


# ---- a folder of them ----------------------------------------------------------------------------

NAMES = ["=cmd()", "+1", "-1", "@x", "a,b", 'say "hi"', "new\nline", "😀", "j.doe", "j.roe", "nul"]


def test_names_of_students_stay_what_they_are_and_the_others_are_graded(tier, place, tmp_path):
    folder, out = tmp_path / "all", tmp_path / "grades.csv"
    folder.mkdir()
    good = assignment("a1").source(0)
    for name in NAMES:
        (folder / f"{name}.py").write_text(good if name != "nul" else "\0")
    (folder / os.fsdecode(b"m\xfcller.py")).write_text(a1("while True: pass"))
    (folder / "link.py").symlink_to(folder / "j.doe.py")
    records = batch.grade_folder("a1", folder, out, isolation_tier=tier, jobs=2)
    place.check()
    rows = list(csv.DictReader(io.StringIO(out.read_text(encoding="utf-8"))))
    assert len(rows) == len(records) == len(NAMES) + 2
    status = {row["student"]: (row["status"], row["total"]) for row in rows}
    assert all("\n" not in name for name in status)
    assert all(not name.startswith(("=", "+", "-", "@")) for name in status)
    graded_names = ["'=cmd()", "'+1", "'-1", "'@x", "a,b", 'say "hi"', "new line", "😀"]
    for name in (*graded_names, "j.doe", "j.roe"):
        assert status[name] == ("graded", "45")
    assert status["nul"][0] == "unreadable"
    assert status["link"][0] == "unreadable"
    assert [v for k, v in status.items() if k.startswith("m�ller")] == [("graded", "41")]
    again = batch.grade_folder("a1", folder, out, isolation_tier=tier, jobs=2, resume=True)
    kept = [(a["student"], a["seconds"]) for a in records if a["status"] == "graded"]
    assert kept == [(a["student"], a["seconds"]) for a in again if a["status"] == "graded"]


def test_a_run_that_was_killed_goes_on_even_after_half_a_line(tmp_path):
    folder, out = tmp_path / "all", tmp_path / "grades.csv"
    folder.mkdir()
    for k in range(3):
        (folder / f"s{k}.py").write_text(f"{assignment('a0').source(0)}# {k}\n")
    asked = {"isolation_tier": "none", "jobs": 1}
    batch.grade_folder("a0", folder, out, **asked)
    whole, kept = out.read_text(), Path(f"{out}.jsonl")
    lines = kept.read_text().splitlines(True)
    for cut in ("", lines[2][:40], lines[2][:-1]):
        kept.write_text("".join(lines[:2]) + cut)
        for _ in range(2):
            batch.grade_folder("a0", folder, out, resume=True, **asked)
            assert without_seconds(out.read_text()) == without_seconds(whole)


def without_seconds(table):
    return [{**row, "seconds": ""} for row in csv.DictReader(io.StringIO(table))]


def test_a_worker_that_is_killed_costs_one_submission(tmp_path, monkeypatch):
    folder, out = tmp_path / "all", tmp_path / "grades.csv"
    folder.mkdir()
    for k in range(4):
        (folder / f"s{k}.py").write_text(f"{assignment('a0').source(0)}# {k}\n")
    monkeypatch.setattr(batch, "_grade_one", _killed_by_s1)
    asked = {"isolation_tier": "none", "jobs": 2}
    records = batch.grade_folder("a0", folder, out, **asked)
    assert [r["status"] for r in records] == ["graded", "grader failed", "graded", "graded"]


_real = batch._grade_one


def _killed_by_s1(name, path, arguments):
    if path.name == "s1.py":
        os.kill(os.getpid(), 9)
    return _real(name, path, arguments)


# ---- seeds and texts -----------------------------------------------------------------------------


def test_seeds_are_those_of_bytes_and_salt():
    seeds = {grading.seed_of(salt, data) for salt in ("", "a", "b") for data in (b"", b"x", b"y")}
    assert len(seeds) == 9
    assert grading.seed_of("a", b"x") == grading.seed_of("a", b"x")
    assert max(seeds) < 1 << 48


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\u2028b", "a\x85b", "a \t\v b"])
def test_texts_are_one_line(text):
    assert one_line(text) == "a b"
    assert one_line("x" * 999, 10) == "x" * 9 + "…"
    assert one_line("ñ ж 😀 👩\u200d🔬 η = ½") == "ñ ж 😀 👩\u200d🔬 η = ½"
