"""Text from a student, made fit for a line of the grader's: in a terminal, a table, a web page."""

import unicodedata

MAX_TEXT = 500  # characters of an exception's text that are shown


def one_line(text: str, most: int = MAX_TEXT) -> str:
    """A text as one line of at most `most` characters that changes nothing around it.

    White space, line ends among it, becomes single spaces, so that no line can pass for one of the
    grader's; control characters, marks of direction and halves of surrogate pairs become "�".
    """
    line = " ".join(text[: 8 * most].split())
    line = "".join("�" if _is_unfit(c) else c for c in line)
    return line if len(line) <= most else line[: most - 1] + "…"


def _is_unfit(character):
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and character != "\u200d")
