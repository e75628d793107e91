"""Prepared corpora: no change goes unnoticed, and they come into their folder all at once."""

import json
import os
import shutil
import sys
import tracemalloc

import numpy as np
import pytest
from helpers import locked_by_another
from hypothesis import given, settings
from hypothesis import strategies as st
from test_install import TRAIN, contents, killed_at

from minimixce import text
from minimixce.cli import main
from minimixce.experiments import jobs, measures
from minimixce.experiments.options import TrainingOptions
from minimixce.text import prepared
from minimixce.training import run

DESCRIPTION, TRAIN_FILE, VALIDATION_FILE = prepared.NAMES
STORY = "the cat sat on the mat and the dog sat on the log\n"


def prepare(tmp_path, content=STORY * 20, name="prepared", **options):
    (tmp_path / "story.txt").write_text(content)
    text.load_corpus(tmp_path / "story.txt", folder=tmp_path / name, **options)
    return tmp_path / name


def flip(path, place, bit):
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)


def describe(folder, **changes):
    """Let the description of a prepared folder say something else, with a seal that fits."""
    description = json.loads((folder / DESCRIPTION).read_bytes()) | changes
    description["sha256"] = prepared._seal(description)
    (folder / DESCRIPTION).write_text(json.dumps(description))


# ---- what is not as it was prepared --------------------------------------------------------------


def exchanged(data, a, b, size):
    """Two stretches of `data` in each other's place."""
    a, b = sorted((a % (len(data) - size), b % (len(data) - size)))
    if b < a + size:
        return data[b:] + data[:b]
    return (
        data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]
    )


BYTES = {
    "flip": lambda data, a, b: (
        data[: a % len(data)]
        + bytes([data[a % len(data)] ^ 1 << b % 8])
        + data[a % len(data) + 1 :]
    ),
    "cut": lambda data, a, b: data[: a % len(data)],
    "cut in front": lambda data, a, b: data[1 + a % len(data) :],
    "longer": lambda data, a, b: data + data[: 1 + a % 8],
    "half of it zero": lambda data, a, b: data[: len(data) // 2] + bytes(len(data) // 2),
    "exchanged": lambda data, a, b: exchanged(data, a, b, 2 + 2 * (a % 20)),
    "reversed": lambda data, a, b: np.frombuffer(data, "<u2")[::-1].tobytes(),
    "letters reversed": lambda data, a, b: data[::-1],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("whole"))


CHANGES = given(
    st.sampled_from(sorted(BYTES)), st.sampled_from(prepared.NAMES), st.integers(0), st.integers(0)
)


@settings(derandomize=True, deadline=None, max_examples=40)
@CHANGES
def test_no_change_of_a_file_loads(whole, change, name, a, b):
    check_change(whole, change, name, a, b)


@pytest.mark.hostile
@settings(derandomize=True, deadline=None, max_examples=1500)
@CHANGES
def test_none_of_many_changes_of_a_file_loads(whole, change, name, a, b):
    check_change(whole, change, name, a, b)


def check_change(whole, change, name, a, b):
    """Let one file of a prepared corpus be another: it is refused in a sentence with its name."""
    data = (whole / name).read_bytes()
    if name == DESCRIPTION and change == "reversed":
        return
    changed = BYTES[change](data, a, b)
    if changed == data:
        return
    try:
        (whole / name).write_bytes(changed)
        with pytest.raises(ValueError, match=name) as found:
            text.load_corpus(whole)
        assert "\n" not in str(found.value)
    finally:
        (whole / name).write_bytes(data)


def test_streams_of_another_corpus_or_in_each_others_place_do_not_load(tmp_path):
    folder = prepare(tmp_path)
    other = prepare(tmp_path, STORY[::-1] * 20, "other")
    shutil.copytree(folder, tmp_path / "exchanged")
    for source, target in ((TRAIN_FILE, VALIDATION_FILE), (VALIDATION_FILE, TRAIN_FILE)):
        shutil.copy(folder / source, tmp_path / "exchanged" / target)
    with pytest.raises(ValueError, match=TRAIN_FILE):
        text.load_corpus(tmp_path / "exchanged")
    assert (folder / TRAIN_FILE).stat().st_size == (other / TRAIN_FILE).stat().st_size
    for name in (TRAIN_FILE, VALIDATION_FILE):
        shutil.copytree(folder, tmp_path / f"mixed {name}")
        shutil.copy(other / name, tmp_path / f"mixed {name}")
        with pytest.raises(ValueError, match=f"{name} has changed since it was written"):
            text.load_corpus(tmp_path / f"mixed {name}")


@pytest.mark.parametrize(
    "change",
    [
        {"lines": True},
        {"dtype": "<u4"},
        {"tokenizer": {"type": "byte", "boundary": 0}},
        {"streams": {}},
    ],
    ids=str,
)
def test_a_description_that_was_edited_does_not_load(tmp_path, change):
    folder = prepare(tmp_path)
    description = json.loads((folder / DESCRIPTION).read_bytes())
    (folder / DESCRIPTION).write_text(json.dumps(description | change))
    with pytest.raises(ValueError, match=f"{DESCRIPTION} has changed since it was written"):
        text.load_corpus(folder)


@pytest.mark.parametrize(
    "streams",
    [
        None,
        [],
        {"train": 3},
        {"train": {"tokens": 0, "sha256": ""}},
        {"train": {"tokens": "1", "sha256": ""}},
        {"train": {"tokens": 1, "sha256": 1}},
    ],
)
def test_a_description_from_somebody_else_ends_in_a_sentence(tmp_path, streams):
    folder = prepare(tmp_path)
    describe(folder, streams=streams)
    with pytest.raises(ValueError, match=f"{DESCRIPTION} does not describe the stream train"):
        text.load_corpus(folder)


def test_a_folder_of_an_earlier_version_is_prepared_again(tmp_path):
    folder = prepare(tmp_path)
    description = json.loads((folder / DESCRIPTION).read_bytes())
    del description["streams"], description["sha256"]
    (folder / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(ValueError, match="is of an earlier version of minimixce; prepare"):
        text.load_corpus(folder)
    prepare(tmp_path, overwrite=True)
    text.load_corpus(folder)


def test_a_large_folder_is_checked_whole_where_asked(tmp_path, monkeypatch, capsys):
    folder = prepare(tmp_path)
    size = (folder / TRAIN_FILE).stat().st_size + (folder / VALIDATION_FILE).stat().st_size
    flip(folder / VALIDATION_FILE, 20, 0)
    monkeypatch.setattr(prepared, "ALWAYS_VERIFIED", size)
    with pytest.raises(ValueError, match=VALIDATION_FILE):
        text.load_corpus(folder)
    monkeypatch.setattr(prepared, "ALWAYS_VERIFIED", size - 1)
    text.load_corpus(folder)
    given = TrainingOptions(data=[str(folder)], verify=True)
    with pytest.raises(ValueError, match=VALIDATION_FILE):
        jobs.load_corpus(given)
    words = ["train", "--data", folder, "--verify", "--out", tmp_path / "new", "--device", "cpu"]
    assert main(list(map(str, words))) == 2
    assert f"{VALIDATION_FILE} has changed since it was written" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_id_that_is_no_tokens_is_named_with_its_file(tmp_path):
    folder = prepare(tmp_path)
    data = np.full(2000, 65535, "<u2").tobytes()
    (folder / TRAIN_FILE).write_bytes(data)
    streams = json.loads((folder / DESCRIPTION).read_bytes())["streams"]
    sha256 = prepared.hashlib.sha256(data).hexdigest()
    describe(folder, streams=streams | {"train": {"tokens": 2000, "sha256": sha256}})
    corpus = text.load_corpus(folder)
    with pytest.raises(ValueError, match=f"{TRAIN_FILE}: ids must be in 0 … 14, got 65535"):
        text.random_batches(corpus.train, 2, 4)[0]


def test_a_file_that_is_cut_while_it_is_used_ends_in_a_sentence(tmp_path):
    """Mapped into memory, it would end the process."""
    corpus = text.load_corpus(prepare(tmp_path))
    batches = text.random_batches(corpus.train, 4, 8)
    batches[0]
    os.truncate(corpus.train.path, 0)
    with pytest.raises(ValueError, match=f"{TRAIN_FILE} was cut short while it was in use"):
        batches[1]


def test_what_is_open_stays_as_it_was_when_a_folder_is_prepared_anew(tmp_path):
    corpus = text.load_corpus(prepare(tmp_path))
    before = corpus.train[:].tolist()
    prepare(tmp_path, STORY[::-1] * 30, overwrite=True)
    assert corpus.train[:].tolist() == before
    assert text.load_corpus(tmp_path / "prepared").train[:].tolist() != before


def test_a_folder_that_changes_while_it_is_opened_is_not_loaded(tmp_path, monkeypatch):
    folder = prepare(tmp_path)
    other = prepare(tmp_path, STORY[::-1] * 20, "other")

    def replaced_first(path, *args):
        if path.name == TRAIN_FILE:
            for name in prepared.NAMES:
                os.replace(other / name, folder / name)
        return opened(path, *args)

    opened = prepared.TokenFile
    monkeypatch.setattr(prepared, "TokenFile", replaced_first)
    with pytest.raises(ValueError, match="was prepared anew while it was opened; try again"):
        text.load_corpus(folder)


# ---- a token file is read like an array ----------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(-9, 9), st.one_of(st.none(), st.integers(-9, 9)), st.booleans())
def test_a_token_file_is_sliced_like_an_array(tmp_path_factory, start, stop, wide):
    dtype = np.dtype("<u4" if wide else "<u2")
    ids = np.array([5, 0, 3, 2, 4, 1], dtype)
    path = tmp_path_factory.mktemp("ids") / "ids.bin"
    path.write_bytes(ids.tobytes())
    stream = prepared.TokenFile(path, dtype, 6, prepared.digest(ids, 1 << 17 if wide else 6), 6)
    stream.verify()
    assert len(stream) == 6
    assert stream[start:stop].tolist() == ids[start:stop].tolist()
    assert np.asarray(stream).tolist() == list(stream) == ids.tolist()
    if -6 <= start < 6:
        assert stream[start] == ids[start]
    else:
        with pytest.raises(IndexError):
            stream[start]
    with pytest.raises(ValueError, match="a step of 2"):
        stream[::2]


# ---- the fingerprint -----------------------------------------------------------------------------

IDS = st.lists(st.integers(0, 3), min_size=1, max_size=30)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(IDS, IDS, st.integers(0), st.integers(1, 3))
def test_the_fingerprint_tells_every_token_of_both_streams(train, validation, place, by):
    def of(train, validation, letters="abc", lines=False):
        streams = (np.array(ids, np.int32) for ids in (train, validation))
        return text.Corpus(*streams, text.CharTokenizer(letters), lines).fingerprint()

    before = of(train, validation)
    assert before == of(train, validation)
    assert 0 <= before < 1 << 53
    ids = train + validation
    ids[place % len(ids)] = (ids[place % len(ids)] + by) % 4
    others = {
        of(ids[: len(train)], ids[len(train) :]),
        of([*train, 0], validation),
        of(train, [*validation, 0]),
        of(train, validation, "abd"),
        of(train, validation, lines=True),
    }
    assert before not in others
    assert len(others) == 5
    if train != validation:
        assert of(validation, train) != before


def test_a_run_does_not_go_on_with_another_validation_text(tmp_path):
    corpus = text.load_corpus(prepare(tmp_path))
    run.write_options(tmp_path, {}, corpus)
    run.check_corpus(tmp_path, corpus)
    for changed in (
        corpus._replace(validation=corpus.validation[:][::-1]),
        corpus._replace(train=np.roll(corpus.train[:], 1)),
        corpus._replace(lines=True),
    ):
        with pytest.raises(ValueError, match="or its held-out part is not"):
            run.check_corpus(tmp_path, changed)


# ---- into the folder all at once -----------------------------------------------------------------


def test_only_a_prepared_corpus_is_replaced_and_only_where_asked(tmp_path):
    folder = prepare(tmp_path)
    (folder / "mine.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(FileExistsError, match=f"already holds {DESCRIPTION}; .*--overwrite"):
        prepare(tmp_path, STORY * 30)
    assert contents(folder) == before
    prepare(tmp_path, STORY * 30, overwrite=True)
    after = contents(folder)
    assert after.keys() == before.keys()
    assert after["mine.txt"] == "mine"
    assert len(after[TRAIN_FILE]) > len(before[TRAIN_FILE])
    os.remove(folder / DESCRIPTION)  # now they may be files of the user's
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=f"{TRAIN_FILE}, which is of no prepared corpus"):
            prepare(tmp_path, overwrite=overwrite)
    assert {**contents(folder), DESCRIPTION: after[DESCRIPTION]} == after


def test_a_second_process_is_told_so_before_it_reads_anything(tmp_path):
    with (
        locked_by_another(tmp_path / "prepared"),
        pytest.raises(FileExistsError, match="another process is at work"),
    ):
        prepare(tmp_path)
    prepare(tmp_path)


def test_a_corpus_that_is_half_in_place_is_read_as_the_whole_one(tmp_path):
    """As a kill leaves it before each of the moves."""
    old, new = prepare(tmp_path, name="old"), prepare(tmp_path, STORY[::-1] * 20, name="new")
    expected = contents(new)
    for moved in range(4):
        for before in (old, None):
            folder = tmp_path / f"{moved} {before is None}"
            if before:
                shutil.copytree(before, folder)
            shutil.copytree(new, folder / ".new-0123456789abcdef")
            listed = {"from": ".new-0123456789abcdef", "files": sorted(expected), "remove": []}
            (folder / ".pending.json").write_text(json.dumps(listed))
            for name in sorted(expected)[:moved]:
                os.replace(folder / ".new-0123456789abcdef" / name, folder / name)
            assert text.is_prepared(folder)
            text.load_corpus(folder)
            assert contents(folder) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of file sizes")
def test_a_full_disk_leaves_the_folder_as_it_was(tmp_path, monkeypatch, capsys):
    import resource

    (tmp_path / "story.txt").write_text(STORY * 200)
    monkeypatch.chdir(tmp_path)

    def prepare_with_a_full_disk(*words):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            return main(["prepare", "--data", "story.txt", *words])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    (tmp_path / "there").mkdir()
    assert prepare_with_a_full_disk("--out", "new") == 2
    assert capsys.readouterr().err == "minimixce prepare: new/train.bin: File too large\n"
    assert prepare_with_a_full_disk("--out", "there") == 2
    assert sorted(os.listdir()) == ["story.txt", "there"]
    assert os.listdir("there") == []
    before = contents(prepare(tmp_path))
    (tmp_path / "story.txt").write_text(STORY * 200)
    assert prepare_with_a_full_disk("--out", "prepared", "--overwrite") == 2
    assert contents(tmp_path / "prepared") == before
    assert sorted(os.listdir("prepared")) == sorted(before)


@pytest.mark.hostile
@pytest.mark.parametrize("overwrite", [False, True])
def test_prepare_killed_at_any_operation_is_run_again_and_ends_the_same(
    tmp_path, capsys, overwrite
):
    (tmp_path / "story.txt").write_text(STORY * 20)
    (tmp_path / "other.txt").write_text(STORY[::-1] * 30)

    def command(folder, *more, data="story.txt"):
        return ["prepare", "--data", str(tmp_path / data), "--out", str(folder), *more]

    assert main(command(tmp_path / "calm")) == 0
    expected = contents(tmp_path / "calm")
    assert main(command(tmp_path / "old", data="other.txt")) == 0
    old = contents(tmp_path / "old")
    seen = []
    reached = True
    while reached:
        folder = tmp_path / f"killed{len(seen) + 1}"
        if overwrite:
            shutil.copytree(tmp_path / "old", folder)
        words = command(folder, *["--overwrite"] * overwrite)
        reached = killed_at(len(seen) + 1, TRAIN, *words)
        if text.is_prepared(folder):  # read in the state that the kill left
            shutil.copytree(folder, f"{folder} read")
            text.load_corpus(f"{folder} read")
            found = contents(tmp_path / f"{folder} read")
            assert {name: found[name] for name in expected} in (old, expected)
            seen.append(found[DESCRIPTION] == expected[DESCRIPTION])
        else:
            assert not overwrite
            seen.append(False)
        capsys.readouterr()
        status = main(words)
        error = capsys.readouterr().err
        if status and not overwrite:  # it had come so far that the corpus is there
            assert "already holds minimixce_corpus.json" in error
            assert seen[-1]
        else:
            assert status == 0, (len(seen), error)
        assert contents(folder) == expected, len(seen)
    assert seen == sorted(seen)
    assert 8 < seen.index(True) < len(seen) - 4


# ---- bounded memory ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("lines", [False, True])
def test_what_reads_a_large_corpus_takes_bounded_memory(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(measures, "_PIECE", 1 << 12)
    content = "".join(f"{i} {STORY}" for i in range(4000))  # 220 kB
    corpus = text.load_corpus(prepare(tmp_path, content, lines=lines))
    for name, most, function in (
        ("open", 200_000, lambda: text.load_corpus(tmp_path / "prepared")),
        ("fingerprint", 20_000, corpus.fingerprint),
        ("batches", 50_000, lambda: text.random_batches(corpus.train, 8, 64)[0]),
        ("words", 300_000, lambda: measures.vocabulary_of(corpus)),
    ):
        function()  # what the first call of all imports and looks up is no matter of size
        tracemalloc.start()
        function()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most, name
