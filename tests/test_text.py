"""Corpora: what is held out is not trained on, encodings round-trip, every token is a target once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimixce import metrics, text


def test_default_corpus_is_split_by_topic_without_leaks():
    documents = text.python_docs()
    train, validation = text.split_documents(documents)
    assert sorted(train + validation) == sorted(documents)
    share = sum(map(len, validation)) / sum(map(len, documents))
    assert 0.09 < share < 0.11
    seen = {d[i : i + 50] for d in train for i in range(len(d) - 49)}
    leak = np.mean([d[i : i + 50] in seen for d in validation for i in range(len(d) - 49)])
    assert leak < 0.05, f"{leak:.1%} of the validation text's 50-character windows occur in training"


def test_a_repeated_paragraph_is_dropped_and_a_short_one_kept():
    long, short = "a paragraph of more than forty characters, twice", "Example:"
    documents = [f"{short}\n\n{long}", f"{long}\n\nother\n\n{short}", long]
    assert text.drop_repeated_paragraphs(documents) == [documents[0], f"other\n\n{short}"]


def test_split_keeps_one_document_for_training_and_cuts_a_single_one():
    assert text.split_documents(["abcdefghij"], 0.2) == (["abcdefgh"], ["ij"])
    train, validation = text.split_documents(["a" * 10, "b" * 10])
    assert len(train) == len(validation) == 1


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.text(min_size=1), st.text())
def test_character_tokenizer_round_trips_and_names_unknown_characters(known, other):
    tokenizer = text.CharTokenizer(known)
    ids = tokenizer.encode(known)
    assert tokenizer.decode(ids) == known
    assert len(known) == 0 or (ids.min() >= 1 and ids.max() < tokenizer.vocab_size)
    unknown = [c for c in other if c not in known]
    if unknown:
        with pytest.raises(ValueError, match="is not in this tokenizer") as error:
            tokenizer.encode(other)
        assert repr(unknown[0]) in str(error.value)


def test_tokenizer_is_saved_beside_the_model(tmp_path):
    tokenizer = text.CharTokenizer('né"\n')
    tokenizer.save(tmp_path)
    assert text.load_tokenizer(tmp_path).characters == tokenizer.characters
    with pytest.raises(FileNotFoundError):
        text.load_tokenizer(tmp_path / "none")
    (tmp_path / text.TOKENIZER_FILE).write_text('{"type": "other"}')
    with pytest.raises(ValueError, match="character tokenizer"):
        text.load_tokenizer(tmp_path)


def test_documents_are_joined_by_boundaries():
    tokenizer = text.CharTokenizer("ab")
    assert text.encode_documents(tokenizer, ["ab", "b"]).tolist() == [0, 1, 2, 0, 2, 0]
    assert tokenizer.decode([0, 1, 2, 0, 2, 0]) == "abb"


def test_random_blocks_are_shifted_blocks_of_the_stream_and_depend_on_seed_and_number_alone():
    tokens = np.arange(100)
    batches = text.RandomBlocks(tokens, 4, 7, seed=3)
    inputs, targets = batches[5]
    assert inputs.shape == targets.shape == (4, 7)
    assert (targets == inputs + 1).all()
    assert (inputs == inputs[:, :1] + np.arange(7)).all()
    again = list(zip(range(6), text.RandomBlocks(tokens, 4, 7, seed=3)))[5][1]
    assert (again[0] == inputs).all()
    assert (text.RandomBlocks(tokens, 4, 7, seed=4)[5][0] != inputs).any()
    first = np.concatenate([text.RandomBlocks(tokens, 4, 98)[k][0][:, 0] for k in range(20)])
    assert set(first) == {0, 1}  # every block that fits, none that does not
    with pytest.raises(ValueError, match="too few"):
        text.RandomBlocks(tokens[:7], 4, 7)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(2, 40), st.integers(1, 4), st.integers(1, 9))
def test_consecutive_blocks_make_every_token_but_the_first_a_target_once(n, batch_size, block_size):
    tokens = np.arange(100, 100 + n)
    batches = text.consecutive_blocks(tokens, batch_size, block_size)
    targets = np.concatenate([t.reshape(-1) for _, t in batches])
    assert targets[targets >= 0].tolist() == tokens[1:].tolist()
    for inputs, targets in batches:
        assert inputs.shape == targets.shape
        assert inputs.shape[0] <= batch_size
        assert (inputs[targets >= 0] == targets[targets >= 0] - 1).all()
        assert ((inputs >= 100) | (inputs == 0)).all()


def test_reading_bad_files_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        text.read_documents(tmp_path / "none")
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(ValueError, match="holds no text"):
        text.read_documents(tmp_path / "empty")
    (tmp_path / "latin").write_bytes(b"caf\xe9 ")
    with pytest.raises(ValueError, match=r"not UTF-8 text \(byte 3\)"):
        text.read_documents(tmp_path / "latin")


def test_witten_bell_equals_a_naive_implementation():
    rng = np.random.default_rng(0)
    train, validation, V = rng.integers(0, 5, 300), rng.integers(0, 6, 80), 6  # token 5 is never seen in training

    def prob(w, h):
        if h is None:
            return 1 / V
        shorter = h[1:] if h else None
        padded = (0,) * len(h) + tuple(train)
        followers = [padded[i] for i in range(len(h) + 1, len(padded)) if padded[i - len(h) : i] == h]
        if not followers:
            return prob(w, shorter)
        kinds = len(set(followers))
        return (followers.count(w) + kinds * prob(w, shorter)) / (len(followers) + kinds)

    for n in (1, 2, 3, 4):
        padded = (0,) * (n - 1) + tuple(validation)
        logs = [np.log(prob(padded[i], padded[i - n + 1 : i])) for i in range(n, len(padded))]
        assert metrics.ngram_cross_entropy(train, validation, n, V) == pytest.approx(-np.mean(logs), abs=1e-12)
