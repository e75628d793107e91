"""Text that a terminal shows as it is, also where it comes from a model or a file's name: a control
character in it could move the cursor, colour what follows or change its direction.
"""

_CONTROLS = {*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029} - {ord("\n"), ord("\t")}
_DIRECTIONS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # which reorder what follows
_SURROGATES = range(0xD800, 0xE000)


def _escape(code):
    if 0xDC80 <= code < 0xDD00:  # how Python holds a byte of a file's name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_ESCAPES = {code: _escape(code) for code in (*_CONTROLS, *_DIRECTIONS, *_SURROGATES)}
_OF_A_LINE = {ord("\n"): "\\n", ord("\t"): "\\t"}


def printable(text: object) -> str:
    r"""`text`, a string or what str() makes one of, with visible escapes (\x1b, \u202e) in place of
    control characters other than line ends and tabs, of marks that change the direction of text,
    and of halves of surrogate pairs.

    >>> from minimixce.storage.terminal import printable
    >>> print(printable("a\x1b[31mb"))
    a\x1b[31mb
    """
    return str(text).translate(_ESCAPES)


def one_line(text: object) -> str:
    r"""printable(text) with escapes for line ends and tabs, too: for a file's name, or a sentence
    that may hold one.

    >>> from minimixce.storage.terminal import one_line
    >>> print(one_line("two\nlines"))
    two\nlines
    """
    return str(text).translate(_ESCAPES | _OF_A_LINE)
