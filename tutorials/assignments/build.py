"""Write what students get of an assignment: the starter, its notebook, the handout and the public tests.

    python tutorials/assignments/build.py a1                          this folder's own, variant 0
    python tutorials/assignments/build.py a2 --variant 2 --out FOLDER       another; as minimixce grade a2 --release FOLDER

Handout and tests are written by hand; starter and notebook are made from the reference solution in minimixce/classroom/sources.
"""

import argparse
from pathlib import Path

from minimixce.classroom import release
from minimixce.classroom.assignments import NAMES
from minimixce.classroom.release import files_of

HERE = Path(__file__).resolve().parent


def main():
    """Write the files of one assignment."""
    parser = argparse.ArgumentParser(description="Write what students get of an assignment.")
    parser.add_argument("assignment", choices=NAMES)
    parser.add_argument("--variant", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a new folder; by default this assignment's own, which is variant 0")
    given = parser.parse_args()
    if given.variant and given.out is None:
        parser.error("--variant needs --out: the folder here holds variant 0")
    if given.out is None:
        written = []
        for file, text in files_of(given.assignment).items():
            path = HERE / given.assignment / file
            path.write_text(text, encoding="utf-8")
            written.append(path)
    else:
        try:
            written = release.write(given.assignment, given.out, given.variant)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    print(*written, sep="\n")


if __name__ == "__main__":
    main()
