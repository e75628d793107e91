"""Write sample submissions of an assignment: right ones and wrong ones, to try the grader with.

    python tutorials/assignments/instructor/samples.py a1 FOLDER --variant 1

FOLDER gets a submission `right`, the reference solution; `empty`, the starter; and one for each of a few known mistakes, by the
mistake's code. They are answers: for instructors, not for students.
"""

import argparse
from pathlib import Path

from minimixce.classroom import release
from minimixce.classroom.assignments import NAMES, assignment
from minimixce.classroom.mistakes import edit


def samples(name, variant=0, wrong=3):
    """{name of a submission: text of its file}: right, empty, and `wrong` mistakes of different tasks."""
    whole = assignment(name, variant)
    found = {"right": whole.source(variant), "empty": release.starter(name, variant)}
    tasks = set()
    for mistake in whole.mistakes:
        text = edit(found["right"], mistake.edits[0])
        if text is not None and mistake.task not in tasks and len(tasks) < wrong:
            tasks.add(mistake.task)
            found[mistake.code] = text
    return found


def main():
    """Write them, each in a folder of its own."""
    parser = argparse.ArgumentParser(description="Write sample submissions, right and wrong, to try the grader with.")
    parser.add_argument("assignment", choices=NAMES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", type=int, default=0)
    given = parser.parse_args()
    if given.folder.exists():
        parser.error(f"{given.folder} exists already; choose another folder")
    for student, text in samples(given.assignment, given.variant).items():
        path = given.folder / student / assignment(given.assignment, given.variant).file
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
