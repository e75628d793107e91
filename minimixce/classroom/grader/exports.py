"""An assignment for other systems: an autograder for Gradescope, notebooks for nbgrader and otter.

Only the one for Gradescope runs students' code in this package's sandbox. nbgrader and otter run it
in the notebook's own kernel, beside the checks, with the rights of the person who starts them.
"""

import io
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

from ...storage import files
from ..assignments import assignment
from . import gradescope, notebooks

_CODE = (".py", ".txt", ".json", ".typed")
_LEFT_OUT = ("__pycache__", "handouts")
# tried with each; NumPy 2.2 is the last for Python 3.10, which Ubuntu 22.04 has
_REQUIREMENTS = """\
numpy==2.2.6; python_version < "3.11"
numpy==2.3.5; python_version >= "3.11"
tqdm==4.67.1
safetensors==0.6.2
"""
_SETUP = """\
#!/usr/bin/env bash
# Runs once, when Gradescope builds the image.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends python3 python3-venv bubblewrap
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "minimixce needs Python 3.10: choose Ubuntu 22.04 or newer as the base image" >&2
    exit 1
}
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install --no-cache-dir -q -r /autograder/source/requirements.txt
cd /autograder/source
# which sandbox works may differ when submissions are graded; each result says which one it was
/autograder/venv/bin/python3 -m minimixce.classroom.grader.gradescope --probe || true
"""
_RUN = """\
#!/usr/bin/env bash
# Runs for every submission: /autograder/submission -> /autograder/results/results.json
root=${MINIMIXCE_ROOT:-/autograder}
python=${MINIMIXCE_PYTHON:-/autograder/venv/bin/python3}
mkdir -p "$root/results"
cp "$root/source/fallback.json" "$root/results/results.json"
cd "$root/source" || exit 0
"$python" -m minimixce.classroom.grader.gradescope --root "$root"
exit 0
"""


def write_gradescope(
    name: str,
    folder: str | Path,
    *,
    variant: int = 0,
    hints: str = "why",
    salt: str = "",
) -> list[Path]:
    """Write FOLDER/autograder.zip, to be uploaded to Gradescope -> its path.

    In it are setup.sh, run_autograder, settings.json, and the package as it is imported here,
    solutions included: it is for instructors. salt decides the numbers in the probes, and is in
    settings.json. The same bytes each time. Raises FileExistsError where the file is there, and
    ValueError for an assignment or variant that there is not.
    """
    whole = assignment(name, variant)
    path = Path(folder, "autograder.zip")
    _check_new(path)
    settings = {"assignment": whole.name, "variant": variant, "hints": hints, "salt": salt}
    settings |= {"isolation": "auto"}
    made = {
        "setup.sh": _SETUP,
        "run_autograder": _RUN,
        "requirements.txt": _REQUIREMENTS,
        "settings.json": files.to_json(settings) + "\n",
        "fallback.json": files.to_json(gradescope.fallback()) + "\n",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, _zipped({k: v.encode() for k, v in made.items()} | _package()))
    return [path]


def _package():
    """{path in the archive: bytes} of the package that is imported: its programs and its data."""
    root = Path(__file__).parents[2]
    found = {}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root.parent).parts
        if path.suffix in _CODE and path.is_file() and not set(parts) & set(_LEFT_OUT):
            found["/".join(parts)] = path.read_bytes()
    if f"{root.name}/data/stories.json" not in found:  # a clone has it beside the package
        world = root.parent / "data" / "stories.json"
        found[f"{root.name}/data/stories.json"] = world.read_bytes()
    return dict(sorted(found.items()))


def _zipped(contents):
    """{path: bytes} as a zip archive, the same each time; scripts may be run."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            mode = 0o755 if data.startswith(b"#!") else 0o644
            entry.external_attr = (stat.S_IFREG | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, whose modes these are
            archive.writestr(entry, data)
    return stream.getvalue()


def write_nbgrader(
    name: str,
    folder: str | Path,
    *,
    variant: int = 0,
    hints: str = "why",
    salt: str = "",
) -> list[Path]:
    """Write source/NAME/NAME.ipynb and the handout beside it into an nbgrader course -> paths.

    folder: the course's, in which `nbgrader generate_assignment NAME` is run next. Each task has a
    locked cell that grades it, in quarters of a point; a salt gives it other probes than students
    have. Written tasks are cells that a person grades. Raises as write_gradescope.
    """
    book = notebooks.for_nbgrader(name, variant, hints, salt)
    return _write_notebook(Path(folder, "source", name), name, variant, book)


def write_otter(
    name: str,
    folder: str | Path,
    *,
    variant: int = 0,
    hints: str = "why",
    salt: str = "",
) -> list[Path]:
    """Write NAME.ipynb, for `otter assign NAME.ipynb OUT`, and the handout beside it -> paths.

    Each check of a task is a test with its points; a salt makes those that count hidden ones, with
    other probes than students have. Written tasks are questions that a person grades. Raises as
    write_gradescope.
    """
    book = notebooks.for_otter(name, variant, hints, salt)
    return _write_notebook(Path(folder), name, variant, book)


def _write_notebook(folder, name, variant, book):
    from .. import release

    made = {
        folder / f"{name}.ipynb": json.dumps(book, indent=1, ensure_ascii=False) + "\n",
        folder / "README.md": release.handout(name, variant),
    }
    for path in made:
        _check_new(path)
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in made.items():
        files.write_atomically(path, text.encode())
    return list(made)


def _check_new(path):
    if path.exists():
        raise FileExistsError(f"{path} exists already; choose a new folder")


WRITERS: dict[str, Callable[..., list[Path]]] = {
    "gradescope": write_gradescope,
    "nbgrader": write_nbgrader,
    "otter": write_otter,
}
