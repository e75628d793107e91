"""The references of earlier tasks, called by a student's program: in a process of their own.

Students choose the arguments, and there are arguments with which a right function takes all memory
or never ends. So they are not computed in the grader's process but in one with limits, which runs
no student's code. It starts with the first call, and again where a call has ended it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from . import frames

SECONDS = 2  # of computing, a call
MEMORY = 1 << 30  # bytes of address space
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from minimixce.classroom.grader.references import serve;"
    "serve(sys.argv[2], int(sys.argv[3]))"
)


class ReferencesFailed(OSError):
    """References that did not start: the machine's fault, not a student's."""


class References:
    """The functions with these names of an assignment's reference, for one submission.

    name, variant: of the assignment; names: of the functions that may be called.
    """

    def __init__(self, name: str, variant: int, names: Iterable[str]) -> None:
        self.names = list(names)
        self._arguments = name, str(variant)
        self.failed: ReferencesFailed | None = None
        self._process: Any = None

    def answer(self, head: dict, parts: list[bytes]) -> tuple[dict, list[bytes], float]:
        """Call a function -> the answer's head and frames, and the seconds it computed.

        head: {"supplied": its name, or the number of one that is held, "with": …, "named": …}.
        """
        called = head.get("supplied")
        if type(called) is not int and called not in self.names:
            return {"error": "there is no such function to call"}, [], 0.0
        start = time.monotonic()
        self._start()
        try:
            self._process.stdin.write(frames.pack(head, parts))
            self._process.stdin.flush()
            message = frames.read(self._process.stdout)
        except (OSError, frames.BadMessage):
            message = None
        if message is None:
            self.close()
            said = f"{called}: its arguments need too much time or memory"
            return {"error": said}, [], max(float(SECONDS), time.monotonic() - start)
        answer, parts = frames.unpack(message)
        return answer, parts, answer.pop("seconds")

    def forget(self) -> None:
        """A new check begins: objects that were held are no longer."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(frames.pack({"forget": True}, []))
                self._process.stdin.flush()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()
            self._process = None

    def _start(self):
        if self._process is None:
            # -I, and another working folder: the present one may hold a submission's json.py
            line = [sys.executable, "-I", "-c", _START, json.dumps(_safe_path()), *self._arguments]
            self._process = subprocess.Popen(
                line,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=os.path.abspath(os.sep),
                start_new_session=os.name == "posix",
            )
            if frames.read(self._process.stdout) is None:
                self.close()
                self.failed = ReferencesFailed("the process of the references did not start")
                raise self.failed


def _safe_path():
    """sys.path without the working folder, unless this package itself is in that."""
    own = Path(__file__).resolve().parents[3]
    here = Path.cwd()
    absolute = [path for path in sys.path if os.path.isabs(path)]
    return [path for path in absolute if Path(path) != here or Path(path).resolve() == own]


# ---- in the process ------------------------------------------------------------------------------


def serve(name: str, variant: int) -> None:
    """Answer calls on standard input and output, until the input ends."""
    from ..assignments import assignment
    from ..catalogue import load_source

    functions = load_source(assignment(name, variant).source(variant), "reference")
    _limit_memory()
    sys.stdout.buffer.write(frames.pack({"ready": True}, []))
    sys.stdout.buffer.flush()
    held: list[Any] = []
    while (message := frames.read(sys.stdin.buffer)) is not None:
        head, parts = frames.unpack(message)
        if "forget" in head:
            held.clear()
            continue
        start = time.process_time()
        _limit_time(SECONDS)
        answer, parts = _answer(functions, held, head, parts)
        answer["seconds"] = time.process_time() - start
        message = _packed(answer, parts)
        _limit_time(0)
        sys.stdout.buffer.write(message)
        sys.stdout.buffer.flush()


def _answer(functions, held, head, parts):
    """Call a function -> the answer's head and frames."""

    def hold(value):
        held.append(value)
        return {"held": len(held) - 1, "callable": callable(value)}

    encoder = frames.Encoder(hold)
    try:
        decoder = frames.Decoder(parts, lambda tree: _held(held, tree))
        given, named = decoder.value(head["with"]), decoder.value(head["named"])
        called = head["supplied"]
        function = _held(held, {"held": called}) if type(called) is int else functions[called]
        with np.errstate(all="ignore"):
            returned = function(*given, **named)
        if type(called) is str and called.endswith("_forward"):
            tree = {"t": [encoder.tree(returned[0]), hold(returned[1])]}
        else:
            tree = encoder.tree(returned)
        return {"returned": tree}, encoder.frames
    except Exception as error:  # of arguments that the student's code chose
        return {"error": f"{type(error).__name__}: {error}"[:500]}, []


def _held(held, tree):
    number = tree.get("held")
    if type(number) is not int or not 0 <= number < len(held):
        raise frames.BadMessage("not an object that is held")
    return held[number]


def _packed(answer, parts):
    try:
        return frames.pack(answer, parts)
    except frames.BadMessage as error:
        return frames.pack({"error": str(error), "seconds": answer["seconds"]}, [])


def _limit_memory():
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(seconds):
    """End this process by a signal once it has computed so long; 0 takes the limit back."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
