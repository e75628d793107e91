"""A student's functions, as objects that call them in a sandbox.

RemoteFunctions looks like a module with the student's functions in it. A call sends its arrays to
the sandbox's process (child.py) and returns what comes back; an array that the function changed in
place is changed here, too; a cache, and all else that is not made of plain numbers, stays there and
is a Kept object here. Every check has a fork of its own, which starts with its first call and ends
with `__anew__`.
"""

import contextlib
import queue
import threading
from typing import Any, NoReturn

from . import frames, isolation
from .plain import one_line
from .references import References

_PATIENCE = 5  # as of child.py
_START = 60  # seconds within which a sandbox must have started
_GRACE = 10  # seconds after which a sandbox that says nothing is ended
_TOO_SLOW = "it takes too long: more than {seconds:g} s of computing, or {wall:g} s in all"

_ENDS = {
    "ended": "the program ended itself in the middle of a call",
    "protocol": "the program wrote to the grader's connection, or returned too much",
}
_UNREADABLE = "the program's answer cannot be read"
_OURS = ("missing", "return", "too slow", "ended", "not run", "too large")  # no class has these
_MAX_SLOW = 2  # checks of a task that take too long; the others are then not tried


class StudentError(Exception):
    """An exception in a student's code. kind: its class there, or "missing", "too slow",
    "ended", "not run", "too large"; line: where, as text. All are single lines.
    """

    def __init__(self, kind: str, text: str, line: str = "") -> None:
        super().__init__(one_line(text))
        self.kind, self.line = one_line(kind, 80), one_line(line, 200)


class SandboxFailed(OSError):
    """A sandbox that did not start: a fault of the machine, not of a student."""


class Kept:
    """An object that stays in the sandbox. type_name: its class there."""

    def __init__(self, session: "Session", number: int, type_name: str) -> None:
        self.session, self.number, self.type_name = session, number, type_name


class KeptFunction(Kept):
    """A function that stays in the sandbox, such as what `mixce(eta)` returns."""

    def __call__(self, *given: Any) -> Any:
        """Call it there. Raises StudentError for what it raises."""
        return self.session.call(self.number, given)


class Sandbox:
    """The process in a sandbox that serves one submission: started when needed, ended by `close`.

    tier: of isolation; limits: see isolation.limits. Counts the seconds that the submission used:
    `left` of computing, and `patience` of waiting.
    """

    def __init__(
        self, tier: str, limits: dict[str, Any] | None = None, seconds: float | None = None
    ) -> None:
        self.tier = tier
        self.limits = limits or isolation.limits(tier)
        self.left = isolation.SUBMISSION_SECONDS if seconds is None else seconds
        self.patience = isolation.SUBMISSION_WALL
        self.failed: SandboxFailed | None = None
        self.check: Session | None = None  # the present one
        self._process: Any = None
        self._reader: Any = None
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def start(self) -> None:
        """Start the process unless it runs. Raises SandboxFailed where it does not answer."""
        if self._process is not None:
            return
        self._process = isolation.start(self.tier, self.limits, self._stack)
        self._reader = _Reader(self._process.stdout)
        if self._reader.next(_START) is None:
            self.close()
            self.failed = SandboxFailed(f"the sandbox {self.tier} did not start")
            raise self.failed

    def close(self) -> None:
        """End the process, and remove what it needed of files."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._reader.close()
            self._process = None
        self._stack.close()

    def send(self, head: Any, parts: list[bytes]) -> None:
        """Send a message. Raises StudentError where the process is gone."""
        try:
            self._process.stdin.write(frames.pack(head, parts))
            self._process.stdin.flush()
        except (OSError, ValueError):
            self.gone()
        except frames.BadMessage as error:
            raise StudentError("too large", str(error)) from None

    def receive(self) -> tuple[bool, bytes]:
        """The next message: whether it is the sandbox's own, and its bytes. Raises StudentError
        where none comes.
        """
        found = self._reader.next(_PATIENCE * self.limits["wall"] + _GRACE)
        if found is None:
            self.gone()
        return found

    def gone(self) -> NoReturn:
        """End a process that no longer answers, and raise the StudentError that says so."""
        self.close()
        self.left -= self.limits["wall"]
        raise StudentError("ended", "the program ended, or ended the sandbox, without an answer")


class _Reader:
    """Reads messages from a stream, each when it is asked for, in a thread that may wait."""

    def __init__(self, stream):
        self.stream = stream
        self._asked, self._found = threading.Semaphore(0), queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def next(self, seconds):
        """The next message, (whether the sandbox's own, bytes); None at the end, or too late."""
        self._asked.release()
        with contextlib.suppress(queue.Empty):
            return self._found.get(timeout=seconds)
        return None

    def close(self):
        """End the thread and close the stream, whose writer has ended."""
        self.stream, stream = None, self.stream
        self._asked.release()
        self._thread.join(1)
        if not self._thread.is_alive():  # else another process still has the stream open
            stream.close()

    def _read(self):
        while True:
            self._asked.acquire()
            stream = self.stream
            found = None
            with contextlib.suppress(frames.BadMessage, OSError, ValueError):
                sender = stream and stream.read(1)
                message = frames.read(stream) if sender else None
                if message is not None:
                    found = sender == frames.FROM_SANDBOX, message
            self._found.put(found)
            if found is None:
                return


class Session:
    """One check: a fork of the sandbox's process in which the student's file was run.

    supplied: functions that take the place of the student's own, or None.
    """

    def __init__(
        self, sandbox: Sandbox, text: str, path: str, supplied: References | None = None
    ) -> None:
        self.sandbox, self.supplied = sandbox, supplied
        self.in_place = False  # whether arguments change here where the function changes them
        self.calls: dict[str, int] = {}  # how often a backward called its own forward
        self.open = False
        if min(sandbox.left, sandbox.patience) <= 0:
            raise StudentError("not run", "the submission's time is over")
        if sandbox.check is not None:  # it has a fork, which this one is not to share
            sandbox.check.close()
        sandbox.check = self
        sandbox.start()
        names: list[str] = []
        if supplied is not None:
            supplied.forget()
            names = supplied.names
        self.open = True
        try:
            given = {"path": path, "supplied": names}
            self._ask({"open": given}, [text.encode("utf-8", "surrogatepass")])
        except StudentError:
            self.close()
            raise

    def call(self, function: str | int, given: tuple) -> Any:
        """Call a function there, by name or number -> what it returns.

        With `in_place`, arrays that it changed are changed. Raises StudentError for what it raises.
        """
        if not self.open:
            raise StudentError("ended", "the program ended before")
        encoder = frames.Encoder(lambda value: self._other(value, encoder))
        arrays = _Arrays(encoder)
        tree = arrays.tree(given)
        asked = {"call": function, "with": tree, "counted": self.in_place}
        head, parts = self._ask(asked, encoder.frames)
        try:
            decoder = frames.Decoder(parts, self._kept)
            if self.in_place:
                arrays.change(head.get("changed", []), decoder)
                if type(function) is str and type(head.get("calls")) is int:
                    self.calls[function] = head["calls"]
            return decoder.value(head["returned"])
        except (frames.BadMessage, KeyError, TypeError, ValueError, AttributeError, MemoryError):
            self.close()
            raise StudentError("ended", _UNREADABLE) from None

    def close(self) -> None:
        """End the fork."""
        if self.open:
            self.open = False
            if self.sandbox.limits["single"]:
                self.sandbox.close()
                return
            with contextlib.suppress(StudentError):
                self.sandbox.send({"close": True}, [])
                is_own, message = False, b""
                while not is_own:  # a student's message may be on its way
                    is_own, message = self.sandbox.receive()
                self._count(frames.unpack(message)[0])

    def _ask(self, head, parts):
        """Send a message and wait for its answer; calls of supplied functions come before it."""
        called = head.get("call", "")
        try:
            while True:
                self.sandbox.send(head, parts)
                is_own, message = self.sandbox.receive()
                if is_own:
                    raise self._end(frames.unpack(message)[0])
                head, parts = self._taken_apart(message)
                if "supplied" not in head:
                    break
                head, parts = self._answer(head, parts)
        except StudentError as error:
            if error.kind in ("not run", "too large") or str(error) == _UNREADABLE:
                self.close()
            self.open = False
            raise
        if "missing" in head:
            raise StudentError("missing", str(called))
        if "error" in head:
            told = head["error"] if type(head["error"]) is dict else {}
            kind, text, line = (str(told.get(key, ""))[:4000] for key in ("kind", "text", "line"))
            raise StudentError("Exception" if kind in _OURS else kind, text, line)
        return head, parts

    def _taken_apart(self, message):
        """A student's message -> head, a dict, and frames."""
        with contextlib.suppress(frames.BadMessage):
            head, parts = frames.unpack(message)
            if type(head) is dict:
                return head, parts
        raise StudentError("ended", _UNREADABLE)

    def _answer(self, head, parts):
        """Call a supplied function -> the answer's head and frames."""
        if self.supplied is None:
            return {"error": "there is no such function to call"}, []
        answer, parts, seconds = self.supplied.answer(head, parts)
        self.sandbox.left -= seconds
        if self.sandbox.left <= 0:
            raise StudentError("not run", "the submission's time is over")
        return answer, parts

    def _end(self, head):
        """Why the fork ended, as an exception."""
        limits = self.sandbox.limits
        if head["ended"] == "time":
            self._count(head, waited=limits["wall"])
            said = _TOO_SLOW.format(seconds=limits["seconds"], wall=limits["wall"])
            return StudentError("too slow", said)
        self._count(head)
        how = _ENDS.get(head["ended"], f"it was ended by {str(head['ended'])[:40]}")
        return StudentError("ended", how)

    def _count(self, head, waited=0):
        """Take what the fork used from the submission's time; of one that only waited, that."""
        seconds = head["seconds"]
        computed = seconds >= 0.5 * self.sandbox.limits["seconds"]
        self.sandbox.left -= seconds if computed else max(seconds, waited)
        self.sandbox.patience -= head["waited"]

    def _other(self, value, encoder):
        """The tree of what is not plain: an object kept there, a function made of arrays."""
        if isinstance(value, Kept):
            if value.session is not self:
                raise StudentError("ended", "the program ended before")
            return {"kept": value.number}
        recipe = getattr(value, "recipe", None)
        if recipe is None:
            raise TypeError(f"a {type(value).__name__} cannot be sent to the sandbox")
        arrays = [encoder.tree(array) for array in recipe.arrays]
        return {"made": recipe.name, "arrays": arrays, "part": recipe.part, "group": recipe.group}

    def _kept(self, tree):
        number, name = tree.get("kept"), tree.get("type")
        if type(number) is not int or type(name) is not str:
            raise frames.BadMessage("not a value")
        made = KeptFunction if tree.get("callable") is True else Kept
        return made(self, number, one_line(name, 80))


class _Arrays:
    """The arrays of a call's arguments by frame, so that changes in place come back to them."""

    def __init__(self, encoder):
        self.encoder = encoder
        self.by_frame = {}

    def tree(self, value):
        """As Encoder.tree, for the arguments of a call."""
        if isinstance(value, (tuple, list)):
            kind = "t" if isinstance(value, tuple) else "l"
            return {kind: [self.tree(item) for item in value]}
        if isinstance(value, dict):
            return {"d": [[key, self.tree(item)] for key, item in value.items()]}
        tree = self.encoder.tree(value)
        if "a" in tree:
            self.by_frame[tree["a"]] = value
        return tree

    def change(self, changed, decoder):
        """Write into the arguments what the function wrote into its copies of them."""
        for index, tree in changed:
            new = decoder.value(tree)
            array = self.by_frame.get(index)
            if array is not None and new.shape == array.shape and new.dtype == array.dtype:
                array[...] = new


class RemoteFunctions:
    """A student's functions as attributes; each is called in the sandbox.

    text: the student's file; path: its name in messages; supplied: see Session.
    """

    def __init__(
        self, sandbox: Sandbox, text: str, path: str, supplied: References | None = None
    ) -> None:
        self.__dict__.update(
            __sandbox__=sandbox,
            __file__=(text, path, supplied),
            __session__=None,
            __slow__=[],
            __calls__={},
            __writes__=False,
        )

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*given):
            slow = self.__dict__["__slow__"]
            if len(slow) >= _MAX_SLOW:
                raise slow[0]
            try:
                return self.__ready__().call(name, given)
            except StudentError as error:
                if error.kind == "too slow":
                    slow.append(error)
                raise

        return call

    def __ready__(self) -> Session:
        """The session of the present check, opened if there is none."""
        if self.__dict__["__session__"] is None:
            session = Session(self.__sandbox__, *self.__file__)
            session.in_place, session.calls = self.__writes__, self.__calls__
            self.__dict__["__session__"] = session
        return self.__dict__["__session__"]

    def __anew__(self):
        """End the present check's process -> self. The next call starts another one."""
        session, self.__dict__["__session__"] = self.__dict__["__session__"], None
        self.__dict__["__writes__"] = False
        if session is not None:
            session.close()
        return self

    def __in_place__(self):
        """Let the present check's calls change their arguments here where they do there -> self.

        Otherwise a program could change what the grader compares its results with.
        """
        self.__dict__["__writes__"] = True
        return self
