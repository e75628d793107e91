"""Public corpora in their raw formats, turned into texts of one line each, as the paper on MixCE
fine-tunes on them: WikiText-103, WebText (OpenAI's gpt-2-output-dataset) and WritingPrompts.

The folder that is written holds train.txt, validation.txt and test.txt, made of the raw files of
the same splits, and minimixce_lines.json, which says how. load_corpus takes the folder: it trains
on the first and holds out the second.
"""

import contextlib
import heapq
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..storage import files, install
from ..storage.shapes import FilePath
from ..storage.validate import check_count

LEAST_WORDS, MOST_WORDS = 50, 1000  # of a text that is kept, split at white space
_DESCRIPTION = "minimixce_lines.json"
_SPLITS = {"train": "train", "validation": "valid", "test": "test"}  # here, and in raw files
_TEXTS = tuple(f"{split}.txt" for split in _SPLITS)
_NAMES = (_DESCRIPTION, *_TEXTS)
_LONGEST = 1 << 26  # bytes of a line of a raw file

Advance: TypeAlias = Callable[[int], object]  # is told how many bytes more were read


class Format(NamedTuple):
    """A raw format.

    names: of the files of a split, where {} is train, valid or test; of several such sets the first
    that a folder has is read. texts: a function that yields the texts of these files.
    is_tokenized: whether these are tokens with spaces between them.
    """

    names: Sequence[Sequence[str]]
    texts: Callable[[Sequence[Path], Advance], Iterator[str]]
    is_tokenized: bool


class Count(NamedTuple):
    """How many texts of a split were read, and how many of them written."""

    read: int
    written: int


# ---- what a user calls ---------------------------------------------------------------------------


def write_lines(
    format: str,
    path: FilePath,
    folder: FilePath,
    *,
    max_documents: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Count]:
    """Turn the raw files in the folder `path` into texts of LEAST_WORDS to MOST_WORDS words, a line
    each, in `folder` -> {split: Count}, of "train", "validation" and "test".

    format: one of FORMATS. Tokenised texts are detokenised by sacremoses; line breaks within a text
    become spaces. max_documents: at most so many of each split, drawn at random by `seed`, in the
    order of the files; they are held in memory, which otherwise stays small. overwrite: whether
    such texts in `folder` are replaced. The files come into `folder` together, or none does.
    progress: whether to show a bar.

    Raises FileNotFoundError for a file that is missing; ValueError, naming file and line, for one
    that is not of the format, for a split without a text to keep, and where sacremoses is missing;
    FileExistsError where `folder` holds other files of these names.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be {_one_of(FORMATS)}, got {format!r}")
    kind, folder = FORMATS[format], Path(folder)
    if max_documents is not None:
        check_count("max_documents", max_documents)
    found = _find(format, Path(path))
    to_line = _detokenizer() if kind.is_tokenized else _one_line
    counts = {}
    with install.locked(folder):
        install.finish(folder, _NAMES)
        _check_nothing_is_lost(folder, overwrite)
        with install.replacing(folder, _NAMES) as new, _progress(found, progress) as advance:
            for number, (split, paths) in enumerate(found.items()):
                texts = kind.texts(paths, advance)
                rng = np.random.default_rng([seed, number])
                counts[split] = _write(new / f"{split}.txt", texts, to_line, max_documents, rng)
                if not counts[split].written:
                    raise ValueError(
                        f"{paths[-1]} has no text of {LEAST_WORDS} to {MOST_WORDS:,} words, of"
                        f" {counts[split].read:,}"
                    )
            about = {
                "format": format,
                "words": [LEAST_WORDS, MOST_WORDS],
                "max_documents": max_documents,
                "seed": seed,
                "texts": {split: count.written for split, count in counts.items()},
            }
            files.write_atomically(new / _DESCRIPTION, files.to_json(about).encode() + b"\n")
    return counts


def is_lines(path: FilePath) -> bool:
    """Whether `path` is a folder of texts that write_lines wrote."""
    return install.holds(path, _DESCRIPTION)


def open_lines(folder: FilePath) -> tuple[Path, Path]:
    """The files of a folder that write_lines wrote -> (to train on, to hold out)."""
    install.settle(folder, _NAMES)
    return Path(folder) / _TEXTS[0], Path(folder) / _TEXTS[1]


def test_lines(folder: FilePath) -> Path:
    """The file to test on of such a folder."""
    install.settle(folder, _NAMES)
    return Path(folder) / _TEXTS[2]


# ---- which files ---------------------------------------------------------------------------------


def _find(format: str, path: Path) -> dict[str, list[Path]]:
    """The files of each split of a raw corpus, in the order of _SPLITS. FileNotFoundError or
    ValueError where one is missing, or where they are of another format.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    reads = " or ".join(_listed(names) for names in FORMATS[format].names)
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; --format {format} reads a folder with {reads}")
    names = _names_in(format, path)
    if names is None:
        others = [other for other in FORMATS if _names_in(other, path)]
        hint = f"; it has files of --format {others[0]}" if others else ""
        raise FileNotFoundError(f"{path} lacks {reads}, which --format {format} reads{hint}")
    found = {here: [path / name.format(raw) for name in names] for here, raw in _SPLITS.items()}
    for each in itertools.chain(*found.values()):
        if not each.exists():
            raise FileNotFoundError(f"{each} does not exist; --format {format} reads {reads}")
    return found


def _names_in(format: str, path: Path) -> Sequence[str] | None:
    """Those of a format's sets of names of which `path` has a file, or None."""
    for names in FORMATS[format].names:
        if any((path / name.format(raw)).exists() for name in names for raw in _SPLITS.values()):
            return names
    return None


def _listed(names: Sequence[str]) -> str:
    """("wiki.{}.raw",) -> "wiki.train.raw, wiki.valid.raw and wiki.test.raw"."""
    *most, last = (name.format(raw) for raw in _SPLITS.values() for name in names)
    return f"{', '.join(most)} and {last}"


def _one_of(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


def _check_nothing_is_lost(folder: Path, overwrite: bool) -> None:
    there = [name for name in _NAMES if os.path.lexists(folder / name)]
    if there and (_DESCRIPTION not in there or not overwrite):
        or_replace = " or add --overwrite" if _DESCRIPTION in there else ""
        raise FileExistsError(
            f"{folder} already holds {there[0]}; choose another --out{or_replace}"
        )
    if install.holds(folder, "minimixce_corpus.json"):
        raise FileExistsError(f"{folder} already holds a prepared corpus; choose another --out")


# ---- raw texts -----------------------------------------------------------------------------------


def _lines(path: Path, advance: Advance) -> Iterator[tuple[str, str]]:
    """The lines of a file, without white space around them, each with its place for a sentence:
    "FILE, line 3". ValueError for one that is not UTF-8 or longer than any text.
    """
    with files.open_regular(path) as file, files.naming(path):
        for number in itertools.count(1):
            data = file.readline(_LONGEST)
            if not data:
                return
            place = f"{path}, line {number:,},"
            if len(data) == _LONGEST:
                raise ValueError(f"{place} has {_LONGEST:,} bytes or more, which no text has")
            advance(len(data))
            try:
                yield data.decode("utf-8-sig" if number == 1 else "utf-8").strip(), place
            except UnicodeDecodeError as error:
                raise ValueError(f"{place} is not UTF-8 text ({error.reason})") from None


_HEADING = re.compile(r"(= )+.*( =)+")  # = Title =, = = Section = =
_SEPARATED = re.compile(r" @([-,.])@ ")  # well @-@ known, 1 @,@ 000, 1 @.@ 5


def _wikitext_texts(paths: Sequence[Path], advance: Advance) -> Iterator[str]:
    """Paragraphs of articles: all lines except headings and blank ones."""
    started = False
    for line, place in _lines(paths[0], advance):
        if line and not started and not _HEADING.fullmatch(line):
            raise ValueError(
                f"{place} is not WikiText, which begins with a heading, = Title =, got {line!r:.60}"
            )
        started = started or bool(line)
        if line and not line.startswith("="):
            yield _SEPARATED.sub(r"\1", line)


def _webtext_texts(paths: Sequence[Path], advance: Advance) -> Iterator[str]:
    """Web pages: the "text" of the JSON object in each line."""
    for line, place in _lines(paths[0], advance):
        if not line:
            continue
        try:
            record: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place} is not JSON ({error.msg}, column {error.colno})") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place} is not JSON ({error})") from None
        text = record.get("text") if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise ValueError(f'{place} must be a JSON object with a "text", got {line!r:.60}')
        yield text


def _writing_prompts_texts(paths: Sequence[Path], advance: Advance) -> Iterator[str]:
    """A prompt, which is a line of the first file, and its story, the same line of the second."""
    prompts, stories = (_lines(path, advance) for path in paths)
    for number in itertools.count():
        prompt, story = next(prompts, None), next(stories, None)
        if prompt is None and story is None:
            return
        if prompt is None or story is None:
            ends = [number + (each is not None) for each in (prompt, story)]
            counts = [n + sum(1 for _ in rest) for n, rest in zip(ends, (prompts, stories))]
            raise ValueError(
                f"{paths[0]} has {counts[0]:,} lines and {paths[1]} {counts[1]:,}: they must be as"
                " many, each prompt in the line of its story"
            )
        text = f"{prompt[0]} {story[0]}".replace("<newline>", " ")
        yield text.replace("``", '"').replace("''", '"')


FORMATS = {
    "wikitext": Format([["wiki.{}.raw"], ["wiki.{}.tokens"]], _wikitext_texts, True),
    "webtext": Format([["webtext.{}.jsonl"]], _webtext_texts, False),
    "writingprompts": Format([["{}.wp_source", "{}.wp_target"]], _writing_prompts_texts, True),
}


# ---- lines ---------------------------------------------------------------------------------------

_BREAKS = re.compile("\r\n?|[\n\0]")  # what would end a line, or make it no text
_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of pairs, as JSON may have them


def _one_line(text: str) -> str:
    """A text as one line that any file can hold."""
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", _BREAKS.sub(" ", text)).strip()


def _detokenizer() -> Callable[[str], str]:
    """A function from a text of tokens to a line as it would be written."""
    try:
        from sacremoses import MosesDetokenizer
    except ImportError:
        raise ValueError(
            'detokenising a text needs sacremoses: pip install "minimixce[text]"'
        ) from None
    detokenize = MosesDetokenizer(lang="en").detokenize
    return lambda text: _one_line(detokenize(text.split()))


def _write(
    path: Path,
    texts: Iterable[str],
    to_line: Callable[[str], str],
    most: int | None,
    rng: np.random.Generator,
) -> Count:
    """Write those of the texts that have the right length to a new file, or `most` of them."""
    read = written = 0

    def counted():
        nonlocal read
        for text in texts:
            read += 1
            yield text

    kept: Iterator[bytes]
    if most is None:
        kept = (line.encode() for line in map(to_line, counted()) if _fits(line))
    else:
        kept = _drawn(counted(), to_line, most, rng)
    file = open(path, "xb")  # noqa: SIM115 - errors of reading, in between, name another file
    try:
        for line in kept:
            with files.naming(path):
                file.write(line + b"\n")
            written += 1
    finally:
        with files.naming(path):
            file.close()
    return Count(read, written)


def _fits(line: str) -> bool:
    return LEAST_WORDS <= len(line.split()) <= MOST_WORDS


def _drawn(
    texts: Iterable[str], to_line: Callable[[str], str], most: int, rng: np.random.Generator
) -> Iterator[bytes]:
    """`most` lines of the right length, all such lines equally likely, in the order of the texts.

    Every text gets a random number, and the least of them are kept, so that a text which is not
    among them when it is read need not be detokenised.
    """
    kept: list[tuple[float, int, bytes]] = []  # a heap, the greatest number first
    for number, text in enumerate(texts):
        drawn = rng.random()
        if len(kept) == most and drawn > -kept[0][0]:
            continue
        line = to_line(text)
        if _fits(line):
            heapq.heappush(kept, (-drawn, number, line.encode()))
            if len(kept) > most:
                heapq.heappop(kept)
    yield from (line for _, _, line in sorted(kept, key=lambda each: each[1]))


@contextlib.contextmanager
def _progress(found: dict[str, list[Path]], shown: bool) -> Iterator[Advance]:
    """A bar of the bytes of all files, and the function that moves it on."""
    from tqdm import tqdm  # here, so that texts are read without it

    total = sum(path.stat().st_size for paths in found.values() for path in paths)
    with tqdm(total=total, unit="B", unit_scale=True, disable=None if shown else True) as bar:
        yield bar.update
