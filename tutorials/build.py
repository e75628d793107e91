"""Execute every lesson and build the site.

    pip install -e ".[site]" && python tutorials/build.py

writes the lessons' notebooks, with outputs, beside their sources, and has Sphinx make the site in
site/ (open site/index.html) of these, the pages beside them and the docstrings. A warning is an
error. Formulas are MathML and nothing comes from a network, so the site works offline and from a
folder. --fast does a tenth of the work, for tests, and leaves notebooks alone; --no-execute shows
the notebooks as they stand. MINIMIXCE_REPOSITORY=https://github.com/OWNER/NAME adds buttons that
edit pages there and open lessons in the browser, and notebooks then install the package from there.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    import ipykernel  # noqa: F401, in which the lessons run
    import jupytext  # noqa: F401
    import myst_nb  # noqa: F401
    import nbformat
    import sphinx_book_theme  # noqa: F401
    import sphinx_copybutton  # noqa: F401
    from latex2mathml.converter import convert  # noqa: F401
    from nbclient.exceptions import CellExecutionError

    from minimixce.storage.files import write_atomically
    from notebooks import REPOSITORY, to_notebook
    from notebooks import execute as execute_notebook
except ImportError as error:
    sys.exit(f'the site needs {error.name}: pip install -e ".[site]"')

HERE = Path(__file__).resolve().parent
LESSONS = sorted(path.stem for path in HERE.glob("[0-9]_*.py"))
OURS = ".minimixce-site"  # a file that says who made a site, or began to


# ---- lessons to notebooks ------------------------------------------------------------------------


def write_notebooks(folder, lessons, fast, jobs):
    """Execute `lessons`, `jobs` at a time, and write their notebooks into a folder."""

    def write(name):
        try:
            notebook = execute_notebook(to_notebook(HERE / f"{name}.py"), fast)
        except CellExecutionError:
            print(f"{name} fails", file=sys.stderr, flush=True)
            raise
        text = nbformat.writes(notebook) + "\n"
        write_atomically(folder / f"{name}.ipynb", text.encode())  # another build may read it
        print(name, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(write, lessons):
            pass


# ---- the site ------------------------------------------------------------------------------------


def build(out, fast=False, lessons=LESSONS, execute=True, jobs=1):
    """The whole site into the folder `out`, after executing `lessons` if asked to.

    Lessons that are not executed are shown by the notebooks beside them. Raises ValueError for a
    repository that is no address, PermissionError where tutorials/ cannot be written to,
    FileExistsError where `out` holds something else than a site, CellExecutionError where a lesson
    fails, and subprocess.CalledProcessError where Sphinx warns.
    """
    check_surroundings(REPOSITORY)
    out = Path(out)
    make_room(out)
    with tempfile.TemporaryDirectory() as work:
        notebooks = Path(work) / "notebooks" if fast else HERE
        if execute:
            notebooks.mkdir(exist_ok=True)
            write_notebooks(notebooks, lessons, fast, jobs)
        sphinx = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "auto"]
        settings = ["-D", f"minimixce_notebooks={notebooks if fast and execute else ''}"]
        subprocess.run([*sphinx, *settings, "-d", f"{work}/doctrees", HERE, out], check=True)
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*.html"))


def check_surroundings(repository):
    """Raise, before anything is executed, what would stop a build later."""
    if repository and not re.fullmatch(r"https://[^/\s]+/[^/\s]+/[^/\s]+(?<!\.git)", repository):
        raise ValueError(
            "MINIMIXCE_REPOSITORY must be an address such as https://github.com/OWNER/NAME, with"
            f" nothing behind the name, got {repository!r}"
        )
    if not os.access(HERE, os.W_OK):  # for notebooks, and for the pages of the reference
        raise PermissionError(f"a build writes into {HERE}, which is read-only; build in a copy of the repository")


def make_room(out):
    """An empty folder `out`, or one from which the pages of an older build are gone.

    Raises OSError, FileExistsError where `out` is or holds something else.
    """
    ours = (out / OURS).is_file()
    if out.exists() and not ours and (out.is_file() or any(out.iterdir())):
        raise FileExistsError(f"{out} is or holds something else than a site of this command; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / OURS).touch()
    for folder in ("_downloads", "_images", "_modules", "_sources", "_static", "jupyter_execute"):
        shutil.rmtree(out / folder, ignore_errors=True)
    for page in out.rglob("*.html"):
        page.unlink()


def main():
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", default="site", help="folder of the site (default: site)")
    parser.add_argument(
        "--fast",
        action="store_true",
        help="a tenth of the work, for tests; notebooks are left alone",
    )
    parser.add_argument("--no-execute", action="store_true", help="execute nothing: the notebooks as they stand")
    parser.add_argument(
        "--lesson",
        action="append",
        help="execute only this one (its number); the others' notebooks as they stand",
    )
    parser.add_argument("--jobs", type=int, default=1, help="lessons to execute at once (default: 1)")
    args = parser.parse_args()
    if unknown := set(args.lesson or ()) - {name[0] for name in LESSONS}:
        parser.error(f"--lesson must be a number from 0 to {len(LESSONS) - 1}, got {min(unknown)}")
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {args.jobs}")
    chosen = [name for name in LESSONS if not args.lesson or name[0] in args.lesson]
    try:
        pages = build(args.out, args.fast, chosen, not args.no_execute, args.jobs)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    except CellExecutionError as error:
        return str(error)
    except subprocess.CalledProcessError as error:
        return error.returncode
    print(f"{len(pages)} pages; open {args.out}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
