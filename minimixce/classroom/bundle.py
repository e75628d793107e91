"""A bundle for a class without a network: wheels, lessons, handouts, starters, slides, the site.

`python tutorials/assignments/instructor/bundle.py OUT` is the command. It is made from a clone of
the repository, whose tutorials are not part of the installed package.
"""

import html
import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from .. import __version__
from . import release
from .assignments import NAMES, assignment

LESSONS = ("[0-9]_*.py", "[0-9]_*.ipynb", "one_file.py")
PAGES = (
    "math",
    "glossary",
    "which_objective",
    "gradient_checking",
    "map",
    "synthetic_results",
    "measures",
    "finetuning",
)
EXTRAS = ("testing", "plots")
_SOURCE = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "minimixce", "data")
_HANDOUTS = "tutorials/assignments"  # which a wheel has, too
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.py[co]", ".ipynb_checkpoints")
_NEVER = (
    "minimixce/classroom/sources",
    "minimixce/classroom/catalogues",
    "concept_test/make",
    "key.md",
)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def make(
    out: str | Path,
    root: str | Path,
    *,
    variants: Mapping[str, int] | None = None,
    wheels: bool = True,
    extras: Sequence[str] = EXTRAS,
    site: str | Path | None = None,
) -> Path:
    """Make a bundle for students: a folder, or a zip file if `out` ends in .zip -> its path.

    root: a clone of the repository. variants: {assignment: variant handed out}, by default 0.
    wheels: whether to make and download wheels of the package and of what it and its extras need,
    for this Python and platform; that needs a network. site: "fast" builds the site with a tenth of
    the work, a folder is one that tutorials/build.py has made, None leaves it out.

    Solutions, catalogues of mistakes, the key of the concept test and the notes of the slides are
    not in it. The package's wheel is a copy of the package, which has them: see the guide.

    Raises FileExistsError where `out` is there, FileNotFoundError where `root` is no clone,
    ValueError for an unknown assignment or variant and where a solution would be given away, and
    subprocess.CalledProcessError where pip or the site's build fails.
    """
    out, root = Path(out), Path(root)
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another name")
    if not (root / "tutorials" / "assignments" / "instructor").is_dir():
        raise FileNotFoundError(f"{root} is no clone of the repository")
    chosen = {name: 0 for name in NAMES} | dict(variants or {})
    for name, variant in chosen.items():
        assignment(name, variant)  # raises ValueError for what there is not
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=out.parent) as work:
        folder = Path(work) / out.stem
        _copy_lessons(root, folder)
        _write_assignments(folder, chosen)
        _script(root / "tutorials/assignments/instructor/slides/build_slides.py").build(
            folder / "slides", with_notes=False
        )
        if site is not None:
            _add_site(root, folder / "site", site)
        _cut_links(folder)
        if given_away := leaks(folder, chosen):
            raise ValueError("the bundle would give away: " + "; ".join(given_away[:5]))
        if wheels:
            _make_wheels(root, folder / "wheels", extras)
        text = _readme(chosen, extras if wheels else None, site is not None)
        (folder / "README.md").write_text(text, encoding="utf-8")
        if out.suffix == ".zip":
            _zip(folder, Path(work) / "whole.zip").replace(out)
        else:
            folder.replace(out)
    return out


def leaks(folder: str | Path, variants: Mapping[str, int]) -> list[str]:
    """What a bundle must not hold and does -> "file: what", nothing if all is well.

    Files of solutions, catalogues and keys anywhere; markers of solutions anywhere; and lines of
    code that only the solutions of these variants have, in starters, notebooks, handouts and
    slides. Wheels are not looked into, nor the public tests, which say what is expected.
    """
    folder, found, secret = Path(folder), [], set[str]()
    for name, variant in variants.items():
        lines = release.solution_lines(assignment(name, variant).source(variant))
        secret |= {line.strip() for line in lines}
    for path in _texts(folder):
        where = path.relative_to(folder).as_posix()
        found += [f"{where}: {part}" for part in _NEVER if part in where]
        text = _words(path)
        if any(line.strip() == "### BEGIN SOLUTION" for line in text.splitlines()):
            found.append(f"{where}: a solution's marker")
        released = where.startswith(("tutorials/assignments/", "slides/"))
        if released and not path.name.startswith("test_"):
            shown = {line.strip() for line in text.splitlines()}
            found += [f"{where}: {line}" for line in sorted(secret & shown) if len(line) > 8]
    return found


def _texts(folder: Path) -> Iterator[Path]:
    kinds = {".py", ".ipynb", ".md", ".html", ".json", ".csv", ".txt", ".css", ".js"}
    return (path for path in sorted(folder.rglob("*")) if path.suffix in kinds and path.is_file())


def _words(path: Path) -> str:
    """The text of a file as a reader sees it: a page without its tags, a notebook's cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        return html.unescape(re.sub(r"<[^>]*>", "", text))
    if path.suffix == ".ipynb":
        return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return text


def _script(path: Path) -> ModuleType:
    """A script of the tutorials as a module."""
    specification = importlib.util.spec_from_file_location(f"bundled_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _copy_lessons(root: Path, folder: Path) -> None:
    """Lessons and notebooks, the pages that they link to, and the numbers that they read."""
    here, there = root / "tutorials", folder / "tutorials"
    there.mkdir(parents=True)
    for pattern in (*LESSONS, *(f"{page}.md" for page in PAGES)):
        for path in here.glob(pattern):
            shutil.copyfile(path, there / path.name)
    for name in ("figures", "results"):
        shutil.copytree(here / name, there / name, ignore=_NOT_COPIED)


def _write_assignments(folder: Path, variants: Mapping[str, int]) -> None:
    """What students get of each assignment, in its variant, and of A4."""
    for name in (*variants, release.EXPERIMENT):
        place = folder / "tutorials" / "assignments" / name
        release.write(name, place, variants.get(name, 0))


def _add_site(root: Path, folder: Path, site: str | Path) -> None:
    if site == "fast":
        build = [sys.executable, str(root / "tutorials" / "build.py"), "--fast"]
        subprocess.run([*build, "--out", str(folder)], check=True)
    else:
        if not (Path(site) / "index.html").is_file():
            raise FileNotFoundError(f"{site} holds no index.html: build the site first")
        shutil.copytree(site, folder)


def _cut_links(folder: Path) -> None:
    """Make plain text of Markdown links to files that are not in the bundle."""
    for path in folder.rglob("*.md"):

        def cut(found: re.Match[str], here: Path = path.parent) -> str:
            target = found[2].partition("#")[0]
            stays = re.match(r"[a-z]+:", found[2]) or (here / target).exists()
            return found[0] if stays else found[1]

        text = path.read_text(encoding="utf-8")
        path.write_text(_LINK.sub(cut, text), encoding="utf-8")


def _make_wheels(root: Path, folder: Path, extras: Sequence[str]) -> None:
    """Wheels by pip, from a copy of the source: a build leaves files behind in it."""
    with tempfile.TemporaryDirectory() as work:
        for name in _SOURCE:
            if (root / name).is_dir():
                shutil.copytree(root / name, Path(work) / name, ignore=_NOT_COPIED)
            else:
                shutil.copyfile(root / name, Path(work) / name)
        shutil.copytree(root / _HANDOUTS, Path(work) / _HANDOUTS, ignore=_NOT_COPIED)
        wanted = f"{work}[{','.join(extras)}]" if extras else work
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(folder)]
        subprocess.run([*pip, wanted], check=True)


def _readme(variants: Mapping[str, int], extras: Sequence[str] | None, has_site: bool) -> str:
    version = f"{platform.python_implementation()} {platform.python_version()}"
    named = f"[{','.join(extras)}]" if extras else ""
    install = (
        f'`pip install --no-index --find-links wheels "minimixce{named}"` in a new environment.'
        if extras is not None
        else "there are no wheels in here: install minimixce as your instructor says."
    )
    told = ", ".join(f"{name} --variant {k}" for name, k in variants.items() if k) or "0 of each"
    lines = [
        f"# minimixce {__version__}, without a network",
        "",
        f"Made for {version} on {platform.system()} {platform.machine()}; wheels fit no other.",
        "",
        f"1. Install: {install}",
        "2. Try: `cd tutorials/assignments/a0`, then `minimixce grade a0 . --local`.",
        f"3. Variants handed out, to be said to the command as well: {told}.",
        "",
        "Lessons: `tutorials/`, notebooks with their outputs, and the same as `.py` to run.",
        "Slides: open a file of `slides/`; arrow keys." + (" Site: `site/index.html`." * has_site),
    ]
    return "\n".join(lines) + "\n"


def _zip(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent))
    return path
