"""From files to documents: what their text is, whole or line by line."""

import codecs
import io
from collections.abc import Iterable, Iterator

from ..storage import files
from ..storage.shapes import FilePath

_CHUNK = 1 << 20  # bytes read, decoded and encoded at a time


class NotText(ValueError):
    """A file is not UTF-8 text; .what says what it is instead."""

    def __init__(self, path: FilePath, what: str) -> None:
        super().__init__(f"{path} is {what}")
        self.what = what


def python_docs() -> list[str]:
    """The default corpus: the language reference topics every CPython carries -> list of documents
    (str).

    Topics quote each other, so a paragraph of 40 or more characters is kept only where it first
    occurs; otherwise text held out would have been seen in training. Raises FileNotFoundError where
    this Python was installed without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise FileNotFoundError(
            "the default corpus is the documentation in Python's module pydoc_data, which this"
            " Python lacks; give --data, a text of yours, or use a Python with its whole standard"
            " library"
        ) from None
    return drop_repeated_paragraphs(topics.values())


def drop_repeated_paragraphs(documents: Iterable[str], min_length: int = 40) -> list[str]:
    """Documents without the paragraphs (blank-line separated) of min_length or more characters that
    occurred before.
    """
    seen, kept_documents = set(), []
    for document in documents:
        kept = []
        for paragraph in document.split("\n\n"):
            key = " ".join(paragraph.split())
            if len(key) >= min_length and key in seen:
                continue
            seen.add(key)
            kept.append(paragraph)
        kept_documents.append("\n\n".join(kept).strip("\n"))
    return [document for document in kept_documents if document]


def read_chunks(path: FilePath) -> Iterator[str]:
    """The text of a UTF-8 file in pieces of bounded size, without the mark (BOM) that some editors
    put first, every line end as "\\n".

    Raises NotText, a ValueError that says where the first byte is that no text has.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
    with files.open_regular(path) as file, files.naming(path):
        position = 0
        while data := file.read(max(_CHUNK, len(codecs.BOM_UTF8))):
            if position == 0 and (kind := _wide_encoding(data)):
                raise NotText(path, f"{kind}, not UTF-8 text; convert it, as with iconv -t UTF-8")
            if b"\0" in data:
                found = position + data.index(b"\0")
                raise NotText(path, f"not a text file: it holds a NUL character at byte {found:,}")
            if position == 0:
                position = len(data)
                data = data.removeprefix(codecs.BOM_UTF8)
            else:
                position += len(data)
            yield from _decoded(path, newlines, data, position)
        yield from _decoded(path, newlines, b"", position)


def _decoded(
    path: FilePath, newlines: io.IncrementalNewlineDecoder, data: bytes, position: int
) -> Iterator[str]:
    """The text of the bytes that end at `position`, if there is any; of no bytes, what is left at
    the end.
    """
    try:
        # the annotation of this method in Python's own stubs knows text alone
        chunk = newlines.decode(data, final=not data)  # type: ignore[arg-type]
    except UnicodeDecodeError as error:
        # what was decoded ends where what was read ends
        at = position - len(error.object) + error.start
        what = f"{error.reason}: 0x{error.object[error.start]:02x} is byte {at:,}, counted from 0"
        raise NotText(path, f"not UTF-8 text ({what})") from None
    if chunk:
        yield chunk


_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # which begins as UTF-16's does
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def _wide_encoding(start: bytes) -> str | None:
    """The encoding of more than a byte a character that a file begins in, or None: known by its
    mark, or by a NUL in every second place, as UTF-16 has it in most languages of Latin letters.
    """
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name
    start = start[:1000]
    fewer, more = sorted(half.count(0) / len(start) for half in (start[::2], start[1::2]))
    return "UTF-16" if len(start) >= 4 and more > 0.4 and fewer < 0.1 else None


def pieces_of(line: str) -> Iterator[str]:
    """A line in pieces of bounded size, since encoding takes a multiple of it."""
    return (line[start : start + _CHUNK] for start in range(0, len(line), _CHUNK))


def lines_of(chunks: Iterable[str]) -> Iterator[str]:
    """Lines of a text that comes in pieces, without their ends; blank lines are left out."""
    begun: list[str] = []  # pieces of the line whose end is yet to come
    for chunk in chunks:
        first, *others = chunk.split("\n")
        begun.append(first)
        if others:
            # joined once, so that a line of many pieces takes no more time than many lines
            *whole, last = "".join(begun), *others
            yield from (line for line in whole if line.strip())
            begun = [last]
    rest = "".join(begun)
    if rest.strip():
        yield rest
