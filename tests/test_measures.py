"""Measures of samples: against naive definitions, and on texts whose answer can be counted by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimixce.experiments import measures

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


def test_entropy_and_the_temperature_that_matches_it():
    import minimixce as mm
    from minimixce import text

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
