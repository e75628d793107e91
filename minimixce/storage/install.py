"""Files that are put in a folder together: all of them or none, wherever the process is killed.

They are written to a new folder inside it first. Then one file, written whole or not at all, says
which they are; from then on they count as being in place, and the next command that opens the
folder moves those that are not yet.
"""

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from . import files
from .shapes import FilePath

_PENDING = ".pending.json"
_NEW = ".new-"
_held: set[tuple[int, int, int]] = set()  # folders that are locked, and by which thread


@contextlib.contextmanager
def replacing(
    folder: FilePath, names: Collection[str], keep: Collection[str] = ()
) -> Iterator[Path]:
    """A context with an empty folder, whose files take the place of those in `folder` at its end.

    names: of all files and folders that such a set may have; files of these names in `folder` that
    are not new are removed, except those in `keep`, and nothing else is touched. Where the context
    ends with an exception, a full disk's included, `folder` is as it was; what is interrupted later
    is left to `settle`. Makes `folder` where it is missing.
    """
    folder = Path(folder)
    finish(folder, names)
    made = not folder.exists()
    make_folder(folder)
    new = folder / f"{_NEW}{secrets.token_hex(8)}"
    try:
        new.mkdir()
        yield new
        listed = sorted(p.relative_to(new).as_posix() for p in new.rglob("*") if p.is_file())
        stale = sorted(set(names) - set(keep) - {name.partition("/")[0] for name in listed})
        _sync_all(new)
        files.sync_folder(folder)  # in which `new` is, before a list says so
        content = files.to_json({"from": new.name, "files": listed, "remove": stale})
        files.write_atomically(folder / _PENDING, content.encode())
    except BaseException as error:
        if is_pending(folder):  # interrupted a moment later: from now on the files count
            raise
        if isinstance(error, OSError) and str(error.filename or "").startswith(str(new)):
            # the user knows the place that the file was for
            error.filename = str(folder / Path(error.filename).relative_to(new))
        elif isinstance(error, OSError) and error.filename == str(folder / _PENDING):
            error.filename = str(folder)
        shutil.rmtree(new, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    finish(folder, names)


def make_folder(folder: FilePath) -> list[Path]:
    """Make a folder where it is missing, and its parents, so that they last -> those that were
    made, the innermost first.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in made:
        files.sync_folder(path.parent)
    return made


def _sync_all(folder):
    """Put on the disk what is in a folder, also what was written there without `files`."""
    mode = "rb" if os.name == "posix" else "r+b"  # Windows syncs only what can be written to
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            files.sync_folder(path)
        elif path.is_file() and not path.is_symlink():
            with files.naming(path), open(path, mode) as file:
                os.fsync(file.fileno())


def is_pending(folder: FilePath) -> bool:
    """Whether files are in `folder` that count as being in place and are not there yet."""
    return os.path.exists(Path(folder) / _PENDING)  # also of a name that no folder can have


def holds(folder: FilePath, name: str) -> bool:
    """Whether the file `name` is in a folder, or counts as being in place there."""
    folder = Path(folder)
    new = folder.glob(f"{_NEW}*/{name}") if is_pending(folder) else ()
    return os.path.exists(folder / name) or any(new)  # also where one may not look


def settle(folder: FilePath, names: Collection[str]) -> None:
    """`finish`, under the folder's lock, where there is something to put in place; FileExistsError
    where another process is at work in the folder.
    """
    if is_pending(folder):
        with locked(folder):
            finish(folder, names)


def finish(folder: FilePath, names: Collection[str]) -> None:
    """Put in place what `replacing` had said to be in `folder` when its process was killed, and
    remove temporary files and folders of a process that was.

    names: as for replacing. ValueError for a folder whose list of files is not one that `replacing`
    wrote, or in which one of `names` is a link to a folder. No other process may be at work in the
    folder (see locked).
    """
    folder = Path(folder)
    check_no_links(folder, names)
    for place in (folder, *(folder / name for name in names if (folder / name).is_dir())):
        for name in (*names, _PENDING):
            files.remove_temporaries(place / name)
    if not is_pending(folder):
        _remove_new(folder)
        return
    new, listed, stale = _read(folder, names)
    for name in listed:
        if (new / name).exists():
            make_folder((folder / name).parent)
            os.replace(new / name, folder / name)
    for name in stale:
        if (folder / name).is_file():
            (folder / name).unlink()
    for place in {folder, *((folder / name).parent for name in listed)}:
        files.sync_folder(place)
    (folder / _PENDING).unlink()
    # or, after a crash, the list would be back and files be removed that came later
    files.sync_folder(folder)
    _remove_new(folder)


def check_no_links(folder: FilePath, names: Iterable[str]) -> None:
    """Raise ValueError where one of `names` in `folder` is a link to a folder, as a folder from
    somebody else may have it: files would be written, moved or removed where it leads.
    """
    for name in names:
        path = Path(folder) / name
        if path.is_symlink() and path.is_dir():
            raise ValueError(
                f"{path} is a link to a folder, in which nothing is changed; remove the link, or"
                " put the folder itself in its place"
            )


def _remove_new(folder):
    """Remove new folders, of processes that were killed before or after theirs was needed."""
    for left in folder.glob(f"{_NEW}{'[0-9a-f]' * 16}"):
        shutil.rmtree(left, ignore_errors=True)


def _read(folder, names):
    """The new folder, the names of its files and of those to remove: a list that may come from
    somebody else.
    """
    found = files.read_json(folder / _PENDING)
    new, listed, stale = found.get("from"), found.get("files"), found.get("remove")
    fits = isinstance(new, str) and new.startswith(_NEW) and Path(new).name == new
    fits = fits and isinstance(listed, list) and all(_fits(name, names) for name in listed)
    fits = fits and isinstance(stale, list) and all(name in names for name in stale)
    if not fits or (folder / new).is_symlink():
        raise ValueError(f"{folder / _PENDING} is damaged; remove it")
    check_no_links(folder / new, {name.partition("/")[0] for name in listed})
    return folder / new, listed, stale


def _fits(name, names):
    parts = name.split("/") if isinstance(name, str) else []
    return len(parts) in (1, 2) and parts[0] in names and parts[-1] not in ("", ".", "..")


@contextlib.contextmanager
def locked(folder: FilePath) -> Iterator[None]:
    """A context in which no other process that asks for the same is in `folder`; a thread that has
    the lock may ask for it again, as fit does within a command.

    The kernel holds the lock and releases it with the process, however that ends. Raises
    FileExistsError, in one sentence, where another process holds it. Makes the folder where it is
    missing. On systems without such locks (Windows) nothing is locked.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():  # the error comes where something is written to it
        yield
        return
    made = make_folder(folder)
    place = os.open(folder, os.O_RDONLY)
    about = os.fstat(place)
    mine = (about.st_dev, about.st_ino, threading.get_ident())
    again = mine in _held
    try:
        if not again:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FileExistsError(f"another process is at work in {folder}") from None
            except OSError:  # a file system without locks
                pass
            _held.add(mine)
        yield
    finally:
        if not again:
            _held.discard(mine)
        os.close(place)
        with contextlib.suppress(OSError):  # folders in which nothing was put
            for path in made:
                path.rmdir()
