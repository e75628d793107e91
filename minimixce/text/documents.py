"""From files and folders to documents."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..storage.shapes import FilePath

_CHUNK = 1 << 20  # characters read and encoded at a time


def python_docs() -> list[str]:
    """The default corpus: the language reference topics every CPython carries -> list of documents
    (str).

    Topics quote each other, so a paragraph of 40 or more characters is kept only where it first
    occurs; otherwise text held out would have been seen in training.
    """
    from pydoc_data.topics import topics

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


def find_files(paths: Iterable[FilePath]) -> list[Path]:
    """Files as they are, folders as all their files in sorted order, hidden ones left out."""
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            visible = (
                p
                for p in path.rglob("*")
                if not any(s.startswith(".") for s in p.relative_to(path).parts)
            )
            inside = sorted(p for p in visible if p.is_file())
            if not inside:
                raise ValueError(f"{path} holds no files")
            files += inside
        elif path.is_file():
            files.append(path)
        elif path.exists():  # a pipe, for example, which could be read only once
            raise ValueError(f"{path} is neither a file nor a folder")
        else:
            raise FileNotFoundError(f"{path} does not exist")
    return files


def read_chunks(path: FilePath) -> Iterator[str]:
    """The text of a UTF-8 file in pieces of bounded size."""
    try:
        with open(path, encoding="utf-8") as file:
            while chunk := file.read(_CHUNK):
                if "\0" in chunk:
                    raise ValueError(f"{path} is not a text file: it holds a NUL character")
                yield chunk
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason})") from None


def lines_of(chunks: Iterable[str]) -> Iterator[str]:
    """Lines of a text that comes in pieces, without their ends; blank lines are left out."""
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split("\n")
        yield from (line for line in whole if line.strip())
    if rest.strip():
        yield rest
