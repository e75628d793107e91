"""Continuations of held-out texts and their measures: by hand, against other code, and as eval
prints them.
"""

import itertools
import json
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minimixce as mm
from minimixce import cli, text
from minimixce.experiments import (
    continuation_measures,
    continuations,
    embeddings,
    mauve,
    measures,
    tables,
)

LETTERS = text.CharTokenizer("abcd .")


def tiny(seed=0, block_size=12, dtype="float64", vocab_size=LETTERS.vocab_size):
    model = mm.GPT(mm.GPTConfig(vocab_size, block_size, 2, 2, 8, dtype=dtype), device="cpu")
    rng = np.random.default_rng(seed)
    for p in model.params.values():
        p += (0.5 * rng.standard_normal(p.shape)).astype(p.dtype)
    return model


# ---- hidden states -------------------------------------------------------------------------------

TEXTS = ["ab", "a", "abcd. abcd", "", "d", "cab. dad bad cad abcd"]  # the last is too long


def one_by_one(model, content):
    """The boundary and the text, as far as there are positions: ids, and their states."""
    ids = np.concatenate([[0], LETTERS.encode(content)]).astype(int)[: model.config.block_size]
    return ids, model.hidden_forward(ids[None])[0][0]


def test_states_in_batches_are_those_of_each_text_by_itself(monkeypatch):
    model = tiny()
    last = embeddings.last_states(model, LETTERS, TEXTS)
    mean = embeddings.mean_states(model, LETTERS, TEXTS)
    for i, content in enumerate(TEXTS):
        _, states = one_by_one(model, content)
        np.testing.assert_allclose(last[i], states[-1], rtol=1e-10)
        inner = states[1:] if len(states) > 1 else states
        np.testing.assert_allclose(mean[i], inner.mean(axis=0), rtol=1e-10)
    monkeypatch.setattr(embeddings, "_POSITIONS", 20)
    in_small_batches = embeddings.last_states(model, LETTERS, TEXTS)
    np.testing.assert_allclose(in_small_batches, last, rtol=1e-10)
    assert embeddings.mean_states(model, LETTERS, []).shape == (0, 8)


def test_hidden_states_are_those_of_a_forward_with_a_cache():
    model, ids = tiny(), np.arange(12)[None] % 7
    assert np.array_equal(model.hidden_states(ids), model.hidden_forward(ids)[0])


def test_coherence_is_a_cosine():
    vectors = {"a": [1, 0], "b": [1, 1], "c": [0, 2], "d": [0, 0]}

    def encode(texts):
        return np.array([vectors[each] for each in texts])

    assert embeddings.coherence(encode, ["a"], ["b"]) == pytest.approx(2**-0.5)
    # one angle is 0, one is right, and nothing is like the zero vector
    assert embeddings.coherence(encode, ["a", "a", "d"], ["a", "c", "a"]) == pytest.approx(1 / 3)
    for wrong in (lambda texts: np.zeros(3), lambda texts: ["x"], lambda texts: np.zeros((1, 2))):
        with pytest.raises(ValueError, match="encode must return numbers of shape"):
            embeddings.coherence(wrong, ["a", "b"], ["b", "a"])
    with pytest.raises(ValueError, match="finite"):
        embeddings.coherence(lambda texts: np.full((1, 2), np.nan), ["a"], ["b"])
    with pytest.raises(ValueError, match="one length, got 1 and then 2"):
        embeddings.coherence(lambda texts: np.ones((1, len(texts[0]))), ["a"], ["bb"])


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("[['1', '2'] for t in texts]", r"must return numbers of shape \(3, d\) for 3 texts"),
        ("[[1], [1, 2]] * len(texts)", r"must return numbers.*got list of object, shape \(\)"),
        ("[[1j] for t in texts]", r".*got list of complex128, shape \(3, 1\)"),
        ("[[] for t in texts]", r".*got list of float64, shape \(3, 0\)"),
        ("[[float('nan')] for t in texts]", "must return finite numbers"),
        ("exit()", "fails: SystemExit: None"),
        ("1 / 0", "fails: ZeroDivisionError: division by zero"),
    ],
)
def test_what_an_encoder_of_a_file_must_not_do(tmp_path, returned, sentence):
    path = tmp_path / "mine.py"
    path.write_text(f"def encode(texts):\n    return {returned}\n")
    encode = embeddings.encoder_of_file(f"{path}:encode")
    with pytest.raises(ValueError, match=f"encode in {path} {sentence}"):
        encode(["a", "b", "c"])


def test_states_that_are_not_finite_are_refused():
    model = tiny()
    model.params["ln_f.bias"][...] = np.inf
    with pytest.raises(FloatingPointError, match="hidden states must be finite, got inf"):
        embeddings.last_states(model, LETTERS, ["ab"])


# ---- texts, and going on -------------------------------------------------------------------------


def test_whole_texts_are_dealt_into_two_hands():
    stream = np.array([0, 1, 1, 0, 2, 2, 2, 2, 0, 3, 3, 3, 0, 4, 4, 4, 4, 4, 0, 5, 5, 5])
    hands = continuations.deal(stream, 0, 9, tokens=4, prompt_tokens=2, whole=True)
    # 1 1 has no continuation, what follows the last boundary no end
    dealt = sorted([*map(tuple, hands.measured), *map(tuple, hands.others)])
    assert len(hands.measured) == len(hands.others) == 1
    assert set(dealt) <= {(2,) * 4, (3,) * 3, (4,) * 4}
    assert len(set(dealt)) == 2
    whole = continuations.deal(stream, 0, 9, tokens=10**30, prompt_tokens=2, whole=True)
    assert max(map(len, (*whole.measured, *whole.others))) == 5
    with pytest.raises(ValueError, match=r"two texts of more than 4 tokens.*got 1.*--eval"):
        continuations.deal(stream, 0, 9, tokens=6, prompt_tokens=4, whole=True)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(2, 9), st.integers(0, 120))
def test_stretches_are_disjoint(count, tokens, size):
    stream = np.arange(size)
    if size // tokens < 2:
        with pytest.raises(ValueError, match="need two stretches"):
            continuations.deal(stream, 0, count, tokens, 1, whole=False)
        return
    hands = continuations.deal(stream, 0, count, tokens, 1, whole=False)
    assert 1 <= len(hands.measured) == len(hands.others) <= count
    found = np.concatenate([*hands.measured, *hands.others])
    assert len(set(found.tolist())) == len(found) == 2 * len(hands.measured) * tokens


def test_a_model_goes_on_from_the_prompts_and_stops_where_a_text_ends(monkeypatch):
    model = mm.GPT(tiny().config, device="cpu")  # all tokens are about as probable
    texts = [np.array([1, 2, 3, 4, 5]), np.array([5, 4, 3])]
    hands = continuations.Hands(texts, texts, 2, True)
    written = continuations.write_on(model, texts * 30, hands, 0, 9, seed=3)
    assert len(written) == 60
    lengths = {len(ids) for ids in written}
    assert max(lengths) == 9  # the prompt's two among them
    assert len(lengths) > 2  # some end before
    for ids, human in zip(written, texts * 30):
        assert ids[:2].tolist() == human[:2].tolist()
        assert 0 not in ids
    again = continuations.write_on(model, texts * 30, hands, 0, 9, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(written, again))
    stretches = continuations.Hands(texts, texts, 2, False)
    run_on = continuations.write_on(model, texts * 30, stretches, 0, 9, seed=3)
    assert {len(ids) for ids in run_on} == {9}
    assert any(0 in ids for ids in run_on)
    # and with no end to speak of they are written to their ends alone, however it is looked for
    unlimited = continuations.write_on(model, texts * 30, hands, 0, 10**15, seed=3)
    assert {ids[:9].tobytes() for ids in unlimited[:32]} == {ids.tobytes() for ids in written[:32]}
    monkeypatch.setattr(continuations, "_STEPS", 3)
    in_steps = continuations.write_on(model, texts * 30, hands, 0, 10**15, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(unlimited, in_steps, strict=True))
    # top-p of almost nothing leaves the likeliest token
    sure = continuations.write_on(model, texts, stretches, 0, 6, top_p=1e-6)
    greedy = model.generate(np.array([[1, 2]]), 4, temperature=0)
    assert sure[0].tolist() == greedy[0].tolist()
    # a whole text's prompt has the boundary before it
    model = tiny(seed=1)
    sure = continuations.write_on(model, texts, hands, 0, 6, top_p=1e-6)
    behind_boundary = model.generate(np.array([[0, 1, 2]]), 4, temperature=0, stop=0)[0, 1:]
    behind_none = model.generate(np.array([[1, 2]]), 4, temperature=0, stop=0)[0]
    assert sure[0].tolist() == [id for id in behind_boundary.tolist() if id]
    assert behind_boundary.tolist() != behind_none.tolist()


def test_the_tuned_top_p_is_the_one_as_diverse_as_human_text():
    human = [np.array([1, 1, 2, 2])]
    texts = {0.5: [np.array([1, 1, 1, 1])], 0.7: [np.array([1, 1, 3, 3])], 0.9: [np.arange(4)]}
    top_p, found = continuations.tune_top_p(texts.__getitem__, human, (0.5, 0.7, 0.9))
    assert top_p == 0.7
    assert found[0.9] == 1
    assert found[0.5] < found[0.7] < 1


# ---- spans ---------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 6), max_size=6), st.integers(1, 4), st.integers(0, 99))
def test_spans_are_all_different_and_all_there_are(sizes, words, seed):
    texts = [" ".join(f"{i}.{j}" for j in range(size)) for i, size in enumerate(sizes)]
    everything = {
        tuple(content.split()[j : j + words])
        for content in texts
        for j in range(len(content.split()) - words + 1)
    }
    total = continuations.count_spans(texts, words)
    assert total == len(everything)
    drawn = continuations.draw_spans(texts, total, words, seed)
    assert {tuple(span) for span in drawn} == everything
    assert len(drawn) == total
    with pytest.raises(ValueError, match=f"have {total} spans"):
        continuations.draw_spans(texts, total + 1, words, seed)


# ---- measures by hand ----------------------------------------------------------------------------


def compared(contents, prompt_tokens=2, **options):
    """Evidence of texts by LETTERS, judged by the counts of a and of b."""

    def encode(texts):
        return np.array([[each.count("a"), each.count("b")] for each in texts])

    judge = continuation_measures.Judge(encode, None, options.pop("spans", 0), 4)
    ids = [LETTERS.encode(content) for content in contents]
    return continuation_measures.Compared(
        ids, LETTERS, {"ab"}, prompt_tokens=prompt_tokens, judge=judge, **options
    )


def test_measures_by_hand():
    evidence = compared(["aaab ab ab", "abbb"], spans=0)
    found = continuation_measures.measure_compared(evidence)
    assert "mauve" not in found
    assert "controlled_coherence" not in found
    assert "perplexity" not in found
    # aa, ab ab ab: (2, 0) and (3, 3)... and ab, bb: (1, 1) and (0, 2): both at 45 degrees
    assert evidence.parts() == [["aa", "ab"], ["ab ab ab", "bb"]]
    assert found["coherence"] == pytest.approx(2**-0.5)
    assert found["authors_repetition"] == pytest.approx((3 / 10 + 0) / 2)  # not at the end
    assert found["authors_repetition_length"] == 1
    spans = compared(["a b b b"], spans=1)
    assert spans.span_parts() == [["a b"], ["b b"]]
    controlled = continuation_measures.measure_compared(spans)["controlled_coherence"]
    assert controlled == pytest.approx(2**-0.5)


@pytest.mark.parametrize(
    ("words", "prompt"), [(2, 1), (5, 2), (74, 37), (int(200 / 1.35), int(50 / 1.35))]
)
def test_the_prompt_of_a_span_is_the_authors_and_of_a_short_one_its_half(words, prompt):
    evidence = compared(["a " * words], spans=1)
    evidence.judge.span_words = words
    ((first,), (second,)) = evidence.span_parts()
    assert [first.count("a"), second.count("a")] == [prompt, words - prompt]


def test_groups_have_equally_many_spans():
    model, corpus = tiny(), text.Corpus(np.array([0]), np.array([0]), LETTERS)
    stream = np.concatenate([[0], LETTERS.encode("a b c d. " * 40)])
    hands = continuations.deal(stream, 0, 4, 20, 4, whole=False)
    judge = continuation_measures.Judge(lambda t: np.ones((len(t), 2)), None, 1000, 2)
    options = {"tokens": 20, "seeds": [0, 1], "top_p": 0.9}
    found = continuation_measures.measure_continuations(
        model, hands, corpus, set(), judge, **options
    )
    assert list(found["groups"]) == ["unbiased", "top-p 0.9", "human text"]
    assert [row["seed"] for row in found["groups"]["unbiased"]] == [0, 1]
    assert len(found["groups"]["human text"]) == 1
    assert 0 < found["spans"] < 1000
    assert judge.spans == 1000  # for another model's texts
    for row in found["groups"]["unbiased"]:
        assert row["controlled_coherence"] == pytest.approx(1)


def test_the_top_p_of_a_group_is_that_of_its_name():
    model, hands, corpus, vocabulary = group_options(4, 9)
    judge = continuation_measures.Judge(letter_counts, None, 5, 2)
    options = {"tokens": 9, "seeds": [0, 1], "top_p": 1e-6}
    found = continuation_measures.measure_continuations(
        model, hands, corpus, vocabulary, judge, **options
    )
    greedy = [model.generate(ids[None, :4], 5, temperature=0)[0] for ids in hands.measured]
    likeliest = np.mean([measures.diversity(ids) for ids in greedy])
    for row in found["groups"]["top-p 1e-06"]:
        assert row["diversity"] == pytest.approx(likeliest)
    for row in found["groups"]["unbiased"]:
        assert row["diversity"] != pytest.approx(likeliest)


def letter_counts(texts):
    return np.array([[each.count("a"), each.count("b"), len(each)] for each in texts], float)


def group_options(count, tokens):
    """A model, hands of different texts, and the other arguments of measure_continuations."""
    stream = np.random.default_rng(4).integers(0, LETTERS.vocab_size, 1000)
    hands = continuations.deal(stream, 0, count, tokens, 4, whole=False)
    return tiny(), hands, text.Corpus(stream, stream, LETTERS), {"ab"}


def test_every_group_is_written_as_it_is_called():
    model, hands, corpus, vocabulary = group_options(4, 9)
    judge = continuation_measures.Judge(letter_counts, None, 5, 2)
    options = {"tokens": 9, "seeds": [3, 4], "temperature": 0.7, "tune": True}
    found = continuation_measures.measure_continuations(
        model, hands, corpus, vocabulary, judge, **options
    )

    def write(texts, seed, top_p):
        sampling = {"temperature": 0.7, "top_p": top_p, "seed": seed}
        return continuations.write_on(model, texts, hands, 0, 9, **sampling)

    def diversity(texts):
        return np.mean([measures.diversity(ids) for ids in texts])

    tuned = {p: diversity(write(hands.others, 3, p)) for p in continuations.TOP_PS}
    assert found["tuned"] == pytest.approx(tuned)
    human = diversity(hands.others)
    top_p = min(tuned, key=lambda p: abs(tuned[p] - human))
    assert found["top_p"] == top_p
    labels = {"temperature 0.7": None, f"top-p {top_p:g}": top_p}
    for label, p in labels.items():
        rows = [[diversity(write(hands.measured, seed, p))] for seed in (3, 4)]
        assert [[row["diversity"]] for row in found["groups"][label]] == rows
    (of_human,) = found["groups"]["human text"]
    assert of_human["diversity"] == diversity(hands.measured)


@pytest.mark.parity
def test_mauve_compares_models_with_human_texts_and_these_with_others():
    pytest.importorskip("mauve")
    model, hands, corpus, vocabulary = group_options(22, 20)
    judge = continuation_measures.Judge(letter_counts, letter_counts, 30, 2)
    found = continuation_measures.measure_continuations(
        model, hands, corpus, vocabulary, judge, tokens=20, seeds=[3]
    )["groups"]

    def strings(texts):
        return measures.TextEvidence(texts, LETTERS, vocabulary).decoded()

    def spans(texts):
        return [" ".join(words) for words in continuations.draw_spans(strings(texts), 30, 2, 3)]

    written = continuations.write_on(model, hands.measured, hands, 0, 20, seed=3)
    pairs = {"unbiased": (hands.measured, written), "human text": (hands.others, hands.measured)}
    for label, (human, compared_texts) in pairs.items():
        for name, pieces in (("mauve", strings), ("controlled_mauve", spans)):
            features = [letter_counts(pieces(texts)) for texts in (human, compared_texts)]
            assert found[label][0][name] == mauve.mauve(*features)
    assert found["human text"][0]["mauve"] < 1


@pytest.mark.parametrize("which", ["encode", "features"])
def test_a_judge_that_cannot_work_fails_before_the_model_writes(which):
    _, hands, corpus, vocabulary = group_options(20, 20)

    def fail(texts):
        raise ValueError("it cannot")

    judge = continuation_measures.Judge(letter_counts, None)
    setattr(judge, which, fail)
    with pytest.raises(ValueError, match="it cannot"):
        continuation_measures.measure_continuations(
            None, hands, corpus, vocabulary, judge, tokens=20, seeds=[0], tune=True
        )


# ---- MAUVE ---------------------------------------------------------------------------------------


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(ValueError, match=r"under the GPL.*minimixce\[mauve\]"):
        mauve.mauve(np.ones((20, 2)), np.ones((20, 2)))


def test_mauve_refuses_what_it_cannot_measure():
    with pytest.raises(ValueError, match="at least 20 texts of each kind, got 19"):
        mauve.mauve(np.ones((30, 2)), np.ones((19, 2)))
    with pytest.raises(ValueError, match=r"\(30, 2\) and \(30, 3\)"):
        mauve.mauve(np.ones((30, 2)), np.ones((30, 3)))
    with pytest.raises(ValueError, match="features must be finite"):
        mauve.mauve(np.full((30, 2), np.inf), np.ones((30, 2)))


def test_only_who_asks_imports_the_library():
    program = "import sys, minimixce.experiments.evaluate; print('mauve' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == [b"False"]


def area(p, q, scale=5, points=25):
    """MAUVE of two histograms, from the paper: under the curve of exp(−c KL) to the mixtures."""

    def kl(a, b):
        return sum(x * np.log(x / y) for x, y in zip(a, b) if x)

    curve = [(1.0, 0.0)]
    for w in np.linspace(1e-6, 1 - 1e-6, points)[::-1]:
        r = [w * a + (1 - w) * b for a, b in zip(p, q)]
        curve.append((np.exp(-scale * kl(p, r)), np.exp(-scale * kl(q, r))))
    curve.append((0.0, 1.0))
    return sum((a[0] - b[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(curve))


@pytest.mark.parity
@pytest.mark.parametrize(
    ("ones_of_p", "ones_of_q"), [(10, 10), (10, 15), (5, 15), (20, 10), (20, 0)]
)
def test_mauve_of_two_clusters_is_the_area_by_hand(ones_of_p, ones_of_q):
    """Twenty texts of each kind make two clusters, and these lie at right angles."""
    pytest.importorskip("mauve")
    directions = np.eye(2)
    human = directions[[1] * ones_of_p + [0] * (20 - ones_of_p)]
    model = directions[[1] * ones_of_q + [0] * (20 - ones_of_q)]
    p, q = ([ones / 20, 1 - ones / 20] for ones in (ones_of_p, ones_of_q))
    assert mauve.mauve(human, 3 * model) == pytest.approx(area(p, q), abs=1e-6)


def test_the_area_by_hand_has_known_ends():
    assert area([0.5, 0.5], [0.5, 0.5]) == pytest.approx(1)
    assert area([1, 0], [0, 1]) < 0.01
    assert area([0.5, 0.5], [0.25, 0.75]) == pytest.approx(area([0.25, 0.75], [0.5, 0.5]))


@pytest.mark.parity
def test_mauve_of_texts_is_what_the_library_finds_by_torch(tmp_path):
    """The library reads the same folder by transformers and makes features of its own."""
    library = pytest.importorskip("mauve")
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    lines = [f"the cat {i} sat on mat {i * i % 17}, and so on." for i in range(60)]
    tokenizer = text.learn_bpe(lines, 280)
    folder = tmp_path / "gpt2"  # the library looks for this name
    model = tiny(2, 24, "float32", tokenizer.vocab_size)
    model.save(folder, boundary=tokenizer.boundary)
    text.save_tokenizer(tokenizer, folder)
    human = lines[:30]
    written = [line[::-1] + " and more" * (i % 9) for i, line in enumerate(lines[30:])]
    ours = [embeddings.last_states(model, tokenizer, texts) for texts in (human, written)]
    for texts, features in zip((human, written), ours):
        theirs = library.compute_mauve.__globals__["get_features_from_input"](
            None, None, texts, str(folder), 24, -1, name="p", batch_size=4
        )
        np.testing.assert_allclose(features, theirs, atol=2e-5)
    options = {"featurize_model_name": str(folder), "max_text_length": 24}
    found = library.compute_mauve(p_text=human, q_text=written, **options)
    assert mauve.mauve(*ours) == pytest.approx(found.mauve, abs=1e-4)


# ---- the command ---------------------------------------------------------------------------------

SMALL = "--steps 2 --eval-every 2 --warmup 1 --n-layer 1 --n-head 1 --n-embd 8 --quiet".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    lines = [f"The cat {i} sat on the mat. The dog {7 * i} sat.\n" for i in range(400)]
    (path / "text.txt").write_text("".join(lines))
    words = ["--data", str(path / "text.txt"), "--block-size", "16", "--lines", *SMALL]
    assert cli.main(["train", *words, "--out", str(path / "run")]) == 0
    (path / "lengths.py").write_text(
        "def encode(texts):\n    return [[len(t), 1] for t in texts]\n"
        "def broken(texts):\n    raise KeyError('no model')\n"
        "def leaves(texts):\n    raise SystemExit\n"
    )
    other = mm.GPT(mm.GPTConfig(4, 16, 1, 1, 8), device="cpu")
    other.save(path / "abc")
    text.save_tokenizer(text.CharTokenizer("abc"), path / "abc")
    return path


SAMPLES = "--prompt-tokens 4 --tokens 12 --samples 3 --seeds 0,1 --spans 4 --span-words 2".split()


def test_eval_prints_a_table_and_writes_it(folder, capsys):
    out, table = folder / "found.json", folder / "table.md"
    words = ["eval", str(folder / "run"), *SAMPLES, "--top-p", "0.9"]
    assert cli.main([*words, "--out", str(out), "--table", str(table)]) == 0
    printed = capsys.readouterr().out
    assert "not comparable with SimCSE's" in printed
    assert "of up to 12 tokens, 4 of them prompt" in printed
    found = json.loads(out.read_text())["continuations"]
    assert list(found["groups"]) == ["unbiased", "top-p 0.9", "human text"]
    assert found["texts"] == 3
    page = table.read_text().splitlines()
    assert page[0] == "|  | unbiased | top-p 0.9 | human text |"
    rows = {line.split(" | ")[0]: line for line in page if line.startswith("|")}
    assert rows["| diversity"].count("±") == 2
    assert rows["| perplexity"].count("±") == 0
    assert "| MAUVE" not in rows
    assert cli.main([*words, "--table", str(table)]) == 2
    assert "choose another --table" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--table"])
def test_a_place_for_no_file_is_refused_before_the_work(folder, tmp_path, capsys, option):
    os.mkfifo(tmp_path / "pipe")
    sentences = {
        "": "is not a regular file but a folder",
        "pipe": "is not a regular file but a pipe",
        "nothing/there": "nothing is no folder",
        "pipe/there": "pipe is no folder",
    }
    for place, sentence in sentences.items():
        words = ["eval", str(folder / "run"), *SAMPLES, option, str(tmp_path / place)]
        assert cli.main([*words, "--overwrite"]) == 2
        printed = capsys.readouterr()
        assert sentence in printed.err
        assert not printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_eval_takes_an_encoder_from_a_file_and_features_from_a_folder(folder, capsys):
    words = ["eval", str(folder / "run"), *SAMPLES, "--seeds", "5"]
    encoder = f"{folder / 'lengths.py'}:encode"
    assert cli.main([*words, "--encode", encoder]) == 0
    assert f"coherence: cosine of vectors by {encoder}" in capsys.readouterr().out
    assert cli.main([*words, "--features", str(folder / "run")]) == 0
    assert f"hidden states of {folder / 'run'}, not comparable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--prompt-tokens", "12"], "--prompt-tokens must be at least 1 and less than --tokens"),
        (["--samples", "0"], "--samples must be at least 1 with --prompt-tokens"),
        (["--span-words", "1"], "--span-words must be at least 2"),
        (["--top-p", "0"], "--top-p must be above 0"),
        (["--top-p", "0.5", "--tune-top-p"], "--top-p and --tune-top-p exclude each other"),
        (
            ["--table", "nowhere/x.md"],
            "--table nowhere/x.md cannot be written: nowhere is no folder",
        ),
        (["--mauve"], "MAUVE needs at least 20 texts of each kind, got 3"),
        (["--seeds", "1,1"], "--seeds must be different integers"),
        (["--seed", "1"], "--seeds names several"),
        (["--encode", "lengths"], "--encode must be FILE.py:NAME, got 'lengths'"),
        (["--encode", "FOLDER/lengths.py:broken"], "broken in FOLDER/lengths.py fails: KeyError"),
        (["--encode", "FOLDER/lengths.py:leaves"], "leaves in FOLDER/lengths.py fails: SystemExit"),
        (["--features", "nowhere"], "nowhere"),
        (["--features", ""], "--features must name a place, got an empty text"),
        (["--features", "FOLDER/abc"], "--features FOLDER/abc cannot read the texts: character"),
        (["--table", ""], "--table must name a place, got an empty text"),
        (["--out", "FOLDER/x", "--table", "FOLDER/./x"], "--out and --table must name different"),
        (["--eval-tokens", "80"], "two texts of more than 4 tokens to measure on, got 1"),
    ],
)
def test_what_cannot_work_is_one_sentence(folder, capsys, given, sentence):
    given = [word.replace("FOLDER", str(folder)) for word in given]
    assert cli.main(["eval", str(folder / "run"), *SAMPLES, *given]) == 2
    assert sentence.replace("FOLDER", str(folder)) in capsys.readouterr().err


def test_options_of_continuations_need_a_prompt(folder, capsys):
    for words in (["--tune-top-p"], ["--mauve"], ["--table", "x.md"], ["--seeds", "1,2"]):
        assert cli.main(["eval", str(folder / "run"), *words]) == 2
        assert f"{words[0]} is for continuations: add --prompt-tokens" in capsys.readouterr().err


@pytest.mark.parity
def test_eval_measures_mauve_and_tunes_top_p(folder, capsys):
    pytest.importorskip("mauve")
    words = ["eval", str(folder / "run"), *SAMPLES, "--samples", "20", "--spans", "30"]
    words += ["--tokens", "16", "--data", str(folder / "text.txt"), "--mauve", "--tune-top-p"]
    assert cli.main([*words, "--out", str(folder / "mauve.json")]) == 0
    found = json.loads((folder / "mauve.json").read_text())["continuations"]
    assert found["top_p"] in continuations.TOP_PS
    for group in found["groups"].values():
        for row in group:
            assert 0 < row["mauve"] <= 1
            assert 0 < row["controlled_mauve"] <= 1
    # numbers apart, one line again and again: the others say the same
    assert found["groups"]["human text"][0]["mauve"] > 0.8


def test_a_table_in_markdown():
    assert tables.format_markdown(["a|b", ""], [["x", 1.5]]) == (
        "| a\\|b |  |\n| --- | --- |\n| x | 1.5 |"
    )
