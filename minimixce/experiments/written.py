"""What a command with many files wrote in its folder, so that it replaces nothing else there.

study.json lists the files by name before the first of them is written. `--overwrite` replaces it
at once by the list of the new study, which also says what of the old one is still to be removed: a
process killed before that leaves the old study whole, one killed after it a new one to go on with.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..storage import files, install
from ..storage.shapes import FilePath

RECORD = "study.json"
GO_ON = "stopped; go on with the same options and --resume"  # what Ctrl-C says

_MOST_RECORD = 1 << 28  # bytes: a million names


class Kind(NamedTuple):
    """What a command leaves in a folder."""

    command: str
    noun: str  # "a grid", for sentences
    fits: Callable[[str], bool]  # whether the command could have written a file of this name
    remove: Callable[[Path], object]  # removes one of them, where it is there


def check(
    folder: FilePath,
    kind: Kind,
    names: Sequence[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> bool:
    """Whether `folder` holds something of this kind, which may be gone on with or replaced.

    names: of the files and folders that are going to be written, relative to `folder`. Raises
    FileExistsError where there is something of the kind and neither resume nor overwrite is True,
    and where one of `names` is there without being listed, as a user's file is. ValueError for a
    study.json that is damaged, and for a link to a folder in the place of one of them.
    """
    folder = Path(folder)
    found = _read(folder, kind)
    listed = set() if found is None else {*found[0], *found[1]}
    install.check_no_links(folder, sorted({name.partition("/")[0] for name in (*names, *listed)}))
    if not (resume or overwrite) and any(_is_there(folder / name) for name in listed):
        raise FileExistsError(
            f"{folder} already holds {kind.noun}; choose another --out, or add --resume or"
            " --overwrite"
        )
    for name in names:
        if name not in listed and _is_there(folder / name):
            raise FileExistsError(
                f"{folder / name} is there already, and not by minimixce {kind.command}; choose"
                " another --out or move it"
            )
    return found is not None


def begin(folder: FilePath, kind: Kind, names: Sequence[str], *, overwrite: bool = False) -> None:
    """List `names` in study.json beside those that are there; or, with overwrite=True, in place of
    those, which are removed.

    Makes `folder` where it is missing. The caller has called `check` with the same arguments, and
    holds the folder's lock.
    """
    folder = Path(folder)
    files.remove_temporaries(folder / RECORD)
    before = _read(folder, kind)
    listed, left = before or ([], [])
    if overwrite:
        listed, left = [], list(dict.fromkeys([*left, *listed]))
    listed = list(dict.fromkeys([*listed, *names]))
    folder.mkdir(parents=True, exist_ok=True)
    if (listed, left) != before:
        _write(folder, kind, listed, left)
    if left:
        for name in left:
            kind.remove(folder / name)
        for place in {folder, *((folder / name).parent for name in left)}:
            files.sync_folder(place)
        _write(folder, kind, listed, [])
    _remove_temporaries(folder, listed)


def _write(folder: Path, kind: Kind, listed: Sequence[str], left: Sequence[str]) -> None:
    content = {"command": kind.command, "files": listed} | ({"remove": left} if left else {})
    files.write_atomically(folder / RECORD, files.to_json(content).encode() + b"\n")


def _read(folder: Path, kind: Kind) -> tuple[list[str], list[str]] | None:
    """-> names of the files that are listed, and of those to be removed, or None without a list.
    It may come from somebody else.
    """
    path = folder / RECORD
    if not os.path.lexists(path):
        return None
    found = files.read_json(path, _MOST_RECORD)
    listed: Any = found.get("files")
    left: Any = found.get("remove", [])
    good = found.get("command") == kind.command and all(
        isinstance(names, list) and all(isinstance(name, str) and kind.fits(name) for name in names)
        for names in (listed, left)
    )
    if not good:
        raise ValueError(
            f"{path} is not by minimixce {kind.command}, or damaged; choose another --out or move"
            " it"
        )
    return listed, left


def _is_there(path: Path) -> bool:
    """Whether anything but an empty folder is at `path`."""
    if path.is_dir() and not path.is_symlink():
        return any(path.iterdir())
    return os.path.lexists(path)


def _remove_temporaries(folder: Path, listed: Sequence[str]) -> None:
    """Those of the files that are listed, left by a process that was killed."""
    own = set(listed)
    for place in {name.rpartition("/")[0] for name in listed}:
        for path in (folder / place).glob(".*.tmp"):
            name = path.name[1:].removesuffix(".tmp").rpartition(".")[0]
            if f"{place}/{name}".removeprefix("/") in own:
                files.remove_temporaries(path.with_name(name))
