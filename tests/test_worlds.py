"""Worlds, against every sequence written out: probabilities, exact sums, samples, files, and the
worlds that are given.
"""

import importlib.util
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import strict_device as sd
from helpers import assert_close, twenty_five_examples
from hypothesis import given
from hypothesis import strategies as st

from minimixce import worlds
from minimixce.automaton import World

# ---- oracles -------------------------------------------------------------------------------------


@st.composite
def automata(draw, min_vocab=2, max_vocab=4, max_states=4):
    """Random worlds with zeros and with tokens that are hardly ever drawn; the boundary is possible
    everywhere.
    """
    vocab_size, num_states = (
        draw(st.integers(min_vocab, max_vocab)),
        draw(st.integers(1, max_states)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = rng.random((num_states, vocab_size)) ** draw(st.sampled_from([1, 8]))
    weights[:, 1:] *= rng.random((num_states, vocab_size - 1)) > 0.3
    weights[:, 0] += 0.05
    return World(
        weights / weights.sum(axis=1, keepdims=True),
        rng.integers(0, num_states, (num_states, vocab_size)),
    )


def all_rows(vocab_size, max_len):
    """Every sequence with |x| ≤ max_len as a row."""
    middles = (m for k in range(max_len) for m in itertools.product(range(1, vocab_size), repeat=k))
    return np.array([[0, *middle, 0, *[-1] * (max_len - 1 - len(middle))] for middle in middles])


def walk(world, row):
    """(state, token, probability) of every token that is drawn, one after the other; the forced
    boundary is not.
    """
    state, steps, max_len = 0, [], len(row) - 1
    for t, token in enumerate(row.tolist()[1:], 1):
        if token < 0 or t == max_len:
            break
        steps.append((state, token, float(world.probs[state, token])))
        state = int(world.next_state[state, token])
    return steps


def naive_log_prob(world, row):
    return sum(math.log(p) if p > 0 else -math.inf for _, _, p in walk(world, row))


worlds_and_horizons = given(automata(), st.integers(1, 5))

# ---- probabilities and exact sums ----------------------------------------------------------------


@twenty_five_examples
@worlds_and_horizons
def test_probabilities_of_all_sequences_sum_to_one(world, max_len):
    rows = all_rows(world.vocab_size, max_len)
    assert len(rows) == sum((world.vocab_size - 1) ** k for k in range(max_len))
    assert abs(np.exp(world.log_prob(rows)).sum() - 1) <= 1e-12


@twenty_five_examples
@worlds_and_horizons
def test_log_probs_equal_a_naive_walk(world, max_len):
    rows = all_rows(world.vocab_size, max_len)
    np.testing.assert_allclose(
        world.log_prob(rows), [naive_log_prob(world, row) for row in rows], rtol=1e-13, atol=1e-13
    )
    floor = world.log_p_floor
    for floored in (False, True):
        wanted, states = np.zeros((2, len(rows), max_len - 1))
        for i, row in enumerate(rows):
            for t, (state, _, p) in enumerate(walk(world, row)):
                log_p = math.log(p) if p > 0 else -math.inf
                wanted[i, t], states[i, t] = max(log_p, floor) if floored else log_p, state
        got = world.token_log_probs(rows, floored)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, wanted, rtol=1e-13, atol=0)
        np.testing.assert_allclose(
            world.log_prob(rows, floored), wanted.sum(axis=1), rtol=1e-13, atol=1e-13
        )
    is_target = rows[:, 1:-1] >= 0
    np.testing.assert_array_equal(world.states(rows)[is_target], states[is_target])


@twenty_five_examples
@worlds_and_horizons
def test_exact_sums_equal_those_over_all_sequences(world, max_len):
    rows = all_rows(world.vocab_size, max_len)
    entropy, length, visits = 0.0, 0.0, np.zeros(world.num_states)
    for row in rows:
        p = math.exp(naive_log_prob(world, row))
        if p > 0:
            entropy -= p * math.log(p)
            length += p * (np.flatnonzero(row == 0)[-1])
            np.add.at(visits, [state for state, _, _ in walk(world, row)], p)
    assert abs(world.entropy(max_len) - entropy) <= 1e-12 * max(1, entropy)
    assert abs(world.expected_length(max_len) - length) <= 1e-12 * length
    np.testing.assert_allclose(world.visits(max_len), visits, rtol=1e-12, atol=1e-14)


@twenty_five_examples
@given(automata(max_states=6))
def test_without_a_horizon_is_the_limit_of_long_ones(world):
    np.testing.assert_allclose(world.visits(), world.visits(5000), rtol=1e-11, atol=1e-14)
    assert_close(world.entropy(), world.entropy(5000), 1e-11)
    assert_close(world.expected_length(), world.expected_length(5000), 1e-11)


def test_geometric_length_by_hand():
    world = worlds.markov([[0.25, 0.75], [0.25, 0.75]])
    assert world.is_markov
    assert world.expected_length() == pytest.approx(4, rel=1e-14)
    assert world.expected_length(1) == 1
    assert world.expected_length(3) == pytest.approx(1 + 0.75 + 0.75**2, rel=1e-14)
    assert world.entropy() == pytest.approx(
        4 * (0.25 * math.log(4) - 0.75 * math.log(0.75)), rel=1e-14
    )
    assert world.entropy(1) == 0
    np.testing.assert_allclose(world.visits(), [1, 3], rtol=1e-14)
    np.testing.assert_array_equal(world.visits(1), [0, 0])


def test_unreachable_states_that_never_end_do_no_harm():
    world = World([[0.5, 0.5], [0.0, 1.0]], [[0, 0], [0, 1]])
    np.testing.assert_allclose(world.visits(), [2, 0], rtol=1e-14)
    assert world.reachable.tolist() == [True, False]
    assert "2 states (1 reachable)" in world.describe()


def test_sequences_that_hardly_ever_end_need_a_horizon():
    world = World([[1e-17, 1]], [[0, 0]])
    with pytest.raises(ValueError, match=r"max_len=None does not work here: .* give a max_len"):
        world.entropy()
    assert world.expected_length(100) == 100


def test_a_world_too_large_to_solve_needs_a_horizon():
    """A chain: token 1 leads to the next state, so that every state is reachable."""
    states = 4097
    forward = np.append(np.arange(1, states), 0)
    chain = World(np.full((states, 2), 0.5), np.stack([np.zeros(states, int), forward], -1))
    with pytest.raises(
        ValueError, match=r"max_len=None takes at most 4096 states, here 4097; give a max_len"
    ):
        chain.visits()
    assert chain.visits(max_len=3).shape == (states,)


# ---- samples -------------------------------------------------------------------------------------


@twenty_five_examples
@given(automata(max_vocab=6), st.integers(1, 6), st.integers(0, 1000))
def test_samples_are_possible_and_well_formed(world, max_len, seed):
    rows = world.sample(50, max_len, seed)
    assert (rows.shape, rows.dtype) == ((50, max_len + 1), np.int64)
    inputs, targets = world.batch(rows)  # checks the layout
    assert np.isfinite(world.log_prob(rows)).all()
    assert world.validity(rows) == 1
    assert {tuple(row) for row in rows.tolist()} <= {
        tuple(row) for row in all_rows(world.vocab_size, max_len).tolist()
    }
    np.testing.assert_array_equal(rows, world.sample(50, max_len, seed))
    for row, ins, outs in zip(rows, inputs, targets):
        end = np.flatnonzero(row == 0)[-1]
        assert outs.tolist() == [*row[1 : end + 1], *[-1] * max_len][: max_len - 1]
        assert ins.tolist() == [*row[:end], *[0] * max_len][: max_len - 1]


@pytest.mark.parametrize("world", [worlds.random_markov(4, 0.3, 5), worlds.agreement()], ids=repr)
def test_samples_have_the_world_s_frequencies(world):
    n, max_len = 40_000, 4
    found = Counter(map(tuple, world.sample(n, max_len, seed=1).tolist()))
    rows = all_rows(world.vocab_size, max_len)
    p = np.exp(world.log_prob(rows))
    counts = np.array([found[tuple(row)] for row in rows.tolist()])
    assert counts.sum() == n
    z = (counts - n * p)[p > 0] / np.sqrt(n * p * (1 - p))[p > 0]
    assert np.abs(z).max() < 4.5, "a count is more than 4.5 standard deviations off"
    assert 0.6 < np.sqrt(np.mean(z**2)) < 1.4


def test_samples_have_the_exact_mean_length_and_entropy():
    world, n = worlds.stories(), 20_000
    rows = world.sample(n, 60, seed=2)
    for values, exact in (
        (-world.log_prob(rows), world.entropy(60)),
        ((rows >= 0).sum(axis=1) - 1, world.expected_length(60)),
    ):
        assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(n)


class Extreme:
    """A generator whose every number is the smallest or the largest that a generator gives."""

    def __init__(self, value):
        self.value = value

    def random(self, n):
        return np.full(n, self.value)


@pytest.mark.parametrize("value", [0.0, 1 - 2.0**-53])
def test_rounding_never_draws_an_impossible_token(value):
    """In states far from the first, state + uniform number rounds up to the next state; and ten
    times .1 is below one.
    """
    probs = np.zeros((300, 14))
    probs[:, 2:12] = 0.1
    probs[:, 0] = 0
    probs[-1] = np.eye(14)[0]
    next_state = np.tile(np.minimum(np.arange(300) + 1, 299)[:, None], 14)
    world = World(probs, next_state)
    rows = world.sample(3, 400, Extreme(value))
    assert (rows[:, 1:300] == (2 if value == 0 else 11)).all()
    assert np.isfinite(world.log_prob(rows)).all()


def test_probabilities_that_add_up_to_more_than_one_do_not_reach_the_next_state():
    probs = np.array([[0, 0, 0.2, 0.4, 0.3, 0.1], [0.5, 0.5, 0, 0, 0, 0]])
    assert np.cumsum(probs[0])[-1] > 1
    rows = World(probs, np.ones((2, 6), int)).sample(1, 3, Extreme(0.0))
    assert rows.tolist() == [[0, 2, 0, -1]]


def test_sampling_goes_on_from_a_generator():
    world, rng = worlds.random_markov(5, 0.5, 1), np.random.default_rng(3)
    first, second = world.sample(20, 10, rng), world.sample(20, 10, rng)
    np.testing.assert_array_equal(first, world.sample(20, 10, 3))
    assert (first != second).any()


def test_validity_is_the_share_of_possible_rows():
    world = worlds.agreement()
    assert world.validity(all_rows(6, 4)) == 4 / 156
    assert world.validity(np.array([[0, 1, 4, 0], [0, 1, 5, 0]])) == 0.5


# ---- on a device ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "world", [worlds.random_markov(6, 0.5, 3), worlds.agreement()], ids=["Markov", "automaton"]
)
def test_rows_on_a_device_stay_there_and_never_wait(world):
    rows = np.concatenate([world.sample(30, 7, 1), all_rows(6, 7)[:500]])

    def compute(rows):
        return (
            world.token_log_probs(rows),
            world.token_log_probs(rows, floored=True),
            world.log_prob(rows),
            *world.batch(rows),
            world.states(rows),
        )

    with sd.no_host_reads():
        on_device = compute(sd.asarray(rows))
    is_target = rows[:, 1:-1] >= 0
    for got, wanted in zip(on_device, compute(rows)):
        assert type(got) is sd.ndarray
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        if got is on_device[-1]:  # states after the end are any
            np.testing.assert_array_equal(got.get()[is_target], wanted[is_target])
        else:
            np.testing.assert_allclose(got.get(), wanted, rtol=1e-14)
    assert world.validity(sd.asarray(rows)) == world.validity(rows)
    assert world.text(sd.asarray(rows)[0]) == world.text(rows[0])


# ---- random Markov chains ------------------------------------------------------------------------


def matrix_of_the_reference(vocab_size, zero_fraction, seed):
    """baselines.md in plain loops: words 0 … V−2, then the boundary; then the boundary is moved to
    the front.
    """
    rng = np.random.RandomState(seed)
    drawn = [rng.dirichlet([0.5] * vocab_size) for _ in range(vocab_size)]
    for i in range(vocab_size - 1):
        for j in range(vocab_size - 1):
            if rng.uniform() < zero_fraction:
                drawn[i][j] = 0.0
    matrix = np.full((vocab_size, vocab_size), 1 / vocab_size)
    for i in range(vocab_size - 1):
        row = drawn[i] / drawn[i].sum()
        matrix[i + 1] = [row[-1], *row[:-1]]
    return matrix


@pytest.mark.parametrize(
    ("vocab_size", "zero_fraction", "seed"),
    [(20, 0.5, 7), (50, 0.9, 42), (5, 0.1, 777), (2, 1.0, 0)],
)
def test_random_markov_is_the_reference_s_matrix(vocab_size, zero_fraction, seed):
    world = worlds.random_markov(vocab_size, zero_fraction, seed)
    np.testing.assert_array_equal(
        world.probs, matrix_of_the_reference(vocab_size, zero_fraction, seed)
    )
    assert world.is_markov
    assert (world.probs[:, 0] > 0).all()
    assert np.isfinite(world.entropy())


def test_random_markov_20_50_7_has_not_moved():
    """Its numbers, as first drawn: they must not change with NumPy or the code."""
    world = worlds.random_markov(20, 0.5, 7)
    assert np.count_nonzero(world.probs == 0) == 181
    assert world.probs[1, 0] == pytest.approx(0.05127472937787789, rel=1e-12)
    assert world.entropy() == pytest.approx(14.362039920557123, rel=1e-12)
    assert world.name == "random_markov(20, 0.5, 7)"


# ---- n-grams -------------------------------------------------------------------------------------


def random_corpus(seed, vocab_size):
    rng = np.random.default_rng(seed)
    return [
        rng.integers(1, vocab_size, rng.integers(0, 6)).tolist() for _ in range(rng.integers(1, 8))
    ]


@twenty_five_examples
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 4))
def test_ngram_equals_naive_counts_and_falls_back_to_suffixes(seed, n, vocab_size):
    corpus = random_corpus(seed, vocab_size)
    world = worlds.ngram(corpus, n, vocab_size)
    followers = {}
    for sequence in corpus:
        for i, token in enumerate([*sequence, 0]):
            followers.setdefault(tuple(sequence[max(0, i - n + 1) : i]), []).append(token)
    contexts = sorted(followers, key=lambda context: (len(context), context))
    assert world.num_states == len(contexts)
    for s, context in enumerate(contexts):
        for v in range(vocab_size):
            assert world.probs[s, v] == pytest.approx(
                followers[context].count(v) / len(followers[context]), abs=1e-15
            )
            longer = (*context, v)
            suffixes = [longer[i:] for i in range(len(longer) + 1) if len(longer) - i < n]
            if v > 0:
                assert world.next_state[s, v] == contexts.index(
                    next(x for x in suffixes if x in followers)
                )
    for sequence in corpus:
        assert np.isfinite(world.log_prob(np.array([[0, *sequence, 0, -1]]))).all()


def test_ngram_of_a_stream_a_list_and_rows_are_one():
    wanted = worlds.ngram([[1, 2], [], [2]], 2, 3)
    np.testing.assert_array_equal(
        wanted.probs, np.array([[1, 1, 1], [0, 0, 1], [1, 0, 0]]) / [[3], [1], [1]]
    )
    assert wanted.is_markov
    for tokens in (
        [0, 1, 2, 0, 0, 2, 0],
        np.array([1, 2, 0, 0, 2], np.uint8),
        [[0, 1, 2, 0], [0], np.array([2, 0])],
        np.array([[0, 1, 2, 0], [0, 0, -1, -1], [0, 2, 0, -1]]),
    ):
        world = worlds.ngram(tokens, 2, 3)
        np.testing.assert_array_equal(world.probs, wanted.probs)
        np.testing.assert_array_equal(world.next_state, wanted.next_state)


def test_unigram_and_trigram_by_hand():
    unigram = worlds.ngram([[1, 1, 2]], 1, 3, words=["", "a", "b"])
    np.testing.assert_array_equal(unigram.probs, [[0.25, 0.5, 0.25]])
    assert unigram.text([0, 1, 2, 0]) == "a b"
    trigram = worlds.ngram([[1, 2, 1]], 3, 3)  # contexts (), (1), (1,2), (2,1)
    assert trigram.num_states == 4
    np.testing.assert_array_equal(trigram.next_state[:, 1:], [[1, 0], [1, 2], [3, 0], [1, 2]])


def test_from_text_by_hand():
    """The words: the 4, cat 3, dog 2, sat 2, ran 1, don't 1; "ran" goes before "the others" by its
    code points.
    """
    world = worlds.from_text("The cat sat. The dog ran!\nThe cat, the dog don't\n\nCat sat?", 5)
    assert world.words == ["", "the", "cat", "dog", "sat"]
    pairs = {
        (0, 1): 3,
        (0, 2): 1,
        (1, 2): 2,
        (1, 3): 2,
        (2, 4): 2,
        (2, 1): 1,
        (4, 0): 2,
        (3, 0): 1,
    }  # "dog" has no kept follower
    counts = np.zeros((5, 5))
    for pair, count in pairs.items():
        counts[pair] = count
    np.testing.assert_allclose(world.probs, counts / counts.sum(axis=1, keepdims=True), rtol=1e-15)
    assert world.is_markov


def test_from_text_breaks_ties_alphabetically_and_lets_cycles_end():
    world = worlds.from_text("b a b a zebra. c", 4)
    assert world.words == ["", "a", "b", "c"]
    np.testing.assert_allclose(
        world.probs, [[0, 0, 0.5, 0.5], [0.5, 0, 0.5, 0], [1 / 3, 2 / 3, 0, 0], [1, 0, 0, 0]]
    )


# ---- agreement and stories -----------------------------------------------------------------------


def test_agreement_has_four_sentences():
    world = worlds.agreement()
    rows = all_rows(6, 4)
    p = np.exp(world.log_prob(rows))
    assert len(rows) == 156
    sentences = {world.text(row): share for row, share in zip(rows, p) if share > 0}
    assert sentences == pytest.approx(
        {"cat sleeps": 0.3, "cats sleep": 0.2, "cat here sleeps": 0.3, "cats here sleep": 0.2}
    )
    assert (world.next_state[:, 1:] == np.arange(6)[:, None])[world.probs[:, 1:] == 0].all()
    assert not world.is_markov
    assert world.expected_length() == pytest.approx(3.5)


def test_a_bigram_model_of_agreement_is_valid_76_percent():
    """Its maximum likelihood, from the exact distribution: after "here" it forgets the number."""
    world = worlds.agreement()
    bigram = worlds.ngram([[1, 4]] * 3 + [[2, 5]] * 2 + [[1, 3, 4]] * 3 + [[2, 3, 5]] * 2, 2, 6)
    trigram = worlds.ngram([[1, 4]] * 3 + [[2, 5]] * 2 + [[1, 3, 4]] * 3 + [[2, 3, 5]] * 2, 3, 6)
    rows = all_rows(6, 4)
    possible = np.isfinite(world.log_prob(rows))
    assert np.exp(bigram.log_prob(rows))[possible].sum() == pytest.approx(0.76, abs=1e-14)
    np.testing.assert_allclose(trigram.log_prob(rows), world.log_prob(rows), atol=1e-14)


def test_stories_are_a_world_with_memory_and_choice():
    world = worlds.stories()
    assert 100 <= world.num_states < 1000
    assert 50 <= world.vocab_size <= 70
    assert world.reachable.all()
    live = (world.probs[:, 1:] > 0).sum(axis=1)
    assert (live >= 4).sum() > 100
    choice = world.probs[(live >= 4)]
    assert np.mean([row[row > 0].max() > 1.5 * row[row > 0].min() for row in choice]) > 0.9
    rows = world.sample(200, 60, seed=0)
    assert world.validity(rows) == 1
    lengths = [len(world.text(row).split()) for row in rows]
    assert 4 <= np.percentile(lengths, 20)
    assert np.percentile(lengths, 80) <= 13
    assert 10 < world.entropy() < 30
    usual = np.arange(world.num_states)[:, None]
    assert (world.next_state == usual)[world.probs == 0].all()  # an impossible word keeps the state


@pytest.mark.parametrize(
    ("possible", "impossible"),
    [
        ("the girl reads a book", "the girl read a book"),
        ("the girls read a book", "the girls reads a book"),
        ("a dog sleeps", "a dogs sleep"),
        ("two dogs sleep", "two dog sleeps"),
        ("the girl who sees the dogs reads a book", "the girl who sees the dogs read a book"),
        ("the boys in the garden sing a song", "the boys in the garden sings a song"),
        ("the dogs often sleep", "the dogs often sleeps"),
        (
            "the boy sees the girls but he sings a song",
            "the boy sees the girls but they sing a song",
        ),
        ("the girl sees a boy and she sings a song", "the girl sees a boy and he sings a song"),
        ("the kings see a dog and read a book", "the kings see a dog and reads a book"),
        ("two cats see a boy but they sleep", "two cats see a boy but it sleeps"),
        ("the dog that sees a boy runs", "the dog who sees a boy runs"),
        ("the dog chases a cat", "the dog reads a book"),
        ("two cats see a boy but they chase a bird", "two cats see a boy but they read a book"),
        ("the girl eats bread", "the girl eats song"),
        ("the dogs sleep and chase a cat", "the dogs sleep and sleep"),
    ],
)
def test_stories_agree(possible, impossible):
    world = worlds.stories()
    for sentence, finite in ((possible, True), (impossible, False)):
        ids = [world.words.index(word) for word in sentence.split()]
        assert np.isfinite(world.log_prob(np.array([[0, *ids, 0, -1]]))[0]) == finite, sentence


def test_stories_file_is_what_its_script_writes():
    spec = importlib.util.spec_from_file_location(
        "make_stories", Path(__file__).parents[1] / "data" / "make_stories.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert_same_world(script.build(), worlds.stories())


# ---- files and descriptions ----------------------------------------------------------------------


def assert_same_world(a, b):
    assert (a.name, a.words, a.log_p_floor) == (b.name, b.words, b.log_p_floor)
    assert a.probs.tobytes() == b.probs.tobytes()
    np.testing.assert_array_equal(a.next_state, b.next_state)


@twenty_five_examples
@given(automata(max_vocab=8), st.floats(-1e300, -1e-300))
def test_a_saved_world_comes_back_bit_for_bit(tmp_path_factory, world, log_p_floor):
    path = tmp_path_factory.mktemp("worlds") / "world.json"
    words = ["", *(f'é"{v}' for v in range(1, world.vocab_size))]
    for original in (
        world,
        World(world.probs * (1 + 5e-10), world.next_state, words, "ü\n", log_p_floor),
    ):
        original.save(path, overwrite=True)
        assert_same_world(worlds.load(path), original)


def test_save_overwrites_only_when_asked(tmp_path):
    path = tmp_path / "world.json"
    worlds.agreement().save(path)
    with pytest.raises(
        FileExistsError,
        match=r"world\.json already exists; choose another name or allow overwriting",
    ):
        worlds.random_markov(3, 0.5, 1).save(path)
    assert worlds.load(path).name == "agreement"
    worlds.random_markov(3, 0.5, 1).save(path, overwrite=True)
    assert worlds.load(path).num_states == 3
    assert [p.name for p in tmp_path.iterdir()] == ["world.json"]


def test_damaged_files_are_refused_with_a_sentence(tmp_path):
    path = tmp_path / "world.json"
    with pytest.raises(FileNotFoundError, match=r"world\.json does not exist"):
        worlds.load(path)
    worlds.agreement().save(path)
    whole = path.read_text()
    path.write_text(whole[:-40])
    with pytest.raises(ValueError, match=r"world\.json is not a JSON file"):
        worlds.load(path)

    def change(key, value):
        fields = json.loads(whole)
        part = fields if key in fields else fields["states"][1]
        part[key] = value
        return fields

    state = json.loads(whole)["states"][1]
    for fields, sentence in (
        ({}, "lacks name, log_p_floor, words, states"),
        (change("words", 6), "words and states must be lists"),
        (change("words", ["", "cat"]), "out of bounds"),
        (change("words", list(range(6))), "words must be a list of strings"),
        (change("states", {}), "words and states must be lists"),
        (change("states", []), "probs must have shape"),
        (change("states", [1]), "has no attribute|not subscriptable"),
        (change("states", [{"probs": {}, "next": {}}]), "a state lacks 'else'"),
        (change("log_p_floor", 1), "log_p_floor must be negative and finite"),
        (change("log_p_floor", None), "log_p_floor must be a number"),
        (change("name", 3), "name must be a string"),
        (change("else", 1.5), "state 1 holds something else than numbers"),
        (change("else", True), "state 1 holds something else than numbers"),
        (change("else", 99), "next_state must be in 0 … 5, got"),
        (change("next", {"3": "x"}), "state 1 holds something else than numbers"),
        (change("next", [1]), "has no attribute"),
        (change("next", {"-3": 1}), "state 1 holds something else than numbers"),
        (change("next", {"3": 10**30}), "too large"),
        (change("probs", {"3": 0.5}), "rows that sum to one, but row 1 sums to 0.5"),
        (change("probs", {"3": float("nan"), "4": 0.5}), "probs must hold probabilities, got nan"),
        (change("probs", {**state["probs"], "77": 0.0}), "out of bounds"),
        (change("probs", {**state["probs"], "no": 0.0}), "invalid literal"),
    ):
        path.write_text(json.dumps(fields))
        with pytest.raises(
            ValueError, match=rf"world\.json does not describe a world: .*({sentence})"
        ):
            worlds.load(path)


def test_describe_says_what_the_world_is():
    text = worlds.agreement().describe()
    assert text.splitlines()[0] == "agreement: 6 states (6 reachable), 6 tokens"
    assert "impossible moves: 75.0%; states with 4 words or more: 0" in text
    entropy = worlds.agreement().entropy()
    assert (
        f"entropy: {entropy:.4g} nats per sequence, perplexity {math.exp(entropy / 3.5):.4g} per"
        " token" in text
    )
    assert "expected length: 3.5 tokens" in text
    assert len(text.splitlines()) == 9
    assert len(worlds.random_markov(4, 0.5, 0).describe().splitlines()) == 4
    assert repr(worlds.agreement()) == "World('agreement', 6 states, 6 tokens)"


def test_arrays_are_copies_and_read_only():
    probs, next_state = np.array([[0.5, 0.5]]), np.array([[0, 0]])
    world = World(probs, next_state)
    probs[:], next_state[:] = 9, 9
    assert world.probs.tolist() == [[0.5, 0.5]]
    for array in (world.probs, world.next_state, world.reachable):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0


def test_is_markov_is_about_the_next_states():
    transitions = np.full((3, 3), 1 / 3)
    assert worlds.markov(transitions).is_markov
    assert World(transitions, [[2, 1, 2]] * 3).is_markov  # where the boundary leads says nothing
    assert not World(transitions, [[0, 1, 2], [0, 1, 2], [0, 1, 1]]).is_markov
    assert not World(transitions[:2], [[0, 1, 1]] * 2).is_markov
    assert worlds.markov(transitions, ["", "a", "b"], name="n", log_p_floor=-3).log_p_floor == -3.0


def test_sums_of_rows_are_made_one():
    world = World(np.array([[0.3, 0.7]]) * (1 + 9e-10), [[0, 0]])
    assert abs(world.probs.sum() - 1) < 3e-16
    world = World([[1, 0]], [[0, 0]])
    assert world.probs.dtype == np.float64


# ---- bad input -----------------------------------------------------------------------------------

HALF = [[0.5, 0.5]]
BAD_CALLS = {
    "probs shape": (
        lambda: World([0.5, 0.5], [0, 0]),
        ValueError,
        r"probs must have shape \(S,V\) .* got \(2,\)",
    ),
    "probs empty": (
        lambda: World(np.zeros((0, 2)), [[0, 0]]),
        ValueError,
        r"probs must have shape .* got \(0, 2\)",
    ),
    "probs one token": (
        lambda: World([[1.0]], [[0]]),
        ValueError,
        r"probs must have shape .* got \(1, 1\)",
    ),
    "probs text": (
        lambda: World([["a", "b"]], [[0, 0]]),
        TypeError,
        "probs must be a NumPy array or a list of numbers, got list",
    ),
    "probs ragged": (
        lambda: World([[0.5, 0.5], [1]], [[0, 0]]),
        TypeError,
        "probs must be a NumPy array or a list of numbers",
    ),
    "probs bool": (
        lambda: World(np.array([[True, False]]), [[0, 0]]),
        TypeError,
        "list of numbers, got bool",
    ),
    "probs complex": (lambda: World([[0.5j, 1]], [[0, 0]]), TypeError, "probs must be"),
    "probs on a GPU": (
        lambda: World(sd.asarray([[0.5, 0.5]]), [[0, 0]]),
        TypeError,
        "probs must be a NumPy array",
    ),
    "probs negative": (
        lambda: World([[1.5, -0.5]], [[0, 0]]),
        ValueError,
        "probs must hold probabilities, got -0.5",
    ),
    "probs NaN": (
        lambda: World([[0.5, math.nan]], [[0, 0]]),
        ValueError,
        "probs must hold probabilities, got nan",
    ),
    "probs inf": (lambda: World([[0.5, math.inf]], [[0, 0]]), ValueError, "row 0 sums to inf"),
    "probs sum": (
        lambda: World([*HALF, [0.5, 0.5 + 2e-9]], [[0, 0]] * 2),
        ValueError,
        r"row 1 sums to 1\.000000002",
    ),
    "endless": (
        lambda: World([[0.5, 0.5], [0, 1]], [[0, 1], [0, 1]]),
        ValueError,
        "from state 1 the boundary is out of reach",
    ),
    "next_state shape": (
        lambda: World(HALF, [[0]]),
        ValueError,
        r"next_state must have the shape of probs, \(1, 2\), got \(1, 1\)",
    ),
    "next_state floats": (
        lambda: World(HALF, [[0.0, 0.0]]),
        TypeError,
        "next_state must be .* integers, got list",
    ),
    "next_state high": (
        lambda: World(HALF, [[0, 1]]),
        ValueError,
        r"next_state must be in 0 … 0, got 0 … 1",
    ),
    "next_state low": (
        lambda: World(HALF, [[0, -1]]),
        ValueError,
        r"next_state must be in 0 … 0, got -1 … 0",
    ),
    "words number": (
        lambda: World(HALF, [[0, 0]], ["a"]),
        ValueError,
        "words must have 2 entries, one for every token, got 1",
    ),
    "words kind": (
        lambda: World(HALF, [[0, 0]], [1, 2]),
        TypeError,
        r"words must be a list of strings, got \[1, 2\]",
    ),
    "words string": (
        lambda: World(HALF, [[0, 0]], "ab"),
        TypeError,
        "words must be a list of strings, got 'ab'",
    ),
    "name": (lambda: World(HALF, [[0, 0]], name=3), TypeError, "name must be a string, got 3"),
    "floor zero": (
        lambda: World(HALF, [[0, 0]], log_p_floor=0),
        ValueError,
        "log_p_floor must be negative and finite, got 0",
    ),
    "floor inf": (
        lambda: World(HALF, [[0, 0]], log_p_floor=-math.inf),
        ValueError,
        "log_p_floor must be negative and finite",
    ),
    "floor NaN": (
        lambda: World(HALF, [[0, 0]], log_p_floor=math.nan),
        ValueError,
        "log_p_floor must be negative and finite",
    ),
    "floor text": (
        lambda: World(HALF, [[0, 0]], log_p_floor="-3"),
        TypeError,
        "log_p_floor must be a number, got '-3'",
    ),
    "markov square": (
        lambda: worlds.markov([[0.5, 0.5]]),
        ValueError,
        r"transitions must be square, \(V,V\), got \(1, 2\)",
    ),
    "markov sum": (
        lambda: worlds.markov([[0.5, 0.6]] * 2),
        ValueError,
        "transitions must have rows that sum to one, but row 0 sums",
    ),
    "random V": (
        lambda: worlds.random_markov(1, 0.5, 0),
        ValueError,
        "vocab_size must be at least 2, got 1",
    ),
    "random V float": (
        lambda: worlds.random_markov(5.0, 0.5, 0),
        TypeError,
        "vocab_size must be an integer, got 5.0",
    ),
    "random zeros": (
        lambda: worlds.random_markov(5, 50, 0),
        ValueError,
        "zero_fraction must be between 0 and 1, got 50",
    ),
    "random zeros NaN": (
        lambda: worlds.random_markov(5, math.nan, 0),
        ValueError,
        "zero_fraction must be between 0 and 1, got nan",
    ),
    "random zeros text": (
        lambda: worlds.random_markov(5, "half", 0),
        TypeError,
        "zero_fraction must be a number, got 'half'",
    ),
    "random seed": (
        lambda: worlds.random_markov(5, 0.5, -1),
        ValueError,
        "seed must be at least 0, got -1",
    ),
    "random seed big": (
        lambda: worlds.random_markov(5, 0.5, 2**32),
        ValueError,
        "(?i)seed must be between 0 and",
    ),
    "n-gram n": (lambda: worlds.ngram([1], 0, 2), ValueError, "n must be at least 1, got 0"),
    "n-gram tokens": (
        lambda: worlds.ngram([1, 2], 2, 2),
        ValueError,
        r"tokens must be in 0 … 1, got 1 … 2",
    ),
    "n-gram negative": (
        lambda: worlds.ngram([-2, 1], 2, 2),
        ValueError,
        r"tokens must be in 0 … 1, got -2 … 1",
    ),
    "n-gram −1 inside": (
        lambda: worlds.ngram([[1, -1, 1]], 2, 2),
        ValueError,
        r"tokens must be in 0 … 1, got -1 … 1",
    ),
    "n-gram floats": (
        lambda: worlds.ngram([1.0, 1.0], 2, 2),
        TypeError,
        "tokens must be .* integers, got list",
    ),
    "n-gram empty": (
        lambda: worlds.ngram([], 2, 2),
        ValueError,
        "tokens must hold at least one sequence, got none",
    ),
    "n-gram text": (
        lambda: worlds.ngram("12", 2, 2),
        TypeError,
        "tokens must be a stream of ids or a list of sequences, got str",
    ),
    "n-gram deep": (
        lambda: worlds.ngram([[[1]]], 2, 2),
        ValueError,
        "tokens must be a stream of ids or a list of sequences",
    ),
    "n-gram ragged": (
        lambda: worlds.ngram([1, [1]], 2, 2),
        TypeError,
        "tokens must be .* integers, got list",
    ),
    "n-gram mixed": (
        lambda: worlds.ngram([[1], 1], 2, 2),
        ValueError,
        "tokens must be a stream of ids or a list of sequences",
    ),
    "text little": (
        lambda: worlds.from_text("a b", 4),
        ValueError,
        r"text must have at least vocab_size − 1 = 3 different words, got 2",
    ),
    "text start": (
        lambda: worlds.from_text("x a. y a.", 2),
        ValueError,
        "text must have a line or sentence that begins with a kept",
    ),
    "text kind": (lambda: worlds.from_text(["a"], 2), TypeError, "text must be a string, got list"),
    "sample n": (
        lambda: worlds.agreement().sample(0, 4),
        ValueError,
        "n must be at least 1, got 0",
    ),
    "sample n bool": (
        lambda: worlds.agreement().sample(True, 4),
        TypeError,
        "n must be an integer, got True",
    ),
    "sample max_len": (
        lambda: worlds.agreement().sample(1, 0),
        ValueError,
        "max_len must be at least 1, got 0",
    ),
    "sample seed": (
        lambda: worlds.agreement().sample(1, 4, seed=-1),
        ValueError,
        "seed must be a non-negative integer or",
    ),
    "sums max_len": (
        lambda: worlds.agreement().entropy(0),
        ValueError,
        "max_len must be at least 1, got 0",
    ),
    "length max_len": (
        lambda: worlds.agreement().expected_length(2.5),
        TypeError,
        "max_len must be an integer, got 2.5",
    ),
    "text of floats": (
        lambda: worlds.agreement().text(np.zeros(3)),
        TypeError,
        "row must be .* integers, got float64",
    ),
    "text of rows": (
        lambda: worlds.agreement().text([[0, 0]]),
        ValueError,
        "row must have one axis and tokens below 6, got 2",
    ),
    "text token": (
        lambda: worlds.agreement().text([0, 6, 0]),
        ValueError,
        "row must have one axis .*, got 1 and up to 6",
    ),
    "no rows": (
        lambda: worlds.agreement().validity(np.zeros((0, 3), int)),
        ValueError,
        "rows must hold at least one sequence",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_refused_with_a_sentence(name):
    call, error, sentence = BAD_CALLS[name]
    with pytest.raises(error, match=sentence):
        call()


@pytest.mark.parametrize(
    ("rows", "error", "sentence"),
    [
        ([[0, 1, 0]], TypeError, "rows must be a NumPy or CuPy array, got list"),
        (np.array([[0.0, 0.0]]), TypeError, "rows must be integers, got float64"),
        (
            np.array([0, 1, 0]),
            ValueError,
            r"rows must have shape \(n, max_len\+1\) with max_len ≥ 1, got \(3,\)",
        ),
        (np.array([[0]]), ValueError, r"rows must have shape .* got \(1, 1\)"),
        (np.array([[0, 6, 0]]), ValueError, r"rows must be in −1 … 5, got 0 … 6"),
        (np.array([[0, -2, 0]]), ValueError, r"rows must be in −1 … 5, got -2 … 0"),
        (
            np.array([[0, 0, -1], [1, 1, 0]]),
            ValueError,
            r"rows must be 0, tokens, 0, then −1 only, but row 1 is \[1, 1, 0\]",
        ),
        (np.array([[0, 1, 2]]), ValueError, "but row 0 is"),  # no end
        (np.array([[0, 0, 0]]), ValueError, "but row 0 is"),  # two ends
        (np.array([[0, 0, 1]]), ValueError, "but row 0 is"),  # goes on
        (np.array([[0, 1, -1]]), ValueError, "but row 0 is"),  # −1 without an end
        (np.array([[0, -1, -1]]), ValueError, "but row 0 is"),
        (np.array([[0, 0, -1, 0]]), ValueError, "but row 0 is"),
    ],
)
def test_rows_that_are_none_are_refused(rows, error, sentence):
    world = worlds.agreement()
    for method in (
        world.batch,
        world.states,
        world.token_log_probs,
        world.log_prob,
        world.validity,
    ):
        with pytest.raises(error, match=sentence):
            method(rows)


def test_no_rows_are_no_error():
    world, none = worlds.agreement(), np.zeros((0, 5), np.int64)
    assert world.log_prob(none).shape == (0,)
    assert world.token_log_probs(none).shape == (0, 3)
    assert [part.shape for part in world.batch(none)] == [(0, 3), (0, 3)]
    # max_len 1: nothing is drawn
    assert world.log_prob(np.zeros((2, 2), np.int64)).tolist() == [0, 0]
