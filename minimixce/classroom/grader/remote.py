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
from typing import Any

import numpy as np

from . import frames, isolation

_GRACE = 10  # seconds after which a sandbox that says nothing is ended
_TOO_SLOW = "it takes too long: more than {seconds:g} s of computing, or {wall:g} s in all"

_ENDS = {
    "ended": "the program ended itself in the middle of a call",
    "protocol": "the program wrote to the grader's connection, or returned too much",
}
_MAX_SLOW = 2  # checks of a task that take too long; the others are then not tried


class StudentError(Exception):
    """An exception in a student's code. kind: its class there, or "missing", "too slow",
    "ended", "not run"; line: where, as text.
    """

    def __init__(self, kind: str, text: str, line: str = ""):
        super().__init__(text)
        self.kind, self.line = kind, line


class Kept:
    """An object that stays in the sandbox. type_name: its class there."""

    def __init__(self, session, number, type_name):
        self.session, self.number, self.type_name = session, number, type_name


class KeptFunction(Kept):
    """A function that stays in the sandbox, such as what `mixce(eta)` returns."""

    def __call__(self, *given):
        """Call it there."""
        return self.session.call(self.number, given)


class Sandbox:
    """The process in a sandbox that serves one submission: started when needed, ended by `close`.

    tier: of isolation; limits: see isolation.limits. Counts the seconds that the submission used.
    """

    def __init__(self, tier: str, limits: dict | None = None, seconds: float | None = None):
        self.tier = tier
        self.limits = limits or isolation.limits(tier)
        self.left = isolation.SUBMISSION_SECONDS if seconds is None else seconds
        self._process: Any = None
        self._messages: Any = None
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def start(self) -> None:
        """Start the process unless it runs."""
        if self._process is not None:
            return
        self._process = isolation.start(self.tier, self.limits, self._stack)
        self._messages = queue.Queue()
        arguments = (self._process.stdout, self._messages)
        threading.Thread(target=_read_all, args=arguments, daemon=True).start()

    def close(self) -> None:
        """End the process, and remove what it needed of files."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()
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

    def receive(self) -> tuple[Any, list[bytes]]:
        """The next message. Raises StudentError where none comes, or none that is a message."""
        try:
            message = self._messages.get(timeout=self.limits["wall"] + _GRACE)
        except queue.Empty:
            message = None
        if message is None:
            self.gone()
        try:
            return frames.unpack(message)
        except frames.BadMessage:
            self.gone()
        raise AssertionError

    def gone(self):
        """End a process that no longer answers, and say so."""
        self.close()
        self.left -= self.limits["wall"]
        raise StudentError("ended", "the program ended, or ended the sandbox, without an answer")


def _read_all(stream, messages):
    """Put all messages of a stream into a queue; None when there are no more."""
    try:
        while (message := frames.read(stream)) is not None:
            messages.put(message)
    except (frames.BadMessage, OSError, ValueError):
        pass
    messages.put(None)


class Session:
    """One check: a fork of the sandbox's process in which the student's file was run.

    supplied: {name: function} that take the place of the student's own, and are called here.
    """

    def __init__(self, sandbox: Sandbox, text: str, path: str, supplied: dict):
        self.sandbox, self.supplied = sandbox, supplied
        self.held: list[Any] = []  # objects of supplied functions, which stay here
        self.open = False
        if sandbox.left <= 0:
            raise StudentError("not run", "the submission's time is over")
        sandbox.start()
        given = {"text": text, "path": path, "supplied": list(supplied)}
        self.open = True
        try:
            self._ask({"open": given}, [])
        except StudentError:
            self.close()
            raise

    def call(self, function: str | int, given: tuple) -> Any:
        """Call a function there, by name or number -> what it returns.

        Arrays that it changed in place are changed. Raises StudentError for what it raises.
        """
        if not self.open:
            raise StudentError("ended", "the program ended before")
        encoder = frames.Encoder(lambda value: self._other(value, encoder))
        arrays = _Arrays(encoder)
        tree = arrays.tree(given)
        head, parts = self._ask({"call": function, "with": tree}, encoder.frames)
        try:
            decoder = frames.Decoder(parts, self._kept)
            arrays.change(head.get("changed", []), decoder)
            return decoder.value(head["returned"])
        except (frames.BadMessage, KeyError, TypeError, ValueError, AttributeError):
            self.close()
            raise StudentError("ended", "the program's answer cannot be read") from None

    def close(self) -> None:
        """End the fork."""
        if self.open:
            self.open = False
            if self.sandbox.limits["single"]:
                self.sandbox.close()
                return
            with contextlib.suppress(StudentError):
                self.sandbox.send({"close": True}, [])
                while "ended" not in (head := self.sandbox.receive()[0]):
                    pass
                self._count(head)

    def _ask(self, head, parts):
        """Send a message and wait for its answer; calls of supplied functions come before it."""
        try:
            self.sandbox.send(head, parts)
            while True:
                head, parts = self.sandbox.receive()
                if type(head) is not dict:
                    self.sandbox.gone()
                if "supplied" not in head:
                    break
                self.sandbox.send(*self._answer(head, parts))
        except StudentError:
            self.open = False
            raise
        if "ended" in head:
            self.open = False
            raise self._end(head)
        if "error" in head:
            error = head["error"] if type(head["error"]) is dict else {}
            kind, text, line = (str(error.get(key, ""))[:2000] for key in ("kind", "text", "line"))
            raise StudentError(kind, text, line)
        return head, parts

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
        seconds = head.get("seconds")
        if type(seconds) is float and 0 <= seconds < 1e6:
            computed = seconds >= 0.9 * self.sandbox.limits["seconds"]
            self.sandbox.left -= seconds if computed else max(seconds, waited)

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
        return made(self, number, name[:80])

    def _answer(self, head, parts):
        """Call a supplied function -> the answer's head and frames."""
        encoder = frames.Encoder(self._hold)
        try:
            decoder = frames.Decoder(parts, lambda tree: self.held[tree["held"]])
            given, named = decoder.value(head["with"]), decoder.value(head["named"])
            with np.errstate(all="ignore"):
                returned = self.supplied[head["supplied"]](*given, **named)
            if head["supplied"].endswith("_forward"):
                tree = {"t": [encoder.tree(returned[0]), self._hold(returned[1])]}
            else:
                tree = encoder.tree(returned)
            return {"returned": tree}, encoder.frames
        except Exception as error:  # of arguments that the student's code chose
            return {"error": f"{type(error).__name__}: {error}"[:500]}, []

    def _hold(self, value):
        self.held.append(value)
        return {"held": len(self.held) - 1}


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

    def __init__(self, sandbox: Sandbox, text: str, path: str, supplied: dict | None = None):
        self.__dict__.update(
            __sandbox__=sandbox,
            __file__=(text, path, supplied or {}),
            __session__=None,
            __slow__=[],
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
            self.__dict__["__session__"] = Session(self.__sandbox__, *self.__file__)
        return self.__dict__["__session__"]

    def __anew__(self):
        """End the present check's process -> self. The next call starts another one."""
        session, self.__dict__["__session__"] = self.__dict__["__session__"], None
        if session is not None:
            session.close()
        return self
