"""The command line: minimixce train, sample, eval, compare, synthetic, prepare, gradcheck, grade.

Nothing is computed here. A command declares its options, makes the call that a program would make,
and prints what comes back. This file is what starts first: it imports next to nothing, so that
Ctrl-C ends a program that still imports NumPy in one line.
"""

import sys

TYPE_CHECKING = False  # which type checkers take for True, as that of typing, a slow import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run one command, `argv` (a list of words, by default the program's own) -> exit status: 0
    done, 1 a check failed, 2 bad input (one sentence on stderr), 130 interrupted, 141 the reader of
    standard output is gone.
    """
    if argv is not None:
        return _run(argv, lambda: None)
    argv = sys.argv[1:]
    try:
        return _run_as_program(argv)
    except KeyboardInterrupt:  # a moment before or after the work
        _end(argv)


def _run_as_program(argv: "Sequence[str]") -> int:
    """Until the work begins, Ctrl-C ends the process at once: nothing is to be saved, and inside
    the imports of NumPy a KeyboardInterrupt could become another error.
    """
    import signal

    default = signal.default_int_handler
    if signal.getsignal(signal.SIGINT) is not default:  # ignored, as by nohup, or a program's own
        return _run(argv, lambda: None)
    signal.signal(signal.SIGINT, lambda *_: _end(argv))
    try:
        return _run(argv, lambda: signal.signal(signal.SIGINT, default))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback from what Python does at exit


def _run(argv: "Sequence[str]", begin: "Callable[[], object]") -> int:
    from .program import run

    return run(argv, _name(argv), begin)


def _name(argv: "Sequence[str]") -> str:
    """What errors begin with: the program and its command."""
    return f"minimixce {argv[0]}" if argv and argv[0].isidentifier() else "minimixce"


def _end(argv: "Sequence[str]") -> "NoReturn":
    """End the process at once."""
    import os

    os.write(2, f"{_name(argv)}: interrupted\n".encode(errors="replace"))
    os._exit(130)
