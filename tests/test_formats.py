"""Raw public corpora become lines: each format as it is published, damaged ones in one sentence."""

import collections
import json
import shutil
import sys

import numpy as np
import pytest
from sacremoses import MosesDetokenizer
from test_install import TRAIN, contents, killed_at

from minimixce import text
from minimixce.cli import main
from minimixce.text import formats

RAW_SPLITS = {"train": "train", "validation": "valid", "test": "test"}
FILES = ["minimixce_lines.json", "test.txt", "train.txt", "validation.txt"]


def words(count, start="w"):
    return " ".join(f"{start}{i}" for i in range(count))


def write_wikitext(folder, paragraphs, ending="raw"):
    """As in WikiText-103: a blank before every line, headings, blank lines between."""
    folder.mkdir(exist_ok=True)
    for raw in RAW_SPLITS.values():
        lines = ["", "= An Article =", ""]
        for number, paragraph in enumerate(paragraphs):
            lines += [f"{paragraph} {raw}", "", f"= = Section {number} = =", ""]
        data = "".join(f" {line} \n" if line else " \n" for line in lines)
        (folder / f"wiki.{raw}.{ending}").write_text(data, encoding="utf-8")
    return folder


def write_webtext(folder, pages):
    """As in OpenAI's gpt-2-output-dataset: one JSON object a line."""
    folder.mkdir(exist_ok=True)
    for raw in RAW_SPLITS.values():
        with open(folder / f"webtext.{raw}.jsonl", "w", encoding="utf-8") as file:
            for number, page in enumerate(pages):
                record = {"id": number, "ended": True, "length": 9, "text": f"{page} {raw}"}
                file.write(json.dumps(record) + "\n")
    return folder


def write_writingprompts(folder, pairs):
    """As in WritingPrompts: prompts in one file, their stories in the same lines of another."""
    folder.mkdir(exist_ok=True)
    for raw in RAW_SPLITS.values():
        prompts, stories = zip(*pairs)
        (folder / f"{raw}.wp_source").write_text("".join(f"{each} \n" for each in prompts))
        (folder / f"{raw}.wp_target").write_text("".join(f"{each} {raw} \n" for each in stories))
    return folder


WRITERS = {
    "wikitext": write_wikitext,
    "webtext": write_webtext,
    "writingprompts": lambda folder, texts: write_writingprompts(
        folder, [("[ WP ] Go .", each) for each in texts]
    ),
}


def lines_in(folder, split):
    data = (folder / f"{split}.txt").read_bytes().decode()
    assert data.endswith("\n")
    return data[:-1].split("\n")


@pytest.fixture(params=sorted(WRITERS))
def raw(request, tmp_path):
    """(format, a folder with 60 texts a split in it)."""
    texts = [words(50 + i, start=f"t{i}x") for i in range(60)]
    return request.param, WRITERS[request.param](tmp_path / "raw", texts)


# ---- what becomes of each format -----------------------------------------------------------------


def test_paragraphs_of_wikitext_are_detokenised_and_headings_left_out(tmp_path):
    tokens = (
        "The lobster weighed 0 @.@ 7 – 2 @.@ 2 kg ( 1 @.@ 5 lb ) , or 8 @,@ 600 @,@ 000 . \" It 's"
        ' a well @-@ known one , " he said ; the <unk> agreed .'
    )
    expected = (
        'The lobster weighed 0.7 – 2.2 kg (1.5 lb), or 8,600,000. "It\'s a well-known one," he'
        " said; the <unk> agreed."
    )
    raw = write_wikitext(tmp_path / "raw", [f"{tokens} {words(50)}", "too short"])
    counts = formats.write_lines("wikitext", raw, tmp_path / "out")
    for split, of_raw in RAW_SPLITS.items():
        assert lines_in(tmp_path / "out", split) == [f"{expected} {words(50)} {of_raw}"]
        assert counts[split] == (2, 1)


def test_the_raw_version_of_wikitext_comes_before_the_one_without_rare_words(tmp_path):
    raw = write_wikitext(tmp_path / "raw", [words(60, "token")], "tokens")
    formats.write_lines("wikitext", raw, tmp_path / "tokens")
    assert lines_in(tmp_path / "tokens", "train")[0].startswith("token0")
    write_wikitext(raw, [words(60, "whole")])
    formats.write_lines("wikitext", raw, tmp_path / "whole")
    assert lines_in(tmp_path / "whole", "train")[0].startswith("whole0")


def test_pages_of_webtext_stay_as_they_are_in_one_line_each(tmp_path):
    page = f'Is  "this" ( 8 @,@ 6 ) one?\r\n\n{words(50)} \0\ud83d caf\xe9 \N{PILE OF POO}\r'
    raw = write_webtext(tmp_path / "raw", [page, "short", f"\n{words(70)}"])
    formats.write_lines("webtext", raw, tmp_path / "out")
    assert lines_in(tmp_path / "out", "validation") == [
        f'Is  "this" ( 8 @,@ 6 ) one?  {words(50)}  \N{REPLACEMENT CHARACTER} caf\xe9'
        " \N{PILE OF POO}  valid",
        f"{words(70)} valid",
    ]


def test_a_prompt_and_its_story_are_one_text(tmp_path):
    prompt = "[ WP ] You 've won `` it '' ."
    story = f"<newline> <newline> `` No , '' she said . {words(50)} <newline>"
    raw = write_writingprompts(tmp_path / "raw", [(prompt, story)])
    formats.write_lines("writingprompts", raw, tmp_path / "out")
    assert lines_in(tmp_path / "out", "test") == [
        f'[WP] You\'ve won "it". "No," she said. {words(50)} test'
    ]


def test_tokens_are_joined_as_sacremoses_joins_them(tmp_path):
    some = "a b I it 's n't ( ) [ ] \" ' , . ; : ! ? $ % & - / 5".split()
    rng = np.random.default_rng(0)
    paragraphs = [" ".join(["x", *rng.choice(some, 200)]) for _ in range(100)]
    raw = write_wikitext(tmp_path / "raw", paragraphs)
    formats.write_lines("wikitext", raw, tmp_path / "out")
    join = MosesDetokenizer(lang="en").detokenize
    assert lines_in(tmp_path / "out", "train") == [join([*p.split(), "train"]) for p in paragraphs]


@pytest.mark.parametrize("format", WRITERS)
def test_texts_of_50_to_1000_words_are_kept(tmp_path, format):
    extra = {"wikitext": 1, "webtext": 1, "writingprompts": 3}[format]  # words around a text
    sizes = (49, 50, 1000, 1001)
    raw = WRITERS[format](tmp_path / "raw", [words(size - extra) for size in sizes])
    counts = formats.write_lines(format, raw, tmp_path / "out")
    kept = [len(line.split()) for line in lines_in(tmp_path / "out", "train")]
    assert kept == [50, 1000]
    assert counts["train"] == (4, 2)
    description = json.loads((tmp_path / "out" / "minimixce_lines.json").read_bytes())
    assert description["format"] == format
    assert description["words"] == [50, 1000]
    assert description["texts"] == {"train": 2, "validation": 2, "test": 2}


# ---- a part of them ------------------------------------------------------------------------------


def test_some_documents_are_drawn_by_the_seed_and_keep_their_order(raw, tmp_path):
    format, folder = raw
    formats.write_lines(format, folder, tmp_path / "all")
    found = {}
    for name, options in (("a", {}), ("b", {}), ("c", {"seed": 1})):
        formats.write_lines(format, folder, tmp_path / name, max_documents=20, **options)
        found[name] = {split: lines_in(tmp_path / name, split) for split in RAW_SPLITS}
    assert found["a"] == found["b"]
    for split, drawn in found["a"].items():
        every = lines_in(tmp_path / "all", split)
        assert len(drawn) == 20
        assert drawn == [line for line in every if line in drawn]
        assert drawn != found["c"][split]
    places = [[line.split()[-5] for line in lines] for lines in found["a"].values()]
    assert places[0] != places[1] != places[2]  # splits are drawn apart
    formats.write_lines(format, folder, tmp_path / "more", max_documents=61)
    for split in RAW_SPLITS:
        assert lines_in(tmp_path / "more", split) == lines_in(tmp_path / "all", split)


def test_all_texts_of_the_right_length_are_equally_likely():
    texts = [words(60, start=f"{i}-") if i % 3 else "short" for i in range(30)]
    count = collections.Counter(
        line.split(b"-")[0]
        for seed in range(400)
        for line in formats._drawn(iter(texts), str.strip, 5, np.random.default_rng(seed))
    )
    assert len(count) == 20
    # 100 each, with a standard deviation of 8.7
    assert 70 < min(count.values()) <= max(count.values()) < 130


def test_a_text_that_cannot_be_among_those_drawn_is_not_detokenised():
    joined = []
    texts = [words(60)] * 2000
    drawn = formats._drawn(
        iter(texts), lambda text: joined.append(1) or text, 10, np.random.default_rng(0)
    )
    assert len(list(drawn)) == 10
    assert 10 < len(joined) < 120  # 10 (1 + log 200) are expected, 63


# ---- into training -------------------------------------------------------------------------------


def test_data_takes_the_folder_with_its_own_splits(raw, tmp_path):
    format, folder = raw
    formats.write_lines(format, folder, tmp_path / "out")
    corpus = text.load_corpus(tmp_path / "out", tokenizer="byte")
    assert corpus.lines
    for ids, split in ((corpus.train, "train"), (corpus.validation, "validation")):
        pieces = np.split(ids, np.flatnonzero(ids == 0))
        found = [corpus.tokenizer.decode(piece) for piece in pieces if len(piece) > 1]
        assert found == lines_in(tmp_path / "out", split)
        assert text.whole_text_batches(ids, 4, 100).texts == 60
    text.load_corpus(tmp_path / "out", tokenizer="byte", folder=tmp_path / "encoded")
    encoded = text.load_corpus(tmp_path / "encoded")
    assert encoded.fingerprint() == corpus.fingerprint()
    with pytest.raises(ValueError, match="splits of their own, from prepare --format"):
        text.load_corpus(tmp_path / "out", held_out=0.3)
    for several in ([tmp_path / "out", tmp_path / "raw"], [tmp_path / "out", tmp_path / "out"]):
        with pytest.raises(ValueError, match="is a folder of texts with splits of their own"):
            text.load_corpus(several)
    shutil.copytree(tmp_path / "out", tmp_path / "above" / "out")
    (tmp_path / "above" / "mine.txt").write_text("a text of mine")
    found = text.load_corpus(tmp_path / "above")
    assert [each.path.name for each in found.sources.left_out] == ["out"]


def test_a_run_trains_on_the_folder_and_is_measured_on_its_test_texts(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_webtext(tmp_path / "raw", [words(50 + i) for i in range(8)])
    assert main("prepare --format webtext raw --out texts --max-documents 6 --seed 3".split()) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["train.txt", "6", "of", "8", "texts"]
    small = "--n-layer 1 --n-head 1 --n-embd 8 --block-size 32 --batch-size 3 --tokenizer byte"
    train = f"train --data texts --batches texts --steps 2 --device cpu --out run {small}"
    assert main(train.split()) == 0
    assert "6 of 6 are cut at 32 tokens" in capsys.readouterr().out
    measure = "eval run --data texts/test.txt --samples 1 --tokens 5 --device cpu --out found.json"
    assert main(measure.split()) == 0
    assert json.loads((tmp_path / "found.json").read_text())["targets"] == 6 * 32


# ---- what is damaged or missing ------------------------------------------------------------------


def cut_json(folder):
    path = folder / "webtext.valid.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:6], lines[6][:30] + "\n", *lines[7:]]))


def changed(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def without(name):
    return lambda folder: (folder / name).unlink()


DAMAGE = [
    ("webtext", cut_json, r"webtext.valid.jsonl, line 7, is not JSON \(.*, column \d+\)"),
    (
        "webtext",
        changed("webtext.test.jsonl", b"[1]\n"),
        'line 1, must be a JSON object with a "te',
    ),
    ("webtext", changed("webtext.test.jsonl", b'{"text": 3}'), "line 1, must be a JSON object"),
    ("webtext", changed("webtext.test.jsonl", b"[" * 99_999), "line 1, is not JSON"),
    ("webtext", changed("webtext.test.jsonl", b"\n" * 3), "1,000 words; it has 0 of other lengths"),
    ("webtext", changed("webtext.train.jsonl", b"\n\xff\n"), "line 2, is not UTF-8 text"),
    ("webtext", without("webtext.test.jsonl"), "webtext.test.jsonl does not exist; --format webte"),
    ("wikitext", without("wiki.valid.raw"), "wiki.valid.raw does not exist; --format wikitext"),
    ("wikitext", changed("wiki.test.raw", b"A novel\n"), "test.raw, line 1, is not WikiText"),
    (
        "wikitext",
        changed("wiki.test.raw", b" = A = \n b \n"),
        "has no text of 50 to 1,000 words; it has 1 of other lengths",
    ),
    ("wikitext", changed("wiki.test.raw", b""), "has no text of 50 to 1,000 words; it has 0 of"),
    (
        "writingprompts",
        changed("valid.wp_target", b"a story\n" * 57),
        "valid.wp_source has 60 lines and .*valid.wp_target 57: they must be as many",
    ),
    (
        "writingprompts",
        changed("train.wp_source", b"a prompt\n" * 2),
        "train.wp_source has 2 lines and .*train.wp_target 60: they must be as many",
    ),
    ("writingprompts", without("train.wp_source"), "train.wp_source does not exist; --format"),
]


@pytest.mark.parametrize(
    ("format", "damage", "sentence"), DAMAGE, ids=[f"{row[0]} {row[2][:40]}" for row in DAMAGE]
)
def test_what_is_damaged_is_named_and_leaves_the_folder_as_it_was(
    tmp_path, format, damage, sentence
):
    raw = WRITERS[format](tmp_path / "raw", [words(60)] * 60)
    formats.write_lines(format, raw, tmp_path / "out")
    before = contents(tmp_path / "out")
    damage(raw)
    for folder in ("out", "new"):
        with pytest.raises((ValueError, FileNotFoundError), match=sentence) as found:
            formats.write_lines(format, raw, tmp_path / folder, overwrite=True)
        assert "\n" not in str(found.value)
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "new").exists()


def test_a_line_without_an_end_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_LONGEST", 1000)
    raw = write_webtext(tmp_path / "raw", ["x" * 999])
    with pytest.raises(ValueError, match=r"train.jsonl, line 1, has 1,000 bytes or more"):
        formats.write_lines("webtext", raw, tmp_path / "out")


def test_sacremoses_is_asked_for_only_where_there_are_tokens(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    raw = write_webtext(tmp_path / "raw", [words(60)])
    formats.write_lines("webtext", raw, tmp_path / "out")
    write_wikitext(raw, [words(60)])
    with pytest.raises(ValueError, match=r'needs sacremoses: pip install "minimixce\[text\]"'):
        formats.write_lines("wikitext", raw, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("--format webtext nowhere", "nowhere does not exist"),
        ("--format webtext raw/webtext.train.jsonl", "webtext.train.jsonl is no folder; --format"),
        (
            "--format wikitext raw",
            "which --format wikitext reads; it has files of --format webtext",
        ),
        ("--format other raw", "--format must be wikitext, webtext or writingprompts, got 'other'"),
        ("--format webtext", "--format reads raw files from PATH, a folder: name it"),
        ("--format webtext raw --lines", "goes without --lines"),
        ("--format webtext raw --data raw --tokenizer byte", "goes without --data"),
        ("--format webtext raw --max-documents 0", "max_documents must be at least 1, got 0"),
        ("raw", "PATH, here raw, goes with --format; name texts to encode with --data"),
        ("--max-documents 5", "--max-documents goes with --format"),
        ("--format webtext raw --out done", "done already holds minimixce_lines.json; choose anot"),
        ("--format webtext raw --out mine", "mine already holds train.txt; choose another --out"),
        ("--format webtext raw --out ids", "ids already holds a prepared corpus; choose another"),
        ("--data done --held-out 0.2 --out new", "from prepare --format, and goes without --held-"),
    ],
)
def test_bad_words_end_in_a_sentence(tmp_path, monkeypatch, capsys, command, sentence):
    monkeypatch.chdir(tmp_path)
    write_webtext(tmp_path / "raw", [words(60), words(61)])
    formats.write_lines("webtext", tmp_path / "raw", tmp_path / "done")
    text.load_corpus(tmp_path / "done", folder=tmp_path / "ids")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.txt").write_text("mine")
    before = contents(tmp_path)
    out = "" if "--out" in command else " --out new"
    assert main(["prepare", *f"{command}{out}".split()]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert contents(tmp_path) == before


def test_lines_are_replaced_where_asked_and_nothing_else_is_touched(tmp_path):
    raw = write_webtext(tmp_path / "raw", [words(60)])
    formats.write_lines("webtext", raw, tmp_path / "out")
    (tmp_path / "out" / "notes").write_text("mine")
    write_webtext(raw, [words(70)])
    formats.write_lines("webtext", raw, tmp_path / "out", overwrite=True)
    assert lines_in(tmp_path / "out", "train") == [f"{words(70)} train"]
    assert sorted(contents(tmp_path / "out")) == sorted([*FILES, "notes"])


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of file sizes")
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, capsys):
    import resource

    monkeypatch.chdir(tmp_path)
    write_webtext(tmp_path / "raw", [words(60)] * 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        assert main("prepare --format webtext raw --out new".split()) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capsys.readouterr().err == "minimixce prepare: new/train.txt: File too large\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.hostile
def test_prepare_of_lines_killed_at_any_operation_is_run_again_and_ends_the_same(tmp_path, capsys):
    raw = write_webtext(tmp_path / "raw", [words(60 + i) for i in range(5)])
    command = ["prepare", "--format", "webtext", str(raw), "--out"]
    assert main([*command, str(tmp_path / "calm")]) == 0
    expected = contents(tmp_path / "calm")
    seen = []
    reached = True
    while reached:
        folder = tmp_path / f"killed{len(seen)}"
        reached = killed_at(len(seen) + 1, TRAIN, *command, str(folder))
        seen.append(formats.is_lines(folder))
        if seen[-1]:  # whole, in the state that the kill left
            text.load_corpus(folder)
            assert contents(folder) == expected
        capsys.readouterr()
        assert main([*command, str(folder), "--overwrite"]) == 0
        assert contents(folder) == expected
    assert seen == sorted(seen)
    assert 5 < seen.index(True) < len(seen) - 3
