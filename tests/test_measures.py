"""Measures: against naive definitions, and where the answer can be counted by hand; and that a row
of a table is all a new one needs.
"""

import csv
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce import cli, exact, text, worlds
from minimixce.experiments import jobs, matrices, measures, options, plots, tables, world_measures
from minimixce.experiments.measures import Measure

TEXTS = st.lists(st.integers(0, 2), min_size=1, max_size=24)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(TEXTS)
def test_diversity_counts_distinct_ngrams(ids):
    grams = [tuple(ids[i : i + n]) for n in (1, 2, 3, 4) for i in range(len(ids) - n + 1)]
    grams = [gram for gram in grams if len(gram) <= 2 or len(set(gram)) > 1]
    assert measures.diversity(ids) == pytest.approx(len(set(grams)) / len(grams), abs=1e-15)


def test_diversity_by_hand():
    assert measures.diversity([1, 2, 3, 4]) == 1
    # one token, one pair; longer ones left out
    assert measures.diversity([7, 7, 7, 7]) == pytest.approx((1 + 1) / (4 + 3))
    assert np.isnan(measures.diversity([]))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(TEXTS)
def test_repetition_covers_what_stands_three_times_in_a_row(ids):
    inside = np.zeros(len(ids), bool)
    for length in range(1, len(ids) // 3 + 1):
        for start in range(len(ids) - 3 * length + 1):
            phrase = ids[start : start + length]
            if ids[start : start + 3 * length] == 3 * phrase:
                inside[start : start + 3 * length] = True
                # a further, unfinished repetition counts to where it breaks off
                rest = start + 3 * length
                while rest < len(ids) and ids[rest] == ids[rest - length]:
                    inside[rest] = True
                    rest += 1
    share, longest = measures.repetition(ids)
    assert share == pytest.approx(inside.mean(), abs=1e-15)
    assert (longest > 0) == bool(inside.any())


def test_repetition_by_hand():
    assert measures.repetition([1, 2, 3, 1, 2, 3, 1, 2, 3, 7, 8, 9]) == (0.75, 3)
    assert measures.repetition([1, 2, 1, 2, 3]) == (0.0, 0)  # twice is not three times
    # not a longer phrase, though 5 5 stands there six times
    assert measures.repetition([5] * 12) == (1.0, 1)


def test_word_validity_leaves_out_words_that_may_be_cut():
    assert measures.words("don't stop, 2 cafés_now") == ["don't", "stop", "cafés", "now"]
    assert measures.word_validity(["xx the cat xx", "xx sat zz"], {"the", "cat"}) == pytest.approx(
        2 / 3
    )
    assert np.isnan(measures.word_validity(["one two"], {"one"}))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.text(st.sampled_from("aé字'\u0301 \n,"), min_size=1),
    st.integers(1, 9),
    st.sampled_from(["character", "byte"]),
)
def test_words_counted_piece_by_piece_are_those_of_the_whole(content, piece, kind):
    tokenizer = text.ByteTokenizer() if kind == "byte" else text.CharTokenizer(content)
    ids = np.concatenate([[0], tokenizer.encode(content), [0], tokenizer.encode(content[::-1])])
    corpus = text.Corpus(ids, ids[:1], tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "_PIECE", piece)
        assert measures.vocabulary_of(corpus) == set(
            measures.words(content) + measures.words(content[::-1])
        )


def test_entropy_and_the_temperature_that_matches_it():
    model = mm.GPT(mm.GPTConfig(6, 8, 1, 1, 8, dtype="float64"), device="cpu")
    model.params = {name: 30 * p if p.ndim > 1 else p for name, p in model.params.items()}
    batches = text.consecutive_batches(np.random.default_rng(0).integers(0, 6, 60), 4, 8)
    logits = np.concatenate([model.forward(inputs)[0][targets >= 0] for inputs, targets in batches])
    for temperature in (1.0, 0.6):
        q = np.exp(logits / temperature)
        q /= q.sum(axis=-1, keepdims=True)
        _, entropy = measures.fit_to_text(model, batches, temperature)
        assert entropy == pytest.approx(-(q * np.log(q)).sum(axis=-1).mean(), rel=1e-10)
        assert measures.matching_temperature(model, batches, entropy) == pytest.approx(
            temperature, abs=1e-3
        )


# ---- of transition matrices ----------------------------------------------------------------------


def test_average_js_and_zeros_are_their_definitions():
    rng = np.random.default_rng(0)
    gold, learned = rng.dirichlet(np.ones(4), 3), rng.dirichlet(np.ones(4), 3)
    gold[0] = [0.5, 0.5, 0, 0]
    total = 0.0
    for p, q in zip(gold, learned):
        m = (p + q) / 2
        total += sum(0.5 * a * math.log(a / c) for a, c in zip(p, m) if a) + sum(
            0.5 * b * math.log(b / c) for b, c in zip(q, m)
        )
    assert matrices.average_js(gold, learned) == pytest.approx(total / 3, rel=1e-12)
    assert matrices.average_zeros(gold, learned) == pytest.approx(
        (learned[0, 2] + learned[0, 3]) / 2, rel=1e-12
    )
    assert matrices.average_js(gold, gold) == 0
    assert matrices.average_zeros(learned, learned) == 0


def test_the_transition_matrix_of_a_model_with_memory_averages_over_prefixes():
    world, model = worlds.agreement(), mm.TableBigram(6)
    model.params["logits"] = np.random.default_rng(0).standard_normal((6, 6))
    table = matrices.transition_matrix(model)
    averaged = matrices.transition_matrix(model, world, samples=500, max_len=4)
    seen = averaged.sum(axis=1) > 0
    assert seen.all()
    np.testing.assert_allclose(averaged[seen], table[seen], rtol=1e-12)


# ---- the tables of measures ----------------------------------------------------------------------

TEXT = "The cat sat on the mat. The dog sat on the log.\n" * 40
SMALL = "--steps 2 --eval-every 2 --warmup 1 --n-layer 1 --n-head 1 --n-embd 8 --quiet".split()


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_is_all_that_a_new_measure_of_text_needs(tmp_path, monkeypatch, capsys):
    """It is in eval, and in the table, the files and the picture of compare."""
    pytest.importorskip("matplotlib")

    def mean_length(evidence):
        return float(np.mean([len(ids) for ids in evidence.texts])) + 0.25

    row = Measure("mean length", ".2f", mean_length, "texts", panel=("Length of samples", "tokens"))
    monkeypatch.setitem(measures.TEXT_MEASURES, "mean_length", row)
    figures, new_figure = [], plots.new_figure
    monkeypatch.setattr(
        plots, "new_figure", lambda **options: figures.append(new_figure(**options)) or figures[-1]
    )
    (tmp_path / "text.txt").write_text(TEXT)
    words = ["--data", str(tmp_path / "text.txt"), "--block-size", "8", *SMALL]
    words += ["--seeds", "0", "--objectives", "mle", "--samples", "2", "--tokens", "20"]
    out = tmp_path / "out"
    assert cli.main(["compare", *words, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "mean length" in printed
    assert "20.25" in printed
    assert read_csv(out / "table.csv")[0]["mean_length"] == "20.25"
    # on the left once a lesson's style was set in the process
    titles = [ax.get_title(place) for ax in figures[-1].axes for place in ("center", "left")]
    assert "Length of samples" in titles
    run = ["eval", str(out / "mle_seed0"), "--samples", "2", "--tokens", "30"]
    assert cli.main(run) == 0
    assert "30.25" in capsys.readouterr().out
    assert cli.main([*run[:2], "--samples", "0"]) == 0  # without texts it has nothing to say
    assert "mean length" in capsys.readouterr().out


def test_a_row_is_all_that_a_new_measure_on_worlds_needs(tmp_path, monkeypatch, capsys):
    def mean_length(sequences):
        return sequences.mean((sequences.rows[:, 1:] >= 0).sum(axis=1))

    for name, needs in (("length_p", "P"), ("length_q", "Q")):
        row = Measure(f"length under {needs}", ".3f", mean_length, needs)
        monkeypatch.setitem(world_measures.WORLD_MEASURES, name, row)
    out = tmp_path / "out"
    words = ["--world", "agreement", "--sequences", "100", "--block-size", "4", *SMALL]
    words += ["--seeds", "0", "--objectives", "mle", "--out", str(out)]
    assert cli.main(["compare", *words]) == 0
    assert "length under Q" in capsys.readouterr().out
    expected = worlds.agreement().expected_length(5)
    assert float(read_csv(out / "table.csv")[0]["length_p"]) == pytest.approx(expected, rel=1e-12)
    assert cli.main(["eval", str(out / "mle_seed0")]) == 0
    assert "length under Q" in capsys.readouterr().out


def test_functions_of_the_table_say_what_the_exact_sums_say():
    """Listed sequences with their probabilities, through the functions that samples go through."""
    world, model = worlds.agreement(), mm.TableBigram(6)
    model.params["logits"] = np.random.default_rng(0).standard_normal((6, 6))
    sums = exact.measure(model, world, 4)
    evidence = world_measures._all_sequences(model, world, 4, 0, 0)
    for name, measure in world_measures.WORLD_MEASURES.items():
        value, error = measure.function(evidence(measure.needs))
        assert value == pytest.approx(float(sums[name]), rel=1e-9), name
        assert error is None


def test_a_table_of_measurements():
    groups = {
        "two runs": [{"perplexity": 2.0, "entropy": 1.0}, {"perplexity": 4.0, "entropy": 1.0}],
        "a text": [{"entropy": 0.5}],
    }
    chosen = {name: measures.TEXT_MEASURES[name] for name in ("perplexity", "entropy")}
    heading, two, one = tables.format_measures(groups, chosen).split("\n")
    assert heading.split() == ["perplexity", "entropy"]
    assert two.split() == ["two", "runs", "3.000", "±", "1.414", "1.000", "±", "0.000"]
    assert one.split() == ["a", "text", "0.500"]  # nothing where it lacks a measure, no deviation
    assert {len(line) for line in (heading, two, one)} == {28 + 2 * 18}


def test_a_table_of_strings():
    assert tables.format_table(("name", "n"), [("a", 1), ("abcde", 20)]) == (
        "name    n\na       1\nabcde  20"
    )
    assert tables.format_table(None, [("a", 1)], "{}:{:>3}") == "a:  1"


# ---- right values --------------------------------------------------------------------------------


def is_repeated(phrase):
    return any(
        phrase == phrase[:part] * (len(phrase) // part)
        for part in range(1, len(phrase))
        if len(phrase) % part == 0
    )


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.one_of(
        TEXTS, st.lists(TEXTS, max_size=2).map(lambda ab: 3 * [t for x in ab for t in 3 * x[:3]])
    )
)
def test_the_longest_phrase_is_no_repetition_itself(ids):
    longest = 0
    for length in range(1, len(ids) // 3 + 1):
        for start in range(len(ids) - 3 * length + 1):
            phrase = ids[start : start + length]
            if ids[start : start + 3 * length] == 3 * phrase and not is_repeated(phrase):
                longest = length
    assert measures.repetition(ids)[1] == longest


def test_a_phrase_of_shorter_repetitions_counts():
    assert measures.repetition([0, 0, 0, 1, 1, 1] * 3) == (1.0, 6)
    assert measures.repetition([0, 1] * 6) == (1.0, 2)


WORDS = {
    "don't stop": ["don't", "stop"],
    "don’t stop": ["don’t", "stop"],
    "rock'n'roll 'quoted' ’tis": ["rock'n'roll", "quoted", "tis"],
    "नमस्ते दुनिया": ["नमस्ते", "दुनिया"],
    "cafe\u0301 nai\u0308f": ["cafe\u0301", "nai\u0308f"],  # NFD
    "ภาษาไทย กำลัง": ["ภาษาไทย", "กำลัง"],
    "می\u200cخواهم رفت": ["می\u200cخواهم", "رفت"],
    "snake_case x2 3": ["snake", "case", "x"],
    "\u0301 lonely": ["lonely"],
}


@pytest.mark.parametrize("text", WORDS)
def test_words_are_whole(text):
    assert measures.words(text) == WORDS[text]


def test_words_of_a_world_are_whole_too():
    world = mm.worlds.from_text("नमस्ते don’t. cafe\u0301 don’t", 4)
    assert world.words == ["", "don’t", "cafe\u0301", "नमस्ते"]


def naive_witten_bell(train, validation, n, V):
    """By dictionaries of tuples."""

    def context(ids, i, length):
        return tuple(int(ids[j]) if j >= 0 else 0 for j in range(i - length, i))

    counts = {}
    for length in range(n):
        for i in range(1, len(train)):
            of_context = counts.setdefault(context(train, i, length), {})
            of_context[int(train[i])] = of_context.get(int(train[i]), 0) + 1

    def prob(ids, i, length):
        if length < 0:
            return 1 / V
        of_context = counts.get(context(ids, i, length))
        shorter = prob(ids, i, length - 1)
        if of_context is None:
            return shorter
        T = len(of_context)
        return (of_context.get(int(ids[i]), 0) + T * shorter) / (sum(of_context.values()) + T)

    return -np.mean([np.log(prob(validation, i, n - 1)) for i in range(1, len(validation))])


@pytest.mark.parametrize(
    ("V", "n"), [(5, 3), (65_536, 3), (65_536, 4), (65_536, 5), (50_257, 7), (2**31 - 1, 4)]
)
def test_the_baseline_does_not_wrap_around(V, n):
    """V^n goes beyond 2^63, where codes of contexts would fall together."""
    rng = np.random.default_rng(V + n)
    alphabet = np.array([1, 2, V // 4, V // 2, 3 * (V // 4), V - 1])
    train, validation = (alphabet[rng.integers(0, 6, size)] % V for size in (600, 120))
    got = measures.ngram_cross_entropy(train, validation, n, V)
    assert got == pytest.approx(naive_witten_bell(train, validation, n, V), rel=1e-12)


def test_where_no_baseline_is_counted_that_is_said(tmp_path, monkeypatch):
    (tmp_path / "story.txt").write_text("the cat sat on the mat\n" * 40)
    small = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 8, "batch_size": 2, "steps": 1}
    given = options.TrainingOptions(
        data=[str(tmp_path / "story.txt")], device="cpu", quiet=True, **small
    )
    for limit, words in (
        (5_000_000, "(a 4-gram model: "),
        (10, "(no 4-gram model beside it: more than 10 training tokens)"),
    ):
        monkeypatch.setattr(jobs, "MOST_COUNTED", limit)
        said = []
        jobs.train(given, tmp_path / str(limit), say=said.append)
        assert words in "\n".join(said)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (2, 5), (4, 9)])
def test_the_baseline_of_texts_shorter_than_its_contexts(sizes):
    train, validation = (np.arange(size) % 3 for size in sizes)
    got = measures.ngram_cross_entropy(train, validation, 6, 5)
    assert got == pytest.approx(naive_witten_bell(train, validation, 6, 5), rel=1e-12)
