"""A trial of a tier: a program that does what no submission should be able to do."""

import contextlib
import os
import socket
import tempfile
from pathlib import Path

import numpy as np

from .remote import RemoteFunctions, Sandbox, StudentError

_PROGRAM = '''
import os
import socket
import threading

import numpy as np


def _tried(action):
    try:
        action()
    except BaseException:
        return False
    return True


def _fork():
    if os.fork() == 0:
        os._exit(0)


def _connect(family, address):
    with socket.socket(family) as connection:
        connection.settimeout(1)
        connection.connect(address)


def attempt(secret, port, pid):
    """{what it tried: whether that worked}."""
    folder = os.path.dirname(secret)
    return {
        "read a file": _tried(lambda: open(secret).read()),
        "list a folder": _tried(lambda: os.listdir(folder)),
        "write a file": _tried(lambda: open(secret + ".mine", "w").write("x")),
        "write to /dev/shm": _tried(lambda: open("/dev/shm/mine", "w").write("x")),
        "connect to this machine": _tried(lambda: _connect(socket.AF_INET, ("127.0.0.1", port))),
        "start a process": _tried(_fork),
        "start a thread": _tried(lambda: threading.Thread(target=int).start()),
        "end the grader": _tried(lambda: os.kill(pid, 0)),
        "read the grader's memory": _tried(lambda: open(f"/proc/{pid}/environ", "rb").read()),
        "become root": _tried(lambda: os.setuid(0)),
    }


def product(a):
    return a @ a
'''


_ALLOWED = {"docker": {"start a process", "start a thread", "write to /dev/shm"}}  # within limits


def escapes(tier: str) -> str:
    """What a program in a tier could do and should not, or why the tier fails; "" if it holds."""
    try:
        with tempfile.TemporaryDirectory(prefix="minimixce-secret-") as folder, _listener() as port:
            os.chmod(folder, 0o777)
            secret = Path(folder, "secret")
            secret.write_text("secret", encoding="ascii")
            secret.chmod(0o666)
            return _try(tier, str(secret), port)
    except (StudentError, OSError, TypeError) as error:
        return f"{tier} cannot be started: {error}{_hint(tier)}"


def _try(tier, secret, port):
    a = np.arange(9.0).reshape(3, 3)
    with Sandbox(tier) as sandbox:
        functions = RemoteFunctions(sandbox, _PROGRAM, "trial.py")
        found = functions.attempt(secret, port, os.getpid())
        if not np.array_equal(functions.product(a), a @ a):
            return "a product of matrices is wrong in it"
        functions.__anew__()
    found = [what for what, worked in found.items() if worked]
    could = [what for what in found if what not in _ALLOWED.get(tier, ())]
    return f"a program in it could {', '.join(could)}" if could else ""


@contextlib.contextmanager
def _listener():
    """A context with the number of a port of this machine that answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def _hint(tier):
    """What may be in the way."""
    setting = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    with contextlib.suppress(OSError):
        if tier == "bwrap" and setting.read_text().strip() == "1" and os.geteuid() != 0:
            return (
                "; AppArmor refuses user namespaces: give bwrap a profile of its own "
                "(abi <abi/4.0>, profile bwrap /usr/bin/bwrap flags=(unconfined) { userns, })"
            )
    return ""
