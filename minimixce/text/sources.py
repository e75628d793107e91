"""Which files a corpus is read from, which are left out, and why."""

import collections
import contextlib
import fnmatch
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..storage.shapes import FilePath
from ..storage.terminal import one_line
from .documents import NotText, read_chunks

_SHOWN = 5  # names in a sentence
_HIDDEN, _EXCLUDED, _NOT_INCLUDED = "hidden", "excluded", "not included"
_EXPECTED = (_HIDDEN, _EXCLUDED, _NOT_INCLUDED)  # these are counted, and not named

# what a folder is that holds these files: results of this package, which are no text to train on
_RESULTS = {
    ("minimixce_corpus.json",): "a prepared corpus",
    ("minimixce_lines.json",): "a folder of texts with splits of their own",
    ("minimixce_tokenizer.json",): "the folder of a run",
    ("resume.safetensors",): "the folder of a run",
    ("study.json",): "the folder of a comparison or a grid",
    ("table.json", "comparison.png"): "the folder of a comparison",
}


class LeftOut(NamedTuple):
    """A file or folder that is not read, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.path)} ({self.reason})"


class Source(NamedTuple):
    """A file to read; is_named: whether the user named it, who is then told where it cannot be
    read. What is found in a folder and cannot be read is left out.
    """

    path: Path
    is_named: bool

    def chunks(self) -> Iterator[str]:
        """Its text, in pieces of bounded size."""
        return read_chunks(self.path)


class Sources(NamedTuple):
    """What a corpus was read from: the files that are split or trained on and those held out whole,
    in order, what was left out, and other remarks, sentences, on how it was read.
    """

    files: tuple[Path, ...] = ()
    validation: tuple[Path, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    remarks: tuple[str, ...] = ()

    def describe_count(self) -> str:
        """How many files, and of which kinds, to go behind what the user named: nothing for a
        single file.
        """
        if len(self.files) == 1 and not self.validation:
            return ""
        found = _number_of(self.files)
        if self.validation:
            found += f"; for validation {_number_of(self.validation)}"
        return f" ({found})"

    def describe(self) -> list[str]:
        """Lines on what is not as one would expect: what was left out, and the remarks."""
        left_out = [describe_left_out(self.left_out)] if self.left_out else []
        return [*left_out, *self.remarks]


def describe_left_out(left_out: Sequence[LeftOut]) -> str:
    """A line: how many files and folders were left out, the first of them, and why."""
    named = [each for each in left_out if each.reason not in _EXPECTED]
    parts = list(map(str, named[:_SHOWN]))
    if len(named) > _SHOWN:
        parts.append(f"{len(named) - _SHOWN:,} more")
    for reason in _EXPECTED:
        if number := sum(each.reason == reason for each in left_out):
            parts.append(f"{number:,} {reason}")
    return f"left out {len(left_out):,}: {', '.join(parts)}"


def _number_of(paths: Sequence[Path]) -> str:
    """A number of files and, where they differ, of those with each suffix; single ones are named,
    such as a README that came with the texts.
    """
    total = "1 file" if len(paths) == 1 else f"{len(paths):,} files"
    by_suffix = collections.Counter(path.suffix for path in paths)
    if len(by_suffix) < 2:
        return total
    kinds = [
        f"{number:,} {suffix or 'without a suffix'}"
        if number > 1
        else next(one_line(path.name) for path in paths if path.suffix == suffix)
        for suffix, number in by_suffix.most_common(_SHOWN)
    ]
    if len(by_suffix) > _SHOWN:
        kinds.append("others")
    return f"{total}: {', '.join(kinds)}"


def reason_of(error: NotText | OSError) -> str:
    """Why a file is left out that cannot be read."""
    if isinstance(error, NotText):
        return error.what
    return f"cannot be read: {error.strerror or error}"


def shown(path: Path) -> str:
    """A path as the user is likely to know it, from the working directory where that is shorter; in
    one line.
    """
    name = str(path)
    with contextlib.suppress(OSError, ValueError):  # a directory that is gone, another drive
        name = min(os.path.relpath(path), name, key=len)
    return one_line(name)


def listed(name: str, value: FilePath | Sequence[FilePath] | None) -> list[FilePath]:
    """`value`, one path or pattern or several or None, as a list. TypeError for anything else."""
    if value is None:
        return []
    items = [value] if isinstance(value, (str, os.PathLike)) else list(value)
    for item in items:
        if not isinstance(item, (str, os.PathLike)):
            raise TypeError(f"{name} must be a path or a list of paths, got {item!r:.80}")
        if "\0" in os.fsdecode(item):
            raise ValueError(f"{name} must be without NUL characters, got {item!r:.80}")
    return items


class Search:
    """A search for the files to read, each once however many names or links it has.

    include, exclude: patterns as the shell's (fnmatch), each for the name of a file or its path
    below the folder that was named; a folder is excluded with all that is in it. without: folders
    where results go, which are left out. left_out: what is not read, so far.
    """

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        without: Iterable[FilePath] = (),
    ) -> None:
        # a folder is often written with a slash behind it
        include, exclude = ([each.rstrip("/") for each in some] for some in (include, exclude))
        self._include, self._exclude = include, exclude
        self._without = {_identity(Path(path)) for path in without if os.path.exists(path)}
        self._unmatched = {*include, *exclude}
        # where a file was found first, and why it is left out from then on
        self._found: dict[tuple[object, ...], tuple[Path, str]] = {}
        self._times_again = 0
        self._again = ""
        self.left_out: list[LeftOut] = []

    def find(self, paths: Iterable[FilePath], again: str = "named twice") -> list[Source]:
        """Files as they are, folders as all their files, in the order of their names.

        again: why one of them is left out where it is found once more. What a folder has that is no
        file, hidden or excluded is left out. Raises FileNotFoundError or ValueError, naming the
        path, for one that is missing, no file or folder, a folder of results, or a folder without
        files.
        """
        found: list[Source] = []
        self._again = again
        for path in map(Path, paths):
            try:
                mode = path.stat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                raise FileNotFoundError(f"{path} does not exist") from None
            if stat.S_ISDIR(mode):
                found += self._files_in(path)
            elif stat.S_ISREG(mode):
                found += self._taken(path, path.name, is_named=True)
            else:  # a pipe, for example, which could be read only once
                raise ValueError(f"{path} is neither a file nor a folder")
        return found

    def remarks(self) -> list[str]:
        """A sentence on each pattern that matched no file: a typing error, probably."""
        patterns = (*self._include, *self._exclude)
        return [f"{each!r} matches no file" for each in patterns if each in self._unmatched]

    def _files_in(self, top: Path) -> list[Source]:
        """The files of a folder that was named, and of those in it."""
        if _identity(top) in self._without:
            raise ValueError(
                f"{top} is where the results go, which would be read as text the next time; choose"
                " another folder for them"
            )
        if results := _results_in(os.listdir(top)):
            raise ValueError(f"{top} is {results}; name the files of the texts themselves")
        before, times_again = len(self.left_out), self._times_again
        paths = []
        for folder, folders, names in os.walk(top, onerror=self._leave_unreadable):
            place = Path(folder)
            folders[:] = [each for each in folders if self._enters(place / each, top)]
            paths += [place / name for name in names]
        found = []
        # a link is read where the file itself is not there
        for path in sorted(paths, key=lambda path: (path.is_symlink(), path)):
            found += self._taken(path, path.relative_to(top).as_posix(), is_named=False)
        if not found and self._times_again == times_again:
            left_out = sorted(self.left_out[before:])
            why = f" to read: {describe_left_out(left_out)}" if left_out else ""
            raise ValueError(f"{top} holds no files{why}")
        return sorted(found)

    def _enters(self, folder: Path, top: Path) -> bool:
        """Whether what is in a folder is read; says why not."""
        reason = ""
        if folder.name.startswith("."):
            reason = _HIDDEN
        elif folder.is_symlink():  # which may lead anywhere, back to where it is, too
            reason = "a link to a folder"
        elif self._is_excluded(folder.relative_to(top).as_posix()):
            reason = _EXCLUDED
        else:
            try:
                inside, identity = os.listdir(folder), _identity(folder)
            except OSError as error:
                self._leave_unreadable(error)
                return False
            if identity not in self._without:
                reason = _results_in(inside)
            elif inside:
                reason = "where the results go"
            else:  # made for this run, and not worth a word
                return False
        if reason:
            self._leave(folder, reason)
        return not reason

    def _taken(self, path: Path, below: str, is_named: bool) -> list[Source]:
        """A file as a list of one, or of none where it is not to be read."""
        try:
            about, identity = path.stat(), _identity(path)
        except OSError as error:
            if path.is_symlink() and isinstance(error, FileNotFoundError):
                self._leave(path, "a link to nothing")
            else:
                self._leave_unreadable(error)
            return []
        before, again = self._found.get(identity, (path, ""))
        if not is_named and path.name.startswith("."):
            self._leave(path, _HIDDEN)
        elif not stat.S_ISREG(about.st_mode):
            self._leave(path, "neither a file nor a folder")
        elif self._is_excluded(below):
            self._leave(path, _EXCLUDED)
        elif not self._is_included(below):
            self._leave(path, _NOT_INCLUDED)
        elif again:
            self._times_again += 1
            self._leave(path, again if before == path else f"the same file as {shown(before)}")
        else:
            self._found[identity] = (path, self._again)
            return [Source(path, is_named)]
        return []

    def _is_excluded(self, below: str) -> bool:
        return self._matches(below, self._exclude)

    def _is_included(self, below: str) -> bool:
        return not self._include or self._matches(below, self._include)

    def _matches(self, below: str, patterns: Sequence[str]) -> bool:
        """Whether a path below the folder that was named, or its last part, is like a pattern."""
        names = (below, below.rpartition("/")[2])
        matching = [p for p in patterns if any(fnmatch.fnmatchcase(name, p) for name in names)]
        self._unmatched.difference_update(matching)
        return bool(matching)

    def _leave(self, path: Path, reason: str) -> None:
        self.left_out.append(LeftOut(path, reason))

    def _leave_unreadable(self, error: OSError) -> None:
        self._leave(Path(error.filename), reason_of(error))


def _identity(path: Path) -> tuple[object, ...]:
    """What tells a file from all others, by whatever name it was found."""
    about = path.stat()
    if about.st_ino == 0:  # a file system that numbers no files
        return (os.path.realpath(path),)
    return about.st_dev, about.st_ino


def _results_in(names: Iterable[str]) -> str:
    """What a folder of files of these names is where it holds results of this package, or ""."""
    inside = set(names)
    return next((what for files, what in _RESULTS.items() if inside >= set(files)), "")
