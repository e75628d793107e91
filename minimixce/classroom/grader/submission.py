"""What a student handed in: found, unpacked and read, without running a line of it.

A submission is a file, a folder, or an archive of one; the student's file is the one of the
assignment's name, or a notebook, from which functions, imports and constants are taken by their
syntax. Nothing is unpacked to disk, so names in an archive cannot point anywhere.
"""

import ast
import gzip
import io
import json
import stat
import tarfile
import tokenize
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

from .plain import one_line

MAX_BYTES = 1 << 20  # of a student's file
_MAX_CODE = 1 << 18  # characters of a notebook's code, which is read by its syntax
_MAX_ARCHIVE = 1 << 24  # bytes of an archive
_MAX_UNPACKED = 1 << 26  # bytes of a .tar.gz once it is not compressed
_MAX_ENTRIES = 10_000  # of an archive or a folder
# others may take hours, or any other program's memory, to decode what is made for it
_ENCODINGS = ("utf-8", "utf-8-sig", "ascii", "iso-8859-1", "iso-8859-15", "cp1252")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_MORE = "; for a folder with an entry for each student add --csv FILE"
_SKIPPED = {"__MACOSX", "__pycache__", ".git", ".ipynb_checkpoints", ".pytest_cache"}


class CannotRead(Exception):
    """A submission that cannot be graded, in a sentence. status: one or two words for tables."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


class Handed(NamedTuple):
    """A student's program: its text, its name, its bytes as they came, and remarks on them."""

    text: str
    name: str
    data: bytes
    remarks: tuple[str, ...] = ()


def read_submission(path: str | Path, file: str, starter: str = "") -> Handed:
    """The program in a file, folder or archive -> Handed.

    file: the name that the assignment gives, "objectives.py". A notebook serves where there is no
    such file, or where that file is still `starter`, the text that was handed out. Raises
    CannotRead where there is none, more than one, or none that can be read, and FileNotFoundError
    where the path does not exist.
    """
    path = Path(path)
    if path.is_dir():
        name, data = _choose(_in_folder(path), file, starter)
    elif not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    elif not path.is_file():
        raise CannotRead("unreadable", f"{one_line(path.name)} is no file, folder or archive")
    elif path.name.lower().endswith(_ARCHIVES):
        name, data = _choose(_in_archive(path), file, starter)
    elif path.name.lower().endswith((".py", ".ipynb")):
        name, data = path.name, _read(path)
    else:
        said = f"{one_line(path.name)} is not a Python file, a notebook or an archive"
        raise CannotRead("unreadable", said)
    text, remarks = _as_program(name, data)
    return Handed(text, name, data, remarks)


def _read(path):
    if path.stat().st_size > MAX_BYTES:
        raise CannotRead("too large", f"{one_line(path.name)} has more than {MAX_BYTES:,} bytes")
    return path.read_bytes()


# ---- which file ----------------------------------------------------------------------------------


def _in_folder(folder):
    """{name: function that reads it} of the regular files in a folder, links left out."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not path.is_symlink() and stat.S_ISREG(path.lstat().st_mode):
            found[name] = lambda path=path: _read(path)
        if len(found) > _MAX_ENTRIES:
            raise CannotRead("too many files", f"more than {_MAX_ENTRIES:,} files")
    return dict(sorted(found.items()))


def _in_archive(path):
    """{name: function that reads it} of the regular files in an archive."""
    if path.stat().st_size > _MAX_ARCHIVE:
        raise CannotRead("too large", f"{one_line(path.name)} has more than {_MAX_ARCHIVE:,} bytes")
    try:
        return (_in_zip if path.name.lower().endswith(".zip") else _in_tar)(path)
    except CannotRead:
        raise
    except Exception as error:  # damaged archives raise much, not all of it documented
        said = f"{path.name} cannot be unpacked: {error}"
        raise CannotRead("unreadable", one_line(said)) from None


def _in_zip(path):
    found = {}
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if len(entries) > _MAX_ENTRIES:
        raise CannotRead("too many files", f"more than {_MAX_ENTRIES:,} files")
    for entry in entries:
        mode = entry.external_attr >> 16
        if entry.is_dir() or (mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode)):
            continue

        def read(entry=entry):
            if entry.compress_type not in _COMPRESSIONS:
                raise ValueError("it is compressed in an unusual way")
            with zipfile.ZipFile(path) as archive, archive.open(entry) as stream:
                return _at_most(stream, entry.filename)

        found[entry.filename] = read
    return found


def _in_tar(path):
    found = {}
    with tarfile.open(fileobj=io.BytesIO(_unpacked(path)), mode="r:") as archive:
        for count, entry in enumerate(archive):
            if count > _MAX_ENTRIES:
                raise CannotRead("too many files", f"more than {_MAX_ENTRIES:,} files")
            if not entry.isreg():
                continue

            def read(entry=entry):
                with tarfile.open(fileobj=io.BytesIO(_unpacked(path)), mode="r:") as archive:
                    return _at_most(archive.extractfile(entry), entry.name)

            found[entry.name] = read
    return found


def _unpacked(path):
    """The bytes of a .tar, also of one in a .gz, of which no more is unpacked than may be."""
    data = path.read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    with gzip.open(io.BytesIO(data)) as stream:
        data = stream.read(_MAX_UNPACKED + 1)
    if len(data) > _MAX_UNPACKED:
        said = f"{path.name} has more than {_MAX_UNPACKED:,} bytes when it is unpacked"
        raise CannotRead("too large", one_line(said))
    return data


def _at_most(stream, name):
    """The bytes of a stream, which may claim another size than it has."""
    data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise CannotRead("too large", f"{one_line(name)} has more than {MAX_BYTES:,} bytes")
    return data


def _choose(files, file, starter):
    """The one file that was handed in -> name, bytes.

    The one of the right name, or a notebook where there is none or it is still the starter.
    """
    safe = [name for name in files if not _is_odd(name)]
    name = _only_one(name for name in safe if name.rsplit("/", 1)[-1] == file)
    if name is not None:
        data = _reading(files[name], name)
        if _lines(data) != _lines(starter.encode()):
            return name, data
    notebooks = [name for name in safe if name.endswith(".ipynb")]
    if name is not None and len(notebooks) != 1:
        return name, data
    notebook = _only_one(notebooks)
    if notebook is not None:
        return notebook, _reading(files[notebook], notebook)
    there = [name.rsplit("/", 1)[-1] for name in safe if name.endswith((".py", ".ipynb"))]
    listed = f"; there is {', '.join(sorted(set(there))[:5])}" if there else ""
    raise CannotRead("missing file", one_line(f"no {file}{listed}"))


def _only_one(names):
    """The only one of some names, or the only one in no folder; None where there is none."""
    found = list(names)
    top = [name for name in found if "/" not in name]
    found = top if len(top) == 1 else found
    if len(found) > 1:
        listed = ", ".join(sorted(found)[:5])
        said = one_line(f"more than one file may be meant: {listed}")
        raise CannotRead("two candidates", said + _MORE)
    return found[0] if found else None


def _lines(data):
    return [line.rstrip() for line in data.splitlines()]


def _is_odd(name):
    parts = name.split("/")
    return (
        name.startswith(("/", "\\"))
        or ".." in parts
        or ":" in parts[0]
        or bool(_SKIPPED.intersection(parts))
        or parts[-1].startswith("._")
    )


def _reading(read, name):
    try:
        return read()
    except CannotRead:
        raise
    except Exception as error:  # damaged, with a password, or of a kind that is not known
        raise CannotRead("unreadable", one_line(f"{name} cannot be read: {error}")) from None


# ---- what is in it -------------------------------------------------------------------------------


def _as_program(name, data):
    """The text of a program, from a Python file or a notebook, and remarks."""
    if name.endswith(".ipynb"):
        return _of_notebook(name, data)
    if b"\0" in data:
        raise CannotRead("unreadable", one_line(f"{name} is not a text file"))
    remarks = ()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        if encoding not in _ENCODINGS:
            raise LookupError
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError):
        text = data.decode("latin-1")
        remarks = (one_line(f"{name} is not UTF-8; it was read as Latin-1"),)
    return text.replace("\r\n", "\n").replace("\r", "\n"), remarks


def _of_notebook(name, data):
    """Functions, classes, imports and constants of a notebook's cells, in their order."""
    try:
        book = json.loads(data.decode("utf-8-sig"))
        cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in cells]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        said = f"{name} is not a notebook: {error}"
        raise CannotRead("unreadable", one_line(said)) from None
    if sum(map(len, sources)) > _MAX_CODE:
        said = f"{name} has more than {_MAX_CODE:,} characters of code"
        raise CannotRead("too large", one_line(said))
    parts, remarks = [], []
    for number, source in enumerate(sources, 1):
        kept, remark = _definitions(source)
        parts += kept
        remarks += [f"code cell {number}{remark}"] if remark else []
    return "\n\n\n".join(parts) + "\n", tuple(remarks)


def _definitions(source):
    """The definitions in a cell as texts, and the end of a remark on it, or ""."""
    # lines end at \n alone for Python; str.splitlines, and ast.get_source_segment, know others
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = ["" if line.lstrip()[:1] in ("%", "!") else line for line in lines]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse("\n".join(lines)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        said = getattr(error, "msg", error) or type(error).__name__
        return [], f" cannot be read and was left out: {one_line(str(said))}"
    found = [_segment(lines, node) for node in body if _is_definition(node)]
    if any(getattr(node, "decorator_list", None) for node in body):
        return found, ": decorators were left out"
    other = [node.lineno for node in body if not _is_definition(node) and _binds(node)]
    if other:
        said = "it is no function, class, import or constant"
        return found, f", line {other[0]}: was left out, since {said}"
    return found, ""


def _binds(node):
    """Whether a statement gives something a name that functions may ask for."""
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
        return True
    compound = (ast.If, ast.Try, ast.With, ast.For, ast.While)
    inside = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign)
    return isinstance(node, compound) and any(isinstance(part, inside) for part in ast.walk(node))


def _segment(lines, node):
    """The lines of a statement; its columns are counted in bytes."""
    own = [
        line.encode("utf-8", "surrogatepass") for line in lines[node.lineno - 1 : node.end_lineno]
    ]
    own[-1] = own[-1][: node.end_col_offset]
    own[0] = own[0][node.col_offset :]
    return b"\n".join(own).decode("utf-8", "surrogatepass")


def _is_definition(node):
    """Whether a statement defines something without doing anything.

    An import of this package is of the notebook's own cells, which check; no sandbox has it.
    """
    module = getattr(node, "module", None) or ""
    if isinstance(node, ast.ImportFrom) and module.split(".")[0] == "minimixce":
        return False
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    if isinstance(node, kinds):
        return True
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
        return all(_is_constant(part) for part in ast.walk(node.value))
    return False


def _is_constant(node):
    """Whether part of an expression is of a constant: no call but those of NumPy and math."""
    if isinstance(node, ast.Call):
        function = node.func
        while isinstance(function, ast.Attribute):
            function = function.value
        return isinstance(function, ast.Name) and function.id in ("np", "numpy", "math")
    forbidden = (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)
    return not isinstance(node, forbidden)
