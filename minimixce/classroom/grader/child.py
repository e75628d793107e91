"""The process in a sandbox that runs a student's code: "call this function on these arrays".

It holds no answer and no secret. It stays alive for one submission and forks for each check, so
that what one check does to the process is gone in the next; the fork runs the student's file, and
this process passes on whole messages between the fork and the grader, ends the fork when its time
is over, and says why it ended. Where there is no fork (Windows), one process serves one check.

    python -I -S child.py LIBRARY '{"tier": …, "uid": …, "seconds": …, "wall": …, "memory": …}'

LIBRARY: the folder with NumPy, and with nothing of the package. Imports the files beside it only.
"""

import contextlib
import itertools
import json
import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), sys.argv[1]]

import arguments  # noqa: E402
import confine  # noqa: E402
import frames  # noqa: E402
import numpy as np  # noqa: E402

_MAX_TEXT = 2000  # characters of an exception that are sent
_PATIENCE = 5  # times the limit of waiting that a check may take that computes all the while
np.linalg.svd(np.eye(2))  # so that a fork need not load it


class Server:
    """Answers the grader's messages about one student's file, over two streams."""

    def __init__(self, reader: Any, writer: Any, before: bytes = b"") -> None:
        self.reader, self.writer = reader, writer
        self.before = before  # written before each message
        self.names: dict[str, Any] = {}
        self.path = "submission.py"
        self.kept: dict[int, Any] = {}  # objects that stay here, by number
        self.numbers = itertools.count()

    def serve(self) -> None:
        """Answer until the grader ends the check."""
        while (message := frames.read(self.reader)) is not None:
            head, parts = frames.unpack(message)
            if "open" in head:
                self._open(head["open"], parts[0])
            elif "call" in head:
                self._call(head, parts)
            elif "close" in head:
                return

    def send(self, head: Any, parts: Sequence[bytes] = ()) -> None:
        """Send a message; one that is too large is sent as the exception that it is."""
        try:
            message = frames.pack(head, list(parts))
        except frames.BadMessage as error:
            message = frames.pack({"error": {"kind": "MemoryError", "text": str(error)}}, [])
        self.writer.write(self.before + message)
        self.writer.flush()

    def _open(self, given, text):
        """Run the student's file; functions in `supplied` are then replaced by the grader's."""
        self.path = given["path"]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.names = {"__name__": "submission", "__file__": self.path}
                program = text.decode("utf-8", "surrogatepass")
                exec(compile(program, self.path, "exec"), self.names)
        except BaseException as error:
            self.send({"error": self._described(error)})
            return
        for name in given["supplied"]:
            self.names[name] = Supplied(self, name)
        self.send({"loaded": True})

    def _call(self, head, parts):
        made = Made(self.kept)
        decoder = made.decoder = frames.Decoder(parts, made)
        called = head["call"]
        function = self.kept.get(called) if type(called) is int else self.names.get(called)
        if function is None or (type(called) is str and called.startswith("__")):
            self.send({"missing": True})
            return
        given = decoder.value(head["with"])
        before = {k: array.tobytes() for k, array in decoder.arrays.items()}
        try:
            counted = _Counted(self.names, called if head.get("counted") else "")
            with np.errstate(all="ignore"), warnings.catch_warnings(), counted:
                warnings.simplefilter("ignore")
                returned = function(*given)
            encoder = frames.Encoder(self._keep)
            reply = {"returned": self._returned(encoder, returned, called)}
        except BaseException as error:
            self.send({"error": self._described(error)})
            return
        changed = [k for k, array in decoder.arrays.items() if array.tobytes() != before[k]]
        reply["changed"] = [[k, encoder.tree(np.array(decoder.arrays[k]))] for k in changed]
        reply["calls"] = counted.calls
        self.send(reply, encoder.frames)

    def _returned(self, encoder, returned, called):
        """The tree of what a function returned; the cache of a forward stays here."""
        is_pair = type(returned) is tuple and len(returned) == 2
        if is_pair and type(called) is str and called.endswith("_forward"):
            return {"t": [encoder.tree(returned[0]), self._keep(returned[1])]}
        return encoder.tree(returned)

    def _keep(self, value):
        number = next(self.numbers)
        self.kept[number] = value
        name = type(value).__name__
        if isinstance(value, np.ndarray) and type(value) is np.ndarray:
            name = f"array of {value.dtype}"
        return {"kept": number, "type": name[:80], "callable": callable(value)}

    def _described(self, error):
        """What the grader is told of an exception: its class, its text and the student's line."""
        line = ""
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename == self.path:
                where = "" if frame.name == "<module>" else f" in {frame.name},"
                line = f"{where} line {frame.lineno},"
                break
        with contextlib.suppress(BaseException):
            text = str(error)
            if isinstance(error, SyntaxError):
                line, text = "", f"line {error.lineno}: {error.msg}: {(error.text or '').strip()}"
            return {"kind": type(error).__name__[:80], "text": text[:_MAX_TEXT], "line": line[:200]}
        return {"kind": "Exception", "text": "an exception without a text", "line": line[:200]}

    def ask(self, function: str | int, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Have the grader call a function of its own, by name or number -> what it returns."""
        encoder = frames.Encoder(_refuse)
        trees = encoder.tree(given), encoder.tree(named)
        self.send({"supplied": function, "with": trees[0], "named": trees[1]}, encoder.frames)
        message = frames.read(self.reader)
        if message is None:
            raise SystemExit
        head, parts = frames.unpack(message)
        if "error" in head:
            raise ValueError(head["error"])
        return frames.Decoder(parts, self._held).value(head["returned"])

    def _held(self, tree):
        return (HeldFunction if tree["callable"] else Held)(self, tree["held"])


class _Counted:
    """A context that counts how often a backward calls its own forward: finite differences do."""

    def __init__(self, names, called):
        is_backward = type(called) is str and called.endswith("_backward")
        forward = names.get(called[: -len("backward")] + "forward") if is_backward else None
        self.code = getattr(forward, "__code__", None)
        self.calls = 0

    def __enter__(self):
        if self.code is not None:
            sys.setprofile(self._see)

    def __exit__(self, *error):
        if self.code is not None:
            sys.setprofile(None)

    def _see(self, frame, event, _):
        if event == "call" and frame.f_code is self.code:
            self.calls += 1


class Supplied:
    """A function of an earlier task that the grader computes, where the student's is wrong."""

    def __init__(self, server: Server, name: str) -> None:
        self._server, self.__name__ = server, name

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call it."""
        return self._server.ask(self.__name__, given, named)


class Held:
    """An object that stays with the grader, such as a supplied forward's cache."""

    def __init__(self, server: Server, number: int) -> None:
        self.server, self.number = server, number


class HeldFunction(Held):
    """A function that stays with the grader, such as what a supplied `mixce(eta)` returns."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call it."""
        return self.server.ask(self.number, given, named)


def _refuse(value):
    if isinstance(value, Held):
        return {"held": value.number}
    raise TypeError(f"a {type(value).__name__} where an array is wanted")


class Made:
    """Makes what is not plain among arguments: objects kept here, functions of `arguments`."""

    def __init__(self, kept: dict[int, Any]) -> None:
        self.kept = kept
        self.groups: dict[int, Any] = {}
        self.decoder: Any = None

    def __call__(self, tree: dict[str, Any]) -> Any:
        """The object of a tree."""
        if "kept" in tree:
            return self.kept[tree["kept"]]
        name, part, group = tree["made"], tree["part"], tree["group"]
        if group not in self.groups:
            arrays = [self.decoder.value(array) for array in tree["arrays"]]
            self.groups[group] = arguments.MAKERS[name](*arrays)
        value = self.groups[group]
        return value[part] if isinstance(value, tuple) else value


# ---- one fork for each check ---------------------------------------------------------------------


def supervise(limits: dict[str, Any]) -> None:
    """Fork for each check that the grader opens, and pass messages on, until the input ends."""
    while (message := frames.read(sys.stdin.buffer)) is not None:
        if "open" in frames.unpack(message)[0]:
            _one_check(message, limits)


def _one_check(message, limits):
    """Run one check in a fork, until the grader or the fork ends it, or its time is over."""
    import socket

    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        _become_the_student(here, there, limits)
    there.close()
    clock = _Clock(pid, limits["wall"])
    reason = _pass_on(here, message, clock)
    here.close()
    found = _own_end(pid) if reason == "ended" else None
    if found is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _, status, used = found or os.wait4(pid, 0)
    cpu = used.ru_utime + used.ru_stime
    if found and os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        # the limit of computing time ends it by one signal, or by another if it ignores that; the
        # kernel's two ways of counting time differ by some ticks
        at_limit = number == signal.SIGXCPU or cpu >= 0.9 * limits["seconds"]
        reason = "time" if at_limit else f"signal {number}"
    _write(frames.pack({"ended": reason, "seconds": cpu, "waited": clock.waited}, []))


def _own_end(pid):
    """What os.wait4 returns of a fork that ends by itself, or None: it has only hung up."""
    for _ in range(200):
        found = os.wait4(pid, os.WNOHANG)
        if found[0]:
            return found
        time.sleep(0.005)
    return None


class _Clock:
    """How long a fork has kept the grader waiting: not the time in which it waits for the grader.

    A fork that only waits is ended after `wall` seconds. One that computes has a limit of computing
    time, which it reaches later where other programs use the processor too.
    """

    def __init__(self, pid, wall):
        self.pid, self.wall = pid, wall
        self.waited, self.since = 0.0, None

    def start(self):
        """The grader begins to wait."""
        self.since = time.monotonic()

    def stop(self):
        """The grader has its answer."""
        self.waited += time.monotonic() - self.since
        self.since = None

    def left(self):
        """Seconds until the fork must have answered or be looked at again; 0 where it is over."""
        waited = self.waited + time.monotonic() - self.since
        if waited < self.wall:
            return self.wall - waited
        computes = _computing_time(self.pid) > waited / 20
        return 0.5 if computes and waited < _PATIENCE * self.wall else 0


def _computing_time(pid):
    """Seconds that a process has computed; 0 where the system does not say."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the clock of a process, on Linux
    except (AttributeError, OSError, OverflowError):
        return 0.0


def _become_the_student(here, there, limits):
    """In the fork: give up every right, then run the student's file. Does not return."""
    try:
        here.close()
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        reader, writer = there.makefile("rb"), there.makefile("wb")
        confine.confine(limits)
        Server(reader, writer).serve()
    finally:
        os._exit(0)


def _pass_on(fork, message, clock):
    """Pass messages on between the grader and a fork, one for one -> why it ended.

    "closed" by the grader, "ended" by the fork, "time", or "protocol". The fork is read only where
    the grader waits for it, so that it cannot fill the grader's memory, nor answer unasked.
    """
    try:
        clock.start()
        _send_on(fork, message, clock)
        while True:
            answer = _receive(fork, clock)
            if type(answer) is str:
                return answer
            clock.stop()
            _write(answer, frames.FROM_STUDENT)
            message = frames.read(sys.stdin.buffer)
            if message is None or "close" in frames.unpack(message)[0]:
                return "closed"
            if select.select([fork], [], [], 0)[0]:
                return "protocol" if fork.recv(1) else "ended"
            clock.start()
            _send_on(fork, message, clock)
    except TimeoutError:
        return "time"
    except frames.BadMessage:
        return "protocol"
    except OSError:
        return "ended"
    finally:
        if clock.since is not None:
            clock.stop()


def _send_on(fork, message, clock):
    fork.settimeout(max(0.01, clock.left()))
    fork.sendall(message)


def _receive(fork, clock):
    """The fork's next message, or why there is none: "time", "ended", "closed", "protocol"."""
    got = bytearray()
    while (left := clock.left()) > 0:
        ready, _, _ = select.select([fork, 0], [], [], left)
        if 0 in ready:  # the grader does not wait for the answer: it ends, or has ended
            return "closed"
        if fork in ready:
            part = fork.recv(1 << 20)
            if not part:
                return "ended"
            got += part
            size = frames.length(bytes(got[:8]))
            if size is not None and len(got) >= size:
                return bytes(got) if len(got) == size else "protocol"
    return "time"


def _write(message, sender=frames.FROM_SANDBOX):
    sys.stdout.buffer.write(sender + message)
    sys.stdout.buffer.flush()


def main() -> None:
    """Serve one submission on standard input and output."""
    limits = json.loads(sys.argv[2])
    _write(frames.pack({"ready": True}, []))
    if hasattr(os, "fork") and not limits.get("single"):
        confine.protect()
        supervise(limits)
        return
    writer = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    confine.confine(limits)
    Server(sys.stdin.buffer, writer, frames.FROM_STUDENT).serve()


if __name__ == "__main__":
    main()
