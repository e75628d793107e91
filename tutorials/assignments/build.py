"""Write what students get of an assignment: the starter, its notebook, the handout and the public tests.

    python tutorials/assignments/build.py a1                          this folder's own, variant 0
    python tutorials/assignments/build.py a2 --variant 2 --out FOLDER       another variant

Handout and tests are written by hand; starter and notebook are made from the reference solution in minimixce/classroom/sources.
"""

import argparse
import re
from pathlib import Path

from minimixce.classroom import release
from minimixce.classroom.assignments import NAMES, assignment

HERE = Path(__file__).resolve().parent


def files_of(name, variant=0):
    """The files of a release -> {file name: text}."""
    folder, whole = HERE / name, assignment(name, variant)
    made = {whole.file: release.starter(name, variant), f"{name}.ipynb": release.notebook(name, variant)}
    by_hand = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.*")) if path.name not in made}
    tests = f"test_{name}.py"
    by_hand[tests] = re.sub(r"^VARIANT = \d+$", f"VARIANT = {variant}", by_hand[tests], flags=re.MULTILINE)
    return made | by_hand


def main():
    """Write the files of one assignment."""
    parser = argparse.ArgumentParser(description="Write what students get of an assignment.")
    parser.add_argument("assignment", choices=NAMES)
    parser.add_argument("--variant", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder; by default this assignment's own, which is variant 0")
    given = parser.parse_args()
    if given.variant and given.out is None:
        parser.error("--variant needs --out: the folder here holds variant 0")
    out = given.out or HERE / given.assignment
    out.mkdir(parents=True, exist_ok=True)
    for file, text in files_of(given.assignment, given.variant).items():
        (out / file).write_text(text, encoding="utf-8")
        print(out / file)


if __name__ == "__main__":
    main()
