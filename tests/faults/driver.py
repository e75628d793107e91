"""Runs commands of the package on a machine where something goes wrong at a chosen operation on
files.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


def why_not():
    """Why this machine cannot run faults.c, or None."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return "the library of faults is for Linux with 64 bits"
    return None if shutil.which("cc") else "there is no C compiler (cc)"


def compile_library(folder):
    """The library of faults.c, made in `folder` -> its path."""
    path = Path(folder, "faults.so")
    words = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-U_FORTIFY_SOURCE"]
    subprocess.run([*words, "-fvisibility=hidden", "-o", path, HERE / "faults.c"], check=True)
    return path


class Ended(NamedTuple):
    """How a command ended: a status (None where it is stopped; below 0, a signal's number), what it
    printed, the operations on the watched folder, and whether it had to be ended after its limit.
    """

    status: int | None
    out: str
    err: str
    operations: list[str]
    hung: bool
    stopped: int | None
    seconds: float


class Machine:
    """Runs commands, one after another, each in a process of its own. A context.

    program: what reads requests and forks the processes, in this folder.
    """

    def __init__(self, program="warm.py"):
        self.place = tempfile.TemporaryDirectory()
        library = compile_library(self.place.name)
        self.environment = os.environ | {
            "LD_PRELOAD": str(library),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
        }
        self.process = subprocess.Popen(
            [sys.executable, HERE / program],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()
        self.place.cleanup()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the warm process ended with {self.process.wait()}")
        return json.loads(line)

    def _ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return Ended(**self._answer())

    def run(self, command, cwd, folder="", at=0, mode="none", signals=(), limit=20):
        """Run a command, text or a list of words, in the folder cwd -> Ended.

        folder: what to watch, relative to cwd, "" for all of it; at, mode: what happens at which
        operation (faults.c). signals: pairs (number, seconds after the start). limit: seconds of
        computing.
        """
        argv = shlex.split(command) if isinstance(command, str) else list(map(str, command))
        watched = os.path.join(os.path.realpath(cwd), folder).rstrip("/")
        return self._ask(
            argv=argv,
            cwd=str(cwd),
            fault=[watched, at, mode],
            signals=sorted(signals, key=lambda pair: pair[1]),
            limit=limit,
        )

    def go_on(self, stopped, by=signal.SIGCONT):
        """Let a process go on that was stopped, or end it by another signal -> Ended."""
        return self._ask(go_on=stopped, by=int(by))


def run_cold(library, command, cwd, **variables):
    """Run a command in a Python of its own with the library loaded -> CompletedProcess."""
    return subprocess.run(
        [sys.executable, "-m", "minimixce", *shlex.split(command)],
        cwd=cwd,
        env=os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
