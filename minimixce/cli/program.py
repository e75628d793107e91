"""One command: from words to a call, and from what it raises to a sentence."""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from ..storage.terminal import one_line, printable
from ..storage.validate import WithTable
from ..training.threads import limit_threads

# what each command is for; its module, of the same name unless it is in _MODULES, is imported only
# when it is asked for, which keeps `minimixce --help` quick
COMMANDS = {
    "train": "train a GPT on text",
    "sample": "let a trained model write",
    "eval": "measure a trained model on text",
    "compare": "train with several objectives on the same data, seeds and budget, and measure",
    "synthetic": "how well each objective recovers a known bigram world: the paper's table",
    "prepare": "encode a large text once, into files that training reads as it needs them",
    "gradcheck": "check every gradient against numerical derivatives, tensor by tensor",
    "grade": "what is wrong with a solution of an assignment, and its points",
}
_MODULES = {"eval": "evaluate"}
# what of each command to make smaller where memory runs out; that of all others is small
_SIZES = {
    "train": "--batch-size, --block-size, --n-embd, --n-layer or --sequences",
    "sample": "--tokens or --count",
    "eval": "--samples, --tokens or --eval-tokens",
    "compare": "--batch-size, --block-size, --n-embd, --n-layer, --samples or --tokens",
    "synthetic": "--vocab or --jobs",
    "gradcheck": "--shapes",
}


def run(argv: Sequence[str], name: str, begin: Callable[[], object]) -> int:
    """cli.main for the words `argv` -> exit status.

    name: what errors begin with; begin: called when the options are read and the work begins.
    """
    _prepare_streams()
    command = argv[0] if argv else ""
    try:
        given = _read(argv, command)
        # numbers that are not finite end in a sentence, and need no warnings
        with limit_threads(given.get("threads")), np.errstate(all="ignore"):
            module = _module(_MODULES.get(command, command))
            begin()
            status: int = module.run(given)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of a pipe has seen enough; 141 is what a shell calls that
        _drop_output()
        return 141
    except (ValueError, TypeError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
        _complain(f"{name}: {_sentence(error, command)}")
        _drop_output()
        return 2
    except KeyboardInterrupt as stop:
        _complain(one_line(stop) or f"{name}: interrupted")
        return 130


def _read(argv: Sequence[str], command: str) -> dict[str, Any]:
    """The options that argv gives, by name."""
    try:
        given = vars(_parser(command).parse_args(argv))
        del given["command"]
        return dict(_module("options").complete(given))
    except (Exception, SystemExit) as error:
        failed = getattr(error, "code", True)  # --help has not
        if failed and command == "train":  # which has ranks
            _module("train").give_up()
        raise


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # standard error may be a full disk's
        print(text, file=sys.stderr, flush=True)


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the program that started this one
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without η prints a question mark


def _module(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)


def _parser(command: str) -> "Parser":
    """The parser of the whole command line, in which one command has its options."""
    parser = Parser(
        prog="minimixce",
        description=(
            "Train language models by mixing forward and reverse cross-entropies, and check the"
            " maths."
        ),
    )
    parser.add_argument("--version", action=Version, help="print versions, threads and device")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help in COMMANDS.items():
        of_command = commands.add_parser(name, help=help, description=help)
        if name == command:
            _module(_MODULES.get(name, name)).declare(of_command)
    return parser


# how NumPy refuses an array that no memory could hold
_TOO_BIG = ("array is too big", "Maximum allowed size", "Maximum allowed dimension")
_LONGEST = 1000  # characters of an error about what was given, which may be any number of them


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the message as one sentence and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {_short(message)}\n")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """For --prompt=-- the text "--", of which older Pythons make an empty list."""
        if action.nargs is None and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.dest == "command":
            super()._check_value(action, value)
        elif action.choices is not None and value not in action.choices:
            *all_but_last, last = action.choices
            allowed = f"{', '.join(all_but_last)} or {last}"
            raise ValueError(f"--{action.dest} must be {allowed}, got {value!r}")


class Version(argparse.Action):
    """A flag that prints what a report of a problem should say, and ends the program;
    option_strings, dest and help are argparse's.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        from ..experiments.versions import describe_versions

        print("\n".join(describe_versions()))
        parser.exit()


def _sentence(error: BaseException, command: str) -> str:
    """What to print of an error: its message, in one line; a table below it keeps its lines."""
    if isinstance(error, WithTable):
        return f"{_short(error.sentence)}\n{printable(error.table)}"
    if isinstance(error, FileNotFoundError) and error.strerror and not error.filename:
        return "the working directory no longer exists"  # os.getcwd's
    if isinstance(error, OSError) and error.strerror:
        about = f"{error.filename}: " if error.filename else ""
        return _short(about + error.strerror)
    if isinstance(error, UnicodeEncodeError):
        return _short(f"half of a surrogate pair is in {error.object:.80}, which no file can hold")
    # NumPy's and CuPy's say how much was missing, Python's own says nothing
    too_big = isinstance(error, ValueError) and str(error).startswith(_TOO_BIG)
    unsaid = isinstance(error, MemoryError) and (type(error) is not MemoryError or not str(error))
    if too_big or unsaid:
        much = "" if too_big else str(error).partition(" for an array")[0]
        advice = f"choose a smaller {_SIZES.get(command, 'input')}"
        return _short(f"not enough memory{f' ({much})' if much else ''}; {advice}")
    return _short(error) or type(error).__name__


def _short(text: object) -> str:
    line = one_line(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 300]} … {line[-300:]}"


def _drop_output() -> None:
    """Give up what standard output does not take (a closed pipe, a full disk), or Python complains
    about it at exit.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
