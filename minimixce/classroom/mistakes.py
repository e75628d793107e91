"""Catalogues of mistakes: text files of edits of a reference solution.

    gradient-sign | 1.2                              code | task | what to read, if not the task's
        The gradient's sign: it is softmax − onehot.     to the student, one or more lines
        - dlogits[row, column] -= 1                      this text, which the source has once,
        + dlogits[row, column] += 1                      is replaced by this, one or more lines
        or                                               another form of the same mistake
        - …

Lines that start with # are comments.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from .tasks import Mistake

_FOLDER = Path(__file__).parent / "catalogues"


@cache
def read_mistakes(name: str) -> tuple[Mistake, ...]:
    """The mistakes of the file catalogues/<name>.txt, in order -> tuple of Mistake."""
    text = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    blocks: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if line and not line.startswith(" "):
            blocks.append((line, []))
        elif line.strip():
            blocks[-1][1].append(line[4:])
    return tuple(_mistake(head, body) for head, body in blocks)


def _mistake(head, body):
    code, task, *lesson = (part.strip() for part in head.split("|"))
    says = [line for line in body if not line.startswith(("- ", "+ ")) and line != "or"]
    forms = [[]]
    for line in body:
        if line == "or":
            forms.append([])
        elif line.startswith("- "):
            forms[-1].append((line[2:], []))
        elif line.startswith("+ "):
            forms[-1][-1][1].append(line[2:])
    edits = tuple(tuple((old, "\n".join(new)) for old, new in form) for form in forms)
    return Mistake(code, task, " ".join(says), edits, lesson[0] if lesson else "")


def edit(text: str, edits: Iterable[tuple[str, str]]) -> str | None:
    """Text with each (old, new) replaced in turn; None unless every old is there exactly once.

    Further lines of new are indented like the line that old is in.
    """
    for old, new in edits:
        if text.count(old) != 1:
            return None
        start = text.rfind("\n", 0, text.index(old)) + 1
        line = text[start:]
        indent = line[: len(line) - len(line.lstrip(" "))]
        text = text.replace(old, new.replace("\n", "\n" + indent))
    return text
