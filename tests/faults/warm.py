"""A process that has imported the package once and runs its commands in forked children, so that a
command takes a fraction of a second.

Started by driver.py with the library of faults.c loaded before the C library. It reads a request a
line and answers each with a line, both JSON.
"""

import contextlib
import ctypes
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from minimixce import cli
from minimixce.cli import program  # noqa: F401, so that children need not
from minimixce.experiments import compare, jobs, plots  # noqa: F401, so that children need not
from minimixce.experiments.synthetic import study  # noqa: F401

BUSY = 8  # the limit is of computing; a machine that does much else takes so many times as long
ENDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


def run_command(request, log):
    """In a child: one command, as a process of its own would run it. Never returns."""
    for number in ENDED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python starts
    os.chdir(request["cwd"])
    resource.setrlimit(resource.RLIMIT_CPU, (request["limit"], request["limit"] + 1))
    status = 1
    if request["fault"]:
        folder, at, mode = request["fault"]
        ctypes.CDLL(None).faults_set(folder.encode(), ctypes.c_long(at), mode.encode(), log)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDED)
        sys.argv[:] = ["minimixce", *request["argv"]]
        status = cli.main()  # as a program: with words it would leave Ctrl-C to its caller
    except SystemExit as stop:  # argparse
        status = stop.code
    except KeyboardInterrupt as error:
        if any(Path(cli.__file__).parent in Path(frame.filename).parents for frame in trace(error)):
            traceback.print_exc()  # otherwise it came before the command began, or after its end
        status = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDED)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if status == -signal.SIGINT:  # as Python ends where nothing caught it
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDED)
        os._exit(status)


def trace(error):
    return traceback.extract_tb(error.__traceback__)


class Child:
    """One command: its process and what it prints."""

    def __init__(self, request):
        self.place = tempfile.TemporaryDirectory()
        self.signals = list(request["signals"])
        self.limit = request["limit"]
        self.started = time.monotonic()
        files = [os.open(self._path(name), os.O_RDWR | os.O_CREAT) for name in "oel"]
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDED)
        self.pid = os.fork()
        if not self.pid:
            os.setpgid(0, 0)
            for number, place in enumerate([os.open(os.devnull, os.O_RDONLY), *files[:2]]):
                os.dup2(place, number)
            run_command(request, files[2])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDED)
        for file in files:
            os.close(file)

    def _path(self, name):
        return Path(self.place.name, name)

    def wait(self):
        """Until it ends, is stopped, or has taken too long -> the answer to its request."""
        hung = False
        while True:
            pid, how = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid:
                break
            seconds = time.monotonic() - self.started
            while self.signals and self.signals[0][1] <= seconds:
                os.kill(self.pid, self.signals.pop(0)[0])
            if seconds > BUSY * self.limit and not hung:
                hung = True
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.0005)
        stopped = os.WIFSTOPPED(how)
        hung = hung or (os.WIFSIGNALED(how) and os.WTERMSIG(how) == signal.SIGXCPU)
        if not stopped:
            self._end_workers()
        out, err, log = (self._path(name).read_text(errors="replace") for name in "oel")
        return {
            "status": None if stopped else os.waitstatus_to_exitcode(how),
            "out": out,
            "err": err,
            "operations": [line.split(" ", 1)[1] for line in log.splitlines()],
            "hung": hung,
            "stopped": self.pid if stopped else None,
            "seconds": time.monotonic() - self.started,
        }

    def _end_workers(self):
        """Processes that it left behind."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def main():
    figure = plots.new_figure()  # what it imports, and the fonts that a figure needs
    figure.subplots().set_title("η")
    figure.savefig(io.BytesIO(), format="png")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    children = {}
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "go_on" in request:  # one that was stopped
            child = children.pop(request["go_on"])
            child.started = time.monotonic()
            os.kill(child.pid, request["by"])
        else:
            child = Child(request)
        answer = child.wait()
        if answer["stopped"]:
            children[child.pid] = child
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
