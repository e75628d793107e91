"""The sandboxes for a student's code: tiers of isolation (tiers.py tries and chooses one).

bwrap    namespaces and an own file system, by bubblewrap; another user, seccomp, limits
user     another user, Landlock, seccomp, limits; for containers without namespaces; needs root
docker   a container without a network; limits
none     a process of the same user, with limits of time and memory: for code one would run anyway

The first two also give up all system calls that a numerical program does not need (confine.py).

Tried with tests/test_grader_hostile.py: bwrap (0.8, Linux 6.18, x86_64) as root, where each
submission is a user of its own, and as a user without rights, where bubblewrap makes a user
namespace and the program has the uid of the process that watches over it: the calls by which it
could end that one are refused; Python under a home folder that
others cannot enter, and under /tmp; user as root, with Landlock; none. Not tried: docker, aarch64,
a kernel without Landlock, AppArmor's refusal of user namespaces.
"""

import contextlib
import functools
import glob
import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
FILES = ("child.py", "frames.py", "arguments.py", "confine.py")  # all that a sandbox holds of this
TIERS = ("bwrap", "user", "docker", "none")
IMAGE = "minimixce-grader"
SECONDS = 2  # of computing, a check
WALL = 6  # seconds, a check: computing or not
SUBMISSION_SECONDS = 30  # of computing, a submission
SUBMISSION_WALL = 90  # seconds that the grader waits for a submission, computing or not
MEMORY = 512 << 20  # bytes of address space
_NOBODY = 65534
_FREE_UIDS = 1_900_000_000  # no system gives these to users; a process id is added
_HIDDEN = ("site-packages", "dist-packages")  # they may hold the answers
_OPTIONS = ("-I", "-S", "-B")


def limits(tier: str, **other: float) -> dict[str, Any]:
    """What confine.confine is told in a tier; `other` replaces single limits."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    given = {
        "tier": tier,
        "uid": _another_user() if root and tier in ("bwrap", "user") else None,
        "seconds": SECONDS,
        "wall": WALL,
        "memory": MEMORY,
        "readable": _readable() if tier == "user" else ([], []),
        "single": os.name != "posix",
    }
    return given | other


def _another_user():
    """The uid of a user that no other process has, or that of "nobody" in a container without one.

    With one uid, two submissions side by side could send each other signals.
    """
    with contextlib.suppress(OSError, ValueError), open("/proc/self/uid_map") as stream:
        wanted = _FREE_UIDS + os.getpid()
        for line in stream:
            first, _, count = map(int, line.split())
            if first <= wanted < first + count:
                return wanted
    return _NOBODY


@contextmanager
def command(tier: str, given: dict[str, Any]) -> Iterator[tuple[list[str], dict[str, str]]]:
    """A context with the command that starts child.py in a tier, and its environment.

    given: what `limits` returned. What the command needs of files is removed at the end.
    """
    text = json.dumps(given)
    program, library = os.path.realpath(sys.executable), Path(np.__file__).parent.parent
    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if os.name != "posix":
        environment["SYSTEMROOT"] = os.environ.get("SYSTEMROOT", "")
    if tier == "bwrap":
        line = [*_bwrap(library), program, *_OPTIONS, "/grader/child.py", "/library", text]
        yield line, environment
        return
    with tempfile.TemporaryDirectory(prefix="minimixce-grader-") as folder:
        os.chmod(folder, 0o755)
        for name in FILES:
            shutil.copyfile(HERE / name, Path(folder, name))
        if tier == "docker":
            yield (
                [*_docker(folder, environment), "/grader/child.py", "/library", text],
                dict(os.environ),
            )
            return
        if tier == "user":
            program, library = _python_for_others()
        child = str(Path(folder, "child.py"))
        yield [program, *_OPTIONS, child, str(library), text], environment


def _bwrap(library):
    """bubblewrap's command up to the program: a root with Python, NumPy and our four files."""
    line = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
    ]
    line += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if os.geteuid() == 0:  # to become another user, and to end its forks
        for right in ("CAP_SETUID", "CAP_SETGID", "CAP_KILL"):
            line += ["--cap-add", right]
    else:
        line += ["--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY)]
    line += ["--tmpfs", "/tmp"]  # before what may be under it
    for path in ("/library", "/grader"):  # else only root may enter them, to import more of NumPy
        line += ["--perms", "0755", "--dir", path]
    for path in _system_folders():
        for above in reversed(Path(path).parents):  # or they have the rights that they have here
            line += ["--perms", "0755", "--dir", str(above)] if above.name else []
        if os.path.islink(path):
            line += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            line += ["--ro-bind", path, path]
    for path in _package_folders(_system_folders()):
        line += ["--tmpfs", path, "--remount-ro", path]
    for name in ("numpy", "numpy.libs"):
        if (library / name).is_dir():
            line += ["--ro-bind", str(library / name), f"/library/{name}"]
    for name in FILES:
        line += ["--ro-bind", str(HERE / name), f"/grader/{name}"]
    # no place to write: what one check left there would be found by the next
    line += ["--dev", "/dev", "--remount-ro", "/dev", "--remount-ro", "/tmp"]
    return [*line, "--chdir", "/tmp", "--remount-ro", "/", "--"]


def _system_folders():
    """Python, and the libraries of the system that it and NumPy load."""
    found = ["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64"]
    for path in (sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))):
        if path.startswith("/usr"):
            found.append("/usr/bin")
        else:
            found.append(os.path.realpath(path))
    return sorted(set(found))


def _package_folders(shown):
    """Folders of installed packages, which may hold the answers: hidden in the sandbox."""
    found = {*site.getsitepackages([sys.base_prefix, "/usr", "/usr/local"])}
    for pattern in ("lib*/python3*/site-packages", "lib*/python3*/dist-packages"):
        for prefix in (sys.base_prefix, "/usr", "/usr/local"):
            found.update(glob.glob(os.path.join(prefix, pattern)))
    inside = tuple(f"{path}/" for path in shown)
    return sorted(p for p in found if os.path.isdir(p) and os.path.realpath(p).startswith(inside))


@functools.cache
def _python_for_others():
    """A Python and the folder with NumPy that every user of this machine may read.

    Those that run here, or copies of them in a temporary folder, removed when this process ends.
    """
    program, library = Path(os.path.realpath(sys.executable)), Path(np.__file__).parent.parent
    standard = Path(os.__file__).parent
    if all(_is_open(path) for path in (program, library / "numpy", standard)):
        return str(program), library
    copy = Path(tempfile.mkdtemp(prefix="minimixce-python-"))
    # not by atexit, which the workers of a pool do not run
    Finalize(None, shutil.rmtree, (copy,), {"ignore_errors": True}, exitpriority=1)
    copy.chmod(0o755)
    left_out = shutil.ignore_patterns(*_HIDDEN, "test", "idlelib", "tkinter")
    shutil.copytree(standard, copy / "lib" / standard.name, ignore=left_out, symlinks=True)
    for name in ("numpy", "numpy.libs"):
        if (library / name).is_dir():
            shutil.copytree(library / name, copy / "library" / name)
    (copy / "bin").mkdir()
    shutil.copy2(program, copy / "bin" / program.name)
    for path in Path(sys.base_prefix, "lib").glob("libpython*"):
        shutil.copy2(path, copy / "lib" / path.name)
    return str(copy / "bin" / program.name), copy / "library"


def _is_open(path):
    """Whether every user may enter all folders above a path."""
    return all(above.stat().st_mode & 0o5 == 0o5 for above in (path, *path.parents))


def _readable():
    """Paths that the tier "user" leaves readable, and those that it only lets be listed."""
    program, library = _python_for_others()
    standard = Path(program).parent.parent / "lib" / Path(os.__file__).parent.name
    standard = standard if standard.is_dir() else Path(os.__file__).parent
    found = [str(Path(library) / name) for name in ("numpy", "numpy.libs")]
    found += ["/lib64", "/lib/ld-linux-aarch64.so.1", "/dev/urandom", "/dev/null"]
    found += glob.glob("/usr/lib/*-linux-gnu") + glob.glob("/lib/*-linux-gnu")
    found += [str(path) for path in standard.iterdir() if path.name not in _HIDDEN]
    return found + glob.glob(str(standard.parent / "libpython*")), [str(standard)]


def _docker(folder, environment):
    line = [
        shutil.which("docker") or "docker",
        "run",
        "--rm",
        "--interactive",
        "--network",
        "none",
        "--read-only",
    ]
    line += ["--tmpfs", "/tmp:size=16m", "--pids-limit", "16", "--memory", str(MEMORY)]
    line += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--cpus", "1"]
    line += ["--user", f"{_NOBODY}:{_NOBODY}", "--volume", f"{folder}:/grader:ro"]
    for name, value in environment.items():
        line += ["--env", f"{name}={value}"]
    return [*line, IMAGE, "python3", "-I", "-B"]


def start(tier: str, given: dict[str, Any], stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    """Start child.py in a tier; `stack` removes what it needs of files. Raises OSError.

    given: what `limits` returned.
    """
    line, environment = stack.enter_context(command(tier, given))
    return subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/" if os.name == "posix" else None,
        start_new_session=os.name == "posix",
    )
