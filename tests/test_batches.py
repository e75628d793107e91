"""Batches of whole texts: each text alone in its row, once in every pass, cut where it is too long,
and the same batch for the same seed and number.
"""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce import text
from minimixce.cli import main
from minimixce.experiments import jobs
from minimixce.experiments.options import TrainingOptions
from minimixce.text import batches as of_text

LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=40)
SIZES = (st.integers(1, 6), st.integers(1, 10))


def stream_of(lengths, boundary=0):
    """A stream of texts of these lengths, in which no two tokens are the same except boundaries."""
    ids = [boundary]
    for length in lengths:
        first = max(ids) + 1
        ids += [*range(first, first + length), boundary]
    return np.array(ids)


def texts_of(stream, boundary=0):
    """The texts of a stream, as tuples, with the boundary behind each."""
    pieces = np.split(stream[1:], np.flatnonzero(stream[1:] == boundary) + 1)
    return [tuple(piece.tolist()) for piece in pieces if len(piece)]


def rows_of(batch, boundary=0):
    """The targets of each row as a tuple; checks what is true of every row."""
    inputs, targets = batch
    assert inputs.shape == targets.shape
    assert inputs.dtype == targets.dtype == np.int32
    lengths = (targets >= 0).sum(axis=1)
    assert targets.shape[1] == lengths.max()  # no column of padding alone
    for row, wanted, length in zip(inputs, targets, lengths):
        assert length > 0
        assert row[0] == boundary
        assert (row[1:length] == wanted[: length - 1]).all()
        assert (wanted[length:] == -1).all()
        assert (row[length:] == 0).all()
    return [tuple(wanted[:length].tolist()) for wanted, length in zip(targets, lengths)]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(LENGTHS, *SIZES, st.integers(0, 3), st.integers(0, 2))
def test_a_pass_has_each_text_once_alone_in_its_row(lengths, rows, block, seed, number):
    stream = stream_of(lengths, boundary=7)
    whole = [each[:block] for each in texts_of(stream, 7)]
    endless = text.whole_text_batches(stream, rows, block, seed, boundary=7)
    once = text.whole_text_batches(stream, rows, block, boundary=7)
    count = -(-len(whole) // rows)
    assert len(once) == len(list(once)) == count
    with pytest.raises(TypeError, match="never end"):
        len(endless)
    drawn = [rows_of(endless[k], 7) for k in range(number * count, (number + 1) * count)]
    ordered = [rows_of(batch, 7) for batch in once]
    for batches in (drawn, ordered):
        assert sorted(row for batch in batches for row in batch) == sorted(whole)
        assert sorted(map(len, batches))[1:] == [rows] * (count - 1)
    sizes = [len(row) for batch in ordered for row in batch]
    assert sizes == sorted(sizes)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(LENGTHS, *SIZES)
def test_what_is_cut_is_counted(lengths, rows, block):
    batches = text.whole_text_batches(stream_of(lengths), rows, block)
    left = sum(int((targets >= 0).sum()) for _, targets in batches)
    assert batches.texts == len(lengths)
    assert batches.texts_cut == sum(length + 1 > block for length in lengths)
    assert batches.targets == sum(lengths) + len(lengths)
    assert batches.targets_cut == batches.targets - left
    said = batches.describe_cut()
    assert bool(said) == bool(batches.texts_cut)
    if said:
        assert said.startswith(f"{batches.texts_cut} of {len(lengths)} ")
        assert f"{batches.targets_cut / batches.targets:.1%}" in said


def test_a_batch_depends_on_seed_and_number_alone():
    stream = stream_of(range(50))
    batches = text.whole_text_batches(stream, 4, 60, 3)
    for k in (100, 7, 0, 57):  # in any order, across passes of 13 batches
        again = text.whole_text_batches(stream, 4, 60, 3)[k]
        for a, b in zip(batches[k], again):
            assert (a == b).all()
    first = [rows_of(batches[k]) for k in range(13)]
    second = [rows_of(batches[k]) for k in range(13, 26)]
    other = text.whole_text_batches(stream, 4, 60, 4)
    assert first != second
    assert first != [rows_of(other[k]) for k in range(13)]


def test_texts_of_like_lengths_share_a_batch(monkeypatch):
    rng = np.random.default_rng(0)
    stream = stream_of(rng.integers(1, 200, 500))

    def padding(seed=0):
        batches = text.whole_text_batches(stream, 8, 1000, seed)
        targets = [batches[k][1] for k in range(63)]
        assert [t.shape[1] for t in targets] != sorted(t.shape[1] for t in targets)
        return np.concatenate([(t < 0).ravel() for t in targets]).mean()

    assert padding() < 0.03
    monkeypatch.setattr(of_text, "_POOL", 1)  # as they come
    assert padding() > 0.35


def test_texts_in_a_file_are_cut_as_those_in_memory(tmp_path):
    lines = [f"{'word ' * (i % 7)}{i}" for i in range(80)]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    kept = text.load_corpus(tmp_path / "lines.txt", lines=True)
    written = text.load_corpus(tmp_path / "lines.txt", lines=True, folder=tmp_path / "prepared")
    for seed in (None, 5):
        pair = [text.whole_text_batches(c.train, 6, 20, seed) for c in (kept, written)]
        for k in range(5):
            for a, b in zip(*(batches[k] for batches in pair)):
                assert (a == b).all()


def test_bad_sizes_and_a_stream_without_a_whole_text_end_in_a_sentence():
    for stream, rows, block, words in (
        (stream_of([3]), 0, 4, "batch_size must be at least 1, got 0"),
        (stream_of([3]), 2, 0, "block_size must be at least 1, got 0"),
        (
            np.arange(9),
            2,
            4,
            r"no whole text is in the 9 tokens .* \(--eval-tokens\), or each line",
        ),
        (np.arange(1), 2, 4, "has 1 tokens, too few"),
    ):
        with pytest.raises(ValueError, match=words):
            text.whole_text_batches(stream, rows, block)


def test_accumulated_and_shared_out_they_make_the_step_of_one_big_batch():
    stream = stream_of([3, 5, 2, 4, 1, 6])
    stream[stream > 0] = stream[stream > 0] % 10 + 1
    whole = text.whole_text_batches(stream, 6, 5)
    assert whole.texts == 6

    def params(batches, **options):
        config = mm.GPTConfig(11, block_size=5, n_layer=1, n_head=2, n_embd=8)
        model = mm.GPT(config, seed=0, device="cpu")
        mm.fit(model, list(batches), steps=1, progress=False, **options)
        return np.concatenate([p.ravel() for p in model.params.values()])

    together = params(whole)
    parts = text.whole_text_batches(stream, 2, 5)  # three batches of different widths
    assert len({inputs.shape[1] for inputs, _ in parts}) > 1
    np.testing.assert_allclose(params(parts, accumulate=3), together, atol=2e-6)
    np.testing.assert_allclose(params(whole, shards=3), together, atol=2e-6)
    assert abs(params([parts[0]]) - together).max() > 1e-4


# ---- the option ----------------------------------------------------------------------------------

TINY = "--n-layer 1 --n-head 1 --n-embd 8 --block-size 12 --batch-size 4 --eval-every 3"
TINY += " --warmup 0 --final-lr 1"  # so that the rate does not depend on --steps


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{'ab ' * (i % 9)}line {i}" for i in range(60)]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    return tmp_path


def words(command):
    return f"{command} --data lines.txt --lines --device cpu {TINY}".split()


def test_a_run_on_whole_texts_validates_on_them_and_goes_on_bit_for_bit(texts, capsys):
    train = "train --batches texts --accumulate 2"
    assert main(words(f"{train} --steps 6 --out whole")) == 0
    said = capsys.readouterr().out
    assert "of the texts to train on, " in said
    assert "of the texts to validate on, " in said
    assert " are cut at 12 tokens, which leaves out " in said
    assert main(words(f"{train} --steps 3 --out half")) == 0
    assert main("train --resume --out half --steps 6 --change --device cpu".split()) == 0
    whole, half = (mm.GPT.load(f"{name}/last", "cpu").params for name in ("whole", "half"))
    assert all((p == half[name]).all() for name, p in whole.items())

    corpus = text.load_corpus("lines.txt", lines=True)
    batches = text.whole_text_batches(corpus.validation, 32, 12)
    expected = mm.training.evaluation.evaluate(mm.GPT.load("whole", "cpu"), batches)
    measured = [json.loads(line) for line in (texts / "whole/metrics.jsonl").open()]
    mle = pytest.approx(expected["validation_mle"], rel=1e-5)  # in parts, it is rounded otherwise
    assert min(m["validation_mle"] for m in measured) == mle
    capsys.readouterr()
    assert main("eval whole --samples 1 --tokens 5 --device cpu --out found.json".split()) == 0
    found = json.loads((texts / "found.json").read_text())
    assert found["mle"] == mle
    assert found["targets"] == batches.targets - batches.targets_cut


def test_documents_are_texts_too(texts):
    for i in range(5):
        (texts / f"{i}.txt").write_text(f"document {i}\nof two lines")
    given = {"block_size": 40, "n_layer": 1, "n_head": 1, "n_embd": 8, "batches": "texts"}
    job = jobs.Job(TrainingOptions(data=[f"{i}.txt" for i in range(5)], device="cpu", **given))
    assert isinstance(job.batches, text.WholeTexts)
    assert (job.batches.texts, job.validation.texts) == (4, 1)
    assert job.describe_batches() == []
    decoded = {job.corpus.tokenizer.decode(row[row > 0]) for row in job.batches[0][1]}
    assert len(decoded) == 4
    assert all(each.endswith("of two lines") for each in decoded)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("train --batches lines", "--batches must be stream or texts, got 'lines'"),
        ("compare --tokens 9 --batches blocks", "--batches must be stream or texts, got 'blocks'"),
    ],
)
def test_another_name_of_the_option_is_refused(texts, capsys, command, sentence):
    assert main(words(f"{command} --out new")) == 2
    assert capsys.readouterr().err.strip().endswith(sentence)
    assert not (texts / "new").exists()


def test_worlds_go_without_and_a_run_keeps_its_own(texts, capsys):
    assert main("train --world agreement --batches texts --out new".split()) == 2
    assert "goes without --batches" in capsys.readouterr().err
    assert main(words("train --steps 3 --out run")) == 0
    assert main("train --resume --out run --steps 6 --change --batches texts".split()) == 2
    assert "has --batches stream, not texts; a run cannot change it" in capsys.readouterr().err
