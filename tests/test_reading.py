"""What is read of a user's files: all text once, nothing on both sides of the split, and every file
that is left out is named with the reason.
"""

import argparse
import codecs
import contextlib
import os
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimixce import cli, text
from minimixce.cli.options import add_fields
from minimixce.experiments import options
from minimixce.text import documents, prepared, sources

SMALL = (
    "--n-layer 1 --n-embd 8 --n-head 2 --block-size 8 --batch-size 2 --steps 2 --eval-every 2"
    " --warmup 1 --device cpu".split()
)
CAT = "the cat sat on the mat\n" * 20
DOG = "a dog sat on a log\n" * 20


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, in which the test works."""
    place = tmp_path / "texts"
    place.mkdir()
    tmp_path.chmod(0o755)
    monkeypatch.chdir(place)
    return place


def write(**contents):
    for name, content in contents.items():
        Path(name.replace("_", ".")).write_text(content)


def documents_of(ids, tokenizer):
    return [tokenizer.decode(d) for d in np.split(ids, np.flatnonzero(ids == 0)) if len(d) > 1]


def reasons(corpus):
    return {str(each.path): each.reason for each in corpus.sources.left_out}


def run(capsys, *argv):
    status = cli.main(list(map(str, argv)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# ---- which files ---------------------------------------------------------------------------------


@contextlib.contextmanager
def without_rights():
    """As a user who may not read what others may not."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights as on Unix")
def test_what_may_not_be_read_is_left_out_and_said_and_refused_where_it_was_named(folder):
    write(a=CAT, b=DOG, closed=DOG)
    text.load_corpus("a")  # what Python imports for it may be closed to others, too
    Path("shut").mkdir()
    Path("shut/c").write_text("never seen\n")
    for name in ("shut", "closed"):
        os.chmod(name, 0)
    try:
        with without_rights():
            corpus = text.load_corpus(".")
            for name in ("shut", "closed"):
                with pytest.raises(PermissionError) as error:
                    text.load_corpus(["a", name])
                assert error.value.filename == name
    finally:
        os.chmod("shut", 0o700)
    assert reasons(corpus) == {
        "shut": "cannot be read: Permission denied",
        "closed": "cannot be read: Permission denied",
    }
    (line, _) = corpus.sources.describe()
    assert line.startswith("left out 2: closed (cannot be read")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes as on Unix")
def test_what_is_no_text_file_of_a_folder_is_left_out_and_never_opened(folder):
    write(a=CAT, b=DOG, empty="")
    os.mkfifo("pipe")
    Path("nul").write_bytes(b"a\0b")
    Path("latin").write_bytes("café".encode("latin-1"))
    Path("wide").write_text("the cat", encoding="utf-16")
    Path("nowhere").symlink_to("missing")
    Path("around").symlink_to(".")
    Path(".hidden").mkdir()
    corpus = text.load_corpus(".")
    assert list(map(str, corpus.sources.files)) == ["a", "b"]
    assert reasons(corpus) == {
        "pipe": "neither a file nor a folder",
        "nul": "not a text file: it holds a NUL character at byte 1",
        "latin": "not UTF-8 text (unexpected end of data: 0xe9 is byte 3, counted from 0)",
        "wide": "UTF-16, not UTF-8 text; convert it, as with iconv -t UTF-8",
        "nowhere": "a link to nothing",
        "around": "a link to a folder",
        "empty": "empty",
        ".hidden": "hidden",
    }
    # what was left out does not reach the alphabet
    assert set(corpus.tokenizer.characters) == set(CAT + DOG)
    for name in ("pipe", "nul", "latin", "wide"):
        with pytest.raises(ValueError, match=name):
            text.load_corpus(["a", name])
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        text.load_corpus("/dev/zero")


def test_a_folder_of_which_nothing_is_left_says_what_was_left_out(folder):
    write(a="\0", b=CAT)
    with pytest.raises(ValueError, match=r"\. holds no text; left out 2: .*NUL.* 1 excluded"):
        text.load_corpus(".", exclude="b")
    with pytest.raises(ValueError, match=r"\. holds no files to read: left out 2: 2 not included"):
        text.load_corpus(".", include="*.txt")


@pytest.mark.parametrize("double", ["named", "copied", "linked", "hard", "marked"])
def test_no_text_is_on_both_sides_of_the_split(folder, double):
    write(a=CAT)
    if double == "copied":
        Path("b").write_text(CAT)
    elif double == "linked":
        Path("b").symlink_to("a")
    elif double == "hard":
        os.link("a", "b")
    elif double == "marked":
        Path("b").write_bytes(codecs.BOM_UTF8 + CAT.replace("\n", "\r\n").encode())
    corpus = text.load_corpus(["a", "a"] if double == "named" else ".")
    alone = text.load_corpus("a")
    assert corpus.fingerprint() == alone.fingerprint()
    same = {
        "named": {"a": "named twice"},
        "copied": {"b": "the same text as a"},
        "marked": {"b": "the same text as a"},
        "linked": {"b": "the same file as a"},
        "hard": {"b": "the same file as a"},
    }
    assert reasons(corpus) == same[double]


def test_a_byte_order_mark_is_no_character(folder):
    Path("a").write_bytes(codecs.BOM_UTF8 + CAT.encode())
    assert set(text.load_corpus("a").tokenizer.characters) == set(CAT)


def test_files_are_included_and_excluded_by_patterns(folder):
    write(a_txt=CAT, b_txt=DOG, README=CAT + DOG, c_md="# a heading")
    Path("drafts").mkdir()
    Path("drafts/d.txt").write_text("a draft")

    def read(**patterns):
        corpus = text.load_corpus(".", **patterns)
        return sorted(map(str, corpus.sources.files)), corpus.sources.remarks

    everything = ["README", "a.txt", "b.txt", "c.md", "drafts/d.txt"]
    assert read()[0] == everything
    assert read(include=["*.txt"])[0] == ["a.txt", "b.txt", "drafts/d.txt"]
    assert read(include="*.txt", exclude=["drafts", "b*"])[0] == ["a.txt"]
    assert read(exclude="drafts/*")[0] == read(exclude="drafts/")[0] == everything[:-1]
    assert "'*.tex' matches no file" in read(exclude="*.tex")[1]
    # a file that joined the others is told by name
    counted = text.load_corpus(".").sources.describe_count()
    assert counted == " (5 files: 3 .txt, README, c.md)"
    with pytest.raises(TypeError, match="include must be a path or a list of paths, got 5"):
        text.load_corpus(".", include=[5])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("minimixce_tokenizer.json", "the folder of a run"),
        ("resume.safetensors", "the folder of a run"),
        ("minimixce_corpus.json", "a prepared corpus"),
        ("study.json", "the folder of a comparison or a grid"),
    ],
)
def test_results_are_no_text(folder, name, what):
    write(a=CAT, b=DOG)
    before = text.load_corpus(".").fingerprint()
    Path("run/last").mkdir(parents=True)
    for place in ("run", "run/last"):
        Path(place, name).write_text("{}")
    corpus = text.load_corpus(".")
    assert corpus.fingerprint() == before
    assert reasons(corpus) == {"run": what}
    with pytest.raises(ValueError, match=f"run is {what}"):
        text.load_corpus(["a", "run"])


def test_where_results_go_is_left_out_before_they_are_there(folder):
    write(a=CAT, b=DOG)
    Path("out").mkdir()
    assert reasons(text.load_corpus(".", without=["out", "missing"])) == {}
    Path("out/notes").write_text("a note\n")
    assert reasons(text.load_corpus(".", without=["out"])) == {"out": "where the results go"}
    with pytest.raises(ValueError, match="is where the results go"):
        text.load_corpus(".", without=["."])
    with pytest.raises(ValueError, match="is where the results go"):
        text.load_corpus(".", folder=".")
    assert not Path(prepared.NAMES[0]).exists()


# ---- what is text --------------------------------------------------------------------------------


def test_a_file_that_changes_between_its_two_readings_is_named(folder, monkeypatch):
    write(a=CAT)
    read = documents.read_chunks

    def growing(path):
        yield from read(path)
        write(a=CAT + DOG)

    monkeypatch.setattr(sources, "read_chunks", growing)
    with pytest.raises(ValueError, match="a changed while it was read"):
        text.load_corpus("a", folder="out")
    assert not Path("out").exists()


def test_a_name_that_no_file_can_have_is_named(folder):
    with pytest.raises(ValueError, match="paths must be without NUL characters, got"):
        text.load_corpus("a\0b")
    with pytest.raises(OSError, match=r"'a{300}'$"):  # not that of a file in it
        text.load_corpus("a" * 300)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_characters="\0\r\ufeff"), max_size=30), st.data())
def test_the_first_byte_that_no_text_has_is_named_by_its_place(tmp_path_factory, content, data):
    encoded = content.encode()
    at = data.draw(st.integers(0, len(encoded)))
    damaged = encoded[:at] + data.draw(st.sampled_from([b"\xff", b"\xc3", b""])) + encoded[at:]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_CHUNK", data.draw(st.integers(1, 9)))
        try:
            assert "".join(documents.read_chunks(path)) == damaged.decode()
        except documents.NotText as error:
            found = str(error)
        else:
            return
    with pytest.raises(UnicodeDecodeError) as expected:
        damaged.decode()
    at = expected.value.start
    assert f"0x{damaged[at]:02x} is byte {at}, counted from 0" in found


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_named(folder, encoding):
    Path("a").write_bytes(CAT.encode(encoding))
    named = "UTF-32" if encoding == "utf-32" else "UTF-16"
    with pytest.raises(ValueError, match=f"a is {named}, not UTF-8 text; convert it"):
        text.load_corpus("a")


def test_a_python_without_its_documentation_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data", None)
    monkeypatch.delitem(sys.modules, "pydoc_data.topics", raising=False)
    with pytest.raises(FileNotFoundError, match="pydoc_data, which this Python lacks; give --data"):
        text.load_corpus()


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.text("ab \n", max_size=6), max_size=12))
def test_lines_of_pieces_are_the_lines_of_the_whole(pieces):
    whole = "".join(pieces).split("\n")
    assert list(documents.lines_of(pieces)) == [line for line in whole if line.strip()]


def test_a_line_of_many_pieces_takes_linear_time():
    pieces = ["a" * 500] * 20_000  # a hundred gigabytes, where each piece copies all before it
    start = time.process_time()
    (line,) = documents.lines_of(pieces)
    assert time.process_time() - start < 2
    assert len(line) == 10_000_000


# ---- what is held out ----------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from(["to", "be", "or", "not", "that", "is"]), min_size=1, max_size=30),
    st.floats(0.01, 0.99),
    st.integers(0, 3),
)
def test_all_copies_of_a_line_are_on_one_side(tmp_path_factory, lines, held_out, seed):
    path = tmp_path_factory.getbasetemp() / "lines"

    def split(lines):
        path.write_text("\n".join(lines))
        corpus = text.load_corpus(path, lines=True, held_out=held_out, seed=seed)
        return [Counter(documents_of(ids, corpus.tokenizer)) for ids in corpus[:2]]

    if len(set(lines)) == 1:
        with pytest.raises(ValueError, match="too few different lines to hold any of them out: 1"):
            split(lines)
        return
    train, validation = split(lines)
    assert train
    assert validation
    assert not train & validation
    assert train + validation == Counter(lines)
    assert split(lines[::-1]) == [train, validation]  # which side depends on the line alone


def test_lines_are_held_out_in_the_share_that_was_asked_for(folder):
    write(a="\n".join(f"line {i}" for i in range(5000)))
    corpus = text.load_corpus("a", lines=True, held_out=0.2)
    assert 0.18 < len(corpus.validation) / len(corpus.train + corpus.validation[:1]) * 0.8 < 0.22
    assert corpus.sources.describe() == []


def test_a_share_that_is_another_is_said(folder):
    write(a=CAT, b=CAT.replace("cat", "dog"))
    corpus = text.load_corpus(".")
    assert corpus.sources.describe() == [
        "held out 50.0% of the text, not 10.0%: files are held out whole"
    ]


@pytest.mark.parametrize("lines", [False, True])
def test_what_is_held_out_can_be_named_and_is_then_not_trained_on(folder, lines):
    write(a="one\ntwo\n", b="three\nfour\n", copy="one\ntwo\n", c="two\nfive\n")
    corpus = text.load_corpus(".", validation=["a"], lines=lines)
    train, validation = (documents_of(ids, corpus.tokenizer) for ids in corpus[:2])
    if lines:
        assert (train, validation) == (["three", "four", "five"], ["one", "two"])
        assert corpus.sources.remarks == ("left out a line that the validation text has, too",)
    else:
        assert (train, validation) == (["three\nfour\n", "two\nfive\n"], ["one\ntwo\n"])
        assert corpus.sources.remarks == ()
    assert reasons(corpus) == {"a": "in the validation text", "copy": "the same text as a"}
    assert corpus.sources.describe_count() == " (2 files; for validation 1 file)"
    assert text.load_corpus(validation="a").validation.tolist()[0] == 0
    with pytest.raises(ValueError, match="held_out is for a text that is split"):
        text.load_corpus("b", validation="a", held_out=0.2)
    with pytest.raises(ValueError, match=r"a holds no text; left out 1: a \(in the validation"):
        text.load_corpus("a", validation="a")
    with pytest.raises(ValueError, match="validation must name a file or folder, got none"):
        text.load_corpus("a", validation=[])


# ---- memory --------------------------------------------------------------------------------------


def test_a_text_in_memory_takes_two_bytes_a_character(folder, monkeypatch):
    monkeypatch.setattr(documents, "_CHUNK", 1 << 14)
    write(a="a text of three million characters\n" * 90_000)
    tracemalloc.start()
    corpus = text.load_corpus("a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    tokens = len(corpus.train) + len(corpus.validation)
    assert tokens > 3_000_000
    assert peak < 2.6 * tokens  # of which an eighth is room to grow


def test_what_is_encoded_is_read_as_far_as_it_is_asked_for(folder, monkeypatch):
    monkeypatch.setattr(documents, "_CHUNK", 16)
    write(a="abc\n" * 10)
    Path("b").write_bytes(b"\xff")
    tokenizer = text.CharTokenizer("abc\n")
    whole = text.encode_files(["a"], tokenizer)
    assert whole.tolist() == [0, *tokenizer.encode("abc\n" * 10).tolist(), 0]
    assert text.encode_files(["a", "b"], tokenizer, most=20).tolist() == whole.tolist()[:20]
    with pytest.raises(ValueError, match="b is not UTF-8"):
        text.encode_files(["a", "b"], tokenizer)
    # in a folder, a file that is no text after a good beginning is left out as a whole
    Path("b").write_bytes(b"cba\n" * 10 + b"\xff")
    assert text.encode_files(["."], tokenizer).tolist() == whole.tolist()
    words = text.WordTokenizer(["abc"])
    assert text.encode_files(["a"], words).tolist() == [0, *[1] * 10, 0]
    Path("a").write_text("abc" * 20 + "\ncab")
    ids = text.encode_files(["a"], tokenizer, lines=True).tolist()
    assert ids == [0, *tokenizer.encode("abc" * 20), 0, *tokenizer.encode("cab"), 0]


# ---- the command line ----------------------------------------------------------------------------


def test_a_run_in_its_own_data_goes_on_and_says_what_it_left_out(folder, capsys):
    write(a=CAT, b=DOG)
    Path("nul").write_bytes(b"\0")
    first = run(capsys, "train", "--data", ".", "--out", "run", *SMALL)[1]
    again = run(capsys, "train", "--out", "run", "--resume", "--steps", 4, "--change")
    assert again[0] == 0
    assert first.splitlines()[0] == again[1].splitlines()[0]
    assert "(2 files): " in first.splitlines()[0]
    assert "left out 1: nul (not a text file" in first
    assert "left out 2: nul (not a text file: it holds a NUL character at byte 0)," in again[1]
    assert ", run (where the results go)\n         held out 45.3% of the text, not" in again[1]
    assert run(capsys, "eval", "run", "--samples", 0)[0] == 0
    printed = run(capsys, "eval", "run", "--samples", 0, "--data", ".", "--include", "a", "n*")[1]
    assert printed.startswith("         left out 3: nul (not a text")
    assert "run (the folder of a run), 1 not included\n" in printed


def test_a_text_that_moved_is_the_same_text(folder, capsys):
    write(a=CAT, b=DOG)
    arguments = ["--out", "run", "--quiet"]
    assert run(capsys, "train", "--data", "a", "--validation", "b", *arguments, *SMALL)[0] == 0
    Path("moved").mkdir()
    Path("a").rename("moved/a")
    error = run(capsys, "train", "--resume", *arguments)[2]
    assert "a does not exist; name its new place with --data" in error
    moved = ["--data", "moved", "--steps", 4, "--change"]
    assert run(capsys, "train", "--resume", *moved, *arguments) == (0, "", "")
    # run.json has the new place
    assert run(capsys, "eval", "run", "--samples", 0)[0] == 0
    for other in (["--data", "b", "--validation", "moved"], ["--validation", "moved/a"]):
        status, _, error = run(capsys, "train", "--resume", *other, *arguments)
        assert (status, "the training text is not the one" in error) == (2, True) or (
            "holds no text" in error
        )


def test_a_quiet_run_says_on_stderr_what_was_left_out(folder, capsys):
    write(a=CAT, b=CAT)
    status, printed, error = run(capsys, "train", "--data", ".", "--quiet", "--out", "r", *SMALL)
    assert (status, printed) == (0, "")
    assert error == "         left out 1: b (the same text as a)\n"


def test_options_that_go_without_each_other(folder, capsys):
    write(a=CAT, b=DOG)
    assert run(capsys, "prepare", "--data", "a", "--out", "p")[0] == 0
    for given_options, words in (
        ("--include *.txt", "--include says which files of --data to read: add --data"),
        ("--data a --validation b --held-out 0.1", "--held-out splits the text"),
        ("--data p --exclude x", "--exclude was settled when"),
        ("--data p --validation a", "--validation was settled when"),
        ("--data p a", "p is a prepared corpus; name the files of the texts themselves"),
        ("--world agreement --validation a", "goes without --validation"),
    ):
        status, _, error = run(capsys, "train", *given_options.split(), "--out", "run", *SMALL)
        assert (status, words in error) == (2, True), error
    with pytest.raises(ValueError, match="include, exclude and validation were settled"):
        text.load_corpus("p", validation="a")
    assert run(capsys, "train", "--data", "a", "--validation", "", *SMALL)[0] == 2


def test_a_flag_of_several_values_may_be_given_several_times():
    parser = argparse.ArgumentParser()
    add_fields(parser, options.TextOptions)
    found = parser.parse_args("--data a b --data c --exclude x --exclude y".split())
    assert found.data == ["a", "b", "c"]
    assert found.exclude == ["x", "y"]


def test_options_of_the_text_are_whole_paths_and_may_name_another_place(tmp_path):
    given_options = options.absolute({"data": ["a"], "validation": ["b"], "include": ["*.txt"]})
    assert given_options["validation"] == [os.path.abspath("b")]
    assert given_options["include"] == ["*.txt"]
